/*
 * The channel of a device process: it asks for pages that are out
 *
 * See docs/interop/vhost-user-memswap.rst.  A thread serves one process, so
 * that one whose pages take long holds up only itself.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <sys/socket.h>

#include "memswap/client.h"
#include "memswap/engine.h"

/* With as many ranges as there can be. */
typedef struct Packet {
    MemswapClientRequest request;
    MemswapClientRange ranges[MEMSWAP_CLIENT_MAX_WORDS];
} Packet;

/* Does it have so many bytes? */
static bool is_packet(size_t size)
{
    return size >= sizeof(MemswapClientRequest) && size <= sizeof(Packet) &&
           !((size - sizeof(MemswapClientRequest)) %
             sizeof(MemswapClientRange));
}

static int handle(MemswapClient *client, const Packet *packet, size_t size)
{
    if (packet->request.code != MEMSWAP_CLIENT_PIN) {
        return -EINVAL;
    }
    return memswap_client_pin(client, packet->ranges,
                              (size - sizeof(packet->request)) /
                              sizeof(packet->ranges[0]),
                              packet->request.flags);
}

int memswap_client_serve(MemswapClient *client, int fd)
{
    /* large: not to be cleared each time, as some compilers do */
    Packet packet;

    while (true) {
        MemswapClientReply reply;
        ssize_t n;

        do {
            /* the length that there is, even if that is more */
            n = recv(fd, &packet, sizeof(packet), MSG_TRUNC);
        } while (n < 0 && errno == EINTR);
        if (n <= 0) {
            return n < 0 && errno != ECONNRESET ? -errno : 0;
        }
        if (!is_packet(n)) {
            return -EINVAL;
        }
        reply = (MemswapClientReply) {
            .code = packet.request.code,
            .error = handle(client, &packet, n),
        };
        do {
            n = send(fd, &reply, sizeof(reply), MSG_NOSIGNAL);
        } while (n < 0 && errno == EINTR);
        if (n < 0) {
            return errno == EPIPE || errno == ECONNRESET ? 0 : -errno;
        }
    }
}

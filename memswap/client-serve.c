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

static int handle(MemswapClient *client, const MemswapClientRequest *request)
{
    if (request->code != MEMSWAP_CLIENT_PIN) {
        return -EINVAL;
    }
    return memswap_client_pin(client, request->file, request->offset,
                              request->words, request->flags);
}

int memswap_client_serve(MemswapClient *client, int fd)
{
    while (true) {
        MemswapClientRequest request;
        MemswapClientReply reply;
        ssize_t n;

        do {
            /* the length that there is, even if that is more */
            n = recv(fd, &request, sizeof(request), MSG_TRUNC);
        } while (n < 0 && errno == EINTR);
        if (n <= 0) {
            return n < 0 && errno != ECONNRESET ? -errno : 0;
        }
        if (n != sizeof(request)) {
            return -EINVAL;
        }
        reply = (MemswapClientReply) {
            .code = request.code,
            .error = handle(client, &request),
        };
        do {
            n = send(fd, &reply, sizeof(reply), MSG_NOSIGNAL);
        } while (n < 0 && errno == EINTR);
        if (n < 0) {
            return errno == EPIPE || errno == ECONNRESET ? 0 : -errno;
        }
    }
}

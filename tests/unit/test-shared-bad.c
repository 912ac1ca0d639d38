/*
 * Tests of device processes that break the rules of shared pins
 *
 * What a process may ask for, it may ask wrongly, and its words may say
 * anything.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "device.h"
#include "inject.h"
#include "memswap/client.h"

static uint32_t word_of(const MemswapShared *shared, uint64_t number)
{
    uint32_t word;

    g_assert_cmpint(pread(shared->fd, &word, sizeof(word),
                          number * sizeof(word)), ==, sizeof(word));
    return word;
}

/* memswap_client_pin() of two ranges. */
static int pin_two(MemswapClient *client, uint64_t offset, uint32_t words,
                   uint64_t other_offset, uint32_t other_words)
{
    MemswapClientRange ranges[] = {
        { .words = words, .offset = offset },
        { .words = other_words, .offset = other_offset },
    };

    return memswap_client_pin(client, ranges, 2, 0);
}

/* What a process may ask for, it may ask wrongly. */
static void test_bad_requests(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    MemswapClient *client = memswap_client_new(h->engine);
    MemswapShared shared, again;
    uint64_t size = 2048 * sizeof(uint32_t);
    static const MemswapClientRange half_gone[] = {
        { .file = 0, .words = 9 }, { .file = 1, .words = 1 },
    };
    static char elsewhere;
    Ram second = ram_new(4 * MIB, 0);

    g_assert_cmpint(memswap_client_share(client, &elsewhere, &shared), ==,
                    -ENOENT);
    g_assert_cmpint(pin_words(client, 0, 0, 1, 0), ==, -EINVAL);
    g_assert_cmpint(memswap_client_share(client, h->ram.host + PAGE,
                                         &shared), ==, 0);
    g_assert_cmpint(memswap_client_share(client, h->ram.host, &again), ==, 0);
    g_assert_cmpint(shared.fd, ==, again.fd);
    g_assert_cmpuint(shared.file, ==, 0);
    g_assert_cmpuint(again.file, ==, 0);
    g_assert_cmpint(pin_words(client, 1, 0, 1, 0), ==, -EINVAL);
    g_assert_cmpint(pin_words(client, 0, 2, 1, 0), ==, -EINVAL);
    g_assert_cmpint(pin_words(client, 0, 0, 0, 0), ==, -EINVAL);
    g_assert_cmpint(pin_words(client, 0, size, 1, 0), ==, -EINVAL);
    g_assert_cmpint(pin_words(client, 0, size - 4, 2, 0), ==, -EINVAL);
    g_assert_cmpint(pin_words(client, 0, 0, 513, 0), ==, -EINVAL);
    g_assert_cmpint(pin_words(client, 0, UINT64_MAX - 3, 2, 0), ==, -EINVAL);
    g_assert_cmpint(pin_words(client, 0, 0, 1, 4), ==, -EINVAL);
    g_assert_cmpint(memswap_client_pin(client, NULL, 0, 0), ==, -EINVAL);
    /* the second of two; or both together */
    g_assert_cmpint(pin_two(client, 0, 1, size, 1), ==, -EINVAL);
    g_assert_cmpint(pin_two(client, 0, 500, 4096, 13), ==, -EINVAL);
    g_assert_cmpuint(memswap_client_pinned(client), ==, 0);
    g_assert_cmpint(pin_words(client, 0, size - 4, 1, 0), ==, 0);
    /* its file stays as large as it is */
    g_assert_cmpint(ftruncate(shared.fd, 0), ==, -1);

    /* a block that went */
    ram_add(h, &second, "second");
    g_assert_cmpint(memswap_client_share(client, second.host, &again), ==, 0);
    g_assert_cmpuint(again.file, ==, 1);
    g_assert_cmpint(pin_words(client, 1, 0, 1, 0), ==, 0);
    ram_remove(h, &second);
    g_assert_cmpint(pin_words(client, 1, 0, 1, 0), ==, -ENOENT);
    g_assert_cmpint(memswap_client_pin(client, half_gone, 2, 0), ==, -ENOENT);
    for (unsigned int i = 0; i < 9; i++) {
        g_assert_cmphex(word_of(&shared, i), ==, MEMSWAP_CLIENT_IN);
    }
    g_assert_cmpuint(memswap_client_pinned(client), ==, 2 * PAGE);
    /* one page twice counts as two pins */
    g_assert_cmpint(pin_two(client, 4, 3, 8, 1), ==, 0);
    g_assert_cmphex(word_of(&shared, 1), ==, MEMSWAP_CLIENT_IN | 1);
    g_assert_cmphex(word_of(&shared, 2), ==, MEMSWAP_CLIENT_IN | 2);
    ram_free(&second);
    memswap_client_free(client);
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 10 * PAGE);
    harness_free(h);
}

static void test_bad_packets(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 2 * MIB });
    MemswapClient *client = memswap_client_new(h->engine);
    /* a code that there isn't, no range, and no packet of that length */
    static const uint32_t other[] = { 2, 0, 0, 1, 0, 0 };
    static const uint32_t none[] = { MEMSWAP_CLIENT_PIN, 0 };
    static const uint32_t long_one[2 + 4 * 513] = { MEMSWAP_CLIENT_PIN };
    static const size_t no_length[] = { 4, 20, sizeof(long_one) };
    MemswapClientReply reply;
    MemswapShared shared;
    int fds[2];

    g_assert_cmpint(memswap_client_share(client, h->ram.host, &shared), ==,
                    0);
    for (unsigned int i = 0; i <= G_N_ELEMENTS(no_length); i++) {
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds), ==, 0);
        g_assert_cmpint(send(fds[0], other, sizeof(other), 0), ==,
                        sizeof(other));
        g_assert_cmpint(send(fds[0], none, sizeof(none), 0), ==,
                        sizeof(none));
        if (i) {
            g_assert_cmpint(send(fds[0], long_one, no_length[i - 1], 0), ==,
                            no_length[i - 1]);
        }
        shutdown(fds[0], SHUT_WR);
        g_assert_cmpint(memswap_client_serve(client, fds[1]), ==,
                        i ? -EINVAL : 0);
        g_assert_cmpint(recv(fds[0], &reply, sizeof(reply), 0), ==,
                        sizeof(reply));
        g_assert_cmpuint(reply.code, ==, 2);
        g_assert_cmpint(reply.error, ==, -EINVAL);
        g_assert_cmpint(recv(fds[0], &reply, sizeof(reply), 0), ==,
                        sizeof(reply));
        g_assert_cmpint(reply.error, ==, -EINVAL);
        close(fds[0]);
        close(fds[1]);
    }
    memswap_client_free(client);
    harness_free(h);
}

/* Rule: a count without IN keeps nothing, and nobody waits for it. */
static void test_count_without_in(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    MemswapClient *client = memswap_client_new(h->engine);
    MemswapShared shared;
    uint32_t value = 5;

    g_assert_cmpint(memswap_client_share(client, h->ram.host, &shared), ==,
                    0);
    g_assert_cmpint(pwrite(shared.fd, &value, sizeof(value),
                           20 * sizeof(value)), ==, sizeof(value));
    write_pages(h, 20, 1);
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, PAGE);
    g_assert_cmphex(word_of(&shared, 20), ==, 5);
    /* and a count that is full is not wrapped */
    value = MEMSWAP_CLIENT_COUNT;
    g_assert_cmpint(pwrite(shared.fd, &value, sizeof(value),
                           20 * sizeof(value)), ==, sizeof(value));
    g_assert_cmpint(pin_words(client, 0, 19 * sizeof(value), 3, 0), ==,
                    -EOVERFLOW);
    g_assert_cmphex(word_of(&shared, 19), ==, MEMSWAP_CLIENT_IN);
    g_assert_cmpuint(stats_of(h).pinned, ==, 0);
    memswap_client_free(client);
    harness_free(h);
}

/* As if the block were removed while its pages are pinned. */
static int mark_dead(void *opaque, InjectCall call, uint64_t where,
                     size_t *size)
{
    Harness *h = opaque;

    if (call == INJECT_COPY) {
        atomic_store(&h->ram.block->dead, true);
    }
    return 0;
}

/*
 * A process is told that pages of a block that goes are in only with them
 * pinned: they are not looked for by an address that is nobody's any more.
 */
static void test_going(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    MemswapClient *client = memswap_client_new(h->engine);
    InjectHooks hooks = { .before = mark_dead, .opaque = h };
    MemswapShared shared;

    g_assert_cmpint(memswap_client_share(client, h->ram.host, &shared), ==,
                    0);
    write_pages(h, 0, 3);
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 3 * PAGE);
    inject(&hooks);
    g_assert_cmpint(pin_words(client, 0, 0, 3, 0), ==, 0);
    inject(NULL);
    g_assert_true(atomic_load(&h->ram.block->dead));
    g_assert_cmpuint(stats_of(h).pinned, ==, 0);
    g_assert_cmpint(pin_words(client, 0, 0, 1, 0), ==, -ENOENT);
    atomic_store(&h->ram.block->dead, false);
    g_assert_cmpuint(memswap_client_pinned(client), ==, 3 * PAGE);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 0);
    memswap_client_free(client);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 3 * PAGE);
    harness_check(h);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/shared-bad/requests", test_bad_requests);
    g_test_add_func("/shared-bad/packets", test_bad_packets);
    g_test_add_func("/shared-bad/count-without-in", test_count_without_in);
    g_test_add_func("/shared-bad/going", test_going);
    return g_test_run();
}

/*
 * Tests of what device processes have pinned, against the limit
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device.h"
#include "memswap/client.h"

#define OWN MEMSWAP_CLIENT_BOUNDED_OWN
#define BOTH (MEMSWAP_CLIENT_BOUNDED | OWN)

/* With all of it pinned by a process nobody waits for ever. */
static void test_all_pinned(void)
{
    uint64_t n = MEMSWAP_MIN_LIMIT / PAGE;
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 4 * MIB, .limit = MEMSWAP_MIN_LIMIT, .evictors = 1,
        .reserve_low = PAGE, .reserve_high = 2 * PAGE,
    });
    Device *device = device_new(h);

    write_pages(h, 0, n / 2);
    g_assert_cmpint(device_do(device, DEVICE_PIN, 0, n), ==, 0);
    g_assert_cmpuint(stats_of(h).pinned, ==, 0);
    /* what it asked for was pinned for a moment, and who may wait was told */
    g_assert_cmpuint(atomic_load(&h->n_unpinned), >, 0);
    write_pages(h, n, 100);
    g_assert_cmpuint(stats_of(h).overshoots, >, 0);
    check_pages(h, n, 100);
    check_pages(h, 0, n / 2);
    /* it comes down again */
    device_do(device, DEVICE_UNPIN, 0, n);
    wait_until(atomic_load(&h->engine->charged) <= MEMSWAP_MIN_LIMIT - PAGE);
    device_kill(device);
    check_pages(h, 0, n / 2);
    harness_free(h);
}

/* What a process asks for is bounded, if it wants that. */
static void test_bound(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 16 * MIB });
    MemswapClient *one = memswap_client_new(h->engine);
    MemswapClient *two = memswap_client_new(h->engine);
    MemswapShared shared, other;
    MemswapSettings settings = h->settings;
    static const MemswapClientRange parts[] = {
        { .offset = 4096, .words = 150 }, { .offset = 4696, .words = 50 },
    };
    static const MemswapClientRange too_many[] = {
        { .offset = 4096, .words = 150 }, { .offset = 4696, .words = 51 },
    };
    static const uint32_t none[600];

    settings.pin_limit = 700 * PAGE;
    g_assert_cmpint(memswap_set_settings(h->engine, &settings, NULL), ==, 0);
    g_assert_cmpint(memswap_client_share(one, h->ram.host, &shared), ==, 0);
    g_assert_cmpint(memswap_client_share(two, h->ram.host, &other), ==, 0);
    g_assert_cmpint(pin_words(one, 0, 0, 500, BOTH), ==, 0);
    g_assert_cmpint(pin_words(one, 0, 4096, 201, BOTH), ==, -ENOBUFS);
    g_assert_cmpuint(stats_of(h).pins_refused, ==, 1);
    g_assert_cmpint(memswap_client_pin(one, too_many, 2, BOTH), ==, -ENOBUFS);
    g_assert_cmpint(memswap_client_pin(one, parts, 2, BOTH), ==, 0);
    /* all together, or each by itself; or not at all */
    g_assert_cmpint(pin_words(two, 0, 0, 1, BOTH), ==, -ENOBUFS);
    g_assert_cmpint(pin_words(two, 0, 0, 512, OWN), ==, 0);
    g_assert_cmpint(pin_words(two, 0, 4096, 200, OWN), ==, -ENOBUFS);
    g_assert_cmpint(pin_words(two, 0, 4096, 200, 0), ==, 0);
    g_assert_cmpuint(memswap_client_pinned(two), ==, 712 * PAGE);
    /* what it has unpinned nobody was told of */
    memswap_client_free(two);
    g_assert_cmpint(pin_words(one, 0, 8192, 1, BOTH), ==, -ENOBUFS);
    g_assert_cmpint(pwrite(shared.fd, none, sizeof(none), 0), ==,
                    sizeof(none));
    g_assert_cmpint(pin_words(one, 0, 8192, 450, BOTH), ==, 0);
    /* those of QEMU's count, too */
    g_assert_cmpint(memswap_pin(h->engine, h->ram.host, 50 * PAGE), ==, 0);
    g_assert_cmpint(pin_words(one, 0, 0, 50, BOTH), ==, -ENOBUFS);
    memswap_unpin(h->engine, h->ram.host, 50 * PAGE);
    g_assert_cmpint(pin_words(one, 0, 0, 50, BOTH), ==, 0);
    memswap_client_free(one);
    harness_free(h);
}

/* To look at a table takes no memory for it. */
static void test_look(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 16 * MIB });
    MemswapClient *client = memswap_client_new(h->engine);
    MemswapShared shared;
    struct stat st;

    g_assert_cmpint(memswap_client_share(client, h->ram.host, &shared), ==,
                    0);
    g_assert_cmpuint(memswap_client_pinned(client), ==, 0);
    g_assert_cmpint(fstat(shared.fd, &st), ==, 0);
    g_assert_cmpint(st.st_blocks, ==, 0);
    g_assert_cmpint(pin_words(client, 0, 3000 * sizeof(uint32_t), 5, 0), ==,
                    0);
    g_assert_cmpuint(memswap_client_pinned(client), ==, 5 * PAGE);
    g_assert_cmpint(fstat(shared.fd, &st), ==, 0);
    g_assert_cmpint(st.st_blocks * 512, ==, PAGE);
    memswap_client_free(client);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/shared-limit/all-pinned", test_all_pinned);
    g_test_add_func("/shared-limit/bound", test_bound);
    g_test_add_func("/shared-limit/look", test_look);
    return g_test_run();
}

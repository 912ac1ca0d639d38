/*
 * Tests of the bound on what is pinned: never passed, and given back exactly
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>

#include "harness.h"

#define LIMIT (8 * MIB)
/* What follows from it. */
#define BOUND (7 * MIB)
#define BOUND_PAGES (BOUND / PAGE)

static int pin(Harness *h, uint64_t first, uint64_t n, unsigned int flags)
{
    return memswap_pin_with(h->engine, h->ram.host + first * PAGE, n * PAGE,
                            flags);
}

static void unpin(Harness *h, uint64_t first, uint64_t n)
{
    memswap_unpin(h->engine, h->ram.host + first * PAGE, n * PAGE);
}

static Harness *new_harness(void)
{
    return harness_new(&(HarnessOptions) { .size = 16 * MIB, .limit = LIMIT });
}

static void expect(Harness *h, uint64_t pinned, uint64_t refused)
{
    MemswapStats stats = stats_of(h);

    g_assert_cmpuint(stats.pinned, ==, pinned);
    g_assert_cmpuint(stats.pins_refused, ==, refused);
}

/* Up to the bound, and no page more; what is pinned already costs nothing. */
static void test_bound(void)
{
    Harness *h = new_harness();

    g_assert_cmpuint(stats_of(h).pin_limit, ==, BOUND);
    g_assert_cmpint(pin(h, 0, BOUND_PAGES, 0), ==, 0);
    expect(h, BOUND, 0);
    g_assert_cmpint(pin(h, BOUND_PAGES, 1, 0), ==, -ENOBUFS);
    expect(h, BOUND, 1);
    g_assert_cmpuint(ram_pins(&h->ram, BOUND_PAGES), ==, 0);

    /* the same pages once more, and one of them alone */
    g_assert_cmpint(pin(h, 0, BOUND_PAGES, 0), ==, 0);
    g_assert_cmpint(pin(h, 7, 1, 0), ==, 0);
    expect(h, BOUND, 1);
    g_assert_cmpuint(ram_pins(&h->ram, 7), ==, 3);

    /* what can't be pinned whole isn't in part */
    g_assert_cmpint(pin(h, BOUND_PAGES - 10, 11, 0), ==, -ENOBUFS);
    expect(h, BOUND, 2);
    g_assert_cmpuint(ram_pins(&h->ram, BOUND_PAGES - 1), ==, 2);

    unpin(h, 7, 1);
    unpin(h, 0, BOUND_PAGES);
    expect(h, BOUND, 2);
    unpin(h, 0, BOUND_PAGES);
    expect(h, 0, 2);
    g_assert_cmpint(pin(h, BOUND_PAGES, 1, 0), ==, 0);
    unpin(h, BOUND_PAGES, 1);
    harness_free(h);
}

/* With all of it pinned that may be, the rest of RAM is still of use. */
static void test_others_live(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 16 * MIB, .limit = LIMIT, .evictors = 1,
    });

    g_assert_cmpint(pin(h, 0, BOUND_PAGES, 0), ==, 0);
    write_pages(h, BOUND_PAGES, 2048);
    check_pages(h, BOUND_PAGES, 2048);
    g_assert_cmpuint(stats_of(h).overshoots, ==, 0);
    g_assert_cmpuint(stats_of(h).peak_resident, <=, LIMIT);
    unpin(h, 0, BOUND_PAGES);
    harness_free(h);
}

static void test_set(void)
{
    Harness *h = new_harness();
    MemswapSettings settings;

    memswap_get_settings(h->engine, &settings);
    g_assert_cmpuint(settings.pin_limit, ==, 0);
    g_assert_cmpint(pin(h, 0, 100, 0), ==, 0);

    /* less than is pinned: that stays, and nothing comes to it */
    settings.pin_limit = 64 * PAGE;
    g_assert_cmpint(memswap_set_settings(h->engine, &settings, NULL), ==, 0);
    memswap_get_settings(h->engine, &settings);
    g_assert_cmpuint(settings.pin_limit, ==, 64 * PAGE);
    g_assert_cmpuint(stats_of(h).pin_limit, ==, 64 * PAGE);
    g_assert_cmpuint(memswap_pin_room(h->engine), ==, 0);
    g_assert_cmpint(pin(h, 100, 1, 0), ==, -ENOBUFS);
    unpin(h, 0, 36);
    g_assert_cmpint(pin(h, 100, 1, 0), ==, -ENOBUFS);
    unpin(h, 36, 1);
    g_assert_cmpuint(memswap_pin_room(h->engine), ==, PAGE);
    g_assert_cmpint(pin(h, 100, 1, 0), ==, 0);
    expect(h, 64 * PAGE, 2);

    /* it follows the limit again */
    settings.pin_limit = 0;
    settings.limit = 2 * MIB;
    g_assert_cmpint(memswap_set_settings(h->engine, &settings, NULL), ==, 0);
    g_assert_cmpuint(stats_of(h).pin_limit, ==, 2 * MIB - 2 * MIB / 8);
    unpin(h, 37, 64);
    expect(h, 0, 2);
    harness_free(h);
}

/* Who holds it for ever leaves the other half to those who don't. */
static void test_hold(void)
{
    Harness *h = new_harness();
    const uint64_t half = BOUND_PAGES / 2;

    g_assert_cmpint(pin(h, 0, half, MEMSWAP_PIN_HOLD), ==, 0);
    g_assert_cmpint(pin(h, half, 1, MEMSWAP_PIN_HOLD), ==, -ENOBUFS);
    g_assert_cmpint(pin(h, half, half, 0), ==, 0);
    g_assert_cmpint(pin(h, 2 * half, 1, 0), ==, -ENOBUFS);
    g_assert_cmpint(pin(h, 2 * half, 1, MEMSWAP_PIN_FORCE), ==, 0);
    expect(h, BOUND + PAGE, 2);
    unpin(h, 0, 2 * half + 1);
    expect(h, 0, 2);
    harness_free(h);
}

/* Of two blocks in a row, the second is too much: the first is let go. */
static void test_two_blocks(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .limit = LIMIT });
    Ram both = ram_new(16 * MIB, 0), second;

    h->ram = both;
    h->ram.size = 4 * MIB;
    second = both;
    second.host += 4 * MIB;
    second.size = 12 * MIB;
    second.fd_offset = 4 * MIB;
    ram_add(h, &h->ram, "first");
    ram_add(h, &second, "second");
    g_assert_cmpint(memswap_pin(h->engine, both.host + MIB, 8 * MIB), ==,
                    -ENOBUFS);
    expect(h, 0, 1);
    g_assert_cmpint(memswap_pin(h->engine, both.host + MIB, 7 * MIB), ==, 0);
    expect(h, 7 * MIB, 1);
    memswap_unpin(h->engine, both.host + MIB, 7 * MIB);
    expect(h, 0, 1);
    ram_remove(h, &h->ram);
    ram_remove(h, &second);
    h->ram.host = NULL;
    both.block = NULL;
    ram_free(&both);
    harness_free(h);
}

/*
 * Many at the bound, with pages coming and going.  Ranges of different threads
 * don't overlap, so what they hold is what is pinned.
 */
typedef struct Crowd {
    Harness *h;
    _Atomic bool stop;
    _Atomic int64_t held;
    _Atomic uint64_t got, refused;
    _Atomic unsigned int next;
} Crowd;

#define CROWD 3
#define CROWD_BOUND 64
#define SHARE 256

static gpointer crowd(gpointer opaque)
{
    Crowd *c = opaque;
    unsigned int index = atomic_fetch_add(&c->next, 1);
    GRand *rand = g_rand_new_with_seed(index);

    while (!atomic_load(&c->stop)) {
        uint64_t n = g_rand_int_range(rand, 1, 33);
        uint64_t first = index * SHARE +
                         g_rand_int_range(rand, 0, SHARE - 33);
        /* a part twice: what is pinned already isn't counted again */
        uint64_t more = g_rand_int_range(rand, 0, n + 1);
        int ret = pin(c->h, first, n, 0);

        if (ret) {
            g_assert_cmpint(ret, ==, -ENOBUFS);
            atomic_fetch_add(&c->refused, 1);
            continue;
        }
        g_assert_cmpint(atomic_fetch_add(&c->held, n) + n, <=, CROWD_BOUND);
        atomic_fetch_add(&c->got, 1);
        ret = more ? pin(c->h, first, more, 0) : -ENOBUFS;
        for (uint64_t page = first; page < first + n; page++) {
            g_assert_cmpuint(ram_pins(&c->h->ram, page), >=, 1);
        }
        if (!ret) {
            unpin(c->h, first, more);
        }
        atomic_fetch_sub(&c->held, n);
        unpin(c->h, first, n);
    }
    g_rand_free(rand);
    return NULL;
}

static gpointer crowd_reclaim(gpointer opaque)
{
    Crowd *c = opaque;

    while (!atomic_load(&c->stop)) {
        memswap_reclaim(c->h->engine, 32 * PAGE);
    }
    return NULL;
}

static void test_crowd(void)
{
    Harness *h = new_harness();
    Crowd c = { .h = h };
    GThread *threads[CROWD + 1];
    MemswapSettings settings;

    memswap_get_settings(h->engine, &settings);
    settings.pin_limit = CROWD_BOUND * PAGE;
    g_assert_cmpint(memswap_set_settings(h->engine, &settings, NULL), ==, 0);
    write_pages(h, 0, CROWD * SHARE);
    for (unsigned int i = 0; i < CROWD; i++) {
        threads[i] = g_thread_new("crowd", crowd, &c);
    }
    threads[CROWD] = g_thread_new("reclaim", crowd_reclaim, &c);
    wait_until(atomic_load(&c.got) > 2000 && atomic_load(&c.refused) > 200);
    atomic_store(&c.stop, true);
    for (unsigned int i = 0; i < G_N_ELEMENTS(threads); i++) {
        g_thread_join(threads[i]);
    }
    g_test_message("%" G_GUINT64_FORMAT " pinned, %" G_GUINT64_FORMAT
                   " refused", c.got, c.refused);
    g_assert_cmpuint(stats_of(h).pinned, ==, 0);
    check_pages(h, 0, CROWD * SHARE);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pin-bound/bound", test_bound);
    g_test_add_func("/pin-bound/others-live", test_others_live);
    g_test_add_func("/pin-bound/set", test_set);
    g_test_add_func("/pin-bound/hold", test_hold);
    g_test_add_func("/pin-bound/two-blocks", test_two_blocks);
    g_test_add_func("/pin-bound/crowd", test_crowd);
    return g_test_run();
}

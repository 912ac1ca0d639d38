/*
 * Tests of ranges named from outside: taken out, brought in, refused
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "harness.h"

static int64_t take(Harness *h, uint64_t first, uint64_t n)
{
    MemswapRange range = { h->ram.block->name, first * PAGE, n * PAGE };

    return memswap_reclaim_ranges(h->engine, &range, 1, false, NULL, NULL,
                                  NULL);
}

static int64_t take_cold(Harness *h, uint64_t first, uint64_t n)
{
    MemswapRange range = { h->ram.block->name, first * PAGE, n * PAGE };

    return memswap_reclaim_ranges(h->engine, &range, 1, true, NULL, NULL,
                                  NULL);
}

static int64_t bring(Harness *h, uint64_t first, uint64_t n)
{
    MemswapRange range = { h->ram.block->name, first * PAGE, n * PAGE };

    return memswap_prefetch(h->engine, &range, 1, NULL, NULL, NULL);
}

/* Just what was named leaves, and comes. */
static void test_exact(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 16 * MIB });
    char *name = h->ram.block->name;
    /* within a region, across two, overlapping, none */
    MemswapRange ranges[] = {
        { name, 10 * PAGE, 5 * PAGE },
        { name, 500 * PAGE, 100 * PAGE },
        { name, 550 * PAGE, 100 * PAGE },
        { name, 16 * MIB, 0 },
    };

    write_pages(h, 0, 4 * REGION_PAGES);
    g_assert_cmpint(memswap_reclaim_ranges(h->engine, ranges, 4, false, NULL,
                                           NULL, NULL), ==, 155 * PAGE);
    for (uint64_t page = 0; page < 4 * REGION_PAGES; page++) {
        bool named = (page >= 10 && page < 15) ||
                     (page >= 500 && page < 650);

        g_assert_cmpint(ram_state(&h->ram, page) == MEMSWAP_STORED, ==,
                        named);
    }
    g_assert_cmpint(atomic_load(&h->ram.block->regions[0].stored), ==, 17);
    g_assert_cmpint(atomic_load(&h->ram.block->regions[1].stored), ==, 138);
    harness_check(h);
    /* nothing twice */
    g_assert_cmpint(memswap_reclaim_ranges(h->engine, ranges, 4, false, NULL,
                                           NULL, NULL), ==, 0);
    g_assert_cmpint(memswap_prefetch(h->engine, &ranges[1], 2, NULL, NULL,
                                     NULL), ==, 150 * PAGE);
    g_assert_cmpint(ram_state(&h->ram, 10), ==, MEMSWAP_STORED);
    g_assert_cmpint(bring(h, 0, 4 * REGION_PAGES), ==, 5 * PAGE);
    g_assert_cmpint(bring(h, 0, 4 * REGION_PAGES), ==, 0);
    g_assert_cmpint(atomic_load(&h->ram.block->regions[1].stored), ==, 0);
    /* mapped: nobody has to fault for them */
    g_assert_true(ram_mapped(&h->ram, 10));
    check_pages(h, 0, 4 * REGION_PAGES);
    harness_check(h);
    harness_free(h);
}

static void expect_refused(Harness *h, const MemswapRange *ranges,
                           unsigned int n, const char *text)
{
    g_autofree char *error = NULL;
    g_autofree char *other = NULL;

    g_assert_cmpint(memswap_reclaim_ranges(h->engine, ranges, n, false, NULL,
                                           NULL, &error), ==, -EINVAL);
    g_test_message("%s", error);
    g_assert_nonnull(strstr(error, text));
    g_assert_null(strchr(error, '\n'));
    g_assert_cmpint(memswap_prefetch(h->engine, ranges, n, NULL, NULL,
                                     &other), ==, -EINVAL);
    g_assert_cmpstr(error, ==, other);
}

/* One that is wrong, and none of them is done. */
static void test_refused(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    char *name = h->ram.block->name;
    MemswapRange ranges[MEMSWAP_MAX_RANGES + 1];
    MemswapRange bad[] = {
        { "nobody's", 0, PAGE },
        { name, 1, PAGE },
        { name, 0, PAGE + 1 },
        { name, 4 * MIB, PAGE },
        { name, 0, 4 * MIB + PAGE },
        { name, UINT64_MAX - PAGE + 1, PAGE },
        { name, PAGE, UINT64_MAX - PAGE + 1 },
    };
    const char *const texts[] = {
        "range 1: there is no managed block 'nobody's'",
        "range 1: offset and size must be multiples of 4096",
        "range 1: offset and size must be multiples of 4096",
        "range 1: it ends beyond block", "range 1: it ends beyond block",
        "range 1: it ends beyond block", "range 1: it ends beyond block",
    };

    write_pages(h, 0, 64);
    for (unsigned int i = 0; i < G_N_ELEMENTS(bad); i++) {
        ranges[0] = (MemswapRange) { name, 0, 64 * PAGE };
        ranges[1] = bad[i];
        expect_refused(h, ranges, 2, texts[i]);
    }
    for (unsigned int i = 0; i <= MEMSWAP_MAX_RANGES; i++) {
        ranges[i] = (MemswapRange) { name, 0, 64 * PAGE };
    }
    expect_refused(h, ranges, MEMSWAP_MAX_RANGES + 1,
                   "at most 1024 ranges at once");
    g_assert_cmpuint(stats_of(h).evictions, ==, 0);
    g_assert_cmpint(memswap_reclaim_ranges(h->engine, ranges,
                                           MEMSWAP_MAX_RANGES, false, NULL,
                                           NULL, NULL), ==, 64 * PAGE);
    g_assert_cmpint(memswap_reclaim_ranges(h->engine, NULL, 0, false, NULL,
                                           NULL, NULL), ==, 0);
    harness_free(h);
}

/* The first time all is put on trial; what is touched then stays. */
static void test_cold(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });

    write_pages(h, 0, 2 * REGION_PAGES);
    g_assert_cmpint(take_cold(h, 100, 200), ==, 0);
    g_assert_cmpuint(stats_of(h).trial, ==, 200 * PAGE);
    check_pages(h, 150, 10);
    harness_settle(h);
    g_assert_cmpint(take_cold(h, 100, 200), ==, 190 * PAGE);
    g_assert_cmpint(ram_state(&h->ram, 149), ==, MEMSWAP_STORED);
    /* on trial once more */
    g_assert_cmpint(ram_state(&h->ram, 150), ==, MEMSWAP_TRIAL);
    g_assert_cmpint(take_cold(h, 100, 200), ==, 10 * PAGE);
    check_pages(h, 0, 2 * REGION_PAGES);
    harness_check(h);
    harness_free(h);
}

/* What is expected to be touched is mapped, with nothing in the store, too. */
static void test_mapped(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });

    write_pages(h, 0, 2 * REGION_PAGES);
    g_assert_cmpint(take_cold(h, 0, 2 * REGION_PAGES), ==, 0);
    g_assert_false(ram_mapped(&h->ram, 100));
    g_assert_cmpint(bring(h, 100, REGION_PAGES), ==, 0);
    g_assert_cmpuint(stats_of(h).trial, ==, REGION_PAGES * PAGE);
    g_assert_true(ram_mapped(&h->ram, 100));
    g_assert_true(ram_mapped(&h->ram, REGION_PAGES + 99));
    g_assert_false(ram_mapped(&h->ram, 99));
    check_pages(h, 0, 2 * REGION_PAGES);
    harness_check(h);
    harness_free(h);
}

/* Pages that are pinned stay, and so does a region that somebody has. */
static void test_in_use(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });

    write_pages(h, 0, 2 * REGION_PAGES);
    memswap_pin(h->engine, h->ram.host + 5 * PAGE, 3 * PAGE);
    memswap_region_own(&h->ram.block->regions[1]);
    g_assert_cmpint(take(h, 0, 2 * REGION_PAGES), ==,
                    (REGION_PAGES - 3) * PAGE);
    g_assert_true(ram_mapped(&h->ram, 6));
    memswap_region_disown(&h->ram.block->regions[1]);
    memswap_unpin(h->engine, h->ram.host + 5 * PAGE, 3 * PAGE);
    g_assert_cmpint(take(h, 0, 2 * REGION_PAGES), ==,
                    (REGION_PAGES + 3) * PAGE);
    check_pages(h, 0, 2 * REGION_PAGES);
    harness_free(h);
}

/* What a policy wants kept goes when it is asked for from outside. */
static void test_kept(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });

    write_pages(h, 0, REGION_PAGES);
    memswap_pass_keep(&h->ram.block->regions[0], 1);
    g_assert_cmpint(take(h, 0, 64), ==, 64 * PAGE);
    harness_free(h);
}

/* It takes no room that anybody would have to make. */
static void test_room(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    MemswapStats stats;

    write_pages(h, 0, 2048);
    g_assert_cmpint(take(h, 0, 2048), ==, 8 * MIB);
    h->engine->reserve_low = MIB;
    harness_set_limit(h, 4 * MIB, 0);
    g_assert_cmpint(bring(h, 0, 2048), ==, 3 * MIB);
    g_assert_cmpint(bring(h, 0, 2048), ==, 0);
    stats = stats_of(h);
    g_assert_cmpuint(stats.overshoots, ==, 0);
    g_assert_cmpuint(stats.evictions, ==, 2048);
    h->engine->reserve_low = 0;
    harness_free(h);
}

static bool twice(void *opaque)
{
    unsigned int *left = opaque;

    return (*left)--;
}

/* Asked before each region that has something; then it ends. */
static void test_stops(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 16 * MIB });
    MemswapRange range = { h->ram.block->name, 0, 16 * MIB };
    unsigned int left = 2;

    write_pages(h, REGION_PAGES, 16);
    write_pages(h, 3 * REGION_PAGES, 16);
    write_pages(h, 4 * REGION_PAGES, 16);
    g_assert_cmpint(memswap_reclaim_ranges(h->engine, &range, 1, false,
                                           twice, &left, NULL), ==,
                    32 * PAGE);
    g_assert_cmpint(take(h, 0, 4096), ==, 16 * PAGE);
    left = 2;
    g_assert_cmpint(memswap_prefetch(h->engine, &range, 1, twice, &left,
                                     NULL), ==, 32 * PAGE);
    g_assert_cmpint(ram_state(&h->ram, 4 * REGION_PAGES), ==,
                    MEMSWAP_STORED);
    harness_free(h);
}

/* The same where there is nothing: that may be long, too. */
static void test_stops_in_void(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 32ULL << 30 });
    MemswapRange range = { h->ram.block->name, 0, 32ULL << 30 };
    unsigned int left = 2;

    write_pages(h, 16383 * REGION_PAGES, 16);
    g_assert_cmpint(memswap_reclaim_ranges(h->engine, &range, 1, false,
                                           twice, &left, NULL), ==, 0);
    left = 2;
    g_assert_cmpint(memswap_prefetch(h->engine, &range, 1, twice, &left,
                                     NULL), ==, 0);
    g_assert_cmpint((int)left, ==, -1);
    left = 100;
    g_assert_cmpint(memswap_reclaim_ranges(h->engine, &range, 1, false,
                                           twice, &left, NULL), ==,
                    16 * PAGE);
    /* three times in the void, once for what there was */
    g_assert_cmpuint(left, ==, 96);
    harness_free(h);
}

/* Words of RAM that was never touched take no memory afterwards. */
static void test_untouched(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 1024 * MIB });
    uint64_t n = 1024 * MIB / PAGE;
    unsigned char in_core[1024 * MIB / PAGE * sizeof(MemswapWord) / PAGE];
    unsigned int pages = 0;

    write_pages(h, 5 * REGION_PAGES, 1);
    g_assert_cmpint(take(h, 0, n), ==, PAGE);
    g_assert_cmpint(bring(h, 0, n), ==, PAGE);
    g_assert_cmpint(mincore(h->ram.block->words, sizeof(in_core) * PAGE,
                            in_core), ==, 0);
    for (unsigned int i = 0; i < sizeof(in_core); i++) {
        pages += in_core[i] & 1;
    }
    g_assert_cmpuint(pages, ==, 1);
    harness_free(h);
}

/* A block that goes meanwhile, and others at work on its pages. */
typedef struct Churn {
    Harness *h;
    _Atomic uint64_t taken, brought;    /* bytes of the block */
    _Atomic bool stop;
} Churn;

static int64_t take_other(Churn *churn, const MemswapRange *range)
{
    int64_t taken = memswap_reclaim_ranges(churn->h->engine, range, 1, true,
                                           NULL, NULL, NULL);

    /* it may have gone */
    return MAX(taken, 0);
}

static gpointer taker(gpointer opaque)
{
    Churn *churn = opaque;
    MemswapRange range = { "other", 0, 4 * MIB };

    while (!atomic_load(&churn->stop)) {
        /* on trial, then out if nobody came; and what came, on trial again */
        int64_t taken = take_other(churn, &range) + take_other(churn, &range);
        int64_t brought = memswap_prefetch(churn->h->engine, &range, 1, NULL,
                                           NULL, NULL);

        atomic_fetch_add(&churn->taken, taken);
        atomic_fetch_add(&churn->brought, MAX(brought, 0));
        take(churn->h, 0, 1024);
        bring(churn->h, 0, 1024);
    }
    return NULL;
}

static void test_block_goes(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 4 * MIB, .limit = 64 * MIB, .evictors = 1,
    });
    Churn churn = { .h = h };
    GThread *thread = g_thread_new("take", taker, &churn);

    write_pages(h, 0, 1024);
    for (unsigned int i = 0; i < 20; i++) {
        uint64_t taken = atomic_load(&churn.taken);
        uint64_t brought = atomic_load(&churn.brought);
        Ram ram = ram_new(4 * MIB, 0);

        ram_add(h, &ram, "other");
        for (uint64_t at = 0; at < ram.size; at += PAGE) {
            atomic_store((_Atomic uint64_t *)(ram.host + at), at + 1);
        }
        check_pages(h, 0, 1024);
        for (uint64_t at = 0; at < ram.size; at += PAGE) {
            g_assert_cmpuint(atomic_load((_Atomic uint64_t *)(ram.host + at)),
                             ==, at + 1);
        }
        /* it goes in the middle of the next round, whatever that does */
        wait_until(atomic_load(&churn.taken) > taken &&
                   atomic_load(&churn.brought) > brought);
        ram_remove(h, &ram);
        ram_free(&ram);
    }
    atomic_store(&churn.stop, true);
    g_thread_join(thread);
    harness_check(h);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ranges/exact", test_exact);
    g_test_add_func("/ranges/refused", test_refused);
    g_test_add_func("/ranges/cold", test_cold);
    g_test_add_func("/ranges/mapped", test_mapped);
    g_test_add_func("/ranges/in-use", test_in_use);
    g_test_add_func("/ranges/kept", test_kept);
    g_test_add_func("/ranges/room", test_room);
    g_test_add_func("/ranges/stops", test_stops);
    g_test_add_func("/ranges/stops-in-void", test_stops_in_void);
    g_test_add_func("/ranges/untouched", test_untouched);
    g_test_add_func("/ranges/block-goes", test_block_goes);
    return g_test_run();
}

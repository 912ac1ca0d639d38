/*
 * Tests of age: how far refaults reach, and what sequences leave behind
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "harness.h"

static void test_distance(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    MemswapRegion *regions = h->ram.block->regions;
    MemswapStats stats;

    write_pages(h, 0, 2 * REGION_PAGES);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 4 * MIB);
    /* In the hand's order: the first left before all of the second. */
    g_assert_cmpuint(memswap_refault_distance(h->engine, &regions[0]), ==,
                     REGION_PAGES);
    g_assert_cmpuint(memswap_refault_distance(h->engine, &regions[1]), ==, 0);
    check_pages(h, 0, 3);
    check_pages(h, REGION_PAGES, 2);
    stats = stats_of(h);
    g_assert_cmpuint(stats.distances[9], ==, 3);
    g_assert_cmpuint(stats.distances[0], ==, 2);
    harness_free(h);
}

/*
 * Twice as much as there is room for, in order, again and again: what has
 * just been read goes, so that half of it is still there the next time.
 * Oldest first would find none of it.
 */
static void test_behind(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 32 * MIB, .limit = 16 * MIB, .readahead = 32 * PAGE,
        .reserve_low = 64 * PAGE, .reserve_high = 128 * PAGE,
    });
    uint64_t n = 32 * MIB / PAGE;
    uint64_t before;

    atomic_store(&h->engine->behind_percent, 50);
    write_pages(h, 0, n);
    for (unsigned int i = 0; i < 3; i++) {
        check_pages(h, 0, n);
    }
    before = stats_of(h).refaults;
    check_pages(h, 0, n);
    g_test_message("%" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT " pages "
                   "came back", stats_of(h).refaults - before, n);
    g_assert_cmpuint(stats_of(h).refaults - before, <, n * 5 / 8);
    harness_free(h);
}

/* Once around in what would fit is no reason to let it go. */
static void test_not_far(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 32 * MIB, .limit = 16 * MIB, .readahead = 32 * PAGE,
        .reserve_low = 64 * PAGE, .reserve_high = 128 * PAGE,
    });
    uint64_t n = 4 * MIB / PAGE;
    uint64_t before;

    atomic_store(&h->engine->behind_percent, 50);
    write_pages(h, 0, 32 * MIB / PAGE);
    for (unsigned int i = 0; i < 3; i++) {
        check_pages(h, 0, n);
    }
    before = stats_of(h).refaults;
    check_pages(h, 0, n);
    g_assert_cmpuint(stats_of(h).refaults - before, ==, 0);
    harness_free(h);
}

static void left(Harness *h, uint64_t region)
{
    memswap_age_behind(h->ram.block, region);
}

static bool goes_first(Harness *h)
{
    uint64_t number;
    MemswapBlock *block = memswap_age_take_behind(h->engine, &number);

    if (block) {
        memswap_block_unref(block);
    }
    return block;
}

/*
 * The clock took the region just before the sequence came to it once more:
 * what counts is when it came the last time.
 */
static void test_passed(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 16 * MIB });
    MemswapRegion *region = &h->ram.block->regions[0];

    write_pages(h, 0, 3 * REGION_PAGES);
    atomic_store(&h->engine->behind_percent, 50);
    atomic_store(&h->engine->evictions, 1000);
    memswap_age_evicted(h->engine, region);
    left(h, 0);
    g_assert_false(goes_first(h));
    g_assert_false(memswap_age_streaming(h->engine));
    /* half of what is resident */
    atomic_store(&h->engine->evictions, 1000 + 3 * REGION_PAGES / 2 - 1);
    memswap_age_evicted(h->engine, region);
    left(h, 0);
    g_assert_false(goes_first(h));
    atomic_fetch_add(&h->engine->evictions, 3 * REGION_PAGES / 2);
    memswap_age_evicted(h->engine, region);
    left(h, 0);
    g_assert_true(memswap_age_any_behind(h->engine));
    g_assert_true(memswap_age_streaming(h->engine));
    g_assert_true(goes_first(h));
    g_assert_false(goes_first(h));
    g_assert_false(memswap_age_any_behind(h->engine));
    /* nothing does, unless a policy says so */
    atomic_store(&h->engine->behind_percent, 0);
    left(h, 0);
    g_assert_false(goes_first(h));
    /* four regions later it is not going on any more */
    atomic_fetch_add(&h->engine->evictions, 4 * REGION_PAGES - 1);
    g_assert_true(memswap_age_streaming(h->engine));
    atomic_fetch_add(&h->engine->evictions, 1);
    g_assert_false(memswap_age_streaming(h->engine));
    atomic_store(&h->engine->evictions, 0);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/age/distance", test_distance);
    g_test_add_func("/age/behind", test_behind);
    g_test_add_func("/age/not-far", test_not_far);
    g_test_add_func("/age/passed", test_passed);
    return g_test_run();
}

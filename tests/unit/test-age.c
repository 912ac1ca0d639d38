/*
 * Tests of age: who is passed by, who goes first, how far refaults reach
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "harness.h"

/* How many rounds in a row is the region passed by? */
static unsigned int rounds(MemswapRegion *region)
{
    unsigned int n = 0;

    while (memswap_age_pass(region)) {
        n++;
    }
    return n;
}

static void test_rounds(void)
{
    static const unsigned int longer[] = { 1, 3, 7, 15, 15 };
    MemswapRegion region = { 0 };

    g_assert_cmpuint(rounds(&region), ==, 0);
    for (unsigned int i = 0; i < G_N_ELEMENTS(longer); i++) {
        memswap_age_looked(&region, REGION_PAGES, REGION_PAGES / 8 - 1);
        g_assert_cmpuint(rounds(&region), ==, longer[i]);
        g_assert_cmpuint(rounds(&region), ==, 0);
    }
    memswap_age_looked(&region, REGION_PAGES, REGION_PAGES / 8);
    g_assert_cmpuint(rounds(&region), ==, 7);
    memswap_age_looked(&region, REGION_PAGES, REGION_PAGES);
    g_assert_cmpuint(rounds(&region), ==, 3);
    memswap_age_looked(&region, 1, 1);
    memswap_age_looked(&region, 1, 1);
    g_assert_cmpuint(rounds(&region), ==, 0);
}

static void pass_all_by(Harness *h)
{
    for (uint64_t i = 0; i < h->ram.block->n_regions; i++) {
        memswap_age_looked(&h->ram.block->regions[i], REGION_PAGES, 0);
    }
}

/* With none but regions to pass by, they are tried all the same. */
static void test_nothing_else(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });

    write_pages(h, 0, 4 * REGION_PAGES);
    pass_all_by(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 8 * MIB);
    check_pages(h, 0, 4 * REGION_PAGES);
    harness_free(h);
}

/* The one that is not passed by goes before the hand is there. */
static void test_cold_first(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });

    write_pages(h, 0, 4 * REGION_PAGES);
    pass_all_by(h);
    g_assert_cmpuint(rounds(&h->ram.block->regions[2]), ==, 1);
    g_assert_cmpuint(memswap_reclaim(h->engine, 100 * PAGE), ==, 100 * PAGE);
    g_assert_cmpuint(atomic_load(&h->ram.block->regions[2].resident), ==,
                     REGION_PAGES - 100);
    check_pages(h, 0, 4 * REGION_PAGES);
    harness_free(h);
}

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
    g_test_add_func("/age/rounds", test_rounds);
    g_test_add_func("/age/nothing-else", test_nothing_else);
    g_test_add_func("/age/cold-first", test_cold_first);
    g_test_add_func("/age/distance", test_distance);
    g_test_add_func("/age/behind", test_behind);
    g_test_add_func("/age/not-far", test_not_far);
    g_test_add_func("/age/passed", test_passed);
    return g_test_run();
}

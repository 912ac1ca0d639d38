/*
 * Tests of reclaim: exact counts for given access strings
 *
 * Without evictors, a fault at the limit reclaims in the thread that resolves
 * it, so counts follow from the access string alone: the clock goes through
 * regions, and through each region's pages, by rising address; what was put
 * on trial and touched again stays.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>

#include "harness.h"

/* The lowest limit there is. */
#define LIMIT_PAGES (MEMSWAP_MIN_LIMIT / PAGE)

static Harness *harness_at_limit(uint64_t size)
{
    return harness_new(&(HarnessOptions) {
        .size = size, .limit = MEMSWAP_MIN_LIMIT,
    });
}

/* Up to the limit nothing leaves; each page more takes one out. */
static void test_limit(void)
{
    Harness *h = harness_at_limit(2 * MIB);
    MemswapStats stats;

    write_pages(h, 0, LIMIT_PAGES);
    stats = stats_of(h);
    g_assert_cmpuint(stats.evictions, ==, 0);
    g_assert_cmpuint(stats.trials, ==, 0);
    g_assert_cmpuint(stats.resident, ==, MEMSWAP_MIN_LIMIT);

    for (uint64_t n = 1; n <= 256; n++) {
        write_pages(h, LIMIT_PAGES + n - 1, 1);
        stats = stats_of(h);
        g_assert_cmpuint(stats.evictions, ==, n);
        g_assert_cmpuint(stats.resident, ==, MEMSWAP_MIN_LIMIT);
        g_assert_cmpuint(ram_cached(&h->ram), ==, MEMSWAP_MIN_LIMIT);
        /* first in, first out: by address here */
        g_assert_cmpint(ram_state(&h->ram, n - 1), ==, MEMSWAP_STORED);
        harness_check(h);
    }
    g_assert_cmpuint(stats.trials, ==, 1);
    g_assert_cmpuint(stats.peak_resident, ==, MEMSWAP_MIN_LIMIT);
    g_assert_cmpuint(stats.overshoots, ==, 0);
    g_assert_cmpuint(stats.stalls, ==, 0);
    harness_free(h);
}

/* A cyclic sweep over twice the limit: each access faults, each evicts. */
static void test_sweep(void)
{
    Harness *h = harness_at_limit(2 * MIB);
    const unsigned int sweeps = 5;
    MemswapStats stats;

    write_pages(h, 0, 2 * LIMIT_PAGES);
    for (unsigned int i = 0; i < sweeps; i++) {
        check_pages(h, 0, 2 * LIMIT_PAGES);
    }
    stats = stats_of(h);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_ABSENT], ==,
                     2 * LIMIT_PAGES);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_STORED], ==,
                     sweeps * 2 * LIMIT_PAGES);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_TRIAL], ==, 0);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_MINOR], ==, 0);
    g_assert_cmpuint(stats.evictions, ==,
                     (sweeps * 2 + 1) * LIMIT_PAGES);
    g_assert_cmpuint(stats.refaults, ==, sweeps * 2 * LIMIT_PAGES);
    g_assert_cmpuint(h->store->puts, ==, stats.evictions);
    g_assert_cmpuint(h->store->gets, ==, stats.refaults);
    g_assert_cmpuint(stats.peak_resident, ==, MEMSWAP_MIN_LIMIT);
    harness_free(h);
}

/* The same over several regions; same-filled pages take no store. */
static void test_sweep_regions(void)
{
    Harness *h = harness_at_limit(8 * MIB);
    uint64_t pages = 8 * MIB / PAGE;
    MemswapStats stats;

    for (uint64_t page = 0; page < pages; page++) {
        ram_fill(h, page, page % 4 ? 2 * page : 2 * page + 1);
    }
    for (unsigned int i = 0; i < 2; i++) {
        for (uint64_t page = 0; page < pages; page++) {
            ram_check(h, page, page % 4 ? 2 * page : 2 * page + 1);
        }
    }
    stats = stats_of(h);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_ABSENT], ==, pages);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_STORED], ==, pages / 2);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_SAME], ==, pages / 2 * 3);
    g_assert_cmpuint(stats.evictions, ==, 3 * pages - LIMIT_PAGES);
    g_assert_cmpuint(stats.refaults, ==, 2 * pages);
    g_assert_cmpuint(h->store->gets, ==, pages / 2);
    harness_check(h);
    harness_free(h);
}

/* A working set at the limit never leaves. */
static void test_fits(void)
{
    Harness *h = harness_at_limit(4 * MIB);
    MemswapStats stats;

    write_pages(h, 100, LIMIT_PAGES);
    for (unsigned int i = 0; i < 20; i++) {
        check_pages(h, 100, LIMIT_PAGES);
    }
    stats = stats_of(h);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_ABSENT], ==, LIMIT_PAGES);
    g_assert_cmpuint(stats.evictions, ==, 0);
    g_assert_cmpuint(stats.trials, ==, 0);
    harness_free(h);
}

/* What is touched on trial stays, at the price of one minor fault. */
static void test_touched_stays(void)
{
    Harness *h = harness_at_limit(2 * MIB);
    MemswapStats stats;

    write_pages(h, 0, LIMIT_PAGES);
    /* puts all on trial, takes out page 0 */
    write_pages(h, 300, 1);
    stats = stats_of(h);
    g_assert_cmpuint(stats.trial, ==, (LIMIT_PAGES - 1) * PAGE);
    for (uint64_t page = 1; page <= 10; page++) {
        g_assert_cmpint(ram_state(&h->ram, page), ==, MEMSWAP_TRIAL);
        g_assert_false(ram_mapped(&h->ram, page));
    }
    check_pages(h, 1, 10);
    stats = stats_of(h);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_TRIAL], ==, 10);
    g_assert_cmpuint(stats.trial, ==, (LIMIT_PAGES - 11) * PAGE);
    /* again: mapped by now */
    check_pages(h, 1, 10);
    g_assert_cmpuint(stats_of(h).faults[MEMSWAP_FAULT_TRIAL], ==, 10);

    write_pages(h, 301, 10);
    stats = stats_of(h);
    g_assert_cmpuint(stats.evictions, ==, 11);
    g_assert_cmpuint(stats.trial, ==, (LIMIT_PAGES - 21) * PAGE);
    for (uint64_t page = 1; page <= 10; page++) {
        g_assert_cmpint(ram_state(&h->ram, page), ==, MEMSWAP_RESIDENT);
    }
    for (uint64_t page = 11; page <= 20; page++) {
        g_assert_cmpint(ram_state(&h->ram, page), ==, MEMSWAP_STORED);
    }
    harness_free(h);
}

/* Each trial zaps and marks a region once, and nothing else of it changes. */
static void test_trial(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    MemswapStats stats;

    write_pages(h, 0, 40);
    write_pages(h, REGION_PAGES, 50);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    stats = stats_of(h);
    g_assert_cmpuint(stats.trials, ==, 1);
    g_assert_cmpuint(h->traces[MEMSWAP_TRACE_TRIAL], ==, 1);
    g_assert_cmpuint(h->traces[MEMSWAP_TRACE_EVICT], ==, 1);
    g_assert_cmpuint(stats.trial, ==, 39 * PAGE);
    g_assert_cmpuint(stats.resident, ==, 89 * PAGE);
    for (uint64_t page = 0; page < 50; page++) {
        g_assert_true(ram_mapped(&h->ram, REGION_PAGES + page));
        g_assert_false(ram_mapped(&h->ram, page));
    }
    harness_check(h);
    /* all of the trial is touched: the next region's turn */
    check_pages(h, 1, 39);
    g_assert_cmpuint(stats_of(h).trial, ==, 0);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    stats = stats_of(h);
    g_assert_cmpuint(stats.trials, ==, 2);
    g_assert_cmpuint(stats.trial, ==, 49 * PAGE);
    g_assert_cmpint(ram_state(&h->ram, REGION_PAGES), ==, MEMSWAP_STORED);
    check_pages(h, 0, 40);
    check_pages(h, REGION_PAGES, 50);
    harness_free(h);
}

/* reclaim() says exactly what left, and takes no more than asked for. */
static void test_bytes(void)
{
    static const uint64_t asked[] = { 1, PAGE, PAGE + 1, 33 * PAGE, 100 };
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    uint64_t left = 700;
    uint64_t got;

    write_pages(h, 0, left);
    g_assert_cmpuint(memswap_reclaim(h->engine, 0), ==, 0);
    for (unsigned int i = 0; i < G_N_ELEMENTS(asked); i++) {
        uint64_t pages = (asked[i] + PAGE - 1) / PAGE;

        got = memswap_reclaim(h->engine, asked[i]);
        g_assert_cmpuint(got, ==, pages * PAGE);
        left -= pages;
        g_assert_cmpuint(ram_cached(&h->ram), ==, left * PAGE);
        harness_check(h);
    }
    /* more than there is */
    got = memswap_reclaim(h->engine, 1 << 30);
    g_assert_cmpuint(got, ==, left * PAGE);
    g_assert_cmpuint(ram_cached(&h->ram), ==, 0);
    g_assert_cmpuint(memswap_reclaim(h->engine, 1 << 30), ==, 0);
    check_pages(h, 0, 700);
    harness_settle(h);
    got = memswap_reclaim(h->engine, UINT64_MAX);
    g_assert_cmpuint(got, ==, 700 * PAGE);
    harness_free(h);
}

/* Asked before each step, and obeyed. */
static bool twice(void *opaque)
{
    unsigned int *asked = opaque;

    return ++*asked <= 2;
}

static void test_while(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    unsigned int asked = 0;

    write_pages(h, 0, 4 * REGION_PAGES);
    g_assert_cmpuint(memswap_reclaim_while(h->engine, UINT64_MAX, twice,
                                           &asked), ==, 4 * MIB);
    g_assert_cmpuint(asked, ==, 3);
    g_assert_cmpuint(memswap_reclaim_while(h->engine, UINT64_MAX, twice,
                                           &asked), ==, 0);
    g_assert_cmpuint(memswap_reclaim_while(h->engine, UINT64_MAX, NULL, NULL),
                     ==, 4 * MIB);
    check_pages(h, 0, 4 * REGION_PAGES);
    harness_free(h);
}

/* What keeps the store busy in turn: many regions, once around. */
static void test_all_regions(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 128 * MIB });

    for (uint64_t region = 0; region < 64; region++) {
        write_pages(h, region * REGION_PAGES + region, 3);
    }
    g_assert_cmpuint(memswap_reclaim(h->engine, 128 * MIB), ==,
                     3 * 64 * PAGE);
    g_assert_cmpuint(stats_of(h).trials, ==, 64);
    for (uint64_t region = 0; region < 64; region++) {
        check_pages(h, region * REGION_PAGES + region, 3);
    }
    harness_free(h);
}

/* The same over several blocks, one of which has nothing. */
static void test_blocks(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    Ram empty = ram_new(4 * MIB, 0);
    Ram third = ram_new(6 * MIB, 0);
    MemswapBlockStats stats;

    ram_add(h, &empty, "empty");
    ram_add(h, &third, "third");
    write_pages(h, 0, 30);
    for (unsigned int i = 0; i < 20; i++) {
        page_build(third.host + (4 * MIB) + i * PAGE, 1000 + i);
    }
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, 64 * MIB), ==, 50 * PAGE);
    memswap_block_get_stats(third.block, &stats);
    g_assert_cmpuint(stats.managed, ==, 6 * MIB);
    g_assert_cmpuint(stats.page_size, ==, PAGE);
    g_assert_cmpuint(stats.stored, ==, 10 * PAGE);
    g_assert_cmpuint(stats.zero, ==, 10 * PAGE);
    memswap_block_get_stats(empty.block, &stats);
    g_assert_cmpuint(stats.untouched, ==, 4 * MIB);
    harness_check(h);
    check_pages(h, 0, 30);
    for (unsigned int i = 0; i < 20; i++) {
        uint64_t page[PAGE / sizeof(uint64_t)];

        page_build(page, 1000 + i);
        g_assert_cmpmem(third.host + (4 * MIB) + i * PAGE, PAGE, page, PAGE);
    }
    harness_check(h);
    ram_remove(h, &empty);
    ram_remove(h, &third);
    ram_free(&empty);
    ram_free(&third);
    harness_free(h);
}

/* Written again while it was away from the page table: the new content. */
static void test_rewritten(void)
{
    Harness *h = harness_at_limit(2 * MIB);

    for (unsigned int round = 1; round < 6; round++) {
        for (uint64_t page = 0; page < 2 * LIMIT_PAGES; page++) {
            ram_fill(h, page, round * 100000 + page);
        }
        for (uint64_t page = 0; page < 2 * LIMIT_PAGES; page++) {
            ram_check(h, page, round * 100000 + page);
        }
    }
    harness_check(h);
    harness_free(h);
}

/* Two at once neither take a page twice nor count it twice. */
static void test_concurrent(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 16 * MIB });
    const uint64_t pages = 16 * MIB / PAGE;

    for (unsigned int round = 0; round < 3; round++) {
        Task *tasks[3];
        int64_t gone = 0;

        for (uint64_t page = 0; page < pages; page++) {
            ram_fill(h, page, page % 16 ? 2 : 2 * page + 1);
        }
        harness_settle(h);
        for (unsigned int i = 0; i < G_N_ELEMENTS(tasks); i++) {
            tasks[i] = task_start(h, task_reclaim, 16 * MIB);
        }
        for (unsigned int i = 0; i < G_N_ELEMENTS(tasks); i++) {
            gone += task_join(tasks[i]);
        }
        g_assert_cmpint(gone, ==, 16 * MIB - ram_cached(&h->ram));
        g_assert_cmpint(gone, >=, 15 * MIB);
        harness_check(h);
    }
    for (uint64_t page = 0; page < pages; page++) {
        ram_check(h, page, page % 16 ? 2 : 2 * page + 1);
    }
    harness_free(h);
}

static int64_t task_write_pages(Harness *h, uint64_t n)
{
    for (uint64_t page = 0; page < n; page++) {
        if (page % 4) {
            ram_fill(h, page, 4 * page + 3);
        }
    }
    return 0;
}

/*
 * Without evictors, who reclaims compacts as well: a pool that is full of
 * holes takes no page otherwise, and the fault waits for ever.
 */
static void test_compacts(void)
{
    const uint64_t n = 32 * MIB / PAGE;
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 32 * MIB, .limit = 2 * MIB, .pool = true,
        .pool_limit = 20 * MIB,
    });

    for (uint64_t page = 0; page < n; page++) {
        ram_fill(h, page, 4 * page + 3);
    }
    harness_settle(h);
    g_assert_cmpuint(stats_of(h).pool_bytes, >, 15 * MIB);
    for (uint64_t page = 0; page < n; page++) {
        if (page % 4) {
            g_assert_cmpint(task_discard(h, page), ==, 0);
        }
    }
    g_assert_cmpuint(stats_of(h).pool_moved, ==, 0);
    g_assert_cmpint(task_join(task_start(h, task_write_pages, n)), ==, 0);
    g_assert_cmpuint(stats_of(h).pool_moved, >, 0);
    g_assert_cmpuint(stats_of(h).stalls, ==, 0);
    for (uint64_t page = 0; page < n; page++) {
        ram_check(h, page, 4 * page + 3);
    }
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/reclaim/limit", test_limit);
    g_test_add_func("/reclaim/sweep", test_sweep);
    g_test_add_func("/reclaim/sweep-regions", test_sweep_regions);
    g_test_add_func("/reclaim/fits", test_fits);
    g_test_add_func("/reclaim/touched-stays", test_touched_stays);
    g_test_add_func("/reclaim/trial", test_trial);
    g_test_add_func("/reclaim/bytes", test_bytes);
    g_test_add_func("/reclaim/while", test_while);
    g_test_add_func("/reclaim/all-regions", test_all_regions);
    g_test_add_func("/reclaim/blocks", test_blocks);
    g_test_add_func("/reclaim/rewritten", test_rewritten);
    g_test_add_func("/reclaim/compacts", test_compacts);
    g_test_add_func("/reclaim/concurrent", test_concurrent);
    return g_test_run();
}

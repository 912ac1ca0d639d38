/*
 * Tests of kept copies: used while right, dropped when not, never believed
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>

#include "harness.h"

/* So many pages that came back once, and kept their copies if they may. */
static Harness *harness_back(uint64_t n, uint64_t keep)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 8 * MIB, .keep_copies = keep,
    });

    write_pages(h, 0, n);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, n * PAGE);
    check_pages(h, 0, n);
    g_assert_cmpuint(stats_of(h).kept, ==, MIN(n * PAGE, keep));
    harness_check(h);
    return h;
}

static void test_unchanged(void)
{
    Harness *h = harness_back(100, 8 * MIB);
    MemswapStats stats;

    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 100 * PAGE);
    stats = stats_of(h);
    g_assert_cmpuint(stats.unchanged, ==, 100);
    g_assert_cmpuint(stats.kept, ==, 0);
    g_assert_cmpuint(stats.stored, ==, 100 * PAGE);
    g_assert_cmpuint(h->store->puts, ==, 100);
    g_assert_cmpuint(h->store->drops, ==, 0);
    harness_check(h);
    check_pages(h, 0, 100);
    harness_free(h);
}

/* Who writes is not noticed until the page is compared with its copy. */
static void test_changed(void)
{
    Harness *h = harness_back(100, 8 * MIB);
    uint64_t first[PAGE / sizeof(uint64_t)];

    for (uint64_t page = 0; page < 100; page += 2) {
        /* the last byte of the page only */
        h->ram.host[page * PAGE + PAGE - 1] ^= 1;
    }
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 100 * PAGE);
    g_assert_cmpuint(stats_of(h).unchanged, ==, 50);
    g_assert_cmpuint(h->store->puts, ==, 150);
    g_assert_cmpuint(h->store->drops, ==, 50);
    harness_check(h);
    for (uint64_t page = 0; page < 100; page += 2) {
        page_build(first, 2 * page + 1);
        ((uint8_t *)first)[PAGE - 1] ^= 1;
        g_assert_cmpmem(h->ram.host + page * PAGE, PAGE, first, PAGE);
        check_pages(h, page + 1, 1);
    }
    harness_free(h);
}

/* It became same-filled: no copy at all. */
static void test_same_filled(void)
{
    Harness *h = harness_back(10, 8 * MIB);

    ram_fill(h, 3, 0);
    ram_fill(h, 4, 42);
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 10 * PAGE);
    g_assert_cmpuint(stats_of(h).zero, ==, 2 * PAGE);
    g_assert_cmpuint(h->store->drops, ==, 2);
    harness_check(h);
    ram_check(h, 3, 0);
    ram_check(h, 4, 42);
    harness_free(h);
}

static void test_budget(void)
{
    Harness *h = harness_back(100, 30 * PAGE);

    g_assert_cmpuint(h->store->drops, ==, 70);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 100 * PAGE);
    g_assert_cmpuint(stats_of(h).unchanged, ==, 30);
    check_pages(h, 0, 100);
    harness_free(h);
}

/* All on trial, of which all but the last ten are touched; then a look. */
static uint64_t kept_by_warm(uint64_t budget)
{
    Harness *h = harness_back(100, budget);
    uint64_t gone, kept;

    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    check_pages(h, 1, 89);
    g_assert_true(memswap_reclaim_step(h->engine, UINT64_MAX, 0, &gone));
    g_assert_cmpuint(gone, ==, 10 * PAGE);
    g_assert_cmpuint(stats_of(h).unchanged, ==, 11);
    kept = stats_of(h).kept;
    harness_check(h);
    check_pages(h, 0, 100);
    harness_free(h);
    return kept;
}

/* Where copies are scarce, pages that will stay don't keep theirs. */
static void test_warm(void)
{
    g_assert_cmpuint(kept_by_warm(100 * PAGE), ==, 0);
    g_assert_cmpuint(kept_by_warm(120 * PAGE), ==, 89 * PAGE);
}

/* A page on trial that is touched keeps it. */
static void test_trial(void)
{
    Harness *h = harness_back(50, 8 * MIB);

    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    g_assert_cmpuint(stats_of(h).trial, ==, 49 * PAGE);
    check_pages(h, 0, 50);
    g_assert_cmpuint(stats_of(h).kept, ==, 50 * PAGE);
    harness_check(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 50 * PAGE);
    g_assert_cmpuint(h->store->puts, ==, 50);
    harness_free(h);
}

static void test_discard(void)
{
    Harness *h = harness_back(50, 8 * MIB);

    g_assert_cmpint(memswap_pin(h->engine, h->ram.host, PAGE), ==, 0);
    g_assert_cmpint(memswap_discard(h->engine, h->ram.host, 20 * PAGE), ==,
                    0);
    /* the pinned one is zeroed in place, and its copy is stale */
    g_assert_cmpuint(stats_of(h).kept, ==, 31 * PAGE);
    g_assert_cmpuint(h->store->drops, ==, 19);
    memswap_unpin(h->engine, h->ram.host, PAGE);
    harness_check(h);
    for (uint64_t page = 0; page < 20; page++) {
        ram_check(h, page, 0);
    }
    check_pages(h, 20, 30);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 50 * PAGE);
    g_assert_cmpuint(stats_of(h).unchanged, ==, 30);
    harness_free(h);
}

/* The store is full: kept copies make room, and nobody is told. */
static void test_store_full(void)
{
    Harness *h = harness_back(100, 8 * MIB);

    atomic_store(&h->store->limit, 120 * PAGE);
    write_pages(h, 100, 100);
    while (memswap_reclaim(h->engine, UINT64_MAX)) {
    }
    g_assert_cmpuint(stats_of(h).kept, ==, 0);
    /* All that fits is stored; what was refused after that is an event. */
    g_assert_cmpuint(fake_store_live(h->store), ==, 120);
    g_assert_cmpuint(stats_of(h).stored, ==, 120 * PAGE);
    harness_check(h);
    atomic_store(&h->store->limit, UINT64_MAX);
    check_pages(h, 0, 200);
    harness_free(h);
}

/* The store is full of nothing but stale copies of what is to go. */
static void test_full_of_stale(void)
{
    Harness *h = harness_back(100, 8 * MIB);

    for (uint64_t page = 0; page < 100; page++) {
        ram_fill(h, page, 10001 + 2 * page);
    }
    harness_settle(h);
    atomic_store(&h->store->limit, 100 * PAGE);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 100 * PAGE);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_STORE_FULL), ==, 0);
    g_assert_cmpuint(fake_store_live(h->store), ==, 100);
    harness_check(h);
    for (uint64_t page = 0; page < 100; page++) {
        ram_check(h, page, 10001 + 2 * page);
    }
    harness_free(h);
}

/* Copies of others make room for the very page that found none. */
static void test_shed(void)
{
    Harness *h = harness_back(100, 8 * MIB);

    write_pages(h, REGION_PAGES, 50);
    atomic_store(&h->store->limit, 100 * PAGE);
    /* before the pages that kept them are in the evictor's hands */
    g_assert_cmpuint(memswap_shed_copies(h->engine, 1), >=, PAGE);
    g_assert_cmpuint(memswap_reclaim(h->engine, 100 * PAGE), ==, 100 * PAGE);
    g_assert_cmpuint(stats_of(h).kept, ==, 0);
    g_assert_cmpuint(stats_of(h).stored, ==, 100 * PAGE);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_STORE_FULL), ==, 0);
    harness_check(h);
    harness_free(h);
}

/* Pages of a region that keep copies. */
static uint64_t kept_in(const Ram *ram, uint64_t region)
{
    uint64_t n = 0;

    for (uint64_t page = 0; page < REGION_PAGES; page++) {
        n += (memswap_word_load(&ram->block->words[region * REGION_PAGES +
                                                   page]) &
              MEMSWAP_WORD_KEPT) != 0;
    }
    return n;
}

/* Regions lose their copies in turn, and not the first ones always. */
static void test_shed_in_turn(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 4 * MIB, .limit = 16 * MIB, .keep_copies = 16 * MIB,
    });
    Ram first = h->ram, second = ram_new(4 * MIB, 0);

    ram_add(h, &second, "second");
    write_pages(h, 0, 2 * REGION_PAGES);
    h->ram = second;
    write_pages(h, 0, 2 * REGION_PAGES);
    for (unsigned int turn = 0; turn < 6; turn++) {
        /* all go, and come back with their copies */
        g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 8 * MIB);
        h->ram = second;
        check_pages(h, 0, 2 * REGION_PAGES);
        h->ram = first;
        check_pages(h, 0, 2 * REGION_PAGES);
        g_assert_cmpuint(stats_of(h).kept, ==, 8 * MIB);

        g_assert_cmpuint(memswap_shed_copies(h->engine, 1), ==, 2 * MIB);
        for (unsigned int region = 0; region < 4; region++) {
            g_assert_cmpuint(kept_in(region < 2 ? &first : &second,
                                     region % 2), ==,
                             region == turn % 4 ? 0 : REGION_PAGES);
        }
    }
    /* all of them, from wherever it is */
    g_assert_cmpuint(memswap_shed_copies(h->engine, UINT64_MAX), ==, 6 * MIB);
    g_assert_cmpuint(stats_of(h).kept, ==, 0);
    ram_remove(h, &second);
    ram_free(&second);
    harness_free(h);
}

/* Again and again, with the real pool. */
static void test_again(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 8 * MIB, .keep_copies = 8 * MIB, .pool = true,
    });

    for (uint64_t page = 0; page < 100; page++) {
        ram_fill(h, page, 4 * page + 3);
    }
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 100 * PAGE);
    for (uint64_t page = 0; page < 100; page++) {
        ram_check(h, page, 4 * page + 3);
    }
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 100 * PAGE);
    g_assert_cmpuint(stats_of(h).unchanged, ==, 100);
    for (uint64_t page = 0; page < 100; page++) {
        ram_check(h, page, 4 * page + 3);
        ram_fill(h, page, 4 * page + 7);
    }
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 100 * PAGE);
    g_assert_cmpuint(stats_of(h).unchanged, ==, 100);
    for (uint64_t page = 0; page < 100; page++) {
        ram_check(h, page, 4 * page + 7);
    }
    harness_free(h);
}

/* The compactor moves them like any other. */
static void test_moved(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 32 * MIB, .keep_copies = 32 * MIB, .pool = true,
    });
    uint64_t n = 32 * MIB / PAGE;

    for (uint64_t page = 0; page < n; page++) {
        ram_fill(h, page, 4 * page + 3);
    }
    harness_settle(h);
    memswap_reclaim(h->engine, UINT64_MAX);
    for (uint64_t page = 0; page < n; page++) {
        ram_check(h, page, 4 * page + 3);
    }
    harness_settle(h);
    /* Holes between copies that are kept. */
    for (uint64_t page = 0; page < n; page++) {
        if (page % 4) {
            g_assert_cmpint(memswap_discard(h->engine,
                                            h->ram.host + page * PAGE, PAGE),
                            ==, 0);
        }
    }
    while (h->engine->store->ops->maintain(h->engine->store)) {
    }
    g_assert_cmpuint(stats_of(h).pool_moved, >, 0);
    g_assert_cmpuint(stats_of(h).kept, ==, n / 4 * PAGE);
    harness_check(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==,
                     n / 4 * PAGE);
    g_assert_cmpuint(stats_of(h).unchanged, ==, n / 4);
    for (uint64_t page = 0; page < n; page += 4) {
        ram_check(h, page, 4 * page + 3);
    }
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/copies/unchanged", test_unchanged);
    g_test_add_func("/copies/changed", test_changed);
    g_test_add_func("/copies/same-filled", test_same_filled);
    g_test_add_func("/copies/budget", test_budget);
    g_test_add_func("/copies/warm", test_warm);
    g_test_add_func("/copies/trial", test_trial);
    g_test_add_func("/copies/discard", test_discard);
    g_test_add_func("/copies/store-full", test_store_full);
    g_test_add_func("/copies/full-of-stale", test_full_of_stale);
    g_test_add_func("/copies/shed", test_shed);
    g_test_add_func("/copies/shed-in-turn", test_shed_in_turn);
    g_test_add_func("/copies/again", test_again);
    g_test_add_func("/copies/moved", test_moved);
    return g_test_run();
}

/*
 * Tests of huge regions that leave, are discarded, or come: exact counts
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "huge-ram.h"

/* --- leaving ----------------------------------------------------------- */

/* Cold as a whole: one punch. */
static void test_leave(void)
{
    Harness *h = huge_collapsed(4 * MIB);
    Calls calls = { .times = 0 };
    MemswapStats stats;

    if (!h) {
        return;
    }
    calls_count(&calls);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, 2 * MIB);
    stats = stats_of(h);
    g_assert_cmpuint(calls.n[INJECT_PUNCH], ==, 1);
    g_assert_cmpuint(calls.n[INJECT_COPY], ==, 0);
    g_assert_cmpuint(stats.evictions, ==, REGION_PAGES);
    g_assert_cmpuint(stats.stored, ==, 2 * MIB);
    g_assert_cmpuint(stats.huge, ==, 2 * MIB);
    g_assert_cmpuint(stats.splits, ==, 0);
    g_assert_cmpuint(ram_cached(&h->ram), ==, 2 * MIB);
    harness_check(h);
    check_pages(h, 0, 2 * REGION_PAGES);
    g_assert_cmpuint(stats_of(h).refaults, ==, REGION_PAGES);

    /* and small pages leave one by one again */
    g_assert_false(memswap_region_large(&h->ram.block->regions[0]));
    g_assert_cmpuint(huge_pass(h), ==, 0);
    g_assert_cmpuint(stats_of(h).huge, ==, 4 * MIB);
    harness_free(h);
}

/* Warm in part: that part is back, in as many copies as it has runs. */
static void test_split(void)
{
    Harness *h = huge_collapsed(2 * MIB);
    Calls calls = { .times = 0 };
    MemswapStats stats;
    uint64_t faults;

    if (!h) {
        return;
    }
    huge_try(h, 0, true);
    for (uint64_t i = 0; i < 50; i++) {
        ram_fill(h, 3 + i, 2 * (3 + i) + 1);
        ram_touch(h, 200 + i);
        ram_touch(h, REGION_PAGES - 1 - i);
    }
    faults = huge_trial_faults(h);
    calls_count(&calls);
    g_assert_cmpuint(huge_look(h, 0), ==, (REGION_PAGES - 150) * PAGE);
    g_assert_cmpuint(calls.n[INJECT_COPY], ==, 3);
    g_assert_cmpuint(calls.n[INJECT_PUNCH], ==, 1);
    g_assert_cmpuint(calls.n[INJECT_ZAP], ==, 1);
    stats = stats_of(h);
    g_assert_cmpuint(stats.splits, ==, 1);
    g_assert_cmpuint(stats.huge, ==, 0);
    g_assert_cmpuint(stats.resident, ==, 150 * PAGE);
    g_assert_cmpuint(stats.peak_resident, ==, 2 * MIB);
    g_assert_cmpuint(ram_cached(&h->ram), ==, 150 * PAGE);
    harness_check(h);
    for (uint64_t i = 0; i < 50; i++) {
        g_assert_true(ram_mapped(&h->ram, 3 + i));
        ram_check(h, 200 + i, 2 * (200 + i) + 1);
    }
    g_assert_cmpuint(huge_trial_faults(h), ==, faults);
    check_pages(h, 0, REGION_PAGES);
    g_assert_cmpuint(stats_of(h).refaults, ==, REGION_PAGES - 150);
    harness_free(h);
}

/* Hot, but somebody waits for room: it goes all the same. */
static void test_urgent(void)
{
    Harness *h = huge_collapsed(4 * MIB);
    uint64_t gone = 0;

    if (!h) {
        return;
    }
    harness_set_limit(h, 2 * MIB, 0);
    while (!gone) {
        g_assert_true(memswap_reclaim_step(h->engine, PAGE, true, &gone));
    }
    g_assert_cmpuint(gone, ==, 2 * MIB);
    harness_check(h);
    harness_set_limit(h, 4 * MIB, 0);
    check_pages(h, 0, 2 * REGION_PAGES);
    harness_free(h);
}

/* Pages that take no store: all of a region of zeroes goes. */
static void test_same(void)
{
    Harness *h = huge_collapsed(2 * MIB);

    if (!h) {
        return;
    }
    atomic_store(&h->store->limit, 0);
    for (uint64_t page = 0; page < REGION_PAGES; page++) {
        ram_fill(h, page, 2 * page);
    }
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, 2 * MIB);
    g_assert_cmpuint(stats_of(h).zero, ==, 2 * MIB);
    for (uint64_t page = 0; page < REGION_PAGES; page++) {
        ram_check(h, page, 2 * page);
    }
    harness_free(h);
}

/*
 * Pages that kept their copies: those not written to since go without another;
 * and when it is called off, none is lost.
 */
static void test_kept(void)
{
    Harness *h = huge_new(&(HarnessOptions) {
        .size = 2 * MIB, .huge = true, .keep_copies = 2 * MIB,
    });
    Calls calls = { .fail = INJECT_PUNCH, .error = -ENOMEM, .times = 1 };

    if (!h) {
        return;
    }
    g_assert_cmpuint(memswap_reclaim(h->engine, 2 * MIB), ==, 2 * MIB);
    check_pages(h, 0, REGION_PAGES);
    g_assert_cmpuint(stats_of(h).kept, ==, 2 * MIB);
    g_assert_cmpuint(huge_pass(h), ==, 0);
    g_assert_cmpuint(stats_of(h).huge, ==, 2 * MIB);
    harness_check(h);

    for (uint64_t page = 0; page < 100; page++) {
        ram_fill(h, page, 2 * page + 2001);
    }
    huge_try(h, 0, false);
    calls_count(&calls);
    g_assert_cmpuint(huge_look(h, 0), ==, 0);
    inject(NULL);
    harness_check(h);
    for (uint64_t page = 0; page < REGION_PAGES; page++) {
        uint64_t word = memswap_word_load(&h->ram.block->words[page]);

        g_assert_true(!memswap_word_handle(word) ||
                      (word & MEMSWAP_WORD_KEPT));
    }
    g_assert_cmpuint(memswap_reclaim(h->engine, 2 * MIB), ==, 2 * MIB);
    g_assert_cmpuint(stats_of(h).unchanged, >=, REGION_PAGES - 100);
    harness_check(h);
    for (uint64_t page = 0; page < 100; page++) {
        ram_check(h, page, 2 * page + 2001);
    }
    check_pages(h, 100, REGION_PAGES - 100);
    harness_free(h);
}

/* --- discards ---------------------------------------------------------- */

static void test_discard_part(void)
{
    Harness *h = huge_collapsed(2 * MIB);
    Calls calls = { .times = 0 };
    MemswapStats stats;

    if (!h) {
        return;
    }
    calls_count(&calls);
    g_assert_cmpint(huge_discard_some(h), ==, 0);
    stats = stats_of(h);
    g_assert_cmpuint(calls.n[INJECT_PUNCH], ==, 1);
    g_assert_cmpuint(calls.n[INJECT_COPY], ==, 2);
    g_assert_cmpuint(stats.discards, ==, 100);
    g_assert_cmpuint(stats.untouched, ==, 100 * PAGE);
    g_assert_cmpuint(stats.resident, ==, 412 * PAGE);
    g_assert_cmpuint(stats.evictions, ==, 0);
    g_assert_cmpuint(stats.huge, ==, 0);
    g_assert_cmpuint(stats.splits, ==, 1);
    harness_check(h);
    huge_check_discarded(h);
    harness_free(h);
}

static void test_discard_whole(void)
{
    Harness *h = huge_collapsed(6 * MIB);
    MemswapStats stats;

    if (!h) {
        return;
    }
    huge_try(h, 1, false);
    g_assert_cmpint(memswap_discard(h->engine, h->ram.host, 4 * MIB), ==, 0);
    stats = stats_of(h);
    g_assert_cmpuint(stats.untouched, ==, 4 * MIB);
    g_assert_cmpuint(stats.discards, ==, 2 * REGION_PAGES);
    g_assert_cmpuint(stats.huge, ==, 2 * MIB);
    g_assert_cmpuint(stats.splits, ==, 0);
    g_assert_cmpuint(ram_cached(&h->ram), ==, 2 * MIB);
    harness_check(h);
    ram_check(h, 0, 0);
    ram_check(h, 2 * REGION_PAGES - 1, 0);
    check_pages(h, 2 * REGION_PAGES, REGION_PAGES);
    harness_free(h);
}

/*
 * Rule: a punch of a part would unmap all of a huge page.  With a page pinned,
 * what is discarded is zeroed in place.
 */
static void test_discard_pinned(void)
{
    Harness *h = huge_collapsed(2 * MIB);
    Calls calls = { .times = 0 };

    if (!h) {
        return;
    }
    g_assert_cmpint(task_pin(h, 300), ==, 0);
    calls_count(&calls);
    g_assert_cmpint(huge_discard_some(h), ==, 0);
    g_assert_cmpuint(calls.n[INJECT_PUNCH], ==, 0);
    g_assert_true(ram_mapped(&h->ram, 300));
    g_assert_cmpuint(stats_of(h).huge, ==, 2 * MIB);
    huge_check_discarded(h);

    g_assert_cmpint(memswap_discard(h->engine, h->ram.host, 2 * MIB), ==, 0);
    g_assert_cmpuint(calls.n[INJECT_PUNCH], ==, 0);
    g_assert_true(ram_mapped(&h->ram, 300));
    for (uint64_t page = 0; page < REGION_PAGES; page++) {
        ram_check(h, page, 0);
    }
    memswap_unpin(h->engine, h->ram.host + 300 * PAGE, PAGE);
    g_assert_cmpint(memswap_discard(h->engine, h->ram.host, 2 * MIB), ==, 0);
    g_assert_cmpuint(ram_cached(&h->ram), ==, 0);
    harness_free(h);
}

/* --- blocks ------------------------------------------------------------ */

/*
 * Memory that was collapsed before it was ours is taken for what it is, even
 * with somebody holding a reference to it.
 */
static void test_adopt(void)
{
    Harness *h = huge_new(&(HarnessOptions) {
        .huge = true, .limit = 8 * MIB,
    });
    int pipes[2];
    loff_t offset = 100 * PAGE;

    if (!h) {
        return;
    }
    h->ram = ram_new(4 * MIB, 0);
    write_pages(h, 0, 2 * REGION_PAGES);
    g_assert_cmpint(madvise(h->ram.host, 2 * MIB, MADV_COLLAPSE), ==, 0);
    g_assert_cmpint(pipe2(pipes, O_CLOEXEC), ==, 0);
    g_assert_cmpint(splice(h->ram.fd, &offset, pipes[1], NULL, PAGE, 0), ==,
                    PAGE);
    ram_add(h, &h->ram, "ram");
    g_assert_true(memswap_region_large(&h->ram.block->regions[0]));
    g_assert_cmpuint(memswap_reclaim(h->engine, 4 * MIB), ==, 4 * MIB);
    g_assert_cmpuint(ram_cached(&h->ram), ==, 0);
    check_pages(h, 0, 2 * REGION_PAGES);
    close(pipes[0]);
    close(pipes[1]);
    harness_free(h);
}

/* A block goes while its regions are huge, and on trial. */
static void test_remove(void)
{
    Harness *h = huge_collapsed(6 * MIB);

    if (!h) {
        return;
    }
    huge_try(h, 1, false);
    ram_remove(h, &h->ram);
    g_assert_cmpuint(stats_of(h).huge, ==, 0);
    g_assert_cmpuint(stats_of(h).trial, ==, 0);
    /* and comes again, with its large folios */
    ram_add(h, &h->ram, "again");
    g_assert_cmpuint(stats_of(h).resident, ==, 6 * MIB);
    g_assert_cmpuint(huge_pass(h), ==, 0);
    g_assert_cmpuint(stats_of(h).huge, ==, 6 * MIB);
    check_pages(h, 0, 3 * REGION_PAGES);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/huge-leave/all", test_leave);
    g_test_add_func("/huge-leave/split", test_split);
    g_test_add_func("/huge-leave/urgent", test_urgent);
    g_test_add_func("/huge-leave/same", test_same);
    g_test_add_func("/huge-leave/kept", test_kept);
    g_test_add_func("/huge-leave/discard/part", test_discard_part);
    g_test_add_func("/huge-leave/discard/whole", test_discard_whole);
    g_test_add_func("/huge-leave/discard/pinned", test_discard_pinned);
    g_test_add_func("/huge-leave/block/adopt", test_adopt);
    g_test_add_func("/huge-leave/block/remove", test_remove);
    return g_test_run();
}

/*
 * Tests of read-ahead: how much, when, and when not
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "harness.h"

#define WINDOW_MAX 16

static void set_readahead(Harness *h, uint64_t readahead)
{
    MemswapSettings settings;

    memswap_get_settings(h->engine, &settings);
    settings.readahead = readahead;
    g_assert_cmpint(memswap_set_settings(h->engine, &settings, NULL), ==, 0);
}

/* The first @n pages have been written, one by one; none is ahead. */
static Harness *harness_written(uint64_t readahead, uint64_t n)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });

    write_pages(h, 0, n);
    set_readahead(h, readahead);
    return h;
}

static Harness *harness_evicted(uint64_t readahead, uint64_t n)
{
    Harness *h = harness_written(readahead, n);

    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, n * PAGE);
    return h;
}

/* Faults that found a copy, or a page on trial. */
static uint64_t faults(Harness *h)
{
    MemswapStats stats = stats_of(h);

    return stats.faults[MEMSWAP_FAULT_STORED] +
           stats.faults[MEMSWAP_FAULT_SAME] +
           stats.faults[MEMSWAP_FAULT_TRIAL];
}

/*
 * Pages 0 and 1 fault, then windows of 4, 8, 16, and no more than that: 2-5,
 * 7-14, 16-31, 33-48, 50-65, each after a fault.
 */
static void test_windows(void)
{
    Harness *h = harness_evicted(WINDOW_MAX * PAGE, 66);
    MemswapStats stats;

    check_pages(h, 0, 66);
    stats = stats_of(h);
    g_assert_cmpuint(faults(h), ==, 6);
    g_assert_cmpuint(stats.readahead, ==, 4 + 8 + 3 * 16);
    g_assert_cmpuint(stats.refaults, ==, 66);
    g_assert_cmpuint(stats.resident, ==, 66 * PAGE);
    g_assert_cmpuint(h->store->gets, ==, 66);
    g_assert_cmpuint(h->store->drops, ==, 66);
    harness_check(h);
    harness_free(h);
}

static void test_off(void)
{
    Harness *h = harness_evicted(0, 66);

    check_pages(h, 0, 66);
    g_assert_cmpuint(faults(h), ==, 66);
    g_assert_cmpuint(stats_of(h).readahead, ==, 0);
    harness_free(h);
}

/* Backwards, and with holes: no sequence. */
static void test_no_sequence(void)
{
    Harness *h = harness_evicted(WINDOW_MAX * PAGE, 300);

    for (uint64_t page = 100; page-- > 0;) {
        check_pages(h, page, 1);
    }
    for (uint64_t page = 100; page < 300; page += 2) {
        check_pages(h, page, 1);
    }
    g_assert_cmpuint(stats_of(h).readahead, ==, 0);
    g_assert_cmpuint(faults(h), ==, 200);
    harness_free(h);
}

/* It goes on where the next region begins. */
static void test_next_region(void)
{
    Harness *h = harness_evicted(8 * PAGE, 2 * REGION_PAGES);
    uint64_t before;

    check_pages(h, REGION_PAGES - 20, 20);
    before = faults(h);
    check_pages(h, REGION_PAGES, 9);
    g_assert_cmpuint(faults(h) - before, ==, 1);
    harness_free(h);
}

/* What is resident already does not end it. */
static void test_passed(void)
{
    Harness *h = harness_evicted(4 * PAGE, 40);
    uint64_t before;

    /* two that stand in the way */
    check_pages(h, 9, 1);
    check_pages(h, 8, 1);
    before = faults(h);
    /* 0, 1 -> 2-5, 6 -> 7, (8, 9), 10 -> 11-14, 15 -> 16-19 */
    check_pages(h, 0, 20);
    g_assert_cmpuint(faults(h) - before, ==, 5);
    harness_free(h);
}

/* Pages on trial are mapped on the way, and not on trial any more. */
static void test_trial(void)
{
    Harness *h = harness_written(WINDOW_MAX * PAGE, 50);
    MemswapStats stats;

    /* One leaves; the others are on trial. */
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    stats = stats_of(h);
    g_assert_cmpuint(stats.trial, ==, 49 * PAGE);
    check_pages(h, 0, 50);
    stats = stats_of(h);
    g_assert_cmpuint(stats.trial, ==, 0);
    /* 0, 1, 6, 15, 32, 49 */
    g_assert_cmpuint(faults(h), ==, 6);
    g_assert_cmpuint(stats.readahead, ==, 44);
    harness_check(h);
    harness_free(h);
}

/* It never makes anybody wait, nor passes the limit. */
static void test_no_room(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 8 * MIB, .limit = MEMSWAP_MIN_LIMIT,
    });
    uint64_t n = MEMSWAP_MIN_LIMIT / PAGE;
    MemswapStats stats;

    write_pages(h, 0, n);
    g_assert_cmpuint(memswap_reclaim(h->engine, 20 * PAGE), ==, 20 * PAGE);
    write_pages(h, n, 13);
    set_readahead(h, WINDOW_MAX * PAGE);
    /* Room for 7: 0, 1, and of 2-5 all, then one more. */
    check_pages(h, 0, 7);
    stats = stats_of(h);
    g_assert_cmpuint(stats.resident, ==, MEMSWAP_MIN_LIMIT);
    g_assert_cmpuint(stats.peak_resident, ==, MEMSWAP_MIN_LIMIT);
    g_assert_cmpuint(stats.overshoots, ==, 0);
    g_assert_cmpuint(stats.stalls, ==, 0);
    g_assert_cmpuint(stats.readahead, ==, 4);
    check_pages(h, 0, n + 13);
    g_assert_cmpuint(stats_of(h).peak_resident, ==, MEMSWAP_MIN_LIMIT);
    harness_free(h);
}

static void fail_second(FakeStore *store, void *opaque)
{
    unsigned int *left = opaque;

    atomic_store(&store->get_error, --*left ? 0 : -EBADMSG);
}

/* A copy that is damaged stays where it is until somebody really wants it. */
static void test_damaged(void)
{
    Harness *h = harness_evicted(WINDOW_MAX * PAGE, 30);
    /* The error is looked at before the hook: that of the call before. */
    unsigned int left = 3;

    h->store->opaque = &left;
    atomic_store(&h->store->before_get, fail_second);
    ram_touch(h, 0);
    ram_touch(h, 1);
    harness_settle(h);
    atomic_store(&h->store->before_get, NULL);
    atomic_store(&h->store->get_error, 0);
    g_assert_cmpuint(stats_of(h).readahead, ==, 1);
    g_assert_cmpint(ram_state(&h->ram, 2), ==, MEMSWAP_RESIDENT);
    for (uint64_t page = 3; page < 30; page++) {
        g_assert_cmpint(ram_state(&h->ram, page), ==, MEMSWAP_STORED);
    }
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_PAGE_LOST), ==, 0);
    harness_check(h);
    check_pages(h, 0, 30);
    harness_free(h);
}

/* A page that got into the page cache without us: the copy is what counts. */
static void test_there_already(void)
{
    Harness *h = harness_evicted(WINDOW_MAX * PAGE, 30);
    uint64_t page[PAGE / sizeof(uint64_t)];

    page_build(page, 12345);
    g_assert_cmpint(pwrite(h->ram.fd, page, PAGE, 4 * PAGE), ==, PAGE);
    check_pages(h, 0, 2);
    g_assert_cmpuint(stats_of(h).readahead, ==, 2);
    g_assert_cmpint(ram_state(&h->ram, 3), ==, MEMSWAP_RESIDENT);
    g_assert_cmpint(ram_state(&h->ram, 4), ==, MEMSWAP_STORED);
    check_pages(h, 2, 28);
    harness_check(h);
    harness_free(h);
}

/* The first touches of pages, in order: zeroes are put in place ahead. */
static void test_absent(void)
{
    Harness *h = harness_written(WINDOW_MAX * PAGE, 0);
    MemswapStats stats;

    write_pages(h, 0, 50);
    stats = stats_of(h);
    /* 0, 1, 6, 15, 32, 49 */
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_ABSENT], ==, 6);
    g_assert_cmpuint(stats.readahead, ==, 4 + 8 + 3 * 16);
    g_assert_cmpuint(stats.resident, ==, 66 * PAGE);
    for (uint64_t page = 50; page < 66; page++) {
        g_assert_cmpint(ram_state(&h->ram, page), ==, MEMSWAP_RESIDENT);
        ram_check(h, page, 0);
    }
    check_pages(h, 0, 50);
    harness_check(h);
    harness_free(h);
}

/* Not at the cost of what is in use: no room to spare, nothing ahead. */
static void test_absent_no_room(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 8 * MIB, .limit = MEMSWAP_MIN_LIMIT,
        .readahead = WINDOW_MAX * PAGE,
    });
    uint64_t n = MEMSWAP_MIN_LIMIT / PAGE;
    MemswapStats stats;

    write_pages(h, 0, n);
    stats = stats_of(h);
    /* up to the last page that there is room for */
    g_assert_cmpuint(stats.resident, ==, MEMSWAP_MIN_LIMIT);
    g_assert_cmpuint(stats.evictions, ==, 0);
    g_assert_cmpuint(stats.stalls, ==, 0);
    g_assert_cmpuint(stats.overshoots, ==, 0);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_ABSENT] + stats.readahead,
                     ==, n);
    write_pages(h, n, 20);
    g_assert_cmpuint(stats_of(h).readahead, ==, stats.readahead);
    check_pages(h, 0, n + 20);
    harness_check(h);
    harness_free(h);
}

/* Discarded pages that lie ahead are put in place as zeroes, once more. */
static void test_absent_discarded(void)
{
    Harness *h = harness_evicted(WINDOW_MAX * PAGE, 40);

    g_assert_cmpint(memswap_discard(h->engine, h->ram.host + 10 * PAGE,
                                    20 * PAGE), ==, 0);
    check_pages(h, 0, 10);
    for (uint64_t page = 10; page < 30; page++) {
        ram_check(h, page, 0);
    }
    check_pages(h, 30, 10);
    harness_check(h);
    harness_free(h);
}

/* A page that got into the page cache without us is as it is. */
static void test_absent_there_already(void)
{
    Harness *h = harness_written(WINDOW_MAX * PAGE, 0);
    uint64_t page[PAGE / sizeof(uint64_t)];

    page_build(page, 12345);
    g_assert_cmpint(pwrite(h->ram.fd, page, PAGE, 4 * PAGE), ==, PAGE);
    write_pages(h, 0, 2);
    g_assert_cmpuint(stats_of(h).readahead, ==, 2);
    g_assert_cmpint(ram_state(&h->ram, 3), ==, MEMSWAP_RESIDENT);
    g_assert_cmpint(ram_state(&h->ram, 4), ==, MEMSWAP_ABSENT);
    g_assert_cmpint(memcmp(h->ram.host + 4 * PAGE, page, PAGE), ==, 0);
    check_pages(h, 0, 2);
    harness_check(h);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/readahead/windows", test_windows);
    g_test_add_func("/readahead/off", test_off);
    g_test_add_func("/readahead/no-sequence", test_no_sequence);
    g_test_add_func("/readahead/next-region", test_next_region);
    g_test_add_func("/readahead/passed", test_passed);
    g_test_add_func("/readahead/trial", test_trial);
    g_test_add_func("/readahead/no-room", test_no_room);
    g_test_add_func("/readahead/damaged", test_damaged);
    g_test_add_func("/readahead/there-already", test_there_already);
    g_test_add_func("/readahead/absent/ahead", test_absent);
    g_test_add_func("/readahead/absent/no-room", test_absent_no_room);
    g_test_add_func("/readahead/absent/discarded", test_absent_discarded);
    g_test_add_func("/readahead/absent/there-already",
                    test_absent_there_already);
    return g_test_run();
}

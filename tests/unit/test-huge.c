/*
 * Tests of huge regions, collapses and trials: exact counts
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "huge-ram.h"

/* --- what the kernel can ----------------------------------------------- */

/* Makes the hole over which a collapse must be refused go away. */
static int fill_hole(void *opaque, InjectCall call, uint64_t where,
                     size_t *size)
{
    unsigned int *n = opaque;
    char zero = 0;

    if (call != INJECT_COLLAPSE || ++*n < 2) {
        return 0;
    }
    for (int fd = 3; fd < 1000; fd++) {
        g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
        g_autofree char *name = g_file_read_link(path, NULL);

        if (name && strstr(name, "memswap-probe")) {
            g_assert_cmpint(pwrite(fd, &zero, 1, MEMSWAP_REGION_SIZE), ==, 1);
        }
    }
    return 0;
}

/*
 * Rule: where a collapse isn't refused over a hole there are none; and then
 * the mapping says so.
 */
static void test_probe(void)
{
    Harness *h = huge_new(&(HarnessOptions) { .huge = true });
    unsigned int n = 0;
    InjectHooks hooks = { .before = fill_hole, .opaque = &n };
    Calls calls = {
        .fail = INJECT_COLLAPSE, .error = -EINVAL, .times = UINT_MAX,
    };

    if (!h) {
        return;
    }
    harness_free(h);
    for (unsigned int i = 0; i < 2; i++) {
        if (i) {
            inject(&hooks);
        } else {
            calls_count(&calls);
        }
        h = harness_new(&(HarnessOptions) { .size = 2 * MIB, .huge = true });
        inject(NULL);
        g_assert_false(stats_of(h).huge_supported);
        write_pages(h, 0, REGION_PAGES);
        g_assert_cmpuint(huge_pass(h), ==, 0);
        g_assert_cmpuint(stats_of(h).huge, ==, 0);
        g_assert_cmpint(madvise(h->ram.host, 2 * MIB, MADV_COLLAPSE), ==, -1);
        harness_free(h);
    }
    g_assert_cmpuint(n, ==, 2);
}

/* --- collapse ---------------------------------------------------------- */

/* Regions that are full become huge, and are mapped at once; others stay. */
static void test_collapse(void)
{
    Harness *h = huge_new(&(HarnessOptions) {
        .size = 6 * MIB + 10 * PAGE, .huge = true,
    });
    MemswapStats before, after;

    if (!h) {
        return;
    }
    g_assert_cmpint(task_discard(h, 2 * REGION_PAGES + 5), ==, 0);
    g_assert_cmpuint(huge_pass(h), ==, 0);
    before = stats_of(h);
    g_assert_cmpuint(before.collapses, ==, 2);
    g_assert_cmpuint(before.collapse_failures, ==, 0);
    g_assert_cmpuint(before.huge, ==, 4 * MIB);
    g_assert_cmpint(huge_mapped(h), ==, 4096);

    check_pages(h, 0, 2 * REGION_PAGES + 5);
    ram_check(h, 2 * REGION_PAGES + 5, 0);
    check_pages(h, 2 * REGION_PAGES + 6, REGION_PAGES + 4);
    after = stats_of(h);
    for (int i = 0; i < MEMSWAP_FAULT__MAX; i++) {
        g_assert_cmpuint(after.faults[i], ==, before.faults[i] +
                         (i == MEMSWAP_FAULT_ABSENT));
    }
    /* now it is full */
    g_assert_cmpuint(huge_pass(h), ==, 0);
    g_assert_cmpuint(stats_of(h).huge, ==, 6 * MIB);
    harness_check(h);
    harness_free(h);
}

/* Nothing is done where it can't be had. */
static void test_unaligned(void)
{
    Harness *h = huge_new(&(HarnessOptions) { .huge = true });

    if (!h) {
        return;
    }
    harness_set_limit(h, 8 * MIB, 0);
    h->ram = ram_new(4 * MIB, 16 * PAGE);
    ram_add(h, &h->ram, "ram");
    write_pages(h, 0, 2 * REGION_PAGES);
    g_assert_cmpuint(huge_pass(h), ==, 0);
    g_assert_cmpuint(stats_of(h).huge, ==, 0);
    harness_free(h);
}

/* A region with a pin waits. */
static void test_collapse_pinned(void)
{
    Harness *h = huge_new(&(HarnessOptions) { .size = 2 * MIB, .huge = true });

    if (!h) {
        return;
    }
    g_assert_cmpint(task_pin(h, 300), ==, 0);
    g_assert_cmpuint(huge_pass(h), ==, 1);
    g_assert_cmpuint(stats_of(h).huge, ==, 0);
    g_assert_true(ram_mapped(&h->ram, 300));
    memswap_unpin(h->engine, h->ram.host + 300 * PAGE, PAGE);
    /* one to forget the failure, one to try again */
    g_assert_cmpuint(huge_pass(h), ==, 1);
    g_assert_cmpuint(huge_pass(h), ==, 0);
    g_assert_cmpuint(stats_of(h).huge, ==, 2 * MIB);
    g_assert_cmpuint(stats_of(h).collapse_failures, ==, 0);
    harness_free(h);
}

/* Without room, only what proved warm becomes huge, and keeps what is cold. */
static void collapse_warm(uint64_t cold, bool huge)
{
    Harness *h = huge_new(&(HarnessOptions) { .size = 4 * MIB, .huge = true });
    MemswapBlock *block;
    uint64_t next = 0, gone;

    if (!h) {
        return;
    }
    block = h->ram.block;
    h->engine->reserve_high = 256 * PAGE;
    g_assert_cmpuint(huge_pass(h), ==, 0);
    g_assert_cmpuint(stats_of(h).huge, ==, 0);

    /* as the clock would have it: a trial of small pages */
    memswap_region_own(&block->regions[0]);
    for (uint64_t page = 0; page < cold; page++) {
        uint64_t old = memswap_word_load(&block->words[page]);

        g_assert_true(memswap_word_cas(
            &block->words[page], &old, memswap_word_with_state(
                old & ~MEMSWAP_WORD_MAPPED, MEMSWAP_TRIAL)));
        memswap_count(h->engine->trial_pages, PAGE);
    }
    g_assert_cmpint(madvise(h->ram.host, cold * PAGE, MADV_DONTNEED), ==, 0);
    gone = memswap_evict_region(block, 0, &next, MEMSWAP_REGION_SIZE);
    memswap_region_disown(&block->regions[0]);

    g_assert_cmpuint(gone, ==, huge ? 0 : cold * PAGE);
    g_assert_cmpuint(huge_pass(h), ==, 0);
    g_assert_cmpuint(stats_of(h).huge, ==, huge ? 2 * MIB : 0);
    g_assert_cmpuint(stats_of(h).trial, ==, 0);
    check_pages(h, 0, 2 * REGION_PAGES);
    harness_free(h);
}

static void test_collapse_warm(void)
{
    collapse_warm(REGION_PAGES / 16, true);
    collapse_warm(REGION_PAGES / 16 + 1, false);
}

/* The thread does all of it, and then sleeps. */
static void test_thread(void)
{
    Harness *h = huge_new(&(HarnessOptions) {
        .size = 16 * MIB, .limit = 32 * MIB, .huge = true, .evictors = 1,
    });

    if (!h) {
        return;
    }
    wait_until(stats_of(h).huge == 16 * MIB);
    wait_until(atomic_load(&h->engine->huge_sleeps));
    check_pages(h, 0, 8 * REGION_PAGES);
    g_assert_cmpint(huge_mapped(h), ==, 16 * 1024);
    /* and again, when there is something to do again */
    g_assert_cmpint(memswap_discard(h->engine, h->ram.host, 2 * MIB), ==, 0);
    g_assert_cmpuint(stats_of(h).huge, ==, 14 * MIB);
    write_pages(h, 0, REGION_PAGES);
    wait_until(stats_of(h).huge == 16 * MIB);
    harness_free(h);
}

/* --- trials ------------------------------------------------------------ */

/* One zap, one fault, one collapse: 512 pages back. */
static void test_touch(void)
{
    Harness *h = huge_collapsed(4 * MIB);
    Calls calls = { .times = 0 };
    uint64_t faults;

    if (!h) {
        return;
    }
    faults = huge_trial_faults(h);
    calls_count(&calls);
    g_assert_cmpuint(huge_try(h, 1, false), ==, REGION_PAGES);
    g_assert_cmpuint(stats_of(h).trial, ==, 2 * MIB);
    g_assert_cmpint(huge_mapped(h), ==, 2048);
    g_assert_cmpuint(calls.n[INJECT_ZAP], ==, 1);

    ram_touch(h, REGION_PAGES + 77);
    check_pages(h, 0, 2 * REGION_PAGES);
    g_assert_cmpuint(huge_trial_faults(h), ==, faults + 1);
    g_assert_cmpuint(stats_of(h).spurious, ==, 0);
    g_assert_cmpuint(stats_of(h).trial, ==, 0);
    g_assert_cmpint(huge_mapped(h), ==, 4096);
    g_assert_cmpuint(calls.n[INJECT_COLLAPSE], ==, 1);
    g_assert_cmpuint(calls.n[INJECT_CONTINUE], ==, 0);
    g_assert_cmpuint(huge_look(h, 1), ==, 0);
    g_assert_cmpuint(calls.n[INJECT_COLLAPSE], ==, 1);
    g_assert_cmpuint(stats_of(h).collapses, ==, 2);
    harness_free(h);
}

/* Who expects a touch has it brought back the same way. */
static void test_prefetch(void)
{
    Harness *h = huge_collapsed(4 * MIB);
    MemswapRange range;
    Calls calls = { .times = 0 };

    if (!h) {
        return;
    }
    g_assert_cmpuint(huge_try(h, 1, false), ==, REGION_PAGES);
    calls_count(&calls);
    range = (MemswapRange) { h->ram.block->name, 2 * MIB + 80 * PAGE, PAGE };
    g_assert_cmpint(memswap_prefetch(h->engine, &range, 1, NULL, NULL, NULL),
                    ==, 0);
    g_assert_cmpuint(calls.n[INJECT_COLLAPSE], ==, 1);
    g_assert_cmpuint(calls.n[INJECT_CONTINUE], ==, 0);
    g_assert_cmpuint(stats_of(h).trial, ==, 0);
    g_assert_cmpint(huge_mapped(h), ==, 4096);
    inject(NULL);
    harness_check(h);
    harness_free(h);
}

/* While somebody owns the region, and on a fine trial: a page a touch. */
static void test_touch_single(void)
{
    Harness *h = huge_collapsed(2 * MIB);
    MemswapRegion *region;

    if (!h) {
        return;
    }
    region = &h->ram.block->regions[0];
    huge_try(h, 0, false);
    memswap_region_own(region);
    ram_touch(h, 5);
    harness_settle(h);
    g_assert_cmpuint(stats_of(h).trial, ==, 511 * PAGE);
    memswap_region_disown(region);
    ram_touch(h, 6);
    harness_settle(h);
    g_assert_cmpuint(stats_of(h).trial, ==, 0);
    g_assert_cmpint(huge_mapped(h), ==, 2048);

    huge_try(h, 0, true);
    ram_touch(h, 7);
    harness_settle(h);
    g_assert_cmpuint(stats_of(h).trial, ==, 511 * PAGE);
    /* too little of it is cold: back as a whole */
    for (uint64_t page = 0; page < 3 * REGION_PAGES / 4 + 1; page++) {
        ram_touch(h, page);
    }
    harness_settle(h);
    g_assert_cmpuint(huge_look(h, 0), ==, 0);
    g_assert_cmpuint(stats_of(h).trial, ==, 0);
    g_assert_cmpint(huge_mapped(h), ==, 2048);
    check_pages(h, 0, REGION_PAGES);
    harness_free(h);
}

/* Every fifth trial of a region that is warm is a fine one. */
static void test_streak(void)
{
    Harness *h = huge_collapsed(2 * MIB);

    if (!h) {
        return;
    }
    for (unsigned int i = 1; i <= 10; i++) {
        g_assert_cmpuint(huge_try(h, 0, false), ==, REGION_PAGES);
        ram_touch(h, 9);
        g_assert_cmpuint(stats_of(h).trial, ==, i % 5 ? 0 : 511 * PAGE);
        if (i % 5 == 0) {
            check_pages(h, 0, REGION_PAGES);
        }
        g_assert_cmpuint(huge_look(h, 0), ==, 0);
    }
    g_assert_cmpuint(stats_of(h).huge, ==, 2 * MIB);
    harness_free(h);
}

/*
 * Rule: a zap of a part would unmap all of a huge page.  With a page pinned
 * there is no trial.
 */
static void test_pinned(void)
{
    Harness *h = huge_collapsed(2 * MIB);

    if (!h) {
        return;
    }
    g_assert_cmpint(task_pin(h, 300), ==, 0);
    g_assert_cmpuint(huge_try(h, 0, false), ==, 0);
    g_assert_cmpuint(memswap_reclaim(h->engine, 2 * MIB), ==, 0);
    g_assert_true(ram_mapped(&h->ram, 300));
    g_assert_cmpint(huge_mapped(h), ==, 2048);
    memswap_unpin(h->engine, h->ram.host + 300 * PAGE, PAGE);
    g_assert_cmpuint(memswap_reclaim(h->engine, 2 * MIB), ==, 2 * MIB);
    check_pages(h, 0, REGION_PAGES);
    harness_free(h);
}

/* Pinned after the zap: it is mapped by itself, and stays so. */
static void test_pinned_on_trial(void)
{
    Harness *h = huge_collapsed(2 * MIB);

    if (!h) {
        return;
    }
    huge_try(h, 0, false);
    g_assert_cmpint(task_pin(h, 300), ==, 0);
    ram_touch(h, 5);
    g_assert_cmpuint(stats_of(h).trial, ==, 510 * PAGE);
    g_assert_cmpuint(huge_look(h, 0), ==, 0);
    g_assert_true(ram_mapped(&h->ram, 300));
    memswap_unpin(h->engine, h->ram.host + 300 * PAGE, PAGE);
    ram_touch(h, 6);
    g_assert_cmpuint(stats_of(h).trial, ==, 0);
    g_assert_cmpint(huge_mapped(h), ==, 2048);
    check_pages(h, 0, REGION_PAGES);
    harness_free(h);
}

/*
 * Rule: a region with a pin can't leave, however little of it is pinned.  Who
 * finds no room because of that is not held back for it.
 */
static void pinned_room(unsigned int evictors)
{
    Harness *h = huge_new(&(HarnessOptions) {
        .size = 6 * MIB, .limit = 16 * MIB, .huge = true,
        .evictors = evictors,
    });
    const uint64_t other = 2 * REGION_PAGES;
    uint64_t page;

    if (!h) {
        return;
    }
    wait_until((huge_pass(h), stats_of(h).huge == 6 * MIB));
    g_assert_cmpint(memswap_discard(h->engine, h->ram.host + other * PAGE,
                                    2 * MIB), ==, 0);
    g_assert_cmpint(task_pin(h, 5), ==, 0);
    g_assert_cmpint(task_pin(h, REGION_PAGES + 5), ==, 0);
    harness_set_limit(h, 4 * MIB, 0);
    for (page = other; page < other + 3; page++) {
        task_join(task_start(h, task_write, page));
    }
    g_assert_cmpuint(stats_of(h).overshoots, >, 0);
    memswap_unpin(h->engine, h->ram.host + 5 * PAGE, PAGE);
    memswap_unpin(h->engine, h->ram.host + (REGION_PAGES + 5) * PAGE, PAGE);
    /* and now there is something to take out */
    write_pages(h, other, REGION_PAGES);
    wait_until(stats_of(h).evictions >= REGION_PAGES);
    check_pages(h, 0, 3 * REGION_PAGES);
    harness_free(h);
}

static void test_pinned_room(void)
{
    pinned_room(0);
    pinned_room(1);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/huge/probe", test_probe);
    g_test_add_func("/huge/collapse", test_collapse);
    g_test_add_func("/huge/collapse/unaligned", test_unaligned);
    g_test_add_func("/huge/collapse/pinned", test_collapse_pinned);
    g_test_add_func("/huge/collapse/warm", test_collapse_warm);
    g_test_add_func("/huge/collapse/thread", test_thread);
    g_test_add_func("/huge/trial/touch", test_touch);
    g_test_add_func("/huge/trial/prefetch", test_prefetch);
    g_test_add_func("/huge/trial/touch-single", test_touch_single);
    g_test_add_func("/huge/trial/streak", test_streak);
    g_test_add_func("/huge/trial/pinned", test_pinned);
    g_test_add_func("/huge/trial/pinned-later", test_pinned_on_trial);
    g_test_add_func("/huge/trial/pinned-room", test_pinned_room);
    return g_test_run();
}

/*
 * Tests of huge regions: what fails, and what happens meanwhile
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "huge-ram.h"
#include "meeting.h"

/* --- collapses --------------------------------------------------------- */

/*
 * The kernel refuses: small pages stay, mapped, and it is tried again later.
 * After some errors a folio may have been made.
 */
static void collapse_fails(InjectCall call, int error, bool large,
                           unsigned int attempts)
{
    Harness *h = huge_new(&(HarnessOptions) { .size = 2 * MIB, .huge = true });
    Calls calls = { .fail = call, .error = error, .times = UINT_MAX };
    unsigned int passes = 0;
    uint64_t faults;

    if (!h) {
        return;
    }
    calls_count(&calls);
    g_assert_cmpuint(huge_pass(h), ==, 1);
    g_assert_cmpuint(calls.n[call], ==, attempts);
    inject(NULL);
    g_assert_cmpuint(stats_of(h).huge, ==, 0);
    g_assert_cmpuint(stats_of(h).collapse_failures, ==, 1);
    g_assert_cmpuint(h->traces[MEMSWAP_TRACE_COLLAPSE], ==, 1);
    g_assert_cmpint(memswap_region_large(&h->ram.block->regions[0]), ==,
                    large);
    faults = stats_of(h).faults[MEMSWAP_FAULT_MINOR];
    check_pages(h, 0, REGION_PAGES);
    g_assert_cmpuint(stats_of(h).faults[MEMSWAP_FAULT_MINOR], ==, faults);
    harness_check(h);
    while (huge_pass(h)) {
        g_assert_cmpuint(stats_of(h).collapse_failures, ==, 1);
        g_assert_cmpuint(passes++, <, 100);
    }
    g_assert_cmpuint(passes, >, 1);
    g_assert_cmpuint(stats_of(h).huge, ==, 2 * MIB);
    check_pages(h, 0, REGION_PAGES);
    g_assert_cmpuint(memswap_reclaim(h->engine, 2 * MIB), ==, 2 * MIB);
    check_pages(h, 0, REGION_PAGES);
    harness_free(h);
}

static void test_collapse_busy(void)
{
    collapse_fails(INJECT_COLLAPSE, -EAGAIN, true, 9);
}

static void test_collapse_no_memory(void)
{
    collapse_fails(INJECT_COLLAPSE, -ENOMEM, false, 1);
}

static void test_collapse_locked(void)
{
    collapse_fails(INJECT_ZAP, -EINVAL, true, 1);
}

/* A collapse that fails after it was made: it leaves whole all the same. */
static void test_maybe_large(void)
{
    Harness *h = huge_new(&(HarnessOptions) { .size = 2 * MIB, .huge = true });
    Calls calls = {
        .fail = INJECT_COLLAPSE, .error = -EINVAL, .times = UINT_MAX,
    };

    if (!h) {
        return;
    }
    calls_count(&calls);
    g_assert_cmpuint(huge_pass(h), ==, 1);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, 2 * MIB);
    g_assert_cmpuint(calls.n[INJECT_PUNCH], ==, 1);
    g_assert_false(memswap_region_large(&h->ram.block->regions[0]));
    check_pages(h, 0, REGION_PAGES);
    harness_free(h);
}

/* The first touch can't bring it back whole: its page comes alone. */
static void test_touch_fails(void)
{
    Harness *h = huge_collapsed(2 * MIB);
    Calls calls = {
        .fail = INJECT_COLLAPSE, .error = -ENOMEM, .times = 1,
    };

    if (!h) {
        return;
    }
    huge_try(h, 0, false);
    calls_count(&calls);
    ram_check(h, 7, 15);
    g_assert_cmpuint(stats_of(h).trial, ==, 511 * PAGE);
    g_assert_cmpuint(calls.n[INJECT_CONTINUE], ==, 1);
    g_assert_cmpuint(stats_of(h).huge, ==, 2 * MIB);
    harness_check(h);
    /* the others come alone as well, and nothing is tried in vain */
    ram_check(h, 8, 17);
    g_assert_cmpuint(stats_of(h).trial, ==, 510 * PAGE);
    check_pages(h, 0, REGION_PAGES);
    g_assert_cmpuint(calls.n[INJECT_COLLAPSE], ==, 1);
    harness_free(h);
}

/* A bad page, which can be neither mapped, nor collapsed, nor written to. */
static int bad_page(void *opaque, InjectCall call, uint64_t where,
                    size_t *size)
{
    uint64_t *bad = opaque;

    if (call == INJECT_COLLAPSE) {
        return -EINVAL;
    }
    if (call == INJECT_WRITE) {
        return -EIO;
    }
    if (call == INJECT_CONTINUE && where == *bad) {
        *bad = 0;
        return -EIO;
    }
    return 0;
}

/* A lost page that can't be punched is not given up, whoever asks. */
static void test_lost_beside_pin(void)
{
    Harness *h = huge_collapsed(2 * MIB);
    InjectHooks hooks = { .before = bad_page };
    uint64_t bad;
    Task *task;

    if (!h) {
        return;
    }
    g_assert_cmpuint(huge_try(h, 0, true), ==, REGION_PAGES);
    bad = (uintptr_t)h->ram.host + 7 * PAGE;
    hooks.opaque = &bad;
    inject(&hooks);
    task = task_start(h, task_read, 7);
    wait_until(ram_state(&h->ram, 7) == MEMSWAP_POISONED);
    g_assert_cmpint(task_pin(h, 300), ==, 0);
    g_assert_cmpuint(memswap_forget_lost(h->engine), ==, 0);
    g_assert_cmpint(ram_state(&h->ram, 7), ==, MEMSWAP_POISONED);
    task_check_waits(task);

    memswap_unpin(h->engine, h->ram.host + 300 * PAGE, PAGE);
    g_assert_cmpuint(memswap_forget_lost(h->engine), ==, PAGE);
    g_assert_cmpint(task_join(task), ==, 0);
    inject(NULL);
    harness_free(h);
}

/* --- leaving ----------------------------------------------------------- */

/* Something fails before anything was punched: nothing happened. */
static void leave_fails(InjectCall call, unsigned int from, int error)
{
    Harness *h = huge_collapsed(2 * MIB);
    Calls calls = { .fail = call, .error = error, .from = from, .times = 1 };

    if (!h) {
        return;
    }
    g_assert_cmpuint(huge_try(h, 0, true), ==, REGION_PAGES);
    for (uint64_t page = 100; page < 200; page++) {
        ram_touch(h, page);
    }
    harness_settle(h);
    calls_count(&calls);
    g_assert_cmpuint(huge_look(h, 0), ==, 0);
    inject(NULL);
    g_assert_cmpuint(calls.n[call], >, from);
    g_assert_cmpuint(stats_of(h).given_back, ==, REGION_PAGES - 100);
    g_assert_cmpuint(stats_of(h).huge, ==, 2 * MIB);
    g_assert_cmpuint(ram_cached(&h->ram), ==, 2 * MIB);
    harness_check(h);
    check_pages(h, 0, REGION_PAGES);
    g_assert_cmpuint(memswap_reclaim(h->engine, 2 * MIB), ==, 2 * MIB);
    check_pages(h, 0, REGION_PAGES);
    harness_free(h);
}

static void test_leave_unread(void)
{
    leave_fails(INJECT_READ, 5, -EIO);
    /* what is warm is read last */
    leave_fails(INJECT_READ, 15, -EIO);
}

static void test_leave_locked(void)
{
    leave_fails(INJECT_ZAP, 0, -EINVAL);
}

static void test_leave_unpunched(void)
{
    leave_fails(INJECT_PUNCH, 0, -ENOMEM);
}

/* The store takes so many pages, and no more. */
static void leave_store(uint64_t room, uint64_t gone)
{
    Harness *h = huge_collapsed(2 * MIB);

    if (!h) {
        return;
    }
    atomic_store(&h->store->limit, room * PAGE);
    g_assert_cmpuint(memswap_reclaim(h->engine, 2 * MIB), ==, gone * PAGE);
    g_assert_cmpuint(fake_store_live(h->store), ==, gone);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_STORE_FULL), ==, 1);
    g_assert_cmpuint(stats_of(h).huge, ==, gone ? 0 : 2 * MIB);
    g_assert_cmpuint(stats_of(h).splits, ==, gone > 0);
    harness_check(h);
    check_pages(h, 0, REGION_PAGES);
    harness_free(h);
}

static void test_leave_store(void)
{
    leave_store(0, 0);
    leave_store(1, 1);
    leave_store(REGION_PAGES - 1, REGION_PAGES - 1);
}

/* While it is being stored, a page is wanted: it is back when that is done. */
static void leave_wanted(TaskFunction *function, bool faults)
{
    Harness *h = huge_new(&(HarnessOptions) {
        .size = 2 * MIB, .huge = true, .by_hand = true,
    });
    Meeting meeting = {
        .h = h, .page = 77, .function = function, .faults = faults,
    };

    if (!h) {
        return;
    }
    for (uint64_t page = 0; page < REGION_PAGES; page++) {
        join_by_hand(h, task_start(h, task_write, page));
    }
    g_assert_cmpuint(huge_pass(h), ==, 0);
    h->store->opaque = &meeting;
    atomic_store(&h->store->before_put, meeting_in_store);
    g_assert_cmpuint(huge_try(h, 0, false), ==, REGION_PAGES);
    g_assert_cmpuint(huge_look(h, 0), ==, 2 * MIB - PAGE);
    join_by_hand(h, meeting.task);
    g_assert_cmpint(ram_state(&h->ram, 77), ==, MEMSWAP_RESIDENT);
    g_assert_true(ram_mapped(&h->ram, 77));
    g_assert_cmpuint(stats_of(h).splits, ==, 1);
    harness_check(h);
    for (uint64_t page = 0; page < REGION_PAGES; page++) {
        g_assert_cmpint(join_by_hand(h, task_start(h, task_read, page)), ==,
                        2 * page + 1);
    }
    if (function == task_pin) {
        memswap_unpin(h->engine, h->ram.host + 77 * PAGE, PAGE);
    }
    harness_check(h);
    harness_free(h);
}

static void test_leave_wanted(void)
{
    leave_wanted(task_read, true);
    leave_wanted(task_pin, false);
}

/* --- copying back ------------------------------------------------------ */

/* A region on a fine trial, with three runs of pages that proved warm. */
static Harness *harness_fine(void)
{
    Harness *h = huge_collapsed(2 * MIB);

    if (h) {
        huge_try(h, 0, true);
        for (uint64_t i = 0; i < 10; i++) {
            ram_touch(h, i);
            ram_touch(h, 100 + i);
            ram_touch(h, 500 + i);
        }
        harness_settle(h);
    }
    return h;
}

/* The host has no memory: into the store with it, or wait. */
static void back_no_memory(unsigned int times, unsigned int more, bool full)
{
    Harness *h = harness_fine();
    Calls calls = {
        .fail = INJECT_COPY, .error = -ENOMEM, .from = 1, .times = times,
    };

    if (!h) {
        return;
    }
    if (full) {
        atomic_store(&h->store->limit, 482 * PAGE);
    }
    calls_count(&calls);
    g_assert_cmpuint(huge_look(h, 0), ==, (482 + more) * PAGE);
    inject(NULL);
    g_assert_cmpuint(stats_of(h).evictions, ==, 482 + more);
    g_assert_cmpuint(stats_of(h).resident, ==, (30 - more) * PAGE);
    harness_check(h);
    atomic_store(&h->store->limit, UINT64_MAX);
    check_pages(h, 0, REGION_PAGES);
    harness_free(h);
}

static void test_back_no_memory(void)
{
    /* a run, once: then page by page */
    back_no_memory(1, 0, false);
    /* that, too, once: one page goes, and the rest of the run is tried */
    back_no_memory(2, 1, false);
    back_no_memory(UINT_MAX, 20, false);
    back_no_memory(50, 0, true);
}

/*
 * There is neither memory nor room in the store, and the evictor has pages in
 * hand that are nowhere else: who stops it doesn't wait for better times.
 */
static void test_back_stop(void)
{
    Harness *h = huge_new(&(HarnessOptions) {
        .size = 8 * MIB, .limit = 16 * MIB, .huge = true, .evictors = 1,
    });
    Calls calls = {
        .fail = INJECT_COPY, .error = -ENOMEM, .times = UINT_MAX,
    };

    if (!h) {
        return;
    }
    wait_until(stats_of(h).huge == 8 * MIB);
    calls_count(&calls);
    /* the third region finds room for half of it */
    harness_set_limit(h, MIB, 5 * MIB);
    wait_until(calls.n[INJECT_COPY] >= 10);
    harness_abandon(h);
}

/* A stranger puts pages there before we can. */
static void stranger(Once *once)
{
    char data[PAGE];

    memset(data, 0xee, sizeof(data));
    g_assert_cmpint(pwrite(once->h->ram.fd, data, PAGE, 5 * PAGE), ==, PAGE);
    g_assert_cmpint(pwrite(once->h->ram.fd, data, PAGE, 300 * PAGE), ==,
                    PAGE);
}

static void test_back_exists(void)
{
    for (unsigned int i = 0; i < 2; i++) {
        Harness *h = harness_fine();
        Once once = {
            .h = h, .at = i ? INJECT_SEEK : INJECT_PUNCH, .after = true,
            .act = stranger,
        };
        InjectHooks hooks = ONCE_HOOKS(&once);

        if (!h) {
            return;
        }
        inject(&hooks);
        /* known to be there, it stays; else it is found when it is filled */
        g_assert_cmpuint(huge_look(h, 0), ==, (482 - !i) * PAGE);
        inject(NULL);
        g_assert_true(once.done);
        if (!i) {
            harness_check(h);
        }
        check_pages(h, 0, REGION_PAGES);
        harness_check(h);
        harness_free(h);
    }
}

/* --- discards ---------------------------------------------------------- */

/* It can't leave: what is discarded is zeroed in place. */
static void discard_fails(InjectCall call, int error)
{
    Harness *h = huge_collapsed(2 * MIB);
    Calls calls = { .fail = call, .error = error, .times = 1 };

    if (!h) {
        return;
    }
    calls_count(&calls);
    g_assert_cmpint(huge_discard_some(h), ==, 0);
    inject(NULL);
    g_assert_cmpuint(stats_of(h).resident, ==, 2 * MIB);
    g_assert_cmpuint(ram_cached(&h->ram), ==, 2 * MIB);
    harness_check(h);
    huge_check_discarded(h);
    harness_free(h);
}

static void test_discard_fails(void)
{
    discard_fails(INJECT_READ, -EIO);
    discard_fails(INJECT_ZAP, -EINVAL);
    discard_fails(INJECT_PUNCH, -ENOMEM);
}

/* Nor can it be zeroed: that is an error, and nothing is lost. */
static void test_discard_unwritten(void)
{
    Harness *h = huge_collapsed(2 * MIB);
    Calls calls = { .fail = INJECT_WRITE, .error = -EIO, .times = 1 };

    if (!h) {
        return;
    }
    g_assert_cmpint(task_pin(h, 300), ==, 0);
    calls_count(&calls);
    g_assert_cmpint(task_discard(h, 50), ==, -EIO);
    inject(NULL);
    check_pages(h, 0, REGION_PAGES);
    memswap_unpin(h->engine, h->ram.host + 300 * PAGE, PAGE);
    harness_free(h);
}

/* --- the probe ---------------------------------------------------------- */

/* Engines that had no memory for the probe, from a call on, some times. */
static void probe(unsigned int from, unsigned int times, int error, bool can,
                  unsigned int calls_made)
{
    Calls calls = {
        .fail = INJECT_COLLAPSE, .error = error, .from = from, .times = times,
    };
    Harness *h;

    calls_count(&calls);
    h = harness_new(&(HarnessOptions) { .size = 2 * MIB, .huge = true });
    inject(NULL);
    g_assert_cmpint(stats_of(h).huge_supported, ==, can);
    g_assert_cmpuint(calls.n[INJECT_COLLAPSE], ==, calls_made);
    harness_free(h);
}

static void test_probe(void)
{
    Harness *h = huge_new(&(HarnessOptions) { .size = 2 * MIB, .huge = true });

    if (!h) {
        return;
    }
    harness_free(h);
    /* two calls: one to see that it works, one that has to be refused */
    probe(0, 0, 0, true, 2);
    probe(0, 2, -ENOMEM, true, 4);
    probe(0, 1, -EAGAIN, true, 3);
    /* no memory is no refusal */
    probe(1, 1, -ENOMEM, true, 4);
    probe(0, UINT_MAX, -ENOMEM, false, 5);
    probe(1, UINT_MAX, -ENOMEM, false, 6);
    /* an answer is an answer */
    probe(0, 1, -EINVAL, false, 1);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/huge-failure/probe", test_probe);
    g_test_add_func("/huge-failure/collapse/busy", test_collapse_busy);
    g_test_add_func("/huge-failure/collapse/no-memory",
                    test_collapse_no_memory);
    g_test_add_func("/huge-failure/collapse/locked", test_collapse_locked);
    g_test_add_func("/huge-failure/collapse/maybe-large", test_maybe_large);
    g_test_add_func("/huge-failure/touch", test_touch_fails);
    g_test_add_func("/huge-failure/lost-beside-pin", test_lost_beside_pin);
    g_test_add_func("/huge-failure/leave/unread", test_leave_unread);
    g_test_add_func("/huge-failure/leave/locked", test_leave_locked);
    g_test_add_func("/huge-failure/leave/unpunched", test_leave_unpunched);
    g_test_add_func("/huge-failure/leave/store", test_leave_store);
    g_test_add_func("/huge-failure/leave/wanted", test_leave_wanted);
    g_test_add_func("/huge-failure/back/no-memory", test_back_no_memory);
    g_test_add_func("/huge-failure/back/stop", test_back_stop);
    g_test_add_func("/huge-failure/back/exists", test_back_exists);
    g_test_add_func("/huge-failure/discard/fails", test_discard_fails);
    g_test_add_func("/huge-failure/discard/unwritten",
                    test_discard_unwritten);
    return g_test_run();
}

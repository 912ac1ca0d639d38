/*
 * Tests of remotes: faults of another process, resolved here
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>

#include "harness.h"
#include "other.h"


static Harness *harness_remote(const HarnessOptions *options, uint64_t n,
                               Other **other)
{
    Harness *h = harness_new(options);

    write_pages(h, 0, n);
    *other = other_expose(h);
    return h;
}

static Harness *harness_plain(uint64_t n, Other **other)
{
    return harness_remote(&(HarnessOptions) { .size = 4 * MIB }, n, other);
}

static void evict(Harness *h, uint64_t first, uint64_t end)
{
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim_pages(h->ram.block, first, end, false),
                     ==, (end - first) * PAGE);
}

/* What the other process does at an exact point, without waiting for it. */
typedef struct Touch {
    InjectHooks hooks;
    Other *other;
    InjectCall at;
    bool after;
    uint64_t page, number;  /* 0: it only reads */
    _Atomic bool done;
} Touch;

static void touch_now(Touch *touch, InjectCall call, bool after)
{
    if (call != touch->at || after != touch->after || touch->done) {
        return;
    }
    touch->done = true;
    if (touch->number) {
        other_begin_fill(touch->other, touch->page, touch->number);
    } else {
        other_begin_read(touch->other, touch->page);
    }
    other_check_waits(touch->other);
}

static int touch_before(void *opaque, InjectCall call, uint64_t where,
                        size_t *size)
{
    touch_now(opaque, call, false);
    return 0;
}

static void touch_after(void *opaque, InjectCall call, uint64_t where,
                        size_t size, int error)
{
    touch_now(opaque, call, true);
}

static void touch_arm(Touch *touch)
{
    touch->hooks = (InjectHooks) {
        .before = touch_before, .after = touch_after, .opaque = touch,
    };
    inject(&touch->hooks);
}

/* Returns what it read, if it did. */
static uint64_t touch_over(Touch *touch)
{
    uint64_t value;

    g_assert_true(touch->done);
    value = other_finish(touch->other);
    inject(NULL);
    return value;
}

/* --- at the worst moments ---------------------------------------------- */

/* It writes to a page that has just left. */
static void test_after_punch(void)
{
    Other *other;
    Harness *h = harness_plain(8, &other);
    Touch touch = {
        .other = other, .at = INJECT_PUNCH, .after = true, .page = 5,
        .number = 4711,
    };

    other_check(other, 5, 11);
    touch_arm(&touch);
    evict(h, 0, 8);
    touch_over(&touch);
    harness_settle(h);
    g_assert_cmpint(ram_state(&h->ram, 5), ==, MEMSWAP_RESIDENT);
    g_assert_cmpuint(stats_of(h).changed, ==, 0);
    other_check(other, 5, 4711);
    ram_check(h, 5, 4711);
    check_pages(h, 0, 5);
    harness_check(h);
    other_conceal(other);
    harness_free(h);
}

/* It reads a page that is being put in place for us: all of it, or waits. */
static void touch_in_fill(uint64_t number)
{
    Other *other;
    Harness *h = harness_plain(8, &other);
    Touch touch = {
        .other = other, .at = INJECT_COPY, .page = 5, .number = number,
    };

    evict(h, 0, 8);
    touch_arm(&touch);
    ram_touch(h, 5);
    if (number) {
        touch_over(&touch);
    } else {
        g_assert_cmpuint(touch_over(&touch), ==, 11);
    }
    other_check(other, 5, number ?: 11);
    ram_check(h, 5, number ?: 11);
    harness_settle(h);
    harness_check(h);
    other_conceal(other);
    harness_free(h);
}

static void test_in_fill(void)
{
    touch_in_fill(0);
    touch_in_fill(4711);
}

/* And we one that is being put in place for it. */
static void test_in_its_fill(void)
{
    Other *other;
    Harness *h = harness_plain(8, &other);
    Task *task;

    evict(h, 0, 8);
    for (unsigned int i = 0; i < 8; i++) {
        other_begin_read(other, i);
        task = task_start(h, task_read, i);
        g_assert_cmpint(task_join(task), ==, 2 * i + 1);
        g_assert_cmpuint(other_finish(other), ==, 2 * i + 1);
    }
    harness_check(h);
    other_conceal(other);
    harness_free(h);
}

/* It writes while the page is discarded: that is a new page, with the write. */
static void test_in_discard(void)
{
    Other *other;
    Harness *h = harness_plain(8, &other);
    Touch touch = {
        .other = other, .at = INJECT_PUNCH, .after = true, .page = 5,
        .number = 4711,
    };

    other_check(other, 5, 11);
    touch_arm(&touch);
    g_assert_cmpint(task_discard(h, 5), ==, 0);
    touch_over(&touch);
    ram_check(h, 5, 4711);
    harness_settle(h);
    harness_check(h);
    other_conceal(other);
    harness_free(h);
}

/* After a discard it reads zeroes, wherever the page was. */
static void test_after_discard(void)
{
    Other *other;
    Harness *h = harness_plain(8, &other);

    other_check(other, 1, 3);
    evict(h, 4, 6);
    g_assert_cmpint(memswap_pin(h->engine, h->ram.host + 7 * PAGE, PAGE), ==,
                    0);
    g_assert_cmpint(memswap_discard(h->engine, h->ram.host, 8 * PAGE), ==, 0);
    for (uint64_t page = 0; page < 8; page++) {
        other_check(other, page, 0);
    }
    other_fill(other, 1, 4711);
    other_fill(other, 4, 4713);
    ram_check(h, 1, 4711);
    ram_check(h, 4, 4713);
    memswap_unpin(h->engine, h->ram.host + 7 * PAGE, PAGE);
    harness_settle(h);
    harness_check(h);
    other_conceal(other);
    harness_free(h);
}

/* The kernel touches the page on its behalf, in a system call. */
static void test_by_kernel(void)
{
    Other *other;
    Harness *h = harness_plain(8, &other);

    evict(h, 0, 8);
    other_fill_by_kernel(other, 3, 4711);
    ram_check(h, 3, 4711);
    evict(h, 3, 4);
    other_fill_by_kernel(other, 3, 4713);
    evict(h, 3, 4);
    ram_check(h, 3, 4713);
    harness_settle(h);
    harness_check(h);
    other_conceal(other);
    harness_free(h);
}

/* Whom a page is lost to waits until it is given up. */
static void test_lost(void)
{
    Other *other;
    Harness *h = harness_plain(8, &other);

    evict(h, 0, 8);
    h->store->get_error = -EBADMSG;
    other_begin_read(other, 5);
    wait_until(harness_events(h, MEMSWAP_EVENT_PAGE_LOST) == 1);
    other_check_waits(other);
    h->store->get_error = 0;
    g_assert_cmpuint(memswap_forget_lost(h->engine), ==, PAGE);
    g_assert_cmpuint(other_finish(other), ==, 0);
    harness_check(h);
    other_conceal(other);
    harness_free(h);
}

/* --- room -------------------------------------------------------------- */

/*
 * With no room and a full store our own fault waits.  Another process's passes
 * the limit after a moment: we may be waiting for that process.
 */
static void test_no_room(void)
{
    Other *other;
    Harness *h = harness_remote(&(HarnessOptions) {
        .size = 4 * MIB, .limit = MIB, .evictors = 1,
    }, 0, &other);
    MemswapStats stats;
    Task *task;

    h->store->put_error = -ENOSPC;
    write_pages(h, 0, MIB / PAGE);
    g_assert_cmpuint(stats_of(h).resident, ==, MIB);
    g_assert_cmpuint(stats_of(h).stalls, ==, 0);
    task = task_start(h, task_write, 400);
    task_check_waits(task);
    other_fill(other, 401, 4711);
    g_assert_false(task_done(task));
    stats = stats_of(h);
    g_assert_cmpuint(stats.overshoots, >=, 1);
    g_assert_cmpuint(stats.stalls, >=, 2);
    h->store->put_error = 0;
    harness_set_limit(h, 4 * MIB, 0);
    task_join(task);
    ram_check(h, 400, 801);
    ram_check(h, 401, 4711);
    harness_check(h);
    other_conceal(other);
    harness_free(h);
}

/* Without anybody in the background its fault makes room itself. */
static void test_makes_room(void)
{
    Other *other;
    Harness *h = harness_remote(&(HarnessOptions) {
        .size = 4 * MIB, .limit = MIB,
    }, 256, &other);

    for (uint64_t page = 300; page < 700; page++) {
        other_fill(other, page, 2 * page + 1);
    }
    g_assert_cmpuint(stats_of(h).overshoots, ==, 0);
    g_assert_cmpuint(stats_of(h).peak_resident, <=, MIB);
    for (uint64_t page = 300; page < 700; page++) {
        other_check(other, page, 2 * page + 1);
    }
    check_pages(h, 0, 256);
    harness_check(h);
    other_conceal(other);
    harness_free(h);
}

/* --- coldness ---------------------------------------------------------- */

/*
 * A trial doesn't show what it touches.  That it soon misses what left does:
 * the clock's hand then passes the region by.
 */
static void test_missed(void)
{
    Other *other;
    Harness *h = harness_remote(&(HarnessOptions) { .size = 8 * MIB }, 2048,
                                &other);
    MemswapRegion *regions = h->ram.block->regions;
    unsigned int times;

    evict(h, 0, 8);
    other_check(other, 5, 11);
    harness_settle(h);
    times = memswap_passes(&regions[0]);
    g_assert_cmpuint(times, >, 0);
    /* once for each time */
    g_assert_true(memswap_pass_by(&regions[0]));
    other_check(other, 6, 13);
    harness_settle(h);
    g_assert_cmpuint(memswap_passes(&regions[0]), ==, times - 1);
    while (memswap_pass_by(&regions[0])) {
        ;
    }
    evict(h, 5, 6);
    other_check(other, 5, 11);
    harness_settle(h);
    g_assert_cmpuint(memswap_passes(&regions[0]), ==, times);

    /* our own faults say it otherwise; and what was away for long was cold */
    evict(h, 600, 601);
    check_pages(h, 600, 1);
    g_assert_cmpuint(memswap_passes(&regions[1]), ==, 0);
    evict(h, 600, 601);
    evict(h, 1024, 1024 + 400);
    other_check(other, 600, 1201);
    g_assert_cmpuint(memswap_passes(&regions[1]), ==, 0);
    harness_check(h);
    other_conceal(other);
    harness_free(h);
}

int main(int argc, char **argv)
{
    other_main(argc, argv);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/remote/after-punch", test_after_punch);
    g_test_add_func("/remote/in-fill", test_in_fill);
    g_test_add_func("/remote/in-its-fill", test_in_its_fill);
    g_test_add_func("/remote/in-discard", test_in_discard);
    g_test_add_func("/remote/after-discard", test_after_discard);
    g_test_add_func("/remote/by-kernel", test_by_kernel);
    g_test_add_func("/remote/lost", test_lost);
    g_test_add_func("/remote/no-room", test_no_room);
    g_test_add_func("/remote/makes-room", test_makes_room);
    g_test_add_func("/remote/missed", test_missed);
    return g_test_run();
}

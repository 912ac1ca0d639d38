/*
 * Tests of inline faults: what is different where threads resolve their own
 *
 * What is the same in both modes is tested by the other programs, which run
 * once more with MEMSWAP_TEST_FAULTS=inline.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"

static Harness *harness_inline_new(uint64_t size)
{
    return harness_new(&(HarnessOptions) {
        .size = size, .inline_faults = true,
    });
}

/* A system call that gets the page as its buffer; 0 or a negative errno. */
static int call_with(Harness *h, uint64_t page)
{
    int pipes[2];
    ssize_t put;
    int ret;

    g_assert_cmpint(pipe(pipes), ==, 0);
    put = syscall(SYS_write, pipes[1], h->ram.host + page * PAGE, PAGE);
    ret = put == PAGE ? 0 : put < 0 ? -errno : -EIO;
    close(pipes[0]);
    close(pipes[1]);
    return ret;
}

/* Nothing is reported, and nobody has to read it. */
static void test_no_events(void)
{
    Harness *h = harness_inline_new(4 * MIB);

    write_pages(h, 0, 300);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 300 * PAGE);
    check_pages(h, 0, 300);
    g_assert_cmpuint(memswap_engine_handle(h->engine), ==, 0);
    g_assert_cmpuint(stats_of(h).faults[MEMSWAP_FAULT_STORED], ==, 300);
    g_assert_cmpuint(stats_of(h).spurious, ==, 0);
    harness_free(h);
}

static void test_foreign(void)
{
    Harness *h = harness_inline_new(4 * MIB);
    uint8_t here;

    g_assert_false(memswap_engine_fault(h->engine, &here));
    g_assert_false(memswap_engine_fault(h->engine, h->ram.host + 4 * MIB));
    g_assert_false(memswap_engine_fault(h->engine, h->ram.host - 1));
    g_assert_true(memswap_engine_fault(h->engine, h->ram.host + 4 * MIB - 1));
    g_assert_cmpuint(stats_of(h).resident, ==, PAGE);
    harness_free(h);
}

static void spoil_errno(FakeStore *store, void *opaque)
{
    errno = EXDEV;
}

static void test_errno(void)
{
    Harness *h = harness_inline_new(4 * MIB);

    write_pages(h, 0, 1);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    atomic_store(&h->store->before_get, spoil_errno);
    errno = EDOM;
    ram_touch(h, 0);
    g_assert_cmpint(errno, ==, EDOM);
    g_assert_cmpuint(h->store->gets, ==, 1);
    check_pages(h, 0, 1);
    harness_free(h);
}

/* The kernel resolves nothing for a system call: that is what pins are for. */
static void test_system_call(void)
{
    Harness *h = harness_inline_new(4 * MIB);

    write_pages(h, 0, 4);
    g_assert_cmpint(call_with(h, 0), ==, 0);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 4 * PAGE);
    g_assert_cmpint(call_with(h, 0), ==, -EFAULT);
    g_assert_cmpint(call_with(h, 5), ==, -EFAULT);
    g_assert_cmpint(memswap_pin(h->engine, h->ram.host, 6 * PAGE), ==, 0);
    for (uint64_t page = 0; page < 6; page++) {
        g_assert_cmpint(call_with(h, page), ==, 0);
        memswap_reclaim(h->engine, UINT64_MAX);
        g_assert_cmpint(call_with(h, page), ==, 0);
    }
    memswap_unpin(h->engine, h->ram.host, 6 * PAGE);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 6 * PAGE);
    g_assert_cmpint(call_with(h, 0), ==, -EFAULT);
    check_pages(h, 0, 4);
    harness_free(h);
}

/* Who touches a page that is lost waits for somebody's decision. */
static void test_lost(void)
{
    Harness *h = harness_inline_new(4 * MIB);
    Task *tasks[3];

    write_pages(h, 0, 2);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 2 * PAGE);
    atomic_store(&h->store->get_error, -EBADMSG);
    for (unsigned int i = 0; i < G_N_ELEMENTS(tasks); i++) {
        tasks[i] = task_start(h, task_read, 0);
        task_check_waits(tasks[i]);
    }
    g_assert_cmpint(ram_state(&h->ram, 0), ==, MEMSWAP_POISONED);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_PAGE_LOST), ==, 1);
    atomic_store(&h->store->get_error, 0);

    check_pages(h, 1, 1);
    g_assert_cmpuint(memswap_forget_lost(h->engine), ==, PAGE);
    for (unsigned int i = 0; i < G_N_ELEMENTS(tasks); i++) {
        g_assert_cmpint(task_join(tasks[i]), ==, 0);
    }
    harness_free(h);
}

static void hold_store(FakeStore *store, void *opaque)
{
    _Atomic bool *go = opaque;

    while (!atomic_load(go)) {
        g_usleep(100);
    }
}

/* Two threads, one page: the second sleeps until the first has it. */
static void test_two(void)
{
    Harness *h = harness_inline_new(4 * MIB);
    _Atomic bool go = false;
    Task *first, *second;
    MemswapStats stats;

    write_pages(h, 0, 1);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    h->store->opaque = (void *)&go;
    atomic_store(&h->store->before_get, hold_store);
    first = task_start(h, task_read, 0);
    wait_until(ram_state(&h->ram, 0) == MEMSWAP_FILLING);
    second = task_start(h, task_read, 0);
    task_check_waits(second);
    g_assert_false(task_done(first));
    atomic_store(&go, true);
    g_assert_cmpint(task_join(first), ==, 1);
    g_assert_cmpint(task_join(second), ==, 1);
    stats = stats_of(h);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_STORED], ==, 1);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_WAITED], ==, 1);
    g_assert_cmpuint(h->store->gets, ==, 1);
    harness_free(h);
}

/* Who may not be held back never is, whatever the limit. */
static void test_not_held(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 4 * MIB, .limit = MEMSWAP_MIN_LIMIT, .evictors = 1,
        .reserve_low = PAGE, .reserve_high = 2 * PAGE, .inline_faults = true,
    });
    uint64_t n = MEMSWAP_MIN_LIMIT / PAGE;
    MemswapStats stats;

    atomic_store(&h->store->put_error, -ENOSPC);
    atomic_store(&h->may_not_hold_back, true);
    write_pages(h, 0, n + 5);
    stats = stats_of(h);
    /* a page that is zero still, just before it is written, may leave */
    g_assert_cmpuint(stats.overshoots, >=, 5);
    g_assert_cmpuint(stats.overshoots, <=, 5 + stats.evictions);
    g_assert_cmpuint(stats.stalls, ==, 0);
    atomic_store(&h->store->put_error, 0);
    check_pages(h, 0, n + 5);
    harness_free(h);
}

/* Nor does it leave the evictors behind: it works for its room. */
static void test_works(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 32 * MIB, .limit = 4 * MIB, .evictors = 1,
        .inline_faults = true,
    });
    uint64_t n = 32 * MIB / PAGE;

    atomic_store(&h->may_not_hold_back, true);
    write_pages(h, 0, n);
    g_assert_cmpuint(stats_of(h).stalls, ==, 0);
    g_assert_cmpuint(stats_of(h).peak_resident, <=, 5 * MIB);
    check_pages(h, 0, n);
    g_assert_cmpuint(stats_of(h).peak_resident, <=, 5 * MIB);
    harness_free(h);
}

static GThread *toucher;
static _Atomic bool let_go;
static _Atomic unsigned int held;

static void hold_others(FakeStore *store, void *opaque)
{
    if (g_thread_self() != toucher) {
        atomic_fetch_add(&held, 1);
        wait_until(atomic_load(&let_go));
    }
}

/* The evictor is busy for a long time: who needs room makes it. */
static void test_helps(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 32 * MIB, .limit = 8 * MIB, .evictors = 1,
        .inline_faults = true,
        .reserve_low = 256 * 1024, .reserve_high = 512 * 1024,
    });
    uint64_t n = 24 * MIB / PAGE;
    MemswapStats stats;

    toucher = g_thread_self();
    atomic_store(&h->store->before_put, hold_others);
    /* less than the reserve is left: it begins, however long that takes */
    write_pages(h, 0, 8 * MIB / PAGE - 1);
    wait_until(atomic_load(&held));
    write_pages(h, 8 * MIB / PAGE - 1, n - (8 * MIB / PAGE - 1));
    g_assert_cmpuint(atomic_load(&held), ==, 1);
    stats = stats_of(h);
    g_assert_cmpuint(stats.stalls, >, 0);
    g_assert_cmpuint(stats.overshoots, ==, 0);
    g_assert_cmpuint(stats.evictions * PAGE, >=, 16 * MIB);
    atomic_store(&let_go, true);
    atomic_store(&h->store->before_put, NULL);
    check_pages(h, 0, n);
    harness_check(h);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/inline/no-events", test_no_events);
    g_test_add_func("/inline/foreign", test_foreign);
    g_test_add_func("/inline/errno", test_errno);
    g_test_add_func("/inline/system-call", test_system_call);
    g_test_add_func("/inline/lost", test_lost);
    g_test_add_func("/inline/two", test_two);
    g_test_add_func("/inline/not-held", test_not_held);
    g_test_add_func("/inline/works", test_works);
    g_test_add_func("/inline/helps", test_helps);
    return g_test_run();
}

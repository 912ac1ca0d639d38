/*
 * Tests of fault helpers: no fill holds up others
 *
 * The store stops in the middle of fetching a page, for as long as the test
 * says, so what a fill holds up is exact.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <sched.h>
#include <string.h>

#include "hugepages.h"

#define SIZE (4 * MIB)

/* Gets wait in the store here. */
typedef struct Gate {
    _Atomic int stops;          /* so many of them, the first ones */
    _Atomic unsigned int inside;
    _Atomic bool open;
} Gate;

static void at_gate(FakeStore *store, void *opaque)
{
    Gate *gate = opaque;

    if (atomic_fetch_sub(&gate->stops, 1) > 0) {
        atomic_fetch_add(&gate->inside, 1);
        wait_until(atomic_load(&gate->open));
    }
}

static void gate_begin(Harness *h, Gate *gate, int stops)
{
    atomic_store(&gate->stops, stops);
    h->store->opaque = gate;
    atomic_store(&h->store->before_get, at_gate);
}

/* Faults that nobody has taken up yet. */
static unsigned int queued(Harness *h)
{
    MemswapHelpers *helpers = &h->engine->helpers;
    unsigned int n;

    g_mutex_lock(&helpers->lock);
    n = helpers->slow->len;
    g_mutex_unlock(&helpers->lock);
    return n;
}

/* All is in place, and every copy was fetched once. */
static void check_settled(Harness *h, unsigned int pages)
{
    MemswapStats stats = stats_of(h);

    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_STORED], ==, pages);
    g_assert_cmpuint(h->store->gets, ==, pages);
    g_assert_cmpuint(stats.stored, ==, 0);
    g_assert_cmpuint(queued(h), ==, 0);
    g_assert_cmpuint(h->engine->helpers.away, ==, 0);
}

/* While helpers stand at the gate, so nothing is waited for but the pages. */
static void check_fast(Harness *h, uint64_t first, unsigned int n)
{
    for (uint64_t page = first; page < first + n; page++) {
        ram_check(h, page, 2 * page + 1);
    }
}

/*
 * Of @slow fills, as many as there are helpers go on at once, and whoever is
 * left resolves what is fast.
 */
static void held_up(unsigned int helpers, unsigned int slow)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = SIZE, .helpers = helpers,
    });
    unsigned int running = MIN(helpers, slow);
    g_autofree Task **tasks = g_new0(Task *, slow);
    Gate gate = { 0 };

    write_pages(h, 0, slow);
    memswap_reclaim(h->engine, SIZE);
    atomic_store(&h->store->slow_below, fake_store_next(h->store));
    write_pages(h, REGION_PAGES, 20);
    memswap_reclaim(h->engine, SIZE);
    g_assert_cmpuint(stats_of(h).stored, ==, (slow + 20) * PAGE);

    gate_begin(h, &gate, running);
    for (unsigned int i = 0; i < slow; i++) {
        tasks[i] = task_start(h, task_read, i);
        wait_until(atomic_load(&gate.inside) == MIN(i + 1, running) &&
                   atomic_load(&gate.inside) + queued(h) == i + 1);
    }
    check_fast(h, REGION_PAGES, 10);
    for (unsigned int i = 0; i < slow; i++) {
        task_check_waits(tasks[i]);
    }
    check_fast(h, REGION_PAGES + 10, 10);
    g_assert_cmpuint(queued(h), ==, slow - running);

    atomic_store(&gate.open, true);
    for (unsigned int i = 0; i < slow; i++) {
        g_assert_cmpint(task_join(tasks[i]), ==, 2 * i + 1);
    }
    check_settled(h, slow + 20);
    harness_free(h);
}

static void test_one_helper(void)
{
    held_up(1, 1);
    held_up(1, 3);
}

static void test_two_helpers(void)
{
    held_up(2, 1);
    held_up(2, 5);
}

/* Without helpers a slow fill is one like any other. */
static void test_no_helper(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = SIZE, .slow_store = true, .events_only = true,
    });

    write_pages(h, 0, 4);
    memswap_reclaim(h->engine, SIZE);
    check_pages(h, 0, 4);
    check_settled(h, 4);
    harness_free(h);
}

/* By hand, with pages 0 and 1 in a store that is slow. */
static Harness *harness_by_hand(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = SIZE, .helpers = 1, .slow_store = true, .by_hand = true,
    });

    for (uint64_t page = 0; page < 2; page++) {
        join_by_hand(h, task_start(h, task_write, page));
    }
    memswap_reclaim(h->engine, SIZE);
    return h;
}

static int64_t task_handle(Harness *h, uint64_t arg)
{
    return memswap_engine_handle(h->engine);
}

/*
 * All in one batch, what is slow ahead: the rest doesn't wait for it.  One page
 * is reported twice, and fetched once.
 */
static void test_batch(void)
{
    static const uint64_t pages[] = { 0, 0, 1, 600, 601 };
    Harness *h = harness_by_hand();
    Task *tasks[G_N_ELEMENTS(pages)], *handler;
    Gate gate = { 0 };

    gate_begin(h, &gate, 1);
    for (unsigned int i = 0; i < G_N_ELEMENTS(pages); i++) {
        tasks[i] = task_start(h, task_read, pages[i]);
        task_check_waits(tasks[i]);
    }
    handler = task_start(h, task_handle, 0);
    g_assert_cmpint(task_join(tasks[3]), ==, 0);
    g_assert_cmpint(task_join(tasks[4]), ==, 0);
    wait_until(atomic_load(&gate.inside) == 1);
    g_assert_cmpuint(queued(h), ==, 1);
    for (unsigned int i = 0; i < 3; i++) {
        task_check_waits(tasks[i]);
    }
    task_check_waits(handler);
    atomic_store(&gate.open, true);
    g_assert_cmpint(task_join(tasks[0]), ==, 1);
    g_assert_cmpint(task_join(tasks[1]), ==, 1);
    g_assert_cmpint(task_join(tasks[2]), ==, 3);
    /* more, if it has read what the helper was woken for */
    g_assert_cmpint(task_join(handler), >=, G_N_ELEMENTS(pages));
    check_settled(h, 2);
    harness_free(h);
}

static int64_t task_remove(Harness *h, uint64_t arg)
{
    ram_remove(h, &h->ram);
    return 0;
}

/* A block goes: it waits for the fill under way, and the queue forgets it. */
static void test_remove(void)
{
    Harness *h = harness_by_hand();
    Task *readers[2], *handler, *remover;
    Gate gate = { 0 };

    gate_begin(h, &gate, 1);
    for (uint64_t page = 0; page < 2; page++) {
        readers[page] = task_start(h, task_read, page);
        task_check_waits(readers[page]);
    }
    handler = task_start(h, task_handle, 0);
    wait_until(atomic_load(&gate.inside) == 1);
    g_assert_cmpuint(queued(h), ==, 1);
    remover = task_start(h, task_remove, 0);
    wait_until(queued(h) == 0);
    task_check_waits(remover);
    atomic_store(&gate.open, true);
    task_join(remover);
    task_join(handler);
    g_assert_cmpint(task_join(readers[0]), ==, 1);
    /* what was stored is gone with the block */
    g_assert_cmpint(task_join(readers[1]), ==, 0);
    g_assert_cmpuint(h->store->gets, ==, 1);
    harness_free(h);
}

/* A fill that is slow and then finds no room waits for it as others do. */
static void test_no_room(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = SIZE, .limit = MIB, .evictors = 1, .helpers = 1,
        .slow_store = true,
    });

    write_pages(h, 0, SIZE / PAGE);
    check_pages(h, 0, SIZE / PAGE);
    g_assert_cmpuint(stats_of(h).peak_resident, <=, MIB);
    harness_free(h);
}

/* A hugepage from the pool takes half a millisecond: as long as it takes. */
static void test_hugepage(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 4 * HUGE_SIZE, .limit = MEMSWAP_MIN_LIMIT_HUGETLB,
        .hugetlb = true, .helpers = 1,
    });
    Ram small = ram_new(SIZE, 0);
    Gate gate = { 0 };
    Task *task;

    ram_add(h, &small, "small");
    huge_fill(h, 0, 1);
    harness_settle(h);
    memswap_reclaim(h->engine, HUGE_SIZE);
    gate_begin(h, &gate, 1);
    task = task_start(h, task_read, 0);
    wait_until(atomic_load(&gate.inside) == 1);
    for (uint64_t page = 0; page < 100; page++) {
        memset(small.host + page * PAGE, 1, PAGE);
    }
    task_check_waits(task);
    atomic_store(&gate.open, true);
    task_join(task);
    huge_check(h, 0, 1);
    harness_settle(h);
    ram_remove(h, &small);
    ram_free(&small);
    harness_free(h);
}

/* Is the calling thread kept on one CPU? */
static int64_t task_kept(Harness *h, uint64_t arg)
{
    cpu_set_t set;

    memswap_engine_handle(h->engine);
    g_assert_cmpint(sched_getaffinity(0, sizeof(set), &set), ==, 0);
    return CPU_COUNT(&set);
}

/* With two CPUs a helper reads all the time, on another than the poller. */
static void test_spread(void)
{
    cpu_set_t before, two;
    int n = 0;
    Harness *h;

    g_assert_cmpint(sched_getaffinity(0, sizeof(before), &before), ==, 0);
    if (CPU_COUNT(&before) < 2) {
        g_test_skip("a single CPU");
        return;
    }
    CPU_ZERO(&two);
    for (int cpu = 0; n < 2; cpu++) {
        if (CPU_ISSET(cpu, &before)) {
            CPU_SET(cpu, &two);
            n++;
        }
    }
    g_assert_cmpint(sched_setaffinity(0, sizeof(two), &two), ==, 0);
    h = harness_new(&(HarnessOptions) {
        .size = SIZE, .helpers = 2, .spread = true, .by_hand = true,
    });
    g_assert_true(memswap_engine_spreads(h->engine));
    /* nobody polls */
    write_pages(h, 0, REGION_PAGES);
    memswap_reclaim(h->engine, SIZE);
    check_pages(h, 0, REGION_PAGES);
    check_settled(h, REGION_PAGES);
    g_assert_cmpint(task_join(task_start(h, task_kept, 0)), ==, 1);
    harness_free(h);

    h = harness_new(&(HarnessOptions) {
        .size = SIZE, .helpers = 1, .by_hand = true,
    });
    g_assert_false(memswap_engine_spreads(h->engine));
    g_assert_cmpint(task_join(task_start(h, task_kept, 0)), ==, 2);
    harness_free(h);
    g_assert_cmpint(sched_setaffinity(0, sizeof(before), &before), ==, 0);
}

int main(int argc, char **argv)
{
    bool hugepages = hugepages_get(4);

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/helpers/none", test_no_helper);
    g_test_add_func("/helpers/one", test_one_helper);
    g_test_add_func("/helpers/two", test_two_helpers);
    g_test_add_func("/helpers/batch", test_batch);
    g_test_add_func("/helpers/remove", test_remove);
    g_test_add_func("/helpers/no-room", test_no_room);
    g_test_add_func("/helpers/hugepage", hugepages ? test_hugepage :
                                         hugepages_skip);
    g_test_add_func("/helpers/spread", test_spread);
    return g_test_run();
}

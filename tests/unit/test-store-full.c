/*
 * Tests of a store that is full: faults wait, or pass the limit
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>

#include "harness.h"

#define LIMIT_PAGES (MEMSWAP_MIN_LIMIT / PAGE)
#define STORE_PAGES 100

static void test_full_hold(void)
{
    HarnessOptions options = harness_evicting;
    Harness *h;
    Task *task;

    options.reserve_low = options.reserve_high = 0;
    h = harness_new(&options);
    atomic_store(&h->store->limit, STORE_PAGES * PAGE);
    /* reserves are chosen from the limit; what fits goes through */
    write_pages(h, 0, LIMIT_PAGES + STORE_PAGES);
    g_assert_cmpuint(stats_of(h).overshoots, ==, 0);
    task = task_start(h, task_write, LIMIT_PAGES + STORE_PAGES);
    wait_until(atomic_load(&h->engine->n_stalled) == 1);
    wait_until(harness_events(h, MEMSWAP_EVENT_STORE_FULL) == 1);
    g_usleep(300000);
    g_assert_false(task_done(task));
    /* tried again and again, told once */
    wait_until(stats_of(h).store_full > 1);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_STORE_FULL), ==, 1);
    g_assert_cmpuint(stats_of(h).resident, ==, MEMSWAP_MIN_LIMIT);
    g_assert_cmpuint(stats_of(h).stored, ==, STORE_PAGES * PAGE);
    g_assert_cmpuint(ram_cached(&h->ram), ==, MEMSWAP_MIN_LIMIT);

    harness_set_limit(h, MEMSWAP_MIN_LIMIT, MEMSWAP_MIN_POOL_LIMIT);
    task_join(task);
    check_pages(h, 0, LIMIT_PAGES + STORE_PAGES + 1);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_STORE_FULL), ==, 1);
    g_assert_cmpuint(stats_of(h).peak_resident, ==, MEMSWAP_MIN_LIMIT);
    harness_set_limit(h, 4 * MIB, 0);
    harness_free(h);
}

/* What is dead in the store makes room before it counts as full. */
static void test_full_untidy(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 8 * MIB, .limit = 8 * MIB,
    });

    atomic_store(&h->store->limit, STORE_PAGES * PAGE);
    atomic_store(&h->store->untidy, 20 * PAGE);
    write_pages(h, 0, STORE_PAGES + 50);
    g_assert_cmpuint(memswap_reclaim(h->engine, (STORE_PAGES + 20) * PAGE),
                     ==, (STORE_PAGES + 20) * PAGE);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_STORE_FULL), ==, 0);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, 0);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_STORE_FULL), ==, 1);
    check_pages(h, 0, STORE_PAGES + 50);
    harness_free(h);
}

static void test_full_overshoot(void)
{
    HarnessOptions options = harness_evicting;
    MemswapStats stats;
    Harness *h;

    options.overshoot = true;
    h = harness_new(&options);
    atomic_store(&h->store->limit, STORE_PAGES * PAGE);
    write_pages(h, 0, LIMIT_PAGES + STORE_PAGES + 50);
    stats = stats_of(h);
    g_assert_cmpuint(stats.overshoots, >=, 49);
    g_assert_cmpuint(stats.resident, >, MEMSWAP_MIN_LIMIT);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_STORE_FULL), ==, 1);
    check_pages(h, 0, LIMIT_PAGES + STORE_PAGES + 50);

    /* room: back under the limit */
    harness_set_limit(h, MEMSWAP_MIN_LIMIT, MEMSWAP_MIN_POOL_LIMIT);
    wait_until(atomic_load(&h->engine->charged) <= MEMSWAP_MIN_LIMIT - PAGE);
    check_pages(h, 0, LIMIT_PAGES + STORE_PAGES + 50);
    harness_set_limit(h, 4 * MIB, 0);
    harness_free(h);
}

/* Full once more after it had worked again: told once more. */
static void test_full_again(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });

    write_pages(h, 0, 300);
    for (unsigned int i = 1; i <= 3; i++) {
        atomic_store(&h->store->put_error, -ENOSPC);
        g_assert_cmpuint(memswap_reclaim(h->engine, 50 * PAGE), ==, 0);
        g_assert_cmpuint(memswap_reclaim(h->engine, 50 * PAGE), ==, 0);
        g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_STORE_FULL), ==, i);
        harness_check(h);
        atomic_store(&h->store->put_error, 0);
        g_assert_cmpuint(memswap_reclaim(h->engine, 50 * PAGE), ==,
                         50 * PAGE);
    }
    check_pages(h, 0, 300);
    harness_free(h);
}

/* What needs no store goes all the same. */
static void test_full_same(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });

    for (uint64_t page = 0; page < 400; page++) {
        ram_fill(h, page, page & 1 ? 2 * page + 1 : 2 * page);
    }
    harness_settle(h);
    atomic_store(&h->store->put_error, -ENOSPC);
    g_assert_cmpuint(memswap_reclaim(h->engine, 4 * MIB), ==, 200 * PAGE);
    g_assert_cmpuint(stats_of(h).zero, ==, 200 * PAGE);
    harness_check(h);
    for (uint64_t page = 0; page < 400; page++) {
        ram_check(h, page, page & 1 ? 2 * page + 1 : 2 * page);
    }
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/store-full/hold", test_full_hold);
    g_test_add_func("/store-full/untidy", test_full_untidy);
    g_test_add_func("/store-full/overshoot", test_full_overshoot);
    g_test_add_func("/store-full/again", test_full_again);
    g_test_add_func("/store-full/same", test_full_same);
    return g_test_run();
}

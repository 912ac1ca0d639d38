/*
 * Tests of evictors: when they work, and how much they take
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "harness.h"

#define HOUR_NS INT64_C(3600000000000)

static void test_reserve(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 32 * MIB, .limit = 8 * MIB, .evictors = 2,
        .reserve_low = MIB, .reserve_high = 2 * MIB,
    });
    MemswapStats stats;

    for (uint64_t page = 0; page < 32 * MIB / PAGE; page++) {
        ram_fill(h, page, page & 7 ? 2 * page : 2 * page + 1);
        g_assert_cmpuint(atomic_load(&h->engine->charged), <=, 8 * MIB);
    }
    wait_until(atomic_load(&h->engine->charged) <= 7 * MIB &&
               atomic_load(&h->engine->sleepers) == 2);
    stats = stats_of(h);
    g_assert_cmpuint(stats.peak_resident, <=, 8 * MIB);
    g_assert_cmpuint(stats.overshoots, ==, 0);
    g_assert_cmpuint(stats.resident, >=, 5 * MIB);
    for (uint64_t page = 0; page < 32 * MIB / PAGE; page++) {
        ram_check(h, page, page & 7 ? 2 * page : 2 * page + 1);
    }
    wait_until(atomic_load(&h->engine->charged) <= 7 * MIB &&
               atomic_load(&h->engine->sleepers) == 2);
    harness_free(h);
}

/* Background reclaim asleep: nothing is tried, nothing taken. */
static void test_no_pressure(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 8 * MIB, .limit = 8 * MIB, .evictors = 1,
        .reserve_low = MIB, .reserve_high = 2 * MIB,
    });
    MemswapStats stats;

    write_pages(h, 0, 7 * MIB / PAGE);
    g_usleep(100000);
    stats = stats_of(h);
    g_assert_cmpuint(stats.trials, ==, 0);
    g_assert_cmpuint(stats.evictions, ==, 0);
    write_pages(h, 7 * MIB / PAGE, 1);
    wait_until(atomic_load(&h->engine->sleepers) == 1 &&
               atomic_load(&h->engine->charged) <= 6 * MIB);
    stats = stats_of(h);
    g_assert_cmpuint(stats.evictions, ==, MIB / PAGE + 1);
    harness_free(h);
}

/* Lets a number of threads go on to evict only when all have come so far. */
typedef struct Gathering {
    unsigned int wanted;
    _Atomic unsigned int come;
} Gathering;

static int gather(void *opaque, InjectCall call, uint64_t where, size_t *size)
{
    Gathering *g = opaque;

    if (call == INJECT_READ && atomic_load(&g->come) < g->wanted) {
        atomic_fetch_add(&g->come, 1);
        wait_until(atomic_load(&g->come) >= g->wanted);
    }
    return 0;
}

/*
 * All of them have seen the same lack of room, and none knows of what the
 * others take: beyond the reserve that is a step of each but one.
 */
static void at_once(unsigned int evictors)
{
    const uint64_t step = 256 * 1024;
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 8 * MIB, .limit = 8 * MIB, .evictors = evictors,
        .reserve_low = MIB, .reserve_high = 2 * MIB,
    });
    Gathering gathering = { .wanted = evictors };
    InjectHooks hooks = { .before = gather, .opaque = &gathering };
    /* where the last of them starts */
    uint64_t pages = (7 * MIB + MIB / 2) / PAGE + 1;
    uint64_t evicted;

    inject(&hooks);
    write_pages(h, 0, pages);
    wait_until(atomic_load(&h->engine->sleepers) == evictors &&
               atomic_load(&h->engine->charged) <= 6 * MIB);
    inject(NULL);
    g_assert_cmpuint(atomic_load(&gathering.come), ==, evictors);
    evicted = stats_of(h).evictions * PAGE;
    g_assert_cmpuint(evicted, >=, pages * PAGE - 6 * MIB);
    g_assert_cmpuint(evicted, <=, pages * PAGE - 6 * MIB +
                     (evictors - 1) * step);
    check_pages(h, 0, pages);
    harness_free(h);
}

static void test_at_once(void)
{
    at_once(2);
    at_once(4);
}

/*
 * While a sequence goes on and there is room for a while, the clock stands
 * still; but who lacks a hugepage is not forgotten for it, nor do evictors
 * spin.
 */
static void test_streaming(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 8 * MIB, .limit = 8 * MIB, .evictors = 1,
        .reserve_low = MIB, .reserve_high = 2 * MIB,
    });
    MemswapEngine *engine = h->engine;

    atomic_store(&engine->behind_next, 1);
    /* for as long as this takes on a slow machine */
    atomic_store(&engine->behind_ns, memswap_now(engine) + HOUR_NS);
    g_assert_true(memswap_age_streaming(engine));
    write_pages(h, 0, (7 * MIB + MIB / 4) / PAGE);
    g_usleep(50000);
    g_assert_cmpuint(stats_of(h).evictions, ==, 0);
    atomic_store(&engine->hugetlb.wanted, 1);
    memswap_evictors_kick(engine);
    wait_until(!atomic_load(&engine->hugetlb.wanted) &&
               atomic_load(&engine->sleepers) == 1);
    harness_free(h);
}

typedef struct Hurries {
    unsigned int puts;
    bool first, last;
} Hurries;

static void note_hurry(FakeStore *store, void *opaque)
{
    Hurries *hurries = opaque;

    hurries->last = atomic_load(&store->hurry);
    if (!hurries->puts++) {
        hurries->first = hurries->last;
    }
}

/* The store is told to be quick as long as room is short, and no longer. */
static void test_hurry(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 8 * MIB, .limit = 8 * MIB, .evictors = 1,
        .reserve_low = MIB, .reserve_high = 2 * MIB,
    });
    Hurries hurries = { 0 };

    write_pages(h, 0, 7 * MIB / PAGE);
    h->store->opaque = &hurries;
    atomic_store(&h->store->before_put, note_hurry);
    harness_set_limit(h, 6 * MIB, 0);
    wait_until(atomic_load(&h->engine->sleepers) == 1 &&
               atomic_load(&h->engine->charged) <= 4 * MIB);
    atomic_store(&h->store->before_put, NULL);
    g_assert_cmpuint(hurries.puts, >, 0);
    g_assert_true(hurries.first);
    g_assert_false(hurries.last);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/evictors/reserve", test_reserve);
    g_test_add_func("/evictors/no-pressure", test_no_pressure);
    g_test_add_func("/evictors/at-once", test_at_once);
    g_test_add_func("/evictors/streaming", test_streaming);
    g_test_add_func("/evictors/hurry", test_hurry);
    return g_test_run();
}

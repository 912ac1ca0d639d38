/*
 * Tests of statistics: latencies, percentiles, gauges at any moment
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <string.h>

#include "harness.h"

static uint64_t sum(const uint64_t latency[MEMSWAP_LATENCY_BUCKETS])
{
    uint64_t n = 0;

    for (int i = 0; i < MEMSWAP_LATENCY_BUCKETS; i++) {
        n += latency[i];
    }
    return n;
}

static void test_empty(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .limit = MIB });
    MemswapStats stats, none = { .pin_limit = MIB - MIB / 8 };

    memset(&stats, 0xff, sizeof(stats));
    memswap_get_stats(h->engine, &stats);
    g_assert_cmpmem(&stats, sizeof(stats), &none, sizeof(none));
    g_assert_cmpuint(memswap_latency_percentile(stats.latency, 50), ==, 0);
    harness_free(h);
}

/* Each fault once, by the time it took. */
static void test_latency(void)
{
    static const struct {
        int64_t ns;
        int bucket;
    } times[] = {
        { 0, 0 }, { 1, 0 }, { 2, 1 }, { 3, 1 }, { 4, 2 }, { 1023, 9 },
        { 1024, 10 }, { 1000000, 19 }, { 1LL << 39, 39 }, { 1LL << 50, 39 },
        { -5, 0 },
    };
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 2 * MIB, .fake_clock = true,
    });

    for (unsigned int i = 0; i < G_N_ELEMENTS(times); i++) {
        MemswapStats before = stats_of(h), after;

        /* it is asked twice: when the fault is read, and at its end */
        atomic_store(&h->clock_step, times[i].ns);
        ram_touch(h, i);
        harness_settle(h);
        atomic_store(&h->clock_step, 0);
        after = stats_of(h);
        g_assert_cmpuint(sum(after.latency), ==, sum(before.latency) + 1);
        g_assert_cmpuint(after.latency[times[i].bucket], ==,
                         before.latency[times[i].bucket] + 1);
    }
    harness_free(h);
}

static void test_percentile(void)
{
    uint64_t latency[MEMSWAP_LATENCY_BUCKETS] = { 0 };

    latency[10] = 90;
    latency[20] = 10;
    /* within the bucket that holds it, never falling */
    for (unsigned int percent = 1; percent <= 90; percent++) {
        uint64_t ns = memswap_latency_percentile(latency, percent);

        g_assert_cmpuint(ns, >, 1024);
        g_assert_cmpuint(ns, <=, 2048);
        g_assert_cmpuint(ns, >=, memswap_latency_percentile(latency,
                                                            percent - 0.5));
    }
    for (unsigned int percent = 91; percent <= 100; percent++) {
        uint64_t ns = memswap_latency_percentile(latency, percent);

        g_assert_cmpuint(ns, >, 1 << 20);
        g_assert_cmpuint(ns, <=, 1 << 21);
    }
    g_assert_cmpuint(memswap_latency_percentile(latency, 45), ==, 1536);
    g_assert_cmpuint(memswap_latency_percentile(latency, 100), ==, 1 << 21);
    latency[MEMSWAP_LATENCY_BUCKETS - 1] = 1000000;
    g_assert_cmpuint(memswap_latency_percentile(latency, 99), >=,
                     1ULL << (MEMSWAP_LATENCY_BUCKETS - 1));
}

/* Blocks add up to the whole, and all adds up to what is managed. */
static void test_sums(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 8 * MIB, .limit = 2 * MIB, .pool = true,
    });
    Ram second = ram_new(4 * MIB, 0);
    MemswapBlockStats one, two;
    MemswapStats stats;
    GRand *rand = g_rand_new_with_seed(g_test_rand_int());

    ram_add(h, &second, "second");
    for (unsigned int i = 0; i < 6000; i++) {
        uint64_t page = g_rand_int_range(rand, 0, 3072);

        if (page < 2048) {
            ram_fill(h, page, i);
        } else {
            page_build(second.host + (page - 2048) * PAGE, i);
        }
        if (i % 100 == 0) {
            memswap_discard(h->engine, h->ram.host + i % 2048 * PAGE, PAGE);
        }
        if (i % 500 == 0) {
            harness_check(h);
        }
    }
    harness_check(h);
    stats = stats_of(h);
    memswap_block_get_stats(h->ram.block, &one);
    memswap_block_get_stats(second.block, &two);
    g_assert_cmpuint(stats.managed, ==, 12 * MIB);
    g_assert_cmpuint(stats.resident, ==, one.resident + two.resident);
    g_assert_cmpuint(stats.stored, ==, one.stored + two.stored);
    g_assert_cmpuint(stats.zero, ==, one.zero + two.zero);
    g_assert_cmpuint(stats.untouched, ==, one.untouched + two.untouched);
    g_assert_cmpuint(stats.resident + stats.stored + stats.zero +
                     stats.untouched, ==, stats.managed);
    g_assert_cmpuint(stats.resident, ==,
                     ram_cached(&h->ram) + ram_cached(&second));
    g_assert_cmpuint(stats.peak_resident, ==, 2 * MIB);
    /* the pool's own */
    g_assert_cmpuint(stats.pool_bytes, >=, stats.pool_live_bytes);
    g_assert_cmpuint(stats.pool_live_bytes, >=, stats.pool_data_bytes);
    g_assert_cmpuint(stats.pool_data_bytes, >, 0);
    g_assert_cmpuint(stats.pool_data_bytes, <=, stats.stored);
    g_assert_cmpuint(stats.pool_segments, >, 0);
    /* every page that left came back, or is away, or was discarded away */
    g_assert_cmpuint(stats.evictions, >=, stats.refaults +
                     (stats.stored + stats.zero) / PAGE);
    g_assert_cmpuint(stats.evictions, <=, stats.refaults + stats.discards +
                     (stats.stored + stats.zero) / PAGE);
    g_rand_free(rand);
    ram_remove(h, &second);
    ram_free(&second);
    harness_free(h);
}

/* Asking never waits: not for a fault that is held back, nor for a put. */
static void ask_in_put(FakeStore *store, void *opaque)
{
    Harness *h = opaque;
    MemswapSettings settings;
    MemswapStats stats;

    memswap_get_stats(h->engine, &stats);
    g_assert_cmpuint(stats.managed, ==, 2 * MIB);
    memswap_get_settings(h->engine, &settings);
    g_assert_cmpint(memswap_set_settings(h->engine, &settings, NULL), ==, 0);
    atomic_fetch_add(&h->clock, 1);
}

static void test_never_waits(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 2 * MIB });
    int64_t before = h->clock;

    ram_fill(h, 0, 1);
    harness_settle(h);
    h->store->opaque = h;
    h->store->before_put = ask_in_put;
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    g_assert_cmpint(h->clock, ==, before + 1);
    h->store->before_put = NULL;
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/stats/empty", test_empty);
    g_test_add_func("/stats/latency", test_latency);
    g_test_add_func("/stats/percentile", test_percentile);
    g_test_add_func("/stats/sums", test_sums);
    g_test_add_func("/stats/never-waits", test_never_waits);
    return g_test_run();
}

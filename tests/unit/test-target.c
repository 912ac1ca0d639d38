/*
 * Tests of the policy "target": ages by scans, and what goes for them
 *
 * Time stands still but for what a test says, so scans are counted, and what
 * they find is exact.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <inttypes.h>

#include "puppets.h"

#define N_PAGES 2048ULL
#define REGIONS (N_PAGES / REGION_PAGES)
#define SECOND 1000000000LL
#define INTERVAL (30 * SECOND)

static void set(Harness *h, const char *name, const char *value)
{
    g_assert_cmpint(memswap_policy_set(h->engine, "t", name, value, NULL),
                    ==, 0);
}

static uint64_t counter(Harness *h, const char *name)
{
    return puppet_counter(h, "t", name);
}

static Harness *harness_with(const HarnessOptions *options)
{
    Harness *h = harness_new(options);

    write_pages(h, 0, N_PAGES);
    builtin_add(h, "t", "target");
    wait_until(counter(h, "scans") == 1);
    /* the pace has a test of its own */
    set(h, "budget", "100");
    set(h, "percentile", "100");
    return h;
}

static Harness *harness_small(void)
{
    return harness_with(&(HarnessOptions) {
        .size = 16 * MIB, .fake_clock = true,
    });
}

/* The next scan is due. */
static void scan(Harness *h)
{
    uint64_t before = counter(h, "scans");

    harness_tick(h, INTERVAL);
    set(h, "interval", "30");
    wait_until(counter(h, "scans") == before + 1);
    puppet_settle(h, "t");
}

static void touch_region(Harness *h, uint64_t region)
{
    for (uint64_t i = 0; i < REGION_PAGES; i++) {
        ram_touch(h, region * REGION_PAGES + i);
    }
    harness_settle(h);
}

/* Of three regions one is hot, one is touched every third time. */
static void touch_some(Harness *h, unsigned int round)
{
    touch_region(h, 0);
    if (round % 3 == 0) {
        touch_region(h, 1);
    }
}

static uint64_t stored(Harness *h, uint64_t region)
{
    uint64_t n = 0;

    for (uint64_t i = 0; i < REGION_PAGES; i++) {
        n += ram_state(&h->ram, region * REGION_PAGES + i) ==
             MEMSWAP_STORED;
    }
    return n;
}

/* With no promotion allowed it takes only what stays away longer. */
static void test_threshold(void)
{
    Harness *h = harness_small();

    set(h, "rate", "0");
    set(h, "grace", "1000");
    for (unsigned int i = 1; i <= 7; i++) {
        touch_some(h, i);
        scan(h);
        g_assert_cmpuint(counter(h, "threshold"), ==, 0);
        /* seen once as touched, then twice as not */
        g_assert_cmpuint(counter(h, "touched-again"), ==,
                         i % 3 ? 0 : REGION_PAGES * PAGE);
    }
    g_assert_cmpuint(stats_of(h).evictions, ==, 0);
    set(h, "grace", "0");
    scan(h);
    g_assert_cmpuint(counter(h, "threshold"), ==, 3);
    g_assert_cmpuint(counter(h, "threshold-ms"), ==, 90000);
    for (unsigned int i = 9; i <= 20; i++) {
        touch_some(h, i);
        scan(h);
        g_assert_cmpuint(stored(h, 0), ==, 0);
        g_assert_cmpuint(stored(h, 1), ==, 0);
        g_assert_cmpuint(stored(h, 2), ==, REGION_PAGES);
        g_assert_cmpuint(stored(h, 3), ==, REGION_PAGES);
    }
    g_assert_cmpuint(stats_of(h).refaults, ==, 0);
    g_assert_cmpuint(puppet_status(h, "t").reclaimed, ==,
                     2 * REGION_PAGES * PAGE);
    /* what was touched within two minutes: these two */
    g_assert_cmpuint(counter(h, "working-set"), ==, 2 * REGION_PAGES * PAGE);
    g_assert_cmpuint(puppet_status(h, "t").refused, ==, 0);
    check_pages(h, 0, N_PAGES);
    harness_check(h);
    harness_free(h);
}

/* With as many as there are it takes all that isn't touched all the time. */
static void test_rate(void)
{
    Harness *h = harness_small();

    set(h, "rate", "100");
    set(h, "grace", "1000");
    for (unsigned int i = 1; i <= 7; i++) {
        touch_some(h, i);
        scan(h);
    }
    set(h, "grace", "0");
    touch_some(h, 8);
    scan(h);
    g_assert_cmpuint(counter(h, "threshold"), ==, 1);
    touch_region(h, 0);
    scan(h);
    g_assert_cmpuint(stored(h, 0), ==, 0);
    g_assert_cmpuint(stored(h, 1), ==, REGION_PAGES);
    /* these had their age in the store, and count all the same */
    touch_region(h, 1);
    scan(h);
    g_assert_cmpuint(counter(h, "touched-again"), ==, REGION_PAGES * PAGE);
    harness_check(h);
    harness_free(h);
}

/* A share of the working set: just enough, and one page too many. */
static void test_share(void)
{
    Harness *h = harness_small();

    /* 1 % of 4 regions a minute, half of that in 30 seconds: 10.24 pages */
    set(h, "rate", "1");
    set(h, "percentile", "0");
    for (unsigned int more = 0; more <= 1; more++) {
        set(h, "grace", "10000");
        for (uint64_t i = 0; i < REGIONS; i++) {
            touch_region(h, i);
        }
        scan(h);
        scan(h);
        for (uint64_t i = 0; i < 10 + more; i++) {
            ram_touch(h, 100 + i);
        }
        harness_settle(h);
        set(h, "grace", "0");
        scan(h);
        g_assert_cmpuint(counter(h, "touched-again"), ==, (10 + more) * PAGE);
        g_assert_cmpuint(counter(h, "threshold"), ==, 1 + more);
    }
    harness_free(h);
}

/* Nothing goes before its time. */
static void test_grace(void)
{
    Harness *h = harness_small();

    set(h, "grace", "120");
    for (unsigned int i = 0; i < 4; i++) {
        g_assert_cmpuint(counter(h, "threshold"), ==, 0);
        g_assert_cmpuint(stats_of(h).evictions, ==, 0);
        scan(h);
    }
    g_assert_cmpuint(counter(h, "threshold"), ==, 1);
    scan(h);
    g_assert_cmpuint(stats_of(h).evictions, ==, N_PAGES);
    /* nothing is in memory: nothing to look at */
    scan(h);
    g_assert_cmpuint(counter(h, "working-set"), ==, 0);
    harness_free(h);
}

/* The guest becomes busy: it is left alone at once. */
static void test_busy(void)
{
    Harness *h = harness_small();

    set(h, "rate", "0");
    set(h, "grace", "1000");
    set(h, "percentile", "0");
    for (unsigned int i = 0; i < 6; i++) {
        scan(h);
    }
    set(h, "grace", "0");
    for (uint64_t i = 0; i < REGIONS; i++) {
        touch_region(h, i);
    }
    scan(h);
    /* seen seven times since it was written, six times untouched */
    g_assert_cmpuint(counter(h, "threshold"), ==, 7);
    g_assert_cmpuint(stats_of(h).evictions, ==, 0);
    scan(h);
    g_assert_cmpuint(counter(h, "threshold"), ==, 1);
    scan(h);
    g_assert_cmpuint(stats_of(h).evictions, ==, N_PAGES);
    harness_check(h);
    harness_free(h);
}

/* Pinned, discarded, unplugged: none of that is cold. */
static void test_changes(void)
{
    Harness *h = harness_small();
    Ram other = ram_new(3 * MIB, 0);

    set(h, "grace", "0");
    memswap_pin(h->engine, h->ram.host + 7 * PAGE, 3 * PAGE);
    memswap_discard(h->engine, h->ram.host + 512 * PAGE, 512 * PAGE);
    ram_add(h, &other, "other");
    for (uint64_t i = 0; i < other.size / PAGE; i++) {
        *(_Atomic uint64_t *)(other.host + i * PAGE) = i + 1;
    }
    harness_settle(h);
    scan(h);
    scan(h);
    ram_remove(h, &other);
    scan(h);
    g_assert_cmpuint(stats_of(h).resident, ==, 3 * PAGE);
    g_assert_cmpuint(stats_of(h).untouched, ==, 8 * MIB + 2 * MIB);
    memswap_unpin(h->engine, h->ram.host + 7 * PAGE, 3 * PAGE);
    ram_free(&other);
    harness_check(h);
    harness_free(h);
}

static void test_options(void)
{
    Harness *h = harness_small();
    static const struct {
        const char *name, *value;
        int result;
    } options[] = {
        { "rate", "-1", -EINVAL }, { "rate", "101", -EINVAL },
        { "rate", "nan", -EINVAL }, { "rate", "", -EINVAL },
        { "rate", "0.5x", -EINVAL }, { "rate", "0.5", 0 },
        { "interval", "0", -EINVAL }, { "interval", "1e9", -EINVAL },
        { "interval", "0.5", 0 }, { "budget", "0", -EINVAL },
        { "grace", "0", 0 }, { "percentile", "98", 0 },
        { "age", "4", -ENOENT },
    };

    for (unsigned int i = 0; i < G_N_ELEMENTS(options); i++) {
        g_assert_cmpint(memswap_policy_set(h->engine, "t", options[i].name,
                                           options[i].value, NULL),
                        ==, options[i].result);
    }
    harness_free(h);
}

/* --- in real time ------------------------------------------------------ */

typedef struct Toucher {
    Harness *h;
    _Atomic bool stop;
    uint64_t n;
} Toucher;

static gpointer touch_all(gpointer opaque)
{
    Toucher *toucher = opaque;
    uint64_t page = 0;

    while (!atomic_load(&toucher->stop)) {
        ram_check(toucher->h, page, 2 * page + 1);
        page = (page + 1) % toucher->n;
    }
    return NULL;
}

/* What a scan costs the guest is a part of the time. */
static void test_budget(void)
{
    Harness *h = harness_with(&(HarnessOptions) { .size = 16 * MIB });
    Toucher toucher = { .h = h, .n = N_PAGES };
    GThread *thread = g_thread_new("touch", touch_all, &toucher);
    int64_t elapsed;
    uint64_t faults;

    set(h, "grace", "10000");
    set(h, "budget", "2");
    set(h, "interval", "0.01");
    elapsed = -g_get_monotonic_time();
    faults = stats_of(h).faults[MEMSWAP_FAULT_TRIAL];
    g_usleep(2 * G_USEC_PER_SEC);
    faults = stats_of(h).faults[MEMSWAP_FAULT_TRIAL] - faults;
    elapsed += g_get_monotonic_time();
    atomic_store(&toucher.stop, true);
    g_thread_join(thread);
    /*
     * 5 us each, and what was begun.  Not so many trials: a guest that has
     * little of a busy machine touches little of what was tried.
     */
    g_test_message("%" PRIu64 " faults in %" PRIi64 " us", faults,
                   elapsed);
    g_assert_cmpuint(faults, <=, elapsed * 2 / 100 / 5 + 2 * N_PAGES);
    g_assert_cmpuint(counter(h, "scans"), >=, 2);
    harness_free(h);
}

/* Short of requests it takes longer, and finds the same. */
static void test_poor(void)
{
    Harness *h = harness_small();

    set(h, "rate", "0");
    set(h, "grace", "1000");
    puppet_budget(h, 1000);
    for (unsigned int i = 1; i <= 7; i++) {
        touch_some(h, i);
        scan(h);
        g_assert_cmpuint(counter(h, "touched-again"), ==,
                         i % 3 ? 0 : REGION_PAGES * PAGE);
    }
    set(h, "grace", "0");
    scan(h);
    g_assert_cmpuint(counter(h, "threshold"), ==, 3);
    g_assert_cmpuint(puppet_status(h, "t").refused, >, 0);
    harness_free(h);
}

/* It makes the room that a limit needs, while it scans. */
static void test_room(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 64 * MIB, .limit = 16 * MIB, .evictors = 1, .pool = true,
        .reserve_low = 4 * MIB, .reserve_high = 6 * MIB,
    });
    uint64_t n = 64 * MIB / PAGE;
    MemswapStats stats;

    builtin_add(h, "t", "target");
    set(h, "interval", "0.05");
    set(h, "budget", "50");
    set(h, "grace", "0");
    for (unsigned int round = 0; round < 2; round++) {
        for (uint64_t page = 0; page < n; page++) {
            if (round) {
                ram_check(h, page, 2 * page + 1);
            } else {
                ram_fill(h, page, 2 * page + 1);
            }
            /* so that it can keep up, on a busy machine */
            if (page % 256 == 255) {
                wait_until(atomic_load(&h->engine->charged) <= 12 * MIB);
            }
        }
    }
    stats = stats_of(h);
    g_assert_cmpuint(stats.overshoots, ==, 0);
    g_assert_cmpuint(stats.peak_resident, <=, 16 * MIB);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR), ==, 0);
    g_assert_cmpint(memswap_policy_remove(h->engine, "t", NULL), ==, 0);
    harness_check(h);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/target/threshold", test_threshold);
    g_test_add_func("/target/rate", test_rate);
    g_test_add_func("/target/share", test_share);
    g_test_add_func("/target/grace", test_grace);
    g_test_add_func("/target/busy", test_busy);
    g_test_add_func("/target/changes", test_changes);
    g_test_add_func("/target/options", test_options);
    g_test_add_func("/target/budget", test_budget);
    g_test_add_func("/target/poor", test_poor);
    g_test_add_func("/target/room", test_room);
    return g_test_run();
}

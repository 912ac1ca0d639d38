/*
 * Tests of the policy "pressure": how much it takes, and when it stops
 *
 * Time stands still but for what a test says, so what it takes is exact.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>

#include "puppets.h"

#define N_PAGES 2048ULL
#define SECOND 1000000000LL
#define INTERVAL (10 * SECOND)

static void set(Harness *h, const char *name, const char *value)
{
    g_assert_cmpint(memswap_policy_set(h->engine, "p", name, value, NULL),
                    ==, 0);
}

static uint64_t counter(Harness *h, const char *name)
{
    return puppet_counter(h, "p", name);
}

static Harness *harness_small(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 16 * MIB, .fake_clock = true,
    });

    write_pages(h, 0, N_PAGES);
    builtin_add(h, "p", "pressure");
    /* whatever else the host does meanwhile */
    set(h, "psi", "0");
    set(h, "threshold", "1");
    set(h, "ratio", "10");
    set(h, "interval", "10");
    puppet_settle(h, "p");
    g_assert_cmpuint(counter(h, "steps"), ==, 0);
    return h;
}

/* An interval goes by, in which somebody waited for so long. */
static void interval(Harness *h, uint64_t waited)
{
    uint64_t before = counter(h, "steps") + counter(h, "pauses");
    uint64_t pausing = before;

    /* part of it here, part there */
    memswap_count(h->engine->stall_ns, waited / 4);
    memswap_count(h->engine->refault_ns, waited - waited / 4);
    harness_tick(h, INTERVAL);
    set(h, "interval", "10");
    puppet_settle(h, "p");
    g_assert_cmpuint(counter(h, "steps") + counter(h, "pauses"), <=,
                     pausing + 1);
    g_assert_cmpuint(counter(h, "pressure-ppm"), ==,
                     waited / (INTERVAL / 1000000));
}

static uint64_t evictions(Harness *h)
{
    return stats_of(h).evictions;
}

/* A part of what is in memory, less the nearer it is to the threshold. */
static void test_step(void)
{
    Harness *h = harness_small();
    uint64_t resident = N_PAGES * PAGE, expected;

    /* there has to be something on trial first */
    interval(h, 0);
    g_assert_cmpuint(evictions(h), ==, 0);
    g_assert_cmpuint(counter(h, "trials"), >=, 1);
    expected = resident / 10 / PAGE;
    interval(h, 0);
    g_assert_cmpuint(evictions(h), ==, expected);
    resident -= expected * PAGE;
    /* at half of the threshold, half as much */
    interval(h, INTERVAL / 200);
    expected += resident / 20 / PAGE;
    g_assert_cmpuint(evictions(h), ==, expected);
    interval(h, 0);
    g_assert_cmpuint(evictions(h), >, expected);
    g_assert_cmpuint(puppet_status(h, "p").reclaimed, ==,
                     evictions(h) * PAGE);
    g_assert_cmpuint(puppet_status(h, "p").refused, ==, 0);
    check_pages(h, 0, N_PAGES);
    harness_check(h);
    harness_free(h);
}

/* At the threshold it stops, and waits longer each time. */
static void test_pause(void)
{
    Harness *h = harness_small();
    uint64_t before;

    interval(h, 0);
    interval(h, 0);
    before = evictions(h);
    for (unsigned int n = 1; n <= 4; n *= 2) {
        interval(h, INTERVAL / 100);
        g_assert_cmpuint(counter(h, "steps"), ==, 2);
        for (unsigned int i = 0; i < n; i++) {
            interval(h, 0);
            g_assert_cmpuint(counter(h, "steps"), ==, 2);
        }
    }
    g_assert_cmpuint(evictions(h), ==, before);
    g_assert_cmpuint(counter(h, "pauses"), ==, 3);
    interval(h, 0);
    g_assert_cmpuint(counter(h, "steps"), ==, 3);
    g_assert_cmpuint(evictions(h), >, before);
    harness_free(h);
}

/* What is touched all the time stays; the rest goes in the end. */
static void test_warm(void)
{
    Harness *h = harness_small();

    for (unsigned int i = 0; i < 100; i++) {
        for (uint64_t page = 0; page < N_PAGES; page += 4) {
            ram_touch(h, page);
        }
        harness_settle(h);
        interval(h, 0);
    }
    for (uint64_t page = 0; page < N_PAGES; page++) {
        g_assert_cmpint(ram_state(&h->ram, page) == MEMSWAP_STORED, ==,
                        page % 4 != 0);
    }
    g_assert_cmpuint(stats_of(h).refaults, ==, 0);
    harness_check(h);
    harness_free(h);
}

/* Faults that fetch are what the pressure comes from; others aren't. */
static void test_refaults(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 16 * MIB });
    uint64_t before;

    write_pages(h, 0, 100);
    g_assert_cmpuint(atomic_load(&h->engine->refault_ns), ==, 0);
    memswap_reclaim(h->engine, UINT64_MAX);
    check_pages(h, 0, 1);
    before = atomic_load(&h->engine->refault_ns);
    g_assert_cmpuint(before, >, 0);
    check_pages(h, 0, 1);
    g_assert_cmpuint(atomic_load(&h->engine->refault_ns), ==, before);
    harness_free(h);
}

/* Blocks come and go while their regions are on trial. */
static void test_changes(void)
{
    Harness *h = harness_small();
    Ram other = ram_new(3 * MIB, 0);

    ram_add(h, &other, "other");
    for (uint64_t i = 0; i < other.size / PAGE; i++) {
        *(_Atomic uint64_t *)(other.host + i * PAGE) = i + 1;
    }
    harness_settle(h);
    set(h, "ratio", "100");
    interval(h, 0);
    g_assert_cmpuint(counter(h, "trials"), >=, 2);
    ram_remove(h, &other);
    memswap_discard(h->engine, h->ram.host, 3 * MIB);
    memswap_pin(h->engine, h->ram.host + 2047 * PAGE, PAGE);
    for (unsigned int i = 0; i < 12; i++) {
        interval(h, 0);
    }
    g_assert_cmpuint(stats_of(h).resident, ==, PAGE);
    memswap_unpin(h->engine, h->ram.host + 2047 * PAGE, PAGE);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR), ==, 0);
    ram_free(&other);
    harness_check(h);
    harness_free(h);
}

/*
 * Nothing can be put on trial: that is found out by trying so many, not all of
 * them.
 */
static void test_in_vain(void)
{
    uint64_t n = 2560;
    Harness *h = harness_new(&(HarnessOptions) {
        .size = n * MEMSWAP_REGION_SIZE, .fake_clock = true,
    });
    uint64_t before;

    /* what they cost is not the matter here */
    puppet_budget(h, 100000000);
    for (uint64_t i = 0; i < n; i++) {
        ram_fill(h, i * REGION_PAGES, 2 * i);
        memswap_pin(h->engine, h->ram.host + i * MEMSWAP_REGION_SIZE, PAGE);
    }
    builtin_add(h, "p", "pressure");
    set(h, "psi", "0");
    set(h, "interval", "10");
    before = puppet_status(h, "p").requests;
    interval(h, 0);
    g_assert_cmpuint(counter(h, "trials"), ==, 0);
    g_assert_cmpuint(counter(h, "steps"), ==, 1);
    /* three for each: its block, what is in it, and a trial */
    g_assert_cmpuint(puppet_status(h, "p").requests - before, <, 3 * n);
    for (uint64_t i = 0; i < n; i++) {
        memswap_unpin(h->engine, h->ram.host + i * MEMSWAP_REGION_SIZE, PAGE);
    }
    harness_free(h);
}

static void test_options(void)
{
    Harness *h = harness_small();
    static const struct {
        const char *name, *value;
        int result;
    } options[] = {
        { "ratio", "-1", -EINVAL }, { "ratio", "101", -EINVAL },
        { "ratio", "nan", -EINVAL }, { "ratio", "", -EINVAL },
        { "ratio", "1.5", 0 }, { "threshold", "0", -EINVAL },
        { "threshold", "0.2", 0 }, { "interval", "0", -EINVAL },
        { "interval", "0.5", 0 }, { "psi", "0.5", -EINVAL },
        { "psi", "1", 0 }, { "step", "4", -ENOENT },
    };

    for (unsigned int i = 0; i < G_N_ELEMENTS(options); i++) {
        g_assert_cmpint(memswap_policy_set(h->engine, "p", options[i].name,
                                           options[i].value, NULL),
                        ==, options[i].result);
    }
    harness_free(h);
}

/* It makes the room that a limit needs, in real time. */
static void test_room(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 64 * MIB, .limit = 16 * MIB, .evictors = 1, .pool = true,
        .reserve_low = 4 * MIB, .reserve_high = 6 * MIB,
    });
    uint64_t n = 64 * MIB / PAGE;
    MemswapStats stats;

    builtin_add(h, "p", "pressure");
    set(h, "interval", "0.02");
    set(h, "threshold", "100");
    set(h, "ratio", "5");
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
    g_assert_cmpint(memswap_policy_remove(h->engine, "p", NULL), ==, 0);
    harness_check(h);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pressure/step", test_step);
    g_test_add_func("/pressure/pause", test_pause);
    g_test_add_func("/pressure/warm", test_warm);
    g_test_add_func("/pressure/refaults", test_refaults);
    g_test_add_func("/pressure/changes", test_changes);
    g_test_add_func("/pressure/in-vain", test_in_vain);
    g_test_add_func("/pressure/options", test_options);
    g_test_add_func("/pressure/room", test_room);
    return g_test_run();
}

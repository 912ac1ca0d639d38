/*
 * Tests of the limit: held, changed, passed
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"

#define LIMIT_PAGES (MEMSWAP_MIN_LIMIT / PAGE)

/* All that may be resident is, and the store takes nothing. */
static Harness *harness_held(const HarnessOptions *options)
{
    Harness *h = harness_new(options);

    atomic_store(&h->store->put_error, -ENOSPC);
    write_pages(h, 0, LIMIT_PAGES);
    g_assert_cmpuint(stats_of(h).overshoots, ==, 0);
    return h;
}

static void release(Harness *h)
{
    atomic_store(&h->store->put_error, 0);
}

/* --- held back --------------------------------------------------------- */

/* A thread that reads a page, and waits for room. */
static Task *start_held(Harness *h, uint64_t page)
{
    Task *task = task_start(h, task_read, page);

    wait_until(atomic_load(&h->engine->n_stalled) == 1);
    task_check_waits(task);
    return task;
}

/* One that reads this page waits until there is room, and passes no limit. */
static void expect_held(Harness *h, uint64_t page)
{
    uint64_t overshoots = stats_of(h).overshoots;
    Task *task = start_held(h, page);

    release(h);
    g_assert_cmpint(task_join(task), ==, 0);
    g_assert_cmpuint(stats_of(h).overshoots, ==, overshoots);
}

static void test_stall(void)
{
    HarnessOptions options = harness_evicting;
    MemswapStats stats;
    Harness *h;
    Task *task;

    options.fake_clock = true;
    h = harness_held(&options);
    task = start_held(h, LIMIT_PAGES);
    g_assert_cmpuint(stats_of(h).stalls, ==, 1);
    g_assert_cmpuint(stats_of(h).resident, ==, MEMSWAP_MIN_LIMIT);
    harness_tick(h, 7654321);

    release(h);
    g_assert_cmpint(task_join(task), ==, 0);
    wait_until(h->traces[MEMSWAP_TRACE_STALL]);
    stats = stats_of(h);
    g_assert_cmpuint(stats.stalls, ==, 1);
    g_assert_cmpuint(stats.stall_ns, ==, 7654321);
    g_assert_cmpuint(stats.overshoots, ==, 0);
    g_assert_cmpuint(stats.peak_resident, ==, MEMSWAP_MIN_LIMIT);
    g_assert_cmpuint(h->traces[MEMSWAP_TRACE_STALL], ==, 1);
    check_pages(h, 0, LIMIT_PAGES);
    wait_until(stats_of(h).resident <= MEMSWAP_MIN_LIMIT - PAGE);
    harness_free(h);
}

/* While somebody waits for threads that fault, none of them is held back. */
static void test_hold_nobody(void)
{
    Harness *h = harness_held(&harness_evicting);
    Task *task = start_held(h, LIMIT_PAGES);

    memswap_hold_nobody(h->engine, true);
    memswap_hold_nobody(h->engine, true);
    g_assert_cmpint(task_join(task), ==, 0);
    memswap_hold_nobody(h->engine, false);
    /* nested: still on */
    ram_check(h, LIMIT_PAGES + 1, 0);
    /* more if a page of zeroes was taken out again before it was read */
    g_assert_cmpuint(stats_of(h).overshoots, >=, 2);

    memswap_hold_nobody(h->engine, false);
    expect_held(h, LIMIT_PAGES + 2);
    harness_free(h);
}

/*
 * The same if somebody is found to wait for them, although nobody said so
 * before: those that are held back by then go on.
 */
static void test_held_up(void)
{
    Harness *h = harness_held(&harness_evicting);
    Task *task = start_held(h, LIMIT_PAGES);

    atomic_store(&h->held_up, true);
    g_assert_cmpint(task_join(task), ==, 0);
    atomic_store(&h->held_up, false);
    g_assert_cmpuint(stats_of(h).overshoots, >=, 1);

    expect_held(h, LIMIT_PAGES + 1);
    harness_free(h);
}

/*
 * Those who wait longest are served first.  (Threads that wait themselves all
 * take their chance at once.)
 */
static void test_stall_order(void)
{
    HarnessOptions options = harness_evicting;
    Harness *h;
    Task *tasks[4];

    options.events_only = true;
    h = harness_held(&options);
    for (unsigned int i = 0; i < G_N_ELEMENTS(tasks); i++) {
        tasks[i] = task_start(h, task_read, LIMIT_PAGES + i);
        wait_until(atomic_load(&h->engine->n_stalled) == i + 1);
    }
    harness_set_limit(h, MEMSWAP_MIN_LIMIT + 2 * PAGE, 0);
    for (unsigned int i = 0; i < G_N_ELEMENTS(tasks); i++) {
        g_assert_cmpint(task_join(tasks[i]), ==, 0);
    }
    wait_until(atomic_load(&h->n_stall_traces) >= G_N_ELEMENTS(tasks));
    for (unsigned int i = 0; i < G_N_ELEMENTS(tasks); i++) {
        g_assert_cmpuint(h->stall_traces[i], ==, (LIMIT_PAGES + i) * PAGE);
    }
    /* more if one was taken out again before it was read */
    g_assert_cmpuint(stats_of(h).stalls, >=, 4);
    release(h);
    harness_free(h);
}

static void on_signal(int number)
{
}

/* A signal makes the kernel report the same fault again. */
static void test_stall_signal(void)
{
    struct sigaction action = { .sa_handler = on_signal }, old;
    HarnessOptions options = harness_evicting;
    Harness *h;
    unsigned int faults;
    Task *task;
    GDir *dir;
    const char *name;

    sigaction(SIGUSR1, &action, &old);
    options.events_only = true;
    h = harness_held(&options);
    faults = h->traces[MEMSWAP_TRACE_FAULT];
    task = task_start(h, task_read, LIMIT_PAGES);
    wait_until(h->traces[MEMSWAP_TRACE_FAULT] == faults + 1);
    for (unsigned int i = 2; i < 5; i++) {
        /* all threads: only the one that faults has something to repeat */
        dir = g_dir_open("/proc/self/task", 0, NULL);
        while ((name = g_dir_read_name(dir))) {
            syscall(SYS_tgkill, getpid(), atoi(name), SIGUSR1);
        }
        g_dir_close(dir);
        wait_until(h->traces[MEMSWAP_TRACE_FAULT] >= faults + i);
    }
    g_assert_cmpuint(stats_of(h).stalls, ==, 1);
    g_assert_cmpuint(atomic_load(&h->engine->n_stalled), ==, 1);
    release(h);
    g_assert_cmpint(task_join(task), ==, 0);
    harness_set_limit(h, 2 * MIB, 0);
    wait_until(!atomic_load(&h->engine->n_stalled));
    sigaction(SIGUSR1, &old, NULL);
    harness_free(h);
}

/*
 * Without evictors, whoever makes room serves those who wait for it: a higher
 * limit, a reclaim, a discard.
 */
static int64_t raise_limit(Harness *h, uint64_t arg)
{
    harness_set_limit(h, 2 * MIB, 0);
    return 0;
}

static int64_t release_and_reclaim(Harness *h, uint64_t arg)
{
    uint64_t got;

    release(h);
    got = memswap_reclaim(h->engine, PAGE);
    if (!h->engine->inline_faults) {
        g_assert_cmpuint(got, ==, PAGE);
    }
    /* else the thread that waits, and tries as well, may have got it */
    return 0;
}

static int64_t discard_one(Harness *h, uint64_t arg)
{
    g_assert_cmpint(task_discard(h, 5), ==, 0);
    return 0;
}

static void test_stall_without_evictors(void)
{
    static TaskFunction *const ways[] = {
        raise_limit, release_and_reclaim, discard_one,
    };

    for (unsigned int i = 0; i < G_N_ELEMENTS(ways); i++) {
        Harness *h = harness_held(&(HarnessOptions) {
            .size = 4 * MIB, .limit = MEMSWAP_MIN_LIMIT,
        });
        Task *task = task_start(h, task_write, LIMIT_PAGES);
        Task *way;

        wait_until(atomic_load(&h->engine->n_stalled) == 1);
        task_check_waits(task);
        way = task_start(h, ways[i], 0);
        task_join(task);
        release(h);
        memswap_reclaim(h->engine, PAGE);
        task_join(way);
        g_assert_cmpuint(stats_of(h).overshoots, ==, 0);
        /* Not before: a page of zeroes leaves although the store is full. */
        ram_fill(h, 5, 11);
        check_pages(h, 0, LIMIT_PAGES + 1);
        harness_free(h);
    }
}

/* --- passed ------------------------------------------------------------ */

/* Who may not be held back passes the limit, and is counted. */
static void test_overshoot(void)
{
    Harness *h = harness_held(&(HarnessOptions) {
        .size = 4 * MIB, .limit = MEMSWAP_MIN_LIMIT,
    });
    MemswapStats stats;

    atomic_store(&h->may_not_hold_back, true);
    check_pages(h, 0, LIMIT_PAGES);
    write_pages(h, LIMIT_PAGES, 10);
    stats = stats_of(h);
    g_assert_cmpuint(stats.overshoots, ==, 10);
    g_assert_cmpuint(stats.stalls, ==, 0);
    g_assert_cmpuint(stats.resident, ==, MEMSWAP_MIN_LIMIT + 10 * PAGE);
    g_assert_cmpuint(stats.peak_resident, ==, stats.resident);

    /* it is taken back as soon as it can be */
    atomic_store(&h->may_not_hold_back, false);
    release(h);
    write_pages(h, LIMIT_PAGES + 10, 1);
    stats = stats_of(h);
    g_assert_cmpuint(stats.resident, ==, MEMSWAP_MIN_LIMIT);
    g_assert_cmpuint(stats.evictions, ==, 11);
    check_pages(h, 0, LIMIT_PAGES + 11);
    harness_free(h);
}

/* With next to all of it pinned the limit can't be held. */
static void test_all_pinned(void)
{
    Harness *h = harness_new(&harness_evicting);

    g_assert_cmpint(memswap_pin_with(h->engine, h->ram.host,
                                     MEMSWAP_MIN_LIMIT, MEMSWAP_PIN_FORCE),
                    ==, 0);
    write_pages(h, 0, LIMIT_PAGES + 100);
    g_assert_cmpuint(stats_of(h).overshoots, >, 0);
    check_pages(h, 0, LIMIT_PAGES + 100);
    memswap_unpin(h->engine, h->ram.host, MEMSWAP_MIN_LIMIT);
    wait_until(atomic_load(&h->engine->charged) <= MEMSWAP_MIN_LIMIT - PAGE);
    harness_free(h);
}

/* A pin waits for room for a moment, then takes it. */
static void test_pin_overshoots(void)
{
    Harness *h = harness_held(&harness_evicting);
    int64_t before = g_get_monotonic_time();
    MemswapStats stats;

    g_assert_cmpint(task_pin(h, LIMIT_PAGES), ==, 0);
    g_assert_cmpint(g_get_monotonic_time() - before, >=, 50000);
    stats = stats_of(h);
    g_assert_cmpuint(stats.overshoots, ==, 1);
    g_assert_cmpuint(stats.stalls, ==, 1);
    g_assert_cmpuint(stats.stall_ns, >=, 1000000);
    g_assert_cmpuint(stats.pinned, ==, PAGE);

    /* at once, if somebody could be waiting for it */
    atomic_store(&h->may_not_hold_back, true);
    g_assert_cmpint(task_pin(h, LIMIT_PAGES + 1), ==, 0);
    stats = stats_of(h);
    g_assert_cmpuint(stats.overshoots, ==, 2);
    memswap_unpin(h->engine, h->ram.host + MEMSWAP_MIN_LIMIT, 2 * PAGE);
    atomic_store(&h->may_not_hold_back, false);
    release(h);
    wait_until(atomic_load(&h->engine->charged) <= MEMSWAP_MIN_LIMIT - PAGE);
    harness_free(h);
}

/* --- changed ----------------------------------------------------------- */

static void test_lowered(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 8 * MIB, .limit = 6 * MIB,
    });
    uint64_t pages = 6 * MIB / PAGE;
    MemswapStats stats;

    write_pages(h, 0, pages);
    harness_set_limit(h, 2 * MIB, 0);
    g_assert_cmpuint(stats_of(h).resident, ==, 6 * MIB);
    /* without evictors the next fault pays */
    write_pages(h, pages, 1);
    stats = stats_of(h);
    g_assert_cmpuint(stats.resident, ==, 2 * MIB);
    g_assert_cmpuint(stats.evictions, ==, 4 * MIB / PAGE + 1);
    harness_check(h);
    /* raised again: nothing more has to leave */
    harness_set_limit(h, 7 * MIB, 0);
    check_pages(h, 0, pages + 1);
    stats = stats_of(h);
    g_assert_cmpuint(stats.evictions, ==, 4 * MIB / PAGE + 1);
    g_assert_cmpuint(stats.resident, ==, 6 * MIB + PAGE);
    harness_free(h);
}

static void test_lowered_in_background(void)
{
    HarnessOptions options = harness_evicting;
    Harness *h;

    options.size = 16 * MIB;
    options.limit = 16 * MIB;
    h = harness_new(&options);
    write_pages(h, 0, 3000);
    for (uint64_t limit = 8 * MIB; limit >= MIB; limit /= 2) {
        harness_set_limit(h, limit, 0);
        wait_until(ram_cached(&h->ram) <= limit);
    }
    g_assert_cmpuint(stats_of(h).stalls, ==, 0);
    check_pages(h, 0, 3000);
    wait_until(atomic_load(&h->engine->charged) <= MIB - PAGE &&
               !atomic_load(&h->engine->n_stalled) &&
               ram_cached(&h->ram) == atomic_load(&h->engine->charged));
    g_assert_cmpuint(stats_of(h).peak_resident, <=, 16 * MIB);
    harness_set_limit(h, 16 * MIB, 0);
    harness_free(h);
}

/* Wrong settings change nothing and say why in one line. */
/*
 * While the charge is above a lowered limit, faults get half of what leaves,
 * in what parts ever: in no more than a page at a time as well.
 */
static void test_lowered_shared(void)
{
    static const uint64_t parts[] = { PAGE, 2 * PAGE, 32 * PAGE, 2 * MIB };
    const uint64_t limit = 32 * MIB, above = 16 * MIB;

    for (unsigned int i = 0; i < G_N_ELEMENTS(parts); i++) {
        Harness *h = harness_new(&(HarnessOptions) {
            .size = 64 * MIB, .limit = limit + above,
        });
        MemswapEngine *engine = h->engine;
        uint64_t gone = 0, come = 0;

        g_assert_true(memswap_charge(engine, limit + above, false));
        harness_set_limit(h, limit, 0);
        while (atomic_load(&engine->charged) > limit) {
            memswap_uncharge(engine, parts[i]);
            gone += parts[i];
            while (memswap_charge(engine, PAGE, false)) {
                come += PAGE;
            }
        }
        g_assert_cmpuint(come, >=, above - 2 * parts[i]);
        g_assert_cmpuint(gone, <=, 2 * above + 2 * parts[i]);
        g_assert_cmpuint(atomic_load(&engine->ceiling), <=, limit + parts[i]);
        memswap_uncharge(engine, atomic_load(&engine->charged));
        g_assert_cmpuint(atomic_load(&engine->ceiling), ==, limit);
        g_assert_cmpuint(stats_of(h).overshoots, ==, 0);
        harness_free(h);
    }
}

static void test_refused(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 4 * MIB, .limit = 2 * MIB,
        .reserve_low = 16 * PAGE, .reserve_high = MEMSWAP_MIN_LIMIT + PAGE,
    });
    static const MemswapSettings wrong[] = {
        { .limit = 0 },
        { .limit = MEMSWAP_MIN_LIMIT - 1 },
        /* no more than the reserve */
        { .limit = MEMSWAP_MIN_LIMIT + PAGE },
        /* less than is pinned */
        { .limit = MEMSWAP_MIN_LIMIT + 7 * PAGE },
        { .limit = 2 * MIB, .compression_level = 1000 },
        { .limit = 2 * MIB, .compression_level = -1000000 },
        { .limit = 2 * MIB, .codec = 2 },
        { .limit = 2 * MIB, .codec = -1 },
        { .limit = 2 * MIB, .when_full = 2 },
        { .limit = 2 * MIB, .when_full = -1 },
        { .limit = 2 * MIB, .pool_limit = MEMSWAP_MIN_POOL_LIMIT - 1 },
        { .limit = 2 * MIB, .pin_limit = 2 * MIB + 1 },
        { .limit = 2 * MIB, .pin_limit = MEMSWAP_MIN_PIN_LIMIT - 1 },
    };
    const uint64_t pinned = MEMSWAP_MIN_LIMIT + 8 * PAGE;
    unsigned int configures = h->store->configures;
    MemswapSettings now;
    char *error = NULL;

    g_assert_cmpint(memswap_pin(h->engine, h->ram.host, pinned), ==, 0);
    for (unsigned int i = 0; i < G_N_ELEMENTS(wrong); i++) {
        MemswapSettings new = wrong[i];

        new.pool_limit = new.pool_limit ?: 2 * MEMSWAP_MIN_POOL_LIMIT;
        g_assert_cmpint(memswap_set_settings(h->engine, &new, &error), ==,
                        -EINVAL);
        g_assert_nonnull(error);
        g_assert_null(strchr(error, '\n'));
        g_clear_pointer(&error, g_free);
        g_assert_cmpint(memswap_set_settings(h->engine, &new, NULL), ==,
                        -EINVAL);
        memswap_get_settings(h->engine, &now);
        g_assert_cmpuint(now.limit, ==, h->settings.limit);
        g_assert_cmpuint(now.pool_limit, ==, h->settings.pool_limit);
        g_assert_cmpint(now.codec, ==, h->settings.codec);
        g_assert_cmpint(now.compression_level, ==,
                        h->settings.compression_level);
        g_assert_cmpint(now.when_full, ==, h->settings.when_full);
        /* but for what depends on this engine, any would refuse it */
        g_assert_cmpint(memswap_settings_in_range(&new, NULL), ==,
                        new.limit > MEMSWAP_MIN_LIMIT &&
                        new.limit < 2 * MIB);
    }
    g_assert_cmpuint(h->store->configures, ==, configures);

    now.limit = pinned;
    now.pool_limit = 5 * MIB;
    now.codec = MEMSWAP_CODEC_LZ4;
    now.compression_level = 3;
    now.when_full = MEMSWAP_FULL_OVERSHOOT;
    g_assert_cmpint(memswap_set_settings(h->engine, &now, NULL), ==, 0);
    memswap_get_settings(h->engine, &now);
    g_assert_cmpuint(now.limit, ==, pinned);
    g_assert_cmpuint(now.pool_limit, ==, 5 * MIB);
    g_assert_cmpint(now.codec, ==, MEMSWAP_CODEC_LZ4);
    g_assert_cmpint(now.compression_level, ==, 3);
    g_assert_cmpint(now.when_full, ==, MEMSWAP_FULL_OVERSHOOT);
    g_assert_cmpuint(h->store->limit, ==, 5 * MIB);
    g_assert_cmpint(h->store->codec, ==, MEMSWAP_CODEC_LZ4);
    memswap_unpin(h->engine, h->ram.host, pinned);
    harness_free(h);
}

static void test_refused_at_start(void)
{
    MemswapConfig config = { .settings = { .limit = 5 }, .uffd = -1 };
    MemswapEngine *engine = NULL;
    char *error = NULL;

    g_assert_cmpint(memswap_engine_new(&config, NULL, NULL, &engine, &error),
                    ==, -EINVAL);
    g_assert_nonnull(error);
    g_assert_null(engine);
    g_free(error);
    g_assert_cmpint(memswap_engine_new(&config, NULL, NULL, &engine, NULL),
                    ==, -EINVAL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/limit/stall", test_stall);
    g_test_add_func("/limit/stall/order", test_stall_order);
    g_test_add_func("/limit/stall/nobody", test_hold_nobody);
    g_test_add_func("/limit/stall/held-up", test_held_up);
    g_test_add_func("/limit/stall/signal", test_stall_signal);
    g_test_add_func("/limit/stall/without-evictors",
                    test_stall_without_evictors);
    g_test_add_func("/limit/overshoot", test_overshoot);
    g_test_add_func("/limit/all-pinned", test_all_pinned);
    g_test_add_func("/limit/pin-overshoots", test_pin_overshoots);
    g_test_add_func("/limit/lowered", test_lowered);
    g_test_add_func("/limit/lowered/in-background",
                    test_lowered_in_background);
    g_test_add_func("/limit/lowered/shared", test_lowered_shared);
    g_test_add_func("/limit/refused", test_refused);
    g_test_add_func("/limit/refused/at-start", test_refused_at_start);
    return g_test_run();
}

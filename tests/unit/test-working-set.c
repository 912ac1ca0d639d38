/*
 * Tests of the policy "working-set": what a squeeze took comes back, in order,
 * and at nobody's cost
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>

#include "policy-internal.h"
#include "puppets.h"

#define N_PAGES 2048ULL         /* written; as many again fit */
#define SQUEEZED (4 * MIB)

static Harness *harness_with(const HarnessOptions *options)
{
    Harness *h = harness_new(options);

    builtin_add(h, "w", "working-set");
    write_pages(h, 0, N_PAGES);
    puppet_settle(h, "w");
    return h;
}

static Harness *harness_small(void)
{
    return harness_with(&(HarnessOptions) { .size = 16 * MIB });
}

static uint64_t counter(Harness *h, const char *name)
{
    return puppet_counter(h, "w", name);
}

static void wait_rounds(Harness *h, uint64_t n)
{
    wait_until(counter(h, "rounds") >= n);
    puppet_settle(h, "w");
}

static uint64_t fetched(Harness *h)
{
    MemswapStats stats = stats_of(h);

    return stats.faults[MEMSWAP_FAULT_STORED] +
           stats.faults[MEMSWAP_FAULT_SAME];
}

static void squeeze(Harness *h, uint64_t limit)
{
    harness_set_limit(h, limit, 0);
    /* it is to see what is mapped, before any of it is on trial */
    puppet_settle(h, "w");
    memswap_reclaim(h->engine, atomic_load(&h->engine->charged) - limit);
    g_assert_cmpuint(stats_of(h).resident, <=, limit);
    puppet_settle(h, "w");
}

/* All of it comes back, and nothing is to be fetched by a touch. */
static void test_squeeze(void)
{
    Harness *h = harness_small();
    uint64_t evicted, before;

    squeeze(h, SQUEEZED);
    evicted = stats_of(h).evictions;
    g_assert_cmpuint(evicted, >=, N_PAGES - SQUEEZED / PAGE);
    g_assert_cmpuint(counter(h, "restored"), ==, 0);
    harness_set_limit(h, 16 * MIB, 0);
    wait_rounds(h, 1);
    g_assert_cmpuint(counter(h, "restored"), ==, evicted);
    g_assert_cmpuint(stats_of(h).resident, ==, N_PAGES * PAGE);
    g_assert_cmpuint(stats_of(h).evictions, ==, evicted);
    before = fetched(h);
    check_pages(h, 0, N_PAGES);
    g_assert_cmpuint(fetched(h), ==, before);
    g_assert_cmpuint(puppet_status(h, "w").wasted, ==, 0);
    /* once is enough: there is nothing left to bring */
    harness_set_limit(h, N_PAGES * PAGE, 0);
    puppet_settle(h, "w");
    harness_set_limit(h, 16 * MIB, 0);
    wait_rounds(h, 2);
    g_assert_cmpuint(counter(h, "restored"), ==, evicted);
    harness_check(h);
    harness_free(h);
}

/* What left before isn't wanted back: it was cold with the whole limit. */
static void test_before(void)
{
    Harness *h = harness_small();

    g_assert_cmpint(memswap_policy_set(h->engine, "w", "idle", "0", NULL),
                    ==, 0);
    memswap_reclaim(h->engine, UINT64_MAX);
    /* told of later, these would count as what the squeeze took */
    puppet_settle(h, "w");
    check_pages(h, 0, 1536);
    squeeze(h, MIB);
    harness_set_limit(h, 16 * MIB, 0);
    wait_rounds(h, 1);
    g_assert_cmpuint(stats_of(h).resident, ==, 1536 * PAGE);
    g_assert_cmpint(ram_state(&h->ram, 1535), !=, MEMSWAP_STORED);
    g_assert_cmpint(ram_state(&h->ram, 1536), ==, MEMSWAP_STORED);
    harness_free(h);
}

/* What was used during the squeeze comes first. */
static void test_order(void)
{
    Harness *h = harness_small();

    squeeze(h, 2 * MIB);
    memswap_reclaim(h->engine, UINT64_MAX);
    puppet_settle(h, "w");
    /* one page in four, and one that is new */
    for (uint64_t page = 0; page < N_PAGES; page += 4) {
        ram_touch(h, page);
    }
    puppet_settle(h, "w");
    memswap_reclaim(h->engine, UINT64_MAX);
    ram_fill(h, N_PAGES, 2 * N_PAGES + 1);
    puppet_settle(h, "w");
    memswap_reclaim(h->engine, UINT64_MAX);
    puppet_settle(h, "w");
    /* room for these, and one region's worth of others */
    harness_set_limit(h, 4 * MIB, 0);
    wait_until(stats_of(h).resident == 4 * MIB);
    for (uint64_t page = 0; page < N_PAGES; page += 4) {
        g_assert_cmpint(ram_state(&h->ram, page), !=, MEMSWAP_STORED);
    }
    g_assert_cmpint(ram_state(&h->ram, 1), !=, MEMSWAP_STORED);
    g_assert_cmpint(ram_state(&h->ram, N_PAGES - 1), ==, MEMSWAP_STORED);
    g_assert_cmpint(ram_state(&h->ram, N_PAGES), ==, MEMSWAP_STORED);
    g_assert_cmpuint(counter(h, "rounds"), ==, 0);
    /* the rest when there is room for it, too */
    harness_set_limit(h, 16 * MIB, 0);
    wait_rounds(h, 1);
    g_assert_cmpuint(stats_of(h).resident, ==, (N_PAGES + 1) * PAGE);
    check_pages(h, 0, N_PAGES + 1);
    harness_check(h);
    harness_free(h);
}

/* Nobody is evicted for it, and the reserve stays. */
static void test_room(void)
{
    Harness *h = harness_with(&(HarnessOptions) {
        .size = 16 * MIB, .evictors = 1, .reserve_low = MIB,
        .reserve_high = 2 * MIB,
    });
    uint64_t evicted;

    squeeze(h, SQUEEZED);
    wait_until(stats_of(h).resident <= 2 * MIB);
    puppet_settle(h, "w");
    evicted = stats_of(h).evictions;
    harness_set_limit(h, 8 * MIB, 0);
    wait_until(stats_of(h).resident == 6 * MIB);
    g_usleep(NOT_YET_US);
    g_assert_cmpuint(stats_of(h).resident, ==, 6 * MIB);
    g_assert_cmpuint(stats_of(h).evictions, ==, evicted);
    /* room that comes of itself is as good, once there is a batch of it */
    g_assert_cmpint(memswap_policy_set(h->engine, "w", "batch", "2", NULL),
                    ==, 0);
    /* of which no more than half is away */
    memswap_discard(h->engine, h->ram.host, 4 * MIB);
    wait_until(stats_of(h).resident == N_PAGES * PAGE - 4 * MIB);
    g_assert_cmpuint(stats_of(h).evictions, ==, evicted);
    check_pages(h, 1024, N_PAGES - 1024);
    /* the last page has come, but is in its hands still, perhaps */
    puppet_settle(h, "w");
    harness_check(h);
    harness_free(h);
}

/* What is on trial since the squeeze does not fault, either. */
static void test_trial(void)
{
    Harness *h = harness_small();
    MemswapStats stats;
    uint64_t before;

    harness_set_limit(h, SQUEEZED, 0);
    puppet_settle(h, "w");
    memswap_reclaim(h->engine, 7 * MIB);
    for (uint64_t i = 0; i < N_PAGES / REGION_PAGES; i++) {
        MemswapRegion *region = &h->ram.block->regions[i];

        memswap_region_own(region);
        memswap_trial_region(h->ram.block, i);
        memswap_region_disown(region);
    }
    stats = stats_of(h);
    g_assert_cmpuint(stats.trial, ==, MIB);
    before = stats.faults[MEMSWAP_FAULT_TRIAL];
    harness_set_limit(h, 16 * MIB, 0);
    wait_rounds(h, 1);
    /* but for those watched */
    g_assert_cmpuint(stats_of(h).trial, <=, 7 * MIB / 16 + 8 * PAGE);
    g_assert_cmpuint(counter(h, "restored"), ==, 7 * MIB / PAGE);
    check_pages(h, 0, N_PAGES);
    g_assert_cmpuint(stats_of(h).faults[MEMSWAP_FAULT_TRIAL] - before, <=,
                     7 * MIB / PAGE / 16 + 8);
    harness_check(h);
    harness_free(h);
}

/* What was forgotten, or freed, meanwhile does not come. */
static void test_changes(void)
{
    Harness *h = harness_small();
    Ram other = ram_new(2 * MIB, 0);

    ram_add(h, &other, "other");
    for (uint64_t i = 0; i < 512; i++) {
        *(_Atomic uint64_t *)(other.host + i * PAGE) = i + 1;
    }
    squeeze(h, SQUEEZED);
    memswap_reclaim(h->engine, UINT64_MAX);
    puppet_settle(h, "w");
    memswap_discard(h->engine, h->ram.host + 100 * PAGE, 100 * PAGE);
    ram_remove(h, &other);
    puppet_settle(h, "w");
    /* another one in its place, of which nothing is known */
    ram_free(&other);
    other = ram_new(4 * MIB, 0);
    ram_add(h, &other, "another");
    harness_set_limit(h, 16 * MIB, 0);
    wait_rounds(h, 1);
    g_assert_cmpuint(stats_of(h).resident, ==, (N_PAGES - 100) * PAGE);
    g_assert_cmpuint(counter(h, "restored"), ==, N_PAGES - 100);
    memswap_guest_reset(h->engine);
    harness_check(h);
    ram_remove(h, &other);
    ram_free(&other);
    harness_free(h);
}

/* Squeezed in steps: the first is what counts. */
static void test_steps(void)
{
    Harness *h = harness_small();

    squeeze(h, 6 * MIB);
    squeeze(h, 3 * MIB);
    squeeze(h, MIB);
    harness_set_limit(h, 16 * MIB, 0);
    wait_rounds(h, 1);
    g_assert_cmpuint(stats_of(h).resident, ==, N_PAGES * PAGE);
    harness_free(h);
}

/* Wait until it has looked around by itself. */
static void wait_ticks(Harness *h, uint64_t n)
{
    uint64_t before = puppet_status(h, "w").events;

    wait_until(puppet_status(h, "w").events >= before + n);
}

/* With room left it is a squeeze only when the guest has grown. */
static void test_slack(void)
{
    Harness *h = harness_with(&(HarnessOptions) { .size = 64 * MIB });

    g_assert_cmpint(memswap_policy_set(h->engine, "w", "batch", "2", NULL),
                    ==, 0);
    harness_set_limit(h, 48 * MIB, 0);
    wait_ticks(h, 2);
    /* in steps that leave it no more events than there is room for */
    for (uint64_t page = N_PAGES; page < 8 * N_PAGES; page += N_PAGES / 2) {
        write_pages(h, page, N_PAGES / 2);
        puppet_settle(h, "w");
    }
    g_assert_cmpuint(puppet_status(h, "w").dropped, ==, 0);
    g_assert_cmpuint(stats_of(h).evictions, >=, 2 * N_PAGES);
    g_assert_cmpuint(counter(h, "restored"), ==, 0);
    harness_set_limit(h, 64 * MIB, 0);
    wait_rounds(h, 1);
    g_assert_cmpuint(stats_of(h).resident, ==, 8 * N_PAGES * PAGE);
    harness_check(h);
    harness_free(h);
}

/* Nor is it one while an idle guest's pages leave: they wait for the guest. */
static void test_slack_idle(void)
{
    Harness *h = harness_small();

    harness_set_limit(h, 12 * MIB, 0);
    puppet_settle(h, "w");
    memswap_reclaim(h->engine, UINT64_MAX);
    puppet_settle(h, "w");
    harness_set_limit(h, 16 * MIB, 0);
    wait_ticks(h, 2);
    g_assert_cmpuint(counter(h, "idle"), ==, N_PAGES);
    g_assert_cmpuint(stats_of(h).resident, ==, 0);
    check_pages(h, 0, 70);
    wait_rounds(h, 1);
    g_assert_cmpuint(stats_of(h).resident, ==, N_PAGES * PAGE);
    harness_free(h);
}

/* What it brought back itself is not what the guest came for. */
static void test_own(void)
{
    Harness *h = harness_small();

    squeeze(h, 2 * MIB);
    memswap_reclaim(h->engine, UINT64_MAX);
    puppet_settle(h, "w");
    /* the first in the order of addresses */
    harness_set_limit(h, 3 * MIB, 0);
    wait_until(stats_of(h).resident == 3 * MIB);
    /* not in vain, or it would be throttled */
    check_pages(h, 0, 768);
    puppet_settle(h, "w");
    memswap_reclaim(h->engine, UINT64_MAX);
    puppet_settle(h, "w");
    check_pages(h, 1024, 256);
    puppet_settle(h, "w");
    memswap_reclaim(h->engine, UINT64_MAX);
    puppet_settle(h, "w");
    harness_set_limit(h, MIB, 0);
    puppet_settle(h, "w");
    harness_set_limit(h, 2 * MIB, 0);
    wait_until(stats_of(h).resident == 2 * MIB);
    for (uint64_t page = 1024; page < 1024 + 256; page++) {
        g_assert_cmpint(ram_state(&h->ram, page), !=, MEMSWAP_STORED);
    }
    g_assert_cmpint(ram_state(&h->ram, 768), !=, MEMSWAP_STORED);
    g_assert_cmpint(ram_state(&h->ram, 0), ==, MEMSWAP_STORED);
    puppet_settle(h, "w");
    harness_check(h);
    harness_free(h);
}

/* Short of requests it takes longer, and does the same. */
static void test_poor(void)
{
    Harness *h = harness_small();

    puppet_budget(h, 100);
    squeeze(h, 6 * MIB);
    squeeze(h, SQUEEZED);
    harness_set_limit(h, 16 * MIB, 0);
    wait_rounds(h, 1);
    g_assert_cmpuint(stats_of(h).resident, ==, N_PAGES * PAGE);
    g_assert_cmpuint(puppet_status(h, "w").refused, >, 0);
    harness_free(h);
}

/*
 * However many regions there are, it is never away for long.  Here by a small
 * budget, which makes of a thousand regions as much as of a hundred thousand.
 */
static void test_slices(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 2048 * MIB });
    uint64_t n = 2048 * MIB / MEMSWAP_REGION_SIZE;

    builtin_add(h, "w", "working-set");
    for (uint64_t region = 0; region < n; region++) {
        ram_fill(h, region * REGION_PAGES, 2 * region + 1);
    }
    puppet_settle(h, "w");
    puppet_budget(h, 2000);
    atomic_store(&h->engine->policies.patience, 1000000000LL);
    harness_set_limit(h, n / 2 * PAGE, 0);
    /* events come, and wait to be handled */
    memswap_reclaim(h->engine, n / 2 * PAGE);
    puppet_settle(h, "w");
    harness_set_limit(h, 2048 * MIB, 0);
    harness_set_limit(h, 2047 * MIB, 0);
    wait_rounds(h, 1);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR), ==, 0);
    g_assert_cmpuint(stats_of(h).resident, ==, n * PAGE);
    harness_free(h);
}

/* A guest that uses none of it gets less and less. */
static void test_waste(void)
{
    Harness *h = harness_small();
    MemswapPolicyStatus status;
    unsigned int rounds = 0;

    while (stats_of(h).resident > MIB) {
        g_assert_cmpuint(rounds, <, 8);
        squeeze(h, MIB);
        memswap_reclaim(h->engine, UINT64_MAX);
        puppet_settle(h, "w");
        harness_set_limit(h, 16 * MIB, 0);
        wait_rounds(h, ++rounds);
    }
    status = puppet_status(h, "w");
    g_assert_cmpuint(status.hits, ==, 0);
    /* what is throttled isn't there to be recorded the next time */
    g_assert_cmpuint(status.throttled, >, N_PAGES / 2);
    g_assert_cmpuint(status.prefetched, <, 4 * N_PAGES);
    check_pages(h, 0, N_PAGES);
    harness_free(h);
}

/* An event that got lost: it looks by itself. */
static void test_lost_event(void)
{
    Harness *h = harness_small();

    squeeze(h, SQUEEZED);
    atomic_store(&h->engine->limit, 16 * MIB);
    wait_rounds(h, 1);
    g_assert_cmpuint(stats_of(h).resident, ==, N_PAGES * PAGE);
    harness_free(h);
}

static void test_idle(void)
{
    Harness *h = harness_small();

    memswap_reclaim(h->engine, UINT64_MAX);
    puppet_settle(h, "w");
    /* now and then a page: it stays idle */
    check_pages(h, 0, 40);
    g_usleep(NOT_YET_US);
    g_assert_cmpuint(stats_of(h).resident, ==, 40 * PAGE);
    check_pages(h, 40, 30);
    wait_rounds(h, 1);
    g_assert_cmpuint(stats_of(h).resident, ==, N_PAGES * PAGE);
    check_pages(h, 0, N_PAGES);
    /* not with this option */
    memswap_policy_set(h->engine, "w", "idle", "0", NULL);
    memswap_reclaim(h->engine, UINT64_MAX);
    check_pages(h, 0, 200);
    puppet_settle(h, "w");
    g_usleep(NOT_YET_US);
    g_assert_cmpuint(stats_of(h).resident, ==, 200 * PAGE);
    harness_check(h);
    harness_free(h);
}

/*
 * A part of what it left has to be touched: of what is still away, and counted
 * once.
 */
static void test_idle_part(void)
{
    Harness *h = harness_with(&(HarnessOptions) { .size = 64 * MIB });
    uint64_t n = 32 * MIB / PAGE;

    for (unsigned int i = 0; i < 4; i++) {
        memswap_discard(h->engine, h->ram.host, 64 * MIB);
        write_pages(h, 0, n);
        memswap_reclaim(h->engine, UINT64_MAX);
        puppet_settle(h, "w");
    }
    wait_until(counter(h, "idle") == n);
    check_pages(h, 0, n / 64 - 8);
    puppet_settle(h, "w");
    g_assert_cmpuint(counter(h, "rounds"), ==, 0);
    check_pages(h, n / 64 - 8, 16);
    wait_rounds(h, 1);
    g_assert_cmpuint(stats_of(h).resident, ==, n * PAGE);
    /* not in vain, or it would be throttled; then most of it is given up */
    check_pages(h, 0, n);
    memswap_reclaim(h->engine, UINT64_MAX);
    puppet_settle(h, "w");
    memswap_discard(h->engine, h->ram.host + 4 * MIB, 28 * MIB);
    wait_until(counter(h, "idle") == 1024);
    check_pages(h, 0, 70);
    wait_rounds(h, 2);
    g_assert_cmpuint(stats_of(h).resident, ==, 4 * MIB);
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
        { "batch", "1", -EINVAL }, { "batch", "257", -EINVAL },
        { "batch", "", -EINVAL }, { "batch", "4x", -EINVAL },
        { "batch", "256", 0 }, { "idle", "2", -EINVAL },
        { "idle", "1", 0 }, { "window", "4", -ENOENT },
    };

    for (unsigned int i = 0; i < G_N_ELEMENTS(options); i++) {
        g_assert_cmpint(memswap_policy_set(h->engine, "w", options[i].name,
                                           options[i].value, NULL),
                        ==, options[i].result);
    }
    harness_free(h);
}

/* --- all at once ------------------------------------------------------- */

#define STRESS_PAGES (32 * MIB / PAGE)
#define STRESS_SECONDS 3

typedef struct Stress {
    Harness *h;
    _Atomic bool stop;
} Stress;

static gpointer toucher(gpointer opaque)
{
    Stress *stress = opaque;
    uint32_t random = 7;

    while (!atomic_load(&stress->stop)) {
        uint64_t page;

        random = random * 1664525 + 1013904223;
        /* the first region is discarded now and then */
        page = 512 + (random >> 8) % (STRESS_PAGES - 512);
        ram_check(stress->h, page, 2 * page + 1);
    }
    return NULL;
}

static void test_stress(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = STRESS_PAGES * PAGE, .limit = 40 * MIB, .evictors = 1,
        .readahead = 16 * PAGE, .keep_copies = MIB, .pool = true,
    });
    int64_t end = g_get_monotonic_time() + STRESS_SECONDS * G_USEC_PER_SEC;
    Stress stress = { .h = h };
    uint64_t restored;
    GThread *thread;

    builtin_add(h, "w", "working-set");
    for (uint64_t page = 0; page < STRESS_PAGES; page++) {
        ram_fill(h, page, 2 * page + 1);
    }
    thread = g_thread_new("touch", toucher, &stress);
    /* on a busy machine the toucher may be faster for longer */
    while (g_get_monotonic_time() < end ||
           (!atomic_load(&puppet_host(h, "w")->n_prefetched) &&
            g_get_monotonic_time() < end + PATIENCE_US)) {
        harness_set_limit(h, g_random_int_range(8, 20) * MIB, 0);
        g_usleep(100000);
        harness_set_limit(h, g_random_int_range(20, 40) * MIB, 0);
        g_usleep(50000);
        memswap_discard(h->engine, h->ram.host, 2 * MIB);
        for (uint64_t page = 0; page < 512; page++) {
            ram_fill(h, page, 2 * page + 1);
        }
    }
    atomic_store(&stress.stop, true);
    g_thread_join(thread);
    harness_set_limit(h, 40 * MIB, 0);
    g_test_message("%u pages brought back",
                   (unsigned int)counter(h, "restored"));
    g_assert_cmpuint(counter(h, "restored"), >, 0);
    /* and once more, with nobody who would be faster */
    harness_set_limit(h, 8 * MIB, 0);
    wait_until(stats_of(h).resident <= 8 * MIB);
    puppet_settle(h, "w");
    restored = counter(h, "restored");
    harness_set_limit(h, 40 * MIB, 0);
    wait_until(counter(h, "restored") > restored);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR), ==, 0);
    g_assert_cmpint(memswap_policy_remove(h->engine, "w", NULL), ==, 0);
    for (uint64_t page = 0; page < STRESS_PAGES; page++) {
        ram_check(h, page, 2 * page + 1);
    }
    harness_check(h);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/working-set/squeeze", test_squeeze);
    g_test_add_func("/working-set/before", test_before);
    g_test_add_func("/working-set/order", test_order);
    g_test_add_func("/working-set/room", test_room);
    g_test_add_func("/working-set/trial", test_trial);
    g_test_add_func("/working-set/changes", test_changes);
    g_test_add_func("/working-set/steps", test_steps);
    g_test_add_func("/working-set/slack", test_slack);
    g_test_add_func("/working-set/slack-idle", test_slack_idle);
    g_test_add_func("/working-set/own", test_own);
    g_test_add_func("/working-set/poor", test_poor);
    g_test_add_func("/working-set/slices", test_slices);
    g_test_add_func("/working-set/waste", test_waste);
    g_test_add_func("/working-set/lost-event", test_lost_event);
    g_test_add_func("/working-set/idle", test_idle);
    g_test_add_func("/working-set/idle-part", test_idle_part);
    g_test_add_func("/working-set/options", test_options);
    g_test_add_func("/working-set/stress", test_stress);
    return g_test_run();
}

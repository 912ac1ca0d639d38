/*
 * Tests of the policy "generation", and of its being the default
 *
 * What it chooses is read from the queue of offers, which nobody takes from
 * meanwhile: without evictors only a test reclaims.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>

#include "policy-internal.h"
#include "puppets.h"

/* So few that no more than one is asked for at once. */
#define N_REGIONS 4

static Harness *harness_full(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = N_REGIONS * MEMSWAP_REGION_SIZE, .reclaimer = "generation",
    });

    write_pages(h, 0, N_REGIONS * REGION_PAGES);
    puppet_settle(h, "default");
    return h;
}

/* The region that it offers next. */
static uint64_t next(Harness *h)
{
    MemswapOffers *offers = &h->engine->offers;
    uint64_t region;

    memswap_offers_clear(h->engine);
    memswap_offers_ask(h->engine, 0);
    puppet_settle(h, "default");
    g_mutex_lock(&h->engine->reclaim_lock);
    g_assert_cmpuint(offers->n, ==, 1);
    region = offers->ring[offers->first % MEMSWAP_OFFERS_MAX].region;
    g_mutex_unlock(&h->engine->reclaim_lock);
    return region;
}

/* For how many rounds is region 0 passed by? */
static unsigned int rounds(Harness *h)
{
    unsigned int others = 0;

    while (next(h) != 0) {
        others++;
    }
    g_assert_cmpuint(others % (N_REGIONS - 1), ==, 0);
    for (uint64_t i = 1; i < N_REGIONS; i++) {
        g_assert_cmpuint(next(h), ==, i);
    }
    return others / (N_REGIONS - 1);
}

/* Of so many pages of region 0 on trial, so many left. */
static void tried(Harness *h, uint64_t pages, uint64_t gone)
{
    memswap_policy_emit_tried(h->ram.block, 0, pages, gone);
    puppet_settle(h, "default");
}

static void test_rounds(void)
{
    static const unsigned int longer[] = { 1, 3, 7, 15, 15 };
    Harness *h = harness_full();

    while (next(h) != N_REGIONS - 1) {
        /* it may have begun by itself */
    }
    g_assert_cmpuint(rounds(h), ==, 0);
    for (unsigned int i = 0; i < G_N_ELEMENTS(longer); i++) {
        tried(h, REGION_PAGES, REGION_PAGES / 8 - 1);
        g_assert_cmpuint(rounds(h), ==, longer[i]);
        g_assert_cmpuint(rounds(h), ==, 0);
    }
    tried(h, REGION_PAGES, REGION_PAGES / 8);
    g_assert_cmpuint(rounds(h), ==, 7);
    tried(h, REGION_PAGES, REGION_PAGES);
    g_assert_cmpuint(rounds(h), ==, 3);
    tried(h, 1, 1);
    tried(h, 1, 1);
    g_assert_cmpuint(rounds(h), ==, 0);
    g_assert_cmpuint(puppet_status(h, "default").refused, ==, 0);
    harness_free(h);
}

/* With none but warm regions, they are offered all the same. */
static void test_nothing_else(void)
{
    Harness *h = harness_full();

    next(h);
    for (unsigned int i = 0; i < N_REGIONS; i++) {
        for (unsigned int k = 0; k < 4; k++) {
            memswap_policy_emit_tried(h->ram.block, i, REGION_PAGES, 0);
        }
    }
    puppet_settle(h, "default");
    next(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==,
                     N_REGIONS * MEMSWAP_REGION_SIZE);
    check_pages(h, 0, N_REGIONS * REGION_PAGES);
    harness_free(h);
}

/* Regions of nothing aren't offered; those of a block that goes neither. */
static void test_blocks(void)
{
    Harness *h = harness_full();
    Ram other = ram_new(3 * MIB, 0);
    uint64_t one, two;

    ram_add(h, &other, "other");
    *(_Atomic uint64_t *)(other.host + 2 * MIB) = 1;
    harness_settle(h);
    memswap_discard(h->engine, h->ram.host, 7 * MIB);
    one = next(h);
    two = next(h);
    /* what is left of the one, and of the other */
    g_assert_cmpuint(MIN(one, two), ==, 1);
    g_assert_cmpuint(MAX(one, two), ==, N_REGIONS - 1);
    ram_remove(h, &other);
    ram_free(&other);
    tried(h, 1, 0);
    g_assert_cmpuint(next(h), ==, N_REGIONS - 1);
    harness_free(h);
}

static void emit_tried(Harness *h, unsigned int n)
{
    for (unsigned int i = 0; i < n; i++) {
        memswap_policy_emit_tried(h->ram.block, 1, REGION_PAGES, 0);
    }
}

/* What came of its offers doesn't wake it, but it loses none of that. */
static void test_quiet(void)
{
    Harness *h = harness_full();
    MemswapPolicyHost *host = atomic_load(&h->engine->policies.reclaimer);

    emit_tried(h, MEMSWAP_RING_SLOTS / 2 - 1);
    g_usleep(NOT_YET_US);
    g_assert_true(atomic_load(&host->asleep));
    g_assert_cmpuint(memswap_ring_used(&host->ring), ==,
                     MEMSWAP_RING_SLOTS / 2 - 1);
    emit_tried(h, 1);
    wait_until(memswap_ring_empty(&host->ring) &&
               atomic_load(&host->asleep));
    emit_tried(h, 1);
    next(h);
    g_assert_true(memswap_ring_empty(&host->ring));
    g_assert_cmpuint(puppet_status(h, "default").dropped, ==, 0);
    harness_free(h);
}

/* It says how far gone is behind. */
static void test_behind(void)
{
    Harness *h = harness_full();

    g_assert_cmpuint(atomic_load(&h->engine->behind_percent), ==, 50);
    g_assert_cmpint(memswap_policy_remove(h->engine, "default", NULL), ==, 0);
    g_assert_cmpuint(atomic_load(&h->engine->behind_percent), ==, 0);
    harness_free(h);
}

/* --- the default ------------------------------------------------------- */

/* What there is: "ID:NAME ..." */
static char *policies(Harness *h)
{
    unsigned int n;
    g_autofree MemswapPolicyStatus *list = memswap_policy_list(h->engine, &n);
    GString *text = g_string_new("");

    for (unsigned int i = 0; i < n; i++) {
        g_string_append_printf(text, "%s%s:%s", i ? " " : "", list[i].id,
                               list[i].name);
    }
    return g_string_free(text, false);
}

static bool has_policies(Harness *h, const char *expected)
{
    g_autofree char *found = policies(h);

    return g_str_equal(found, expected);
}

static void expect(Harness *h, const char *expected)
{
    g_autofree char *found = policies(h);

    g_assert_cmpstr(found, ==, expected);
}

static void policy_remove(Harness *h, const char *id)
{
    g_assert_cmpint(memswap_policy_remove(h->engine, id, NULL), ==, 0);
}

static void test_default(void)
{
    Harness *h = harness_full();
    g_autofree char *error = NULL;

    expect(h, "default:generation");
    builtin_add(h, "a", "linear");
    expect(h, "a:linear default:generation");
    /* one that can't be takes nobody's place */
    g_assert_cmpint(puppet_try(h, "p", "refuses", &error), ==, -5);
    expect(h, "a:linear default:generation");
    builtin_add(h, "p", "limit");
    expect(h, "a:linear p:limit");
    g_clear_pointer(&error, g_free);
    g_assert_cmpint(puppet_try(h, "q", "puppet", &error), ==, -EBUSY);
    policy_remove(h, "p");
    expect(h, "a:linear default:generation");
    policy_remove(h, "a");
    /* not any more, once somebody doesn't want it */
    policy_remove(h, "default");
    expect(h, "");
    builtin_add(h, "p", "limit");
    policy_remove(h, "p");
    expect(h, "");
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==,
                     N_REGIONS * MEMSWAP_REGION_SIZE);
    /* unless it is named */
    builtin_add(h, "default", "generation");
    expect(h, "default:generation");
    check_pages(h, 0, N_REGIONS * REGION_PAGES);
    harness_free(h);
}

/* Nobody else takes its id while it makes way. */
static void test_default_id(void)
{
    Harness *h = harness_full();
    MemswapPolicyConfig config = { .id = "default", .builtin = "linear" };
    g_autofree char *error = NULL;

    builtin_add(h, "p", "limit");
    g_assert_cmpint(memswap_policy_add(h->engine, &config, &error), ==,
                    -EEXIST);
    g_assert_nonnull(strstr(error, "'default'"));
    expect(h, "p:limit");
    policy_remove(h, "p");
    expect(h, "default:generation");
    g_clear_pointer(&error, g_free);
    g_assert_cmpint(memswap_policy_add(h->engine, &config, &error), ==,
                    -EEXIST);
    /* once it is not wanted, it is an id as any other */
    policy_remove(h, "default");
    builtin_add(h, "default", "linear");
    expect(h, "default:linear");
    harness_free(h);
}

static void check_refused(const char *name, int expected)
{
    MemswapConfig config = {
        .settings = {
            .limit = 8 * MIB, .pool_limit = UINT64_MAX,
            .compression_level = -5,
        },
        .user_mode_only = true,
        .reclaimer = name,
        .uffd = -1,
    };
    g_autofree char *error = NULL;
    MemswapEngine *engine;

    g_assert_cmpint(memswap_engine_new(&config, NULL, NULL, &engine, &error),
                    ==, expected);
    g_assert_nonnull(error);
}

static void test_refused(void)
{
    check_refused("nonesuch", -ENOENT);
    check_refused("linear", -EINVAL);
}

/* In place of a reclaimer that was given up, and in its own. */
static void test_given_up(void)
{
    Harness *h = harness_full();
    _Atomic int64_t *patience = &h->engine->policies.patience;
    int64_t usual = atomic_load(patience);
    MemswapPolicyHost *host;

    puppet_add(h, "p", "puppet");
    host = atomic_load(&h->engine->policies.reclaimer);
    memswap_policy_give_up(host, MEMSWAP_POLICY_NONSENSE);
    wait_until(has_policies(h, "default:generation"));
    host = atomic_load(&h->engine->policies.reclaimer);
    /* only for the rest: to run it may have to wait longer for a processor */
    atomic_store(patience, 50000000);
    memswap_policy_give_up(host, MEMSWAP_POLICY_HUNG);
    atomic_store(patience, usual);
    /* not at once, lest it go on and on */
    g_assert_false(atomic_load(&h->engine->offers.open));
    expect(h, "");
    g_assert_cmpuint(memswap_reclaim(h->engine, MIB), ==, MIB);
    wait_until(has_policies(h, "default:generation"));
    wait_until(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR) == 2);
    check_pages(h, 0, N_REGIONS * REGION_PAGES);
    harness_free(h);
}

static int64_t touch_all(Harness *h, uint64_t rounds)
{
    uint64_t n = h->ram.size / PAGE;

    for (uint64_t i = 0; i < rounds * n; i++) {
        ram_fill(h, i % n, i % n & 7 ? 2 * (i % n) : 2 * (i % n) + 1);
    }
    return 0;
}

/* At work with evictors, while others take its place now and then. */
static void test_at_work(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 64 * MIB, .limit = 16 * MIB, .evictors = 2,
        .readahead = 64 * PAGE, .reclaimer = "generation",
    });
    Task *task = task_start(h, touch_all, 2);
    unsigned int n = 0;

    while (!task_done(task) || n < 5) {
        g_usleep(5000);
        builtin_add(h, "p", "limit");
        g_usleep(5000);
        policy_remove(h, "p");
        n++;
    }
    task_join(task);
    g_assert_false(atomic_load(&h->engine->policies.armed));
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR), ==, 0);
    expect(h, "default:generation");
    task = task_start(h, touch_all, 1);
    task_join(task);
    g_assert_cmpuint(puppet_counter(h, "default", "offered"), >, 0);
    g_assert_cmpuint(stats_of(h).overshoots, ==, 0);
    wait_until(atomic_load(&h->engine->sleepers) == 2);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/generation/rounds", test_rounds);
    g_test_add_func("/generation/nothing-else", test_nothing_else);
    g_test_add_func("/generation/blocks", test_blocks);
    g_test_add_func("/generation/quiet", test_quiet);
    g_test_add_func("/generation/behind", test_behind);
    g_test_add_func("/generation/default", test_default);
    g_test_add_func("/generation/default-id", test_default_id);
    g_test_add_func("/generation/refused", test_refused);
    g_test_add_func("/generation/given-up", test_given_up);
    g_test_add_func("/generation/at-work", test_at_work);
    return g_test_run();
}

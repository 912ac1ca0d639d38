/*
 * Tests of policies that are slow, or go mad at the wrong time
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <unistd.h>

#include "policy-internal.h"
#include "puppets.h"

/* How long a policy may take here. */
#define SHORT_NS 1000000000LL

static Harness *harness_small(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });

    h->engine->policies.patience = SHORT_NS;
    return h;
}

/* --- given up while the engine goes ------------------------------------ */

static _Atomic bool told_begin, told_end;

/* Somebody reads the engine for a while after GIVEN_UP was set. */
static void slow_event(void *opaque, MemswapEvent event, const char *block,
                       uint64_t offset)
{
    g_assert_cmpint(event, ==, MEMSWAP_EVENT_POLICY_ERROR);
    g_assert_cmpuint(offset, ==, MEMSWAP_POLICY_NONSENSE);
    atomic_store(&told_begin, true);
    g_usleep(300000);
    atomic_store(&told_end, true);
}

static Harness *harness_slow_event(void)
{
    Harness *h = harness_small();

    /* nobody calls it meanwhile */
    h->engine->host.event = slow_event;
    atomic_store(&told_begin, false);
    atomic_store(&told_end, false);
    return h;
}

static void test_free(void)
{
    Harness *h = harness_slow_event();

    puppet_add(h, "p", "puppet");
    g_assert_cmpint(memswap_policy_set(h->engine, "p", "flood-nonsense",
                                       "1000", NULL), ==, -ETIMEDOUT);
    wait_until(atomic_load(&told_begin));
    g_assert_false(atomic_load(&told_end));
    harness_free(h);
    g_assert_true(atomic_load(&told_end));
}

/* The same in start(), so that it was never told of anything. */
static void test_free_start(void)
{
    Harness *h = harness_slow_event();

    g_assert_cmpint(puppet_try(h, "p", "nonsense-start", NULL), ==,
                    -ETIMEDOUT);
    wait_until(atomic_load(&told_begin));
    g_assert_false(atomic_load(&told_end));
    harness_free(h);
    g_assert_true(atomic_load(&told_end));
}

/* --- what is told of them ---------------------------------------------- */

static void check_given_up(Harness *h, unsigned int expected)
{
    g_autofree MemswapPolicyStatus *list = NULL;
    unsigned int n, n_given_up;

    list = memswap_policy_list_all(h->engine, &n, &n_given_up);
    g_assert_cmpuint(n_given_up, ==, expected);
    g_assert_cmpint(list != NULL, ==, n + n_given_up > 0);
}

/* With its figures, until it is forgotten or replaced; not if removed. */
static void test_listed(void)
{
    Harness *h = harness_small();
    g_autofree MemswapPolicyStatus *list = NULL;
    _Atomic int *release;
    unsigned int n, n_given_up;

    check_given_up(h, 0);
    puppet_add(h, "a", "puppet");
    check_given_up(h, 0);
    g_assert_cmpint(memswap_policy_forget(h->engine, "a"), ==, -ENOENT);
    memswap_policy_set(h->engine, "a", "flood-nonsense", "1000", NULL);
    wait_until(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR) == 1);
    puppet_add(h, "b", "puppet");
    memswap_policy_set(h->engine, "b", "flood-nonsense", "1000", NULL);
    wait_until(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR) == 2);

    list = memswap_policy_list_all(h->engine, &n, &n_given_up);
    g_assert_cmpuint(n, ==, 0);
    g_assert_cmpuint(n_given_up, ==, 2);
    g_assert_cmpstr(list[0].id, ==, "a");
    g_assert_cmpstr(list[1].id, ==, "b");
    g_assert_cmpstr(list[1].name, ==, "puppet");
    g_assert_cmpint(list[1].reason, ==, MEMSWAP_POLICY_NONSENSE);
    g_assert_cmpuint(list[1].refused, >=, 1000);

    puppet_add(h, "b", "puppet-hang");
    check_given_up(h, 1);
    g_assert_cmpint(memswap_policy_forget(h->engine, "a"), ==, 0);
    g_assert_cmpint(memswap_policy_forget(h->engine, "a"), ==, -ENOENT);
    g_assert_cmpint(memswap_policy_forget(h->engine, "b"), ==, -ENOENT);
    check_given_up(h, 0);

    release = puppet_symbol("puppet-hang", "puppet_release");
    puppet_ask(h, "b", "hang-next", "0");
    write_pages(h, 0, 1);
    puppet_wait_busy(h, "b");
    g_assert_cmpint(memswap_policy_remove(h->engine, "b", NULL), ==,
                    -ETIMEDOUT);
    check_given_up(h, 0);
    harness_free(h);
    atomic_store(release, 1);
    g_usleep(50000);
    atomic_store(release, 0);
}

static void wait_ended(Harness *h, guint i)
{
    MemswapPolicyHost *host = g_ptr_array_index(h->engine->policies.hosts, i);

    wait_until(atomic_load(&host->tidied) && atomic_load(&host->owners) == 1);
}

/* What is left of them goes with the next, but for those that are listed. */
static void test_left_over(void)
{
    Harness *h = harness_small();
    GPtrArray *hosts = h->engine->policies.hosts;
    _Atomic int *release;

    /* each in the list in the place of the one before */
    for (unsigned int i = 0; i < 5; i++) {
        puppet_add(h, "a", "puppet");
        memswap_policy_set(h->engine, "a", "flood-nonsense", "1000", NULL);
        wait_until(!puppet_host(h, "a"));
        wait_ended(h, hosts->len - 1);
    }
    g_assert_cmpuint(hosts->len, <=, 2);
    check_given_up(h, 1);
    /* one that was never listed */
    puppet_try(h, "b", "nonsense-start", NULL);
    wait_ended(h, hosts->len - 1);
    /* and one that doesn't return */
    puppet_add(h, "c", "puppet-hang");
    release = puppet_symbol("puppet-hang", "puppet_release");
    memswap_policy_set(h->engine, "c", "hang-now", "0", NULL);
    g_assert_cmpint(memswap_policy_forget(h->engine, "c"), ==, 0);
    puppet_add(h, "d", "puppet-prefetcher");
    /* a, c, d */
    g_assert_cmpuint(hosts->len, ==, 3);
    check_given_up(h, 1);
    g_assert_cmpint(memswap_policy_forget(h->engine, "a"), ==, 0);
    atomic_store(release, 1);
    wait_ended(h, 1);
    puppet_add(h, "e", "puppet-prefetcher");
    g_assert_cmpuint(hosts->len, ==, 2);
    harness_free(h);
    atomic_store(release, 0);
}

/* Whoever is given up while others look is in the list once, all the time. */
typedef struct Lookers {
    Harness *h;
    _Atomic bool stop;
    _Atomic uint64_t looks;
} Lookers;

static gpointer look_at_list(gpointer opaque)
{
    Lookers *lookers = opaque;

    while (!atomic_load(&lookers->stop)) {
        g_autofree MemswapPolicyStatus *list = NULL;
        unsigned int n, n_given_up;

        list = memswap_policy_list_all(lookers->h->engine, &n, &n_given_up);
        g_assert_cmpuint(n + n_given_up, ==, 1);
        atomic_fetch_add(&lookers->looks, 1);
    }
    return NULL;
}

static void test_listed_once(void)
{
    Harness *h = harness_small();

    for (unsigned int i = 1; i <= 50; i++) {
        Lookers lookers = { .h = h };
        GThread *thread;

        puppet_add(h, "a", "puppet");
        thread = g_thread_new("look", look_at_list, &lookers);
        wait_until(atomic_load(&lookers.looks));
        memswap_policy_set(h->engine, "a", "flood-nonsense", "1000", NULL);
        wait_until(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR) == i);
        atomic_store(&lookers.stop, true);
        g_thread_join(thread);
    }
    harness_free(h);
}

/* --- whose time is it? ------------------------------------------------- */

/* Slow, and there is an event that waits for the policy meanwhile. */
static int slow_translate(void *opaque, uint64_t root, uint64_t address,
                          const void **host)
{
    Harness *h = opaque;

    memswap_guest_reset(h->engine);
    g_usleep(2 * SHORT_NS / 1000);
    return -EFAULT;
}

/* A request that takes long is not the policy's fault. */
static void test_slow_request(void)
{
    Harness *h = harness_small();

    h->engine->host.translate = slow_translate;
    puppet_add(h, "p", "puppet");
    g_assert_cmpint(puppet_ask(h, "p", "translate", "5 0"), ==, -EFAULT);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR), ==, 0);
    harness_free(h);
}

/* One that doesn't return, and asks all the time, is at fault. */
static void test_spin(void)
{
    Harness *h = harness_small();

    puppet_add(h, "p", "puppet");
    puppet_ask(h, "p", "spin-next", "0");
    write_pages(h, 0, 100);
    wait_until(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR) == 1);
    g_assert_cmpuint(atomic_load(&h->event_offset), ==, MEMSWAP_POLICY_HUNG);
    harness_free(h);
}

static int rather_slow_translate(void *opaque, uint64_t root,
                                 uint64_t address, const void **host)
{
    g_usleep(SHORT_NS / 20000);
    return -EFAULT;
}

/* Even if all of its time is what requests take. */
static void test_spin_slowly(void)
{
    Harness *h = harness_small();
    int64_t began;

    h->engine->host.translate = rather_slow_translate;
    puppet_add(h, "p", "puppet");
    puppet_ask(h, "p", "spin-slowly", "0");
    h->engine->policies.patience = SHORT_NS / 5;
    began = g_get_monotonic_time();
    write_pages(h, 0, 100);
    wait_until(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR) == 1);
    g_assert_cmpuint(atomic_load(&h->event_offset), ==, MEMSWAP_POLICY_HUNG);
    /* which it gets a lot of */
    g_assert_cmpint(g_get_monotonic_time() - began, >, 2 * SHORT_NS / 1000);
    harness_free(h);
}

/* One that is slow, but returns, is not: options don't wait for all events. */
static void test_slow_events(void)
{
    Harness *h = harness_small();

    puppet_add(h, "p", "puppet-prefetcher");
    puppet_settle(h, "p");
    g_assert_cmpint(memswap_policy_set(h->engine, "p", "slow", "50", NULL),
                    ==, 0);
    for (unsigned int i = 0; i < 64; i++) {
        memswap_guest_reset(h->engine);
    }
    /* none of them waits for long, and all are handled in the end */
    for (unsigned int i = 0; i < 3; i++) {
        int64_t began = g_get_monotonic_time();

        g_assert_cmpint(memswap_policy_set(h->engine, "p", "behind", "0",
                                           NULL), ==, 0);
        g_assert_cmpint(g_get_monotonic_time() - began, <,
                        SHORT_NS / 1000);
    }
    g_assert_cmpint(memswap_policy_set(h->engine, "p", "slow", "0", NULL),
                    ==, 0);
    g_assert_cmpuint(puppet_counter(h, "p", "reset"), ==, 64);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR), ==, 0);
    harness_free(h);
}

/* Two calls before an option's, of which each returns in time. */
static void test_slow_calls(void)
{
    Harness *h = harness_small();

    puppet_add(h, "p", "puppet-prefetcher");
    puppet_settle(h, "p");
    memswap_policy_set(h->engine, "p", "slow", "600", NULL);
    memswap_policy_set(h->engine, "p", "wake", "0", NULL);
    /* in the timer, and then comes an event */
    puppet_wait_busy(h, "p");
    memswap_guest_reset(h->engine);
    g_assert_cmpint(memswap_policy_set(h->engine, "p", "slow", "0", NULL),
                    ==, 0);
    g_assert_cmpuint(puppet_counter(h, "p", "timer"), ==, 1);
    g_assert_cmpuint(puppet_counter(h, "p", "reset"), ==, 1);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR), ==, 0);
    harness_free(h);
}

/* Nor is one that couldn't return, as the process was stopped. */
static void test_stopped(void)
{
    Harness *h = harness_small();
    g_autofree char *stop = g_strdup_printf(
        "sh -c 'kill -STOP %d; sleep 3; kill -CONT %d'", getpid(), getpid());
    _Atomic int *release;

    h->engine->policies.patience = 2 * SHORT_NS;
    puppet_add(h, "p", "puppet-hang");
    release = puppet_symbol("puppet-hang", "puppet_release");
    puppet_ask(h, "p", "hang-next", "0");
    memswap_guest_reset(h->engine);
    puppet_wait_busy(h, "p");
    /* this one waits */
    memswap_guest_reset(h->engine);
    g_assert_true(g_spawn_command_line_sync(stop, NULL, NULL, NULL, NULL));
    /* the watch looks in a quarter of a second */
    g_usleep(400000);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR), ==, 0);
    /* it is hung, all the same, when the time is over that it went on */
    wait_until(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR) == 1);
    harness_free(h);
    atomic_store(release, 1);
    g_usleep(50000);
    atomic_store(release, 0);
}

/* A reclaimer that hears of nothing but room, and hangs over it. */
static void test_deaf_reclaimer(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 16 * MIB, .limit = 8 * MIB, .evictors = 1,
        .reserve_low = MIB, .reserve_high = 2 * MIB,
    });
    _Atomic int *release;

    h->engine->policies.patience = SHORT_NS;
    puppet_add(h, "p", "puppet-deaf");
    release = puppet_symbol("puppet-deaf", "puppet_release");
    puppet_ask(h, "p", "hang-next", "0");
    /* a quarter of the reserve: no evictor begins for that */
    write_pages(h, 0, (7 * MIB + MIB / 4) / PAGE);
    wait_until(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR) == 1);
    g_assert_cmpuint(atomic_load(&h->event_offset), ==, MEMSWAP_POLICY_HUNG);
    harness_free(h);
    atomic_store(release, 1);
    g_usleep(50000);
}

/* --- what it costs ----------------------------------------------------- */

/* To take out what was not on trial has its price. */
static void test_reclaim_price(void)
{
    Harness *h = harness_small();

    h->engine->policies.patience = 20000000000LL;
    puppet_add(h, "p", "puppet");
    write_pages(h, 0, 10);
    /* 200 saved up, and 1 a ms, so that a slow machine doesn't earn them */
    puppet_budget(h, 1000);
    g_assert_cmpint(puppet_ask(h, "p", "flood-reclaim", "100 %d",
                               MEMSWAP_POLICY_COLD), ==, 0);
    g_assert_cmpint(puppet_ask(h, "p", "flood-reclaim", "100 0"), >, 0);
    g_assert_cmpint(ram_state(&h->ram, 0), ==, MEMSWAP_STORED);
    harness_free(h);
}

#define WARM_REGIONS 24

/* A page in each region, of which none leaves, however often it is tried. */
static Harness *harness_warm(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = WARM_REGIONS * MEMSWAP_REGION_SIZE,
    });

    puppet_add(h, "p", "puppet");
    for (uint64_t i = 0; i < WARM_REGIONS; i++) {
        ram_fill(h, i * REGION_PAGES, 2 * i + 1);
    }
    puppet_settle(h, "p");
    atomic_store(&h->store->put_error, -ENOSPC);
    return h;
}

/* To take out so many bytes is to try regions, each of which has its price. */
static void test_bytes_price(void)
{
    Harness *h = harness_warm();

    /* 60 saved up: enough for one, and for the next in a sixth of a second */
    puppet_budget(h, 300);
    g_assert_cmpint(puppet_ask(h, "p", "reclaim-bytes", "%d", 1 << 20), ==,
                    -EAGAIN);
    g_assert_cmpuint(stats_of(h).trials, <, WARM_REGIONS);
    atomic_store(&h->store->put_error, 0);
    /* what was had by then is no failure: a page, when it has saved again */
    g_usleep(300000);
    g_assert_cmpint(puppet_ask(h, "p", "reclaim-bytes", "%d", 1 << 20), >,
                    0);
    harness_free(h);
}

typedef struct Zaps {
    Harness *h;
    MemswapPolicyHost *give_up;     /* at the first; NULL: nobody */
    uint64_t sleep_us;              /* in each */
    _Atomic unsigned int n;
} Zaps;

static int in_zap(void *opaque, InjectCall call, uint64_t where, size_t *size)
{
    Zaps *zaps = opaque;

    if (call == INJECT_ZAP) {
        atomic_fetch_add(&zaps->n, 1);
        g_usleep(zaps->sleep_us);
        if (zaps->give_up) {
            memswap_policy_give_up(zaps->give_up, MEMSWAP_POLICY_HUNG);
        }
    }
    return 0;
}

/* It has to return soon, whatever comes of it. */
static void test_bytes_time(void)
{
    Harness *h = harness_warm();
    Zaps zaps = { .h = h, .sleep_us = 150000 };
    InjectHooks hooks = { .before = in_zap, .opaque = &zaps };

    h->engine->policies.patience = 20000000000LL;
    inject(&hooks);
    g_assert_cmpint(puppet_ask(h, "p", "reclaim-bytes", "%d", 1 << 20), ==,
                    0);
    inject(NULL);
    /* in a second; all regions in turn would be several times as many */
    g_assert_cmpuint(atomic_load(&zaps.n), >=, 1);
    g_assert_cmpuint(atomic_load(&zaps.n), <=, 8);
    atomic_store(&h->store->put_error, 0);
    harness_free(h);
}

/* Nor does it go on when nobody wants it any more. */
static void test_bytes_given_up(void)
{
    Harness *h = harness_warm();
    Zaps zaps = { .h = h, .give_up = puppet_host(h, "p") };
    InjectHooks hooks = { .before = in_zap, .opaque = &zaps };

    inject(&hooks);
    g_assert_cmpint(memswap_policy_set(h->engine, "p", "reclaim-bytes",
                                       "1000000", NULL), ==, -ETIMEDOUT);
    wait_until(!atomic_load(&zaps.give_up->in_op));
    inject(NULL);
    g_assert_cmpuint(atomic_load(&zaps.n), ==, 1);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR), ==, 1);
    atomic_store(&h->store->put_error, 0);
    harness_free(h);
}

/* --- blocks that go ---------------------------------------------------- */

/* As if the block were removed, where the first region is at work. */
static int mark_dead(void *opaque, InjectCall call, uint64_t where,
                     size_t *size)
{
    Harness *h = opaque;

    if (call == INJECT_WRITE || call == INJECT_PUNCH) {
        atomic_store(&h->ram.block->dead, true);
    }
    return 0;
}

/* Who removes a block waits for one region at most. */
static void test_dead(void)
{
    Harness *h = harness_small();
    InjectHooks hooks = { .before = mark_dead, .opaque = h };

    puppet_add(h, "p", "puppet");
    write_pages(h, 0, 3 * REGION_PAGES);
    inject(&hooks);
    g_assert_cmpint(puppet_ask(h, "p", "reclaim", "0 0 1536"), <=,
                    REGION_PAGES * PAGE);
    inject(NULL);
    atomic_store(&h->ram.block->dead, false);
    memswap_reclaim(h->engine, UINT64_MAX);
    inject(&hooks);
    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 0 1536"), <=,
                    REGION_PAGES);
    inject(NULL);
    atomic_store(&h->ram.block->dead, false);
    check_pages(h, 0, 3 * REGION_PAGES);
    harness_check(h);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/policy-bad/free", test_free);
    g_test_add_func("/policy-bad/free-start", test_free_start);
    g_test_add_func("/policy-bad/listed", test_listed);
    g_test_add_func("/policy-bad/left-over", test_left_over);
    g_test_add_func("/policy-bad/listed-once", test_listed_once);
    g_test_add_func("/policy-bad/slow-request", test_slow_request);
    g_test_add_func("/policy-bad/spin", test_spin);
    g_test_add_func("/policy-bad/spin-slowly", test_spin_slowly);
    g_test_add_func("/policy-bad/slow-events", test_slow_events);
    g_test_add_func("/policy-bad/slow-calls", test_slow_calls);
    g_test_add_func("/policy-bad/stopped", test_stopped);
    g_test_add_func("/policy-bad/deaf-reclaimer", test_deaf_reclaimer);
    g_test_add_func("/policy-bad/reclaim-price", test_reclaim_price);
    g_test_add_func("/policy-bad/bytes-price", test_bytes_price);
    g_test_add_func("/policy-bad/bytes-time", test_bytes_time);
    g_test_add_func("/policy-bad/bytes-given-up", test_bytes_given_up);
    g_test_add_func("/policy-bad/dead", test_dead);
    return g_test_run();
}

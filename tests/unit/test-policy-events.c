/*
 * Tests of policies: when they get to hear of events, and of which
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "policy-internal.h"
#include "puppets.h"

static Harness *harness_small(void)
{
    return harness_new(&(HarnessOptions) { .size = 8 * MIB });
}

/*
 * A producer stops halfway, another one adds what is to wake the policy behind
 * it, then the first goes on, with something quiet.
 */
static void test_unfinished(void)
{
    Harness *h = harness_small();
    MemswapPolicyHost *host;
    MemswapRingSlot *slot;
    uint32_t tail;

    puppet_add(h, "p", "puppet-faults-quiet");
    puppet_settle(h, "p");
    host = puppet_host(h, "p");
    /* as in memswap_ring_put() */
    tail = atomic_fetch_add(&host->ring.tail, 1);
    slot = &host->ring.slots[tail % MEMSWAP_RING_SLOTS];
    memswap_guest_reset(h->engine);
    /* it wakes, finds nothing, and sleeps again */
    g_usleep(50000);
    g_assert_true(memswap_ring_empty(&host->ring));
    slot->event = (MemswapPolicyEvent) { .kind = MEMSWAP_POLICY_FAULT };
    atomic_store(&slot->number, tail + 1);
    wait_until(atomic_load(&host->n_events) == 2);
    g_assert_cmpuint(puppet_counter(h, "p", "reset"), ==, 1);
    harness_free(h);
}

/* --- events that gather ------------------------------------------------ */

/* As long as the puppet lets them gather. */
#define GATHER_US 1000000
/* Of so many, one at least is not held up by whatever else the host does. */
#define TRIES 5

static int64_t set_result(Harness *h, uint64_t arg)
{
    return memswap_policy_set(h->engine, "p", "touched", "0", NULL);
}

/* Returns how long an option takes that comes in where events would gather. */
static int64_t option_takes(Harness *h, MemswapPolicyHost *host)
{
    _Atomic int *release = puppet_symbol("puppet-gathers", "puppet_release");
    _Atomic int *hangs = puppet_symbol("puppet-gathers", "puppet_hangs");
    int n = atomic_load(hangs);
    int64_t began;
    uint32_t wake;
    Task *task;

    atomic_store(release, 0);
    puppet_ask(h, "p", "hang-timer", "0");
    puppet_ask(h, "p", "wake-in-event", "0");
    memswap_guest_reset(h->engine);
    /* options had their turn */
    wait_until(atomic_load(hangs) > n);
    wake = atomic_load(&host->wake);
    task = task_start(h, set_result, 0);
    wait_until(atomic_load(&host->wake) != wake);
    began = g_get_monotonic_time();
    atomic_store(release, 1);
    g_assert_cmpint(task_join(task), ==, 0);
    return g_get_monotonic_time() - began;
}

static void test_gather_poke(void)
{
    Harness *h = harness_small();
    unsigned int tries = TRIES;

    puppet_add(h, "p", "puppet-gathers");
    while (option_takes(h, puppet_host(h, "p")) >= GATHER_US) {
        g_assert_cmpuint(--tries, >, 0);
    }
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR), ==, 0);
    harness_free(h);
}

/* The same of a timer. */
static int64_t timer_takes(Harness *h, MemswapPolicyHost *host)
{
    int64_t began;
    uint64_t n;

    puppet_ask(h, "p", "wake-in-event", "5");
    n = atomic_load(&host->n_events);
    began = g_get_monotonic_time();
    memswap_guest_reset(h->engine);
    wait_until(atomic_load(&host->n_events) == n + 2);
    return g_get_monotonic_time() - began;
}

static void test_gather_timer(void)
{
    Harness *h = harness_small();
    unsigned int tries = TRIES;

    puppet_add(h, "p", "puppet-gathers");
    while (timer_takes(h, puppet_host(h, "p")) >= GATHER_US) {
        g_assert_cmpuint(--tries, >, 0);
    }
    harness_free(h);
}

/* Returns how long half of the room full of events waits, in us. */
static int64_t half_takes(Harness *h, MemswapPolicyHost *host)
{
    uint64_t n = atomic_load(&host->n_events);
    uint64_t more = MEMSWAP_RING_SLOTS / 2 + 100;
    int64_t began;

    memswap_guest_reset(h->engine);
    wait_until(atomic_load(&host->n_events) == n + 1);
    /* to begin to wait for others */
    g_usleep(20000);
    began = g_get_monotonic_time();
    for (uint64_t i = 0; i < more; i++) {
        memswap_guest_reset(h->engine);
    }
    wait_until(atomic_load(&host->n_events) > n + 1);
    began = g_get_monotonic_time() - began;
    wait_until(atomic_load(&host->n_events) == n + 1 + more);
    puppet_settle(h, "p");
    return began;
}

/* So many that soon some would be lost have gathered long enough. */
static void test_gather_half(void)
{
    Harness *h = harness_small();
    unsigned int tries = 3;

    puppet_budget(h, 100000000);
    puppet_add(h, "p", "puppet-gathers");
    puppet_settle(h, "p");
    while (half_takes(h, puppet_host(h, "p")) >= GATHER_US / 2) {
        g_assert_cmpuint(--tries, >, 0);
    }
    g_assert_cmpuint(puppet_status(h, "p").dropped, ==, 0);
    harness_free(h);
}

/* Looks that fall due together don't crowd each other out. */
static void test_looks(void)
{
    Harness *h = harness_small();
    unsigned int n = MEMSWAP_RING_SLOTS + 1000;

    /* a trial counts for 50 */
    puppet_budget(h, 1000000000);
    puppet_add(h, "p", "puppet-prefetcher");
    write_pages(h, 0, 1);
    g_assert_cmpint(puppet_ask(h, "p", "flood-looks", "%u", n), ==, n);
    wait_until(puppet_counter(h, "p", "trial") == n ||
               puppet_status(h, "p").dropped);
    g_assert_cmpuint(puppet_status(h, "p").dropped, ==, 0);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/policy-events/unfinished", test_unfinished);
    g_test_add_func("/policy-events/gather-poke", test_gather_poke);
    g_test_add_func("/policy-events/gather-timer", test_gather_timer);
    g_test_add_func("/policy-events/gather-half", test_gather_half);
    g_test_add_func("/policy-events/looks", test_looks);
    return g_test_run();
}

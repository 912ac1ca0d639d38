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

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/policy-events/unfinished", test_unfinished);
    return g_test_run();
}

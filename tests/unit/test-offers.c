/*
 * Tests of offers: whose turn it is, and who is passed by
 *
 * No more than one region is on trial at once in so little memory, so each is
 * taken when the one before it is gone.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>

#include "policy-internal.h"
#include "puppets.h"

#define N_REGIONS 4

/* How often in a row is the region passed by? */
static unsigned int passes(MemswapRegion *region)
{
    unsigned int n = 0;

    while (memswap_pass_by(region)) {
        n++;
    }
    return n;
}

static void test_passes(void)
{
    MemswapRegion region = { 0 };

    g_assert_cmpuint(passes(&region), ==, 0);
    memswap_pass_set(&region, 3);
    g_assert_cmpuint(memswap_pass_keeper(&region), ==, 0);
    g_assert_cmpuint(passes(&region), ==, 3);
    memswap_pass_keep(&region, 2);
    g_assert_cmpuint(memswap_pass_keeper(&region), ==, 2);
    g_assert_cmpuint(passes(&region), ==, 15);
    g_assert_cmpuint(memswap_pass_keeper(&region), ==, 0);
    /* heat is something else */
    memswap_heat_set(&region, 300, 100);
    g_assert_cmpuint(memswap_heat(&region), ==, 10);
    g_assert_cmpuint(passes(&region), ==, 0);
    memswap_pass_keep(&region, MEMSWAP_MAX_POLICIES);
    g_assert_cmpuint(memswap_heat(&region), ==, 10);
    memswap_heat_set(&region, 512, 0);
    g_assert_cmpuint(memswap_heat(&region), ==, 15);
    g_assert_cmpuint(memswap_pass_keeper(&region), ==, MEMSWAP_MAX_POLICIES);
    memswap_heat_set(&region, 0, 0);
    g_assert_cmpuint(memswap_heat(&region), ==, 0);
    memswap_heat_set(&region, 1, 2);
    g_assert_cmpuint(memswap_heat(&region), ==, 0);
    g_assert_cmpuint(passes(&region), ==, 15);
}

/* All regions of the RAM are full, and mapped. */
static Harness *harness_full(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = N_REGIONS * MEMSWAP_REGION_SIZE,
    });

    write_pages(h, 0, N_REGIONS * REGION_PAGES);
    return h;
}

/* Which of them goes next? */
static unsigned int next_gone(Harness *h)
{
    unsigned int gone = N_REGIONS;

    g_assert_cmpuint(memswap_reclaim(h->engine, MEMSWAP_REGION_SIZE), ==,
                     MEMSWAP_REGION_SIZE);
    for (unsigned int i = 0; i < N_REGIONS; i++) {
        MemswapRegion *region = &h->ram.block->regions[i];

        if (!atomic_load(&region->resident) && !region->passed_at) {
            /* so that it is not found again */
            region->passed_at = 1;
            g_assert_cmpuint(gone, ==, N_REGIONS);
            gone = i;
        }
    }
    return gone;
}

static uint64_t by_address(Harness *h)
{
    return atomic_load(&h->engine->offers.by_address);
}

static void test_by_address(void)
{
    Harness *h = harness_full();

    for (unsigned int i = 0; i < N_REGIONS; i++) {
        g_assert_cmpuint(next_gone(h), ==, i);
    }
    g_assert_cmpuint(by_address(h), ==, N_REGIONS);
    check_pages(h, 0, N_REGIONS * REGION_PAGES);
    harness_free(h);
}

/* With none but regions to pass by, they are tried all the same. */
static void test_nothing_else(void)
{
    Harness *h = harness_full();

    for (unsigned int i = 0; i < N_REGIONS; i++) {
        memswap_pass_set(&h->ram.block->regions[i], 15);
    }
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==,
                     N_REGIONS * MEMSWAP_REGION_SIZE);
    check_pages(h, 0, N_REGIONS * REGION_PAGES);
    harness_free(h);
}

static void test_passed_by(void)
{
    Harness *h = harness_full();

    memswap_pass_set(&h->ram.block->regions[0], 1);
    memswap_pass_set(&h->ram.block->regions[1], 1);
    g_assert_cmpuint(next_gone(h), ==, 2);
    g_assert_cmpuint(next_gone(h), ==, 3);
    g_assert_cmpuint(next_gone(h), ==, 0);
    harness_free(h);
}

/* As they were offered, what is to be first before them, then the rest. */
static void test_order(void)
{
    Harness *h = harness_full();

    puppet_add(h, "p", "puppet");
    /* by any page of theirs */
    g_assert_cmpint(puppet_ask(h, "p", "offer", "0 %u 1",
                               (unsigned int)(2 * REGION_PAGES + 7)), ==, 1);
    g_assert_cmpint(puppet_ask(h, "p", "offer", "0 0 1"), ==, 1);
    g_assert_cmpint(puppet_ask(h, "p", "offer-first", "0 1536 512"), ==, 1);
    g_assert_cmpuint(next_gone(h), ==, 3);
    g_assert_cmpuint(next_gone(h), ==, 2);
    g_assert_cmpuint(next_gone(h), ==, 0);
    g_assert_cmpuint(by_address(h), ==, 0);
    g_assert_cmpuint(next_gone(h), ==, 1);
    g_assert_cmpuint(by_address(h), ==, 1);
    check_pages(h, 0, N_REGIONS * REGION_PAGES);
    harness_check(h);
    harness_free(h);
}

/* Several at once, forwards and, before all others, forwards as well. */
static void test_ranges(void)
{
    Harness *h = harness_full();

    puppet_add(h, "p", "puppet");
    /* one page of the first region, all of the second, one of the third */
    g_assert_cmpint(puppet_ask(h, "p", "offer", "0 511 514"), ==, 3);
    g_assert_cmpint(puppet_ask(h, "p", "offer-first", "0 1024 1024"), ==, 2);
    g_assert_cmpuint(next_gone(h), ==, 2);
    g_assert_cmpuint(next_gone(h), ==, 3);
    g_assert_cmpuint(next_gone(h), ==, 0);
    g_assert_cmpuint(next_gone(h), ==, 1);
    /* 2 was offered twice, and is nothing any more */
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, 0);
    g_assert_cmpuint(h->engine->offers.n, ==, 0);
    harness_free(h);
}

/* What is kept, empty, or gone by the time its turn comes. */
static void test_hints(void)
{
    Harness *h = harness_full();
    Ram other = ram_new(2 * MIB, 0);

    puppet_add(h, "k", "puppet-prefetcher");
    puppet_add(h, "p", "puppet");
    ram_add(h, &other, "other");
    g_assert_cmpint(puppet_ask(h, "p", "offer", "1 0 1"), ==, 1);
    g_assert_cmpint(puppet_ask(h, "p", "offer", "0 0 1536"), ==, 3);
    ram_remove(h, &other);
    ram_free(&other);
    g_assert_cmpint(puppet_ask(h, "k", "keep", "0 0 512"), ==, 512);
    memswap_discard(h->engine, h->ram.host + 2 * MIB, 2 * MIB);
    g_assert_cmpuint(memswap_reclaim(h->engine, 2 * MIB), ==, 2 * MIB);
    g_assert_cmpuint(atomic_load(&h->ram.block->regions[2].resident), ==, 0);
    g_assert_cmpuint(by_address(h), ==, 0);
    harness_free(h);
}

static void test_refused(void)
{
    Harness *h = harness_full();

    puppet_add(h, "k", "puppet-prefetcher");
    puppet_add(h, "p", "puppet-early");
    g_assert_cmpint(puppet_ask(h, "k", "offer", "0 0 1"), ==, -EPERM);
    g_assert_cmpint(puppet_ask(h, "k", "behind", "1"), ==, -EPERM);
    g_assert_cmpint(puppet_ask(h, "p", "offer-early", "0"), ==, -EBUSY);
    g_assert_cmpint(puppet_ask(h, "p", "offer", "0 2048 1"), ==, -ERANGE);
    g_assert_cmpint(puppet_ask(h, "p", "offer", "0 -1 1"), ==, -ERANGE);
    g_assert_cmpint(puppet_ask(h, "p", "offer", "7 0 1"), ==, -ENOENT);
    g_assert_cmpint(puppet_ask(h, "p", "offer-flags", "0 0 1"), ==, -EINVAL);
    g_assert_cmpint(puppet_ask(h, "p", "offer-null", "0"), ==, -EINVAL);
    g_assert_cmpint(puppet_ask(h, "p", "offer", "0 0 0"), ==, 0);
    g_assert_cmpuint(h->engine->offers.n, ==, 0);
    g_assert_cmpint(puppet_ask(h, "p", "behind", "101"), ==, -EINVAL);
    g_assert_cmpint(puppet_ask(h, "p", "behind", "100"), ==, 0);
    g_assert_cmpuint(atomic_load(&h->engine->behind_percent), ==, 100);
    g_assert_cmpint(puppet_ask(h, "p", "offer", "0 0 512"), ==, 1);
    /* with the policy goes what it said */
    g_assert_cmpint(memswap_policy_remove(h->engine, "p", NULL), ==, 0);
    g_assert_cmpuint(h->engine->offers.n, ==, 0);
    g_assert_cmpuint(atomic_load(&h->engine->behind_percent), ==, 0);
    g_assert_false(atomic_load(&h->engine->offers.open));
    harness_free(h);
}

static void test_full(void)
{
    Harness *h = harness_full();
    MemswapBlock *block = h->ram.block;

    /* far around the ring, whose ends meet */
    h->engine->offers.first = UINT32_MAX - 5;
    for (unsigned int i = 0; i < MEMSWAP_OFFERS_MAX; i++) {
        g_assert_true(memswap_offers_put(block, i == 0 ? 3 : 1, i == 1));
    }
    g_assert_false(memswap_offers_put(block, 0, false));
    g_assert_false(memswap_offers_put(block, 0, true));
    g_assert_cmpuint(next_gone(h), ==, 1);
    g_assert_cmpuint(next_gone(h), ==, 3);
    g_assert_cmpuint(next_gone(h), ==, 0);
    g_assert_cmpuint(h->engine->offers.n, ==, 0);
    harness_free(h);
}

static uint64_t take(Harness *h, unsigned int flags)
{
    uint64_t number = UINT64_MAX;
    MemswapBlock *block;

    g_mutex_lock(&h->engine->reclaim_lock);
    block = memswap_offers_take(h->engine, flags, true, &number);
    g_mutex_unlock(&h->engine->reclaim_lock);
    if (!block) {
        return UINT64_MAX;
    }
    atomic_fetch_and(&block->regions[number].flags, ~MEMSWAP_REGION_QUEUED);
    memswap_block_unref(block);
    return number;
}

static uint32_t left(Harness *h, unsigned int flags)
{
    uint32_t n;

    g_mutex_lock(&h->engine->reclaim_lock);
    n = memswap_offers_left(h->engine, flags);
    g_mutex_unlock(&h->engine->reclaim_lock);
    return n;
}

/* Hugepages go out of turn when there is a lack of them. */
static void test_out_of_turn(void)
{
    Harness *h = harness_full();
    MemswapOffers *offers = &h->engine->offers;

    /* nobody is to go by address */
    atomic_store(&offers->open, true);
    for (unsigned int i = 0; i < N_REGIONS; i++) {
        memswap_offers_put(h->ram.block, i, false);
        /* as if it were in a block of these */
        offers->ring[i].hugetlb = i & 1;
    }
    g_assert_cmpuint(left(h, MEMSWAP_RECLAIM_HUGETLB), ==, 2);
    g_assert_cmpuint(left(h, 0), ==, 4);
    g_assert_cmpuint(take(h, MEMSWAP_RECLAIM_HUGETLB), ==, 1);
    g_assert_cmpuint(left(h, MEMSWAP_RECLAIM_HUGETLB), ==, 1);
    g_assert_cmpuint(left(h, 0), ==, 3);
    g_assert_cmpuint(take(h, 0), ==, 0);
    g_assert_cmpuint(take(h, MEMSWAP_RECLAIM_HUGETLB), ==, 3);
    g_assert_cmpuint(take(h, MEMSWAP_RECLAIM_HUGETLB), ==, UINT64_MAX);
    g_assert_cmpuint(take(h, 0), ==, 2);
    g_assert_cmpuint(take(h, 0), ==, UINT64_MAX);
    g_assert_cmpuint(left(h, 0), ==, 0);
    atomic_store(&offers->open, false);
    harness_free(h);
}

/* They leave nothing behind that takes room, or the others' places. */
static void test_out_of_turn_room(void)
{
    Harness *h = harness_full();
    MemswapOffers *offers = &h->engine->offers;

    atomic_store(&offers->open, true);
    offers->first = UINT32_MAX - 5;
    memswap_offers_put(h->ram.block, 0, false);
    memswap_offers_put(h->ram.block, 1, false);
    for (unsigned int i = 0; i < 2 * MEMSWAP_OFFERS_MAX; i++) {
        g_assert_true(memswap_offers_put(h->ram.block, 2, false));
        offers->ring[(offers->first + 2) % MEMSWAP_OFFERS_MAX].hugetlb = true;
        g_assert_cmpuint(take(h, MEMSWAP_RECLAIM_HUGETLB), ==, 2);
    }
    g_assert_cmpuint(left(h, 0), ==, 2);
    g_assert_cmpuint(take(h, 0), ==, 0);
    g_assert_cmpuint(take(h, 0), ==, 1);
    g_assert_cmpuint(left(h, 0), ==, 0);
    atomic_store(&offers->open, false);
    harness_free(h);
}

/* It is asked when few are left, and told what came of them. */
static void test_told(void)
{
    Harness *h = harness_full();
    uint64_t asked;

    puppet_add(h, "p", "puppet");
    /* when it began, to have some */
    wait_until(puppet_counter(h, "p", "choose") == 1);
    g_assert_cmpint(puppet_ask(h, "p", "offer", "0 1024 512"), ==, 1);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    g_assert_cmpuint(puppet_counter(h, "p", "tried"), ==, 0);
    wait_until(puppet_counter(h, "p", "choose") == 2);
    /* of the 511 that are left 11 prove warm */
    check_pages(h, 2 * REGION_PAGES + 1, 11);
    g_assert_cmpuint(memswap_reclaim(h->engine, 500 * PAGE), ==, 500 * PAGE);
    wait_until(puppet_counter(h, "p", "tried") == 1);
    g_assert_cmpint(puppet_ask(h, "p", "tried-gone", "0"), ==, 512501);
    g_assert_cmpint(puppet_ask(h, "p", "tried-page", "0"), ==,
                    2 * REGION_PAGES);
    g_assert_cmpuint(memswap_heat(&h->ram.block->regions[2]), ==, 0);
    /* nothing was offered, so others go, and it is asked again and again */
    asked = puppet_counter(h, "p", "choose");
    g_assert_cmpuint(memswap_reclaim(h->engine, 4 * MIB), ==, 4 * MIB);
    g_assert_cmpuint(by_address(h), ==, 2);
    wait_until(puppet_counter(h, "p", "choose") > asked);
    /* but not without a reason */
    puppet_settle(h, "p");
    asked = puppet_counter(h, "p", "choose");
    g_usleep(150000);
    g_assert_cmpuint(puppet_counter(h, "p", "choose"), ==, asked);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/offers/passes", test_passes);
    g_test_add_func("/offers/by-address", test_by_address);
    g_test_add_func("/offers/nothing-else", test_nothing_else);
    g_test_add_func("/offers/passed-by", test_passed_by);
    g_test_add_func("/offers/order", test_order);
    g_test_add_func("/offers/ranges", test_ranges);
    g_test_add_func("/offers/hints", test_hints);
    g_test_add_func("/offers/refused", test_refused);
    g_test_add_func("/offers/full", test_full);
    g_test_add_func("/offers/out-of-turn", test_out_of_turn);
    g_test_add_func("/offers/out-of-turn-room", test_out_of_turn_room);
    g_test_add_func("/offers/told", test_told);
    return g_test_run();
}

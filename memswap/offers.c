/*
 * Offers: which regions are to be tried next, and which are passed by
 *
 * The queue is described in offers.h.  An offer is a hint, and may be old: the
 * region is looked at again when its turn comes.  A region can be kept, or be
 * given an interval; then it is passed by so many times when its turn comes,
 * whether it was offered or is next in the order of addresses.  There it is
 * not passed by once nothing else is found, so there is always progress.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "internal.h"

/* How often a region can be passed by. */
#define PASSES_MAX 15
/* The hottest that a region can be. */
#define HEAT_MAX 15

/*
 * MemswapRegion.turns: how often to pass it by, its heat, and the policy that
 * keeps it, counted from 1, as long as it is to be passed by.
 */
#define TURNS_LEFT 0xffu
#define TURNS_HEAT_SHIFT 8
#define TURNS_HEAT (0xffu << TURNS_HEAT_SHIFT)
#define TURNS_KEEPER_SHIFT 16

static uint32_t turns_of(MemswapRegion *region)
{
    return atomic_load_explicit(&region->turns, memory_order_relaxed);
}

bool memswap_pass_by(MemswapRegion *region)
{
    uint32_t turns = turns_of(region);

    if (!(turns & TURNS_LEFT)) {
        return false;
    }
    /* who changes it meanwhile has the last word */
    atomic_compare_exchange_strong(&region->turns, &turns, turns - 1);
    return true;
}

unsigned int memswap_passes(MemswapRegion *region)
{
    return turns_of(region) & TURNS_LEFT;
}

static void change_turns(MemswapRegion *region, uint32_t clear, uint32_t set)
{
    uint32_t turns = turns_of(region);

    while (!atomic_compare_exchange_weak(&region->turns, &turns,
                                         (turns & ~clear) | set)) {
    }
}

void memswap_pass_set(MemswapRegion *region, unsigned int times)
{
    change_turns(region, ~TURNS_HEAT, times);
}

void memswap_pass_keep(MemswapRegion *region, unsigned int keeper)
{
    change_turns(region, ~TURNS_HEAT,
                 PASSES_MAX | keeper << TURNS_KEEPER_SHIFT);
}

unsigned int memswap_pass_keeper(MemswapRegion *region)
{
    uint32_t turns = turns_of(region);

    return turns & TURNS_LEFT ? turns >> TURNS_KEEPER_SHIFT : 0;
}

void memswap_heat_set(MemswapRegion *region, uint64_t tried, uint64_t gone)
{
    /* some were put on trial again meanwhile */
    uint64_t stayed = tried - MIN(gone, tried);
    uint32_t heat = tried ? stayed * HEAT_MAX / tried : 0;

    change_turns(region, TURNS_HEAT, heat << TURNS_HEAT_SHIFT);
}

unsigned int memswap_heat(MemswapRegion *region)
{
    return (turns_of(region) & TURNS_HEAT) >> TURNS_HEAT_SHIFT;
}

/* --- the queue --------------------------------------------------------- */

static MemswapOffer *offer_at(MemswapOffers *offers, uint32_t i)
{
    return &offers->ring[(offers->first + i) % MEMSWAP_OFFERS_MAX];
}

bool memswap_offers_put(MemswapBlock *block, uint64_t number, bool first)
{
    MemswapEngine *engine = block->engine;
    MemswapOffers *offers = &engine->offers;
    bool room;

    g_mutex_lock(&engine->reclaim_lock);
    room = offers->n < MEMSWAP_OFFERS_MAX;
    if (room) {
        offers->first -= first;
        *offer_at(offers, first ? 0 : offers->n) = (MemswapOffer) {
            .region = number,
            .slot = block->slot,
            .hugetlb = block->alias,
        };
        offers->n++;
    }
    g_mutex_unlock(&engine->reclaim_lock);
    return room;
}

void memswap_offers_clear(MemswapEngine *engine)
{
    g_mutex_lock(&engine->reclaim_lock);
    engine->offers.n = 0;
    g_mutex_unlock(&engine->reclaim_lock);
}

static bool offer_fits(const MemswapOffer *offer, unsigned int flags)
{
    return offer->hugetlb || !(flags & MEMSWAP_RECLAIM_HUGETLB);
}

uint32_t memswap_offers_left(MemswapEngine *engine, unsigned int flags)
{
    MemswapOffers *offers = &engine->offers;
    uint32_t left = 0;

    if (!(flags & MEMSWAP_RECLAIM_HUGETLB)) {
        return offers->n;
    }
    for (uint32_t i = 0; i < offers->n; i++) {
        left += offer_fits(offer_at(offers, i), flags);
    }
    return left;
}

void memswap_offers_ask(MemswapEngine *engine, unsigned int flags)
{
    _Atomic uint32_t *asked = &engine->offers.asked;
    uint32_t bit = flags & MEMSWAP_RECLAIM_HUGETLB ? MEMSWAP_ASKED_HUGETLB :
                   MEMSWAP_ASKED_ANY;

    if (atomic_load(&engine->offers.open) && !(atomic_load(asked) & bit) &&
        !(atomic_fetch_or(asked, bit) & bit)) {
        memswap_policy_poke_reclaimer(engine);
    }
}

/* False if it is in the queue of trials, or was taken from there. */
static bool queue_region(MemswapRegion *region)
{
    return !(atomic_fetch_or(&region->flags, MEMSWAP_REGION_QUEUED) &
             MEMSWAP_REGION_QUEUED);
}

/* Is there something that may leave? */
static bool has_something(MemswapBlock *block, MemswapRegion *region)
{
    return atomic_load(&region->resident) && !memswap_block_retained(block);
}

/* Is it a region's turn?  Then it is the caller's to put on trial. */
static bool claim(MemswapBlock *block, uint64_t number, bool pass)
{
    MemswapRegion *region = &block->regions[number];

    return has_something(block, region) &&
           (!memswap_pass_by(region) || !pass) && queue_region(region);
}

bool memswap_offers_claim(MemswapBlock *block, uint64_t number)
{
    MemswapRegion *region = &block->regions[number];

    return has_something(block, region) && queue_region(region);
}

/* All of the first @n that fit are gone: close up, so that there is room. */
static void close_up(MemswapOffers *offers, uint32_t n, unsigned int flags)
{
    uint32_t gone = n;

    for (uint32_t i = n; i-- > 0;) {
        if (!offer_fits(offer_at(offers, i), flags)) {
            *offer_at(offers, --gone) = *offer_at(offers, i);
        }
    }
    offers->first += gone;
    offers->n -= gone;
}

static MemswapBlock *take_offer(MemswapEngine *engine, unsigned int flags,
                                uint64_t *number)
{
    MemswapOffers *offers = &engine->offers;
    MemswapBlock *found = NULL;
    uint32_t seen = 0;

    while (seen < offers->n && !found) {
        const MemswapOffer *offer = offer_at(offers, seen++);

        if (offer_fits(offer, flags)) {
            *number = offer->region;
            found = memswap_block_get(engine, offer->slot);
            if (found && (*number >= found->n_regions ||
                          !claim(found, *number, true))) {
                memswap_block_unref(found);
                found = NULL;
            }
        }
    }
    close_up(offers, seen, flags);
    return found;
}

bool memswap_reclaims_from(const MemswapBlock *block, unsigned int flags)
{
    return (block->alias || !(flags & MEMSWAP_RECLAIM_HUGETLB)) &&
           !memswap_block_retained(block);
}

/* NULL after going around without finding one. */
static MemswapBlock *next_by_address(MemswapEngine *engine,
                                     unsigned int flags, uint64_t *number)
{
    unsigned int n = atomic_load(&engine->n_slots);
    MemswapHand *hand = flags & MEMSWAP_RECLAIM_HUGETLB ?
                        &engine->offers.hugetlb_hand : &engine->offers.hand;

    /* Twice around: the second time, none is passed by. */
    for (unsigned int seen = 0; seen <= 2 * n && n; seen++) {
        MemswapBlock *block;

        if (hand->slot >= n) {
            hand->slot = 0;
            hand->region = 0;
        }
        block = memswap_block_get(engine, hand->slot);
        while (block && memswap_reclaims_from(block, flags) &&
               hand->region < block->n_regions) {
            *number = hand->region++;
            if (claim(block, *number, seen <= n)) {
                memswap_count(engine->offers.by_address, 1);
                return block;
            }
        }
        if (block) {
            memswap_block_unref(block);
        }
        hand->slot++;
        hand->region = 0;
    }
    return NULL;
}

MemswapBlock *memswap_offers_take(MemswapEngine *engine, unsigned int flags,
                                  bool can_wait, uint64_t *number)
{
    MemswapBlock *block = take_offer(engine, flags, number);

    if (!block && !(can_wait && atomic_load(&engine->offers.open))) {
        block = next_by_address(engine, flags, number);
    }
    return block;
}

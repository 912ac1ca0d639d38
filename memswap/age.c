/*
 * Age: which regions the clock leaves alone, and which go first
 *
 * A trial costs whoever uses the region a minor fault for each page that is
 * touched again.  So each region has a number of rounds for which the hand
 * passes it by: none after a trial that found most of it cold, about twice as
 * many as before after one that gained little.  Hot regions are tried rarely,
 * cold ones come first.  (A clock with generations, as Linux's multi-gen LRU;
 * the generation here is how many rounds are left.)
 *
 * Refault distance: how many pages were evicted between a page's eviction and
 * its return, known for whole regions.  Had memory been larger by that many
 * pages, it would not have left (Johannes Weiner, "Thrash detection-based file
 * cache sizing").  What a sequence of faults brings in over a distance that
 * is a good part of all memory will be gone before the sequence comes around,
 * whatever is done; left to itself it would also push out everything else.
 * The same if the sequence itself came by that long ago.  So the regions
 * behind such a sequence are the first to go.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "internal.h"

/* Rounds that a region is passed by, at most. */
#define ROUNDS_MAX 15
/* A trial that gains less than this part of its pages gained little. */
#define LITTLE 8
/* A distance that is at least this part of memory is too far to wait for. */
#define FAR 2
/* Pages evicted since a sequence left a region, and it is still going on. */
#define STREAMING (4 * MEMSWAP_REGION_SIZE / 4096)
/* The same in time. */
#define STREAMING_NS 1000000000

/*
 * MemswapRegion.age: rounds left to pass, how many the last time, and the
 * policy that wants it so, counted from 1, as long as rounds are left.
 */
#define AGE(left, rounds) ((uint32_t)(rounds) << 8 | (left))
#define AGE_KEEPER_SHIFT 16
#define AGE_LEFT(age) ((age) & 0xffu)
#define AGE_ROUNDS(age) ((age) >> 8 & 0xffu)
#define AGE_KEEPER(age) ((age) >> AGE_KEEPER_SHIFT)

bool memswap_age_pass(MemswapRegion *region)
{
    uint32_t age = atomic_load_explicit(&region->age, memory_order_relaxed);

    if (!AGE_LEFT(age)) {
        return false;
    }
    /* The hand moves under a lock; a look meanwhile has the last word. */
    atomic_compare_exchange_strong(&region->age, &age, age - 1);
    return true;
}

void memswap_age_looked(MemswapRegion *region, uint64_t tried, uint64_t gone)
{
    uint32_t age = atomic_load_explicit(&region->age, memory_order_relaxed);
    uint32_t rounds = AGE_ROUNDS(age);

    if (gone * LITTLE < tried) {
        rounds = MIN(2 * rounds + 1, ROUNDS_MAX);
    } else {
        rounds /= 2;
    }
    atomic_store_explicit(&region->age, AGE(rounds, rounds),
                          memory_order_relaxed);
}

void memswap_age_set(MemswapRegion *region, unsigned int rounds)
{
    atomic_store_explicit(&region->age, AGE(rounds, rounds),
                          memory_order_relaxed);
}

void memswap_age_keep(MemswapRegion *region, unsigned int keeper)
{
    atomic_store_explicit(&region->age, AGE(ROUNDS_MAX, ROUNDS_MAX) |
                          keeper << AGE_KEEPER_SHIFT, memory_order_relaxed);
}

unsigned int memswap_age_keeper(MemswapRegion *region)
{
    uint32_t age = atomic_load_explicit(&region->age, memory_order_relaxed);

    return AGE_LEFT(age) ? AGE_KEEPER(age) : 0;
}

void memswap_age_evicted(MemswapEngine *engine, MemswapRegion *region)
{
    atomic_store_explicit(&region->evicted_at,
                          (uint32_t)atomic_load(&engine->evictions),
                          memory_order_relaxed);
}

uint32_t memswap_refault_distance(MemswapEngine *engine,
                                  MemswapRegion *region)
{
    return (uint32_t)atomic_load_explicit(&engine->evictions,
                                          memory_order_relaxed) -
           atomic_load_explicit(&region->evicted_at, memory_order_relaxed);
}

unsigned int memswap_age_rounds(MemswapRegion *region)
{
    return AGE_ROUNDS(atomic_load_explicit(&region->age,
                                           memory_order_relaxed));
}

void memswap_age_refaulted(MemswapBlock *block, MemswapRegion *region)
{
    MemswapEngine *engine = block->engine;
    uint32_t distance = memswap_refault_distance(engine, region);
    unsigned int bucket = distance ? 31 - __builtin_clz(distance) : 0;

    memswap_count(engine->distances[bucket], 1);
    memswap_curve_add(block, distance);
}

void memswap_age_behind(MemswapBlock *block, uint64_t number)
{
    MemswapEngine *engine = block->engine;
    MemswapRegion *region = &block->regions[number];
    uint64_t memory = atomic_load(&engine->charged) >> block->page_shift;
    uint32_t now = atomic_load(&engine->evictions);
    uint32_t passed = atomic_exchange_explicit(&region->passed_at, now,
                                               memory_order_relaxed);
    uint32_t distance = memswap_refault_distance(engine, region);
    uint32_t at;

    if (passed) {
        /* the clock may have taken it just before the sequence came */
        distance = MAX(distance, now - passed);
    }
    if (distance < memory / FAR) {
        return;
    }
    at = atomic_fetch_add(&engine->behind_next, 1) % MEMSWAP_BEHIND_MAX;
    /* what was there is for the clock */
    atomic_store(&engine->behind[at], (uint64_t)(block->slot + 1) <<
                 MEMSWAP_OWNER_SHIFT | number);
    atomic_store(&engine->behind_at, now);
    atomic_store(&engine->behind_ns, memswap_now(engine));
    memswap_evictors_behind(engine);
}

bool memswap_age_any_behind(MemswapEngine *engine)
{
    for (unsigned int i = 0; i < MEMSWAP_BEHIND_MAX; i++) {
        if (atomic_load(&engine->behind[i])) {
            return true;
        }
    }
    return false;
}

bool memswap_age_streaming(MemswapEngine *engine)
{
    return atomic_load(&engine->behind_next) &&
           (uint32_t)atomic_load(&engine->evictions) -
           atomic_load(&engine->behind_at) < STREAMING &&
           memswap_now(engine) - atomic_load(&engine->behind_ns) <
           STREAMING_NS;
}

MemswapBlock *memswap_age_take_behind(MemswapEngine *engine, uint64_t *number)
{
    for (unsigned int i = 0; i < MEMSWAP_BEHIND_MAX; i++) {
        uint64_t entry = atomic_load(&engine->behind[i]);
        MemswapBlock *block;

        if (!entry || !atomic_compare_exchange_strong(&engine->behind[i],
                                                      &entry, 0)) {
            continue;
        }
        block = memswap_block_get(engine,
                                  (entry >> MEMSWAP_OWNER_SHIFT) - 1);
        *number = entry & ((1ULL << MEMSWAP_OWNER_SHIFT) - 1);
        if (block && *number < block->n_regions) {
            return block;
        }
        if (block) {
            memswap_block_unref(block);
        }
    }
    return NULL;
}

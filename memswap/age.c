/*
 * Age: how far back evictions reach, and what sequences of faults leave behind
 *
 * Refault distance: how many pages were evicted between a page's eviction and
 * its return, known for whole regions.  Had memory been larger by that many
 * pages, it would not have left (Johannes Weiner, "Thrash detection-based file
 * cache sizing").  What a sequence of faults brings in over a distance that
 * is a good part of all memory will be gone before the sequence comes around,
 * whatever is done; left to itself it would also push out everything else.
 * The same if the sequence itself came by that long ago.  So the regions
 * behind such a sequence can be the first to go.
 *
 * How far that is, is for a policy to say; without one nothing goes first.
 * Saying it once, rather than to be told of each region, keeps the policy's
 * thread out of it: a sequence leaves a region behind each millisecond, and
 * evictors start on it at once.
 *
 * Trials don't show what other processes touch, where they have memory mapped.
 * That shows when it has left: who misses it after a short distance has its
 * region passed by for some turns, whatever a policy made of the trial.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "internal.h"

/* A distance that is less than this part shows that it should not have left. */
#define SOON 8
/* How often a region is passed by then. */
#define MISSED_PASSES 7
/* Pages evicted since a sequence left a region, and it is still going on. */
#define STREAMING (4 * MEMSWAP_REGION_SIZE / 4096)
/* The same in time. */
#define STREAMING_NS 1000000000

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

void memswap_age_refaulted(MemswapBlock *block, MemswapRegion *region)
{
    MemswapEngine *engine = block->engine;
    uint32_t distance = memswap_refault_distance(engine, region);
    unsigned int bucket = distance ? 31 - __builtin_clz(distance) : 0;

    memswap_count(engine->distances[bucket], 1);
    memswap_curve_add(block, distance);
}

void memswap_age_missed(MemswapBlock *block, MemswapRegion *region)
{
    MemswapEngine *engine = block->engine;
    uint64_t memory = atomic_load(&engine->charged) >> block->page_shift;

    /* once for each time it left: later, it is being passed by */
    if (!memswap_passes(region) &&
        memswap_refault_distance(engine, region) < memory / SOON) {
        memswap_pass_set(region, MISSED_PASSES);
    }
}

void memswap_age_behind(MemswapBlock *block, uint64_t number)
{
    MemswapEngine *engine = block->engine;
    MemswapRegion *region = &block->regions[number];
    uint64_t memory = atomic_load(&engine->charged) >> block->page_shift;
    uint32_t percent = atomic_load(&engine->behind_percent);
    uint32_t now = atomic_load(&engine->evictions);
    uint32_t passed = atomic_exchange_explicit(&region->passed_at, now,
                                               memory_order_relaxed);
    uint32_t distance = memswap_refault_distance(engine, region);
    uint32_t at;

    if (passed) {
        /* it may have been taken just before the sequence came */
        distance = MAX(distance, now - passed);
    }
    if (!percent || distance < memory * percent / 100) {
        return;
    }
    at = atomic_fetch_add(&engine->behind_next, 1) % MEMSWAP_BEHIND_MAX;
    /* what was there has to wait for its turn */
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

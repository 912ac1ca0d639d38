/*
 * Statistics: adding up what the other files count
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <string.h>

#include "internal.h"

static void add_block(MemswapStats *stats, MemswapBlock *block)
{
    MemswapBlockStats one;

    memswap_block_get_stats(block, &one);
    stats->managed += one.managed;
    stats->resident += one.resident;
    stats->stored += one.stored;
    stats->zero += one.zero;
    stats->untouched += one.untouched;
    stats->poisoned += one.poisoned;
    stats->huge += atomic_load(&block->huge_regions) * MEMSWAP_REGION_SIZE;
    stats->exposed += memswap_block_exposed(block) ? one.managed : 0;
    stats->metadata += atomic_load(&block->regions_touched) *
                       (block->region_pages * sizeof(MemswapWord) +
                        sizeof(MemswapRegion)) +
                       memswap_samples_used(block);
}

void memswap_get_stats(MemswapEngine *engine, MemswapStats *stats)
{
    unsigned int n = atomic_load(&engine->n_slots);
    MemswapStoreStats pool;

    *stats = (MemswapStats) {
        .trial = memswap_sum(&engine->trial_pages),
        .pinned = memswap_sum(&engine->pinned),
        .pin_limit = memswap_pin_bound(engine),
        .pins_refused = atomic_load(&engine->pins_refused),
        .peak_resident = atomic_load(&engine->peak_charged),
        .evictions = atomic_load(&engine->evictions),
        .refaults = atomic_load(&engine->refaults),
        .trials = atomic_load(&engine->n_trials),
        .given_back = atomic_load(&engine->given_back),
        .discards = atomic_load(&engine->discards),
        .store_full = atomic_load(&engine->n_store_full),
        .overshoots = atomic_load(&engine->overshoots),
        .stalls = atomic_load(&engine->stalls),
        .stall_ns = atomic_load(&engine->stall_ns),
        .spurious = atomic_load(&engine->spurious),
        .readahead = atomic_load(&engine->n_readahead),
        .unchanged = atomic_load(&engine->n_unchanged),
        .kept = memswap_sum(&engine->kept),
        .retained = memswap_retained(engine),
        .huge_supported = engine->huge,
        .collapses = atomic_load(&engine->collapses),
        .collapse_failures = atomic_load(&engine->collapse_failures),
        .splits = atomic_load(&engine->splits),
        .no_hugepages = atomic_load(&engine->n_no_hugepages),
        .remote_faults = atomic_load(&engine->n_remote_faults),
        .changed = atomic_load(&engine->exposure.n_changed),
    };
    for (int i = 0; i < MEMSWAP_FAULT__MAX; i++) {
        stats->faults[i] = atomic_load(&engine->faults[i]);
    }
    for (int i = 0; i < MEMSWAP_LATENCY_BUCKETS; i++) {
        stats->latency[i] = atomic_load(&engine->latency[i]);
    }
    for (int i = 0; i < MEMSWAP_DISTANCE_BUCKETS; i++) {
        stats->distances[i] = atomic_load(&engine->distances[i]);
    }
    for (unsigned int i = 0; i < n; i++) {
        MemswapBlock *block = memswap_block_get(engine, i);

        if (block) {
            add_block(stats, block);
            memswap_block_unref(block);
        }
    }
    engine->store->ops->get_stats(engine->store, &pool);
    stats->pool_bytes = pool.bytes;
    stats->pool_live_bytes = pool.live_bytes;
    stats->pool_data_bytes = pool.data_bytes;
    stats->pool_segments = pool.segments;
    stats->pool_moved = pool.moved;
}

uint64_t memswap_latency_percentile(
    const uint64_t latency[MEMSWAP_LATENCY_BUCKETS], double percent)
{
    uint64_t total = 0;
    double rank, seen = 0;

    for (int i = 0; i < MEMSWAP_LATENCY_BUCKETS; i++) {
        total += latency[i];
    }
    rank = total * percent / 100;
    for (int i = 0; i < MEMSWAP_LATENCY_BUCKETS; i++) {
        if (latency[i] && seen + latency[i] >= rank) {
            return ((rank - seen) / latency[i] + 1) * (1ULL << i);
        }
        seen += latency[i];
    }
    return 0;
}

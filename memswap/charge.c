/*
 * The limit: how much of the managed RAM is in the page cache
 *
 * A page is charged before it is put in place and uncharged after it is gone,
 * so the charge is never less than what the page cache holds.
 *
 * When the limit falls below the charge, fills would all have to wait until
 * reclaim has worked off the difference: seconds, for gigabytes.  So fills are
 * held against a ceiling instead, which follows the charge down to the limit
 * and leaves them half of what eviction frees.
 *
 * A hugepage needs much room at once, which small pages could take away bit by
 * bit for ever.  While a fault on one has waited for long (stall.c), room for
 * one is left free: smaller fills wait, too, unless they are forced.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "internal.h"

/* Half of what eviction has freed, as far as fills may leave it for later. */
#define SLACK_BYTES (256 * UINT64_C(1024))

static void note_peak(MemswapEngine *engine, uint64_t charged)
{
    uint64_t peak = atomic_load_explicit(&engine->peak_charged,
                                         memory_order_relaxed);

    while (charged > peak &&
           !atomic_compare_exchange_weak(&engine->peak_charged, &peak,
                                         charged)) {
    }
}

bool memswap_charge(MemswapEngine *engine, uint64_t size, bool force)
{
    uint64_t charged = atomic_load(&engine->charged);
    uint64_t left = size < MEMSWAP_REGION_SIZE &&
                    atomic_load(&engine->n_starved) ? MEMSWAP_REGION_SIZE : 0;
    bool over;

    do {
        uint64_t ceiling = atomic_load(&engine->ceiling);
        uint64_t limit = atomic_load(&engine->limit);
        /* the ceiling may be a step behind a limit that was just raised */
        uint64_t most = MAX(ceiling, limit);

        if (charged + size + left > most && !force) {
            return false;
        }
        over = charged + size > most;
    } while (!atomic_compare_exchange_weak(&engine->charged, &charged,
                                           charged + size));
    charged += size;
    if (over) {
        memswap_count(engine->overshoots, 1);
    }
    note_peak(engine, charged);
    if (atomic_load(&engine->sleepers)) {
        memswap_evictors_charged(engine, charged);
    }
    return true;
}

/*
 * The ceiling after @size went, which left @charged.  What fills leave unused
 * is kept for the next, a page of theirs being larger than half of @size, but
 * not much of it, so that the ceiling gets down with the charge.
 */
static uint64_t lower_ceiling(MemswapEngine *engine, uint64_t ceiling,
                              uint64_t limit, uint64_t charged,
                              uint64_t size)
{
    uint64_t page = atomic_load(&engine->largest_page);
    uint64_t slack = MAX(SLACK_BYTES, MAX(size, 2 * page));

    if (charged <= limit) {
        return limit;
    }
    return MAX(limit, MIN(ceiling - MIN(size / 2, ceiling),
                          charged + slack));
}

void memswap_uncharge(MemswapEngine *engine, uint64_t size)
{
    uint64_t charged = atomic_fetch_sub(&engine->charged, size) - size;
    uint64_t ceiling = atomic_load(&engine->ceiling);
    uint64_t limit = atomic_load(&engine->limit);

    while (ceiling > limit) {
        uint64_t lower = lower_ceiling(engine, ceiling, limit, charged, size);

        if (lower >= ceiling ||
            atomic_compare_exchange_weak(&engine->ceiling, &ceiling,
                                         lower)) {
            break;
        }
    }
}

bool memswap_has_room(MemswapEngine *engine)
{
    return atomic_load(&engine->charged) + atomic_load(&engine->reserve_high)
           <= atomic_load(&engine->limit);
}

void memswap_set_limit(MemswapEngine *engine, uint64_t limit)
{
    atomic_store(&engine->limit, limit);
    atomic_store(&engine->ceiling,
                 MAX(limit, atomic_load(&engine->charged)));
}

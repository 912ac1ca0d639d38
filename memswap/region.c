/*
 * Regions: who owns 2 MiB of a block, and whether they are being zapped
 *
 * Two plain futex locks a region.  Ownership serializes trial, eviction and
 * discard.  The zap window is what lets a pin promise that its page is mapped
 * without taking ownership: see memswap_fill().
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "futex.h"
#include "internal.h"

/* Values of both futexes. */
enum {
    FREE,
    HELD,
    WAITED, /* held, and somebody sleeps on it */
};

bool memswap_region_try_own(MemswapRegion *region)
{
    uint32_t free = FREE;

    return atomic_compare_exchange_strong(&region->owner, &free, HELD);
}

void memswap_region_own(MemswapRegion *region)
{
    if (memswap_region_try_own(region)) {
        return;
    }
    while (atomic_exchange(&region->owner, WAITED) != FREE) {
        memswap_futex_wait(&region->owner, WAITED, -1);
    }
}

void memswap_region_disown(MemswapRegion *region)
{
    if (atomic_exchange(&region->owner, FREE) == WAITED) {
        memswap_futex_wake(&region->owner);
    }
}

void memswap_region_zap_begin(MemswapRegion *region)
{
    /* A plain store: only the owner of the region zaps, one at a time. */
    atomic_store(&region->zapping, HELD);
}

void memswap_region_zap_end(MemswapRegion *region)
{
    if (atomic_exchange(&region->zapping, FREE) == WAITED) {
        memswap_futex_wake(&region->zapping);
    }
}

void memswap_region_zap_wait(MemswapRegion *region)
{
    uint32_t seen = atomic_load(&region->zapping);

    while (seen != FREE) {
        if (seen == HELD &&
            !atomic_compare_exchange_strong(&region->zapping, &seen,
                                            WAITED)) {
            continue;
        }
        memswap_futex_wait(&region->zapping, WAITED, -1);
        seen = atomic_load(&region->zapping);
    }
}

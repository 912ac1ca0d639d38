/*
 * The map: where memory is, and how old, in four bytes a cell
 *
 * For whoever looks from outside, at up to a terabyte.  Only what each region
 * has at hand is read: no page words, so RAM that was never touched takes no
 * memory by being looked at, and a terabyte takes milliseconds.  Regions change
 * meanwhile; each is seen at some moment.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>

#include "internal.h"

uint8_t memswap_map_share(uint64_t part, uint64_t whole)
{
    return part == 0 ? 0 : part >= whole ? 255 : 1 + part * 254 / whole;
}

/* Regions [first, end) */
static MemswapMapCell cell_of(MemswapBlock *block, uint64_t first,
                              uint64_t end, int64_t now)
{
    uint64_t pages = MIN(end * block->region_pages, block->n_pages) -
                     first * block->region_pages;
    uint64_t resident = 0, stored = 0;
    uint32_t idle = UINT32_MAX;
    MemswapMapCell cell = { 0 };

    for (uint64_t i = first; i < end; i++) {
        MemswapRegion *region = &block->regions[i];

        resident += atomic_load(&region->resident);
        stored += atomic_load(&region->stored);
        idle = MIN(idle, memswap_region_idle(region, now));
        cell.heat = MAX(cell.heat, memswap_heat(region));
    }
    cell.resident = memswap_map_share(resident, pages);
    cell.stored = memswap_map_share(stored, pages);
    cell.idle = idle == UINT32_MAX ? MEMSWAP_MAP_NEVER : memswap_eighth(idle);
    return cell;
}

int64_t memswap_block_map(MemswapBlock *block, uint64_t start,
                          uint64_t granularity, uint64_t n,
                          MemswapMapCell *cells)
{
    uint64_t region = block->region_pages << block->page_shift;
    uint64_t step = granularity / region;
    int64_t now = memswap_now(block->engine);
    uint64_t first = start / region;
    uint64_t got = 0;

    if (!granularity || (granularity | start) % region) {
        return -EINVAL;
    }
    while (got < n && first < block->n_regions) {
        uint64_t end = step < block->n_regions - first ? first + step :
                       block->n_regions;

        cells[got++] = cell_of(block, first, end, now);
        first = end;
    }
    return got;
}

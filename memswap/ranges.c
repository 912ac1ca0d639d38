/*
 * Ranges: taking out, and bringing in, what somebody names
 *
 * For policies, which name pages by numbers and are held to a budget, and for
 * who controls the engine from outside, who names blocks and bytes.  Both go
 * through the same loops, region by region, and ask in between whether to go
 * on.  A range is a hint: pages that are pinned, or in somebody's hands, stay
 * as they are.
 *
 * A block is counted in only while one range of it is worked on.  So it can go
 * in between, and what is left of its ranges is nothing.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "policy-internal.h"

bool memswap_range_reclaim(MemswapBlock *block, uint64_t page, uint64_t end,
                           MemswapTake take, MemswapRangeAsk *ask,
                           void *opaque, uint64_t *gone)
{
    unsigned int passed = 0;

    while (page < end && !atomic_load(&block->dead)) {
        uint64_t number = page / block->region_pages;
        uint64_t stop = MIN(end, memswap_region_end(block, number));
        MemswapRegion *region = &block->regions[number];
        MemswapRangeStep step = MEMSWAP_RANGE_SKIP;

        if (atomic_load(&region->resident)) {
            step = ask(opaque, region);
        } else if (++passed % MEMSWAP_RANGE_PASSED_MAX == 0 &&
                   ask(opaque, NULL) == MEMSWAP_RANGE_STOP) {
            return false;
        }
        if (step == MEMSWAP_RANGE_STOP) {
            return false;
        }
        if (step == MEMSWAP_RANGE_GO) {
            *gone += memswap_reclaim_pages(block, page, stop,
                                           take != MEMSWAP_TAKE_ALL);
            if (take == MEMSWAP_TAKE_COLD_THEN_TRY) {
                memswap_trial_range(block, page, stop);
            }
        }
        page = stop;
    }
    return true;
}

void memswap_range_reclaimed(MemswapEngine *engine, uint64_t gone)
{
    if (gone) {
        /* whoever waits for room, and the pool, are to profit */
        memswap_room_made(engine);
        engine->store->ops->maintain(engine->store);
    }
}

bool memswap_range_prefetch(MemswapPolicyHost *host, MemswapBlock *block,
                            uint64_t page, uint64_t end, bool last,
                            MemswapPolicyPriority priority,
                            MemswapRangeAsk *ask, void *opaque,
                            uint64_t *done)
{
    unsigned int passed = 0;
    bool more = true;

    while (page < end && more && !atomic_load(&block->dead)) {
        uint64_t number = page / block->region_pages;
        uint64_t stop = MIN(end, memswap_region_end(block, number));
        MemswapRegion *region = &block->regions[number];

        /*
         * What is in memory may be on trial, and is to be mapped then.  Words
         * of RAM never touched take no memory, if nobody looks.
         */
        if (atomic_load(&region->stored) || atomic_load(&region->resident)) {
            if (ask(opaque, region) == MEMSWAP_RANGE_STOP) {
                return false;
            }
            *done += memswap_prefetch_range(host, block, page, stop,
                                            last && stop == end, priority,
                                            &more);
        } else if (++passed % MEMSWAP_RANGE_PASSED_MAX == 0 &&
                   ask(opaque, NULL) == MEMSWAP_RANGE_STOP) {
            return false;
        }
        page = stop;
    }
    return more;
}

/* --- from outside ------------------------------------------------------ */

typedef struct Outside {
    MemswapGoOn *go_on;
    void *opaque;
} Outside;

static MemswapRangeStep ask_outside(void *opaque, MemswapRegion *region)
{
    Outside *outside = opaque;

    return outside->go_on && !outside->go_on(outside->opaque) ?
           MEMSWAP_RANGE_STOP : MEMSWAP_RANGE_GO;
}

/* The block of this name, counted in; NULL if there is none. */
static MemswapBlock *find_by_name(MemswapEngine *engine, const char *name)
{
    unsigned int n = atomic_load(&engine->n_slots);

    for (unsigned int i = 0; i < n; i++) {
        MemswapBlock *block = memswap_block_get(engine, i);

        if (block && !strcmp(block->name, name)) {
            return block;
        }
        if (block) {
            memswap_block_unref(block);
        }
    }
    return NULL;
}

/* What is wrong with it?  NULL if nothing is. */
static char *range_wrong(MemswapEngine *engine, const MemswapRange *range)
{
    MemswapBlock *block = find_by_name(engine, range->block);
    char *wrong = NULL;

    if (!block) {
        return g_strdup_printf("there is no managed block '%s'",
                               range->block);
    }
    if ((range->offset | range->size) % block->page_size) {
        wrong = g_strdup_printf("offset and size must be multiples of %"
                                PRIu64 ", the page size of block '%s'",
                                block->page_size, block->name);
    } else if (range->offset > block->size ||
               range->size > block->size - range->offset) {
        wrong = g_strdup_printf("it ends beyond block '%s', which has %"
                                PRIu64 " bytes", block->name, block->size);
    }
    memswap_block_unref(block);
    return wrong;
}

static int check(MemswapEngine *engine, const MemswapRange *ranges,
                 unsigned int n, char **error)
{
    g_autofree char *wrong = NULL;
    unsigned int i = 0;

    if (n > MEMSWAP_MAX_RANGES) {
        if (error) {
            *error = g_strdup_printf("at most %d ranges at once",
                                     MEMSWAP_MAX_RANGES);
        }
        return -EINVAL;
    }
    while (i < n && !(wrong = range_wrong(engine, &ranges[i]))) {
        i++;
    }
    if (!wrong) {
        return 0;
    }
    if (error) {
        *error = g_strdup_printf("range %u: %s", i, wrong);
    }
    return -EINVAL;
}

/* As check() found it, and counted in; NULL if it has gone since. */
static MemswapBlock *enter(MemswapEngine *engine, const MemswapRange *range,
                           uint64_t *page, uint64_t *end)
{
    g_autofree char *wrong = range_wrong(engine, range);
    MemswapBlock *block = wrong ? NULL : find_by_name(engine, range->block);

    if (block) {
        *page = range->offset >> block->page_shift;
        *end = MIN(*page + (range->size >> block->page_shift),
                   block->n_pages);
    }
    return block;
}

int64_t memswap_reclaim_ranges(MemswapEngine *engine,
                               const MemswapRange *ranges, unsigned int n,
                               bool cold, MemswapGoOn *go_on, void *opaque,
                               char **error)
{
    Outside outside = { .go_on = go_on, .opaque = opaque };
    bool more = true;
    uint64_t gone = 0;
    int ret = check(engine, ranges, n, error);

    if (ret) {
        return ret;
    }
    for (unsigned int i = 0; i < n && more; i++) {
        uint64_t page, end;
        MemswapBlock *block = enter(engine, &ranges[i], &page, &end);

        if (block) {
            more = memswap_range_reclaim(block, page, end, cold ?
                                         MEMSWAP_TAKE_COLD_THEN_TRY :
                                         MEMSWAP_TAKE_ALL,
                                         ask_outside, &outside, &gone);
            memswap_block_unref(block);
        }
    }
    memswap_range_reclaimed(engine, gone);
    return gone;
}

int64_t memswap_prefetch(MemswapEngine *engine, const MemswapRange *ranges,
                         unsigned int n, MemswapGoOn *go_on, void *opaque,
                         char **error)
{
    Outside outside = { .go_on = go_on, .opaque = opaque };
    bool more = true;
    uint64_t bytes = 0;
    int ret = check(engine, ranges, n, error);

    if (ret) {
        return ret;
    }
    for (unsigned int i = 0; i < n && more; i++) {
        uint64_t page, end;
        MemswapBlock *block = enter(engine, &ranges[i], &page, &end);
        uint64_t done = 0;

        if (block) {
            more = memswap_range_prefetch(NULL, block, page, end, false,
                                          MEMSWAP_POLICY_LOW, ask_outside,
                                          &outside, &done);
            bytes += done << block->page_shift;
            memswap_block_unref(block);
        }
    }
    return bytes;
}

/*
 * Retained blocks: memory that stays
 *
 * A process that maps a block itself, and doesn't say which pages it uses,
 * reads zeroes where a page was taken out, and what it writes there is lost.
 * So nothing of the block leaves as long as such a process is there; the guest
 * may still give memory up.
 *
 * Who takes pages out owns their region, and looks at MemswapBlock.retained
 * after that.  Who retains a block counts first, then owns each region once.
 * Both are sequentially consistent: so either the evictor sees the count, or
 * what it took out is seen here, and brought back.  From then on no page of
 * the block gets to STORED or ZERO.
 *
 * A touch by that process of a page that is ABSENT makes one in the page cache
 * that nobody tells us of.  Its content is right: a fault of the guest's finds
 * it, and maps it.  It is counted in (memswap_block_adopt()) when the guest
 * touches or discards it, and at the latest when the block is released.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>

#include "internal.h"

/* Bytes of a block that have a content: with nothing taken out, resident. */
static uint64_t block_content(MemswapBlock *block)
{
    MemswapBlockStats stats;

    memswap_block_get_stats(block, &stats);
    /* a page on its way counts twice for a moment */
    return MIN(stats.resident + stats.stored + stats.zero, block->size);
}

uint64_t memswap_retained(MemswapEngine *engine)
{
    unsigned int n = atomic_load(&engine->n_slots);
    uint64_t bytes = 0;

    if (!atomic_load(&engine->n_retained)) {
        return 0;
    }
    for (unsigned int i = 0; i < n; i++) {
        MemswapBlock *block = memswap_block_get(engine, i);

        if (block) {
            if (memswap_block_retained(block)) {
                bytes += block_content(block);
            }
            memswap_block_unref(block);
        }
    }
    return bytes;
}

static int no_room(MemswapEngine *engine, MemswapBlock *block, char **error)
{
    uint64_t need = memswap_retained(engine) + block_content(block);
    uint64_t limit = atomic_load(&engine->limit);

    if (need <= limit) {
        return 0;
    }
    if (error) {
        *error = g_strdup_printf("limit must be at least the %"
                                 G_GUINT64_FORMAT " MiB of memory that would"
                                 " stay", (need + (1 << 20) - 1) >> 20);
    }
    return -ENOSPC;
}

/* None of the block's own hugepages leaves for those that are to come back. */
static int no_hugepages(MemswapBlock *block, char **error)
{
    MemswapBlockStats stats;
    int64_t free = memswap_free_hugepages(block->page_size);

    memswap_block_get_stats(block, &stats);
    if (free < 0 || stats.stored + stats.zero <= (uint64_t)free) {
        return 0;
    }
    if (error) {
        *error = g_strdup_printf("the host must have %" G_GUINT64_FORMAT
                                 " MiB of free hugepages for what is to come"
                                 " back", (stats.stored + stats.zero) >> 20);
    }
    return -ENOSPC;
}

/* A page that is out: by itself, with all the waiting that this may take. */
static int bring_back_page(MemswapBlock *block, uint64_t page)
{
    int ret = memswap_block_pin(block, page, 1);

    if (!ret) {
        memswap_block_unpin(block, page, 1);
    }
    return ret;
}

/* Nothing of the region leaves any more: bring back what has left. */
static int bring_back(MemswapBlock *block, uint64_t number)
{
    uint64_t end = memswap_region_end(block, number);
    uint64_t page = memswap_region_first(block, number);
    int ret = 0;

    while (page < end && !ret) {
        MemswapWord *word = &block->words[page];
        unsigned int stored = 0;
        unsigned int n;

        switch (memswap_word_state(memswap_word_load(word))) {
        case MEMSWAP_ABSENT:
        case MEMSWAP_RESIDENT:
        case MEMSWAP_TRIAL:
            page++;
            break;
        case MEMSWAP_STORED:
        case MEMSWAP_ZERO:
            n = block->region_pages > 1 ?
                memswap_bring_in(block, page, end, MEMSWAP_BRING_ASKED,
                                 &stored) : 0;
            page += n;
            ret = n ? 0 : bring_back_page(block, page);
            break;
        case MEMSWAP_POISONED:
            ret = -EIO;
            break;
        default:
            memswap_page_wait(word);
            break;
        }
    }
    return ret;
}

static int bring_back_all(MemswapBlock *block)
{
    for (uint64_t number = 0; number < block->n_regions; number++) {
        MemswapRegion *region = &block->regions[number];
        int ret;

        if (!(atomic_load(&region->flags) & MEMSWAP_REGION_TOUCHED)) {
            /* nothing was ever there to be taken out */
            continue;
        }
        if (atomic_load(&block->dead)) {
            return -EFAULT;
        }
        /* whoever owns it now may not have seen the count */
        memswap_region_own(region);
        memswap_region_disown(region);
        ret = bring_back(block, number);
        if (ret) {
            return ret;
        }
    }
    return 0;
}

/* One fewer; called with retain_lock. */
static void release(MemswapBlock *block)
{
    MemswapEngine *engine = block->engine;

    if (atomic_load(&block->retained) == 1) {
        /* what was made behind our back */
        memswap_block_adopt_all(block, false);
    }
    atomic_fetch_sub(&block->retained, 1);
    atomic_fetch_sub(&engine->n_retained, 1);
    /* What was adopted may be beyond the limit: it is to be worked off. */
    g_mutex_lock(&engine->settings_lock);
    memswap_set_limit(engine, atomic_load(&engine->limit));
    g_mutex_unlock(&engine->settings_lock);
    memswap_evictors_kick(engine);
    memswap_collapser_kick(engine);
}

int memswap_retain(MemswapEngine *engine, const void *host, char **error)
{
    MemswapBlock *block = memswap_block_find(engine, host);
    int ret = 0;

    if (!block) {
        return -ENOENT;
    }
    g_mutex_lock(&engine->retain_lock);
    if (!memswap_block_retained(block)) {
        ret = no_room(engine, block, error);
        if (!ret && block->alias) {
            ret = no_hugepages(block, error);
        }
    }
    if (!ret) {
        atomic_fetch_add(&engine->n_retained, 1);
        if (!atomic_fetch_add(&block->retained, 1)) {
            memswap_forget_trials(block);
            ret = bring_back_all(block);
            if (ret) {
                release(block);
            }
            if (ret == -EIO && error) {
                *error = g_strdup_printf("a page of block '%s' is lost",
                                         block->name);
            }
        }
    }
    g_mutex_unlock(&engine->retain_lock);
    memswap_block_unref(block);
    return ret;
}

void memswap_release(MemswapEngine *engine, const void *host)
{
    MemswapBlock *block = memswap_block_find(engine, host);

    if (block) {
        g_mutex_lock(&engine->retain_lock);
        if (memswap_block_retained(block)) {
            release(block);
        }
        g_mutex_unlock(&engine->retain_lock);
        memswap_block_unref(block);
        memswap_room_made(engine);
    }
}

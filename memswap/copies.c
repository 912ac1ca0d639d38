/*
 * Kept copies: pages in the page cache whose stored copy was not dropped
 *
 * A page that comes back and is not written to need not be compressed again
 * when it leaves.  Its word keeps the copy's handle, under a budget; eviction
 * compares the page with the copy, since nothing tells writes from reads here.
 * So a kept copy is never believed, and may be forgotten at any time.  For room
 * they are shed region by region, with a hand that goes round like a clock's.
 *
 * Whoever changes a word with MEMSWAP_WORD_KEPT either carries flag and handle
 * along, or owns the copy from then on and drops it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "internal.h"

/* See MEMSWAP_KEEP_AUTO. */
#define AUTO_PART 16
/* With less than this part of the budget left, warm pages give theirs up. */
#define WARM_PART 4

/* Bytes of pages that may keep their copies. */
static int64_t keep_budget(MemswapEngine *engine)
{
    uint64_t keep = atomic_load_explicit(&engine->keep_copies,
                                         memory_order_relaxed);

    if (keep == MEMSWAP_KEEP_AUTO) {
        keep = atomic_load_explicit(&engine->limit, memory_order_relaxed) /
               AUTO_PART;
    }
    return MIN(keep, (uint64_t)INT64_MAX);
}

bool memswap_copy_keep(MemswapBlock *block)
{
    MemswapEngine *engine = block->engine;
    int64_t size = block->page_size;
    int64_t budget = keep_budget(engine);

    if (size > MEMSWAP_KEEP_PAGE_SIZE) {
        return false;
    }
    if (atomic_fetch_add(&engine->kept, size) + size <= budget) {
        return true;
    }
    atomic_fetch_sub(&engine->kept, size);
    return false;
}

static void copy_unkept(MemswapBlock *block)
{
    atomic_fetch_sub(&block->engine->kept, (int64_t)block->page_size);
}

void memswap_copy_forget(MemswapBlock *block, uint64_t word)
{
    MemswapStore *store = block->engine->store;

    store->ops->drop(store, memswap_word_handle(word));
    copy_unkept(block);
}

bool memswap_copy_take(MemswapBlock *block, uint64_t page, const void *data,
                       uint64_t *handle)
{
    MemswapStore *store = block->engine->store;
    MemswapWord *word = &block->words[page];
    uint64_t old = memswap_word_load(word);
    bool same;

    if (!(old & MEMSWAP_WORD_KEPT)) {
        return false;
    }
    same = store->ops->same(store, memswap_word_handle(old), data,
                            block->page_size);
    *handle = memswap_word_handle(old);
    /* others may set WANTED meanwhile, no more */
    while (!memswap_word_cas(word, &old, old & ~(MEMSWAP_WORD_KEPT |
                                                 MEMSWAP_HANDLE_MASK))) {
    }
    if (!same) {
        /* stale: its room may be what the new one needs */
        memswap_copy_forget(block, old);
        return false;
    }
    copy_unkept(block);
    return true;
}

/*
 * Returns the number of pages whose copies went; with @warm, not those of
 * pages on trial.
 */
static uint64_t shed_region(MemswapBlock *block, uint64_t number, bool warm)
{
    uint64_t end = memswap_region_end(block, number);
    uint64_t n = 0;

    for (uint64_t page = memswap_region_first(block, number); page < end;
         page++) {
        MemswapWord *word = &block->words[page];
        uint64_t old = memswap_word_load(word);

        /* in a transition, it is its owner's business */
        if ((old & MEMSWAP_WORD_KEPT) &&
            (memswap_word_state(old) == MEMSWAP_RESIDENT ||
             (memswap_word_state(old) == MEMSWAP_TRIAL && !warm)) &&
            memswap_word_cas(word, &old, old & ~(MEMSWAP_WORD_KEPT |
                                                 MEMSWAP_HANDLE_MASK))) {
            memswap_copy_forget(block, old);
            n++;
        }
    }
    return n;
}

/* From region *@number on; it is the next one then.  Returns bytes of pages. */
static uint64_t shed_block(MemswapBlock *block, uint64_t *number,
                           uint64_t bytes)
{
    uint64_t shed = 0;

    for (; *number < block->n_regions && shed < bytes; (*number)++) {
        if (atomic_load(&block->regions[*number].resident)) {
            shed += shed_region(block, *number, false) << block->page_shift;
        }
    }
    return shed;
}

uint64_t memswap_shed_copies(MemswapEngine *engine, uint64_t bytes)
{
    unsigned int slots = atomic_load(&engine->n_slots);
    uint64_t hand = atomic_load(&engine->shed_hand);
    unsigned int slot = hand >> MEMSWAP_OWNER_SHIFT;
    uint64_t number = hand & ((UINT64_C(1) << MEMSWAP_OWNER_SHIFT) - 1);
    uint64_t shed = 0;

    if (atomic_load(&engine->kept) <= 0) {
        return 0;
    }
    /* Once around; where it began it comes twice, for both ends of a block. */
    for (unsigned int seen = 0; seen <= slots && shed < bytes; seen++) {
        MemswapBlock *block = memswap_block_get(engine, slot);

        if (block) {
            shed += shed_block(block, &number, bytes - shed);
            memswap_block_unref(block);
        }
        if (shed < bytes) {
            slot = slot + 1 < slots ? slot + 1 : 0;
            number = 0;
        }
    }
    /* Two at a time may leave it at either's end. */
    atomic_store(&engine->shed_hand,
                 (uint64_t)slot << MEMSWAP_OWNER_SHIFT | number);
    return shed;
}

void memswap_shed_warm(MemswapBlock *block, uint64_t number)
{
    MemswapEngine *engine = block->engine;
    int64_t budget = keep_budget(engine);

    if (atomic_load(&engine->kept) > budget - budget / WARM_PART) {
        shed_region(block, number, true);
    }
}

void memswap_shed_excess(MemswapEngine *engine)
{
    int64_t excess = atomic_load(&engine->kept) - keep_budget(engine);

    if (excess > 0) {
        memswap_shed_copies(engine, excess);
    }
}

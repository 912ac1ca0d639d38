/*
 * Discards: contents that the guest gave up
 *
 * A discard owns the region, so no eviction is under way in it, and takes each
 * page through DISCARDING, so no fault puts it back in between.  A fill under
 * way is told to forget the page, and waited for: were the discard to return
 * first, what the guest writes next could be forgotten too.
 *
 * Where there may be a large folio, the region leaves whole first; if it can't
 * now, or the block is retained, the pages are zeroed in place, and nothing is
 * punched.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>

#include "internal.h"

/* Make the content of a page what a discarded one reads. */
static int discard_content(MemswapBlock *block, uint64_t page)
{
    static const uint8_t small[4096];

    return memswap_page_write(block, page, block->alias ?
                              block->engine->hugetlb.zeroes : small);
}

/* Pages in DISCARDING that can't be punched: used, or in a large folio. */
static int discard_in_place(MemswapBlock *block, uint64_t first,
                            uint64_t end)
{
    int ret = 0;

    for (uint64_t page = first; page < end; page++) {
        ret = ret ?: discard_content(block, page);
        memswap_page_call_off(&block->words[page]);
        memswap_page_settle(block, page, MEMSWAP_RESIDENT, 0, 0);
    }
    return ret;
}

/*
 * Pages in DISCARDING, from the page cache, side by side: punch them.  Ends
 * their transition whatever happens.
 */
static int discard_punch(MemswapBlock *block, uint64_t first, uint64_t end)
{
    bool left = false;
    uint64_t gone = 0;
    int ret;

    if (memswap_region_large(memswap_page_region(block, first))) {
        return discard_in_place(block, first, end);
    }
    ret = memswap_page_punch(block, first, end - first, &left);
    for (uint64_t page = first; page < end; page++) {
        if (ret || (left && memswap_page_cached(block, page))) {
            /*
             * Still there: as it was, or zeroed within a large folio.  It
             * goes on counting as resident, and can be evicted.
             */
            memswap_page_call_off(&block->words[page]);
            memswap_page_settle(block, page, MEMSWAP_RESIDENT, 0, 0);
            continue;
        }
        gone++;
        memswap_block_moved(block, page, MEMSWAP_IN_CACHE, MEMSWAP_IN_NONE);
        memswap_count(block->engine->discards, 1);
        memswap_page_settle(block, page, MEMSWAP_ABSENT, 0, 0);
    }
    memswap_uncharge(block->engine, gone << block->page_shift);
    return ret;
}

void memswap_discard_filled(MemswapBlock *block, uint64_t page)
{
    MemswapWord *word = &block->words[page];
    uint64_t old = memswap_word_load(word);
    uint64_t new;

    do {
        new = (old & MEMSWAP_WORD_WANTED) | MEMSWAP_DISCARDING;
    } while (!memswap_word_cas(word, &old, new));
    if (old & MEMSWAP_WORD_KEPT) {
        memswap_copy_forget(block, old);
    }
    /* a failure leaves the page to the discard that waits for us */
    if (memswap_shared_take(block, page)) {
        discard_punch(block, page, page + 1);
    } else {
        discard_in_place(block, page, page + 1);
    }
}

/* A lost page stays so. */
static void discard_failed(MemswapBlock *block, uint64_t page)
{
    memswap_page_call_off(&block->words[page]);
    memswap_page_settle(block, page, MEMSWAP_POISONED, MEMSWAP_WORD_WANTED, 0);
}

/*
 * A lost page in a large folio, which nothing is punched out of.  If it is the
 * host's bad page, it can't be written to either.
 */
static int discard_lost_in_place(MemswapBlock *block, uint64_t page)
{
    if (discard_content(block, page)) {
        discard_failed(block, page);
        return -EBUSY;
    }
    memswap_charge(block->engine, block->page_size, true);
    memswap_block_moved(block, page, MEMSWAP_IN_POISON, MEMSWAP_IN_CACHE);
    memswap_page_call_off(&block->words[page]);
    memswap_page_settle(block, page, MEMSWAP_RESIDENT, 0, 0);
    return 0;
}

/* A page with nothing in the page cache that counts. */
static int discard_copy(MemswapBlock *block, uint64_t page, uint64_t old)
{
    MemswapStore *store = block->engine->store;
    MemswapPlace place = MEMSWAP_IN_POISON;

    if (memswap_word_state(old) == MEMSWAP_POISONED) {
        bool left = false;
        int ret = 0;

        if (!memswap_region_large(memswap_page_region(block, page))) {
            /* the host's bad page, if it was that */
            ret = memswap_page_punch(block, page, 1, &left);
        } else if (memswap_page_cached(block, page)) {
            return discard_lost_in_place(block, page);
        }
        if (ret || left) {
            discard_failed(block, page);
            return ret ?: -EBUSY;
        }
    } else if (memswap_word_state(old) == MEMSWAP_STORED) {
        store->ops->drop(store, memswap_word_handle(old));
        place = MEMSWAP_IN_STORE;
    } else if (memswap_word_state(old) == MEMSWAP_ZERO) {
        place = MEMSWAP_IN_WORD;
    }
    memswap_block_moved(block, page, place, MEMSWAP_IN_NONE);
    memswap_count(block->engine->discards, 1);
    memswap_page_settle(block, page, MEMSWAP_ABSENT, 0, 0);
    return 0;
}

/* A pinned page can't leave: make its content what a discarded one reads. */
static int discard_pinned(MemswapBlock *block, uint64_t page, uint64_t old)
{
    int ret;

    if (!memswap_word_cas(&block->words[page], &old,
                          memswap_word_with_state(old & ~MEMSWAP_WORD_MAPPED,
                                                  MEMSWAP_FILLING))) {
        return -EAGAIN;
    }
    ret = discard_content(block, page);
    /* No zap is under way, since the region is ours: mapped it stays. */
    memswap_page_settle(block, page, MEMSWAP_RESIDENT,
                        old & MEMSWAP_WORD_MAPPED, 0);
    return ret;
}

/* What discard_page() left to do. */
typedef enum Left {
    LEFT_NOTHING,
    LEFT_PUNCH,     /* the page is in DISCARDING and in the page cache */
    LEFT_WAIT,      /* its owner was told; look again */
} Left;

static Left discard_page(MemswapBlock *block, uint64_t page, int *ret)
{
    MemswapWord *word = &block->words[page];
    uint64_t old = memswap_word_load(word);

    while (true) {
        MemswapState state = memswap_word_state(old);
        uint64_t keep = old & (MEMSWAP_WORD_WANTED | MEMSWAP_HANDLE_MASK);

        switch (state) {
        case MEMSWAP_ABSENT:
            return LEFT_NOTHING;
        case MEMSWAP_RESIDENT:
        case MEMSWAP_TRIAL:
            if (memswap_word_pins(old)) {
                *ret = discard_pinned(block, page, old);
                if (*ret != -EAGAIN) {
                    return LEFT_NOTHING;
                }
                *ret = 0;
                old = memswap_word_load(word);
                continue;
            }
            if (memswap_word_cas(word, &old, MEMSWAP_DISCARDING)) {
                if (state == MEMSWAP_TRIAL) {
                    memswap_count(block->engine->trial_pages,
                                  -(int64_t)block->page_size);
                }
                if (old & MEMSWAP_WORD_KEPT) {
                    memswap_copy_forget(block, old);
                }
                if (!memswap_shared_take(block, page)) {
                    /* as if we had pinned it */
                    *ret = discard_in_place(block, page, page + 1);
                    return LEFT_NOTHING;
                }
                return LEFT_PUNCH;
            }
            continue;
        case MEMSWAP_STORED:
        case MEMSWAP_ZERO:
        case MEMSWAP_POISONED:
            if (memswap_word_cas(word, &old, keep | MEMSWAP_DISCARDING)) {
                *ret = discard_copy(block, page, old);
                return LEFT_NOTHING;
            }
            continue;
        case MEMSWAP_FILLING:
            if (!(old & MEMSWAP_WORD_DISCARD) &&
                !memswap_word_cas(word, &old, old | MEMSWAP_WORD_DISCARD |
                                  MEMSWAP_WORD_WANTED)) {
                continue;
            }
            return LEFT_WAIT;
        default:
            /* DISCARDING by a filler that was told, or has just been */
            return LEFT_WAIT;
        }
    }
}

/* The caller owns the region that the pages lie in. */
static int discard_pages(MemswapBlock *block, uint64_t first, uint64_t end)
{
    uint64_t run = end;
    int ret = 0;

    for (uint64_t page = first; page < end && !ret; page++) {
        Left left = discard_page(block, page, &ret);

        if (left == LEFT_PUNCH) {
            run = MIN(run, page);
            continue;
        }
        if (run < page) {
            /* before waiting: no page is held while another is waited for */
            int punched = discard_punch(block, run, page);

            ret = ret ?: punched;
        }
        run = end;
        if (left == LEFT_WAIT) {
            memswap_page_wait(&block->words[page]);
            page--;
        }
    }
    if (run < end) {
        int punched = discard_punch(block, run, end);

        ret = ret ?: punched;
    }
    return ret;
}

uint64_t memswap_forget_lost(MemswapEngine *engine)
{
    unsigned int n = atomic_load(&engine->n_slots);
    uint64_t bytes = 0;

    for (unsigned int i = 0; i < n; i++) {
        MemswapBlock *block = memswap_block_get(engine, i);

        if (!block) {
            continue;
        }
        for (uint64_t page = 0; page < block->n_pages &&
             atomic_load(&block->pages[MEMSWAP_IN_POISON]) > 0; page++) {
            uint64_t word = memswap_word_load(&block->words[page]);

            if (memswap_word_state(word) == MEMSWAP_POISONED &&
                !memswap_discard(engine, memswap_page_host(block, page),
                                 block->page_size)) {
                bytes += block->page_size;
            }
        }
        memswap_block_unref(block);
    }
    return bytes;
}

int memswap_discard(MemswapEngine *engine, const void *host, uint64_t size)
{
    MemswapBlock *block = memswap_block_find(engine, host);
    uint64_t offset, page, end;
    int ret = 0;

    if (!block) {
        return -ENOENT;
    }
    offset = (const uint8_t *)host - block->host;
    if ((offset | size) & (block->page_size - 1) ||
        size > block->size - offset) {
        memswap_block_unref(block);
        return -EINVAL;
    }
    page = offset >> block->page_shift;
    end = (offset + size) >> block->page_shift;
    while (page < end && !ret) {
        uint64_t number = page / block->region_pages;
        uint64_t stop = MIN(end, memswap_region_end(block, number));
        MemswapRegion *region = &block->regions[number];

        memswap_region_own(region);
        if (memswap_block_retained(block)) {
            /* what others put there is to go as well */
            memswap_block_adopt(block, page, stop);
        }
        if (memswap_region_large(region)) {
            memswap_huge_leave(block, number, page, stop);
        }
        ret = discard_pages(block, page, stop);
        memswap_region_disown(region);
        page = stop;
    }
    memswap_trace(engine, MEMSWAP_TRACE_DISCARD, block, offset >>
                  block->page_shift, size);
    memswap_block_unref(block);
    memswap_room_made(engine);
    return ret;
}

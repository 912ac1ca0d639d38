/*
 * Huge pages: out of the page cache, as a whole
 *
 * No part of a large folio can be punched, so all of the region goes at once,
 * and what is to stay is copied back, in small pages.
 *
 * First the pages on trial are read and put into the store, while those that
 * proved warm stay in use; that takes milliseconds.  Then these are taken as
 * well, and every page that could come back meanwhile is frozen; the region
 * is zapped, what is warm is read, all of it is punched with one call, and the
 * warm pages are copied back, in runs.  Up to the punch everything can be
 * called off; after it nothing can: what can't be copied back for want of
 * memory goes to the store, or waits for memory.
 *
 * What is copied back stays charged all along, so that nobody waits for room
 * with pages in hand.  A page that the store refuses, or that is wanted, counts
 * as warm.  If none is left to go, or too few to pay for it with room in the
 * store; or if a page is pinned, in transition, or can't be read: then nothing
 * is punched.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "internal.h"
#include "uffd.h"

/* Pages read at once. */
#define READ_PAGES 32
/* It pays if this part goes. */
#define GONE_PART 4
/* Between attempts to copy back, while the host has no memory. */
#define NO_MEMORY_US 1000

typedef struct Page {
    uint64_t old;           /* the word before it was taken */
    uint64_t handle;        /* or the value that the page repeats */
    MemswapPlace place;     /* where it goes, if it is in the page cache */
    bool taken;
    bool cached;            /* it was resident when it was taken */
    bool mapped;            /* by a copy back */
} Page;

typedef struct Leave {
    MemswapEngine *engine;
    MemswapBlock *block;
    uint64_t first;
    uint64_t n;
    Page *pages;
    uint8_t *data;          /* their content */
    bool full;              /* the store refused one */
} Leave;

static uint8_t *page_data(Leave *leave, uint64_t i)
{
    return leave->data + (i << leave->block->page_shift);
}

static MemswapWord *page_word(Leave *leave, uint64_t i)
{
    return &leave->block->words[leave->first + i];
}

static void drop_copy(Leave *leave, Page *page)
{
    if (page->place == MEMSWAP_IN_STORE) {
        leave->engine->store->ops->drop(leave->engine->store, page->handle);
    }
    page->place = MEMSWAP_IN_CACHE;
}

/* Take the pages on trial: they can go. */
static void take_cold(Leave *leave)
{
    uint64_t n = 0;

    for (uint64_t i = 0; i < leave->n; i++) {
        Page *page = &leave->pages[i];
        uint64_t old = memswap_word_load(page_word(leave, i));

        if (memswap_word_state(old) == MEMSWAP_TRIAL &&
            !memswap_word_pins(old) &&
            memswap_word_cas(page_word(leave, i), &old,
                             memswap_word_with_state(old,
                                                     MEMSWAP_EVICTING))) {
            page->old = old;
            page->taken = true;
            page->cached = true;
            n++;
        }
    }
    memswap_count(leave->engine->trial_pages,
                  -(int64_t)(n << leave->block->page_shift));
}

/*
 * Take one more page, to be copied back, or frozen where it is not in the page
 * cache.  False if it can't be now.
 */
static bool take_other(Leave *leave, uint64_t i)
{
    const unsigned int states = 1u << MEMSWAP_ABSENT |
                                1u << MEMSWAP_RESIDENT |
                                1u << MEMSWAP_TRIAL |
                                1u << MEMSWAP_STORED | 1u << MEMSWAP_ZERO;
    Page *page = &leave->pages[i];
    MemswapState state;

    page->taken = memswap_huge_take(leave->block, leave->first + i, states,
                                    &page->old);
    state = memswap_word_state(page->old);
    page->cached = page->taken && (state == MEMSWAP_RESIDENT ||
                                   state == MEMSWAP_TRIAL);
    /* only a discard ends POISONED, and the region is ours */
    return page->taken || (state == MEMSWAP_POISONED &&
                           !memswap_word_pins(page->old));
}

static bool take_others(Leave *leave)
{
    for (uint64_t i = 0; i < leave->n; i++) {
        if (!leave->pages[i].taken && !take_other(leave, i)) {
            return false;
        }
    }
    return true;
}

/* Does no device process use any of them? */
static bool take_shared(Leave *leave)
{
    for (uint64_t i = 0; i < leave->n; i++) {
        if (leave->pages[i].cached &&
            !memswap_shared_take(leave->block, leave->first + i)) {
            return false;
        }
    }
    return true;
}

/* Read what was taken in this round: run by run.  False if one can't be. */
static bool read_pages(Leave *leave, bool *read)
{
    for (uint64_t i = 0; i < leave->n;) {
        uint64_t end = i;

        while (end < leave->n && end - i < READ_PAGES &&
               leave->pages[end].cached && !read[end]) {
            read[end++] = true;
        }
        if (end == i) {
            i++;
            continue;
        }
        if (memswap_page_read(leave->block, leave->first + i, end - i,
                              page_data(leave, i))) {
            return false;
        }
        i = end;
    }
    return true;
}

/*
 * Make the copies.  False if it doesn't pay.  With the store full, what it has
 * taken goes: dropped again, it would be taken and dropped for ever.
 */
static bool store_cold(Leave *leave, uint64_t resident)
{
    uint64_t n = 0;

    for (uint64_t i = 0; i < leave->n; i++) {
        Page *page = &leave->pages[i];

        if (page->taken && !(memswap_word_load(page_word(leave, i)) &
                             MEMSWAP_WORD_WANTED)) {
            page->place = memswap_evict_copy(
                leave->block, leave->first + i, page_data(leave, i),
                &leave->full, &page->handle);
            n += page->place != MEMSWAP_IN_CACHE;
        }
    }
    return n && (n >= resident / GONE_PART || leave->full);
}

/* A page that was to go stays. */
static void fill(Leave *leave, uint64_t i)
{
    if (memswap_word_state(memswap_word_load(page_word(leave, i))) ==
        MEMSWAP_EVICTING) {
        memswap_page_call_off(page_word(leave, i));
        memswap_count(leave->engine->given_back, 1);
    }
}

/* Nothing was punched: as if nothing had happened, but for the mapping. */
static void call_off(Leave *leave)
{
    MemswapBlock *block = leave->block;

    for (uint64_t i = 0; i < leave->n; i++) {
        Page *page = &leave->pages[i];
        MemswapState state = memswap_word_state(page->old);

        if (!page->taken) {
            continue;
        }
        drop_copy(leave, page);
        fill(leave, i);
        if (state == MEMSWAP_TRIAL) {
            memswap_count(leave->engine->trial_pages,
                          (int64_t)block->page_size);
        }
        /* the handle of a copy that was kept is none of ours */
        memswap_page_settle(block, leave->first + i, state, 0,
                            page->cached ? 0 :
                            memswap_word_handle(page->old));
    }
}

/* What is wanted by now is copied back. */
static void keep_wanted(Leave *leave)
{
    for (uint64_t i = 0; i < leave->n; i++) {
        Page *page = &leave->pages[i];

        if (page->cached && page->place == MEMSWAP_IN_STORE &&
            (memswap_word_load(page_word(leave, i)) & MEMSWAP_WORD_WANTED)) {
            drop_copy(leave, page);
        }
    }
}

/* Somebody else put pages there meanwhile: what is to go can't. */
static void keep_cached(Leave *leave)
{
    for (uint64_t i = 0; i < leave->n; i++) {
        Page *page = &leave->pages[i];

        if (page->cached && memswap_page_cached(leave->block,
                                                leave->first + i)) {
            drop_copy(leave, page);
        }
    }
}

/* The page cache has it: is it mapped now? */
static bool map_page(Leave *leave, uint64_t i)
{
    MemswapBlock *block = leave->block;
    int ret = memswap_uffd_continue(
        leave->engine->uffd, memswap_page_host(block, leave->first + i),
        block->page_size, NULL);

    return !ret || ret == -EEXIST;
}

/*
 * A page that could not be copied back.  Ours is the only copy of its content:
 * stay with it until it is somewhere, or until nobody needs it any more.  Who
 * stops the engine waits for us, and removes the blocks only then.
 */
static void back_page(Leave *leave, uint64_t i)
{
    MemswapBlock *block = leave->block;
    Page *page = &leave->pages[i];

    while (!atomic_load(&block->dead) && !atomic_load(&leave->engine->stop)) {
        int ret = memswap_uffd_copy(
            leave->engine->uffd, memswap_page_host(block, leave->first + i),
            page_data(leave, i), block->page_size, NULL);

        if (!ret) {
            page->mapped = true;
            return;
        }
        if (ret == -EEXIST &&
            !memswap_page_write(block, leave->first + i,
                                page_data(leave, i))) {
            page->mapped = map_page(leave, i);
            return;
        }
        leave->full = false;
        page->place = memswap_evict_copy(block, leave->first + i,
                                         page_data(leave, i), &leave->full,
                                         &page->handle);
        if (page->place != MEMSWAP_IN_CACHE) {
            return;
        }
        g_usleep(NO_MEMORY_US);
    }
}

/* Put back small what does not go. */
static void copy_back(Leave *leave)
{
    MemswapBlock *block = leave->block;
    uint64_t i = 0;

    while (i < leave->n) {
        size_t done;
        uint64_t end = i;

        while (end < leave->n && leave->pages[end].cached &&
               leave->pages[end].place == MEMSWAP_IN_CACHE) {
            fill(leave, end++);
        }
        if (end == i) {
            i++;
            continue;
        }
        memswap_uffd_copy(leave->engine->uffd,
                          memswap_page_host(block, leave->first + i),
                          page_data(leave, i),
                          (end - i) << block->page_shift, &done);
        /* what is in place is mapped, and may have been written to by now */
        for (done >>= block->page_shift; done; done--) {
            leave->pages[i++].mapped = true;
        }
        if (i < end) {
            back_page(leave, i++);
        }
    }
}

static bool page_leaves(const Page *page)
{
    return page->taken && page->cached && page->place != MEMSWAP_IN_CACHE;
}

/* For policies, as evict.c does. */
static void tell_gone(Leave *leave)
{
    uint64_t from = 0;

    for (uint64_t i = 0; i <= leave->n; i++) {
        const Page *page = &leave->pages[i];
        unsigned int ahead;

        if (i < leave->n && page_leaves(page)) {
            ahead = memswap_word_ahead(page->old);
            if (ahead) {
                memswap_policy_watched(leave->block, leave->first + i, ahead,
                                       false);
            }
            continue;
        }
        if (i > from) {
            memswap_policy_emit(leave->engine, MEMSWAP_POLICY_EVICTED,
                                leave->block, leave->first + from, i - from);
        }
        from = i + 1;
    }
}

/* Tell the words.  Returns the number of pages gone. */
static uint64_t settle(Leave *leave, uint64_t *back)
{
    MemswapBlock *block = leave->block;
    uint64_t gone = 0;

    *back = 0;
    for (uint64_t i = 0; i < leave->n; i++) {
        Page *page = &leave->pages[i];
        uint64_t number = leave->first + i;

        if (!page->taken) {
            continue;
        }
        if (!page->cached) {
            memswap_page_settle(block, number, memswap_word_state(page->old),
                                0, memswap_word_handle(page->old));
            continue;
        }
        if (page->place == MEMSWAP_IN_CACHE) {
            (*back)++;
            memswap_page_settle(block, number, MEMSWAP_RESIDENT,
                                page->mapped ? MEMSWAP_WORD_MAPPED : 0, 0);
            continue;
        }
        gone++;
        memswap_block_moved(block, number, MEMSWAP_IN_CACHE, page->place);
        memswap_page_settle(block, number,
                            page->place == MEMSWAP_IN_STORE ?
                            MEMSWAP_STORED : MEMSWAP_ZERO, 0, page->handle);
    }
    memswap_uncharge(leave->engine, gone << block->page_shift);
    return gone;
}

/* Everything is in hand and read: the punch, and what follows from it. */
static uint64_t leave_now(Leave *leave, uint64_t number, bool evict)
{
    MemswapBlock *block = leave->block;
    MemswapRegion *region = &block->regions[number];
    uint64_t gone, back;
    bool left;

    if (memswap_page_punch(block, leave->first, leave->n, &left)) {
        call_off(leave);
        return 0;
    }
    if (left) {
        keep_cached(leave);
    }
    copy_back(leave);
    if (atomic_load(&region->huge) & MEMSWAP_HUGE_WHOLE) {
        atomic_fetch_sub(&block->huge_regions, 1);
    }
    /* with what somebody else put there it may be anything */
    atomic_store(&region->huge, left ? MEMSWAP_HUGE_FOLIO : 0);

    if (evict && memswap_policy_wants(leave->engine,
                                      MEMSWAP_POLICY_EVENT_BIT(EVICTED) |
                                      MEMSWAP_POLICY_EVENT_BIT(WASTED))) {
        tell_gone(leave);
    }
    gone = settle(leave, &back);
    memswap_count(leave->engine->splits, back > 0);
    if (evict && gone) {
        memswap_evicted(block, leave->first, gone);
    }
    return gone << block->page_shift;
}

/* What is on trial goes if @evict says so, else what is to be dropped. */
static uint64_t region_leave(MemswapBlock *block, uint64_t number, bool evict,
                             uint64_t drop, uint64_t drop_end)
{
    uint64_t n = block->region_pages;
    uint64_t resident = atomic_load(&block->regions[number].resident);
    g_autofree Page *pages = g_new0(Page, n);
    g_autofree uint8_t *data = g_malloc(n << block->page_shift);
    g_autofree bool *read = g_new0(bool, n);
    Leave leave = {
        .engine = block->engine,
        .block = block,
        .first = memswap_region_first(block, number),
        .n = n,
        .pages = pages,
        .data = data,
    };

    if (memswap_block_retained(block)) {
        /* what others write meanwhile would be lost */
        return 0;
    }
    for (uint64_t i = 0; i < n; i++) {
        pages[i].place = MEMSWAP_IN_CACHE;
    }
    if (evict) {
        take_cold(&leave);
        /* before they are read: who uses one from then on has to ask */
        if (!take_shared(&leave) || !read_pages(&leave, read) ||
            !store_cold(&leave, resident)) {
            call_off(&leave);
            return 0;
        }
    } else {
        /* their content is known */
        drop -= leave.first;
        drop_end -= leave.first;
        memset(page_data(&leave, drop), 0,
               (drop_end - drop) << block->page_shift);
        memset(read + drop, true, drop_end - drop);
    }
    /* Zapped before it is read: what is warm is being written to. */
    if (!take_others(&leave) || !take_shared(&leave) ||
        madvise(memswap_page_host(block, leave.first), MEMSWAP_REGION_SIZE,
                MADV_DONTNEED) ||
        !read_pages(&leave, read)) {
        call_off(&leave);
        return 0;
    }
    for (uint64_t i = drop; !evict && i < drop_end; i++) {
        if (pages[i].cached) {
            pages[i].place = MEMSWAP_IN_WORD;
            pages[i].handle = 0;
        }
    }
    keep_wanted(&leave);
    return leave_now(&leave, number, evict);
}

uint64_t memswap_huge_leave(MemswapBlock *block, uint64_t number,
                            uint64_t drop, uint64_t drop_end)
{
    if (memswap_block_exposed(block)) {
        return 0;
    }
    return region_leave(block, number, drop == drop_end, drop, drop_end);
}

bool memswap_huge_split(MemswapBlock *block, uint64_t number)
{
    uint64_t first = memswap_region_first(block, number);

    region_leave(block, number, false, first, first);
    return !memswap_region_large(&block->regions[number]);
}

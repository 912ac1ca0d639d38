/*
 * Eviction: from the page cache to the store, in runs
 *
 * A page is read, stored and checksummed while it is still in the page cache;
 * the punch comes last, so until then everything can be called off.
 *
 * Of blocks that other processes have mapped, pages may be written to all the
 * while; there exposed.c takes the place of the punch.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>

#include "internal.h"

/* Bytes read and punched at once; about what a second-level cache holds. */
#define RUN_BYTES (128 * 1024)
#define RUN_PAGES 32

/* Pages that lose their kept copies at once for want of room. */
#define SHED_BYTES (4 * 1024 * 1024)
/* Steps of the store's background work before that, and after it. */
#define TIDY_STEPS 4

typedef struct Run {
    MemswapEngine *engine;
    MemswapBlock *block;
    uint64_t first;
    unsigned int n;
    MemswapPlace place[RUN_PAGES];  /* what becomes of each */
    uint64_t handle[RUN_PAGES];     /* or the value that the page repeats */
    uint8_t *data;                  /* the pages' content */
    uint8_t *after;                 /* exposed: content when they were gone */
    uint32_t unread;                /* bit: the page could not be read */
    uint32_t back;                  /* bit: it had left, and was put back */
    uint32_t lost;                  /* bit: its content is lost */
    bool full;                      /* the store refused one */
} Run;

/* Does the page repeat one 32-bit value? */
static bool same_filled(const uint8_t *data, size_t size, uint64_t *value)
{
    uint32_t first;

    if (memcmp(data, data + sizeof(first), size - sizeof(first))) {
        return false;
    }
    memcpy(&first, data, sizeof(first));
    *value = first;
    return true;
}

static void note_store_full(MemswapBlock *block, uint64_t page)
{
    memswap_count(block->engine->n_store_full, 1);
    if (!atomic_exchange(&block->engine->store_full, true)) {
        memswap_event(block->engine, MEMSWAP_EVENT_STORE_FULL, block, page);
    }
}

static void note_store_works(MemswapEngine *engine)
{
    if (atomic_load_explicit(&engine->store_full, memory_order_relaxed)) {
        atomic_store(&engine->store_full, false);
    }
}

/* What was dropped is room once what is left lies together: was there any? */
static bool tidy_store(MemswapStore *store)
{
    int i;

    for (i = 0; i < TIDY_STEPS && store->ops->maintain(store); i++) {
    }
    return i > 0;
}

/*
 * The store has refused a page: may it take it now?  Kept copies go only where
 * there is no room otherwise; *@tidied says whether that was looked for.
 */
static bool make_store_room(MemswapEngine *engine, bool *tidied)
{
    if (!*tidied) {
        *tidied = true;
        if (tidy_store(engine->store)) {
            return true;
        }
    }
    if (!memswap_shed_copies(engine, SHED_BYTES)) {
        return false;
    }
    tidy_store(engine->store);
    return true;
}

MemswapPlace memswap_evict_copy(MemswapBlock *block, uint64_t page,
                                const void *data, bool *full,
                                uint64_t *handle)
{
    MemswapStore *store = block->engine->store;
    uint64_t owner = memswap_page_owner(block, page);
    bool tidied = false;

    if (same_filled(data, block->page_size, handle)) {
        return MEMSWAP_IN_WORD;
    }
    if (memswap_copy_take(block, page, data, handle)) {
        memswap_count(block->engine->n_unchanged, 1);
        return MEMSWAP_IN_STORE;
    }
    if (*full) {
        return MEMSWAP_IN_CACHE;
    }
    while (store->ops->put(store, data, block->page_size, owner, handle)) {
        if (!make_store_room(block->engine, &tidied)) {
            *full = true;
            note_store_full(block, page);
            return MEMSWAP_IN_CACHE;
        }
    }
    note_store_works(block->engine);
    return MEMSWAP_IN_STORE;
}

/*
 * Make the copies.  After the first that the store refuses, only pages that
 * need none go.
 */
static void run_store(Run *run)
{
    MemswapStore *store = run->engine->store;

    if (store->ops->set_hurry) {
        store->ops->set_hurry(store, memswap_short_of_room(run->engine));
    }
    for (unsigned int i = 0; i < run->n; i++) {
        uint64_t page = run->first + i;

        run->place[i] = MEMSWAP_IN_CACHE;
        if (!(run->unread & 1u << i) &&
            !(memswap_word_load(&run->block->words[page]) &
              MEMSWAP_WORD_WANTED)) {
            run->place[i] = memswap_evict_copy(
                run->block, page, run->data + i * run->block->page_size,
                &run->full, &run->handle[i]);
        }
    }
}

static void run_call_off(Run *run, unsigned int i)
{
    MemswapStore *store = run->engine->store;

    if (run->place[i] == MEMSWAP_IN_STORE) {
        store->ops->drop(store, run->handle[i]);
    }
    run->place[i] = MEMSWAP_IN_CACHE;
}

/*
 * The page cache kept some of the pages, zeroed, because they are parts of a
 * large folio: put their content back.
 */
static void run_restore(Run *run, unsigned int from, unsigned int to)
{
    for (unsigned int i = from; i < to; i++) {
        uint64_t page = run->first + i;

        if (memswap_page_cached(run->block, page) &&
            !memswap_page_write(run->block, page,
                                run->data + i * run->block->page_size)) {
            run_call_off(run, i);
        }
    }
}

/* Somebody wrote to a page that has left by now, or wants it too much. */
static void run_put_back(Run *run, unsigned int i)
{
    uint64_t page = run->first + i;

    run_call_off(run, i);
    memswap_page_call_off(&run->block->words[page]);
    run->place[i] = memswap_exposed_put_back(
        run->block, page, run->after + i * run->block->page_size,
        &run->handle[i]);
    if (run->place[i] == MEMSWAP_IN_NONE) {
        /* the block goes, or the engine */
        run->place[i] = MEMSWAP_IN_CACHE;
    }
    if (run->place[i] == MEMSWAP_IN_CACHE) {
        run->back |= 1u << i;
    }
}

/* As run_punch(), where other processes have the pages mapped. */
static void run_splice(Run *run, unsigned int from, unsigned int to)
{
    MemswapFate fate[RUN_PAGES];
    size_t at = from * run->block->page_size;
    int ret = memswap_exposed_take(run->block, run->first + from, to - from,
                                  run->data + at, run->after + at, fate);

    for (unsigned int i = from; i < to; i++) {
        if (ret) {
            run_call_off(run, i);
        } else if (fate[i - from] == MEMSWAP_RUINED) {
            run_call_off(run, i);
            run->lost |= 1u << i;
        } else if (fate[i - from] != MEMSWAP_TAKEN) {
            run_put_back(run, i);
        }
    }
}

static void run_punch(Run *run, unsigned int from, unsigned int to)
{
    bool left;
    int ret;

    if (run->after) {
        run_splice(run, from, to);
        return;
    }
    ret = memswap_page_punch(run->block, run->first + from, to - from,
                             &left);
    if (ret) {
        while (from < to) {
            run_call_off(run, from++);
        }
    } else if (left) {
        run_restore(run, from, to);
    }
}

/* Punch what has a copy and is not wanted again already. */
static void run_punch_all(Run *run)
{
    unsigned int from = 0;

    for (unsigned int i = 0; i <= run->n; i++) {
        if (i < run->n && run->place[i] != MEMSWAP_IN_CACHE &&
            !(memswap_word_load(&run->block->words[run->first + i]) &
              MEMSWAP_WORD_WANTED)) {
            continue;
        }
        if (i > from) {
            run_punch(run, from, i);
        }
        if (i < run->n) {
            run_call_off(run, i);
        }
        from = i + 1;
    }
}

static void page_give_back(MemswapBlock *block, uint64_t page)
{
    uint64_t ahead = memswap_word_load(&block->words[page]) &
                     MEMSWAP_AHEAD_MASK;

    memswap_page_call_off(&block->words[page]);
    memswap_count(block->engine->given_back, 1);
    memswap_count(block->engine->trial_pages, (int64_t)block->page_size);
    memswap_page_settle(block, page, MEMSWAP_TRIAL, ahead, 0);
}

/* It was in a large folio that nobody knew of; see exposed.c. */
static void page_lost(MemswapBlock *block, uint64_t page)
{
    uint64_t number = page / block->region_pages;

    if (memswap_region_end(block, number) -
        memswap_region_first(block, number) == block->region_pages) {
        /* one is enough: the others stay as they are from now on */
        atomic_fetch_or(&block->regions[number].huge, MEMSWAP_HUGE_FOLIO);
    }
    memswap_page_call_off(&block->words[page]);
    memswap_uncharge(block->engine, block->page_size);
    memswap_block_moved(block, page, MEMSWAP_IN_CACHE, MEMSWAP_IN_POISON);
    memswap_page_settle(block, page, MEMSWAP_POISONED, MEMSWAP_WORD_WANTED,
                        0);
    memswap_event(block->engine, MEMSWAP_EVENT_PAGE_LOST, block, page);
}

/* A page that did not leave. */
static void run_stays(Run *run, unsigned int i)
{
    uint64_t page = run->first + i;

    if (run->lost & 1u << i) {
        page_lost(run->block, page);
    } else if (run->back & 1u << i) {
        /* no zap is under way, since the region is ours */
        memswap_page_settle(run->block, page, MEMSWAP_RESIDENT,
                            MEMSWAP_WORD_MAPPED, 0);
    } else {
        page_give_back(run->block, page);
    }
}

/* For policies: what left, in runs, and what of it they had brought in. */
static void run_tell(Run *run)
{
    MemswapBlock *block = run->block;
    unsigned int from = 0;

    for (unsigned int i = 0; i <= run->n; i++) {
        unsigned int ahead;

        if (i < run->n && run->place[i] != MEMSWAP_IN_CACHE) {
            ahead = memswap_word_ahead(
                memswap_word_load(&block->words[run->first + i]));
            if (ahead) {
                memswap_policy_watched(block, run->first + i, ahead, false);
            }
            continue;
        }
        if (i > from) {
            memswap_policy_emit(run->engine, MEMSWAP_POLICY_EVICTED, block,
                                run->first + from, i - from);
        }
        from = i + 1;
    }
}

void memswap_evicted(MemswapBlock *block, uint64_t first, uint64_t n)
{
    MemswapEngine *engine = block->engine;

    memswap_count(engine->evictions, n);
    memswap_count(engine->evicted_bytes, n << block->page_shift);
    memswap_age_evicted(engine, memswap_page_region(block, first));
    memswap_trace(engine, MEMSWAP_TRACE_EVICT, block, first, n);
}

/* Tell the words.  Returns the number of pages gone. */
static unsigned int run_settle(Run *run)
{
    MemswapBlock *block = run->block;
    unsigned int gone = 0;

    if (memswap_policy_wants(run->engine, MEMSWAP_POLICY_EVENT_BIT(EVICTED) |
                             MEMSWAP_POLICY_EVENT_BIT(WASTED))) {
        run_tell(run);
    }
    for (unsigned int i = 0; i < run->n; i++) {
        uint64_t page = run->first + i;
        bool stored = run->place[i] == MEMSWAP_IN_STORE;

        if (run->place[i] == MEMSWAP_IN_CACHE) {
            run_stays(run, i);
            continue;
        }
        gone++;
        memswap_block_moved(block, page, MEMSWAP_IN_CACHE, run->place[i]);
        memswap_page_settle(block, page,
                            stored ? MEMSWAP_STORED : MEMSWAP_ZERO, 0,
                            run->handle[i]);
    }
    if (gone) {
        memswap_evicted(block, run->first, gone);
        memswap_uncharge(run->engine, (uint64_t)gone << block->page_shift);
    }
    return gone;
}

/* A page that can't be read stays, and does not keep its neighbours. */
static void run_read(Run *run)
{
    run->unread = 0;
    if (!memswap_page_read(run->block, run->first, run->n, run->data)) {
        return;
    }
    for (unsigned int i = 0; i < run->n; i++) {
        if (memswap_page_read(run->block, run->first + i, 1,
                              run->data + i * run->block->page_size)) {
            run->unread |= 1u << i;
        }
    }
}

/* Returns the number of pages gone. */
static unsigned int run_evict(Run *run)
{
    run->back = 0;
    run->lost = 0;
    run_read(run);
    run_store(run);
    run_punch_all(run);
    return run_settle(run);
}

/* Take a page on trial, unless somebody uses it. */
static bool run_take(Run *run, uint64_t page)
{
    MemswapWord *word = &run->block->words[page];
    uint64_t old = memswap_word_load(word);

    if (memswap_word_state(old) != MEMSWAP_TRIAL || memswap_word_pins(old) ||
        !memswap_word_cas(word, &old, memswap_word_with_state(
                                          old, MEMSWAP_EVICTING))) {
        return false;
    }
    if (memswap_shared_take(run->block, page)) {
        return true;
    }
    memswap_page_call_off(word);
    memswap_page_settle(run->block, page, MEMSWAP_TRIAL,
                        old & MEMSWAP_AHEAD_MASK, 0);
    return false;
}

/* Take ownership of the next pages on trial that lie side by side. */
static void run_gather(Run *run, uint64_t *next, uint64_t end,
                       unsigned int max)
{
    run->n = 0;
    while (*next < end && run->n < max) {
        if (run_take(run, *next)) {
            if (!run->n) {
                run->first = *next;
            }
            run->n++;
        } else if (run->n) {
            break;
        }
        (*next)++;
    }
    memswap_count(run->engine->trial_pages,
                  -(int64_t)(run->n * run->block->page_size));
}

uint64_t memswap_evict_pages(MemswapBlock *block, uint64_t *next,
                             uint64_t end, uint64_t max)
{
    uint64_t left = (MIN(max, block->size) + block->page_size - 1) >>
                    block->page_shift;
    unsigned int run_pages = MIN(CLAMP(RUN_BYTES / block->page_size, 1,
                                       RUN_PAGES), left);
    g_autofree uint8_t *small = NULL;
    g_autofree uint8_t *after = NULL;
    Run run = { .engine = block->engine, .block = block };
    uint64_t gone = 0;

    if (memswap_block_retained(block)) {
        *next = end;
        return 0;
    }
    /* the caller owns the region, so nobody begins to expose it meanwhile */
    if (memswap_block_exposed(block)) {
        run_pages = MIN(run_pages, memswap_exposed_run(block->engine));
        run.after = after = g_malloc(run_pages << block->page_shift);
    }
    run.data = block->alias ? memswap_hugetlb_take_buffer(block->engine) :
               (small = g_malloc(run_pages << block->page_shift));
    while (*next < end && left) {
        unsigned int n;

        run_gather(&run, next, end, MIN(left, run_pages));
        if (!run.n) {
            break;
        }
        n = run_evict(&run);
        gone += n;
        if (run.lost) {
            *next = end;
        }
        left -= MIN(left, n);
    }
    if (block->alias) {
        memswap_hugetlb_put_buffer(block->engine, run.data);
    }
    return gone << block->page_shift;
}

uint64_t memswap_evict_region(MemswapBlock *block, uint64_t region,
                              uint64_t *next, uint64_t max)
{
    uint64_t end = memswap_region_end(block, region);

    if (memswap_region_large(&block->regions[region])) {
        /* no part of a huge page is ever punched */
        *next = end;
        return memswap_huge_look(block, region);
    }
    if (memswap_huge_keep(block, region)) {
        *next = end;
        return 0;
    }
    return memswap_evict_pages(block, next, end, max);
}

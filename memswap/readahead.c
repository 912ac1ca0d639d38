/*
 * Read-ahead: bring in what a sequence of faults will touch next
 *
 * A fault costs a signal or an event, and a look at the page tables, however
 * little there is to fetch.  Where faults come in the order of addresses, the
 * next pages are put in place in the same go, as many as there is room for
 * without making anybody wait: twice as many each time the sequence goes on.
 * Pages on trial that lie in the way are mapped again: a sequence that has
 * been going on for a while is as good as a touch.
 *
 * Each region remembers where it expects the next fault, and how far it read
 * ahead the last time.  Threads that write this at once spoil each other's
 * guess, nothing more.
 *
 * Memory that is touched for the first time is treated alike, as long as there
 * is room: a guest that boots or fills its memory then has one fault for many
 * pages.  Only a fault of that kind leads to it, so that no more is put in
 * place than as much again as was touched.
 *
 * The rules of fault.c hold for each page: nothing is put in place but in
 * FILLING, and zapping is looked at after that.  A page that meets any
 * trouble goes back to what it was, and the fault that may come for it deals
 * with that.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "internal.h"
#include "uffd.h"

/* Pages after the second fault of a sequence. */
#define FIRST_WINDOW 4
/* Pages built at once: what a second-level cache holds, and a bit each. */
#define RUN_PAGES 32
#define RUN_BYTES (RUN_PAGES * 4096)
/* Resident pages that a sequence may have passed without a fault. */
#define PASSED_MAX 64

/* MemswapRegion.stream: the page expected next, and the last window. */
#define STREAM(expected, window) ((uint32_t)(window) << 16 | (expected))
#define STREAM_EXPECTED(stream) ((stream) & 0xffffu)
#define STREAM_WINDOW(stream) ((stream) >> 16)

/* How pages are put in place. */
typedef enum RunKind {
    RUN_NONE,                   /* not by us */
    RUN_ABSENT,                 /* zeroes */
    RUN_STORED,                 /* a copy: STORED or ZERO before */
    RUN_TRIAL,                  /* only mapped */
} RunKind;

/* Pages side by side that this thread has in FILLING. */
typedef struct Run {
    MemswapBlock *block;
    bool absent;                /* absent pages may be brought in */
    uint64_t first;
    unsigned int n;
    RunKind kind;
    uint64_t old[RUN_PAGES];    /* the words before */
} Run;

void memswap_readahead_init(MemswapEngine *engine)
{
    engine->ahead_buffers = g_malloc(MEMSWAP_AHEAD_BUFFERS * RUN_BYTES);
}

void memswap_readahead_destroy(MemswapEngine *engine)
{
    g_free(engine->ahead_buffers);
}

/* The lowest that is free, so that few are ever used; NULL if none is. */
static uint8_t *take_buffer(MemswapEngine *engine)
{
    for (unsigned int i = 0; i < MEMSWAP_AHEAD_BUFFERS; i++) {
        uint64_t bit = UINT64_C(1) << i;

        if (!(atomic_load(&engine->ahead_busy) & bit) &&
            !(atomic_fetch_or(&engine->ahead_busy, bit) & bit)) {
            return engine->ahead_buffers + i * RUN_BYTES;
        }
    }
    return NULL;
}

static void put_buffer(MemswapEngine *engine, uint8_t *buffer)
{
    unsigned int i = (buffer - engine->ahead_buffers) / RUN_BYTES;

    atomic_fetch_and(&engine->ahead_busy, ~(UINT64_C(1) << i));
}

static RunKind run_kind(const Run *run, MemswapState state)
{
    switch (state) {
    case MEMSWAP_ABSENT:
        /* it may never be touched: not at the cost of others */
        return run->absent && memswap_has_room(run->block->engine) ?
               RUN_ABSENT : RUN_NONE;
    case MEMSWAP_STORED:
    case MEMSWAP_ZERO:
        return RUN_STORED;
    case MEMSWAP_TRIAL:
        return RUN_TRIAL;
    default:
        return RUN_NONE;
    }
}

/* Take the next pages that are alike into FILLING. */
static void run_gather(Run *run, uint64_t page, uint64_t end)
{
    MemswapEngine *engine = run->block->engine;
    size_t size = run->block->page_size;

    run->first = page;
    run->n = 0;
    for (; page < end && run->n < RUN_PAGES; page++) {
        MemswapWord *word = &run->block->words[page];
        uint64_t old = memswap_word_load(word);
        RunKind kind = run_kind(run, memswap_word_state(old));

        if (kind == RUN_NONE || (run->n && kind != run->kind) ||
            (kind != RUN_TRIAL && !memswap_charge(engine, size, false))) {
            return;
        }
        if (!memswap_word_cas(word, &old, memswap_word_with_state(
                                              old, MEMSWAP_FILLING))) {
            if (kind != RUN_TRIAL) {
                memswap_uncharge(engine, size);
            }
            return;
        }
        run->kind = kind;
        run->old[run->n++] = old;
    }
}

/* Put in place what can be.  Returns the number of pages. */
static unsigned int run_place(Run *run, uint8_t *buffer)
{
    MemswapBlock *block = run->block;
    void *host = memswap_page_host(block, run->first);
    int uffd = block->engine->uffd;
    size_t size = run->n << block->page_shift;
    unsigned int n = 0;
    size_t done;

    if (run->kind != RUN_STORED) {
        if (run->kind == RUN_TRIAL) {
            memswap_uffd_continue(uffd, host, size, &done);
        } else {
            memswap_uffd_zero(uffd, host, size, &done);
        }
        return done >> block->page_shift;
    }
    while (n < run->n &&
           !memswap_fill_build(block, run->old[n],
                               buffer + (n << block->page_shift))) {
        n++;
    }
    memswap_uffd_copy(uffd, host, buffer, n << block->page_shift, &done);
    return done >> block->page_shift;
}

/* As if it had never been asked for. */
static void run_undo(Run *run, unsigned int i)
{
    MemswapBlock *block = run->block;
    MemswapState state = memswap_word_state(run->old[i]);

    if (run->kind != RUN_TRIAL) {
        memswap_uncharge(block->engine, block->page_size);
        memswap_page_settle(block, run->first + i, state, 0,
                            memswap_word_handle(run->old[i]));
    } else {
        /* mapped by somebody already, perhaps: not on trial any more */
        memswap_count(block->engine->trial_pages, -(int64_t)block->page_size);
        memswap_page_settle(block, run->first + i, MEMSWAP_RESIDENT, 0, 0);
    }
}

unsigned int memswap_bring_in(MemswapBlock *block, uint64_t page,
                              uint64_t end, MemswapBring what,
                              unsigned int *stored)
{
    MemswapEngine *engine = block->engine;
    MemswapRegion *region = memswap_page_region(block, page);
    uint8_t *buffer = take_buffer(engine);
    Run run = { .block = block, .absent = what == MEMSWAP_BRING_NEXT_OR_NEW };
    unsigned int total = 0;

    while (buffer && page < end) {
        unsigned int placed;
        bool zapping;

        run_gather(&run, page, end);
        if (!run.n) {
            break;
        }
        /* after FILLING was set, see fault.c */
        zapping = atomic_load(&region->zapping) != 0;
        placed = run_place(&run, buffer);
        for (unsigned int i = 0; i < run.n; i++) {
            if (i < placed) {
                memswap_fill_finish(block, run.first + i, run.old[i],
                                    !zapping, what == MEMSWAP_BRING_ASKED);
            } else {
                run_undo(&run, i);
            }
        }
        total += placed;
        *stored += run.kind == RUN_STORED ? placed : 0;
        page += placed;
        if (placed < run.n) {
            break;
        }
    }
    if (buffer) {
        put_buffer(engine, buffer);
    }
    memswap_count(engine->n_readahead, total);
    return total;
}

/* Did the sequence that @stream tells of get to @page? */
static bool goes_on(MemswapBlock *block, uint64_t first, uint32_t stream,
                    uint64_t page)
{
    uint64_t expected = first + STREAM_EXPECTED(stream);

    if (!STREAM_EXPECTED(stream) || page < expected ||
        page - expected > PASSED_MAX) {
        return false;
    }
    while (expected < page) {
        uint64_t word = memswap_word_load(&block->words[expected++]);

        if (memswap_word_state(word) != MEMSWAP_RESIDENT) {
            return false;
        }
    }
    return true;
}

/* A sequence went on from this region to the next. */
static void left_behind(MemswapBlock *block, uint64_t number)
{
    uint32_t streamed = atomic_exchange_explicit(
        &block->regions[number].streamed, 0, memory_order_relaxed);

    if (streamed >= block->region_pages - block->region_pages / 4) {
        memswap_age_behind(block, number);
    }
}

void memswap_readahead(MemswapBlock *block, uint64_t page,
                       MemswapFaultKind kind)
{
    MemswapEngine *engine = block->engine;
    uint64_t limit = atomic_load_explicit(&engine->readahead,
                                          memory_order_relaxed) >>
                     block->page_shift;
    uint64_t number = page / block->region_pages;
    uint64_t first = memswap_region_first(block, number);
    uint64_t end = memswap_region_end(block, number);
    MemswapRegion *region = &block->regions[number];
    uint32_t stream = atomic_load_explicit(&region->stream,
                                           memory_order_relaxed);
    uint64_t window = 0;
    bool goes, entered = false;
    unsigned int stored = kind == MEMSWAP_FAULT_STORED ||
                          kind == MEMSWAP_FAULT_SAME;

    if (!limit || block->region_pages == 1 ||
        (!stored && kind != MEMSWAP_FAULT_TRIAL &&
         kind != MEMSWAP_FAULT_ABSENT)) {
        return;
    }
    goes = goes_on(block, first, stream, page);
    if (!goes && page - first <= PASSED_MAX && number) {
        /* it may come from the region before */
        uint64_t before = memswap_region_first(block, number - 1);

        stream = atomic_load_explicit(&block->regions[number - 1].stream,
                                      memory_order_relaxed);
        goes = goes_on(block, before, stream, page);
        entered = goes;
    }
    if (!goes || entered) {
        atomic_store_explicit(&region->streamed, 0, memory_order_relaxed);
    }
    if (entered) {
        left_behind(block, number - 1);
    }
    if (goes) {
        window = MAX(2 * STREAM_WINDOW(stream), FIRST_WINDOW);
        window = MIN(window, MIN(limit, block->region_pages));
    }
    page++;
    if (window) {
        page += memswap_bring_in(block, page, MIN(end, page + window),
                                 kind == MEMSWAP_FAULT_ABSENT ?
                                 MEMSWAP_BRING_NEXT_OR_NEW :
                                 MEMSWAP_BRING_NEXT, &stored);
        atomic_fetch_add_explicit(&region->streamed, stored,
                                  memory_order_relaxed);
    }
    atomic_store_explicit(&region->stream, STREAM(page - first, window),
                          memory_order_relaxed);
}

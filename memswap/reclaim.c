/*
 * Reclaim: regions are put on trial, and lose what stays cold
 *
 * Which region is next comes from offers.c.
 * Stage one unmaps a region's pages and marks them; stage two, some regions
 * later, takes out those that nobody touched since.  One zap a region pays for
 * 512 pages, and nothing is mapped any more when they are punched, so no page
 * costs a TLB flush of its own.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <sys/mman.h>

#include "internal.h"

/*
 * Regions that wait for their second look at once: this part of those there
 * are, so many at least, and at most.  A policy puts the coldest first: the
 * more are on trial at once, the more warm ones are among them, whose touches
 * are faults, and whose pages leave that were not touched in that time.  The
 * fewer, the less time they have to prove warm.  See performance.rst.
 */
#define TRIAL_PART 16
#define TRIAL_LEAST 2
#define TRIAL_WINDOW 32
/*
 * The same for hugepages.  Such a region is one page: in the time that another
 * takes to be evicted, one of these is, so it takes more of them for pages to
 * have time to prove warm.  A touch of one on trial costs a hundredth of
 * fetching it from the store.
 */
#define TRIAL_WINDOW_HUGETLB 512
/* Who is to reclaim so much waits for regions that somebody else owns. */
#define BUSY_US 200
#define BUSY_LOOKS 1000

bool memswap_trial_mark(MemswapBlock *block, uint64_t page, uint64_t *seen)
{
    MemswapWord *word = &block->words[page];

    *seen = memswap_word_load(word);
    while (memswap_word_state(*seen) == MEMSWAP_RESIDENT &&
           !memswap_word_pins(*seen)) {
        uint64_t new = memswap_word_with_state(*seen & ~MEMSWAP_WORD_MAPPED,
                                               MEMSWAP_TRIAL);

        if (memswap_word_cas(word, seen, new)) {
            memswap_count(block->engine->trial_pages,
                          (int64_t)block->page_size);
            memswap_unmapped(block, page);
            *seen = new;
            return true;
        }
    }
    return false;
}

void memswap_trial_undo(MemswapBlock *block, uint64_t first, uint64_t end)
{
    for (uint64_t page = first; page < end; page++) {
        MemswapWord *word = &block->words[page];
        uint64_t old = memswap_word_load(word);

        /* again if a kept copy was moved or shed meanwhile */
        while (memswap_word_state(old) == MEMSWAP_TRIAL) {
            if (memswap_word_cas(word, &old, memswap_word_with_state(
                                                 old, MEMSWAP_FILLING))) {
                memswap_count(block->engine->trial_pages,
                              -(int64_t)block->page_size);
                memswap_page_settle(block, page, MEMSWAP_RESIDENT, 0, 0);
                break;
            }
        }
    }
}

/* Unmap a run of pages that are marked.  Returns the number on trial. */
static uint64_t trial_zap(MemswapBlock *block, uint64_t first, uint64_t end,
                          uint64_t waiting)
{
    /* On a shared mapping this unmaps, and forgets nothing. */
    if (!madvise(memswap_page_host(block, first),
                 (end - first) << block->page_shift, MADV_DONTNEED)) {
        return waiting;
    }
    /* Locked behind our back: leave it alone. */
    memswap_trial_undo(block, first, end);
    return 0;
}

/*
 * Mark what is resident in a part of a region without a large folio and unmap
 * it, in runs that go around what must stay mapped.  The caller owns the
 * region.  Returns the number of pages on trial, those included that were so
 * already.
 */
static uint64_t trial_pages(MemswapBlock *block, uint64_t first, uint64_t end)
{
    MemswapRegion *region = memswap_page_region(block, first);
    uint64_t run_first = end, run_end = end, run_waiting = 0;
    uint64_t waiting = 0;

    memswap_note_time(block->engine);
    memswap_region_zap_begin(region);
    for (uint64_t page = first; page < end; page++) {
        uint64_t word;

        if (memswap_trial_mark(block, page, &word)) {
            run_first = MIN(run_first, page);
            run_end = page + 1;
        }
        run_waiting += memswap_word_state(word) == MEMSWAP_TRIAL;
        if (run_first < end && memswap_word_keeps_mapped(word)) {
            waiting += trial_zap(block, run_first, run_end, run_waiting);
            run_first = end;
            run_waiting = 0;
        }
    }
    if (run_first < end) {
        run_waiting = trial_zap(block, run_first, run_end, run_waiting);
    }
    waiting += run_waiting;
    memswap_region_zap_end(region);

    if (waiting) {
        memswap_count(block->engine->n_trials, 1);
        memswap_trace(block->engine, MEMSWAP_TRACE_TRIAL, block, first,
                      waiting);
    }
    return waiting;
}

uint64_t memswap_trial_region(MemswapBlock *block, uint64_t number)
{
    if (memswap_region_large(&block->regions[number])) {
        return memswap_huge_trial(block, number);
    }
    return trial_pages(block, memswap_region_first(block, number),
                       memswap_region_end(block, number));
}

/* A huge region goes whole or not at all.  The caller owns it. */
static uint64_t reclaim_huge(MemswapBlock *block, uint64_t number, bool cold)
{
    if (!cold) {
        memswap_huge_fine(&block->regions[number]);
        memswap_huge_trial(block, number);
    }
    return memswap_huge_look(block, number);
}

uint64_t memswap_reclaim_pages(MemswapBlock *block, uint64_t first,
                               uint64_t end, bool cold)
{
    uint64_t number = first / block->region_pages;
    MemswapRegion *region = &block->regions[number];
    uint64_t gone = 0;

    if (first == end || memswap_block_retained(block) ||
        !memswap_region_try_own(region)) {
        return 0;
    }
    if (!memswap_region_large(region)) {
        if (!cold) {
            trial_pages(block, first, end);
        }
        gone = memswap_evict_pages(block, &first, end,
                                   (end - first) << block->page_shift);
    } else if (first == memswap_region_first(block, number) &&
               end == memswap_region_end(block, number)) {
        gone = reclaim_huge(block, number, cold);
    }
    memswap_region_disown(region);
    return gone;
}

void memswap_trial_range(MemswapBlock *block, uint64_t first, uint64_t end)
{
    uint64_t number = first / block->region_pages;
    MemswapRegion *region = &block->regions[number];

    if (first == end || memswap_block_retained(block) ||
        !memswap_region_try_own(region)) {
        return;
    }
    if (!memswap_region_large(region)) {
        trial_pages(block, first, end);
    } else if (first == memswap_region_first(block, number) &&
               end == memswap_region_end(block, number)) {
        memswap_huge_trial(block, number);
    }
    memswap_region_disown(region);
}

uint64_t memswap_reclaim_round(MemswapEngine *engine)
{
    unsigned int n = atomic_load(&engine->n_slots);
    uint64_t regions = 0;

    for (unsigned int i = 0; i < n; i++) {
        MemswapBlock *block = memswap_block_get(engine, i);

        if (block) {
            for (uint64_t k = 0; k < block->n_regions &&
                 memswap_reclaims_from(block, 0); k++) {
                regions += atomic_load(&block->regions[k].resident) > 0;
            }
            memswap_block_unref(block);
        }
    }
    return regions;
}

/* Takes over the reference to the block. */
static MemswapTrial *trial_new(MemswapBlock *block, uint64_t number)
{
    MemswapTrial *entry = g_new(MemswapTrial, 1);

    *entry = (MemswapTrial) {
        .block = block,
        .region = number,
        .next = memswap_region_first(block, number),
    };
    return entry;
}

static void trial_free(MemswapTrial *entry)
{
    atomic_fetch_and(&entry->block->regions[entry->region].flags,
                     ~MEMSWAP_REGION_QUEUED);
    memswap_block_unref(entry->block);
    g_free(entry);
}

/* Called with reclaim_lock. */
static void trial_queue(MemswapEngine *engine, MemswapTrial *entry,
                        bool first)
{
    if (atomic_load(&entry->block->dead) ||
        memswap_block_retained(entry->block)) {
        trial_free(entry);
    } else if (first) {
        g_queue_push_head(&engine->trials, entry);
    } else {
        g_queue_push_tail(&engine->trials, entry);
    }
}

/*
 * Of a few regions the least would be too large a part; with one on trial there
 * is no waiting at all.  Of hugepages it is half: measured, more brings little.
 */
unsigned int memswap_trial_window(MemswapEngine *engine, unsigned int flags)
{
    uint64_t regions = atomic_load(&engine->charged) / MEMSWAP_REGION_SIZE;
    uint64_t huge = memswap_sum(&engine->hugetlb.resident);
    uint64_t window = MIN(huge / 2, TRIAL_WINDOW_HUGETLB);

    if (!(flags & MEMSWAP_RECLAIM_HUGETLB)) {
        regions -= MIN(huge, regions);
        window += MIN(MAX(regions / TRIAL_PART, MIN(regions / 4, TRIAL_LEAST)),
                      TRIAL_WINDOW);
    }
    return MAX(window, 1);
}

/* The next trial from @link on that may be looked at; NULL: none. */
static GList *find_trial(GList *link, unsigned int flags)
{
    while (link &&
           !memswap_reclaims_from(((MemswapTrial *)link->data)->block,
                                  flags)) {
        link = link->next;
    }
    return link;
}

/* How many there are of these.  Called with reclaim_lock. */
static unsigned int count_trials(MemswapEngine *engine, unsigned int flags)
{
    GList *link = engine->trials.head;
    unsigned int n = 0;

    if (!(flags & MEMSWAP_RECLAIM_HUGETLB)) {
        return g_queue_get_length(&engine->trials);
    }
    while ((link = find_trial(link, flags))) {
        link = link->next;
        n++;
    }
    return n;
}

/* Put a region on trial that is this thread's to try.  Takes over the block. */
static MemswapTrial *trial_begin(MemswapBlock *block, uint64_t number,
                                 bool *busy)
{
    MemswapTrial *entry = trial_new(block, number);
    MemswapRegion *region = &block->regions[number];

    if (memswap_region_try_own(region)) {
        entry->tried = memswap_trial_region(block, number);
        memswap_region_disown(region);
    } else {
        *busy = true;
    }
    return entry;
}

/*
 * Fill the queue, then take its oldest entry.  NULL if there is none; *@all
 * says whether nothing was found to put on trial, and nobody else has one in
 * hand; *@busy that somebody owned a region on the way.
 */
static MemswapTrial *next_trial(MemswapEngine *engine, unsigned int flags,
                                bool *all, bool *busy)
{
    unsigned int window = memswap_trial_window(engine, flags);
    unsigned int attempts = 2 * TRIAL_WINDOW;
    MemswapTrial *entry;
    unsigned int n;
    bool ask = false;
    GList *link;

    *all = false;
    g_mutex_lock(&engine->reclaim_lock);
    while ((n = count_trials(engine, flags)) < window && attempts--) {
        uint64_t number;
        /* with enough on trial, a policy has time to offer more */
        MemswapBlock *block = memswap_offers_take(engine, flags,
                                                  n > window / 2, &number);

        ask = memswap_offers_left(engine, flags) < (window + 1) / 2;
        if (!block) {
            *all = true;
            break;
        }
        /* nobody is to think meanwhile that there is nothing */
        atomic_fetch_add(&engine->in_hand, 1);
        g_mutex_unlock(&engine->reclaim_lock);
        if (ask) {
            memswap_offers_ask(engine, flags);
            ask = false;
        }
        entry = trial_begin(block, number, busy);
        g_mutex_lock(&engine->reclaim_lock);
        atomic_fetch_sub(&engine->in_hand, 1);
        if (entry->tried) {
            trial_queue(engine, entry, false);
        } else {
            /* All pinned, or owned by somebody: its turn will come again. */
            trial_free(entry);
        }
    }
    link = find_trial(engine->trials.head, flags);
    entry = link ? link->data : NULL;
    if (entry) {
        g_queue_delete_link(&engine->trials, link);
        atomic_fetch_add(&engine->in_hand, 1);
    } else if (atomic_load(&engine->in_hand)) {
        *all = false;
    }
    g_mutex_unlock(&engine->reclaim_lock);
    if (ask) {
        memswap_offers_ask(engine, flags);
    }
    return entry;
}

/*
 * A region behind a sequence of faults: nobody is expected back there, so it
 * needs no time to prove warm.  NULL if there is none.
 */
static MemswapTrial *next_behind(MemswapEngine *engine)
{
    MemswapTrial *entry;
    uint64_t number;
    MemswapBlock *block;

    /* one that was begun */
    g_mutex_lock(&engine->reclaim_lock);
    entry = g_queue_peek_head(&engine->trials);
    if (entry && entry->behind) {
        g_queue_pop_head(&engine->trials);
        atomic_fetch_add(&engine->in_hand, 1);
        g_mutex_unlock(&engine->reclaim_lock);
        return entry;
    }
    g_mutex_unlock(&engine->reclaim_lock);

    while ((block = memswap_age_take_behind(engine, &number))) {
        if (memswap_offers_claim(block, number)) {
            atomic_fetch_add(&engine->in_hand, 1);
            entry = trial_new(block, number);
            entry->behind = true;
            return entry;
        }
        memswap_block_unref(block);
    }
    return NULL;
}

/* All of its pages were looked at: remember what came of it, and tell. */
static void trial_over(MemswapTrial *entry)
{
    MemswapBlock *block = entry->block;

    memswap_heat_set(&block->regions[entry->region], entry->tried,
                     entry->gone);
    if (memswap_policy_wants(block->engine,
                             MEMSWAP_POLICY_EVENT_BIT(TRIED))) {
        memswap_policy_emit_tried(block, entry->region, entry->tried,
                                  entry->gone);
    }
}

/* As memswap_reclaim_step(); *@busy says that somebody owned the region. */
static bool reclaim_step(MemswapEngine *engine, uint64_t max,
                         unsigned int flags, uint64_t *gone, bool *busy)
{
    MemswapRegion *region;
    MemswapTrial *entry;
    bool more = true;
    bool all;

    *gone = 0;
    *busy = false;
    /* what is behind a sequence is of ordinary pages: see readahead.c */
    entry = flags & MEMSWAP_RECLAIM_HUGETLB ? NULL : next_behind(engine);
    if (entry) {
        if (!entry->tried) {
            flags |= MEMSWAP_RECLAIM_URGENT;
        }
    } else if (flags & MEMSWAP_RECLAIM_BEHIND) {
        return false;
    } else {
        entry = next_trial(engine, flags, &all, busy);
    }
    if (!entry) {
        return !all;
    }
    region = &entry->block->regions[entry->region];
    if (memswap_region_try_own(region)) {
        if (entry->tried && !entry->gone &&
            memswap_policy_wants(engine, MEMSWAP_POLICY_EVENT_BIT(TRIAL))) {
            memswap_policy_looked(entry->block, entry->region);
        }
        if (flags & MEMSWAP_RECLAIM_URGENT) {
            /* Those touched since go all the same: somebody waits. */
            uint64_t tried;

            memswap_huge_fine(region);
            tried = memswap_trial_region(entry->block, entry->region);
            entry->tried = MAX(entry->tried, tried);
        }
        *gone = memswap_evict_region(entry->block, entry->region,
                                     &entry->next, max);
        entry->gone += *gone >> entry->block->page_shift;
        more = entry->next < memswap_region_end(entry->block, entry->region);
        if (!more) {
            trial_over(entry);
            memswap_shed_warm(entry->block, entry->region);
        }
        memswap_region_disown(region);
    } else {
        /* somebody has it, perhaps for long: not at the cost of others */
        entry->behind = false;
        *busy = true;
    }
    g_mutex_lock(&engine->reclaim_lock);
    atomic_fetch_sub(&engine->in_hand, 1);
    if (more) {
        trial_queue(engine, entry, *gone > 0);
    } else {
        trial_free(entry);
    }
    g_mutex_unlock(&engine->reclaim_lock);
    return true;
}

bool memswap_reclaim_step(MemswapEngine *engine, uint64_t max,
                          unsigned int flags, uint64_t *gone)
{
    bool busy;

    return reclaim_step(engine, max, flags, gone, &busy);
}

uint64_t memswap_reclaim_while(MemswapEngine *engine, uint64_t size,
                               MemswapGoOn *go_on, void *opaque)
{
    uint64_t steps = memswap_reclaim_round(engine) +
                     MAX(memswap_trial_window(engine, 0), TRIAL_WINDOW);
    unsigned int patience = BUSY_LOOKS;
    uint64_t got = 0;

    while (got < size && steps && (!go_on || go_on(opaque))) {
        uint64_t gone;
        bool busy;

        if (!reclaim_step(engine, size - got, 0, &gone, &busy)) {
            break;
        }
        got += gone;
        if (!gone && (busy || atomic_load(&engine->in_hand))) {
            /* an evictor is at what we came for, or it is made huge */
            g_usleep(BUSY_US);
        }
        if (busy && patience) {
            patience--;
        } else {
            steps--;
        }
    }
    memswap_room_made(engine);
    return got;
}

uint64_t memswap_reclaim(MemswapEngine *engine, uint64_t size)
{
    return memswap_reclaim_while(engine, size, NULL, NULL);
}

void memswap_forget_trials(MemswapBlock *block)
{
    MemswapEngine *engine = block->engine;
    GList *link, *next;

    g_mutex_lock(&engine->reclaim_lock);
    for (link = engine->trials.head; link; link = next) {
        MemswapTrial *entry = link->data;

        next = link->next;
        if (entry->block == block) {
            g_queue_delete_link(&engine->trials, link);
            trial_free(entry);
        }
    }
    g_mutex_unlock(&engine->reclaim_lock);
}

/*
 * Huge pages: hot memory huge, cold memory small
 *
 * A region whose pages are all in the page cache, and warm, is collapsed into
 * a huge page, then tried, and brought back at the first touch, as one.  Cold,
 * it leaves.  Warm, it gets a fine trial now and then, in which touches bring
 * back single pages; if enough stays cold, huge-leave.c takes it out, and
 * copies back small what is warm.
 *
 * The rules, each of which lost data when it was broken:
 *
 * - A collapse maps all 512 pages, whatever their words say.  So the owner of
 *   the region first moves every word from RESIDENT or TRIAL to FILLING, and
 *   does without if one is pinned: a collapse unmaps for a moment.
 * - To unmap a part of a huge page unmaps all of it: the kernel doesn't split
 *   such a mapping of shared memory, but drops it.  So a region with a large
 *   folio is zapped whole, with no page pinned or in FILLING, or not at all.
 * - No part of a large folio is punched.  If anybody has a reference to it,
 *   the kernel zeroes in place and reports success; and it unmaps the rest.
 *
 * MEMSWAP_HUGE_FOLIO says that the last two hold.  It is set before a
 * collapse, even one that fails, perhaps with the folio made already, and
 * cleared when the region has left.
 *
 * Nobody waits for a page with others in hand: who meets one in FILLING looks
 * again a few times, since most fills take a moment, and gives up.
 *
 * While it is made, a huge page takes 2 MiB beside the small ones.  They are
 * not charged: it is for a moment, and one at a time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>

#include "internal.h"
#include "uffd.h"

/* A collapse fails with EAGAIN while somebody reads a page, for instance. */
#define COLLAPSE_TRIES 8
/* Looks at a page in FILLING. */
#define FILLING_TRIES 16
/* Ticks of the collapser to wait after a collapse that failed. */
#define REST_TICKS 30
/* Trials that find a huge region warm, until one is fine. */
#define FINE_EVERY 4
/* Of a region on a fine trial, the part that has to be cold to leave. */
#define COLD_PART 4
/* Of a small region, the part that may be cold for it to become huge. */
#define KEEP_PART 16

#define PAGES_MAX 512

/* Pages in hand: a bit for each that was on trial. */
typedef struct Taken {
    uint64_t on_trial[PAGES_MAX / 64];
} Taken;

static uint32_t huge_bits(MemswapRegion *region)
{
    return atomic_load(&region->huge);
}

/* The caller owns the region. */
static void huge_change(MemswapRegion *region, uint32_t clear, uint32_t set)
{
    atomic_store(&region->huge, (huge_bits(region) & ~clear) | set);
}

/* End the transition of pages that were taken; those to TRIAL that were. */
static void give_back(MemswapBlock *block, uint64_t first, uint64_t n,
                      const Taken *taken)
{
    for (uint64_t i = 0; i < n; i++) {
        bool trial = taken->on_trial[i / 64] >> i % 64 & 1;

        if (trial) {
            memswap_count(block->engine->trial_pages,
                          (int64_t)block->page_size);
        }
        memswap_page_settle(block, first + i,
                            trial ? MEMSWAP_TRIAL : MEMSWAP_RESIDENT, 0, 0);
    }
}

bool memswap_huge_take(MemswapBlock *block, uint64_t page,
                       unsigned int states, uint64_t *old)
{
    MemswapWord *word = &block->words[page];
    unsigned int tries = FILLING_TRIES;

    *old = memswap_word_load(word);
    while (!memswap_word_pins(*old)) {
        MemswapState state = memswap_word_state(*old);

        if (state == MEMSWAP_FILLING && tries--) {
            sched_yield();
            *old = memswap_word_load(word);
        } else if (!(states & 1u << state)) {
            break;
        } else if (memswap_word_cas(word, old, memswap_word_with_state(
                                        *old & ~MEMSWAP_WORD_MAPPED,
                                        MEMSWAP_FILLING))) {
            if (state == MEMSWAP_TRIAL) {
                memswap_count(block->engine->trial_pages,
                              -(int64_t)block->page_size);
            }
            return true;
        }
    }
    return false;
}

/* Take all pages of a region, from RESIDENT or TRIAL, or none. */
static bool take_all(MemswapBlock *block, uint64_t first, Taken *taken)
{
    bool ok = true;
    uint64_t i;

    memset(taken, 0, sizeof(*taken));
    for (i = 0; i < block->region_pages; i++) {
        uint64_t old;

        ok = memswap_huge_take(block, first + i, 1u << MEMSWAP_RESIDENT |
                               1u << MEMSWAP_TRIAL, &old);
        if (!ok) {
            break;
        }
        if (memswap_word_state(old) == MEMSWAP_TRIAL) {
            taken->on_trial[i / 64] |= UINT64_C(1) << i % 64;
        }
    }
    if (!ok) {
        give_back(block, first, i, taken);
    }
    return ok;
}

/* Ask the kernel, for pages that are all in hand. */
static int collapse(void *host, bool unmapped)
{
    /* one zap, instead of one for each page that the kernel copies */
    if (!unmapped && madvise(host, MEMSWAP_REGION_SIZE, MADV_DONTNEED)) {
        return -errno;
    }
    for (unsigned int tries = 0; ; tries++) {
        if (!madvise(host, MEMSWAP_REGION_SIZE, MADV_COLLAPSE)) {
            return 0;
        }
        if ((errno != EAGAIN && errno != EINTR) || tries == COLLAPSE_TRIES) {
            /* after EAGAIN there may be a folio, whatever is wrong now */
            return tries ? -EAGAIN : -errno;
        }
        sched_yield();
    }
}

/* The pages stay as they are, and have to be mapped again. */
static void collapse_failed(MemswapBlock *block, uint64_t number, int error,
                            bool was_large, const Taken *taken)
{
    MemswapRegion *region = &block->regions[number];
    uint64_t first = memswap_region_first(block, number);
    static const Taken none;

    memswap_count(block->engine->collapse_failures, 1);
    huge_change(region, MEMSWAP_HUGE_REST,
                REST_TICKS << MEMSWAP_HUGE_REST_SHIFT);
    if (huge_bits(region) & MEMSWAP_HUGE_WHOLE) {
        /* the other touches bring back single pages */
        huge_change(region, 0, MEMSWAP_HUGE_FINE);
        give_back(block, first, block->region_pages, taken);
        return;
    }
    if (!was_large && (error == -ENOMEM || error == -EBUSY)) {
        /* for want of memory: it did not get as far as making a folio */
        huge_change(region, MEMSWAP_HUGE_FOLIO, 0);
    }
    /* a failure leaves it to faults */
    memswap_uffd_continue(block->engine->uffd,
                          memswap_page_host(block, first),
                          MEMSWAP_REGION_SIZE, NULL);
    give_back(block, first, block->region_pages, &none);
}

int memswap_huge_collapse(MemswapBlock *block, uint64_t number)
{
    MemswapEngine *engine = block->engine;
    MemswapRegion *region = &block->regions[number];
    uint64_t first = memswap_region_first(block, number);
    bool was_large = memswap_region_large(region);
    bool whole = huge_bits(region) & MEMSWAP_HUGE_WHOLE;
    Taken taken;
    int ret;

    if (!memswap_block_may_be_huge(block) ||
        !take_all(block, first, &taken)) {
        return -EBUSY;
    }
    huge_change(region, MEMSWAP_HUGE_WARM, MEMSWAP_HUGE_FOLIO);
    ret = collapse(memswap_page_host(block, first), whole);
    memswap_trace(engine, MEMSWAP_TRACE_COLLAPSE, block, first, -ret);
    if (ret) {
        collapse_failed(block, number, ret, was_large, &taken);
        return ret;
    }
    if (!whole) {
        huge_change(region, MEMSWAP_HUGE_STREAK, MEMSWAP_HUGE_WHOLE);
        atomic_fetch_add(&block->huge_regions, 1);
        memswap_count(engine->collapses, 1);
    }
    for (uint64_t i = 0; i < block->region_pages; i++) {
        /* No zap is under way, since the region is ours. */
        memswap_page_settle(block, first + i, MEMSWAP_RESIDENT,
                            MEMSWAP_WORD_MAPPED, 0);
    }
    return 0;
}

bool memswap_huge_fill(MemswapBlock *block, uint64_t page)
{
    uint64_t number = page / block->region_pages;
    MemswapRegion *region = &block->regions[number];
    uint32_t bits = huge_bits(region);
    bool done = false;

    if (!(bits & MEMSWAP_HUGE_WHOLE) || (bits & MEMSWAP_HUGE_FINE) ||
        memswap_word_state(memswap_word_load(&block->words[page])) !=
        MEMSWAP_TRIAL || !memswap_region_try_own(region)) {
        return false;
    }
    /* It may have left before it was ours, or come back. */
    bits = huge_bits(region);
    if ((bits & MEMSWAP_HUGE_WHOLE) && !(bits & MEMSWAP_HUGE_FINE) &&
        memswap_word_state(memswap_word_load(&block->words[page])) ==
        MEMSWAP_TRIAL) {
        done = !memswap_huge_collapse(block, number);
    }
    memswap_region_disown(region);
    if (done && !block->engine->inline_faults) {
        /* all who touched it since the zap */
        memswap_uffd_wake(block->engine->uffd, memswap_page_host(
                              block, memswap_region_first(block, number)),
                          MEMSWAP_REGION_SIZE);
    }
    return done;
}

void memswap_huge_adopt(MemswapBlock *block, uint64_t number)
{
    MemswapRegion *region = &block->regions[number];

    if (block->huge && atomic_load(&region->resident) ==
        block->region_pages) {
        huge_change(region, 0, MEMSWAP_HUGE_FOLIO);
    }
}

void memswap_huge_fine(MemswapRegion *region)
{
    if (memswap_region_large(region)) {
        huge_change(region, 0, MEMSWAP_HUGE_FINE);
    }
}

/*
 * Mark all resident pages.  Returns the number of pages on trial, or 0 if one
 * is in the way; *@end is how far it came.
 */
static uint64_t huge_mark(MemswapBlock *block, uint64_t first, uint64_t *end)
{
    uint64_t waiting = 0;

    for (uint64_t page = first; page < *end; page++) {
        /* before marking any: pins tend to stay */
        if (memswap_word_keeps_mapped(
                memswap_word_load(&block->words[page]))) {
            *end = first;
            return 0;
        }
    }
    for (uint64_t page = first; page < *end; page++) {
        uint64_t old;

        memswap_trial_mark(block, page, &old);
        if (memswap_word_keeps_mapped(old)) {
            *end = page;
            return 0;
        }
        waiting += memswap_word_state(old) == MEMSWAP_TRIAL;
    }
    return waiting;
}

uint64_t memswap_huge_trial(MemswapBlock *block, uint64_t number)
{
    MemswapEngine *engine = block->engine;
    MemswapRegion *region = &block->regions[number];
    uint64_t first = memswap_region_first(block, number);
    uint64_t end = memswap_region_end(block, number);
    uint32_t streak = (huge_bits(region) & MEMSWAP_HUGE_STREAK) >>
                      MEMSWAP_HUGE_STREAK_SHIFT;
    uint64_t waiting;

    if (memswap_block_exposed(block)) {
        /* it can't leave, see exposed.c */
        return 0;
    }
    /* before the first mark: a fault that meets one goes by it */
    if (streak >= FINE_EVERY) {
        memswap_huge_fine(region);
    }
    memswap_note_time(engine);
    memswap_region_zap_begin(region);
    waiting = huge_mark(block, first, &end);
    if (waiting && madvise(memswap_page_host(block, first),
                           MEMSWAP_REGION_SIZE, MADV_DONTNEED)) {
        /* locked behind our back */
        waiting = 0;
    }
    if (!waiting) {
        memswap_trial_undo(block, first, end);
    }
    memswap_region_zap_end(region);
    if (waiting) {
        memswap_count(engine->n_trials, 1);
        memswap_trace(engine, MEMSWAP_TRACE_TRIAL, block, first, waiting);
    }
    return waiting;
}

/* Pages still on trial; *@pinned says whether any page has a pin. */
static uint64_t count_cold(MemswapBlock *block, uint64_t number,
                           bool *pinned)
{
    uint64_t end = memswap_region_end(block, number);
    uint64_t cold = 0;

    *pinned = false;
    for (uint64_t page = memswap_region_first(block, number); page < end;
         page++) {
        uint64_t word = memswap_word_load(&block->words[page]);

        *pinned |= memswap_word_pins(word) > 0;
        cold += memswap_word_state(word) == MEMSWAP_TRIAL;
    }
    return cold;
}

uint64_t memswap_huge_look(MemswapBlock *block, uint64_t number)
{
    MemswapRegion *region = &block->regions[number];
    uint32_t bits = huge_bits(region);
    bool whole = bits & MEMSWAP_HUGE_WHOLE;
    bool fine = !whole || (bits & MEMSWAP_HUGE_FINE);
    uint32_t streak = fine ? 0 : (bits & MEMSWAP_HUGE_STREAK) +
                                 (1u << MEMSWAP_HUGE_STREAK_SHIFT);
    bool pinned;
    uint64_t cold = count_cold(block, number, &pinned);
    uint64_t resident = atomic_load(&region->resident);
    uint64_t gone = 0;

    if (memswap_block_exposed(block)) {
        return 0;
    }
    if (cold && !pinned && (cold == resident ||
                            (fine && cold >= resident / COLD_PART))) {
        gone = memswap_huge_leave(block, number, 0, 0);
    } else {
        huge_change(region, MEMSWAP_HUGE_STREAK,
                    streak & MEMSWAP_HUGE_STREAK);
        if (!whole) {
            huge_change(region, 0, MEMSWAP_HUGE_WARM);
            memswap_collapser_kick(block->engine);
        } else if ((fine || cold) && !pinned) {
            memswap_huge_collapse(block, number);
        }
    }
    huge_change(region, MEMSWAP_HUGE_FINE, 0);
    return gone;
}

void memswap_huge_count_stuck(MemswapEngine *engine)
{
    unsigned int n = atomic_load(&engine->n_slots);
    uint64_t stuck = 0;

    for (unsigned int i = 0; i < n; i++) {
        MemswapBlock *block = memswap_block_get(engine, i);
        bool stays = block && memswap_block_exposed(block);

        for (uint64_t k = 0; block && block->huge && k < block->n_regions &&
             (stays || atomic_load(&engine->pinned) > 0 ||
              memswap_block_shared(block)); k++) {
            bool pinned = stays;

            if (!memswap_region_large(&block->regions[k])) {
                continue;
            }
            if (!stays) {
                count_cold(block, k, &pinned);
            }
            if (!pinned && memswap_block_shared(block) &&
                memswap_region_try_own(&block->regions[k])) {
                pinned = memswap_shared_uses(block, k);
                memswap_region_disown(&block->regions[k]);
            }
            stuck += pinned ? MEMSWAP_REGION_SIZE : 0;
        }
        if (block) {
            memswap_block_unref(block);
        }
    }
    atomic_store(&engine->huge_stuck, stuck);
}

bool memswap_huge_keep(MemswapBlock *block, uint64_t number)
{
    MemswapRegion *region = &block->regions[number];
    bool pinned, keep;

    if (!memswap_block_may_be_huge(block) ||
        (huge_bits(region) & MEMSWAP_HUGE_REST) ||
        atomic_load(&region->resident) != block->region_pages) {
        return false;
    }
    keep = count_cold(block, number, &pinned) <=
           block->region_pages / KEEP_PART && !pinned;
    huge_change(region, MEMSWAP_HUGE_WARM, keep ? MEMSWAP_HUGE_WARM : 0);
    if (keep) {
        memswap_collapser_kick(block->engine);
    }
    return keep;
}

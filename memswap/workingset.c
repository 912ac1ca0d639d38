/*
 * The working set: how much memory the guest uses, and what more would save
 *
 * Two estimates, for whoever chooses a limit; the curve's is described below.
 *
 * The working set of the last minute, ten minutes and hour: the pages that were
 * touched in it (Denning, "The working set model for program behavior", 1968).
 * A touch is seen when it faults: while a page is on trial, in the store, or
 * new.  While it is mapped nothing is seen.  So there are two figures: at
 * least those seen to be touched, and at most these and all that were mapped
 * at any time in between.  The more reclaim looks at pages the closer they
 * are.  Pages that the guest gave up since count in neither.
 *
 * What is known is kept for a sample of pages: one of each 2^shift side by
 * side, at a place that is as good as random (spatial sampling, as in
 * Waldspurger and others, "Efficient MRC construction with SHARDS", FAST
 * 2015).  Up to 16 MiB all are in it, and the figures are exact.  Beyond, one
 * page of each 16 KiB is, which takes less than 0.05 % of memory; and from
 * 1 GiB on 65,536 of them at most, 32,768 at least.  With n of them, of a share
 * p of the block the standard error is at most sqrt(p(1-p)/n): 0.28 % of 1 GiB
 * or more, 0.8 % at worst.  Who asks gets 65,536 of them looked at, of all
 * blocks together.  Times are in whole seconds: a touch may count for one
 * second more or less.
 *
 * On the fault path that is one or two relaxed stores and an addition; once a
 * minute somebody lets the histogram decay.  No lock is waited for there.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <sched.h>
#include <sys/mman.h>

#include "internal.h"
#include "sparse.h"

/* Samples of a block, at most, and how many it may have if it is small. */
#define SAMPLES_MAX 65536
#define SAMPLES_SMALL 4096
/* Bytes of a block for each sample, between these. */
#define SAMPLE_BYTES 16384
/* How many are looked at at once. */
#define LOOKS_MAX 65536

#define S_NS 1000000000LL
#define TICK_S 60
/* 2^(-1/10): what is left of a weight after one of ten minutes */
#define TICK_DECAY 0.93303299153680741
/* The sum of all weights, if there is one of 1 each second: 600 / ln 2 */
#define WEIGHTS_S 865.61702453337819
/* After so many of these nothing is left to speak of. */
#define TICKS_MAX 1000

static const uint32_t windows[MEMSWAP_WINDOWS] = { 60, 600, 3600 };

/* --- logarithmic buckets ----------------------------------------------- */

unsigned int memswap_eighth(uint32_t value)
{
    unsigned int high;

    if (value < 8) {
        return value;
    }
    high = 31 - __builtin_clz(value);
    return 8 * (high - 2) + (value >> (high - 3) & 7);
}

/* The lowest value in a bucket. */
static uint64_t eighth_from(unsigned int bucket)
{
    return bucket < 8 ? bucket : (8ULL + bucket % 8) << (bucket / 8 - 1);
}

/* --- touches ----------------------------------------------------------- */

int memswap_samples_open(MemswapBlock *block)
{
    uint64_t most = CLAMP(block->size / SAMPLE_BYTES, SAMPLES_SMALL,
                          SAMPLES_MAX);

    block->sample_shift = 0;
    while (block->n_pages >> block->sample_shift > most) {
        block->sample_shift++;
    }
    block->n_samples = ((block->n_pages - 1) >> block->sample_shift) + 1;
    block->samples = memswap_sparse_map(block->n_samples *
                                        sizeof(*block->samples));
    return block->samples ? 0 : -ENOMEM;
}

void memswap_samples_close(MemswapBlock *block)
{
    if (block->samples) {
        munmap(block->samples, block->n_samples * sizeof(*block->samples));
        block->samples = NULL;
    }
}

uint64_t memswap_samples_used(MemswapBlock *block)
{
    uint64_t each = MAX(block->region_pages >> block->sample_shift, 1);

    return MIN(atomic_load(&block->regions_touched) * each,
               block->n_samples) * sizeof(MemswapSample);
}

/* The page that stands for those of its group. */
static inline uint64_t sample_page(const MemswapBlock *block, uint64_t i)
{
    uint64_t hash = (i + 1) * UINT64_C(0x9e3779b97f4a7c15);

    return i << block->sample_shift |
           (hash >> 32 & ((UINT64_C(1) << block->sample_shift) - 1));
}

static inline MemswapSample *sample_of(MemswapBlock *block, uint64_t page)
{
    uint64_t i = page >> block->sample_shift;

    return sample_page(block, i) == page ? &block->samples[i] : NULL;
}

/* Seconds of the host's clock, so that 0 is never. */
static uint32_t seconds(int64_t ns)
{
    return ns / S_NS + 1;
}

void memswap_note_time(MemswapEngine *engine)
{
    atomic_store_explicit(&engine->workingset.now,
                          seconds(memswap_now(engine)),
                          memory_order_relaxed);
}

static void decay(MemswapEngine *engine, int64_t now, bool wait);

void memswap_touched(MemswapBlock *block, uint64_t page, int64_t when)
{
    MemswapWorkingset *set = &block->engine->workingset;
    MemswapSample *sample = sample_of(block, page);
    uint32_t now = seconds(when);

    atomic_store_explicit(&memswap_page_region(block, page)->touched_at, now,
                          memory_order_relaxed);
    if (sample) {
        atomic_store_explicit(&sample->touched_at, now,
                              memory_order_relaxed);
    }
    /* a fault may have begun before somebody else let it decay */
    if ((int32_t)(now - atomic_load_explicit(&set->decayed_at,
                                             memory_order_relaxed)) >=
        TICK_S) {
        decay(block->engine, when, false);
    }
}

void memswap_unmapped(MemswapBlock *block, uint64_t page)
{
    MemswapSample *sample = sample_of(block, page);

    if (sample) {
        atomic_store_explicit(&sample->unmapped_at, atomic_load_explicit(
                                  &block->engine->workingset.now,
                                  memory_order_relaxed),
                              memory_order_relaxed);
    }
}

uint32_t memswap_region_idle(MemswapRegion *region, int64_t now)
{
    uint32_t at = atomic_load_explicit(&region->touched_at,
                                       memory_order_relaxed);

    return at ? seconds(now) - MIN(at, seconds(now)) : UINT32_MAX;
}

static bool within(uint32_t at, uint32_t now, uint32_t window)
{
    return at && (at >= now || now - at < window);
}

/* It stands for @step of its kind. */
static void add_sample(MemswapBlock *block, uint64_t i, uint64_t step,
                       uint32_t now, MemswapWindow sets[MEMSWAP_WINDOWS])
{
    MemswapSample *sample = &block->samples[i];
    uint64_t page = sample_page(block, i);
    uint64_t size = (block->page_size << block->sample_shift) * step;
    uint32_t touched_at = atomic_load(&sample->touched_at);
    uint32_t unmapped_at = atomic_load(&sample->unmapped_at);
    MemswapState state;
    bool mapped;

    /* words of RAM never touched take no memory, if nobody looks */
    if (page >= block->n_pages ||
        !(atomic_load(&memswap_page_region(block, page)->flags) &
          MEMSWAP_REGION_TOUCHED)) {
        return;
    }
    state = memswap_word_told_state(memswap_word_load(&block->words[page]));
    mapped = state == MEMSWAP_RESIDENT || state == MEMSWAP_FILLING;
    if (state == MEMSWAP_ABSENT || state == MEMSWAP_DISCARDING ||
        state == MEMSWAP_POISONED) {
        return;
    }
    for (unsigned int k = 0; k < MEMSWAP_WINDOWS; k++) {
        bool touched = within(touched_at, now, windows[k]);

        sets[k].at_least += touched ? size : 0;
        sets[k].at_most += touched || mapped ||
                           within(unmapped_at, now, windows[k]) ? size : 0;
    }
}

uint64_t memswap_samples_step(MemswapEngine *engine)
{
    unsigned int n = atomic_load(&engine->n_slots);
    uint64_t samples = 0;

    for (unsigned int slot = 0; slot < n; slot++) {
        MemswapBlock *block = memswap_block_get(engine, slot);

        if (block) {
            samples += block->n_samples;
            memswap_block_unref(block);
        }
    }
    return samples > LOOKS_MAX ? (samples - 1) / LOOKS_MAX + 1 : 1;
}

void memswap_get_working_sets(MemswapEngine *engine,
                              MemswapWindow sets[MEMSWAP_WINDOWS])
{
    unsigned int n = atomic_load(&engine->n_slots);
    uint64_t step = memswap_samples_step(engine);
    uint32_t now = seconds(memswap_now(engine));

    for (unsigned int k = 0; k < MEMSWAP_WINDOWS; k++) {
        sets[k] = (MemswapWindow) { .seconds = windows[k] };
    }
    for (unsigned int slot = 0; slot < n; slot++) {
        MemswapBlock *block = memswap_block_get(engine, slot);

        if (block) {
            for (uint64_t i = 0; i < block->n_samples; i += step) {
                add_sample(block, i, step, now, sets);
            }
            memswap_block_unref(block);
        }
    }
}

/* --- the curve --------------------------------------------------------- */

/*
 * The curve: refaults a second, for each size that could be resident.  A page
 * that comes back after d pages were evicted would have stayed had memory been
 * larger by d (the refault distance of Linux's mm/workingset.c).  So from a
 * histogram of distances, eight buckets for each power of two, follow the
 * refaults that are left with more memory.  The errors: a bucket is an eighth
 * wide; what is known of an eviction is the last one in the page's region, so
 * that a distance may be too short by what was evicted while its region was,
 * hardly more than a region; and more memory would change what the clock
 * takes.  Of sizes below what is resident it says nothing: there the working
 * sets do.  Nor does what somebody asked for ahead of a touch count: it is
 * faults that more memory would save.  Counts lose half of their weight in ten
 * minutes.
 */

void memswap_curve_add(MemswapBlock *block, uint32_t distance)
{
    uint64_t pages = (uint64_t)distance << (block->page_shift -
                                            MEMSWAP_CURVE_SHIFT);

    memswap_count(block->engine->workingset.counts[
                      memswap_eighth(MIN(pages, UINT32_MAX))], 1);
}

/* By how much weights fall in this time. */
static double weight_left(double ns)
{
    double left = 1, tick = TICK_S * (double)S_NS;

    for (unsigned int i = 0; ns >= tick && i < TICKS_MAX; i++) {
        left *= TICK_DECAY;
        ns -= tick;
    }
    return ns < tick ? left * (1 - (1 - TICK_DECAY) * ns / tick) : 0;
}

/*
 * Take in what was counted since the last time.  Without @wait, only if nobody
 * else is at it.
 */
static void decay(MemswapEngine *engine, int64_t now, bool wait)
{
    MemswapWorkingset *set = &engine->workingset;
    double left, time, weight;

    while (atomic_exchange(&set->busy, true)) {
        if (!wait) {
            return;
        }
        sched_yield();
    }
    now = MAX(now, set->decayed_ns);
    left = weight_left(now - set->decayed_ns);
    time = (now - set->decayed_ns) / (double)S_NS;
    /* the mean of what is left of weights that are spread over that time */
    weight = time > 1 ? WEIGHTS_S * (1 - left) / time : 1;
    for (unsigned int i = 0; i < MEMSWAP_EIGHTHS; i++) {
        uint64_t count = atomic_load_explicit(&set->counts[i],
                                              memory_order_relaxed);

        set->sums[i] = set->sums[i] * left +
                       (count - set->taken[i]) * weight;
        set->taken[i] = count;
    }
    set->time = set->time * left + time * weight;
    set->decayed_ns = now;
    atomic_store(&set->decayed_at, seconds(now));
    atomic_store(&set->busy, false);
}

void memswap_workingset_init(MemswapEngine *engine)
{
    engine->workingset.decayed_ns = memswap_now(engine);
    atomic_store(&engine->workingset.decayed_at,
                 seconds(engine->workingset.decayed_ns));
    memswap_note_time(engine);
}

unsigned int memswap_get_curve(MemswapEngine *engine,
                               MemswapCurvePoint *points)
{
    MemswapWorkingset *set = &engine->workingset;
    double rates[MEMSWAP_EIGHTHS + 1] = { 0 };
    uint64_t resident, managed;
    unsigned int n = 1;
    MemswapStats stats;

    memswap_get_stats(engine, &stats);
    resident = stats.resident;
    managed = stats.managed;
    decay(engine, memswap_now(engine), true);
    while (atomic_exchange(&set->busy, true)) {
        sched_yield();
    }
    for (unsigned int i = MEMSWAP_EIGHTHS; i--;) {
        rates[i] = rates[i + 1] + (set->time ? set->sums[i] / set->time : 0);
    }
    atomic_store(&set->busy, false);

    points[0] = (MemswapCurvePoint) { resident, rates[0] };
    for (unsigned int i = 0; i < MEMSWAP_EIGHTHS; i++) {
        uint64_t more = eighth_from(i + 1) << MEMSWAP_CURVE_SHIFT;

        if (rates[i] == rates[i + 1]) {
            continue;
        }
        if (resident + more >= managed) {
            /* with all of it there is nothing to come back */
            points[n++] = (MemswapCurvePoint) { managed, 0 };
            break;
        }
        points[n++] = (MemswapCurvePoint) { resident + more, rates[i + 1] };
    }
    return n;
}

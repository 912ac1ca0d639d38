/*
 * The collapser: the thread that makes regions huge, in the background
 *
 * A thread of its own, since a collapse takes up to some milliseconds, in
 * which an evictor may be needed, and is held to a budget, which an evictor
 * must not be.  It sleeps until a region is filled, or proves warm.
 *
 * While there is room under the limit, every region that is full is collapsed:
 * what its pages cost has been paid, and it happens once.  Without room, only
 * those that proved warm in their last trial are; others may leave soon.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <time.h>

#include "futex.h"
#include "internal.h"

/* Percent of one CPU: in general, and while there is room. */
#define BUDGET 1
#define BUDGET_WITH_ROOM 25
/* Percent of the time in which somebody may wait for a page of a collapse. */
#define BUDGET_STALLS 1
/* Nanoseconds of one collapse that count: beyond, others had the CPU. */
#define STALL_MAX 10000000

/* How often regions whose collapse failed are looked at. */
#define TICK_NS 1000000000

static int64_t clock_now(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

void memswap_collapser_kick(MemswapEngine *engine)
{
    atomic_fetch_add(&engine->huge_kick, 1);
    if (atomic_load(&engine->huge_sleeps)) {
        memswap_futex_wake(&engine->huge_kick);
    }
}

void memswap_collapser_wake(MemswapEngine *engine)
{
    atomic_fetch_add(&engine->huge_kick, 1);
    memswap_futex_wake(&engine->huge_kick);
}

/* What the budgets are held against. */
typedef struct Pace {
    MemswapEngine *engine;
    int64_t cpu;                /* CPU time at the last sleep */
    int64_t stalled;            /* since then, nanoseconds */
} Pace;

/*
 * Collapse; if anybody met a page of it meanwhile, all of its time counts as
 * a stall, which is at most what it was.
 */
static int collapse(Pace *pace, MemswapBlock *block, uint64_t number)
{
    _Atomic uint64_t *waited = &pace->engine->faults[MEMSWAP_FAULT_WAITED];
    uint64_t before = atomic_load(waited);
    int64_t since = clock_now(CLOCK_MONOTONIC);
    int ret = memswap_huge_collapse(block, number);

    if (atomic_load(waited) != before) {
        pace->stalled += MIN(clock_now(CLOCK_MONOTONIC) - since, STALL_MAX);
    }
    return ret;
}

/* Sleep in proportion to what was used since the last time. */
static void rest(Pace *pace, MemswapBlock *block)
{
    MemswapEngine *engine = pace->engine;
    int64_t used = clock_now(CLOCK_THREAD_CPUTIME_ID) - pace->cpu;
    int64_t budget = memswap_has_room(engine) ? BUDGET_WITH_ROOM : BUDGET;
    int64_t end = clock_now(CLOCK_MONOTONIC) +
                  MAX(used * (100 - budget) / budget,
                      pace->stalled * (100 - BUDGET_STALLS) / BUDGET_STALLS);

    while (true) {
        /* only the kick that stops us counts here */
        uint32_t seen = atomic_load(&engine->huge_kick);
        int64_t left = end - clock_now(CLOCK_MONOTONIC);

        if (left <= 0 || atomic_load(&engine->stop) ||
            (block && atomic_load(&block->dead))) {
            break;
        }
        memswap_futex_wait(&engine->huge_kick, seen, left);
    }
    pace->cpu = clock_now(CLOCK_THREAD_CPUTIME_ID);
    pace->stalled = 0;
}

static bool worth_it(MemswapBlock *block, MemswapRegion *region)
{
    uint32_t bits = atomic_load(&region->huge);

    return atomic_load(&region->resident) == block->region_pages &&
           !(bits & MEMSWAP_HUGE_WHOLE) &&
           ((bits & MEMSWAP_HUGE_WARM) || memswap_has_room(block->engine));
}

/* True if it is to be tried again. */
static bool try_region(Pace *pace, MemswapBlock *block, uint64_t number,
                       bool tick)
{
    MemswapRegion *region = &block->regions[number];
    uint32_t one = 1u << MEMSWAP_HUGE_REST_SHIFT;
    uint32_t bits;
    bool again = false;

    if (!memswap_region_try_own(region)) {
        return true;
    }
    bits = atomic_load(&region->huge);
    if (bits & MEMSWAP_HUGE_REST) {
        if (tick) {
            atomic_store(&region->huge, bits - one);
        }
        again = true;
    } else if (worth_it(block, region) && collapse(pace, block, number)) {
        bits = atomic_load(&region->huge);
        if (!(bits & MEMSWAP_HUGE_REST)) {
            /* somebody has one of its pages, or a pin */
            atomic_store(&region->huge, bits | one);
        }
        again = true;
    }
    memswap_region_disown(region);
    return again;
}

uint64_t memswap_collapser_pass(MemswapEngine *engine, bool paced, bool tick)
{
    unsigned int n = atomic_load(&engine->n_slots);
    Pace pace = {
        .engine = engine,
        .cpu = clock_now(CLOCK_THREAD_CPUTIME_ID),
    };
    uint64_t later = 0;

    for (unsigned int i = 0; i < n; i++) {
        MemswapBlock *block = memswap_block_get(engine, i);

        for (uint64_t k = 0; block && memswap_block_may_be_huge(block) &&
             k < block->n_regions && !(paced && atomic_load(&engine->stop)) &&
             !atomic_load(&block->dead); k++) {
            if (worth_it(block, &block->regions[k])) {
                later += try_region(&pace, block, k, tick);
                if (paced) {
                    rest(&pace, block);
                }
            }
        }
        if (block) {
            memswap_block_unref(block);
        }
    }
    if (paced) {
        rest(&pace, NULL);
    }
    return later;
}

static gpointer collapser(gpointer opaque)
{
    MemswapEngine *engine = opaque;
    int64_t ticked = 0;

    while (!atomic_load(&engine->stop)) {
        uint32_t seen = atomic_load(&engine->huge_kick);
        int64_t now = clock_now(CLOCK_MONOTONIC);
        bool tick = now - ticked >= TICK_NS;
        uint64_t later;

        if (tick) {
            ticked = now;
        }
        later = memswap_collapser_pass(engine, true, tick);
        /* who kicks looks at huge_sleeps after counting the kick */
        atomic_store(&engine->huge_sleeps, true);
        if (!atomic_load(&engine->stop)) {
            memswap_futex_wait(&engine->huge_kick, seen,
                               later ? TICK_NS : -1);
        }
        atomic_store(&engine->huge_sleeps, false);
    }
    return NULL;
}

void memswap_collapser_start(MemswapEngine *engine)
{
    engine->collapser = g_thread_new("memswap-huge", collapser, engine);
}

void memswap_collapser_stop(MemswapEngine *engine)
{
    if (engine->collapser) {
        memswap_collapser_wake(engine);
        g_thread_join(engine->collapser);
        engine->collapser = NULL;
    }
}

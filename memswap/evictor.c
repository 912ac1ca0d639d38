/*
 * Evictors: background threads that keep room under the limit
 *
 * The first starts when less than reserve_low is free, and sleeps again when
 * reserve_high is, so that a fault normally finds room without waiting.  If
 * that doesn't do, and only half of reserve_low is free, the others help until
 * all of it is.  They also resolve the faults that found none.
 *
 * Which regions they try is for a policy to say (offers.h).  With one that
 * makes room itself, it is what the first evictor is otherwise, and all
 * evictors help: when half of reserve_low is gone nobody asks a policy.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <signal.h>

#include "futex.h"
#include "internal.h"

/* How long to leave the guest alone when there was nothing to take. */
#define IDLE_MIN_NS 1000000
#define IDLE_MAX_NS 100000000

/* What to take for faults that wait although the limit has room. */
#define STALLED_BYTES (64 * 1024)
#define STALLED_STEPS 64

/* Room for how many, made in vain for one, is enough: others take it. */
#define DIRECT_TIMES 16

/* How often to look whether discards and refaults left the pool sparse. */
#define TIDY_NS 1000000000

/* What to take at once, before looking again whether it is enough. */
#define STEP_BYTES (256 * 1024)

uint64_t memswap_excess(MemswapEngine *engine, uint64_t reserve)
{
    uint64_t want = atomic_load(&engine->charged) + reserve;
    uint64_t limit = atomic_load(&engine->limit);

    return want > limit ? want - limit : 0;
}

static bool wants_room(MemswapEngine *engine, uint64_t reserve)
{
    return memswap_excess(engine, reserve) > 0;
}

bool memswap_short_of_room(MemswapEngine *engine)
{
    return atomic_load(&engine->n_stalled) > 0 ||
           wants_room(engine, atomic_load(&engine->reserve_low) / 2);
}

static void kick(_Atomic uint32_t *reasons)
{
    atomic_fetch_add(reasons, 1);
    memswap_futex_wake(reasons);
}

void memswap_evictors_kick(MemswapEngine *engine)
{
    kick(&engine->kick);
    kick(&engine->helpers_kick);
}

/*
 * When to start, and when there is enough.  While a sequence of faults goes
 * on, what it leaves behind should do: other regions may be those that it
 * comes to next.
 */
static uint64_t reserve_start(MemswapEngine *engine, bool helper)
{
    return atomic_load(&engine->reserve_low) /
           (helper || memswap_policy_reclaims(engine) ? 2 : 1) /
           (memswap_age_streaming(engine) ? 2 : 1);
}

static uint64_t reserve_stop(MemswapEngine *engine, bool helper)
{
    return atomic_load(helper || memswap_policy_reclaims(engine) ?
                       &engine->reserve_low : &engine->reserve_high);
}

void memswap_evictors_charged(MemswapEngine *engine, uint64_t charged)
{
    uint64_t limit = atomic_load(&engine->limit);
    uint64_t start = reserve_start(engine, false);
    uint32_t helpers = atomic_load(&engine->helpers_asleep);

    if (G_UNLIKELY(memswap_policy_reclaims(engine)) &&
        charged + atomic_load(&engine->reserve_low) > limit) {
        memswap_policy_ask_room(engine);
    }
    if (charged + start <= limit) {
        return;
    }
    if (atomic_load(&engine->sleepers) > helpers) {
        kick(&engine->kick);
    }
    if (helpers && charged + start / 2 > limit) {
        kick(&engine->helpers_kick);
    }
}

/* Is there something left behind, and any use for its room? */
static bool wants_behind(MemswapEngine *engine)
{
    return memswap_age_any_behind(engine) &&
           wants_room(engine, reserve_stop(engine, false));
}

void memswap_evictors_behind(MemswapEngine *engine)
{
    if (atomic_load(&engine->sleepers) && wants_behind(engine)) {
        kick(&engine->kick);
    }
}

/* No room: are pins in huge regions what is wrong, or still? */
static void note_stuck(MemswapEngine *engine, bool room)
{
    if (!room || atomic_load(&engine->huge_stuck)) {
        memswap_huge_count_stuck(engine);
    }
}

/* Does somebody wait for what is no hugepage? */
static bool ordinary_waits(MemswapEngine *engine)
{
    return atomic_load(&engine->n_stalled) >
           atomic_load(&engine->hugetlb.n_stalled);
}

/*
 * There was nothing to take, and nobody waits in the queue: who lacks a
 * hugepage still says so again.
 */
static bool give_up(MemswapEngine *engine)
{
    if (!atomic_load(&engine->n_stalled)) {
        atomic_store(&engine->hugetlb.wanted, 0);
    }
    return false;
}

/* Reclaim until enough is free.  Returns false for lack of progress. */
static bool make_room(MemswapEngine *engine, bool helper)
{
    unsigned int helpless = 0;
    uint64_t fruitless = 0;
    /* one chance for those that failed before */
    uint32_t seen_failed = atomic_load(&engine->held_failed) - 1;
    uint64_t patience = memswap_reclaim_round(engine) + 1;
    /* no hugepage can be taken out */
    bool no_huge = false;

    while (!atomic_load(&engine->stop)) {
        uint64_t want = memswap_excess(engine, reserve_stop(engine, helper));
        bool short_of_huge = !want && memswap_hugetlb_wanted(engine) &&
                             !(no_huge && ordinary_waits(engine));
        bool waited_for = atomic_load(&engine->n_stalled) > 0;
        bool without_limit = false;
        unsigned int flags = 0;
        uint64_t gone;

        if (!want && !short_of_huge && !waited_for) {
            break;
        }
        if (short_of_huge) {
            /* a pin that waits is in no queue */
            waited_for |= atomic_load(&engine->hugetlb.wanted) ==
                          MEMSWAP_HUGEPAGES_WANTED;
            want = atomic_load(&engine->largest_page);
            flags = MEMSWAP_RECLAIM_HUGETLB;
        } else if (!want) {
            uint32_t failed = atomic_load(&engine->held_failed);

            if (failed == seen_failed &&
                atomic_load(&engine->n_held) ==
                atomic_load(&engine->n_stalled)) {
                /* threads that have only to wake up */
                break;
            }
            seen_failed = failed;
            /* a reserve of nothing, or the host itself has no memory */
            want = STALLED_BYTES;
            if (atomic_load(&engine->hugetlb.n_stalled) &&
                !ordinary_waits(engine)) {
                /* what they wait for is no ordinary page */
                flags = MEMSWAP_RECLAIM_HUGETLB;
            }
            if (helpless >= STALLED_STEPS) {
                return give_up(engine);
            }
            without_limit = true;
        }
        /*
         * Everything on trial was touched again: take it straight after the
         * zap if somebody waits for room, else leave the guest alone.
         */
        if (waited_for && fruitless > patience) {
            flags |= MEMSWAP_RECLAIM_URGENT;
        }
        /* with enough for a while, leave it at what is left behind */
        if (memswap_age_streaming(engine) && !waited_for &&
            !memswap_hugetlb_wanted(engine) &&
            !wants_room(engine, reserve_start(engine, helper))) {
            flags |= MEMSWAP_RECLAIM_BEHIND;
        }
        if (!memswap_reclaim_step(engine, MIN(want, STEP_BYTES), flags,
                                  &gone)) {
            if (short_of_huge && ordinary_waits(engine)) {
                /* for these something else may leave */
                no_huge = true;
                continue;
            }
            return flags & MEMSWAP_RECLAIM_BEHIND ? true : give_up(engine);
        }
        if (without_limit) {
            /* a hugepage counts for what it is */
            helpless += MAX(gone / STALLED_BYTES, 1);
        }
        if (gone) {
            fruitless = 0;
            memswap_serve_stalled(engine);
            engine->store->ops->maintain(engine->store);
        } else if (++fruitless > (waited_for ? 2 * patience : patience) ||
                   (!waited_for && atomic_load(&engine->store_full))) {
            if (short_of_huge && !no_huge && ordinary_waits(engine)) {
                no_huge = true;
                fruitless = 0;
                continue;
            }
            return give_up(engine);
        }
    }
    return true;
}

/*
 * Sleep until there is something to do.  After lack of progress only a fault
 * that waits, or the operator, ends the sleep early.
 */
static void rest(MemswapEngine *engine, bool helper, uint32_t seen,
                 int64_t timeout)
{
    _Atomic uint32_t *reasons = helper ? &engine->helpers_kick :
                                &engine->kick;

    if (timeout < 0) {
        /* memswap_charge() looks for sleepers after it has charged */
        atomic_fetch_add(&engine->sleepers, 1);
        atomic_fetch_add(&engine->helpers_asleep, helper);
        if (!wants_room(engine, reserve_start(engine, helper)) &&
            (helper || !wants_behind(engine)) &&
            !memswap_hugetlb_wanted(engine)) {
            MemswapStoreStats stats;

            engine->store->ops->get_stats(engine->store, &stats);
            memswap_futex_wait(reasons, seen, stats.bytes && !helper ?
                               TIDY_NS : -1);
        }
        atomic_fetch_sub(&engine->helpers_asleep, helper);
        atomic_fetch_sub(&engine->sleepers, 1);
    } else {
        memswap_futex_wait(reasons, seen, timeout);
    }
}

static gpointer evictor(gpointer opaque)
{
    MemswapEngine *engine = opaque;
    MemswapStore *store = engine->store;
    bool helper = atomic_fetch_add(&engine->evictors_up, 1);
    int64_t idle = IDLE_MIN_NS;

    while (true) {
        uint32_t seen = atomic_load(helper ? &engine->helpers_kick :
                                    &engine->kick);
        bool content = true;

        if (atomic_load(&engine->stop)) {
            return NULL;
        }
        memswap_serve_stalled(engine);
        if (atomic_load(&engine->n_stalled) ||
            memswap_hugetlb_wanted(engine) ||
            (!helper && wants_behind(engine)) ||
            wants_room(engine, reserve_start(engine, helper))) {
            content = make_room(engine, helper);
            note_stuck(engine, content);
        }
        memswap_serve_stalled(engine);
        if (atomic_load(&engine->store_full)) {
            while (store->ops->maintain(store)) {
            }
        } else if (content && store->ops->maintain(store)) {
            continue;
        }
        /* Stalled still: the host is out of memory, or pins hold it all. */
        if (content && !atomic_load(&engine->n_stalled)) {
            idle = IDLE_MIN_NS;
            rest(engine, helper, seen, -1);
        } else {
            rest(engine, helper, seen, idle);
            idle = MIN(2 * idle, IDLE_MAX_NS);
        }
    }
}

/*
 * With nobody in the background, the store's background work is for who
 * reclaims: without it the store takes ever more, or stays full for ever.
 */
static void maintain_direct(MemswapEngine *engine, bool more_stored)
{
    MemswapStore *store = engine->store;

    if (engine->n_evictors) {
        return;
    }
    if (atomic_load(&engine->store_full)) {
        while (store->ops->maintain(store)) {
        }
    } else if (more_stored) {
        store->ops->maintain(store);
    }
}

bool memswap_reclaim_direct(MemswapEngine *engine, uint64_t size)
{
    uint64_t round = memswap_reclaim_round(engine) + 1;
    uint64_t steps = 2 * round;
    uint64_t enough = memswap_excess(engine, size) + DIRECT_TIMES *
                      (size ?: atomic_load(&engine->largest_page));
    uint64_t taken = 0;
    uint64_t want;

    while (((want = memswap_excess(engine, size)) ||
            memswap_hugetlb_wanted(engine)) &&
           taken < enough && steps--) {
        unsigned int flags = steps < round ? MEMSWAP_RECLAIM_URGENT : 0;
        uint64_t gone;

        if (!want) {
            want = atomic_load(&engine->largest_page);
            flags |= MEMSWAP_RECLAIM_HUGETLB;
        }
        if (!memswap_reclaim_step(engine, want, flags, &gone)) {
            break;
        }
        if (gone) {
            steps = 2 * round;
        }
        taken += gone;
        maintain_direct(engine, gone > 0);
    }
    want = memswap_excess(engine, size);
    note_stuck(engine, !want);
    return !want && !memswap_hugetlb_wanted(engine);
}

bool memswap_reclaim_some(MemswapEngine *engine)
{
    uint64_t round = memswap_reclaim_round(engine) + 1;
    uint64_t steps = 2 * round;
    uint64_t gone = 0;

    while (!gone && steps--) {
        if (!memswap_reclaim_step(engine, STALLED_BYTES, steps < round ?
                                  MEMSWAP_RECLAIM_URGENT : 0, &gone)) {
            break;
        }
        maintain_direct(engine, gone > 0);
    }
    return gone;
}

void memswap_evictors_start(MemswapEngine *engine, unsigned int n)
{
    sigset_t all, old;

    /* Signals are for the threads of whoever made the engine. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    engine->evictors = g_new0(GThread *, n);
    engine->n_evictors = n;
    atomic_store(&engine->evictors_up, 0);
    for (unsigned int i = 0; i < n; i++) {
        engine->evictors[i] = g_thread_new("memswap-evictor", evictor,
                                           engine);
    }
    if (n && engine->huge) {
        memswap_collapser_start(engine);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void memswap_evictors_stop(MemswapEngine *engine)
{
    atomic_store(&engine->stop, true);
    memswap_evictors_kick(engine);
    memswap_collapser_stop(engine);
    for (unsigned int i = 0; i < engine->n_evictors; i++) {
        g_thread_join(engine->evictors[i]);
    }
    g_free(engine->evictors);
}

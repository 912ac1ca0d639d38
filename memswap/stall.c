/*
 * Faults that found no room
 *
 * The thread that reads faults must not wait for room itself, or nobody else's
 * fault would be resolved meanwhile.  It leaves them here, and the evictors
 * take them up again whenever they have freed something.  A thread that
 * resolves its own fault waits here itself.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "futex.h"
#include "internal.h"

/* With nobody to make room in the background: how often to try again. */
#define STALL_SLICE_NS 1000000
/* What a thread evicts itself before it looks again whether there is room. */
#define HELP_BYTES (32 * 4096)
/* Looks at regions that prove warm, until it leaves it to the evictors. */
#define HELP_STEPS 8
/*
 * For how long another process waits.  Somebody in ours may wait for it in
 * turn, with a lock that whoever makes room wants.
 */
#define OTHER_PATIENCE_NS 50000000
/* After what time to ask whether somebody else waits for one that waits. */
#define HELD_UP_NS 50000000
/* For how long a hugepage waits until smaller pages leave it room. */
#define HUGE_PATIENCE_NS 50000000
/* How often it does so for one fault: others may take what it frees. */
#define HELP_TIMES 4

/* One more that waits for a page of the block, or one fewer. */
static void count_stalled(MemswapEngine *engine, const MemswapBlock *block,
                          int by)
{
    if (block->region_pages == 1) {
        atomic_fetch_add(&engine->hugetlb.n_stalled, by);
    }
    atomic_fetch_add(&engine->n_stalled, by);
}

bool memswap_limit_is_soft(MemswapEngine *engine)
{
    if (atomic_load(&engine->hold_nobody)) {
        return true;
    }
    if (atomic_load(&engine->when_full) == MEMSWAP_FULL_OVERSHOOT &&
        atomic_load(&engine->store_full)) {
        return true;
    }
    /*
     * With all of the limit pinned, holding back would last until unpinned.
     * A pin in a huge region keeps all of it.  So does who retains a block.
     * What is pinned for several reasons counts as often, so the limit may be
     * passed too early.
     */
    return atomic_load(&engine->pinned) + memswap_shared_pinned(engine) +
           atomic_load(&engine->huge_stuck) + memswap_retained(engine) +
           memswap_min_limit(engine) / 2 >= atomic_load(&engine->limit);
}

bool memswap_may_overshoot(MemswapEngine *engine, pid_t tid)
{
    return memswap_limit_is_soft(engine) ||
           (engine->host.may_hold_back &&
            !engine->host.may_hold_back(engine->opaque, tid));
}

bool memswap_makes_own_room(MemswapEngine *engine)
{
    return !engine->n_evictors ||
           (!memswap_limit_is_soft(engine) &&
            !atomic_load(&engine->store_full) &&
            memswap_may_overshoot(engine, 0));
}

void memswap_hold(MemswapBlock *block)
{
    MemswapEngine *engine = block->engine;

    count_stalled(engine, block, 1);
    atomic_fetch_add(&engine->n_held, 1);
    /* Once: they don't rest for long while n_stalled says that we wait. */
    memswap_evictors_kick(engine);
}

void memswap_hold_over(MemswapBlock *block)
{
    /* in that order: those held are never more than those that wait */
    atomic_fetch_sub(&block->engine->n_held, 1);
    count_stalled(block->engine, block, -1);
}

void memswap_hold_on(MemswapEngine *engine, uint32_t seen, int64_t timeout)
{
    atomic_fetch_add(&engine->held_failed, 1);
    memswap_futex_wait(&engine->room_seq, seen, timeout);
}

/*
 * A fault has waited so long: does somebody wait for it in turn, with what it
 * takes to make room?
 */
static bool held_up(MemswapEngine *engine, int64_t waited)
{
    return waited > HELD_UP_NS && engine->host.held_up &&
           engine->host.held_up(engine->opaque);
}

/* What it waits for, policies may see to. */
static void tell_begin(MemswapBlock *block, uint64_t page)
{
    if (memswap_policy_wants(block->engine,
                             MEMSWAP_POLICY_EVENT_BIT(STALL_BEGIN))) {
        memswap_policy_emit(block->engine, MEMSWAP_POLICY_STALL_BEGIN, block,
                            page, 1);
    }
}

/* It is over: count it, and tell. */
static void note_end(MemswapBlock *block, uint64_t page, uint64_t waited)
{
    MemswapEngine *engine = block->engine;

    memswap_count(engine->stall_ns, waited);
    memswap_trace(engine, MEMSWAP_TRACE_STALL, block, page, waited);
    if (memswap_policy_wants(engine, MEMSWAP_POLICY_EVENT_BIT(STALL_END))) {
        memswap_policy_emit_stall(block, page, waited);
    }
}

/* One more chance; the threads that wait themselves take it. */
static void next_chance(MemswapEngine *engine)
{
    atomic_fetch_add(&engine->room_seq, 1);
    if (atomic_load(&engine->n_held)) {
        memswap_futex_wake(&engine->room_seq);
    }
}

/*
 * Would a fault on a page of the block find no room?  To be asked before it is
 * tried: room that comes between is still its own.
 */
static bool lacks_room(const MemswapBlock *block)
{
    return memswap_excess(block->engine, block->page_size) > 0;
}

/*
 * A fault that waited so long found no room still: is it because others take
 * it, in smaller parts?  It is the host that has no hugepage with @force, and
 * unless it @lacked room, too.
 */
static bool starves(const MemswapBlock *block, bool force, int64_t waited,
                    bool lacked)
{
    return !force && block->region_pages == 1 && waited > HUGE_PATIENCE_NS &&
           lacked;
}

/*
 * Is a fault starved now?  *@known says whether it was.  True if some room is
 * anybody's again: then the next chance is due, without a lock.
 */
static bool note_starved(MemswapEngine *engine, bool *known, bool starved)
{
    if (*known == starved) {
        return false;
    }
    *known = starved;
    atomic_fetch_add(&engine->n_starved, starved ? 1 : -1);
    return !starved;
}

/* The fault on @page that waits, or NULL; called with stall_lock. */
static MemswapStalled *find_stalled(MemswapEngine *engine,
                                    const MemswapBlock *block, uint64_t page)
{
    for (guint i = 0; i < engine->stalled->len; i++) {
        MemswapStalled *known = &g_array_index(engine->stalled,
                                               MemswapStalled, i);

        if (known->block == block && known->page == page) {
            return known;
        }
    }
    return NULL;
}

void memswap_stall(MemswapBlock *block, uint64_t page, int64_t since,
                   bool force, bool other)
{
    MemswapEngine *engine = block->engine;
    MemswapStalled stalled = {
        .block = block, .page = page, .since = since, .force = force,
        .other = other,
    };
    MemswapStalled *known;

    g_mutex_lock(&engine->stall_lock);
    /* A signal makes the kernel report the same fault again. */
    known = find_stalled(engine, block, page);
    if (known) {
        known->force |= force;
        known->other |= other;
        known->again |= known->in_hand;
        g_mutex_unlock(&engine->stall_lock);
        return;
    }
    memswap_block_ref(block);
    g_array_append_val(engine->stalled, stalled);
    /* first: who sees it wait finds it counted */
    memswap_count(engine->stalls, 1);
    count_stalled(engine, block, 1);
    g_mutex_unlock(&engine->stall_lock);

    tell_begin(block, page);
    memswap_evictors_kick(engine);
}

/*
 * Take in hand the fault that is @i-th in the order of time, or the next that
 * nobody has; false past the end.
 */
static bool take_stalled(MemswapEngine *engine, guint i,
                         MemswapStalled *stalled)
{
    bool any = false;

    g_mutex_lock(&engine->stall_lock);
    for (; i < engine->stalled->len && !any; i++) {
        MemswapStalled *known = &g_array_index(engine->stalled,
                                               MemswapStalled, i);

        any = !known->in_hand;
        if (any) {
            known->in_hand = true;
            *stalled = *known;
        }
    }
    g_mutex_unlock(&engine->stall_lock);
    return any;
}

/*
 * It is resolved, or has to wait on.  Reported again meanwhile, it may have
 * gone out once more since it was resolved: then it stays, to be looked at.
 * Returns where to go on.
 */
static guint end_stalled(MemswapEngine *engine,
                         const MemswapStalled *stalled, bool resolved,
                         bool lacked)
{
    MemswapBlock *block = stalled->block;
    MemswapStalled *known;
    int64_t waited = memswap_now(engine) - stalled->since;
    bool starved = !resolved && starves(block, stalled->force, waited,
                                        lacked);
    bool chance, over;
    guint i;

    g_mutex_lock(&engine->stall_lock);
    known = find_stalled(engine, block, stalled->page);
    i = known - &g_array_index(engine->stalled, MemswapStalled, 0);
    over = resolved && !known->again;
    chance = note_starved(engine, &known->starved, starved);
    if (over) {
        g_array_remove_index(engine->stalled, i);
        count_stalled(engine, block, -1);
    } else {
        i += !resolved;
        known->in_hand = false;
        known->again = false;
    }
    g_mutex_unlock(&engine->stall_lock);
    if (chance) {
        next_chance(engine);
    }
    if (over) {
        note_end(block, stalled->page, waited);
        memswap_block_unref(block);
    }
    return i;
}

/*
 * False if it has to wait on.  *@failed is the block of the last that found no
 * room, or NULL: others of that block waited less, and don't go first just
 * because there is some by now.  Of another one they may need another kind.
 */
static bool serve(MemswapEngine *engine, const MemswapStalled *stalled,
                  const MemswapBlock **failed)
{
    int64_t waited = memswap_now(engine) - stalled->since;
    bool force = stalled->force || memswap_limit_is_soft(engine) ||
                 (stalled->other && waited > OTHER_PATIENCE_NS) ||
                 held_up(engine, waited);
    MemswapFaultKind kind;

    if (!atomic_load(&stalled->block->dead)) {
        if (!force && stalled->block == *failed) {
            return false;
        }
        if (memswap_fill(stalled->block, stalled->page,
                         force ? MEMSWAP_FILL_FORCE : 0,
                         &kind) == MEMSWAP_NO_ROOM) {
            *failed = stalled->block;
            return false;
        }
    }
    if (stalled->other) {
        memswap_remotes_wake(stalled->block, stalled->page);
    }
    return true;
}

/*
 * The evictors are behind: do a part of their work rather than to sleep until
 * they have done it all.  Returns false if nothing came of it.
 */
static bool help(MemswapEngine *engine, const MemswapBlock *block)
{
    unsigned int flags = block->alias ? MEMSWAP_RECLAIM_HUGETLB : 0;
    uint64_t gone = 0;

    for (unsigned int i = 0; i < HELP_STEPS && !gone; i++) {
        if (atomic_load(&engine->stop) || atomic_load(&block->dead) ||
            memswap_limit_is_soft(engine) ||
            !memswap_reclaim_step(engine, MAX(HELP_BYTES, block->page_size),
                                  flags, &gone)) {
            break;
        }
    }
    if (gone > block->page_size && atomic_load(&engine->n_held) > 1) {
        next_chance(engine);
    }
    return gone;
}

MemswapOutcome memswap_stall_here(MemswapBlock *block, uint64_t page,
                                  bool force, MemswapFaultKind *kind)
{
    MemswapEngine *engine = block->engine;
    int64_t since = memswap_now(engine);
    MemswapOutcome outcome;
    unsigned int helped = 0;
    bool starved = false;

    memswap_count(engine->stalls, 1);
    tell_begin(block, page);
    memswap_hold(block);
    while (true) {
        uint32_t seen = atomic_load(&engine->room_seq);
        bool lacked;

        if (!engine->n_evictors) {
            memswap_reclaim_direct(engine, block->page_size);
        }
        if (atomic_load(&block->dead)) {
            outcome = MEMSWAP_GONE;
            break;
        }
        force |= memswap_may_overshoot(engine, 0) ||
                 held_up(engine, memswap_now(engine) - since);
        lacked = lacks_room(block);
        outcome = memswap_fill(block, page, force ? MEMSWAP_FILL_FORCE : 0,
                               kind);
        if (outcome != MEMSWAP_NO_ROOM) {
            break;
        }
        if (note_starved(engine, &starved,
                         starves(block, force, memswap_now(engine) - since,
                                 lacked))) {
            next_chance(engine);
        }
        if (engine->n_evictors && helped++ < HELP_TIMES &&
            help(engine, block)) {
            continue;
        }
        memswap_hold_on(engine, seen,
                        engine->n_evictors ? -1 : STALL_SLICE_NS);
    }
    memswap_hold_over(block);
    if (note_starved(engine, &starved, false)) {
        memswap_room_made(engine);
    }
    note_end(block, page, memswap_now(engine) - since);
    return outcome;
}

void memswap_serve_stalled(MemswapEngine *engine)
{
    uint32_t seen;

    /* for those who wait themselves, and for who has a fault in hand now */
    next_chance(engine);
    do {
        const MemswapBlock *failed = NULL;
        MemswapStalled stalled;
        guint i = 0;

        seen = atomic_load(&engine->room_seq);
        while (atomic_load(&engine->n_stalled) &&
               take_stalled(engine, i, &stalled)) {
            bool lacked = lacks_room(stalled.block);

            i = end_stalled(engine, &stalled,
                            serve(engine, &stalled, &failed), lacked);
        }
        /* Room made while one was in our hands was not seen by the maker. */
    } while (seen != atomic_load(&engine->room_seq));
}

void memswap_room_made(MemswapEngine *engine)
{
    if (atomic_load(&engine->n_stalled)) {
        next_chance(engine);
        if (engine->n_evictors) {
            memswap_evictors_kick(engine);
        } else {
            memswap_serve_stalled(engine);
        }
    }
}

void memswap_hold_nobody(MemswapEngine *engine, bool begin)
{
    if (begin) {
        atomic_fetch_add(&engine->hold_nobody, 1);
        memswap_room_made(engine);
    } else {
        atomic_fetch_sub(&engine->hold_nobody, 1);
    }
}

void memswap_forget_stalled(MemswapBlock *block)
{
    MemswapEngine *engine = block->engine;

    g_mutex_lock(&engine->stall_lock);
    for (guint i = engine->stalled->len; i-- > 0;) {
        MemswapStalled *stalled = &g_array_index(engine->stalled,
                                                 MemswapStalled, i);

        /* who has it in hand finds out that the block goes */
        if (stalled->block == block && !stalled->in_hand) {
            note_starved(engine, &stalled->starved, false);
            g_array_remove_index(engine->stalled, i);
            count_stalled(engine, block, -1);
            memswap_block_unref(block);
        }
    }
    g_mutex_unlock(&engine->stall_lock);
    /* those that wait themselves find out that it goes */
    next_chance(engine);
}

/*
 * memswap pool: maintain(), which gives memory back
 *
 * Sealed segments lose entries one by one.  The compactor copies what is left
 * of the sparsest to its own open segment and asks, entry by entry, for the
 * page to name the copy instead (relocate).  A page that is in transition or
 * was dropped meanwhile says no: then the copy goes, and the segment stays
 * until the entry's owner drops it.  So nobody ever waits for anybody.
 *
 * When: if more than an eighth of the sealed segments' bytes is dead, those
 * segments are worth it that are an eighth dead themselves; if the limit is
 * less than two segments away, those with a sixteenth.  The less is to be
 * dead, the more has to be moved: with pages dropped at random, 3 entries a
 * put keep it at an eighth, 7 at a sixteenth.  So it is 1/24 only while little
 * is put; then time matters less than memory.
 *
 * Only dropped entries count as dead, not the unused end of a segment: every
 * segment compacted leaves less that is dead than before, so there is an end
 * to it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "pool-internal.h"

#define DEAD_SHARE 8
#define DEAD_SHARE_NEAR_LIMIT 16
#define DEAD_SHARE_QUIET 24
/* Quiet is with fewer bytes of pages put than that in so much time. */
#define QUIET_BYTES (4 * 1024 * 1024)
#define QUIET_NS 1000000000
/* Ids that one call looks at. */
#define SCAN_BATCH 1024
/* Rounds until a segment whose entries would not move is tried again. */
#define RETRY_ROUNDS 16

static uint32_t dead_bytes(MemswapSegment *segment)
{
    uint32_t used = atomic_load_explicit(&segment->used, memory_order_relaxed);
    uint32_t live = atomic_load_explicit(&segment->live, memory_order_relaxed);

    return used - MIN(live, used);
}

/*
 * Closes a writer's open segment if nothing in it is alive, or if compacting
 * it gives more room than it still has.  Returns whether it is open still,
 * with its live bytes added to *@live.
 */
static bool tidy_writer(MemswapPool *pool, MemswapWriter *writer,
                        uint64_t *live)
{
    MemswapSegment *segment = writer->open;
    uint32_t segment_live;

    if (!segment) {
        return false;
    }
    segment_live = atomic_load_explicit(&segment->live, memory_order_relaxed);
    if (!segment_live ||
        (writer != &pool->compactor && dead_bytes(segment) >
         MEMSWAP_SEGMENT_SIZE - atomic_load_explicit(&segment->used,
                                                     memory_order_relaxed))) {
        memswap_writer_seal(pool, writer);
        return false;
    }
    *live += segment_live;
    return true;
}

/*
 * The load is looked at over QUIET_NS, but it is not quiet any more as soon as
 * there was too much.
 */
static bool note_load(MemswapPool *pool)
{
    int64_t now = pool->clock_ns();
    uint64_t put = 0;
    unsigned int i;
    bool quiet;

    for (i = 0; i < pool->n_writers; i++) {
        put += atomic_load_explicit(&pool->writers[i].put_bytes,
                                    memory_order_relaxed);
    }
    quiet = put - pool->window_put < QUIET_BYTES;
    if (now - pool->window_start >= QUIET_NS) {
        pool->window_start = now;
        pool->window_put = put;
    } else {
        quiet &= atomic_load_explicit(&pool->quiet, memory_order_relaxed);
    }
    atomic_store_explicit(&pool->quiet, quiet, memory_order_relaxed);
    return quiet;
}

/* How many dead bytes make a segment worth compacting; 0: none is. */
static uint32_t dead_wanted(MemswapPool *pool)
{
    uint64_t open_live = 0;
    uint64_t open_bytes = 0;
    uint64_t sealed, sealed_live, in_use, put_limit;
    uint32_t share = note_load(pool) ? DEAD_SHARE_QUIET : DEAD_SHARE;
    unsigned int i;

    if (tidy_writer(pool, &pool->compactor, &open_live)) {
        open_bytes += MEMSWAP_SEGMENT_SIZE;
    }
    for (i = 0; i < pool->n_writers; i++) {
        /* One that is busy counts as sealed for now: close enough. */
        if (!pthread_mutex_trylock(&pool->writers[i].lock)) {
            if (tidy_writer(pool, &pool->writers[i], &open_live)) {
                open_bytes += MEMSWAP_SEGMENT_SIZE;
            }
            pthread_mutex_unlock(&pool->writers[i].lock);
        }
    }

    memswap_segments_usage(pool, &in_use, &put_limit);
    if (in_use + 2 * MEMSWAP_SEGMENT_SIZE > put_limit) {
        return MEMSWAP_SEGMENT_SIZE / MAX(share, DEAD_SHARE_NEAR_LIMIT);
    }
    /* Others change these meanwhile: no more than an estimate. */
    sealed = in_use - MIN(open_bytes, in_use);
    sealed_live = atomic_load_explicit(&pool->live, memory_order_relaxed);
    sealed_live -= MIN(open_live, sealed_live);
    return sealed_live + sealed / share < sealed
           ? MEMSWAP_SEGMENT_SIZE / share : 0;
}

static bool may_try(MemswapPool *pool, MemswapSegment *segment)
{
    return segment->kind == MEMSWAP_SEGMENT_SHARED &&
           atomic_load_explicit(&segment->state, memory_order_relaxed)
           == MEMSWAP_SEGMENT_SEALED &&
           (!segment->tried_round ||
            pool->round - segment->tried_round >= RETRY_ROUNDS ||
            segment->tried_references !=
            atomic_load_explicit(&segment->references, memory_order_relaxed));
}

/*
 * How many live bytes the compactor has room for.  More than that it must not
 * begin with: pages that are in use now keep their entries for as long as they
 * like, and with several segments half moved there would be none left to move
 * anything to.
 */
static uint32_t room_to_move(MemswapPool *pool)
{
    MemswapSegment *open = pool->compactor.open;

    if (memswap_segments_one_more(pool)) {
        return MEMSWAP_SEGMENT_SIZE;
    }
    return open ? MEMSWAP_SEGMENT_SIZE -
                  atomic_load_explicit(&open->used, memory_order_relaxed) : 0;
}

/*
 * The segment with most dead bytes among the next to look at; or NULL.
 * Sets *@end once all were looked at in vain.
 */
static MemswapSegment *scan(MemswapPool *pool, uint32_t wanted, bool *end)
{
    uint32_t count = atomic_load_explicit(&pool->n_segments,
                                          memory_order_acquire);
    uint32_t batch = MIN(SCAN_BATCH, count);
    MemswapSegment *best = NULL;
    uint32_t room = room_to_move(pool);

    pool->scan_vain += batch;
    while (batch--) {
        MemswapSegment *segment;
        uint32_t dead;

        if (pool->scan_next >= count) {
            pool->scan_next = 0;
        }
        segment = memswap_segment_lookup(pool, pool->scan_next++);
        dead = dead_bytes(segment);
        if (dead >= wanted && may_try(pool, segment) &&
            atomic_load_explicit(&segment->live, memory_order_relaxed) <=
            room) {
            best = segment;
            wanted = dead + 1;
        }
    }
    if (best) {
        pool->scan_vain = 0;
    }
    *end = pool->scan_vain >= count;
    return best;
}

/*
 * Holds a segment if it is sealed.  It may not be the one that was seen: it
 * could have been freed and filled again meanwhile.  That does no harm.
 */
static bool hold_sealed(MemswapPool *pool, MemswapSegment *segment)
{
    if (!memswap_segment_hold(segment)) {
        return false;
    }
    if (atomic_load_explicit(&segment->state, memory_order_acquire)
        != MEMSWAP_SEGMENT_SEALED) {
        memswap_segment_release(pool, segment);
        return false;
    }
    return true;
}

/* Moves one entry if its page lets it.  Returns false if there is no room. */
static bool move_entry(MemswapPool *pool, MemswapSegment *segment,
                       uint32_t offset)
{
    MemswapEntry *entry = (MemswapEntry *)(segment->base + offset);
    uint64_t from = (uint64_t)segment->id << MEMSWAP_GRANULE_BITS
                    | offset / MEMSWAP_GRANULE;
    MemswapWriter *writer;
    uint64_t to;
    int error;

    writer = memswap_writer_reserve(pool, &pool->compactor,
                                    memswap_entry_size(entry->length), true,
                                    &error);
    if (!writer) {
        return false;
    }
    /* Its checksum goes along: damage stays damage. */
    to = memswap_segment_append(writer->open, entry, entry->bytes);
    if (pool->relocate(pool->opaque, entry->owner, from, to)) {
        memswap_segment_discount(segment, entry);
        memswap_segment_release(pool, segment);
        atomic_fetch_add_explicit(&pool->moved, 1, memory_order_relaxed);
    } else {
        memswap_segment_retract(writer->open, entry->length);
    }
    if (writer != &pool->compactor) {
        pthread_mutex_unlock(&writer->lock);
    }
    return true;
}

/* Moves what can be moved.  Returns false if it ran out of room. */
static bool empty_segment(MemswapPool *pool, MemswapSegment *segment)
{
    uint32_t used = atomic_load_explicit(&segment->used, memory_order_relaxed);
    uint32_t offset = 0;

    while (offset < used) {
        MemswapEntry *entry = (MemswapEntry *)(segment->base + offset);

        if (!memswap_entry_header_ok(entry, used - offset)) {
            /* Where the next one begins is lost; its own pages know. */
            atomic_store_explicit(&segment->state, MEMSWAP_SEGMENT_BROKEN,
                                  memory_order_relaxed);
            break;
        }
        if (!atomic_load_explicit(&entry->dead, memory_order_relaxed) &&
            !move_entry(pool, segment, offset)) {
            return false;
        }
        offset += memswap_entry_size(entry->length);
    }
    return true;
}

/* Returns true if there may be more to compact. */
static bool compact(MemswapPool *pool)
{
    uint32_t wanted = dead_wanted(pool);
    bool end = true;
    MemswapSegment *victim = wanted ? scan(pool, wanted, &end) : NULL;
    bool had_room;

    if (!victim) {
        if (end) {
            pool->scan_vain = 0;
            pool->round++;
        }
        return !end;
    }
    if (!hold_sealed(pool, victim)) {
        return true;
    }
    had_room = empty_segment(pool, victim);
    if (memswap_segment_release(pool, victim)) {
        return true;
    }
    victim->tried_round = pool->round;
    victim->tried_references = atomic_load_explicit(&victim->references,
                                                    memory_order_relaxed);
    return had_room;
}

bool memswap_pool_maintain(MemswapStore *store)
{
    MemswapPool *pool = (MemswapPool *)store;
    bool more = false;

    if (!pthread_mutex_trylock(&pool->compactor.lock)) {
        more = compact(pool);
        pthread_mutex_unlock(&pool->compactor.lock);
    }
    return memswap_segments_trim(pool) || more;
}

/*
 * memswap pool: segments, their memory, their table, and who frees them
 *
 * A free segment is in one of three places: on the stack of those just
 * emptied, which anyone may push to at any time; in a spare list, its memory
 * kept for the next acquire; in a vacant list, where only its address space
 * is left.  They move on under segments_lock.
 *
 * Memory is given back by madvise, not munmap: faults of other threads need
 * the address space's lock, which munmap takes for writing.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pool-internal.h"
#include "sparse.h"

/* Shared segments mapped at once. */
#define SEGMENTS_PER_MAPPING 16
/*
 * Spare segments of a kind while there are puts: a share of those in use, up
 * to a few.
 */
#define SPARE_SHARE 32
#define SPARE_MAX 8
/* Segments whose memory one trim gives back. */
#define TRIM_BATCH 16
/* Limits from here on have a segment set aside for the compactor. */
#define RESERVE_FROM (4ULL * MEMSWAP_SEGMENT_SIZE)

MemswapSegment *memswap_segment_lookup(MemswapPool *pool, uint32_t id)
{
    MemswapSegment *block;

    if (id >= atomic_load_explicit(&pool->n_segments, memory_order_acquire)) {
        return NULL;
    }
    block = atomic_load_explicit(&pool->table[id / MEMSWAP_TABLE_BLOCK],
                                 memory_order_acquire);
    return &block[id % MEMSWAP_TABLE_BLOCK];
}

MemswapEntry *memswap_segment_entry(MemswapPool *pool, uint64_t handle,
                                    MemswapSegment **segment, uint32_t *room)
{
    uint64_t id = handle >> MEMSWAP_GRANULE_BITS;
    uint32_t offset = (handle & ((1u << MEMSWAP_GRANULE_BITS) - 1))
                      * MEMSWAP_GRANULE;
    MemswapSegment *found;

    if (id >= MEMSWAP_SEGMENT_IDS) {
        return NULL;
    }
    found = memswap_segment_lookup(pool, id);
    if (!found || offset >= found->capacity) {
        return NULL;
    }
    *segment = found;
    *room = found->capacity - offset;
    return (MemswapEntry *)(found->base + offset);
}

static void list_push(MemswapSegmentList *list, MemswapSegment *segment)
{
    segment->next = list->head;
    list->head = segment->id;
    list->count++;
}

static MemswapSegment *list_pop(MemswapPool *pool, MemswapSegmentList *list)
{
    MemswapSegment *segment;

    if (list->head == MEMSWAP_NO_SEGMENT) {
        return NULL;
    }
    segment = memswap_segment_lookup(pool, list->head);
    list->head = segment->next;
    list->count--;
    return segment;
}

/*
 * Moves what was freed since the last time to the spare lists.  Whoever freed
 * it, it pays back what the compactor has borrowed: the last page of a victim
 * may have been in somebody's hands, who drops it later.
 */
static void collect_emptied(MemswapPool *pool)
{
    uint32_t id = atomic_exchange_explicit(&pool->emptied, MEMSWAP_NO_SEGMENT,
                                           memory_order_acquire);

    while (id != MEMSWAP_NO_SEGMENT) {
        MemswapSegment *segment = memswap_segment_lookup(pool, id);

        id = segment->next;
        pool->spare_bytes += segment->backed;
        list_push(&pool->spare[segment->kind], segment);
        pool->borrowed &= segment->kind != MEMSWAP_SEGMENT_SHARED;
    }
}

/* Makes room in the table for ids up to @end. */
static int extend_table(MemswapPool *pool, uint32_t end)
{
    uint32_t i;

    if (end > MEMSWAP_SEGMENT_IDS) {
        return -ENOSPC;
    }
    for (i = 0; i <= (end - 1) / MEMSWAP_TABLE_BLOCK; i++) {
        MemswapSegment *block;

        if (atomic_load_explicit(&pool->table[i], memory_order_relaxed)) {
            continue;
        }
        block = memswap_sparse_map(MEMSWAP_TABLE_BLOCK * sizeof(*block));
        if (!block) {
            return -ENOMEM;
        }
        atomic_store_explicit(&pool->table[i], block, memory_order_release);
    }
    return 0;
}

/* Adds vacant segments of a kind: one mapping's. */
static int create_segments(MemswapPool *pool, MemswapSegmentKind kind)
{
    uint32_t first = atomic_load_explicit(&pool->n_segments,
                                          memory_order_relaxed);
    uint32_t count = 1;
    uint32_t capacity = MEMSWAP_SEGMENT_SIZE;
    uint8_t *base;
    uint32_t i;
    int ret;

    if (kind == MEMSWAP_SEGMENT_SHARED) {
        count = MIN(SEGMENTS_PER_MAPPING, MEMSWAP_SEGMENT_IDS - first);
    } else {
        uint32_t page = sysconf(_SC_PAGESIZE);

        capacity = memswap_entry_size(pool->max_page_size);
        capacity = (capacity + page - 1) & ~(page - 1);
    }

    ret = extend_table(pool, first + MAX(count, 1));
    if (ret) {
        return ret;
    }
    base = memswap_sparse_map((size_t)count * capacity);
    if (!base) {
        return -ENOMEM;
    }
    for (i = 0; i < count; i++) {
        uint32_t id = first + i;
        MemswapSegment *segment =
            &atomic_load_explicit(&pool->table[id / MEMSWAP_TABLE_BLOCK],
                                  memory_order_relaxed)
            [id % MEMSWAP_TABLE_BLOCK];

        segment->base = base + (size_t)i * capacity;
        segment->id = id;
        segment->capacity = capacity;
        segment->kind = kind;
        atomic_store_explicit(&pool->n_segments, id + 1, memory_order_release);
        list_push(&pool->vacant[kind], segment);
    }
    return 0;
}

/*
 * Gives the memory of a segment from @from on back to the kernel.  Fails for
 * locked memory; then there is no point in trying again.
 */
static bool return_memory(MemswapSegment *segment, uint32_t from)
{
    return !madvise(segment->base + from, segment->backed - from,
                    MADV_DONTNEED);
}

static uint64_t set_aside(uint64_t limit)
{
    return limit >= RESERVE_FROM ? MEMSWAP_SEGMENT_SIZE : 0;
}

/* Gives back the memory of a segment taken from the spare list. */
static bool retire_spare(MemswapPool *pool, MemswapSegment *segment)
{
    if (!return_memory(segment, 0)) {
        pool->keeps_memory = true;
        list_push(&pool->spare[segment->kind], segment);
        return false;
    }
    pool->spare_bytes -= segment->backed;
    atomic_fetch_sub_explicit(&pool->bytes, segment->backed,
                              memory_order_relaxed);
    atomic_fetch_sub_explicit(&pool->n_backed, 1, memory_order_relaxed);
    pool->n_backed_by_kind[segment->kind]--;
    segment->backed = 0;
    list_push(&pool->vacant[segment->kind], segment);
    return true;
}

/* Gives back spare memory until @size more bytes fit under the limit. */
static bool squeeze_spares(MemswapPool *pool, uint64_t size, uint64_t limit)
{
    MemswapSegmentKind kind = 0;

    while (atomic_load_explicit(&pool->bytes, memory_order_relaxed) + size
           > limit) {
        MemswapSegment *segment;

        if (kind == MEMSWAP_SEGMENT_KINDS) {
            return false;
        }
        segment = list_pop(pool, &pool->spare[kind]);
        if (!segment || !retire_spare(pool, segment)) {
            kind++;
        }
    }
    return true;
}

/* A spare segment, its memory cut or grown to @size; or NULL. */
static MemswapSegment *take_spare(MemswapPool *pool, MemswapSegmentKind kind,
                                  uint32_t size, uint64_t limit)
{
    MemswapSegment *segment = list_pop(pool, &pool->spare[kind]);

    if (!segment) {
        return NULL;
    }
    pool->spare_bytes -= segment->backed;
    if (segment->backed > size && !return_memory(segment, size)) {
        pool->keeps_memory = true;
        size = segment->backed;
    }
    /* first, since the count is to stay below the limit at all times */
    squeeze_spares(pool, size - MIN(size, segment->backed), limit);
    atomic_fetch_add_explicit(&pool->bytes, (int64_t)size - segment->backed,
                              memory_order_relaxed);
    segment->backed = size;
    return segment;
}

/*
 * May the compactor pass the limit by a segment?  Not where the limit is too
 * small to have one set aside for it, unless it is passed already.
 */
static bool may_borrow(MemswapPool *pool, uint64_t in_use, uint64_t limit)
{
    return !pool->borrowed && (in_use > limit || set_aside(limit));
}

static int acquire_locked(MemswapPool *pool, MemswapSegmentKind kind,
                          uint32_t size, bool compactor,
                          MemswapSegment **segment)
{
    uint64_t limit = atomic_load_explicit(&pool->limit, memory_order_relaxed);
    uint64_t aside = compactor ? 0 : set_aside(limit);
    uint64_t in_use;
    bool borrow = false;
    int ret;

    collect_emptied(pool);
    in_use = atomic_load_explicit(&pool->bytes, memory_order_relaxed)
             - pool->spare_bytes;
    if (in_use + size > limit - aside) {
        /*
         * Compaction is the way to get below the limit again, or to room
         * below it, and needs a segment to start with.
         */
        borrow = compactor && may_borrow(pool, in_use, limit);
        if (!borrow) {
            return -ENOSPC;
        }
    }

    *segment = take_spare(pool, kind, size, limit);
    if (*segment) {
        pool->borrowed |= borrow;
        return 0;
    }

    if (!squeeze_spares(pool, size, limit) && !borrow) {
        return -ENOSPC;
    }
    if (pool->vacant[kind].head == MEMSWAP_NO_SEGMENT) {
        ret = create_segments(pool, kind);
        if (ret) {
            return ret;
        }
    }
    *segment = list_pop(pool, &pool->vacant[kind]);
    (*segment)->backed = size;
    atomic_fetch_add_explicit(&pool->bytes, size, memory_order_relaxed);
    atomic_fetch_add_explicit(&pool->n_backed, 1, memory_order_relaxed);
    pool->n_backed_by_kind[kind]++;
    pool->borrowed |= borrow;
    return 0;
}

int memswap_segment_acquire(MemswapPool *pool, MemswapSegmentKind kind,
                            uint32_t size, bool compactor,
                            MemswapSegment **segment)
{
    uint32_t page = sysconf(_SC_PAGESIZE);
    int ret;

    size = kind == MEMSWAP_SEGMENT_SHARED
           ? MEMSWAP_SEGMENT_SIZE : (size + page - 1) & ~(page - 1);
    pthread_mutex_lock(&pool->segments_lock);
    ret = acquire_locked(pool, kind, size, compactor, segment);
    pthread_mutex_unlock(&pool->segments_lock);
    if (ret) {
        return ret;
    }

    atomic_store_explicit(&(*segment)->used, 0, memory_order_relaxed);
    atomic_store_explicit(&(*segment)->state, MEMSWAP_SEGMENT_OPEN,
                          memory_order_relaxed);
    atomic_store_explicit(&(*segment)->references, 1, memory_order_release);
    return 0;
}

bool memswap_segment_hold(MemswapSegment *segment)
{
    uint32_t count = atomic_load_explicit(&segment->references,
                                          memory_order_relaxed);

    do {
        if (!count) {
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(&segment->references,
                                                    &count, count + 1,
                                                    memory_order_acquire,
                                                    memory_order_relaxed));
    return true;
}

bool memswap_segment_release(MemswapPool *pool, MemswapSegment *segment)
{
    uint32_t head;

    /* Release: my reads are done.  Acquire: so are everybody else's. */
    if (atomic_fetch_sub_explicit(&segment->references, 1,
                                  memory_order_acq_rel) != 1) {
        return false;
    }

    /* What entries with a damaged header left behind. */
    atomic_fetch_sub_explicit(&pool->live,
                              atomic_exchange_explicit(&segment->live, 0,
                                                       memory_order_relaxed),
                              memory_order_relaxed);
    atomic_fetch_sub_explicit(&pool->data,
                              atomic_exchange_explicit(&segment->data, 0,
                                                       memory_order_relaxed),
                              memory_order_relaxed);
    atomic_store_explicit(&segment->state, MEMSWAP_SEGMENT_FREE,
                          memory_order_relaxed);

    head = atomic_load_explicit(&pool->emptied, memory_order_relaxed);
    do {
        segment->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&pool->emptied, &head,
                                                    segment->id,
                                                    memory_order_acq_rel,
                                                    memory_order_relaxed));
    return true;
}

MemswapEntry *memswap_segment_end(MemswapSegment *segment)
{
    return (MemswapEntry *)(segment->base +
                            atomic_load_explicit(&segment->used,
                                                 memory_order_relaxed));
}

uint64_t memswap_segment_append(MemswapSegment *segment,
                                const MemswapEntry *header, const void *bytes)
{
    uint32_t offset = atomic_load_explicit(&segment->used,
                                           memory_order_relaxed);
    uint32_t size = memswap_entry_size(header->length);
    MemswapEntry *entry = memswap_segment_end(segment);

    entry->owner = header->owner;
    entry->checksum = header->checksum;
    entry->length = header->length;
    entry->check = header->check;
    entry->codec = header->codec;
    atomic_store_explicit(&entry->dead, 0, memory_order_relaxed);
    if (bytes != entry->bytes) {
        memcpy(entry->bytes, bytes, header->length);
    }

    /* Whoever gets the handle gets all this with it, by the page's word. */
    atomic_store_explicit(&segment->used, offset + size, memory_order_relaxed);
    atomic_fetch_add_explicit(&segment->live, size, memory_order_relaxed);
    atomic_fetch_add_explicit(&segment->data, header->length,
                              memory_order_relaxed);
    atomic_fetch_add_explicit(&segment->references, 1, memory_order_relaxed);
    return (uint64_t)segment->id << MEMSWAP_GRANULE_BITS
           | offset / MEMSWAP_GRANULE;
}

void memswap_segment_retract(MemswapSegment *segment, uint32_t length)
{
    uint32_t size = memswap_entry_size(length);

    atomic_fetch_sub_explicit(&segment->used, size, memory_order_relaxed);
    atomic_fetch_sub_explicit(&segment->live, size, memory_order_relaxed);
    atomic_fetch_sub_explicit(&segment->data, length, memory_order_relaxed);
    /* Not the last: the segment is open. */
    atomic_fetch_sub_explicit(&segment->references, 1, memory_order_relaxed);
}

void memswap_segment_discount(MemswapSegment *segment, MemswapEntry *entry)
{
    atomic_store_explicit(&entry->dead, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&segment->live,
                              memswap_entry_size(entry->length),
                              memory_order_relaxed);
    atomic_fetch_sub_explicit(&segment->data, entry->length,
                              memory_order_relaxed);
}

void memswap_segments_usage(MemswapPool *pool, uint64_t *in_use,
                            uint64_t *put_limit)
{
    uint64_t limit = atomic_load_explicit(&pool->limit, memory_order_relaxed);

    pthread_mutex_lock(&pool->segments_lock);
    collect_emptied(pool);
    *in_use = atomic_load_explicit(&pool->bytes, memory_order_relaxed)
              - pool->spare_bytes;
    pthread_mutex_unlock(&pool->segments_lock);
    *put_limit = limit - set_aside(limit);
}

bool memswap_segments_one_more(MemswapPool *pool)
{
    uint64_t limit = atomic_load_explicit(&pool->limit, memory_order_relaxed);
    uint64_t in_use;
    bool more;

    pthread_mutex_lock(&pool->segments_lock);
    collect_emptied(pool);
    in_use = atomic_load_explicit(&pool->bytes, memory_order_relaxed)
             - pool->spare_bytes;
    more = in_use + MEMSWAP_SEGMENT_SIZE <= limit ||
           may_borrow(pool, in_use, limit);
    pthread_mutex_unlock(&pool->segments_lock);
    return more;
}

/* Takes a segment out of the spare list if there are too many. */
static MemswapSegment *pop_excess(MemswapPool *pool, MemswapSegmentKind kind)
{
    uint64_t limit = atomic_load_explicit(&pool->limit, memory_order_relaxed);
    uint32_t in_use = pool->n_backed_by_kind[kind] - pool->spare[kind].count;
    uint32_t keep = MIN(in_use / SPARE_SHARE, SPARE_MAX);

    if (atomic_load_explicit(&pool->quiet, memory_order_relaxed) ||
        atomic_load_explicit(&pool->bytes, memory_order_relaxed) > limit) {
        keep = 0;
    }
    if (pool->keeps_memory || pool->spare[kind].count <= keep) {
        return NULL;
    }
    return list_pop(pool, &pool->spare[kind]);
}

bool memswap_segments_trim(MemswapPool *pool)
{
    MemswapSegmentKind kind = 0;
    unsigned int done = 0;

    while (kind < MEMSWAP_SEGMENT_KINDS && done < TRIM_BATCH) {
        MemswapSegment *segment;

        /* One at a time, so that a put does not have to wait for all. */
        pthread_mutex_lock(&pool->segments_lock);
        collect_emptied(pool);
        segment = pop_excess(pool, kind);
        if (segment && retire_spare(pool, segment)) {
            done++;
        } else {
            kind++;
        }
        pthread_mutex_unlock(&pool->segments_lock);
    }
    return done == TRIM_BATCH;
}

void memswap_segments_init(MemswapPool *pool)
{
    MemswapSegmentKind kind;

    pthread_mutex_init(&pool->segments_lock, NULL);
    atomic_init(&pool->emptied, MEMSWAP_NO_SEGMENT);
    for (kind = 0; kind < MEMSWAP_SEGMENT_KINDS; kind++) {
        pool->spare[kind].head = MEMSWAP_NO_SEGMENT;
        pool->vacant[kind].head = MEMSWAP_NO_SEGMENT;
    }
}

void memswap_segments_destroy(MemswapPool *pool)
{
    uint32_t count = atomic_load(&pool->n_segments);
    uint32_t i;

    for (i = 0; i < count; i++) {
        MemswapSegment *segment = memswap_segment_lookup(pool, i);

        munmap(segment->base, segment->capacity);
    }
    for (i = 0; i < MEMSWAP_TABLE_BLOCKS; i++) {
        MemswapSegment *block = atomic_load(&pool->table[i]);

        if (block) {
            munmap(block, MEMSWAP_TABLE_BLOCK * sizeof(*block));
        }
    }
    pthread_mutex_destroy(&pool->segments_lock);
}

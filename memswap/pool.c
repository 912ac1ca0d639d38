/*
 * memswap pool: a log-structured store of compressed pages in memory
 *
 * The store's operations.  Put compresses with a writer's context and appends
 * to that writer's open segment; there are as many writers as CPUs, up to a
 * few, so that evictors seldom meet.  Get and drop run in the middle of
 * faults: they take no lock and allocate nothing.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "pool-internal.h"
#include "sparse.h"

#define WRITERS_MAX 16
/* What same() unpacks on the stack. */
#define SAME_MAX 4096

static MemswapPool *pool_of(MemswapStore *store)
{
    return (MemswapPool *)store;
}

/*
 * The one that this thread used last, if it is free: its contexts and its
 * segment are in the CPU's caches.  All threads begin with the first and part
 * when they meet, so that few segments are open at a time.
 */
static MemswapWriter *lock_writer(MemswapPool *pool)
{
    static __thread unsigned int last;
    MemswapWriter *writer;
    unsigned int i;

    for (i = 0; i < pool->n_writers; i++) {
        unsigned int n = (last + i) % pool->n_writers;

        if (!pthread_mutex_trylock(&pool->writers[n].lock)) {
            last = n;
            return &pool->writers[n];
        }
    }
    writer = &pool->writers[last % pool->n_writers];
    pthread_mutex_lock(&writer->lock);
    return writer;
}

static bool has_room(MemswapWriter *writer, uint32_t size)
{
    return writer->open &&
           atomic_load_explicit(&writer->open->used, memory_order_relaxed)
           + size <= writer->open->capacity;
}

void memswap_writer_seal(MemswapPool *pool, MemswapWriter *writer)
{
    if (!writer->open) {
        return;
    }
    /* Release: who sees it sealed sees all its entries. */
    atomic_store_explicit(&writer->open->state, MEMSWAP_SEGMENT_SEALED,
                          memory_order_release);
    memswap_segment_release(pool, writer->open);
    writer->open = NULL;
}

MemswapWriter *memswap_writer_reserve(MemswapPool *pool, MemswapWriter *own,
                                      uint32_t size, bool compactor,
                                      int *error)
{
    MemswapSegment *segment;
    unsigned int i;

    if (has_room(own, size)) {
        return own;
    }
    *error = memswap_segment_acquire(pool, MEMSWAP_SEGMENT_SHARED,
                                     MEMSWAP_SEGMENT_SIZE, compactor,
                                     &segment);
    if (!*error) {
        memswap_writer_seal(pool, own);
        own->open = segment;
        return own;
    }

    /* What room there is elsewhere; the compactor needs its own itself. */
    for (i = 0; i < pool->n_writers; i++) {
        MemswapWriter *other = &pool->writers[i];

        if (other == own || pthread_mutex_trylock(&other->lock)) {
            continue;
        }
        if (has_room(other, size)) {
            return other;
        }
        pthread_mutex_unlock(&other->lock);
    }
    return NULL;
}

/* An entry that is too large to share a segment. */
static int put_single(MemswapPool *pool, const MemswapEntry *header,
                      const void *bytes, uint64_t *handle)
{
    MemswapSegment *segment;
    int ret = memswap_segment_acquire(pool, MEMSWAP_SEGMENT_SINGLE,
                                      memswap_entry_size(header->length),
                                      false, &segment);

    if (ret) {
        return ret;
    }
    *handle = memswap_segment_append(segment, header, bytes);
    atomic_store_explicit(&segment->state, MEMSWAP_SEGMENT_SEALED,
                          memory_order_release);
    memswap_segment_release(pool, segment);
    return 0;
}

static int put_shared(MemswapPool *pool, MemswapWriter *writer,
                      const MemswapEntry *header, const void *bytes,
                      uint64_t *handle)
{
    int ret = 0;
    MemswapWriter *with_room =
        memswap_writer_reserve(pool, writer,
                               memswap_entry_size(header->length), false,
                               &ret);

    if (!with_room) {
        return ret;
    }
    *handle = memswap_segment_append(with_room->open, header, bytes);
    if (with_room != writer) {
        pthread_mutex_unlock(&with_room->lock);
    }
    return 0;
}

/*
 * Where to compress a page of this size to: where the entry will be, if there
 * is room whatever its length, else the writer's buffer.  Nobody reads beyond
 * a segment's entries.
 */
static void *compress_to(MemswapWriter *writer, size_t size)
{
    uint32_t most = memswap_entry_size(memswap_compressed_max(size));

    return most <= MEMSWAP_ENTRY_MAX && has_room(writer, most)
           ? memswap_segment_end(writer->open)->bytes : writer->buffer;
}

static int pool_put(MemswapStore *store, const void *data, size_t size,
                    uint64_t owner, uint64_t *handle)
{
    MemswapPool *pool = pool_of(store);
    MemswapWriter *writer;
    MemswapEntry header;
    const void *bytes;
    void *compressed;
    MemswapEntryCodec codec;
    uint32_t entry_size;
    int64_t length;
    int ret;

    if (!size || size > pool->max_page_size) {
        return -EINVAL;
    }

    writer = lock_writer(pool);
    compressed = compress_to(writer, size);
    length = memswap_compress(pool, writer, data, size, compressed, &codec);
    if (length < 0) {
        pthread_mutex_unlock(&writer->lock);
        return length;
    }
    if (length) {
        bytes = compressed;
        memswap_entry_init(&header, owner, codec, bytes, length);
    } else {
        bytes = data;
        memswap_entry_init(&header, owner, MEMSWAP_ENTRY_RAW, bytes, size);
    }
    entry_size = memswap_entry_size(header.length);
    ret = entry_size > MEMSWAP_ENTRY_MAX
          ? put_single(pool, &header, bytes, handle)
          : put_shared(pool, writer, &header, bytes, handle);
    atomic_store_explicit(&writer->put_bytes,
                          atomic_load_explicit(&writer->put_bytes,
                                               memory_order_relaxed) + size,
                          memory_order_relaxed);
    pthread_mutex_unlock(&writer->lock);
    if (ret) {
        return ret;
    }

    atomic_fetch_add_explicit(&pool->live, entry_size, memory_order_relaxed);
    atomic_fetch_add_explicit(&pool->data, header.length,
                              memory_order_relaxed);
    return 0;
}

static int pool_get(MemswapStore *store, uint64_t handle, void *buffer,
                    size_t size)
{
    MemswapPool *pool = pool_of(store);
    MemswapSegment *segment;
    uint32_t room;
    MemswapEntry *entry = memswap_segment_entry(pool, handle, &segment, &room);

    if (!entry || !memswap_entry_header_ok(entry, room) ||
        !memswap_entry_bytes_ok(entry)) {
        return -EBADMSG;
    }
    if (entry->codec == MEMSWAP_ENTRY_RAW) {
        if (entry->length != size) {
            return -EBADMSG;
        }
        memcpy(buffer, entry->bytes, size);
        return 0;
    }
    return memswap_decompress(&pool->decompressors, entry->codec, buffer, size,
                              entry->bytes, entry->length) ? 0 : -EBADMSG;
}

static bool pool_same(MemswapStore *store, uint64_t handle, const void *data,
                      size_t size)
{
    uint8_t copy[SAME_MAX];

    return size <= sizeof(copy) && !pool_get(store, handle, copy, size) &&
           !memcmp(copy, data, size);
}

static void pool_drop(MemswapStore *store, uint64_t handle)
{
    MemswapPool *pool = pool_of(store);
    MemswapSegment *segment;
    uint32_t room;
    MemswapEntry *entry = memswap_segment_entry(pool, handle, &segment, &room);

    g_assert(entry);
    /* A damaged one stays in the counts until its segment is freed. */
    if (memswap_entry_header_ok(entry, room)) {
        atomic_fetch_sub_explicit(&pool->live,
                                  memswap_entry_size(entry->length),
                                  memory_order_relaxed);
        atomic_fetch_sub_explicit(&pool->data, entry->length,
                                  memory_order_relaxed);
        memswap_segment_discount(segment, entry);
    }
    memswap_segment_release(pool, segment);
}

static void pool_configure(MemswapStore *store, uint64_t limit,
                           MemswapCodec codec, int compression_level)
{
    MemswapPool *pool = pool_of(store);

    atomic_store_explicit(&pool->limit, limit, memory_order_relaxed);
    atomic_store_explicit(&pool->codec, codec, memory_order_relaxed);
    atomic_store_explicit(&pool->compression_level, compression_level,
                          memory_order_relaxed);
}

static void pool_set_hurry(MemswapStore *store, bool hurry)
{
    MemswapPool *pool = pool_of(store);

    /* Asked for each run of pages; written to seldom. */
    if (atomic_load_explicit(&pool->hurry, memory_order_relaxed) != hurry) {
        atomic_store_explicit(&pool->hurry, hurry, memory_order_relaxed);
    }
}

static void pool_get_stats(MemswapStore *store, MemswapStoreStats *stats)
{
    MemswapPool *pool = pool_of(store);

    stats->bytes = atomic_load_explicit(&pool->bytes, memory_order_relaxed);
    stats->live_bytes = atomic_load_explicit(&pool->live,
                                             memory_order_relaxed);
    stats->data_bytes = atomic_load_explicit(&pool->data,
                                             memory_order_relaxed);
    stats->segments = atomic_load_explicit(&pool->n_backed,
                                           memory_order_relaxed);
    stats->moved = atomic_load_explicit(&pool->moved, memory_order_relaxed);
}

static void writer_destroy(MemswapWriter *writer)
{
    memswap_compressors_destroy(writer);
    if (writer->buffer) {
        munmap(writer->buffer, writer->buffer_size);
    }
    pthread_mutex_destroy(&writer->lock);
}

static void pool_free(MemswapStore *store)
{
    MemswapPool *pool = pool_of(store);
    unsigned int i;

    for (i = 0; i < pool->n_writers; i++) {
        writer_destroy(&pool->writers[i]);
    }
    free(pool->writers);
    writer_destroy(&pool->compactor);
    memswap_decompressors_destroy(&pool->decompressors);
    memswap_segments_destroy(pool);
    free(pool);
}

static const MemswapStoreOps pool_ops = {
    .put = pool_put,
    .get = pool_get,
    .same = pool_same,
    .drop = pool_drop,
    .maintain = memswap_pool_maintain,
    .configure = pool_configure,
    .set_hurry = pool_set_hurry,
    .get_stats = pool_get_stats,
    .free = pool_free,
};

/* Zeroed, at the start of a cache line; to be freed by free(); or NULL. */
static void *alloc_lines(size_t size)
{
    void *p;

    return posix_memalign(&p, MEMSWAP_CACHE_LINE, size) ? NULL
                                                        : memset(p, 0, size);
}

static bool create_writers(MemswapPool *pool)
{
    unsigned int count = CLAMP(sysconf(_SC_NPROCESSORS_CONF), 1, WRITERS_MAX);

    pool->writers = alloc_lines(count * sizeof(MemswapWriter));
    if (!pool->writers) {
        return false;
    }
    while (pool->n_writers < count) {
        MemswapWriter *writer = &pool->writers[pool->n_writers++];

        pthread_mutex_init(&writer->lock, NULL);
        writer->buffer_size = memswap_compressed_max(pool->max_page_size);
        writer->buffer = memswap_sparse_map(writer->buffer_size);
        if (!writer->buffer || !memswap_compressors_init(writer)) {
            return false;
        }
    }
    return true;
}

static int64_t monotonic_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

MemswapStore *memswap_pool_new(uint64_t limit, MemswapCodec codec,
                               int compression_level, size_t max_page_size,
                               MemswapRelocate *relocate, void *opaque)
{
    MemswapPool *pool = alloc_lines(sizeof(*pool));

    if (!pool) {
        return NULL;
    }
    pool->store.ops = &pool_ops;
    pool->relocate = relocate;
    pool->opaque = opaque;
    pool->max_page_size = max_page_size;
    atomic_init(&pool->limit, limit);
    atomic_init(&pool->codec, codec);
    atomic_init(&pool->compression_level, compression_level);
    memswap_segments_init(pool);
    pthread_mutex_init(&pool->compactor.lock, NULL);
    pool->round = 1;
    pool->clock_ns = monotonic_ns;
    pool->window_start = pool->clock_ns();
    if (!memswap_decompressors_init(&pool->decompressors) ||
        !create_writers(pool)) {
        pool_free(&pool->store);
        return NULL;
    }
    return &pool->store;
}

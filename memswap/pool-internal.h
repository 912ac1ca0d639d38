/*
 * memswap pool: what its files share
 *
 *   pool.c          the store's operations
 *   pool-segment.c  segments: their memory, their table, who frees them
 *   pool-entry.c    one stored page in a segment
 *   pool-compact.c  maintain(): moves entries together, gives memory back
 *   pool-codec.c    zstd and LZ4, and their contexts
 *
 * A segment is 1 MiB that entries are appended to, one after the other, until
 * it is full ("open" while that lasts, then "sealed").  Dropping an entry
 * only counts; the segment is free when nobody holds a reference any more:
 * each live entry has one, so have the writer it is open at and the compactor
 * that walks it.  Entries that would take more than MEMSWAP_ENTRY_MAX get a
 * segment of their own, as large as they are: a page may be larger than 1 MiB.
 *
 * A segment's address space is mapped when its id is first used and stays
 * until the pool is freed.  Freeing a segment gives only its memory back.  So
 * get() needs no lock: the address behind an id never changes.
 *
 * Handles: the segment's id (24 bits), then the entry's granule in it (16).
 * A handle's number comes back only after its segment was free in between;
 * the compactor, who remembers a handle across a relocate(), holds a
 * reference meanwhile.
 *
 * Locks, in the order they are taken:
 *
 *   MemswapWriter.lock  one writer's open segment and contexts.  Who holds
 *                       one only tries others.  Put and maintain take them.
 *   segments_lock       lists of segments, accounting; a leaf
 *
 * get() and drop() take neither.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_POOL_INTERNAL_H
#define MEMSWAP_POOL_INTERNAL_H

#include <glib.h>
#include <pthread.h>
#include <stdatomic.h>

#include <zstd.h>

#include "pool.h"

#define MEMSWAP_SEGMENT_SIZE (1u << 20)
#define MEMSWAP_GRANULE 16u
#define MEMSWAP_GRANULE_BITS 16
#define MEMSWAP_SEGMENT_IDS (1u << (MEMSWAP_HANDLE_BITS - MEMSWAP_GRANULE_BITS))
/* Larger entries would leave too much of a segment's end unused. */
#define MEMSWAP_ENTRY_MAX (MEMSWAP_SEGMENT_SIZE / 8)

/* Descriptors of segments are allocated in blocks of this many. */
#define MEMSWAP_TABLE_BLOCK 4096u
#define MEMSWAP_TABLE_BLOCKS (MEMSWAP_SEGMENT_IDS / MEMSWAP_TABLE_BLOCK)

#define MEMSWAP_NO_SEGMENT UINT32_MAX

/* What different threads write lies in different ones. */
#define MEMSWAP_CACHE_LINE 64
#define MEMSWAP_ON_OWN_LINE __attribute__((aligned(MEMSWAP_CACHE_LINE)))

typedef enum MemswapEntryCodec {
    MEMSWAP_ENTRY_RAW,  /* compression did not pay */
    MEMSWAP_ENTRY_ZSTD,
    MEMSWAP_ENTRY_LZ4,
    MEMSWAP_ENTRY__MAX,
} MemswapEntryCodec;

/* What precedes the stored bytes.  Written once; only @dead changes later. */
typedef struct MemswapEntry {
    uint64_t owner;
    uint64_t checksum;     /* of the stored bytes and the fields around it */
    uint32_t length;       /* of the stored bytes */
    uint16_t check;        /* of owner, length, codec: who walks needs these */
    uint8_t codec;
    _Atomic uint8_t dead;  /* a hint: spares the compactor a relocate() */
    uint8_t bytes[];
} MemswapEntry;

typedef enum MemswapSegmentKind {
    MEMSWAP_SEGMENT_SHARED, /* MEMSWAP_SEGMENT_SIZE, many entries */
    MEMSWAP_SEGMENT_SINGLE, /* one entry, up to the largest page's */
    MEMSWAP_SEGMENT_KINDS,
} MemswapSegmentKind;

typedef enum MemswapSegmentState {
    MEMSWAP_SEGMENT_FREE,   /* no references */
    MEMSWAP_SEGMENT_OPEN,
    MEMSWAP_SEGMENT_SEALED,
    MEMSWAP_SEGMENT_BROKEN, /* sealed, and can't be walked: a damaged header */
} MemswapSegmentState;

typedef struct MemswapSegment {
    /* Set once, before the id is known to anyone. */
    uint8_t *base;
    uint32_t id;
    uint32_t capacity;      /* address space */
    MemswapSegmentKind kind;

    /*
     * Live entries, the writer, the compactor.  Who takes it from 1 to 0
     * frees the segment; nothing but an acquire takes it up from 0.
     */
    _Atomic uint32_t references;
    _Atomic uint32_t state; /* stored by who holds a reference */
    _Atomic uint32_t used;  /* where the next entry goes; the writer's */
    _Atomic uint32_t live;  /* bytes of live entries, headers included */
    _Atomic uint32_t data;  /* stored bytes of live entries */

    uint32_t backed;        /* memory it counts as; under segments_lock */
    /* In a list; under segments_lock, or before a push onto @emptied. */
    uint32_t next;

    /*
     * When the compactor last left entries here, 0 for never; under its lock.
     * What an earlier use of the segment left here only delays a retry.
     */
    uint32_t tried_references;
    uint32_t tried_round;
} MEMSWAP_ON_OWN_LINE MemswapSegment;

/* Where entries are appended.  Everything under @lock. */
typedef struct MemswapWriter {
    pthread_mutex_t lock;
    MemswapSegment *open;   /* may be NULL */
    /* NULL in the compactor's, these three. */
    ZSTD_CCtx *zstd;
    void *lz4;              /* its state */
    uint8_t *buffer;        /* for a compressed page */
    size_t buffer_size;
    /* Of pages so far, not compressed; read without the lock. */
    _Atomic uint64_t put_bytes;
} MEMSWAP_ON_OWN_LINE MemswapWriter;

/* A fixed set of decompression contexts that are taken without a lock. */
typedef struct MemswapDecompressors {
    unsigned int count;
    ZSTD_DCtx **contexts;
    _Atomic uint64_t *busy; /* a bit each; set by who takes it, acquire */
} MemswapDecompressors;

typedef struct MemswapSegmentList {
    uint32_t head;
    uint32_t count;
} MemswapSegmentList;

typedef struct MemswapPool {
    MemswapStore store;     /* must be first */
    MemswapRelocate *relocate;
    void *opaque;
    size_t max_page_size;

    /* Settings; relaxed, a put that just misses a change is an earlier put. */
    _Atomic uint64_t limit;
    _Atomic int codec; /* MemswapCodec */
    _Atomic int compression_level;
    _Atomic bool hurry;         /* time counts more than room */

    /* The table; blocks and ids are only added: release, read by acquire. */
    _Atomic uint32_t n_segments;
    _Atomic(MemswapSegment *) table[MEMSWAP_TABLE_BLOCKS];

    /* Totals over live entries; relaxed, they order nothing. */
    _Atomic uint64_t live MEMSWAP_ON_OWN_LINE;
    _Atomic uint64_t data;
    _Atomic uint64_t moved;

    /*
     * Ids of segments just freed: pushed by anyone, in the middle of a fault
     * too, and only ever taken all at once, so that no ABA can arise.
     */
    _Atomic uint32_t emptied;

    pthread_mutex_t segments_lock MEMSWAP_ON_OWN_LINE;
    /* Written under segments_lock, read anywhere. */
    _Atomic uint64_t bytes;    /* memory taken, spare segments included */
    _Atomic uint32_t n_backed; /* segments that it is in */
    /* All under segments_lock. */
    uint64_t spare_bytes;
    uint32_t n_backed_by_kind[MEMSWAP_SEGMENT_KINDS];
    MemswapSegmentList spare[MEMSWAP_SEGMENT_KINDS];  /* free, with memory */
    MemswapSegmentList vacant[MEMSWAP_SEGMENT_KINDS]; /* free, without */
    bool borrowed;             /* by the compactor, beyond the limit */
    bool keeps_memory;         /* the kernel refuses to take memory back */

    /* Set once. */
    MemswapDecompressors decompressors MEMSWAP_ON_OWN_LINE;
    unsigned int n_writers;
    MemswapWriter *writers;

    MemswapWriter compactor;   /* its lock also keeps compactors to one */

    /* Under compactor.lock. */
    uint32_t scan_next;        /* id to look at next */
    uint32_t scan_vain;        /* ids looked at since the last find */
    uint32_t round;            /* from 1; up when there was nothing to do */
    /* To measure the load since some time ago. */
    int64_t (*clock_ns)(void);
    int64_t window_start;
    uint64_t window_put;       /* bytes put before that */
    _Atomic bool quiet;        /* the load is light; read anywhere */
} MemswapPool;

/* pool-entry.c */

/* Bytes that an entry with this much stored data takes. */
static inline uint32_t memswap_entry_size(uint32_t length)
{
    return (sizeof(MemswapEntry) + length + MEMSWAP_GRANULE - 1)
           & ~(MEMSWAP_GRANULE - 1);
}

void memswap_entry_init(MemswapEntry *entry, uint64_t owner,
                        MemswapEntryCodec codec, const void *bytes,
                        uint32_t length);
/* Are the header's fields what they were, and inside @room bytes? */
bool memswap_entry_header_ok(const MemswapEntry *entry, uint32_t room);
bool memswap_entry_bytes_ok(const MemswapEntry *entry);

/* pool-segment.c */

/**
 * memswap_segment_acquire: a free segment, with one reference
 * @size: bytes it has to hold
 * @compactor: may use what is set aside for compaction
 *
 * Returns 0; -ENOSPC at the limit; -ENOMEM.
 */
int memswap_segment_acquire(MemswapPool *pool, MemswapSegmentKind kind,
                            uint32_t size, bool compactor,
                            MemswapSegment **segment);
/* Takes a reference unless there is none left. */
bool memswap_segment_hold(MemswapSegment *segment);
/* Gives a reference back.  Returns true if that freed the segment. */
bool memswap_segment_release(MemswapPool *pool, MemswapSegment *segment);
/* NULL if @id was never a segment's. */
MemswapSegment *memswap_segment_lookup(MemswapPool *pool, uint32_t id);
/* The entry of a handle, with what room there is for it; or NULL. */
MemswapEntry *memswap_segment_entry(MemswapPool *pool, uint64_t handle,
                                    MemswapSegment **segment, uint32_t *room);
/* Where the next entry goes, for who the segment belongs to. */
MemswapEntry *memswap_segment_end(MemswapSegment *segment);
/*
 * Appends an entry to a segment that has the room and belongs to the caller.
 * @bytes may lie where they are to go already.  The totals are the caller's
 * business, here and in the two below.
 */
uint64_t memswap_segment_append(MemswapSegment *segment,
                                const MemswapEntry *header, const void *bytes);
/* Takes back the last append, whose handle nobody has seen. */
void memswap_segment_retract(MemswapSegment *segment, uint32_t length);
/* Discounts an entry; the reference is given back by the caller. */
void memswap_segment_discount(MemswapSegment *segment, MemswapEntry *entry);
/* Could the compactor acquire another shared segment? */
bool memswap_segments_one_more(MemswapPool *pool);
/* Memory in use, and the limit that puts have to keep. */
void memswap_segments_usage(MemswapPool *pool, uint64_t *in_use,
                            uint64_t *put_limit);
/* Gives back memory of spare segments; true if there is more to give. */
bool memswap_segments_trim(MemswapPool *pool);
void memswap_segments_init(MemswapPool *pool);
void memswap_segments_destroy(MemswapPool *pool);

/* pool-codec.c */

bool memswap_decompressors_init(MemswapDecompressors *set);
void memswap_decompressors_destroy(MemswapDecompressors *set);
/* Returns false unless the data yields @size bytes. */
bool memswap_decompress(MemswapDecompressors *set, MemswapEntryCodec codec,
                        void *buffer, size_t size, const void *bytes,
                        size_t length);
/* More than this, and a page is better stored as it is. */
static inline size_t memswap_compressed_max(size_t size)
{
    /* It must shrink by 1/16, or reading it back is not worth the time. */
    return size - size / 16;
}

/* Contexts to compress with.  False if there is no memory. */
bool memswap_compressors_init(MemswapWriter *writer);
void memswap_compressors_destroy(MemswapWriter *writer);
/*
 * Compresses to @bytes, at most memswap_compressed_max(@size), as the pool is
 * configured.  Returns the length and sets *@codec; 0 if compression does not
 * pay; -ENOMEM.
 */
int64_t memswap_compress(MemswapPool *pool, MemswapWriter *writer,
                         const void *data, size_t size, void *bytes,
                         MemswapEntryCodec *codec);

/* pool.c */

/**
 * memswap_writer_reserve: find room for an entry
 * @own: locked by the caller; its open segment is preferred
 * @compactor: @own is the compactor's
 *
 * Returns the writer whose open segment has the room, locked; if that is not
 * @own, the caller unlocks it.  NULL with *@error set if there is no room.
 */
MemswapWriter *memswap_writer_reserve(MemswapPool *pool, MemswapWriter *own,
                                      uint32_t size, bool compactor,
                                      int *error);
/* No more entries into the open segment, if there is one. */
void memswap_writer_seal(MemswapPool *pool, MemswapWriter *writer);

/* pool-compact.c */

bool memswap_pool_maintain(MemswapStore *store);

#endif /* MEMSWAP_POOL_INTERNAL_H */

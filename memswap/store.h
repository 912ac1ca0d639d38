/*
 * memswap store: where pages go when they leave the page cache
 *
 * A store takes a page's bytes and gives a handle of MEMSWAP_HANDLE_BITS for
 * them.  This ops table is all that the rest of the engine knows of it, so
 * that stores can be stacked, and replaced by fakes in tests.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_STORE_H
#define MEMSWAP_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memswap/engine.h"

#define MEMSWAP_HANDLE_BITS 40

typedef struct MemswapStore MemswapStore;

typedef struct MemswapStoreStats {
    uint64_t bytes;        /* memory taken */
    uint64_t live_bytes;   /* of these, in use; headers included */
    uint64_t data_bytes;   /* of these, compressed data alone */
    uint64_t segments;
    uint64_t moved;        /* entries moved by compaction so far */
} MemswapStoreStats;

/*
 * All of these may be called from any thread at any time, except that a
 * handle is used by one thread at a time (the owner of the page's
 * transition).  None touches guest RAM other than through the pointers given.
 */
typedef struct MemswapStoreOps {
    /*
     * Keep a copy of @size bytes at @data, for the page that the engine knows
     * as @owner.  The copy is complete and checksummed on return.
     * Returns 0 and sets *@handle; -ENOSPC when the store is full; -ENOMEM.
     */
    int (*put)(MemswapStore *store, const void *data, size_t size,
               uint64_t owner, uint64_t *handle);
    /*
     * Fetch the @size bytes kept under @handle into @buffer.  Takes no lock
     * and allocates nothing: it runs in the middle of faults.
     * Returns 0; -EBADMSG if the copy is damaged.
     */
    int (*get)(MemswapStore *store, uint64_t handle, void *buffer,
               size_t size);
    /*
     * Is what is kept under @handle whole, and the same as these @size bytes?
     * At most 4 KiB.
     */
    bool (*same)(MemswapStore *store, uint64_t handle, const void *data,
                 size_t size);
    /*
     * May get() of this one take longer than a thread that has other faults
     * to resolve should be away?  A guess, fast.  NULL: never.
     */
    bool (*slow)(MemswapStore *store, uint64_t handle);
    /* Forget the copy. */
    void (*drop)(MemswapStore *store, uint64_t handle);
    /*
     * Background work: give memory back by moving what is sparse together.
     * Called from evictors between batches.  Does a bounded piece of work
     * (at most one segment) and returns true if there is more to do.
     */
    bool (*maintain)(MemswapStore *store);
    /* Apply new limits; UINT64_MAX is none.  Takes effect on later puts. */
    void (*configure)(MemswapStore *store, uint64_t limit, MemswapCodec codec,
                      int compression_level);
    /*
     * Until told otherwise, a put is to take less time (@hurry) or less room.
     * NULL: it makes no difference.
     */
    void (*set_hurry)(MemswapStore *store, bool hurry);
    void (*get_stats)(MemswapStore *store, MemswapStoreStats *stats);
    void (*free)(MemswapStore *store);
} MemswapStoreOps;

/* Every store begins with this. */
struct MemswapStore {
    const MemswapStoreOps *ops;
};

/*
 * Asks the engine to replace @from by @to as the handle of page @owner.
 * Returns false, with nothing changed, unless the page is stored or has a kept
 * copy under @from and is in no transition; the mover then leaves @from as it
 * is and drops @to.
 */
typedef bool MemswapRelocate(void *opaque, uint64_t owner, uint64_t from,
                             uint64_t to);

#endif /* MEMSWAP_STORE_H */

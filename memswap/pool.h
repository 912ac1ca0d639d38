/*
 * memswap pool: a log-structured store of compressed pages in memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_POOL_H
#define MEMSWAP_POOL_H

#include "store.h"

/**
 * memswap_pool_new: create an empty pool
 * @limit: bytes it may take, headers included; UINT64_MAX for none
 * @codec: for the pages put, until configured otherwise
 * @compression_level: zstd's
 * @max_page_size: the largest @size that put() will see
 * @relocate: asked before an entry's handle changes; called with no pool lock
 *            that get() or drop() could need
 * @opaque: passed to @relocate
 *
 * Returns a store to be freed with its ops' free(), or NULL if there is no
 * memory.
 */
MemswapStore *memswap_pool_new(uint64_t limit, MemswapCodec codec,
                               int compression_level, size_t max_page_size,
                               MemswapRelocate *relocate, void *opaque);

/* What zstd accepts here; outside it, refuse the setting. */
int memswap_pool_min_level(void);
int memswap_pool_max_level(void);

#endif /* MEMSWAP_POOL_H */

/*
 * Sparse memory of our own: page words, the pool, buffers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_SPARSE_H
#define MEMSWAP_SPARSE_H

#include <stddef.h>

/**
 * memswap_sparse_map: map zeroed memory that takes none until it is touched
 * @size: bytes
 *
 * Not for children and not for core dumps, since it holds what the guest's RAM
 * held.  Never of huge pages: one would take 2 MiB for a page word, or for a
 * buffer, of which nobody knows.  The caller's, to be freed with munmap();
 * NULL if there is no memory.
 */
void *memswap_sparse_map(size_t size);

#endif /* MEMSWAP_SPARSE_H */

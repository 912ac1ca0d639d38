/*
 * Sparse memory of our own
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <sys/mman.h>

#include "sparse.h"

void *memswap_sparse_map(size_t size)
{
    void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (mem == MAP_FAILED) {
        return NULL;
    }
    /* EINVAL: a kernel that has no huge pages to keep out */
    if (madvise(mem, size, MADV_DONTFORK) ||
        madvise(mem, size, MADV_DONTDUMP) ||
        (madvise(mem, size, MADV_NOHUGEPAGE) && errno != EINVAL)) {
        munmap(mem, size);
        return NULL;
    }
    return mem;
}

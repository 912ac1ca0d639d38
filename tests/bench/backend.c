/*
 * Benchmarks: mapping RAM
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend.h"

#define ALIGNMENT (2ULL << 20)

void *bench_map(uint64_t size, int fd)
{
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    uintptr_t room = (uintptr_t)mmap(NULL, size + ALIGNMENT, PROT_NONE,
                                     MAP_PRIVATE | MAP_ANONYMOUS |
                                     MAP_NORESERVE, -1, 0);
    uintptr_t start;

    if (room == (uintptr_t)MAP_FAILED) {
        bench_fail(errno, "cannot reserve addresses");
    }
    start = (room + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (mmap((void *)start, size, PROT_READ | PROT_WRITE,
             flags | MAP_FIXED | MAP_NORESERVE, fd, 0) == MAP_FAILED) {
        bench_fail(errno, "cannot map RAM");
    }
    return (void *)start;
}

void *bench_map_memfd(const BenchOptions *options, int *fd)
{
    unsigned int flags = MFD_CLOEXEC;

    if (options->page_size != TOUCH_SIZE) {
        flags |= MFD_HUGETLB | MFD_HUGE_2MB;
    }
    *fd = memfd_create("memswap-bench", flags);
    if (*fd < 0 || ftruncate(*fd, options->size) < 0) {
        bench_fail(errno, "cannot create shared memory");
    }
    return bench_map(options->size, *fd);
}

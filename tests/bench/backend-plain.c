/*
 * Benchmarks: anonymous memory, left to the kernel
 *
 * Its limit is that of the memory control group which the program was
 * started in; without one it is the reference without any limit.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>

#include "backend.h"

static void *plain_open(const BenchOptions *options)
{
    void *ram = bench_map(options->size, -1);

    if (madvise(ram, options->size,
                options->thp ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) < 0) {
        bench_fail(errno, "cannot choose the size of pages");
    }
    return ram;
}

static void plain_begin(void)
{
}

const BenchBackend bench_plain = {
    .name = "plain",
    .open = plain_open,
    .begin = plain_begin,
};

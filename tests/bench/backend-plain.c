/*
 * Benchmarks: anonymous memory, left to the kernel
 *
 * Its limit is that of the memory control group which the program was
 * started in; without one it is the reference without any limit.  With --step,
 * whoever started it can be asked for another one, by a line "limit BYTES" that
 * wants one in return at once.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "backend.h"

static int step;

static void *plain_open(const BenchOptions *options)
{
    void *ram = bench_map(options->size, -1);

    step = options->step;
    if (madvise(ram, options->size,
                options->thp ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) < 0) {
        bench_fail(errno, "cannot choose the size of pages");
    }
    return ram;
}

static void plain_set_limit(uint64_t bytes)
{
    char line[16];

    if (!step) {
        bench_fail(0, "only who started it with --step can set a limit");
    }
    printf("limit %" PRIu64 "\n", bytes);
    fflush(stdout);
    if (!fgets(line, sizeof(line), stdin)) {
        exit(1);
    }
}

static void plain_begin(void)
{
}

const BenchBackend bench_plain = {
    .name = "plain",
    .open = plain_open,
    .set_limit = plain_set_limit,
    .begin = plain_begin,
};

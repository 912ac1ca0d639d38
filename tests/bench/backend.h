/*
 * Benchmarks: who keeps the touched RAM within its limit
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_BENCH_BACKEND_H
#define MEMSWAP_BENCH_BACKEND_H

#include <stdint.h>
#include <stdio.h>

#include "memswap/engine.h"
#include "options.h"

/* One at a time in a process.  Whatever fails ends the program. */
typedef struct BenchBackend {
    const char *name;
    /* Map options->size of zeroes, aligned to 2 MiB. */
    void *(*open)(const BenchOptions *options);
    /* Change the limit.  May be NULL. */
    void (*set_limit)(uint64_t bytes);
    /* The measured phase begins: from now on, counters count. */
    void (*begin)(void);
    /* Bytes of RAM that are in memory, or NULL: ask the kernel. */
    uint64_t (*resident)(void);
    /* Members of the JSON object, each with a comma before it; or NULL. */
    void (*report)(FILE *file);
    /* Nobody touches the RAM any more.  May be NULL. */
    void (*close)(void);
} BenchBackend;

extern const BenchBackend bench_memswap;
extern const BenchBackend bench_plain;
extern const BenchBackend bench_handler_thread;

/* The engine of bench_memswap, once that is open. */
MemswapEngine *bench_memswap_engine(void);

/**
 * bench_map: map RAM, aligned to 2 MiB
 * @fd: of shared memory, or -1 for anonymous memory
 */
void *bench_map(uint64_t size, int fd);

/**
 * bench_map_memfd: make and map shared memory, in pages of options->page_size
 * @fd: set to its descriptor
 */
void *bench_map_memfd(const BenchOptions *options, int *fd);

#endif /* MEMSWAP_BENCH_BACKEND_H */

/*
 * Benchmarks: a clock that can be read at every touch
 *
 * The time stamp counter where the kernel trusts it as its own clock,
 * CLOCK_MONOTONIC elsewhere.  Ticks are converted only when results are
 * printed.  BENCH_TSC says that this processor has such a counter.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_BENCH_CLOCK_H
#define MEMSWAP_BENCH_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>
#ifdef BENCH_TSC
#include <x86intrin.h>
#endif

/* Set by bench_clock_init(). */
extern bool bench_clock_tsc;
extern double bench_ticks_per_ns;

/**
 * bench_clock_init: choose the clock and find its rate
 *
 * Takes 50 ms.  Call it once, before any thread reads the clock.
 */
void bench_clock_init(void);

static inline uint64_t bench_clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

/* Ticks; all loads before it are done when it is read. */
static inline uint64_t bench_clock_ticks(void)
{
#ifdef BENCH_TSC
    if (bench_clock_tsc) {
        _mm_lfence();
        return __rdtsc();
    }
#endif
    return bench_clock_ns();
}

#endif /* MEMSWAP_BENCH_CLOCK_H */

/*
 * Benchmarks: a log-linear histogram of times
 *
 * Each power of two is split into 64 buckets, so that a percentile is off by
 * less than 1.6 %.  Times are in ticks of the clock that made them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_BENCH_HISTOGRAM_H
#define MEMSWAP_BENCH_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_BITS 6
#define HISTOGRAM_SPLIT (1U << HISTOGRAM_BITS)
#define HISTOGRAM_BUCKETS ((64 - HISTOGRAM_BITS + 1) * HISTOGRAM_SPLIT)

/* One thread's; others read it when that thread has stopped. */
typedef struct Histogram {
    uint64_t count[HISTOGRAM_BUCKETS];
    uint64_t max;
} Histogram;

static inline unsigned int histogram_bucket(uint64_t ticks)
{
    unsigned int shift;

    if (ticks < HISTOGRAM_SPLIT) {
        return ticks;
    }
    shift = 63 - HISTOGRAM_BITS - __builtin_clzll(ticks);
    return (shift + 1) * HISTOGRAM_SPLIT +
           ((ticks >> shift) & (HISTOGRAM_SPLIT - 1));
}

static inline void histogram_add(Histogram *histogram, uint64_t ticks)
{
    histogram->count[histogram_bucket(ticks)]++;
    if (ticks > histogram->max) {
        histogram->max = ticks;
    }
}

/* Add all that @from counted to @to. */
void histogram_merge(Histogram *to, const Histogram *from);

/* How many took at least @least ticks, to the accuracy of a bucket. */
uint64_t histogram_count(const Histogram *histogram, uint64_t least);

/**
 * histogram_percentile: a percentile of the times of at least @least
 * @percent: from 0 to 100
 * @least: ticks; 0 for all times
 *
 * Returns ticks, the middle of the bucket; 0 if nothing was counted.
 */
double histogram_percentile(const Histogram *histogram, double percent,
                            uint64_t least);

/* The mean of the times of at least @least ticks; 0 if there are none. */
double histogram_mean(const Histogram *histogram, uint64_t least);

#endif /* MEMSWAP_BENCH_HISTOGRAM_H */

/*
 * Benchmarks: reading a histogram
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <glib.h>

#include "histogram.h"

void histogram_merge(Histogram *to, const Histogram *from)
{
    for (unsigned int i = 0; i < HISTOGRAM_BUCKETS; i++) {
        to->count[i] += from->count[i];
    }
    to->max = MAX(to->max, from->max);
}

uint64_t histogram_count(const Histogram *histogram, uint64_t least)
{
    uint64_t n = 0;

    for (unsigned int i = histogram_bucket(least); i < HISTOGRAM_BUCKETS;
         i++) {
        n += histogram->count[i];
    }
    return n;
}

/* The middle of a bucket, in ticks. */
static double bucket_middle(unsigned int bucket)
{
    unsigned int shift = bucket / HISTOGRAM_SPLIT;
    uint64_t low = bucket % HISTOGRAM_SPLIT;

    if (!shift) {
        return low;
    }
    shift--;
    return ((low + HISTOGRAM_SPLIT) + 0.5) * (1ULL << shift);
}

double histogram_percentile(const Histogram *histogram, double percent,
                            uint64_t least)
{
    uint64_t n = histogram_count(histogram, least);
    double below = n * percent / 100;
    uint64_t seen = 0;

    if (!n) {
        return 0;
    }
    for (unsigned int i = histogram_bucket(least); i < HISTOGRAM_BUCKETS;
         i++) {
        seen += histogram->count[i];
        if (histogram->count[i] && seen >= below) {
            return MIN(bucket_middle(i), (double)histogram->max);
        }
    }
    return histogram->max;
}

double histogram_mean(const Histogram *histogram, uint64_t least)
{
    double sum = 0;
    uint64_t n = 0;

    for (unsigned int i = histogram_bucket(least); i < HISTOGRAM_BUCKETS;
         i++) {
        sum += histogram->count[i] * bucket_middle(i);
        n += histogram->count[i];
    }
    return n ? sum / n : 0;
}

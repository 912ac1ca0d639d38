/*
 * Benchmarks: in which order pages are touched
 *
 * Made in advance, so that a touch costs the same whatever the pattern, and
 * the same from the same seed on every backend.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_BENCH_PATTERN_H
#define MEMSWAP_BENCH_PATTERN_H

#include <stdint.h>

#include "options.h"

/* Touches in an order; after the last one it begins again. */
#define PATTERN_LENGTH (1U << 22)

/* In an entry: this touch writes.  The rest is the page. */
#define PATTERN_WRITE (1U << 31)

/**
 * pattern_new: the order in which one thread touches pages
 * @thread: from 0
 *
 * Returns PATTERN_LENGTH entries, g_free() them.
 */
uint32_t *pattern_new(const BenchOptions *options, unsigned int thread);

#endif /* MEMSWAP_BENCH_PATTERN_H */

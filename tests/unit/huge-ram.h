/*
 * A guest with huge regions
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_HUGE_RAM_H
#define TEST_HUGE_RAM_H

#include "harness.h"

/* Of @size, written to, not collapsed; NULL, and skipped, if that can't be. */
Harness *huge_new(const HarnessOptions *options);
/* All regions made huge. */
Harness *huge_collapsed(uint64_t size);

/* As the collapser does, in this thread.  Returns what is left for later. */
uint64_t huge_pass(Harness *h);
/* As the clock does with a region.  Returns the pages on trial. */
uint64_t huge_try(Harness *h, uint64_t number, bool fine);
/* The second look at it.  Returns the bytes gone. */
uint64_t huge_look(Harness *h, uint64_t number);
/* Its pages 50 to 149, of the first region.  Returns what the discard did. */
int huge_discard_some(Harness *h);
/* They are zero, and the region's others as they were written. */
void huge_check_discarded(Harness *h);
/* Faults that found their page on trial, so far. */
uint64_t huge_trial_faults(Harness *h);
/* KiB of the RAM mapped by huge pages. */
int huge_mapped(Harness *h);

/*
 * Calls counted, and failed: those of kind @fail give @error, from the @from-th
 * on, @times times.
 */
typedef struct Calls {
    InjectHooks hooks;
    _Atomic unsigned int n[INJECT__MAX];
    InjectCall fail;
    int error;
    unsigned int from, times;
} Calls;

/* From now on, until inject(NULL). */
void calls_count(Calls *calls);

#endif /* TEST_HUGE_RAM_H */

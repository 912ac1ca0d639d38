/*
 * A guest with huge regions
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "huge-ram.h"

/* A part of a region that is discarded. */
#define PART_FIRST 50
#define PART_END 150

Harness *huge_new(const HarnessOptions *options)
{
    Harness *h = harness_new(options);

    g_assert_true(options->huge);
    if (!stats_of(h).huge_supported) {
        g_test_skip("this kernel, or its settings, can't have huge regions");
        harness_free(h);
        return NULL;
    }
    if (!options->by_hand) {
        write_pages(h, 0, options->size / PAGE);
    }
    return h;
}

Harness *huge_collapsed(uint64_t size)
{
    Harness *h = huge_new(&(HarnessOptions) { .size = size, .huge = true });

    if (h) {
        g_assert_cmpuint(huge_pass(h), ==, 0);
        g_assert_cmpuint(stats_of(h).huge, ==,
                         size & ~(MEMSWAP_REGION_SIZE - 1));
    }
    return h;
}

uint64_t huge_pass(Harness *h)
{
    return memswap_collapser_pass(h->engine, false, true);
}

uint64_t huge_try(Harness *h, uint64_t number, bool fine)
{
    MemswapRegion *region = &h->ram.block->regions[number];
    uint64_t waiting;

    memswap_region_own(region);
    if (fine) {
        memswap_huge_fine(region);
    }
    waiting = memswap_huge_trial(h->ram.block, number);
    memswap_region_disown(region);
    return waiting;
}

uint64_t huge_look(Harness *h, uint64_t number)
{
    MemswapRegion *region = &h->ram.block->regions[number];
    uint64_t gone;

    memswap_region_own(region);
    gone = memswap_huge_look(h->ram.block, number);
    memswap_region_disown(region);
    return gone;
}

int huge_discard_some(Harness *h)
{
    return memswap_discard(h->engine, h->ram.host + PART_FIRST * PAGE,
                           (PART_END - PART_FIRST) * PAGE);
}

void huge_check_discarded(Harness *h)
{
    for (uint64_t page = PART_FIRST; page < PART_END; page++) {
        ram_check(h, page, 0);
    }
    check_pages(h, 0, PART_FIRST);
    check_pages(h, PART_END, REGION_PAGES - PART_END);
}

uint64_t huge_trial_faults(Harness *h)
{
    return stats_of(h).faults[MEMSWAP_FAULT_TRIAL];
}

int huge_mapped(Harness *h)
{
    return ram_smaps(&h->ram, "ShmemPmdMapped:");
}

static int calls_before(void *opaque, InjectCall call, uint64_t where,
                        size_t *size)
{
    Calls *calls = opaque;
    unsigned int n = atomic_fetch_add(&calls->n[call], 1);

    return call == calls->fail && n >= calls->from &&
           n - calls->from < calls->times ? calls->error : 0;
}

void calls_count(Calls *calls)
{
    calls->hooks = (InjectHooks) { .before = calls_before, .opaque = calls };
    inject(&calls->hooks);
}

/*
 * The guest's blocks as a policy knows them, with something for each region
 *
 * By the host's numbers, as it had them when they were asked about last.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_POLICY_BLOCKS_H
#define MEMSWAP_POLICY_BLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memswap/policy.h"

/* Words of a bitmap for a region's pages. */
#define BLOCK_REGION_WORDS 8

typedef struct PolicyBlock {
    uint64_t n_pages;           /* 0: there is none */
    uint64_t n_regions;
    uint64_t page_size;
    uint32_t region_pages;
    void *regions;              /* elements, zero at first */
    uint64_t count;             /* the owner's, zero at first */
} PolicyBlock;

typedef struct PolicyBlocks {
    /* These are the owner's to set. */
    const MemswapPolicyHostOps *ops;
    MemswapPolicyHost *host;
    size_t element;             /* bytes for each region */
    bool pointers;              /* elements are such, to be freed */

    PolicyBlock *blocks;        /* by number */
    uint32_t n_blocks;
} PolicyBlocks;

/* The block as the host has it now; NULL if it has none, or no memory. */
PolicyBlock *blocks_ask(PolicyBlocks *blocks, uint32_t number);
/* The same if it was asked about before, as it was then. */
PolicyBlock *blocks_get(const PolicyBlocks *blocks, uint32_t number);
/* Pages in a region of it: the last may have fewer. */
uint64_t block_pages_in(const PolicyBlock *block, uint64_t region);

/* Until it is asked about again there is none. */
void blocks_forget(PolicyBlocks *blocks, uint32_t number);
void blocks_forget_all(PolicyBlocks *blocks);
/* At the end. */
void blocks_free(PolicyBlocks *blocks);

#endif /* MEMSWAP_POLICY_BLOCKS_H */

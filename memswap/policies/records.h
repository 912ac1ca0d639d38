/*
 * Records: for each page of the guest's, a number from 0 to 3
 *
 * For policies that remember pages.  0 is what was never recorded; a region of
 * 2 MiB with nothing else takes a pointer, others 128 bytes more.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_RECORDS_H
#define MEMSWAP_RECORDS_H

#include "blocks.h"

#define RECORD_MAX 3
#define RECORD_WORDS BLOCK_REGION_WORDS

/* A region's pages, two bits each. */
typedef struct Record {
    uint64_t low[RECORD_WORDS], high[RECORD_WORDS];
} Record;

/* A place among the regions. */
typedef struct RecordHand {
    uint32_t block;
    uint64_t region;
} RecordHand;

/* An element is a pointer to a Record, a block's count is of pages. */
void records_init(PolicyBlocks *records, const MemswapPolicyHostOps *ops,
                  MemswapPolicyHost *host);
/* The region's; NULL if nothing was recorded of it. */
Record *records_of(const PolicyBlock *block, uint64_t region);
/*
 * The record of the page's region, and the page's place in there; NULL if
 * nothing was recorded of it, or the block isn't known.  With @make, only if
 * there is no such page, or no memory.
 */
Record *records_find(PolicyBlocks *records, uint32_t number, uint64_t page,
                     bool make, unsigned int *at);

/* Which pages of word @i have just this number. */
uint64_t record_bits(const Record *record, unsigned int i,
                     unsigned int number);
/* Give it to those in @bits. */
void records_set(PolicyBlock *block, Record *record, unsigned int i,
                 uint64_t bits, unsigned int number);
/* The same, but nobody gets a lower one than it has. */
void records_raise(PolicyBlock *block, Record *record, unsigned int i,
                   uint64_t bits, unsigned int number);

/* Which pages of the region are in one of these states now. */
bool records_ask(PolicyBlocks *records, uint32_t number, uint64_t region,
                 uint32_t states, uint64_t bits[RECORD_WORDS]);

/* Pages that have a number. */
uint64_t records_count(const PolicyBlocks *records);
/* Move to the next region, from the hand on, that has a record. */
bool records_next(const PolicyBlocks *records, RecordHand *hand);

#endif /* MEMSWAP_RECORDS_H */

/*
 * Records: for each page of the guest's, a number from 0 to 3
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <stdlib.h>
#include <string.h>

#include "again.h"
#include "records.h"

void records_init(PolicyBlocks *records, const MemswapPolicyHostOps *ops,
                  MemswapPolicyHost *host)
{
    *records = (PolicyBlocks) {
        .ops = ops,
        .host = host,
        .element = sizeof(Record *),
        .pointers = true,
    };
}

Record *records_of(const PolicyBlock *block, uint64_t region)
{
    return ((Record **)block->regions)[region];
}

Record *records_find(PolicyBlocks *records, uint32_t number, uint64_t page,
                     bool make, unsigned int *at)
{
    PolicyBlock *block = blocks_get(records, number);
    Record **record;

    if (make && !block) {
        block = blocks_ask(records, number);
    }
    if (!block || page >= block->n_pages) {
        return NULL;
    }
    *at = page % block->region_pages;
    record = (Record **)block->regions + page / block->region_pages;
    if (make && !*record) {
        *record = calloc(1, sizeof(Record));
    }
    return *record;
}

uint64_t record_bits(const Record *record, unsigned int i,
                     unsigned int number)
{
    return (number & 1 ? record->low[i] : ~record->low[i]) &
           (number & 2 ? record->high[i] : ~record->high[i]);
}

void records_set(PolicyBlock *block, Record *record, unsigned int i,
                 uint64_t bits, unsigned int number)
{
    block->count -= __builtin_popcountll(~record_bits(record, i, 0) & bits);
    record->low[i] = (record->low[i] & ~bits) | (number & 1 ? bits : 0);
    record->high[i] = (record->high[i] & ~bits) | (number & 2 ? bits : 0);
    block->count += number ? __builtin_popcountll(bits) : 0;
}

void records_raise(PolicyBlock *block, Record *record, unsigned int i,
                   uint64_t bits, unsigned int number)
{
    for (unsigned int less = 0; less < number; less++) {
        records_set(block, record, i, bits & record_bits(record, i, less),
                    number);
    }
}

bool records_ask(PolicyBlocks *records, uint32_t number, uint64_t region,
                 uint32_t states, uint64_t bits[RECORD_WORDS])
{
    const PolicyBlock *block = blocks_get(records, number);

    memset(bits, 0, RECORD_WORDS * sizeof(*bits));
    return block &&
           !again(records->ops->pages(records->host, number,
                                     region * block->region_pages,
                                     block_pages_in(block, region), states,
                                     bits));
}

uint64_t records_count(const PolicyBlocks *records)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < records->n_blocks; i++) {
        n += records->blocks[i].count;
    }
    return n;
}

bool records_next(const PolicyBlocks *records, RecordHand *hand)
{
    while (hand->block < records->n_blocks) {
        const PolicyBlock *block = &records->blocks[hand->block];

        while (hand->region < block->n_regions) {
            if (records_of(block, hand->region)) {
                return true;
            }
            hand->region++;
        }
        hand->block++;
        hand->region = 0;
    }
    return false;
}

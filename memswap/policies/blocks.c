/*
 * The guest's blocks as a policy knows them, with something for each region
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <stdlib.h>
#include <string.h>

#include "again.h"
#include "blocks.h"

#define BLOCKS_MAX 1024

static void forget(const PolicyBlocks *blocks, PolicyBlock *block)
{
    void **pointers = block->regions;

    for (uint64_t i = 0; blocks->pointers && i < block->n_regions; i++) {
        free(pointers[i]);
    }
    free(block->regions);
    memset(block, 0, sizeof(*block));
}

void blocks_forget(PolicyBlocks *blocks, uint32_t number)
{
    if (number < blocks->n_blocks) {
        forget(blocks, &blocks->blocks[number]);
    }
}

void blocks_forget_all(PolicyBlocks *blocks)
{
    for (uint32_t i = 0; i < blocks->n_blocks; i++) {
        forget(blocks, &blocks->blocks[i]);
    }
}

void blocks_free(PolicyBlocks *blocks)
{
    blocks_forget_all(blocks);
    free(blocks->blocks);
    blocks->blocks = NULL;
    blocks->n_blocks = 0;
}

static bool grow(PolicyBlocks *blocks, uint32_t number)
{
    PolicyBlock *more;

    if (number < blocks->n_blocks) {
        return true;
    }
    if (number >= BLOCKS_MAX) {
        return false;
    }
    more = realloc(blocks->blocks, (number + 1) * sizeof(*more));
    if (!more) {
        return false;
    }
    memset(more + blocks->n_blocks, 0,
           (number + 1 - blocks->n_blocks) * sizeof(*more));
    blocks->blocks = more;
    blocks->n_blocks = number + 1;
    return true;
}

PolicyBlock *blocks_ask(PolicyBlocks *blocks, uint32_t number)
{
    MemswapPolicyBlock info = { .size = sizeof(info) };
    PolicyBlock *block;

    if (!grow(blocks, number)) {
        return NULL;
    }
    block = &blocks->blocks[number];
    if (again(blocks->ops->block(blocks->host, number, &info)) ||
        info.region_pages > BLOCK_REGION_WORDS * 64) {
        forget(blocks, block);
        return NULL;
    }
    if (block->n_pages != info.n_pages ||
        block->region_pages != info.region_pages) {
        uint64_t n = (info.n_pages + info.region_pages - 1) /
                     info.region_pages;

        forget(blocks, block);
        block->regions = calloc(n, blocks->element);
        if (!block->regions) {
            return NULL;
        }
        block->n_regions = n;
        block->n_pages = info.n_pages;
        block->region_pages = info.region_pages;
        block->page_size = info.page_size;
    }
    return block;
}

PolicyBlock *blocks_get(const PolicyBlocks *blocks, uint32_t number)
{
    return number < blocks->n_blocks && blocks->blocks[number].n_pages ?
           &blocks->blocks[number] : NULL;
}

uint64_t block_pages_in(const PolicyBlock *block, uint64_t region)
{
    uint64_t left = block->n_pages - region * block->region_pages;

    return left < block->region_pages ? left : block->region_pages;
}

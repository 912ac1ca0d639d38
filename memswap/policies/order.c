/*
 * The order in which regions go: a clock with generations
 *
 * A trial costs whoever uses the region a minor fault for each page that is
 * touched again.  So each region has a number of rounds for which the hand
 * passes it by: none after a trial that found most of it cold, about twice as
 * many as before after one that gained little.  Hot regions are tried rarely,
 * cold ones come first.  (As Linux's multi-gen LRU; the generation here is how
 * many rounds are left.)
 *
 * What a sequence of faults leaves behind is the first to go, if it comes by
 * too rarely for memory to hold that until then.
 *
 * An age takes a byte a region, of memory that is zero until it is used: rounds
 * left to pass in the lower half, how many the last time in the upper.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <stdbool.h>
#include <string.h>

#include "order.h"

/* Rounds that a region is passed by, at most. */
#define ROUNDS_MAX 15
/* A trial that gains less than this part of its pages gained little. */
#define LITTLE 8
/* Evicted so long ago, in % of memory, is too far to wait for. */
#define FAR 50

#define AGE(left, rounds) ((rounds) << 4 | (left))
#define AGE_LEFT(age) ((age) & 0xf)
#define AGE_ROUNDS(age) ((age) >> 4)

/* Is the region passed by, this time? */
static bool pass(PolicyBlock *block, uint64_t region)
{
    uint8_t *age = (uint8_t *)block->regions + region;

    if (!AGE_LEFT(*age)) {
        return false;
    }
    --*age;
    return true;
}

/* Learn about the regions from the hand on.  False at the block's end. */
static bool next_chunk(Order *order, OrderHand *hand, uint64_t page_size)
{
    PolicyBlock *block = blocks_ask(&order->blocks, hand->block);
    uint64_t n;

    hand->chunk_n = 0;
    if (!block || hand->region >= block->n_regions ||
        (page_size && block->page_size != page_size)) {
        return false;
    }
    n = block->n_regions - hand->region;
    n = n < ORDER_CHUNK ? n : ORDER_CHUNK;
    if (order->ops->regions(order->host, hand->block, hand->region, n,
                            hand->resident)) {
        return false;
    }
    hand->chunk = hand->region;
    hand->chunk_n = n;
    return true;
}

/*
 * Choose up to @n regions, of blocks with such pages if @page_size isn't 0.
 * Returns how many there are after going around twice at most: the second
 * time, none is passed by for its age.
 */
static uint32_t choose(Order *order, OrderHand *hand, uint64_t page_size,
                       uint32_t n, MemswapPolicyRange *ranges)
{
    MemswapPolicyInfo info = { .size = sizeof(info) };
    uint32_t chosen = 0, blocks = 0;

    if (order->ops->info(order->host, &info) || !info.n_blocks) {
        return 0;
    }
    /* what was known of the chunk is old by now */
    hand->chunk_n = 0;
    while (chosen < n && blocks <= 2 * info.n_blocks) {
        if (hand->region - hand->chunk < hand->chunk_n) {
            PolicyBlock *block = &order->blocks.blocks[hand->block];
            uint64_t region = hand->region++;

            if (hand->resident[region - hand->chunk] &&
                (!pass(block, region) || blocks > info.n_blocks)) {
                ranges[chosen++] = (MemswapPolicyRange) {
                    .block = hand->block,
                    .page = region * block->region_pages,
                    .n = 1,
                };
            }
        } else if (!next_chunk(order, hand, page_size)) {
            hand->region = 0;
            hand->chunk_n = 0;
            if (++hand->block >= info.n_blocks) {
                hand->block = 0;
                order->rounds++;
            }
            blocks++;
        }
    }
    return chosen;
}

static void offer(Order *order, uint64_t n, uint64_t page_size)
{
    OrderHand *hand = page_size ? &order->large : &order->any;
    MemswapPolicyRange ranges[ORDER_CHUNK];

    while (n) {
        uint32_t want = n < ORDER_CHUNK ? n : ORDER_CHUNK;
        uint32_t chosen = choose(order, hand, page_size, want, ranges);
        int64_t offered = chosen ? order->ops->offer(order->host, ranges,
                                                     chosen, 0) : 0;

        if (offered <= 0) {
            break;
        }
        order->offered += offered;
        n -= want;
        if (chosen < want) {
            break;
        }
    }
    order->ops->counter(order->host, "rounds", order->rounds);
    order->ops->counter(order->host, "offered", order->offered);
}

/* Of so many pages on trial, so many are gone. */
static void tried(Order *order, const MemswapPolicyEvent *event)
{
    PolicyBlock *block = blocks_get(&order->blocks, event->block);
    uint8_t *age;
    uint32_t rounds;

    /* the host may have put another one in its place */
    if (!block || event->page >= block->n_pages) {
        return;
    }
    age = (uint8_t *)block->regions + event->page / block->region_pages;
    rounds = AGE_ROUNDS(*age);
    if (event->tried.gone * LITTLE < event->tried.pages) {
        rounds = 2 * rounds + 1;
        rounds = rounds < ROUNDS_MAX ? rounds : ROUNDS_MAX;
    } else {
        rounds /= 2;
    }
    *age = AGE(rounds, rounds);
}

void order_event(Order *order, const MemswapPolicyEvent *event)
{
    switch (event->kind) {
    case MEMSWAP_POLICY_CHOOSE:
        offer(order, event->n, event->page_size);
        break;
    case MEMSWAP_POLICY_TRIED:
        tried(order, event);
        break;
    default:
        break;
    }
}

int order_start(Order *order, const MemswapPolicyHostOps *ops,
                MemswapPolicyHost *host)
{
    memset(order, 0, sizeof(*order));
    order->ops = ops;
    order->host = host;
    order->blocks = (PolicyBlocks) {
        .ops = ops,
        .host = host,
        .element = 1,
    };
    return ops->behind(host, FAR);
}

void order_stop(Order *order)
{
    blocks_free(&order->blocks);
}

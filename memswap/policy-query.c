/*
 * What policies may know: requests that change nothing
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>

#include "policy-internal.h"

/* Words of pages that are looked at for one token. */
#define PAGES_PER_TOKEN 512
/* Walks through the guest's page tables, the same. */
#define ADDRESSES_PER_TOKEN 16

int64_t memswap_policy_op_now(MemswapPolicyHost *host)
{
    int ret = memswap_request_begin(host, MEMSWAP_REQUEST_ANY, 1);

    return ret ?: memswap_request_end(host, memswap_now(host->engine));
}

int memswap_policy_op_info(MemswapPolicyHost *host, MemswapPolicyInfo *info)
{
    MemswapEngine *engine = host->engine;
    MemswapPolicyInfo all = { 0 };
    int ret = memswap_request_begin(host, MEMSWAP_REQUEST_ANY, 1);

    if (ret) {
        return ret;
    }
    if (!info || info->size < sizeof(info->size)) {
        return memswap_request_end(host, -EINVAL);
    }
    all = (MemswapPolicyInfo) {
        .size = MIN(info->size, sizeof(all)),
        .n_blocks = atomic_load(&engine->n_slots),
        .limit = atomic_load(&engine->limit),
        .resident = atomic_load(&engine->charged),
        .reserve_low = atomic_load(&engine->reserve_low),
        .reserve_high = atomic_load(&engine->reserve_high),
        .evictions = atomic_load(&engine->evictions),
        .refaults = atomic_load(&engine->refaults),
        .stall_ns = atomic_load(&engine->stall_ns),
        .refault_ns = atomic_load(&engine->refault_ns),
    };
    /* one built with an older header has room for less */
    memcpy(info, &all, all.size);
    return memswap_request_end(host, 0);
}

int memswap_policy_op_block(MemswapPolicyHost *host, uint32_t number,
                            MemswapPolicyBlock *info)
{
    MemswapPolicyBlock all = { 0 };
    MemswapBlockStats stats;
    MemswapBlock *block;
    int ret = memswap_request_begin(host, MEMSWAP_REQUEST_ANY, 1);

    if (ret) {
        return ret;
    }
    if (!info || info->size < sizeof(info->size)) {
        return memswap_request_end(host, -EINVAL);
    }
    ret = memswap_request_pages(host, number, 0, 0, &block);
    if (!ret) {
        memswap_block_get_stats(block, &stats);
        all = (MemswapPolicyBlock) {
            .size = MIN(info->size, sizeof(all)),
            .region_pages = block->region_pages,
            .page_size = block->page_size,
            .n_pages = block->n_pages,
            .resident = stats.resident,
        };
        memswap_block_unref(block);
        memcpy(info, &all, all.size);
    }
    return memswap_request_end(host, ret);
}

int memswap_policy_op_regions(MemswapPolicyHost *host, uint32_t number,
                              uint64_t first, uint64_t n, uint32_t *resident)
{
    MemswapBlock *block;
    int ret = memswap_request_begin(host, MEMSWAP_REQUEST_ANY,
                                    1 + n / PAGES_PER_TOKEN);

    if (ret) {
        return ret;
    }
    ret = resident || !n ?
          memswap_request_pages(host, number, 0, 0, &block) : -EINVAL;
    if (ret) {
        return memswap_request_end(host, ret);
    }
    if (first > block->n_regions || n > block->n_regions - first) {
        ret = -ERANGE;
    }
    for (uint64_t i = 0; i < n && !ret; i++) {
        resident[i] = atomic_load(&block->regions[first + i].resident);
    }
    memswap_block_unref(block);
    return memswap_request_end(host, ret);
}

static bool in_huge_region(MemswapBlock *block, uint64_t page)
{
    return memswap_region_large(memswap_page_region(block, page));
}

static uint32_t page_states(uint64_t word)
{
    uint32_t pinned = memswap_word_pins(word) ? MEMSWAP_POLICY_IS_PINNED : 0;

    switch (memswap_word_told_state(word)) {
    case MEMSWAP_ABSENT:
        return MEMSWAP_POLICY_IS_ABSENT;
    case MEMSWAP_TRIAL:
        return MEMSWAP_POLICY_IS_TRIAL;
    case MEMSWAP_STORED:
        return MEMSWAP_POLICY_IS_STORED;
    case MEMSWAP_ZERO:
        return MEMSWAP_POLICY_IS_ZERO;
    case MEMSWAP_RESIDENT:
    case MEMSWAP_FILLING:
        return MEMSWAP_POLICY_IS_RESIDENT | pinned;
    default:
        return pinned;
    }
}

int memswap_policy_op_pages(MemswapPolicyHost *host, uint32_t number,
                            uint64_t first, uint64_t n, uint32_t states,
                            uint64_t *bitmap)
{
    MemswapBlock *block;
    int ret = memswap_request_begin(host, MEMSWAP_REQUEST_ANY,
                                    1 + n / PAGES_PER_TOKEN);

    if (ret) {
        return ret;
    }
    if (!bitmap && n) {
        ret = -EINVAL;
    } else if (n > MEMSWAP_POLICY_MAX_PAGES) {
        ret = -ERANGE;
    } else {
        ret = memswap_request_pages(host, number, first, n, &block);
    }
    if (ret) {
        return memswap_request_end(host, ret);
    }
    memset(bitmap, 0, (n + 63) / 64 * sizeof(*bitmap));
    for (uint64_t i = 0; i < n; i++) {
        uint64_t word = memswap_word_load(&block->words[first + i]);

        if ((page_states(word) & states) ||
            ((states & MEMSWAP_POLICY_IS_HUGE) &&
             in_huge_region(block, first + i))) {
            bitmap[i / 64] |= UINT64_C(1) << i % 64;
        }
    }
    memswap_block_unref(block);
    return memswap_request_end(host, 0);
}

/* The page of a guest's address; 0 or a negative errno. */
static int find_page(MemswapEngine *engine, uint64_t root, uint64_t address,
                     uint32_t *number, uint64_t *page)
{
    const void *at = NULL;
    MemswapBlock *block;
    int ret;

    if (!engine->host.translate) {
        return -EOPNOTSUPP;
    }
    ret = engine->host.translate(engine->opaque, root, address, &at);
    if (ret) {
        return ret;
    }
    block = memswap_block_find(engine, at);
    if (!block) {
        return -EFAULT;
    }
    *number = block->slot;
    *page = ((const uint8_t *)at - block->host) >> block->page_shift;
    memswap_block_unref(block);
    return 0;
}

int memswap_policy_op_translate(MemswapPolicyHost *host, uint64_t root,
                                uint64_t address, uint32_t *number,
                                uint64_t *page)
{
    int ret = memswap_request_begin(host, MEMSWAP_REQUEST_ANY, 1);

    if (ret) {
        return ret;
    }
    ret = number && page ?
          find_page(host->engine, root, address, number, page) : -EINVAL;
    return memswap_request_end(host, ret);
}

int64_t memswap_policy_op_translate_many(MemswapPolicyHost *host,
                                         uint64_t root, uint64_t address,
                                         int64_t stride, uint32_t n,
                                         MemswapPolicyRange *pages)
{
    int64_t known = 0;
    int ret = memswap_request_begin(host, MEMSWAP_REQUEST_ANY,
                                    1 + MIN(n, MEMSWAP_POLICY_MAX_RANGES) /
                                    ADDRESSES_PER_TOKEN);

    if (ret) {
        return ret;
    }
    if (n > MEMSWAP_POLICY_MAX_RANGES) {
        return memswap_request_end(host, -ERANGE);
    }
    if (n && !pages) {
        return memswap_request_end(host, -EINVAL);
    }
    for (uint32_t i = 0; i < n; i++) {
        pages[i] = (MemswapPolicyRange) { 0 };
        ret = find_page(host->engine, root, address, &pages[i].block,
                        &pages[i].page);
        if (ret == -EINVAL || ret == -EOPNOTSUPP) {
            return memswap_request_end(host, ret);
        }
        pages[i].n = !ret;
        known += !ret;
        address += stride;
    }
    return memswap_request_end(host, known);
}

int memswap_policy_op_reverse(MemswapPolicyHost *host, uint32_t number,
                              uint64_t page, uint64_t *root, uint64_t *address)
{
    MemswapEngine *engine = host->engine;
    const void *at = NULL;
    MemswapBlock *block;
    int ret = memswap_request_begin(host, MEMSWAP_REQUEST_ANY, 1);

    if (ret) {
        return ret;
    }
    if (!root || !address) {
        return memswap_request_end(host, -EINVAL);
    }
    ret = memswap_request_pages(host, number, page, 1, &block);
    if (!ret) {
        at = memswap_page_host(block, page);
        /* it may take its time, and the block is not to wait for it */
        memswap_block_unref(block);
        ret = engine->host.reverse ?
              engine->host.reverse(engine->opaque, at, root, address) :
              -EOPNOTSUPP;
    }
    return memswap_request_end(host, ret);
}

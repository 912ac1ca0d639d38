/*
 * The order in which regions go, for policies that choose by age
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_ORDER_H
#define MEMSWAP_ORDER_H

#include "blocks.h"

/* Regions asked about, and offered, at once. */
#define ORDER_CHUNK 256

/* What a policy with such an order has among its events, and its quiet. */
#define ORDER_EVENTS (MEMSWAP_POLICY_EVENT_BIT(CHOOSE) | \
                      MEMSWAP_POLICY_EVENT_BIT(TRIED))
#define ORDER_QUIET MEMSWAP_POLICY_EVENT_BIT(TRIED)

/* Goes around all regions with something in memory. */
typedef struct OrderHand {
    uint32_t block;
    uint64_t region;
    /* From the chunk's first on, so many are known. */
    uint64_t chunk, chunk_n;
    uint32_t resident[ORDER_CHUNK];
} OrderHand;

typedef struct Order {
    const MemswapPolicyHostOps *ops;
    MemswapPolicyHost *host;
    PolicyBlocks blocks;        /* an element is an age: see order.c */
    OrderHand any, large;       /* large: when hugepages are lacking */
    uint64_t rounds, offered;   /* published */
} Order;

/* 0 or a negative errno. */
int order_start(Order *order, const MemswapPolicyHostOps *ops,
                MemswapPolicyHost *host);
/* For each event among ORDER_EVENTS; others are ignored. */
void order_event(Order *order, const MemswapPolicyEvent *event);
void order_stop(Order *order);

#endif /* MEMSWAP_ORDER_H */

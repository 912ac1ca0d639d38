/*
 * Offers: which regions are to be tried next
 *
 * Here policy and mechanism meet.  A policy offers regions in its order, ahead
 * of need (MemswapPolicyHostOps.offer); whoever reclaims takes them from here,
 * puts them on trial, and takes out what stays cold.  So a policy is asked
 * once for dozens of regions, by any number of evictors, and nobody waits for
 * it: with nothing on offer regions go in the order of addresses.
 *
 * A queue under reclaim_lock, which all who reclaim hold anyway when they need
 * a region; nobody holds it across a system call.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_OFFERS_H
#define MEMSWAP_OFFERS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Offers at once; a power of two, and as many as may be on trial. */
#define MEMSWAP_OFFERS_MAX 1024u

typedef struct MemswapOffer {
    uint64_t region;
    uint32_t slot;              /* of its block, a while ago */
    bool hugetlb;
} MemswapOffer;

/* Goes around in the order of addresses. */
typedef struct MemswapHand {
    unsigned int slot;
    uint64_t region;
} MemswapHand;

/* Bits of MemswapOffers.asked. */
#define MEMSWAP_ASKED_ANY     1u
#define MEMSWAP_ASKED_HUGETLB 2u    /* only in blocks of hugepages */

typedef struct MemswapOffers {
    /* Under reclaim_lock. */
    MemswapOffer ring[MEMSWAP_OFFERS_MAX];
    uint32_t first, n;
    MemswapHand hand;           /* when there are none */
    MemswapHand hugetlb_hand;   /* the same, of blocks of hugepages */

    /* There is a policy that makes some; written under policies.lock. */
    _Atomic bool open;
    /* It is to make more: set by who takes one, cleared by its thread. */
    _Atomic uint32_t asked;
    _Atomic uint64_t by_address;    /* counts regions that nobody offered */
} MemswapOffers;

#endif /* MEMSWAP_OFFERS_H */

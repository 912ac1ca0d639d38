/*
 * A ring of events: many producers, one consumer, nobody waits
 *
 * A producer may be a thread in the middle of a fault, in a signal handler, so
 * it takes no lock and no memory; when the ring is full it counts an event as
 * dropped and goes on.  A producer that is interrupted halfway keeps the
 * consumer from what came after, not other producers from adding to it.
 *
 * Each slot has a number: as it is to be used next when it is free, one more
 * when it holds an event.  (Dmitry Vyukov's bounded queue.)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_POLICY_RING_H
#define MEMSWAP_POLICY_RING_H

#include <stdatomic.h>
#include <stdbool.h>

#include "memswap/policy.h"

/* Slots; a power of two. */
#define MEMSWAP_RING_SLOTS 2048u

typedef struct MemswapRingSlot {
    _Atomic uint32_t number;
    MemswapPolicyEvent event;
} MemswapRingSlot;

typedef struct MemswapRing {
    _Atomic uint32_t tail;      /* producers'; others may look */
    _Atomic uint64_t dropped;
    _Atomic uint32_t head;      /* the consumer's; others may look */
    MemswapRingSlot slots[MEMSWAP_RING_SLOTS];
} MemswapRing;

void memswap_ring_init(MemswapRing *ring);

/**
 * memswap_ring_put: add an event; false if it was dropped
 *
 * Any thread.  What the caller did before is seen by whoever gets the event.
 */
bool memswap_ring_put(MemswapRing *ring, const MemswapPolicyEvent *event);

/**
 * memswap_ring_get: take the oldest event; false if there is none
 *
 * One thread at a time.
 */
bool memswap_ring_get(MemswapRing *ring, MemswapPolicyEvent *event);

/**
 * memswap_ring_used: how many slots are, about
 *
 * Any thread.
 */
uint32_t memswap_ring_used(MemswapRing *ring);

/**
 * memswap_ring_half_full: is it time that events are taken out?
 *
 * Any thread.
 */
bool memswap_ring_half_full(MemswapRing *ring);

/**
 * memswap_ring_empty: would memswap_ring_get() find none?
 *
 * The consumer's, or a momentary answer for others.
 */
bool memswap_ring_empty(MemswapRing *ring);

#endif /* MEMSWAP_POLICY_RING_H */

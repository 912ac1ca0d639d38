/*
 * A ring of events
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "policy-ring.h"

static MemswapRingSlot *slot_at(MemswapRing *ring, uint32_t number)
{
    return &ring->slots[number % MEMSWAP_RING_SLOTS];
}

void memswap_ring_init(MemswapRing *ring)
{
    for (uint32_t i = 0; i < MEMSWAP_RING_SLOTS; i++) {
        atomic_store(&ring->slots[i].number, i);
    }
}

bool memswap_ring_put(MemswapRing *ring, const MemswapPolicyEvent *event)
{
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);

    while (true) {
        MemswapRingSlot *slot = slot_at(ring, tail);
        int32_t ahead = atomic_load_explicit(&slot->number,
                                             memory_order_acquire) - tail;

        if (ahead < 0) {
            /* still what was put here a round ago */
            atomic_fetch_add_explicit(&ring->dropped, 1,
                                      memory_order_relaxed);
            return false;
        }
        if (ahead > 0) {
            tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
        } else if (atomic_compare_exchange_weak_explicit(
                       &ring->tail, &tail, tail + 1, memory_order_relaxed,
                       memory_order_relaxed)) {
            slot->event = *event;
            /* seq_cst: the producer looks for a sleeper next */
            atomic_store(&slot->number, tail + 1);
            return true;
        }
    }
}

uint32_t memswap_ring_used(MemswapRing *ring)
{
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);

    /* head may have been passed since */
    return (int32_t)(tail - head) > 0 ? tail - head : 0;
}

bool memswap_ring_half_full(MemswapRing *ring)
{
    return memswap_ring_used(ring) >= MEMSWAP_RING_SLOTS / 2;
}

bool memswap_ring_empty(MemswapRing *ring)
{
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);

    return atomic_load(&slot_at(ring, head)->number) != head + 1;
}

bool memswap_ring_get(MemswapRing *ring, MemswapPolicyEvent *event)
{
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    MemswapRingSlot *slot = slot_at(ring, head);

    if (memswap_ring_empty(ring)) {
        return false;
    }
    *event = slot->event;
    atomic_store_explicit(&slot->number, head + MEMSWAP_RING_SLOTS,
                          memory_order_release);
    atomic_store_explicit(&ring->head, head + 1, memory_order_relaxed);
    return true;
}

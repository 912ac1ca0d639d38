/*
 * Telling policies what happens
 *
 * From whichever thread met the occasion, in the middle of a fault maybe: no
 * lock, no memory, no waiting.  The one system call is the wake-up of a policy
 * that sleeps, for the first event that it gets.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "futex.h"
#include "policy-internal.h"

G_STATIC_ASSERT((int)MEMSWAP_POLICY_WAITED == (int)MEMSWAP_FAULT_WAITED);
G_STATIC_ASSERT(MEMSWAP_MAX_POLICIES <=
                MEMSWAP_AHEAD_MASK >> MEMSWAP_AHEAD_SHIFT);

void memswap_policy_tell(MemswapPolicyHost *host,
                         const MemswapPolicyEvent *event)
{
    if (!memswap_policy_hears(host, event->kind)) {
        return;
    }
    memswap_ring_put(&host->ring, event);
    if (atomic_load(&host->gathers) && memswap_ring_half_full(&host->ring) &&
        atomic_exchange(&host->gathers, false)) {
        /* enough have gathered; the first to see that says so */
        memswap_policy_poke(host);
    }
    if ((host->quiet >> event->kind & 1) &&
        !memswap_ring_half_full(&host->ring)) {
        return;
    }
    if (atomic_load(&host->asleep) && atomic_exchange(&host->asleep, false)) {
        memswap_policy_poke(host);
    }
}

/*
 * The policy in a slot, which stays there until slot_put(); NULL if there is
 * none.
 */
static MemswapPolicyHost *slot_get(MemswapPolicies *policies, unsigned int i)
{
    MemswapPolicyHost *host;

    if (!atomic_load(&policies->slots[i])) {
        return NULL;
    }
    atomic_fetch_add(&policies->users[i], 1);
    host = atomic_load(&policies->slots[i]);
    if (!host) {
        atomic_fetch_sub(&policies->users[i], 1);
    }
    return host;
}

static void slot_put(MemswapPolicies *policies, unsigned int i)
{
    atomic_fetch_sub(&policies->users[i], 1);
}

static void tell_all(MemswapEngine *engine, const MemswapPolicyEvent *event)
{
    MemswapPolicies *policies = &engine->policies;

    for (unsigned int i = 0; i < MEMSWAP_POLICY_SLOTS; i++) {
        MemswapPolicyHost *host = slot_get(policies, i);

        if (host) {
            memswap_policy_tell(host, event);
            slot_put(policies, i);
        }
    }
}

static MemswapPolicyEvent new_event(MemswapEngine *engine,
                                    MemswapPolicyEventKind kind,
                                    const MemswapBlock *block, uint64_t page,
                                    uint64_t n)
{
    return (MemswapPolicyEvent) {
        .kind = kind,
        .time = memswap_now(engine),
        .block = block ? block->slot : 0,
        .page = page,
        .n = n,
    };
}

void memswap_policy_emit(MemswapEngine *engine, MemswapPolicyEventKind kind,
                         const MemswapBlock *block, uint64_t page,
                         uint64_t n)
{
    MemswapPolicyEvent event = new_event(engine, kind, block, page, n);

    tell_all(engine, &event);
}

void memswap_policy_emit_fault(MemswapBlock *block, const void *host,
                               pid_t tid, const bool *write,
                               MemswapFaultKind kind)
{
    MemswapEngine *engine = block->engine;
    uint64_t page = ((const uint8_t *)host - block->host) >>
                    block->page_shift;
    MemswapPolicyEvent event = new_event(engine, MEMSWAP_POLICY_FAULT, block,
                                         page, 1);
    MemswapFaultContext context = { 0 };

    if (engine->host.fault_context && tid != MEMSWAP_TID_OTHER &&
        memswap_policies_want_context(engine)) {
        engine->host.fault_context(engine->opaque, tid, host, &context);
    }
    event.known = context.known;
    event.fault = (MemswapPolicyFault) {
        .kind = kind,
        .write = write && *write,
        .vcpu = context.vcpu,
        .thread = MAX(tid, 0),
        .pc = context.pc,
        .root = context.root,
        .address = context.address,
    };
    if (write) {
        event.known |= MEMSWAP_POLICY_KNOWN_WRITE;
    }
    if (tid > 0) {
        event.known |= MEMSWAP_POLICY_KNOWN_THREAD;
    }
    tell_all(engine, &event);
}

void memswap_policy_emit_stall(MemswapBlock *block, uint64_t page,
                               uint64_t waited)
{
    MemswapPolicyEvent event = new_event(block->engine,
                                         MEMSWAP_POLICY_STALL_END, block,
                                         page, 1);

    event.stall_ns = waited;
    tell_all(block->engine, &event);
}

void memswap_policy_fill_room(MemswapEngine *engine, MemswapPolicyRoom *room)
{
    *room = (MemswapPolicyRoom) {
        .limit = atomic_load(&engine->limit),
        .resident = atomic_load(&engine->charged),
        .wanted = memswap_excess(engine, atomic_load(&engine->reserve_high)),
        .waiting = atomic_load(&engine->n_stalled),
    };
}

void memswap_policy_emit_limit(MemswapEngine *engine)
{
    MemswapPolicyEvent event = new_event(engine, MEMSWAP_POLICY_LIMIT, NULL,
                                         0, 0);

    memswap_policy_fill_room(engine, &event.room);
    tell_all(engine, &event);
}

void memswap_policy_watched(MemswapBlock *block, uint64_t page,
                            unsigned int ahead, bool hit)
{
    MemswapEngine *engine = block->engine;
    MemswapPolicies *policies = &engine->policies;
    MemswapPolicyEvent event = new_event(
        engine, hit ? MEMSWAP_POLICY_HIT : MEMSWAP_POLICY_WASTED, block,
        page, 1);
    MemswapPolicyHost *host = slot_get(policies, ahead - 1);

    if (host) {
        memswap_count(*(hit ? &host->n_hits : &host->n_wasted), 1);
        memswap_count(*(hit ? &host->governor.hits :
                        &host->governor.wasted), 1);
        memswap_policy_tell(host, &event);
        slot_put(policies, ahead - 1);
    }
}

void memswap_policy_look(MemswapBlock *block, uint64_t number,
                         MemswapPolicyHost *host)
{
    uint64_t first = memswap_region_first(block, number);
    uint64_t n = memswap_region_end(block, number) - first;
    MemswapPolicyEvent event = new_event(block->engine, MEMSWAP_POLICY_TRIAL,
                                         block, first, n);

    for (uint64_t i = 0; i < n; i++) {
        uint64_t word = memswap_word_load(&block->words[first + i]);

        switch (memswap_word_told_state(word)) {
        case MEMSWAP_TRIAL:
            event.trial.n_cold++;
            break;
        case MEMSWAP_RESIDENT:
        case MEMSWAP_FILLING:
            event.trial.touched[i / 64] |= UINT64_C(1) << i % 64;
            event.trial.n_touched++;
            break;
        default:
            break;
        }
    }
    if (host) {
        memswap_policy_tell(host, &event);
    } else {
        tell_all(block->engine, &event);
    }
}

void memswap_policy_looked(MemswapBlock *block, uint64_t number)
{
    memswap_policy_look(block, number, NULL);
}

void memswap_policy_emit_tried(MemswapBlock *block, uint64_t number,
                               uint64_t tried, uint64_t gone)
{
    uint64_t first = memswap_region_first(block, number);
    MemswapPolicyEvent event = new_event(
        block->engine, MEMSWAP_POLICY_TRIED, block, first,
        memswap_region_end(block, number) - first);

    event.tried = (MemswapPolicyTried) { .pages = tried, .gone = gone };
    tell_all(block->engine, &event);
}

void memswap_policy_poke_reclaimer(MemswapEngine *engine)
{
    MemswapPolicies *policies = &engine->policies;

    for (unsigned int i = 0; i < MEMSWAP_POLICY_SLOTS; i++) {
        MemswapPolicyHost *host = slot_get(policies, i);

        if (host) {
            if (host->ops->roles & MEMSWAP_POLICY_RECLAIMER) {
                memswap_policy_poke(host);
            }
            slot_put(policies, i);
        }
    }
}

void memswap_policy_ask_room(MemswapEngine *engine)
{
    MemswapPolicies *policies = &engine->policies;

    if (atomic_load(&policies->armed) &&
        atomic_exchange(&policies->armed, false)) {
        atomic_fetch_sub(&engine->sleepers, 1);
        memswap_policy_poke_reclaimer(engine);
    }
}

bool memswap_policies_want_context(MemswapEngine *engine)
{
    return memswap_policy_wants(engine, MEMSWAP_POLICY_WITH_CONTEXT);
}

void memswap_guest_reset(MemswapEngine *engine)
{
    memswap_policy_emit(engine, MEMSWAP_POLICY_RESET, NULL, 0, 0);
}

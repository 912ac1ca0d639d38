/*
 * Faults: from where they are met to memswap_fill()
 *
 * Either the userfaultfd reports them, to a thread that must never wait for
 * one of them; or they are met in a signal handler of the thread that touched
 * the page, which can wait as long as it has to.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <linux/userfaultfd.h>
#include <unistd.h>

#include "internal.h"

/* Events read at once. */
#define BATCH 32

static void note_latency(MemswapEngine *engine, MemswapFaultKind kind,
                         int64_t ns)
{
    unsigned int bucket = ns > 0 ? 63 - __builtin_clzll(ns) : 0;

    memswap_count(engine->latency[MIN(bucket, MEMSWAP_LATENCY_BUCKETS - 1)],
                  1);
    if (kind == MEMSWAP_FAULT_STORED || kind == MEMSWAP_FAULT_SAME) {
        memswap_count(engine->refault_ns, MAX(ns, 0));
    }
}

/* Fill; where nothing is free, make room or pass the limit, as may be. */
static MemswapOutcome fill(MemswapBlock *block, uint64_t page, pid_t tid,
                           bool *force, MemswapFaultKind *kind)
{
    MemswapEngine *engine = block->engine;
    MemswapOutcome outcome = memswap_fill(block, page, 0, kind);

    *force = false;
    if (outcome != MEMSWAP_NO_ROOM) {
        return outcome;
    }
    *force = memswap_may_overshoot(engine, tid);
    if (!engine->n_evictors ||
        (engine->inline_faults && memswap_makes_own_room(engine))) {
        memswap_reclaim_direct(engine, block->page_size);
    }
    return memswap_fill(block, page, *force ? MEMSWAP_FILL_FORCE : 0, kind);
}

/* Another process came for a page that had left: was that too soon? */
static void note_missed(MemswapBlock *block, uint64_t page,
                        MemswapFaultKind kind)
{
    if (kind == MEMSWAP_FAULT_STORED || kind == MEMSWAP_FAULT_SAME) {
        memswap_age_missed(block, memswap_page_region(block, page));
    }
}

void memswap_fault_resolve(MemswapBlock *block, uint64_t page, pid_t tid,
                           bool write, int64_t since)
{
    MemswapEngine *engine = block->engine;
    bool other = tid == MEMSWAP_TID_OTHER;
    MemswapFaultKind kind;
    bool force;
    MemswapOutcome outcome = fill(block, page, tid, &force, &kind);

    memswap_touched(block, page, since);
    if (outcome == MEMSWAP_NO_ROOM) {
        memswap_stall(block, page, since, force, other);
    } else if (outcome == MEMSWAP_DONE) {
        if (other) {
            note_missed(block, page, kind);
            memswap_remotes_wake(block, page);
        }
        note_latency(engine, kind, memswap_now(engine) - since);
        memswap_readahead(block, page, kind);
    } else if (outcome == MEMSWAP_BUSY) {
        memswap_count(engine->faults[MEMSWAP_FAULT_WAITED], 1);
    }
    memswap_trace(engine, MEMSWAP_TRACE_FAULT, block, page, kind);
    if (memswap_policy_wants(engine, MEMSWAP_POLICY_EVENT_BIT(FAULT))) {
        memswap_policy_emit_fault(block, memswap_page_host(block, page), tid,
                                  &write, kind);
    }
}

bool memswap_fault_arrived(MemswapEngine *engine, void *host, pid_t tid,
                           bool write)
{
    MemswapSlow fault = {
        .block = memswap_block_find(engine, host),
        .tid = tid,
        .write = write,
        .since = memswap_now(engine),
    };
    bool slow;

    if (!fault.block) {
        /* On its way out: unregistering wakes who waits. */
        return false;
    }
    fault.page = ((uint8_t *)host - fault.block->host) >>
                 fault.block->page_shift;
    slow = memswap_fault_slow(fault.block, fault.page);
    if (slow) {
        memswap_slow_add(&fault);
    } else {
        memswap_fault_resolve(fault.block, fault.page, fault.tid,
                              fault.write, fault.since);
    }
    memswap_block_unref(fault.block);
    return slow;
}

static bool resolve(MemswapEngine *engine, const struct uffd_msg *msg)
{
    return memswap_fault_arrived(
        engine, (void *)(uintptr_t)msg->arg.pagefault.address,
        msg->arg.pagefault.feat.ptid,
        msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE);
}

/* How long to wait before a fault that must not be is looked at again. */
#define BUG_WAIT_US 100000

/* The access goes on when this returns, or faults again. */
static void resolve_here(MemswapBlock *block, const void *host)
{
    MemswapEngine *engine = block->engine;
    uint64_t page = ((const uint8_t *)host - block->host) >>
                    block->page_shift;
    MemswapWord *word = &block->words[page];
    int64_t since = memswap_now(engine);
    MemswapFaultKind kind;
    bool force;
    MemswapOutcome outcome = fill(block, page, 0, &force, &kind);
    bool held_back = outcome == MEMSWAP_NO_ROOM;

    memswap_touched(block, page, since);
    if (held_back) {
        outcome = memswap_stall_here(block, page, force, &kind);
    }
    switch (outcome) {
    case MEMSWAP_DONE:
        /* a stall is counted as such */
        note_latency(engine, held_back ? MEMSWAP_FAULT_WAITED : kind,
                     memswap_now(engine) - since);
        memswap_readahead(block, page, kind);
        break;
    case MEMSWAP_BUSY:
        memswap_count(engine->faults[MEMSWAP_FAULT_WAITED], 1);
        memswap_page_wait(word);
        break;
    case MEMSWAP_LOST:
        if (memswap_word_state(memswap_word_load(word)) != MEMSWAP_POISONED) {
            /* MEMSWAP_EVENT_BUG was sent: the VM stops if it can. */
            g_usleep(BUG_WAIT_US);
        }
        memswap_page_wait_lost(word);
        break;
    default:
        break;
    }
    memswap_trace(engine, MEMSWAP_TRACE_FAULT, block, page, kind);
    if (memswap_policy_wants(engine, MEMSWAP_POLICY_EVENT_BIT(FAULT))) {
        memswap_policy_emit_fault(block, host, 0, NULL, kind);
    }
}

bool memswap_engine_fault(MemswapEngine *engine, const void *host)
{
    MemswapBlock *block = memswap_block_find(engine, host);
    int saved_errno = errno;

    if (!block) {
        return false;
    }
    resolve_here(block, host);
    memswap_block_unref(block);
    errno = saved_errno;
    return true;
}

unsigned int memswap_events_handle(MemswapEngine *engine, MemswapHelper *self)
{
    struct uffd_msg msgs[BATCH];
    unsigned int n = 0;
    bool slow = false;

    while (true) {
        ssize_t got = read(engine->uffd, msgs, sizeof(msgs));

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            break;
        }
        for (size_t i = 0; i < got / sizeof(msgs[0]); i++) {
            if (msgs[i].event == UFFD_EVENT_PAGEFAULT) {
                slow |= resolve(engine, &msgs[i]);
                n++;
            }
        }
        if (slow) {
            memswap_slow_run(engine, self);
            slow = false;
        }
    }
    if (!engine->n_evictors) {
        memswap_room_made(engine);
    }
    return n;
}

unsigned int memswap_engine_handle(MemswapEngine *engine)
{
    memswap_helpers_settle_in(engine);
    return memswap_events_handle(engine, NULL);
}

/*
 * Events: what the userfaultfd has to say
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <linux/userfaultfd.h>
#include <unistd.h>

#include "internal.h"

/* Events read at once. */
#define BATCH 32

static void note_latency(MemswapEngine *engine, int64_t ns)
{
    unsigned int bucket = ns > 0 ? 63 - __builtin_clzll(ns) : 0;

    memswap_count(engine->latency[MIN(bucket, MEMSWAP_LATENCY_BUCKETS - 1)],
                  1);
}

/* Nothing is free: pass the limit, make room, or leave it to the evictors. */
static MemswapOutcome resolve_without_room(MemswapBlock *block, uint64_t page,
                                           pid_t tid, int64_t since,
                                           MemswapFaultKind *kind)
{
    MemswapEngine *engine = block->engine;
    MemswapOutcome outcome;
    bool force;

    if (!engine->n_evictors) {
        memswap_reclaim_direct(engine, block->page_size);
    }
    force = memswap_may_overshoot(engine, tid);
    outcome = memswap_fill(block, page, force ? MEMSWAP_FILL_FORCE : 0, kind);
    if (outcome == MEMSWAP_NO_ROOM) {
        memswap_stall(block, page, since, force);
    }
    return outcome;
}

static void resolve(MemswapEngine *engine, const struct uffd_msg *msg)
{
    void *host = (void *)(uintptr_t)msg->arg.pagefault.address;
    pid_t tid = msg->arg.pagefault.feat.ptid;
    int64_t since = memswap_now(engine);
    MemswapBlock *block = memswap_block_find(engine, host);
    MemswapFaultKind kind;
    MemswapOutcome outcome;
    uint64_t page;

    if (!block) {
        /* On its way out: unregistering wakes who waits. */
        return;
    }
    page = ((uint8_t *)host - block->host) >> block->page_shift;
    outcome = memswap_fill(block, page, 0, &kind);
    if (outcome == MEMSWAP_NO_ROOM) {
        outcome = resolve_without_room(block, page, tid, since, &kind);
    }
    if (outcome == MEMSWAP_DONE) {
        note_latency(engine, memswap_now(engine) - since);
    } else if (outcome == MEMSWAP_BUSY) {
        memswap_count(engine->faults[MEMSWAP_FAULT_WAITED], 1);
    }
    memswap_trace(engine, MEMSWAP_TRACE_FAULT, block, page, kind);
    memswap_block_unref(block);
}

unsigned int memswap_engine_handle(MemswapEngine *engine)
{
    struct uffd_msg msgs[BATCH];
    unsigned int n = 0;

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
                resolve(engine, &msgs[i]);
                n++;
            }
        }
    }
    if (!engine->n_evictors) {
        memswap_room_made(engine);
    }
    return n;
}

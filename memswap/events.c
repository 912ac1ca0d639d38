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

static void note_latency(MemswapEngine *engine, int64_t ns)
{
    unsigned int bucket = ns > 0 ? 63 - __builtin_clzll(ns) : 0;

    memswap_count(engine->latency[MIN(bucket, MEMSWAP_LATENCY_BUCKETS - 1)],
                  1);
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

static void resolve(MemswapEngine *engine, const struct uffd_msg *msg)
{
    void *host = (void *)(uintptr_t)msg->arg.pagefault.address;
    pid_t tid = msg->arg.pagefault.feat.ptid;
    int64_t since = memswap_now(engine);
    MemswapBlock *block = memswap_block_find(engine, host);
    MemswapFaultKind kind;
    MemswapOutcome outcome;
    uint64_t page;
    bool force;

    if (!block) {
        /* On its way out: unregistering wakes who waits. */
        return;
    }
    page = ((uint8_t *)host - block->host) >> block->page_shift;
    outcome = fill(block, page, tid, &force, &kind);
    if (outcome == MEMSWAP_NO_ROOM) {
        memswap_stall(block, page, since, force);
    } else if (outcome == MEMSWAP_DONE) {
        note_latency(engine, memswap_now(engine) - since);
        memswap_readahead(block, page, kind);
    } else if (outcome == MEMSWAP_BUSY) {
        memswap_count(engine->faults[MEMSWAP_FAULT_WAITED], 1);
    }
    memswap_trace(engine, MEMSWAP_TRACE_FAULT, block, page, kind);
    memswap_block_unref(block);
}

/* How long to wait before a fault that must not be is looked at again. */
#define BUG_WAIT_US 100000

/* The access goes on when this returns, or faults again. */
static void resolve_here(MemswapBlock *block, uint64_t page)
{
    MemswapEngine *engine = block->engine;
    MemswapWord *word = &block->words[page];
    int64_t since = memswap_now(engine);
    MemswapFaultKind kind;
    bool force;
    MemswapOutcome outcome = fill(block, page, 0, &force, &kind);

    if (outcome == MEMSWAP_NO_ROOM) {
        outcome = memswap_stall_here(block, page, force, &kind);
    }
    switch (outcome) {
    case MEMSWAP_DONE:
        note_latency(engine, memswap_now(engine) - since);
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
}

bool memswap_engine_fault(MemswapEngine *engine, const void *host)
{
    MemswapBlock *block = memswap_block_find(engine, host);
    int saved_errno = errno;

    if (!block) {
        return false;
    }
    resolve_here(block, ((const uint8_t *)host - block->host) >>
                 block->page_shift);
    memswap_block_unref(block);
    errno = saved_errno;
    return true;
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

/*
 * Policy "linear": prefetch along strides
 *
 * In guest-physical addresses, which is what a block's pages are; see streams.c
 * for how a stride is found, and how far to go.
 *
 * Options:
 *   window    pages ahead, at most (default 64)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

#include "again.h"
#include "memswap/policy.h"
#include "streams.h"

/*
 * Faults come every few microseconds while memory is short.  To be woken for
 * each of them would take longer than they do.
 */
#define DELAY_US 200

typedef struct Linear {
    const MemswapPolicyHostOps *ops;
    MemswapPolicyHost *host;
    uint64_t requests;
    Streams streams;
} Linear;

MemswapPolicyEntry memswap_policy_linear;

/* Ask for @n pages after those that were asked for already. */
static void ask(Linear *linear, Stream *stream, uint32_t n)
{
    MemswapPolicyRange ranges[STREAM_WINDOW_MAX];
    MemswapPolicyBlock block = { .size = sizeof(block) };
    uint32_t n_ranges = 0;
    int64_t page = stream->ahead;

    if (linear->ops->block(linear->host, stream->space, &block)) {
        return;
    }
    while (n--) {
        page += stream->stride;
        if (page < 0 || (uint64_t)page >= block.n_pages) {
            break;
        }
        if (n_ranges && stream->stride == 1) {
            ranges[0].n++;
        } else {
            ranges[n_ranges++] = (MemswapPolicyRange) {
                .block = stream->space, .page = page, .n = 1,
            };
        }
        stream->ahead = page;
    }
    if (n_ranges) {
        linear->requests++;
        linear->ops->prefetch(linear->host, ranges, n_ranges,
                              MEMSWAP_POLICY_NORMAL, 0);
        stream->asked_at = again(linear->ops->now(linear->host));
        linear->ops->counter(linear->host, "requests", linear->requests);
    }
}

static void fault(Linear *linear, const MemswapPolicyEvent *what)
{
    uint32_t n;
    Stream *stream = streams_touch(&linear->streams, what->block, what->page,
                                   stream_fetched(what), &n);

    if (stream) {
        ask(linear, stream, n);
    }
}

static void wasted(Linear *linear, uint32_t block, int64_t page)
{
    Stream *stream = streams_find(&linear->streams, block, page);

    if (stream) {
        stream_wasted(stream);
    }
}

static void event(void *self, const MemswapPolicyEvent *what)
{
    Linear *linear = self;

    switch (what->kind) {
    case MEMSWAP_POLICY_FAULT:
        if (what->fault.kind != MEMSWAP_POLICY_ABSENT) {
            fault(linear, what);
        }
        break;
    case MEMSWAP_POLICY_WASTED:
        wasted(linear, what->block, what->page);
        break;
    case MEMSWAP_POLICY_RESET:
    case MEMSWAP_POLICY_BLOCK_REMOVED:
        streams_clear(&linear->streams);
        break;
    default:
        break;
    }
}

static int set(void *self, const char *name, const char *value)
{
    Linear *linear = self;

    return streams_set(&linear->streams, name, value);
}

static int start(const MemswapPolicyHostOps *ops, MemswapPolicyHost *host,
                 void **self)
{
    Linear *linear = calloc(1, sizeof(*linear));

    if (!linear) {
        return -ENOMEM;
    }
    linear->ops = ops;
    linear->host = host;
    linear->streams.window_max = STREAM_WINDOW_DEFAULT;
    *self = linear;
    return 0;
}

static void stop(void *self)
{
    free(self);
}

const MemswapPolicyOps *memswap_policy_linear(const MemswapPolicyHostOps *host)
{
    static const MemswapPolicyOps linear = {
        .size = sizeof(linear),
        .version = MEMSWAP_POLICY_VERSION,
        .name = "linear",
        .delay_us = DELAY_US,
        .roles = MEMSWAP_POLICY_PREFETCHER,
        .events = MEMSWAP_POLICY_EVENT_BIT(FAULT) |
                  MEMSWAP_POLICY_EVENT_BIT(WASTED) |
                  MEMSWAP_POLICY_EVENT_BIT(RESET) |
                  MEMSWAP_POLICY_EVENT_BIT(BLOCK_REMOVED),
        .start = start,
        .event = event,
        .set = set,
        .stop = stop,
    };

    return &linear;
}

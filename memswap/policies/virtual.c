/*
 * Policy "virtual": prefetch along strides in guest-virtual addresses
 *
 * What a program has side by side is scattered over guest-physical memory once
 * the guest has been up for a while.  So strides are looked for where programs
 * have them, and the pages ahead are found through the guest's own page tables.
 * See streams.c for how a stride is found, and how far to go.
 *
 * A fault whose address isn't known is looked up, where the host can do that.
 * Pages whose table can't be read now, or that the guest hasn't got, are left
 * out.
 *
 * Options:
 *   window    pages ahead, at most (default 64)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "again.h"
#include "memswap/policy.h"
#include "streams.h"

/* The guest's, the smallest. */
#define PAGE_SHIFT 12
/* Pages that were asked for last, to know whose it was that was wasted. */
#define ASKED 4096
/* Faults after which the counters are shown again. */
#define COUNT_EVERY 16

/* A page that was asked for, and what it is to the guest. */
typedef struct Asked {
    uint32_t block;
    uint32_t used;
    uint64_t page;
    uint64_t root;
    int64_t at;
} Asked;

typedef struct Virtual {
    const MemswapPolicyHostOps *ops;
    MemswapPolicyHost *host;
    bool no_reverse;        /* the host can't */
    uint64_t known, unknown, requests;
    Streams streams;
    Asked asked[ASKED];
} Virtual;

MemswapPolicyEntry memswap_policy_virtual;

static Asked *asked_of(Virtual *virtual, uint32_t block, uint64_t page)
{
    return &virtual->asked[(page ^ page / ASKED * 7 ^ block) % ASKED];
}

static void note_asked(Virtual *virtual, const MemswapPolicyRange *range,
                       const Stream *stream, int64_t at)
{
    *asked_of(virtual, range->block, range->page) = (Asked) {
        .block = range->block,
        .used = 1,
        .page = range->page,
        .root = stream->space,
        .at = at,
    };
}

static void count(Virtual *virtual)
{
    virtual->ops->counter(virtual->host, "known", virtual->known);
    virtual->ops->counter(virtual->host, "unknown", virtual->unknown);
    virtual->ops->counter(virtual->host, "requests", virtual->requests);
}

/* Ask for @n pages after those that were asked for already. */
static void ask(Virtual *virtual, Stream *stream, uint32_t n)
{
    MemswapPolicyRange ranges[STREAM_WINDOW_MAX];
    const int64_t stride = stream->stride;
    const int64_t first = stream->ahead + stride;
    uint32_t n_ranges = 0;
    int64_t known;

    known = virtual->ops->translate_many(virtual->host, stream->space,
                                         (uint64_t)first << PAGE_SHIFT,
                                         (uint64_t)stride << PAGE_SHIFT, n,
                                         ranges);
    if (known < 0) {
        /* too much at once, or a root that is none */
        return;
    }
    stream->ahead += stride * n;
    for (uint32_t i = 0; i < n; i++) {
        /* the host's pages may be larger than the guest's */
        if (ranges[i].n && (!n_ranges ||
                            ranges[i].block != ranges[n_ranges - 1].block ||
                            ranges[i].page != ranges[n_ranges - 1].page)) {
            note_asked(virtual, &ranges[i], stream, first + stride * i);
            ranges[n_ranges++] = ranges[i];
        }
    }
    if (n_ranges) {
        virtual->requests++;
        virtual->ops->prefetch(virtual->host, ranges, n_ranges,
                               MEMSWAP_POLICY_NORMAL, 0);
        stream->asked_at = again(virtual->ops->now(virtual->host));
        count(virtual);
    }
}

/* Where was it, to the guest? */
static bool find_address(Virtual *virtual, const MemswapPolicyEvent *event,
                         uint64_t *root, uint64_t *address)
{
    const uint32_t both = MEMSWAP_POLICY_KNOWN_ROOT |
                          MEMSWAP_POLICY_KNOWN_ADDRESS;
    int ret;

    if ((event->known & both) == both) {
        *root = event->fault.root;
        *address = event->fault.address;
        return true;
    }
    if (virtual->no_reverse) {
        return false;
    }
    ret = virtual->ops->reverse(virtual->host, event->block, event->page,
                                root, address);
    virtual->no_reverse = ret == -EOPNOTSUPP;
    return !ret;
}

static void fault(Virtual *virtual, const MemswapPolicyEvent *event)
{
    uint64_t root, address;
    bool known = find_address(virtual, event, &root, &address);
    Stream *stream;
    uint32_t n;

    virtual->known += known;
    virtual->unknown += !known;
    if ((virtual->known + virtual->unknown) % COUNT_EVERY == 0) {
        count(virtual);
    }
    if (!known) {
        return;
    }
    stream = streams_touch(&virtual->streams, root,
                           (int64_t)address >> PAGE_SHIFT,
                           stream_fetched(event), &n);
    if (stream) {
        ask(virtual, stream, n);
    }
}

static void wasted(Virtual *virtual, uint32_t block, uint64_t page)
{
    Asked *asked = asked_of(virtual, block, page);
    Stream *stream;

    if (asked->used && asked->block == block && asked->page == page) {
        stream = streams_find(&virtual->streams, asked->root, asked->at);
        if (stream) {
            stream_wasted(stream);
        }
        asked->used = 0;
    }
}

static void event(void *self, const MemswapPolicyEvent *what)
{
    Virtual *virtual = self;

    switch (what->kind) {
    case MEMSWAP_POLICY_FAULT:
        if (what->fault.kind != MEMSWAP_POLICY_ABSENT) {
            fault(virtual, what);
        }
        break;
    case MEMSWAP_POLICY_WASTED:
        wasted(virtual, what->block, what->page);
        break;
    case MEMSWAP_POLICY_RESET:
    case MEMSWAP_POLICY_BLOCK_REMOVED:
        streams_clear(&virtual->streams);
        memset(virtual->asked, 0, sizeof(virtual->asked));
        break;
    default:
        break;
    }
}

static int set(void *self, const char *name, const char *value)
{
    Virtual *virtual = self;

    return streams_set(&virtual->streams, name, value);
}

static int start(const MemswapPolicyHostOps *ops, MemswapPolicyHost *host,
                 void **self)
{
    Virtual *virtual = calloc(1, sizeof(*virtual));

    if (!virtual) {
        return -ENOMEM;
    }
    virtual->ops = ops;
    virtual->host = host;
    virtual->streams.window_max = STREAM_WINDOW_DEFAULT;
    *self = virtual;
    return 0;
}

static void stop(void *self)
{
    free(self);
}

const MemswapPolicyOps *
memswap_policy_virtual(const MemswapPolicyHostOps *host)
{
    static const MemswapPolicyOps virtual = {
        .size = sizeof(virtual),
        .version = MEMSWAP_POLICY_VERSION,
        .name = "virtual",
        .roles = MEMSWAP_POLICY_PREFETCHER,
        .events = MEMSWAP_POLICY_EVENT_BIT(FAULT) |
                  MEMSWAP_POLICY_WITH_CONTEXT |
                  MEMSWAP_POLICY_EVENT_BIT(WASTED) |
                  MEMSWAP_POLICY_EVENT_BIT(RESET) |
                  MEMSWAP_POLICY_EVENT_BIT(BLOCK_REMOVED),
        .start = start,
        .event = event,
        .set = set,
        .stop = stop,
    };

    return &virtual;
}

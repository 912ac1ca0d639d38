/*
 * Policy "limit": a plain clock, to compare others with
 *
 * A hand goes around all regions that have something in memory.  Each is put
 * on trial, and some regions later what nobody touched is taken out.  It
 * remembers nothing, and nothing goes first.
 *
 * Options:
 *   window    regions on trial at once (default 32)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "memswap/policy.h"

#define WINDOW_MAX 256
#define WINDOW_DEFAULT 32
/* Regions asked about at once. */
#define CHUNK 64
/* How long to work before other events get their turn. */
#define SLICE_NS 50000000

/* A region on trial. */
typedef struct Trial {
    uint32_t block;
    uint64_t region;
} Trial;

typedef struct Limit {
    const MemswapPolicyHostOps *ops;
    MemswapPolicyHost *host;
    uint32_t window;
    Trial trials[WINDOW_MAX];   /* a ring */
    uint32_t first, n;
    uint64_t rounds;            /* of the hand */

    /* The hand, in a part of a block whose regions are known. */
    uint32_t block;
    uint64_t region;
    uint32_t resident[CHUNK];
    uint64_t chunk, chunk_n;    /* first region and how many; 0: none known */
} Limit;

MemswapPolicyEntry memswap_policy_limit;

/* Learn about the regions from the hand on.  False at the block's end. */
static int next_chunk(Limit *limit)
{
    MemswapPolicyBlock block = { .size = sizeof(block) };
    uint64_t n_regions;

    limit->chunk_n = 0;
    if (limit->ops->block(limit->host, limit->block, &block)) {
        return 0;
    }
    n_regions = (block.n_pages + block.region_pages - 1) /
                block.region_pages;
    if (limit->region >= n_regions) {
        return 0;
    }
    limit->chunk = limit->region;
    limit->chunk_n = n_regions - limit->region;
    if (limit->chunk_n > CHUNK) {
        limit->chunk_n = CHUNK;
    }
    return !limit->ops->regions(limit->host, limit->block, limit->chunk,
                         limit->chunk_n, limit->resident);
}

/* Move the hand to the next region with something in it.  0: there is none. */
static int next_region(Limit *limit, const MemswapPolicyInfo *info,
                       Trial *trial)
{
    uint32_t blocks = 0;

    while (blocks <= info->n_blocks) {
        if (limit->region - limit->chunk < limit->chunk_n) {
            *trial = (Trial) { limit->block, limit->region };
            if (limit->resident[limit->region++ - limit->chunk]) {
                return 1;
            }
        } else if (!next_chunk(limit)) {
            limit->region = 0;
            limit->chunk_n = 0;
            if (++limit->block >= info->n_blocks) {
                limit->block = 0;
                limit->rounds++;
            }
            blocks++;
        }
    }
    return 0;
}

/* No more than a quarter of what is in memory is to be on trial at once. */
static uint32_t window(Limit *limit, const MemswapPolicyInfo *info)
{
    uint64_t quarter = info->resident / (2 * 1024 * 1024) / 4;

    if (quarter < 1) {
        return 1;
    }
    return quarter < limit->window ? quarter : limit->window;
}

static void fill_window(Limit *limit, const MemswapPolicyInfo *info)
{
    uint32_t want = window(limit, info);
    uint32_t tries = 2 * WINDOW_MAX;
    Trial trial;

    while (limit->n < want && tries-- && next_region(limit, info, &trial)) {
        if (limit->ops->trial(limit->host, trial.block, trial.region,
                       MEMSWAP_POLICY_NO_LOOK) > 0) {
            limit->trials[(limit->first + limit->n++) % WINDOW_MAX] = trial;
        }
    }
}

/* Take out what is cold of the oldest trial.  Returns the bytes, or -1. */
static int64_t look(Limit *limit, uint32_t flags)
{
    MemswapPolicyBlock block = { .size = sizeof(block) };
    MemswapPolicyRange range;
    Trial *trial = &limit->trials[limit->first];

    if (!limit->n) {
        return -1;
    }
    limit->first = (limit->first + 1) % WINDOW_MAX;
    limit->n--;
    if (limit->ops->block(limit->host, trial->block, &block) ||
        trial->region > (block.n_pages - 1) / block.region_pages) {
        /* it has gone since */
        return 0;
    }
    range = (MemswapPolicyRange) {
        .block = trial->block,
        .page = trial->region * block.region_pages,
        .n = block.region_pages,
    };
    if (range.n > block.n_pages - range.page) {
        range.n = block.n_pages - range.page;
    }
    return limit->ops->reclaim(limit->host, &range, 1, flags);
}

static void make_room(Limit *limit)
{
    MemswapPolicyInfo info = { .size = sizeof(info) };
    int64_t end = limit->ops->now(limit->host) + SLICE_NS;
    uint64_t round = limit->rounds;

    while (!limit->ops->info(limit->host, &info) &&
           info.resident + info.reserve_high > info.limit &&
           limit->ops->now(limit->host) < end) {
        int64_t gone;

        fill_window(limit, &info);
        /* twice around in vain: all is warm, so any will do */
        gone = look(limit, limit->rounds > round + 1 ? 0 :
                    MEMSWAP_POLICY_COLD);
        if (gone < 0) {
            break;
        }
        if (gone) {
            round = limit->rounds;
        } else if (limit->rounds > round + 2) {
            break;
        }
    }
    limit->ops->counter(limit->host, "rounds", limit->rounds);
}

static void event(void *self, const MemswapPolicyEvent *what)
{
    Limit *limit = self;

    switch (what->kind) {
    case MEMSWAP_POLICY_ROOM:
        make_room(limit);
        break;
    case MEMSWAP_POLICY_BLOCK_ADDED:
    case MEMSWAP_POLICY_BLOCK_REMOVED:
        limit->chunk_n = 0;
        break;
    default:
        break;
    }
}

static int set(void *self, const char *name, const char *value)
{
    Limit *limit = self;
    char *end;
    long n;

    if (strcmp(name, "window")) {
        return -ENOENT;
    }
    n = strtol(value, &end, 10);
    if (*end || end == value || n < 1 || n > WINDOW_MAX) {
        return -EINVAL;
    }
    limit->window = n;
    return 0;
}

static int start(const MemswapPolicyHostOps *ops, MemswapPolicyHost *host,
                 void **self)
{
    Limit *limit = calloc(1, sizeof(*limit));

    if (!limit) {
        return -ENOMEM;
    }
    limit->ops = ops;
    limit->host = host;
    limit->window = WINDOW_DEFAULT;
    *self = limit;
    return 0;
}

static void stop(void *self)
{
    free(self);
}

const MemswapPolicyOps *memswap_policy_limit(const MemswapPolicyHostOps *host)
{
    static const MemswapPolicyOps limit = {
        .size = sizeof(limit),
        .version = MEMSWAP_POLICY_VERSION,
        .name = "limit",
        .roles = MEMSWAP_POLICY_RECLAIMER,
        .events = MEMSWAP_POLICY_EVENT_BIT(ROOM) |
                  MEMSWAP_POLICY_EVENT_BIT(BLOCK_ADDED) |
                  MEMSWAP_POLICY_EVENT_BIT(BLOCK_REMOVED),
        .start = start,
        .event = event,
        .set = set,
        .stop = stop,
    };

    return &limit;
}

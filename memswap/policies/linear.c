/*
 * Policy "linear": prefetch along strides
 *
 * Faults that are near each other are a stream.  What most of a stream's last
 * steps have in common is its stride, so a few that go astray don't matter (the
 * majority vote of Leap: Al Maruf and Chowdhury, "Effectively Prefetching
 * Remote Memory with Leap", 2020).  The vote begins with the last few steps,
 * and asks more of them while there is no majority.
 *
 * The next pages along the stride are brought in, a window of them ahead of
 * the last touch.  The window doubles when what was brought in is touched, and
 * is halved when it leaves untouched, or when there is no stride.  A page that
 * is brought in makes no fault, but for the one in some that the host watches;
 * the last of each window is one, and its touch moves the stream on.
 *
 * Options:
 *   window    pages ahead, at most (default 64)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "memswap/policy.h"

#define STREAMS 32
/* Steps that are remembered of a stream, and the first to be asked. */
#define STEPS 32
#define STEPS_FIRST 4
/* Pages between two faults of one stream, at most. */
#define NEAR 1024
/* Steps after which a stream whose window is gone gets another chance. */
#define CALM 16
#define WINDOW_FIRST 4
#define WINDOW_MAX 1024
#define WINDOW_DEFAULT 64

typedef struct Stream {
    uint32_t block;
    uint64_t used;          /* when, in faults; 0: never */
    int64_t last;           /* page of the last fault */
    int64_t steps[STEPS];
    uint32_t n_steps;       /* ever */
    int64_t stride;         /* 0: none */
    int64_t ahead;          /* the last page that was asked for */
    uint32_t window;
    uint32_t calm;          /* steps of one stride since one was wasted */
} Stream;

typedef struct Linear {
    const MemswapPolicyHostOps *ops;
    MemswapPolicyHost *host;
    uint32_t window_max;
    uint64_t faults, requests;
    Stream streams[STREAMS];
} Linear;

MemswapPolicyEntry memswap_policy_linear;

static int64_t distance(int64_t a, int64_t b)
{
    return a < b ? b - a : a - b;
}

/* The nearest stream, if it is near; else NULL. */
static Stream *find_stream(Linear *linear, uint32_t block, int64_t page)
{
    Stream *found = NULL;
    int64_t best = NEAR + 1;

    for (Stream *it = linear->streams; it < linear->streams + STREAMS; it++) {
        if (it->used && it->block == block) {
            int64_t far = distance(it->last, page);

            if (it->stride && distance(it->ahead, page) < far) {
                far = distance(it->ahead, page);
            }
            if (far < best) {
                best = far;
                found = it;
            }
        }
    }
    return found;
}

/* Begins where the stream that was used longest ago was. */
static void new_stream(Linear *linear, uint32_t block, int64_t page)
{
    Stream *oldest = linear->streams;

    for (Stream *it = linear->streams; it < linear->streams + STREAMS; it++) {
        if (it->used < oldest->used) {
            oldest = it;
        }
    }
    memset(oldest, 0, sizeof(*oldest));
    oldest->block = block;
    oldest->used = linear->faults;
    oldest->last = page;
}

static int64_t step(const Stream *stream, uint32_t back)
{
    return stream->steps[(stream->n_steps - 1 - back) % STEPS];
}

/* The step that more than half of the last @n are; 0 if there is none. */
static int64_t majority(const Stream *stream, uint32_t n)
{
    int64_t candidate = 0;
    uint32_t votes = 0, count = 0;

    for (uint32_t i = 0; i < n; i++) {
        if (!votes) {
            candidate = step(stream, i);
        }
        votes += step(stream, i) == candidate ? 1 : -1;
    }
    for (uint32_t i = 0; i < n; i++) {
        count += step(stream, i) == candidate;
    }
    return count > n / 2 ? candidate : 0;
}

static int64_t find_stride(const Stream *stream)
{
    for (uint32_t n = STEPS_FIRST; n <= STEPS && n <= stream->n_steps;
         n *= 2) {
        int64_t stride = majority(stream, n);

        if (stride) {
            return stride;
        }
    }
    return 0;
}

/* Is the page one of those that were asked for, and not passed yet? */
static int expected(const Stream *stream, int64_t page)
{
    int64_t steps, far;

    if (!stream->stride || (page - stream->last) % stream->stride) {
        return 0;
    }
    steps = (page - stream->last) / stream->stride;
    far = (stream->ahead - stream->last) / stream->stride;
    return steps > 0 && steps <= far;
}

static void note_step(Stream *stream, int64_t page)
{
    int hit = expected(stream, page);
    int64_t stride;

    /* what lies between came without a fault */
    stream->steps[stream->n_steps++ % STEPS] =
        hit ? stream->stride : page - stream->last;
    if (stream->n_steps == 2 * STEPS) {
        stream->n_steps = STEPS;
    }
    stream->last = page;
    stride = find_stride(stream);
    if (stride != stream->stride) {
        stream->stride = stride;
        stream->ahead = page;
        stream->window = stride ? WINDOW_FIRST : stream->window / 2;
    } else if (hit) {
        stream->window *= 2;
    }
    stream->calm = stride && step(stream, 0) == stride ? stream->calm + 1 : 0;
    if (!stream->window && stream->calm >= CALM) {
        stream->window = 1;
    }
}

/* Ask for @n pages after those that were asked for already. */
static void ask(Linear *linear, Stream *stream, uint32_t n)
{
    MemswapPolicyRange ranges[WINDOW_MAX];
    MemswapPolicyBlock block = { .size = sizeof(block) };
    uint32_t n_ranges = 0;
    int64_t page = stream->ahead;

    if (linear->ops->block(linear->host, stream->block, &block)) {
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
                .block = stream->block, .page = page, .n = 1,
            };
        }
        stream->ahead = page;
    }
    if (n_ranges) {
        linear->requests++;
        linear->ops->prefetch(linear->host, ranges, n_ranges,
                              MEMSWAP_POLICY_NORMAL, 0);
        linear->ops->counter(linear->host, "requests", linear->requests);
    }
}

static void fault(Linear *linear, uint32_t block, int64_t page)
{
    Stream *stream = find_stream(linear, block, page);

    linear->faults++;
    if (!stream) {
        new_stream(linear, block, page);
        return;
    }
    stream->used = linear->faults;
    if (page == stream->last) {
        return;
    }
    note_step(stream, page);
    if (!stream->stride) {
        return;
    }
    if (stream->window > linear->window_max) {
        stream->window = linear->window_max;
    }
    if ((stream->ahead - page) / stream->stride < 0) {
        stream->ahead = page;
    }
    if ((stream->ahead - page) / stream->stride < stream->window) {
        ask(linear, stream, stream->window);
    }
}

static void wasted(Linear *linear, uint32_t block, int64_t page)
{
    Stream *stream = find_stream(linear, block, page);

    if (stream) {
        stream->window /= 2;
        stream->calm = 0;
    }
}

static void event(void *self, const MemswapPolicyEvent *what)
{
    Linear *linear = self;

    switch (what->kind) {
    case MEMSWAP_POLICY_FAULT:
        if (what->fault.kind != MEMSWAP_POLICY_ABSENT) {
            fault(linear, what->block, what->page);
        }
        break;
    case MEMSWAP_POLICY_WASTED:
        wasted(linear, what->block, what->page);
        break;
    case MEMSWAP_POLICY_RESET:
    case MEMSWAP_POLICY_BLOCK_REMOVED:
        memset(linear->streams, 0, sizeof(linear->streams));
        break;
    default:
        break;
    }
}

static int set(void *self, const char *name, const char *value)
{
    Linear *linear = self;
    char *end;
    long n;

    if (strcmp(name, "window")) {
        return -ENOENT;
    }
    n = strtol(value, &end, 10);
    if (*end || end == value || n < 1 || n > WINDOW_MAX) {
        return -EINVAL;
    }
    linear->window_max = n;
    return 0;
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
    linear->window_max = WINDOW_DEFAULT;
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

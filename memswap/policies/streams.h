/*
 * Streams of faults, and how far to read ahead of them
 *
 * For policies that prefetch along strides.  What a page number means is
 * theirs: pages of the same space that are near each other are one stream.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_STREAMS_H
#define MEMSWAP_STREAMS_H

#include <stdint.h>

#include "memswap/policy.h"

#define STREAMS 32
/* Steps that are remembered of a stream. */
#define STREAM_STEPS 32
#define STREAM_WINDOW_MAX 1024
#define STREAM_WINDOW_DEFAULT 64

typedef struct Stream {
    uint64_t space;
    uint64_t used;          /* when, in touches; 0: never */
    int64_t last;           /* page of the last touch */
    int64_t steps[STREAM_STEPS];
    uint32_t n_steps;       /* ever */
    int64_t stride;         /* 0: none */
    int64_t ahead;          /* the last page that was asked for */
    int64_t asked_at;       /* when that had been done */
    uint32_t window;
    uint32_t calm;          /* steps of one stride since one was wasted */
} Stream;

typedef struct Streams {
    uint32_t window_max;    /* pages ahead, at most */
    uint64_t touches;
    Stream streams[STREAMS];
} Streams;

/* The nearest stream, if it is near; else NULL. */
Stream *streams_find(Streams *streams, uint64_t space, int64_t page);

/*
 * A page was touched, and that was noticed.  @fetched: when it had been fetched
 * for that; 0 if it was there.  Returns the stream if some pages should be
 * brought in: *@n of them, at each stride on from ahead, which the caller sets
 * to the last of them, and asked_at when it has asked.  NULL else.
 */
Stream *streams_touch(Streams *streams, uint64_t space, int64_t page,
                      int64_t fetched, uint32_t *n);

/* Of a fault, what streams_touch() wants to know. */
static inline int64_t stream_fetched(const MemswapPolicyEvent *fault)
{
    return fault->fault.kind == MEMSWAP_POLICY_STORED ||
           fault->fault.kind == MEMSWAP_POLICY_SAME ? fault->time : 0;
}

/* What it asked for left untouched. */
void stream_wasted(Stream *stream);

/* Forget them all. */
void streams_clear(Streams *streams);

/* The option "window"; as MemswapPolicyOps.set. */
int streams_set(Streams *streams, const char *name, const char *value);

#endif /* MEMSWAP_STREAMS_H */

/*
 * Streams of faults, and how far to read ahead of them
 *
 * Faults that are near each other are a stream.  What most of a stream's last
 * steps have in common is its stride, so a few that go astray don't matter (the
 * majority vote of Leap: Al Maruf and Chowdhury, "Effectively Prefetching
 * Remote Memory with Leap", 2020).  The vote begins with the last few steps,
 * and asks more of them while there is no majority.
 *
 * The next pages along the stride are brought in, a window of them ahead of
 * the last touch.  The window doubles when what was brought in is touched, or
 * was fetched by a touch before that was done; and is halved when it leaves
 * untouched, or when there is no stride.  What was asked for in vain, because
 * the host throttles or has no room, leaves it as it is.  A page that is
 * brought in makes no fault, but for the one in some that the host watches; the
 * last of each window is one, and its touch moves the stream on.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "streams.h"

/* The steps that are asked first. */
#define STEPS_FIRST 4
/* Pages between two faults of one stream, at most. */
#define NEAR 1024
/* Steps after which a stream whose window is gone gets another chance. */
#define CALM 16
#define WINDOW_FIRST 4

static int64_t distance(int64_t a, int64_t b)
{
    return a < b ? b - a : a - b;
}

Stream *streams_find(Streams *streams, uint64_t space, int64_t page)
{
    Stream *found = NULL;
    int64_t best = NEAR + 1;

    for (Stream *it = streams->streams; it < streams->streams + STREAMS;
         it++) {
        if (it->used && it->space == space) {
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
static void new_stream(Streams *streams, uint64_t space, int64_t page)
{
    Stream *oldest = streams->streams;

    for (Stream *it = streams->streams; it < streams->streams + STREAMS;
         it++) {
        if (it->used < oldest->used) {
            oldest = it;
        }
    }
    memset(oldest, 0, sizeof(*oldest));
    oldest->space = space;
    oldest->used = streams->touches;
    oldest->last = page;
}

static int64_t step(const Stream *stream, uint32_t back)
{
    return stream->steps[(stream->n_steps - 1 - back) % STREAM_STEPS];
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
    for (uint32_t n = STEPS_FIRST; n <= STREAM_STEPS && n <= stream->n_steps;
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

static void note_step(Stream *stream, int64_t page, int64_t fetched)
{
    int known = expected(stream, page);
    int hit = known && fetched <= stream->asked_at;
    int64_t stride;

    /* what lies between came without a fault */
    stream->steps[stream->n_steps++ % STREAM_STEPS] =
        known ? stream->stride : page - stream->last;
    if (stream->n_steps == 2 * STREAM_STEPS) {
        stream->n_steps = STREAM_STEPS;
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

Stream *streams_touch(Streams *streams, uint64_t space, int64_t page,
                      int64_t fetched, uint32_t *n)
{
    Stream *stream = streams_find(streams, space, page);

    streams->touches++;
    if (!stream) {
        new_stream(streams, space, page);
        return NULL;
    }
    stream->used = streams->touches;
    if (page == stream->last) {
        return NULL;
    }
    note_step(stream, page, fetched);
    if (!stream->stride) {
        return NULL;
    }
    if (stream->window > streams->window_max) {
        stream->window = streams->window_max;
    }
    if ((stream->ahead - page) / stream->stride < 0) {
        stream->ahead = page;
    }
    if ((stream->ahead - page) / stream->stride >= stream->window) {
        return NULL;
    }
    *n = stream->window;
    return stream;
}

void stream_wasted(Stream *stream)
{
    stream->window /= 2;
    stream->calm = 0;
}

void streams_clear(Streams *streams)
{
    memset(streams->streams, 0, sizeof(streams->streams));
}

int streams_set(Streams *streams, const char *name, const char *value)
{
    char *end;
    long n;

    if (strcmp(name, "window")) {
        return -ENOENT;
    }
    n = strtol(value, &end, 10);
    if (*end || end == value || n < 1 || n > STREAM_WINDOW_MAX) {
        return -EINVAL;
    }
    streams->window_max = n;
    return 0;
}

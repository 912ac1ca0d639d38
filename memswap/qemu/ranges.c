/*
 * memswap inside QEMU: memswap-reclaim and memswap-prefetch
 *
 * Both take long, so they work in a worker thread, and for a bounded time:
 * the commands of all monitors wait for one that isn't out of band.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/thread-pool.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-memswap.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "glue.h"

/* All monitors wait for one command that isn't out of band. */
#define WORK_NS (5 * NANOSECONDS_PER_SECOND)
/* Whoever waits for room is told of it after so much. */
#define RECLAIM_SLICE (8 * MiB)

static bool stopped;

typedef struct Job {
    MemswapEngine *engine;
    uint64_t size;
    MemswapRange *ranges;       /* their names are the command's */
    unsigned int n;
    bool cold;
    int64_t end;
    int64_t result;
    char *error;
} Job;

void memswap_reclaim_stop(void)
{
    qatomic_set(&stopped, true);
}

static bool go_on(void *opaque)
{
    Job *job = opaque;

    return !qatomic_read(&stopped) &&
           qemu_clock_get_ns(QEMU_CLOCK_REALTIME) < job->end;
}

/* Compressing takes seconds a gigabyte. */
static int reclaim_size(void *opaque)
{
    Job *job = opaque;
    uint64_t got = 0;

    while (got < job->size && go_on(job)) {
        uint64_t slice = memswap_reclaim_while(job->engine,
                                               MIN(job->size - got,
                                                   RECLAIM_SLICE),
                                               go_on, job);

        if (!slice) {
            break;
        }
        got += slice;
    }
    job->result = got;
    return 0;
}

static int reclaim_ranges(void *opaque)
{
    Job *job = opaque;

    job->result = memswap_reclaim_ranges(job->engine, job->ranges, job->n,
                                         job->cold, go_on, job, &job->error);
    return 0;
}

static int prefetch(void *opaque)
{
    Job *job = opaque;

    job->result = memswap_prefetch(job->engine, job->ranges, job->n, go_on,
                                   job, &job->error);
    return 0;
}

/* One more than there may be is enough for the engine to say so. */
static void take_ranges(Job *job, const MemswapRamRangeList *list)
{
    job->ranges = g_new(MemswapRange, MEMSWAP_MAX_RANGES + 1);
    for (; list && job->n <= MEMSWAP_MAX_RANGES; list = list->next) {
        job->ranges[job->n++] = (MemswapRange) {
            .block = list->value->block,
            .offset = list->value->offset,
            .size = list->value->size,
        };
    }
}

/* Do it; false with @errp set if it was refused. */
static bool coroutine_fn run(Job *job, ThreadPoolFunc *work, Error **errp)
{
    g_autofree MemswapRange *ranges = job->ranges;
    g_autofree char *error = NULL;

    job->end = qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + WORK_NS;
    thread_pool_submit_co(work, job);
    error = job->error;
    if (job->result < 0) {
        error_setg(errp, "memswap: %s", error);
        return false;
    }
    return true;
}

MemswapReclaimResult *coroutine_fn
qmp_memswap_reclaim(bool has_size, uint64_t size, bool has_ranges,
                    MemswapRamRangeList *ranges, bool has_cold, bool cold,
                    Error **errp)
{
    Job job = {
        .engine = memswap_engine_or_error(errp), .size = size, .cold = cold,
    };
    MemswapReclaimResult *result;

    if (!job.engine) {
        return NULL;
    }
    if (has_size == has_ranges) {
        error_setg(errp, "memswap: one of size and ranges is needed, and not"
                   " both");
        return NULL;
    }
    if (has_cold && has_size) {
        error_setg(errp, "memswap: cold is for ranges: of a size it is always"
                   " what is cold that goes");
        return NULL;
    }
    if (has_size && (size == 0 || size > memswap_object()->max_ram)) {
        error_setg(errp, "memswap: size must be more than 0 and at most guest"
                   " RAM, %" PRIu64 " bytes", memswap_object()->max_ram);
        return NULL;
    }
    if (has_ranges) {
        take_ranges(&job, ranges);
    }
    if (!run(&job, has_ranges ? reclaim_ranges : reclaim_size, errp)) {
        return NULL;
    }
    result = g_new(MemswapReclaimResult, 1);
    result->reclaimed = job.result;
    return result;
}

MemswapPrefetchResult *coroutine_fn
qmp_memswap_prefetch(MemswapRamRangeList *ranges, Error **errp)
{
    Job job = { .engine = memswap_engine_or_error(errp) };
    MemswapPrefetchResult *result;

    if (!job.engine) {
        return NULL;
    }
    take_ranges(&job, ranges);
    if (!run(&job, prefetch, errp)) {
        return NULL;
    }
    result = g_new(MemswapPrefetchResult, 1);
    result->prefetched = job.result;
    return result;
}

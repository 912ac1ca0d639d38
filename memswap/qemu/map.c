/*
 * memswap inside QEMU: what is shown of how memory is used
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-memswap.h"
#include "qapi/util.h"
#include "glue.h"

/* An answer of 5.4 MiB: enough for 2 TiB. */
#define CELLS_MAX 1048576

/* What the map is asked to show. */
typedef struct MapJob {
    uint64_t start, count, granularity;
    uint64_t cells;             /* in all blocks */
    MemswapMapBlockList **tail; /* NULL: only count */
} MapJob;

/* What there is from the start on, of a block. */
static uint64_t count_cells(const MapJob *job, uint64_t size)
{
    uint64_t left = size > job->start ? size - job->start : 0;

    return MIN(left / job->granularity + (left % job->granularity != 0),
               job->count);
}

static bool count_block(MemswapBlock *block, const char *name, void *host,
                        uint64_t size, void *opaque)
{
    MapJob *job = opaque;

    job->cells += count_cells(job, size);
    return true;
}

static bool map_block(MemswapBlock *block, const char *name, void *host,
                      uint64_t size, void *opaque)
{
    MapJob *job = opaque;
    uint64_t n = count_cells(job, size);
    g_autofree MemswapMapCell *cells = g_new(MemswapMapCell, n);
    int64_t got = memswap_block_map(block, job->start, job->granularity, n,
                                    cells);
    MemswapMapBlock *part = g_new(MemswapMapBlock, 1);

    assert(got == n);
    QEMU_BUILD_BUG_ON(sizeof(MemswapMapCell) != 4);
    *part = (MemswapMapBlock) {
        .name = g_strdup(name),
        .size = size,
        .start = job->start,
        .cells = n,
        .data = g_base64_encode((const guchar *)cells, n * sizeof(*cells)),
    };
    QAPI_LIST_APPEND(job->tail, part);
    return true;
}

MemswapMap *qmp_query_memswap_map(const char *block, bool has_start,
                                  uint64_t start, bool has_count,
                                  uint64_t count, bool has_granularity,
                                  uint64_t granularity, Error **errp)
{
    MapJob job = {
        .start = start,
        .count = has_count ? count : UINT64_MAX,
        .granularity = has_granularity ? granularity : MEMSWAP_REGION_SIZE,
    };
    MemswapMap *map;

    if (!job.granularity ||
        (job.start | job.granularity) % MEMSWAP_REGION_SIZE) {
        error_setg(errp, "memswap: start and granularity must be multiples of"
                   " 2 MiB, and granularity more than 0");
        return NULL;
    }
    if (!memswap_ram_each(block, count_block, &job) && block) {
        error_setg(errp, "memswap: there is no managed block '%s'", block);
        return NULL;
    }
    if (job.cells > CELLS_MAX) {
        error_setg(errp, "memswap: more than %d cells: use a larger"
                   " granularity, or start and count", CELLS_MAX);
        return NULL;
    }
    map = g_new0(MemswapMap, 1);
    map->granularity = job.granularity;
    job.tail = &map->blocks;
    memswap_ram_each(block, map_block, &job);
    return map;
}

MemswapWorkingSetList *memswap_query_working_sets(MemswapEngine *engine)
{
    MemswapWindow sets[MEMSWAP_WINDOWS];
    MemswapWorkingSetList *list = NULL, **tail = &list;

    memswap_get_working_sets(engine, sets);
    for (int i = 0; i < MEMSWAP_WINDOWS; i++) {
        MemswapWorkingSet *set = g_new(MemswapWorkingSet, 1);

        *set = (MemswapWorkingSet) {
            .seconds = sets[i].seconds,
            .at_least = sets[i].at_least,
            .at_most = sets[i].at_most,
        };
        QAPI_LIST_APPEND(tail, set);
    }
    return list;
}

MemswapRefaultPointList *memswap_query_curve(MemswapEngine *engine)
{
    MemswapCurvePoint points[MEMSWAP_CURVE_POINTS];
    unsigned int n = memswap_get_curve(engine, points);
    MemswapRefaultPointList *list = NULL, **tail = &list;

    for (int i = 0; i < n; i++) {
        MemswapRefaultPoint *point = g_new(MemswapRefaultPoint, 1);

        *point = (MemswapRefaultPoint) {
            .resident = points[i].resident,
            .refaults = points[i].refaults,
        };
        QAPI_LIST_APPEND(tail, point);
    }
    return list;
}

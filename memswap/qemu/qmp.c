/*
 * memswap inside QEMU: QMP commands
 *
 * query-memswap and memswap-set run out of band: on the monitor's own
 * thread, without the BQL, while everything else may wait in a fault.  They
 * take no lock that is held across one.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-memswap.h"
#include "qapi/util.h"
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include "devices.h"
#include "glue.h"

/* Makes reading, changing and writing the settings one step. */
static QemuMutex set_lock;

static void __attribute__((__constructor__)) init_set_lock(void)
{
    qemu_mutex_init(&set_lock);
}

static MemswapSettingsInfo *query_settings(MemswapEngine *engine,
                                           const MemswapStats *stats)
{
    MemswapSettingsInfo *info = g_new(MemswapSettingsInfo, 1);
    MemswapObject *ms = memswap_object();
    MemswapSettings settings;

    memswap_get_settings(engine, &settings);
    *info = (MemswapSettingsInfo) {
        .limit = settings.limit,
        .has_pool_limit = settings.pool_limit != UINT64_MAX,
        .pool_limit = settings.pool_limit,
        .compression = memswap_codec_to_qapi(settings.codec),
        .compression_level = settings.compression_level,
        .readahead = settings.readahead,
        .has_keep_copies = settings.keep_copies != MEMSWAP_KEEP_AUTO,
        .keep_copies = settings.keep_copies,
        .has_pin_limit = settings.pin_limit != 0,
        .pin_limit = settings.pin_limit,
        .huge_regions = stats->huge_supported,
        .when_full = memswap_when_full_to_qapi(settings.when_full),
        .fault_mode = memswap_inline(ms) ? MEMSWAP_FAULT_THREAD_INLINE :
                                           MEMSWAP_FAULT_THREAD_IOTHREAD,
        .iothread = g_strdup(ms->iothread_id),
        .user_mode_only = memswap_user_mode_only(ms),
    };
    return info;
}

static MemswapMemoryInfo *query_memory(const MemswapStats *stats)
{
    MemswapMemoryInfo *info = g_new(MemswapMemoryInfo, 1);

    *info = (MemswapMemoryInfo) {
        .managed = stats->managed,
        .resident = stats->resident,
        .trial = stats->trial,
        .pinned = stats->pinned,
        .huge = stats->huge,
        .kept = stats->kept,
        .retained = stats->retained,
        .stored = stats->stored,
        .zero = stats->zero,
        .untouched = stats->untouched,
        .poisoned = stats->poisoned,
        .peak_resident = stats->peak_resident,
        .metadata = stats->metadata,
    };
    return info;
}

static double ratio(uint64_t part, uint64_t whole)
{
    return whole ? (double)part / whole : 0;
}

static MemswapPoolInfo *query_pool(const MemswapStats *stats)
{
    MemswapPoolInfo *info = g_new(MemswapPoolInfo, 1);

    *info = (MemswapPoolInfo) {
        .bytes = stats->pool_bytes,
        .live_bytes = stats->pool_live_bytes,
        .data_bytes = stats->pool_data_bytes,
        .segments = stats->pool_segments,
        .moved = stats->pool_moved,
        .fill_ratio = ratio(stats->pool_live_bytes, stats->pool_bytes),
        .compression_ratio = ratio(stats->stored, stats->pool_data_bytes),
    };
    return info;
}

static MemswapFaultInfo *query_faults(const MemswapStats *stats)
{
    MemswapFaultInfo *info = g_new(MemswapFaultInfo, 1);
    uint64List **tail = &info->latency;
    const uint64_t *faults = stats->faults;

    *info = (MemswapFaultInfo) {
        .absent = faults[MEMSWAP_FAULT_ABSENT],
        .minor = faults[MEMSWAP_FAULT_MINOR],
        .trial = faults[MEMSWAP_FAULT_TRIAL],
        .zero = faults[MEMSWAP_FAULT_SAME],
        .stored = faults[MEMSWAP_FAULT_STORED],
        .waited = faults[MEMSWAP_FAULT_WAITED],
        .remote = stats->remote_faults,
        .spurious = stats->spurious,
        .p50_ns = memswap_latency_percentile(stats->latency, 50),
        .p99_ns = memswap_latency_percentile(stats->latency, 99),
    };
    for (int i = 0; i < MEMSWAP_FAULT__MAX; i++) {
        info->total += faults[i];
    }
    for (int i = 0; i < MEMSWAP_LATENCY_BUCKETS; i++) {
        QAPI_LIST_APPEND(tail, stats->latency[i]);
    }
    return info;
}

static MemswapReclaimInfo *query_reclaim(const MemswapStats *stats)
{
    MemswapReclaimInfo *info = g_new(MemswapReclaimInfo, 1);
    uint64List **tail = &info->refault_distances;

    *info = (MemswapReclaimInfo) {
        .evictions = stats->evictions,
        .refaults = stats->refaults,
        .unchanged = stats->unchanged,
        .readahead = stats->readahead,
        .collapses = stats->collapses,
        .splits = stats->splits,
        .given_back = stats->given_back,
        .trials = stats->trials,
        .discards = stats->discards,
        .store_full = stats->store_full,
        .overshoots = stats->overshoots,
        .stalls = stats->stalls,
        .stall_ns = stats->stall_ns,
    };
    for (int i = 0; i < MEMSWAP_DISTANCE_BUCKETS; i++) {
        QAPI_LIST_APPEND(tail, stats->distances[i]);
    }
    return info;
}

static MemswapPinInfo *query_pins(const MemswapStats *stats)
{
    MemswapPinInfo *info = g_new(MemswapPinInfo, 1);

    *info = (MemswapPinInfo) {
        .bytes = stats->pinned,
        .limit = stats->pin_limit,
        .refused = stats->pins_refused,
        .holders = memswap_query_holders(),
    };
    return info;
}

MemswapInfo *qmp_query_memswap(Error **errp)
{
    MemswapInfo *info = g_new0(MemswapInfo, 1);
    MemswapEngine *engine = memswap_engine();
    MemswapStats stats;

    if (engine) {
        memswap_get_stats(engine, &stats);
        info->enabled = true;
        info->settings = query_settings(engine, &stats);
        info->memory = query_memory(&stats);
        info->pool = query_pool(&stats);
        info->faults = query_faults(&stats);
        info->reclaim = query_reclaim(&stats);
        info->pins = query_pins(&stats);
        info->has_working_sets = true;
        info->working_sets = memswap_query_working_sets(engine);
        info->has_refault_curve = true;
        info->refault_curve = memswap_query_curve(engine);
        info->has_blocks = true;
        info->blocks = memswap_ram_query();
        info->has_devices = true;
        info->devices = memswap_processes_query(stats.retained);
        info->has_policies = true;
        info->policies = memswap_policies_query(engine);
    }
    return info;
}

MemswapEngine *memswap_engine_or_error(Error **errp)
{
    MemswapEngine *engine = memswap_engine();

    if (!engine) {
        error_setg(errp, "memswap: guest RAM is not swapped: start QEMU with"
                   " -memswap");
    }
    return engine;
}

void qmp_memswap_set(bool has_limit, uint64_t limit, bool has_pool_limit,
                     uint64_t pool_limit, bool has_compression,
                     MemswapCompression compression,
                     bool has_compression_level, int64_t compression_level,
                     bool has_readahead, uint64_t readahead,
                     bool has_keep_copies, uint64_t keep_copies,
                     bool has_pin_limit, uint64_t pin_limit,
                     bool has_when_full, MemswapWhenFull when_full,
                     Error **errp)
{
    MemswapEngine *engine = memswap_engine_or_error(errp);
    g_autofree char *message = NULL;
    MemswapSettings settings;

    if (!engine) {
        return;
    }
    QEMU_LOCK_GUARD(&set_lock);
    memswap_get_settings(engine, &settings);
    if (has_limit) {
        settings.limit = limit;
    }
    if (has_pool_limit) {
        settings.pool_limit = pool_limit;
    }
    if (has_compression) {
        settings.codec = memswap_codec_from_qapi(compression);
    }
    if (has_readahead) {
        settings.readahead = readahead;
    }
    if (has_keep_copies) {
        settings.keep_copies = keep_copies;
    }
    if (has_pin_limit) {
        settings.pin_limit = pin_limit;
    }
    if (has_compression_level) {
        settings.compression_level = MAX(INT_MIN,
                                         MIN(compression_level, INT_MAX));
    }
    if (has_when_full) {
        settings.when_full = memswap_when_full_from_qapi(when_full);
    }
    if (!memswap_check_settings(&settings, memswap_object()->max_ram, errp) ||
        (has_limit && !memswap_processes_allow_limit(limit, errp))) {
        return;
    }
    if (memswap_set_settings(engine, &settings, &message)) {
        error_setg(errp, "memswap: %s", message);
        return;
    }
    memswap_pins_room();
}

void qmp_memswap_forget_lost(Error **errp)
{
    MemswapEngine *engine = memswap_engine_or_error(errp);

    if (engine) {
        memswap_forget_lost(engine);
    }
}

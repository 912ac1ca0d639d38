/*
 * Benchmarks: shared memory, managed by the engine
 *
 * In events mode a thread of ours plays QEMU's IOThread: it looks for events
 * for a while before it sleeps, as that does.  In inline mode whoever touches
 * resolves its fault in the signal handler.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend.h"
#include "clock.h"
#include "memswap/policies.h"

/* QEMU's default, see memswap/qemu/object.c; none of LZ4's. */
#define COMPRESSION_LEVEL (-1)
/* Off in the engine unless asked for; the kernel's side has its own. */
#define READAHEAD (16 * 1024)
/* As memswap/qemu/start.c has it. */
#define FAULT_HELPERS 2

static MemswapEngine *engine;
static MemswapSettings current;
static MemswapBlock *block;
static MemswapStats at_begin;
static pthread_t handler_thread;
static bool events_mode;
static int poll_ns;
static int stop_pipe[2];

/* Settings that "--engine key=value" reaches. */
typedef enum SettingType {
    SETTING_U64,        /* a size or a number */
    SETTING_UINT,
    SETTING_INT,
    SETTING_BOOL,       /* 0 or 1 */
    SETTING_CODEC,      /* its name */
    SETTING_POLICY,     /* the same; "none" */
} SettingType;

#define SETTING(name, type, member) \
    { name, type, offsetof(MemswapConfig, member) }

static const struct {
    const char *name;
    SettingType type;
    size_t offset;
} settings[] = {
    SETTING("evictors", SETTING_UINT, evictors),
    SETTING("fault_helpers", SETTING_UINT, fault_helpers),
    SETTING("spread_faults", SETTING_BOOL, spread_faults),
    SETTING("reserve_low", SETTING_U64, reserve_low),
    SETTING("reserve_high", SETTING_U64, reserve_high),
    SETTING("pool_limit", SETTING_U64, settings.pool_limit),
    SETTING("compression_level", SETTING_INT, settings.compression_level),
    SETTING("codec", SETTING_CODEC, settings.codec),
    SETTING("keep_copies", SETTING_U64, settings.keep_copies),
    SETTING("huge_regions", SETTING_BOOL, huge_regions),
    SETTING("readahead", SETTING_U64, settings.readahead),
    SETTING("reclaimer", SETTING_POLICY, reclaimer),
};

static MemswapCodec parse_codec(const char *name)
{
    if (g_str_equal(name, "lz4")) {
        return MEMSWAP_CODEC_LZ4;
    }
    if (!g_str_equal(name, "zstd")) {
        bench_fail(0, "--engine: codec must be zstd or lz4");
    }
    return MEMSWAP_CODEC_ZSTD;
}

static void apply_setting(MemswapConfig *config, const char *text)
{
    const char *value = strchr(text, '=');
    uint64_t number = 0;
    unsigned int i;

    for (i = 0; i < G_N_ELEMENTS(settings); i++) {
        if (value && strlen(settings[i].name) == value - text &&
            g_str_has_prefix(text, settings[i].name)) {
            break;
        }
    }
    if (i == G_N_ELEMENTS(settings)) {
        bench_fail(0, "--engine: no setting \"%s\"", text);
    }
    value++;
    if (settings[i].type == SETTING_CODEC) {
        config->settings.codec = parse_codec(value);
        return;
    }
    if (settings[i].type == SETTING_POLICY) {
        config->reclaimer = g_str_equal(value, "none") ? NULL : value;
        return;
    }
    if (!bench_parse_size(*value == '-' ? value + 1 : value, &number) ||
        (*value == '-' && settings[i].type != SETTING_INT)) {
        bench_fail(0, "--engine: not a number: %s", text);
    }
    switch (settings[i].type) {
    case SETTING_U64:
        G_STRUCT_MEMBER(uint64_t, config, settings[i].offset) = number;
        break;
    case SETTING_UINT:
        G_STRUCT_MEMBER(unsigned int, config, settings[i].offset) = number;
        break;
    case SETTING_INT:
        G_STRUCT_MEMBER(int, config, settings[i].offset) =
            *value == '-' ? -(int)number : (int)number;
        break;
    case SETTING_BOOL:
        G_STRUCT_MEMBER(bool, config, settings[i].offset) = number;
        break;
    case SETTING_CODEC:
    case SETTING_POLICY:
        break;
    }
}

static void on_event(void *opaque, MemswapEvent event, const char *name,
                     uint64_t offset)
{
    switch (event) {
    case MEMSWAP_EVENT_STORE_FULL:
    case MEMSWAP_EVENT_NO_HUGEPAGES:
    case MEMSWAP_EVENT_POLICY_ERROR:
        break;
    case MEMSWAP_EVENT_PAGE_LOST:
    case MEMSWAP_EVENT_BUG:
        bench_fail(0, "the engine reports event %d at offset 0x%" PRIx64,
                   event, offset);
    }
}

static const MemswapHost host = { .event = on_event };

/* Look for events for poll_ns after the last one, then sleep. */
static void *handle_events(void *opaque)
{
    struct pollfd fds[] = {
        { .fd = memswap_engine_fd(engine), .events = POLLIN },
        { .fd = stop_pipe[0], .events = POLLIN },
    };
    uint64_t last = bench_clock_ns();
    uint64_t poll_for = memswap_engine_spreads(engine) ? 0 : poll_ns;

    while (true) {
        if (memswap_engine_handle(engine)) {
            last = bench_clock_ns();
        } else if (bench_clock_ns() - last >= poll_for) {
            if (poll(fds, G_N_ELEMENTS(fds), -1) < 0 && errno != EINTR) {
                bench_fail(errno, "poll");
            }
            if (fds[1].revents) {
                return NULL;
            }
            last = bench_clock_ns();
        }
    }
}

/* Fill the page that this thread touched, and let it try again. */
static void on_sigbus(int number, siginfo_t *info, void *context)
{
    if (info->si_code != BUS_ADRERR ||
        !memswap_engine_fault(engine, info->si_addr)) {
        /* no fault of ours: let it end the program */
        signal(number, SIG_DFL);
    }
}

static void take_signals(void)
{
    struct sigaction action = {
        .sa_sigaction = on_sigbus,
        .sa_flags = SA_SIGINFO,
    };

    if (sigaction(SIGBUS, &action, NULL) < 0) {
        bench_fail(errno, "sigaction");
    }
}

/* "NAME", and options, each after a comma. */
static void add_policy(const char *text)
{
    g_auto(GStrv) words = g_strsplit(text, ",", -1);
    unsigned int n = g_strv_length(words);
    g_autofree MemswapPolicyOption *options = g_new(MemswapPolicyOption,
                                                    n + 1);
    MemswapPolicyConfig config = { .options = options };
    g_autofree char *error = NULL;

    if (!n) {
        bench_fail(0, "--policy: no name");
    }
    if (strchr(words[0], '/')) {
        config.id = "file";
        config.path = words[0];
    } else {
        config.id = config.builtin = words[0];
    }
    for (unsigned int i = 1; i < n; i++) {
        char *value = strchr(words[i], '=');

        if (!value) {
            bench_fail(0, "--policy: not OPTION=VALUE: %s", words[i]);
        }
        *value++ = 0;
        options[config.n_options++] = (MemswapPolicyOption) {
            words[i], value,
        };
    }
    if (memswap_policy_add(engine, &config, &error)) {
        bench_fail(0, "%s", error);
    }
}

static void start_events(void)
{
    int ret;

    if (pipe(stop_pipe) < 0) {
        bench_fail(errno, "pipe");
    }
    ret = pthread_create(&handler_thread, NULL, handle_events, NULL);
    if (ret) {
        bench_fail(ret, "cannot start the fault thread");
    }
}

static void *memswap_open(const BenchOptions *options)
{
    MemswapConfig config = {
        .settings = {
            .limit = options->limit ?: 2 * options->size,
            .pool_limit = UINT64_MAX,
            .compression_level = COMPRESSION_LEVEL,
            .codec = MEMSWAP_CODEC_LZ4,
            .keep_copies = MEMSWAP_KEEP_AUTO,
            .readahead = READAHEAD,
        },
        .evictors = 1,
        .fault_helpers = FAULT_HELPERS,
        .spread_faults = true,
        .reclaimer = memswap_policy_default(),
        .uffd = -1,
    };
    MemswapBlockInfo info = {
        .name = "ram",
        .size = options->size,
        .page_size = options->page_size,
    };
    g_autofree char *error = NULL;

    for (char **setting = options->engine; setting && *setting; setting++) {
        apply_setting(&config, *setting);
    }
    poll_ns = options->poll_ns;
    events_mode = g_str_equal(options->faults, "events");
    if (!events_mode) {
        if (!g_str_equal(options->faults, "inline")) {
            bench_fail(0, "--faults: no mode \"%s\"", options->faults);
        }
        config.fault_mode = MEMSWAP_FAULTS_INLINE;
        take_signals();
    }
    if (memswap_engine_new(&config, &host, NULL, &engine, &error)) {
        bench_fail(0, "%s", error);
    }
    info.host = bench_map_memfd(options, &info.fd);
    if (memswap_block_add(engine, &info, &block, &error)) {
        bench_fail(0, "%s", error);
    }
    for (char **policy = options->policies; policy && *policy; policy++) {
        add_policy(*policy);
    }
    current = config.settings;
    if (events_mode) {
        start_events();
    }
    return info.host;
}

MemswapEngine *bench_memswap_engine(void)
{
    return engine;
}

static void memswap_begin(void)
{
    memswap_get_stats(engine, &at_begin);
}

static void memswap_set_limit(uint64_t bytes)
{
    g_autofree char *error = NULL;

    current.limit = bytes;
    if (memswap_set_settings(engine, &current, &error)) {
        bench_fail(0, "%s", error);
    }
}

static void report_policies(FILE *file)
{
    unsigned int n;
    g_autofree MemswapPolicyStatus *list = memswap_policy_list(engine, &n);

    fprintf(file, ", \"policies\": {");
    for (unsigned int i = 0; i < n; i++) {
        fprintf(file, "%s\"%s\": {\"reclaimed\": %" PRIu64
                ", \"prefetched\": %" PRIu64 ", \"throttled\": %" PRIu64
                ", \"hits\": %" PRIu64 ", \"wasted\": %" PRIu64
                ", \"dropped\": %" PRIu64, i ? ", " : "", list[i].id,
                list[i].reclaimed, list[i].prefetched, list[i].throttled,
                list[i].hits, list[i].wasted, list[i].dropped);
        for (unsigned int k = 0; k < list[i].n_counters; k++) {
            fprintf(file, ", \"%s\": %" PRIu64, list[i].counters[k].name,
                    list[i].counters[k].value);
        }
        fprintf(file, "}");
    }
    fprintf(file, "}");
}

static uint64_t memswap_resident(void)
{
    MemswapStats stats;

    memswap_get_stats(engine, &stats);
    return stats.resident;
}

static void memswap_report(FILE *file)
{
    static const char *const kinds[MEMSWAP_FAULT__MAX] = {
        [MEMSWAP_FAULT_ABSENT] = "absent",
        [MEMSWAP_FAULT_MINOR] = "minor",
        [MEMSWAP_FAULT_TRIAL] = "trial",
        [MEMSWAP_FAULT_SAME] = "same",
        [MEMSWAP_FAULT_STORED] = "stored",
        [MEMSWAP_FAULT_WAITED] = "waited",
    };
    MemswapStats stats;

    memswap_get_stats(engine, &stats);
#define GAUGE(name) \
    fprintf(file, ", \"" #name "\": %" PRIu64, stats.name)
#define COUNTER(name) \
    fprintf(file, ", \"" #name "\": %" PRIu64, stats.name - at_begin.name)
    GAUGE(pool_bytes);
    GAUGE(pool_live_bytes);
    GAUGE(pool_data_bytes);
    GAUGE(stored);
    GAUGE(zero);
    GAUGE(metadata);
    GAUGE(peak_resident);
    GAUGE(kept);
    GAUGE(huge);
    COUNTER(evictions);
    COUNTER(refaults);
    COUNTER(trials);
    COUNTER(given_back);
    COUNTER(overshoots);
    COUNTER(stalls);
    COUNTER(stall_ns);
    COUNTER(pool_moved);
    COUNTER(readahead);
    COUNTER(unchanged);
    COUNTER(collapses);
    COUNTER(splits);
    COUNTER(no_hugepages);
#undef GAUGE
#undef COUNTER
    for (unsigned int i = 0; i < MEMSWAP_FAULT__MAX; i++) {
        fprintf(file, ", \"faults_%s\": %" PRIu64, kinds[i],
                stats.faults[i] - at_begin.faults[i]);
    }
    report_policies(file);
}

static void memswap_close(void)
{
    if (events_mode) {
        if (write(stop_pipe[1], "", 1) != 1) {
            bench_fail(errno, "cannot stop the fault thread");
        }
        pthread_join(handler_thread, NULL);
    }
    memswap_engine_free(engine);
}

const BenchBackend bench_memswap = {
    .name = "memswap",
    .open = memswap_open,
    .set_limit = memswap_set_limit,
    .begin = memswap_begin,
    .resident = memswap_resident,
    .report = memswap_report,
    .close = memswap_close,
};

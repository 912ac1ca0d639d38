/*
 * A guest for the engine's tests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness.h"

/* --- the host ---------------------------------------------------------- */

static int64_t host_clock(void *opaque)
{
    Harness *h = opaque;

    return atomic_fetch_add(&h->clock, atomic_load(&h->clock_step));
}

static bool host_may_hold_back(void *opaque, pid_t tid)
{
    Harness *h = opaque;

    return !atomic_load(&h->may_not_hold_back);
}

static bool host_held_up(void *opaque)
{
    Harness *h = opaque;

    return atomic_load(&h->held_up);
}

static void host_event(void *opaque, MemswapEvent event, const char *block,
                       uint64_t offset)
{
    Harness *h = opaque;

    if (event == MEMSWAP_EVENT_BUG) {
        g_error("the engine reports a bug of its own at offset %"
                G_GUINT64_FORMAT " of %s", offset, block);
    }
    atomic_store(&h->event_offset, offset);
    atomic_fetch_add(&h->events[event], 1);
}

static void host_trace(void *opaque, MemswapTracePoint point,
                       const char *block, uint64_t offset, uint64_t arg)
{
    Harness *h = opaque;

    g_assert_nonnull(block);
    if (point == MEMSWAP_TRACE_STALL) {
        unsigned int n;

        g_mutex_lock(&h->lock);
        n = atomic_load(&h->n_stall_traces);
        if (n < G_N_ELEMENTS(h->stall_traces)) {
            h->stall_traces[n] = offset;
            atomic_store(&h->n_stall_traces, n + 1);
        }
        g_mutex_unlock(&h->lock);
    }
    atomic_fetch_add(&h->traces[point], 1);
}

static gpointer handler(gpointer opaque)
{
    Harness *h = opaque;
    struct pollfd fds[] = {
        { .fd = memswap_engine_fd(h->engine), .events = POLLIN },
        { .fd = h->request, .events = POLLIN },
    };
    eventfd_t n;

    while (!atomic_load(&h->quit)) {
        if (poll(fds, G_N_ELEMENTS(fds), -1) < 0) {
            continue;
        }
        if (fds[0].revents) {
            memswap_engine_handle(h->engine);
        }
        if (fds[1].revents && !eventfd_read(h->request, &n)) {
            g_mutex_lock(&h->lock);
            h->answers += n;
            g_cond_broadcast(&h->answered);
            g_mutex_unlock(&h->lock);
        }
    }
    return NULL;
}

/* --- inline faults ----------------------------------------------------- */

/* Engines whose faults come as signals; NULL where there is none. */
static _Atomic(MemswapEngine *) inline_engines[16];

static void on_sigbus(int signal, siginfo_t *info, void *context)
{
    for (size_t i = 0; i < G_N_ELEMENTS(inline_engines); i++) {
        MemswapEngine *engine = atomic_load(&inline_engines[i]);

        if (engine && info->si_code == BUS_ADRERR &&
            memswap_engine_fault(engine, info->si_addr)) {
            return;
        }
    }
    /* somebody else's: as if there were no handler */
    sigaction(SIGBUS, &(struct sigaction) { .sa_handler = SIG_DFL }, NULL);
}

static void inline_begin(MemswapEngine *engine)
{
    struct sigaction action = {
        .sa_sigaction = on_sigbus,
        .sa_flags = SA_SIGINFO,
    };
    size_t i = 0;
    MemswapEngine *none = NULL;

    while (!atomic_compare_exchange_strong(&inline_engines[i], &none,
                                           engine)) {
        none = NULL;
        g_assert_cmpuint(++i, <, G_N_ELEMENTS(inline_engines));
    }
    sigaction(SIGBUS, &action, NULL);
}

static void inline_end(MemswapEngine *engine)
{
    for (size_t i = 0; i < G_N_ELEMENTS(inline_engines); i++) {
        MemswapEngine *it = engine;

        atomic_compare_exchange_strong(&inline_engines[i], &it, NULL);
    }
}

bool harness_inline(const HarnessOptions *options)
{
    return options->inline_faults ||
           (!g_strcmp0(g_getenv("MEMSWAP_TEST_FAULTS"), "inline") &&
            !options->by_hand && !options->events_only && !options->helpers);
}

void harness_settle(Harness *h)
{
    uint64_t number;

    wait_until(!atomic_load(&h->engine->helpers.busy));
    if (!h->handler) {
        return;
    }
    g_mutex_lock(&h->lock);
    number = ++h->asked;
    eventfd_write(h->request, 1);
    while (h->answers < number) {
        g_cond_wait(&h->answered, &h->lock);
    }
    g_mutex_unlock(&h->lock);
    /* what the handler left to them */
    wait_until(!atomic_load(&h->engine->helpers.busy));
}

static void host_unpinned(void *opaque)
{
    Harness *h = opaque;

    atomic_fetch_add(&h->n_unpinned, 1);
}

const HarnessOptions harness_evicting = {
    .size = 4 * MIB,
    .limit = MEMSWAP_MIN_LIMIT,
    .evictors = 1,
    .reserve_low = PAGE,
    .reserve_high = 2 * PAGE,
};

Harness *harness_new(const HarnessOptions *options)
{
    const MemswapHost host = {
        .clock_ns = options->fake_clock ? host_clock : NULL,
        .may_hold_back = host_may_hold_back,
        .held_up = host_held_up,
        .event = host_event,
        .trace = host_trace,
        .unpinned = host_unpinned,
    };
    Harness *h = g_new0(Harness, 1);
    MemswapConfig config = {
        .settings = {
            .limit = options->limit ?: MAX(options->size, MEMSWAP_MIN_LIMIT),
            .pool_limit = options->pool_limit ?: UINT64_MAX,
            .compression_level = -5,
            .when_full = options->overshoot ? MEMSWAP_FULL_OVERSHOOT :
                         MEMSWAP_FULL_HOLD,
            .readahead = options->readahead,
            .keep_copies = options->keep_copies,
        },
        .evictors = options->evictors,
        .reserve_low = options->reserve_low,
        .reserve_high = options->reserve_high,
        .user_mode_only = options->user_mode_only,
        .fault_mode = harness_inline(options) ? MEMSWAP_FAULTS_INLINE :
                      MEMSWAP_FAULTS_EVENTS,
        .huge_regions = options->huge,
        .fault_helpers = options->helpers,
        .spread_faults = options->spread,
        .reclaimer = options->reclaimer,
        .uffd = -1,
    };
    char *error = NULL;
    int ret;

    h->settings = config.settings;
    g_mutex_init(&h->lock);
    g_cond_init(&h->answered);
    h->fake_clock = options->fake_clock;
    h->clock = 1000000;
    if (!options->pool) {
        h->store = fake_store_new();
        h->store->limit = config.settings.pool_limit;
        h->store->slow_below = options->slow_store ? UINT64_MAX : 0;
    }
    ret = memswap_engine_new_with_store(
        &config, &host, h, h->store ? &h->store->store : NULL, &h->engine,
        &error);
    if (ret) {
        g_error("memswap_engine_new: %d: %s", ret, error);
    }
    if (config.fault_mode == MEMSWAP_FAULTS_INLINE) {
        inline_begin(h->engine);
    }
    if (options->size) {
        h->ram = options->hugetlb ? ram_new_hugetlb(options->size, 0) :
                 ram_new(options->size, 0);
        ram_add(h, &h->ram, "ram");
    }
    if (!options->by_hand) {
        h->request = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        h->handler = g_thread_new("handler", handler, h);
    }
    return h;
}

Harness *harness_with_page(uint64_t size, uint64_t page)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = size, .by_hand = true,
    });

    join_by_hand(h, task_start(h, task_write, page));
    return h;
}

static void stop_handler(Harness *h)
{
    if (h->handler) {
        atomic_store(&h->quit, true);
        eventfd_write(h->request, 1);
        g_thread_join(h->handler);
        close(h->request);
    }
}

static void free_rest(Harness *h)
{
    if (h->ram.host) {
        ram_free(&h->ram);
    }
    g_mutex_clear(&h->lock);
    g_cond_clear(&h->answered);
    g_free(h);
}

static int64_t task_free_engine(Harness *h, uint64_t arg)
{
    memswap_engine_free(h->engine);
    return 0;
}

void harness_abandon(Harness *h)
{
    stop_handler(h);
    inline_end(h->engine);
    task_join(task_start(h, task_free_engine, 0));
    h->ram.block = NULL;
    inject(NULL);
    free_rest(h);
}

void harness_free(Harness *h)
{
    inject(NULL);
    if (h->handler) {
        harness_check(h);
    }
    stop_handler(h);
    if (h->ram.block) {
        ram_remove(h, &h->ram);
        if (h->store) {
            g_assert_cmpuint(fake_store_live(h->store), ==, 0);
        }
        g_assert_cmpuint(atomic_load(&h->engine->charged), ==, 0);
        g_assert_cmpint(atomic_load(&h->engine->trial_pages), ==, 0);
        g_assert_cmpint(atomic_load(&h->engine->kept), ==, 0);
    }
    inline_end(h->engine);
    memswap_engine_free(h->engine);
    free_rest(h);
}

/* --- sums -------------------------------------------------------------- */

MemswapStats stats_of(Harness *h)
{
    MemswapStats stats;

    harness_settle(h);
    memswap_get_stats(h->engine, &stats);
    return stats;
}

static void check_block(Harness *h, MemswapBlock *block, MemswapStats *sum,
                        uint64_t *huge)
{
    uint64_t n[MEMSWAP_STATE__MAX] = { 0 };
    MemswapBlockStats stats;
    struct stat st;

    for (uint64_t page = 0; page < block->n_pages; page++) {
        uint64_t word = memswap_word_load(&block->words[page]);

        n[memswap_word_state(word)] += block->page_size;
        if (memswap_word_pins(word)) {
            sum->pinned += block->page_size;
        }
        if (word & MEMSWAP_WORD_KEPT) {
            sum->kept += block->page_size;
        }
    }
    g_assert_cmpuint(n[MEMSWAP_EVICTING], ==, 0);
    g_assert_cmpuint(n[MEMSWAP_FILLING], ==, 0);
    g_assert_cmpuint(n[MEMSWAP_DISCARDING], ==, 0);

    memswap_block_get_stats(block, &stats);
    g_assert_cmpuint(stats.managed, ==, block->size);
    g_assert_cmpuint(stats.resident, ==,
                     n[MEMSWAP_RESIDENT] + n[MEMSWAP_TRIAL]);
    g_assert_cmpuint(stats.stored, ==, n[MEMSWAP_STORED]);
    g_assert_cmpuint(stats.zero, ==, n[MEMSWAP_ZERO]);
    g_assert_cmpuint(stats.untouched, ==, n[MEMSWAP_ABSENT]);
    g_assert_cmpuint(stats.poisoned, ==, n[MEMSWAP_POISONED]);
    g_assert_cmpuint(stats.resident + stats.stored + stats.zero +
                     stats.untouched + stats.poisoned, ==, stats.managed);

    if (!block->fd_offset) {
        g_assert_cmpint(fstat(block->fd, &st), ==, 0);
        g_assert_cmpuint(st.st_blocks * 512ULL, ==, stats.resident);
    }
    for (uint64_t i = 0; i < block->n_regions; i++) {
        g_assert_cmpuint(atomic_load(&block->regions[i].owner), ==, 0);
        g_assert_cmpuint(atomic_load(&block->regions[i].zapping), ==, 0);
        if (atomic_load(&block->regions[i].huge) & MEMSWAP_HUGE_WHOLE) {
            g_assert_true(memswap_region_large(&block->regions[i]));
            g_assert_cmpuint(atomic_load(&block->regions[i].resident), ==,
                             REGION_PAGES);
            sum->huge += MEMSWAP_REGION_SIZE;
        }
    }
    if (block->alias) {
        *huge += stats.resident;
    }
    sum->managed += stats.managed;
    sum->resident += stats.resident;
    sum->trial += n[MEMSWAP_TRIAL];
    sum->stored += stats.stored;
    sum->zero += stats.zero;
    sum->untouched += stats.untouched;
    sum->poisoned += stats.poisoned;
}

void harness_check(Harness *h)
{
    unsigned int evictors = h->engine->n_evictors;
    MemswapStats stats, sum = { 0 };
    uint64_t huge = 0;

    harness_settle(h);
    /* In between two of their steps. */
    memswap_evictors_stop(h->engine);
    memswap_get_stats(h->engine, &stats);
    for (unsigned int i = 0; i < MEMSWAP_MAX_BLOCKS; i++) {
        MemswapBlock *block = atomic_load(&h->engine->blocks[i]);

        if (block) {
            check_block(h, block, &sum, &huge);
        }
    }
    g_assert_cmpuint(stats.managed, ==, sum.managed);
    g_assert_cmpuint(stats.resident, ==, sum.resident);
    g_assert_cmpuint(stats.trial, ==, sum.trial);
    g_assert_cmpuint(stats.stored, ==, sum.stored);
    g_assert_cmpuint(stats.zero, ==, sum.zero);
    g_assert_cmpuint(stats.untouched, ==, sum.untouched);
    g_assert_cmpuint(stats.poisoned, ==, sum.poisoned);
    g_assert_cmpuint(stats.pinned, ==, sum.pinned);
    g_assert_cmpuint(stats.kept, ==, sum.kept);
    g_assert_cmpuint(stats.huge, ==, sum.huge);
    g_assert_cmpuint(atomic_load(&h->engine->charged), ==, sum.resident);
    g_assert_cmpuint(atomic_load(&h->engine->hugetlb.resident) * 2 * MIB, ==,
                     huge);
    if (h->store) {
        g_assert_cmpuint(atomic_load(&h->store->live_bytes), ==,
                         sum.stored + sum.kept);
    }
    if (evictors) {
        atomic_store(&h->engine->stop, false);
        memswap_evictors_start(h->engine, evictors);
        /* so that the handler, too, knows of them */
        harness_settle(h);
    }
}

void harness_set_limit(Harness *h, uint64_t limit, uint64_t pool_limit)
{
    h->settings.limit = limit;
    if (pool_limit) {
        h->settings.pool_limit = pool_limit;
    }
    g_assert_cmpint(memswap_set_settings(h->engine, &h->settings, NULL), ==,
                    0);
}

void harness_tick(Harness *h, int64_t ns)
{
    atomic_fetch_add(&h->clock, ns);
}

unsigned int harness_events(Harness *h, MemswapEvent event)
{
    return atomic_load(&h->events[event]);
}

void harness_wait_fault(Harness *h)
{
    struct pollfd fd = {
        .fd = memswap_engine_fd(h->engine), .events = POLLIN,
    };

    g_assert_cmpint(poll(&fd, 1, PATIENCE_US / 1000), ==, 1);
}

void harness_handle(Harness *h)
{
    memswap_engine_handle(h->engine);
}

double stress_seconds(double otherwise)
{
    const char *value = g_getenv("MEMSWAP_STRESS_SECONDS");

    return value ? g_ascii_strtod(value, NULL) : otherwise;
}

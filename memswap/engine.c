/*
 * The engine: its life, its settings, its way to the outside
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "engine-private.h"
#include "policy-internal.h"
#include "pool.h"
#include "uffd.h"

/* Where reserves are not given: this part of the limit, within bounds. */
#define RESERVE_DIVISOR 64
#define RESERVE_MIN (256 * 1024)
#define RESERVE_MAX (32 * 1024 * 1024)

/* The largest page that may come to the store. */
#define MAX_PAGE_SIZE MEMSWAP_REGION_SIZE

int64_t memswap_now(MemswapEngine *engine)
{
    struct timespec now;

    if (engine->host.clock_ns) {
        return engine->host.clock_ns(engine->opaque);
    }
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

void memswap_event(MemswapEngine *engine, MemswapEvent event,
                   const MemswapBlock *block, uint64_t page)
{
    if (engine->host.event) {
        engine->host.event(engine->opaque, event, block->name,
                           page << block->page_shift);
    }
}

void memswap_unpinned(MemswapEngine *engine)
{
    if (engine->host.unpinned) {
        engine->host.unpinned(engine->opaque);
    }
}

void memswap_trace(MemswapEngine *engine, MemswapTracePoint point,
                   const MemswapBlock *block, uint64_t page, uint64_t arg)
{
    if (G_UNLIKELY(engine->host.trace)) {
        engine->host.trace(engine->opaque, point, block->name,
                           page << block->page_shift, arg);
    }
}

static bool has_copy_at_rest(uint64_t word)
{
    switch (memswap_word_state(word)) {
    case MEMSWAP_STORED:
        return true;
    case MEMSWAP_RESIDENT:
    case MEMSWAP_TRIAL:
        return word & MEMSWAP_WORD_KEPT;
    default:
        return false;
    }
}

/* The compactor wants an entry elsewhere: only while nobody uses it. */
static bool relocate(void *opaque, uint64_t owner, uint64_t from,
                     uint64_t to)
{
    MemswapEngine *engine = opaque;
    uint64_t page = owner & ((1ULL << MEMSWAP_OWNER_SHIFT) - 1);
    uint64_t slot = owner >> MEMSWAP_OWNER_SHIFT;
    /* An owner read from a damaged header may be anything. */
    MemswapBlock *block = slot < MEMSWAP_MAX_BLOCKS ?
                          memswap_block_get(engine, slot) : NULL;
    bool moved = false;

    if (!block) {
        return false;
    }
    if (page < block->n_pages) {
        MemswapWord *word = &block->words[page];
        uint64_t old = memswap_word_load(word);

        moved = has_copy_at_rest(old) && memswap_word_handle(old) == from &&
                memswap_word_cas(word, &old,
                                 memswap_word_with_handle(old, to));
    }
    memswap_block_unref(block);
    return moved;
}

/* See memswap_min_limit(). */
static uint64_t min_limit(uint64_t largest_page)
{
    return largest_page >= MEMSWAP_REGION_SIZE ? MEMSWAP_MIN_LIMIT_HUGETLB :
           MEMSWAP_MIN_LIMIT;
}

static uint64_t min_pin_limit(uint64_t largest_page)
{
    return largest_page >= MEMSWAP_REGION_SIZE ?
           MEMSWAP_MIN_PIN_LIMIT_HUGETLB : MEMSWAP_MIN_PIN_LIMIT;
}

static int check_settings(const MemswapSettings *settings,
                          uint64_t largest_page, uint64_t pinned,
                          uint64_t retained, uint64_t reserve, char **error)
{
    g_autofree char *wrong = NULL;

    if (settings->limit < min_limit(largest_page)) {
        wrong = g_strdup_printf("limit must be at least %" G_GUINT64_FORMAT
                                " MiB", min_limit(largest_page) >> 20);
    } else if (settings->limit <= reserve) {
        wrong = g_strdup("limit must be larger than the reserve");
    } else if (settings->limit < pinned) {
        wrong = g_strdup_printf("limit must be at least the %" G_GUINT64_FORMAT
                                " KiB that are pinned by I/O now",
                                pinned >> 10);
    } else if (settings->pin_limit &&
               settings->pin_limit < min_pin_limit(largest_page)) {
        wrong = g_strdup_printf("pin-limit must be at least %" G_GUINT64_FORMAT
                                " KiB", min_pin_limit(largest_page) >> 10);
    } else if (settings->pin_limit > settings->limit) {
        wrong = g_strdup("pin-limit must be at most limit");
    } else if (settings->limit < retained) {
        wrong = g_strdup_printf("limit must be at least the %" G_GUINT64_FORMAT
                                " KiB that stay for device processes",
                                retained >> 10);
    } else if (settings->pool_limit < MEMSWAP_MIN_POOL_LIMIT) {
        wrong = g_strdup_printf("pool-limit must be at least %llu MiB",
                                MEMSWAP_MIN_POOL_LIMIT >> 20);
    } else if (settings->codec != MEMSWAP_CODEC_ZSTD &&
               settings->codec != MEMSWAP_CODEC_LZ4) {
        wrong = g_strdup("codec must be zstd or lz4");
    } else if (settings->compression_level < memswap_pool_min_level() ||
               settings->compression_level > memswap_pool_max_level()) {
        wrong = g_strdup_printf("compression level must be from %d to %d",
                                memswap_pool_min_level(),
                                memswap_pool_max_level());
    } else if (settings->when_full != MEMSWAP_FULL_HOLD &&
               settings->when_full != MEMSWAP_FULL_OVERSHOOT) {
        wrong = g_strdup("when-full must be hold or overshoot");
    }
    if (!wrong) {
        return 0;
    }
    if (error) {
        *error = g_steal_pointer(&wrong);
    }
    return -EINVAL;
}

bool memswap_settings_in_range(const MemswapSettings *settings, char **error)
{
    return !check_settings(settings, 0, 0, 0, 0, error);
}

/*
 * The reserves that the limit and the pages ask for.  Of large pages there are
 * one or two free beyond that one which the next fault takes.
 */
static void choose_reserves(MemswapEngine *engine)
{
    uint64_t limit = atomic_load(&engine->limit);
    uint64_t page = atomic_load(&engine->largest_page);
    uint64_t reserve = CLAMP(limit / RESERVE_DIVISOR, RESERVE_MIN,
                             RESERVE_MAX);
    uint64_t low = MAX(reserve, MIN(2 * page, limit / 8));

    if (engine->reserve_auto) {
        atomic_store(&engine->reserve_low, low);
        atomic_store(&engine->reserve_high, MAX(2 * reserve, low + page));
    }
}

uint64_t memswap_min_limit(MemswapEngine *engine)
{
    return min_limit(atomic_load(&engine->largest_page));
}

int memswap_admit_page_size(MemswapEngine *engine, uint64_t page_size,
                            char **error)
{
    uint64_t need = min_limit(page_size);
    int ret = 0;

    g_mutex_lock(&engine->settings_lock);
    if (atomic_load(&engine->limit) < need) {
        ret = -EINVAL;
        if (error) {
            *error = g_strdup_printf("limit must be at least %"
                                     G_GUINT64_FORMAT " MiB with pages of %"
                                     G_GUINT64_FORMAT " MiB", need >> 20,
                                     page_size >> 20);
        }
    } else if (atomic_load(&engine->pin_limit) &&
               atomic_load(&engine->pin_limit) < min_pin_limit(page_size)) {
        ret = -EINVAL;
        if (error) {
            *error = g_strdup_printf("pin-limit must be at least %"
                                     G_GUINT64_FORMAT " MiB with pages of %"
                                     G_GUINT64_FORMAT " MiB",
                                     min_pin_limit(page_size) >> 20,
                                     page_size >> 20);
        }
    } else if (page_size > atomic_load(&engine->largest_page)) {
        atomic_store(&engine->largest_page, page_size);
        choose_reserves(engine);
    }
    g_mutex_unlock(&engine->settings_lock);
    return ret;
}

/* Called with settings_lock, or before anybody else knows the engine. */
static void apply_settings(MemswapEngine *engine,
                           const MemswapSettings *settings)
{
    memswap_set_limit(engine, settings->limit);
    atomic_store(&engine->pool_limit, settings->pool_limit);
    atomic_store(&engine->codec, settings->codec);
    atomic_store(&engine->compression_level, settings->compression_level);
    atomic_store(&engine->when_full, settings->when_full);
    atomic_store(&engine->readahead, settings->readahead);
    atomic_store(&engine->keep_copies, settings->keep_copies);
    atomic_store(&engine->pin_limit, settings->pin_limit);
    choose_reserves(engine);
}

void memswap_get_settings(MemswapEngine *engine, MemswapSettings *settings)
{
    g_mutex_lock(&engine->settings_lock);
    *settings = (MemswapSettings) {
        .limit = atomic_load(&engine->limit),
        .pool_limit = atomic_load(&engine->pool_limit),
        .codec = atomic_load(&engine->codec),
        .compression_level = atomic_load(&engine->compression_level),
        .when_full = atomic_load(&engine->when_full),
        .readahead = atomic_load(&engine->readahead),
        .keep_copies = atomic_load(&engine->keep_copies),
        .pin_limit = atomic_load(&engine->pin_limit),
    };
    g_mutex_unlock(&engine->settings_lock);
}

int memswap_set_settings(MemswapEngine *engine,
                         const MemswapSettings *settings, char **error)
{
    uint64_t limit = atomic_load(&engine->limit);
    int ret;

    g_mutex_lock(&engine->settings_lock);
    ret = check_settings(settings, atomic_load(&engine->largest_page),
                         memswap_sum(&engine->pinned),
                         settings->limit < limit ? memswap_retained(engine) : 0,
                         engine->reserve_auto ? 0 : engine->reserve_high,
                         error);
    if (!ret) {
        apply_settings(engine, settings);
        engine->store->ops->configure(engine->store, settings->pool_limit,
                                      settings->codec,
                                      settings->compression_level);
    }
    g_mutex_unlock(&engine->settings_lock);
    if (!ret) {
        if (memswap_policy_wants(engine, MEMSWAP_POLICY_EVENT_BIT(LIMIT)) &&
            settings->limit != limit) {
            memswap_policy_emit_limit(engine);
        }
        memswap_shed_excess(engine);
        memswap_evictors_kick(engine);
        memswap_collapser_kick(engine);
        memswap_room_made(engine);
    }
    return ret;
}

int memswap_engine_fd(MemswapEngine *engine)
{
    return engine->uffd;
}

static const char *open_error(int error)
{
    switch (error) {
    case -EPERM:
    case -EACCES:
        return "no right to userfaultfd: give this user access to "
               "/dev/userfaultfd, or CAP_SYS_PTRACE, or set "
               "vm.unprivileged_userfaultfd=1";
    case -ENOSYS:
        return "this kernel's userfaultfd has no minor faults on shared "
               "memory: use Linux 5.14 or newer";
    default:
        return g_strerror(-error);
    }
}

int memswap_engine_new_with_store(const MemswapConfig *config,
                                  const MemswapHost *host, void *opaque,
                                  MemswapStore *store,
                                  MemswapEngine **result, char **error)
{
    MemswapEngine *engine;
    bool hugetlb;
    int uffd;
    int ret = check_settings(&config->settings, 0, 0, 0,
                             MAX(config->reserve_low, config->reserve_high),
                             error);

    if (ret) {
        return ret;
    }
    uffd = memswap_uffd_open(config->uffd, config->user_mode_only,
                             config->fault_mode == MEMSWAP_FAULTS_INLINE,
                             &hugetlb);
    if (uffd < 0) {
        if (error) {
            *error = g_strdup(open_error(uffd));
        }
        return uffd;
    }

    engine = g_new0(MemswapEngine, 1);
    if (host) {
        engine->host = *host;
    }
    engine->opaque = opaque;
    engine->uffd = uffd;
    engine->inline_faults = config->fault_mode == MEMSWAP_FAULTS_INLINE;
    engine->hugetlb.supported = hugetlb;
    engine->store = store ?: memswap_pool_new(
        config->settings.pool_limit, config->settings.codec,
        config->settings.compression_level,
        MAX_PAGE_SIZE, relocate, engine);
    if (!engine->store) {
        if (error) {
            *error = g_strdup("no memory for the compressed pool");
        }
        close(uffd);
        g_free(engine);
        return -ENOMEM;
    }
    g_mutex_init(&engine->settings_lock);
    g_mutex_init(&engine->blocks_lock);
    g_mutex_init(&engine->reclaim_lock);
    g_mutex_init(&engine->stall_lock);
    g_mutex_init(&engine->overflow_lock);
    g_mutex_init(&engine->retain_lock);
    g_mutex_init(&engine->clients_lock);
    engine->clients = g_ptr_array_new();
    g_queue_init(&engine->trials);
    engine->removed = g_ptr_array_new_with_free_func(g_free);
    engine->stalled = g_array_new(false, false, sizeof(MemswapStalled));
    engine->overflow = g_hash_table_new(NULL, NULL);
    engine->reserve_auto = config->evictors && !config->reserve_low &&
                           !config->reserve_high;
    engine->reserve_low = config->reserve_low;
    engine->reserve_high = MAX(config->reserve_low, config->reserve_high);
    apply_settings(engine, &config->settings);
    memswap_readahead_init(engine);
    memswap_exposure_init(engine);
    memswap_workingset_init(engine);
    memswap_policies_init(engine);
    if (config->huge_regions) {
        memswap_huge_probe(engine);
    }
    memswap_evictors_start(engine, config->evictors);
    ret = memswap_helpers_start(engine, engine->inline_faults ? 0 :
                                config->fault_helpers, config->spread_faults);
    if (ret) {
        if (error) {
            *error = g_strdup_printf("no fault helpers: %s",
                                     g_strerror(-ret));
        }
        memswap_engine_free(engine);
        return ret;
    }
    if (config->reclaimer) {
        ret = memswap_policy_start_default(engine, config->reclaimer, error);
        if (ret) {
            memswap_engine_free(engine);
            return ret;
        }
    }
    *result = engine;
    return 0;
}

int memswap_engine_new(const MemswapConfig *config, const MemswapHost *host,
                       void *opaque, MemswapEngine **engine, char **error)
{
    return memswap_engine_new_with_store(config, host, opaque, NULL, engine,
                                         error);
}

void memswap_engine_free(MemswapEngine *engine)
{
#ifdef MEMSWAP_DEBUG
    if (atomic_load(&engine->pinned)) {
        g_error("memswap: %" G_GINT64_FORMAT " bytes are pinned for ever",
                (int64_t)atomic_load(&engine->pinned));
    }
#endif
    memswap_policies_destroy(engine);
    memswap_remotes_remove_all(engine);
    memswap_helpers_stop(engine);
    memswap_evictors_stop(engine);
    for (unsigned int i = 0; i < MEMSWAP_MAX_BLOCKS; i++) {
        MemswapBlock *block = atomic_load(&engine->blocks[i]);

        if (block) {
            memswap_block_remove(engine, block);
        }
    }
    engine->store->ops->free(engine->store);
    memswap_readahead_destroy(engine);
    memswap_exposure_destroy(engine);
    memswap_hugetlb_free(engine);
    memswap_helpers_free(engine);
    close(engine->uffd);
    g_hash_table_unref(engine->overflow);
    g_array_free(engine->stalled, true);
    g_ptr_array_unref(engine->removed);
    g_mutex_clear(&engine->settings_lock);
    g_mutex_clear(&engine->blocks_lock);
    g_mutex_clear(&engine->reclaim_lock);
    g_mutex_clear(&engine->stall_lock);
    g_mutex_clear(&engine->overflow_lock);
    g_mutex_clear(&engine->retain_lock);
    g_mutex_clear(&engine->clients_lock);
    g_ptr_array_unref(engine->clients);
    g_free(engine);
}

GThread *memswap_thread_new(const char *name, GThreadFunc function,
                            gpointer opaque, GError **why)
{
    sigset_t all, old;
    GThread *thread;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    thread = g_thread_try_new(name, function, opaque, why);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return thread;
}

/*
 * Huge regions, everything at once: no increment is lost
 *
 * Writers count up words of their own in every page, and count for themselves.
 * Meanwhile regions are collapsed, tried, evicted and discarded in part and as
 * a whole, pages are pinned, the limit moves, and somebody outside reads the
 * file, which keeps folios from being split and collapsed.  In the end each
 * word must be what its writer counted.
 *
 * MEMSWAP_STRESS_SECONDS says how long all of it takes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <poll.h>
#include <unistd.h>

#include "huge-ram.h"

#define REGIONS 16
#define RAM_SIZE (REGIONS * MEMSWAP_REGION_SIZE)
#define LIMIT (RAM_SIZE * 5 / 8)
/* Regions that the writers leave to whoever discards, for it to do so whole. */
#define DISCARD_REGIONS 2
#define WRITE_REGIONS (REGIONS - DISCARD_REGIONS)
/* Of the others, the pages at the end; these it discards one by one. */
#define DISCARD_PAGES 16
#define WRITE_PAGES (REGION_PAGES - DISCARD_PAGES)
#define HOT_REGIONS 4
#define WRITERS 4
#define PERIODS 2
#define PIN_MAX 8
/* Touches of one region, one after the other. */
#define ROUND 2048

typedef struct Stress {
    Harness *h;
    _Atomic bool stop;
    _Atomic uint64_t written, discarded, pinned, outside;
} Stress;

typedef struct Worker {
    Stress *stress;
    GRand *rand;
    unsigned int number;
    uint32_t *counts;       /* of a writer: by page */
    GThread *thread;
} Worker;

static int dice(Worker *worker, int n)
{
    return g_rand_int_range(worker->rand, 0, n);
}

/* A writer's word in a page. */
static _Atomic uint64_t *word_of(Stress *stress, uint64_t page,
                                 unsigned int writer)
{
    return (void *)(stress->h->ram.host + page * PAGE +
                    (writer + 1) * 64 * sizeof(uint64_t));
}

static gpointer write_words(gpointer opaque)
{
    Worker *worker = opaque;
    Stress *stress = worker->stress;

    while (!atomic_load(&stress->stop)) {
        unsigned int region = dice(worker, dice(worker, 8) ? HOT_REGIONS :
                                           WRITE_REGIONS);
        bool all = dice(worker, 2);

        for (unsigned int i = 0; i < ROUND; i++) {
            unsigned int n = all && i < REGION_PAGES ? i :
                             dice(worker, WRITE_PAGES / 3);
            uint64_t page = region * REGION_PAGES + n;
            _Atomic uint64_t *word = word_of(stress, page, worker->number);
            uint64_t value = atomic_load_explicit(word, memory_order_relaxed);

            if (n < WRITE_PAGES) {
                atomic_store_explicit(word, value + 1, memory_order_relaxed);
                worker->counts[page]++;
            }
        }
        atomic_fetch_add(&stress->written, ROUND);
    }
    return NULL;
}

/* Fill pages that nobody else uses, and forget them again. */
static void discard_some(Worker *worker, uint64_t first, uint64_t n)
{
    Harness *h = worker->stress->h;

    for (uint64_t page = first; page < first + n; page++) {
        ram_fill(h, page, 2 * page + 1);
    }
    g_usleep(dice(worker, 3000));
    for (uint64_t page = first; page < first + n; page++) {
        ram_check(h, page, 2 * page + 1);
    }
    g_assert_cmpint(memswap_discard(h->engine, h->ram.host + first * PAGE,
                                    n * PAGE), ==, 0);
    for (uint64_t page = first; page < first + n; page++) {
        ram_check(h, page, 0);
    }
    atomic_fetch_add(&worker->stress->discarded, n);
}

static gpointer discard(gpointer opaque)
{
    Worker *worker = opaque;

    while (!atomic_load(&worker->stress->stop)) {
        uint64_t region = dice(worker, REGIONS);
        uint64_t first = region * REGION_PAGES;

        if (region >= WRITE_REGIONS) {
            discard_some(worker, first, REGION_PAGES);
        } else {
            uint64_t n = 1 + dice(worker, DISCARD_PAGES);

            discard_some(worker, first + REGION_PAGES - n, n);
        }
    }
    return NULL;
}

/* What is pinned is mapped, all the time. */
static gpointer pin(gpointer opaque)
{
    Worker *worker = opaque;
    Stress *stress = worker->stress;
    Harness *h = stress->h;

    while (!atomic_load(&stress->stop)) {
        uint64_t n = 1 + dice(worker, PIN_MAX);
        uint64_t page = dice(worker, HOT_REGIONS) * REGION_PAGES +
                        dice(worker, WRITE_PAGES - n);
        uint8_t *host = h->ram.host + page * PAGE;
        int looks = 1 + dice(worker, 30);

        g_assert_cmpint(memswap_pin(h->engine, host, n * PAGE), ==, 0);
        while (looks--) {
            g_assert_true(ram_mapped(&h->ram, page + dice(worker, n)));
        }
        memswap_unpin(h->engine, host, n * PAGE);
        atomic_fetch_add(&stress->pinned, n);
        g_usleep(dice(worker, 2000));
    }
    return NULL;
}

static gpointer read_outside(gpointer opaque)
{
    Worker *worker = opaque;
    Stress *stress = worker->stress;
    char page[PAGE];

    while (!atomic_load(&stress->stop)) {
        off_t offset = dice(worker, RAM_SIZE / PAGE) * PAGE;

        g_assert_cmpint(pread(stress->h->ram.fd, page, PAGE, offset), ==,
                        PAGE);
        atomic_fetch_add(&stress->outside, 1);
        if (!dice(worker, 4)) {
            g_usleep(dice(worker, 100));
        }
    }
    return NULL;
}

/* More often than the collapser would. */
static gpointer collapse(gpointer opaque)
{
    Worker *worker = opaque;
    Stress *stress = worker->stress;

    while (!atomic_load(&stress->stop)) {
        huge_pass(stress->h);
        g_usleep(dice(worker, 1000));
    }
    return NULL;
}

static gpointer reclaim(gpointer opaque)
{
    Worker *worker = opaque;
    Stress *stress = worker->stress;
    Harness *h = stress->h;
    uint64_t gone;

    while (!atomic_load(&stress->stop)) {
        switch (dice(worker, 4)) {
        case 0:
            harness_set_limit(h, LIMIT / 2 + dice(worker, LIMIT / PAGE) *
                              PAGE, 0);
            break;
        case 1:
            memswap_reclaim(h->engine, dice(worker, 4 * MIB));
            break;
        default:
            memswap_reclaim_step(h->engine, dice(worker, MIB),
                                 !dice(worker, 8), &gone);
            memswap_room_made(h->engine);
            break;
        }
        g_usleep(dice(worker, 3000));
    }
    return NULL;
}

/* A second one that resolves faults. */
static gpointer handle_too(gpointer opaque)
{
    Worker *worker = opaque;
    MemswapEngine *engine = worker->stress->h->engine;
    struct pollfd fd = {
        .fd = memswap_engine_fd(engine), .events = POLLIN,
    };

    while (!atomic_load(&worker->stress->stop)) {
        if (poll(&fd, 1, 10) > 0) {
            memswap_engine_handle(engine);
        }
    }
    return NULL;
}

static uint64_t count_lost(Stress *stress, Worker *writers)
{
    uint64_t lost = 0;

    for (uint64_t page = 0; page < WRITE_REGIONS * REGION_PAGES; page++) {
        for (unsigned int i = 0; i < WRITERS; i++) {
            uint64_t value = atomic_load(word_of(stress, page, i));

            if (value != writers[i].counts[page]) {
                g_test_message("page %" G_GUINT64_FORMAT ", writer %u: %"
                               G_GUINT64_FORMAT " instead of %u", page, i,
                               value, writers[i].counts[page]);
                lost++;
            }
        }
    }
    return lost;
}

/* Is there nothing left that the stress is to bring about? */
static bool happened(Harness *h)
{
    MemswapStats stats = stats_of(h);

    return stats.collapses && stats.splits && stats.evictions;
}

static void stress(const HarnessOptions *options)
{
    static GThreadFunc functions[] = {
        discard, pin, read_outside, collapse, reclaim, handle_too,
    };
    const unsigned int n = WRITERS + G_N_ELEMENTS(functions);
    Stress stress = { .h = huge_new(options) };
    Calls calls = { .times = 0 };
    g_autofree Worker *workers = g_new0(Worker, n);
    Harness *h = stress.h;
    MemswapStats stats;

    if (!h) {
        return;
    }
    g_assert_cmpint(memswap_discard(h->engine, h->ram.host, RAM_SIZE), ==, 0);
    calls_count(&calls);
    for (unsigned int i = 0; i < n; i++) {
        workers[i].stress = &stress;
        workers[i].number = i;
        workers[i].rand = g_rand_new_with_seed(g_test_rand_int());
        workers[i].counts = g_new0(uint32_t, RAM_SIZE / PAGE);
        workers[i].thread = g_thread_new(
            "worker", i < WRITERS ? write_words : functions[i - WRITERS],
            &workers[i]);
    }
    g_usleep(stress_seconds(5) * G_USEC_PER_SEC / PERIODS);
    /* a busy machine needs more time to come to each of these */
    wait_until(happened(h));
    atomic_store(&stress.stop, true);
    for (unsigned int i = 0; i < n; i++) {
        g_thread_join(workers[i].thread);
        g_rand_free(workers[i].rand);
    }
    stats = stats_of(h);
    g_test_message("%" G_GUINT64_FORMAT " increments, %" G_GUINT64_FORMAT
                   " pages discarded, %" G_GUINT64_FORMAT " pinned, %"
                   G_GUINT64_FORMAT " read outside; %" G_GUINT64_FORMAT
                   " collapses of %u, %" G_GUINT64_FORMAT " failed, %"
                   G_GUINT64_FORMAT " trials, %" G_GUINT64_FORMAT
                   " evictions, %" G_GUINT64_FORMAT " splits, %"
                   G_GUINT64_FORMAT " KiB huge", stress.written,
                   stress.discarded, stress.pinned, stress.outside,
                   stats.collapses, calls.n[INJECT_COLLAPSE],
                   stats.collapse_failures, stats.trials, stats.evictions,
                   stats.splits, stats.huge / 1024);
    inject(NULL);
    harness_check(h);
    harness_set_limit(h, 2 * RAM_SIZE, 0);
    g_assert_cmpuint(count_lost(&stress, workers), ==, 0);
    harness_check(h);
    /*
     * All of it from huge regions, then from the store.  After a collapse
     * that failed, as some do on a busy machine, a region rests for 30 ticks.
     */
    for (unsigned int i = 0; i < 300 && stats_of(h).huge < RAM_SIZE; i++) {
        for (uint64_t page = 0; page < RAM_SIZE / PAGE; page++) {
            ram_touch(h, page);
        }
        huge_pass(h);
    }
    g_assert_cmpuint(stats_of(h).huge, ==, RAM_SIZE);
    g_assert_cmpuint(count_lost(&stress, workers), ==, 0);
    memswap_reclaim(h->engine, RAM_SIZE);
    g_assert_cmpuint(count_lost(&stress, workers), ==, 0);
    harness_check(h);
    for (unsigned int i = 0; i < n; i++) {
        g_free(workers[i].counts);
    }
    harness_free(h);
}

static void test_evictor(void)
{
    stress(&(HarnessOptions) {
        .size = RAM_SIZE, .limit = LIMIT, .evictors = 1, .pool = true,
        .huge = true, .keep_copies = 6 * MIB, .readahead = 16 * PAGE,
    });
}

/* Two of them, and a store that is too small. */
static void test_full(void)
{
    stress(&(HarnessOptions) {
        .size = RAM_SIZE, .limit = LIMIT, .evictors = 2, .pool = true,
        .pool_limit = 4 * MIB, .overshoot = true, .huge = true,
    });
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/huge-stress/evictor", test_evictor);
    g_test_add_func("/huge-stress/full", test_full);
    return g_test_run();
}

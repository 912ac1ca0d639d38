/*
 * Memory of two processes under stress: both count, and no count is lost
 *
 * Threads of ours and of another process increment counters in the same pages,
 * by CPU and through system calls, while these are evicted, brought back, and
 * pinned, and the limit changes.  Each keeps a tally of its own.  Now and then
 * the other process is killed in the middle of it, and another one comes.
 *
 * MEMSWAP_STRESS_SECONDS says how long all of it takes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "harness.h"
#include "other.h"

#define RAM_SIZE (24 * MIB)
/* Pages beyond these are discarded, and hold no counts. */
#define PAGES (20 * MIB / PAGE)
#define ALL (RAM_SIZE / PAGE)
#define THREADS 2
#define LIVES 4
#define PERIODS 3

/* By words of a page: those of our threads. */
#define WORD_OURS 32

typedef struct Stress {
    Harness *h;
    OtherStress *shared;
    int shared_fd;
    _Atomic bool stop;
    _Atomic uint64_t counted, pinned, limits, discarded;
    _Atomic uint64_t *tally;        /* by thread and page */
    uint64_t limit;
} Stress;

typedef struct Worker {
    Stress *stress;
    unsigned int number;
    GRand *rand;
    GThread *thread;
} Worker;

static _Atomic uint64_t *page_words(Stress *stress, uint64_t page)
{
    return (void *)(stress->h->ram.host + page * PAGE);
}

static void count_on(Worker *worker, uint64_t page)
{
    Stress *stress = worker->stress;
    _Atomic uint64_t *words = page_words(stress, page);
    _Atomic uint64_t *tally = &stress->tally[worker->number * PAGES + page];
    uint64_t n = atomic_fetch_add(tally, 1);

    g_assert_cmpuint(atomic_fetch_add(&words[WORD_OURS + worker->number], 1),
                     ==, n);
    atomic_fetch_add(&words[OTHER_WORD_ALL], 1);
    atomic_fetch_add(&stress->counted, 1);
}

static gpointer count(gpointer opaque)
{
    Worker *worker = opaque;
    Stress *stress = worker->stress;

    while (!atomic_load(&stress->stop)) {
        uint64_t page = g_rand_int_range(worker->rand, 0, PAGES);
        bool pin = g_rand_int_range(worker->rand, 0, 16) == 0;
        void *host = stress->h->ram.host + page * PAGE;

        if (pin) {
            g_assert_cmpint(memswap_pin(stress->h->engine, host, PAGE), ==,
                            0);
            atomic_fetch_add(&stress->pinned, 1);
        }
        count_on(worker, page);
        if (pin) {
            memswap_unpin(stress->h->engine, host, PAGE);
        }
    }
    return NULL;
}

/* Pages that nobody counts on come and go. */
static gpointer discard(gpointer opaque)
{
    Worker *worker = opaque;
    Stress *stress = worker->stress;

    while (!atomic_load(&stress->stop)) {
        uint64_t page = g_rand_int_range(worker->rand, PAGES, ALL - 16);
        uint64_t n = g_rand_int_range(worker->rand, 1, 16);

        ram_check(stress->h, page, 0);
        ram_fill(stress->h, page, 2 * page + 1);
        ram_fill(stress->h, page + n, 2 * page + 2);
        g_assert_cmpint(memswap_discard(stress->h->engine,
                                        stress->h->ram.host + page * PAGE,
                                        (n + 1) * PAGE), ==, 0);
        atomic_fetch_add(&stress->discarded, n + 1);
    }
    return NULL;
}

static gpointer move_limit(gpointer opaque)
{
    Worker *worker = opaque;
    Stress *stress = worker->stress;

    while (!atomic_load(&stress->stop)) {
        uint64_t limit = stress->limit / 2 + g_rand_int_range(
            worker->rand, 0, stress->limit / PAGE) * PAGE;

        harness_set_limit(stress->h, limit, 0);
        atomic_fetch_add(&stress->limits, 1);
        g_usleep(g_rand_int_range(worker->rand, 0, 20000));
        memswap_reclaim(stress->h->engine,
                        g_rand_int_range(worker->rand, 0, 4 * MIB));
    }
    return NULL;
}

/*
 * The other process was killed: a thread of it may have been between a count
 * and its tally.
 */
static void reconcile(Stress *stress)
{
    for (unsigned int t = 0; t < OTHER_THREADS; t++) {
        uint64_t page = atomic_exchange(&stress->shared->intent[t], 0);
        _Atomic uint64_t *tally, *words;
        uint64_t n, found;

        if (!page--) {
            continue;
        }
        tally = &stress->shared->tally[t * PAGES + page];
        words = page_words(stress, page);
        n = atomic_load(tally);
        found = atomic_load(&words[OTHER_WORD_THREAD + t]);
        g_assert_cmpuint(found, >=, n);
        g_assert_cmpuint(found, <=, n + 1);
        /* as if it had not begun */
        if (found > n) {
            atomic_store(&words[OTHER_WORD_THREAD + t], n);
        }
    }
}

static uint64_t sum_tallies(Stress *stress, uint64_t page)
{
    uint64_t sum = 0;

    for (unsigned int t = 0; t < OTHER_THREADS; t++) {
        sum += atomic_load(&stress->shared->tally[t * PAGES + page]);
    }
    for (unsigned int t = 0; t < THREADS; t++) {
        sum += atomic_load(&stress->tally[t * PAGES + page]);
    }
    return sum;
}

/* Every count of every page.  @killed: others, that may have counted once. */
static void check_all(Stress *stress, unsigned int killed)
{
    uint64_t extra = 0;

    for (uint64_t page = 0; page < PAGES; page++) {
        _Atomic uint64_t *words = page_words(stress, page);
        uint64_t sum = sum_tallies(stress, page);
        uint64_t all = atomic_load(&words[OTHER_WORD_ALL]);

        g_assert_cmpuint(all, >=, sum);
        extra += all - sum;
        for (unsigned int t = 0; t < OTHER_THREADS; t++) {
            uint64_t kernel = atomic_load(&words[OTHER_WORD_KERNEL + t]);

            sum = atomic_load(&stress->shared->tally[t * PAGES + page]);
            g_assert_cmpuint(atomic_load(&words[OTHER_WORD_THREAD + t]), ==,
                             sum);
            g_assert_cmpuint(kernel, <=, sum + 1);
        }
        for (unsigned int t = 0; t < THREADS; t++) {
            g_assert_cmpuint(atomic_load(&words[WORD_OURS + t]), ==,
                             atomic_load(&stress->tally[t * PAGES + page]));
        }
    }
    g_assert_cmpuint(extra, <=, killed * OTHER_THREADS);
}

static void live(Stress *stress, bool die)
{
    Other *other = other_expose(stress->h);
    uint64_t before = atomic_load(&stress->shared->done);

    atomic_store(&stress->shared->stop, false);
    other_begin_stress(other, stress->shared_fd, PAGES, g_test_rand_int());
    g_usleep(stress_seconds(5) * G_USEC_PER_SEC / PERIODS / LIVES);
    wait_until(atomic_load(&stress->shared->done) > before + 100);
    if (die) {
        other_kill(other);
        reconcile(stress);
    } else {
        atomic_store(&stress->shared->stop, true);
        other_finish(other);
    }
    other_conceal(other);
}

static void stress(const HarnessOptions *options)
{
    static GThreadFunc functions[] = { discard, move_limit };
    const unsigned int n = THREADS + G_N_ELEMENTS(functions);
    Stress stress = {
        .h = harness_new(options),
        .tally = (void *)g_new0(uint64_t, THREADS * PAGES),
        .limit = options->limit,
    };
    g_autofree Worker *workers = g_new0(Worker, n);
    Harness *h = stress.h;
    MemswapStats stats;

    stress.shared = other_stress_new(PAGES, &stress.shared_fd);
    for (unsigned int i = 0; i < n; i++) {
        workers[i].stress = &stress;
        workers[i].number = i;
        workers[i].rand = g_rand_new_with_seed(g_test_rand_int());
        workers[i].thread = g_thread_new(
            "worker", i < THREADS ? count : functions[i - THREADS],
            &workers[i]);
    }
    for (unsigned int i = 0; i < LIVES; i++) {
        live(&stress, i + 1 < LIVES);
    }
    atomic_store(&stress.stop, true);
    for (unsigned int i = 0; i < n; i++) {
        g_thread_join(workers[i].thread);
        g_rand_free(workers[i].rand);
    }
    stats = stats_of(h);
    g_test_message("%" G_GUINT64_FORMAT " counts here, %" G_GUINT64_FORMAT
                   " there, %" G_GUINT64_FORMAT " pinned, %"
                   G_GUINT64_FORMAT " limits, %" G_GUINT64_FORMAT
                   " discarded; %" G_GUINT64_FORMAT " evictions, %"
                   G_GUINT64_FORMAT " changed meanwhile, %" G_GUINT64_FORMAT
                   " refaults, %" G_GUINT64_FORMAT " faults there, %"
                   G_GUINT64_FORMAT " stalls, %" G_GUINT64_FORMAT
                   " overshoots", stress.counted,
                   atomic_load(&stress.shared->done), stress.pinned,
                   stress.limits, stress.discarded, stats.evictions,
                   stats.changed, stats.refaults, stats.remote_faults,
                   stats.stalls, stats.overshoots);
    g_assert_cmpuint(stats.evictions, >, 0);
    g_assert_cmpuint(stats.remote_faults, >, 0);
    harness_check(h);
    harness_set_limit(h, 2 * RAM_SIZE, UINT64_MAX);
    check_all(&stress, LIVES - 1);
    memswap_reclaim(h->engine, RAM_SIZE);
    harness_check(h);
    check_all(&stress, LIVES - 1);
    harness_check(h);
    other_stress_free(stress.shared, PAGES, stress.shared_fd);
    g_free((void *)stress.tally);
    harness_free(h);
}

static void test_evictors(void)
{
    stress(&(HarnessOptions) {
        .size = RAM_SIZE, .limit = 8 * MIB, .evictors = 2, .pool = true,
        .keep_copies = 2 * MIB, .readahead = 64 * PAGE,
    });
}

/* Next to no room. */
static void test_tight(void)
{
    stress(&(HarnessOptions) {
        .size = RAM_SIZE, .limit = 2 * MIB, .evictors = 1, .pool = true,
    });
}

/* A store that is too small. */
static void test_full(void)
{
    stress(&(HarnessOptions) {
        .size = RAM_SIZE, .limit = 8 * MIB, .evictors = 2, .pool = true,
        .pool_limit = 4 * MIB, .overshoot = true, .keep_copies = RAM_SIZE,
    });
}

int main(int argc, char **argv)
{
    other_main(argc, argv);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/exposed-stress/evictors", test_evictors);
    g_test_add_func("/exposed-stress/tight", test_tight);
    g_test_add_func("/exposed-stress/full", test_full);
    return g_test_run();
}

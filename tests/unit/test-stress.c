/*
 * Everything at once, every value checked
 *
 * Threads read and write pages, by CPU and through system calls on pinned
 * memory, and discard them, while others change the limit, reclaim, resolve
 * faults, and plug and unplug memory.  A page's lock orders those who use it,
 * as a guest's own locks would; the engine knows nothing of it.
 *
 * MEMSWAP_STRESS_SECONDS says how long all of it takes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"

#define RAM_SIZE (48 * MIB)
#define PAGES (RAM_SIZE / PAGE)
/* Most accesses go to so many pages, in several places. */
#define HOT_PAGES 1200
#define RUN_MAX 16
#define SCAN_PAGES 100
#define WORKERS 4
#define PERIODS 5

typedef struct Model {
    GMutex lock;
    uint64_t number;
} Model;

typedef struct Stress {
    Harness *h;
    Model *pages;
    bool kernel_faults;     /* system calls may be given what is not pinned */
    _Atomic bool stop;
    _Atomic uint64_t next_number;
    _Atomic uint64_t checked, written, discarded, pinned, moved_limit,
                     plugged;
    uint64_t limit_min, limit_max;
} Stress;

typedef struct Worker {
    Stress *stress;
    GRand *rand;
    int file;
    GThread *thread;
} Worker;

static uint64_t pick(Worker *worker)
{
    uint64_t page = g_rand_int_range(worker->rand, 0, PAGES);

    if (g_rand_int_range(worker->rand, 0, 4)) {
        page = (page % HOT_PAGES) * 7 % PAGES;
    }
    return page;
}

static uint64_t new_number(Stress *stress)
{
    return atomic_fetch_add(&stress->next_number, 1);
}

static void do_read(Worker *worker)
{
    Stress *stress = worker->stress;
    uint64_t page = pick(worker);
    Model *model = &stress->pages[page];

    g_mutex_lock(&model->lock);
    ram_check(stress->h, page, model->number);
    g_mutex_unlock(&model->lock);
    atomic_fetch_add(&stress->checked, 1);
}

static void do_write(Worker *worker)
{
    Stress *stress = worker->stress;
    uint64_t page = pick(worker);
    Model *model = &stress->pages[page];

    g_mutex_lock(&model->lock);
    if (g_rand_int_range(worker->rand, 0, 4) == 0) {
        ram_check(stress->h, page, model->number);
    }
    model->number = new_number(stress);
    ram_fill(stress->h, page, model->number);
    g_mutex_unlock(&model->lock);
    atomic_fetch_add(&stress->written, 1);
}

/* Several pages side by side, locked in order. */
static uint64_t lock_run(Worker *worker, uint64_t *n)
{
    uint64_t first = pick(worker);

    *n = g_rand_int_range(worker->rand, 1, RUN_MAX + 1);
    *n = MIN(*n, PAGES - first);
    for (uint64_t i = 0; i < *n; i++) {
        g_mutex_lock(&worker->stress->pages[first + i].lock);
    }
    return first;
}

static void unlock_run(Worker *worker, uint64_t first, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        g_mutex_unlock(&worker->stress->pages[first + i].lock);
    }
}

static void do_discard(Worker *worker)
{
    Stress *stress = worker->stress;
    uint64_t n, first = lock_run(worker, &n);

    g_assert_cmpint(memswap_discard(stress->h->engine,
                                    stress->h->ram.host + first * PAGE,
                                    n * PAGE), ==, 0);
    for (uint64_t i = 0; i < n; i++) {
        stress->pages[first + i].number = 0;
    }
    ram_check(stress->h, first, 0);
    unlock_run(worker, first, n);
    atomic_fetch_add(&stress->discarded, n);
}

/* Is it what the pages should be? */
static void check_buffer(Worker *worker, const uint64_t *buffer,
                         uint64_t first, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t want[PAGE / sizeof(uint64_t)];

        page_build(want, worker->stress->pages[first + i].number);
        g_assert_cmpmem(buffer + i * G_N_ELEMENTS(want), PAGE, want, PAGE);
    }
}

/*
 * The kernel reads or writes guest memory.  The calls are made without the C
 * library, for ThreadSanitizer to see only what the page locks order.
 */
static void do_call(Worker *worker)
{
    Stress *stress = worker->stress;
    Harness *h = stress->h;
    uint64_t buffer[RUN_MAX * PAGE / sizeof(uint64_t)];
    uint64_t n, first = lock_run(worker, &n);
    uint8_t *host = h->ram.host + first * PAGE;
    bool pin = !stress->kernel_faults ||
               g_rand_int_range(worker->rand, 0, 2);

    if (pin) {
        g_assert_cmpint(memswap_pin(h->engine, host, n * PAGE), ==, 0);
        atomic_fetch_add(&stress->pinned, n);
    }
    if (g_rand_int_range(worker->rand, 0, 2)) {
        g_assert_cmpint(syscall(SYS_pwrite64, worker->file, host, n * PAGE,
                                0), ==, n * PAGE);
        g_assert_cmpint(pread(worker->file, buffer, n * PAGE, 0), ==,
                        n * PAGE);
        check_buffer(worker, buffer, first, n);
        atomic_fetch_add(&stress->checked, n);
    } else {
        for (uint64_t i = 0; i < n; i++) {
            uint64_t number = new_number(stress);

            page_build(buffer + i * PAGE / sizeof(*buffer), number);
            stress->pages[first + i].number = number;
        }
        g_assert_cmpint(pwrite(worker->file, buffer, n * PAGE, 0), ==,
                        n * PAGE);
        g_assert_cmpint(syscall(SYS_pread64, worker->file, host, n * PAGE,
                                0), ==, n * PAGE);
        atomic_fetch_add(&stress->written, n);
    }
    if (pin) {
        memswap_unpin(h->engine, host, n * PAGE);
    }
    unlock_run(worker, first, n);
}

/* In order, so that pages are read ahead. */
static void do_scan(Worker *worker)
{
    Stress *stress = worker->stress;
    uint64_t page = pick(worker);
    uint64_t end = MIN(page + SCAN_PAGES, PAGES);

    for (; page < end; page++) {
        Model *model = &stress->pages[page];

        g_mutex_lock(&model->lock);
        ram_check(stress->h, page, model->number);
        g_mutex_unlock(&model->lock);
        atomic_fetch_add(&stress->checked, 1);
    }
}

static gpointer work(gpointer opaque)
{
    Worker *worker = opaque;

    while (!atomic_load(&worker->stress->stop)) {
        int dice = g_rand_int_range(worker->rand, 0, 100);

        if (dice < 48) {
            do_read(worker);
        } else if (dice < 50) {
            do_scan(worker);
        } else if (dice < 80) {
            do_write(worker);
        } else if (dice < 90) {
            do_call(worker);
        } else if (dice < 95) {
            do_discard(worker);
        } else {
            /* without a lock: somebody else's race */
            ram_touch(worker->stress->h, pick(worker));
        }
    }
    return NULL;
}

static gpointer move_limit(gpointer opaque)
{
    Worker *worker = opaque;
    Stress *stress = worker->stress;

    while (!atomic_load(&stress->stop)) {
        uint64_t limit = g_rand_int_range(worker->rand,
                                          stress->limit_min / PAGE,
                                          stress->limit_max / PAGE) * PAGE;

        harness_set_limit(stress->h, limit, 0);
        atomic_fetch_add(&stress->moved_limit, 1);
        g_usleep(g_rand_int_range(worker->rand, 0, 20000));
        memswap_reclaim(stress->h->engine,
                        g_rand_int_range(worker->rand, 0, 4 * MIB));
    }
    return NULL;
}

/* A second one that resolves faults, and looks at the sums. */
static gpointer handle_too(gpointer opaque)
{
    Worker *worker = opaque;
    MemswapEngine *engine = worker->stress->h->engine;
    struct pollfd fd = {
        .fd = memswap_engine_fd(engine), .events = POLLIN,
    };
    MemswapStats stats;

    while (!atomic_load(&worker->stress->stop)) {
        if (poll(&fd, 1, 10) > 0) {
            memswap_engine_handle(engine);
        } else {
            memswap_get_stats(engine, &stats);
            g_assert_cmpuint(stats.managed, >=, RAM_SIZE);
            g_assert_cmpuint(stats.resident, <=, stats.managed);
        }
    }
    return NULL;
}

/* Memory that comes and goes. */
static gpointer plug(gpointer opaque)
{
    Worker *worker = opaque;
    Stress *stress = worker->stress;
    Harness *h = stress->h;

    while (!atomic_load(&stress->stop)) {
        Ram ram = ram_new(g_rand_int_range(worker->rand, 1, 600) * PAGE, 0);
        uint64_t n = ram.size / PAGE;
        uint64_t want[PAGE / sizeof(uint64_t)];

        for (uint64_t page = 0; page < n; page++) {
            if (page == n / 2) {
                ram_add(h, &ram, "plugged");
            }
            page_build(ram.host + page * PAGE, page);
        }
        g_usleep(g_rand_int_range(worker->rand, 0, 5000));
        for (uint64_t page = 0; page < n; page++) {
            page_build(want, page);
            g_assert_cmpmem(ram.host + page * PAGE, PAGE, want, PAGE);
        }
        if (!ram.block) {
            ram_add(h, &ram, "plugged");
        }
        ram_remove(h, &ram);
        ram_free(&ram);
        atomic_fetch_add(&stress->plugged, 1);
    }
    return NULL;
}

static void check_all(Stress *stress)
{
    for (uint64_t page = 0; page < PAGES; page++) {
        ram_check(stress->h, page, stress->pages[page].number);
    }
}

static void stress(const HarnessOptions *options, bool kernel_faults)
{
    static GThreadFunc functions[] = { move_limit, handle_too, plug };
    const unsigned int n = WORKERS + G_N_ELEMENTS(functions);
    Stress stress = {
        .h = harness_new(options),
        .pages = g_new0(Model, PAGES),
        .kernel_faults = kernel_faults && !harness_inline(options),
        .next_number = 1,
        .limit_min = options->limit / 2,
        .limit_max = options->limit * 3 / 2,
    };
    g_autofree Worker *workers = g_new0(Worker, n);
    Harness *h = stress.h;
    MemswapStats stats;

    for (uint64_t page = 0; page < PAGES; page++) {
        g_mutex_init(&stress.pages[page].lock);
    }
    for (unsigned int i = 0; i < n; i++) {
        workers[i].stress = &stress;
        workers[i].rand = g_rand_new_with_seed(g_test_rand_int());
        workers[i].file = memfd_create("file", MFD_CLOEXEC);
        workers[i].thread = g_thread_new(
            "worker", i < WORKERS ? work : functions[i - WORKERS],
            &workers[i]);
    }
    g_usleep(stress_seconds(5) * G_USEC_PER_SEC / PERIODS);
    atomic_store(&stress.stop, true);
    for (unsigned int i = 0; i < n; i++) {
        g_thread_join(workers[i].thread);
        g_rand_free(workers[i].rand);
        close(workers[i].file);
    }
    stats = stats_of(h);
    g_test_message("%" G_GUINT64_FORMAT " pages read and right, %"
                   G_GUINT64_FORMAT " written, %" G_GUINT64_FORMAT
                   " discarded, %" G_GUINT64_FORMAT " pinned, %"
                   G_GUINT64_FORMAT " limits, %" G_GUINT64_FORMAT
                   " blocks; %" G_GUINT64_FORMAT " evictions, %"
                   G_GUINT64_FORMAT " refaults, %" G_GUINT64_FORMAT
                   " trials, %" G_GUINT64_FORMAT " given back, %"
                   G_GUINT64_FORMAT " moved, %" G_GUINT64_FORMAT
                   " stalls", stress.checked, stress.written,
                   stress.discarded, stress.pinned, stress.moved_limit,
                   stress.plugged, stats.evictions, stats.refaults,
                   stats.trials, stats.given_back, stats.pool_moved,
                   stats.stalls);
    g_assert_cmpuint(stats.evictions, >, 0);
    g_assert_cmpuint(stats.refaults, >, 0);
    harness_check(h);

    /* All of it once more, then from the store. */
    harness_set_limit(h, 2 * RAM_SIZE, UINT64_MAX);
    check_all(&stress);
    harness_check(h);
    memswap_reclaim(h->engine, RAM_SIZE);
    harness_check(h);
    check_all(&stress);
    harness_check(h);
    g_assert_cmpint(memswap_discard(h->engine, h->ram.host, RAM_SIZE), ==, 0);
    stats = stats_of(h);
    g_assert_cmpuint(stats.untouched, ==, RAM_SIZE);
    g_assert_cmpuint(stats.pool_live_bytes, ==, 0);
    g_assert_cmpuint(ram_cached(&h->ram), ==, 0);
    for (uint64_t page = 0; page < PAGES; page++) {
        g_mutex_clear(&stress.pages[page].lock);
    }
    g_free(stress.pages);
    harness_free(h);
}

/* Two evictors; system calls need pins. */
static void test_pins(void)
{
    stress(&(HarnessOptions) {
        .size = RAM_SIZE, .limit = 12 * MIB, .evictors = 2, .pool = true,
        .user_mode_only = true,
    }, false);
}

/* One evictor; faults in the kernel, too. */
static void test_kernel_faults(void)
{
    stress(&(HarnessOptions) {
        .size = RAM_SIZE, .limit = 12 * MIB, .evictors = 1, .pool = true,
        .readahead = 64 * PAGE, .keep_copies = 6 * MIB,
    }, true);
}

/* Next to no room: everybody waits for everybody. */
static void test_tight(void)
{
    stress(&(HarnessOptions) {
        .size = RAM_SIZE, .limit = 2 * MIB, .evictors = 1, .pool = true,
        .readahead = 64 * PAGE,
    }, true);
}

/* A store that is too small. */
static void test_full(void)
{
    stress(&(HarnessOptions) {
        .size = RAM_SIZE, .limit = 12 * MIB, .evictors = 2, .pool = true,
        .pool_limit = 8 * MIB, .overshoot = true, .readahead = 16 * PAGE,
        .keep_copies = RAM_SIZE,
    }, true);
}

/* Fills that are slow, so it seems, and several who read faults. */
static void test_helpers(void)
{
    stress(&(HarnessOptions) {
        .size = RAM_SIZE, .limit = 12 * MIB, .evictors = 1,
        .readahead = 64 * PAGE, .helpers = 2, .slow_store = true,
        .spread = true,
    }, true);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/stress/pins", test_pins);
    g_test_add_func("/stress/kernel-faults", test_kernel_faults);
    g_test_add_func("/stress/tight", test_tight);
    g_test_add_func("/stress/full", test_full);
    g_test_add_func("/stress/helpers", test_helpers);
    return g_test_run();
}

/*
 * Hugepages, everything at once, every value checked
 *
 * Threads read, write, pin and discard pages of 2 MiB, and ordinary ones of
 * another block, while others change the limit, reclaim, and take the host's
 * hugepages away and give them back.  A page's lock orders those who use it,
 * as a guest's own locks would; the engine knows nothing of it.
 *
 * MEMSWAP_STRESS_SECONDS says how long it takes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <unistd.h>

#include "hugepages.h"

#define PAGES 40
#define WORKERS 3
/* Most accesses go to so many. */
#define HOT 12
/* Free hugepages, at most and at least. */
#define MANY 30
#define FEW 10

#define SMALL_SIZE (8 * MIB)
#define SMALL_PAGES (SMALL_SIZE / PAGE)

typedef struct Model {
    GMutex lock;
    uint64_t number;
} Model;

typedef struct Stress {
    Harness *h;             /* its RAM is the huge one */
    Ram small;
    Model pages[PAGES];
    uint64_t numbers[SMALL_PAGES];  /* of ordinary ones: the main thread's */
    _Atomic bool stop;
    _Atomic uint64_t next_number;
    _Atomic uint64_t checked, written, discarded, pinned;
} Stress;

typedef struct Worker {
    Stress *stress;
    GRand *rand;
    GThread *thread;
} Worker;

static void use_page(Worker *worker)
{
    Stress *stress = worker->stress;
    Harness *h = stress->h;
    uint64_t page = g_rand_int_range(worker->rand, 0, PAGES);
    int dice = g_rand_int_range(worker->rand, 0, 100);
    Model *model;

    if (g_rand_int_range(worker->rand, 0, 4)) {
        page = page % HOT * 3;
    }
    model = &stress->pages[page];
    g_mutex_lock(&model->lock);
    if (dice < 60) {
        for (unsigned int i = 0; i < 16; i++) {
            huge_check_part(h, page, model->number,
                            g_rand_int_range(worker->rand, 0, HUGE_PARTS));
        }
        atomic_fetch_add(&stress->checked, 1);
    } else if (dice < 85) {
        if (dice < 65) {
            huge_check(h, page, model->number);
        }
        model->number = atomic_fetch_add(&stress->next_number, 1);
        huge_fill(h, page, model->number);
        atomic_fetch_add(&stress->written, 1);
    } else if (dice < 95) {
        g_assert_cmpint(memswap_pin(h->engine, huge_host(h, page),
                                    HUGE_SIZE), ==, 0);
        g_assert_true(ram_mapped(&h->ram, page * HUGE_PARTS));
        huge_check(h, page, model->number);
        g_assert_true(ram_mapped(&h->ram, page * HUGE_PARTS));
        memswap_unpin(h->engine, huge_host(h, page), HUGE_SIZE);
        atomic_fetch_add(&stress->pinned, 1);
    } else {
        g_assert_cmpint(memswap_discard(h->engine, huge_host(h, page),
                                        HUGE_SIZE), ==, 0);
        model->number = 0;
        huge_check_part(h, page, 0, dice);
        atomic_fetch_add(&stress->discarded, 1);
    }
    g_mutex_unlock(&model->lock);
}

static gpointer work(gpointer opaque)
{
    Worker *worker = opaque;

    while (!atomic_load(&worker->stress->stop)) {
        use_page(worker);
    }
    return NULL;
}

/* As ram_fill() and ram_check(), for the other block. */
static void use_small(Stress *stress, GRand *rand, Harness *view)
{
    for (unsigned int i = 0; i < 64; i++) {
        uint64_t page = g_rand_int_range(rand, 0, SMALL_PAGES);

        ram_check(view, page, stress->numbers[page]);
        stress->numbers[page] = atomic_fetch_add(&stress->next_number, 1);
        ram_fill(view, page, stress->numbers[page]);
    }
}

static void meddle(Stress *stress, GRand *rand, int *hog)
{
    Harness *h = stress->h;

    switch (g_rand_int_range(rand, 0, 6)) {
    case 0:
        /* what the block has stays, so nobody waits for ever */
        if (*hog < 0) {
            *hog = hugepages_leave(FEW);
        } else {
            close(*hog);
            *hog = -1;
        }
        break;
    case 1:
        harness_set_limit(h, (16 + g_rand_int_range(rand, 0, 24)) *
                          HUGE_SIZE, 0);
        break;
    case 2:
        memswap_reclaim(h->engine, 5 * HUGE_SIZE);
        break;
    default:
        break;
    }
}

static void run(Stress *stress, double seconds)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(g_test_rand_int());
    int64_t end = g_get_monotonic_time() + seconds * G_USEC_PER_SEC;
    Harness view = { .ram = stress->small };
    /* nothing changes before hugepages ran out once */
    _Atomic uint64_t *lacks = &stress->h->engine->n_no_hugepages;
    Worker workers[WORKERS];
    int hog = hugepages_leave(FEW);

    for (unsigned int i = 0; i < WORKERS; i++) {
        workers[i].stress = stress;
        workers[i].rand = g_rand_new_with_seed(g_test_rand_int());
        workers[i].thread = g_thread_new("worker", work, &workers[i]);
    }
    while (g_get_monotonic_time() < end || !atomic_load(lacks)) {
        use_small(stress, rand, &view);
        if (atomic_load(lacks)) {
            meddle(stress, rand, &hog);
        }
    }
    atomic_store(&stress->stop, true);
    for (unsigned int i = 0; i < WORKERS; i++) {
        g_thread_join(workers[i].thread);
        g_rand_free(workers[i].rand);
    }
    if (hog >= 0) {
        close(hog);
    }
    for (uint64_t page = 0; page < SMALL_PAGES; page++) {
        ram_check(&view, page, stress->numbers[page]);
    }
}

static void test_all(void)
{
    Stress *stress = g_new0(Stress, 1);
    int surplus = hugepages_leave(MANY);
    MemswapStats stats;
    Harness *h;

    h = harness_new(&(HarnessOptions) {
        .size = PAGES * HUGE_SIZE, .limit = 24 * HUGE_SIZE, .hugetlb = true,
        .evictors = 2, .pool = true, .helpers = 2,
    });
    stress->h = h;
    stress->small = ram_new(SMALL_SIZE, 0);
    stress->next_number = 1;
    for (unsigned int i = 0; i < PAGES; i++) {
        g_mutex_init(&stress->pages[i].lock);
    }
    ram_add(h, &stress->small, "small");
    run(stress, stress_seconds(4));
    for (uint64_t page = 0; page < PAGES; page++) {
        huge_check(h, page, stress->pages[page].number);
    }
    stats = stats_of(h);
    g_test_message("checked %" G_GUINT64_FORMAT ", written %"
                   G_GUINT64_FORMAT ", pinned %" G_GUINT64_FORMAT
                   ", discarded %" G_GUINT64_FORMAT "; evicted %"
                   G_GUINT64_FORMAT ", stalled %" G_GUINT64_FORMAT
                   ", no hugepage %" G_GUINT64_FORMAT, stress->checked,
                   stress->written, stress->pinned, stress->discarded,
                   stats.evictions, stats.stalls, stats.no_hugepages);
    g_assert_cmpuint(stats.evictions, >, 0);
    g_assert_cmpuint(stats.no_hugepages, >, 0);
    g_assert_cmpuint(stats.poisoned, ==, 0);
    harness_check(h);
    ram_remove(h, &stress->small);
    ram_free(&stress->small);
    for (unsigned int i = 0; i < PAGES; i++) {
        g_mutex_clear(&stress->pages[i].lock);
    }
    harness_free(h);
    close(surplus);
    g_free(stress);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/hugetlb-stress/all",
                    hugepages_get(MANY) ? test_all : hugepages_skip);
    return g_test_run();
}

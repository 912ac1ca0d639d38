/*
 * Benchmark of the compressed pool: ns per put, get and drop of a 4 KiB page
 *
 * Each thread puts all its pages, gets them in an order that no prefetcher
 * follows, and drops them, round after round.  Printed are the minimum and the
 * median of the rounds (the slowest thread's): on a busy machine the minimum
 * says what the code costs, the median what others cost it.
 *
 * Content is a file's pages (of a library, a core dump, ...) or generated:
 * of each eight words, so many are random and the others constant.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <glib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pool.h"

#define PAGE 4096
/* A prime, so that it has no factor in common with most numbers of pages. */
#define STRIDE 7919

typedef enum Step {
    PUT,
    GET,
    DROP,
    STEPS,
} Step;

typedef struct Bench {
    /* options */
    char *codec;
    char *file;
    int level;
    int threads;
    int pages;
    int random_words;
    int rounds;

    uint8_t *data;
    MemswapStore *store;
    GMutex lock;
    GCond moved;
    int arrived;            /* at the end of a step, of all threads */
    double *ns[STEPS];      /* of the slowest thread, by round */
} Bench;

static void fill(Bench *bench)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(1);
    g_autoptr(GError) error = NULL;
    size_t size = (size_t)bench->pages * PAGE;
    g_autofree char *content = NULL;
    gsize length;

    bench->data = g_malloc(size);
    if (!bench->file) {
        uint64_t *words = (uint64_t *)bench->data;

        for (size_t i = 0; i < size / sizeof(*words); i++) {
            words[i] = i % 8 < (size_t)bench->random_words
                       ? (uint64_t)g_rand_int(random) << 32 |
                         g_rand_int(random)
                       : 0x2a2a2a2a2a2a2a2a;
        }
        return;
    }
    if (!g_file_get_contents(bench->file, &content, &length, &error)) {
        fprintf(stderr, "%s\n", error->message);
        exit(1);
    }
    length -= length % PAGE;
    if (!length) {
        fprintf(stderr, "%s: less than a page\n", bench->file);
        exit(1);
    }
    for (size_t at = 0; at < size; at += PAGE) {
        memcpy(bench->data + at, content + at % length, PAGE);
    }
}

/* No entry has to move in this. */
static bool relocate(void *opaque, uint64_t owner, uint64_t from, uint64_t to)
{
    return false;
}

static void run_step(Bench *bench, Step step, uint64_t *handles)
{
    const MemswapStoreOps *ops = bench->store->ops;
    uint8_t page[PAGE];
    int i;

    for (i = 0; i < bench->pages; i++) {
        int ret = 0;

        switch (step) {
        case PUT:
            ret = ops->put(bench->store, bench->data + (size_t)i * PAGE, PAGE,
                           i, &handles[i]);
            break;
        case GET:
            ret = ops->get(bench->store,
                           handles[(uint64_t)i * STRIDE % bench->pages], page,
                           PAGE);
            break;
        default:
            ops->drop(bench->store, handles[i]);
        }
        g_assert_cmpint(ret, ==, 0);
    }
}

/* All threads do the same step at the same time. */
static void meet(Bench *bench)
{
    int wanted;

    g_mutex_lock(&bench->lock);
    wanted = bench->arrived++ / bench->threads * bench->threads +
             bench->threads;
    g_cond_broadcast(&bench->moved);
    while (bench->arrived < wanted) {
        g_cond_wait(&bench->moved, &bench->lock);
    }
    g_mutex_unlock(&bench->lock);
}

static gpointer work(gpointer opaque)
{
    Bench *bench = opaque;
    g_autofree uint64_t *handles = g_new(uint64_t, bench->pages);

    for (int round = 0; round < bench->rounds; round++) {
        for (Step step = 0; step < STEPS; step++) {
            int64_t begin;
            double ns;

            meet(bench);
            begin = g_get_monotonic_time();
            run_step(bench, step, handles);
            ns = (g_get_monotonic_time() - begin) * 1000.0 / bench->pages;
            g_mutex_lock(&bench->lock);
            bench->ns[step][round] = MAX(bench->ns[step][round], ns);
            g_mutex_unlock(&bench->lock);
        }
    }
    return NULL;
}

/* What the pages take, compressed. */
static double ratio(Bench *bench)
{
    g_autofree uint64_t *handles = g_new(uint64_t, bench->pages);
    MemswapStoreStats stats;

    run_step(bench, PUT, handles);
    bench->store->ops->get_stats(bench->store, &stats);
    run_step(bench, DROP, handles);
    return (double)bench->pages * PAGE / stats.data_bytes;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    return (x > y) - (x < y);
}

static void parse(Bench *bench, int *argc, char ***argv)
{
    const GOptionEntry options[] = {
        { "codec", 0, 0, G_OPTION_ARG_STRING, &bench->codec,
          "zstd (default) or lz4", "NAME" },
        { "level", 0, 0, G_OPTION_ARG_INT, &bench->level,
          "zstd's (default: -5)", "N" },
        { "threads", 0, 0, G_OPTION_ARG_INT, &bench->threads,
          "that work at the same time (default: 1)", "N" },
        { "pages", 0, 0, G_OPTION_ARG_INT, &bench->pages,
          "of each thread (default: 8192)", "N" },
        { "rounds", 0, 0, G_OPTION_ARG_INT, &bench->rounds,
          "to measure (default: 15)", "N" },
        { "random", 0, 0, G_OPTION_ARG_INT, &bench->random_words,
          "words of eight (default: 3)", "N" },
        { "file", 0, 0, G_OPTION_ARG_FILENAME, &bench->file,
          "content, instead of generated", "PATH" },
        { NULL },
    };
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) error = NULL;

    g_option_context_add_main_entries(context, options, NULL);
    if (!g_option_context_parse(context, argc, argv, &error)) {
        fprintf(stderr, "%s\n", error->message);
        exit(1);
    }
    if (bench->threads < 1 || bench->pages < 1 || bench->rounds < 1 ||
        bench->level < memswap_pool_min_level() ||
        bench->level > memswap_pool_max_level() ||
        (bench->codec && strcmp(bench->codec, "zstd") &&
         strcmp(bench->codec, "lz4"))) {
        fprintf(stderr, "an option is out of range; see --help\n");
        exit(1);
    }
}

int main(int argc, char **argv)
{
    Bench bench = {
        .level = -5, .threads = 1, .pages = 8192, .rounds = 15,
        .random_words = 3,
    };
    g_autofree GThread **threads = NULL;

    parse(&bench, &argc, &argv);
    fill(&bench);
    bench.store = memswap_pool_new(UINT64_MAX,
                                   g_strcmp0(bench.codec, "lz4")
                                   ? MEMSWAP_CODEC_ZSTD : MEMSWAP_CODEC_LZ4,
                                   bench.level, PAGE, relocate, NULL);
    g_assert_nonnull(bench.store);
    for (Step step = 0; step < STEPS; step++) {
        bench.ns[step] = g_new0(double, bench.rounds);
    }
    printf("ratio\t%.2f\n", ratio(&bench));
    threads = g_new(GThread *, bench.threads);
    for (int i = 0; i < bench.threads; i++) {
        threads[i] = g_thread_new("bench", work, &bench);
    }
    for (int i = 0; i < bench.threads; i++) {
        g_thread_join(threads[i]);
    }
    for (Step step = 0; step < STEPS; step++) {
        static const char *const names[] = { "put", "get", "drop" };

        qsort(bench.ns[step], bench.rounds, sizeof(double), compare);
        printf("%s ns\tmin %.0f\tmedian %.0f\n", names[step],
               bench.ns[step][0], bench.ns[step][bench.rounds / 2]);
        g_free(bench.ns[step]);
    }
    bench.store->ops->free(bench.store);
    g_free(bench.data);
    g_free(bench.file);
    g_free(bench.codec);
    return 0;
}

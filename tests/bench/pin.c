/*
 * Benchmarks: what it costs to pin pages that are resident, and to unpin them
 *
 * RAM is filled, and nothing ever leaves it.  Each thread has a part of it,
 * and plays a device with some requests in flight: it pins as many ranges as
 * that, in no order, then unpins them, again and again.  Time is taken once
 * for all of these pins and once for all of the unpins, so that reading the
 * clock costs next to nothing.  Prints one JSON object in a line.
 *
 * Pins are counted by the engine: they must be what was pinned, and none in
 * the end.  The content of each page is compared as well.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <glib.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>

#include "backend.h"
#include "clock.h"
#include "content.h"
#include "options.h"

#define MAX_THREADS 8
/* Ranges that a thread has pinned at once. */
#define IN_FLIGHT 64
/* Ranges that a thread goes through, again and again. */
#define RANGES 65536

typedef struct Worker {
    pthread_t thread;
    uint64_t first;         /* page of its part */
    uint64_t n_pages;
    uint64_t pinned;        /* pages, since the measurement began */
    uint64_t pin_ticks;
    uint64_t unpin_ticks;
} Worker;

static BenchOptions options = {
    .size = 256ULL << 20,
    .page_size = TOUCH_SIZE,
    .threads = 1,
    .seed = 1,
    .seconds = 3,
    .warmup_seconds = 1,
};
static int pages = 1;       /* of a range */
static MemswapEngine *engine;
static uint8_t *ram;

static void pin(const uint8_t *host)
{
    int ret = memswap_pin(engine, host, (uint64_t)pages * TOUCH_SIZE);

    if (ret) {
        bench_fail(-ret, "cannot pin");
    }
}

static void unpin(const uint8_t *host)
{
    memswap_unpin(engine, host, (uint64_t)pages * TOUCH_SIZE);
}

/* Where the ranges of a worker begin, in an order of chance. */
static const uint8_t **choose_ranges(const Worker *worker)
{
    const uint8_t **ranges = g_new(const uint8_t *, RANGES);

    for (uint64_t i = 0; i < RANGES; i++) {
        uint64_t page = content_mix(worker->first + i) %
                        (worker->n_pages - pages + 1);

        ranges[i] = ram + (worker->first + page) * TOUCH_SIZE;
    }
    return ranges;
}

/* Returns when the time is over. */
static void run(Worker *worker, const uint8_t **ranges, double seconds)
{
    uint64_t begin = bench_clock_ns();
    unsigned int next = 0;

    worker->pinned = worker->pin_ticks = worker->unpin_ticks = 0;
    do {
        uint64_t before = bench_clock_ticks();
        uint64_t between;

        for (unsigned int i = 0; i < IN_FLIGHT; i++) {
            pin(ranges[next + i]);
        }
        between = bench_clock_ticks();
        for (unsigned int i = 0; i < IN_FLIGHT; i++) {
            unpin(ranges[next + i]);
        }
        worker->unpin_ticks += bench_clock_ticks() - between;
        worker->pin_ticks += between - before;
        worker->pinned += (uint64_t)IN_FLIGHT * pages;
        next = (next + IN_FLIGHT) % RANGES;
    } while (bench_clock_ns() - begin < seconds * 1e9);
}

static void *work(void *opaque)
{
    Worker *worker = opaque;
    g_autofree const uint8_t **ranges = choose_ranges(worker);

    run(worker, ranges, options.warmup_seconds);
    run(worker, ranges, options.seconds);
    return NULL;
}

static uint64_t pinned_bytes(void)
{
    MemswapStats stats;

    memswap_get_stats(engine, &stats);
    return stats.pinned;
}

/* A pin has to be one, or its time says nothing. */
static void check_pin(void)
{
    pin(ram);
    if (pinned_bytes() != (uint64_t)pages * TOUCH_SIZE) {
        bench_fail(0, "%" PRIu64 " bytes are pinned, not %d pages",
                   pinned_bytes(), pages);
    }
    unpin(ram);
}

static void parse(int *argc, char ***argv)
{
    g_autofree char *size = NULL;
    GOptionEntry entries[] = {
        { "size", 0, 0, G_OPTION_ARG_STRING, &size, "RAM", "SIZE" },
        { "pages", 0, 0, G_OPTION_ARG_INT, &pages, "to pin at once", "N" },
        { "threads", 0, 0, G_OPTION_ARG_INT, &options.threads, NULL, "N" },
        { "seconds", 0, 0, G_OPTION_ARG_DOUBLE, &options.seconds,
          "to measure for", "N" },
        { NULL }
    };
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) error = NULL;

    g_option_context_set_summary(context,
        "Pin resident pages and unpin them, and tell how long it took.");
    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, argc, argv, &error)) {
        bench_fail(0, "%s", error->message);
    }
    if (size && !bench_parse_size(size, &options.size)) {
        bench_fail(0, "--size: not a size: %s", size);
    }
    if (options.threads < 1 || options.threads > MAX_THREADS ||
        options.seconds <= 0 || !options.size ||
        options.size % (512 * TOUCH_SIZE) || pages < 1 ||
        pages > options.size / TOUCH_SIZE / options.threads) {
        bench_fail(0, "a number is out of range");
    }
}

int main(int argc, char **argv)
{
    Worker workers[MAX_THREADS] = { 0 };
    uint64_t n_pages, pinned = 0, pin_ticks = 0, unpin_ticks = 0, wrong = 0;
    Content *content;

    parse(&argc, &argv);
    options.data = g_strdup("half");
    options.faults = g_strdup("inline");
    bench_clock_init();
    content = content_new(&options);
    ram = bench_memswap.open(&options);
    engine = bench_memswap_engine();
    n_pages = options.size / TOUCH_SIZE;
    for (uint64_t page = 0; page < n_pages; page++) {
        content_fill(content, page, (uint64_t *)(ram + page * TOUCH_SIZE));
    }
    check_pin();
    for (int i = 0; i < options.threads; i++) {
        int ret;

        workers[i].first = n_pages / options.threads * i;
        workers[i].n_pages = n_pages / options.threads;
        ret = pthread_create(&workers[i].thread, NULL, work, &workers[i]);
        if (ret) {
            bench_fail(ret, "cannot start a thread");
        }
    }
    for (int i = 0; i < options.threads; i++) {
        pthread_join(workers[i].thread, NULL);
        pinned += workers[i].pinned;
        pin_ticks += workers[i].pin_ticks;
        unpin_ticks += workers[i].unpin_ticks;
    }
    if (pinned_bytes()) {
        bench_fail(0, "%" PRIu64 " bytes are pinned still", pinned_bytes());
    }
    for (uint64_t page = 0; page < n_pages; page++) {
        wrong += !content_right(content, page,
                                (uint64_t *)(ram + page * TOUCH_SIZE), 0, 0);
    }
    printf("{\"pages\": %d, \"threads\": %d, \"pinned\": %" PRIu64
           ", \"pin\": %.2f, \"unpin\": %.2f, \"wrong\": %" PRIu64 "}\n",
           pages, options.threads, pinned,
           pin_ticks / bench_ticks_per_ns / pinned,
           unpin_ticks / bench_ticks_per_ns / pinned, wrong);
    bench_memswap.close();
    return wrong ? 2 : 0;
}

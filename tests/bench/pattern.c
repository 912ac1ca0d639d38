/*
 * Benchmarks: making the orders
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <glib.h>
#include <math.h>

#include "pattern.h"

/* Hot pages come in runs of this many, as a guest's often do. */
#define HOT_RUN 64
/* A hot set moves on by this part of itself. */
#define HOT_MOVE 8

#define PAGES_PER_REGION 512

typedef struct Random {
    uint64_t state;
} Random;

static uint64_t random_next(Random *random)
{
    random->state ^= random->state << 13;
    random->state ^= random->state >> 7;
    random->state ^= random->state << 17;
    return random->state;
}

/* Even enough for numbers far below 2^32. */
static uint32_t random_below(Random *random, uint32_t n)
{
    return (random_next(random) >> 32) * n >> 32;
}

static double random_fraction(Random *random)
{
    return ldexp(random_next(random) >> 11, -53);
}

/* The numbers below @n in an order of chance: the same for all threads. */
static uint32_t *shuffle(const BenchOptions *options, uint32_t n)
{
    Random random = { 0x2545f4914f6cdd1d ^ options->seed };
    uint32_t *numbers = g_new(uint32_t, n);

    for (uint32_t i = 0; i < n; i++) {
        uint32_t j = random_below(&random, i + 1);

        numbers[i] = numbers[j];
        numbers[j] = i;
    }
    return numbers;
}

/*
 * Zipf's distribution by the method of Gray et al., "Quickly generating
 * billion-record synthetic databases" (1994), as in YCSB.
 */
typedef struct Zipf {
    uint32_t n;
    double theta;
    double zeta;
    double alpha;
    double eta;
} Zipf;

static Zipf zipf_new(uint32_t n, double theta)
{
    Zipf zipf = { .n = n, .theta = theta, .alpha = 1 / (1 - theta) };

    for (uint32_t i = 1; i <= n; i++) {
        zipf.zeta += pow(i, -theta);
    }
    zipf.eta = (1 - pow(2.0 / n, 1 - theta)) /
               (1 - (1 + pow(2, -theta)) / zipf.zeta);
    return zipf;
}

/* A rank from 0 to n - 1. */
static uint32_t zipf_next(const Zipf *zipf, Random *random)
{
    double fraction = random_fraction(random);
    double scaled = fraction * zipf->zeta;

    if (scaled < 1) {
        return 0;
    }
    if (scaled < 1 + pow(2, -zipf->theta)) {
        return 1;
    }
    return MIN(zipf->n - 1,
               (uint32_t)(zipf->n * pow(zipf->eta * fraction - zipf->eta + 1,
                                        zipf->alpha)));
}

static void make_random(const BenchOptions *options, uint32_t n,
                        uint32_t first, Random *random, uint32_t *order)
{
    for (uint32_t i = 0; i < PATTERN_LENGTH; i++) {
        order[i] = random_below(random, n);
    }
}

static void make_sequential(const BenchOptions *options, uint32_t n,
                            uint32_t first, Random *random, uint32_t *order)
{
    for (uint32_t i = 0; i < PATTERN_LENGTH; i++) {
        order[i] = (first + i) % n;
    }
}

/* In an order of chance, and in the same one again: a list that is walked. */
static void make_list(const BenchOptions *options, uint32_t n,
                      uint32_t first, Random *random, uint32_t *order)
{
    g_autofree uint32_t *pages = shuffle(options, n);

    for (uint32_t i = 0; i < PATTERN_LENGTH; i++) {
        order[i] = pages[(first + i) % n];
    }
}

/* Every stride-th page, then those after them: columns of a matrix. */
static void make_strided(const BenchOptions *options, uint32_t n,
                         uint32_t first, Random *random, uint32_t *order)
{
    uint32_t page = first;
    uint32_t start = 0;

    for (uint32_t i = 0; i < PATTERN_LENGTH; i++) {
        order[i] = page;
        page += options->stride;
        if (page >= n) {
            start = (start + 1) % MIN(options->stride, n);
            page = start;
        }
    }
}

/* Neighbours in rank are anywhere in memory. */
static void make_zipf(const BenchOptions *options, uint32_t n,
                      uint32_t first, Random *random, uint32_t *order)
{
    g_autofree uint32_t *pages = shuffle(options, n);
    Zipf zipf = zipf_new(n, options->theta);

    for (uint32_t i = 0; i < PATTERN_LENGTH; i++) {
        order[i] = pages[zipf_next(&zipf, random)];
    }
}

/* Some 2 MiB are touched more often than others, each all over. */
static void make_regions(const BenchOptions *options, uint32_t n,
                         uint32_t first, Random *random, uint32_t *order)
{
    uint32_t n_regions = n / PAGES_PER_REGION;
    g_autofree uint32_t *regions = shuffle(options, n_regions);
    Zipf zipf = zipf_new(n_regions, options->theta);
    uint32_t region = 0;

    for (uint32_t i = 0; i < PATTERN_LENGTH; i++) {
        if (i % options->visit == 0) {
            region = regions[zipf_next(&zipf, random)];
        }
        order[i] = region * PAGES_PER_REGION +
                   random_below(random, PAGES_PER_REGION);
    }
}

static void make_hotset(const BenchOptions *options, uint32_t n,
                        uint32_t first, Random *random, uint32_t *order)
{
    uint32_t n_runs = n / HOT_RUN;
    uint32_t n_hot = MAX(1, (uint64_t)n_runs * options->hot_percent / 100);
    /* A set that never moves is one area, so that it can be huge pages. */
    g_autofree uint32_t *runs = options->move_every ?
                                shuffle(options, n_runs) : NULL;
    uint32_t begin = 0;

    for (uint32_t i = 0; i < PATTERN_LENGTH; i++) {
        uint32_t run;

        if (options->move_every && i && i % options->move_every == 0) {
            begin += MAX(1, n_hot / HOT_MOVE);
        }
        if (random_below(random, 100) >= options->hot_touches) {
            order[i] = random_below(random, n);
            continue;
        }
        run = (begin + random_below(random, n_hot)) % n_runs;
        order[i] = (runs ? runs[run] : run) * HOT_RUN +
                   random_below(random, HOT_RUN);
    }
}

uint32_t *pattern_new(const BenchOptions *options, unsigned int thread)
{
    static const struct {
        const char *name;
        void (*make)(const BenchOptions *options, uint32_t n, uint32_t first,
                     Random *random, uint32_t *order);
    } patterns[] = {
        { "random", make_random },
        { "sequential", make_sequential },
        { "list", make_list },
        { "strided", make_strided },
        { "zipf", make_zipf },
        { "zipf-region", make_regions },
        { "hotset", make_hotset },
    };
    uint32_t n = options->size / TOUCH_SIZE;
    uint32_t first = (uint64_t)n * thread / options->threads;
    uint64_t number = options->seed * 8ULL + thread + 1;
    Random random = { 0x9e3779b97f4a7c15 * number };
    uint32_t *order = g_new(uint32_t, PATTERN_LENGTH);
    unsigned int i;

    for (i = 0; i < G_N_ELEMENTS(patterns); i++) {
        if (g_str_equal(options->pattern, patterns[i].name)) {
            break;
        }
    }
    if (i == G_N_ELEMENTS(patterns)) {
        bench_fail(0, "--pattern: no pattern \"%s\"", options->pattern);
    }
    patterns[i].make(options, n, first, &random, order);
    for (uint32_t j = 0; j < PATTERN_LENGTH; j++) {
        if (random_below(&random, 100) < options->write_percent) {
            order[j] |= PATTERN_WRITE;
        }
    }
    return order;
}

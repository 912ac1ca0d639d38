/*
 * Tests of what an operator chooses a limit by: working sets, the curve of
 * refaults, and the map
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "harness.h"

#define EPSILON 0.000000001

#define SECOND 1000000000LL
#define WINDOW(h, i, least, most)                                           \
    do {                                                                    \
        MemswapWindow sets_[MEMSWAP_WINDOWS];                               \
        memswap_get_working_sets((h)->engine, sets_);                       \
        g_assert_cmpuint(sets_[i].at_least, ==, (least) * PAGE);            \
        g_assert_cmpuint(sets_[i].at_most, ==, (most) * PAGE);              \
    } while (0)

static void take(Harness *h, uint64_t first, uint64_t n, bool cold)
{
    MemswapRange range = { h->ram.block->name, first * PAGE, n * PAGE };

    memswap_reclaim_ranges(h->engine, &range, 1, cold, NULL, NULL, NULL);
}

/* Up to 16 MiB there is nothing to estimate. */
static void test_windows(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 16 * MIB, .fake_clock = true,
    });

    g_assert_cmpuint(h->ram.block->sample_shift, ==, 0);
    harness_tick(h, 10000 * SECOND);
    WINDOW(h, 0, 0, 0);
    write_pages(h, 0, 1000);
    WINDOW(h, 0, 1000, 1000);
    harness_tick(h, 59 * SECOND);
    WINDOW(h, 0, 1000, 1000);
    /* mapped still: they may have been touched, nobody knows */
    harness_tick(h, SECOND);
    WINDOW(h, 0, 0, 1000);
    WINDOW(h, 1, 1000, 1000);
    /* unmapped: from now on it would be seen */
    take(h, 0, 512, true);
    WINDOW(h, 0, 0, 1000);
    check_pages(h, 100, 10);
    harness_settle(h);
    WINDOW(h, 0, 10, 1000);
    harness_tick(h, 60 * SECOND);
    /* 502 on trial, 10 mapped since, 488 mapped all the time */
    WINDOW(h, 0, 0, 498);
    WINDOW(h, 1, 1000, 1000);
    /* what is gone counts if it was touched, or was mapped */
    take(h, 0, 1000, false);
    WINDOW(h, 0, 0, 498);
    harness_tick(h, 60 * SECOND);
    WINDOW(h, 0, 0, 0);
    check_pages(h, 0, 7);
    WINDOW(h, 0, 7, 7);
    take(h, 0, 7, false);
    WINDOW(h, 0, 7, 7);
    /* what the guest gave up is no part of it */
    memswap_discard(h->engine, h->ram.host, 2 * PAGE);
    WINDOW(h, 0, 5, 5);
    harness_tick(h, 3600 * SECOND);
    WINDOW(h, 2, 0, 0);
    harness_free(h);
}

/* Brought in ahead of a touch is not touched; pinned is. */
static void test_not_touched(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 16 * MIB, .fake_clock = true,
    });
    MemswapRange range = { h->ram.block->name, 0, 100 * PAGE };

    write_pages(h, 0, 100);
    take(h, 0, 100, false);
    harness_tick(h, 100 * SECOND);
    WINDOW(h, 0, 0, 0);
    memswap_pin(h->engine, h->ram.host, 3 * PAGE);
    WINDOW(h, 0, 3, 3);
    memswap_unpin(h->engine, h->ram.host, 3 * PAGE);
    memswap_prefetch(h->engine, &range, 1, NULL, NULL, NULL);
    WINDOW(h, 0, 3, 100);
    harness_free(h);
}

/* One page of 16 stands for the others: within five standard errors. */
static void test_sampled(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 4096 * MIB, .fake_clock = true,
    });
    MemswapBlock *block = h->ram.block;
    uint64_t n = 4096 * MIB / PAGE, touched = 0;
    MemswapWindow sets[MEMSWAP_WINDOWS];
    uint32_t random = 1;

    g_assert_cmpuint(block->sample_shift, ==, 4);
    g_assert_cmpuint(block->n_samples, ==, 65536);
    /* marked as if, by a stride that a careless sample would fall for */
    for (uint64_t page = 0; page < n; page += 16) {
        if (page < n / 2) {
            memswap_touched(block, page, 0);
            atomic_store(&block->words[page], MEMSWAP_RESIDENT);
            atomic_store(&block->regions[page / REGION_PAGES].flags, 1);
            touched++;
        }
    }
    memswap_get_working_sets(h->engine, sets);
    g_assert_cmpfloat(ABS((double)sets[0].at_least - touched * PAGE), <=,
                      5 * 4096 * MIB * 0.001);
    /* and at random */
    for (uint64_t page = 1; page < n; page++) {
        random = random * 1664525 + 1013904223;
        if (random >> 30 == 0 && page % 16) {
            memswap_touched(block, page, 0);
            atomic_store(&block->words[page], MEMSWAP_RESIDENT);
            atomic_store(&block->regions[page / REGION_PAGES].flags, 1);
            touched++;
        }
    }
    memswap_get_working_sets(h->engine, sets);
    g_test_message("%u MiB, estimated as %u", (unsigned int)(touched / 256),
                   (unsigned int)(sets[0].at_least / MIB));
    g_assert_cmpfloat(ABS((double)sets[0].at_least - touched * PAGE), <=,
                      5 * 4096 * MIB * 0.0017);
    for (uint64_t page = 0; page < n; page++) {
        if (atomic_load(&block->words[page])) {
            atomic_store(&block->words[page], 0);
        }
    }
    harness_free(h);
}

/*
 * However many there are, so many are looked at, and stand for the others.  And
 * samples take no more than 0.05 % of a block.
 */
static void test_many(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 1024 * MIB, .fake_clock = true, .limit = 4096 * MIB,
    });
    MemswapBlock *block = h->ram.block;
    uint64_t n = 1024 * MIB / PAGE;
    MemswapWindow sets[MEMSWAP_WINDOWS];
    Ram others[3];

    g_assert_cmpuint(memswap_samples_step(h->engine), ==, 1);
    for (unsigned int i = 0; i < 3; i++) {
        g_autofree char *name = g_strdup_printf("other%u", i);

        others[i] = ram_new(1024 * MIB - i * 256 * MIB, 0);
        ram_add(h, &others[i], name);
        g_assert_cmpuint(others[i].block->n_samples * sizeof(MemswapSample),
                         <=, others[i].size / 2000);
    }
    g_assert_cmpuint(memswap_samples_step(h->engine), ==, 4);
    for (uint64_t page = 0; page < n / 2; page++) {
        memswap_touched(block, page, 0);
        atomic_store(&block->words[page], MEMSWAP_RESIDENT);
        atomic_store(&block->regions[page / REGION_PAGES].flags, 1);
    }
    memswap_get_working_sets(h->engine, sets);
    g_assert_cmpuint(sets[0].at_least, ==, 512 * MIB);
    for (uint64_t page = 0; page < n / 2; page++) {
        atomic_store(&block->words[page], 0);
    }
    for (unsigned int i = 0; i < 3; i++) {
        ram_remove(h, &others[i]);
        ram_free(&others[i]);
    }
    harness_free(h);
}

static void test_eighths(void)
{
    unsigned int last = 0;

    for (uint32_t value = 0; value < 100000; value++) {
        unsigned int n = memswap_eighth(value);
        uint32_t from = n < 8 ? n : (8 + n % 8) << (n / 8 - 1);
        uint32_t next = n + 1 < 8 ? n + 1 :
                        (8 + (n + 1) % 8) << ((n + 1) / 8 - 1);

        g_assert_cmpuint(n - last, <=, 1);
        g_assert_cmpuint(from, <=, value);
        g_assert_cmpuint(value, <, next);
        last = n;
    }
    g_assert_cmpuint(memswap_eighth(UINT32_MAX), ==, MEMSWAP_EIGHTHS - 1);
}

/* --- the curve --------------------------------------------------------- */

/* @n pages come back that would not have left with @distance pages more. */
static void come_back(Harness *h, uint32_t distance, unsigned int n)
{
    while (n--) {
        memswap_curve_add(h->ram.block, distance);
    }
}

static void test_curve(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 64 * MIB, .fake_clock = true,
    });
    MemswapCurvePoint points[MEMSWAP_CURVE_POINTS];
    double rate;

    g_assert_cmpuint(memswap_get_curve(h->engine, points), ==, 1);
    g_assert_cmpfloat(points[0].refaults, ==, 0);
    write_pages(h, 0, 256);
    come_back(h, 1000, 100);
    come_back(h, 2047, 100);
    come_back(h, 2048, 40);
    come_back(h, 100000, 60);
    harness_tick(h, 10 * SECOND);
    g_assert_cmpuint(memswap_get_curve(h->engine, points), ==, 5);
    g_assert_cmpuint(points[0].resident, ==, 256 * PAGE);
    g_assert_cmpfloat_with_epsilon(points[0].refaults, 30, EPSILON);
    g_assert_cmpuint(points[1].resident, ==, (256 + 1024) * PAGE);
    g_assert_cmpfloat_with_epsilon(points[1].refaults, 20, EPSILON);
    g_assert_cmpuint(points[2].resident, ==, (256 + 2048) * PAGE);
    g_assert_cmpfloat_with_epsilon(points[2].refaults, 10, EPSILON);
    g_assert_cmpuint(points[3].resident, ==, (256 + 2304) * PAGE);
    g_assert_cmpfloat_with_epsilon(points[3].refaults, 6, EPSILON);
    /* beyond all there is */
    g_assert_cmpuint(points[4].resident, ==, 64 * MIB);
    g_assert_cmpfloat(points[4].refaults, ==, 0);
    /* a steady rate is found whatever has been before, however often asked */
    for (unsigned int i = 0; i < 200; i++) {
        come_back(h, 1000, 60);
        harness_tick(h, 60 * SECOND);
        if (i % 3) {
            memswap_get_curve(h->engine, points);
        }
    }
    memswap_get_curve(h->engine, points);
    g_assert_cmpfloat_with_epsilon(points[0].refaults, 1, 0.01);
    /* ten minutes of nothing: half of it */
    rate = points[0].refaults;
    harness_tick(h, 600 * SECOND);
    memswap_get_curve(h->engine, points);
    g_assert_cmpfloat_with_epsilon(points[0].refaults, rate / 2, 0.01);
    harness_free(h);
}

/* With nobody who asks, faults see to it that old counts lose weight. */
static void test_decays(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 64 * MIB, .fake_clock = true,
    });
    MemswapCurvePoint points[MEMSWAP_CURVE_POINTS];

    come_back(h, 1000, 6000);
    for (unsigned int i = 0; i < 120; i++) {
        harness_tick(h, 60 * SECOND);
        ram_touch(h, i);
        harness_settle(h);
    }
    memswap_get_curve(h->engine, points);
    /* of 6000 in two hours 1/2^12 is left, over a quarter of an hour */
    g_assert_cmpfloat(points[0].refaults, <, 0.01);
    harness_free(h);
}

/* What comes ahead of a touch is no refault; what a sequence takes along is. */
static void test_ahead(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 16 * MIB, .fake_clock = true, .readahead = 16 * PAGE,
    });
    MemswapRange range = { h->ram.block->name, 0, 100 * PAGE };
    MemswapCurvePoint points[MEMSWAP_CURVE_POINTS];

    write_pages(h, 0, 200);
    take(h, 0, 200, false);
    g_assert_cmpint(memswap_prefetch(h->engine, &range, 1, NULL, NULL, NULL),
                    ==, 100 * PAGE);
    harness_tick(h, 10 * SECOND);
    memswap_get_curve(h->engine, points);
    g_assert_cmpfloat(points[0].refaults, ==, 0);
    check_pages(h, 0, 200);
    g_assert_cmpuint(stats_of(h).readahead, >, 100);
    memswap_get_curve(h->engine, points);
    /* of these alone, each weighing a little more than those before */
    g_assert_cmpfloat_with_epsilon(points[0].refaults, 10, 0.5);
    harness_free(h);
}

/* A fault that began before the last time is no reason to do it again. */
static void test_late(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 64 * MIB, .fake_clock = true,
    });
    MemswapWorkingset *set = &h->engine->workingset;
    MemswapCurvePoint points[MEMSWAP_CURVE_POINTS];

    harness_tick(h, 100 * SECOND);
    memswap_get_curve(h->engine, points);
    come_back(h, 0, 1);
    memswap_touched(h->ram.block, 0, 99 * SECOND);
    g_assert_cmpuint(set->taken[0], ==, 0);
    memswap_touched(h->ram.block, 0, 160 * SECOND);
    g_assert_cmpuint(set->taken[0], ==, 1);
    harness_free(h);
}

/*
 * Again and again through 24 MiB, with 12 resident: the curve has to fall
 * where all of it would fit, and not before.
 */
static void test_knee(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 64 * MIB, .limit = 12 * MIB, .fake_clock = true,
    });
    MemswapCurvePoint points[MEMSWAP_CURVE_POINTS];
    uint64_t n = 24 * MIB / PAGE;
    unsigned int got;
    double before = 0, after = 0, now;

    write_pages(h, 0, n);
    for (unsigned int i = 0; i < 6; i++) {
        for (uint64_t page = 0; page < n; page++) {
            ram_check(h, page, 2 * page + 1);
        }
        harness_tick(h, 10 * SECOND);
    }
    harness_settle(h);
    got = memswap_get_curve(h->engine, points);
    now = points[0].refaults;
    for (unsigned int i = 0; i < got; i++) {
        g_test_message("%5.1f MiB: %.0f", points[i].resident / (double)MIB,
                       points[i].refaults);
        if (points[i].resident <= 20 * MIB) {
            before = points[i].refaults;
        }
        if (points[i].resident <= 26 * MIB) {
            after = points[i].refaults;
        }
    }
    g_assert_cmpfloat(now, >, 100);
    g_assert_cmpfloat(before, >, 0.8 * now);
    g_assert_cmpfloat(after, <, 0.1 * now);
    WINDOW(h, 0, n, n);
    harness_free(h);
}

/* --- the map ----------------------------------------------------------- */

static void expect_cell(MemswapMapCell cell, unsigned int resident,
                        unsigned int stored, unsigned int idle,
                        unsigned int heat)
{
    g_assert_cmpuint(cell.resident, ==, resident);
    g_assert_cmpuint(cell.stored, ==, stored);
    g_assert_cmpuint(cell.idle, ==, idle);
    g_assert_cmpuint(cell.heat, ==, heat);
}

static void test_map(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 9 * MIB, .fake_clock = true,
    });
    MemswapBlock *block = h->ram.block;
    MemswapMapCell cells[16];

    write_pages(h, REGION_PAGES, REGION_PAGES);
    write_pages(h, 2 * REGION_PAGES, 256);
    harness_tick(h, 20 * SECOND);
    write_pages(h, 4 * REGION_PAGES, 256);
    take(h, 2 * REGION_PAGES, 1, false);
    memswap_heat_set(&block->regions[1], 15, 8);
    g_assert_cmpint(memswap_block_map(block, 0, 2 * MIB, 16, cells), ==, 5);
    expect_cell(cells[0], 0, 0, MEMSWAP_MAP_NEVER, 0);
    expect_cell(cells[1], 255, 0, 18, 7);
    expect_cell(cells[2], 1 + 255 * 254 / 512, 1, 18, 0);
    expect_cell(cells[3], 0, 0, MEMSWAP_MAP_NEVER, 0);
    /* the last is half a region, and all of it is there */
    expect_cell(cells[4], 255, 0, 0, 0);
    /* two at a time, the last alone; a part of it */
    g_assert_cmpint(memswap_block_map(block, 0, 4 * MIB, 16, cells), ==, 3);
    expect_cell(cells[0], 1 + 127, 0, 18, 7);
    expect_cell(cells[2], 255, 0, 0, 0);
    g_assert_cmpint(memswap_block_map(block, 4 * MIB, 2 * MIB, 2, cells), ==,
                    2);
    expect_cell(cells[0], 1 + 255 * 254 / 512, 1, 18, 0);
    g_assert_cmpint(memswap_block_map(block, 0, 1 << 30, 16, cells), ==, 1);
    g_assert_cmpint(memswap_block_map(block, 10 * MIB, 2 * MIB, 1, cells),
                    ==, 0);
    g_assert_cmpint(memswap_block_map(block, 0, 0, 1, cells), ==, -EINVAL);
    g_assert_cmpint(memswap_block_map(block, MIB, 2 * MIB, 1, cells), ==,
                    -EINVAL);
    g_assert_cmpint(memswap_block_map(block, 0, 3 * MIB, 1, cells), ==,
                    -EINVAL);
    harness_free(h);
}

static unsigned int in_core(void *memory, uint64_t size)
{
    g_autofree unsigned char *pages = g_malloc(size / PAGE + 1);
    unsigned int n = 0;

    g_assert_cmpint(mincore(memory, size, pages), ==, 0);
    for (uint64_t i = 0; i < size / PAGE; i++) {
        n += pages[i] & 1;
    }
    return n;
}

/* The thread sanitizer takes half a minute to forget a terabyte. */
#ifdef TEST_SANITIZED
#define LARGE (32ULL << 30)
#else
#define LARGE (1ULL << 40)
#endif

/* What looking may take of a processor: ten times what it does. */
#ifdef TEST_SANITIZED
#define LOOK_US 1000000
#else
#define LOOK_US 200000
#endif

/* Of this thread, whoever else is there. */
static int64_t processor_us(void)
{
    struct timespec time;

    g_assert_cmpint(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time), ==, 0);
    return time.tv_sec * 1000000LL + time.tv_nsec / 1000;
}

/* A terabyte: looking takes no memory for words, and not long. */
static void test_terabyte(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = LARGE });
    uint64_t n = LARGE / MEMSWAP_REGION_SIZE;
    g_autofree MemswapMapCell *cells = g_new(MemswapMapCell, n);
    MemswapWindow sets[MEMSWAP_WINDOWS];
    int64_t map, working_sets;

    write_pages(h, 12345 * REGION_PAGES, 256);
    map = processor_us();
    g_assert_cmpint(memswap_block_map(h->ram.block, 0, MEMSWAP_REGION_SIZE,
                                      n, cells), ==, n);
    map = processor_us() - map;
    g_assert_cmpuint(cells[12345].resident, ==, 128);
    g_assert_cmpuint(cells[12346].resident, ==, 0);
    working_sets = processor_us();
    memswap_get_working_sets(h->engine, sets);
    working_sets = processor_us() - working_sets;
    g_test_message("map: %d us, working sets: %d us", (int)map,
                   (int)working_sets);
    g_assert_cmpint(map, <, LOOK_US);
    g_assert_cmpint(working_sets, <, LOOK_US);
    g_assert_cmpuint(in_core(h->ram.block->words, n * PAGE), ==, 1);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/workingset/windows", test_windows);
    g_test_add_func("/workingset/not-touched", test_not_touched);
    g_test_add_func("/workingset/sampled", test_sampled);
    g_test_add_func("/workingset/many", test_many);
    g_test_add_func("/workingset/eighths", test_eighths);
    g_test_add_func("/workingset/curve", test_curve);
    g_test_add_func("/workingset/decays", test_decays);
    g_test_add_func("/workingset/ahead", test_ahead);
    g_test_add_func("/workingset/late", test_late);
    g_test_add_func("/workingset/knee", test_knee);
    g_test_add_func("/workingset/map", test_map);
    g_test_add_func("/workingset/terabyte", test_terabyte);
    return g_test_run();
}

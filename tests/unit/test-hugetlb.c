/*
 * Tests of blocks on hugetlbfs: whole pages of 2 MiB
 *
 * Skipped where no hugepages are to be had.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hugepages.h"
#include "puppets.h"

/* --- faults and evictions ---------------------------------------------- */

static void test_absent(void)
{
    Harness *h = huge_harness(HUGE_PAGES);
    unsigned int free = hugepages_free();
    MemswapStats stats;

    huge_check(h, 3, 0);
    huge_check(h, HUGE_PAGES - 1, 0);
    stats = stats_of(h);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_ABSENT], ==, 2);
    g_assert_cmpuint(stats.resident, ==, 2 * HUGE_SIZE);
    g_assert_cmpuint(ram_cached(&h->ram), ==, 2 * HUGE_SIZE);
    g_assert_cmpuint(hugepages_free(), ==, free - 2);
    harness_free(h);
    g_assert_cmpuint(hugepages_free(), ==, free);
}

/* Out and in again: one fault, one eviction a page, every byte right. */
static void test_round(void)
{
    Harness *h = huge_harness(HUGE_PAGES);
    unsigned int free = hugepages_free();
    MemswapStats stats;

    huge_fill_all(h, HUGE_PAGES);
    g_assert_cmpuint(hugepages_free(), ==, free - HUGE_PAGES);
    g_assert_cmpuint(memswap_reclaim(h->engine, HUGE_PAGES * HUGE_SIZE), ==,
                     HUGE_PAGES * HUGE_SIZE);
    stats = stats_of(h);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_ABSENT], ==, HUGE_PAGES);
    g_assert_cmpuint(stats.evictions, ==, HUGE_PAGES);
    g_assert_cmpuint(stats.trials, ==, HUGE_PAGES);
    g_assert_cmpuint(stats.stored, ==, HUGE_PAGES * HUGE_SIZE);
    g_assert_cmpuint(h->store->puts, ==, HUGE_PAGES);
    g_assert_cmpuint(hugepages_free(), ==, free);

    huge_check_all(h, HUGE_PAGES);
    stats = stats_of(h);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_STORED], ==, HUGE_PAGES);
    g_assert_cmpuint(stats.refaults, ==, HUGE_PAGES);
    g_assert_cmpuint(stats.evictions, ==, HUGE_PAGES);
    g_assert_cmpuint(stats.stored, ==, 0);
    harness_free(h);
}

/*
 * Without evictors a fault takes out what it needs: one page, the one that
 * waited longest on trial.  Round and round through more than the limit, each
 * access is a fault.
 */
static void test_access_string(void)
{
    Harness *h = huge_harness(HUGE_LIMIT);
    const uint64_t n = HUGE_LIMIT + 4;
    MemswapStats stats;

    huge_fill_all(h, n);
    stats = stats_of(h);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_ABSENT], ==, n);
    g_assert_cmpuint(stats.evictions, ==, n - HUGE_LIMIT);
    for (uint64_t page = 0; page < n; page++) {
        g_assert_cmpint(ram_state(&h->ram, page) == MEMSWAP_STORED, ==,
                        page < n - HUGE_LIMIT);
    }
    for (unsigned int round = 1; round <= 3; round++) {
        huge_check_all(h, n);
        stats = stats_of(h);
        g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_STORED], ==, round * n);
        g_assert_cmpuint(stats.evictions, ==, n - HUGE_LIMIT + round * n);
        g_assert_cmpuint(stats.resident, ==, HUGE_LIMIT * HUGE_SIZE);
    }
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_TRIAL], ==, 0);
    g_assert_cmpuint(stats.peak_resident, ==, HUGE_LIMIT * HUGE_SIZE);
    g_assert_cmpuint(stats.overshoots, ==, 0);
    harness_free(h);
}

/* What is touched between all others is never taken. */
static void test_warm(void)
{
    Harness *h = huge_harness(HUGE_LIMIT);
    MemswapStats before, stats;

    huge_fill_all(h, HUGE_PAGES);
    huge_check(h, 0, 1);
    huge_check(h, 1, 3);
    before = stats_of(h);
    for (unsigned int round = 0; round < 3; round++) {
        for (uint64_t page = 2; page < HUGE_PAGES; page++) {
            huge_touch(h, 0);
            huge_touch(h, 1);
            huge_check(h, page, 2 * page + 1);
            g_assert_cmpint(ram_state(&h->ram, 0), !=, MEMSWAP_STORED);
            g_assert_cmpint(ram_state(&h->ram, 1), !=, MEMSWAP_STORED);
        }
    }
    stats = stats_of(h);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_STORED] -
                     before.faults[MEMSWAP_FAULT_STORED], <=,
                     3 * (HUGE_PAGES - 2));
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_TRIAL], >, 0);
    harness_free(h);
}

static void test_same(void)
{
    const uint64_t numbers[] = { 0, 2, 0x12345678, 0xfffffffe };
    Harness *h = huge_harness(HUGE_PAGES);
    MemswapStats stats;

    for (unsigned int i = 0; i < G_N_ELEMENTS(numbers); i++) {
        huge_fill(h, i, numbers[i]);
    }
    huge_evict_all(h);
    stats = stats_of(h);
    g_assert_cmpuint(stats.zero, ==, G_N_ELEMENTS(numbers) * HUGE_SIZE);
    g_assert_cmpuint(h->store->puts, ==, 0);
    for (unsigned int i = 0; i < G_N_ELEMENTS(numbers); i++) {
        huge_check(h, i, numbers[i]);
    }
    g_assert_cmpuint(stats_of(h).faults[MEMSWAP_FAULT_SAME], ==,
                     G_N_ELEMENTS(numbers));
    /* one word differs, the last: not the same any more */
    ((_Atomic uint64_t *)huge_host(h, 2))[-1] = 1;
    huge_evict_all(h);
    g_assert_cmpint(ram_state(&h->ram, 1), ==, MEMSWAP_STORED);
    g_assert_cmpuint(h->store->puts, ==, 1);
    harness_free(h);
}

/* The store there is, and pages that do not compress at all. */
static void test_real_pool(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = HUGE_PAGES * HUGE_SIZE, .limit = HUGE_LIMIT * HUGE_SIZE,
        .hugetlb = true, .pool = true, .evictors = 1,
    });
    uint64_t low = atomic_load(&h->engine->reserve_low);

    /* room for the next fault, and one page to begin with before */
    g_assert_cmpuint(low, ==, 2 * HUGE_SIZE);
    g_assert_cmpuint(atomic_load(&h->engine->reserve_high), ==,
                     3 * HUGE_SIZE);
    for (uint64_t page = 0; page < HUGE_PAGES; page++) {
        huge_fill(h, page, 2 * page + 1);
        for (unsigned int part = 0; page % 3 == 0 && part < HUGE_PARTS;
             part++) {
            ram_fill(h, page * HUGE_PARTS + part,
                     (page * HUGE_PARTS + part) << 2 | 1);
        }
    }
    for (unsigned int round = 0; round < 2; round++) {
        for (uint64_t page = 0; page < HUGE_PAGES; page++) {
            for (unsigned int part = 0; part < HUGE_PARTS; part++) {
                if (page % 3) {
                    huge_check_part(h, page, 2 * page + 1, part);
                } else {
                    ram_check(h, page * HUGE_PARTS + part,
                              (page * HUGE_PARTS + part) << 2 | 1);
                }
            }
        }
    }
    wait_until(atomic_load(&h->engine->charged) + low <=
               HUGE_LIMIT * HUGE_SIZE);
    g_assert_cmpuint(stats_of(h).overshoots, ==, 0);
    harness_free(h);
}

/* --- pages that are there already --------------------------------------- */

/* A stranger puts a page in the file just before the fill does. */
static int stranger(void *opaque, InjectCall call, uint64_t where,
                    size_t *size)
{
    Harness *h = opaque;

    if (call == INJECT_COPY &&
        where - (uintptr_t)h->ram.host < h->ram.size) {
        uint8_t *map = mmap(NULL, HUGE_SIZE, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_NORESERVE, h->ram.fd,
                            where - (uintptr_t)h->ram.host);

        g_assert_true(map != MAP_FAILED);
        memset(map, 0x76, HUGE_SIZE);
        munmap(map, HUGE_SIZE);
    }
    return 0;
}

static bool alias_mapped(Harness *h, uint64_t page)
{
    Ram alias = { .host = h->ram.block->alias };

    return ram_mapped(&alias, page * HUGE_PARTS);
}

/*
 * Rule: EEXIST from a COPY says nothing of the content: write it, then map.
 * hugetlbfs has no write(), and nothing may stay mapped elsewhere.
 */
static void test_exists(void)
{
    Harness *h = huge_harness(HUGE_PAGES);
    InjectHooks hooks = { .before = stranger, .opaque = h };

    huge_fill_all(h, 2);
    huge_fill(h, 2, 44);
    huge_fill(h, 3, 0);
    huge_evict_all(h);
    inject(&hooks);
    huge_check_all(h, 2);
    huge_check(h, 2, 44);
    huge_check(h, 3, 0);
    /* never ours: right as it is */
    huge_check(h, 4, 0x76767676);
    for (uint64_t page = 0; page < 5; page++) {
        g_assert_false(alias_mapped(h, page));
    }
    inject(NULL);
    harness_free(h);
}

/* Pages from before, of a part of the file. */
static void test_adopt(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .limit = 32 * MIB });
    Ram ram = ram_new_hugetlb(8 * HUGE_SIZE, 3 * HUGE_SIZE);
    MemswapStats stats;

    h->ram = ram;
    for (uint64_t page = 1; page < 8; page += 2) {
        huge_fill(h, page, 2 * page + 1);
    }
    ram_add(h, &h->ram, "ram");
    stats = stats_of(h);
    g_assert_cmpuint(stats.resident, ==, 4 * HUGE_SIZE);
    g_assert_cmpuint(stats.untouched, ==, 4 * HUGE_SIZE);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_ABSENT], ==, 0);
    huge_evict_all(h);
    g_assert_cmpuint(stats_of(h).stored, ==, 4 * HUGE_SIZE);
    for (uint64_t page = 0; page < 8; page++) {
        huge_check(h, page, page & 1 ? 2 * page + 1 : 0);
    }
    harness_free(h);
}

/* --- pins and discards -------------------------------------------------- */

static void test_pin(void)
{
    Harness *h = huge_harness(HUGE_PAGES);
    uint8_t *middle = (uint8_t *)huge_host(h, 2) - 100;

    huge_fill_all(h, 4);
    huge_evict_all(h);
    /* 200 bytes, across the end of a page */
    g_assert_cmpint(memswap_pin(h->engine, middle, 200), ==, 0);
    g_assert_cmpuint(stats_of(h).pinned, ==, 2 * HUGE_SIZE);
    g_assert_cmpuint(ram_pins(&h->ram, 1), ==, 1);
    g_assert_cmpuint(ram_pins(&h->ram, 2), ==, 1);
    huge_check_all(h, 4);
    huge_evict_all(h);
    for (uint64_t page = 0; page < 4; page++) {
        g_assert_cmpint(ram_state(&h->ram, page), ==,
                        page == 1 || page == 2 ? MEMSWAP_RESIDENT :
                        MEMSWAP_STORED);
    }
    g_assert_true(ram_mapped(&h->ram, 1 * HUGE_PARTS));
    g_assert_true(ram_mapped(&h->ram, 2 * HUGE_PARTS));
    memswap_unpin(h->engine, middle, 200);
    huge_evict_all(h);
    g_assert_cmpuint(stats_of(h).stored, ==, 4 * HUGE_SIZE);
    huge_check_all(h, 4);
    harness_free(h);
}

static void test_discard(void)
{
    Harness *h = huge_harness(HUGE_PAGES);
    unsigned int free = hugepages_free();
    uint8_t *host = huge_host(h, 0);
    MemswapStats stats;

    huge_fill_all(h, 3);
    huge_fill(h, 3, 6);
    huge_evict_all(h);
    huge_check(h, 0, 1);
    huge_check(h, 1, 3);
    /* 0 and 1 resident, 2 stored, 3 same-filled, 4 never touched */
    g_assert_cmpint(memswap_pin(h->engine, huge_host(h, 1), 1), ==, 0);
    g_assert_cmpint(memswap_discard(h->engine, host, PAGE), ==, -EINVAL);
    g_assert_cmpint(memswap_discard(h->engine, host + PAGE, HUGE_SIZE), ==,
                    -EINVAL);
    huge_check(h, 0, 1);
    g_assert_cmpint(memswap_discard(h->engine, host, 5 * HUGE_SIZE), ==, 0);
    stats = stats_of(h);
    /* the pinned one stays, of zeroes */
    g_assert_cmpuint(stats.resident, ==, HUGE_SIZE);
    g_assert_cmpuint(stats.untouched, ==, (HUGE_PAGES - 1) * HUGE_SIZE);
    g_assert_cmpuint(stats.discards, ==, 3);
    g_assert_cmpuint(hugepages_free(), ==, free - 1);
    g_assert_true(ram_mapped(&h->ram, HUGE_PARTS));
    g_assert_false(alias_mapped(h, 1));
    for (uint64_t page = 0; page < 5; page++) {
        huge_check(h, page, 0);
    }
    memswap_unpin(h->engine, huge_host(h, 1), 1);
    harness_free(h);
}

/* Splice takes no page out of hugetlbfs. */
static void test_expose(void)
{
    Harness *h = huge_harness(HUGE_LIMIT);
    g_autofree char *error = NULL;

    g_assert_cmpint(memswap_block_expose(h->ram.block, &error), ==, -ENOTSUP);
    g_assert_cmpstr(error, ==,
                    "block 'ram' can't be exposed: it is of hugepages");
    g_assert_cmpuint(stats_of(h).exposed, ==, 0);
    harness_free(h);
}

static void test_free_hugepages(void)
{
    unsigned int free = hugepages_free();
    int hog;

    g_assert_cmpint(memswap_free_hugepages(3 * PAGE), ==, -ENOENT);
    hog = hugepages_leave(5);
    g_assert_cmpint(memswap_free_hugepages(HUGE_SIZE), ==, 5 * HUGE_SIZE);
    close(hog);
    g_assert_cmpint(memswap_free_hugepages(HUGE_SIZE), ==,
                    free * HUGE_SIZE);
}

/* What may be kept again is counted in bytes, not in pages of any size. */
static void test_keep(void)
{
    Harness *h = huge_harness(HUGE_PAGES);
    Ram small = ram_new(2 * MIB, 0);

    puppet_add(h, "p", "puppet-prefetcher");
    ram_add(h, &small, "small");
    g_assert_cmpint(puppet_ask(h, "p", "keep", "0 0 %d", (int)HUGE_PAGES), ==,
                    HUGE_PAGES / 4);
    for (uint64_t i = 0; i < HUGE_PAGES; i++) {
        *(_Atomic uint64_t *)(small.host + i * PAGE) = 2 * i + 1;
    }
    huge_evict_all(h);
    g_assert_cmpuint(stats_of(h).evictions, ==, HUGE_PAGES);
    g_assert_cmpint(puppet_ask(h, "p", "keep", "0 %d 1", (int)HUGE_PAGES / 4),
                    ==, 0);
    /* half of the limit, twice */
    for (unsigned int i = 0; i < 2; i++) {
        huge_fill_all(h, HUGE_PAGES / 2);
        huge_evict_all(h);
    }
    g_assert_cmpint(puppet_ask(h, "p", "keep", "0 %d 1", (int)HUGE_PAGES / 4),
                    ==, 1);
    ram_remove(h, &small);
    ram_free(&small);
    harness_free(h);
}

/* What is named from outside leaves, and comes, by whole pages. */
static void test_ranges(void)
{
    Harness *h = huge_harness(HUGE_PAGES);
    MemswapRange range = {
        .block = h->ram.block->name, .offset = HUGE_SIZE,
        .size = 2 * HUGE_SIZE,
    };

    for (uint64_t page = 0; page < 4; page++) {
        huge_fill(h, page, 2 * page + 1);
    }
    harness_settle(h);
    g_assert_cmpint(memswap_reclaim_ranges(h->engine, &range, 1, false, NULL,
                                           NULL, NULL), ==, 2 * HUGE_SIZE);
    g_assert_cmpint(ram_state(&h->ram, 0), ==, MEMSWAP_RESIDENT);
    g_assert_cmpint(ram_state(&h->ram, 2), ==, MEMSWAP_STORED);
    g_assert_cmpint(memswap_prefetch(h->engine, &range, 1, NULL, NULL, NULL),
                    ==, 2 * HUGE_SIZE);
    range.offset = PAGE;
    g_assert_cmpint(memswap_prefetch(h->engine, &range, 1, NULL, NULL, NULL),
                    ==, -EINVAL);
    for (uint64_t page = 0; page < 4; page++) {
        huge_check(h, page, 2 * page + 1);
    }
    harness_check(h);
    harness_free(h);
}

/* Retained: all is there for who maps it, and what that one makes counts. */
static void test_retain(void)
{
    Harness *h = huge_harness(HUGE_LIMIT);
    uint8_t *other = mmap(NULL, h->ram.size, PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_NORESERVE, h->ram.fd, 0);
    uint8_t first[HUGE_SIZE / HUGE_PARTS];

    g_assert_true(other != MAP_FAILED);
    huge_fill_all(h, 4);
    huge_evict_all(h);
    g_assert_cmpint(memswap_retain(h->engine, h->ram.host, NULL), ==, 0);
    g_assert_cmpuint(stats_of(h).resident, ==, 4 * HUGE_SIZE);
    g_assert_cmpint(memcmp(other, huge_host(h, 0), 4 * HUGE_SIZE), ==, 0);
    memcpy(first, other + HUGE_SIZE, sizeof(first));
    memcpy(other + 6 * HUGE_SIZE, other + 3 * HUGE_SIZE, HUGE_SIZE);
    huge_evict_all(h);
    g_assert_cmpuint(stats_of(h).stored, ==, 0);

    memswap_release(h->engine, h->ram.host);
    g_assert_cmpuint(stats_of(h).resident, ==, 5 * HUGE_SIZE);
    harness_check(h);
    huge_evict_all(h);
    g_assert_cmpuint(stats_of(h).resident, ==, 0);
    huge_check_all(h, 4);
    g_assert_cmpint(memcmp(huge_host(h, 6), huge_host(h, 3), HUGE_SIZE), ==,
                    0);

    g_assert_cmpint(memswap_retain(h->engine, h->ram.host, NULL), ==, 0);
    memset(other + 8 * HUGE_SIZE, 1, HUGE_SIZE);
    g_assert_cmpint(memswap_discard(h->engine, huge_host(h, 1),
                                    8 * HUGE_SIZE), ==, 0);
    g_assert_cmpuint(stats_of(h).resident, ==, HUGE_SIZE);
    huge_check(h, 8, 0);
    huge_check(h, 0, 1);
    g_assert_cmpint(memcmp(first, other + HUGE_SIZE, sizeof(first)), !=, 0);
    memswap_release(h->engine, h->ram.host);
    munmap(other, h->ram.size);
    memswap_discard(h->engine, h->ram.host, h->ram.size);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!hugepages_get(HUGE_PAGES + 1)) {
        g_test_add_func("/hugetlb", hugepages_skip);
        return g_test_run();
    }
    g_test_add_func("/hugetlb/absent", test_absent);
    g_test_add_func("/hugetlb/round", test_round);
    g_test_add_func("/hugetlb/ranges", test_ranges);
    g_test_add_func("/hugetlb/access-string", test_access_string);
    g_test_add_func("/hugetlb/warm", test_warm);
    g_test_add_func("/hugetlb/same", test_same);
    g_test_add_func("/hugetlb/real-pool", test_real_pool);
    g_test_add_func("/hugetlb/exists", test_exists);
    g_test_add_func("/hugetlb/adopt", test_adopt);
    g_test_add_func("/hugetlb/pin", test_pin);
    g_test_add_func("/hugetlb/discard", test_discard);
    g_test_add_func("/hugetlb/retain", test_retain);
    g_test_add_func("/hugetlb/expose", test_expose);
    g_test_add_func("/hugetlb/keep", test_keep);
    g_test_add_func("/hugetlb/free", test_free_hugepages);
    return g_test_run();
}

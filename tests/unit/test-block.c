/*
 * Tests of blocks: what is accepted, what is refused, coming and going
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"

#define GIB (1024 * MIB)

static MemswapBlockInfo info_of(const Ram *ram)
{
    return (MemswapBlockInfo) {
        .name = "the-name",
        .host = ram->host,
        .size = ram->size,
        .fd = ram->fd,
        .fd_offset = ram->fd_offset,
        .page_size = PAGE,
    };
}

/* Refused, for a reason told in one line that names the block. */
static void refuse(Harness *h, const MemswapBlockInfo *info, int error,
                   const char *reason)
{
    MemswapBlock *block = NULL;
    char *message = NULL;

    g_assert_cmpint(memswap_block_add(h->engine, info, &block, &message), ==,
                    error);
    g_assert_nonnull(message);
    g_assert_null(strchr(message, '\n'));
    g_assert_nonnull(strstr(message, "the-name"));
    if (!strstr(message, reason)) {
        g_error("not because of '%s': %s", reason, message);
    }
    g_free(message);
    g_assert_cmpint(memswap_block_add(h->engine, info, &block, NULL), ==,
                    error);
    g_assert_null(block);
    g_assert_false(memswap_owns(h->engine, (char *)info->host + info->size -
                                1) && error != -EBUSY);
    g_assert_cmpuint(stats_of(h).managed, ==, 0);
}

/* --- refused ----------------------------------------------------------- */

static void test_unaligned(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .limit = MIB });
    Ram ram = ram_new(4 * MIB, 0);
    MemswapBlockInfo info;

    info = info_of(&ram);
    info.size = 0;
    refuse(h, &info, -EINVAL, "aligned");
    info.size = 5 * PAGE + 1;
    refuse(h, &info, -EINVAL, "aligned");
    info = info_of(&ram);
    info.host = ram.host + 512;
    info.size -= PAGE;
    refuse(h, &info, -EINVAL, "aligned");
    info = info_of(&ram);
    info.fd_offset = 7;
    refuse(h, &info, -EINVAL, "aligned");
    ram_free(&ram);
    harness_free(h);
}

static void test_page_size(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .limit = MIB });
    Ram ram = ram_new(4 * MIB, 0);
    MemswapBlockInfo info = info_of(&ram);

    info.page_size = 2 * MIB;
    refuse(h, &info, -EINVAL, "hugetlb");
    ram_free(&ram);
    harness_free(h);
}

static void test_private(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .limit = MIB });
    Ram ram = ram_new(4 * MIB, 0);
    MemswapBlockInfo info = info_of(&ram);

    /* all of it, or a page in its middle */
    g_assert_true(mmap(ram.host + MIB, PAGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_FIXED, ram.fd, MIB) ==
                  ram.host + MIB);
    refuse(h, &info, -EINVAL, "private");
    g_assert_true(mmap(ram.host, ram.size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_FIXED, ram.fd, 0) == ram.host);
    ram.host[3] = 5;
    refuse(h, &info, -EINVAL, "private");
    g_assert_cmpint(ram.host[3], ==, 5);
    g_assert_true(mmap(ram.host, ram.size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
                  ram.host);
    refuse(h, &info, -EINVAL, "private");
    ram_free(&ram);
    harness_free(h);
}

static void test_hole(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .limit = MIB });
    Ram ram = ram_new(4 * MIB, 0);
    MemswapBlockInfo info = info_of(&ram);

    munmap(ram.host + MIB, PAGE);
    refuse(h, &info, -EINVAL, "");
    ram_free(&ram);
    harness_free(h);
}

static void test_locked(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .limit = MIB });
    Ram ram = ram_new(4 * MIB, 0);
    MemswapBlockInfo info = info_of(&ram);

    /* not by the C library: sanitizers make that do nothing */
    if (syscall(SYS_mlock, ram.host, PAGE)) {
        g_test_skip("no memory may be locked here");
    } else {
        refuse(h, &info, -EINVAL, "locked");
        syscall(SYS_munlock, ram.host, PAGE);
        g_assert_cmpint(syscall(SYS_mlock, ram.host + 3 * MIB, PAGE), ==, 0);
        refuse(h, &info, -EINVAL, "locked");
    }
    ram_free(&ram);
    harness_free(h);
}

/* What another userfaultfd has taken, or this one. */
static void test_twice(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .limit = MIB });
    Harness *other = harness_new(&(HarnessOptions) { .limit = MIB });
    Ram ram = ram_new(4 * MIB, 0);
    MemswapBlockInfo info = info_of(&ram);
    MemswapBlock *second = NULL;
    char *error = NULL;

    ram_add(other, &ram, "ram");
    refuse(h, &info, -EBUSY, "userfaultfd");
    g_assert_cmpint(memswap_block_add(other->engine, &info, &second, &error),
                    !=, 0);
    g_assert_nonnull(error);
    g_free(error);
    g_assert_cmpuint(stats_of(other).managed, ==, 4 * MIB);
    ram_remove(other, &ram);
    ram_add(h, &ram, "ram");
    ram_remove(h, &ram);
    ram_free(&ram);
    harness_free(other);
    harness_free(h);
}

/* --- coming ------------------------------------------------------------ */

/* Contents stay; what is there counts, above the limit if need be. */
static void test_adopt(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .limit = MIB });

    h->ram = ram_new(8 * MIB, 0);
    for (uint64_t page = 0; page < 2048; page += 2) {
        ram_fill(h, page, 2 * page + 1);
    }
    ram_add(h, &h->ram, "ram");
    g_assert_cmpuint(stats_of(h).resident, ==, 4 * MIB);
    g_assert_cmpuint(stats_of(h).untouched, ==, 4 * MIB);
    harness_check(h);
    /* the next fault works it down */
    ram_check(h, 1, 0);
    g_assert_cmpuint(stats_of(h).resident, ==, MIB);
    for (uint64_t page = 0; page < 2048; page++) {
        ram_check(h, page, page & 1 ? 0 : 2 * page + 1);
    }
    harness_free(h);
}

/* The engine reads and writes the right place of the file. */
static void test_fd_offset(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .limit = MIB });
    uint64_t page[PAGE / sizeof(uint64_t)];

    h->ram = ram_new(4 * MIB, 3 * MIB + 5 * PAGE);
    /* what lies before it in the file is none of the engine's business */
    page_build(page, 7);
    g_assert_cmpint(pwrite(h->ram.fd, page, PAGE, 0), ==, PAGE);
    ram_fill(h, 1000, 9);
    ram_add(h, &h->ram, "ram");
    g_assert_cmpuint(stats_of(h).resident, ==, PAGE);
    for (unsigned int round = 0; round < 3; round++) {
        for (uint64_t i = 0; i < 1000; i++) {
            ram_fill(h, i, 2 * (i + round) + 1);
        }
        for (uint64_t i = 0; i < 1000; i++) {
            ram_check(h, i, 2 * (i + round) + 1);
        }
    }
    ram_check(h, 1000, 9);
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, 4 * MIB), ==, MIB);
    g_assert_cmpuint(ram_cached(&h->ram), ==, PAGE);
    g_assert_cmpint(pread(h->ram.fd, page, PAGE, 0), ==, PAGE);
    g_assert_cmpuint(page[0], ==, 7);
    harness_free(h);
}

static void test_name(void)
{
    Harness *h = harness_new(&(HarnessOptions) { 0 });
    char name[] = "a name";
    Ram ram = ram_new(2 * MIB, 0);

    ram_add(h, &ram, name);
    /* copied */
    name[0] = 'x';
    g_assert_cmpstr(ram.block->name, ==, "a name");
    ram_remove(h, &ram);
    ram_free(&ram);
    harness_free(h);
}

/* --- going ------------------------------------------------------------- */

static void test_remove(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 4 * MIB, .limit = 16 * MIB, .pool = true,
    });
    Ram second = ram_new(4 * MIB, 0);
    MemswapStats stats;

    ram_add(h, &second, "second");
    for (uint64_t page = 0; page < 1024; page++) {
        page_build(second.host + page * PAGE, 2 * page + 1);
        ram_fill(h, page, 2 * page + 1);
    }
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, 6 * MIB), ==, 6 * MIB);
    stats = stats_of(h);
    g_assert_cmpuint(stats.managed, ==, 8 * MIB);
    g_assert_cmpuint(stats.stored, ==, 6 * MIB);
    g_assert_cmpuint(stats.pool_live_bytes, >, 0);
    g_assert_cmpuint(stats.metadata, >, 0);
    ram_remove(h, &second);
    g_assert_false(memswap_owns(h->engine, second.host));
    stats = stats_of(h);
    g_assert_cmpuint(stats.managed, ==, 4 * MIB);
    harness_check(h);
    check_pages(h, 0, 1024);
    ram_remove(h, &h->ram);
    stats = stats_of(h);
    g_assert_cmpuint(stats.managed, ==, 0);
    g_assert_cmpuint(stats.resident, ==, 0);
    g_assert_cmpuint(stats.trial, ==, 0);
    g_assert_cmpuint(stats.pinned, ==, 0);
    g_assert_cmpuint(stats.metadata, ==, 0);
    g_assert_cmpuint(stats.pool_live_bytes, ==, 0);
    g_assert_cmpuint(stats.pool_data_bytes, ==, 0);
    g_assert_cmpuint(atomic_load(&h->engine->charged), ==, 0);
    /* it can be touched as any memory again, and managed again */
    h->ram.host[5] = 1;
    ram_add(h, &h->ram, "ram");
    ram_free(&second);
    harness_free(h);
}

/* The engine's end takes what is left along, and the store. */
static void test_free(void)
{
    bool freed = false;
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });

    h->store->freed = &freed;
    write_pages(h, 0, 300);
    memswap_reclaim(h->engine, 200 * PAGE);
    g_assert_cmpint(task_pin(h, 299), ==, 0);
    memswap_unpin(h->engine, h->ram.host + 299 * PAGE, PAGE);
    h->ram.block = NULL;
    harness_free(h);
    g_assert_true(freed);
}

/* Over and over, with evictors at work on another block. */
static void test_many_times(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 4 * MIB, .limit = MIB, .evictors = 2,
        .reserve_low = 16 * PAGE, .reserve_high = 32 * PAGE,
    });
    uint64_t page = 0;

    for (unsigned int i = 0; i < 2000; i++) {
        Ram ram = ram_new(16 * PAGE, 0);

        ram_add(h, &ram, "plugged");
        page_build(ram.host + PAGE * (i % 16), 2 * i + 1);
        ram_fill(h, page, 2 * page + 1);
        page = (page + 37) % 1024;
        g_assert_cmpuint(*(uint64_t *)(ram.host + PAGE * (i % 16)), ==,
                         2 * i + 1);
        ram_remove(h, &ram);
        ram_free(&ram);
    }
    harness_check(h);
    for (page = 0; page < 1024; page++) {
        ram_check(h, page, 2 * page + 1);
    }
    harness_free(h);
}

/* As many as there may be; one more is refused. */
static void test_many(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .limit = 64 * MIB });
    static Ram rams[MEMSWAP_MAX_BLOCKS + 1];
    MemswapBlockInfo info;
    MemswapBlock *block = NULL;
    char *error = NULL;

    for (unsigned int i = 0; i < MEMSWAP_MAX_BLOCKS; i++) {
        rams[i] = ram_new(4 * PAGE, 0);
        ram_add(h, &rams[i], "one of many");
        page_build(rams[i].host + 2 * PAGE, 2 * i + 1);
    }
    rams[MEMSWAP_MAX_BLOCKS] = ram_new(4 * PAGE, 0);
    info = info_of(&rams[MEMSWAP_MAX_BLOCKS]);
    g_assert_cmpint(memswap_block_add(h->engine, &info, &block, &error), <,
                    0);
    g_assert_nonnull(error);
    g_free(error);
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, GIB), ==,
                     MEMSWAP_MAX_BLOCKS * PAGE);
    harness_check(h);
    for (unsigned int i = 0; i < MEMSWAP_MAX_BLOCKS; i++) {
        g_assert_cmpuint(*(uint64_t *)(rams[i].host + 2 * PAGE), ==,
                         2 * i + 1);
    }
    harness_check(h);
    /* a place that is free can be taken again */
    ram_remove(h, &rams[500]);
    ram_add(h, &rams[MEMSWAP_MAX_BLOCKS], "the last");
    for (unsigned int i = 0; i <= MEMSWAP_MAX_BLOCKS; i++) {
        if (rams[i].block) {
            ram_remove(h, &rams[i]);
        }
        ram_free(&rams[i]);
    }
    harness_free(h);
}

/* --- what it costs ----------------------------------------------------- */

#ifdef TEST_SANITIZED
/* Sanitizers take memory of their own for all that is touched. */
#define ANONYMOUS_SLACK (64 * GIB)
#else
/* What the C library may take meanwhile. */
#define ANONYMOUS_SLACK MIB
#endif

/*
 * Bytes of anonymous memory this process has; shared memory apart.  From the
 * page tables: the counter in status lags behind, by up to 256 KiB a thread.
 */
static uint64_t anonymous(void)
{
    g_autofree char *rollup = NULL;
    const char *at;
    unsigned long kb = 0;

    g_assert_true(g_file_get_contents("/proc/self/smaps_rollup", &rollup,
                                      NULL, NULL));
    at = strstr(rollup, "\nAnonymous:");
    g_assert_nonnull(at);
    g_assert_cmpint(sscanf(at, "\nAnonymous: %lu", &kb), ==, 1);
    return kb * 1024ULL;
}

static void test_sparse(void)
{
    const uint64_t size = 64 * GIB;
    Harness *h = harness_new(&(HarnessOptions) { .limit = size });
    uint64_t before, touched = 0;
    MemswapStats stats;

    h->ram = ram_new(size, 0);
    before = anonymous();
    ram_add(h, &h->ram, "sparse");
    stats = stats_of(h);
    g_assert_cmpuint(stats.managed, ==, size);
    g_assert_cmpuint(stats.metadata, ==, 0);
    /* nothing for 64 GiB */
    g_assert_cmpuint(anonymous(), <, before + ANONYMOUS_SLACK);

    /* a region here, one page there */
    for (uint64_t at = 0; at < size; at += 8 * GIB) {
        for (uint64_t page = 0; page < REGION_PAGES; page += 2) {
            ram_fill(h, at / PAGE + page, 2 * page + 1);
        }
        touched += MEMSWAP_REGION_SIZE;
    }
    stats = stats_of(h);
    g_assert_cmpuint(stats.resident, ==, touched / 2);
    g_assert_cmpuint(stats.metadata, >, 0);
    g_assert_cmpuint(stats.metadata, <=, touched / 400);
    g_assert_cmpuint(anonymous(), <, before + MIB + ANONYMOUS_SLACK);
    g_assert_cmpuint(memswap_reclaim(h->engine, touched), ==, touched / 2);
    for (uint64_t at = 0; at < size; at += 8 * GIB) {
        for (uint64_t page = 0; page < REGION_PAGES; page += 2) {
            ram_check(h, at / PAGE + page, 2 * page + 1);
        }
    }
    harness_settle(h);
    ram_remove(h, &h->ram);
    harness_free(h);
}

/* All of it touched: page words and regions within a quarter percent. */
static void test_metadata(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 256 * MIB });
    MemswapStats stats;
    uint64_t before;

    /* else one of the heap's own may come in between: 2 MiB */
    g_assert_cmpint(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), ==, 0);
    before = anonymous();
    for (uint64_t page = 0; page < 256 * MIB / PAGE; page++) {
        ram_touch(h, page);
    }
    stats = stats_of(h);
    g_assert_cmpuint(stats.resident, ==, 256 * MIB);
    g_assert_cmpuint(stats.metadata, <=, 256 * MIB / 400);
    g_assert_cmpuint(stats.metadata, >=, 256 * MIB / PAGE * 8);
    g_assert_cmpuint(anonymous(), <=, before + 256 * MIB / 400 +
                     ANONYMOUS_SLACK);
    prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/block/refused/unaligned", test_unaligned);
    g_test_add_func("/block/refused/page-size", test_page_size);
    g_test_add_func("/block/refused/private", test_private);
    g_test_add_func("/block/refused/hole", test_hole);
    g_test_add_func("/block/refused/locked", test_locked);
    g_test_add_func("/block/refused/twice", test_twice);
    g_test_add_func("/block/adopt", test_adopt);
    g_test_add_func("/block/fd-offset", test_fd_offset);
    g_test_add_func("/block/name", test_name);
    g_test_add_func("/block/remove", test_remove);
    g_test_add_func("/block/free", test_free);
    g_test_add_func("/block/many-times", test_many_times);
    g_test_add_func("/block/many", test_many);
    g_test_add_func("/block/sparse", test_sparse);
    g_test_add_func("/block/metadata", test_metadata);
    return g_test_run();
}

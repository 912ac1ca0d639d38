/*
 * Tests of the walk through a guest's page tables
 *
 * The guest is an array of bytes, some of which can't be read.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <glib.h>
#include <stdbool.h>
#include <string.h>

#include "memswap/guest-notes.h"
#include "memswap/guest-table.h"

#define PAGE UINT64_C(4096)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define PAGES 64

#define PRESENT UINT64_C(1)
#define WRITE   UINT64_C(2)
#define USER    UINT64_C(4)
#define LARGE   UINT64_C(0x80)
#define PAT     UINT64_C(0x1000)
#define NX      (UINT64_C(1) << 63)
#define KEY     (UINT64_C(5) << 59)
#define TABLE   (PRESENT | WRITE | USER)

typedef struct Guest {
    uint64_t words[PAGES][PAGE / sizeof(uint64_t)];
    uint64_t next;              /* page that is free */
    uint64_t unknown;           /* page that can't be read now; 0: none */
    unsigned int reads;
    unsigned int levels;
    uint64_t root;
} Guest;

static int read_guest(void *opaque, uint64_t physical, void *buffer,
                      size_t size)
{
    Guest *guest = opaque;

    guest->reads++;
    g_assert_cmpuint(physical % PAGE + size, <=, PAGE);
    if (physical + size > sizeof(guest->words)) {
        return -EFAULT;
    }
    if (guest->unknown && physical / PAGE == guest->unknown) {
        return -EAGAIN;
    }
    memcpy(buffer, (uint8_t *)guest->words + physical, size);
    return 0;
}

static uint64_t new_table(Guest *guest)
{
    g_assert_cmpuint(guest->next, <, PAGES);
    return guest->next++ * PAGE;
}

static Guest *guest_new(unsigned int levels)
{
    Guest *guest = g_new0(Guest, 1);

    guest->next = 3;
    guest->levels = levels;
    guest->root = memswap_guest_root(new_table(guest), levels);
    return guest;
}

/* The entry for @address in the table of @level; tables above are made. */
static uint64_t *entry_of(Guest *guest, uint64_t address, unsigned int level)
{
    uint64_t table = guest->root & MEMSWAP_GUEST_ADDRESS;

    for (unsigned int at = guest->levels; ; at--) {
        uint64_t *entry = &guest->words[table / PAGE]
                          [address >> (12 + 9 * (at - 1)) & 511];

        if (at == level) {
            return entry;
        }
        if (!*entry) {
            *entry = new_table(guest) | TABLE;
        }
        table = *entry & MEMSWAP_GUEST_ADDRESS;
    }
}

static void check_walk(Guest *guest, uint64_t address, uint64_t physical,
                       uint64_t size)
{
    uint64_t got = 0, got_size = 0;

    g_assert_cmpint(memswap_guest_walk(guest->root, address, read_guest,
                                       guest, &got, &got_size), ==, 0);
    g_assert_cmphex(got, ==, physical);
    g_assert_cmphex(got_size, ==, size);
    g_assert_cmpint(memswap_guest_walk(guest->root, address, read_guest,
                                       guest, &got, NULL), ==, 0);
}

static void check_fails(Guest *guest, uint64_t address, int expected)
{
    uint64_t physical = 17, size = 18;

    guest->reads = 0;
    g_assert_cmpint(memswap_guest_walk(guest->root, address, read_guest,
                                       guest, &physical, &size), ==, expected);
    g_assert_cmpuint(physical, ==, 17);
    g_assert_cmpuint(size, ==, 18);
    g_assert_cmpuint(guest->reads, <=, guest->levels);
}

/* Of a user's, of the kernel's, and at the ends of what can be translated. */
static const uint64_t places[] = {
    0, UINT64_C(0x7f1234567000), UINT64_C(0x7fffffffe000),
    UINT64_C(0xffff800000000000), UINT64_C(0xffffffff81000000),
    UINT64_C(0xfffffffffffff000),
};

static void check_sizes(unsigned int levels)
{
    for (unsigned int i = 0; i < G_N_ELEMENTS(places); i++) {
        uint64_t address = places[i];
        Guest *guest = guest_new(levels);

        check_fails(guest, address, -EFAULT);
        g_assert_cmpuint(guest->reads, ==, 1);
        *entry_of(guest, address, 1) = UINT64_C(0x123456789000) | TABLE | NX |
                                       KEY;
        check_walk(guest, address, UINT64_C(0x123456789000), PAGE);
        check_walk(guest, address | 0xabc, UINT64_C(0x123456789abc), PAGE);
        check_fails(guest, address ^ PAGE, -EFAULT);
        g_assert_cmpuint(guest->reads, ==, levels);
        g_free(guest);

        guest = guest_new(levels);
        *entry_of(guest, address, 2) = 34 * 2 * MIB | TABLE | LARGE | PAT | NX;
        check_walk(guest, (address & ~(2 * MIB - 1)) + 0x54321,
                   34 * 2 * MIB + 0x54321, 2 * MIB);
        check_fails(guest, address ^ 2 * MIB, -EFAULT);
        g_free(guest);

        guest = guest_new(levels);
        *entry_of(guest, address, 3) = 5 * GIB | TABLE | LARGE;
        check_walk(guest, (address & ~(GIB - 1)) + 0x7654321,
                   5 * GIB + 0x7654321, GIB);
        check_fails(guest, address ^ GIB, -EFAULT);
        g_free(guest);
    }
}

static void test_four(void)
{
    Guest *guest = guest_new(4);

    check_sizes(4);
    /* bit 47 and those above are all the same */
    check_fails(guest, UINT64_C(0x0000800000000000), -EFAULT);
    g_assert_cmpuint(guest->reads, ==, 0);
    check_fails(guest, UINT64_C(0xffff7fffffffffff), -EFAULT);
    g_assert_cmpuint(guest->reads, ==, 0);
    g_free(guest);
}

static void test_five(void)
{
    const uint64_t high = UINT64_C(0x00ff123456789000);
    Guest *guest = guest_new(5);

    check_sizes(5);
    *entry_of(guest, high, 1) = 99 * PAGE | PRESENT;
    check_walk(guest, high, 99 * PAGE, PAGE);
    check_fails(guest, UINT64_C(0x0100000000000000), -EFAULT);
    g_assert_cmpuint(guest->reads, ==, 0);
    g_free(guest);
}

/* Only the lowest bit says that an entry is there. */
static void test_not_present(void)
{
    for (unsigned int level = 1; level <= 4; level++) {
        Guest *guest = guest_new(4);

        *entry_of(guest, 0x5000, 1) = 7 * PAGE | TABLE;
        check_walk(guest, 0x5000, 7 * PAGE, PAGE);
        *entry_of(guest, 0x5000, level) &= ~PRESENT;
        check_fails(guest, 0x5000, -EFAULT);
        g_assert_cmpuint(guest->reads, ==, 5 - level);
        g_free(guest);
    }
}

static void test_reserved(void)
{
    Guest *guest = guest_new(5);

    /* no page is as large as what these map */
    for (unsigned int level = 4; level <= 5; level++) {
        *entry_of(guest, 0, 1) = PAGE | TABLE;
        check_walk(guest, 0, PAGE, PAGE);
        *entry_of(guest, 0, level) |= LARGE;
        check_fails(guest, 0, -EFAULT);
        *entry_of(guest, 0, level) &= ~LARGE;
    }
    /* in the lowest table that bit is about caching */
    *entry_of(guest, 0, 1) |= LARGE;
    check_walk(guest, 0, PAGE, PAGE);
    /* a large page lies at a multiple of its size */
    *entry_of(guest, 2 * MIB, 2) = 2 * MIB | 2 * PAGE | TABLE | LARGE;
    check_fails(guest, 2 * MIB, -EFAULT);
    *entry_of(guest, GIB, 3) = GIB | 2 * MIB | TABLE | LARGE;
    check_fails(guest, GIB, -EFAULT);
    g_free(guest);
}

/* A table that can't be read now, or is no RAM. */
static void test_reader(void)
{
    for (unsigned int level = 1; level <= 4; level++) {
        Guest *guest = guest_new(4);
        uint64_t physical;

        *entry_of(guest, 0x5000, 1) = 7 * PAGE | TABLE;
        guest->unknown = guest->next - level;
        check_fails(guest, 0x5000, -EAGAIN);
        guest->unknown = 0;
        check_walk(guest, 0x5000, 7 * PAGE, PAGE);
        if (level == 1) {
            /* of the page itself nothing is read */
            *entry_of(guest, 0x5000, 1) = MEMSWAP_GUEST_ADDRESS | TABLE;
            check_walk(guest, 0x5000, MEMSWAP_GUEST_ADDRESS, PAGE);
        } else {
            *entry_of(guest, 0x5000, level) = MEMSWAP_GUEST_ADDRESS | TABLE;
            check_fails(guest, 0x5000, -EFAULT);
        }
        g_assert_cmpint(memswap_guest_walk(memswap_guest_root(GIB, 4), 0,
                                           read_guest, guest, &physical,
                                           NULL), ==, -EFAULT);
        g_free(guest);
    }
}

/* A table that is its own entry, as some systems have it. */
static void test_loop(void)
{
    for (unsigned int levels = 4; levels <= 5; levels++) {
        Guest *guest = guest_new(levels);
        uint64_t table = guest->root & MEMSWAP_GUEST_ADDRESS;

        for (unsigned int i = 0; i < 512; i++) {
            guest->words[table / PAGE][i] = table | TABLE;
        }
        guest->reads = 0;
        check_walk(guest, 0x123, table | 0x123, PAGE);
        g_assert_cmpuint(guest->reads, ==, 2 * levels);
        g_free(guest);
    }
}

static void test_bad_root(void)
{
    static const uint64_t bad[] = {
        0, 3, 3 * PAGE, 3 * PAGE | 3, 3 * PAGE | 6, 3 * PAGE | 4 | 8,
        UINT64_MAX, NX | 3 * PAGE | 4,
    };
    Guest *guest = guest_new(4);
    uint64_t physical;

    for (unsigned int i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_assert_cmpint(memswap_guest_walk(bad[i], 0, read_guest, guest,
                                           &physical, NULL), ==, -EINVAL);
    }
    g_assert_cmpuint(guest->reads, ==, 0);
    /* what CR3 has in its low bits is no part of a root */
    g_assert_cmphex(memswap_guest_root(3 * PAGE | 0x18 | NX, 4), ==,
                    3 * PAGE | 4);
    g_free(guest);
}

/* Tables of anything: an end, and no read but inside a page. */
static void test_garbage(void)
{
    Guest *guest = guest_new(5);
    unsigned int found = 0;

    for (unsigned int i = 0; i < 200000; i++) {
        uint64_t address = (uint64_t)g_test_rand_int() << 32 |
                           g_test_rand_int();
        unsigned int levels = 4 + i % 2;
        uint64_t physical;
        int ret;

        if (i % 1000 == 0) {
            for (uint64_t *word = guest->words[0];
                 word < guest->words[PAGES]; word++) {
                *word = (uint64_t)g_test_rand_int() << 32 |
                        g_test_rand_int();
                if (g_test_rand_bit()) {
                    *word &= (PAGES * PAGE - 1) | LARGE;
                }
            }
        }
        guest->reads = 0;
        address = (int64_t)(address << (levels == 4 ? 16 : 7)) >>
                  (levels == 4 ? 16 : 7);
        ret = memswap_guest_walk(memswap_guest_root(i % PAGES * PAGE, levels),
                                 address, read_guest, guest, &physical, NULL);
        g_assert_true(!ret || ret == -EFAULT);
        g_assert_cmpuint(guest->reads, >, 0);
        g_assert_cmpuint(guest->reads, <=, levels);
        found += !ret;
    }
    g_assert_cmpuint(found, >, 0);
    g_free(guest);
}

/* --- tables that were read just now ------------------------------------ */

static int read_counted(void *opaque, uint64_t physical, void *buffer,
                        size_t size)
{
    g_assert_cmpuint(physical % PAGE, ==, 0);
    g_assert_cmpuint(size, ==, PAGE);
    return read_guest(opaque, physical, buffer, size);
}

/* RAM without an end: each page says its number. */
static int read_guest_far(void *opaque, uint64_t physical, void *buffer,
                          size_t size)
{
    Guest *guest = opaque;
    uint64_t *words = buffer;

    guest->reads++;
    words[0] = physical / PAGE;
    return 0;
}

static void expect_far(MemswapTableCache *cache, int64_t now, uint64_t page,
                       unsigned int reads)
{
    Guest *guest = cache->opaque;
    unsigned int before = guest->reads;
    uint64_t word;

    g_assert_cmpint(memswap_table_read(cache, now, page * PAGE, &word,
                                       sizeof(word)), ==, 0);
    g_assert_cmpuint(word, ==, page);
    g_assert_cmpuint(guest->reads - before, ==, reads);
}

static void expect_read(MemswapTableCache *cache, int64_t now, uint64_t page,
                        int expected, unsigned int reads)
{
    Guest *guest = cache->opaque;
    unsigned int before = guest->reads;
    uint64_t word = 0;

    g_assert_cmpint(memswap_table_read(cache, now, page * PAGE + 16, &word,
                                       sizeof(word)), ==, expected);
    g_assert_cmpuint(guest->reads - before, ==, reads);
    if (!expected) {
        g_assert_cmpuint(word, ==, guest->words[page][2]);
    }
}

/* The tables of one walk have a place each, whatever their addresses. */
static void test_cache(void)
{
    g_autofree Guest *guest = guest_new(4);
    g_autofree MemswapTableCache *cache = g_new0(MemswapTableCache, 1);

    *cache = (MemswapTableCache) {
        .read = read_counted, .opaque = guest, .fresh_ns = 100,
    };
    for (uint64_t page = 0; page < PAGES; page++) {
        guest->words[page][2] = 1000 + page;
    }
    for (unsigned int round = 0; round < 3; round++) {
        for (uint64_t way = 0; way < MEMSWAP_TABLE_WAYS; way++) {
            expect_read(cache, 1 + way, way * MEMSWAP_TABLE_SETS, 0, !round);
        }
    }
    /* another set */
    expect_read(cache, 10, 1, 0, 1);
    /* what is old is read again, and what is no more is seen to be */
    guest->words[0][2] = 7;
    expect_read(cache, 102, 0, 0, 1);
    guest->unknown = MEMSWAP_TABLE_SETS;
    expect_read(cache, 103, MEMSWAP_TABLE_SETS, -EAGAIN, 1);
    guest->unknown = 0;
    expect_read(cache, 103, MEMSWAP_TABLE_SETS, 0, 1);
    expect_read(cache, 103, PAGES, -EFAULT, 1);
    expect_read(cache, 103, PAGES, -EFAULT, 1);
}

/* One more than there is place for: the one that was read first goes. */
static void test_cache_full(void)
{
    g_autofree Guest *guest = guest_new(4);
    g_autofree MemswapTableCache *cache = g_new0(MemswapTableCache, 1);

    *cache = (MemswapTableCache) {
        .read = read_guest_far, .opaque = guest, .fresh_ns = 100,
    };
    for (uint64_t way = 0; way <= MEMSWAP_TABLE_WAYS; way++) {
        expect_far(cache, 1 + way, way * MEMSWAP_TABLE_SETS, 1);
    }
    expect_far(cache, 9, MEMSWAP_TABLE_SETS, 0);
    expect_far(cache, 9, MEMSWAP_TABLE_WAYS * MEMSWAP_TABLE_SETS, 0);
    expect_far(cache, 10, 0, 1);
    expect_far(cache, 11, MEMSWAP_TABLE_SETS, 1);
}

/* --- where pages were used --------------------------------------------- */

static const void *at(uint64_t page, unsigned int offset)
{
    return (const void *)(uintptr_t)(0x7f0000000000 + page * PAGE + offset);
}

static void test_notes(void)
{
    g_autofree MemswapGuestNotes *notes = g_new0(MemswapGuestNotes, 1);
    uint64_t n = 128 * MIB / PAGE;
    uint64_t root, address;

    g_assert_false(memswap_notes_get(notes, at(0, 0), false, &root, &address));
    /* neighbours have their own places, and so have user and kernel */
    for (uint64_t page = 0; page < n; page++) {
        memswap_notes_set(notes, at(page, 5), true, page, page * 3 * PAGE + 9);
        memswap_notes_set(notes, at(page, 5), false, page + n,
                          page * 5 * PAGE);
    }
    for (uint64_t page = 0; page < n; page++) {
        g_assert_true(memswap_notes_get(notes, at(page, 7), true, &root,
                                        &address));
        g_assert_cmpuint(root, ==, page);
        g_assert_cmpuint(address, ==, page * 3 * PAGE + 7);
        g_assert_true(memswap_notes_get(notes, at(page, 0), false, &root,
                                        &address));
        g_assert_cmpuint(root, ==, page + n);
        g_assert_cmpuint(address, ==, page * 5 * PAGE);
    }
    /* who comes later takes a place, and is not taken for who had it */
    for (uint64_t page = n; page < 2 * n; page++) {
        memswap_notes_set(notes, at(page, 0), true, 1, page * PAGE);
        g_assert_true(memswap_notes_get(notes, at(page, 0), true, &root,
                                        &address));
        g_assert_cmpuint(address, ==, page * PAGE);
    }
    for (uint64_t page = 0; page < n; page++) {
        if (memswap_notes_get(notes, at(page, 0), true, &root, &address)) {
            g_assert_cmpuint(address, ==, page * 3 * PAGE);
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/guest-table/four", test_four);
    g_test_add_func("/guest-table/five", test_five);
    g_test_add_func("/guest-table/not-present", test_not_present);
    g_test_add_func("/guest-table/reserved", test_reserved);
    g_test_add_func("/guest-table/reader", test_reader);
    g_test_add_func("/guest-table/loop", test_loop);
    g_test_add_func("/guest-table/bad-root", test_bad_root);
    g_test_add_func("/guest-table/garbage", test_garbage);
    g_test_add_func("/guest-table/cache", test_cache);
    g_test_add_func("/guest-table/cache-full", test_cache_full);
    g_test_add_func("/guest-table/notes", test_notes);
    return g_test_run();
}

/*
 * Tests of the compressed pool: damaged entries, and handles of none
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pool-harness.h"

static void expect_damaged(TestPages *pages, uint64_t handle, uint8_t *buffer)
{
    size_t size = pages_size_of(pages, 0);
    g_autofree uint8_t *untouched = g_malloc(size);

    memset(buffer, 0x5a, size);
    memset(untouched, 0x5a, size);
    g_assert_cmpint(pages->store->ops->get(pages->store, handle, buffer, size),
                    ==, -EBADMSG);
    g_assert_true(!memcmp(buffer, untouched, size));
}

static MemswapEntryCodec entry_codec(TestPages *pages)
{
    return pages->codec == MEMSWAP_CODEC_LZ4 ? MEMSWAP_ENTRY_LZ4
                                             : MEMSWAP_ENTRY_ZSTD;
}

/* Every byte of an entry, one at a time. */
static void damage_each_byte(PageKind kind)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    MemswapSegment *segment;
    MemswapEntry *entry;
    uint8_t *raw;
    uint64_t handle;
    uint32_t room;
    size_t i;

    pages_init(&pages, 1, 4 * KIB, kind, UINT64_MAX);
    buffer = pages_buffer(&pages);
    g_assert_cmpint(pages_put(&pages, 0, buffer), ==, 0);
    handle = pages_handle(&pages, 0);
    entry = memswap_segment_entry(pool_of(&pages), handle, &segment, &room);
    g_assert_nonnull(entry);
    g_assert_cmpint(entry->codec, ==, kind == RANDOM ? MEMSWAP_ENTRY_RAW
                                                     : entry_codec(&pages));

    raw = (uint8_t *)entry;
    for (i = 0; i < sizeof(*entry) + entry->length; i++) {
        uint8_t bits = 1 << i % 8;

        if (i == offsetof(MemswapEntry, dead)) {
            continue; /* only a hint */
        }
        raw[i] ^= bits;
        expect_damaged(&pages, handle, buffer);
        raw[i] ^= 0xff ^ bits;
        expect_damaged(&pages, handle, buffer);
        raw[i] ^= 0xff;
    }
    pages_check(&pages, 0, handle, buffer);
    pages_drop_all(&pages);
    pages_free(&pages);
}

static void test_damage(void)
{
    damage_each_byte(RANDOM);
    damage_each_byte(HALF);
    damage_each_byte(ZEROES);
}

/* @size bytes with unmapped memory right behind them, and some before. */
static uint8_t *guarded(size_t size, uint8_t **mapping, size_t *mapped)
{
    size_t page = sysconf(_SC_PAGESIZE);
    size_t inner = (size + page - 1) & ~(page - 1);
    uint8_t *p;

    *mapped = inner + 2 * page;
    p = mmap(NULL, *mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(p != MAP_FAILED);
    g_assert_cmpint(mprotect(p + page, inner, PROT_READ | PROT_WRITE), ==, 0);
    *mapping = p;
    return p + page + inner - size;
}

/* Decompresses a copy of @bytes that is damaged after its checksum. */
static void fuzz_once(TestPages *pages, const uint8_t *bytes, size_t length,
                      uint64_t *random, uint8_t *buffer)
{
    size_t cut = next_random(random) % 4 ? length
                                         : next_random(random) % length + 1;
    unsigned int changes = next_random(random) % 5;
    uint8_t *mapping;
    size_t mapped;
    uint8_t *copy = guarded(cut, &mapping, &mapped);

    memcpy(copy, bytes, cut);
    while (changes--) {
        size_t at = next_random(random) % cut;

        if (next_random(random) % 2) {
            at %= 32; /* the headers are there */
        }
        copy[at] = next_random(random);
    }
    /* It may even succeed: that is what checksums are for. */
    memswap_decompress(&pool_of(pages)->decompressors, entry_codec(pages),
                       buffer, 4 * KIB, copy, cut);
    munmap(mapping, mapped);
}

/* The decompressors themselves stay within bounds, whatever they are given. */
static void test_fuzz(void)
{
    const PageKind kinds[] = { RANDOM, HALF, REPEATING, NEARLY_ZEROES };
    const unsigned int rounds = g_test_slow() ? 1000000 : 10000;
    TestPages pages;
    g_autofree uint8_t *contents = NULL;
    MemswapSegment *segment;
    MemswapEntry *entry;
    uint8_t *buffer, *mapping;
    size_t mapped;
    uint64_t random = 1;
    uint32_t room;
    unsigned int i, n;

    buffer = guarded(4 * KIB, &mapping, &mapped);
    for (i = 0; i < G_N_ELEMENTS(kinds); i++) {
        pages_init(&pages, 1, 4 * KIB, kinds[i], UINT64_MAX);
        contents = pages_buffer(&pages);
        g_assert_cmpint(pages_put(&pages, 0, contents), ==, 0);
        entry = memswap_segment_entry(pool_of(&pages), pages_handle(&pages, 0),
                                      &segment, &room);
        for (n = 0; n < rounds; n++) {
            fuzz_once(&pages, entry->bytes, entry->length, &random, buffer);
        }
        /* The contexts are none the worse for it. */
        pages_check_all(&pages);
        pages_drop_all(&pages);
        pages_free(&pages);
        g_clear_pointer(&contents, g_free);
    }
    munmap(mapping, mapped);
}

/* One damaged header harms nobody else: not in drop, not in compaction. */
static void test_damaged_neighbour(void)
{
    const unsigned int victim = 100;
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    MemswapSegment *segment;
    MemswapEntry *entry;
    uint32_t room;
    unsigned int i;

    pages_fill(&pages, 4, UINT64_MAX, &buffer);
    entry = memswap_segment_entry(pool_of(&pages), pages_handle(&pages, victim),
                                  &segment, &room);
    entry->length = 16;
    pages_thin_out(&pages);
    pages_maintain(&pages);
    for (i = 0; i < pages.count; i += 4) {
        if (i != victim) {
            pages_check(&pages, i, pages_handle(&pages, i), buffer);
        }
    }
    expect_damaged(&pages, pages_handle(&pages, victim), buffer);
    pages_drop_all(&pages);
    pages_free(&pages);
}

/* Damaged contents stay so wherever they are moved. */
static void test_damage_moves_along(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    MemswapSegment *segment;
    MemswapEntry *entry;
    uint32_t room;
    uint64_t handle;

    pages_fill(&pages, 4, UINT64_MAX, &buffer);
    handle = pages_handle(&pages, 100);
    entry = memswap_segment_entry(pool_of(&pages), handle, &segment, &room);
    entry->bytes[4000] ^= 1;
    pages_thin_out(&pages);
    pages_maintain(&pages);
    g_assert_cmpuint(pages_handle(&pages, 100), !=, handle);
    expect_damaged(&pages, pages_handle(&pages, 100), buffer);
    pages_drop_all(&pages);
    pages_free(&pages);
}

static void test_bad_arguments(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    uint64_t handle;

    pages_init(&pages, 1, 4 * KIB, HALF, UINT64_MAX);
    buffer = pages_buffer(&pages);
    expect_damaged(&pages, 0, buffer);
    expect_damaged(&pages, (1ULL << MEMSWAP_HANDLE_BITS) - 1, buffer);
    expect_damaged(&pages, UINT64_MAX, buffer);
    g_assert_cmpint(pages_put(&pages, 0, buffer), ==, 0);
    handle = pages_handle(&pages, 0);
    expect_damaged(&pages, handle + 1, buffer);
    expect_damaged(&pages, handle + (1u << MEMSWAP_GRANULE_BITS), buffer);
    /* Not the size that was put. */
    g_assert_cmpint(pages.store->ops->get(pages.store, handle, buffer, 2048),
                    ==, -EBADMSG);
    g_assert_cmpint(pages.store->ops->put(pages.store, buffer, 8192,
                                          OWNER_BASE, &handle), ==, -EINVAL);
    pages_drop_all(&pages);
    pages_free(&pages);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pool/damage/each-byte", test_damage);
    g_test_add_func("/pool/damage/fuzz", test_fuzz);
    g_test_add_func("/pool/damage/neighbour", test_damaged_neighbour);
    g_test_add_func("/pool/damage/moves-along", test_damage_moves_along);
    g_test_add_func("/pool/bad-arguments", test_bad_arguments);
    return g_test_run();
}

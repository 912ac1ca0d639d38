/*
 * Pages of known content for the tests of the pool
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <string.h>

#include "pool-harness.h"

uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15ULL;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
    return x ^ x >> 31;
}

size_t pages_size_of(TestPages *pages, unsigned int i)
{
    return pages->size ? pages->size : i % 2 ? 2 * MIB : 4 * KIB;
}

static void make_content(TestPages *pages, unsigned int i, uint8_t *page)
{
    uint64_t seed = (uint64_t)pages->versions[i] << 32 | i;
    uint64_t first = next_random(&seed);
    PageKind kind = pages->kind == MIXED ? first % KINDS : pages->kind;
    size_t size = pages_size_of(pages, i);
    uint64_t *values = (uint64_t *)page;
    size_t n;

    memset(page, 0, size);
    switch (kind) {
    case ZEROES:
        break;
    case NEARLY_ZEROES:
        page[first % size] = first >> 40 | 1;
        break;
    case REPEATING:
        for (n = 0; n < size / 8; n++) {
            values[n] = first;
        }
        break;
    case HALF:
    case RANDOM:
        for (n = 0; n < size / 8; n++) {
            uint64_t value = next_random(&seed);

            if (kind == RANDOM || n % 16 < 8) {
                values[n] = value;
            }
        }
        break;
    default:
        g_assert_not_reached();
    }
}

bool pages_relocate(void *opaque, uint64_t owner, uint64_t from, uint64_t to)
{
    TestPages *pages = opaque;
    uint64_t word = WORD(STORED, from);

    g_assert_cmphex(owner & ~0xffffffffULL, ==, OWNER_BASE);
    g_assert_cmpuint(owner - OWNER_BASE, <, pages->count);
    if (!atomic_fetch_add(&pages->asked, 1) && pages->meanwhile) {
        pages->meanwhile(pages, from);
    }
    return !atomic_load(&pages->refuse) &&
           atomic_compare_exchange_strong(&pages->words[owner - OWNER_BASE],
                                          &word, WORD(STORED, to));
}

/* The pools' time: it passes when a test says so. */
static _Atomic int64_t pages_now;

static int64_t pages_clock(void)
{
    return atomic_load(&pages_now);
}

void pages_pass_time(int64_t ns)
{
    atomic_fetch_add(&pages_now, ns);
}

void pages_init(TestPages *pages, unsigned int count, size_t size,
                PageKind kind, uint64_t limit)
{
    memset(pages, 0, sizeof(*pages));
    pages->count = count;
    pages->kind = kind;
    pages->size = size;
    pages->max_size = size ? size : 2 * MIB;
    pages->words = g_malloc0_n(count, sizeof(pages->words[0]));
    pages->versions = g_new0(uint32_t, count);
    pages->codec = g_strcmp0(g_getenv("MEMSWAP_TEST_CODEC"), "lz4")
                   ? MEMSWAP_CODEC_ZSTD : MEMSWAP_CODEC_LZ4;
    pages->store = memswap_pool_new(limit, pages->codec, LEVEL,
                                    pages->max_size, pages_relocate, pages);
    g_assert_nonnull(pages->store);
    pool_of(pages)->clock_ns = pages_clock;
    pool_of(pages)->window_start = pages_clock();
}

void pages_free(TestPages *pages)
{
    pages->store->ops->free(pages->store);
    g_free((void *)pages->words);
    g_free(pages->versions);
}

MemswapPool *pool_of(TestPages *pages)
{
    return (MemswapPool *)pages->store;
}

void pages_configure(TestPages *pages, uint64_t limit, int level)
{
    pages->store->ops->configure(pages->store, limit, pages->codec, level);
}

bool pages_take(TestPages *pages, unsigned int i, uint64_t *word)
{
    *word = atomic_load(&pages->words[i]);
    return WORD_STATE(*word) != BUSY &&
           atomic_compare_exchange_strong(&pages->words[i], word, BUSY);
}

int pages_put(TestPages *pages, unsigned int i, uint8_t *buffer)
{
    uint64_t handle;
    int ret;

    pages->versions[i]++;
    make_content(pages, i, buffer);
    ret = pages->store->ops->put(pages->store, buffer, pages_size_of(pages, i),
                                 OWNER_BASE + i, &handle);
    if (!ret) {
        g_assert_cmphex(handle >> MEMSWAP_HANDLE_BITS, ==, 0);
    }
    atomic_store(&pages->words[i], ret ? GONE : WORD(STORED, handle));
    return ret;
}

void pages_check(TestPages *pages, unsigned int i, uint64_t handle,
                 uint8_t *buffer)
{
    size_t size = pages_size_of(pages, i);
    uint8_t *wanted = buffer + pages->max_size;

    memset(buffer, 0x5a, size);
    g_assert_cmpint(pages->store->ops->get(pages->store, handle, buffer, size),
                    ==, 0);
    make_content(pages, i, wanted);
    g_assert_true(!memcmp(buffer, wanted, size));
}

uint64_t pages_handle(TestPages *pages, unsigned int i)
{
    uint64_t word = atomic_load(&pages->words[i]);

    g_assert_cmpuint(WORD_STATE(word), ==, STORED);
    return WORD_HANDLE(word);
}

void pages_drop(TestPages *pages, unsigned int i)
{
    pages->store->ops->drop(pages->store, pages_handle(pages, i));
    atomic_store(&pages->words[i], GONE);
}

uint8_t *pages_buffer(TestPages *pages)
{
    return g_malloc(2 * pages->max_size);
}

void pages_check_all(TestPages *pages)
{
    g_autofree uint8_t *buffer = pages_buffer(pages);
    unsigned int i;

    for (i = 0; i < pages->count; i++) {
        if (WORD_STATE(atomic_load(&pages->words[i])) == STORED) {
            pages_check(pages, i, pages_handle(pages, i), buffer);
        }
    }
}

unsigned int pages_maintain(TestPages *pages)
{
    unsigned int calls = 1;

    while (pages->store->ops->maintain(pages->store)) {
        g_assert_cmpuint(calls++, <, 10000);
    }
    return calls;
}

MemswapStoreStats pages_stats(TestPages *pages)
{
    MemswapStoreStats stats;

    pages->store->ops->get_stats(pages->store, &stats);
    return stats;
}

void pages_check_stats(TestPages *pages)
{
    MemswapStoreStats stats = pages_stats(pages);
    uint64_t entries = 0;
    unsigned int i;

    for (i = 0; i < pages->count; i++) {
        entries += WORD_STATE(atomic_load(&pages->words[i])) == STORED;
    }
    g_assert_cmpuint(stats.live_bytes, <=, stats.bytes);
    g_assert_cmpuint(stats.live_bytes - stats.data_bytes, >=,
                     entries * sizeof(MemswapEntry));
    g_assert_cmpuint(stats.live_bytes - stats.data_bytes, <,
                     entries * (sizeof(MemswapEntry) + MEMSWAP_GRANULE) + 1);
}

void pages_drop_all(TestPages *pages)
{
    MemswapStoreStats stats;
    unsigned int i;

    for (i = 0; i < pages->count; i++) {
        if (WORD_STATE(atomic_load(&pages->words[i])) == STORED) {
            pages_drop(pages, i);
        }
    }
    stats = pages_stats(pages);
    g_assert_cmpuint(stats.live_bytes, ==, 0);
    g_assert_cmpuint(stats.data_bytes, ==, 0);
    pages_maintain(pages);
    stats = pages_stats(pages);
    g_assert_cmpuint(stats.bytes, ==, 0);
    g_assert_cmpuint(stats.segments, ==, 0);
}

void pages_fill(TestPages *pages, unsigned int segments, uint64_t limit,
                uint8_t **buffer)
{
    unsigned int i;

    pages_init(pages, segments * RAW_PER_SEGMENT, 4 * KIB, RANDOM, limit);
    *buffer = pages_buffer(pages);
    for (i = 0; i < pages->count; i++) {
        g_assert_cmpint(pages_put(pages, i, *buffer), ==, 0);
    }
}

void pages_thin_out(TestPages *pages)
{
    for (unsigned int i = 0; i < pages->count; i++) {
        if (i % 4) {
            pages_drop(pages, i);
        }
    }
}

/*
 * Tests of the compressed pool
 *
 * Pages are numbered; each has a word that says where it is, as the engine's
 * pages have, and that the pool changes through relocate() under the same
 * rule.  What a page contains follows from its number and its version, so
 * that every get can be checked.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "pool-internal.h"

#define KIB 1024ULL
#define MIB (1024ULL * 1024)
#define LEVEL (-5)

/* An incompressible 4 KiB page's entry, and how many fill a segment. */
#define RAW_ENTRY 4128
#define RAW_PER_SEGMENT (MEMSWAP_SEGMENT_SIZE / RAW_ENTRY)

/* Owners are not plain indices, so that a mix-up shows. */
#define OWNER_BASE 0xabcd000000000000ULL

enum { GONE, STORED, BUSY };
#define WORD(state, handle) ((uint64_t)(handle) << 8 | (state))
#define WORD_STATE(word) ((word) & 0xff)
#define WORD_HANDLE(word) ((word) >> 8)

typedef enum PageKind {
    ZEROES,
    RANDOM,
    HALF,
    REPEATING,
    NEARLY_ZEROES,
    KINDS,
    MIXED = KINDS, /* each page its own */
} PageKind;

typedef struct TestPages {
    MemswapStore *store;
    unsigned int count;
    PageKind kind;
    size_t size;           /* 0: even pages 4 KiB, odd ones 2 MiB */
    size_t max_size;
    _Atomic uint64_t *words;
    uint32_t *versions;    /* belongs to who has the word BUSY */
    _Atomic bool refuse;   /* relocate() says no */
    _Atomic uint64_t asked;
    /* What happens while relocate() is asked for the first time. */
    void (*meanwhile)(struct TestPages *pages, uint64_t from);
} TestPages;

static uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15ULL;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
    return x ^ x >> 31;
}

static size_t page_size(TestPages *pages, unsigned int i)
{
    return pages->size ? pages->size : i % 2 ? 2 * MIB : 4 * KIB;
}

static void make_content(TestPages *pages, unsigned int i, uint8_t *page)
{
    uint64_t seed = (uint64_t)pages->versions[i] << 32 | i;
    uint64_t first = next_random(&seed);
    PageKind kind = pages->kind == MIXED ? first % KINDS : pages->kind;
    size_t size = page_size(pages, i);
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

static bool relocate(void *opaque, uint64_t owner, uint64_t from, uint64_t to)
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

static void pages_init(TestPages *pages, unsigned int count, size_t size,
                       PageKind kind, uint64_t limit)
{
    memset(pages, 0, sizeof(*pages));
    pages->count = count;
    pages->kind = kind;
    pages->size = size;
    pages->max_size = size ? size : 2 * MIB;
    pages->words = g_malloc0_n(count, sizeof(pages->words[0]));
    pages->versions = g_new0(uint32_t, count);
    pages->store = memswap_pool_new(limit, LEVEL, pages->max_size, relocate,
                                    pages);
    g_assert_nonnull(pages->store);
}

static void pages_destroy(TestPages *pages)
{
    pages->store->ops->free(pages->store);
    g_free((void *)pages->words);
    g_free(pages->versions);
}

static MemswapPool *pool_of(TestPages *pages)
{
    return (MemswapPool *)pages->store;
}

/* Takes a page's word to BUSY; false if somebody has it. */
static bool take(TestPages *pages, unsigned int i, uint64_t *word)
{
    *word = atomic_load(&pages->words[i]);
    return WORD_STATE(*word) != BUSY &&
           atomic_compare_exchange_strong(&pages->words[i], word, BUSY);
}

/* The rest of the helpers want the page BUSY, or one thread. */

static int put(TestPages *pages, unsigned int i, uint8_t *buffer)
{
    uint64_t handle;
    int ret;

    pages->versions[i]++;
    make_content(pages, i, buffer);
    ret = pages->store->ops->put(pages->store, buffer, page_size(pages, i),
                                 OWNER_BASE + i, &handle);
    if (!ret) {
        g_assert_cmphex(handle >> MEMSWAP_HANDLE_BITS, ==, 0);
    }
    atomic_store(&pages->words[i], ret ? GONE : WORD(STORED, handle));
    return ret;
}

static void check(TestPages *pages, unsigned int i, uint64_t handle,
                  uint8_t *buffer)
{
    size_t size = page_size(pages, i);
    uint8_t *wanted = buffer + pages->max_size;

    memset(buffer, 0x5a, size);
    g_assert_cmpint(pages->store->ops->get(pages->store, handle, buffer, size),
                    ==, 0);
    make_content(pages, i, wanted);
    g_assert_true(!memcmp(buffer, wanted, size));
}

static uint64_t handle_of(TestPages *pages, unsigned int i)
{
    uint64_t word = atomic_load(&pages->words[i]);

    g_assert_cmpuint(WORD_STATE(word), ==, STORED);
    return WORD_HANDLE(word);
}

static void drop(TestPages *pages, unsigned int i)
{
    pages->store->ops->drop(pages->store, handle_of(pages, i));
    atomic_store(&pages->words[i], GONE);
}

static uint8_t *new_buffer(TestPages *pages)
{
    return g_malloc(2 * pages->max_size);
}

static void check_all(TestPages *pages)
{
    g_autofree uint8_t *buffer = new_buffer(pages);
    unsigned int i;

    for (i = 0; i < pages->count; i++) {
        if (WORD_STATE(atomic_load(&pages->words[i])) == STORED) {
            check(pages, i, handle_of(pages, i), buffer);
        }
    }
}

/* Returns how often it was called; it must come to an end. */
static unsigned int maintain_all(TestPages *pages)
{
    unsigned int calls = 1;

    while (pages->store->ops->maintain(pages->store)) {
        g_assert_cmpuint(calls++, <, 10000);
    }
    return calls;
}

static MemswapStoreStats stats_of(TestPages *pages)
{
    MemswapStoreStats stats;

    pages->store->ops->get_stats(pages->store, &stats);
    return stats;
}

static void check_stats(TestPages *pages)
{
    MemswapStoreStats stats = stats_of(pages);
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

static void drop_all_and_check_empty(TestPages *pages)
{
    MemswapStoreStats stats;
    unsigned int i;

    for (i = 0; i < pages->count; i++) {
        if (WORD_STATE(atomic_load(&pages->words[i])) == STORED) {
            drop(pages, i);
        }
    }
    stats = stats_of(pages);
    g_assert_cmpuint(stats.live_bytes, ==, 0);
    g_assert_cmpuint(stats.data_bytes, ==, 0);
    maintain_all(pages);
    stats = stats_of(pages);
    g_assert_cmpuint(stats.bytes, ==, 0);
    g_assert_cmpuint(stats.segments, ==, 0);
}

/* Random operations by one thread, against the model. */
static void run_model(unsigned int count, size_t size, uint64_t limit,
                      unsigned int steps)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    uint64_t random = steps;
    unsigned int full = 0;
    unsigned int i;

    pages_init(&pages, count, size, MIXED, limit);
    buffer = new_buffer(&pages);
    while (steps--) {
        uint64_t dice = next_random(&random);

        i = next_random(&random) % count;
        if (WORD_STATE(atomic_load(&pages.words[i])) == GONE) {
            int ret = put(&pages, i, buffer);

            g_assert_true(ret == 0 || (ret == -ENOSPC && limit != UINT64_MAX));
            full += ret == -ENOSPC;
            g_assert_cmpuint(stats_of(&pages).bytes, <=, limit);
        } else {
            check(&pages, i, handle_of(&pages, i), buffer);
            if (dice % 4 < 2) {
                drop(&pages, i);
            }
        }
        if (dice % 64 == 0) {
            pages.store->ops->maintain(pages.store);
        }
        if (steps % 1024 == 0) {
            check_stats(&pages);
        }
    }
    g_assert_true(limit == UINT64_MAX || full);
    check_stats(&pages);
    check_all(&pages);
    maintain_all(&pages);
    check_stats(&pages);
    check_all(&pages);
    drop_all_and_check_empty(&pages);
    pages_destroy(&pages);
}

static void test_model_4k(void)
{
    run_model(6000, 4 * KIB, UINT64_MAX, 60000);
}

static void test_model_2m(void)
{
    run_model(24, 2 * MIB, UINT64_MAX, 300);
}

static void test_model_mixed(void)
{
    run_model(40, 0, UINT64_MAX, 500);
}

static void test_model_limited(void)
{
    run_model(6000, 4 * KIB, 5 * MIB, 60000);
    run_model(40, 0, 9 * MIB, 500);
}

/* What a known load takes, to the byte. */
static void test_accounting(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    MemswapStoreStats stats;
    unsigned int i;

    pages_init(&pages, 1000, 4 * KIB, RANDOM, UINT64_MAX);
    buffer = new_buffer(&pages);
    for (i = 0; i < pages.count; i++) {
        g_assert_cmpint(put(&pages, i, buffer), ==, 0);
    }
    stats = stats_of(&pages);
    g_assert_cmpuint(stats.segments, ==, 1000 / RAW_PER_SEGMENT + 1);
    g_assert_cmpuint(stats.bytes, ==, stats.segments * MIB);
    g_assert_cmpuint(stats.live_bytes, ==, 1000 * RAW_ENTRY);
    g_assert_cmpuint(stats.data_bytes, ==, 1000 * 4 * KIB);
    g_assert_cmpuint(stats.moved, ==, 0);

    /* Nothing is dead: nothing moves. */
    g_assert_cmpuint(maintain_all(&pages), ==, 1);
    g_assert_cmpuint(stats_of(&pages).moved, ==, 0);
    drop_all_and_check_empty(&pages);
    pages_destroy(&pages);

    /* A page that outgrows a segment: its header, rounded to host pages. */
    pages_init(&pages, 3, 2 * MIB, RANDOM, UINT64_MAX);
    g_free(g_steal_pointer(&buffer));
    buffer = new_buffer(&pages);
    for (i = 0; i < pages.count; i++) {
        g_assert_cmpint(put(&pages, i, buffer), ==, 0);
    }
    stats = stats_of(&pages);
    g_assert_cmpuint(stats.segments, ==, 3);
    g_assert_cmpuint(stats.bytes, ==, 3 * (2 * MIB + sysconf(_SC_PAGESIZE)));
    g_assert_cmpuint(stats.live_bytes, ==, 3 * (2 * MIB + 32));
    g_assert_cmpuint(stats.data_bytes, ==, 6 * MIB);
    check_all(&pages);
    drop_all_and_check_empty(&pages);
    pages_destroy(&pages);
}

/* Segments that are freed whole are used again, with no new address space. */
static void test_reuse(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    uint32_t n_segments = 0;
    unsigned int round, i;

    pages_init(&pages, 4 * RAW_PER_SEGMENT, 4 * KIB, RANDOM, UINT64_MAX);
    buffer = new_buffer(&pages);
    for (round = 0; round < 50; round++) {
        for (i = 0; i < pages.count; i++) {
            g_assert_cmpint(put(&pages, i, buffer), ==, 0);
        }
        g_assert_cmpuint(stats_of(&pages).segments, ==, 4);
        check_all(&pages);
        for (i = 0; i < pages.count; i++) {
            drop(&pages, i);
        }
        if (round % 2) {
            maintain_all(&pages);
            g_assert_cmpuint(stats_of(&pages).bytes, ==, 0);
        }
        n_segments = n_segments ?: atomic_load(&pool_of(&pages)->n_segments);
    }
    g_assert_cmpuint(atomic_load(&pool_of(&pages)->n_segments), ==,
                     n_segments);
    drop_all_and_check_empty(&pages);
    pages_destroy(&pages);
}

static void fill_segments(TestPages *pages, unsigned int segments,
                          uint64_t limit, uint8_t **buffer)
{
    unsigned int i;

    pages_init(pages, segments * RAW_PER_SEGMENT, 4 * KIB, RANDOM, limit);
    *buffer = new_buffer(pages);
    for (i = 0; i < pages->count; i++) {
        g_assert_cmpint(put(pages, i, *buffer), ==, 0);
    }
}

/* Three of four pages dropped: a quarter of the segments is left. */
static void test_compact(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    MemswapStoreStats stats;
    unsigned int i;

    fill_segments(&pages, 8, UINT64_MAX, &buffer);
    for (i = 0; i < pages.count; i++) {
        if (i % 4) {
            drop(&pages, i);
        }
    }
    g_assert_cmpuint(stats_of(&pages).segments, ==, 8);
    maintain_all(&pages);
    check_stats(&pages);
    check_all(&pages);
    stats = stats_of(&pages);
    g_assert_cmpuint(stats.segments, ==, 2);
    g_assert_cmpuint(stats.bytes, ==, 2 * MIB);
    g_assert_cmpuint(stats.moved, ==, pages.count / 4);
    g_assert_cmpuint(stats.live_bytes, ==, pages.count / 4 * RAW_ENTRY);
    /* Only of live pages was relocation asked. */
    g_assert_cmpuint(atomic_load(&pages.asked), ==, stats.moved);

    /* There is an end to it. */
    g_assert_cmpuint(maintain_all(&pages), ==, 1);
    g_assert_cmpuint(stats_of(&pages).moved, ==, stats.moved);
    drop_all_and_check_empty(&pages);
    pages_destroy(&pages);
}

/* A fifth dropped is not worth the moving. */
static void test_compact_threshold(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    unsigned int i;

    fill_segments(&pages, 8, UINT64_MAX, &buffer);
    for (i = 0; i < pages.count; i += 5) {
        drop(&pages, i);
    }
    g_assert_cmpuint(maintain_all(&pages), ==, 1);
    g_assert_cmpuint(stats_of(&pages).moved, ==, 0);
    /* Near the limit it is. */
    pages.store->ops->configure(pages.store, 9 * MIB, LEVEL);
    maintain_all(&pages);
    g_assert_cmpuint(stats_of(&pages).moved, >, 0);
    g_assert_cmpuint(stats_of(&pages).bytes, ==, 7 * MIB);
    check_all(&pages);
    drop_all_and_check_empty(&pages);
    pages_destroy(&pages);
}

/* Pages that refuse to move stay, whole, and nobody tries for ever. */
static void test_refuse(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    MemswapStoreStats before, after;
    unsigned int i, rounds;

    fill_segments(&pages, 8, UINT64_MAX, &buffer);
    for (i = 0; i < pages.count; i++) {
        if (i % 4) {
            drop(&pages, i);
        }
    }
    atomic_store(&pages.refuse, true);
    before = stats_of(&pages);
    g_assert_cmpuint(maintain_all(&pages), <, 20);
    after = stats_of(&pages);
    g_assert_cmpuint(atomic_load(&pages.asked), ==, pages.count / 4);
    g_assert_cmpuint(after.moved, ==, 0);
    g_assert_cmpuint(after.live_bytes, ==, before.live_bytes);
    g_assert_cmpuint(after.data_bytes, ==, before.data_bytes);
    g_assert_cmpuint(after.bytes, ==, before.bytes);
    check_all(&pages);

    /* Not tried again at once. */
    maintain_all(&pages);
    g_assert_cmpuint(atomic_load(&pages.asked), ==, pages.count / 4);

    /* But after a while. */
    atomic_store(&pages.refuse, false);
    for (rounds = 0; stats_of(&pages).segments > 2; rounds++) {
        g_assert_cmpuint(rounds, <, 20);
        maintain_all(&pages);
    }
    g_assert_cmpuint(stats_of(&pages).moved, ==, pages.count / 4);
    check_all(&pages);
    drop_all_and_check_empty(&pages);
    pages_destroy(&pages);
}

/* A dropped page's handle is in nobody's word; one in transition stays. */
static void test_transition(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    uint64_t held;
    unsigned int i;

    fill_segments(&pages, 4, UINT64_MAX, &buffer);
    for (i = 0; i < pages.count; i++) {
        if (i % 4) {
            drop(&pages, i);
        }
    }
    g_assert_true(take(&pages, 0, &held));
    maintain_all(&pages);
    g_assert_cmpuint(stats_of(&pages).moved, ==, pages.count / 4 - 1);
    /* One segment more, for its sake. */
    g_assert_cmpuint(stats_of(&pages).segments, ==, 2);
    check(&pages, 0, WORD_HANDLE(held), buffer);
    pages.store->ops->drop(pages.store, WORD_HANDLE(held));
    atomic_store(&pages.words[0], GONE);
    maintain_all(&pages);
    g_assert_cmpuint(stats_of(&pages).segments, ==, 1);
    check_all(&pages);
    drop_all_and_check_empty(&pages);
    pages_destroy(&pages);
}

/* Drops all of the segment that is being compacted, then puts as many. */
static void replace_segment(TestPages *pages, uint64_t from)
{
    g_autofree uint8_t *buffer = new_buffer(pages);
    uint64_t id = from >> MEMSWAP_GRANULE_BITS;
    unsigned int i;

    for (i = 0; i < pages->count; i++) {
        uint64_t word = atomic_load(&pages->words[i]);

        if (WORD_STATE(word) == STORED &&
            WORD_HANDLE(word) >> MEMSWAP_GRANULE_BITS == id) {
            drop(pages, i);
        }
    }
    for (i = 0; i < pages->count; i++) {
        if (WORD_STATE(atomic_load(&pages->words[i])) == GONE) {
            g_assert_cmpint(put(pages, i, buffer), ==, 0);
            g_assert_cmpuint(handle_of(pages, i) >> MEMSWAP_GRANULE_BITS, !=,
                             id);
        }
    }
}

/* A segment isn't used again while the compactor walks it. */
static void test_held(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    unsigned int i;

    fill_segments(&pages, 4, UINT64_MAX, &buffer);
    for (i = 0; i < pages.count; i++) {
        if (i % 4) {
            drop(&pages, i);
        }
    }
    pages.meanwhile = replace_segment;
    g_assert_true(pages.store->ops->maintain(pages.store));
    g_assert_cmpuint(atomic_load(&pages.asked), ==, 1);
    g_assert_cmpuint(stats_of(&pages).moved, ==, 0);
    check_all(&pages);
    check_stats(&pages);
    maintain_all(&pages);
    check_all(&pages);
    drop_all_and_check_empty(&pages);
    pages_destroy(&pages);
}

static unsigned int put_until_full(TestPages *pages, uint64_t limit,
                                   uint8_t *buffer)
{
    unsigned int done = 0;
    unsigned int i;

    for (i = 0; i < pages->count; i++) {
        int ret;

        if (WORD_STATE(atomic_load(&pages->words[i])) != GONE) {
            continue;
        }
        ret = put(pages, i, buffer);
        g_assert_cmpuint(stats_of(pages).bytes, <=, limit);
        if (ret) {
            g_assert_cmpint(ret, ==, -ENOSPC);
            return done;
        }
        done++;
    }
    g_assert_not_reached();
}

static void test_limit(void)
{
    const uint64_t limit = 8 * MIB;
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    unsigned int dropped = 0;
    unsigned int put_again = 0;
    unsigned int i;

    pages_init(&pages, 20 * RAW_PER_SEGMENT, 4 * KIB, RANDOM, limit);
    buffer = new_buffer(&pages);
    /* One segment is the compactor's. */
    g_assert_cmpuint(put_until_full(&pages, limit, buffer), ==,
                     7 * RAW_PER_SEGMENT);
    check_all(&pages);
    /* Full is full, but only until there is room. */
    g_assert_cmpuint(put_until_full(&pages, limit, buffer), ==, 0);
    for (i = 0; i < 7 * RAW_PER_SEGMENT; i += 2) {
        drop(&pages, i);
        dropped++;
    }
    maintain_all(&pages);
    g_assert_cmpuint(stats_of(&pages).bytes, <=, 5 * MIB);
    check_all(&pages);
    /* The nearer the limit, the harder maintain() tries. */
    do {
        i = put_until_full(&pages, limit, buffer);
        put_again += i;
        maintain_all(&pages);
    } while (i);
    g_assert_cmpuint(put_again, >=, dropped - RAW_PER_SEGMENT);
    g_assert_cmpuint(put_again, <=, dropped);
    check_all(&pages);

    /* More, if told so. */
    pages.store->ops->configure(pages.store, 10 * MIB, LEVEL);
    g_assert_cmpuint(put_until_full(&pages, 10 * MIB, buffer), >=,
                     2 * RAW_PER_SEGMENT);
    check_all(&pages);
    drop_all_and_check_empty(&pages);
    pages_destroy(&pages);
}

/* A lower limit is for later puts; compaction gets there all the same. */
static void test_limit_lowered(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    unsigned int i;

    fill_segments(&pages, 20, UINT64_MAX, &buffer);
    pages.store->ops->configure(pages.store, 10 * MIB, LEVEL);
    check_all(&pages);
    for (i = 0; i < pages.count; i++) {
        if (i % 5) {
            drop(&pages, i);
        }
    }
    maintain_all(&pages);
    g_assert_cmpuint(stats_of(&pages).bytes, <=, 5 * MIB);
    check_all(&pages);
    g_assert_cmpint(put(&pages, 1, buffer), ==, 0);

    /* Nothing to be won: it stays above, and says that it is done. */
    pages.store->ops->configure(pages.store, 1 * MIB, LEVEL);
    maintain_all(&pages);
    check_all(&pages);
    g_assert_cmpuint(stats_of(&pages).bytes, >, 1 * MIB);
    for (i = 2; i < 3 * RAW_PER_SEGMENT; i++) {
        if (WORD_STATE(atomic_load(&pages.words[i])) == GONE &&
            put(&pages, i, buffer)) {
            break;
        }
    }
    g_assert_cmpuint(i, <, 3 * RAW_PER_SEGMENT);
    drop_all_and_check_empty(&pages);
    pages_destroy(&pages);
}

static void test_limit_large(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;

    pages_init(&pages, 20, 2 * MIB, RANDOM, 8 * MIB);
    buffer = new_buffer(&pages);
    g_assert_cmpuint(put_until_full(&pages, 8 * MIB, buffer), ==, 3);
    drop(&pages, 1);
    g_assert_cmpuint(put_until_full(&pages, 8 * MIB, buffer), ==, 1);
    check_all(&pages);
    drop_all_and_check_empty(&pages);
    pages_destroy(&pages);
}

static void test_levels(void)
{
    const int levels[] = { memswap_pool_min_level(), -5, -1, 0, 1, 3,
                           memswap_pool_max_level() };
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    unsigned int i, l;

    pages_init(&pages, 40, 4 * KIB, MIXED, UINT64_MAX);
    buffer = new_buffer(&pages);
    for (l = 0; l < G_N_ELEMENTS(levels); l++) {
        pages.store->ops->configure(pages.store, UINT64_MAX, levels[l]);
        for (i = 0; i < pages.count; i++) {
            if (WORD_STATE(atomic_load(&pages.words[i])) == STORED) {
                drop(&pages, i);
            }
            g_assert_cmpint(put(&pages, i, buffer), ==, 0);
        }
        check_all(&pages);
    }
    drop_all_and_check_empty(&pages);

    /* A level does what it is there for. */
    pages.kind = HALF;
    g_assert_cmpint(put(&pages, 0, buffer), ==, 0);
    g_assert_cmpuint(stats_of(&pages).data_bytes, <, 3000);
    drop_all_and_check_empty(&pages);
    pages_destroy(&pages);
}

static void expect_damaged(TestPages *pages, uint64_t handle, uint8_t *buffer)
{
    size_t size = page_size(pages, 0);
    g_autofree uint8_t *untouched = g_malloc(size);

    memset(buffer, 0x5a, size);
    memset(untouched, 0x5a, size);
    g_assert_cmpint(pages->store->ops->get(pages->store, handle, buffer, size),
                    ==, -EBADMSG);
    g_assert_true(!memcmp(buffer, untouched, size));
}

/* Every byte of an entry, one at a time. */
static void damage_each_byte(PageKind kind, MemswapEntryCodec codec)
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
    buffer = new_buffer(&pages);
    g_assert_cmpint(put(&pages, 0, buffer), ==, 0);
    handle = handle_of(&pages, 0);
    entry = memswap_segment_entry(pool_of(&pages), handle, &segment, &room);
    g_assert_nonnull(entry);
    g_assert_cmpint(entry->codec, ==, codec);

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
    check(&pages, 0, handle, buffer);
    drop_all_and_check_empty(&pages);
    pages_destroy(&pages);
}

static void test_damage(void)
{
    damage_each_byte(RANDOM, MEMSWAP_ENTRY_RAW);
    damage_each_byte(HALF, MEMSWAP_ENTRY_ZSTD);
    damage_each_byte(ZEROES, MEMSWAP_ENTRY_ZSTD);
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

    fill_segments(&pages, 4, UINT64_MAX, &buffer);
    entry = memswap_segment_entry(pool_of(&pages), handle_of(&pages, victim),
                                  &segment, &room);
    entry->length = 16;
    for (i = 0; i < pages.count; i++) {
        if (i % 4) {
            drop(&pages, i);
        }
    }
    maintain_all(&pages);
    for (i = 0; i < pages.count; i += 4) {
        if (i != victim) {
            check(&pages, i, handle_of(&pages, i), buffer);
        }
    }
    expect_damaged(&pages, handle_of(&pages, victim), buffer);
    drop_all_and_check_empty(&pages);
    pages_destroy(&pages);
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
    unsigned int i;

    fill_segments(&pages, 4, UINT64_MAX, &buffer);
    handle = handle_of(&pages, 100);
    entry = memswap_segment_entry(pool_of(&pages), handle, &segment, &room);
    entry->bytes[4000] ^= 1;
    for (i = 0; i < pages.count; i++) {
        if (i % 4) {
            drop(&pages, i);
        }
    }
    maintain_all(&pages);
    g_assert_cmpuint(handle_of(&pages, 100), !=, handle);
    expect_damaged(&pages, handle_of(&pages, 100), buffer);
    drop_all_and_check_empty(&pages);
    pages_destroy(&pages);
}

static void test_bad_arguments(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    uint64_t handle;

    pages_init(&pages, 1, 4 * KIB, HALF, UINT64_MAX);
    buffer = new_buffer(&pages);
    expect_damaged(&pages, 0, buffer);
    expect_damaged(&pages, (1ULL << MEMSWAP_HANDLE_BITS) - 1, buffer);
    expect_damaged(&pages, UINT64_MAX, buffer);
    g_assert_cmpint(put(&pages, 0, buffer), ==, 0);
    handle = handle_of(&pages, 0);
    expect_damaged(&pages, handle + 1, buffer);
    expect_damaged(&pages, handle + (1u << MEMSWAP_GRANULE_BITS), buffer);
    /* Not the size that was put. */
    g_assert_cmpint(pages.store->ops->get(pages.store, handle, buffer, 2048),
                    ==, -EBADMSG);
    g_assert_cmpint(pages.store->ops->put(pages.store, buffer, 8192,
                                          OWNER_BASE, &handle), ==, -EINVAL);
    drop_all_and_check_empty(&pages);
    pages_destroy(&pages);
}

/* Get and drop wait for no lock: with all of them taken, they still work. */
static void test_no_lock(void)
{
    TestPages pages;
    MemswapPool *pool;
    g_autofree uint8_t *buffer = NULL;
    unsigned int i;

    fill_segments(&pages, 3, UINT64_MAX, &buffer);
    pool = pool_of(&pages);
    pthread_mutex_lock(&pool->compactor.lock);
    for (i = 0; i < pool->n_writers; i++) {
        pthread_mutex_lock(&pool->writers[i].lock);
    }
    pthread_mutex_lock(&pool->segments_lock);
    alarm(60);
    check_all(&pages);
    for (i = 0; i < 2 * RAW_PER_SEGMENT; i++) {
        drop(&pages, i);
    }
    check_all(&pages);
    alarm(0);
    pthread_mutex_unlock(&pool->segments_lock);
    for (i = 0; i < pool->n_writers; i++) {
        pthread_mutex_unlock(&pool->writers[i].lock);
    }
    pthread_mutex_unlock(&pool->compactor.lock);
    maintain_all(&pages);
    g_assert_cmpuint(stats_of(&pages).segments, ==, 1);
    drop_all_and_check_empty(&pages);
    pages_destroy(&pages);
}

typedef struct LateGet {
    TestPages *pages;
    _Atomic bool done;
} LateGet;

static void *late_get(void *opaque)
{
    LateGet *late = opaque;
    g_autofree uint8_t *buffer = new_buffer(late->pages);

    check(late->pages, 0, handle_of(late->pages, 0), buffer);
    atomic_store(&late->done, true);
    return NULL;
}

/* With every context in use, a get waits for one to come back. */
static void test_contexts_in_use(void)
{
    TestPages pages;
    LateGet late = { .pages = &pages };
    g_autofree uint8_t *buffer = NULL;
    MemswapDecompressors *set;
    pthread_t thread;
    unsigned int i;

    pages_init(&pages, 1, 4 * KIB, HALF, UINT64_MAX);
    buffer = new_buffer(&pages);
    g_assert_cmpint(put(&pages, 0, buffer), ==, 0);
    set = &pool_of(&pages)->decompressors;
    for (i = 0; i < set->count; i++) {
        atomic_fetch_or(&set->busy[i / 64], UINT64_C(1) << i % 64);
    }
    g_assert_cmpint(pthread_create(&thread, NULL, late_get, &late), ==, 0);
    g_usleep(50 * 1000);
    g_assert_false(atomic_load(&late.done));
    i = set->count - 1;
    atomic_fetch_and(&set->busy[i / 64], ~(UINT64_C(1) << i % 64));
    pthread_join(thread, NULL);
    g_assert_true(atomic_load(&late.done));
    for (i = 0; i < set->count - 1; i++) {
        atomic_fetch_and(&set->busy[i / 64], ~(UINT64_C(1) << i % 64));
    }
    check_all(&pages);
    drop_all_and_check_empty(&pages);
    pages_destroy(&pages);
}

typedef struct Stress {
    TestPages pages;
    _Atomic bool stop;
    _Atomic uint64_t gets;
    _Atomic uint64_t full;
    _Atomic uint64_t seed;
} Stress;

static void *stress_worker(void *opaque)
{
    Stress *stress = opaque;
    TestPages *pages = &stress->pages;
    g_autofree uint8_t *buffer = new_buffer(pages);
    uint64_t random = atomic_fetch_add(&stress->seed, 1) << 32;

    while (!atomic_load_explicit(&stress->stop, memory_order_relaxed)) {
        unsigned int i = next_random(&random) % pages->count;
        uint64_t dice = next_random(&random);
        uint64_t word;

        if (!take(pages, i, &word)) {
            continue;
        }
        if (WORD_STATE(word) == GONE) {
            int ret = put(pages, i, buffer);

            g_assert_true(ret == 0 || ret == -ENOSPC);
            atomic_fetch_add(&stress->full, ret != 0);
            continue;
        }
        check(pages, i, WORD_HANDLE(word), buffer);
        atomic_fetch_add(&stress->gets, 1);
        if (dice % 2) {
            pages->store->ops->drop(pages->store, WORD_HANDLE(word));
            word = GONE;
        }
        atomic_store(&pages->words[i], word);
    }
    return NULL;
}

static void *stress_maintain(void *opaque)
{
    Stress *stress = opaque;

    while (!atomic_load_explicit(&stress->stop, memory_order_relaxed)) {
        if (!stress->pages.store->ops->maintain(stress->pages.store)) {
            g_usleep(100);
        }
    }
    return NULL;
}

/* Has everything happened that the test is about?  Large pages don't move. */
static bool stress_enough(Stress *stress, uint64_t limit)
{
    bool large = stress->pages.max_size > MEMSWAP_ENTRY_MAX;

    return atomic_load(&stress->gets) >= (large ? 50 : 1000) &&
           (large || stats_of(&stress->pages).moved >= 100) &&
           (limit == UINT64_MAX || atomic_load(&stress->full));
}

static void run_stress(unsigned int count, size_t size, uint64_t limit,
                       unsigned int workers, unsigned int maintainers)
{
    const int64_t seconds = g_test_slow() ? 60 : 1;
    Stress stress = { 0 };
    TestPages *pages = &stress.pages;
    g_autofree pthread_t *threads = g_new(pthread_t, workers + maintainers);
    int64_t start = g_get_monotonic_time();
    unsigned int i;

    pages_init(pages, count, size, MIXED, limit);
    for (i = 0; i < workers + maintainers; i++) {
        g_assert_cmpint(pthread_create(&threads[i], NULL,
                                       i < workers ? stress_worker
                                       : stress_maintain, &stress), ==, 0);
    }
    for (i = 0; g_get_monotonic_time() - start < seconds * G_USEC_PER_SEC ||
         !stress_enough(&stress, limit); i++) {
        g_assert_cmpint(g_get_monotonic_time() - start, <,
                        (seconds + 120) * G_USEC_PER_SEC);
        g_usleep(10 * 1000);
        g_assert_cmpuint(stats_of(pages).bytes, <=, limit);
        pages->store->ops->configure(pages->store, limit, i % 2 ? LEVEL : 1);
    }
    atomic_store(&stress.stop, true);
    for (i = 0; i < workers + maintainers; i++) {
        pthread_join(threads[i], NULL);
    }

    g_test_message("%" PRIu64 " gets, %" PRIu64 " moved, %" PRIu64 " full",
                   atomic_load(&stress.gets), stats_of(pages).moved,
                   atomic_load(&stress.full));
    check_stats(pages);
    check_all(pages);
    maintain_all(pages);
    check_all(pages);
    drop_all_and_check_empty(pages);
    pages_destroy(pages);
}

static void test_stress_4k(void)
{
    run_stress(3000, 4 * KIB, UINT64_MAX, 4, 1);
}

static void test_stress_limited(void)
{
    run_stress(3000, 4 * KIB, 3 * MIB, 4, 2);
}

static void test_stress_mixed(void)
{
    run_stress(40, 0, 12 * MIB, 3, 1);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static void test_no_memory(void)
{
    g_test_skip("a sanitizer needs the address space");
}
#else
/* Address space of the process, in bytes. */
static uint64_t address_space(void)
{
    g_autofree char *statm = NULL;

    g_assert_true(g_file_get_contents("/proc/self/statm", &statm, NULL, NULL));
    return g_ascii_strtoull(statm, NULL, 10) * sysconf(_SC_PAGESIZE);
}

static void test_no_memory(void)
{
    struct rlimit limit, old;
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    g_autofree uint8_t *spare = NULL;
    unsigned int i, stored;
    int ret = 0;

    if (!g_test_subprocess()) {
        g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
        g_test_trap_assert_passed();
        return;
    }

    pages_init(&pages, 64 * RAW_PER_SEGMENT, 4 * KIB, RANDOM, UINT64_MAX);
    buffer = new_buffer(&pages);
    g_assert_cmpint(put(&pages, 0, buffer), ==, 0);
    g_assert_cmpint(getrlimit(RLIMIT_AS, &old), ==, 0);
    limit = old;
    limit.rlim_cur = address_space() + 18 * MIB;
    g_assert_cmpint(setrlimit(RLIMIT_AS, &limit), ==, 0);

    for (i = 1; i < pages.count && !ret; i++) {
        ret = put(&pages, i, buffer);
    }
    stored = i - 1;
    g_assert_cmpint(ret, ==, -ENOMEM);
    g_assert_cmpuint(stored, <, pages.count - 1);
    /* Not even a byte for get. */
    limit.rlim_cur = 0;
    g_assert_cmpint(setrlimit(RLIMIT_AS, &limit), ==, 0);
    for (i = 0; i < stored; i++) {
        check(&pages, i, handle_of(&pages, i), buffer);
    }
    /* Nor a new pool. */
    g_assert_null(memswap_pool_new(UINT64_MAX, LEVEL, 2 * MIB, relocate,
                                   &pages));
    /* What is freed can be used again, still without new memory. */
    for (i = 0; i < RAW_PER_SEGMENT; i++) {
        drop(&pages, i);
    }
    maintain_all(&pages);
    for (i = 0; i < RAW_PER_SEGMENT; i++) {
        g_assert_cmpint(put(&pages, i, buffer), ==, 0);
    }
    g_assert_cmpint(put(&pages, stored, buffer), ==, -ENOMEM);

    g_assert_cmpint(setrlimit(RLIMIT_AS, &old), ==, 0);
    g_assert_cmpint(put(&pages, stored, buffer), ==, 0);
    check_all(&pages);
    check_stats(&pages);
    drop_all_and_check_empty(&pages);
    pages_destroy(&pages);
}
#endif

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pool/accounting", test_accounting);
    g_test_add_func("/pool/reuse", test_reuse);
    g_test_add_func("/pool/model/4k", test_model_4k);
    g_test_add_func("/pool/model/2m", test_model_2m);
    g_test_add_func("/pool/model/mixed", test_model_mixed);
    g_test_add_func("/pool/model/limited", test_model_limited);
    g_test_add_func("/pool/levels", test_levels);
    g_test_add_func("/pool/compact/sparse", test_compact);
    g_test_add_func("/pool/compact/threshold", test_compact_threshold);
    g_test_add_func("/pool/compact/refuse", test_refuse);
    g_test_add_func("/pool/compact/transition", test_transition);
    g_test_add_func("/pool/compact/held", test_held);
    g_test_add_func("/pool/limit/full", test_limit);
    g_test_add_func("/pool/limit/lowered", test_limit_lowered);
    g_test_add_func("/pool/limit/large", test_limit_large);
    g_test_add_func("/pool/damage/each-byte", test_damage);
    g_test_add_func("/pool/damage/neighbour", test_damaged_neighbour);
    g_test_add_func("/pool/damage/moves-along", test_damage_moves_along);
    g_test_add_func("/pool/bad-arguments", test_bad_arguments);
    g_test_add_func("/pool/no-lock", test_no_lock);
    g_test_add_func("/pool/contexts-in-use", test_contexts_in_use);
    g_test_add_func("/pool/no-memory", test_no_memory);
    g_test_add_func("/pool/stress/4k", test_stress_4k);
    g_test_add_func("/pool/stress/limited", test_stress_limited);
    g_test_add_func("/pool/stress/mixed", test_stress_mixed);
    return g_test_run();
}

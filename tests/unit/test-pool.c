/*
 * Tests of the compressed pool: content, accounts, and who waits for whom
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "pool-harness.h"

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
    buffer = pages_buffer(&pages);
    while (steps--) {
        uint64_t dice = next_random(&random);

        i = next_random(&random) % count;
        if (WORD_STATE(atomic_load(&pages.words[i])) == GONE) {
            int ret = pages_put(&pages, i, buffer);

            g_assert_true(ret == 0 || (ret == -ENOSPC && limit != UINT64_MAX));
            full += ret == -ENOSPC;
            g_assert_cmpuint(pages_stats(&pages).bytes, <=, limit);
        } else {
            pages_check(&pages, i, pages_handle(&pages, i), buffer);
            if (dice % 4 < 2) {
                pages_drop(&pages, i);
            }
        }
        if (dice % 64 == 0) {
            pages.store->ops->maintain(pages.store);
        }
        if (steps % 1024 == 0) {
            pages_check_stats(&pages);
        }
    }
    g_assert_true(limit == UINT64_MAX || full);
    pages_check_stats(&pages);
    pages_check_all(&pages);
    pages_maintain(&pages);
    pages_check_stats(&pages);
    pages_check_all(&pages);
    pages_drop_all(&pages);
    pages_free(&pages);
}

static void test_model_4k(void)
{
    run_model(6000, 4 * KIB, UINT64_MAX, FEWER(60000));
}

static void test_model_2m(void)
{
    run_model(24, 2 * MIB, UINT64_MAX, FEWER(300));
}

static void test_model_mixed(void)
{
    run_model(40, 0, UINT64_MAX, FEWER(500));
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
    buffer = pages_buffer(&pages);
    for (i = 0; i < pages.count; i++) {
        g_assert_cmpint(pages_put(&pages, i, buffer), ==, 0);
    }
    stats = pages_stats(&pages);
    g_assert_cmpuint(stats.segments, ==, 1000 / RAW_PER_SEGMENT + 1);
    g_assert_cmpuint(stats.bytes, ==, stats.segments * MIB);
    g_assert_cmpuint(stats.live_bytes, ==, 1000 * RAW_ENTRY);
    g_assert_cmpuint(stats.data_bytes, ==, 1000 * 4 * KIB);
    g_assert_cmpuint(stats.moved, ==, 0);

    /* Nothing is dead: nothing moves. */
    g_assert_cmpuint(pages_maintain(&pages), ==, 1);
    g_assert_cmpuint(pages_stats(&pages).moved, ==, 0);
    pages_drop_all(&pages);
    pages_free(&pages);

    /* A page that outgrows a segment: its header, rounded to host pages. */
    pages_init(&pages, 3, 2 * MIB, RANDOM, UINT64_MAX);
    g_free(g_steal_pointer(&buffer));
    buffer = pages_buffer(&pages);
    for (i = 0; i < pages.count; i++) {
        g_assert_cmpint(pages_put(&pages, i, buffer), ==, 0);
    }
    stats = pages_stats(&pages);
    g_assert_cmpuint(stats.segments, ==, 3);
    g_assert_cmpuint(stats.bytes, ==, 3 * (2 * MIB + sysconf(_SC_PAGESIZE)));
    g_assert_cmpuint(stats.live_bytes, ==, 3 * (2 * MIB + 32));
    g_assert_cmpuint(stats.data_bytes, ==, 6 * MIB);
    pages_check_all(&pages);
    pages_drop_all(&pages);
    pages_free(&pages);
}

/* Segments that are freed whole are used again, with no new address space. */
static void test_reuse(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    uint32_t n_segments = 0;
    unsigned int round, i;

    pages_init(&pages, 4 * RAW_PER_SEGMENT, 4 * KIB, RANDOM, UINT64_MAX);
    buffer = pages_buffer(&pages);
    for (round = 0; round < FEWER(50); round++) {
        for (i = 0; i < pages.count; i++) {
            g_assert_cmpint(pages_put(&pages, i, buffer), ==, 0);
        }
        g_assert_cmpuint(pages_stats(&pages).segments, ==, 4);
        pages_check_all(&pages);
        for (i = 0; i < pages.count; i++) {
            pages_drop(&pages, i);
        }
        if (round % 2) {
            pages_maintain(&pages);
            g_assert_cmpuint(pages_stats(&pages).bytes, ==, 0);
        }
        n_segments = n_segments ?: atomic_load(&pool_of(&pages)->n_segments);
    }
    g_assert_cmpuint(atomic_load(&pool_of(&pages)->n_segments), ==,
                     n_segments);
    pages_drop_all(&pages);
    pages_free(&pages);
}

static void test_levels(void)
{
    const int levels[] = { memswap_pool_min_level(), -5, -1, 0, 1, 3,
                           memswap_pool_max_level() };
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    unsigned int i, l;

    pages_init(&pages, 40, 4 * KIB, MIXED, UINT64_MAX);
    buffer = pages_buffer(&pages);
    for (l = 0; l < G_N_ELEMENTS(levels); l++) {
        pages_configure(&pages, UINT64_MAX, levels[l]);
        for (i = 0; i < pages.count; i++) {
            if (WORD_STATE(atomic_load(&pages.words[i])) == STORED) {
                pages_drop(&pages, i);
            }
            g_assert_cmpint(pages_put(&pages, i, buffer), ==, 0);
        }
        pages_check_all(&pages);
    }
    pages_drop_all(&pages);

    /* A level does what it is there for. */
    pages.kind = HALF;
    g_assert_cmpint(pages_put(&pages, 0, buffer), ==, 0);
    g_assert_cmpuint(pages_stats(&pages).data_bytes, <, 3000);
    pages_drop_all(&pages);
    pages_free(&pages);
}

static int codec_of(TestPages *pages, unsigned int i)
{
    MemswapSegment *segment;
    uint32_t room;

    return memswap_segment_entry(pool_of(pages), pages_handle(pages, i),
                                 &segment, &room)->codec;
}

/* A codec is for the pages put from then on; all can be read. */
static void test_codecs(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    unsigned int i;

    pages_init(&pages, 3000, 4 * KIB, HALF, UINT64_MAX);
    buffer = pages_buffer(&pages);
    for (i = 0; i < pages.count; i++) {
        pages.codec = i % 3 == 1 ? MEMSWAP_CODEC_LZ4 : MEMSWAP_CODEC_ZSTD;
        pages_configure(&pages, UINT64_MAX, LEVEL);
        g_assert_cmpint(pages_put(&pages, i, buffer), ==, 0);
    }
    for (i = 0; i < pages.count; i++) {
        g_assert_cmpint(codec_of(&pages, i), ==,
                        i % 3 == 1 ? MEMSWAP_ENTRY_LZ4 : MEMSWAP_ENTRY_ZSTD);
        if (i % 4 < 2) {
            pages_drop(&pages, i);
        }
    }
    pages_maintain(&pages);
    g_assert_cmpuint(pages_stats(&pages).moved, >, 0);
    pages_check_all(&pages);
    pages_drop_all(&pages);
    pages_free(&pages);
}

/*
 * What zstd's higher levels don't try is just what they can't compress.  Each
 * page has bytes that are spread as random ones are.
 */
static void test_incompressible(void)
{
    const size_t repeats[] = { 4096, 2999, 1999, 999 };
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    uint8_t copy[4096];
    uint64_t random = 1;
    unsigned int i, n;

    pages_init(&pages, 1, 4 * KIB, MIXED, UINT64_MAX);
    buffer = pages_buffer(&pages);
    pages.codec = MEMSWAP_CODEC_ZSTD;
    pages_configure(&pages, UINT64_MAX, 1);
    for (i = 0; i < G_N_ELEMENTS(repeats); i++) {
        uint64_t handle;
        MemswapStoreStats stats;

        for (n = 0; n < 4096; n++) {
            buffer[n] = n < repeats[i] ? next_random(&random)
                                       : buffer[n - repeats[i]];
        }
        g_assert_cmpint(pages.store->ops->put(pages.store, buffer, 4096,
                                              OWNER_BASE, &handle), ==, 0);
        stats = pages_stats(&pages);
        if (repeats[i] == 4096) {
            g_assert_cmpuint(stats.data_bytes, ==, 4096);
        } else {
            g_assert_cmpuint(stats.data_bytes, <, repeats[i] + 64);
        }
        g_assert_cmpint(pages.store->ops->get(pages.store, handle, copy, 4096),
                        ==, 0);
        g_assert_true(!memcmp(copy, buffer, 4096));
        pages.store->ops->drop(pages.store, handle);
    }
    pages_free(&pages);
}

/* LZ4 makes more of a page when it has the time. */
static void test_hurry(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    uint8_t copy[4096];
    uint64_t random = 1, calm = 0;

    pages_init(&pages, 1, 4 * KIB, MIXED, UINT64_MAX);
    buffer = pages_buffer(&pages);
    pages.codec = MEMSWAP_CODEC_LZ4;
    pages_configure(&pages, UINT64_MAX, 1);
    /* words of a few letters: many short matches */
    for (unsigned int i = 0; i < 4096; i += 8) {
        memcpy(buffer + i, "reclaim", 8);
        buffer[i] = next_random(&random) % 8;
    }
    for (unsigned int i = 0; i < 3; i++) {
        const MemswapStoreOps *ops = pages.store->ops;
        uint64_t handle, bytes;

        ops->set_hurry(pages.store, i == 1);
        g_assert_cmpint(ops->put(pages.store, buffer, 4096, OWNER_BASE,
                                 &handle), ==, 0);
        bytes = pages_stats(&pages).data_bytes;
        if (i == 0) {
            calm = bytes;
        } else if (i == 1) {
            g_assert_cmpuint(bytes, >, calm);
        } else {
            g_assert_cmpuint(bytes, ==, calm);
        }
        g_assert_cmpint(ops->get(pages.store, handle, copy, 4096), ==, 0);
        g_assert_true(!memcmp(copy, buffer, 4096));
        ops->drop(pages.store, handle);
    }
    pages_free(&pages);
}

/* Get and drop wait for no lock: with all of them taken, they still work. */
static void test_no_lock(void)
{
    TestPages pages;
    MemswapPool *pool;
    g_autofree uint8_t *buffer = NULL;
    unsigned int i;

    pages_fill(&pages, 3, UINT64_MAX, &buffer);
    pool = pool_of(&pages);
    pthread_mutex_lock(&pool->compactor.lock);
    for (i = 0; i < pool->n_writers; i++) {
        pthread_mutex_lock(&pool->writers[i].lock);
    }
    pthread_mutex_lock(&pool->segments_lock);
    alarm(60);
    pages_check_all(&pages);
    for (i = 0; i < 2 * RAW_PER_SEGMENT; i++) {
        pages_drop(&pages, i);
    }
    pages_check_all(&pages);
    alarm(0);
    pthread_mutex_unlock(&pool->segments_lock);
    for (i = 0; i < pool->n_writers; i++) {
        pthread_mutex_unlock(&pool->writers[i].lock);
    }
    pthread_mutex_unlock(&pool->compactor.lock);
    pages_maintain(&pages);
    g_assert_cmpuint(pages_stats(&pages).segments, ==, 1);
    pages_drop_all(&pages);
    pages_free(&pages);
}

typedef struct LateGet {
    TestPages *pages;
    _Atomic bool done;
} LateGet;

static void *late_get(void *opaque)
{
    LateGet *late = opaque;
    g_autofree uint8_t *buffer = pages_buffer(late->pages);

    pages_check(late->pages, 0, pages_handle(late->pages, 0), buffer);
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
    pages.codec = MEMSWAP_CODEC_ZSTD;
    pages_configure(&pages, UINT64_MAX, LEVEL);
    buffer = pages_buffer(&pages);
    g_assert_cmpint(pages_put(&pages, 0, buffer), ==, 0);
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
    pages_check_all(&pages);
    pages_drop_all(&pages);
    pages_free(&pages);
}

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
    g_test_add_func("/pool/codecs", test_codecs);
    g_test_add_func("/pool/incompressible", test_incompressible);
    g_test_add_func("/pool/hurry", test_hurry);
    g_test_add_func("/pool/no-lock", test_no_lock);
    g_test_add_func("/pool/contexts-in-use", test_contexts_in_use);
    return g_test_run();
}

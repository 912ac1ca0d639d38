/*
 * Tests of the compressed pool: everything at once, by many threads
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>

#include "pool-harness.h"

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
    g_autofree uint8_t *buffer = pages_buffer(pages);
    uint64_t random = atomic_fetch_add(&stress->seed, 1) << 32;

    while (!atomic_load_explicit(&stress->stop, memory_order_relaxed)) {
        unsigned int i = next_random(&random) % pages->count;
        uint64_t dice = next_random(&random);
        uint64_t word;

        if (!pages_take(pages, i, &word)) {
            continue;
        }
        if (WORD_STATE(word) == GONE) {
            int ret = pages_put(pages, i, buffer);

            g_assert_true(ret == 0 || ret == -ENOSPC);
            atomic_fetch_add(&stress->full, ret != 0);
            continue;
        }
        pages_check(pages, i, WORD_HANDLE(word), buffer);
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
           (large || pages_stats(&stress->pages).moved >= 100) &&
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
        g_assert_cmpuint(pages_stats(pages).bytes, <=, limit);
        pages->codec = i % 4 < 2 ? MEMSWAP_CODEC_ZSTD : MEMSWAP_CODEC_LZ4;
        pages_configure(pages, limit, i % 2 ? LEVEL : 1);
    }
    atomic_store(&stress.stop, true);
    for (i = 0; i < workers + maintainers; i++) {
        pthread_join(threads[i], NULL);
    }

    g_test_message("%" PRIu64 " gets, %" PRIu64 " moved, %" PRIu64 " full",
                   atomic_load(&stress.gets), pages_stats(pages).moved,
                   atomic_load(&stress.full));
    pages_check_stats(pages);
    pages_check_all(pages);
    pages_maintain(pages);
    pages_check_all(pages);
    pages_drop_all(pages);
    pages_free(pages);
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

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pool/stress/4k", test_stress_4k);
    g_test_add_func("/pool/stress/limited", test_stress_limited);
    g_test_add_func("/pool/stress/mixed", test_stress_mixed);
    return g_test_run();
}

/*
 * Test of the compressed pool: what it takes after very many puts and drops
 *
 * Pages are put and dropped at random, with maintain() called as evictors do.
 * What the pool holds for each byte of compressed data is bounded during all
 * of it, and more tightly once it is quiet; so is what compaction moves.
 *
 * The unit test is a short run.  MEMSWAP_CHURN says how many puts and drops
 * otherwise; the figures are printed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <inttypes.h>

#include "pool-harness.h"

/* Of which half are stored at a time: some 66 MiB of compressed data. */
#define PAGES 65536
#define SHORT_RUN 300000
/* An evictor takes as many pages out between two calls of maintain(). */
#define PUTS_PER_MAINTAIN 64

/* Bytes held for each of compressed data, in percent. */
#define MOST_AT_WORK 125
#define MOST_WHEN_QUIET 110
/* Entries moved a put. */
#define MOST_MOVED 4

static uint64_t percent_held(TestPages *pages)
{
    MemswapStoreStats stats = pages_stats(pages);

    return stats.bytes * 100 / stats.data_bytes;
}

static void test_churn(void)
{
    const char *told = g_getenv("MEMSWAP_CHURN");
    uint64_t steps = told ? g_ascii_strtoull(told, NULL, 10) : SHORT_RUN;
    uint64_t random = 1;
    uint64_t puts = 0, puts_before = 0, moved_before = 0;
    uint64_t worst = 0, moved;
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;

    pages_init(&pages, PAGES, 4 * KIB, HALF, UINT64_MAX);
    buffer = pages_buffer(&pages);
    for (uint64_t step = 0; step < steps; step++) {
        unsigned int i = next_random(&random) % PAGES;

        if (WORD_STATE(atomic_load(&pages.words[i])) == STORED) {
            pages_drop(&pages, i);
            continue;
        }
        g_assert_cmpint(pages_put(&pages, i, buffer), ==, 0);
        if (++puts % PUTS_PER_MAINTAIN) {
            continue;
        }
        pages.store->ops->maintain(pages.store);
        if (step < steps / 2) {
            puts_before = puts;
            moved_before = pages_stats(&pages).moved;
        } else {
            worst = MAX(worst, percent_held(&pages));
        }
    }
    moved = pages_stats(&pages).moved - moved_before;
    puts -= puts_before;
    g_test_message("at work: %" PRIu64 " %% held, %" PRIu64 ".%02" PRIu64
                   " moved a put", worst, moved / puts,
                   moved * 100 / puts % 100);
    g_assert_cmpuint(worst, <=, MOST_AT_WORK);
    g_assert_cmpuint(moved, <=, MOST_MOVED * puts);

    /* As an evictor that looks once a second. */
    moved = pages_stats(&pages).moved;
    for (unsigned int i = 0; i < 3; i++) {
        pages_maintain(&pages);
        pages_pass_time(1000000000);
    }
    moved = pages_stats(&pages).moved - moved;
    g_test_message("quiet: %" PRIu64 " %% held, %" PRIu64 " moved",
                   percent_held(&pages), moved);
    g_assert_cmpuint(percent_held(&pages), <=, MOST_WHEN_QUIET);
    g_assert_cmpuint(moved, <, PAGES / 2);
    pages_check_stats(&pages);
    pages_check_all(&pages);
    pages_drop_all(&pages);
    pages_free(&pages);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pool/churn", test_churn);
    return g_test_run();
}

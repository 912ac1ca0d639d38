/*
 * Tests of the compressed pool: compaction
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "pool-harness.h"

/* Three of four pages dropped: a quarter of the segments is left. */
static void test_compact(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    MemswapStoreStats stats;

    pages_fill(&pages, 8, UINT64_MAX, &buffer);
    pages_thin_out(&pages);
    g_assert_cmpuint(pages_stats(&pages).segments, ==, 8);
    pages_maintain(&pages);
    pages_check_stats(&pages);
    pages_check_all(&pages);
    stats = pages_stats(&pages);
    g_assert_cmpuint(stats.segments, ==, 2);
    g_assert_cmpuint(stats.bytes, ==, 2 * MIB);
    g_assert_cmpuint(stats.moved, ==, pages.count / 4);
    g_assert_cmpuint(stats.live_bytes, ==, pages.count / 4 * RAW_ENTRY);
    /* Only of live pages was relocation asked. */
    g_assert_cmpuint(atomic_load(&pages.asked), ==, stats.moved);

    /* There is an end to it. */
    g_assert_cmpuint(pages_maintain(&pages), ==, 1);
    g_assert_cmpuint(pages_stats(&pages).moved, ==, stats.moved);
    pages_drop_all(&pages);
    pages_free(&pages);
}

static void drop_one_in(TestPages *pages, unsigned int n)
{
    for (unsigned int i = 0; i < pages->count; i += n) {
        pages_drop(pages, i);
    }
}

/* A tenth dropped is not worth the moving. */
static void test_compact_threshold(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;

    pages_fill(&pages, 16, UINT64_MAX, &buffer);
    drop_one_in(&pages, 10);
    g_assert_cmpuint(pages_maintain(&pages), ==, 1);
    g_assert_cmpuint(pages_stats(&pages).moved, ==, 0);
    /* Near the limit it is. */
    pages_configure(&pages, 17 * MIB, LEVEL);
    pages_maintain(&pages);
    g_assert_cmpuint(pages_stats(&pages).moved, >, 0);
    g_assert_cmpuint(pages_stats(&pages).bytes, ==, 15 * MIB);
    pages_check_all(&pages);
    pages_drop_all(&pages);
    pages_free(&pages);
}

/* A twentieth is, once there is time. */
static void test_compact_quiet(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    unsigned int i;

    pages_fill(&pages, 24, UINT64_MAX, &buffer);
    drop_one_in(&pages, 20);
    pages_maintain(&pages);
    /* The time that has passed was not quiet. */
    pages_pass_time(2000000000);
    pages_maintain(&pages);
    g_assert_cmpuint(pages_stats(&pages).moved, ==, 0);
    /* Not for long enough. */
    pages_pass_time(900000000);
    pages_maintain(&pages);
    g_assert_cmpuint(pages_stats(&pages).moved, ==, 0);
    g_assert_cmpuint(pages_stats(&pages).bytes, ==, 24 * MIB);

    pages_pass_time(200000000);
    /* Puts end it, at once; small ones, to leave little that is dead. */
    pages.kind = ZEROES;
    for (i = 0; i < 1024; i++) {
        g_assert_cmpint(pages_put(&pages, 0, buffer), ==, 0);
        pages_drop(&pages, 0);
    }
    pages.kind = RANDOM;
    pages_maintain(&pages);
    g_assert_cmpuint(pages_stats(&pages).moved, ==, 0);

    pages_pass_time(1000000000);
    pages_maintain(&pages);
    g_assert_cmpuint(pages_stats(&pages).moved, >, 0);
    /* One for the small ones came, and one goes for each 24 at least. */
    g_assert_cmpuint(pages_stats(&pages).bytes, <=, 24 * MIB);
    pages_check_all(&pages);
    pages_check_stats(&pages);
    pages_drop_all(&pages);
    pages_free(&pages);
}

/* Pages that refuse to move stay, whole, and nobody tries for ever. */
static void test_refuse(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    MemswapStoreStats before, after;
    unsigned int rounds;

    pages_fill(&pages, 8, UINT64_MAX, &buffer);
    pages_thin_out(&pages);
    atomic_store(&pages.refuse, true);
    before = pages_stats(&pages);
    g_assert_cmpuint(pages_maintain(&pages), <, 20);
    after = pages_stats(&pages);
    g_assert_cmpuint(atomic_load(&pages.asked), ==, pages.count / 4);
    g_assert_cmpuint(after.moved, ==, 0);
    g_assert_cmpuint(after.live_bytes, ==, before.live_bytes);
    g_assert_cmpuint(after.data_bytes, ==, before.data_bytes);
    g_assert_cmpuint(after.bytes, ==, before.bytes);
    pages_check_all(&pages);

    /* Not tried again at once. */
    pages_maintain(&pages);
    g_assert_cmpuint(atomic_load(&pages.asked), ==, pages.count / 4);

    /* But after a while. */
    atomic_store(&pages.refuse, false);
    for (rounds = 0; pages_stats(&pages).segments > 2; rounds++) {
        g_assert_cmpuint(rounds, <, 20);
        pages_maintain(&pages);
    }
    g_assert_cmpuint(pages_stats(&pages).moved, ==, pages.count / 4);
    pages_check_all(&pages);
    pages_drop_all(&pages);
    pages_free(&pages);
}

/* A dropped page's handle is in nobody's word; one in transition stays. */
static void test_transition(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    uint64_t held;

    pages_fill(&pages, 4, UINT64_MAX, &buffer);
    pages_thin_out(&pages);
    g_assert_true(pages_take(&pages, 0, &held));
    pages_maintain(&pages);
    g_assert_cmpuint(pages_stats(&pages).moved, ==, pages.count / 4 - 1);
    /* One segment more, for its sake. */
    g_assert_cmpuint(pages_stats(&pages).segments, ==, 2);
    pages_check(&pages, 0, WORD_HANDLE(held), buffer);
    pages.store->ops->drop(pages.store, WORD_HANDLE(held));
    atomic_store(&pages.words[0], GONE);
    pages_maintain(&pages);
    g_assert_cmpuint(pages_stats(&pages).segments, ==, 1);
    pages_check_all(&pages);
    pages_drop_all(&pages);
    pages_free(&pages);
}

/* Drops all of the segment that is being compacted, then puts as many. */
static void replace_segment(TestPages *pages, uint64_t from)
{
    g_autofree uint8_t *buffer = pages_buffer(pages);
    uint64_t id = from >> MEMSWAP_GRANULE_BITS;
    unsigned int i;

    for (i = 0; i < pages->count; i++) {
        uint64_t word = atomic_load(&pages->words[i]);

        if (WORD_STATE(word) == STORED &&
            WORD_HANDLE(word) >> MEMSWAP_GRANULE_BITS == id) {
            pages_drop(pages, i);
        }
    }
    for (i = 0; i < pages->count; i++) {
        if (WORD_STATE(atomic_load(&pages->words[i])) == GONE) {
            g_assert_cmpint(pages_put(pages, i, buffer), ==, 0);
            g_assert_cmpuint(pages_handle(pages, i) >> MEMSWAP_GRANULE_BITS, !=,
                             id);
        }
    }
}

/* A segment isn't used again while the compactor walks it. */
static void test_held(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;

    pages_fill(&pages, 4, UINT64_MAX, &buffer);
    pages_thin_out(&pages);
    pages.meanwhile = replace_segment;
    g_assert_true(pages.store->ops->maintain(pages.store));
    g_assert_cmpuint(atomic_load(&pages.asked), ==, 1);
    g_assert_cmpuint(pages_stats(&pages).moved, ==, 0);
    pages_check_all(&pages);
    pages_check_stats(&pages);
    pages_maintain(&pages);
    pages_check_all(&pages);
    pages_drop_all(&pages);
    pages_free(&pages);
}

/*
 * Pages that are in somebody's hands for a while, keeping their entries, in a
 * pool that is full to its limit: once they are at rest it has to be able to
 * compact again.
 */
static void test_in_hand(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    uint64_t random = 1;
    unsigned int i, again = 0;

    pages_fill(&pages, 31, 32 * MIB, &buffer);
    for (i = 0; i < pages.count; i++) {
        if (i % 100 != 1 && next_random(&random) % 100 < 40) {
            pages_drop(&pages, i);
        }
    }
    for (i = 1; i < pages.count; i += 100) {
        pages.words[i] = WORD(BUSY, WORD_HANDLE(pages.words[i]));
    }
    for (i = 0; i < 500; i++) {
        pages.store->ops->maintain(pages.store);
    }
    for (i = 1; i < pages.count; i += 100) {
        pages.words[i] = WORD(STORED, WORD_HANDLE(pages.words[i]));
    }
    /* after a while, what could not be moved is tried again */
    for (i = 0; i < 20000; i++) {
        pages.store->ops->maintain(pages.store);
    }
    for (i = 0; i < pages.count && again < pages.count / 4; i++) {
        if (WORD_STATE(pages.words[i]) == GONE) {
            g_assert_cmpint(pages_put(&pages, i, buffer), ==, 0);
            again++;
        }
    }
    g_assert_cmpuint(again, ==, pages.count / 4);
    pages_check_all(&pages);
    pages_drop_all(&pages);
    pages_free(&pages);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pool/compact/sparse", test_compact);
    g_test_add_func("/pool/compact/threshold", test_compact_threshold);
    g_test_add_func("/pool/compact/quiet", test_compact_quiet);
    g_test_add_func("/pool/compact/refuse", test_refuse);
    g_test_add_func("/pool/compact/transition", test_transition);
    g_test_add_func("/pool/compact/held", test_held);
    g_test_add_func("/pool/compact/in-hand", test_in_hand);
    return g_test_run();
}

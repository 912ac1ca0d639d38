/*
 * Tests of the compressed pool: its limit, and a host without memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <sys/resource.h>
#include <unistd.h>

#include "pool-harness.h"

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
        ret = pages_put(pages, i, buffer);
        g_assert_cmpuint(pages_stats(pages).bytes, <=, limit);
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
    buffer = pages_buffer(&pages);
    /* One segment is the compactor's. */
    g_assert_cmpuint(put_until_full(&pages, limit, buffer), ==,
                     7 * RAW_PER_SEGMENT);
    pages_check_all(&pages);
    /* Full is full, but only until there is room. */
    g_assert_cmpuint(put_until_full(&pages, limit, buffer), ==, 0);
    for (i = 0; i < 7 * RAW_PER_SEGMENT; i += 2) {
        pages_drop(&pages, i);
        dropped++;
    }
    pages_maintain(&pages);
    g_assert_cmpuint(pages_stats(&pages).bytes, <=, 5 * MIB);
    pages_check_all(&pages);
    /* The nearer the limit, the harder maintain() tries. */
    do {
        i = put_until_full(&pages, limit, buffer);
        put_again += i;
        pages_maintain(&pages);
    } while (i);
    g_assert_cmpuint(put_again, >=, dropped - RAW_PER_SEGMENT);
    g_assert_cmpuint(put_again, <=, dropped);
    pages_check_all(&pages);

    /* More, if told so. */
    pages_configure(&pages, 10 * MIB, LEVEL);
    g_assert_cmpuint(put_until_full(&pages, 10 * MIB, buffer), >=,
                     2 * RAW_PER_SEGMENT);
    pages_check_all(&pages);
    pages_drop_all(&pages);
    pages_free(&pages);
}

/* A lower limit is for later puts; compaction gets there all the same. */
static void test_limit_lowered(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;
    unsigned int i;

    pages_fill(&pages, 20, UINT64_MAX, &buffer);
    pages_configure(&pages, 10 * MIB, LEVEL);
    pages_check_all(&pages);
    for (i = 0; i < pages.count; i++) {
        if (i % 5) {
            pages_drop(&pages, i);
        }
    }
    pages_maintain(&pages);
    g_assert_cmpuint(pages_stats(&pages).bytes, <=, 5 * MIB);
    pages_check_all(&pages);
    g_assert_cmpint(pages_put(&pages, 1, buffer), ==, 0);

    /* Nothing to be won: it stays above, and says that it is done. */
    pages_configure(&pages, 1 * MIB, LEVEL);
    pages_maintain(&pages);
    pages_check_all(&pages);
    g_assert_cmpuint(pages_stats(&pages).bytes, >, 1 * MIB);
    for (i = 2; i < 3 * RAW_PER_SEGMENT; i++) {
        if (WORD_STATE(atomic_load(&pages.words[i])) == GONE &&
            pages_put(&pages, i, buffer)) {
            break;
        }
    }
    g_assert_cmpuint(i, <, 3 * RAW_PER_SEGMENT);
    pages_drop_all(&pages);
    pages_free(&pages);
}

/* The first page that is to be moved, and its entry. */
static unsigned int in_hand;
static uint64_t in_hand_entry;

/* Somebody faults on it just then. */
static void take_meanwhile(TestPages *pages, uint64_t from)
{
    uint64_t word;

    for (in_hand = 0; atomic_load(&pages->words[in_hand]) !=
         WORD(STORED, from); in_hand++) {
        g_assert_cmpuint(in_hand, <, pages->count);
    }
    g_assert_true(pages_take(pages, in_hand, &word));
    in_hand_entry = from;
}

/*
 * What is borrowed to get below a lower limit is paid back although the
 * compactor is not the one who frees the segment in the end.
 */
static void test_limit_borrowed(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;

    pages_fill(&pages, 20, UINT64_MAX, &buffer);
    for (unsigned int i = 0; i < pages.count; i += 3) {
        pages_drop(&pages, i);
    }
    pages_configure(&pages, 17 * MIB, LEVEL);
    pages.meanwhile = take_meanwhile;
    pages.store->ops->maintain(pages.store);
    pages.store->ops->drop(pages.store, in_hand_entry);
    atomic_store(&pages.words[in_hand], GONE);
    pages_maintain(&pages);
    g_assert_cmpuint(pages_stats(&pages).bytes, <=, 15 * MIB);
    g_assert_cmpint(pages_put(&pages, 0, buffer), ==, 0);
    pages_check_all(&pages);
    pages_drop_all(&pages);
    pages_free(&pages);
}

static void test_limit_large(void)
{
    TestPages pages;
    g_autofree uint8_t *buffer = NULL;

    pages_init(&pages, 20, 2 * MIB, RANDOM, 8 * MIB);
    buffer = pages_buffer(&pages);
    g_assert_cmpuint(put_until_full(&pages, 8 * MIB, buffer), ==, 3);
    pages_drop(&pages, 1);
    g_assert_cmpuint(put_until_full(&pages, 8 * MIB, buffer), ==, 1);
    pages_check_all(&pages);
    pages_drop_all(&pages);
    pages_free(&pages);
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
    unsigned int i, stored;
    int ret = 0;

    if (!g_test_subprocess()) {
        g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
        g_test_trap_assert_passed();
        return;
    }

    pages_init(&pages, 64 * RAW_PER_SEGMENT, 4 * KIB, RANDOM, UINT64_MAX);
    buffer = pages_buffer(&pages);
    g_assert_cmpint(pages_put(&pages, 0, buffer), ==, 0);
    g_assert_cmpint(getrlimit(RLIMIT_AS, &old), ==, 0);
    limit = old;
    limit.rlim_cur = address_space() + 18 * MIB;
    g_assert_cmpint(setrlimit(RLIMIT_AS, &limit), ==, 0);

    for (i = 1; i < pages.count && !ret; i++) {
        ret = pages_put(&pages, i, buffer);
    }
    stored = i - 1;
    g_assert_cmpint(ret, ==, -ENOMEM);
    g_assert_cmpuint(stored, <, pages.count - 1);
    /* Not even a byte for get. */
    limit.rlim_cur = 0;
    g_assert_cmpint(setrlimit(RLIMIT_AS, &limit), ==, 0);
    for (i = 0; i < stored; i++) {
        pages_check(&pages, i, pages_handle(&pages, i), buffer);
    }
    /* Nor a new pool. */
    g_assert_null(memswap_pool_new(UINT64_MAX, pages.codec, LEVEL, 2 * MIB,
                                   pages_relocate, &pages));
    /* What is freed can be used again, still without new memory. */
    for (i = 0; i < RAW_PER_SEGMENT; i++) {
        pages_drop(&pages, i);
    }
    pages_maintain(&pages);
    for (i = 0; i < RAW_PER_SEGMENT; i++) {
        g_assert_cmpint(pages_put(&pages, i, buffer), ==, 0);
    }
    g_assert_cmpint(pages_put(&pages, stored, buffer), ==, -ENOMEM);

    g_assert_cmpint(setrlimit(RLIMIT_AS, &old), ==, 0);
    g_assert_cmpint(pages_put(&pages, stored, buffer), ==, 0);
    pages_check_all(&pages);
    pages_check_stats(&pages);
    pages_drop_all(&pages);
    pages_free(&pages);
}
#endif

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pool/limit/full", test_limit);
    g_test_add_func("/pool/limit/lowered", test_limit_lowered);
    g_test_add_func("/pool/limit/borrowed", test_limit_borrowed);
    g_test_add_func("/pool/limit/large", test_limit_large);
    g_test_add_func("/pool/no-memory", test_no_memory);
    return g_test_run();
}

/*
 * Tests of streams of faults: strides, and how far ahead is worth it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <glib.h>

#include "policies/streams.h"

/* As one that has learned its stride, and asked for the first window. */
static Stream *learned(Streams *streams, int64_t first, int64_t stride)
{
    Stream *stream = NULL;
    uint32_t n = 0;

    *streams = (Streams) { .window_max = STREAM_WINDOW_DEFAULT };
    for (int64_t i = 0; i < 5; i++) {
        g_assert_null(stream);
        stream = streams_touch(streams, 1, first + i * stride, 1, &n);
    }
    g_assert_nonnull(stream);
    g_assert_cmpint(stream->stride, ==, stride);
    g_assert_cmpuint(n, ==, 4);
    stream->ahead += n * stride;
    stream->asked_at = 100;
    return stream;
}

/* What came is touched: further ahead. */
static void test_hit(void)
{
    Streams streams;
    Stream *stream = learned(&streams, 50, 3);
    uint32_t n;

    g_assert_true(streams_touch(&streams, 1, 50 + 8 * 3, 0, &n) == stream);
    g_assert_cmpuint(n, ==, 8);
    stream->ahead += n * 3;
    stream_wasted(stream);
    g_assert_cmpuint(stream->window, ==, 4);
}

/* The touch was faster than we: that is a reason to look further, too. */
static void test_late(void)
{
    Streams streams;
    Stream *stream = learned(&streams, 50, -3);
    uint32_t n;

    g_assert_true(streams_touch(&streams, 1, 50 - 5 * 3, 100, &n) == stream);
    g_assert_cmpuint(stream->window, ==, 8);
}

/* It did not come, though there was time: more of that is no use. */
static void test_left_out(void)
{
    Streams streams;
    Stream *stream = learned(&streams, 50, 3);
    uint32_t n;

    for (int64_t i = 5; i < 9; i++) {
        streams_touch(&streams, 1, 50 + i * 3, 101, &n);
        g_assert_cmpuint(stream->window, ==, 4);
    }
    g_assert_cmpint(stream->stride, ==, 3);
    /* and then one did */
    streams_touch(&streams, 1, 50 + 8 * 3, 0, &n);
    stream->ahead = 50 + 20 * 3;
    streams_touch(&streams, 1, 50 + 9 * 3, 0, &n);
    g_assert_cmpuint(stream->window, ==, 8);
}

static void test_kinds(void)
{
    for (int kind = MEMSWAP_POLICY_ABSENT; kind <= MEMSWAP_POLICY_WAITED;
         kind++) {
        MemswapPolicyEvent event = { .time = 7, .fault.kind = kind };

        g_assert_cmpint(stream_fetched(&event), ==,
                        kind == MEMSWAP_POLICY_STORED ||
                        kind == MEMSWAP_POLICY_SAME ? 7 : 0);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/streams/hit", test_hit);
    g_test_add_func("/streams/late", test_late);
    g_test_add_func("/streams/left-out", test_left_out);
    g_test_add_func("/streams/kinds", test_kinds);
    return g_test_run();
}

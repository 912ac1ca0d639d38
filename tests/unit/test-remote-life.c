/*
 * Tests of remotes: how they come, change, and go
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "harness.h"
#include "other.h"

#define GIB (1024 * MIB)

static Harness *harness_plain(uint64_t n, Other **other)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });

    write_pages(h, 0, n);
    *other = other_expose(h);
    return h;
}

static void evict(Harness *h, uint64_t first, uint64_t end)
{
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim_pages(h->ram.block, first, end, false),
                     ==, (end - first) * PAGE);
}

/*
 * What it faulted on before it was known is resolved then; also what somebody
 * else has read, and left.
 */
static void before_added(bool read_already)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    struct uffd_msg msg;
    Other *other;

    write_pages(h, 0, 8);
    g_assert_cmpint(memswap_block_expose(h->ram.block, NULL), ==, 0);
    other = other_new(h);
    other_open_uffd(other);
    evict(h, 0, 8);
    other_begin_read(other, 5);
    other_check_waits(other);
    if (read_already) {
        g_assert_cmpint(read(other->uffd, &msg, sizeof(msg)), ==,
                        sizeof(msg));
    }
    other_add(other);
    g_assert_cmpuint(other_finish(other), ==, 11);
    harness_settle(h);
    harness_check(h);
    other_conceal(other);
    harness_free(h);
}

static void test_before_added(void)
{
    before_added(false);
    before_added(true);
}

/* It maps the RAM elsewhere, as when memory is plugged. */
static void test_ranges_change(void)
{
    Other *other;
    Harness *h = harness_plain(8, &other);
    MemswapRemoteRange ranges[2] = {
        { .host = h->ram.host, .size = MIB, .base = other->base },
        { .host = h->ram.host, .size = 4 * MIB },
    };

    evict(h, 0, 8);
    other_map_again(other, &ranges[1].base);
    g_assert_cmpuint(ranges[1].base, !=, other->base);
    /* nobody knows where that is */
    other_begin_read(other, 5);
    other_check_waits(other);
    g_assert_cmpint(memswap_remote_set_ranges(other->remote, ranges, 2, NULL),
                    ==, 0);
    g_assert_cmpuint(other_finish(other), ==, 11);
    evict(h, 5, 6);
    other_check(other, 5, 11);
    harness_settle(h);
    harness_check(h);
    other_conceal(other);
    harness_free(h);
}

/* Ranges of two blocks, one of which is unplugged. */
static void test_unplug(void)
{
    Other *other;
    Harness *h = harness_plain(8, &other);
    Ram more = ram_new(2 * MIB, 0);
    MemswapRemoteRange ranges[2] = {
        { .host = h->ram.host, .size = 4 * MIB, .base = other->base },
        { .host = more.host, .size = 2 * MIB, .base = other->base + GIB },
    };
    char *error = NULL;

    ram_add(h, &more, "more");
    g_assert_cmpint(memswap_remote_set_ranges(other->remote, ranges, 2,
                                              &error), ==, -EINVAL);
    g_assert_cmpstr(error, ==, "the device process's faults can't be"
                    " resolved: a range's block is not exposed");
    g_free(error);
    g_assert_cmpint(memswap_block_expose(more.block, NULL), ==, 0);
    g_assert_cmpint(memswap_remote_set_ranges(other->remote, ranges, 2, NULL),
                    ==, 0);
    g_assert_cmpint(memswap_remote_set_ranges(other->remote, ranges, 1, NULL),
                    ==, 0);
    memswap_block_conceal(more.block);
    ram_remove(h, &more);
    ram_free(&more);
    evict(h, 0, 8);
    other_check(other, 5, 11);
    harness_settle(h);
    harness_check(h);
    other_conceal(other);
    harness_free(h);
}

/* It dies, waiting for a page. */
static void test_dies(void)
{
    Other *other;
    Harness *h = harness_plain(8, &other);
    Other *second;

    evict(h, 0, 8);
    h->store->get_error = -EBADMSG;
    other_begin_read(other, 5);
    wait_until(harness_events(h, MEMSWAP_EVENT_PAGE_LOST) == 1);
    h->store->get_error = 0;
    other_kill(other);
    g_assert_cmpuint(memswap_forget_lost(h->engine), ==, PAGE);
    /* it is there still, as far as we are concerned, and does no harm */
    check_pages(h, 0, 5);
    evict(h, 0, 5);
    second = other_new(h);
    other_register(second);
    other_check(second, 5, 0);
    other_check(second, 4, 9);
    other_free(other);
    other_check(second, 3, 7);
    harness_settle(h);
    harness_check(h);
    other_conceal(second);
    harness_free(h);
}

/* Several, who want the same pages. */
static void test_several(void)
{
    Other *other;
    Harness *h = harness_plain(64, &other);
    Other *others[5] = { other };

    for (unsigned int i = 1; i < G_N_ELEMENTS(others); i++) {
        others[i] = other_new(h);
        other_register(others[i]);
    }
    for (unsigned int round = 0; round < 64; round++) {
        evict(h, round, round + 1);
        for (unsigned int i = 0; i < G_N_ELEMENTS(others); i++) {
            other_begin_read(others[i], round);
        }
        for (unsigned int i = 0; i < G_N_ELEMENTS(others); i++) {
            g_assert_cmpuint(other_finish(others[i]), ==, 2 * round + 1);
        }
        harness_settle(h);
    }
    harness_check(h);
    for (unsigned int i = 1; i < G_N_ELEMENTS(others); i++) {
        other_free(others[i]);
    }
    other_conceal(other);
    harness_free(h);
}

/* The engine goes, and it is still there. */
static void test_outlives(void)
{
    Other *other;
    Harness *h = harness_plain(8, &other);

    evict(h, 0, 8);
    harness_abandon(h);
    other->remote = NULL;
    other_free(other);
}

/*
 * It makes reads of its userfaultfd block: nobody is to be caught in one, since
 * who removes it waits for that thread.
 */
static void test_blocks(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    Other *other;
    int shared;

    write_pages(h, 0, 8);
    g_assert_cmpint(memswap_block_expose(h->ram.block, NULL), ==, 0);
    other = other_new(h);
    other_open_uffd(other);
    shared = dup(other->uffd);
    other_add(other);
    evict(h, 0, 8);
    other_check(other, 5, 11);
    g_assert_cmpint(fcntl(shared, F_SETFL, fcntl(shared, F_GETFL) &
                                           ~O_NONBLOCK), ==, 0);
    other_begin_read(other, 6);
    /* nobody resolves its faults any more */
    other_check_waits(other);
    other_conceal(other);
    close(shared);
    check_pages(h, 0, 8);
    harness_settle(h);
    harness_check(h);
    harness_free(h);
}

/* --- refusals ---------------------------------------------------------- */

static void refuse(Harness *h, int uffd, MemswapRemoteRange range,
                   const char *why)
{
    g_autofree char *message = g_strdup_printf(
        "the device process's faults can't be resolved: %s", why);
    MemswapRemote *remote = NULL;
    char *error = NULL;

    g_assert_cmpint(memswap_remote_add(h->engine, uffd, &range, 1, &remote,
                                       &error), ==, -EINVAL);
    g_assert_cmpstr(error, ==, message);
    g_assert_null(remote);
    g_free(error);
}

static void test_refuse(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    MemswapRemoteRange good = { .host = h->ram.host, .size = 4 * MIB };
    MemswapRemoteRange bad;
    int event = eventfd(0, EFD_CLOEXEC);
    Other *other;
    int uffd;

    g_assert_cmpint(memswap_block_expose(h->ram.block, NULL), ==, 0);
    other = other_new(h);
    uffd = other_open_uffd(other);
    good.base = other->base;
    refuse(h, -1, good, "what it sent is no userfaultfd");
    refuse(h, event, good, "what it sent is no userfaultfd");
    refuse(h, h->ram.fd, good, "what it sent is no userfaultfd");
    bad = good;
    bad.host = (uint8_t *)good.host + 4 * MIB;
    refuse(h, uffd, bad, "a range is not managed");
    bad = good;
    bad.size += PAGE;
    refuse(h, uffd, bad,
           "a range ends beyond its block, or the address space");
    bad.size = 0;
    refuse(h, uffd, bad,
           "a range ends beyond its block, or the address space");
    bad = good;
    bad.base = -(uint64_t)PAGE;
    refuse(h, uffd, bad,
           "a range ends beyond its block, or the address space");
    bad = good;
    bad.base += 8;
    refuse(h, uffd, bad, "a range is not aligned to pages");
    bad = good;
    bad.size -= 8;
    refuse(h, uffd, bad, "a range is not aligned to pages");
    memswap_block_conceal(h->ram.block);
    refuse(h, uffd, good, "a range's block is not exposed");
    close(event);
    other_free(other);
    harness_free(h);
}

static void test_too_many(void)
{
    Other *other;
    Harness *h = harness_plain(1, &other);
    MemswapRemoteRange range = {
        .host = h->ram.host, .size = 4 * MIB, .base = other->base,
    };
    MemswapRemote *remotes[MEMSWAP_MAX_REMOTES - 1];
    Other *last = other_new(h);
    int uffd = other_open_uffd(last);

    /* of one process, which has nothing against it */
    range.base = last->base;
    for (unsigned int i = 0; i < G_N_ELEMENTS(remotes); i++) {
        g_assert_cmpint(memswap_remote_add(h->engine, dup(uffd), &range, 1,
                                           &remotes[i], NULL), ==, 0);
    }
    refuse(h, uffd, range, "there are too many");
    evict(h, 0, 1);
    other_check(last, 0, 1);
    for (unsigned int i = 0; i < G_N_ELEMENTS(remotes); i++) {
        memswap_remote_remove(remotes[i]);
    }
    /* the slots are free again */
    other_add(last);
    evict(h, 0, 1);
    other_check(last, 0, 1);
    other_free(last);
    other_conceal(other);
    harness_free(h);
}

int main(int argc, char **argv)
{
    other_main(argc, argv);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/remote-life/before-added", test_before_added);
    g_test_add_func("/remote-life/ranges-change", test_ranges_change);
    g_test_add_func("/remote-life/unplug", test_unplug);
    g_test_add_func("/remote-life/dies", test_dies);
    g_test_add_func("/remote-life/several", test_several);
    g_test_add_func("/remote-life/outlives", test_outlives);
    g_test_add_func("/remote-life/blocks", test_blocks);
    g_test_add_func("/remote-life/refuse", test_refuse);
    g_test_add_func("/remote-life/too-many", test_too_many);
    return g_test_run();
}

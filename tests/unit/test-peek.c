/*
 * Tests of peek: what it reads in each state, and that nothing comes of it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>

#include "meeting.h"
#include "puppets.h"

#define PAGES 64

static int peek(Harness *h, uint64_t page, void *buffer)
{
    return memswap_peek(h->engine, h->ram.host + page * PAGE, buffer, PAGE);
}

static void check_peek(Harness *h, uint64_t page, uint64_t number)
{
    uint64_t want[PAGE / sizeof(uint64_t)], got[PAGE / sizeof(uint64_t)];

    page_build(want, number);
    g_assert_cmpint(peek(h, page, got), ==, 0);
    g_assert_cmpmem(got, PAGE, want, PAGE);
}

/* Everything that is counted, and every page's word, is what it was. */
typedef struct Before {
    MemswapStats stats;
    uint64_t words[PAGES];
    bool mapped[PAGES];
} Before;

static void look_before(Harness *h, Before *before)
{
    before->stats = stats_of(h);
    for (uint64_t page = 0; page < PAGES; page++) {
        before->words[page] = memswap_word_load(&h->ram.block->words[page]);
        before->mapped[page] = ram_mapped(&h->ram, page);
    }
}

static void check_unchanged(Harness *h, const Before *before)
{
    Before now;

    harness_settle(h);
    look_before(h, &now);
    g_assert_cmpmem(&now.stats, sizeof(now.stats), &before->stats,
                    sizeof(before->stats));
    g_assert_cmpmem(now.words, sizeof(now.words), before->words,
                    sizeof(before->words));
    g_assert_cmpmem(now.mapped, sizeof(now.mapped), before->mapped,
                    sizeof(before->mapped));
    harness_check(h);
}

/* Stored, repeating a value, never touched, and all at once. */
static void test_states(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    Before before;
    uint64_t entry;

    write_pages(h, 0, 20);
    ram_fill(h, 20, 0);
    ram_fill(h, 21, 42);
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 22 * PAGE);
    /* some of it back */
    check_pages(h, 0, 5);
    g_assert_cmpint(memswap_pin(h->engine, h->ram.host, PAGE), ==, 0);
    harness_settle(h);

    look_before(h, &before);
    g_assert_cmpint(ram_state(&h->ram, 3), ==, MEMSWAP_RESIDENT);
    g_assert_cmpint(ram_state(&h->ram, 7), ==, MEMSWAP_STORED);
    g_assert_cmpint(ram_state(&h->ram, 21), ==, MEMSWAP_ZERO);
    g_assert_cmpint(ram_state(&h->ram, 40), ==, MEMSWAP_ABSENT);
    for (uint64_t page = 0; page < 20; page++) {
        check_peek(h, page, 2 * page + 1);
    }
    check_peek(h, 20, 0);
    check_peek(h, 21, 42);
    check_peek(h, 40, 0);
    /* a part of one */
    g_assert_cmpint(memswap_peek(h->engine, h->ram.host + 7 * PAGE, &entry,
                                 sizeof(entry)), ==, 0);
    g_assert_cmpuint(entry, ==, 15);
    g_assert_cmpint(memswap_peek(h->engine, h->ram.host + 3 * PAGE, &entry,
                                 sizeof(entry)), ==, 0);
    g_assert_cmpuint(entry, ==, 7);
    check_unchanged(h, &before);
    memswap_unpin(h->engine, h->ram.host, PAGE);
    harness_free(h);
}

/* A page on trial stays there, and is found cold. */
static void test_trial(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    Before before;

    write_pages(h, 0, 20);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    g_assert_cmpint(ram_state(&h->ram, 10), ==, MEMSWAP_TRIAL);
    look_before(h, &before);
    for (uint64_t page = 0; page < 20; page++) {
        check_peek(h, page, 2 * page + 1);
    }
    check_unchanged(h, &before);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 19 * PAGE);
    check_pages(h, 0, 20);
    harness_free(h);
}

/* The real store's copies, compressed or not. */
static void test_pool(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB,
                                                 .pool = true });
    Before before;

    write_pages(h, 0, PAGES);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==,
                     PAGES * PAGE);
    look_before(h, &before);
    for (uint64_t page = 0; page < PAGES; page++) {
        check_peek(h, page, 2 * page + 1);
    }
    check_unchanged(h, &before);
    check_pages(h, 0, PAGES);
    harness_free(h);
}

static void test_bad(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    uint8_t data[2 * PAGE];

    g_assert_cmpint(memswap_peek(h->engine, data, data, 8), ==, -ENOENT);
    g_assert_cmpint(memswap_peek(h->engine, h->ram.host - 1, data, 1), ==,
                    -ENOENT);
    g_assert_cmpint(memswap_peek(h->engine, h->ram.host + 4 * MIB, data, 1),
                    ==, -ENOENT);
    g_assert_cmpint(memswap_peek(h->engine, h->ram.host + PAGE - 4, data, 8),
                    ==, -EINVAL);
    g_assert_cmpint(memswap_peek(h->engine, h->ram.host, data, 2 * PAGE), ==,
                    -EINVAL);
    harness_free(h);
}

/* What can't be fetched goes back to where it was, for a fault to find out. */
static void test_errors(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    uint8_t data[PAGE];
    Before before;

    write_pages(h, 0, 10);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 10 * PAGE);
    look_before(h, &before);
    h->store->get_error = -EBADMSG;
    g_assert_cmpint(peek(h, 3, data), ==, -EIO);
    h->store->get_error = 0;
    h->store->slow_below = fake_store_next(h->store);
    g_assert_cmpint(peek(h, 3, data), ==, -EAGAIN);
    h->store->slow_below = 0;
    check_unchanged(h, &before);
    check_peek(h, 3, 7);
    check_pages(h, 0, 10);
    harness_free(h);
}

/* What is lost can't be read, and whoever waits for it goes on waiting. */
static void test_lost(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    uint8_t data[PAGE];
    Task *task;

    write_pages(h, 0, 10);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 10 * PAGE);
    h->store->get_error = -EBADMSG;
    task = task_start(h, task_read, 3);
    wait_until(ram_state(&h->ram, 3) == MEMSWAP_POISONED);
    h->store->get_error = 0;
    g_assert_cmpint(peek(h, 3, data), ==, -EIO);
    check_peek(h, 4, 9);
    g_assert_cmpint(ram_state(&h->ram, 3), ==, MEMSWAP_POISONED);
    task_check_waits(task);
    g_assert_cmpint(task_discard(h, 3), ==, 0);
    g_assert_cmpint(task_join(task), ==, 0);
    /* who faulted may go on before the page's word says so */
    harness_settle(h);
    check_peek(h, 3, 0);
    harness_check(h);
    harness_free(h);
}

/* In somebody's hands: not known, and not waited for. */
static void peek_in_eviction(FakeStore *store, void *opaque)
{
    Harness *h = opaque;
    uint8_t data[PAGE];

    g_assert_cmpint(ram_state(&h->ram, 0), ==, MEMSWAP_EVICTING);
    g_assert_cmpint(peek(h, 0, data), ==, -EAGAIN);
    store->before_put = NULL;
}

static void peek_in_fill(FakeStore *store, void *opaque)
{
    Harness *h = opaque;
    uint8_t data[PAGE];

    store->before_get = NULL;
    g_assert_cmpint(ram_state(&h->ram, 0), ==, MEMSWAP_FILLING);
    g_assert_cmpint(peek(h, 0, data), ==, -EAGAIN);
}

/* To a policy it is where it was: it is not about to be in memory. */
static void ask_in_peek(FakeStore *store, void *opaque)
{
    Harness *h = opaque;

    store->before_get = NULL;
    g_assert_cmpint(ram_state(&h->ram, 3), ==, MEMSWAP_FILLING);
    g_assert_cmpint(puppet_ask(h, "p", "stored-pages", "0 0 10"), ==, 10);
    g_assert_cmpint(puppet_ask(h, "p", "resident-pages", "0 0 10"), ==, 0);
}

static void test_told(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });

    write_pages(h, 0, 10);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 10 * PAGE);
    puppet_add(h, "p", "puppet");
    h->store->opaque = h;
    h->store->before_get = ask_in_peek;
    check_peek(h, 3, 7);
    g_assert_null(h->store->before_get);
    harness_check(h);
    harness_free(h);
}

static void test_in_hand(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });

    write_pages(h, 0, 1);
    h->store->opaque = h;
    h->store->before_put = peek_in_eviction;
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, PAGE);
    h->store->before_get = peek_in_fill;
    check_pages(h, 0, 1);
    g_assert_null(h->store->before_get);
    harness_free(h);
}

/* It leaves in the middle of the read, which then finds a hole. */
static void leave(Once *once)
{
    memswap_reclaim(once->h->engine, UINT64_MAX);
}

static void test_leaves(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    Once once = { .h = h, .at = INJECT_READ, .act = leave };
    InjectHooks hooks = ONCE_HOOKS(&once);
    uint8_t data[PAGE];

    write_pages(h, 0, 1);
    inject(&hooks);
    g_assert_cmpint(peek(h, 0, data), ==, -EAGAIN);
    inject(NULL);
    g_assert_true(once.done);
    g_assert_cmpint(ram_state(&h->ram, 0), ==, MEMSWAP_STORED);
    check_pages(h, 0, 1);
    harness_free(h);
}

/* Who touches a page that is peeked at, or discards it, has what it wants. */
static void check_meeting(TaskFunction *function, int64_t expected)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    Meeting meeting = { .h = h, .page = 3, .function = function };

    write_pages(h, 0, 10);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 10 * PAGE);
    h->store->opaque = &meeting;
    h->store->before_get = meeting_in_store;
    check_peek(h, 3, 7);
    g_assert_nonnull(meeting.task);
    g_assert_cmpint(task_join(meeting.task), ==, expected);
    h->store->before_get = NULL;
    harness_settle(h);
    harness_check(h);
    harness_free(h);
}

static void test_met(void)
{
    check_meeting(task_read, 7);
    check_meeting(task_pin, 0);
    check_meeting(task_discard, 0);
}

/* One page that changes all the time while others look at it. */
typedef struct Churn {
    Harness *h;
    _Atomic bool stop;
    _Atomic uint64_t known;
} Churn;

static gpointer look(gpointer opaque)
{
    Churn *churn = opaque;
    uint64_t data[PAGE / sizeof(uint64_t)];

    while (!atomic_load(&churn->stop)) {
        for (uint64_t page = 0; page < PAGES; page++) {
            int ret = peek(churn->h, page, data);

            if (!ret) {
                /* or a hole, just when it left */
                g_assert_true(data[0] == 2 * page + 1 || !data[0]);
                atomic_fetch_add(&churn->known, 1);
            } else {
                g_assert_cmpint(ret, ==, -EAGAIN);
            }
        }
    }
    return NULL;
}

static void test_churn(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 4 * MIB, .limit = 2 * MIB, .evictors = 1, .pool = true,
        .readahead = 16 * PAGE, .keep_copies = 1 * MIB,
    });
    Churn churn = { .h = h };
    GThread *thread;

    write_pages(h, 0, PAGES);
    thread = g_thread_new("look", look, &churn);
    /* on a busy machine it looks seldom: until it has seen pages */
    for (int round = 0; round < 300 || atomic_load(&churn.known) < 10;
         round++) {
        memswap_reclaim(h->engine, UINT64_MAX);
        check_pages(h, 0, PAGES);
    }
    atomic_store(&churn.stop, true);
    g_thread_join(thread);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/peek/states", test_states);
    g_test_add_func("/peek/trial", test_trial);
    g_test_add_func("/peek/pool", test_pool);
    g_test_add_func("/peek/bad", test_bad);
    g_test_add_func("/peek/errors", test_errors);
    g_test_add_func("/peek/lost", test_lost);
    g_test_add_func("/peek/told", test_told);
    g_test_add_func("/peek/in-hand", test_in_hand);
    g_test_add_func("/peek/leaves", test_leaves);
    g_test_add_func("/peek/met", test_met);
    g_test_add_func("/peek/churn", test_churn);
    return g_test_run();
}

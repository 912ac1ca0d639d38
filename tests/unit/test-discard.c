/*
 * Tests of discards: of pages in every state, and against everybody else
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>

#include "harness.h"
#include "meeting.h"

static int discard(Harness *h, uint64_t first, uint64_t n)
{
    int ret = memswap_discard(h->engine, h->ram.host + first * PAGE,
                              n * PAGE);

    harness_settle(h);
    return ret;
}

/* --- states ------------------------------------------------------------ */

static void test_states(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    static const MemswapState found[] = {
        MEMSWAP_ABSENT, MEMSWAP_STORED, MEMSWAP_ZERO, MEMSWAP_TRIAL,
        MEMSWAP_RESIDENT,
    };

    /* page n in found[n] */
    ram_fill(h, 1, 11);
    ram_fill(h, 2, 12);
    ram_fill(h, 3, 13);
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, 2 * PAGE), ==, 2 * PAGE);
    ram_fill(h, 4, 14);
    harness_settle(h);
    for (unsigned int i = 0; i < G_N_ELEMENTS(found); i++) {
        g_assert_cmpint(ram_state(&h->ram, i), ==, found[i]);
        g_assert_cmpint(discard(h, i, 1), ==, 0);
        g_assert_cmpint(ram_state(&h->ram, i), ==, MEMSWAP_ABSENT);
        g_assert_cmpuint(stats_of(h).discards, ==, i);
        harness_check(h);
    }
    g_assert_cmpuint(ram_cached(&h->ram), ==, 0);
    g_assert_cmpuint(fake_store_live(h->store), ==, 0);
    g_assert_cmpuint(h->store->gets, ==, 0);
    for (unsigned int i = 0; i < G_N_ELEMENTS(found); i++) {
        ram_check(h, i, 0);
    }
    g_assert_cmpuint(h->traces[MEMSWAP_TRACE_DISCARD], ==, 5);
    harness_free(h);
}

/* Everything at once, across regions. */
static void test_range(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    uint64_t pages = 8 * MIB / PAGE;

    for (uint64_t page = 0; page < pages; page++) {
        if (page % 5) {
            ram_fill(h, page, page % 3 ? 2 * page : 2 * page + 1);
        }
    }
    harness_settle(h);
    memswap_reclaim(h->engine, 5 * MIB);
    for (uint64_t page = 0; page < pages; page += 7) {
        ram_touch(h, page);
    }
    harness_settle(h);
    g_assert_cmpint(discard(h, 100, pages - 200), ==, 0);
    harness_check(h);
    for (uint64_t page = 0; page < pages; page++) {
        bool kept = page < 100 || page >= pages - 100;

        if (!kept) {
            g_assert_cmpint(ram_state(&h->ram, page), ==, MEMSWAP_ABSENT);
        }
        if (page % 5) {
            ram_check(h, page, !kept ? 0 : page % 3 ? 2 * page :
                      2 * page + 1);
        }
    }
    harness_free(h);
}

static void test_whole_block(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    uint64_t pages = 8 * MIB / PAGE;
    MemswapStats stats;

    write_pages(h, 0, pages);
    memswap_reclaim(h->engine, 4 * MIB);
    g_assert_cmpint(discard(h, 0, pages), ==, 0);
    stats = stats_of(h);
    g_assert_cmpuint(stats.discards, ==, pages);
    g_assert_cmpuint(stats.untouched, ==, 8 * MIB);
    g_assert_cmpuint(ram_cached(&h->ram), ==, 0);
    g_assert_cmpuint(stats.trial, ==, 0);
    harness_check(h);
    /* and it can be used as before */
    write_pages(h, 0, pages);
    memswap_reclaim(h->engine, 8 * MIB);
    for (uint64_t page = 0; page < pages; page++) {
        ram_check(h, page, 2 * page + 1);
    }
    harness_free(h);
}

static void test_refused(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 2 * MIB });
    uint8_t *host = h->ram.host;
    Ram other = ram_new(2 * MIB, 0);

    write_pages(h, 0, 4);
    g_assert_cmpint(memswap_discard(h->engine, host + 1, PAGE), ==, -EINVAL);
    g_assert_cmpint(memswap_discard(h->engine, host, PAGE - 1), ==, -EINVAL);
    g_assert_cmpint(memswap_discard(h->engine, host, 2 * MIB + PAGE), ==,
                    -EINVAL);
    g_assert_cmpint(memswap_discard(h->engine, host + PAGE, 2 * MIB), ==,
                    -EINVAL);
    g_assert_cmpint(memswap_discard(h->engine, host + PAGE,
                                    UINT64_MAX - PAGE + 1), ==, -EINVAL);
    g_assert_cmpint(memswap_discard(h->engine, host + 2 * MIB, PAGE), ==,
                    -ENOENT);
    g_assert_cmpint(memswap_discard(h->engine, other.host, PAGE), ==,
                    -ENOENT);
    g_assert_cmpint(memswap_discard(h->engine, host, 0), ==, 0);
    for (uint64_t page = 0; page < 4; page++) {
        ram_check(h, page, 2 * page + 1);
    }
    ram_free(&other);
    harness_free(h);
}

/* A page under a pin can't leave: it is zeroed where it is. */
static void test_pinned(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 2 * MIB });

    write_pages(h, 0, 6);
    g_assert_cmpint(memswap_pin(h->engine, h->ram.host + 2 * PAGE, 2 * PAGE),
                    ==, 0);
    g_assert_cmpint(discard(h, 0, 6), ==, 0);
    for (uint64_t page = 2; page < 4; page++) {
        g_assert_cmpint(ram_state(&h->ram, page), ==, MEMSWAP_RESIDENT);
        g_assert_cmpuint(ram_pins(&h->ram, page), ==, 1);
        g_assert_true(ram_mapped(&h->ram, page));
    }
    g_assert_cmpuint(ram_cached(&h->ram), ==, 2 * PAGE);
    g_assert_cmpuint(stats_of(h).discards, ==, 4);
    harness_check(h);
    for (uint64_t page = 0; page < 6; page++) {
        ram_check(h, page, 0);
    }
    memswap_unpin(h->engine, h->ram.host + 2 * PAGE, 2 * PAGE);
    g_assert_cmpint(discard(h, 0, 6), ==, 0);
    g_assert_cmpuint(ram_cached(&h->ram), ==, 0);
    harness_free(h);
}

/* --- against others ---------------------------------------------------- */

/* A fill under way is waited for, and forgotten. */
static void test_filling(void)
{
    Harness *h = harness_with_page(4 * MIB, 20);
    Meeting meeting = { .h = h, .page = 20, .function = task_discard };
    MemswapFaultKind kind;
    int64_t got;
    Task *task;

    memswap_reclaim(h->engine, PAGE);
    h->store->opaque = &meeting;
    h->store->before_get = meeting_in_store;
    task = task_start(h, task_read, 20);
    harness_wait_fault(h);
    /*
     * What the fault asks for, and no more: the reader may be back with the
     * next before the discard has looked again, which would discard twice.
     */
    g_assert_cmpint(memswap_fill(h->ram.block, 20, 0, &kind), ==,
                    MEMSWAP_DONE);
    g_assert_nonnull(meeting.task);
    g_assert_cmpint(task_join(meeting.task), ==, 0);
    got = join_by_hand(h, task);
    /* it could be read before it was forgotten */
    g_assert_true(got == 0 || got == 41);
    harness_handle(h);
    g_assert_cmpint(join_by_hand(h, task_start(h, task_read, 20)), ==, 0);
    g_assert_cmpuint(fake_store_live(h->store), ==, 0);
    g_assert_cmpuint(stats_of(h).discards, ==, 1);
    harness_check(h);
    harness_free(h);
}

/* The fill fails: then the copy is forgotten. */
static void test_filling_fails(void)
{
    Harness *h = harness_with_page(4 * MIB, 20);
    Meeting meeting = {
        .h = h, .page = 20, .function = task_discard,
        .at = INJECT_COPY, .error = -ENOMEM,
    };
    InjectHooks hooks = MEETING_HOOKS(&meeting);
    MemswapFaultKind kind;

    memswap_reclaim(h->engine, PAGE);
    inject(&hooks);
    g_assert_cmpint(memswap_fill(h->ram.block, 20, 0, &kind), ==,
                    MEMSWAP_NO_ROOM);
    inject(NULL);
    g_assert_cmpint(task_join(meeting.task), ==, 0);
    g_assert_cmpint(ram_state(&h->ram, 20), ==, MEMSWAP_ABSENT);
    g_assert_cmpuint(fake_store_live(h->store), ==, 0);
    harness_check(h);
    harness_free(h);
}

/* The fill is for a pin: the page stays, zeroed. */
static void test_filling_pinned(void)
{
    Harness *h = harness_with_page(4 * MIB, 20);
    Meeting meeting = { .h = h, .page = 20, .function = task_discard };

    memswap_reclaim(h->engine, PAGE);
    h->store->opaque = &meeting;
    h->store->before_get = meeting_in_store;
    g_assert_cmpint(task_pin(h, 20), ==, 0);
    g_assert_cmpint(task_join(meeting.task), ==, 0);
    g_assert_cmpint(ram_state(&h->ram, 20), ==, MEMSWAP_RESIDENT);
    g_assert_cmpuint(ram_pins(&h->ram, 20), ==, 1);
    g_assert_true(ram_mapped(&h->ram, 20));
    ram_check(h, 20, 0);
    harness_check(h);
    memswap_unpin(h->engine, h->ram.host + 20 * PAGE, PAGE);
    harness_free(h);
}

static void against_eviction(InjectCall at, bool in_store)
{
    Harness *h = harness_with_page(4 * MIB, 20);
    Meeting meeting = {
        .h = h, .page = 20, .function = task_discard,
        .at = at,
    };
    InjectHooks hooks = MEETING_HOOKS(&meeting);
    uint64_t gone;

    if (in_store) {
        h->store->opaque = &meeting;
        h->store->before_put = meeting_in_store;
    } else {
        inject(&hooks);
    }
    gone = memswap_reclaim(h->engine, PAGE);
    inject(NULL);
    /* between trial and eviction the region is the discard's to take */
    g_assert_true(gone == PAGE || (at == INJECT_ZAP && gone == 0));
    g_assert_cmpint(task_join(meeting.task), ==, 0);
    g_assert_cmpint(ram_state(&h->ram, 20), ==, MEMSWAP_ABSENT);
    g_assert_cmpuint(fake_store_live(h->store), ==, 0);
    g_assert_cmpuint(ram_cached(&h->ram), ==, 0);
    g_assert_cmpint(join_by_hand(h, task_start(h, task_read, 20)), ==, 0);
    harness_check(h);
    harness_free(h);
}

static void test_evicting(void)
{
    against_eviction(INJECT__MAX, true);
}

static void test_evicting_punch(void)
{
    against_eviction(INJECT_PUNCH, false);
}

static void test_trial(void)
{
    against_eviction(INJECT_ZAP, false);
}

/* Two at once. */
static void test_twice(void)
{
    Harness *h = harness_with_page(4 * MIB, 20);
    Meeting meeting = {
        .h = h, .page = 20, .function = task_discard,
        .at = INJECT_PUNCH,
    };
    InjectHooks hooks = MEETING_HOOKS(&meeting);

    inject(&hooks);
    g_assert_cmpint(task_discard(h, 20), ==, 0);
    inject(NULL);
    g_assert_cmpint(task_join(meeting.task), ==, 0);
    g_assert_cmpuint(stats_of(h).discards, ==, 1);
    harness_check(h);
    harness_free(h);
}

/* --- failures ---------------------------------------------------------- */

static int fail_punch(void *opaque, InjectCall call, uint64_t where,
                      size_t *size)
{
    uint64_t *offset = opaque;

    return call == INJECT_PUNCH && where == *offset ? -EIO : 0;
}

/* What can't be punched is left as it was, and said. */
static void test_punch_fails(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    uint64_t offset = 2 * MIB;
    InjectHooks hooks = { .before = fail_punch, .opaque = &offset };

    write_pages(h, REGION_PAGES - 10, 20);
    inject(&hooks);
    g_assert_cmpint(discard(h, REGION_PAGES - 10, 20), ==, -EIO);
    inject(NULL);
    harness_check(h);
    for (uint64_t page = REGION_PAGES - 10; page < REGION_PAGES; page++) {
        ram_check(h, page, 0);
        ram_check(h, page + 10, 2 * (page + 10) + 1);
    }
    g_assert_cmpint(discard(h, REGION_PAGES - 10, 20), ==, 0);
    g_assert_cmpuint(ram_cached(&h->ram), ==, 0);
    harness_free(h);
}

/* --- under load -------------------------------------------------------- */

typedef struct Load {
    Harness *h;
    _Atomic bool stop;
} Load;

static gpointer reclaim_on(gpointer opaque)
{
    Load *load = opaque;

    while (!atomic_load(&load->stop)) {
        memswap_reclaim(load->h->engine, 64 * PAGE);
    }
    return NULL;
}

static gpointer touch_on(gpointer opaque)
{
    Load *load = opaque;

    while (!atomic_load(&load->stop)) {
        for (uint64_t page = 0; page < 64; page++) {
            ram_touch(load->h, page);
        }
    }
    return NULL;
}

/* What is written after a discard has returned is never lost. */
static void test_written_after(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 2 * MIB });
    Load load = { .h = h };
    GThread *threads[] = {
        g_thread_new("reclaim", reclaim_on, &load),
        g_thread_new("touch", touch_on, &load),
    };
    GRand *rand = g_rand_new_with_seed(g_test_rand_int());
    int64_t end = g_get_monotonic_time() + 500000;
    uint64_t now[64] = { 0 };

    for (uint64_t n = 1; g_get_monotonic_time() < end; n++) {
        uint64_t first = g_rand_int_range(rand, 0, 60);
        uint64_t count = g_rand_int_range(rand, 1, 4);

        g_assert_cmpint(memswap_discard(h->engine,
                                        h->ram.host + first * PAGE,
                                        count * PAGE), ==, 0);
        for (uint64_t page = first; page < first + count; page++) {
            ram_check(h, page, 0);
            ram_fill(h, page, n);
            now[page] = n;
        }
        ram_check(h, first ^ 1, now[first ^ 1]);
    }
    atomic_store(&load.stop, true);
    for (unsigned int i = 0; i < G_N_ELEMENTS(threads); i++) {
        g_thread_join(threads[i]);
    }
    for (uint64_t page = 0; page < 64; page++) {
        ram_check(h, page, now[page]);
    }
    g_rand_free(rand);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/discard/states", test_states);
    g_test_add_func("/discard/range", test_range);
    g_test_add_func("/discard/whole-block", test_whole_block);
    g_test_add_func("/discard/refused", test_refused);
    g_test_add_func("/discard/pinned", test_pinned);
    g_test_add_func("/discard/filling", test_filling);
    g_test_add_func("/discard/filling/fails", test_filling_fails);
    g_test_add_func("/discard/filling/pinned", test_filling_pinned);
    g_test_add_func("/discard/evicting", test_evicting);
    g_test_add_func("/discard/evicting/punch", test_evicting_punch);
    g_test_add_func("/discard/trial", test_trial);
    g_test_add_func("/discard/twice", test_twice);
    g_test_add_func("/discard/punch-fails", test_punch_fails);
    g_test_add_func("/discard/written-after", test_written_after);
    return g_test_run();
}

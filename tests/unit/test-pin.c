/*
 * Tests of pins: counted, resident, and mapped as long as they last
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "harness.h"
#include "meeting.h"

static void pin(Harness *h, uint64_t first, uint64_t n)
{
    g_assert_cmpint(memswap_pin(h->engine, h->ram.host + first * PAGE,
                                n * PAGE), ==, 0);
}

static void unpin(Harness *h, uint64_t first, uint64_t n)
{
    memswap_unpin(h->engine, h->ram.host + first * PAGE, n * PAGE);
}

/* --- counts ------------------------------------------------------------ */

static void test_ranges(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    static const unsigned int pins[] = { 0, 1, 2, 3, 3, 2, 1, 0 };

    /* nested, and overlapping */
    pin(h, 1, 6);
    pin(h, 2, 4);
    pin(h, 3, 2);
    for (unsigned int i = 0; i < G_N_ELEMENTS(pins); i++) {
        g_assert_cmpuint(ram_pins(&h->ram, i), ==, pins[i]);
    }
    g_assert_cmpuint(stats_of(h).pinned, ==, 6 * PAGE);
    unpin(h, 1, 6);
    g_assert_cmpuint(stats_of(h).pinned, ==, 4 * PAGE);
    unpin(h, 3, 2);
    unpin(h, 2, 4);
    g_assert_cmpuint(stats_of(h).pinned, ==, 0);

    /* any byte of a page is the page */
    g_assert_cmpint(memswap_pin(h->engine, h->ram.host + 10 * PAGE - 1, 2),
                    ==, 0);
    g_assert_cmpuint(stats_of(h).pinned, ==, 2 * PAGE);
    g_assert_cmpuint(ram_pins(&h->ram, 9), ==, 1);
    g_assert_cmpuint(ram_pins(&h->ram, 10), ==, 1);
    memswap_unpin(h->engine, h->ram.host + 10 * PAGE - 1, 2);

    /* nothing is nothing */
    g_assert_cmpint(memswap_pin(h->engine, h->ram.host, 0), ==, 0);
    g_assert_cmpuint(stats_of(h).pinned, ==, 0);
    harness_free(h);
}

/* Of what the engine doesn't manage nothing is pinned; the rest is. */
static void test_outside(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .limit = 16 * MIB });
    Ram outer = ram_new(6 * MIB, 0);
    static char elsewhere[100];

    h->ram = outer;
    h->ram.host += 2 * MIB;
    h->ram.size = 2 * MIB;
    h->ram.fd_offset = 2 * MIB;
    ram_add(h, &h->ram, "inner");
    g_assert_cmpint(memswap_pin(h->engine, outer.host + MIB + 5,
                                4 * MIB), ==, 0);
    g_assert_cmpuint(stats_of(h).pinned, ==, 2 * MIB);
    memswap_unpin(h->engine, outer.host + MIB + 5, 4 * MIB);
    g_assert_cmpuint(stats_of(h).pinned, ==, 0);
    g_assert_cmpint(memswap_pin(h->engine, elsewhere, sizeof(elsewhere)), ==,
                    0);
    memswap_unpin(h->engine, elsewhere, sizeof(elsewhere));
    g_assert_true(memswap_owns(h->engine, outer.host + 2 * MIB));
    g_assert_true(memswap_owns(h->engine, outer.host + 4 * MIB - 1));
    g_assert_false(memswap_owns(h->engine, outer.host + 4 * MIB));
    g_assert_false(memswap_owns(h->engine, outer.host + 2 * MIB - 1));
    harness_check(h);
    ram_remove(h, &h->ram);
    h->ram.host = NULL;
    outer.block = NULL;
    ram_free(&outer);
    harness_free(h);
}

/* More pins than a word can count. */
static void saturate(unsigned int n)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 2 * MIB });
    uint64_t page;

    write_pages(h, 0, 3);
    for (unsigned int i = 1; i <= n; i++) {
        pin(h, 1, 1);
        g_assert_cmpuint(ram_pins(&h->ram, 1), ==,
                         MIN(i, MEMSWAP_PIN_SATURATED));
    }
    g_assert_cmpuint(memswap_reclaim(h->engine, MIB), ==, 2 * PAGE);
    ram_check(h, 1, 3);
    g_assert_cmpint(task_discard(h, 1), ==, 0);
    ram_check(h, 1, 0);
    for (unsigned int i = n - 1; i > 0; i--) {
        unpin(h, 1, 1);
        g_assert_cmpuint(ram_pins(&h->ram, 1), ==,
                         MIN(i, MEMSWAP_PIN_SATURATED));
    }
    g_assert_cmpuint(stats_of(h).pinned, ==, PAGE);
    g_assert_cmpuint(memswap_reclaim(h->engine, MIB), ==, 0);
    unpin(h, 1, 1);
    g_assert_cmpuint(stats_of(h).pinned, ==, 0);
    g_assert_cmpuint(g_hash_table_size(h->engine->overflow), ==, 0);
    /* what its word says besides is as it was */
    page = memswap_word_load(&h->ram.block->words[1]);
    g_assert_cmphex(memswap_word_handle(page), ==, 0);
    g_assert_cmpuint(memswap_reclaim(h->engine, MIB), ==, PAGE);
    harness_free(h);
}

static void test_saturated(void)
{
    saturate(5000);
}

static void test_saturated_more(void)
{
    saturate(70000);
}

/* Around the point of saturation, from several sides. */
typedef struct Crowd {
    Harness *h;
    _Atomic bool stop;
} Crowd;

static gpointer crowd(gpointer opaque)
{
    Crowd *c = opaque;

    while (!atomic_load(&c->stop)) {
        for (unsigned int i = 0; i < 7; i++) {
            pin(c->h, 1, 1);
        }
        for (unsigned int i = 0; i < 7; i++) {
            unpin(c->h, 1, 1);
        }
    }
    return NULL;
}

static gpointer crowd_fill(gpointer opaque)
{
    Crowd *c = opaque;
    MemswapFaultKind kind;

    /* late events, which make the page not certain to be mapped */
    while (!atomic_load(&c->stop)) {
        memswap_fill(c->h->ram.block, 1, 0, &kind);
        memswap_reclaim(c->h->engine, PAGE);
    }
    return NULL;
}

static void test_saturated_crowd(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 2 * MIB });
    Crowd c = { .h = h };
    const unsigned int n = MEMSWAP_PIN_SATURATED - 10;
    GThread *threads[4];

    write_pages(h, 0, 30);
    for (unsigned int i = 0; i < n; i++) {
        pin(h, 1, 1);
    }
    for (unsigned int i = 0; i < G_N_ELEMENTS(threads); i++) {
        threads[i] = g_thread_new("crowd", i ? crowd : crowd_fill, &c);
    }
    g_usleep(400000);
    atomic_store(&c.stop, true);
    for (unsigned int i = 0; i < G_N_ELEMENTS(threads); i++) {
        g_thread_join(threads[i]);
    }
    g_assert_cmpuint(ram_pins(&h->ram, 1), ==, n);
    for (unsigned int i = 0; i < n; i++) {
        unpin(h, 1, 1);
    }
    g_assert_cmpuint(ram_pins(&h->ram, 1), ==, 0);
    g_assert_cmpuint(g_hash_table_size(h->engine->overflow), ==, 0);
    ram_check(h, 1, 3);
    harness_free(h);
}

/* One unpin too many is a bug of the caller, and said so. */
static void test_unbalanced(void)
{
    if (g_test_subprocess()) {
        Harness *h = harness_new(&(HarnessOptions) { .size = 2 * MIB });

        pin(h, 1, 1);
        unpin(h, 1, 2);
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_failed();
    g_test_trap_assert_stderr("*bug of its own at offset 8192*");
}

/* --- where a page is found --------------------------------------------- */

static void test_states(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    static const MemswapState found[] = {
        MEMSWAP_ABSENT, MEMSWAP_STORED, MEMSWAP_ZERO, MEMSWAP_TRIAL,
        MEMSWAP_RESIDENT,
    };
    static const uint64_t numbers[] = { 0, 11, 12, 13, 15 };
    MemswapStats stats;

    for (unsigned int i = 1; i < 4; i++) {
        ram_fill(h, i, numbers[i]);
    }
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, 2 * PAGE), ==, 2 * PAGE);
    ram_fill(h, 4, numbers[4]);
    harness_settle(h);
    for (unsigned int i = 0; i < G_N_ELEMENTS(found); i++) {
        g_assert_cmpint(ram_state(&h->ram, i), ==, found[i]);
        pin(h, i, 1);
        g_assert_cmpint(ram_state(&h->ram, i), ==, MEMSWAP_RESIDENT);
        g_assert_true(ram_mapped(&h->ram, i));
        g_assert_cmpuint(ram_pins(&h->ram, i), ==, 1);
    }
    stats = stats_of(h);
    g_assert_cmpuint(stats.pinned, ==, 5 * PAGE);
    g_assert_cmpuint(stats.trial, ==, 0);
    g_assert_cmpuint(stats.refaults, ==, 2);
    /* nobody faulted, all the same */
    for (unsigned int i = 0; i < G_N_ELEMENTS(found); i++) {
        ram_check(h, i, numbers[i]);
    }
    g_assert_cmpuint(h->traces[MEMSWAP_TRACE_FAULT], ==, 4);
    unpin(h, 0, 5);
    harness_free(h);
}

/* Nothing takes a pinned page out, or unmaps it. */
static void test_stays(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });

    write_pages(h, 0, 1024);
    for (uint64_t page = 0; page < 1024; page += 10) {
        pin(h, page, 3);
    }
    for (unsigned int i = 0; i < 3; i++) {
        /* 102 times 3 of them, and at the end 3 of 4 */
        g_assert_cmpuint(memswap_reclaim(h->engine, 4 * MIB), ==,
                         (1024 - 309) * PAGE);
        harness_check(h);
        for (uint64_t page = 0; page < 1024; page++) {
            g_assert_cmpint(ram_mapped(&h->ram, page), ==, page % 10 < 3);
        }
        for (uint64_t page = 0; page < 1024; page++) {
            ram_check(h, page, 2 * page + 1);
        }
        harness_settle(h);
    }
    for (uint64_t page = 0; page < 1024; page += 10) {
        unpin(h, page, 3);
    }
    g_assert_cmpuint(memswap_reclaim(h->engine, 4 * MIB), ==, 4 * MIB);
    harness_free(h);
}

/* --- against others ---------------------------------------------------- */

static void end_pinned(Harness *h, Meeting *meeting, uint64_t number)
{
    inject(NULL);
    g_assert_nonnull(meeting->task);
    g_assert_cmpint(task_join(meeting->task), ==, 0);
    g_assert_cmpint(ram_state(&h->ram, meeting->page), ==, MEMSWAP_RESIDENT);
    g_assert_cmpuint(ram_pins(&h->ram, meeting->page), ==, 1);
    g_assert_true(ram_mapped(&h->ram, meeting->page));
    ram_check(h, meeting->page, number);
    g_assert_cmpuint(stats_of(h).pinned, ==, PAGE);
    g_assert_cmpuint(memswap_reclaim(h->engine, MIB), ==, 0);
    harness_check(h);
    unpin(h, meeting->page, 1);
    harness_free(h);
}

/* A pin calls an eviction off, or has it undone. */
static void test_evicting(void)
{
    Harness *h = harness_with_page(2 * MIB, 5);
    Meeting meeting = { .h = h, .page = 5, .function = task_pin };
    uint64_t gone;

    h->store->opaque = &meeting;
    h->store->before_put = meeting_in_store;
    memswap_reclaim_step(h->engine, PAGE, false, &gone);
    g_assert_cmpuint(gone, ==, 0);
    g_assert_cmpuint(stats_of(h).given_back, ==, 1);
    h->store->before_put = NULL;
    end_pinned(h, &meeting, 11);
}

static void against(InjectCall at, bool after)
{
    Harness *h = harness_with_page(2 * MIB, 5);
    Meeting meeting = {
        .h = h, .page = 5, .function = task_pin,
        .at = at, .after = after,
    };
    InjectHooks hooks = MEETING_HOOKS(&meeting);
    uint64_t gone;

    inject(&hooks);
    memswap_reclaim_step(h->engine, PAGE, false, &gone);
    end_pinned(h, &meeting, 11);
}

static void test_punched(void)
{
    against(INJECT_PUNCH, true);
}

/*
 * A zap under way may unmap what is mapped meanwhile: a pin waits for its
 * end.
 */
static void test_zap_under_way(void)
{
    against(INJECT_ZAP, false);
}

/* Another's fill is waited for. */
static void test_filling(void)
{
    Harness *h = harness_with_page(2 * MIB, 5);
    Meeting meeting = {
        .h = h, .page = 5, .function = task_pin,
        .at = INJECT_COPY,
    };
    InjectHooks hooks = MEETING_HOOKS(&meeting);
    MemswapFaultKind kind;

    memswap_reclaim(h->engine, PAGE);
    inject(&hooks);
    g_assert_cmpint(memswap_fill(h->ram.block, 5, 0, &kind), ==,
                    MEMSWAP_DONE);
    end_pinned(h, &meeting, 11);
}

static void test_discarding(void)
{
    Harness *h = harness_with_page(2 * MIB, 5);
    Meeting meeting = {
        .h = h, .page = 5, .function = task_pin,
        .at = INJECT_PUNCH,
    };
    InjectHooks hooks = MEETING_HOOKS(&meeting);

    inject(&hooks);
    g_assert_cmpint(task_discard(h, 5), ==, 0);
    end_pinned(h, &meeting, 0);
}

/* --- zaps at full speed ------------------------------------------------ */

/*
 * With user-mode faults only, a system call that is given a page which is not
 * mapped fails, as it does whenever the faulting thread resolves its own
 * faults.  So it tells whether a page was mapped all the time.
 */
typedef struct Zaps {
    Harness *h;
    _Atomic bool stop;
    _Atomic uint64_t rounds;
} Zaps;

static gpointer zap_on(gpointer opaque)
{
    Zaps *zaps = opaque;

    while (!atomic_load(&zaps->stop)) {
        uint64_t gone;

        memswap_reclaim_step(zaps->h->engine, 8 * PAGE, true, &gone);
        atomic_fetch_add(&zaps->rounds, 1);
    }
    return NULL;
}

static gpointer touch_on(gpointer opaque)
{
    Zaps *zaps = opaque;

    while (!atomic_load(&zaps->stop)) {
        for (uint64_t page = 0; page < 64; page++) {
            ram_touch(zaps->h, page);
        }
    }
    return NULL;
}

/* Returns how many system calls failed, of how many. */
static void zaps_and_calls(bool pinned, uint64_t *failed, uint64_t *calls)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 2 * MIB, .user_mode_only = true,
    });
    Zaps zaps = { .h = h };
    GThread *threads[2];
    GRand *rand = g_rand_new_with_seed(g_test_rand_int());
    int64_t end = g_get_monotonic_time() + 700000;
    int file = memfd_create("file", MFD_CLOEXEC);
    uint64_t got[4 * PAGE / sizeof(uint64_t)];

    *failed = *calls = 0;
    write_pages(h, 0, 64);
    threads[0] = g_thread_new("zap", zap_on, &zaps);
    threads[1] = g_thread_new("touch", touch_on, &zaps);
    while (g_get_monotonic_time() < end) {
        uint64_t first = g_rand_int_range(rand, 0, 60);
        uint64_t n = g_rand_int_range(rand, 1, 5);

        if (pinned) {
            pin(h, first, n);
        }
        for (unsigned int i = 0; i < 20; i++) {
            ssize_t done = pwrite(file, h->ram.host + first * PAGE, n * PAGE,
                                  0);

            *failed += done != n * PAGE;
            ++*calls;
        }
        if (pinned) {
            g_assert_cmpint(pread(file, got, n * PAGE, 0), ==, n * PAGE);
            for (uint64_t i = 0; i < n; i++) {
                uint64_t want[PAGE / sizeof(uint64_t)];

                page_build(want, 2 * (first + i) + 1);
                g_assert_cmpmem(got + i * G_N_ELEMENTS(want), PAGE, want,
                                PAGE);
            }
            unpin(h, first, n);
        }
    }
    atomic_store(&zaps.stop, true);
    for (unsigned int i = 0; i < G_N_ELEMENTS(threads); i++) {
        g_thread_join(threads[i]);
    }
    g_test_message("%" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
                   " calls failed, %" G_GUINT64_FORMAT " reclaims", *failed,
                   *calls, zaps.rounds);
    g_assert_cmpuint(zaps.rounds, >, 10);
    close(file);
    g_rand_free(rand);
    harness_free(h);
}

static void test_zaps(void)
{
    uint64_t failed, calls;

    /* or it would say nothing that none fails with a pin */
    zaps_and_calls(false, &failed, &calls);
    g_assert_cmpuint(failed, >, 0);
    zaps_and_calls(true, &failed, &calls);
    g_assert_cmpuint(failed, ==, 0);
    g_assert_cmpuint(calls, >, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pin/ranges", test_ranges);
    g_test_add_func("/pin/outside", test_outside);
    g_test_add_func("/pin/saturated", test_saturated);
    g_test_add_func("/pin/saturated/more", test_saturated_more);
    g_test_add_func("/pin/saturated/crowd", test_saturated_crowd);
    g_test_add_func("/pin/unbalanced", test_unbalanced);
    g_test_add_func("/pin/states", test_states);
    g_test_add_func("/pin/stays", test_stays);
    g_test_add_func("/pin/evicting", test_evicting);
    g_test_add_func("/pin/punched", test_punched);
    g_test_add_func("/pin/zap-under-way", test_zap_under_way);
    g_test_add_func("/pin/filling", test_filling);
    g_test_add_func("/pin/discarding", test_discarding);
    g_test_add_func("/pin/zaps", test_zaps);
    return g_test_run();
}

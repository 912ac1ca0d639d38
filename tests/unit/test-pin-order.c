/*
 * Tests of pins that nest, overlap, and come in the middle of something
 *
 * What is under way is stopped at an exact point; there the others come, and
 * wait.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>

#include "harness.h"

#define AT 5u

static void pin(Harness *h, uint64_t first, uint64_t n)
{
    g_assert_cmpint(memswap_pin(h->engine, h->ram.host + first * PAGE,
                                n * PAGE), ==, 0);
}

static void unpin(Harness *h, uint64_t first, uint64_t n)
{
    memswap_unpin(h->engine, h->ram.host + first * PAGE, n * PAGE);
}

/* Some that come at the same point. */
#define GUESTS 3

typedef struct Party {
    Harness *h;
    InjectCall at;          /* or in the store */
    bool after;
    int error;              /* what the call gives, the first time */
    struct {
        TaskFunction *function;
        uint64_t arg;
    } guests[GUESTS];       /* in this order */
    Task *tasks[GUESTS];
    _Atomic unsigned int met;
} Party;

static void party(Party *p)
{
    for (unsigned int i = 0; i < GUESTS && p->guests[i].function; i++) {
        p->tasks[i] = task_start(p->h, p->guests[i].function,
                                 p->guests[i].arg);
        task_check_waits(p->tasks[i]);
    }
}

static int party_before(void *opaque, InjectCall call, uint64_t where,
                        size_t *size)
{
    Party *p = opaque;

    if (call == p->at && !p->after && !atomic_fetch_add(&p->met, 1)) {
        party(p);
        return p->error;
    }
    return 0;
}

static void party_after(void *opaque, InjectCall call, uint64_t where,
                        size_t size, int error)
{
    Party *p = opaque;

    if (call == p->at && p->after && !atomic_fetch_add(&p->met, 1)) {
        party(p);
    }
}

static void party_in_store(FakeStore *store, void *opaque)
{
    Party *p = opaque;

    if (!atomic_fetch_add(&p->met, 1)) {
        party(p);
    }
}

#define PARTY_HOOKS(p) { \
    .before = party_before, .after = party_after, .opaque = p \
}

static void party_end(Party *p)
{
    inject(NULL);
    if (p->h->store) {
        p->h->store->before_put = NULL;
    }
    g_assert_cmpuint(atomic_load(&p->met), >, 0);
    for (unsigned int i = 0; i < GUESTS && p->tasks[i]; i++) {
        g_assert_cmpint(task_join(p->tasks[i]), ==, 0);
    }
}

/* @arg: first page, and how many of them in the upper half */
#define RANGE(first, n) ((uint64_t)(n) << 32 | (first))

static int64_t task_pin_range(Harness *h, uint64_t arg)
{
    return memswap_pin(h->engine, h->ram.host + (uint32_t)arg * PAGE,
                       (arg >> 32) * PAGE);
}

/* Three pages written to, one after the other, out of the way of others. */
static Harness *with_pages(void)
{
    Harness *h = harness_with_page(2 * MIB, AT);

    for (uint64_t page = AT + 1; page < AT + 3; page++) {
        Task *task = task_start(h, task_write, page);

        join_by_hand(h, task);
    }
    return h;
}

static void expect_pinned(Harness *h, uint64_t page, unsigned int pins,
                          uint64_t number)
{
    g_assert_cmpint(ram_state(&h->ram, page), ==, MEMSWAP_RESIDENT);
    g_assert_cmpuint(ram_pins(&h->ram, page), ==, pins);
    g_assert_true(ram_mapped(&h->ram, page));
    ram_check(h, page, number);
}

static void end(Harness *h)
{
    g_assert_cmpuint(stats_of(h).pinned, ==, 0);
    harness_free(h);
}

/* Two ranges that overlap, of pages that are being stored. */
static void test_overlap_evicting(void)
{
    Harness *h = with_pages();
    Party p = {
        .h = h, .guests = {
            { task_pin_range, RANGE(AT, 2) },
            { task_pin_range, RANGE(AT + 1, 2) },
            { task_pin_range, RANGE(AT + 1, 1) },
        },
    };
    uint64_t gone;

    h->store->opaque = &p;
    h->store->before_put = party_in_store;
    memswap_reclaim_step(h->engine, 3 * PAGE, false, &gone);
    party_end(&p);
    expect_pinned(h, AT, 1, 11);
    expect_pinned(h, AT + 1, 3, 13);
    expect_pinned(h, AT + 2, 1, 15);
    g_assert_cmpuint(stats_of(h).pinned, ==, 3 * PAGE);
    g_assert_cmpuint(memswap_reclaim(h->engine, MIB), ==, 0);

    /* not in the order that they came in */
    unpin(h, AT, 2);
    g_assert_cmpuint(ram_pins(&h->ram, AT + 1), ==, 2);
    g_assert_cmpuint(memswap_reclaim(h->engine, MIB), ==, PAGE);
    unpin(h, AT + 1, 1);
    unpin(h, AT + 1, 2);
    g_assert_cmpuint(memswap_reclaim(h->engine, MIB), ==, 2 * PAGE);
    end(h);
}

/* The same, when the copies are made and the pages punched. */
static void test_overlap_punched(void)
{
    Harness *h = with_pages();
    Party p = {
        .h = h, .at = INJECT_PUNCH, .after = true, .guests = {
            { task_pin_range, RANGE(AT, 3) },
            { task_pin_range, RANGE(AT + 2, 1) },
        },
    };
    InjectHooks hooks = PARTY_HOOKS(&p);
    uint64_t gone;

    inject(&hooks);
    memswap_reclaim_step(h->engine, 3 * PAGE, false, &gone);
    party_end(&p);
    g_assert_cmpuint(gone, ==, 3 * PAGE);
    expect_pinned(h, AT, 1, 11);
    expect_pinned(h, AT + 2, 2, 15);
    unpin(h, AT, 3);
    g_assert_cmpuint(stats_of(h).pinned, ==, PAGE);
    unpin(h, AT + 2, 1);
    end(h);
}

/* A zap goes around what is pinned, even if it is unpinned before the call. */
static int unpin_before(void *opaque, InjectCall call, uint64_t where,
                        size_t *size)
{
    Party *p = opaque;

    if (call == INJECT_ZAP && !atomic_fetch_add(&p->met, 1)) {
        unpin(p->h, AT + 1, 1);
    }
    return 0;
}

static void test_unpinned_in_zap(void)
{
    Harness *h = with_pages();
    Party p = { .h = h };
    InjectHooks hooks = { .before = unpin_before, .opaque = &p };

    pin(h, AT + 1, 1);
    inject(&hooks);
    memswap_region_own(&h->ram.block->regions[0]);
    g_assert_cmpuint(memswap_trial_region(h->ram.block, 0), ==, 2);
    memswap_region_disown(&h->ram.block->regions[0]);
    inject(NULL);
    g_assert_cmpuint(p.met, ==, 2);
    g_assert_true(ram_mapped(&h->ram, AT + 1));
    g_assert_false(ram_mapped(&h->ram, AT));
    g_assert_false(ram_mapped(&h->ram, AT + 2));
    g_assert_cmpint(ram_state(&h->ram, AT + 1), ==, MEMSWAP_RESIDENT);
    /* it is pinned again at once, without a fill */
    pin(h, AT + 1, 1);
    expect_pinned(h, AT + 1, 1, 13);
    unpin(h, AT + 1, 1);
    end(h);
}

/* On trial, pinned, unpinned: the trial found it warm. */
static void test_trial(void)
{
    Harness *h = with_pages();
    uint64_t next = 0;

    memswap_region_own(&h->ram.block->regions[0]);
    g_assert_cmpuint(memswap_trial_region(h->ram.block, 0), ==, 3);
    pin(h, AT, 2);
    pin(h, AT + 1, 1);
    unpin(h, AT, 1);
    g_assert_cmpuint(memswap_evict_region(h->ram.block, 0, &next, MIB), ==,
                     PAGE);
    memswap_region_disown(&h->ram.block->regions[0]);
    g_assert_cmpint(ram_state(&h->ram, AT), ==, MEMSWAP_RESIDENT);
    expect_pinned(h, AT + 1, 2, 13);
    g_assert_cmpint(ram_state(&h->ram, AT + 2), ==, MEMSWAP_STORED);
    unpin(h, AT + 1, 1);
    unpin(h, AT + 1, 1);
    end(h);
}

/* One more pin while a discard makes the pinned page's content zero. */
static void test_discard_of_pinned(void)
{
    Harness *h = with_pages();
    Party p = {
        .h = h, .at = INJECT_WRITE,
        .guests = { { task_pin, AT }, { task_pin_range, RANGE(AT, 2) } },
    };
    InjectHooks hooks = PARTY_HOOKS(&p);

    pin(h, AT, 1);
    inject(&hooks);
    g_assert_cmpint(task_discard(h, AT), ==, 0);
    party_end(&p);
    expect_pinned(h, AT, 3, 0);
    expect_pinned(h, AT + 1, 1, 13);
    unpin(h, AT, 1);
    unpin(h, AT, 2);
    g_assert_cmpuint(stats_of(h).pinned, ==, PAGE);
    unpin(h, AT, 1);
    end(h);
}

/*
 * Stored; being filled for somebody; a discard waits for that; then a pin
 * comes: it gets what the discard left, a page of zeroes.
 */
static void test_discard_of_filling(void)
{
    Harness *h = harness_with_page(2 * MIB, AT);
    Party p = {
        .h = h, .at = INJECT_COPY,
        .guests = { { task_discard, AT }, { task_pin, AT } },
    };
    InjectHooks hooks = PARTY_HOOKS(&p);
    MemswapFaultKind kind;

    memswap_reclaim(h->engine, PAGE);
    g_assert_cmpint(ram_state(&h->ram, AT), ==, MEMSWAP_STORED);
    inject(&hooks);
    g_assert_cmpint(memswap_fill(h->ram.block, AT, 0, &kind), ==,
                    MEMSWAP_DONE);
    party_end(&p);
    expect_pinned(h, AT, 1, 0);
    g_assert_cmpuint(atomic_load(&h->store->live_bytes), ==, 0);
    unpin(h, AT, 1);
    end(h);
}

/*
 * Pinned by who fills it: then the discard, which waited for the fill, may not
 * take it.
 */
static void test_discard_of_pinning(void)
{
    Harness *h = harness_with_page(2 * MIB, AT);
    Party p = {
        .h = h, .at = INJECT_COPY,
        .guests = { { task_discard, AT }, { task_pin, AT } },
    };
    InjectHooks hooks = PARTY_HOOKS(&p);

    memswap_reclaim(h->engine, PAGE);
    inject(&hooks);
    pin(h, AT, 1);
    party_end(&p);
    expect_pinned(h, AT, 2, 0);
    unpin(h, AT, 1);
    unpin(h, AT, 1);
    end(h);
}

/* A fill that pins fails, while somebody waits to pin the same page. */
static void fails(InjectCall at)
{
    Harness *h = harness_with_page(2 * MIB, AT);
    Party p = {
        .h = h, .at = at, .error = -ENOMEM,
        .guests = { { task_pin, AT }, { task_pin, AT } },
    };
    InjectHooks hooks = PARTY_HOOKS(&p);

    if (at == INJECT_COPY) {
        memswap_reclaim(h->engine, PAGE);
    } else {
        memswap_region_own(&h->ram.block->regions[0]);
        memswap_trial_region(h->ram.block, 0);
        memswap_region_disown(&h->ram.block->regions[0]);
    }
    inject(&hooks);
    pin(h, AT, 1);
    party_end(&p);
    expect_pinned(h, AT, 3, 11);
    g_assert_cmpuint(stats_of(h).pinned, ==, PAGE);
    for (unsigned int i = 0; i < 3; i++) {
        unpin(h, AT, 1);
    }
    end(h);
}

static void test_fill_fails(void)
{
    fails(INJECT_COPY);
}

static void test_map_fails(void)
{
    fails(INJECT_CONTINUE);
}

/*
 * A page that was pinned already is mapped anew for one more pin, since a late
 * fill left it uncertain; that fails, after the first pin went.
 */
static int unpin_then_fail(void *opaque, InjectCall call, uint64_t where,
                           size_t *size)
{
    Party *p = opaque;

    if (call == INJECT_CONTINUE && !atomic_fetch_add(&p->met, 1)) {
        unpin(p->h, AT, 1);
        return -ENOMEM;
    }
    return 0;
}

static void test_fails_as_last(void)
{
    Harness *h = harness_with_page(2 * MIB, AT);
    Party p = { .h = h };
    InjectHooks hooks = { .before = unpin_then_fail, .opaque = &p };
    MemswapWord *word = &h->ram.block->words[AT];
    uint64_t old;

    pin(h, AT, 1);
    old = memswap_word_load(word);
    g_assert_true(memswap_word_cas(word, &old, old & ~MEMSWAP_WORD_MAPPED));
    inject(&hooks);
    pin(h, AT, 1);
    inject(NULL);
    g_assert_cmpuint(p.met, >, 1);
    expect_pinned(h, AT, 1, 11);
    g_assert_cmpuint(stats_of(h).pinned, ==, PAGE);
    unpin(h, AT, 1);
    end(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pin-order/overlap/evicting", test_overlap_evicting);
    g_test_add_func("/pin-order/overlap/punched", test_overlap_punched);
    g_test_add_func("/pin-order/unpinned-in-zap", test_unpinned_in_zap);
    g_test_add_func("/pin-order/trial", test_trial);
    g_test_add_func("/pin-order/discard/pinned", test_discard_of_pinned);
    g_test_add_func("/pin-order/discard/filling", test_discard_of_filling);
    g_test_add_func("/pin-order/discard/pinning", test_discard_of_pinning);
    g_test_add_func("/pin-order/fails/fill", test_fill_fails);
    g_test_add_func("/pin-order/fails/map", test_map_fails);
    g_test_add_func("/pin-order/fails/last", test_fails_as_last);
    return g_test_run();
}

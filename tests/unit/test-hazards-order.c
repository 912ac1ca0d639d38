/*
 * Tests of what is known to lose data: steps done in another order
 *
 * Above each test stands the rule; with the rule taken out of the engine, the
 * test fails.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "meeting.h"

/* --- words and deeds --------------------------------------------------- */

static void touch_waits(Once *once)
{
    once->task = task_start(once->h, task_write, 5);
    harness_wait_fault(once->h);
    harness_handle(once->h);
    task_check_waits(once->task);
}

/*
 * Rule: a discarded page is DISCARDING until the punch is done.  Were it
 * ABSENT before, a fresh page that is written to would be punched.
 */
static void test_discard_order(void)
{
    Harness *h = harness_with_page(2 * MIB, 5);
    Once once = { .h = h, .at = INJECT_PUNCH, .act = touch_waits };
    InjectHooks hooks = ONCE_HOOKS(&once);

    /* on trial: not mapped, so that a touch faults before the punch */
    join_by_hand(h, task_start(h, task_write, 4));
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    g_assert_cmpint(ram_state(&h->ram, 5), ==, MEMSWAP_TRIAL);
    inject(&hooks);
    g_assert_cmpint(task_discard(h, 5), ==, 0);
    inject(NULL);
    join_by_hand(h, once.task);
    ram_check(h, 5, 11);
    harness_check(h);
    harness_free(h);
}

static void write_first_page(Once *once)
{
    page_build(once->h->ram.host, 123);
}

/*
 * Rule: register, then look.  What was written between the two would be
 * counted nowhere and never leave.
 */
static void test_scan_order(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .limit = 8 * MIB });
    Once once = { .h = h, .at = INJECT_REGISTER, .act = write_first_page };
    InjectHooks hooks = ONCE_HOOKS(&once);

    h->ram = ram_new(2 * MIB, 0);
    inject(&hooks);
    ram_add(h, &h->ram, "ram");
    inject(NULL);
    g_assert_true(once.done);
    g_assert_cmpuint(stats_of(h).resident, ==, PAGE);
    harness_check(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    ram_check(h, 0, 123);
    harness_free(h);
}

static void fault_first_page(Once *once)
{
    once->task = task_start(once->h, task_write, 0);
    task_join(once->task);
}

/* Rule: a page that faults before it is seen counts once. */
static void test_scan_against_fault(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .limit = 8 * MIB });
    Once once = {
        .h = h, .at = INJECT_REGISTER, .after = true,
        .act = fault_first_page,
    };
    InjectHooks hooks = ONCE_HOOKS(&once);

    h->ram = ram_new(2 * MIB, 0);
    inject(&hooks);
    ram_add(h, &h->ram, "ram");
    inject(NULL);
    g_assert_true(once.done);
    g_assert_cmpuint(stats_of(h).resident, ==, PAGE);
    ram_check(h, 0, 1);
    harness_free(h);
}

static void discard_first_page(Once *once)
{
    if (!once->number++) {
        /* the first look finds where there is data, the next the page */
        once->done = false;
        return;
    }
    once->task = task_start(once->h, task_discard, 0);
    task_wait_asleep(once->task);
    g_usleep(NOT_YET_US);
}

/*
 * Rule: whoever takes stock of a region owns it.  Else a discard of a page
 * that was seen, but not counted yet, would find nothing to do.
 */
static void test_scan_against_discard(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .limit = 8 * MIB });
    Once once = {
        .h = h, .at = INJECT_SEEK, .after = true, .act = discard_first_page,
    };
    InjectHooks hooks = ONCE_HOOKS(&once);

    h->ram = ram_new(2 * MIB, 0);
    write_pages(h, 0, 3);
    inject(&hooks);
    ram_add(h, &h->ram, "ram");
    inject(NULL);
    g_assert_cmpint(task_join(once.task), ==, 0);
    ram_check(h, 0, 0);
    harness_check(h);
    harness_free(h);
}

static void reclaim_nothing(Once *once)
{
    uint64_t trials = stats_of(once->h).trials;

    once->number = memswap_reclaim(once->h->engine, MIB);
    g_assert_cmpuint(stats_of(once->h).trials, ==, trials);
}

/* Rule: a region has one owner.  No trial begins while it is discarded. */
static void test_region_owner(void)
{
    Harness *h = harness_with_page(2 * MIB, 5);
    Once once = {
        .h = h, .at = INJECT_PUNCH, .act = reclaim_nothing, .number = 1,
    };
    InjectHooks hooks = ONCE_HOOKS(&once);

    join_by_hand(h, task_start(h, task_write, 6));
    inject(&hooks);
    g_assert_cmpint(task_discard(h, 5), ==, 0);
    inject(NULL);
    g_assert_true(once.done);
    g_assert_cmpuint(once.number, ==, 0);
    ram_check(h, 6, 13);
    harness_check(h);
    harness_free(h);
}

/* Evict page 5, and on the way do something.  All by hand. */
static Harness *harness_evict(InjectCall at, void (*act)(Once *once))
{
    Harness *h = harness_with_page(2 * MIB, 5);
    Once once = { .h = h, .at = at, .act = act };
    InjectHooks hooks = ONCE_HOOKS(&once);

    inject(&hooks);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    inject(NULL);
    g_assert_true(once.done);
    return h;
}

static void write_while_mapped(Once *once)
{
    g_assert_true(ram_mapped(&once->h->ram, 5));
    ram_fill(once->h, 5, 999);
}

/*
 * Rule: mark, zap, then evict.  What is written until the zap is part of what
 * is stored.
 */
static void test_evict_order(void)
{
    Harness *h = harness_evict(INJECT_ZAP, write_while_mapped);

    g_assert_cmpint(join_by_hand(h, task_start(h, task_read, 5)), ==, 999);
    ram_check(h, 5, 999);
    harness_check(h);
    harness_free(h);
}

static void not_mapped(Once *once)
{
    g_assert_cmpint(ram_state(&once->h->ram, 5), ==, MEMSWAP_EVICTING);
    g_assert_false(ram_mapped(&once->h->ram, 5));
}

/* Rule: nobody can write to a page while it is read for the store. */
static void test_evict_unmapped(void)
{
    Harness *h = harness_evict(INJECT_READ, not_mapped);

    harness_check(h);
    harness_free(h);
}

static void stored_already(Once *once)
{
    g_assert_cmpuint(fake_store_live(once->h->store), ==, 1);
    g_assert_cmpuint(ram_cached(&once->h->ram), ==, PAGE);
}

/* Rule: the copy is complete before the punch ... */
static void test_copy_before_punch(void)
{
    Harness *h = harness_evict(INJECT_PUNCH, stored_already);

    harness_check(h);
    harness_free(h);
}

static void in_place(FakeStore *store, void *opaque)
{
    Once *once = opaque;

    g_assert_cmpuint(ram_cached(&once->h->ram), ==, PAGE);
    once->done = true;
}

/* ... and dropped only when the page is in place. */
static void test_drop_after_fill(void)
{
    Harness *h = harness_with_page(2 * MIB, 5);
    Once once = { .h = h };
    Task *task;

    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    h->store->opaque = &once;
    h->store->before_drop = in_place;
    task = task_start(h, task_read, 5);
    g_assert_cmpint(join_by_hand(h, task), ==, 11);
    g_assert_true(once.done);
    h->store->before_drop = NULL;
    harness_check(h);
    harness_free(h);
}

static void reclaim_while_filling(Once *once)
{
    uint64_t gone;

    g_assert_cmpint(ram_state(&once->h->ram, 5), ==, MEMSWAP_FILLING);
    memswap_reclaim_step(once->h->engine, PAGE, true, &gone);
    g_assert_cmpuint(gone, ==, 0);
}

/*
 * Rule: the page is FILLING while it is mapped.  Were its word RESIDENT
 * first, it could be evicted before a late CONTINUE maps it.
 */
static void fill_order(InjectCall at, bool evict)
{
    Harness *h = harness_with_page(2 * MIB, 5);
    Once once = { .h = h, .at = at, .act = reclaim_while_filling };
    InjectHooks hooks = ONCE_HOOKS(&once);
    MemswapFaultKind kind;

    if (at == INJECT_ZEROPAGE) {
        g_assert_cmpint(task_discard(h, 5), ==, 0);
    } else {
        join_by_hand(h, task_start(h, task_write, 4));
        g_assert_cmpuint(memswap_reclaim(h->engine, evict ? 2 * PAGE : PAGE),
                         ==, evict ? 2 * PAGE : PAGE);
    }
    inject(&hooks);
    g_assert_cmpint(memswap_fill(h->ram.block, 5, 0, &kind), ==,
                    MEMSWAP_DONE);
    inject(NULL);
    g_assert_true(once.done);
    ram_check(h, 5, at == INJECT_ZEROPAGE ? 0 : 11);
    harness_check(h);
    harness_free(h);
}

static void test_fill_order(void)
{
    fill_order(INJECT_COPY, true);
    fill_order(INJECT_CONTINUE, false);
    fill_order(INJECT_ZEROPAGE, false);
}

/* --- zap under a pin --------------------------------------------------- */

/*
 * A page is being filled while its region is put on trial: the fill looked at
 * the region before, its COPY comes in the middle of the zap.
 */
typedef struct Crossing {
    Harness *h;
    _Atomic bool copying, marked, copied;
} Crossing;

static int crossing_before(void *opaque, InjectCall call, uint64_t where,
                           size_t *size)
{
    Crossing *c = opaque;

    if (call == INJECT_COPY) {
        atomic_store(&c->copying, true);
        wait_until(atomic_load(&c->marked));
    } else if (call == INJECT_ZAP) {
        atomic_store(&c->marked, true);
        wait_until(atomic_load(&c->copied));
    }
    return 0;
}

static void crossing_after(void *opaque, InjectCall call, uint64_t where,
                           size_t size, int error)
{
    Crossing *c = opaque;

    if (call == INJECT_COPY) {
        atomic_store(&c->copied, true);
    }
}

static int64_t fill_page(Harness *h, uint64_t page)
{
    MemswapFaultKind kind;

    return memswap_fill(h->ram.block, page, 0, &kind);
}

/*
 * Rule: a zap goes around pages that are FILLING.  Else one that is said to
 * be mapped for certain would not be, and a pin would take its word for it.
 */
static void test_zap_around_fill(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 2 * MIB });
    Crossing c = { .h = h };
    InjectHooks hooks = {
        .before = crossing_before, .after = crossing_after, .opaque = &c,
    };
    uint64_t gone;
    Task *task;

    write_pages(h, 5, 1);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    write_pages(h, 4, 1);
    write_pages(h, 6, 1);
    inject(&hooks);
    task = task_start(h, fill_page, 5);
    wait_until(atomic_load(&c.copying));
    memswap_reclaim_step(h->engine, PAGE, true, &gone);
    inject(NULL);
    g_assert_cmpint(task_join(task), ==, MEMSWAP_DONE);
    g_assert_cmpint(task_pin(h, 5), ==, 0);
    g_assert_true(atomic_load(&c.copied));
    g_assert_true(ram_mapped(&h->ram, 5));
    ram_check(h, 5, 11);
    harness_check(h);
    memswap_unpin(h->engine, h->ram.host + 5 * PAGE, PAGE);
    check_pages(h, 4, 3);
    harness_free(h);
}

/* --- compaction -------------------------------------------------------- */

static void compact_all(Once *once)
{
    MemswapStore *store = once->h->engine->store;

    g_assert_cmpint(ram_state(&once->h->ram, 5), ==, MEMSWAP_FILLING);
    for (unsigned int i = 0; i < 1000 && store->ops->maintain(store); i++) {
        continue;
    }
}

/*
 * Rule: an entry moves only while its page is STORED under that very handle.
 * One that a fill is using stays where it is until the fill drops it.
 */
static void test_compaction(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 16 * MIB, .pool = true, .by_hand = true,
    });
    Once once = { .h = h, .at = INJECT_COPY, .act = compact_all };
    InjectHooks hooks = ONCE_HOOKS(&once);
    MemswapFaultKind kind;
    MemswapStats stats;

    for (uint64_t page = 0; page < 16 * MIB / PAGE; page++) {
        g_assert_cmpint(memswap_fill(h->ram.block, page, 0, &kind), ==,
                        MEMSWAP_DONE);
        ram_fill(h, page, 2 * page + 1);
    }
    g_assert_cmpuint(memswap_reclaim(h->engine, 16 * MIB), ==, 16 * MIB);
    /* leave one in eight in each segment */
    for (uint64_t page = 0; page < 16 * MIB / PAGE; page++) {
        if (page % 8 != 5) {
            g_assert_cmpint(task_discard(h, page), ==, 0);
        }
    }
    inject(&hooks);
    g_assert_cmpint(memswap_fill(h->ram.block, 5, 0, &kind), ==,
                    MEMSWAP_DONE);
    inject(NULL);
    g_assert_true(once.done);
    stats = stats_of(h);
    g_assert_cmpuint(stats.pool_moved, >, 0);
    for (uint64_t page = 5; page < 16 * MIB / PAGE; page += 8) {
        g_assert_cmpint(memswap_fill(h->ram.block, page, 0, &kind), ==,
                        MEMSWAP_DONE);
        ram_check(h, page, 2 * page + 1);
    }
    stats = stats_of(h);
    g_assert_cmpuint(stats.stored, ==, 0);
    g_assert_cmpuint(stats.pool_live_bytes, ==, 0);
    harness_check(h);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/hazards/order/discard", test_discard_order);
    g_test_add_func("/hazards/order/scan", test_scan_order);
    g_test_add_func("/hazards/order/scan-against-fault",
                    test_scan_against_fault);
    g_test_add_func("/hazards/order/scan-against-discard",
                    test_scan_against_discard);
    g_test_add_func("/hazards/order/region-owner", test_region_owner);
    g_test_add_func("/hazards/order/evict", test_evict_order);
    g_test_add_func("/hazards/order/evict-unmapped", test_evict_unmapped);
    g_test_add_func("/hazards/order/copy-before-punch",
                    test_copy_before_punch);
    g_test_add_func("/hazards/order/drop-after-fill", test_drop_after_fill);
    g_test_add_func("/hazards/order/fill", test_fill_order);
    g_test_add_func("/hazards/zap-around-fill", test_zap_around_fill);
    g_test_add_func("/hazards/compaction", test_compaction);
    return g_test_run();
}

/*
 * Tests of faults: what is found, what is counted, who waits for whom
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <unistd.h>

#include "harness.h"
#include "meeting.h"

static uint64_t all_faults(const MemswapStats *stats)
{
    uint64_t sum = 0;

    for (int kind = 0; kind < MEMSWAP_FAULT__MAX; kind++) {
        sum += stats->faults[kind];
    }
    return sum;
}

/* --- where a page is found --------------------------------------------- */

static void test_absent(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    MemswapStats stats;

    for (uint64_t page = 0; page < 100; page++) {
        ram_check(h, 7 * page, 0);
    }
    stats = stats_of(h);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_ABSENT], ==, 100);
    g_assert_cmpuint(all_faults(&stats), ==, 100);
    g_assert_cmpuint(stats.resident, ==, 100 * PAGE);
    g_assert_cmpuint(stats.spurious, ==, 0);

    /* the second touch is nobody's business */
    for (uint64_t page = 0; page < 100; page++) {
        ram_fill(h, 7 * page, page);
    }
    stats = stats_of(h);
    g_assert_cmpuint(all_faults(&stats), ==, 100);
    g_assert_cmpuint(stats.evictions, ==, 0);
    g_assert_cmpuint(h->traces[MEMSWAP_TRACE_FAULT], ==, 100);
    g_assert_cmpuint(h->traces[MEMSWAP_TRACE_FILL], ==, 100);
    harness_free(h);
}

static void test_first_and_last(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB - PAGE });
    uint64_t last = (4 * MIB - PAGE) / PAGE - 1;

    ram_fill(h, 0, 1);
    ram_fill(h, last, 3);
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 2 * PAGE);
    ram_check(h, last, 3);
    ram_check(h, 0, 1);
    harness_free(h);
}

static void test_stored(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    MemswapStats stats;

    for (uint64_t page = 0; page < 200; page++) {
        ram_fill(h, page, 2 * page + 1);
    }
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, 200 * PAGE), ==, 200 * PAGE);
    harness_check(h);
    g_assert_cmpuint(ram_cached(&h->ram), ==, 0);
    g_assert_cmpuint(h->store->puts, ==, 200);

    for (uint64_t page = 200; page-- > 0;) {
        ram_check(h, page, 2 * page + 1);
    }
    stats = stats_of(h);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_STORED], ==, 200);
    g_assert_cmpuint(all_faults(&stats), ==, 400);
    g_assert_cmpuint(stats.evictions, ==, 200);
    g_assert_cmpuint(stats.refaults, ==, 200);
    g_assert_cmpuint(h->store->gets, ==, 200);
    g_assert_cmpuint(h->store->drops, ==, 200);
    g_assert_cmpuint(stats.resident, ==, 200 * PAGE);
    harness_free(h);
}

/* What repeats 32 bits never comes to the store. */
static void test_same(void)
{
    static const uint32_t values[] = { 0, 2, 0x12345678, 0xfffffffe };
    Harness *h = harness_new(&(HarnessOptions) { .size = 2 * MIB });
    MemswapStats stats;

    for (unsigned int i = 0; i < G_N_ELEMENTS(values); i++) {
        ram_fill(h, i, values[i]);
    }
    /* nearly the same is not the same */
    ram_fill(h, 10, 2);
    atomic_store((_Atomic uint8_t *)h->ram.host + 11 * PAGE - 1, 1);
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, MIB), ==, 5 * PAGE);
    g_assert_cmpuint(h->store->puts, ==, 1);
    stats = stats_of(h);
    g_assert_cmpuint(stats.zero, ==, 4 * PAGE);
    g_assert_cmpuint(stats.stored, ==, PAGE);
    g_assert_cmpuint(stats.evictions, ==, 5);

    for (unsigned int i = 0; i < G_N_ELEMENTS(values); i++) {
        ram_check(h, i, values[i]);
    }
    g_assert_cmpuint(h->ram.host[11 * PAGE - 1], ==, 1);
    g_assert_cmpuint(h->ram.host[11 * PAGE - 2], ==, 0);
    stats = stats_of(h);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_SAME], ==, 4);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_STORED], ==, 1);
    g_assert_cmpuint(stats.refaults, ==, 5);
    g_assert_cmpuint(stats.zero, ==, 0);
    harness_free(h);
}

static void test_minor(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .limit = 8 * MIB });
    uint64_t page[PAGE / sizeof(uint64_t)];
    MemswapStats stats;

    h->ram = ram_new(2 * MIB, 0);
    page_build(page, 77);
    g_assert_cmpint(pwrite(h->ram.fd, page, PAGE, 3 * PAGE), ==, PAGE);
    ram_add(h, &h->ram, "ram");
    stats = stats_of(h);
    g_assert_cmpuint(stats.resident, ==, PAGE);
    g_assert_cmpuint(all_faults(&stats), ==, 0);
    ram_check(h, 3, 77);
    stats = stats_of(h);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_MINOR], ==, 1);
    g_assert_cmpuint(all_faults(&stats), ==, 1);
    harness_free(h);
}

/* What somebody wrote to the file of an untouched page is its content. */
static void test_absent_but_there(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 2 * MIB });
    uint64_t page[PAGE / sizeof(uint64_t)];
    MemswapStats stats;

    page_build(page, 99);
    g_assert_cmpint(pwrite(h->ram.fd, page, PAGE, 5 * PAGE), ==, PAGE);
    ram_check(h, 5, 99);
    stats = stats_of(h);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_ABSENT], ==, 1);
    g_assert_cmpuint(stats.resident, ==, PAGE);
    harness_free(h);
}

/* --- events more than once --------------------------------------------- */

static void test_duplicate(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 2 * MIB, .by_hand = true,
    });
    Task *a = task_start(h, task_read, 4);
    Task *b = task_start(h, task_write, 4);
    MemswapStats stats;

    harness_wait_fault(h);
    task_check_waits(a);
    task_check_waits(b);
    /* one event each, for one page: the second needs nothing */
    g_assert_cmpuint(memswap_engine_handle(h->engine), ==, 2);
    task_join(a);
    task_join(b);
    stats = stats_of(h);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_ABSENT], ==, 1);
    g_assert_cmpuint(all_faults(&stats), ==, 1);
    g_assert_cmpuint(stats.spurious, ==, 1);
    g_assert_cmpuint(stats.resident, ==, PAGE);
    ram_check(h, 4, 9);
    harness_check(h);
    harness_free(h);
}

/* The same for a stored page: fetched once. */
static void test_duplicate_stored(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 2 * MIB, .by_hand = true,
    });
    Task *task = task_start(h, task_write, 4);
    Task *tasks[8];
    MemswapStats stats;

    harness_wait_fault(h);
    harness_handle(h);
    task_join(task);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    for (unsigned int i = 0; i < G_N_ELEMENTS(tasks); i++) {
        tasks[i] = task_start(h, task_read, 4);
    }
    for (unsigned int i = 0; i < G_N_ELEMENTS(tasks); i++) {
        task_check_waits(tasks[i]);
    }
    g_assert_cmpuint(memswap_engine_handle(h->engine), ==, 8);
    for (unsigned int i = 0; i < G_N_ELEMENTS(tasks); i++) {
        g_assert_cmpint(task_join(tasks[i]), ==, 9);
    }
    stats = stats_of(h);
    g_assert_cmpuint(h->store->gets, ==, 1);
    g_assert_cmpuint(h->store->drops, ==, 1);
    g_assert_cmpuint(stats.refaults, ==, 1);
    g_assert_cmpuint(stats.spurious, ==, 7);
    harness_check(h);
    harness_free(h);
}

/* An event whose page was mapped meanwhile, and evicted again. */
static void test_stale(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 2 * MIB, .by_hand = true,
    });
    MemswapFaultKind kind;
    Task *task;

    task = task_start(h, task_write, 6);
    harness_wait_fault(h);
    /* somebody else, a pin for instance, was faster */
    g_assert_cmpint(memswap_fill(h->ram.block, 6, 0, &kind), ==,
                    MEMSWAP_DONE);
    g_assert_cmpint(kind, ==, MEMSWAP_FAULT_ABSENT);
    task_join(task);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    g_assert_cmpint(memswap_fill(h->ram.block, 6, 0, &kind), ==,
                    MEMSWAP_DONE);
    g_assert_cmpint(kind, ==, MEMSWAP_FAULT_STORED);
    /* for an event that needs nothing, nothing is done */
    g_assert_cmpint(memswap_fill(h->ram.block, 6, 0, &kind), ==,
                    MEMSWAP_DONE);
    g_assert_cmpint(kind, ==, MEMSWAP_FAULT_MINOR);
    g_assert_cmpuint(stats_of(h).spurious, ==, 1);
    ram_check(h, 6, 13);
    harness_check(h);
    harness_free(h);
}

/* --- faults that meet somebody else's transition ----------------------- */

/* After the meeting the access goes on with a fault of its own. */
static int64_t meeting_end(Meeting *meeting)
{
    inject(NULL);
    g_assert_cmpuint(meeting->met, >, 0);
    harness_wait_fault(meeting->h);
    harness_handle(meeting->h);
    return task_join(meeting->task);
}

/* Wanted before it is punched: given back, whatever was done already. */
static void evicting_wanted(InjectCall at, bool in_put, unsigned int puts)
{
    Harness *h = harness_with_page(2 * MIB, 8);
    Meeting meeting = {
        .h = h, .page = 8, .at = at, .function = task_read, .faults = true,
    };
    InjectHooks hooks = MEETING_HOOKS(&meeting);
    MemswapStats stats;
    uint64_t gone;

    if (in_put) {
        h->store->opaque = &meeting;
        h->store->before_put = meeting_in_store;
    } else {
        inject(&hooks);
    }
    /* a single step: the next would try again */
    memswap_reclaim_step(h->engine, PAGE, false, &gone);
    g_assert_cmpuint(gone, ==, 0);
    g_assert_cmpuint(meeting.met, ==, 1);
    stats = stats_of(h);
    g_assert_cmpuint(stats.given_back, ==, 1);
    g_assert_cmpuint(stats.evictions, ==, 0);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_WAITED], ==, 1);
    g_assert_cmpint(ram_state(&h->ram, 8), ==, MEMSWAP_TRIAL);
    g_assert_cmpuint(h->store->puts, ==, puts);
    g_assert_cmpuint(h->store->drops, ==, puts);

    g_assert_cmpint(meeting_end(&meeting), ==, 17);
    stats = stats_of(h);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_TRIAL], ==, 1);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_STORED], ==, 0);
    ram_check(h, 8, 17);
    harness_check(h);
    harness_free(h);
}

static void test_evicting_wanted_before_put(void)
{
    evicting_wanted(INJECT_READ, false, 0);
}

static void test_evicting_wanted_in_put(void)
{
    evicting_wanted(INJECT__MAX, true, 1);
}

/* Wanted when the punch is under way: stored, and fetched again. */
static void evicting_too_late(bool after)
{
    Harness *h = harness_with_page(2 * MIB, 8);
    Meeting meeting = {
        .h = h, .page = 8, .at = INJECT_PUNCH, .after = after,
        .function = task_read, .faults = true,
    };
    InjectHooks hooks = MEETING_HOOKS(&meeting);
    MemswapStats stats;

    inject(&hooks);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    g_assert_cmpint(ram_state(&h->ram, 8), ==, MEMSWAP_STORED);
    g_assert_cmpint(meeting_end(&meeting), ==, 17);
    stats = stats_of(h);
    g_assert_cmpuint(stats.given_back, ==, 0);
    g_assert_cmpuint(stats.evictions, ==, 1);
    g_assert_cmpuint(stats.refaults, ==, 1);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_WAITED], ==, 1);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_STORED], ==, 1);
    ram_check(h, 8, 17);
    harness_check(h);
    harness_free(h);
}

static void test_evicting_before_punch(void)
{
    evicting_too_late(false);
}

static void test_evicting_after_punch(void)
{
    evicting_too_late(true);
}

/* The page is being fetched for somebody else already. */
static void filling(InjectCall at, uint64_t page, unsigned int gets)
{
    Harness *h = harness_with_page(2 * MIB, 9);
    Meeting meeting = {
        .h = h, .page = page, .at = at, .function = task_read,
        .faults = true,
    };
    InjectHooks hooks = MEETING_HOOKS(&meeting);
    MemswapStats stats;
    Task *first;

    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    first = task_start(h, task_read, page);
    harness_wait_fault(h);
    inject(&hooks);
    harness_handle(h);
    inject(NULL);
    g_assert_cmpuint(meeting.met, ==, 1);
    g_assert_cmpint(task_join(first), ==, page == 9 ? 19 : 0);
    /* it slept on the same page, so the first one's fill woke it */
    g_assert_cmpint(task_join(meeting.task), ==, page == 9 ? 19 : 0);
    stats = stats_of(h);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_WAITED], ==, 1);
    g_assert_cmpuint(h->store->gets, ==, gets);
    harness_check(h);
    harness_free(h);
}

static void test_filling_stored(void)
{
    filling(INJECT_COPY, 9, 1);
}

static void test_filling_absent(void)
{
    filling(INJECT_ZEROPAGE, 10, 0);
}

static void test_discarding(void)
{
    Harness *h = harness_with_page(2 * MIB, 9);
    /* it is mapped, so that only after the punch somebody can fault */
    Meeting meeting = {
        .h = h, .page = 9, .at = INJECT_PUNCH, .after = true,
        .function = task_read, .faults = true,
    };
    InjectHooks hooks = MEETING_HOOKS(&meeting);

    inject(&hooks);
    g_assert_cmpint(task_discard(h, 9), ==, 0);
    g_assert_cmpint(ram_state(&h->ram, 9), ==, MEMSWAP_ABSENT);
    g_assert_cmpint(meeting_end(&meeting), ==, 0);
    g_assert_cmpuint(stats_of(h).faults[MEMSWAP_FAULT_WAITED], ==, 1);
    ram_check(h, 9, 0);
    harness_check(h);
    harness_free(h);
}

/* --- content that is lost ---------------------------------------------- */

static void test_lost(void)
{
    Harness *h = harness_with_page(2 * MIB, 11);
    MemswapStats stats;
    Task *reader, *writer, *pinner;

    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    atomic_store(&h->store->get_error, -EBADMSG);
    reader = task_start(h, task_read, 11);
    harness_wait_fault(h);
    harness_handle(h);
    task_check_waits(reader);
    g_assert_cmpint(ram_state(&h->ram, 11), ==, MEMSWAP_POISONED);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_PAGE_LOST), ==, 1);
    g_assert_cmpuint(h->event_offset, ==, 11 * PAGE);
    stats = stats_of(h);
    g_assert_cmpuint(stats.poisoned, ==, PAGE);
    g_assert_cmpuint(stats.resident, ==, 0);
    g_assert_cmpuint(stats.stored, ==, 0);
    g_assert_cmpuint(fake_store_live(h->store), ==, 0);

    /* the same for everybody who comes later; reported once */
    writer = task_start(h, task_write, 11);
    harness_wait_fault(h);
    harness_handle(h);
    task_check_waits(writer);
    pinner = task_start(h, task_pin, 11);
    g_assert_cmpint(task_join(pinner), ==, -EIO);
    g_assert_cmpuint(ram_pins(&h->ram, 11), ==, 0);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_PAGE_LOST), ==, 1);
    harness_check(h);

    /* until the guest, or the operator, gives the page up */
    g_assert_cmpint(task_discard(h, 11), ==, 0);
    harness_wait_fault(h);
    while (!task_done(reader) || !task_done(writer)) {
        harness_handle(h);
        g_usleep(100);
    }
    task_join(reader);
    task_join(writer);
    ram_check(h, 11, 23);
    g_assert_cmpuint(stats_of(h).poisoned, ==, 0);
    harness_check(h);
    harness_free(h);
}

/* The one that found the damage is let go, too, with nobody else about. */
static void test_lost_alone(void)
{
    Harness *h = harness_with_page(2 * MIB, 11);
    Task *reader;

    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    atomic_store(&h->store->get_error, -EBADMSG);
    reader = task_start(h, task_read, 11);
    harness_wait_fault(h);
    harness_handle(h);
    task_check_waits(reader);
    g_assert_cmpuint(memswap_forget_lost(h->engine), ==, PAGE);
    harness_wait_fault(h);
    harness_handle(h);
    g_assert_cmpint(task_join(reader), ==, 0);
    g_assert_cmpuint(memswap_forget_lost(h->engine), ==, 0);
    ram_check(h, 11, 0);
    harness_check(h);
    harness_free(h);
}

/* A pin of a range with a lost page leaves nothing pinned. */
static void test_lost_in_range(void)
{
    Harness *h = harness_with_page(2 * MIB, 11);

    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    atomic_store(&h->store->get_error, -EBADMSG);
    g_assert_cmpint(memswap_pin(h->engine, h->ram.host + 9 * PAGE + 5,
                                4 * PAGE), ==, -EIO);
    for (uint64_t page = 8; page < 15; page++) {
        g_assert_cmpuint(ram_pins(&h->ram, page), ==, 0);
    }
    g_assert_cmpuint(stats_of(h).pinned, ==, 0);
    harness_check(h);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/fault/absent", test_absent);
    g_test_add_func("/fault/first-and-last", test_first_and_last);
    g_test_add_func("/fault/stored", test_stored);
    g_test_add_func("/fault/same", test_same);
    g_test_add_func("/fault/minor", test_minor);
    g_test_add_func("/fault/absent-but-there", test_absent_but_there);
    g_test_add_func("/fault/duplicate", test_duplicate);
    g_test_add_func("/fault/duplicate-stored", test_duplicate_stored);
    g_test_add_func("/fault/stale", test_stale);
    g_test_add_func("/fault/evicting/wanted-before-put",
                    test_evicting_wanted_before_put);
    g_test_add_func("/fault/evicting/wanted-in-put",
                    test_evicting_wanted_in_put);
    g_test_add_func("/fault/evicting/before-punch",
                    test_evicting_before_punch);
    g_test_add_func("/fault/evicting/after-punch", test_evicting_after_punch);
    g_test_add_func("/fault/filling/stored", test_filling_stored);
    g_test_add_func("/fault/filling/absent", test_filling_absent);
    g_test_add_func("/fault/discarding", test_discarding);
    g_test_add_func("/fault/lost/access-waits", test_lost);
    g_test_add_func("/fault/lost/alone", test_lost_alone);
    g_test_add_func("/fault/lost/in-range", test_lost_in_range);
    return g_test_run();
}

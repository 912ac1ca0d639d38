/*
 * Tests of blocks on hugetlbfs with too few hugepages, and beside others
 *
 * The limit is above what the host has in free hugepages: faults and pins wait
 * for evictions that the limit would not call for.
 *
 * Skipped where no hugepages are to be had.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <unistd.h>

#include "hugepages.h"
#include "puppets.h"

/* What is free, when not told otherwise, and how large the RAM is. */
#define POOL 8
#define PAGES 24

static int hog;

static void take_all_but(unsigned int free)
{
    hog = hugepages_leave(free);
    g_assert_cmpuint(hugepages_free(), ==, free);
}

static Harness *harness_short(unsigned int free, unsigned int evictors)
{
    take_all_but(free);
    return harness_new(&(HarnessOptions) {
        .size = PAGES * HUGE_SIZE, .evictors = evictors, .hugetlb = true,
    });
}

/* Two pages are in, no hugepage is free, and nothing can be stored. */
static Harness *harness_stuck(unsigned int evictors)
{
    Harness *h = harness_short(2, evictors);

    huge_fill(h, 0, 1);
    huge_fill(h, 1, 3);
    harness_settle(h);
    atomic_store(&h->store->put_error, -ENOSPC);
    return h;
}

static void harness_short_free(Harness *h)
{
    harness_free(h);
    close(hog);
}

static uint64_t number_of(uint64_t page)
{
    return 2 * page + 1;
}

/* Exactly one page out for each that comes in. */
static void test_direct(void)
{
    Harness *h = harness_short(POOL, 0);
    MemswapStats stats;

    for (uint64_t page = 0; page < PAGES; page++) {
        huge_fill(h, page, number_of(page));
    }
    stats = stats_of(h);
    g_assert_cmpuint(stats.no_hugepages, ==, PAGES - POOL);
    g_assert_cmpuint(stats.evictions, ==, PAGES - POOL);
    g_assert_cmpuint(stats.resident, ==, POOL * HUGE_SIZE);
    g_assert_cmpuint(hugepages_free(), ==, 0);
    for (uint64_t page = 0; page < PAGES; page++) {
        huge_check(h, page, number_of(page));
    }
    stats = stats_of(h);
    g_assert_cmpuint(stats.evictions, ==, PAGES - POOL + PAGES);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_STORED], ==, PAGES);
    g_assert_cmpuint(stats.stalls, ==, 0);
    /* told once, not each time */
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_NO_HUGEPAGES), ==, 1);
    harness_short_free(h);
}

/* Nothing leaves for what is only a hint, and none is noted as missing. */
static void test_hint(void)
{
    Harness *h = harness_short(POOL, 0);
    MemswapStats before, stats;

    for (uint64_t page = 0; page < PAGES; page++) {
        huge_fill(h, page, number_of(page));
    }
    puppet_add(h, "p", "puppet");
    before = stats_of(h);
    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 0 %d", PAGES), ==, 0);
    g_assert_false(memswap_hugetlb_wanted(h->engine));
    memswap_reclaim(h->engine, 4 * HUGE_SIZE);
    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 0 %d", PAGES), ==, 4);
    g_assert_false(memswap_hugetlb_wanted(h->engine));
    stats = stats_of(h);
    g_assert_cmpuint(stats.no_hugepages, ==, before.no_hugepages);
    g_assert_cmpuint(stats.evictions, ==, before.evictions + 4);
    g_assert_cmpuint(stats.resident, ==, POOL * HUGE_SIZE);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_STORED], ==,
                     before.faults[MEMSWAP_FAULT_STORED]);
    for (uint64_t page = 0; page < PAGES; page++) {
        huge_check(h, page, number_of(page));
    }
    harness_short_free(h);
}

/* What is to stay has to fit into the host's pool as well. */
static void test_retain(void)
{
    Harness *h = harness_short(POOL, 0);
    g_autofree char *error = NULL;

    for (uint64_t page = 0; page < PAGES; page++) {
        huge_fill(h, page, number_of(page));
    }
    g_assert_cmpint(memswap_retain(h->engine, h->ram.host, &error), ==,
                    -ENOSPC);
    g_assert_nonnull(strstr(error, "free hugepages"));
    g_assert_cmpuint(atomic_load(&h->engine->n_retained), ==, 0);
    for (uint64_t page = 0; page < PAGES; page++) {
        huge_check(h, page, number_of(page));
    }
    harness_short_free(h);
}

/* Told again after a minute. */
static void test_event(void)
{
    Harness *h;

    take_all_but(POOL);
    h = harness_new(&(HarnessOptions) {
        .size = PAGES * HUGE_SIZE, .hugetlb = true, .fake_clock = true,
    });
    for (uint64_t page = 0; page < PAGES; page++) {
        huge_touch(h, page);
        harness_settle(h);
        g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_NO_HUGEPAGES), ==,
                         page < POOL ? 0 : 1 + (page - POOL) / 4);
        harness_tick(h, 15 * 1000000000LL);
    }
    harness_short_free(h);
}

/* The fault waits while evictors make room, which they else would not. */
static void test_evictors(void)
{
    Harness *h = harness_short(POOL, 2);
    MemswapStats stats;

    for (unsigned int round = 0; round < 3; round++) {
        for (uint64_t page = 0; page < PAGES; page++) {
            if (!round) {
                huge_fill(h, page, number_of(page));
            } else {
                huge_check(h, page, number_of(page));
            }
        }
    }
    harness_settle(h);
    stats = stats_of(h);
    g_assert_cmpuint(stats.stalls, >, 0);
    /* what came in, and did not fit, has left; a page may have been in still */
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_ABSENT], ==, PAGES);
    g_assert_cmpuint(stats.faults[MEMSWAP_FAULT_STORED], >=, PAGES);
    g_assert_cmpuint(stats.evictions, >=, PAGES - POOL +
                     stats.faults[MEMSWAP_FAULT_STORED]);
    g_assert_cmpuint(stats.overshoots, ==, 0);
    g_assert_cmpuint(stats.resident, <=, POOL * HUGE_SIZE);
    /* some are taken out for those who come next, and no more than that */
    wait_until(atomic_load(&h->engine->sleepers) == 2);
    g_assert_false(memswap_hugetlb_wanted(h->engine));
    if (!h->engine->inline_faults) {
        /* (others go until a thread that is woken gets to try again) */
        g_assert_cmpuint(hugepages_free(), <=, 2 + MEMSWAP_HUGEPAGES_WANTED);
    }
    harness_short_free(h);
}

/* All is pinned: until that changes, faults wait. */
static void test_all_pinned(void)
{
    Harness *h = harness_short(POOL, 1);
    Task *task, *pin;

    for (uint64_t page = 0; page < POOL; page++) {
        huge_fill(h, page, number_of(page));
    }
    harness_settle(h);
    g_assert_cmpint(memswap_pin(h->engine, huge_host(h, 0),
                                POOL * HUGE_SIZE), ==, 0);
    task = task_start(h, task_read, POOL * HUGE_PARTS);
    pin = task_start(h, task_pin, (POOL + 1) * HUGE_PARTS);
    task_check_waits(task);
    g_assert_false(task_done(pin));
    memswap_unpin(h->engine, huge_host(h, 0), POOL * HUGE_SIZE);
    g_assert_cmpint(task_join(task), ==, 0);
    g_assert_cmpint(task_join(pin), ==, 0);
    memswap_unpin(h->engine, huge_host(h, POOL + 1), PAGE);
    for (uint64_t page = 0; page < POOL; page++) {
        huge_check(h, page, number_of(page));
    }
    harness_short_free(h);
}

/* Nothing can be stored: the same.  No hugepage is to be had by force. */
static void test_store_full(void)
{
    Harness *h = harness_short(POOL, 1);
    Task *task, *pin;

    atomic_store(&h->store->put_error, -ENOSPC);
    for (uint64_t page = 0; page < POOL; page++) {
        huge_fill(h, page, number_of(page));
    }
    harness_settle(h);
    memswap_hold_nobody(h->engine, true);
    task = task_start(h, task_read, POOL * HUGE_PARTS);
    pin = task_start(h, task_pin, (POOL + 1) * HUGE_PARTS);
    task_check_waits(task);
    g_assert_false(task_done(pin));
    g_assert_cmpuint(stats_of(h).evictions, ==, 0);
    atomic_store(&h->store->put_error, 0);
    g_assert_cmpint(task_join(task), ==, 0);
    g_assert_cmpint(task_join(pin), ==, 0);
    memswap_unpin(h->engine, huge_host(h, POOL + 1), PAGE);
    memswap_hold_nobody(h->engine, false);
    for (uint64_t page = 0; page < POOL; page++) {
        huge_check(h, page, number_of(page));
    }
    harness_short_free(h);
}

/* Somebody else gives hugepages back: that is noticed. */
static void test_given_back(void)
{
    Harness *h = harness_stuck(1);
    Task *task;

    task = task_start(h, task_read, 2 * HUGE_PARTS);
    task_check_waits(task);
    g_assert_cmpuint(stats_of(h).evictions, ==, 0);
    close(hog);
    g_assert_cmpint(task_join(task), ==, 0);
    huge_check(h, 0, 1);
    huge_check(h, 1, 3);
    harness_free(h);
}

/* A discard frees what a fault waits for. */
static void test_discard(void)
{
    Harness *h = harness_stuck(1);
    Task *task;

    task = task_start(h, task_read, 2 * HUGE_PARTS);
    task_check_waits(task);
    g_assert_cmpint(memswap_discard(h->engine, huge_host(h, 0), HUGE_SIZE),
                    ==, 0);
    g_assert_cmpint(task_join(task), ==, 0);
    huge_check(h, 1, 3);
    harness_short_free(h);
}

/* A pin brings in what it needs, too. */
static void pin_all(unsigned int evictors)
{
    Harness *h = harness_short(POOL, evictors);

    for (unsigned int round = 0; round < 2; round++) {
        for (uint64_t page = 0; page < PAGES; page++) {
            g_assert_cmpint(memswap_pin(h->engine, huge_host(h, page), 1), ==,
                            0);
            if (!round) {
                huge_fill(h, page, number_of(page));
            } else {
                huge_check(h, page, number_of(page));
            }
            memswap_unpin(h->engine, huge_host(h, page), 1);
        }
    }
    /* once for several, where evictors take some more */
    g_assert_cmpuint(stats_of(h).no_hugepages, >=,
                     evictors ? 1 : 2 * PAGES - POOL);
    harness_short_free(h);
}

static void test_pins(void)
{
    pin_all(0);
    pin_all(1);
}

/* The block goes while a fault in it waits: nobody is left to evict for. */
static void test_remove(void)
{
    Harness *h = harness_stuck(1);
    Ram ram = ram_new_hugetlb(4 * HUGE_SIZE, 0);

    ram_add(h, &ram, "other");
    /* nobody touches it, but somebody did: as read-ahead might */
    memswap_hugetlb_short(ram.block, 0);
    ram_remove(h, &ram);
    ram_free(&ram);
    memswap_discard(h->engine, huge_host(h, 0), 2 * HUGE_SIZE);
    memswap_hugetlb_short(h->ram.block, 0);
    memswap_evictors_kick(h->engine);
    wait_until(!memswap_hugetlb_wanted(h->engine));
    wait_until(atomic_load(&h->engine->sleepers) == 1);
    harness_short_free(h);
}

static int64_t task_remove(Harness *h, uint64_t arg)
{
    ram_remove(h, &h->ram);
    return 0;
}

/*
 * The block goes while a pin in it waits for what is not to be had: neither
 * waits for the other.
 */
static void remove_beside_pin(unsigned int evictors)
{
    Harness *h = harness_stuck(evictors);
    Task *pin, *remove;

    pin = task_start(h, task_pin, 2 * HUGE_PARTS);
    task_check_waits(pin);
    remove = task_start(h, task_remove, 0);
    g_assert_cmpint(task_join(pin), ==, -EFAULT);
    g_assert_cmpint(task_join(remove), ==, 0);
    harness_short_free(h);
}

static void test_remove_beside_pin(void)
{
    remove_beside_pin(0);
    remove_beside_pin(1);
}

/* The same for a thread that resolves its own fault; without a fault. */
static int64_t task_stall_here(Harness *h, uint64_t page)
{
    MemswapBlock *block = memswap_block_ref(h->ram.block);
    MemswapFaultKind kind;
    MemswapOutcome outcome = memswap_stall_here(block, page, false, &kind);

    memswap_block_unref(block);
    return outcome;
}

static void test_remove_beside_fault(void)
{
    Harness *h = harness_short(2, 1);
    Task *held, *remove;

    huge_fill(h, 0, 1);
    huge_fill(h, 1, 3);
    harness_settle(h);
    atomic_store(&h->store->put_error, -ENOSPC);
    held = task_start(h, task_stall_here, 2);
    task_check_waits(held);
    remove = task_start(h, task_remove, 0);
    g_assert_cmpint(task_join(held), ==, MEMSWAP_GONE);
    g_assert_cmpint(task_join(remove), ==, 0);
    harness_short_free(h);
}

/* --- both sizes in one engine ------------------------------------------- */

/* They share the limit; what frees no hugepage is left alone. */
static void both(unsigned int evictors)
{
    Harness *h;
    Ram small = ram_new(16 * MIB, 0), huge;
    MemswapBlockStats stats;

    take_all_but(POOL);
    h = harness_new(&(HarnessOptions) {
        .limit = 80 * MIB, .evictors = evictors,
    });
    huge = ram_new_hugetlb(PAGES * HUGE_SIZE, 0);
    ram_add(h, &small, "small");
    ram_add(h, &huge, "huge");

    h->ram = small;
    write_pages(h, 0, 16 * MIB / PAGE);
    h->ram = huge;
    for (unsigned int round = 0; round < 2; round++) {
        for (uint64_t page = 0; page < PAGES; page++) {
            if (!round) {
                huge_fill(h, page, number_of(page));
            } else {
                huge_check(h, page, number_of(page));
            }
        }
    }
    harness_settle(h);
    memswap_block_get_stats(small.block, &stats);
    g_assert_cmpuint(stats.resident, ==, 16 * MIB);
    g_assert_cmpuint(stats.page_size, ==, PAGE);
    memswap_block_get_stats(huge.block, &stats);
    g_assert_cmpuint(stats.resident, <=, POOL * HUGE_SIZE);
    g_assert_cmpuint(stats.page_size, ==, HUGE_SIZE);

    /* now it is the limit that takes, from both */
    close(hog);
    harness_set_limit(h, 32 * MIB, 0);
    for (unsigned int round = 0; round < 2; round++) {
        h->ram = huge;
        for (uint64_t page = 0; page < PAGES; page++) {
            huge_check(h, page, number_of(page));
        }
        h->ram = small;
        check_pages(h, 0, 16 * MIB / PAGE);
    }
    wait_until(atomic_load(&h->engine->charged) <= 32 * MIB);
    g_assert_cmpuint(stats_of(h).overshoots, ==, 0);
    harness_check(h);
    ram_remove(h, &huge);
    ram_free(&huge);
    h->ram = small;
    harness_free(h);
}

static void test_both(void)
{
    both(0);
    both(1);
}

/* Both sizes; @free hugepages, an evictor, and nothing it has to do yet. */
static Harness *harness_both(unsigned int free, uint64_t limit, Ram *small,
                             Ram *huge)
{
    Harness *h;

    take_all_but(free);
    h = harness_new(&(HarnessOptions) {
        .limit = limit, .evictors = 1, .reserve_low = PAGE,
        .reserve_high = 2 * PAGE, .fake_clock = true,
    });
    *small = ram_new(8 * MIB, 0);
    *huge = ram_new_hugetlb(PAGES * HUGE_SIZE, 0);
    ram_add(h, small, "small");
    ram_add(h, huge, "huge");
    return h;
}

static void harness_both_free(Harness *h, Ram *small, Ram *huge)
{
    harness_check(h);
    ram_remove(h, huge);
    ram_free(huge);
    h->ram = *small;
    harness_short_free(h);
}

/* In either of them; the harness's RAM may be the other meanwhile. */
static int64_t task_write_at(Harness *h, uint64_t address)
{
    atomic_store((_Atomic uint64_t *)address, 77);
    return 0;
}

static Task *start_write(Harness *h, const Ram *ram, uint64_t page)
{
    return task_start(h, task_write_at,
                      (uintptr_t)(ram->host + page * PAGE));
}

/* The host has no memory for small pages either, until some is taken out. */
typedef struct Poor {
    Ram *small;
    _Atomic bool punched;
} Poor;

static int fail_poor(void *opaque, InjectCall call, uint64_t where,
                     size_t *size)
{
    Poor *poor = opaque;

    return (call == INJECT_COPY || call == INJECT_ZEROPAGE) &&
           where - (uintptr_t)poor->small->host < poor->small->size &&
           !poor->punched ? -ENOMEM : 0;
}

static void note_punch(void *opaque, InjectCall call, uint64_t where,
                       size_t size, int error)
{
    Poor *poor = opaque;

    if (call == INJECT_PUNCH && !error) {
        poor->punched = true;
    }
}

/* A lack of hugepages that can't be ended is none of the others' business. */
static void test_both_short(void)
{
    Ram small, huge;
    Harness *h = harness_both(2, 48 * MIB, &small, &huge);
    Poor poor = { .small = &small };
    InjectHooks hooks = {
        .before = fail_poor, .after = note_punch, .opaque = &poor,
    };
    Task *task, *other;

    h->ram = small;
    write_pages(h, 0, 256);
    h->ram = huge;
    huge_fill(h, 0, 1);
    huge_fill(h, 1, 3);
    harness_settle(h);
    g_assert_cmpint(memswap_pin(h->engine, huge_host(h, 0), 2 * HUGE_SIZE),
                    ==, 0);
    task = start_write(h, &huge, 2 * HUGE_PARTS);
    wait_until(atomic_load(&h->engine->hugetlb.n_stalled) == 1);
    task_check_waits(task);

    inject(&hooks);
    other = start_write(h, &small, 300);
    g_assert_cmpint(task_join(other), ==, 0);
    inject(NULL);
    g_assert_true(poor.punched);
    g_assert_false(task_done(task));
    h->ram = small;
    check_pages(h, 0, 256);

    h->ram = huge;
    memswap_unpin(h->engine, huge_host(h, 0), 2 * HUGE_SIZE);
    g_assert_cmpint(task_join(task), ==, 0);
    huge_check(h, 0, 1);
    huge_check(h, 1, 3);
    harness_both_free(h, &small, &huge);
}

/*
 * Small pages don't take the room of a hugepage for ever.  The clock stands
 * still, and nothing can be stored: what room there is comes from discards.
 * The page that waits was stored before: one of zeroes could leave once more
 * before it is written to.
 */
static void test_both_starved(void)
{
    const uint64_t small_pages = 4 * MIB / PAGE;
    Ram small, huge;
    Harness *h = harness_both(PAGES, 36 * MIB, &small, &huge);
    Task *task, *other;

    h->ram = huge;
    huge_fill(h, 16, number_of(16));
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, HUGE_SIZE), ==, HUGE_SIZE);
    atomic_store(&h->store->put_error, -ENOSPC);
    h->ram = small;
    write_pages(h, 0, small_pages);
    h->ram = huge;
    for (uint64_t page = 0; page < 16; page++) {
        huge_fill(h, page, number_of(page));
    }
    harness_settle(h);
    g_assert_cmpuint(atomic_load(&h->engine->charged), ==, 36 * MIB);
    task = start_write(h, &huge, 16 * HUGE_PARTS);
    wait_until(atomic_load(&h->engine->n_stalled) == 1);

    /* until it has waited for long, they do */
    h->ram = small;
    g_assert_cmpint(task_discard(h, 0), ==, 0);
    g_assert_cmpint(task_write(h, small_pages), >, 0);
    g_assert_false(task_done(task));
    harness_tick(h, 60000000);
    g_assert_cmpint(task_discard(h, 1), ==, 0);
    wait_until(atomic_load(&h->engine->n_starved) == 1);
    other = start_write(h, &small, small_pages + 1);
    wait_until(atomic_load(&h->engine->n_stalled) == 2);
    task_check_waits(other);
    g_assert_cmpint(memswap_discard(h->engine, small.host + 2 * PAGE,
                                    510 * PAGE), ==, 0);
    task_check_waits(other);
    g_assert_false(task_done(task));
    g_assert_cmpint(task_discard(h, 512), ==, 0);
    task_join(task);
    /* now it is the other's turn again */
    wait_until(!atomic_load(&h->engine->n_starved));
    g_assert_false(task_done(other));
    g_assert_cmpint(task_discard(h, 513), ==, 0);
    task_join(other);
    g_assert_cmpuint(stats_of(h).overshoots, ==, 0);

    atomic_store(&h->store->put_error, 0);
    check_pages(h, 514, small_pages + 1 - 514);
    h->ram = huge;
    for (uint64_t page = 0; page < 16; page++) {
        huge_check(h, page, number_of(page));
    }
    wait_until(atomic_load(&h->engine->charged) <= 36 * MIB - PAGE);
    harness_both_free(h, &small, &huge);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!hugepages_get(PAGES + 2)) {
        g_test_add_func("/hugetlb-empty", hugepages_skip);
        return g_test_run();
    }
    g_test_add_func("/hugetlb-empty/direct", test_direct);
    g_test_add_func("/hugetlb-empty/hint", test_hint);
    g_test_add_func("/hugetlb-empty/retain", test_retain);
    g_test_add_func("/hugetlb-empty/event", test_event);
    g_test_add_func("/hugetlb-empty/evictors", test_evictors);
    g_test_add_func("/hugetlb-empty/all-pinned", test_all_pinned);
    g_test_add_func("/hugetlb-empty/store-full", test_store_full);
    g_test_add_func("/hugetlb-empty/given-back", test_given_back);
    g_test_add_func("/hugetlb-empty/discard", test_discard);
    g_test_add_func("/hugetlb-empty/pins", test_pins);
    g_test_add_func("/hugetlb-empty/remove", test_remove);
    g_test_add_func("/hugetlb-empty/remove-beside-pin",
                    test_remove_beside_pin);
    g_test_add_func("/hugetlb-empty/remove-beside-fault",
                    test_remove_beside_fault);
    g_test_add_func("/hugetlb-empty/both-sizes", test_both);
    g_test_add_func("/hugetlb-empty/both-sizes/short", test_both_short);
    g_test_add_func("/hugetlb-empty/both-sizes/starved", test_both_starved);
    return g_test_run();
}

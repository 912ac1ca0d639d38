/*
 * Tests of what is known to lose data, one for each rule that prevents it
 *
 * Above each test stands the rule; with the rule taken out of the engine, the
 * test fails.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "harness.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static MemswapStats stats_of(Harness *h)
{
    MemswapStats stats;

    harness_stats(h, &stats);
    return stats;
}

static void write_pages(Harness *h, uint64_t first, uint64_t n)
{
    for (uint64_t page = first; page < first + n; page++) {
        ram_fill(h, page, 2 * page + 1);
    }
    harness_settle(h);
}

static void check_pages(Harness *h, uint64_t first, uint64_t n)
{
    for (uint64_t page = first; page < first + n; page++) {
        ram_check(h, page, 2 * page + 1);
    }
    harness_settle(h);
}

static int64_t join_by_hand(Harness *h, Task *task)
{
    wait_until((harness_handle(h), task_done(task)));
    return task_join(task);
}

static Harness *harness_with_page(uint64_t page)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 2 * MIB, .by_hand = true,
    });

    join_by_hand(h, task_start(h, task_write, page));
    return h;
}

/* A number of kB from the mapping's entry in smaps; -1 if there is none. */
static int smaps(const Ram *ram, const char *name)
{
    g_autofree char *start = g_strdup_printf("%" PRIxPTR "-",
                                             (uintptr_t)ram->host);
    g_autofree char *all = NULL;
    const char *at;
    int kb = -1;

    g_assert_true(g_file_get_contents("/proc/self/smaps", &all, NULL, NULL));
    at = strstr(all, start);
    at = at ? strstr(at, name) : NULL;
    if (at) {
        sscanf(at + strlen(name), "%d", &kb);
    }
    return kb;
}

/*
 * RAM of two regions, all written to, the first of which is a huge page in
 * the page cache; managed from then on.  NULL where the kernel can't.
 */
static Harness *harness_huge(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .limit = 8 * MIB });

    h->ram = ram_new(4 * MIB, 0);
    write_pages(h, 0, 1024);
    if (madvise(h->ram.host, MEMSWAP_REGION_SIZE, MADV_COLLAPSE) ||
        smaps(&h->ram, "ShmemPmdMapped:") != 2048) {
        g_test_skip("this kernel makes no huge pages of shared memory");
        harness_free(h);
        return NULL;
    }
    return h;
}

/* A pipe that holds a reference to a page. */
typedef struct Reference {
    int pipe[2];
} Reference;

static void reference(Reference *ref, Harness *h, uint64_t page)
{
    struct iovec part = {
        .iov_base = h->ram.host + page * PAGE, .iov_len = PAGE,
    };

    g_assert_cmpint(pipe2(ref->pipe, O_CLOEXEC), ==, 0);
    g_assert_cmpint(vmsplice(ref->pipe[1], &part, 1, 0), ==, PAGE);
}

static void unreference(Reference *ref)
{
    close(ref->pipe[0]);
    close(ref->pipe[1]);
}

/* --- large folios ------------------------------------------------------ */

/*
 * Rule: after a punch, look at what is left; a part of a huge page that is
 * zeroed but not gone gets its content back and counts as resident.
 */
static void test_huge_evict(void)
{
    Harness *h = harness_huge();
    Reference ref;
    uint64_t got;

    if (!h) {
        return;
    }
    reference(&ref, h, 100);
    ram_add(h, &h->ram, "ram");
    got = memswap_reclaim(h->engine, 4 * MIB);
    harness_check(h);
    g_assert_cmpuint(got, ==, 4 * MIB - ram_cached(&h->ram));
    g_assert_cmpuint(got, ==, 2 * MIB);
    g_assert_cmpuint(stats_of(h).given_back, >=, 512);
    check_pages(h, 0, 1024);

    unreference(&ref);
    g_assert_cmpuint(memswap_reclaim(h->engine, 4 * MIB), ==, 4 * MIB);
    g_assert_cmpuint(ram_cached(&h->ram), ==, 0);
    check_pages(h, 0, 1024);
    harness_free(h);
}

/*
 * Rule: the same for a discard: what is left is zero, and still resident.
 */
static void test_huge_discard(void)
{
    Harness *h = harness_huge();
    Reference ref;

    if (!h) {
        return;
    }
    reference(&ref, h, 100);
    ram_add(h, &h->ram, "ram");
    g_assert_cmpint(memswap_discard(h->engine, h->ram.host + 50 * PAGE,
                                    100 * PAGE), ==, 0);
    harness_check(h);
    for (uint64_t page = 50; page < 150; page++) {
        ram_check(h, page, 0);
    }
    check_pages(h, 0, 50);
    check_pages(h, 150, 1024 - 150);
    unreference(&ref);
    memswap_reclaim(h->engine, 4 * MIB);
    harness_check(h);
    for (uint64_t page = 50; page < 150; page++) {
        ram_check(h, page, 0);
    }
    harness_free(h);
}

/* The reference is there for moments only, as by somebody who preads. */
typedef struct Neighbour {
    Harness *h;
    _Atomic bool stop;
} Neighbour;

static gpointer neighbour(gpointer opaque)
{
    Neighbour *n = opaque;
    char page[PAGE];

    while (!atomic_load(&n->stop)) {
        if (pread(n->h->ram.fd, page, PAGE, 300 * PAGE) != PAGE) {
            break;
        }
    }
    return NULL;
}

static void test_huge_neighbour(void)
{
    for (unsigned int round = 0; round < 4; round++) {
        Harness *h = harness_huge();
        Neighbour n = { .h = h };
        GThread *thread;

        if (!h) {
            return;
        }
        ram_add(h, &h->ram, "ram");
        thread = g_thread_new("neighbour", neighbour, &n);
        for (unsigned int i = 0; i < 4; i++) {
            memswap_reclaim(h->engine, 700 * PAGE);
            check_pages(h, 0, 1024);
        }
        atomic_store(&n.stop, true);
        g_thread_join(thread);
        harness_free(h);
    }
}

/*
 * Rule: managed memory can't be collapsed, which would map 512 pages whatever
 * their words say.
 */
static void test_no_collapse(void)
{
    Harness *h = harness_huge();
    Ram *ram;

    if (!h) {
        return;
    }
    ram = &h->ram;
    ram_add(h, ram, "ram");
    g_assert_cmpuint(memswap_reclaim(h->engine, 4 * MIB), ==, 4 * MIB);
    check_pages(h, 0, 1024);
    g_assert_cmpint(madvise(ram->host + 2 * MIB, 2 * MIB, MADV_COLLAPSE), ==,
                    -1);
    g_assert_cmpint(errno, ==, EINVAL);
    g_assert_cmpint(smaps(ram, "ShmemPmdMapped:"), ==, 0);
    harness_free(h);
}

/* --- a page that is there already -------------------------------------- */

typedef void Stranger(Harness *h, uint64_t page);

static void stranger_pwrite(Harness *h, uint64_t page)
{
    uint64_t data[PAGE / sizeof(uint64_t)];

    page_build(data, 4711);
    g_assert_cmpint(pwrite(h->ram.fd, data, PAGE, page * PAGE), ==, PAGE);
}

/* Only reading makes a page of zeroes. */
static void stranger_map(Harness *h, uint64_t page)
{
    _Atomic uint64_t *other = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
                                   MAP_SHARED, h->ram.fd, page * PAGE);

    g_assert_true(other != MAP_FAILED);
    g_assert_cmpuint(atomic_load(other), ==, 0);
    munmap((void *)other, PAGE);
}

/*
 * Rule: EEXIST from a COPY says nothing of the content: write it, then map.
 */
static void exists(Stranger *stranger, uint64_t number)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 2 * MIB });

    ram_fill(h, 7, number);
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    stranger(h, 7);
    ram_check(h, 7, number);
    harness_check(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    stranger(h, 7);
    g_assert_cmpint(task_pin(h, 7), ==, 0);
    ram_check(h, 7, number);
    memswap_unpin(h->engine, h->ram.host + 7 * PAGE, PAGE);
    harness_free(h);
}

static void test_exists_stored(void)
{
    exists(stranger_pwrite, 15);
    exists(stranger_map, 15);
}

static void test_exists_same(void)
{
    exists(stranger_pwrite, 16);
    exists(stranger_map, 16);
}

/* Rule: from ABSENT what is there is right. */
static void test_exists_absent(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 2 * MIB });

    stranger_pwrite(h, 3);
    ram_check(h, 3, 4711);
    stranger_map(h, 4);
    ram_check(h, 4, 0);
    harness_check(h);
    harness_free(h);
}

/* --- words and deeds --------------------------------------------------- */

/* Something done once, when the engine comes to a call. */
typedef struct Once {
    Harness *h;
    InjectCall at;
    bool after;
    void (*act)(struct Once *once);
    bool done;
    Task *task;
    uint64_t number;
} Once;

static int once_before(void *opaque, InjectCall call, uint64_t where,
                       size_t *size)
{
    Once *once = opaque;

    if (call == once->at && !once->after && !once->done) {
        once->done = true;
        once->act(once);
    }
    return 0;
}

static void once_after(void *opaque, InjectCall call, uint64_t where,
                       size_t size, int error)
{
    Once *once = opaque;

    if (call == once->at && once->after && !once->done) {
        once->done = true;
        once->act(once);
    }
}

#define ONCE_HOOKS(once) \
    { .before = once_before, .after = once_after, .opaque = once }

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
    Harness *h = harness_with_page(5);
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
    Harness *h = harness_with_page(5);
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
    Harness *h = harness_with_page(5);
    Once once = { .h = h, .at = INJECT_ZAP, .act = write_while_mapped };
    InjectHooks hooks = ONCE_HOOKS(&once);

    inject(&hooks);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    inject(NULL);
    g_assert_true(once.done);
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
    Harness *h = harness_with_page(5);
    Once once = { .h = h, .at = INJECT_READ, .act = not_mapped };
    InjectHooks hooks = ONCE_HOOKS(&once);

    inject(&hooks);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    inject(NULL);
    g_assert_true(once.done);
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
    Harness *h = harness_with_page(5);
    Once once = { .h = h, .at = INJECT_PUNCH, .act = stored_already };
    InjectHooks hooks = ONCE_HOOKS(&once);

    inject(&hooks);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    inject(NULL);
    g_assert_true(once.done);
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
    Harness *h = harness_with_page(5);
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
    Harness *h = harness_with_page(5);
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
    g_test_add_func("/hazards/huge/evict", test_huge_evict);
    g_test_add_func("/hazards/huge/discard", test_huge_discard);
    g_test_add_func("/hazards/huge/neighbour", test_huge_neighbour);
    g_test_add_func("/hazards/huge/no-collapse", test_no_collapse);
    g_test_add_func("/hazards/exists/stored", test_exists_stored);
    g_test_add_func("/hazards/exists/same", test_exists_same);
    g_test_add_func("/hazards/exists/absent", test_exists_absent);
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

/*
 * Tests of retained blocks: nothing leaves while a process of its own maps them
 *
 * That process is a second mapping of the same file here, and a real one under
 * stress.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "huge-ram.h"
#include "meeting.h"
#include "tally.h"

/* How somebody else sees the RAM. */
static uint8_t *map_other(Harness *h)
{
    uint8_t *other = mmap(NULL, h->ram.size, PROT_READ | PROT_WRITE,
                          MAP_SHARED, h->ram.fd, h->ram.fd_offset);

    g_assert_true(other != MAP_FAILED);
    return other;
}

static void unmap_other(Harness *h, uint8_t *other)
{
    munmap(other, h->ram.size);
}

static void check_other(const uint8_t *other, uint64_t page, uint64_t number)
{
    uint8_t want[PAGE];

    page_build(want, number);
    g_assert_cmpint(memcmp(other + page * PAGE, want, PAGE), ==, 0);
}

static void retain(Harness *h)
{
    char *error = NULL;

    g_assert_cmpint(memswap_retain(h->engine, h->ram.host + 5 * PAGE, &error),
                    ==, 0);
    g_assert_null(error);
}

static void release(Harness *h)
{
    memswap_release(h->engine, h->ram.host);
}

static int64_t task_retain(Harness *h, uint64_t arg)
{
    return memswap_retain(h->engine, h->ram.host, NULL);
}

/* --- what stays -------------------------------------------------------- */

/* All kinds of pages come back, none leaves, and then all can. */
static void test_all(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    uint8_t *other = map_other(h);

    write_pages(h, 0, 100);
    ram_fill(h, 100, 8);
    ram_fill(h, 101, 0);
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, MIB), ==, 102 * PAGE);
    write_pages(h, 600, 50);
    g_assert_cmpuint(stats_of(h).retained, ==, 0);

    retain(h);
    g_assert_cmpuint(stats_of(h).retained, ==, 152 * PAGE);
    g_assert_cmpuint(stats_of(h).resident, ==, 152 * PAGE);
    g_assert_cmpuint(fake_store_live(h->store), ==, 0);
    for (uint64_t page = 0; page < 100; page++) {
        check_other(other, page, 2 * page + 1);
    }
    check_other(other, 100, 8);
    check_other(other, 101, 0);

    g_assert_cmpuint(memswap_reclaim(h->engine, MIB), ==, 0);
    g_assert_cmpint(memswap_reclaim_ranges(
        h->engine, &(MemswapRange) { .block = "ram", .size = 8 * MIB }, 1,
        false, NULL, NULL, NULL), ==, 0);
    g_assert_cmpuint(stats_of(h).trial, ==, 0);
    harness_check(h);

    /* they nest */
    retain(h);
    release(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, MIB), ==, 0);
    release(h);
    g_assert_cmpuint(stats_of(h).retained, ==, 0);
    g_assert_cmpuint(memswap_reclaim(h->engine, MIB), ==, 152 * PAGE);
    /* one too many is none */
    release(h);
    g_assert_cmpuint(atomic_load(&h->ram.block->retained), ==, 0);
    check_pages(h, 0, 100);
    check_pages(h, 600, 50);
    unmap_other(h, other);
    harness_free(h);
}

/* Pages on trial may stay so: a touch by the guest is seen as ever. */
static void test_on_trial(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    uint8_t *other = map_other(h);

    write_pages(h, 0, 20);
    memswap_trial_range(h->ram.block, 0, 20);
    g_assert_cmpint(ram_state(&h->ram, 7), ==, MEMSWAP_TRIAL);
    retain(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, MIB), ==, 0);
    page_build(other + 7 * PAGE, 99);
    ram_check(h, 7, 99);
    harness_settle(h);
    g_assert_cmpint(ram_state(&h->ram, 7), ==, MEMSWAP_RESIDENT);
    /* a trial that was begun before is not gone on with */
    g_assert_cmpuint(memswap_reclaim(h->engine, MIB), ==, 0);
    release(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, MIB), ==, 20 * PAGE);
    ram_check(h, 7, 99);
    unmap_other(h, other);
    harness_free(h);
}

/* The limit counts for others all the same, and keeps nobody waiting. */
static void test_limit(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 4 * MIB, .limit = 4 * MIB,
    });
    Ram second = ram_new(4 * MIB, 0);
    Ram first = h->ram;
    g_autofree char *error = NULL;
    MemswapSettings settings = h->settings;

    write_pages(h, 0, 700);
    retain(h);
    ram_add(h, &second, "second");
    h->ram = second;
    write_pages(h, 0, 1024);
    /* the first one's pages stay, so the second's had to leave */
    g_assert_cmpuint(stats_of(h).retained, ==, 700 * PAGE);
    g_assert_cmpuint(stats_of(h).resident, <=, 4 * MIB);
    g_assert_cmpuint(stats_of(h).stored, >=, 700 * PAGE);

    g_assert_cmpint(memswap_retain(h->engine, second.host, &error), ==,
                    -ENOSPC);
    g_assert_cmpstr(error, ==, "limit must be at least the 7 MiB of memory"
                    " that would stay");
    g_assert_cmpuint(atomic_load(&second.block->retained), ==, 0);
    g_clear_pointer(&error, g_free);
    settings.limit = 700 * PAGE - 1;
    g_assert_cmpint(memswap_set_settings(h->engine, &settings, &error), ==,
                    -EINVAL);
    g_assert_cmpstr(error, ==, "limit must be at least the 2800 KiB that stay"
                    " for device processes");
    settings.limit = 700 * PAGE;
    g_assert_cmpint(memswap_set_settings(h->engine, &settings, NULL), ==, 0);

    /* with nothing left to take out, it is passed, and counted */
    h->ram = first;
    write_pages(h, 700, 324);
    g_assert_cmpuint(stats_of(h).overshoots, >=, 300);
    check_pages(h, 0, 1024);
    release(h);
    memswap_reclaim_direct(h->engine, 0);
    g_assert_cmpuint(stats_of(h).resident, <=, 700 * PAGE);
    check_pages(h, 0, 1024);
    h->ram = second;
    check_pages(h, 0, 1024);
    harness_check(h);
    ram_remove(h, &second);
    ram_free(&second);
    h->ram = first;
    harness_free(h);
}

static void test_refused(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    g_autofree char *error = NULL;
    MemswapFaultKind kind;
    static char elsewhere;

    g_assert_cmpint(memswap_retain(h->engine, &elsewhere, NULL), ==, -ENOENT);
    memswap_release(h->engine, &elsewhere);

    write_pages(h, 0, 10);
    memswap_reclaim(h->engine, MIB);
    atomic_store(&h->store->get_error, -EBADMSG);
    g_assert_cmpint(memswap_fill(h->ram.block, 3, 0, &kind), ==,
                    MEMSWAP_LOST);
    atomic_store(&h->store->get_error, 0);
    g_assert_cmpint(memswap_retain(h->engine, h->ram.host, &error), ==,
                    -EIO);
    g_assert_cmpstr(error, ==, "a page of block 'ram' is lost");
    g_assert_cmpuint(atomic_load(&h->ram.block->retained), ==, 0);
    g_assert_cmpuint(atomic_load(&h->engine->n_retained), ==, 0);
    memswap_forget_lost(h->engine);
    retain(h);

    /* a block that goes takes its claim along */
    ram_remove(h, &h->ram);
    g_assert_cmpuint(atomic_load(&h->engine->n_retained), ==, 0);
    memswap_release(h->engine, h->ram.host);
    harness_free(h);
}

/* --- a block that goes ------------------------------------------------- */

static unsigned int times_tried;

/* As if the block were removed, with no memory to bring a page in. */
static int go(void *opaque, InjectCall call, uint64_t where, size_t *size)
{
    Harness *h = opaque;

    if (call != INJECT_COPY) {
        return 0;
    }
    atomic_store(&h->ram.block->dead, true);
    /* who never stops lets nobody remove it */
    g_assert_cmpuint(++times_tried, <, 1000);
    return -ENOMEM;
}

/* A page that can't be brought in is not tried for ever. */
static void test_going(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    InjectHooks hooks = { .before = go, .opaque = h };

    write_pages(h, 0, 3);
    harness_settle(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, MIB), ==, 3 * PAGE);
    inject(&hooks);
    g_assert_cmpint(memswap_retain(h->engine, h->ram.host, NULL), ==,
                    -EFAULT);
    inject(NULL);
    atomic_store(&h->ram.block->dead, false);
    g_assert_cmpuint(stats_of(h).retained, ==, 0);
    check_pages(h, 0, 3);
    harness_check(h);
    harness_free(h);
}

/* --- what others make -------------------------------------------------- */

/*
 * Rule: a page that somebody else made is content like any other: found by a
 * fault, counted, and taken out, once the block is released.
 */
static void test_made_by_other(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    uint8_t *other = map_other(h);
    uint8_t peeked[PAGE];
    uint64_t known;

    retain(h);
    for (uint64_t page = 30; page < 50; page++) {
        page_build(other + page * PAGE, 2 * page + 1);
    }
    page_build(other + 1500 * PAGE, 3001);
    g_assert_cmpint(memswap_peek(h->engine, h->ram.host + 31 * PAGE, peeked,
                                 PAGE), ==, 0);
    g_assert_cmpint(memcmp(peeked, other + 31 * PAGE, PAGE), ==, 0);
    known = stats_of(h).resident;
    g_assert_cmpuint(known, ==, 0);
    check_pages(h, 30, 10);
    g_assert_cmpuint(stats_of(h).resident, ==, 10 * PAGE);
    release(h);
    g_assert_cmpuint(stats_of(h).resident, ==, 21 * PAGE);
    harness_check(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, MIB), ==, 21 * PAGE);
    g_assert_cmpuint(ram_cached(&h->ram), ==, 0);
    check_pages(h, 30, 20);
    check_pages(h, 1500, 1);
    unmap_other(h, other);
    harness_free(h);
}

/* Rule: a discard takes what somebody else made, too. */
static void test_discard(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    uint8_t *other = map_other(h);

    write_pages(h, 0, 20);
    retain(h);
    for (uint64_t page = 20; page < 40; page++) {
        page_build(other + page * PAGE, 2 * page + 1);
    }
    g_assert_cmpint(memswap_discard(h->engine, h->ram.host + 10 * PAGE,
                                    20 * PAGE), ==, 0);
    for (uint64_t page = 10; page < 30; page++) {
        check_other(other, page, 0);
    }
    /* reading made pages again; discarded, they are gone */
    g_assert_cmpint(memswap_discard(h->engine, h->ram.host + 10 * PAGE,
                                    20 * PAGE), ==, 0);
    g_assert_cmpuint(ram_cached(&h->ram), ==, 20 * PAGE);
    g_assert_cmpuint(stats_of(h).resident, ==, 10 * PAGE);
    release(h);
    g_assert_cmpuint(stats_of(h).resident, ==, 20 * PAGE);
    check_pages(h, 0, 10);
    check_pages(h, 30, 10);
    ram_check(h, 15, 0);
    ram_check(h, 25, 0);
    unmap_other(h, other);
    harness_free(h);
}

/*
 * Rule: a region with a large folio is not copied out and back for a discard:
 * what others write to it meanwhile would be lost.
 */
static void act_write(Once *once)
{
    uint8_t *other = GSIZE_TO_POINTER(once->number);

    page_build(other + 300 * PAGE, 4711);
}

static void test_discard_huge(void)
{
    Harness *h = huge_collapsed(4 * MIB);
    Once once = { .h = h, .act = act_write, .at = INJECT_WRITE };
    InjectHooks hooks = ONCE_HOOKS(&once);
    uint8_t *other;

    if (!h) {
        return;
    }
    other = map_other(h);
    once.number = GPOINTER_TO_SIZE(other);
    retain(h);
    inject(&hooks);
    g_assert_cmpint(huge_discard_some(h), ==, 0);
    inject(NULL);
    /* in place: with a punch there would have been no write */
    g_assert_true(once.done);
    check_other(other, 300, 4711);
    ram_check(h, 300, 4711);
    ram_fill(h, 300, 601);
    huge_check_discarded(h);
    g_assert_cmpuint(ram_cached(&h->ram), ==, 4 * MIB);

    /* no new huge region meanwhile */
    release(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, 4 * MIB), ==, 4 * MIB);
    retain(h);
    g_assert_cmpuint(stats_of(h).huge, ==, 0);
    huge_pass(h);
    g_assert_cmpuint(stats_of(h).huge, ==, 0);
    release(h);
    huge_pass(h);
    g_assert_cmpuint(stats_of(h).huge, ==, 4 * MIB);
    huge_check_discarded(h);
    unmap_other(h, other);
    harness_free(h);
}

/* --- against evictions ------------------------------------------------- */

/*
 * Rule: who retains a block waits for whoever owns a region, who may not know
 * of it yet.
 */
static void test_waits_for_owner(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    MemswapRegion *region = &h->ram.block->regions[1];
    Task *task;

    write_pages(h, REGION_PAGES, 3);
    memswap_region_own(region);
    task = task_start(h, task_retain, 0);
    task_check_waits(task);
    memswap_region_disown(region);
    g_assert_cmpint(task_join(task), ==, 0);
    release(h);
    harness_free(h);
}

/*
 * Rule: who owns a region looks whether the block is retained before it takes
 * pages out.
 */
static void test_owner_looks(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    MemswapRegion *region = &h->ram.block->regions[0];
    uint64_t next = 0;

    write_pages(h, 0, 10);
    retain(h);
    memswap_region_own(region);
    memswap_trial_region(h->ram.block, 0);
    g_assert_cmpint(ram_state(&h->ram, 4), ==, MEMSWAP_TRIAL);
    g_assert_cmpuint(memswap_evict_region(h->ram.block, 0, &next, MIB), ==,
                     0);
    g_assert_cmpuint(next, ==, REGION_PAGES);
    memswap_region_disown(region);
    release(h);
    check_pages(h, 0, 10);
    harness_free(h);
}

/* In the middle of an eviction: the page is back when it is retained. */
static void against_eviction(InjectCall at, bool in_store)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    Meeting meeting = { .h = h, .page = 20, .function = task_retain,
                        .at = at };
    InjectHooks hooks = MEETING_HOOKS(&meeting);
    uint8_t *other = map_other(h);

    write_pages(h, 20, 2);
    if (in_store) {
        h->store->opaque = &meeting;
        h->store->before_put = meeting_in_store;
    } else {
        inject(&hooks);
    }
    memswap_reclaim(h->engine, 2 * PAGE);
    g_assert_nonnull(meeting.task);
    g_assert_cmpint(task_join(meeting.task), ==, 0);
    inject(NULL);
    check_other(other, 20, 41);
    check_other(other, 21, 43);
    g_assert_cmpuint(stats_of(h).resident, ==, 2 * PAGE);
    check_pages(h, 20, 2);
    release(h);
    unmap_other(h, other);
    harness_free(h);
}

static void test_evicting(void)
{
    against_eviction(INJECT__MAX, true);
}

static void test_evicting_read(void)
{
    against_eviction(INJECT_READ, false);
}

static void test_evicting_punch(void)
{
    against_eviction(INJECT_PUNCH, false);
}

/* Somebody else brings a page back just now. */
static void test_page_in_hand(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    Meeting meeting = { .h = h, .page = 20, .function = task_retain };
    MemswapFaultKind kind;

    write_pages(h, 20, 1);
    memswap_reclaim(h->engine, PAGE);
    h->store->opaque = &meeting;
    h->store->before_get = meeting_in_store;
    g_assert_cmpint(memswap_fill(h->ram.block, 20, 0, &kind), ==,
                    MEMSWAP_DONE);
    g_assert_cmpint(task_join(meeting.task), ==, 0);
    g_assert_cmpint(ram_state(&h->ram, 20), ==, MEMSWAP_RESIDENT);
    release(h);
    check_pages(h, 20, 1);
    harness_free(h);
}

/* --- stress ------------------------------------------------------------ */

#define STRESS_SIZE (8 * MIB)
#define STRESS_PAGES (STRESS_SIZE / PAGE)
#define ROUNDS FEWER(40)
#define PASSES 4
/* The device's counter in each page; the guest's is TALLY_AT. */
#define DEVICE_AT 2048

/*
 * A device process.  For each byte that it is sent it adds to the counter of
 * every page, PASSES times, and answers.
 */
static void device_process(int fd, uint64_t size, int in, int out)
{
    uint8_t *ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                        0);
    char byte;

    while (ram != MAP_FAILED && read(in, &byte, 1) == 1) {
        for (unsigned int pass = 0; pass < PASSES; pass++) {
            for (uint64_t page = 0; page < size / PAGE; page++) {
                /* an odd number of pages apart, for another order */
                uint64_t at = (page * 37 + pass) % (size / PAGE) * PAGE;

                atomic_fetch_add((_Atomic uint64_t *)(ram + at + DEVICE_AT),
                                 1);
            }
        }
        if (write(out, &byte, 1) != 1) {
            break;
        }
    }
    _exit(0);
}

static void check_counts(Harness *h, uint64_t rounds)
{
    for (uint64_t page = 0; page < STRESS_PAGES; page++) {
        const uint8_t *at = h->ram.host + page * PAGE;

        g_assert_cmpuint(*(const uint64_t *)(at + DEVICE_AT), ==,
                         rounds * PASSES);
    }
}

static void test_stress(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = STRESS_SIZE, .limit = STRESS_SIZE, .evictors = 1,
        .reserve_low = 16 * PAGE, .reserve_high = 32 * PAGE,
    });
    int to[2], from[2];
    Tally *tally;
    pid_t pid;

    g_assert_cmpint(pipe(to), ==, 0);
    g_assert_cmpint(pipe(from), ==, 0);
    pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (!pid) {
        close(to[1]);
        close(from[0]);
        device_process(h->ram.fd, h->ram.size, to[0], from[1]);
    }
    close(to[0]);
    close(from[1]);

    tally = tally_start(h);
    for (unsigned int round = 0; round < ROUNDS; round++) {
        char byte = 0;

        harness_set_limit(h, STRESS_SIZE, 0);
        retain(h);
        g_assert_cmpint(write(to[1], &byte, 1), ==, 1);
        g_assert_cmpint(read(from[0], &byte, 1), ==, 1);
        release(h);
        harness_set_limit(h, STRESS_SIZE / 3, 0);
        /* so that much of it is out the next time */
        wait_until(atomic_load(&h->engine->charged) <= STRESS_SIZE / 3);
    }
    tally_end(tally);
    check_counts(h, ROUNDS);
    close(to[1]);
    close(from[0]);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/retain/all", test_all);
    g_test_add_func("/retain/on-trial", test_on_trial);
    g_test_add_func("/retain/limit", test_limit);
    g_test_add_func("/retain/refused", test_refused);
    g_test_add_func("/retain/going", test_going);
    g_test_add_func("/retain/made-by-other", test_made_by_other);
    g_test_add_func("/retain/discard", test_discard);
    g_test_add_func("/retain/discard-huge", test_discard_huge);
    g_test_add_func("/retain/waits-for-owner", test_waits_for_owner);
    g_test_add_func("/retain/owner-looks", test_owner_looks);
    g_test_add_func("/retain/evicting", test_evicting);
    g_test_add_func("/retain/evicting-read", test_evicting_read);
    g_test_add_func("/retain/evicting-punch", test_evicting_punch);
    g_test_add_func("/retain/page-in-hand", test_page_in_hand);
    g_test_add_func("/retain/stress", test_stress);
    return g_test_run();
}

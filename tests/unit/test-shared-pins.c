/*
 * Tests of pins that a device process takes in shared memory
 *
 * The process is a real one, with a mapping of its own.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "device.h"
#include "huge-ram.h"
#include "meeting.h"
#include "memswap/client.h"
#include "uffd.h"

static void pin(Device *device, uint64_t page, uint64_t n)
{
    g_assert_cmpint(device_do(device, DEVICE_PIN, page, n), ==, 0);
}

static void unpin(Device *device, uint64_t page, uint64_t n)
{
    device_do(device, DEVICE_UNPIN, page, n);
}

static uint64_t reclaim(Harness *h)
{
    /* no page that was touched before is to be in the handler's hands */
    harness_settle(h);
    return memswap_reclaim(h->engine, h->ram.size);
}

/* --- what a pin does --------------------------------------------------- */

/* It brings pages in, and they stay as long as it lasts. */
static void test_pin(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    Device *device = device_new(h);
    unsigned int faults;

    write_pages(h, 0, 40);
    g_assert_cmpuint(reclaim(h), ==, 40 * PAGE);
    pin(device, 10, 5);
    for (uint64_t page = 10; page < 15; page++) {
        g_assert_cmphex(device_word(device, page), ==, MEMSWAP_CLIENT_IN | 1);
        g_assert_cmpint(device_do(device, DEVICE_READ, page, 0), ==,
                        2 * page + 1);
    }
    g_assert_cmphex(device_word(device, 9), ==, 0);
    g_assert_cmpuint(stats_of(h).pinned, ==, 0);
    g_assert_cmpuint(memswap_client_pinned(device_client(device)), ==,
                     5 * PAGE);
    g_assert_cmpuint(reclaim(h), ==, 0);
    /* what it writes is there */
    device_do(device, DEVICE_WRITE, 12, 77);
    ram_check(h, 12, 77);

    /* they nest, and overlap */
    faults = atomic_load(&h->store->gets);
    pin(device, 12, 1);
    g_assert_cmphex(device_word(device, 12), ==, MEMSWAP_CLIENT_IN | 2);
    g_assert_cmpuint(atomic_load(&h->store->gets), ==, faults);
    unpin(device, 10, 5);
    g_assert_cmpuint(reclaim(h), ==, 4 * PAGE);
    g_assert_cmphex(device_word(device, 12), ==, MEMSWAP_CLIENT_IN | 1);
    g_assert_cmphex(device_word(device, 11), ==, 0);
    unpin(device, 12, 1);
    /* unpinned, it is in until it has left */
    g_assert_cmphex(device_word(device, 12), ==, MEMSWAP_CLIENT_IN);
    g_assert_cmpuint(reclaim(h), ==, PAGE);
    g_assert_cmphex(device_word(device, 12), ==, 0);
    ram_check(h, 12, 77);
    ram_check(h, 13, 27);

    /* what was never touched, and what is in already */
    pin(device, 100, 2);
    g_assert_cmpint(device_do(device, DEVICE_READ, 100, 0), ==, 0);
    write_pages(h, 200, 1);
    pin(device, 200, 1);
    g_assert_cmpint(device_do(device, DEVICE_READ, 200, 0), ==, 401);
    unpin(device, 100, 2);
    unpin(device, 200, 1);
    harness_check(h);
    device_kill(device);
    harness_free(h);
}

/* More than one request's, with some that are in among them. */
static void test_long_range(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    Device *device = device_new(h);

    write_pages(h, 0, 1500);
    g_assert_cmpuint(reclaim(h), ==, 1500 * PAGE);
    pin(device, 700, 1);
    pin(device, 0, 1500);
    g_assert_cmpuint(memswap_client_pinned(device_client(device)), ==,
                     1500 * PAGE);
    g_assert_cmphex(device_word(device, 700), ==, MEMSWAP_CLIENT_IN | 2);
    g_assert_cmphex(device_word(device, 1499), ==, MEMSWAP_CLIENT_IN | 1);
    unpin(device, 0, 1500);
    g_assert_cmpuint(reclaim(h), ==, 1499 * PAGE);
    unpin(device, 700, 1);
    device_kill(device);
    check_pages(h, 0, 1500);
    harness_free(h);
}

/* Pages beside one that is asked for are told of, if they are in. */
static void test_beside(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    Device *device = device_new(h);
    MemswapSettings settings;
    MemswapStats before;

    write_pages(h, 60, 200);
    g_assert_cmpuint(reclaim(h), ==, 200 * PAGE);
    for (uint64_t page = 64; page < 192; page++) {
        if (page != 70) {
            ram_touch(h, page);
        }
    }
    harness_settle(h);
    before = stats_of(h);
    pin(device, 100, 2);
    for (uint64_t page = 60; page < 260; page++) {
        uint32_t expected = page >= 64 && page < 128 && page != 70 ?
                            MEMSWAP_CLIENT_IN : 0;

        g_assert_cmphex(device_word(device, page), ==,
                        expected + (page == 100 || page == 101));
    }
    /* that cost nothing, brought nothing in, and pins nothing */
    g_assert_cmpuint(stats_of(h).resident, ==, before.resident);
    g_assert_cmpuint(stats_of(h).pinned, ==, 0);
    g_assert_cmpuint(memswap_client_pinned(device_client(device)), ==,
                     2 * PAGE);
    /* what it is told of it need not ask for, and that holds */
    pin(device, 110, 1);
    g_assert_cmphex(device_word(device, 110), ==, MEMSWAP_CLIENT_IN | 1);
    g_assert_cmpuint(reclaim(h), ==, 124 * PAGE);
    g_assert_cmphex(device_word(device, 109), ==, 0);
    g_assert_cmpint(device_do(device, DEVICE_READ, 110, 0), ==, 221);
    unpin(device, 110, 1);
    unpin(device, 100, 2);
    harness_check(h);
    device_kill(device);

    /* with half of what may be pinned in use it has to ask for each */
    device = device_new(h);
    memswap_get_settings(h->engine, &settings);
    settings.pin_limit = 64 * PAGE;
    g_assert_cmpint(memswap_set_settings(h->engine, &settings, NULL), ==, 0);
    check_pages(h, 60, 200);
    pin(device, 100, 1);
    g_assert_cmphex(device_word(device, 70), ==, MEMSWAP_CLIENT_IN);
    /* though it did not ask for these */
    pin(device, 64, 33);
    pin(device, 200, 1);
    g_assert_cmphex(device_word(device, 201), ==, 0);
    unpin(device, 64, 33);
    /* that is found out after a while */
    for (uint64_t page = 202; device_word(device, 201) == 0; page++) {
        g_assert_cmpuint(page, <, 250);
        g_usleep(20000);
        pin(device, page, 1);
        unpin(device, page, 1);
    }
    unpin(device, 100, 1);
    unpin(device, 200, 1);
    device_kill(device);
    harness_free(h);
}

/* Two processes: a page stays while either has it. */
static void test_two(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    Device *one = device_new(h);
    Device *two = device_new(h);

    write_pages(h, 0, 3);
    pin(one, 0, 2);
    pin(two, 1, 2);
    g_assert_cmpuint(reclaim(h), ==, 0);
    unpin(one, 0, 2);
    g_assert_cmpuint(reclaim(h), ==, PAGE);
    unpin(two, 1, 2);
    g_assert_cmpuint(reclaim(h), ==, 2 * PAGE);
    pin(one, 1, 1);
    g_assert_cmpint(device_do(one, DEVICE_READ, 1, 0), ==, 3);
    g_assert_cmphex(device_word(two, 1), ==, 0);
    device_kill(two);
    device_kill(one);
    check_pages(h, 0, 3);
    harness_free(h);
}

/* A process that dies leaves no pin behind. */
static void test_killed(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    Device *device = device_new(h);

    write_pages(h, 0, 20);
    pin(device, 0, 20);
    g_assert_cmpuint(reclaim(h), ==, 0);
    device_kill(device);
    g_assert_cmpuint(atomic_load(&h->ram.block->n_tables), ==, 0);
    g_assert_cmpuint(reclaim(h), ==, 20 * PAGE);
    check_pages(h, 0, 20);
    harness_free(h);
}

/* A page that is lost is refused, and all that was to be pinned with it. */
static void test_lost(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    Device *device = device_new(h);
    MemswapFaultKind kind;

    write_pages(h, 0, 10);
    g_assert_cmpuint(reclaim(h), ==, 10 * PAGE);
    atomic_store(&h->store->get_error, -EBADMSG);
    g_assert_cmpint(memswap_fill(h->ram.block, 3, 0, &kind), ==,
                    MEMSWAP_LOST);
    atomic_store(&h->store->get_error, 0);
    pin(device, 0, 2);
    g_assert_cmpint(device_do(device, DEVICE_PIN, 0, 10), ==, -EIO);
    g_assert_cmphex(device_word(device, 0), ==, MEMSWAP_CLIENT_IN | 1);
    g_assert_cmpuint(memswap_client_pinned(device_client(device)), ==,
                     2 * PAGE);
    g_assert_cmpuint(stats_of(h).pinned, ==, 0);
    unpin(device, 0, 2);
    memswap_forget_lost(h->engine);
    pin(device, 0, 10);
    unpin(device, 0, 10);
    device_kill(device);
    harness_free(h);
}

static int no_continue(void *opaque, InjectCall call, uint64_t where,
                       size_t *size)
{
    return call == INJECT_CONTINUE ? -EHWPOISON : 0;
}

/* Where this process has a table's words mapped; there is only one table. */
static void *table_words(void)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    unsigned long start = 0;
    char line[512];

    while (!start && fgets(line, sizeof(line), maps)) {
        if (strstr(line, "memswap-pins")) {
            g_assert_cmpint(sscanf(line, "%lx", &start), ==, 1);
        }
    }
    fclose(maps);
    g_assert_cmpuint(start, !=, 0);
    return (void *)start;
}

static int64_t task_fill(Harness *h, uint64_t page)
{
    MemswapFaultKind kind;

    return memswap_fill(h->ram.block, page, 0, &kind);
}

static int64_t task_free_client(Harness *h, uint64_t client)
{
    memswap_client_free(GSIZE_TO_POINTER(client));
    return 0;
}

/*
 * A fault that looks into a table for a page that the host lost owns no region:
 * the table stays as long as that lasts.  It is stopped there by a userfaultfd
 * of the test's, since the table's page is a hole.
 */
static void test_host_lost_at_end(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    MemswapClient *client = memswap_client_new(h->engine);
    InjectHooks hooks = { .before = no_continue };
    MemswapShared shared;
    Task *fill, *end;
    void *words;
    bool hugetlb;
    int uffd;

    g_assert_cmpint(memswap_client_share(client, h->ram.host, &shared), ==,
                    0);
    words = table_words();
    write_pages(h, 0, 10);
    memswap_trial_range(h->ram.block, 0, 10);
    uffd = memswap_uffd_open(-1, true, false, &hugetlb);
    g_assert_cmpint(uffd, >=, 0);
    g_assert_cmpint(memswap_uffd_register(uffd, words, PAGE), ==, 0);
    inject(&hooks);
    fill = task_start(h, task_fill, 5);
    task_check_waits(fill);
    inject(NULL);

    end = task_start(h, task_free_client, GPOINTER_TO_SIZE(client));
    task_check_waits(end);
    g_assert_cmpint(memswap_uffd_zero(uffd, words, PAGE, NULL), ==, 0);
    g_assert_cmpint(task_join(fill), ==, MEMSWAP_LOST);
    g_assert_cmpint(task_join(end), ==, 0);
    close(uffd);
    memswap_forget_lost(h->engine);
    ram_check(h, 5, 0);
    ram_check(h, 3, 7);
    harness_free(h);
}

/* A page that the host lost while it was in: the process has to ask. */
static void test_host_lost(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    Device *device = device_new(h);
    InjectHooks hooks = { .before = no_continue };
    MemswapFaultKind kind;

    write_pages(h, 0, 10);
    pin(device, 3, 1);
    g_assert_cmphex(device_word(device, 5), ==, MEMSWAP_CLIENT_IN);
    memswap_trial_range(h->ram.block, 0, 10);
    inject(&hooks);
    g_assert_cmpint(memswap_fill(h->ram.block, 5, 0, &kind), ==,
                    MEMSWAP_LOST);
    g_assert_cmphex(device_word(device, 5), ==, 0);
    g_assert_cmpint(device_do(device, DEVICE_PIN, 5, 1), ==, -EIO);
    /* one that it uses is not given up */
    memswap_fill(h->ram.block, 3, 0, &kind);
    inject(NULL);
    g_assert_cmpint(ram_state(&h->ram, 3), !=, MEMSWAP_POISONED);
    g_assert_cmphex(device_word(device, 3), ==, MEMSWAP_CLIENT_IN | 1);
    unpin(device, 3, 1);
    memswap_forget_lost(h->engine);
    ram_check(h, 5, 0);
    ram_check(h, 3, 7);
    harness_check(h);
    device_kill(device);
    harness_free(h);
}

/* --- against evictions: where exactly ---------------------------------- */

/*
 * Rule: IN is gone before a page is read.  A process that comes then asks, and
 * gets the page with what was in it.
 */
static void act_pin(Once *once)
{
    Device *device = GSIZE_TO_POINTER(once->number);

    device_order(device, DEVICE_PIN, 20, 1);
    device_wait_asks(device);
}

static void pin_at(InjectCall at)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    Device *device = device_new(h);
    Once once = { .h = h, .at = at, .act = act_pin };
    InjectHooks hooks = ONCE_HOOKS(&once);

    write_pages(h, 20, 1);
    pin(device, 20, 1);
    unpin(device, 20, 1);
    once.number = GPOINTER_TO_SIZE(device);
    inject(&hooks);
    reclaim(h);
    g_assert_cmpint(device_result(device), ==, 0);
    inject(NULL);
    g_assert_true(once.done);
    g_assert_cmpint(device_do(device, DEVICE_READ, 20, 0), ==, 41);
    device_do(device, DEVICE_WRITE, 20, 99);
    g_assert_cmpuint(reclaim(h), ==, 0);
    unpin(device, 20, 1);
    g_assert_cmpuint(reclaim(h), ==, PAGE);
    ram_check(h, 20, 99);
    device_kill(device);
    harness_free(h);
}

static void test_pin_at_read(void)
{
    pin_at(INJECT_READ);
}

static void test_pin_at_punch(void)
{
    pin_at(INJECT_PUNCH);
}

/* Rule: a page with IN and a count is not taken out. */
static void act_pin_now(Once *once)
{
    pin(GSIZE_TO_POINTER(once->number), 20, 1);
}

static void act_write(Once *once)
{
    device_do(GSIZE_TO_POINTER(once->number), DEVICE_WRITE, 20, 99);
}

static void test_pin_at_zap(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    Device *device = device_new(h);
    Once once = { .h = h, .at = INJECT_ZAP, .act = act_pin_now };
    InjectHooks hooks = ONCE_HOOKS(&once);

    write_pages(h, 20, 2);
    pin(device, 20, 2);
    unpin(device, 20, 2);
    once.number = GPOINTER_TO_SIZE(device);
    inject(&hooks);
    /* the other goes, and the process goes on writing */
    g_assert_cmpuint(reclaim(h), ==, PAGE);
    g_assert_true(once.done);
    inject(NULL);
    harness_settle(h);
    once = (Once) { .h = h, .at = INJECT_PUNCH, .act = act_write,
                    .number = once.number };
    inject(&hooks);
    write_pages(h, 30, 1);
    g_assert_cmpuint(reclaim(h), ==, PAGE);
    inject(NULL);
    g_assert_true(once.done);
    ram_check(h, 20, 99);
    unpin(device, 20, 1);
    g_assert_cmpuint(reclaim(h), ==, PAGE);
    ram_check(h, 20, 99);
    ram_check(h, 21, 43);
    device_kill(device);
    harness_free(h);
}

/* --- against discards, and huge pages ---------------------------------- */

/* Rule: a discard leaves a page that a process uses, zeroed. */
static void test_discard(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    Device *device = device_new(h);

    write_pages(h, 10, 10);
    pin(device, 12, 2);
    g_assert_cmpint(memswap_discard(h->engine, h->ram.host + 10 * PAGE,
                                    10 * PAGE), ==, 0);
    g_assert_cmpuint(stats_of(h).resident, ==, 2 * PAGE);
    g_assert_cmphex(device_word(device, 12), ==, MEMSWAP_CLIENT_IN | 1);
    g_assert_cmpint(device_do(device, DEVICE_READ, 12, 0), ==, 0);
    device_do(device, DEVICE_WRITE, 12, 99);
    ram_check(h, 12, 99);
    ram_check(h, 13, 0);
    ram_check(h, 14, 0);
    unpin(device, 12, 2);
    g_assert_cmpint(memswap_discard(h->engine, h->ram.host + 10 * PAGE,
                                    10 * PAGE), ==, 0);
    g_assert_cmphex(device_word(device, 12), ==, 0);
    g_assert_cmpuint(stats_of(h).resident, ==, 0);
    device_kill(device);
    harness_free(h);
}

/* The same in the middle of a fill: it is told to forget the page. */
static void act_discard(Once *once)
{
    once->task = task_start(once->h, task_discard, 20);
    task_wait_asleep(once->task);
}

static void test_discard_in_fill(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });
    Device *device = device_new(h);
    Once once = { .h = h, .at = INJECT_CONTINUE, .act = act_discard };
    InjectHooks hooks = ONCE_HOOKS(&once);
    MemswapFaultKind kind;

    write_pages(h, 20, 1);
    pin(device, 20, 1);
    memswap_trial_range(h->ram.block, 20, 21);
    inject(&hooks);
    g_assert_cmpint(memswap_fill(h->ram.block, 20, 0, &kind), ==,
                    MEMSWAP_DONE);
    inject(NULL);
    g_assert_true(once.done);
    g_assert_cmpint(task_join(once.task), ==, 0);
    device_do(device, DEVICE_WRITE, 20, 99);
    ram_check(h, 20, 99);
    g_assert_cmpuint(ram_cached(&h->ram), ==, PAGE);
    unpin(device, 20, 1);
    device_kill(device);
    harness_free(h);
}

/* Rule: a large folio with a page in use doesn't leave, and none is made. */
static void test_huge(void)
{
    Harness *h = huge_collapsed(4 * MIB);
    Device *device;

    if (!h) {
        return;
    }
    device = device_new(h);
    pin(device, 700, 1);
    g_assert_cmpuint(reclaim(h), ==, 2 * MIB);
    g_assert_cmpint(memswap_discard(h->engine, h->ram.host + 600 * PAGE,
                                    200 * PAGE), ==, 0);
    g_assert_cmphex(device_word(device, 700), ==, MEMSWAP_CLIENT_IN | 1);
    device_do(device, DEVICE_WRITE, 700, 99);
    ram_check(h, 700, 99);
    ram_check(h, 701, 0);
    unpin(device, 700, 1);
    g_assert_cmpuint(reclaim(h), ==, 2 * MIB);
    g_assert_cmphex(device_word(device, 700), ==, 0);
    ram_check(h, 700, 99);
    check_pages(h, 0, 600);
    check_pages(h, 800, 224);
    huge_pass(h);
    g_assert_cmpuint(stats_of(h).huge, ==, 0);
    device_kill(device);
    huge_pass(h);
    g_assert_cmpuint(stats_of(h).huge, >, 0);
    harness_free(h);
}

/*
 * Rule: IN is gone before a page is read, in a region that leaves whole as
 * well: a process that comes then asks, and what it writes is not lost.
 */
static void test_huge_pin_at_read(void)
{
    Harness *h = huge_collapsed(4 * MIB);
    Once once = { .h = h, .at = INJECT_READ, .act = act_pin };
    InjectHooks hooks = ONCE_HOOKS(&once);
    Device *device;

    if (!h) {
        return;
    }
    device = device_new(h);
    pin(device, 20, 1);
    unpin(device, 20, 1);
    g_assert_cmphex(device_word(device, 20), ==, MEMSWAP_CLIENT_IN);
    once.number = GPOINTER_TO_SIZE(device);
    inject(&hooks);
    reclaim(h);
    g_assert_cmpint(device_result(device), ==, 0);
    inject(NULL);
    g_assert_true(once.done);
    device_do(device, DEVICE_WRITE, 20, 99);
    unpin(device, 20, 1);
    reclaim(h);
    ram_check(h, 20, 99);
    check_pages(h, 0, 20);
    check_pages(h, 21, 1003);
    device_kill(device);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/shared-pins/pin", test_pin);
    g_test_add_func("/shared-pins/long-range", test_long_range);
    g_test_add_func("/shared-pins/beside", test_beside);
    g_test_add_func("/shared-pins/two", test_two);
    g_test_add_func("/shared-pins/killed", test_killed);
    g_test_add_func("/shared-pins/lost", test_lost);
    g_test_add_func("/shared-pins/host-lost", test_host_lost);
    g_test_add_func("/shared-pins/host-lost/at-end", test_host_lost_at_end);
    g_test_add_func("/shared-pins/pin-at-read", test_pin_at_read);
    g_test_add_func("/shared-pins/pin-at-punch", test_pin_at_punch);
    g_test_add_func("/shared-pins/pin-at-zap", test_pin_at_zap);
    g_test_add_func("/shared-pins/discard", test_discard);
    g_test_add_func("/shared-pins/discard-in-fill", test_discard_in_fill);
    g_test_add_func("/shared-pins/huge", test_huge);
    g_test_add_func("/shared-pins/huge-pin-at-read",
                    test_huge_pin_at_read);
    return g_test_run();
}

/*
 * Tests of exposed blocks: how they become so, huge pages, and refusals
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "harness.h"
#include "huge-ram.h"
#include "other.h"
#include "puppets.h"

static void test_huge(void)
{
    Harness *h = huge_collapsed(8 * MIB);
    Other *other;

    if (!h) {
        return;
    }
    /* region 1 can't be made small */
    g_assert_cmpint(task_pin(h, 600), ==, 0);
    other = other_expose(h);
    g_assert_cmpuint(stats_of(h).huge, ==, 2 * MIB);
    g_assert_cmpint(huge_mapped(h), ==, 2048);
    g_assert_cmpuint(stats_of(h).splits, ==, 3);
    harness_check(h);
    /* nor are others made huge again, nor is it evicted */
    huge_pass(h);
    g_assert_cmpuint(stats_of(h).huge, ==, 2 * MIB);
    memswap_region_own(&h->ram.block->regions[0]);
    g_assert_cmpint(memswap_huge_collapse(h->ram.block, 0), ==, -EBUSY);
    memswap_region_disown(&h->ram.block->regions[0]);
    g_assert_cmpuint(huge_try(h, 1, false), ==, 0);
    memswap_unpin(h->engine, h->ram.host + 600 * PAGE, PAGE);
    g_assert_cmpuint(huge_try(h, 1, false), ==, 0);
    g_assert_cmpuint(memswap_reclaim(h->engine, 8 * MIB), ==, 6 * MIB);
    g_assert_cmpuint(stats_of(h).resident, ==, 2 * MIB);
    harness_check(h);
    /* a discard in it zeroes in place, for everybody */
    other_check(other, 700, 1401);
    g_assert_cmpint(task_discard(h, 700), ==, 0);
    other_check(other, 700, 0);
    other_fill(other, 700, 1401);
    for (uint64_t page = 0; page < 2048; page += 2) {
        other_check(other, page, 2 * page + 1);
    }
    check_pages(h, 0, 2048);
    huge_pass(h);
    g_assert_cmpuint(stats_of(h).huge, ==, 2 * MIB);

    /* all is as before, once nobody has it any more */
    other_conceal(other);
    huge_pass(h);
    g_assert_cmpuint(stats_of(h).huge, ==, 8 * MIB);
    g_assert_cmpuint(memswap_reclaim(h->engine, 8 * MIB), ==, 8 * MIB);
    check_pages(h, 0, 2048);
    harness_free(h);
}

/* With all of the limit in regions that stay, nobody waits for room. */
static void test_huge_stuck(void)
{
    Harness *h = huge_collapsed(4 * MIB);
    Other *other;

    if (!h) {
        return;
    }
    g_assert_cmpint(task_pin(h, 0), ==, 0);
    g_assert_cmpint(task_pin(h, 600), ==, 0);
    other = other_expose(h);
    memswap_unpin(h->engine, h->ram.host, PAGE);
    memswap_unpin(h->engine, h->ram.host + 600 * PAGE, PAGE);
    memswap_huge_count_stuck(h->engine);
    g_assert_cmpuint(h->engine->huge_stuck, ==, 4 * MIB);
    g_assert_true(memswap_limit_is_soft(h->engine));
    other_conceal(other);
    memswap_huge_count_stuck(h->engine);
    g_assert_cmpuint(h->engine->huge_stuck, ==, 0);
    harness_free(h);
}

/* How often this thread has gone to sleep by itself. */
static long naps(void)
{
    struct rusage usage;

    g_assert_cmpint(getrusage(RUSAGE_THREAD, &usage), ==, 0);
    return usage.ru_nvcsw;
}

/*
 * Regions of a block that is retained can't be made small: nobody waits for
 * that, and they stay when it is no longer.
 */
static void test_huge_retained(void)
{
    Harness *h = huge_collapsed(8 * MIB);
    char *error = NULL;
    long before;

    if (!h) {
        return;
    }
    g_assert_cmpint(memswap_retain(h->engine, h->ram.host, &error), ==, 0);
    before = naps();
    g_assert_cmpint(memswap_block_expose(h->ram.block, &error), ==, 0);
    /* fifty for each region, were they waited for */
    g_assert_cmpint(naps() - before, <, 50);
    g_assert_cmpuint(stats_of(h).huge, ==, 8 * MIB);
    memswap_release(h->engine, h->ram.host);
    g_assert_cmpuint(memswap_reclaim(h->engine, 8 * MIB), ==, 0);
    memswap_huge_count_stuck(h->engine);
    g_assert_cmpuint(h->engine->huge_stuck, ==, 8 * MIB);

    memswap_block_conceal(h->ram.block);
    g_assert_cmpuint(memswap_reclaim(h->engine, 8 * MIB), ==, 8 * MIB);
    check_pages(h, 0, 2048);
    harness_free(h);
}

/*
 * Rule 3: a large folio that nobody knew of costs pages, which is told; it is
 * never zeroes that somebody reads.
 */
static void test_huge_unknown(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .limit = 8 * MIB });
    unsigned int lost = 0;

    h->ram = ram_new(4 * MIB, 0);
    write_pages(h, 0, 1024);
    if (madvise(h->ram.host, MEMSWAP_REGION_SIZE, MADV_COLLAPSE)) {
        g_test_skip("this kernel makes no huge pages of shared memory");
        harness_free(h);
        return;
    }
    ram_add(h, &h->ram, "ram");
    g_assert_cmpint(memswap_block_expose(h->ram.block, NULL), ==, 0);
    /* two runs, of which the first tells */
    memswap_reclaim_pages(h->ram.block, 100, 164, false);
    for (uint64_t page = 0; page < 512; page++) {
        if (ram_state(&h->ram, page) == MEMSWAP_POISONED) {
            g_assert_cmpuint(page, >=, 100);
            g_assert_cmpuint(page, <, 132);
            lost++;
        } else {
            ram_check(h, page, 2 * page + 1);
        }
    }
    g_assert_cmpuint(lost, ==, 32);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_PAGE_LOST), ==, 32);
    g_assert_cmpuint(stats_of(h).poisoned, ==, 32 * PAGE);
    /* it is known now, and nothing more is lost */
    g_assert_cmpuint(memswap_reclaim(h->engine, 4 * MIB), ==, 2 * MIB);
    g_assert_cmpuint(stats_of(h).poisoned, ==, 32 * PAGE);
    check_pages(h, 512, 512);
    /* what is lost can be given up, though nothing is punched there */
    g_assert_cmpuint(memswap_forget_lost(h->engine), ==, 32 * PAGE);
    g_assert_cmpuint(stats_of(h).poisoned, ==, 0);
    for (uint64_t page = 100; page < 132; page++) {
        ram_check(h, page, 0);
    }
    harness_check(h);
    memswap_block_conceal(h->ram.block);
    ram_remove(h, &h->ram);
    harness_free(h);
}

/* --- refusals ---------------------------------------------------------- */

static void test_refuse_no_descriptors(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 2 * MIB });
    struct rlimit old, none;
    char *error = NULL;

    write_pages(h, 0, 1);
    g_assert_cmpint(getrlimit(RLIMIT_NOFILE, &old), ==, 0);
    none = old;
    none.rlim_cur = 3;
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &none), ==, 0);
    g_assert_cmpint(memswap_block_expose(h->ram.block, &error), ==, -EMFILE);
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &old), ==, 0);
    g_assert_cmpstr(error, ==, "block 'ram' can't be exposed: Too many open"
                    " files");
    g_free(error);
    g_assert_cmpuint(stats_of(h).exposed, ==, 0);
    /* as if it had not been asked for */
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    g_assert_cmpint(memswap_block_expose(h->ram.block, NULL), ==, 0);
    memswap_block_conceal(h->ram.block);
    harness_free(h);
}

/* Who asked twice has to say twice that it is over. */
static void test_nests(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 2 * MIB });
    Calls calls = { .fail = INJECT__MAX };
    uint8_t *host = h->ram.host;

    g_assert_cmpint(memswap_expose(h->engine, host, NULL), ==, 0);
    g_assert_cmpint(memswap_expose(h->engine, host + MIB, NULL), ==, 0);
    g_assert_cmpint(memswap_expose(h->engine, host + 2 * MIB, NULL), ==,
                    -ENOENT);
    memswap_conceal(h->engine, host + 2 * MIB);
    memswap_conceal(h->engine, host);
    write_pages(h, 0, 1);
    calls_count(&calls);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    g_assert_cmpuint(calls.n[INJECT_SPLICE], ==, 1);
    check_pages(h, 0, 1);
    memswap_conceal(h->engine, host);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    g_assert_cmpuint(calls.n[INJECT_SPLICE], ==, 1);
    inject(NULL);
    /* one too many is ignored */
    memswap_conceal(h->engine, host);
    g_assert_cmpuint(stats_of(h).exposed, ==, 0);
    harness_free(h);
}

/*
 * An eviction that began before the block was exposed may lose what others
 * write.  So expose() returns only when it is over.
 */
static int64_t expose(Harness *h, uint64_t arg)
{
    return memswap_block_expose(h->ram.block, NULL);
}

typedef struct Begun {
    Harness *h;
    Task *task;
} Begun;

static int begun_before(void *opaque, InjectCall call, uint64_t where,
                        size_t *size)
{
    Begun *begun = opaque;

    if (call == INJECT_PUNCH && !begun->task) {
        begun->task = task_start(begun->h, expose, 0);
        task_check_waits(begun->task);
    }
    return 0;
}

static void test_expose_waits(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 2 * MIB });
    Begun begun = { .h = h };
    InjectHooks hooks = { .before = begun_before, .opaque = &begun };

    write_pages(h, 0, 2);
    /* for what the first one opens */
    g_assert_cmpint(expose(h, 0), ==, 0);
    memswap_block_conceal(h->ram.block);
    inject(&hooks);
    memswap_reclaim_pages(h->ram.block, 0, 2, false);
    g_assert_nonnull(begun.task);
    g_assert_cmpint(task_join(begun.task), ==, 0);
    inject(NULL);
    check_pages(h, 0, 2);
    memswap_block_conceal(h->ram.block);
    harness_free(h);
}

/* --- prefetch ----------------------------------------------------------- */

/* 64 pages that are out, and somebody who may bring them in. */
static Harness *harness_evicted(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });

    write_pages(h, 0, 64);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 64 * PAGE);
    puppet_add(h, "p", "puppet");
    return h;
}

static int refuse_write(void *opaque, InjectCall call, uint64_t where,
                        size_t *size)
{
    g_assert_cmpint(call, !=, INJECT_WRITE);
    return 0;
}

/*
 * Rule: where other processes have the memory mapped, a page appears with its
 * content.  So none is written to the file, to be watched.
 */
static void test_prefetch(void)
{
    Harness *h = harness_evicted();
    InjectHooks hooks = { .before = refuse_write };

    g_assert_cmpint(memswap_block_expose(h->ram.block, NULL), ==, 0);
    inject(&hooks);
    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 0 64"), ==, 64);
    inject(NULL);
    g_assert_cmpuint(stats_of(h).resident, ==, 64 * PAGE);
    g_assert_cmpuint(stats_of(h).trial, ==, 0);
    check_pages(h, 0, 64);
    memswap_block_conceal(h->ram.block);
    harness_check(h);
    harness_free(h);
}

static int64_t task_expose(Harness *h, uint64_t unused)
{
    return memswap_block_expose(h->ram.block, NULL);
}

typedef struct Meanwhile {
    Harness *h;
    _Atomic bool begun;         /* who exposes it writes as well, to probe */
    _Atomic(Task *) task;
} Meanwhile;

static int expose_meanwhile(void *opaque, InjectCall call, uint64_t where,
                            size_t *size)
{
    Meanwhile *meanwhile = opaque;

    if (call == INJECT_WRITE && !atomic_exchange(&meanwhile->begun, true)) {
        Task *task = task_start(meanwhile->h, task_expose, 0);

        wait_until(memswap_block_exposed(meanwhile->h->ram.block));
        task_check_waits(task);
        atomic_store(&meanwhile->task, task);
    }
    return 0;
}

/* Who exposes the block just then waits until that page is there. */
static void test_prefetch_meanwhile(void)
{
    Harness *h = harness_evicted();
    Meanwhile meanwhile = { .h = h };
    InjectHooks hooks = { .before = expose_meanwhile, .opaque = &meanwhile };

    inject(&hooks);
    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 0 64"), >=, 1);
    g_assert_cmpint(task_join(atomic_load(&meanwhile.task)), ==, 0);
    inject(NULL);
    /* none after it */
    g_assert_cmpuint(stats_of(h).trial, ==, PAGE);
    check_pages(h, 0, 64);
    memswap_block_conceal(h->ram.block);
    harness_check(h);
    harness_free(h);
}

int main(int argc, char **argv)
{
    other_main(argc, argv);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/expose/huge/all", test_huge);
    g_test_add_func("/expose/huge/stuck", test_huge_stuck);
    g_test_add_func("/expose/huge/retained", test_huge_retained);
    g_test_add_func("/expose/huge/unknown", test_huge_unknown);
    g_test_add_func("/expose/no-descriptors", test_refuse_no_descriptors);
    g_test_add_func("/expose/nests", test_nests);
    g_test_add_func("/expose/waits", test_expose_waits);
    g_test_add_func("/expose/prefetch", test_prefetch);
    g_test_add_func("/expose/prefetch/meanwhile", test_prefetch_meanwhile);
    return g_test_run();
}

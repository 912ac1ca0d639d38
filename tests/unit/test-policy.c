/*
 * Tests of policies: what they are told, and what they may ask
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "policy-internal.h"
#include "puppets.h"

/* How long one that hangs may take here. */
#define SHORT_NS 1000000000LL

static Harness *harness_small(void)
{
    return harness_new(&(HarnessOptions) { .size = 8 * MIB });
}

/* What hangs from now on is to be found out soon. */
static void lose_patience(Harness *h)
{
    atomic_store(&h->engine->policies.patience, SHORT_NS);
}

/* --- what it is told --------------------------------------------------- */

static void test_events(void)
{
    Harness *h = harness_small();
    Ram other = ram_new(2 * MIB, 0);

    puppet_add(h, "p", "puppet");
    write_pages(h, 0, 10);
    g_assert_cmpuint(puppet_counter(h, "p", "fault"), ==, 10);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 10 * PAGE);
    g_assert_cmpuint(puppet_counter(h, "p", "trial"), ==, 1);
    g_assert_cmpint(puppet_ask(h, "p", "touched", "0"), ==, -1);
    g_assert_cmpuint(puppet_counter(h, "p", "evicted"), ==, 10);
    check_pages(h, 0, 4);
    g_assert_cmpuint(puppet_counter(h, "p", "fault"), ==, 14);
    g_assert_cmpuint(puppet_counter(h, "p", "filled"), ==, 4);
    harness_set_limit(h, 4 * MIB, 0);
    harness_set_limit(h, 4 * MIB, 0);
    g_assert_cmpuint(puppet_counter(h, "p", "limit"), ==, 1);
    memswap_guest_reset(h->engine);
    g_assert_cmpuint(puppet_counter(h, "p", "reset"), ==, 1);
    ram_add(h, &other, "other");
    g_assert_cmpuint(puppet_counter(h, "p", "added"), ==, 1);
    g_assert_cmpint(puppet_ask(h, "p", "block-pages", "1"), ==, 512);
    ram_remove(h, &other);
    g_assert_cmpuint(puppet_counter(h, "p", "removed"), ==, 1);
    g_assert_cmpint(puppet_ask(h, "p", "block-pages", "1"), ==, -ENOENT);
    puppet_ask(h, "p", "wake", "1");
    wait_until(puppet_counter(h, "p", "timer") == 1);
    g_assert_cmpuint(puppet_status(h, "p").dropped, ==, 0);
    ram_free(&other);
    harness_free(h);
}

/* A fault that has to wait for room. */
static void test_stall(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 4 * MIB, .limit = MEMSWAP_MIN_LIMIT, .evictors = 1,
    });
    uint64_t n = MEMSWAP_MIN_LIMIT / PAGE;
    Task *task;

    puppet_add(h, "p", "puppet-observer");
    atomic_store(&h->store->put_error, -ENOSPC);
    write_pages(h, 0, n);
    task = task_start(h, task_write, n);
    wait_until(puppet_counter(h, "p", "stall-begin") == 1);
    g_assert_cmpuint(puppet_counter(h, "p", "stall-end"), ==, 0);
    atomic_store(&h->store->put_error, 0);
    memswap_reclaim(h->engine, MIB / 2);
    task_join(task);
    wait_until(puppet_counter(h, "p", "stall-end") == 1);
    harness_free(h);
}

static int64_t translate(void *opaque, uint64_t address)
{
    Harness *h = opaque;

    return address >= h->ram.size ? -EFAULT : 0;
}

static int host_translate(void *opaque, uint64_t root, uint64_t address,
                          const void **host)
{
    Harness *h = opaque;

    g_assert_cmpuint(root, ==, 5);
    *host = h->ram.host + address;
    return translate(h, address);
}

static int host_reverse(void *opaque, const void *host, uint64_t *root,
                        uint64_t *address)
{
    Harness *h = opaque;

    /* it may take its time: the block could go meanwhile */
    g_assert_cmpuint(atomic_load(&h->ram.block->refs), ==, 0);
    *root = 5;
    *address = (const uint8_t *)host - h->ram.host;
    return 0;
}

static void host_context(void *opaque, pid_t tid, const void *host,
                         MemswapFaultContext *context)
{
    context->known = MEMSWAP_POLICY_KNOWN_VCPU;
    context->vcpu = 3;
}

static void test_translate(void)
{
    Harness *h = harness_small();

    puppet_add(h, "p", "puppet");
    g_assert_cmpint(puppet_ask(h, "p", "translate", "5 0x3456"), ==,
                    -EOPNOTSUPP);
    g_assert_cmpint(puppet_ask(h, "p", "translate-many", "5 0x3456 4"), ==,
                    -EOPNOTSUPP);
    g_assert_cmpint(puppet_ask(h, "p", "reverse", "0 3"), ==, -EOPNOTSUPP);
    /* nobody calls them meanwhile */
    h->engine->host.translate = host_translate;
    h->engine->host.reverse = host_reverse;
    h->engine->host.fault_context = host_context;
    g_assert_cmpint(puppet_ask(h, "p", "translate", "5 0x3456"), ==, 3);
    g_assert_cmpint(puppet_ask(h, "p", "translate", "5 0x99999999"), ==,
                    -EFAULT);
    g_assert_cmpint(puppet_ask(h, "p", "translate-many", "5 0x3456 4"), ==,
                    3 + 5 + 7 + 9);
    /* the last two are beyond it */
    g_assert_cmpint(puppet_ask(h, "p", "translate-many", "5 0x7fc000 4"), ==,
                    2044 + 2046);
    g_assert_cmpint(puppet_ask(h, "p", "translate-many", "5 0 0"), ==, 0);
    g_assert_cmpint(puppet_ask(h, "p", "translate-null", "5 0 0"), ==, 0);
    g_assert_cmpint(puppet_ask(h, "p", "translate-null", "5 0 1"), ==,
                    -EINVAL);
    g_assert_cmpint(puppet_ask(h, "p", "translate-null", "5 0 1025"), ==,
                    -ERANGE);
    g_assert_cmpint(puppet_ask(h, "p", "reverse", "0 3"), ==, 3 * PAGE);
    g_assert_cmpint(puppet_ask(h, "p", "reverse", "0 0x7777777"), ==,
                    -ERANGE);
    write_pages(h, 0, 1);
    g_assert_cmpint(puppet_ask(h, "p", "last-vcpu", "0"), ==, 3);
    harness_free(h);
}

/* --- what it may ask --------------------------------------------------- */

static void test_know(void)
{
    Harness *h = harness_small();

    puppet_add(h, "p", "puppet");
    write_pages(h, 0, 20);
    memswap_pin(h->engine, h->ram.host + 3 * PAGE, 2 * PAGE);
    g_assert_cmpint(puppet_ask(h, "p", "limit", "0"), ==, 8 * MIB);
    g_assert_cmpint(puppet_ask(h, "p", "block-pages", "0"), ==, 2048);
    g_assert_cmpint(puppet_ask(h, "p", "region", "0 0"), ==, 20);
    g_assert_cmpint(puppet_ask(h, "p", "region", "0 1"), ==, 0);
    g_assert_cmpint(puppet_ask(h, "p", "region", "0 4"), ==, -ERANGE);
    g_assert_cmpint(puppet_ask(h, "p", "resident-pages", "0 2 100"), ==, 18);
    g_assert_cmpint(puppet_ask(h, "p", "pinned-pages", "0 0 100"), ==, 2);
    g_assert_cmpint(puppet_ask(h, "p", "resident-pages", "0 2000 100"), ==,
                    -ERANGE);
    g_assert_cmpint(puppet_ask(h, "p", "resident-pages", "0 -1 2"), ==,
                    -ERANGE);
    g_assert_cmpint(puppet_ask(h, "p", "resident-pages", "1 0 1"), ==,
                    -ENOENT);
    g_assert_cmpint(puppet_ask(h, "p", "resident-pages", "70000 0 1"), ==,
                    -ERANGE);
    g_assert_cmpint(puppet_ask(h, "p", "counter", "%s",
                               "a-name-that-is-longer-than-it-may-be"), ==,
                    -EINVAL);
    memswap_unpin(h->engine, h->ram.host + 3 * PAGE, 2 * PAGE);
    harness_free(h);
}

static void test_reclaim(void)
{
    Harness *h = harness_small();

    puppet_add(h, "p", "puppet");
    write_pages(h, 0, 600);
    memswap_pin(h->engine, h->ram.host + 105 * PAGE, 3 * PAGE);
    /* these, not their neighbours, and none that is pinned */
    g_assert_cmpint(puppet_ask(h, "p", "reclaim", "0 100 10"), ==, 7 * PAGE);
    g_assert_cmpint(ram_state(&h->ram, 99), ==, MEMSWAP_RESIDENT);
    g_assert_true(ram_mapped(&h->ram, 99));
    g_assert_cmpint(ram_state(&h->ram, 100), ==, MEMSWAP_STORED);
    g_assert_true(ram_mapped(&h->ram, 105));
    g_assert_cmpint(ram_state(&h->ram, 109), ==, MEMSWAP_STORED);
    g_assert_cmpint(ram_state(&h->ram, 110), ==, MEMSWAP_RESIDENT);
    /* across regions */
    g_assert_cmpint(puppet_ask(h, "p", "reclaim", "0 500 50"), ==, 50 * PAGE);
    /* nothing is on trial */
    g_assert_cmpint(puppet_ask(h, "p", "reclaim-cold", "0 0 600"), ==, 0);
    g_assert_cmpint(puppet_ask(h, "p", "trial", "0 0 -1"), ==, 490);
    check_pages(h, 0, 30);
    g_assert_cmpint(puppet_ask(h, "p", "trial-pages", "0 0 512"), ==, 460);
    g_assert_cmpint(puppet_ask(h, "p", "reclaim-cold", "0 0 600"), ==,
                    460 * PAGE);
    g_assert_cmpint(puppet_ask(h, "p", "stored-pages", "0 0 512"), ==,
                    460 + 7 + 12);
    g_assert_cmpint(puppet_ask(h, "p", "reclaim-bytes", "%d", 1 << 30), ==,
                    (30 + 600 - 550) * PAGE);
    g_assert_cmpuint(puppet_status(h, "p").reclaimed, ==, (600 - 3) * PAGE);
    memswap_unpin(h->engine, h->ram.host + 105 * PAGE, 3 * PAGE);
    check_pages(h, 0, 600);
    harness_check(h);
    harness_free(h);
}

/* A trial that the host looks at by itself. */
static void test_trial(void)
{
    Harness *h = harness_small();

    puppet_add(h, "p", "puppet");
    write_pages(h, 0, 100);
    g_assert_cmpint(puppet_ask(h, "p", "trial", "0 1 0"), ==, 0);
    g_assert_cmpint(puppet_ask(h, "p", "trial", "0 9 0"), ==, -ERANGE);
    g_assert_cmpint(puppet_ask(h, "p", "trial", "0 0 -2"), ==, -EINVAL);
    /* beyond the end of time */
    g_assert_cmpint(puppet_ask(h, "p", "trial", "0 0 %" PRId64, INT64_MAX),
                    ==, -EINVAL);
    g_assert_cmpint(puppet_ask(h, "p", "trial", "0 0 %" PRId64,
                               INT64_MAX / 2 + 1), ==, -EINVAL);
    g_assert_cmpint(puppet_ask(h, "p", "trial", "0 0 %d", 300000000), ==,
                    100);
    check_pages(h, 10, 7);
    g_assert_cmpuint(puppet_counter(h, "p", "trial"), ==, 0);
    wait_until(puppet_counter(h, "p", "trial") == 1);
    g_assert_cmpint(puppet_ask(h, "p", "touched", "0"), ==, 7);
    g_assert_cmpint(puppet_ask(h, "p", "interval", "0 0 15"), ==, 0);
    g_assert_cmpint(puppet_ask(h, "p", "interval", "0 0 16"), ==, -EINVAL);
    harness_free(h);
}

/* Two regions, one who is to keep some of them, and one who takes. */
static Harness *harness_kept(void)
{
    Harness *h = harness_small();

    puppet_add(h, "keeper", "puppet-prefetcher");
    puppet_add(h, "taker", "puppet");
    write_pages(h, 0, 2 * REGION_PAGES);
    return h;
}

/* Regions that are kept are the last to go; the budget is a quarter. */
static void test_keep(void)
{
    Harness *h = harness_kept();

    g_assert_cmpint(puppet_ask(h, "keeper", "keep", "0 0 1024"), ==, 512);
    g_assert_cmpint(puppet_ask(h, "keeper", "keep", "0 512 1"), ==, 0);
    g_assert_cmpint(puppet_ask(h, "keeper", "reclaim", "0 0 1"), ==, -EPERM);
    /* what is kept already costs nothing */
    g_assert_cmpint(puppet_ask(h, "keeper", "keep", "0 0 512"), ==, 512);
    /* by the clock */
    g_assert_cmpuint(memswap_reclaim(h->engine, MIB), >=, MIB);
    g_assert_cmpint(puppet_ask(h, "taker", "region", "0 0"), ==, 512);
    /* by one that comes after, until it has asked often enough */
    g_assert_cmpint(puppet_ask(h, "taker", "reclaim", "0 0 512"), ==, 0);
    for (unsigned int i = 0; i < 15; i++) {
        puppet_ask(h, "taker", "reclaim", "0 0 512");
    }
    g_assert_cmpint(puppet_ask(h, "taker", "region", "0 0"), ==, 0);
    harness_free(h);
}

/* One request passes a region by once, however many ranges are in it. */
static void test_keep_split(void)
{
    Harness *h = harness_kept();

    g_assert_cmpint(puppet_ask(h, "keeper", "keep", "0 0 1"), ==, 1);
    g_assert_cmpint(puppet_ask(h, "taker", "reclaim-split", "256"), ==, 0);
    g_assert_cmpuint(memswap_passes(&h->ram.block->regions[0]), ==, 14);
    /* half of it in the next region */
    g_assert_cmpint(puppet_ask(h, "taker", "reclaim-split", "512"), ==,
                    256 * PAGE);
    g_assert_cmpuint(memswap_passes(&h->ram.block->regions[0]), ==, 13);
    harness_free(h);
}

/* Who comes later can't undo it; who goes before can. */
static void test_keep_order(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 16 * MIB });
    MemswapRegion *region;

    puppet_add(h, "first", "puppet-prefetcher");
    puppet_add(h, "keeper", "puppet-prefetcher");
    puppet_add(h, "last", "puppet");
    region = &h->ram.block->regions[0];
    g_assert_cmpint(puppet_ask(h, "keeper", "keep", "0 0 1"), ==, 1);
    g_assert_cmpint(puppet_ask(h, "last", "interval", "0 0 0"), ==, 0);
    g_assert_cmpuint(memswap_passes(region), ==, 15);
    /* not in the last one's name, nor anew */
    g_assert_true(memswap_pass_by(region));
    g_assert_cmpint(puppet_ask(h, "last", "keep", "0 0 1"), ==, 1);
    g_assert_cmpuint(memswap_passes(region), ==, 14);
    g_assert_cmpuint(memswap_pass_keeper(region), ==,
                     puppet_host(h, "keeper")->slot + 1);
    /* its own */
    g_assert_cmpint(puppet_ask(h, "keeper", "interval", "0 0 1"), ==, 0);
    g_assert_cmpuint(memswap_passes(region), ==, 1);
    g_assert_cmpint(puppet_ask(h, "keeper", "keep", "0 0 1"), ==, 1);
    g_assert_cmpint(puppet_ask(h, "first", "keep", "0 0 1"), ==, 1);
    g_assert_cmpuint(memswap_pass_keeper(region), ==,
                     puppet_host(h, "first")->slot + 1);
    g_assert_cmpint(puppet_ask(h, "first", "interval", "0 0 0"), ==, 0);
    g_assert_cmpuint(memswap_passes(region), ==, 0);
    harness_free(h);
}

/* A page of each region keeps them all, and costs as much. */
static void test_keep_price(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 16 * MIB });

    puppet_add(h, "p", "puppet-prefetcher");
    write_pages(h, 0, 8 * REGION_PAGES);
    g_assert_cmpint(puppet_ask(h, "p", "keep", "0 0 1"), ==, 1);
    g_assert_cmpint(puppet_ask(h, "p", "keep", "0 511 2"), ==, 2);
    g_assert_cmpint(puppet_ask(h, "p", "keep", "0 1024 1"), ==, 0);
    g_assert_cmpint(puppet_ask(h, "p", "keep", "0 1000 100"), ==, 24);
    /* one that was passed by costs as much again */
    g_assert_true(memswap_pass_by(&h->ram.block->regions[1]));
    g_assert_cmpint(puppet_ask(h, "p", "keep", "0 512 1"), ==, 0);
    /* until as much as the limit was evicted */
    while (stats_of(h).evictions < 8 * REGION_PAGES - 1) {
        g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    }
    g_assert_cmpint(puppet_ask(h, "p", "keep", "0 1024 1"), ==, 0);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    g_assert_cmpint(puppet_ask(h, "p", "keep", "0 1024 1024"), ==, 1024);
    g_assert_cmpint(puppet_ask(h, "p", "keep", "0 2048 1"), ==, 0);
    harness_free(h);
}

/* What one wanted kept is not kept for who comes after it. */
static void test_keep_heir(void)
{
    Harness *h = harness_small();

    write_pages(h, 0, 1024);
    puppet_add(h, "keeper", "puppet-prefetcher");
    puppet_add(h, "other", "puppet-prefetcher");
    g_assert_cmpint(puppet_ask(h, "keeper", "keep", "0 0 100"), ==, 100);
    g_assert_cmpint(puppet_ask(h, "other", "keep", "0 512 100"), ==, 100);
    g_assert_cmpint(memswap_policy_remove(h->engine, "keeper", NULL), ==, 0);
    puppet_add(h, "heir", "puppet-prefetcher");
    puppet_add(h, "p", "puppet");
    g_assert_cmpint(puppet_ask(h, "p", "reclaim", "0 0 64"), ==, 64 * PAGE);
    g_assert_cmpint(puppet_ask(h, "p", "reclaim", "0 512 64"), ==, 0);
    harness_free(h);
}

static void test_roles(void)
{
    Harness *h = harness_small();

    puppet_add(h, "p", "puppet-observer");
    write_pages(h, 0, 10);
    g_assert_cmpint(puppet_ask(h, "p", "reclaim", "0 0 10"), ==, -EPERM);
    g_assert_cmpint(puppet_ask(h, "p", "reclaim-bytes", "1"), ==, -EPERM);
    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 0 10"), ==, -EPERM);
    g_assert_cmpint(puppet_ask(h, "p", "trial", "0 0 0"), ==, -EPERM);
    g_assert_cmpint(puppet_ask(h, "p", "keep", "0 0 10"), ==, -EPERM);
    g_assert_cmpint(puppet_ask(h, "p", "interval", "0 0 1"), ==, -EPERM);
    g_assert_cmpint(puppet_ask(h, "p", "region", "0 0"), ==, 10);
    g_assert_cmpuint(puppet_status(h, "p").refused, ==, 6);
    harness_free(h);
}

/* --- what can't be ----------------------------------------------------- */

static void test_nonsense(void)
{
    Harness *h = harness_small();
    g_autofree MemswapPolicyStatus *list = NULL;
    unsigned int n;

    puppet_add(h, "p", "puppet");
    write_pages(h, 0, 10);
    g_assert_cmpint(puppet_ask(h, "p", "reclaim", "0 2040 10"), ==, -ERANGE);
    g_assert_cmpint(puppet_ask(h, "p", "reclaim", "0 -5 10"), ==, -ERANGE);
    g_assert_cmpint(puppet_ask(h, "p", "reclaim", "0 5 -1"), ==, -ERANGE);
    g_assert_cmpint(puppet_ask(h, "p", "reclaim", "9 0 1"), ==, -ENOENT);
    g_assert_cmpint(puppet_ask(h, "p", "reclaim-flags", "0 0 1"), ==,
                    -EINVAL);
    g_assert_cmpint(puppet_ask(h, "p", "reclaim-null", "0"), ==, -EINVAL);
    g_assert_cmpint(puppet_ask(h, "p", "reclaim-many", "0"), ==, -ERANGE);
    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 2040 10"), ==, -ERANGE);
    g_assert_cmpint(puppet_ask(h, "p", "prefetch-priority", "0 0 1"), ==,
                    -EINVAL);
    g_assert_cmpint(puppet_ask(h, "p", "keep", "0 0 99999"), ==, -ERANGE);
    for (unsigned int i = 0; i < 999 - 9; i++) {
        puppet_ask(h, "p", "reclaim", "0 2040 10");
    }
    g_assert_cmpuint(stats_of(h).resident, ==, 10 * PAGE);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR), ==, 0);
    /* the last straw */
    memswap_policy_set(h->engine, "p", "reclaim", "0 2040 10", NULL);
    wait_until(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR) == 1);
    g_assert_cmpuint(atomic_load(&h->event_offset), ==,
                     MEMSWAP_POLICY_NONSENSE);
    list = memswap_policy_list(h->engine, &n);
    g_assert_cmpuint(n, ==, 0);
    check_pages(h, 0, 10);
    harness_free(h);
}

static int64_t touch_all(Harness *h, uint64_t n)
{
    for (uint64_t page = 0; page < n; page++) {
        ram_touch(h, page);
    }
    return 0;
}

/* More requests than it may make: it is slowed down, and nobody else is. */
static void test_flood(void)
{
    Harness *h = harness_small();
    int64_t began, took;
    Task *task;

    puppet_add(h, "p", "puppet");
    /* 200 saved up, and one a ms: not even a slow machine takes that long */
    puppet_budget(h, 1000);
    began = g_get_monotonic_time();
    g_assert_cmpint(puppet_ask(h, "p", "flood", "%d", 1000), >, 0);
    took = g_get_monotonic_time() - began;
    /* each was slept over */
    g_assert_cmpuint(took, >=, 1000 * puppet_status(h, "p").refused);
    g_assert_cmpuint(puppet_status(h, "p").refused, <, 1000 - 200);
    task = task_start(h, touch_all, 500);
    task_join(task);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR), ==, 0);
    harness_free(h);
}

/* It doesn't return from an event, while others wait. */
static void test_hang(void)
{
    Harness *h = harness_small();
    _Atomic int *release;
    _Atomic long *after;

    lose_patience(h);
    puppet_add(h, "p", "puppet-hang");
    release = puppet_symbol("puppet-hang", "puppet_release");
    after = puppet_symbol("puppet-hang", "puppet_after");
    puppet_ask(h, "p", "hang-next", "0");
    write_pages(h, 0, 1);
    g_usleep(2 * SHORT_NS / 1000);
    /* nobody has anything to say to it */
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR), ==, 0);
    write_pages(h, 0, 100);
    wait_until(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR) == 1);
    g_assert_cmpuint(atomic_load(&h->event_offset), ==, MEMSWAP_POLICY_HUNG);
    g_assert_cmpuint(atomic_load(&h->engine->policies.wanted), ==, 0);
    g_assert_cmpint(memswap_policy_remove(h->engine, "p", NULL), ==, -ENOENT);
    /* what it asks for from now on is in vain */
    atomic_store(release, 1);
    wait_until(atomic_load(after) == -ESHUTDOWN);
    /* its place is free */
    puppet_add(h, "p", "puppet");
    memswap_reclaim(h->engine, UINT64_MAX);
    check_pages(h, 0, 100);
    harness_free(h);
    atomic_store(release, 0);
    atomic_store(after, 0);
}

/* It doesn't return from an option, then not when it is to end. */
static void test_hang_set(void)
{
    Harness *h = harness_small();
    g_autofree char *error = NULL;
    _Atomic int *release;

    lose_patience(h);
    puppet_add(h, "p", "puppet-hang");
    release = puppet_symbol("puppet-hang", "puppet_release");
    g_assert_cmpint(memswap_policy_set(h->engine, "p", "hang-now", "0", NULL),
                    ==, -ETIMEDOUT);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR), ==, 1);
    atomic_store(release, 1);
    puppet_add(h, "p", "puppet-hang");
    puppet_settle(h, "p");
    atomic_store(release, 0);
    puppet_ask(h, "p", "hang-next", "0");
    write_pages(h, 0, 1);
    puppet_wait_busy(h, "p");
    g_assert_cmpint(memswap_policy_remove(h->engine, "p", &error), ==,
                    -ETIMEDOUT);
    g_assert_nonnull(strstr(error, "does not return"));
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR), ==, 2);
    harness_free(h);
    /* the engine is gone, and the policy still there */
    atomic_store(release, 1);
    g_usleep(50000);
    atomic_store(release, 0);
}

static _Atomic bool reset_enough;

static gpointer reset_for_ever(gpointer opaque)
{
    Harness *h = opaque;

    while (!atomic_load(&reset_enough)) {
        memswap_guest_reset(h->engine);
    }
    return NULL;
}

/* Events that come faster than they are handled don't keep options out. */
static void test_busy(void)
{
    Harness *h = harness_small();
    GThread *thread;

    puppet_add(h, "p", "puppet");
    thread = g_thread_new("busy", reset_for_ever, h);
    /* what drops events keeps it busy, by its budget or by a slow machine */
    wait_until(atomic_load(&h->engine->policies.slots[0]->ring.dropped) >
               1000);
    for (unsigned int i = 0; i < 3; i++) {
        g_assert_cmpint(memswap_policy_set(h->engine, "p", "wake", "0", NULL),
                        ==, 0);
    }
    atomic_store(&reset_enough, true);
    g_thread_join(thread);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR), ==, 0);
    harness_free(h);
}

/* Added and removed again and again, while its events are under way. */
static void test_come_and_go(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 16 * MIB, .limit = 4 * MIB, .evictors = 1,
        .readahead = 64 * PAGE,
    });
    Task *task = task_start(h, touch_all, 16 * MIB / PAGE);
    unsigned int n = 0;

    while (!task_done(task) || n < 10) {
        builtin_add(h, "a", "linear");
        builtin_add(h, "b", "limit");
        g_usleep(1000);
        g_assert_cmpint(memswap_policy_remove(h->engine, "a", NULL), ==, 0);
        g_assert_cmpint(memswap_policy_remove(h->engine, "b", NULL), ==, 0);
        n++;
    }
    task_join(task);
    g_assert_false(atomic_load(&h->engine->policies.armed));
    g_assert_cmpuint(atomic_load(&h->engine->policies.wanted), ==, 0);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR), ==, 0);
    wait_until(atomic_load(&h->engine->sleepers) == 1);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/policy/events", test_events);
    g_test_add_func("/policy/stall", test_stall);
    g_test_add_func("/policy/translate", test_translate);
    g_test_add_func("/policy/know", test_know);
    g_test_add_func("/policy/reclaim", test_reclaim);
    g_test_add_func("/policy/trial", test_trial);
    g_test_add_func("/policy/keep", test_keep);
    g_test_add_func("/policy/keep-split", test_keep_split);
    g_test_add_func("/policy/keep-order", test_keep_order);
    g_test_add_func("/policy/keep-price", test_keep_price);
    g_test_add_func("/policy/keep-heir", test_keep_heir);
    g_test_add_func("/policy/roles", test_roles);
    g_test_add_func("/policy/nonsense", test_nonsense);
    g_test_add_func("/policy/flood", test_flood);
    g_test_add_func("/policy/busy", test_busy);
    g_test_add_func("/policy/hang", test_hang);
    g_test_add_func("/policy/hang-set", test_hang_set);
    g_test_add_func("/policy/come-and-go", test_come_and_go);
    return g_test_run();
}

/*
 * Tests of failing system calls and allocations: nothing lost, sums right
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>

#include "harness.h"

#define PAGES (8 * MIB / PAGE)

/* How often calls fail, of 1000, and with what. */
typedef struct Odds {
    Harness *h;
    int errors[INJECT__MAX][4];     /* 0 ends each list */
    unsigned int per_mille;
    bool cut_short;                 /* reads and writes */
    _Atomic uint64_t dice;
    _Atomic unsigned int failed, shortened;
} Odds;

static unsigned int roll(Odds *odds)
{
    uint64_t x = atomic_fetch_add(&odds->dice, 1) * 0x9e3779b97f4a7c15ULL;

    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93ULL;
    return x >> 33;
}

static int fail_some(void *opaque, InjectCall call, uint64_t where,
                     size_t *size)
{
    Odds *odds = opaque;
    unsigned int n = 0;

    if ((call == INJECT_READ || call == INJECT_WRITE) && odds->cut_short &&
        *size > 1 && roll(odds) % 4 == 0) {
        *size = 1 + roll(odds) % (*size - 1);
        atomic_fetch_add(&odds->shortened, 1);
    }
    while (n < 4 && odds->errors[call][n]) {
        n++;
    }
    if (!n || roll(odds) % 1000 >= odds->per_mille) {
        return 0;
    }
    atomic_fetch_add(&odds->failed, 1);
    return odds->errors[call][roll(odds) % n];
}

/* Calls that must have failed, and how much longer a slow machine may take. */
#define ENOUGH 100
#define SLOW_US 20000000

/* Random writes, reads, pins, discards, all checked, while calls fail. */
static void churn(Odds *odds, unsigned int evictors)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 8 * MIB, .limit = MIB, .evictors = evictors,
        .pool = evictors > 0, .overshoot = true,
    });
    InjectHooks hooks = { .before = fail_some, .opaque = odds };
    GRand *rand = g_rand_new_with_seed(g_test_rand_int());
    int64_t end = g_get_monotonic_time() + 600000;
    uint64_t numbers[PAGES] = { 0 };

    odds->h = h;
    inject(&hooks);
    for (uint64_t n = 1; g_get_monotonic_time() < end ||
                         (odds->failed + odds->shortened <= ENOUGH &&
                          g_get_monotonic_time() < end + SLOW_US); n++) {
        uint64_t page = g_rand_int_range(rand, 0, PAGES);
        uint8_t *host = h->ram.host + page * PAGE;

        switch (g_rand_int_range(rand, 0, 8)) {
        case 0:
            if (!memswap_discard(h->engine, host, PAGE)) {
                numbers[page] = 0;
            }
            break;
        case 1:
            g_assert_cmpint(memswap_pin(h->engine, host, PAGE), ==, 0);
            ram_check(h, page, numbers[page]);
            memswap_unpin(h->engine, host, PAGE);
            break;
        case 2:
        case 3:
        case 4:
            ram_fill(h, page, n);
            numbers[page] = n;
            break;
        default:
            ram_check(h, page, numbers[page]);
            break;
        }
    }
    inject(NULL);
    g_test_message("%u calls failed, %u cut short", odds->failed,
                   odds->shortened);
    g_assert_cmpuint(odds->failed + odds->shortened, >, ENOUGH);
    for (uint64_t page = 0; page < PAGES; page++) {
        ram_check(h, page, numbers[page]);
    }
    harness_check(h);
    memswap_reclaim(h->engine, 8 * MIB);
    for (uint64_t page = 0; page < PAGES; page++) {
        ram_check(h, page, numbers[page]);
    }
    g_rand_free(rand);
    harness_free(h);
}

/* What is only to be tried again. */
static void test_again(void)
{
    for (unsigned int evictors = 0; evictors < 2; evictors++) {
        Odds odds = {
            .errors = {
                [INJECT_COPY] = { -EAGAIN, -EINTR },
                [INJECT_ZEROPAGE] = { -EAGAIN, -EINTR },
                [INJECT_CONTINUE] = { -EAGAIN, -EINTR },
                [INJECT_WAKE] = { -EAGAIN },
                [INJECT_READ] = { -EINTR, -EAGAIN },
                [INJECT_WRITE] = { -EINTR, -EAGAIN },
                [INJECT_PUNCH] = { -EINTR },
            },
            .per_mille = 300,
        };

        churn(&odds, evictors);
    }
}

static void test_short(void)
{
    Odds odds = { .cut_short = true };

    churn(&odds, 0);
}

/* The host has no memory, now and then. */
static void test_no_memory(void)
{
    Odds odds = {
        .errors = {
            [INJECT_COPY] = { -ENOMEM },
            [INJECT_ZEROPAGE] = { -ENOMEM },
            [INJECT_CONTINUE] = { -ENOMEM },
        },
        .per_mille = 50,
    };

    churn(&odds, 1);
}

/* Evictions that fail leave the page where it is. */
static void test_evictions(void)
{
    for (unsigned int evictors = 0; evictors < 2; evictors++) {
        Odds odds = {
            .errors = {
                [INJECT_READ] = { -EIO, -ENOMEM },
                [INJECT_PUNCH] = { -ENOMEM, -EIO },
            },
            .per_mille = 100,
        };

        churn(&odds, evictors);
    }
}

/* The store refuses, now and then, for want of memory. */
static void refuse_some(FakeStore *store, void *opaque)
{
    Odds *odds = opaque;

    atomic_store(&store->put_error, roll(odds) % 10 ? 0 : -ENOMEM);
}

static void test_store(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 8 * MIB, .limit = 2 * MIB, .evictors = 1,
    });
    Odds odds = { .h = h };

    h->store->opaque = &odds;
    h->store->before_put = refuse_some;
    for (unsigned int round = 0; round < 3; round++) {
        for (uint64_t page = 0; page < PAGES; page++) {
            ram_fill(h, page, 2 * (page + round) + 1);
        }
        for (uint64_t page = 0; page < PAGES; page++) {
            ram_check(h, page, 2 * (page + round) + 1);
        }
    }
    harness_check(h);
    harness_set_limit(h, 16 * MIB, 0);
    harness_free(h);
}

/* --- one call at a time ------------------------------------------------ */

typedef struct Failure {
    InjectCall call;
    int error;
    unsigned int times;
    _Atomic unsigned int failed;
} Failure;

static int fail_first(void *opaque, InjectCall call, uint64_t where,
                      size_t *size)
{
    Failure *failure = opaque;

    if (call != failure->call || failure->failed >= failure->times) {
        return 0;
    }
    failure->failed++;
    return failure->error;
}

/* A fill for which the host has no memory waits, and is tried again. */
static void fill_fails(InjectCall call, uint64_t number, uint64_t evict)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 2 * MIB, .limit = 2 * MIB, .evictors = 1,
        .reserve_low = PAGE, .reserve_high = 2 * PAGE,
    });
    Failure failure = { .call = call, .error = -ENOMEM, .times = 3 };
    InjectHooks hooks = { .before = fail_first, .opaque = &failure };
    MemswapStats stats;

    if (number) {
        ram_fill(h, 3, number);
        ram_fill(h, 4, 7);
        harness_settle(h);
        if (evict) {
            g_assert_cmpuint(memswap_reclaim(h->engine, evict * PAGE), ==,
                             evict * PAGE);
        }
    }
    inject(&hooks);
    ram_check(h, 3, number);
    inject(NULL);
    g_assert_cmpuint(failure.failed, ==, 3);
    harness_check(h);
    stats = stats_of(h);
    g_assert_cmpuint(stats.stalls, ==, 1);
    g_assert_cmpuint(stats.overshoots, ==, 0);
    harness_free(h);
}

static void test_fill_fails(void)
{
    fill_fails(INJECT_ZEROPAGE, 0, 0);
    fill_fails(INJECT_COPY, 9, 1);
    fill_fails(INJECT_COPY, 10, 1);
}

/* The same for one that may not be held back. */
static void test_forced_fill_fails(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 2 * MIB, .limit = 2 * MIB, .evictors = 1,
        .reserve_low = PAGE, .reserve_high = 2 * PAGE,
    });
    Failure failure = {
        .call = INJECT_ZEROPAGE, .error = -ENOMEM, .times = 3,
    };
    InjectHooks hooks = { .before = fail_first, .opaque = &failure };

    atomic_store(&h->may_not_hold_back, true);
    inject(&hooks);
    ram_check(h, 3, 0);
    inject(NULL);
    harness_check(h);
    harness_free(h);
}

/* --- a host without memory ---------------------------------------------- */

/* No page can be put in place, until so many calls took some out. */
typedef struct Poor {
    unsigned int punches;
    _Atomic unsigned int punched, failed;
} Poor;

static int fail_poor(void *opaque, InjectCall call, uint64_t where,
                     size_t *size)
{
    Poor *poor = opaque;

    if ((call != INJECT_COPY && call != INJECT_ZEROPAGE) ||
        poor->punched >= poor->punches) {
        return 0;
    }
    poor->failed++;
    return -ENOMEM;
}

static void count_punches(void *opaque, InjectCall call, uint64_t where,
                          size_t size, int error)
{
    Poor *poor = opaque;

    poor->punched += call == INJECT_PUNCH && !error;
}

#define POOR_HOOKS(poor) { \
    .before = fail_poor, .after = count_punches, .opaque = poor \
}

/* Who it is that pins, on such a host. */
static const struct {
    unsigned int evictors;
    bool may_not_hold_back;
} pinners[] = {
    { 1, false }, { 1, true }, { 0, false }, { 0, true },
};

static Harness *harness_pinner(unsigned int i)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 4 * MIB, .limit = 4 * MIB,
        .evictors = pinners[i].evictors,
        .reserve_low = PAGE, .reserve_high = 2 * PAGE,
    });

    atomic_store(&h->may_not_hold_back, pinners[i].may_not_hold_back);
    return h;
}

/*
 * For a pin that has no memory pages are evicted, though the limit has room: a
 * step for each attempt in vain, and not all there are while it sleeps.
 */
static void test_pin_evicts(void)
{
    for (unsigned int i = 0; i < G_N_ELEMENTS(pinners); i++) {
        Harness *h = harness_pinner(i);
        Poor poor = { .punches = 3 };
        InjectHooks hooks = POOR_HOOKS(&poor);
        MemswapStats stats;
        Task *task;

        write_pages(h, 0, 256);
        inject(&hooks);
        task = task_start(h, task_pin, 300);
        g_assert_cmpint(task_join(task), ==, 0);
        inject(NULL);
        g_assert_cmpuint(poor.punched, >=, poor.punches);
        g_assert_cmpint(ram_state(&h->ram, 300), ==, MEMSWAP_RESIDENT);
        g_assert_cmpuint(ram_pins(&h->ram, 300), ==, 1);
        memswap_unpin(h->engine, h->ram.host + 300 * PAGE, PAGE);
        g_assert_cmpuint(atomic_load(&h->engine->n_stalled), ==, 0);
        stats = stats_of(h);
        g_assert_cmpuint(stats.stalls, ==, 1);
        g_assert_cmpuint(stats.overshoots, ==, 0);
        g_assert_cmpuint(stats.pinned, ==, 0);
        /* a step is 16 pages; some more if this thread doesn't get to run */
        g_assert_cmpuint(stats.evictions, <=, 128);
        check_pages(h, 0, 256);
        harness_free(h);
    }
}

/* With nothing to evict it waits, without haste, until the host has some. */
static void test_pin_waits(void)
{
    for (unsigned int i = 0; i < G_N_ELEMENTS(pinners); i++) {
        Harness *h = harness_pinner(i);
        Poor poor = { .punches = UINT_MAX };
        InjectHooks hooks = POOR_HOOKS(&poor);
        Task *task;

        inject(&hooks);
        task = task_start(h, task_pin, 300);
        wait_until(poor.failed >= 100);
        /* not more often than twice a millisecond, about */
        poor.failed = 0;
        g_usleep(100000);
        g_assert_cmpuint(poor.failed, <, 400);
        task_check_waits(task);
        inject(NULL);
        g_assert_cmpint(task_join(task), ==, 0);
        memswap_unpin(h->engine, h->ram.host + 300 * PAGE, PAGE);
        g_assert_cmpuint(atomic_load(&h->engine->n_stalled), ==, 0);
        g_assert_cmpuint(stats_of(h).overshoots, ==, 0);
        harness_free(h);
    }
}

/* Others are always faster: it is not for ever that somebody makes room. */
static uint64_t stolen;

static bool steal(MemswapStore *store)
{
    FakeStore *fake = (FakeStore *)store;
    Harness *h = fake->opaque;

    while (memswap_charge(h->engine, PAGE, false)) {
        stolen += PAGE;
    }
    return false;
}

static void test_pin_robbed(void)
{
    Harness *h = harness_pinner(3);
    MemswapStoreOps ops = *h->engine->store->ops;
    const MemswapStoreOps *before = h->engine->store->ops;

    write_pages(h, 0, 512);
    stolen = 0;
    ops.maintain = steal;
    h->store->opaque = h;
    h->store->store.ops = &ops;
    while (memswap_charge(h->engine, PAGE, false)) {
        stolen += PAGE;
    }
    g_assert_cmpint(task_pin(h, 600), ==, 0);
    h->store->store.ops = before;
    memswap_uncharge(h->engine, stolen);
    g_assert_cmpuint(stats_of(h).evictions, >, 0);
    g_assert_cmpuint(stats_of(h).evictions, <, 100);
    g_assert_cmpuint(stats_of(h).overshoots, ==, 1);
    memswap_unpin(h->engine, h->ram.host + 600 * PAGE, PAGE);
    check_pages(h, 0, 512);
    harness_free(h);
}

/* A zap that fails leaves nothing on trial: what is mapped must not leave. */
static void test_zap_fails(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 2 * MIB });
    Failure failure = {
        .call = INJECT_ZAP, .error = -EINVAL, .times = UINT_MAX,
    };
    InjectHooks hooks = { .before = fail_first, .opaque = &failure };

    ram_fill(h, 3, 9);
    harness_settle(h);
    inject(&hooks);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, 0);
    inject(NULL);
    g_assert_cmpuint(failure.failed, >, 0);
    g_assert_cmpint(ram_state(&h->ram, 3), ==, MEMSWAP_RESIDENT);
    harness_check(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    ram_check(h, 3, 9);
    harness_free(h);
}

/* Registering fails: nothing is managed, and everything can be tried again. */
static void test_register_fails(void)
{
    static const int errors[] = { -EBUSY, -EINVAL, -ENOMEM, -EPERM };
    Harness *h = harness_new(&(HarnessOptions) { .limit = MIB });
    Ram ram = ram_new(2 * MIB, 0);
    MemswapBlockInfo info = {
        .name = "ram", .host = ram.host, .size = ram.size, .fd = ram.fd,
        .page_size = PAGE,
    };
    MemswapStats stats;

    ram.host[0] = 1;
    for (unsigned int i = 0; i < G_N_ELEMENTS(errors); i++) {
        Failure failure = {
            .call = INJECT_REGISTER, .error = errors[i], .times = 1,
        };
        InjectHooks hooks = { .before = fail_first, .opaque = &failure };
        MemswapBlock *block = NULL;
        char *error = NULL;

        inject(&hooks);
        g_assert_cmpint(memswap_block_add(h->engine, &info, &block, &error),
                        ==, errors[i]);
        inject(NULL);
        g_assert_nonnull(error);
        g_free(error);
        stats = stats_of(h);
        g_assert_cmpuint(stats.managed, ==, 0);
        g_assert_false(memswap_owns(h->engine, ram.host));
    }
    ram_add(h, &ram, "ram");
    harness_check(h);
    ram_remove(h, &ram);
    ram_free(&ram);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/failure/again", test_again);
    g_test_add_func("/failure/short", test_short);
    g_test_add_func("/failure/no-memory", test_no_memory);
    g_test_add_func("/failure/evictions", test_evictions);
    g_test_add_func("/failure/store", test_store);
    g_test_add_func("/failure/fill", test_fill_fails);
    g_test_add_func("/failure/fill/forced", test_forced_fill_fails);
    g_test_add_func("/failure/pin/evicts", test_pin_evicts);
    g_test_add_func("/failure/pin/waits", test_pin_waits);
    g_test_add_func("/failure/pin/robbed", test_pin_robbed);
    g_test_add_func("/failure/zap", test_zap_fails);
    g_test_add_func("/failure/register", test_register_fails);
    return g_test_run();
}

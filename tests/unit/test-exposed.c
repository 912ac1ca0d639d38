/*
 * Tests of exposed blocks: another process writes at the worst moments
 *
 * The other process is a real one.  What it does, it does at an exact point of
 * the engine's work, in a hook of the system call before or after that.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>

#include "harness.h"
#include "huge-ram.h"
#include "other.h"

/* Managed RAM with pages [0, @n) written to, which *@other has mapped. */
static Harness *harness_exposed(uint64_t size, uint64_t n, Other **other)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = size });

    write_pages(h, 0, n);
    *other = other_expose(h);
    return h;
}

/* At an exact point the other process fills a page, or does something else. */
typedef struct Strike {
    InjectHooks hooks;
    Other *other;
    InjectCall at;
    bool after;
    uint64_t page, number;
    void (*act)(struct Strike *strike);
    int error;              /* what the call gives then, instead of before */
    _Atomic bool done;
    _Atomic unsigned int n[INJECT__MAX];
} Strike;

static void strike_fill(Strike *strike)
{
    other_fill(strike->other, strike->page, strike->number);
}

static void strike_now(Strike *strike, InjectCall call, bool after)
{
    if (call == strike->at && after == strike->after && !strike->done) {
        strike->done = true;
        strike->act(strike);
    }
}

static int strike_before(void *opaque, InjectCall call, uint64_t where,
                         size_t *size)
{
    Strike *strike = opaque;
    bool first = !strike->done;

    atomic_fetch_add(&strike->n[call], 1);
    strike_now(strike, call, false);
    return first && strike->done ? strike->error : 0;
}

static void strike_after(void *opaque, InjectCall call, uint64_t where,
                         size_t size, int error)
{
    strike_now(opaque, call, true);
}

static void strike_arm(Strike *strike)
{
    if (!strike->act) {
        strike->act = strike_fill;
    }
    strike->hooks = (InjectHooks) {
        .before = strike_before, .after = strike_after, .opaque = strike,
    };
    inject(&strike->hooks);
}

static void strike_over(Strike *strike)
{
    inject(NULL);
    g_assert_true(strike->done);
}

/* --- eviction ---------------------------------------------------------- */

static void test_evict(void)
{
    Other *other;
    Harness *h = harness_exposed(8 * MIB, 2000, &other);
    MemswapStats stats;

    /* it maps some of them, and writes to some */
    for (uint64_t page = 0; page < 2000; page += 3) {
        other_check(other, page, 2 * page + 1);
    }
    for (uint64_t page = 0; page < 2000; page += 9) {
        other_fill(other, page, 2 * page + 100001);
    }
    g_assert_cmpuint(memswap_reclaim(h->engine, 8 * MIB), ==, 2000 * PAGE);
    stats = stats_of(h);
    g_assert_cmpuint(stats.resident, ==, 0);
    g_assert_cmpuint(stats.exposed, ==, 8 * MIB);
    g_assert_cmpuint(stats.changed, ==, 0);
    g_assert_cmpuint(stats.remote_faults, ==, 0);
    harness_check(h);
    /* one half comes back here, the other there */
    for (uint64_t page = 0; page < 2000; page++) {
        uint64_t number = 2 * page + (page % 9 ? 1 : 100001);

        if (page % 2) {
            ram_check(h, page, number);
        } else {
            other_check(other, page, number);
        }
    }
    stats = stats_of(h);
    g_assert_cmpuint(stats.remote_faults, ==, 1000);
    g_assert_cmpuint(stats.refaults, ==, 2000);
    harness_check(h);
    other_conceal(other);
    g_assert_cmpuint(stats_of(h).exposed, ==, 0);
    harness_free(h);
}

/* What is never touched, and what repeats itself. */
static void test_zero_and_same(void)
{
    Other *other;
    Harness *h = harness_exposed(4 * MIB, 0, &other);

    g_assert_cmpuint(other_read(other, 100), ==, 0);
    other_fill(other, 101, 4712);
    other_check(other, 102, 0);
    g_assert_cmpuint(memswap_reclaim(h->engine, 4 * MIB), ==, 3 * PAGE);
    g_assert_cmpuint(stats_of(h).zero, ==, 3 * PAGE);
    other_check(other, 100, 0);
    other_check(other, 101, 4712);
    ram_check(h, 101, 4712);
    ram_check(h, 102, 0);
    harness_check(h);
    other_conceal(other);
    harness_free(h);
}

/*
 * Rule 1: what the other process writes until the page is punched is kept, at
 * whatever point of the eviction.  Rule 2: then it stays.
 */
static void write_at(InjectCall at, bool after)
{
    Other *other;
    Harness *h = harness_exposed(4 * MIB, 8, &other);
    Strike strike = {
        .other = other, .at = at, .after = after, .page = 5, .number = 4711,
    };
    bool late = at == INJECT_SPLICE || at == INJECT_PUNCH ||
                (at == INJECT_READ && after);
    MemswapStats stats;

    other_check(other, 5, 11);
    strike_arm(&strike);
    g_assert_cmpuint(memswap_reclaim_pages(h->ram.block, 0, 8, false), ==,
                     late ? 7 * PAGE : 8 * PAGE);
    strike_over(&strike);
    stats = stats_of(h);
    g_assert_cmpuint(stats.changed, ==, late);
    g_assert_cmpuint(stats.evictions, ==, late ? 7 : 8);
    g_assert_cmpint(ram_state(&h->ram, 5), ==,
                    late ? MEMSWAP_RESIDENT : MEMSWAP_STORED);
    g_assert_cmpuint(strike.n[INJECT_SPLICE], ==, 1);
    g_assert_cmpuint(strike.n[INJECT_PUNCH], ==, 1);
    g_assert_cmpuint(strike.n[INJECT_WRITE], ==, 0);
    harness_check(h);
    other_check(other, 5, 4711);
    ram_check(h, 5, 4711);
    check_pages(h, 0, 5);
    check_pages(h, 6, 2);
    /* and nothing of the first attempt is left */
    g_assert_cmpuint(memswap_reclaim(h->engine, 8 * PAGE), ==, 8 * PAGE);
    other_check(other, 5, 4711);
    other_conceal(other);
    harness_free(h);
}

static void test_write_before_read(void)
{
    write_at(INJECT_READ, false);
}

static void test_write_before_splice(void)
{
    write_at(INJECT_READ, true);
    write_at(INJECT_SPLICE, false);
}

static void test_write_before_punch(void)
{
    write_at(INJECT_SPLICE, true);
    write_at(INJECT_PUNCH, false);
}

/* The same when the copy repeats one value, and so needs no store. */
static void test_write_same(void)
{
    Other *other;
    Harness *h = harness_exposed(4 * MIB, 0, &other);
    Strike strike = {
        .other = other, .at = INJECT_SPLICE, .after = true, .page = 5,
        .number = 4711,
    };

    other_fill(other, 5, 12);
    strike_arm(&strike);
    g_assert_cmpuint(memswap_reclaim_pages(h->ram.block, 5, 6, false), ==, 0);
    strike_over(&strike);
    g_assert_cmpuint(stats_of(h).changed, ==, 1);
    ram_check(h, 5, 4711);
    harness_check(h);
    /* and the other way round: from what was stored to one value */
    strike.number = 12;
    strike.done = false;
    strike_arm(&strike);
    g_assert_cmpuint(memswap_reclaim_pages(h->ram.block, 5, 6, false), ==, 0);
    strike_over(&strike);
    g_assert_cmpuint(fake_store_live(h->store), ==, 0);
    other_check(other, 5, 12);
    ram_check(h, 5, 12);
    harness_check(h);
    other_conceal(other);
    harness_free(h);
}

/* A copy that was kept is no different. */
static void test_write_kept(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 4 * MIB, .keep_copies = 4 * MIB,
    });
    Strike strike = {
        .at = INJECT_SPLICE, .after = true, .page = 5, .number = 4711,
    };
    Other *other;

    write_pages(h, 5, 1);
    strike.other = other = other_expose(h);
    g_assert_cmpuint(memswap_reclaim(h->engine, PAGE), ==, PAGE);
    other_check(other, 5, 11);
    g_assert_cmpuint(stats_of(h).kept, ==, PAGE);
    strike_arm(&strike);
    g_assert_cmpuint(memswap_reclaim_pages(h->ram.block, 5, 6, false), ==, 0);
    strike_over(&strike);
    g_assert_cmpuint(stats_of(h).unchanged, ==, 1);
    g_assert_cmpuint(stats_of(h).kept, ==, 0);
    g_assert_cmpuint(fake_store_live(h->store), ==, 0);
    ram_check(h, 5, 4711);
    harness_check(h);
    other_conceal(other);
    harness_free(h);
}

/* Touched here only, a page is as warm as ever; there only, as cold. */
static void test_trial(void)
{
    Other *other;
    Harness *h = harness_exposed(4 * MIB, 2, &other);
    MemswapRegion *region = &h->ram.block->regions[0];
    uint64_t next = 0;

    other_check(other, 0, 1);
    memswap_region_own(region);
    g_assert_cmpuint(memswap_trial_region(h->ram.block, 0), ==, 2);
    /* no fault: it has both mapped, or finds them in the file */
    other_fill(other, 0, 4711);
    other_fill(other, 1, 4713);
    ram_touch(h, 1);
    harness_settle(h);
    g_assert_cmpint(ram_state(&h->ram, 0), ==, MEMSWAP_TRIAL);
    g_assert_cmpint(ram_state(&h->ram, 1), ==, MEMSWAP_RESIDENT);
    g_assert_cmpuint(memswap_evict_region(h->ram.block, 0, &next, MIB), ==,
                     PAGE);
    memswap_region_disown(region);
    g_assert_cmpuint(stats_of(h).remote_faults, ==, 0);
    ram_check(h, 0, 4711);
    ram_check(h, 1, 4713);
    harness_check(h);
    other_conceal(other);
    harness_free(h);
}

/* --- failures ---------------------------------------------------------- */

/* Nothing was punched, so nothing has happened. */
static void failure(InjectCall at, int error)
{
    Other *other;
    Harness *h = harness_exposed(4 * MIB, 8, &other);
    Calls calls = { .fail = at, .error = error, .times = 1 };

    calls_count(&calls);
    memswap_reclaim_pages(h->ram.block, 0, 8, false);
    inject(NULL);
    g_assert_cmpuint(calls.n[INJECT_PUNCH], ==, at == INJECT_PUNCH);
    g_assert_cmpuint(stats_of(h).given_back, ==, 8);
    g_assert_cmpuint(stats_of(h).evictions, ==, 0);
    harness_check(h);
    g_assert_cmpuint(fake_store_live(h->store), ==, 0);
    /* and the pipe is empty again: nothing older comes out of it */
    other_fill(other, 3, 4711);
    g_assert_cmpuint(memswap_reclaim_pages(h->ram.block, 0, 8, false), ==,
                     8 * PAGE);
    for (uint64_t page = 0; page < 8; page++) {
        other_check(other, page, page == 3 ? 4711 : 2 * page + 1);
    }
    harness_check(h);
    other_conceal(other);
    harness_free(h);
}

static void test_splice_fails(void)
{
    failure(INJECT_SPLICE, -EIO);
    failure(INJECT_SPLICE, -ENOMEM);
}

static void test_punch_fails(void)
{
    failure(INJECT_PUNCH, -EPERM);
}

/* Signals, and a splice that is cut short: it goes on. */
typedef struct Cuts {
    unsigned int splices, punches;
} Cuts;

static int cut_before(void *opaque, InjectCall call, uint64_t where,
                      size_t *size)
{
    Cuts *cuts = opaque;

    if (call == INJECT_PUNCH) {
        return cuts->punches++ ? 0 : -EINTR;
    }
    if (call == INJECT_SPLICE) {
        *size = MIN(*size, 3 * PAGE / 2);
        return cuts->splices++ % 2 ? 0 : -EINTR;
    }
    return 0;
}

static void test_cut_short(void)
{
    Other *other;
    Harness *h = harness_exposed(4 * MIB, 8, &other);
    Cuts cuts = { 0 };
    InjectHooks hooks = { .before = cut_before, .opaque = &cuts };

    inject(&hooks);
    g_assert_cmpuint(memswap_reclaim_pages(h->ram.block, 0, 8, false), ==,
                     8 * PAGE);
    inject(NULL);
    g_assert_cmpuint(cuts.splices, ==, 12);
    g_assert_cmpuint(cuts.punches, ==, 2);
    check_pages(h, 0, 8);
    harness_check(h);
    other_conceal(other);
    harness_free(h);
}

/* With no room in the store nothing is punched. */
static void test_store_full(void)
{
    Other *other;
    Harness *h = harness_exposed(4 * MIB, 8, &other);
    Calls calls = { .fail = INJECT__MAX };

    h->store->put_error = -ENOSPC;
    calls_count(&calls);
    g_assert_cmpuint(memswap_reclaim_pages(h->ram.block, 0, 8, false), ==, 0);
    inject(NULL);
    g_assert_cmpuint(calls.n[INJECT_PUNCH], ==, 0);
    g_assert_cmpuint(calls.n[INJECT_SPLICE], ==, 0);
    harness_check(h);
    h->store->put_error = 0;
    other_check(other, 7, 15);
    other_conceal(other);
    harness_free(h);
}

/*
 * It changed, so that it is to be put back, and the host has no memory: then it
 * goes to the store after all.
 */
typedef struct Bare {
    Strike strike;
    unsigned int copies;    /* that fail */
    unsigned int puts;      /* the same, after the first */
} Bare;

static void refuse_put(FakeStore *store, void *opaque)
{
    Bare *bare = opaque;

    if (atomic_load(&store->puts) && bare->puts) {
        bare->puts--;
        store->put_error = -ENOSPC;
    } else {
        store->put_error = 0;
    }
}

static int bare_before(void *opaque, InjectCall call, uint64_t where,
                       size_t *size)
{
    Bare *bare = opaque;

    if (call == INJECT_COPY && bare->copies) {
        bare->copies--;
        return -ENOMEM;
    }
    return strike_before(&bare->strike, call, where, size);
}

static void bare_after(void *opaque, InjectCall call, uint64_t where,
                       size_t size, int error)
{
    Bare *bare = opaque;

    strike_after(&bare->strike, call, where, size, error);
}

static void put_back(unsigned int copies, unsigned int puts,
                     MemswapState state)
{
    Other *other;
    Harness *h = harness_exposed(4 * MIB, 6, &other);
    Bare bare = {
        .strike = {
            .other = other, .at = INJECT_SPLICE, .after = true, .page = 5,
            .number = 4711, .act = strike_fill,
        },
        .copies = copies, .puts = puts,
    };
    InjectHooks hooks = {
        .before = bare_before, .after = bare_after, .opaque = &bare,
    };

    h->store->opaque = &bare;
    h->store->before_put = refuse_put;
    inject(&hooks);
    g_assert_cmpuint(memswap_reclaim_pages(h->ram.block, 5, 6, false), ==,
                     state == MEMSWAP_STORED ? PAGE : 0);
    strike_over(&bare.strike);
    h->store->before_put = NULL;
    h->store->put_error = 0;
    g_assert_cmpuint(bare.copies, ==, 0);
    g_assert_cmpuint(bare.puts, ==, 0);
    g_assert_cmpint(ram_state(&h->ram, 5), ==, state);
    harness_check(h);
    other_check(other, 5, 4711);
    ram_check(h, 5, 4711);
    harness_check(h);
    other_conceal(other);
    harness_free(h);
}

static void test_put_back(void)
{
    put_back(0, 0, MEMSWAP_RESIDENT);
    put_back(1, 0, MEMSWAP_STORED);
    /* and the store has no room: until one of them has */
    put_back(3, 3, MEMSWAP_RESIDENT);
    put_back(3, 2, MEMSWAP_STORED);
}

/* --- strangers --------------------------------------------------------- */

/* Somebody who is not registered, and reads zeroes where a page is out. */
static Harness *harness_strange(Other **stranger)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 4 * MIB });

    write_pages(h, 0, 8);
    g_assert_cmpint(memswap_block_expose(h->ram.block, NULL), ==, 0);
    *stranger = other_new(h);
    return h;
}

/*
 * Rule 4: such a page goes, and the right one comes at once: nobody sees a part
 * of it, nor keeps the wrong one.
 */
static void test_exists(void)
{
    Other *stranger;
    Harness *h = harness_strange(&stranger);
    Calls calls = { .fail = INJECT__MAX };

    g_assert_cmpuint(memswap_reclaim(h->engine, 8 * PAGE), ==, 8 * PAGE);
    g_assert_cmpuint(other_read(stranger, 5), ==, 0);
    calls_count(&calls);
    ram_check(h, 5, 11);
    harness_settle(h);
    inject(NULL);
    g_assert_cmpuint(calls.n[INJECT_COPY], ==, 2);
    g_assert_cmpuint(calls.n[INJECT_PUNCH], ==, 1);
    g_assert_cmpuint(calls.n[INJECT_WRITE], ==, 0);
    /* his mapping went with it */
    other_check(stranger, 5, 11);
    harness_check(h);
    other_conceal(stranger);
    harness_free(h);
}

static void strike_read(Strike *strike)
{
    other_read(strike->other, strike->page);
}

/* He comes between the punch and the look at what it left. */
static void test_exists_evict(void)
{
    Other *stranger;
    Harness *h = harness_strange(&stranger);
    Strike strike = {
        .other = stranger, .at = INJECT_PUNCH, .after = true, .page = 5,
        .act = strike_read,
    };

    strike_arm(&strike);
    g_assert_cmpuint(memswap_reclaim_pages(h->ram.block, 0, 8, false), ==,
                     7 * PAGE);
    strike_over(&strike);
    g_assert_cmpuint(strike.n[INJECT_WRITE], ==, 0);
    harness_check(h);
    other_check(stranger, 5, 11);
    check_pages(h, 0, 8);
    harness_check(h);
    other_conceal(stranger);
    harness_free(h);
}

int main(int argc, char **argv)
{
    other_main(argc, argv);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/exposed/evict", test_evict);
    g_test_add_func("/exposed/zero-and-same", test_zero_and_same);
    g_test_add_func("/exposed/write/before-read", test_write_before_read);
    g_test_add_func("/exposed/write/before-splice", test_write_before_splice);
    g_test_add_func("/exposed/write/before-punch", test_write_before_punch);
    g_test_add_func("/exposed/write/same", test_write_same);
    g_test_add_func("/exposed/write/kept", test_write_kept);
    g_test_add_func("/exposed/trial", test_trial);
    g_test_add_func("/exposed/fails/splice", test_splice_fails);
    g_test_add_func("/exposed/fails/punch", test_punch_fails);
    g_test_add_func("/exposed/fails/cut-short", test_cut_short);
    g_test_add_func("/exposed/fails/store", test_store_full);
    g_test_add_func("/exposed/fails/put-back", test_put_back);
    g_test_add_func("/exposed/exists/fill", test_exists);
    g_test_add_func("/exposed/exists/evict", test_exists_evict);
    return g_test_run();
}

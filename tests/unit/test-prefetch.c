/*
 * Tests of prefetch: what comes in, what is watched of it, and what is wasted
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "policy-internal.h"
#include "puppets.h"

/* One page in so many is watched. */
#define WATCHED 16

static Harness *harness_evicted(uint64_t n)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = 16 * MIB });

    write_pages(h, 0, n);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, n * PAGE);
    puppet_add(h, "p", "puppet");
    return h;
}

/* Faults since the harness began. */
static uint64_t faults(Harness *h)
{
    MemswapStats stats = stats_of(h);

    return stats.faults[MEMSWAP_FAULT_STORED] +
           stats.faults[MEMSWAP_FAULT_SAME] +
           stats.faults[MEMSWAP_FAULT_TRIAL];
}

static void test_hits(void)
{
    Harness *h = harness_evicted(64);
    MemswapPolicyStatus status;
    uint64_t before = faults(h);

    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 0 64"), ==, 64);
    g_assert_cmpuint(stats_of(h).resident, ==, 64 * PAGE);
    g_assert_cmpuint(stats_of(h).trial, ==, 64 / WATCHED * PAGE);
    g_assert_true(ram_mapped(&h->ram, WATCHED - 2));
    g_assert_false(ram_mapped(&h->ram, WATCHED - 1));
    g_assert_cmpuint(fake_store_live(h->store), ==, 0);
    harness_check(h);
    g_assert_cmpuint(faults(h), ==, before);
    check_pages(h, 0, 64);
    g_assert_cmpuint(faults(h), ==, before + 64 / WATCHED);
    g_assert_cmpuint(puppet_counter(h, "p", "hit"), ==, 64 / WATCHED);
    status = puppet_status(h, "p");
    g_assert_cmpuint(status.prefetched, ==, 64);
    g_assert_cmpuint(status.hits, ==, 64 / WATCHED);
    g_assert_cmpuint(status.wasted, ==, 0);
    /* there is nothing more to bring */
    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 0 64"), ==, 0);
    harness_check(h);
    harness_free(h);
}

/* The last page of a request is watched, however few there are. */
static void test_last(void)
{
    Harness *h = harness_evicted(64);

    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 10 3"), ==, 3);
    g_assert_true(ram_mapped(&h->ram, 11));
    g_assert_false(ram_mapped(&h->ram, 12));
    g_assert_cmpint(ram_state(&h->ram, 12), ==, MEMSWAP_TRIAL);
    check_pages(h, 12, 1);
    g_assert_cmpuint(puppet_status(h, "p").hits, ==, 1);
    g_assert_true(ram_mapped(&h->ram, 12));
    harness_free(h);
}

static void test_wasted(void)
{
    Harness *h = harness_evicted(64);
    MemswapPolicyStatus status;

    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 0 64"), ==, 64);
    check_pages(h, 0, WATCHED);
    g_assert_cmpuint(memswap_reclaim(h->engine, UINT64_MAX), ==, 64 * PAGE);
    status = puppet_status(h, "p");
    g_assert_cmpuint(status.hits, ==, 1);
    g_assert_cmpuint(status.wasted, ==, 3);
    g_assert_cmpuint(puppet_counter(h, "p", "wasted"), ==, 3);
    check_pages(h, 0, 64);
    harness_check(h);
    harness_free(h);
}

/* Holes, and pages that are there: only what is stored comes. */
static void test_holes(void)
{
    Harness *h = harness_evicted(100);

    check_pages(h, 20, 10);
    memswap_discard(h->engine, h->ram.host + 50 * PAGE, 10 * PAGE);
    memswap_pin(h->engine, h->ram.host + 40 * PAGE, PAGE);
    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 0 2048"), ==,
                    100 - 10 - 10 - 1);
    g_assert_cmpint(ram_state(&h->ram, 50), ==, MEMSWAP_ABSENT);
    g_assert_cmpuint(stats_of(h).resident, ==, 90 * PAGE);
    memswap_unpin(h->engine, h->ram.host + 40 * PAGE, PAGE);
    check_pages(h, 60, 40);
    harness_check(h);
    harness_free(h);
}

/* Pages on trial are mapped again, but for those that are watched. */
static void test_trial(void)
{
    Harness *h = harness_evicted(64);
    uint64_t before;

    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 0 32"), ==, 32);
    write_pages(h, 32, 16);
    write_pages(h, 0, 16);
    g_assert_cmpint(puppet_ask(h, "p", "trial", "0 0 -1"), ==, 48);
    before = faults(h);
    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 0 64"), ==, 16);
    /* the one of the first request, and the one of this */
    g_assert_cmpuint(stats_of(h).trial, ==, 2 * PAGE);
    g_assert_cmpint(ram_state(&h->ram, 31), ==, MEMSWAP_TRIAL);
    g_assert_true(ram_mapped(&h->ram, 0));
    g_assert_true(ram_mapped(&h->ram, 40));
    check_pages(h, 0, 64);
    g_assert_cmpuint(faults(h), ==, before + 2);
    g_assert_cmpuint(puppet_status(h, "p").hits, ==, 3);
    harness_check(h);
    harness_free(h);
}

/* The same where nothing was ever taken out. */
static void test_only_trial(void)
{
    Harness *h = harness_evicted(0);

    write_pages(h, 0, 64);
    g_assert_cmpint(puppet_ask(h, "p", "trial", "0 0 -1"), ==, 64);
    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 0 64"), ==, 0);
    g_assert_cmpuint(stats_of(h).trial, ==, 0);
    g_assert_true(ram_mapped(&h->ram, 63));
    harness_check(h);
    harness_free(h);
}

/* It takes no room that others need, nor time that is over. */
static void test_room(void)
{
    Harness *h = harness_evicted(2048);
    MemswapStats stats;

    h->engine->reserve_low = MIB;
    harness_set_limit(h, 4 * MIB, 0);
    g_assert_cmpint(puppet_ask(h, "p", "prefetch-late", "0 0 2048"), ==, 0);
    g_assert_cmpint(puppet_ask(h, "p", "prefetch-normal", "0 0 2048"), ==,
                    (4 * MIB - MIB / 2) / PAGE);
    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 0 2048"), ==,
                    MIB / 2 / PAGE);
    stats = stats_of(h);
    g_assert_cmpuint(stats.resident, ==, 4 * MIB);
    g_assert_cmpuint(stats.overshoots, ==, 0);
    g_assert_cmpuint(stats.peak_resident, <=, 8 * MIB);
    h->engine->reserve_low = 0;
    harness_free(h);
}

/* One that comes before and lacks room leaves those after it none. */
static void test_precedence(void)
{
    Harness *h = harness_evicted(1024);
    MemswapPolicyHost *host = puppet_host(h, "p");
    int64_t before = memswap_policy_real_time();

    puppet_add(h, "after", "puppet-prefetcher");
    harness_set_limit(h, 2 * MIB, 0);
    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 0 1024"), ==, 512);
    g_assert_cmpint(atomic_load(&host->hungry_until), >, before);
    g_assert_cmpint(atomic_load(&host->hungry_until), <=,
                    memswap_policy_real_time() + 100000000);
    /* however long what follows takes here */
    atomic_store(&host->hungry_until, INT64_MAX);
    memswap_reclaim(h->engine, MIB);
    g_assert_cmpint(puppet_ask(h, "after", "prefetch", "0 512 64"), ==, 0);
    /* a while later it is the others' turn again */
    atomic_store(&host->hungry_until, before);
    g_assert_cmpint(puppet_ask(h, "after", "prefetch", "0 512 64"), ==, 64);
    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 600 8"), >, 0);
    harness_free(h);
}

/* Who comes in the place of one that went has none of its past. */
static void test_heirs(void)
{
    Harness *h = harness_evicted(1024);
    g_autofree MemswapPolicyStatus *list = NULL;
    unsigned int n;

    puppet_add(h, "second", "puppet-prefetcher");
    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 0 64"), ==, 64);
    g_assert_cmpint(memswap_policy_remove(h->engine, "p", NULL), ==, 0);
    puppet_add(h, "heir", "puppet");
    /* pages that were watched for another */
    check_pages(h, 0, 32);
    memswap_reclaim(h->engine, UINT64_MAX);
    g_assert_cmpuint(puppet_status(h, "heir").hits, ==, 0);
    g_assert_cmpuint(puppet_status(h, "heir").wasted, ==, 0);
    g_assert_cmpuint(puppet_status(h, "second").hits, ==, 0);
    /* it comes last */
    list = memswap_policy_list(h->engine, &n);
    g_assert_cmpuint(n, ==, 2);
    g_assert_cmpstr(list[0].id, ==, "second");
    g_assert_cmpstr(list[1].id, ==, "heir");
    harness_set_limit(h, 2 * MIB, 0);
    g_assert_cmpint(puppet_ask(h, "second", "prefetch", "0 0 1024"), ==,
                    512);
    /* it lacks room for as long as what follows takes */
    atomic_store(&puppet_host(h, "second")->hungry_until, INT64_MAX);
    memswap_reclaim(h->engine, MIB);
    g_assert_cmpint(puppet_ask(h, "heir", "prefetch", "0 512 64"), ==, 0);
    harness_free(h);
}

/* Who wastes all is soon left with little, and gets it back by doing well. */
static void test_throttle(void)
{
    Harness *h = harness_evicted(2048);
    MemswapPolicyStatus status;
    uint64_t before, after;
    unsigned int rounds = 0;

    for (unsigned int i = 0; i < 20; i++) {
        puppet_ask(h, "p", "prefetch", "0 0 512");
        memswap_reclaim(h->engine, UINT64_MAX);
    }
    status = puppet_status(h, "p");
    g_assert_cmpuint(status.hits, ==, 0);
    g_assert_cmpuint(status.throttled, >, 20 * 512 / 2);
    before = status.prefetched;
    for (unsigned int i = 0; i < 10; i++) {
        puppet_ask(h, "p", "prefetch", "0 0 512");
        memswap_reclaim(h->engine, UINT64_MAX);
    }
    after = puppet_status(h, "p").prefetched;
    g_assert_cmpuint(after - before, <=, 10 * 512 / 20);
    /* something always comes, by which it can prove better */
    g_assert_cmpuint(after, >, before);
    while (puppet_ask(h, "p", "prefetch", "0 0 512") < 512) {
        for (uint64_t page = 0; page < 512; page++) {
            ram_touch(h, page);
        }
        memswap_reclaim(h->engine, UINT64_MAX);
        g_assert_cmpuint(++rounds, <, 1000);
    }
    check_pages(h, 0, 2048);
    harness_check(h);
    harness_free(h);
}

/* A copy that is damaged is left to whoever really wants it. */
static void test_damaged(void)
{
    Harness *h = harness_evicted(64);

    atomic_store(&h->store->get_error, -EBADMSG);
    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 0 64"), ==, 0);
    atomic_store(&h->store->get_error, 0);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_PAGE_LOST), ==, 0);
    g_assert_cmpuint(stats_of(h).resident, ==, 0);
    harness_check(h);
    check_pages(h, 0, 64);
    harness_free(h);
}

/* A hint of hugepages: what memswap_fill() does for nobody in particular. */
static void test_hint(void)
{
    Harness *h = harness_evicted(4);
    uint64_t before = faults(h);
    MemswapBlock *block = h->ram.block;
    MemswapFaultKind kind;

    g_assert_cmpint(memswap_fill(block, 0, MEMSWAP_FILL_HINT, &kind), ==,
                    MEMSWAP_DONE);
    g_assert_true(ram_mapped(&h->ram, 0));
    g_assert_cmpuint(faults(h), ==, before);
    /* what is there, or never was, is none of its business */
    g_assert_cmpint(memswap_fill(block, 0, MEMSWAP_FILL_HINT, &kind), ==,
                    MEMSWAP_BUSY);
    g_assert_cmpint(memswap_fill(block, 9, MEMSWAP_FILL_HINT, &kind), ==,
                    MEMSWAP_BUSY);
    g_assert_cmpint(ram_state(&h->ram, 9), ==, MEMSWAP_ABSENT);
    /* damaged: left to whoever really wants it */
    atomic_store(&h->store->get_error, -EBADMSG);
    g_assert_cmpint(memswap_fill(block, 1, MEMSWAP_FILL_HINT, &kind), ==,
                    MEMSWAP_NO_ROOM);
    atomic_store(&h->store->get_error, 0);
    g_assert_cmpint(ram_state(&h->ram, 1), ==, MEMSWAP_STORED);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_PAGE_LOST), ==, 0);
    /* in somebody's hands: it isn't woken for us */
    memswap_region_own(&block->regions[0]);
    atomic_fetch_xor(&block->words[2], MEMSWAP_STORED ^ MEMSWAP_FILLING);
    g_assert_cmpint(memswap_fill(block, 2, MEMSWAP_FILL_HINT, &kind), ==,
                    MEMSWAP_BUSY);
    g_assert_false(memswap_word_load(&block->words[2]) &
                   MEMSWAP_WORD_WANTED);
    atomic_fetch_xor(&block->words[2], MEMSWAP_STORED ^ MEMSWAP_FILLING);
    memswap_region_disown(&block->regions[0]);
    harness_check(h);
    check_pages(h, 0, 4);
    harness_free(h);
}

/* Something got into the page cache without us: the copy is what counts. */
static void test_there_already(void)
{
    Harness *h = harness_evicted(8);
    uint64_t page[PAGE / sizeof(uint64_t)];

    page_build(page, 12345);
    g_assert_cmpint(pwrite(h->ram.fd, page, PAGE, 7 * PAGE), ==, PAGE);
    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 0 8"), ==, 8);
    g_assert_cmpint(ram_state(&h->ram, 7), ==, MEMSWAP_TRIAL);
    check_pages(h, 0, 8);
    harness_check(h);
    harness_free(h);
}

/* The file can't be written: as if nothing had happened. */
static int fail_write(void *opaque, InjectCall call, uint64_t where,
                      size_t *size)
{
    return call == INJECT_WRITE ? -ENOSPC : 0;
}

static void test_write_fails(void)
{
    Harness *h = harness_evicted(16);
    InjectHooks hooks = { .before = fail_write };

    inject(&hooks);
    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 0 8"), ==, 7);
    inject(NULL);
    g_assert_cmpint(ram_state(&h->ram, 7), ==, MEMSWAP_STORED);
    harness_check(h);
    check_pages(h, 0, 16);
    harness_free(h);
}

/* --- linear ------------------------------------------------------------ */

/* Touch pages, each only when the policy has done what it wants to do. */
static void touch_slowly(Harness *h, int64_t page, int64_t stride,
                         unsigned int n)
{
    while (n--) {
        ram_touch(h, page);
        page += stride;
        puppet_settle(h, "l");
    }
}

static void linear(int64_t first, int64_t stride)
{
    Harness *h = harness_evicted(4096);
    MemswapPolicyStatus status;
    uint64_t before;

    memswap_policy_remove(h->engine, "p", NULL);
    builtin_add(h, "l", "linear");
    before = faults(h);
    touch_slowly(h, first, stride, 400);
    status = puppet_status(h, "l");
    g_test_message("stride %d: %u faults, %u prefetched, %u hits",
                   (int)stride, (unsigned int)(faults(h) - before),
                   (unsigned int)status.prefetched,
                   (unsigned int)status.hits);
    /* five to learn, then those watched: one in sixteen */
    g_assert_cmpuint(faults(h) - before, <=, 5 + 400 / WATCHED + 10);
    g_assert_cmpuint(status.prefetched, >=, 380);
    g_assert_cmpuint(status.prefetched, <=, 400 + 2 * 64);
    g_assert_cmpuint(status.wasted, ==, 0);
    harness_check(h);
    harness_free(h);
}

static void test_linear(void)
{
    linear(0, 1);
    linear(10, 7);
    linear(4000, -3);
}

/* One in four steps goes astray: the majority has it. */
static void test_linear_noise(void)
{
    Harness *h = harness_evicted(4096);
    uint64_t before;

    memswap_policy_remove(h->engine, "p", NULL);
    builtin_add(h, "l", "linear");
    before = faults(h);
    for (uint64_t i = 0; i < 200; i++) {
        touch_slowly(h, 5 * i, 1, 1);
        if (i % 4 == 3) {
            /* far from the stream */
            touch_slowly(h, 3000 + i * 37 % 1000, 1, 1);
        }
    }
    g_assert_cmpuint(faults(h) - before, <=, 50 + 60);
    harness_free(h);
}

/* What has no stride brings in next to nothing. */
static void test_linear_random(void)
{
    Harness *h = harness_evicted(4096);
    MemswapPolicyStatus status;
    uint32_t number = 1;

    memswap_policy_remove(h->engine, "p", NULL);
    builtin_add(h, "l", "linear");
    for (uint64_t i = 0; i < 1000; i++) {
        number = number * 1664525 + 1013904223;
        ram_touch(h, (number >> 8) % 4096);
    }
    status = puppet_status(h, "l");
    g_assert_cmpuint(status.prefetched, <=, 50);
    harness_free(h);
}

/* --- limit ------------------------------------------------------------- */

/* It makes the room, not the evictors, and all is as it was written. */
static void test_limit(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 64 * MIB, .limit = 16 * MIB, .evictors = 1,
        .reserve_low = 4 * MIB, .reserve_high = 6 * MIB,
    });
    MemswapStats stats;
    uint64_t n = 64 * MIB / PAGE;

    builtin_add(h, "l", "limit");
    for (unsigned int round = 0; round < 2; round++) {
        for (uint64_t page = 0; page < n; page++) {
            if (round) {
                ram_check(h, page, 2 * page + 1);
            } else {
                ram_fill(h, page, 2 * page + 1);
            }
            /* so that it can keep up, on a busy machine */
            if (page % 256 == 255) {
                wait_until(atomic_load(&h->engine->charged) <= 12 * MIB);
            }
        }
    }
    puppet_settle(h, "l");
    stats = stats_of(h);
    g_assert_cmpuint(stats.overshoots, ==, 0);
    g_assert_cmpuint(stats.peak_resident, <=, 16 * MIB);
    g_assert_cmpuint(puppet_status(h, "l").reclaimed, >=, 48 * MIB);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR), ==, 0);
    harness_check(h);
    harness_free(h);
}

/* The reclaimer hangs: evictors keep the room that there has to be. */
static void test_reclaimer_hangs(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = 32 * MIB, .limit = 8 * MIB, .evictors = 1,
        .reserve_low = MIB, .reserve_high = 2 * MIB,
    });
    _Atomic int *release;

    puppet_add(h, "p", "puppet-hang");
    atomic_store(&h->engine->policies.patience, 1000000000);
    release = puppet_symbol("puppet-hang", "puppet_release");
    puppet_ask(h, "p", "hang-next", "0");
    for (uint64_t page = 0; page < 32 * MIB / PAGE; page++) {
        ram_fill(h, page, 2 * page + 1);
    }
    wait_until(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR) == 1);
    for (uint64_t page = 0; page < 32 * MIB / PAGE; page++) {
        ram_check(h, page, 2 * page + 1);
    }
    g_assert_cmpuint(stats_of(h).overshoots, ==, 0);
    wait_until(atomic_load(&h->engine->charged) <= 7 * MIB &&
               atomic_load(&h->engine->sleepers) == 1);
    harness_free(h);
    atomic_store(release, 1);
    g_usleep(50000);
    atomic_store(release, 0);
}

/* --- everything at once ------------------------------------------------ */

#define STRESS_PAGES (32 * MIB / PAGE)
#define STRESS_SECONDS 3

typedef struct Stress {
    Harness *h;
    _Atomic bool stop;
    _Atomic uint32_t numbers[STRESS_PAGES];
} Stress;

/* Each thread has pages of its own; so their numbers are known. */
static gpointer toucher(gpointer opaque)
{
    static _Atomic uint32_t threads;
    Stress *stress = opaque;
    uint32_t self = atomic_fetch_add(&threads, 1) % 2;
    uint32_t random = self + 1;
    uint64_t at = 0;

    while (!atomic_load(&stress->stop)) {
        uint64_t page;

        random = random * 1664525 + 1013904223;
        /* now a stride, now anywhere */
        at = random >> 28 ? at + 3 : random >> 8;
        page = at % (STRESS_PAGES / 2) * 2 + self;
        ram_check(stress->h, page, atomic_load(&stress->numbers[page]));
        if (random & 1024) {
            atomic_store(&stress->numbers[page], random | 1);
            ram_fill(stress->h, page, random | 1);
        }
    }
    return NULL;
}

static gpointer discarder(gpointer opaque)
{
    Stress *stress = opaque;

    while (!atomic_load(&stress->stop)) {
        /* its last region is nobody else's */
        memswap_discard(stress->h->engine, stress->h->ram.host +
                        STRESS_PAGES * PAGE, MEMSWAP_REGION_SIZE);
        for (uint64_t i = 0; i < REGION_PAGES; i++) {
            ram_fill(stress->h, STRESS_PAGES + i, 2 * i + 1);
        }
        g_usleep(1000);
    }
    return NULL;
}

static void test_stress(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = STRESS_PAGES * PAGE + MEMSWAP_REGION_SIZE, .limit = 12 * MIB,
        .evictors = 1, .readahead = 16 * PAGE, .keep_copies = MIB,
        .pool = true,
    });
    g_autofree Stress *stress = g_new0(Stress, 1);
    int64_t end = g_get_monotonic_time() + STRESS_SECONDS * G_USEC_PER_SEC;
    GThread *threads[3];

    stress->h = h;
    /* first, or it gets no room; without events, which take its budget */
    puppet_add(h, "p", "puppet-quiet");
    builtin_add(h, "linear", "linear");
    builtin_add(h, "limit", "limit");
    for (uint64_t page = 0; page < STRESS_PAGES; page++) {
        stress->numbers[page] = 2 * page + 1;
        ram_fill(h, page, 2 * page + 1);
    }
    threads[0] = g_thread_new("touch", toucher, stress);
    threads[1] = g_thread_new("touch", toucher, stress);
    threads[2] = g_thread_new("discard", discarder, stress);
    while (g_get_monotonic_time() < end) {
        g_autofree char *value = g_strdup_printf(
            "0 %u 64", (unsigned int)g_random_int_range(
                           0, STRESS_PAGES + REGION_PAGES - 64));

        /* or there would hardly ever be room */
        memswap_reclaim(h->engine, MIB);
        memswap_policy_set(h->engine, "p", "prefetch", value, NULL);
    }
    atomic_store(&stress->stop, true);
    for (int i = 0; i < 3; i++) {
        g_thread_join(threads[i]);
    }
    /* how much is a matter of luck */
    g_test_message("%u pages prefetched, %u by a policy of strides",
                   (unsigned int)puppet_status(h, "p").prefetched,
                   (unsigned int)puppet_status(h, "linear").prefetched);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR), ==, 0);
    g_assert_cmpint(memswap_policy_remove(h->engine, "linear", NULL), ==, 0);
    g_assert_cmpint(memswap_policy_remove(h->engine, "limit", NULL), ==, 0);
    for (uint64_t page = 0; page < STRESS_PAGES; page++) {
        ram_check(h, page, stress->numbers[page]);
    }
    harness_check(h);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/prefetch/hits", test_hits);
    g_test_add_func("/prefetch/last", test_last);
    g_test_add_func("/prefetch/wasted", test_wasted);
    g_test_add_func("/prefetch/holes", test_holes);
    g_test_add_func("/prefetch/trial", test_trial);
    g_test_add_func("/prefetch/only-trial", test_only_trial);
    g_test_add_func("/prefetch/room", test_room);
    g_test_add_func("/prefetch/precedence", test_precedence);
    g_test_add_func("/prefetch/heirs", test_heirs);
    g_test_add_func("/prefetch/throttle", test_throttle);
    g_test_add_func("/prefetch/damaged", test_damaged);
    g_test_add_func("/prefetch/hint", test_hint);
    g_test_add_func("/prefetch/there-already", test_there_already);
    g_test_add_func("/prefetch/write-fails", test_write_fails);
    g_test_add_func("/prefetch/linear", test_linear);
    g_test_add_func("/prefetch/linear-noise", test_linear_noise);
    g_test_add_func("/prefetch/linear-random", test_linear_random);
    g_test_add_func("/prefetch/limit", test_limit);
    g_test_add_func("/prefetch/reclaimer-hangs", test_reclaimer_hangs);
    g_test_add_func("/prefetch/stress", test_stress);
    return g_test_run();
}

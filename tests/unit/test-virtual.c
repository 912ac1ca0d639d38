/*
 * Tests of the policy "virtual": strides in a guest's own addresses
 *
 * The guest's page tables lie in managed RAM, at guest-physical addresses that
 * are offsets in it, and are read as in QEMU: through memswap_peek().  What
 * is side by side for the guest is shuffled in its RAM.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>

#include "memswap/guest-table.h"
#include "policy-internal.h"
#include "puppets.h"

/* Guest-virtual pages, and where they begin, in each address space. */
#define PAGES 2048
#define FIRST UINT64_C(0x7f1200000000)
#define SPACES 2
/* Tables: from this page of the RAM on. */
#define TABLES (SPACES * PAGES)
#define TABLE_PAGES 16
#define RAM_SIZE (18 * MIB)

/* One page in so many is watched. */
#define WATCHED 16

/* What the host's callbacks know; they have the harness for their opaque. */
static struct {
    uint64_t roots[SPACES];
    uint16_t frames[PAGES], pages[PAGES];
    uint64_t next_table;
    _Atomic bool no_context;    /* the address of a fault is not known */
    _Atomic unsigned int reverses;
    _Atomic unsigned int walks, found;
} guest;

/* A space's pages are all over its part of the RAM. */
static uint64_t frame_of(unsigned int space, uint64_t page)
{
    return space * PAGES + guest.frames[page];
}

static uint64_t page_of(uint64_t frame)
{
    return guest.pages[frame % PAGES];
}

static void shuffle(void)
{
    uint32_t random = 1;

    memset(&guest, 0, sizeof(guest));
    for (unsigned int page = 0; page < PAGES; page++) {
        unsigned int other;

        random = random * 1664525 + 1013904223;
        other = (random >> 8) % (page + 1);
        guest.frames[page] = guest.frames[other];
        guest.frames[other] = page;
    }
    for (unsigned int page = 0; page < PAGES; page++) {
        guest.pages[guest.frames[page]] = page;
    }
}

static uint64_t *table_at(Harness *h, uint64_t physical)
{
    return (uint64_t *)(h->ram.host + physical);
}

static uint64_t *entry_of(Harness *h, uint64_t root, uint64_t address)
{
    uint64_t table = root & MEMSWAP_GUEST_ADDRESS;

    for (unsigned int level = 4; ; level--) {
        uint64_t *entry = table_at(h, table) +
                          (address >> (12 + 9 * (level - 1)) & 511);

        if (level == 1) {
            return entry;
        }
        if (!*entry) {
            *entry = guest.next_table++ * PAGE | 7;
        }
        table = *entry & MEMSWAP_GUEST_ADDRESS;
    }
}

static void map(Harness *h, unsigned int space, uint64_t page, uint64_t frame)
{
    *entry_of(h, guest.roots[space], FIRST + page * PAGE) = frame * PAGE | 7;
}

static int read_physical(void *opaque, uint64_t physical, void *buffer,
                         size_t size)
{
    Harness *h = opaque;

    return physical < h->ram.size ?
           memswap_peek(h->engine, h->ram.host + physical, buffer, size) :
           -EFAULT;
}

static int host_translate(void *opaque, uint64_t root, uint64_t address,
                          const void **host)
{
    Harness *h = opaque;
    uint64_t physical;
    int ret = memswap_guest_walk(root, address, read_physical, h, &physical,
                                 NULL);

    if (!ret && physical >= h->ram.size) {
        ret = -EFAULT;
    }
    atomic_fetch_add(&guest.walks, 1);
    atomic_fetch_add(&guest.found, !ret);
    *host = ret ? NULL : h->ram.host + physical;
    return ret == -EAGAIN ? -EBUSY : ret;
}

static bool find_address(Harness *h, const void *host, uint64_t *root,
                         uint64_t *address)
{
    uint64_t frame = ((const uint8_t *)host - h->ram.host) / PAGE;

    if (frame >= SPACES * PAGES) {
        return false;
    }
    *root = guest.roots[frame / PAGES];
    *address = FIRST + page_of(frame) * PAGE;
    return true;
}

static int host_reverse(void *opaque, const void *host, uint64_t *root,
                        uint64_t *address)
{
    atomic_fetch_add(&guest.reverses, 1);
    return find_address(opaque, host, root, address) ? 0 : -EFAULT;
}

static void host_context(void *opaque, pid_t tid, const void *host,
                         MemswapFaultContext *context)
{
    if (!guest.no_context &&
        find_address(opaque, host, &context->root, &context->address)) {
        context->known = MEMSWAP_POLICY_KNOWN_ROOT |
                         MEMSWAP_POLICY_KNOWN_ADDRESS;
    }
}

/* Its memory as it is when all is right. */
static void guest_build(Harness *h)
{
    shuffle();
    guest.next_table = TABLES;
    for (unsigned int space = 0; space < SPACES; space++) {
        guest.roots[space] = memswap_guest_root(guest.next_table++ * PAGE, 4);
        for (uint64_t page = 0; page < PAGES; page++) {
            map(h, space, page, frame_of(space, page));
        }
    }
    g_assert_cmpuint(guest.next_table, <=, TABLES + TABLE_PAGES);
    write_pages(h, 0, SPACES * PAGES);
}

static void guest_begin(Harness *h, const char *policy)
{
    h->engine->host.translate = host_translate;
    h->engine->host.reverse = host_reverse;
    h->engine->host.fault_context = host_context;
    /* whoever resolves faults has seen them then */
    harness_settle(h);
    builtin_add(h, "v", policy);
}

/* All of the guest's pages are stored; its tables too, if they may be. */
static Harness *guest_new(const char *policy)
{
    Harness *h = harness_new(&(HarnessOptions) { .size = RAM_SIZE });

    guest_build(h);
    memswap_reclaim(h->engine, UINT64_MAX);
    g_assert_cmpuint(stats_of(h).resident, ==, 0);
    guest_begin(h, policy);
    return h;
}

static uint64_t faults(Harness *h)
{
    MemswapStats stats = stats_of(h);

    return stats.faults[MEMSWAP_FAULT_STORED] +
           stats.faults[MEMSWAP_FAULT_SAME] +
           stats.faults[MEMSWAP_FAULT_TRIAL];
}

/* Each only when the policy has done what it wants to do. */
static void touch(Harness *h, unsigned int space, int64_t page)
{
    uint64_t frame = frame_of(space, page);

    ram_check(h, frame, 2 * frame + 1);
    puppet_settle(h, "v");
}

static void touch_slowly(Harness *h, int64_t page, int64_t stride,
                         unsigned int n)
{
    while (n--) {
        touch(h, 0, page);
        page += stride;
    }
}

static void check_tables_stored(Harness *h)
{
    for (uint64_t page = TABLES; page < guest.next_table; page++) {
        g_assert_cmpint(ram_state(&h->ram, page), ==, MEMSWAP_STORED);
    }
}

static void check_strides(int64_t first, int64_t stride, unsigned int n)
{
    Harness *h = guest_new("virtual");
    uint64_t before = faults(h);
    MemswapPolicyStatus status;

    touch_slowly(h, first, stride, n);
    status = puppet_status(h, "v");
    g_test_message("stride %d: %u faults, %u prefetched, %u hits",
                   (int)stride, (unsigned int)(faults(h) - before),
                   (unsigned int)status.prefetched,
                   (unsigned int)status.hits);
    /* five to learn, then those watched */
    g_assert_cmpuint(faults(h) - before, <=, 5 + n / WATCHED + 10);
    g_assert_cmpuint(status.prefetched, >=, n - 20);
    g_assert_cmpuint(status.prefetched, <=, n + 2 * 64);
    g_assert_cmpuint(status.wasted, ==, 0);
    /* shown when something was asked, and now and then */
    g_assert_cmpuint(puppet_counter(h, "v", "known"), <=, faults(h) - before);
    g_assert_cmpuint(puppet_counter(h, "v", "known") + 16, >,
                     faults(h) - before);
    g_assert_cmpuint(puppet_counter(h, "v", "unknown"), ==, 0);
    /* the tables were read where they are */
    check_tables_stored(h);
    harness_check(h);
    harness_free(h);
}

static void test_strides(void)
{
    check_strides(0, 1, 400);
    check_strides(10, 5, 400);
    check_strides(2000, -3, 400);
}

/* In the RAM's own order there is nothing to be found. */
static void test_linear(void)
{
    Harness *h = guest_new("linear");
    uint64_t before = faults(h);

    touch_slowly(h, 0, 1, 400);
    g_assert_cmpuint(puppet_status(h, "v").prefetched, <=, 20);
    g_assert_cmpuint(faults(h) - before, >=, 380);
    harness_free(h);
}

/* The same addresses in two processes, in turn. */
static void test_spaces(void)
{
    Harness *h = guest_new("virtual");
    uint64_t before = faults(h);

    for (unsigned int i = 0; i < 300; i++) {
        touch(h, 0, i);
        touch(h, 1, 1000 - 2 * i);
    }
    g_assert_cmpuint(faults(h) - before, <=, 2 * (5 + 300 / WATCHED + 10));
    g_assert_cmpuint(puppet_status(h, "v").wasted, ==, 0);
    harness_free(h);
}

/* No address with the fault: it is looked up, if the host can. */
static void test_reverse(void)
{
    Harness *h = guest_new("virtual");
    uint64_t before = faults(h);

    guest.no_context = true;
    touch_slowly(h, 0, 1, 200);
    g_assert_cmpuint(faults(h) - before, <=, 5 + 200 / WATCHED + 10);
    g_assert_cmpuint(atomic_load(&guest.reverses), ==, faults(h) - before);
    /* a table's page is nowhere */
    memswap_reclaim(h->engine, UINT64_MAX);
    for (uint64_t page = TABLES; page < guest.next_table; page++) {
        ram_touch(h, page);
    }
    touch_slowly(h, 1000, 1, 16);
    g_assert_cmpuint(puppet_counter(h, "v", "unknown"), ==,
                     guest.next_table - TABLES);
    harness_free(h);
}

static int no_reverse(void *opaque, const void *host, uint64_t *root,
                      uint64_t *address)
{
    atomic_fetch_add(&guest.reverses, 1);
    return -EOPNOTSUPP;
}

static void test_no_reverse(void)
{
    Harness *h = guest_new("virtual");

    guest.no_context = true;
    h->engine->host.reverse = no_reverse;
    harness_settle(h);
    touch_slowly(h, 0, 1, 50);
    g_assert_cmpuint(atomic_load(&guest.reverses), ==, 1);
    g_assert_cmpuint(puppet_counter(h, "v", "unknown"), ==, 50 / 16 * 16);
    g_assert_cmpuint(puppet_status(h, "v").prefetched, ==, 0);
    harness_free(h);
}

/* Where the guest has no pages there is nothing to bring. */
static void test_end(void)
{
    Harness *h = guest_new("virtual");

    for (uint64_t page = 100; page < PAGES; page++) {
        *entry_of(h, guest.roots[0], FIRST + page * PAGE) = 0;
    }
    /* but for some that are scattered */
    map(h, 0, 103, frame_of(0, 103));
    memswap_reclaim(h->engine, UINT64_MAX);
    touch_slowly(h, 0, 1, 100);
    for (uint64_t page = 100; page < PAGES; page++) {
        MemswapState state = ram_state(&h->ram, frame_of(0, page));

        g_assert_true((page == 103) == (state != MEMSWAP_STORED));
    }
    harness_free(h);
}

/* What left untouched makes its stream ask for less. */
static void test_wasted(void)
{
    Harness *h = guest_new("virtual");
    uint64_t before;

    touch_slowly(h, 0, 1, 300);
    memswap_reclaim(h->engine, UINT64_MAX);
    g_assert_cmpuint(puppet_status(h, "v").wasted, >=, 3);
    before = puppet_status(h, "v").prefetched;
    touch_slowly(h, 500, 1, 2);
    g_assert_cmpuint(puppet_status(h, "v").prefetched - before, <=, 16);
    harness_free(h);
}

/* The guest changes its tables all the time: wrong pages come, no harm done. */
typedef struct Churn {
    Harness *h;
    _Atomic uint64_t *leaves[PAGES];    /* entries of space 0 */
    _Atomic bool stop;
} Churn;

/* What a page's entry may say next: mostly some page of the RAM. */
static uint64_t new_entry(uint64_t page, uint32_t random)
{
    switch (random >> 28) {
    case 0:
        return 0;
    case 1:
        /* anything */
        return (uint64_t)random << 9 | (random >> 3 & 0x87);
    case 2:
    case 3:
    case 4:
        return (random >> 8) % (RAM_SIZE / PAGE) * PAGE | 7;
    default:
        return frame_of(0, page) * PAGE | 7;
    }
}

static gpointer change(gpointer opaque)
{
    Churn *churn = opaque;
    _Atomic uint64_t *top = (_Atomic uint64_t *)
        table_at(churn->h, guest.roots[0] & MEMSWAP_GUEST_ADDRESS) +
        (FIRST >> 39 & 511);
    uint64_t right = atomic_load(top);
    uint32_t random = 1;

    while (!atomic_load(&churn->stop)) {
        uint64_t page;

        random = random * 1664525 + 1013904223;
        page = (random >> 8) % PAGES;
        atomic_store(churn->leaves[page], new_entry(page, random));
        if (!(random >> 26)) {
            /* a table that is none, for a while; tables may leave meanwhile */
            atomic_store(top, (random >> 8) % (RAM_SIZE / PAGE) * PAGE | 7);
            g_usleep(100);
            atomic_store(top, right);
            g_usleep(1000);
        }
    }
    return NULL;
}

static void test_changes(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = RAM_SIZE, .limit = 4 * MIB, .evictors = 1, .pool = true,
    });
    Churn churn = { .h = h };
    unsigned int walks, found;
    GThread *thread;

    guest_build(h);
    for (unsigned int page = 0; page < PAGES; page++) {
        churn.leaves[page] = (_Atomic uint64_t *)
            entry_of(h, guest.roots[0], FIRST + page * PAGE);
    }
    guest_begin(h, "virtual");
    thread = g_thread_new("change", change, &churn);
    for (unsigned int i = 0; i < 4 * PAGES; i++) {
        uint64_t frame = frame_of(0, i % PAGES);

        ram_check(h, frame, 2 * frame + 1);
    }
    atomic_store(&churn.stop, true);
    g_thread_join(thread);
    walks = atomic_load(&guest.walks);
    found = atomic_load(&guest.found);
    g_test_message("%u of %u addresses had a page, %u came", found, walks,
                   (unsigned int)puppet_status(h, "v").prefetched);
    g_assert_cmpuint(found, >, walks / 4);
    g_assert_cmpuint(found, <, walks);
    g_assert_cmpuint(puppet_status(h, "v").prefetched, >, 0);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR), ==, 0);
    g_assert_cmpint(memswap_policy_remove(h->engine, "v", NULL), ==, 0);
    check_pages(h, 0, SPACES * PAGES);
    harness_free(h);
}

static void test_options(void)
{
    Harness *h = guest_new("virtual");
    uint64_t before;

    g_assert_cmpint(memswap_policy_set(h->engine, "v", "window", "0", NULL),
                    ==, -EINVAL);
    g_assert_cmpint(memswap_policy_set(h->engine, "v", "door", "1", NULL),
                    ==, -ENOENT);
    g_assert_cmpint(memswap_policy_set(h->engine, "v", "window", "8", NULL),
                    ==, 0);
    touch_slowly(h, 0, 1, 200);
    /* no more than two windows ahead */
    g_assert_cmpint(ram_state(&h->ram, frame_of(0, 199 + 17)), ==,
                    MEMSWAP_STORED);
    g_assert_cmpuint(puppet_status(h, "v").prefetched, >=, 150);
    /* a new machine: nothing is as it was */
    memswap_guest_reset(h->engine);
    before = puppet_status(h, "v").prefetched;
    /* near where it was, but it has to learn anew */
    touch_slowly(h, 250, 1, 4);
    g_assert_cmpuint(puppet_status(h, "v").prefetched, ==, before);
    touch_slowly(h, 254, 1, 4);
    g_assert_cmpuint(puppet_status(h, "v").prefetched, >, before);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/virtual/strides", test_strides);
    g_test_add_func("/virtual/linear", test_linear);
    g_test_add_func("/virtual/spaces", test_spaces);
    g_test_add_func("/virtual/reverse", test_reverse);
    g_test_add_func("/virtual/no-reverse", test_no_reverse);
    g_test_add_func("/virtual/end", test_end);
    g_test_add_func("/virtual/wasted", test_wasted);
    g_test_add_func("/virtual/changes", test_changes);
    g_test_add_func("/virtual/options", test_options);
    return g_test_run();
}

/*
 * Tests of what is known to lose data: pages that the page cache has already,
 * and huge ones
 *
 * Above each test stands the rule; with the rule taken out of the engine, the
 * test fails.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "harness.h"

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
        ram_smaps(&h->ram, "ShmemPmdMapped:") != 2048) {
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
    g_assert_cmpint(ram_smaps(ram, "ShmemPmdMapped:"), ==, 0);
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
    return g_test_run();
}

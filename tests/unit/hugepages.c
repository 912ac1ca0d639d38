/*
 * Hugepages for tests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/memfd.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hugepages.h"
#include "wrapped.h"

#define POOL "/proc/sys/vm/nr_hugepages"
static pid_t guardian;
static int lifeline = -1;   /* it waits for this to be closed */

unsigned int hugepages_free(void)
{
    int64_t bytes = memswap_free_hugepages(HUGE_SIZE);

    return bytes < 0 ? 0 : bytes / HUGE_SIZE;
}

/* Add @by to the size of the pool.  Only calls that a forked child may make. */
static bool pool_resize(int fd, int by)
{
    char text[24] = "";
    ssize_t got = __real_pread64(fd, text, sizeof(text) - 1, 0);
    int at = sizeof(text) - 1;
    long n = got > 0 ? strtol(text, NULL, 10) + by : -1;

    if (n < 0) {
        return false;
    }
    do {
        text[--at] = '0' + n % 10;
        n /= 10;
    } while (n);
    return __real_pwrite64(fd, text + at, sizeof(text) - 1 - at, 0) > 0;
}

/*
 * Outlives its parent, and what kills that, to make the pool smaller again: by
 * @by, or what the parent says.
 */
static void guard(int pool, int end, int by)
{
    ssize_t got;

    setsid();
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    for (int fd = 0; fd < 3; fd++) {
        close(fd);
    }
    do {
        got = read(end, &by, sizeof(by));
    } while (got > 0 || (got < 0 && errno == EINTR));
    /* Those still in use go when they are freed. */
    _exit(pool_resize(pool, -by) ? 0 : 1);
}

static void dismiss_guardian(void)
{
    int status;

    close(lifeline);
    while (waitpid(guardian, &status, 0) < 0 && errno == EINTR) {
    }
}

bool hugepages_get(unsigned int n)
{
    /* Held until this program and the guardian are gone. */
    int lock = open(POOL, O_RDONLY | O_CLOEXEC);
    unsigned int have;
    int pool, ends[2], more;

    if (lock < 0 || flock(lock, LOCK_EX)) {
        return false;
    }
    have = hugepages_free();
    if (have >= n) {
        return true;
    }
    pool = open(POOL, O_RDWR | O_CLOEXEC);
    if (pool < 0 || pipe2(ends, O_CLOEXEC)) {
        return false;
    }
    guardian = fork();
    if (guardian < 0) {
        return false;
    }
    if (!guardian) {
        close(ends[1]);
        guard(pool, ends[0], n - have);
    }
    close(ends[0]);
    lifeline = ends[1];
    pool_resize(pool, n - have);
    close(pool);
    /* The kernel may have found fewer. */
    more = MAX((int)(hugepages_free() - have), 0);
    if (write(lifeline, &more, sizeof(more)) != sizeof(more)) {
        return false;
    }
    atexit(dismiss_guardian);
    return hugepages_free() >= n;
}

void hugepages_skip(void)
{
    g_test_skip("no free hugepages, and no right to have some made");
}

int hugepages_leave(unsigned int n)
{
    int hog = memfd_create("hog", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
    unsigned int have = hugepages_free();

    g_assert_cmpint(hog, >=, 0);
    if (have > n && __real_fallocate64(hog, 0, 0, (have - n) * HUGE_SIZE)) {
        /* Somebody was faster: those that it got are in the file. */
        g_assert_cmpint(errno, ==, ENOSPC);
    }
    return hog;
}

/* --- content ----------------------------------------------------------- */

/* The number of a part, for page_build(): half of an odd one compresses. */
static uint64_t part_number(uint64_t number, unsigned int part)
{
    return number & 1 ? (number * HUGE_PARTS + part) << 2 | 3 : number;
}

void huge_fill(Harness *h, uint64_t page, uint64_t number)
{
    for (unsigned int part = 0; part < HUGE_PARTS; part++) {
        ram_fill(h, page * HUGE_PARTS + part, part_number(number, part));
    }
}

void huge_check_part(Harness *h, uint64_t page, uint64_t number,
                     unsigned int part)
{
    ram_check(h, page * HUGE_PARTS + part, part_number(number, part));
}

void huge_check(Harness *h, uint64_t page, uint64_t number)
{
    for (unsigned int part = 0; part < HUGE_PARTS; part++) {
        huge_check_part(h, page, number, part);
    }
}

void huge_touch(Harness *h, uint64_t page)
{
    ram_touch(h, page * HUGE_PARTS);
}

void *huge_host(Harness *h, uint64_t page)
{
    return h->ram.host + page * HUGE_SIZE;
}

Harness *huge_harness(uint64_t limit)
{
    return harness_new(&(HarnessOptions) {
        .size = HUGE_PAGES * HUGE_SIZE, .limit = limit * HUGE_SIZE,
        .hugetlb = true,
    });
}

void huge_fill_all(Harness *h, uint64_t n)
{
    for (uint64_t page = 0; page < n; page++) {
        huge_fill(h, page, 2 * page + 1);
    }
    harness_settle(h);
}

void huge_check_all(Harness *h, uint64_t n)
{
    for (uint64_t page = 0; page < n; page++) {
        huge_check(h, page, 2 * page + 1);
    }
    harness_settle(h);
}

void huge_evict_all(Harness *h)
{
    harness_settle(h);
    memswap_reclaim(h->engine, UINT64_MAX);
}

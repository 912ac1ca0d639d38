/*
 * Blocks of hugepages: RAM on hugetlbfs, swapped in whole pages of 2 MiB
 *
 * A page is a region of its own here, and otherwise like any other.  What
 * hugetlbfs does differently from shmem is in this file:
 *
 * - It has no ZEROPAGE: a page is filled by COPY only, of zeroes where need be.
 *   What is copied is too large for a stack, so it is built in one of a set of
 *   buffers that are there beforehand, each taken by setting its bit: a fill
 *   allocates nothing and takes no lock.
 *
 * - It has no write().  A page that is there already, with what content nobody
 *   knows, is written through a second mapping of the file, the alias, before
 *   it is mapped where the guest sees it.  The alias is registered with
 *   userfaultfd as well: a touch of it can't add a page, which with an empty
 *   pool of hugepages would be death by SIGBUS, and CONTINUE on it tells
 *   whether there is a page, since it fails where there is none.  Only the
 *   owner of a page touches its part of the alias, unmapped again at once, so
 *   it is never mapped there when it is punched, nor written to from there by
 *   anyone else.
 *
 * - Its SEEK_DATA takes holes for data, so CONTINUE is what finds the pages
 *   that were there before the block was managed.
 *
 * - Its pages come from a pool of hugepages, which may be empty before the
 *   limit is reached.  Then COPY gives EEXIST (or ENOMEM), and CONTINUE, which
 *   finds nothing, EFAULT.  The fill fails for lack of room, and says here how
 *   many hugepages are wanted: @wanted.  Whoever reclaims takes out that many,
 *   of these blocks only, though the limit has room.  A page that leaves the
 *   page cache counts it down; whoever still finds none counts it up again, so
 *   no request is lost, and a stale one costs a page more evicted.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "internal.h"
#include "sparse.h"
#include "uffd.h"

/* The only size there is so far. */
#define HUGE_SIZE MEMSWAP_REGION_SIZE

/* How often to tell the operator that there are no hugepages. */
#define TELL_NS (60 * 1000000000LL)

#define WORD_BITS 64

/* --- buffers ----------------------------------------------------------- */

static void unmap(uint8_t *mem, size_t size)
{
    if (mem) {
        munmap(mem, size);
    }
}

/* Called with settings_lock. */
static int make_buffers(MemswapHugetlb *hugetlb)
{
    /* Twice the CPUs, for threads that are preempted while they have one. */
    unsigned int n = CLAMP(2 * sysconf(_SC_NPROCESSORS_CONF), 8,
                           MEMSWAP_BUFFERS_MAX);
    uint8_t *zeroes, *buffers;

    if (hugetlb->buffers) {
        return 0;
    }
    zeroes = memswap_sparse_map(HUGE_SIZE);
    buffers = memswap_sparse_map(n * HUGE_SIZE);
    if (!zeroes || !buffers || mprotect(zeroes, HUGE_SIZE, PROT_READ)) {
        unmap(zeroes, HUGE_SIZE);
        unmap(buffers, n * HUGE_SIZE);
        return -ENOMEM;
    }
    hugetlb->zeroes = zeroes;
    hugetlb->buffers = buffers;
    hugetlb->n_buffers = n;
    return 0;
}

void memswap_hugetlb_free(MemswapEngine *engine)
{
    MemswapHugetlb *hugetlb = &engine->hugetlb;

    unmap(hugetlb->zeroes, HUGE_SIZE);
    unmap(hugetlb->buffers, hugetlb->n_buffers * HUGE_SIZE);
}

/* The lowest that is free: those never used take no memory. */
uint8_t *memswap_hugetlb_take_buffer(MemswapEngine *engine)
{
    MemswapHugetlb *hugetlb = &engine->hugetlb;

    for (;;) {
        for (unsigned int i = 0; i < hugetlb->n_buffers; i++) {
            _Atomic uint64_t *word = &hugetlb->busy[i / WORD_BITS];
            uint64_t bit = UINT64_C(1) << (i % WORD_BITS);

            if (!(atomic_load_explicit(word, memory_order_relaxed) & bit) &&
                !(atomic_fetch_or_explicit(word, bit, memory_order_acquire) &
                  bit)) {
                return hugetlb->buffers + i * HUGE_SIZE;
            }
        }
        /* Each is held for one page's fill or eviction. */
        sched_yield();
    }
}

void memswap_hugetlb_put_buffer(MemswapEngine *engine, uint8_t *buffer)
{
    MemswapHugetlb *hugetlb = &engine->hugetlb;
    size_t i = (buffer - hugetlb->buffers) / HUGE_SIZE;

    atomic_fetch_and_explicit(&hugetlb->busy[i / WORD_BITS],
                              ~(UINT64_C(1) << (i % WORD_BITS)),
                              memory_order_release);
}

/* --- blocks ------------------------------------------------------------ */

const char *memswap_hugetlb_check(MemswapEngine *engine, int fd,
                                  uint64_t page_size)
{
    uint64_t ordinary = sysconf(_SC_PAGESIZE);
    struct statfs fs;
    uint64_t actual;
    int ret;

    do {
        ret = fstatfs(fd, &fs);
    } while (ret && errno == EINTR);
    if (ret) {
        return "its file system can't be asked for its page size";
    }
    actual = fs.f_type == HUGETLBFS_MAGIC ? (uint64_t)fs.f_bsize : ordinary;
    if (actual != ordinary && actual != HUGE_SIZE) {
        return "its hugepages are not of 2 MiB: use hugetlbsize=2M";
    }
    if (page_size != actual) {
        return actual == HUGE_SIZE ?
               "it is on hugetlbfs with pages of 2 MiB, and said to have "
               "others" :
               "it is not on hugetlbfs, and said to have other pages than "
               "the host's ordinary ones";
    }
    if (actual == HUGE_SIZE && !engine->hugetlb.supported) {
        return "this kernel's userfaultfd does not serve hugetlbfs: use a "
               "backend without hugetlb";
    }
    return NULL;
}

int memswap_hugetlb_open(MemswapBlock *block)
{
    MemswapEngine *engine = block->engine;
    uint8_t *alias;
    int ret;

    g_mutex_lock(&engine->settings_lock);
    ret = make_buffers(&engine->hugetlb);
    g_mutex_unlock(&engine->settings_lock);
    if (ret) {
        return ret;
    }
    alias = mmap(NULL, block->size, PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_NORESERVE, block->fd, block->fd_offset);
    if (alias == MAP_FAILED) {
        return -errno;
    }
    block->alias = alias;
    if (madvise(alias, block->size, MADV_DONTDUMP) ||
        madvise(alias, block->size, MADV_DONTFORK)) {
        return -errno;
    }
    return memswap_uffd_register(engine->uffd, alias, block->size);
}

void memswap_hugetlb_close(MemswapBlock *block)
{
    if (block->alias) {
        munmap(block->alias, block->size);
        block->alias = NULL;
    }
}

/* A page that was there before us stays ABSENT if nothing maps it. */
void memswap_hugetlb_adopt(MemswapBlock *block, uint64_t page)
{
    uint64_t absent = MEMSWAP_ABSENT;
    int ret;

    if (!memswap_word_cas(&block->words[page], &absent, MEMSWAP_FILLING)) {
        /* a fault was faster */
        return;
    }
    ret = memswap_uffd_continue(block->engine->uffd,
                                memswap_page_host(block, page), HUGE_SIZE,
                                NULL);
    if (ret && ret != -EEXIST) {
        memswap_page_settle(block, page, MEMSWAP_ABSENT, 0, 0);
        return;
    }
    memswap_charge(block->engine, HUGE_SIZE, true);
    memswap_block_moved(block, page, MEMSWAP_IN_NONE, MEMSWAP_IN_CACHE);
    memswap_page_settle(block, page, MEMSWAP_RESIDENT, 0, 0);
}

int memswap_hugetlb_write(MemswapBlock *block, uint64_t page,
                          const void *buffer)
{
    uint8_t *alias = block->alias + page * HUGE_SIZE;
    int ret = memswap_uffd_continue(block->engine->uffd, alias, HUGE_SIZE,
                                    NULL);

    if (ret && ret != -EEXIST) {
        return ret == -EFAULT ? -ENOMEM : ret;
    }
    memcpy(alias, buffer, HUGE_SIZE);
    /* If that fails, it stays mapped, and its punch costs a TLB flush. */
    madvise(alias, HUGE_SIZE, MADV_DONTNEED);
    return 0;
}

/* --- the pool of hugepages --------------------------------------------- */

void memswap_hugetlb_moved(MemswapBlock *block, int by)
{
    MemswapHugetlb *hugetlb = &block->engine->hugetlb;
    uint32_t wanted = atomic_load(&hugetlb->wanted);

    atomic_fetch_add_explicit(&hugetlb->resident, by, memory_order_relaxed);
    while (by < 0 && wanted &&
           !atomic_compare_exchange_weak(&hugetlb->wanted, &wanted,
                                         wanted - 1)) {
    }
}

void memswap_hugetlb_short(MemswapBlock *block, uint64_t page)
{
    MemswapEngine *engine = block->engine;
    MemswapHugetlb *hugetlb = &engine->hugetlb;
    int64_t told = atomic_load(&hugetlb->told);
    int64_t now = memswap_now(engine);

    atomic_store(&hugetlb->wanted,
                 engine->n_evictors ? MEMSWAP_HUGEPAGES_WANTED : 1);
    memswap_count(engine->n_no_hugepages, 1);
    if ((!told || now - told >= TELL_NS) &&
        atomic_compare_exchange_strong(&hugetlb->told, &told, now)) {
        memswap_event(engine, MEMSWAP_EVENT_NO_HUGEPAGES, block, page);
    }
}

/* A number in one of the kernel's files about hugepages. */
static int64_t read_pool(uint64_t page_size, const char *name)
{
    g_autofree char *path = g_strdup_printf(
        "/sys/kernel/mm/hugepages/hugepages-%" G_GUINT64_FORMAT "kB/%s",
        page_size / 1024, name);
    FILE *file = fopen(path, "re");
    unsigned long n;
    int got;

    if (!file) {
        return -errno;
    }
    got = fscanf(file, "%lu", &n);
    fclose(file);
    return got == 1 ? (int64_t)n : -EIO;
}

int64_t memswap_free_hugepages(uint64_t page_size)
{
    int64_t free = read_pool(page_size, "free_hugepages");
    int64_t reserved = read_pool(page_size, "resv_hugepages");

    if (free < 0 || reserved < 0) {
        return MIN(free, reserved);
    }
    /* read one after the other */
    return MAX(free - reserved, 0) * (int64_t)page_size;
}

/*
 * Exposed blocks: RAM that other processes have mapped as well
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A zap unmaps a page here, and not there: it may be written to while it is on
 * trial, and while it is evicted.  What does reach every mapping is a punch:
 * it unmaps the page everywhere, and only then is the page out of the file.  A
 * pipe that the page was spliced into holds on to it.  So the page is copied
 * to the store as any other, then spliced, punched, and read from the pipe:
 * that is its content for good, with all that anybody wrote.
 *
 * The rules:
 *
 * 1. Splice, then punch, then read.  What was written by CPU until the punch
 *    unmapped the page is in the pipe; who touches it later faults, and
 *    waits, since it is EVICTING.  What is written by DMA is not covered.
 * 2. The copy is made before the punch, so there is room for it.  It is
 *    believed only if it is the same as what the pipe gave.  A page that
 *    differs is in use: it goes through FILLING, and is put back.  Ours is
 *    the only copy then: who has it stays with it until it is somewhere.
 * 3. There are no large folios.  The kernel doesn't take a part out of one
 *    while anybody holds it, as a pipe does: it zeroes the part, in the pipe as
 *    well.  So regions that are huge become small before the block is exposed,
 *    or stay for as long as it is; none is collapsed meanwhile; and where the
 *    host may make such folios a block can't be exposed.  If one is met all
 *    the same, the page is lost, and that is said: never are zeroes handed out
 *    for it.
 * 4. A page appears in the file with its content, by COPY or ZEROPAGE on our
 *    mapping.  Others would see a half of what is written to one that is there
 *    already.  So where somebody has made one in vain, who isn't registered
 *    (EEXIST), it is punched, and the COPY tried again.
 * 5. Who else has it mapped gets a fault for a page that is out, see remote.c,
 *    or the page is pinned.
 *
 * Where others map a page, they may do so whenever it is in the file, whatever
 * its word says: on trial, or in the hands of an evictor that was called off.
 * Nothing here depends on who maps it.
 *
 * A trial shows who touched a page through our mapping only.  What the others
 * use, and we don't, is taken out as if it were cold.  If they write to it
 * just then, it is put back; if they miss it soon, its region is left alone for
 * some rounds (memswap_age_missed()).
 */

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"
#include "uffd.h"

#define SMALL_PAGE 4096
/* What a pipe is to hold: as much as is evicted at once. */
#define PIPE_BYTES (128 * 1024)
/* How often to take away a page that should not be there. */
#define COPY_TRIES 8
/* Between attempts to put back, while the host has no memory. */
#define NO_MEMORY_US 1000
/* Looks at a huge region in which somebody has a page. */
#define SPLIT_TRIES 50
#define SPLIT_WAIT_US 200

/* --- pipes ------------------------------------------------------------- */

static int pipe_open(MemswapPipe *pipe)
{
    int bytes;

    if (pipe2(pipe->fds, O_CLOEXEC | O_NONBLOCK)) {
        return -errno;
    }
    /* A user may have too many pipes for that: then they are small. */
    fcntl(pipe->fds[1], F_SETPIPE_SZ, PIPE_BYTES);
    bytes = fcntl(pipe->fds[1], F_GETPIPE_SZ);
    pipe->pages = bytes > 0 ? MAX(bytes / SMALL_PAGE, 1) : 1;
    return 0;
}

static void pipe_close(MemswapPipe *pipe)
{
    close(pipe->fds[0]);
    close(pipe->fds[1]);
}

/*
 * One that is free.  Allocates nothing, takes no lock, waits for nobody but who
 * has one for a run of pages.
 */
static MemswapPipe *pipe_take(MemswapExposure *exposure)
{
    for (;;) {
        for (unsigned int i = 0; i < exposure->n_pipes; i++) {
            uint64_t bit = UINT64_C(1) << i;

            if (!(atomic_load(&exposure->busy) & bit) &&
                !(atomic_fetch_or(&exposure->busy, bit) & bit)) {
                return &exposure->pipes[i];
            }
        }
        sched_yield();
    }
}

static void pipe_put(MemswapExposure *exposure, MemswapPipe *pipe)
{
    uint64_t bit = UINT64_C(1) << (pipe - exposure->pipes);

    atomic_fetch_and(&exposure->busy, ~bit);
}

/* All that is in the pipe, at most @size bytes.  Returns how many. */
static size_t pipe_read(MemswapPipe *pipe, uint8_t *to, size_t size)
{
    size_t done = 0;

    while (done < size) {
        ssize_t got = read(pipe->fds[0], to + done, size - done);

        if (got > 0) {
            done += got;
        } else if (got == 0 || errno != EINTR) {
            break;
        }
    }
    return done;
}

/* Pages of the file, into an empty pipe.  *@bytes: how many are there. */
static int pipe_splice(MemswapPipe *pipe, int fd, off_t from, size_t size,
                       size_t *bytes)
{
    *bytes = 0;
    while (*bytes < size) {
        ssize_t got = splice(fd, &from, pipe->fds[1], NULL, size - *bytes,
                             SPLICE_F_NONBLOCK);

        if (got > 0) {
            *bytes += got;
        } else if (got == 0) {
            return -EIO;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

/* --- leaving ----------------------------------------------------------- */

static MemswapFate judge(MemswapBlock *block, uint64_t page,
                         const uint8_t *before, const uint8_t *after,
                         bool left)
{
    size_t size = block->page_size;
    bool same = !memcmp(before, after, size);

    if (!left || !memswap_page_cached(block, page)) {
        return same ? MEMSWAP_TAKEN : MEMSWAP_CHANGED;
    }
    /*
     * Somebody who isn't registered touched it just now; or it is a part of a
     * large folio, zeroed, in the pipe as well.  There is no telling.
     */
    return same ? MEMSWAP_STAYED : MEMSWAP_RUINED;
}

int memswap_exposed_take(MemswapBlock *block, uint64_t page, uint64_t n,
                         const uint8_t *before, uint8_t *after,
                         MemswapFate *fate)
{
    MemswapExposure *exposure = &block->engine->exposure;
    MemswapPipe *pipe = pipe_take(exposure);
    off_t from = block->fd_offset + (page << block->page_shift);
    size_t size = n << block->page_shift;
    size_t spliced, got;
    bool left = false;
    int ret = pipe_splice(pipe, block->fd, from, size, &spliced) ?:
              memswap_page_punch(block, page, n, &left);

    got = pipe_read(pipe, after, spliced);
    pipe_put(exposure, pipe);
    if (ret) {
        return ret;
    }
    for (uint64_t i = 0; i < n; i++) {
        size_t at = i << block->page_shift;

        if (at + block->page_size > got) {
            /* against all that pipes promise */
            fate[i] = MEMSWAP_RUINED;
            continue;
        }
        fate[i] = judge(block, page + i, before + at, after + at, left);
        memswap_count(exposure->n_changed, fate[i] == MEMSWAP_CHANGED);
    }
    return 0;
}

int memswap_exposed_copy(MemswapBlock *block, uint64_t page, const void *data)
{
    int ret = -EEXIST;

    for (unsigned int tries = COPY_TRIES; tries && ret == -EEXIST; tries--) {
        bool left;

        ret = memswap_page_punch(block, page, 1, &left);
        if (!ret) {
            ret = memswap_uffd_copy(block->engine->uffd,
                                    memswap_page_host(block, page), data,
                                    block->page_size, NULL);
        }
    }
    return ret;
}

/* In place and mapped, whoever has made a page there meanwhile. */
static int put_back(MemswapBlock *block, uint64_t page, const void *data)
{
    int uffd = block->engine->uffd;
    void *host = memswap_page_host(block, page);
    int ret = memswap_uffd_copy(uffd, host, data, block->page_size, NULL);

    if (ret == -EEXIST) {
        ret = memswap_exposed_copy(block, page, data);
    }
    if (ret == -EEXIST) {
        ret = memswap_page_write(block, page, data) ?:
              memswap_uffd_continue(uffd, host, block->page_size, NULL);
        ret = ret == -EEXIST ? 0 : ret;
    }
    return ret;
}

MemswapPlace memswap_exposed_put_back(MemswapBlock *block, uint64_t page,
                                      const void *data, uint64_t *handle)
{
    MemswapEngine *engine = block->engine;

    for (;;) {
        MemswapPlace place;
        bool full = false;

        if (!put_back(block, page, data)) {
            return MEMSWAP_IN_CACHE;
        }
        place = memswap_evict_copy(block, page, data, &full, handle);
        if (place != MEMSWAP_IN_CACHE) {
            return place;
        }
        /* Who stops the engine, or removes the block, waits for us. */
        if (atomic_load(&block->dead) || atomic_load(&engine->stop)) {
            return MEMSWAP_IN_NONE;
        }
        g_usleep(NO_MEMORY_US);
    }
}

unsigned int memswap_exposed_run(MemswapEngine *engine)
{
    unsigned int pages = PIPE_BYTES / SMALL_PAGE;

    for (unsigned int i = 0; i < engine->exposure.n_pipes; i++) {
        pages = MIN(pages, engine->exposure.pipes[i].pages);
    }
    return pages;
}

/* --- exposing ---------------------------------------------------------- */

/*
 * Is what is spliced the page itself, so that a write after it is seen, and
 * does a punch leave it alone?
 */
static int probe(void)
{
    static const uint8_t before = 1, later = 2;
    uint8_t page[SMALL_PAGE] = { 0 };
    MemswapPipe pipe;
    size_t bytes;
    int fd = memfd_create("memswap-probe", MFD_CLOEXEC);
    int ret;

    if (fd < 0) {
        return -errno;
    }
    ret = pipe_open(&pipe);
    if (ret) {
        close(fd);
        return ret;
    }
    if (ftruncate(fd, sizeof(page)) || pwrite(fd, &before, 1, 0) != 1 ||
        pipe_splice(&pipe, fd, 0, sizeof(page), &bytes) ||
        pwrite(fd, &later, 1, 0) != 1 ||
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                  sizeof(page)) ||
        pipe_read(&pipe, page, sizeof(page)) != sizeof(page) ||
        page[0] != later) {
        ret = -ENOTSUP;
    }
    pipe_close(&pipe);
    close(fd);
    return ret;
}

/* What the first block that is exposed needs.  Called with the lock. */
static int exposure_open(MemswapExposure *exposure)
{
    int ret = exposure->n_pipes ? 0 : probe();

    while (!ret && exposure->n_pipes < MEMSWAP_PIPES) {
        ret = pipe_open(&exposure->pipes[exposure->n_pipes]);
        if (!ret) {
            exposure->n_pipes++;
        } else if (exposure->n_pipes) {
            /* some are enough */
            return 0;
        }
    }
    return ret;
}

/* Does somebody hold on to the region, for longer than we want to wait? */
static bool region_stays(MemswapBlock *block, uint64_t number)
{
    uint64_t end = memswap_region_end(block, number);
    bool stays = memswap_block_retained(block) ||
                 memswap_shared_uses(block, number);

    for (uint64_t page = memswap_region_first(block, number); page < end;
         page++) {
        stays |= memswap_word_pins(memswap_word_load(&block->words[page])) > 0;
    }
    return stays;
}

/*
 * See off who evicts as if nobody else had it mapped, and make what is huge
 * small.  Called with block->exposed set.
 */
static void settle_regions(MemswapBlock *block)
{
    for (uint64_t number = 0; number < block->n_regions; number++) {
        MemswapRegion *region = &block->regions[number];
        unsigned int tries = SPLIT_TRIES;

        /* it is, before anything in it can be evicted */
        if (!(atomic_load(&region->flags) & MEMSWAP_REGION_TOUCHED)) {
            continue;
        }
        memswap_region_own(region);
        while (memswap_region_large(region) &&
               !memswap_huge_split(block, number) &&
               !region_stays(block, number) && --tries) {
            g_usleep(SPLIT_WAIT_US);
        }
        memswap_region_disown(region);
    }
}

static int refuse(const MemswapBlock *block, int ret, const char *why,
                  char **error)
{
    if (error) {
        *error = g_strdup_printf("block '%s' can't be exposed: %s",
                                 block->name, why);
    }
    return ret;
}

int memswap_block_expose(MemswapBlock *block, char **error)
{
    MemswapExposure *exposure = &block->engine->exposure;
    int ret;

    if (block->alias || block->page_size != SMALL_PAGE) {
        return refuse(block, -ENOTSUP, "it is of hugepages", error);
    }
    g_mutex_lock(&exposure->lock);
    ret = exposure_open(exposure);
    if (!ret && !(block->kept_out && memswap_huge_kept_out(block->fd))) {
        g_mutex_unlock(&exposure->lock);
        return refuse(block, -ENOTSUP, "the host may have made huge pages of"
                      " it: set shmem_enabled to never before QEMU starts, in"
                      " /sys/kernel/mm/transparent_hugepage and its"
                      " directories, and mount without huge=", error);
    }
    if (!ret && !atomic_fetch_add(&block->exposed, 1)) {
        /* only advice to the kernel */
        madvise(block->host, block->size, MADV_NOHUGEPAGE);
        settle_regions(block);
    }
    g_mutex_unlock(&exposure->lock);
    if (ret) {
        return refuse(block, ret, ret == -ENOTSUP ?
                      "this kernel has no way to evict it" :
                      g_strerror(-ret), error);
    }
    return 0;
}

void memswap_block_conceal(MemswapBlock *block)
{
    MemswapExposure *exposure = &block->engine->exposure;

    g_mutex_lock(&exposure->lock);
    if (atomic_fetch_sub(&block->exposed, 1) == 1 && block->huge) {
        /* without it the kernel collapses nothing */
        madvise(block->host, block->size, MADV_HUGEPAGE);
        memswap_collapser_kick(block->engine);
    }
    g_mutex_unlock(&exposure->lock);
}

int memswap_expose(MemswapEngine *engine, const void *host, char **error)
{
    MemswapBlock *block = memswap_block_find(engine, host);
    int ret;

    if (!block) {
        return -ENOENT;
    }
    ret = memswap_block_expose(block, error);
    memswap_block_unref(block);
    return ret;
}

void memswap_conceal(MemswapEngine *engine, const void *host)
{
    MemswapBlock *block = memswap_block_find(engine, host);

    if (block) {
        if (memswap_block_exposed(block)) {
            memswap_block_conceal(block);
        }
        memswap_block_unref(block);
    }
}

void memswap_exposure_init(MemswapEngine *engine)
{
    g_mutex_init(&engine->exposure.lock);
}

void memswap_exposure_destroy(MemswapEngine *engine)
{
    for (unsigned int i = 0; i < engine->exposure.n_pipes; i++) {
        pipe_close(&engine->exposure.pipes[i]);
    }
    g_mutex_clear(&engine->exposure.lock);
}

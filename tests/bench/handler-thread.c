/*
 * Benchmarks: userspace swap as it is usually written, for comparison
 *
 * One thread reads the faults of shared memory, takes the page that came
 * first out for each page that it puts in, and does both through a second
 * mapping.  No page is taken in advance, and no two at once.
 *
 * It loses nothing: only the handler changes the state of a page.  A page is
 * unmapped before it is read, so whoever touches it after that waits for the
 * handler.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <zstd.h>

#include "backend.h"
#include "clock.h"

#define EVENTS 64
#define LEVEL (-5)      /* faster than QEMU's default, -1 */

/* The handler's own. */
typedef struct Page {
    void *copy;         /* compressed; NULL: none */
    uint16_t length;
    bool resident;
} Page;

static int ram_fd, uffd;
static uint8_t *ram;    /* what is touched, registered */
static uint8_t *alias;  /* the same memory, where nothing faults to us */
static Page *pages;
static uint32_t *queue; /* resident pages, the one that came first ahead */
static uint64_t n_pages, n_limit, n_resident, head;
/* counted by the handler, read by whoever reports */
static _Atomic uint64_t pool_bytes, evictions;
static uint64_t evictions_before;
static int poll_ns;
static int stop_pipe[2];
static pthread_t thread;
static ZSTD_CCtx *compressor;
static ZSTD_DCtx *decompressor;
static uint8_t buffer[2 * TOUCH_SIZE];

static void evict(uint32_t n)
{
    Page *page = &pages[n];
    uint8_t *data = alias + n * TOUCH_SIZE;
    size_t length;

    if (madvise(ram + n * TOUCH_SIZE, TOUCH_SIZE, MADV_DONTNEED) < 0) {
        bench_fail(errno, "cannot unmap a page");
    }
    length = ZSTD_compressCCtx(compressor, buffer, sizeof(buffer), data,
                               TOUCH_SIZE, LEVEL);
    if (ZSTD_isError(length)) {
        bench_fail(0, "cannot compress: %s", ZSTD_getErrorName(length));
    }
    page->copy = g_malloc(length);
    page->length = length;
    memcpy(page->copy, buffer, length);
    pool_bytes += malloc_usable_size(page->copy);
    if (fallocate(ram_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  n * TOUCH_SIZE, TOUCH_SIZE) < 0) {
        bench_fail(errno, "cannot punch a page out");
    }
    page->resident = false;
    n_resident--;
    evictions++;
}

static void fill(uint32_t n)
{
    Page *page = &pages[n];
    uint8_t *data = alias + n * TOUCH_SIZE;

    if (n_resident == n_limit) {
        evict(queue[head]);
    }
    if (page->copy) {
        size_t length = ZSTD_decompressDCtx(decompressor, data, TOUCH_SIZE,
                                            page->copy, page->length);

        if (length != TOUCH_SIZE) {
            bench_fail(0, "cannot decompress");
        }
        pool_bytes -= malloc_usable_size(page->copy);
        g_free(page->copy);
        page->copy = NULL;
    } else {
        /* the first touch of all: this makes it a page of zeroes */
        *(volatile uint8_t *)data = 0;
    }
    queue[head] = n;
    head = (head + 1) % n_limit;
    page->resident = true;
    n_resident++;
}

static void resolve(uint64_t address)
{
    struct uffdio_continue arg = {
        .range = { address & -TOUCH_SIZE, TOUCH_SIZE },
    };
    uint32_t n = ((uint8_t *)address - ram) / TOUCH_SIZE;

    if (!pages[n].resident) {
        fill(n);
    }
    while (ioctl(uffd, UFFDIO_CONTINUE, &arg) < 0) {
        if (errno == EEXIST) {
            ioctl(uffd, UFFDIO_WAKE, &arg.range);
            return;
        }
        if (errno != EAGAIN) {
            bench_fail(errno, "UFFDIO_CONTINUE");
        }
    }
}

/* Returns whether there was any event. */
static bool handle_all(void)
{
    struct uffd_msg messages[EVENTS];
    ssize_t length = read(uffd, messages, sizeof(messages));

    if (length < 0) {
        if (errno != EAGAIN && errno != EINTR) {
            bench_fail(errno, "cannot read faults");
        }
        return false;
    }
    for (unsigned int i = 0; i < length / sizeof(messages[0]); i++) {
        resolve(messages[i].arg.pagefault.address);
    }
    return true;
}

static void *handle(void *opaque)
{
    struct pollfd fds[] = {
        { .fd = uffd, .events = POLLIN },
        { .fd = stop_pipe[0], .events = POLLIN },
    };
    uint64_t last = bench_clock_ns();

    while (!fds[1].revents) {
        if (handle_all()) {
            last = bench_clock_ns();
        } else if (bench_clock_ns() - last >= poll_ns) {
            if (poll(fds, G_N_ELEMENTS(fds), -1) < 0 && errno != EINTR) {
                bench_fail(errno, "poll");
            }
            last = bench_clock_ns();
        }
    }
    return NULL;
}

static void register_ram(uint64_t size)
{
    struct uffdio_api api = {
        .api = UFFD_API,
        .features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM,
    };
    struct uffdio_register arg = {
        .range = { (uintptr_t)ram, size },
        .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR,
    };

    uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) < 0 ||
        ioctl(uffd, UFFDIO_REGISTER, &arg) < 0) {
        bench_fail(errno, "userfaultfd");
    }
}

static void *handler_thread_open(const BenchOptions *options)
{
    int ret;

    if (options->page_size != TOUCH_SIZE) {
        bench_fail(0, "handler-thread: pages are 4K");
    }
    n_pages = options->size / TOUCH_SIZE;
    n_limit = options->limit ? MIN(n_pages, options->limit / TOUCH_SIZE)
                             : n_pages;
    if (!n_limit) {
        bench_fail(0, "handler-thread: the limit is less than a page");
    }
    poll_ns = options->poll_ns;
    pages = g_new0(Page, n_pages);
    queue = g_new0(uint32_t, n_limit);
    compressor = ZSTD_createCCtx();
    decompressor = ZSTD_createDCtx();
    ram = bench_map_memfd(options, &ram_fd);
    alias = bench_map(options->size, ram_fd);
    register_ram(options->size);
    if (pipe(stop_pipe) < 0) {
        bench_fail(errno, "pipe");
    }
    ret = pthread_create(&thread, NULL, handle, NULL);
    if (ret) {
        bench_fail(ret, "cannot start the handler");
    }
    return ram;
}

static void handler_thread_begin(void)
{
    evictions_before = evictions;
}

static void handler_thread_report(FILE *file)
{
    fprintf(file, ", \"pool_bytes\": %" PRIu64 ", \"evictions\": %" PRIu64,
            (uint64_t)pool_bytes, evictions - evictions_before);
}

static void handler_thread_close(void)
{
    if (write(stop_pipe[1], "", 1) != 1) {
        bench_fail(errno, "cannot stop the handler");
    }
    pthread_join(thread, NULL);
    close(uffd);
}

const BenchBackend bench_handler_thread = {
    .name = "handler-thread",
    .open = handler_thread_open,
    .begin = handler_thread_begin,
    .report = handler_thread_report,
    .close = handler_thread_close,
};

/*
 * Memory for a guest of the tests, and what is in it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <fcntl.h>
#include <inttypes.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness.h"

/* --- memory ------------------------------------------------------------ */

static Ram ram_map(int fd, uint64_t size, uint64_t fd_offset,
                   uint64_t page_size)
{
    Ram ram = {
        .size = size, .fd = fd, .fd_offset = fd_offset, .page_size = page_size,
    };
    uint8_t *space, *at;

    g_assert_cmpint(ram.fd, >=, 0);
    g_assert_cmpint(ftruncate(ram.fd, fd_offset + size), ==, 0);
    space = mmap(NULL, size + MEMSWAP_REGION_SIZE, PROT_NONE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    g_assert_true(space != MAP_FAILED);
    at = (uint8_t *)(((uintptr_t)space + MEMSWAP_REGION_SIZE - 1) &
                     ~(MEMSWAP_REGION_SIZE - 1));
    ram.host = mmap(at, size, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_FIXED | MAP_NORESERVE, ram.fd,
                    fd_offset);
    g_assert_true(ram.host == at);
    if (at > space) {
        munmap(space, at - space);
    }
    munmap(at + size, space + MEMSWAP_REGION_SIZE - at);
    return ram;
}

Ram ram_new(uint64_t size, uint64_t fd_offset)
{
    return ram_map(memfd_create("ram", MFD_CLOEXEC), size, fd_offset, PAGE);
}

Ram ram_new_hugetlb(uint64_t size, uint64_t fd_offset)
{
    return ram_map(memfd_create("ram", MFD_CLOEXEC | MFD_HUGETLB |
                                MFD_HUGE_2MB), size, fd_offset, 2 * MIB);
}

Ram ram_new_in(int fd, uint64_t size)
{
    return ram_map(fd, size, 0, PAGE);
}

void ram_free(Ram *ram)
{
    g_assert_null(ram->block);
    munmap(ram->host, ram->size);
    close(ram->fd);
}

void ram_add(Harness *h, Ram *ram, const char *name)
{
    MemswapBlockInfo info = {
        .name = name,
        .host = ram->host,
        .size = ram->size,
        .fd = ram->fd,
        .fd_offset = ram->fd_offset,
        .page_size = ram->page_size,
    };
    char *error = NULL;
    int ret = memswap_block_add(h->engine, &info, &ram->block, &error);

    if (ret) {
        g_error("memswap_block_add: %d: %s", ret, error);
    }
}

void ram_remove(Harness *h, Ram *ram)
{
    memswap_block_remove(h->engine, ram->block);
    ram->block = NULL;
}

uint64_t ram_cached(const Ram *ram)
{
    struct stat st;

    g_assert_cmpint(fstat(ram->fd, &st), ==, 0);
    return st.st_blocks * 512ULL;
}

bool ram_mapped(const Ram *ram, uint64_t page)
{
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    uintptr_t number = (uintptr_t)ram->host / PAGE + page;
    uint64_t entry = 0;

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(lseek(fd, number * sizeof(entry), SEEK_SET), >=, 0);
    g_assert_cmpint(read(fd, &entry, sizeof(entry)), ==, sizeof(entry));
    close(fd);
    return entry >> 63;
}

int ram_smaps(const Ram *ram, const char *name)
{
    g_autofree char *start = g_strdup_printf("%" PRIxPTR "-",
                                             (uintptr_t)ram->host);
    g_autofree char *all = NULL;
    const char *at;
    int kb = -1;

    g_assert_true(g_file_get_contents("/proc/self/smaps", &all, NULL, NULL));
    at = strstr(all, start);
    at = at ? strstr(at, name) : NULL;
    if (at) {
        sscanf(at + strlen(name), "%d", &kb);
    }
    return kb;
}

MemswapState ram_state(const Ram *ram, uint64_t page)
{
    return memswap_word_state(memswap_word_load(&ram->block->words[page]));
}

unsigned int ram_pins(const Ram *ram, uint64_t page)
{
    return memswap_word_pins(memswap_word_load(&ram->block->words[page]));
}

/* --- content ----------------------------------------------------------- */

/*
 * Word by word, most of a run's accesses are these, and ThreadSanitizer makes
 * each ten times slower.  There is nothing for it to find: others see a page's
 * content by system calls, or by the copies that the engine makes.
 */
#define UNWATCHED __attribute__((no_sanitize("thread")))

UNWATCHED
void page_build(void *page, uint64_t number)
{
    uint64_t *words = page;
    const unsigned int n = PAGE / sizeof(*words);
    uint64_t x = number;

    if (!(number & 1)) {
        x = (number & UINT32_MAX) << 32 | (number & UINT32_MAX);
    }
    for (unsigned int i = 0; i < n; i++) {
        words[i] = x;
        if ((number & 1) && (!(number & 2) || i < n / 2)) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
        }
    }
}

/* By words, atomically: others may touch the same page. */
UNWATCHED
void ram_fill(Harness *h, uint64_t page, uint64_t number)
{
    _Atomic uint64_t *to = (void *)(h->ram.host + page * PAGE);
    uint64_t words[PAGE / sizeof(uint64_t)];

    page_build(words, number);
    for (unsigned int i = 0; i < G_N_ELEMENTS(words); i++) {
        atomic_store_explicit(&to[i], words[i], memory_order_relaxed);
    }
}

UNWATCHED
void ram_check(Harness *h, uint64_t page, uint64_t number)
{
    _Atomic uint64_t *from = (void *)(h->ram.host + page * PAGE);
    uint64_t words[PAGE / sizeof(uint64_t)];

    page_build(words, number);
    for (unsigned int i = 0; i < G_N_ELEMENTS(words); i++) {
        uint64_t got = atomic_load_explicit(&from[i], memory_order_relaxed);

        if (got != words[i]) {
            g_error("page %" G_GUINT64_FORMAT " at byte %zu: %016"
                    G_GINT64_MODIFIER "x instead of %016"
                    G_GINT64_MODIFIER "x", page, i * sizeof(uint64_t), got,
                    words[i]);
        }
    }
}

void ram_touch(Harness *h, uint64_t page)
{
    atomic_load((_Atomic uint64_t *)(h->ram.host + page * PAGE));
}

void write_pages(Harness *h, uint64_t first, uint64_t n)
{
    for (uint64_t page = first; page < first + n; page++) {
        ram_fill(h, page, 2 * page + 1);
    }
    harness_settle(h);
}

void check_pages(Harness *h, uint64_t first, uint64_t n)
{
    for (uint64_t page = first; page < first + n; page++) {
        ram_check(h, page, 2 * page + 1);
    }
    harness_settle(h);
}

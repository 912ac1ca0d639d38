/*
 * Pages: what every owner of a page needs
 *
 * Waiting for a page, ending a transition, and reaching its content in the
 * page cache.  The content is only ever read and written through the file,
 * never through a mapping: a second mapping would cost a fault a page.  (A
 * hugepage can't be written so; see hugetlb.c.)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "futex.h"
#include "internal.h"
#include "uffd.h"

/* The half of the word that holds state, flags and pins. */
static void *word_futex(MemswapWord *word)
{
    return (uint8_t *)word +
           (G_BYTE_ORDER == G_BIG_ENDIAN ? sizeof(uint32_t) : 0);
}

void memswap_page_wake(MemswapBlock *block, uint64_t page)
{
    memswap_futex_wake(word_futex(&block->words[page]));
    if (memswap_block_exposed(block)) {
        memswap_remotes_wake(block, page);
    }
    if (block->engine->inline_faults) {
        return;
    }
    /* ENOENT if the range is unregistered: then nobody waits in the kernel */
    memswap_uffd_wake(block->engine->uffd, memswap_page_host(block, page),
                      block->page_size);
}

bool memswap_page_want(MemswapWord *word, uint64_t *seen)
{
    uint64_t wanted = *seen | MEMSWAP_WORD_WANTED;

    if (*seen == wanted) {
        return true;
    }
    if (!memswap_word_cas(word, seen, wanted)) {
        return false;
    }
    *seen = wanted;
    return true;
}

void memswap_page_wait(MemswapWord *word)
{
    uint64_t seen = memswap_word_load(word);

    while (memswap_word_state(seen) == MEMSWAP_EVICTING ||
           memswap_word_state(seen) == MEMSWAP_FILLING ||
           memswap_word_state(seen) == MEMSWAP_DISCARDING) {
        if (memswap_page_want(word, &seen)) {
            memswap_futex_wait(word_futex(word), (uint32_t)seen, -1);
            seen = memswap_word_load(word);
        }
    }
}

void memswap_page_wait_lost(MemswapWord *word)
{
    uint64_t seen = memswap_word_load(word);

    while (memswap_word_state(seen) == MEMSWAP_POISONED) {
        if (memswap_page_want(word, &seen)) {
            memswap_futex_wait(word_futex(word), (uint32_t)seen, -1);
            seen = memswap_word_load(word);
        }
    }
}

void memswap_page_call_off(MemswapWord *word)
{
    uint64_t old = memswap_word_load(word);

    while (!memswap_word_cas(word, &old,
                             memswap_word_with_state(old, MEMSWAP_FILLING))) {
    }
}

bool memswap_page_settle(MemswapBlock *block, uint64_t page,
                         MemswapState state, uint64_t flags,
                         uint64_t handle)
{
    MemswapWord *word = &block->words[page];
    uint64_t old = memswap_word_load(word);
    bool cached = state == MEMSWAP_RESIDENT || state == MEMSWAP_TRIAL;
    bool kept;
    uint64_t new;

    do {
        if ((old & MEMSWAP_WORD_DISCARD) && !memswap_word_pins(old) &&
            cached) {
            if (flags & MEMSWAP_WORD_KEPT) {
                memswap_copy_forget(block, memswap_word_with_handle(0,
                                                                    handle));
            }
            memswap_discard_filled(block, page);
            return false;
        }
        new = (old & MEMSWAP_PIN_MASK) | state | flags;
        kept = old & MEMSWAP_WORD_KEPT;
        if (kept && cached) {
            new |= old & (MEMSWAP_WORD_KEPT | MEMSWAP_HANDLE_MASK);
        } else {
            new = memswap_word_with_handle(new, handle);
        }
    } while (!memswap_word_cas(word, &old, new));

    if (kept && !cached) {
        memswap_copy_forget(block, old);
    }
    if (old & MEMSWAP_WORD_WANTED) {
        memswap_page_wake(block, page);
    }
    return true;
}

int memswap_page_read(MemswapBlock *block, uint64_t page, uint64_t n,
                      void *buffer)
{
    uint8_t *to = buffer;
    size_t left = n << block->page_shift;
    off_t from = block->fd_offset + (page << block->page_shift);

    while (left) {
        ssize_t got = pread(block->fd, to, left, from);

        if (got > 0) {
            to += got;
            from += got;
            left -= got;
        } else if (got == 0) {
            return -EIO;
        } else if (errno != EINTR && errno != EAGAIN) {
            return -errno;
        }
    }
    return 0;
}

int memswap_page_write(MemswapBlock *block, uint64_t page,
                       const void *buffer)
{
    const uint8_t *from = buffer;
    size_t left = block->page_size;
    off_t to = block->fd_offset + (page << block->page_shift);

    if (block->alias) {
        return memswap_hugetlb_write(block, page, buffer);
    }
    while (left) {
        ssize_t put = pwrite(block->fd, from, left, to);

        if (put > 0) {
            from += put;
            to += put;
            left -= put;
        } else if (put == 0) {
            return -EIO;
        } else if (errno != EINTR && errno != EAGAIN) {
            return -errno;
        }
    }
    return 0;
}

/* Is there anything in the page cache in this range? */
static bool range_cached(MemswapBlock *block, uint64_t page, uint64_t n)
{
    off_t start = block->fd_offset + (page << block->page_shift);
    off_t data = lseek(block->fd, start, SEEK_DATA);

    return data >= 0 && data < start + (off_t)(n << block->page_shift);
}

bool memswap_page_cached(MemswapBlock *block, uint64_t page)
{
    return range_cached(block, page, 1);
}

int memswap_page_punch(MemswapBlock *block, uint64_t page, uint64_t n,
                       bool *left)
{
    int ret;

    do {
        ret = fallocate(block->fd,
                        FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        block->fd_offset + (page << block->page_shift),
                        n << block->page_shift);
    } while (ret && errno == EINTR);
    if (ret) {
        return -errno;
    }
    /* Hugepages go whole, whoever holds them; SEEK_DATA finds holes there. */
    *left = !block->alias && range_cached(block, page, n);
    return 0;
}

/*
 * Peek: read managed RAM without touching it
 *
 * For who wants to know what the guest wrote, its page tables for instance,
 * and doesn't want to bring it in for that.  Nothing is filled, mapped, moved
 * or counted, and nobody is waited for.
 *
 * What is in the page cache is read through the file.  A page can leave while
 * that goes on, and even be back before the word is looked at again, so what
 * was read may be older or newer in parts, or zeroes.  A reader has to expect
 * that anyway from memory that others write.
 *
 * A stored page's copy could be dropped, or moved by the compactor, and its
 * memory be used again, while it is read.  So the page is taken into FILLING
 * for as long, which freezes its handle, and goes back to what it was, as from
 * a fill that failed.  Who touches it meanwhile waits for some microseconds.
 * That would be too many for a hugepage, or for what is slow to get: these are
 * not known.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

#define SMALL_PAGE 4096

/* Bytes [offset, offset + size) of a page. */
typedef struct Peek {
    MemswapBlock *block;
    uint64_t page;
    uint64_t offset;
    void *buffer;
    size_t size;
} Peek;

static int peek_cached(const Peek *peek)
{
    MemswapBlock *block = peek->block;
    off_t from = block->fd_offset + (peek->page << block->page_shift) +
                 peek->offset;
    uint8_t *to = peek->buffer;
    size_t left = peek->size;
    MemswapState state;

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
    state = memswap_word_state(memswap_word_load(&block->words[peek->page]));
    /* a hole reads as zeroes: look whether it has become one */
    return state == MEMSWAP_RESIDENT || state == MEMSWAP_TRIAL ||
           (state == MEMSWAP_ABSENT && memswap_block_retained(block)) ?
           0 : -EAGAIN;
}

/* The page repeats 32 bits. */
static void peek_same(const Peek *peek, uint32_t value)
{
    uint8_t bytes[sizeof(value)];
    uint8_t *to = peek->buffer;

    memcpy(bytes, &value, sizeof(value));
    for (size_t i = 0; i < peek->size; i++) {
        to[i] = bytes[(peek->offset + i) % sizeof(value)];
    }
}

static int peek_stored(const Peek *peek, uint64_t old)
{
    uint8_t data[SMALL_PAGE] __attribute__((aligned(SMALL_PAGE)));
    MemswapBlock *block = peek->block;
    MemswapStore *store = block->engine->store;
    uint64_t handle = memswap_word_handle(old);
    int ret;

    if (block->page_size > sizeof(data) ||
        (store->ops->slow && store->ops->slow(store, handle)) ||
        !memswap_word_cas(&block->words[peek->page], &old,
                          memswap_word_with_state(old, MEMSWAP_FILLING) |
                          MEMSWAP_WORD_PEEKED)) {
        return -EAGAIN;
    }
    ret = store->ops->get(store, handle, data, block->page_size);
    memswap_page_settle(block, peek->page, MEMSWAP_STORED, 0, handle);
    if (ret) {
        /* for the fault to find out, when one comes */
        return -EIO;
    }
    memcpy(peek->buffer, data + peek->offset, peek->size);
    return 0;
}

static int peek_page(const Peek *peek)
{
    uint64_t word = memswap_word_load(&peek->block->words[peek->page]);

    switch (memswap_word_state(word)) {
    case MEMSWAP_ABSENT:
        if (memswap_block_retained(peek->block)) {
            /* others may have put something there; a hole reads as zeroes */
            return peek_cached(peek);
        }
        memset(peek->buffer, 0, peek->size);
        return 0;
    case MEMSWAP_RESIDENT:
    case MEMSWAP_TRIAL:
        return peek_cached(peek);
    case MEMSWAP_ZERO:
        peek_same(peek, memswap_word_handle(word));
        return 0;
    case MEMSWAP_STORED:
        return peek_stored(peek, word);
    case MEMSWAP_POISONED:
        return -EIO;
    default:
        return -EAGAIN;
    }
}

int memswap_peek(MemswapEngine *engine, const void *host, void *buffer,
                 size_t size)
{
    MemswapBlock *block = memswap_block_find(engine, host);
    uint64_t offset;
    Peek peek;
    int ret = -EINVAL;

    if (!block) {
        return -ENOENT;
    }
    offset = (const uint8_t *)host - block->host;
    peek = (Peek) {
        .block = block,
        .page = offset >> block->page_shift,
        .offset = offset & (block->page_size - 1),
        .buffer = buffer,
        .size = size,
    };
    if (size <= block->page_size - peek.offset) {
        ret = peek_page(&peek);
    }
    memswap_block_unref(block);
    return ret;
}

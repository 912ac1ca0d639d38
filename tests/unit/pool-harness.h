/*
 * Pages of known content for the tests of the pool
 *
 * Pages are numbered; each has a word that says where it is, as the engine's
 * pages have, and that the pool changes through pages_relocate() under the
 * same rule.  What a page contains follows from its number and its version,
 * so that every get can be checked.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_POOL_HARNESS_H
#define TEST_POOL_HARNESS_H

#include <glib.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "fewer.h"
#include "pool-internal.h"

#define KIB 1024ULL
#define MIB (1024ULL * 1024)
#define LEVEL (-5)

/* An incompressible 4 KiB page's entry, and how many fill a segment. */
#define RAW_ENTRY 4128
#define RAW_PER_SEGMENT (MEMSWAP_SEGMENT_SIZE / RAW_ENTRY)

/* Owners are not plain indices, so that a mix-up shows. */
#define OWNER_BASE 0xabcd000000000000ULL

enum { GONE, STORED, BUSY };
#define WORD(state, handle) ((uint64_t)(handle) << 8 | (state))
#define WORD_STATE(word) ((word) & 0xff)
#define WORD_HANDLE(word) ((word) >> 8)

typedef enum PageKind {
    ZEROES,
    RANDOM,
    HALF,
    REPEATING,
    NEARLY_ZEROES,
    KINDS,
    MIXED = KINDS, /* each page its own */
} PageKind;

typedef struct TestPages {
    MemswapStore *store;
    unsigned int count;
    PageKind kind;
    size_t size;           /* 0: even pages 4 KiB, odd ones 2 MiB */
    size_t max_size;
    MemswapCodec codec;
    _Atomic uint64_t *words;
    uint32_t *versions;    /* belongs to who has the word BUSY */
    _Atomic bool refuse;   /* pages_relocate() says no */
    _Atomic uint64_t asked;
    /* What happens while pages_relocate() is asked for the first time. */
    void (*meanwhile)(struct TestPages *pages, uint64_t from);
} TestPages;

uint64_t next_random(uint64_t *state);

/*
 * Makes a pool, too, with @limit; all pages are GONE.  The codec is LZ4 if
 * MEMSWAP_TEST_CODEC says lz4, else zstd.
 */
void pages_init(TestPages *pages, unsigned int count, size_t size,
                PageKind kind, uint64_t limit);
/* The same with as many stored 4 KiB pages as fill that many segments. */
void pages_fill(TestPages *pages, unsigned int segments, uint64_t limit,
                uint8_t **buffer);
void pages_free(TestPages *pages);
MemswapPool *pool_of(TestPages *pages);
/* The pools' clocks stand still otherwise. */
void pages_pass_time(int64_t ns);
/* New settings, the codec being @pages'. */
void pages_configure(TestPages *pages, uint64_t limit, int level);
size_t pages_size_of(TestPages *pages, unsigned int i);
/* What the pool calls; @opaque is the TestPages. */
bool pages_relocate(void *opaque, uint64_t owner, uint64_t from, uint64_t to);

/* Takes a page's word to BUSY; false if somebody has it. */
bool pages_take(TestPages *pages, unsigned int i, uint64_t *word);

/*
 * What follows wants the page BUSY, or one thread.  A buffer is what
 * pages_buffer() returns; it belongs to one thread.
 */
uint8_t *pages_buffer(TestPages *pages);
/* A new version of the page; GONE if the pool doesn't take it. */
int pages_put(TestPages *pages, unsigned int i, uint8_t *buffer);
void pages_check(TestPages *pages, unsigned int i, uint64_t handle,
                 uint8_t *buffer);
/* Of a page that is STORED. */
uint64_t pages_handle(TestPages *pages, unsigned int i);
void pages_drop(TestPages *pages, unsigned int i);
/* Drop three of four. */
void pages_thin_out(TestPages *pages);

/* Every page that is STORED. */
void pages_check_all(TestPages *pages);
/* Drop them all: nothing is left then. */
void pages_drop_all(TestPages *pages);
/* Returns how often it was called; it must come to an end. */
unsigned int pages_maintain(TestPages *pages);
MemswapStoreStats pages_stats(TestPages *pages);
/* Do the pool's sums fit what is STORED? */
void pages_check_stats(TestPages *pages);

#endif /* TEST_POOL_HARNESS_H */

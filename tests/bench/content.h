/*
 * Benchmarks: what pages hold, and whether they still do
 *
 * The first words of a page are ours: a tag that no other page has, and one
 * counter for each thread, which that thread alone writes, so that a lost
 * write is seen.  The rest is data of the kind that was asked for; one word
 * of it, elsewhere in every page, is checked too.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_BENCH_CONTENT_H
#define MEMSWAP_BENCH_CONTENT_H

#include <stdbool.h>
#include <stdint.h>

#include "options.h"

#define CONTENT_WORDS (TOUCH_SIZE / sizeof(uint64_t))
#define CONTENT_COUNTER 1   /* thread 0's */
#define CONTENT_DATA 16     /* from here on data */

/* Filled by content_new(); then read only, but for @samples. */
typedef struct Content {
    uint64_t seed;
    uint32_t *samples;      /* by page: low half of the sampled word */
    unsigned int random;    /* of 16 words that are random */
    const uint8_t *corpus;  /* mapped, instead of random words; or NULL */
    uint64_t corpus_pages;
} Content;

/**
 * content_new: prepare to fill and check pages
 *
 * The result is the process's until it ends.
 */
Content *content_new(const BenchOptions *options);

/* A page in its first state; every counter is 0. */
void content_fill(Content *content, uint64_t page, uint64_t *words);

static inline uint64_t content_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

/* What the first word of a page holds. */
static inline uint64_t content_tag(const Content *content, uint64_t page)
{
    return content_mix(page ^ content->seed);
}

/* Which word of the data to look at. */
static inline unsigned int content_sampled(uint64_t tag)
{
    return CONTENT_DATA +
           ((tag >> 32) * (CONTENT_WORDS - CONTENT_DATA) >> 32);
}

/* Is this page what it should be, as thread @lane left it? */
static inline bool content_right(const Content *content, uint64_t page,
                                 const uint64_t *words,
                                 unsigned int lane, uint16_t count)
{
    uint64_t tag = content_tag(content, page);

    return (words[0] == tag) & (words[CONTENT_COUNTER + lane] == count) &
           ((uint32_t)words[content_sampled(tag)] == content->samples[page]);
}

#endif /* MEMSWAP_BENCH_CONTENT_H */

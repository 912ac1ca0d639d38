/*
 * Page contents that follow from a seed, a page number and a version
 *
 * The programs of the test guest write these and later check every word, so
 * that a page that is lost, stale, mixed up with another one or torn is seen
 * wherever it is wrong.  The same three parameters always give the same
 * bytes, on the host too.
 *
 * By page number a quarter of the pages are random, half are compressible to
 * about half their size, a quarter are zero in even versions and filled with
 * one 32-bit value in odd ones.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_GUEST_PATTERN_H
#define MEMSWAP_GUEST_PATTERN_H

#include <stdint.h>

#define PATTERN_PAGE 4096
#define PATTERN_WORDS (PATTERN_PAGE / sizeof(uint64_t))

/* The version of a page that was never written, or dropped: all zeroes. */
#define PATTERN_ABSENT UINT32_MAX

typedef enum PatternKind {
    PATTERN_RANDOM,
    PATTERN_HALF,
    PATTERN_SAME,
} PatternKind;

typedef struct Pattern {
    PatternKind kind;
    uint64_t state; /* of the generator; never 0 */
    uint64_t fill;  /* what the words that are not random hold */
} Pattern;

/* splitmix64's output function: neighbours get unrelated values. */
static inline uint64_t pattern_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

/* xorshift64: @state must not be 0, and never becomes 0. */
static inline uint64_t pattern_next(uint64_t *state)
{
    uint64_t x = *state;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    *state = x;
    return x;
}

static inline Pattern pattern_start(uint64_t seed, uint64_t page,
                                    uint32_t version)
{
    uint64_t place = pattern_mix(seed ^ pattern_mix(page));
    Pattern pattern;

    pattern.state = pattern_mix(place + version) | 1;
    if (version == PATTERN_ABSENT) {
        pattern.kind = PATTERN_SAME;
        pattern.fill = 0;
        return pattern;
    }
    switch (place & 3) {
    case 0:
        pattern.kind = PATTERN_RANDOM;
        pattern.fill = 0;
        break;
    case 1:
        pattern.kind = PATTERN_SAME;
        pattern.fill = version & 1 ? (pattern.state >> 32) | 1 : 0;
        pattern.fill |= pattern.fill << 32;
        break;
    default:
        pattern.kind = PATTERN_HALF;
        pattern.fill = pattern.state;
        break;
    }
    return pattern;
}

static inline uint64_t pattern_word(Pattern *pattern, unsigned int i)
{
    if (pattern->kind == PATTERN_RANDOM ||
        (pattern->kind == PATTERN_HALF && (i & 32))) {
        return pattern_next(&pattern->state);
    }
    return pattern->fill;
}

static inline void pattern_write(uint64_t *words, uint64_t seed,
                                 uint64_t page, uint32_t version)
{
    Pattern pattern = pattern_start(seed, page, version);

    for (unsigned int i = 0; i < PATTERN_WORDS; i++) {
        words[i] = pattern_word(&pattern, i);
    }
}

/* Returns the number of wrong words; @first becomes the first one's index. */
static inline unsigned int pattern_check(const uint64_t *words, uint64_t seed,
                                         uint64_t page, uint32_t version,
                                         unsigned int *first)
{
    Pattern pattern = pattern_start(seed, page, version);
    unsigned int wrong = 0;

    for (unsigned int i = 0; i < PATTERN_WORDS; i++) {
        if (words[i] != pattern_word(&pattern, i)) {
            if (wrong == 0) {
                *first = i;
            }
            wrong++;
        }
    }
    return wrong;
}

#endif /* MEMSWAP_GUEST_PATTERN_H */

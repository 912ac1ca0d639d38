/*
 * The page word: all that the engine knows of one page, in 64 bits
 *
 * Every change is a compare-and-swap on the whole word, so that for instance
 * taking a pin and starting an eviction exclude each other without a lock.
 * A thread that moves a page to EVICTING, FILLING or DISCARDING owns it: it
 * alone leaves that state, and others who wait for that set WANTED.
 *
 *    bits   what
 *    0-3    state
 *    4-7    flags
 *    8-11   in TRIAL, and on from there: the policy that brought the page in
 *           ahead of a touch, and watches for one; 0: none
 *    12-23  pins; the highest value says that the count is in a side table
 *    24-63  in STORED, and FILLING from it: the store's handle; with KEPT the
 *           same, of a copy that may be stale;
 *           in ZERO, and FILLING from it: the 32-bit value the page repeats
 *
 * The lower half is what threads wait on (futex).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_WORD_H
#define MEMSWAP_WORD_H

#include <glib.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef _Atomic uint64_t MemswapWord;

typedef enum MemswapState {
    MEMSWAP_ABSENT,     /* never touched, or discarded; must be 0 */
    MEMSWAP_RESIDENT,   /* in the page cache, mapped or a touch away */
    MEMSWAP_TRIAL,      /* in the page cache, unmapped to see who touches it */
    MEMSWAP_EVICTING,   /* being copied to the store, then punched */
    MEMSWAP_STORED,     /* only in the store */
    MEMSWAP_ZERO,       /* only in this word: one value, repeated */
    MEMSWAP_FILLING,    /* being put in place */
    MEMSWAP_DISCARDING, /* being forgotten */
    MEMSWAP_POISONED,   /* its content is lost */
    MEMSWAP_STATE__MAX,
} MemswapState;

#define MEMSWAP_WORD_STATE      0xfULL
/* Somebody waits for the owner's transition: wake when it ends. */
#define MEMSWAP_WORD_WANTED     (1ULL << 4)
/* In FILLING: the filler is to forget the page when it is done. */
#define MEMSWAP_WORD_DISCARD    (1ULL << 5)
/*
 * In RESIDENT: the page is mapped for certain.  Set by a fill during which
 * its region was not being zapped; cleared by the trial mark that comes
 * before a zap.
 */
#define MEMSWAP_WORD_MAPPED     (1ULL << 6)
/* In FILLING from STORED: it is only read, and goes back there; see peek.c. */
#define MEMSWAP_WORD_PEEKED     MEMSWAP_WORD_MAPPED
/*
 * In the page cache, owned or not: the handle is that of a copy made when the
 * page was evicted the last time, see copies.c.
 */
#define MEMSWAP_WORD_KEPT       (1ULL << 7)

#define MEMSWAP_AHEAD_SHIFT     8
#define MEMSWAP_AHEAD_MASK      (0xfULL << MEMSWAP_AHEAD_SHIFT)

#define MEMSWAP_PIN_SHIFT       12
#define MEMSWAP_PIN_MASK        (0xfffULL << MEMSWAP_PIN_SHIFT)
#define MEMSWAP_PIN_ONE         (1ULL << MEMSWAP_PIN_SHIFT)
/* The count is in the side table. */
#define MEMSWAP_PIN_SATURATED   0xfffU

#define MEMSWAP_HANDLE_SHIFT    24
#define MEMSWAP_HANDLE_MASK     (~0ULL << MEMSWAP_HANDLE_SHIFT)

static inline MemswapState memswap_word_state(uint64_t word)
{
    return word & MEMSWAP_WORD_STATE;
}

static inline unsigned int memswap_word_pins(uint64_t word)
{
    return (word & MEMSWAP_PIN_MASK) >> MEMSWAP_PIN_SHIFT;
}

/* The policy that brought it in, counted from 1; 0: none */
static inline unsigned int memswap_word_ahead(uint64_t word)
{
    return (word & MEMSWAP_AHEAD_MASK) >> MEMSWAP_AHEAD_SHIFT;
}

static inline uint64_t memswap_word_handle(uint64_t word)
{
    return word >> MEMSWAP_HANDLE_SHIFT;
}

/* The state to tell others of: one that is peeked at is where it was. */
static inline MemswapState memswap_word_told_state(uint64_t word)
{
    MemswapState state = memswap_word_state(word);

    return state == MEMSWAP_FILLING && (word & MEMSWAP_WORD_PEEKED) ?
           MEMSWAP_STORED : state;
}

/* Is it a page that a zap must not unmap? */
static inline bool memswap_word_keeps_mapped(uint64_t word)
{
    return memswap_word_pins(word) ||
           memswap_word_state(word) == MEMSWAP_FILLING;
}

/* @word in another state, flags and pins and handle as they were */
static inline uint64_t memswap_word_with_state(uint64_t word,
                                               MemswapState state)
{
    return (word & ~MEMSWAP_WORD_STATE) | state;
}

static inline uint64_t memswap_word_with_handle(uint64_t word,
                                                uint64_t handle)
{
    return (word & ~MEMSWAP_HANDLE_MASK) | handle << MEMSWAP_HANDLE_SHIFT;
}

/**
 * memswap_word_legal: may a page go from @old to @new in one step?
 *
 * The table of design: states that a page may enter from each, and what pins
 * and flags may accompany it.
 */
static inline bool memswap_word_legal(uint64_t old, uint64_t new)
{
#define TO(state) (1u << MEMSWAP_##state)
    static const uint16_t next[MEMSWAP_STATE__MAX] = {
        [MEMSWAP_ABSENT]     = TO(FILLING),
        [MEMSWAP_RESIDENT]   = TO(RESIDENT) | TO(TRIAL) | TO(FILLING) |
                               TO(DISCARDING),
        [MEMSWAP_TRIAL]      = TO(TRIAL) | TO(FILLING) | TO(EVICTING) |
                               TO(DISCARDING),
        [MEMSWAP_EVICTING]   = TO(EVICTING) | TO(STORED) | TO(ZERO) |
                               TO(FILLING),
        [MEMSWAP_STORED]     = TO(STORED) | TO(FILLING) | TO(DISCARDING),
        [MEMSWAP_ZERO]       = TO(FILLING) | TO(DISCARDING),
        [MEMSWAP_FILLING]    = TO(FILLING) | TO(RESIDENT) | TO(STORED) |
                               TO(ZERO) | TO(ABSENT) | TO(TRIAL) |
                               TO(DISCARDING) | TO(POISONED),
        /* FILLING: the page cache would not let go of the page */
        [MEMSWAP_DISCARDING] = TO(DISCARDING) | TO(ABSENT) | TO(FILLING),
        [MEMSWAP_POISONED]   = TO(POISONED) | TO(DISCARDING),
    };
    MemswapState from = memswap_word_state(old);
    MemswapState to = memswap_word_state(new);
    bool pinned = memswap_word_pins(new) != 0;

    if (from >= MEMSWAP_STATE__MAX || to >= MEMSWAP_STATE__MAX ||
        !(next[from] & (1u << to))) {
        return false;
    }
    switch (to) {
    case MEMSWAP_EVICTING:
    case MEMSWAP_DISCARDING:
    case MEMSWAP_TRIAL:
        if (pinned) {
            return false;
        }
        break;
    case MEMSWAP_ABSENT:
        /* so that memory that was never touched and this look the same */
        return new == MEMSWAP_ABSENT;
    default:
        break;
    }
    if ((new & MEMSWAP_WORD_MAPPED) && to != MEMSWAP_RESIDENT &&
        !(to == MEMSWAP_FILLING && from == MEMSWAP_STORED) &&
        !(to == MEMSWAP_FILLING && from == MEMSWAP_FILLING &&
          (old & MEMSWAP_WORD_PEEKED))) {
        return false;
    }
    if (from == MEMSWAP_FILLING && (old & MEMSWAP_WORD_PEEKED) &&
        to != MEMSWAP_STORED && to != MEMSWAP_FILLING) {
        return false;
    }
    if (to == MEMSWAP_FILLING && from != MEMSWAP_FILLING &&
        memswap_word_pins(new) > memswap_word_pins(old) &&
        memswap_word_pins(new) == MEMSWAP_PIN_SATURATED) {
        /* without an entry in the side table */
        return false;
    }
    if ((new & MEMSWAP_WORD_KEPT) &&
        !((TO(RESIDENT) | TO(TRIAL) | TO(EVICTING) | TO(FILLING)) &
          (1u << to))) {
        return false;
    }
    if ((new & MEMSWAP_AHEAD_MASK) &&
        !((TO(TRIAL) | TO(EVICTING) | TO(FILLING)) & (1u << to))) {
        return false;
    }
    if ((new & MEMSWAP_WORD_DISCARD) && to != MEMSWAP_FILLING) {
        return false;
    }
    return true;
#undef TO
}

static inline uint64_t memswap_word_load(MemswapWord *word)
{
    return atomic_load(word);
}

/**
 * memswap_word_cas: change @word from *@old to @new
 *
 * Sequentially consistent, which pins and zaps rely on.  On failure *@old is
 * what was found.
 */
static inline bool memswap_word_cas(MemswapWord *word, uint64_t *old,
                                    uint64_t new)
{
#ifdef MEMSWAP_DEBUG
    if (!memswap_word_legal(*old, new)) {
        g_error("memswap: illegal page transition %016" G_GINT64_MODIFIER
                "x -> %016" G_GINT64_MODIFIER "x", *old, new);
    }
#endif
    return atomic_compare_exchange_strong(word, old, new);
}

#endif /* MEMSWAP_WORD_H */

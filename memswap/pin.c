/*
 * Pins: pages that must stay where they are
 *
 * The kernel or another process holds a pinned page itself, not its address:
 * it must be neither punched nor, since system calls fail on what is not
 * mapped, zapped.  A pin is counted in the page's word, together with the state
 * that it depends on.
 *
 * How much is pinned is bounded, since what is pinned can't be reclaimed: with
 * more of it than the limit, no limit could be held.  Who pins adds the whole
 * range to engine->pinned first, and takes back what it found to be pinned
 * already: so that sum is never less than the pages with a pin, and a bound
 * that it was held against is never passed.  At rest it is exact.  A fill that
 * pins counts its page itself.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <unistd.h>

#include "internal.h"

/* How long a pin waits for room before it passes the limit. */
#define PIN_PATIENCE_NS 50000000
#define PIN_SLICE_NS 1000000

/* With so many pins the next one goes to the side table. */
#define PINS_IN_WORD (MEMSWAP_PIN_SATURATED - 1)

/* One more pin on a page with PINS_IN_WORD or more; false: look again. */
static bool pin_overflow(MemswapEngine *engine, MemswapWord *word)
{
    uint64_t old;
    bool done = false;

    g_mutex_lock(&engine->overflow_lock);
    old = memswap_word_load(word);
    if (memswap_word_pins(old) == MEMSWAP_PIN_SATURATED) {
        gsize n = GPOINTER_TO_SIZE(g_hash_table_lookup(engine->overflow,
                                                       word));

        g_hash_table_insert(engine->overflow, word,
                            GSIZE_TO_POINTER(n + 1));
        done = true;
    } else if (memswap_word_pins(old) == PINS_IN_WORD &&
               memswap_word_cas(word, &old, old + MEMSWAP_PIN_ONE)) {
        g_hash_table_insert(engine->overflow, word,
                            GSIZE_TO_POINTER(PINS_IN_WORD + 1));
        done = true;
    }
    g_mutex_unlock(&engine->overflow_lock);
    return done;
}

static bool unpin_overflow(MemswapEngine *engine, MemswapWord *word)
{
    uint64_t old;
    bool done = false;

    g_mutex_lock(&engine->overflow_lock);
    old = memswap_word_load(word);
    if (memswap_word_pins(old) == MEMSWAP_PIN_SATURATED) {
        gsize n = GPOINTER_TO_SIZE(g_hash_table_lookup(engine->overflow,
                                                       word)) - 1;

        if (n > PINS_IN_WORD) {
            g_hash_table_insert(engine->overflow, word, GSIZE_TO_POINTER(n));
        } else {
            g_hash_table_remove(engine->overflow, word);
            while (!memswap_word_cas(word, &old, old - MEMSWAP_PIN_ONE)) {
            }
        }
        done = true;
    }
    g_mutex_unlock(&engine->overflow_lock);
    return done;
}

/* What one memswap_pin() has waited for so far. */
typedef struct PinWait {
    bool stalled;
    bool held;              /* it waits now */
    int64_t since;
    unsigned int force;     /* MEMSWAP_FILL_FORCE once it waited enough */
    unsigned int once;      /* the same, for the next attempt alone */
} PinWait;

/*
 * Waiting does not end by passing the limit: it is the host that has no memory,
 * of which we may have some.  Evictors, if there are any, see to that.
 */
static bool relieve_host(MemswapBlock *block)
{
    MemswapEngine *engine = block->engine;

    if (engine->n_evictors) {
        return false;
    }
    if (memswap_hugetlb_wanted(engine) && memswap_reclaim_direct(engine, 0)) {
        return true;
    }
    return !block->alias && memswap_reclaim_some(engine);
}

/*
 * Make room in this thread, or decide to pass the limit, where somebody could
 * be waiting for us or has waited enough.  False: all there is to do is wait.
 * @forced: the limit was no reason to fail.
 */
static bool find_room(MemswapBlock *block, PinWait *wait, bool forced,
                      int64_t now)
{
    MemswapEngine *engine = block->engine;

    if (forced) {
        return relieve_host(block);
    }
    /* a lack of hugepages that goes on is nothing to an ordinary page */
    if (memswap_makes_own_room(engine) &&
        (memswap_reclaim_direct(engine, block->page_size) ||
         (!block->alias && !memswap_excess(engine, block->page_size)))) {
        /* who took it meanwhile has it from us: that is no reason to wait */
        wait->once = MEMSWAP_FILL_FORCE;
        return true;
    }
    if (!engine->n_evictors || memswap_may_overshoot(engine, 0) ||
        now - wait->since > PIN_PATIENCE_NS) {
        wait->force = MEMSWAP_FILL_FORCE;
    }
    return wait->force;
}

/* @seen: room_seq, as it was before the attempt that found no room. */
static void wait_for_room(MemswapBlock *block, PinWait *wait, bool forced,
                          uint32_t seen)
{
    MemswapEngine *engine = block->engine;
    int64_t before = memswap_now(engine);

    if (!wait->stalled) {
        wait->stalled = true;
        wait->since = before;
        memswap_count(engine->stalls, 1);
    }
    if (find_room(block, wait, forced, before)) {
        return;
    }
    if (!wait->held) {
        wait->held = true;
        memswap_hold(block);
    }
    memswap_hold_on(engine, seen, PIN_SLICE_NS);
    memswap_count(engine->stall_ns, memswap_now(engine) - before);
}

/* Whatever comes next, it is not room that a pin in the block waits for. */
static void wait_over(MemswapBlock *block, PinWait *wait)
{
    if (wait->held) {
        wait->held = false;
        memswap_hold_over(block);
    }
}

static void wait_for_owner(MemswapBlock *block, uint64_t page)
{
    MemswapEngine *engine = block->engine;
    int64_t before = memswap_now(engine);

    memswap_page_wait(&block->words[page]);
    memswap_trace(engine, MEMSWAP_TRACE_PIN_WAIT, block, page,
                  memswap_now(engine) - before);
}

typedef enum Pinned {
    PINNED_NOT,     /* the page has to be put in place first */
    PINNED_FRESH,   /* it had no pin before */
    PINNED_MORE,    /* it had, or was counted by the fill */
} Pinned;

/* Pin a page that is mapped for certain. */
static inline Pinned pin_mapped(MemswapBlock *block, uint64_t page)
{
    MemswapWord *word = &block->words[page];
    uint64_t old = memswap_word_load(word);

    while (memswap_word_state(old) == MEMSWAP_RESIDENT &&
           (old & MEMSWAP_WORD_MAPPED)) {
        unsigned int pins = memswap_word_pins(old);

        if (G_UNLIKELY(pins >= PINS_IN_WORD)) {
            if (pin_overflow(block->engine, word)) {
                return PINNED_MORE;
            }
            old = memswap_word_load(word);
        } else if (memswap_word_cas(word, &old, old + MEMSWAP_PIN_ONE)) {
            return pins ? PINNED_MORE : PINNED_FRESH;
        }
    }
    return PINNED_NOT;
}

/* As pin_page(), but for what it has to clear up. */
static int pin_somehow(MemswapBlock *block, uint64_t page, PinWait *wait,
                       Pinned *how)
{
    while ((*how = pin_mapped(block, page)) == PINNED_NOT) {
        uint64_t word = memswap_word_load(&block->words[page]);
        /* a word that is nearly full of pins is not for memswap_fill() */
        bool pin = memswap_word_pins(word) < PINS_IN_WORD;
        unsigned int force = wait->force | wait->once;
        uint32_t seen = atomic_load(&block->engine->room_seq);
        MemswapFaultKind kind;

        wait->once = 0;
        switch (memswap_fill(block, page,
                             force | (pin ? MEMSWAP_FILL_PIN : 0), &kind)) {
        case MEMSWAP_DONE:
            if (pin) {
                memswap_touched(block, page, memswap_now(block->engine));
                *how = PINNED_MORE;
                return 0;
            }
            memswap_region_zap_wait(memswap_page_region(block, page));
            break;
        case MEMSWAP_BUSY:
            wait_over(block, wait);
            wait_for_owner(block, page);
            break;
        case MEMSWAP_NO_ROOM:
            if (atomic_load(&block->dead)) {
                /* who removes it waits for us */
                return -EFAULT;
            }
            wait_for_room(block, wait, force, seen);
            break;
        case MEMSWAP_LOST:
            return -EIO;
        case MEMSWAP_GONE:
            return -EFAULT;
        }
    }
    return 0;
}

/* Pin a page, wherever it is.  *@how is set on success. */
static int pin_page(MemswapBlock *block, uint64_t page, PinWait *wait,
                    Pinned *how)
{
    int ret = pin_somehow(block, page, wait, how);

    wait_over(block, wait);
    return ret;
}

bool memswap_pin_mapped(MemswapBlock *block, uint64_t page)
{
    MemswapEngine *engine = block->engine;
    uint64_t word = memswap_word_load(&block->words[page]);
    Pinned how;

    if (memswap_word_state(word) != MEMSWAP_RESIDENT ||
        !(word & MEMSWAP_WORD_MAPPED)) {
        return false;
    }
    atomic_fetch_add(&engine->pinned, block->page_size);
    how = pin_mapped(block, page);
    if (how != PINNED_FRESH) {
        atomic_fetch_sub(&engine->pinned, block->page_size);
    }
    return how != PINNED_NOT;
}

/* Returns true if it was the page's last pin. */
static inline bool unpin_page(MemswapBlock *block, uint64_t page)
{
    MemswapWord *word = &block->words[page];
    uint64_t old = memswap_word_load(word);

    while (true) {
        unsigned int pins = memswap_word_pins(old);

        if (G_UNLIKELY(!pins)) {
            memswap_event(block->engine, MEMSWAP_EVENT_BUG, block, page);
            return false;
        }
        if (G_UNLIKELY(pins == MEMSWAP_PIN_SATURATED)) {
            if (unpin_overflow(block->engine, word)) {
                return false;
            }
            old = memswap_word_load(word);
        } else if (memswap_word_cas(word, &old, old - MEMSWAP_PIN_ONE)) {
            return pins == 1;
        }
    }
}

/*
 * The next managed part of [*@host, *@host + *@size).  Returns its block,
 * counted in, and its pages; moves *@host and *@size past it.  NULL at the
 * end.
 */
static MemswapBlock *next_part(MemswapEngine *engine, const uint8_t **host,
                               uint64_t *size, uint64_t *first,
                               uint64_t *end)
{
    while (*size) {
        MemswapBlock *block = memswap_block_find(engine, *host);
        uint64_t offset, n;

        if (block) {
            offset = *host - block->host;
            n = MIN(*size, block->size - offset);
            *first = offset >> block->page_shift;
            *end = (offset + n + block->page_size - 1) >> block->page_shift;
        } else {
            uint64_t step = sysconf(_SC_PAGESIZE);

            n = MIN(*size, step - (uintptr_t)*host % step);
        }
        *host += n;
        *size -= n;
        if (block) {
            return block;
        }
    }
    return NULL;
}

uint64_t memswap_pin_bound(MemswapEngine *engine)
{
    uint64_t limit = atomic_load(&engine->limit);

    return atomic_load(&engine->pin_limit) ?: limit - limit / 8;
}

uint64_t memswap_pin_room(MemswapEngine *engine)
{
    uint64_t bound = memswap_pin_bound(engine);
    uint64_t pinned = memswap_sum(&engine->pinned);

    return bound - MIN(pinned, bound);
}

/* How many of these pages have no pin now? */
static uint64_t count_unpinned(MemswapBlock *block, uint64_t first,
                               uint64_t end)
{
    uint64_t n = 0;

    for (uint64_t page = first; page < end; page++) {
        n += !memswap_word_pins(memswap_word_load(&block->words[page]));
    }
    return n;
}

/* Count pages in as pinned, unless that would pass the bound. */
static bool reserve(MemswapBlock *block, uint64_t first, uint64_t end,
                    unsigned int flags)
{
    MemswapEngine *engine = block->engine;
    int64_t size = (end - first) << block->page_shift;
    int64_t pinned = atomic_fetch_add(&engine->pinned, size) + size;
    int64_t bound;

    if (flags & MEMSWAP_PIN_FORCE) {
        return true;
    }
    bound = memswap_pin_bound(engine);
    if (flags & MEMSWAP_PIN_HOLD) {
        bound /= 2;
    }
    if (G_LIKELY(pinned <= bound)) {
        return true;
    }
    /* pages that are pinned already were counted once */
    pinned -= size - (int64_t)(count_unpinned(block, first, end) <<
                               block->page_shift);
    if (pinned <= bound) {
        return true;
    }
    atomic_fetch_sub(&engine->pinned, size);
    memswap_count(engine->pins_refused, 1);
    return false;
}

static void unpin_part(MemswapBlock *block, uint64_t first, uint64_t end)
{
    uint64_t n = 0;

    for (uint64_t page = first; page < end; page++) {
        n += unpin_page(block, page);
    }
    if (n) {
        atomic_fetch_sub(&block->engine->pinned, n << block->page_shift);
    }
}

void memswap_unpin_mapped(MemswapBlock *block, uint64_t page)
{
    unpin_part(block, page, page + 1);
}

/* Pin pages of one block, or none of them. */
static int pin_part(MemswapBlock *block, uint64_t first, uint64_t end,
                    unsigned int flags, PinWait *wait)
{
    uint64_t fresh = 0;
    uint64_t page;
    int ret = 0;

    if (!reserve(block, first, end, flags)) {
        return -ENOBUFS;
    }
    for (page = first; page < end; page++) {
        Pinned how = pin_mapped(block, page);

        if (G_UNLIKELY(how == PINNED_NOT)) {
            ret = pin_page(block, page, wait, &how);
            if (ret) {
                break;
            }
        }
        fresh += how == PINNED_FRESH;
    }
    if (G_UNLIKELY(fresh < end - first)) {
        atomic_fetch_sub(&block->engine->pinned,
                         (end - first - fresh) << block->page_shift);
    }
    if (G_UNLIKELY(ret)) {
        unpin_part(block, first, page);
    }
    return ret;
}

int memswap_block_pin(MemswapBlock *block, uint64_t first, uint64_t n)
{
    PinWait wait = { 0 };

    return pin_part(block, first, first + n, MEMSWAP_PIN_FORCE, &wait);
}

/* Pins have ended, so pages can leave that could not. */
static void may_leave(MemswapEngine *engine)
{
    if (atomic_load(&engine->huge_stuck)) {
        /* until reclaim finds out anew */
        atomic_store(&engine->huge_stuck, 0);
    }
    memswap_room_made(engine);
}

void memswap_block_unpin(MemswapBlock *block, uint64_t first, uint64_t n)
{
    unpin_part(block, first, first + n);
    may_leave(block->engine);
    /* somebody may have been refused for these */
    memswap_unpinned(block->engine);
}

void memswap_unpin(MemswapEngine *engine, const void *host, uint64_t size)
{
    const uint8_t *at = host;
    MemswapBlock *block;
    uint64_t first, end;

    while ((block = next_part(engine, &at, &size, &first, &end))) {
        unpin_part(block, first, end);
        memswap_block_unref(block);
    }
    may_leave(engine);
}

int memswap_pin_with(MemswapEngine *engine, const void *host, uint64_t size,
                     unsigned int flags)
{
    const uint8_t *at = host;
    PinWait wait = { 0 };
    MemswapBlock *block;
    uint64_t first, end;

    while ((block = next_part(engine, &at, &size, &first, &end))) {
        int ret = pin_part(block, first, end, flags, &wait);
        uint8_t *begin = memswap_page_host(block, first);

        memswap_block_unref(block);
        if (ret) {
            if (begin > (uint8_t *)host) {
                memswap_unpin(engine, host, begin - (uint8_t *)host);
            }
            return ret;
        }
    }
    return 0;
}

int memswap_pin(MemswapEngine *engine, const void *host, uint64_t size)
{
    return memswap_pin_with(engine, host, size, 0);
}

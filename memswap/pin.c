/*
 * Pins: pages that must stay where they are
 *
 * The kernel or another process holds a pinned page itself, not its address:
 * it must be neither punched nor, since system calls fail on what is not
 * mapped, zapped.  A pin is counted in the page's word, together with the state
 * that it depends on.
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
    int64_t since;
    unsigned int force;     /* MEMSWAP_FILL_FORCE once it waited enough */
} PinWait;

/*
 * Make room in this thread, or decide to pass the limit, where somebody could
 * be waiting for us or has waited enough.  False: all there is to do is wait.
 */
static bool find_room(MemswapEngine *engine, size_t size, PinWait *wait,
                      int64_t now)
{
    if (wait->force) {
        /* it is the host that has no memory, of which we may have some */
        return !engine->n_evictors && memswap_hugetlb_wanted(engine) &&
               memswap_reclaim_direct(engine, 0);
    }
    if (memswap_makes_own_room(engine) &&
        memswap_reclaim_direct(engine, size)) {
        return true;
    }
    if (!engine->n_evictors || memswap_may_overshoot(engine, 0) ||
        now - wait->since > PIN_PATIENCE_NS) {
        wait->force = MEMSWAP_FILL_FORCE;
    }
    return wait->force;
}

static void wait_for_room(MemswapEngine *engine, size_t size, PinWait *wait)
{
    int64_t before = memswap_now(engine);

    if (!wait->stalled) {
        wait->stalled = true;
        wait->since = before;
        memswap_count(engine->stalls, 1);
    }
    if (find_room(engine, size, wait, before)) {
        return;
    }
    memswap_evictors_kick(engine);
    g_usleep(PIN_SLICE_NS / 1000);
    memswap_count(engine->stall_ns, memswap_now(engine) - before);
}

static void wait_for_owner(MemswapBlock *block, uint64_t page)
{
    MemswapEngine *engine = block->engine;
    int64_t before = memswap_now(engine);

    memswap_page_wait(&block->words[page]);
    memswap_trace(engine, MEMSWAP_TRACE_PIN_WAIT, block, page,
                  memswap_now(engine) - before);
}

/* Pin a page that is mapped for certain; false if it is not, any more. */
static bool pin_mapped(MemswapBlock *block, uint64_t page)
{
    MemswapWord *word = &block->words[page];
    uint64_t old = memswap_word_load(word);

    while (memswap_word_state(old) == MEMSWAP_RESIDENT &&
           (old & MEMSWAP_WORD_MAPPED)) {
        unsigned int pins = memswap_word_pins(old);

        if (pins >= PINS_IN_WORD) {
            if (pin_overflow(block->engine, word)) {
                return true;
            }
            old = memswap_word_load(word);
        } else if (memswap_word_cas(word, &old, old + MEMSWAP_PIN_ONE)) {
            if (!pins) {
                memswap_count(block->engine->pinned, block->page_size);
            }
            return true;
        }
    }
    return false;
}

static int pin_page(MemswapBlock *block, uint64_t page, PinWait *wait)
{

    while (!pin_mapped(block, page)) {
        uint64_t word = memswap_word_load(&block->words[page]);
        /* a word that is nearly full of pins is not for memswap_fill() */
        bool pin = memswap_word_pins(word) < PINS_IN_WORD;
        MemswapFaultKind kind;

        switch (memswap_fill(block, page,
                             wait->force | (pin ? MEMSWAP_FILL_PIN : 0),
                             &kind)) {
        case MEMSWAP_DONE:
            if (pin) {
                memswap_touched(block, page, memswap_now(block->engine));
                return 0;
            }
            memswap_region_zap_wait(memswap_page_region(block, page));
            break;
        case MEMSWAP_BUSY:
            wait_for_owner(block, page);
            break;
        case MEMSWAP_NO_ROOM:
            if (atomic_load(&block->dead)) {
                /* who removes it waits for us */
                return -EFAULT;
            }
            wait_for_room(block->engine, block->page_size, wait);
            break;
        case MEMSWAP_LOST:
            return -EIO;
        case MEMSWAP_GONE:
            return -EFAULT;
        }
    }
    return 0;
}

static void unpin_page(MemswapBlock *block, uint64_t page)
{
    MemswapWord *word = &block->words[page];
    uint64_t old = memswap_word_load(word);

    while (true) {
        unsigned int pins = memswap_word_pins(old);

        if (!pins) {
            memswap_event(block->engine, MEMSWAP_EVENT_BUG, block, page);
            return;
        }
        if (pins == MEMSWAP_PIN_SATURATED) {
            if (unpin_overflow(block->engine, word)) {
                return;
            }
            old = memswap_word_load(word);
        } else if (memswap_word_cas(word, &old, old - MEMSWAP_PIN_ONE)) {
            if (pins == 1) {
                memswap_count(block->engine->pinned,
                              -(int64_t)block->page_size);
            }
            return;
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
    const uint64_t step = sysconf(_SC_PAGESIZE);

    while (*size) {
        MemswapBlock *block = memswap_block_find(engine, *host);
        uint64_t offset, n;

        if (block) {
            offset = *host - block->host;
            n = MIN(*size, block->size - offset);
            *first = offset >> block->page_shift;
            *end = (offset + n + block->page_size - 1) >> block->page_shift;
        } else {
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

void memswap_unpin(MemswapEngine *engine, const void *host, uint64_t size)
{
    const uint8_t *at = host;
    MemswapBlock *block;
    uint64_t first, end;

    while ((block = next_part(engine, &at, &size, &first, &end))) {
        for (uint64_t page = first; page < end; page++) {
            unpin_page(block, page);
        }
        memswap_block_unref(block);
    }
    if (atomic_load(&engine->huge_stuck)) {
        /* until reclaim finds out anew */
        atomic_store(&engine->huge_stuck, 0);
    }
    memswap_room_made(engine);
}

int memswap_pin(MemswapEngine *engine, const void *host, uint64_t size)
{
    const uint8_t *at = host;
    PinWait wait = { 0 };
    MemswapBlock *block;
    uint64_t first, end;

    while ((block = next_part(engine, &at, &size, &first, &end))) {
        for (uint64_t page = first; page < end; page++) {
            int ret = pin_page(block, page, &wait);

            if (ret) {
                uint8_t *stop = memswap_page_host(block, page);

                memswap_block_unref(block);
                if (stop > (uint8_t *)host) {
                    memswap_unpin(engine, host, stop - (uint8_t *)host);
                }
                return ret;
            }
        }
        memswap_block_unref(block);
    }
    return 0;
}

/*
 * The fault path: put one page in place
 *
 * One function for everybody who needs a page: faults, pins, and faults that
 * had to wait for room.  It works in the calling thread, and leaves at once
 * where somebody else owns the page or there is no room.
 *
 * Why a pinned page stays mapped although regions are zapped whole: the one
 * who zaps sets MemswapRegion.zapping, then looks at each word, and zaps the
 * runs between pages that are pinned or in FILLING.  A filler moves its page
 * to FILLING, then looks at zapping.  Both are sequentially consistent, so
 * either the zapper saw FILLING, or the filler sees the zap: then what it maps
 * may be unmapped at once, it doesn't claim MAPPED, and a pin waits for the
 * zap to end before it maps.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>

#include "internal.h"
#include "uffd.h"

/* Ordinary pages are built on the stack. */
#define SMALL_PAGE 4096

typedef struct Fill {
    MemswapEngine *engine;
    MemswapBlock *block;
    uint64_t page;
    void *host;
    uint64_t old;       /* the word before FILLING */
    bool spurious;      /* it was mapped already */
} Fill;

static bool state_needs_room(MemswapState state)
{
    return state == MEMSWAP_ABSENT || state == MEMSWAP_STORED ||
           state == MEMSWAP_ZERO;
}

/* The page cache has the page, with the right content: map it. */
static int fill_map(Fill *fill)
{
    int ret = memswap_uffd_continue(fill->engine->uffd, fill->host,
                                    fill->block->page_size, NULL);

    if (ret == -EEXIST) {
        /* mapped already, in which case the kernel wakes nobody */
        fill->spurious = true;
        if (!fill->engine->inline_faults) {
            memswap_uffd_wake(fill->engine->uffd, fill->host,
                              fill->block->page_size);
        }
        return 0;
    }
    return ret;
}

/*
 * Put @data in place.  A page that is there already says nothing about its
 * content: overwrite it before it is mapped.
 */
static int fill_data(Fill *fill, const void *data)
{
    int ret = memswap_uffd_copy(fill->engine->uffd, fill->host, data,
                                fill->block->page_size, NULL);

    if (ret == -EEXIST && memswap_block_exposed(fill->block)) {
        ret = memswap_exposed_copy(fill->block, fill->page, data);
    }
    if (ret == -EEXIST) {
        ret = memswap_page_write(fill->block, fill->page, data);
        if (!ret) {
            ret = fill_map(fill);
        }
    }
    return ret;
}

static int fill_zero(Fill *fill)
{
    int uffd = fill->engine->uffd;
    size_t size = fill->block->page_size;
    bool huge = fill->block->alias;
    int ret = huge ? memswap_uffd_copy(uffd, fill->host,
                                       fill->engine->hugetlb.zeroes, size,
                                       NULL) :
              memswap_uffd_zero(uffd, fill->host, size, NULL);

    if (ret == -EEXIST) {
        /* What was never ours is right as it is. */
        ret = fill_map(fill);
        if (ret == -EFAULT && huge) {
            /* there is no page: so COPY says that no hugepage is free */
            ret = -ENOMEM;
        }
    }
    return ret;
}

int memswap_fill_build(MemswapBlock *block, uint64_t old, uint8_t *data)
{
    MemswapStore *store = block->engine->store;
    uint64_t handle = memswap_word_handle(old);
    uint32_t value = handle;

    if (memswap_word_state(old) != MEMSWAP_ZERO) {
        return store->ops->get(store, handle, data, block->page_size);
    }
    if (!value) {
        memset(data, 0, block->page_size);
        return 0;
    }
    for (size_t i = 0; i < block->page_size; i += sizeof(value)) {
        memcpy(data + i, &value, sizeof(value));
    }
    return 0;
}

/* Build the page's content in @data, then put it in place. */
static int fill_from(Fill *fill, uint8_t *data)
{
    int ret = memswap_fill_build(fill->block, fill->old, data);

    return ret ?: fill_data(fill, data);
}

static int fill_small(Fill *fill)
{
    uint8_t data[SMALL_PAGE] __attribute__((aligned(SMALL_PAGE)));

    return fill_from(fill, data);
}

static int fill_huge(Fill *fill)
{
    uint8_t *data;
    int ret;

    if (memswap_word_state(fill->old) == MEMSWAP_ZERO &&
        !memswap_word_handle(fill->old)) {
        return fill_data(fill, fill->engine->hugetlb.zeroes);
    }
    data = memswap_hugetlb_take_buffer(fill->engine);
    ret = fill_from(fill, data);
    memswap_hugetlb_put_buffer(fill->engine, data);
    return ret;
}

static int fill_place(Fill *fill)
{
    MemswapState state = memswap_word_state(fill->old);

    switch (state) {
    case MEMSWAP_ABSENT:
        return fill_zero(fill);
    case MEMSWAP_RESIDENT:
    case MEMSWAP_TRIAL:
        return fill_map(fill);
    default:
        return fill->block->alias ? fill_huge(fill) : fill_small(fill);
    }
}

/* What the page cache has now, and the copy, are accounted for. */
static void fill_account(MemswapBlock *block, uint64_t page, uint64_t old,
                         bool ahead, uint64_t *flags, uint64_t *handle)
{
    MemswapEngine *engine = block->engine;

    switch (memswap_word_state(old)) {
    case MEMSWAP_ABSENT:
        memswap_block_moved(block, page, MEMSWAP_IN_NONE,
                            MEMSWAP_IN_CACHE);
        return;
    case MEMSWAP_STORED:
        if (memswap_copy_keep(block)) {
            *flags |= MEMSWAP_WORD_KEPT;
            *handle = memswap_word_handle(old);
        } else {
            /* only now that the page is in place is its copy of no use */
            engine->store->ops->drop(engine->store, memswap_word_handle(old));
        }
        memswap_block_moved(block, page, MEMSWAP_IN_STORE,
                            MEMSWAP_IN_CACHE);
        break;
    case MEMSWAP_ZERO:
        memswap_block_moved(block, page, MEMSWAP_IN_WORD,
                            MEMSWAP_IN_CACHE);
        break;
    case MEMSWAP_TRIAL:
        memswap_count(engine->trial_pages, -(int64_t)block->page_size);
        if (G_UNLIKELY(memswap_word_ahead(old))) {
            memswap_policy_watched(block, page, memswap_word_ahead(old),
                                   true);
        }
        return;
    default:
        return;
    }
    memswap_count(engine->refaults, 1);
    if (!ahead) {
        memswap_age_refaulted(block, memswap_page_region(block, page));
    }
    if (memswap_policy_wants(engine, MEMSWAP_POLICY_EVENT_BIT(FILLED))) {
        memswap_policy_emit(engine, MEMSWAP_POLICY_FILLED, block, page, 1);
    }
}

void memswap_fill_finish(MemswapBlock *block, uint64_t page, uint64_t old,
                         bool mapped, bool ahead)
{
    uint64_t flags = mapped ? MEMSWAP_WORD_MAPPED : 0;
    uint64_t handle = 0;

    fill_account(block, page, old, ahead, &flags, &handle);
    memswap_page_settle(block, page, MEMSWAP_RESIDENT, flags, handle);
}

void memswap_fill_finish_watched(MemswapBlock *block, uint64_t page,
                                 uint64_t old, unsigned int ahead)
{
    MemswapEngine *engine = block->engine;
    uint64_t flags = (uint64_t)ahead << MEMSWAP_AHEAD_SHIFT;
    uint64_t handle = 0;

    fill_account(block, page, old, true, &flags, &handle);
    memswap_count(engine->trial_pages, (int64_t)block->page_size);
    if (!memswap_page_settle(block, page, MEMSWAP_TRIAL, flags, handle)) {
        memswap_count(engine->trial_pages, -(int64_t)block->page_size);
    }
}

/* Is this an error that will not go away?  Then the content is given up. */
static bool fill_lost(Fill *fill, MemswapState state, int error)
{
    MemswapEngine *engine = fill->engine;
    MemswapBlock *block = fill->block;

    if (state == MEMSWAP_STORED && error == -EBADMSG) {
        /* the copy is damaged */
        engine->store->ops->drop(engine->store,
                                 memswap_word_handle(fill->old));
        memswap_block_moved(block, fill->page, MEMSWAP_IN_STORE,
                            MEMSWAP_IN_POISON);
        return true;
    }
    if (memswap_word_pins(fill->old) ||
        (error != -EIO && error != -EHWPOISON)) {
        return false;
    }
    /* the host's memory is, or its swap */
    if (state == MEMSWAP_RESIDENT) {
        if (!memswap_shared_take_unowned(block, fill->page)) {
            /* a process has pinned it, which is as good as a pin */
            return false;
        }
        memswap_uncharge(engine, block->page_size);
        memswap_block_moved(block, fill->page, MEMSWAP_IN_CACHE,
                            MEMSWAP_IN_POISON);
        return true;
    }
    if (state == MEMSWAP_ABSENT) {
        memswap_block_moved(block, fill->page, MEMSWAP_IN_NONE,
                            MEMSWAP_IN_POISON);
        return true;
    }
    return false;
}

/* It could not be put in place: as if nothing had happened. */
static MemswapOutcome fill_fail(Fill *fill, int error, unsigned int flags)
{
    bool hint = flags & MEMSWAP_FILL_HINT;
    MemswapEngine *engine = fill->engine;
    MemswapBlock *block = fill->block;
    MemswapState state = memswap_word_state(fill->old);
    MemswapWord *word = &block->words[fill->page];

    if (flags & MEMSWAP_FILL_PIN) {
        uint64_t now = memswap_word_load(word);

        while (!memswap_word_cas(word, &now, now - MEMSWAP_PIN_ONE)) {
        }
        if (memswap_word_pins(now) == 1 && memswap_word_pins(fill->old)) {
            /* the pins before ours, which were counted, went meanwhile */
            memswap_count(engine->pinned, -(int64_t)block->page_size);
        }
    }
    if (state_needs_room(state)) {
        memswap_uncharge(engine, block->page_size);
    }
    if (state == MEMSWAP_TRIAL) {
        memswap_count(engine->trial_pages, -(int64_t)block->page_size);
        state = MEMSWAP_RESIDENT;
    }
    if (!hint && fill_lost(fill, state, error)) {
        /* Who touched it waits for the discard, without having said so. */
        memswap_page_settle(block, fill->page, MEMSWAP_POISONED,
                            MEMSWAP_WORD_WANTED, 0);
        memswap_event(engine, MEMSWAP_EVENT_PAGE_LOST, block, fill->page);
        return MEMSWAP_LOST;
    }
    memswap_page_settle(block, fill->page, state, 0,
                        memswap_word_handle(fill->old));
    switch (error) {
    case -EFAULT:
        /* The word says resident, the page cache has nothing. */
        memswap_event(engine, MEMSWAP_EVENT_BUG, block, fill->page);
        return MEMSWAP_LOST;
    case -ENOENT:
    case -ESRCH:
        return MEMSWAP_GONE;
    case -ENOMEM:
        if (block->alias && !hint) {
            memswap_hugetlb_short(block, fill->page);
        }
        return MEMSWAP_NO_ROOM;
    default:
        return MEMSWAP_NO_ROOM;
    }
}

static MemswapFaultKind fill_kind(MemswapState state)
{
    switch (state) {
    case MEMSWAP_ABSENT:
        return MEMSWAP_FAULT_ABSENT;
    case MEMSWAP_RESIDENT:
        return MEMSWAP_FAULT_MINOR;
    case MEMSWAP_TRIAL:
        return MEMSWAP_FAULT_TRIAL;
    case MEMSWAP_ZERO:
        return MEMSWAP_FAULT_SAME;
    case MEMSWAP_STORED:
        return MEMSWAP_FAULT_STORED;
    default:
        return MEMSWAP_FAULT_WAITED;
    }
}

/*
 * Become the owner of the page, with room for it.  On MEMSWAP_DONE
 * fill->old is what the word was before.
 */
static MemswapOutcome fill_own(Fill *fill, unsigned int flags)
{
    MemswapEngine *engine = fill->engine;
    size_t size = fill->block->page_size;
    MemswapWord *word = &fill->block->words[fill->page];
    uint64_t pin = flags & MEMSWAP_FILL_PIN ? MEMSWAP_PIN_ONE : 0;
    bool hint = flags & MEMSWAP_FILL_HINT;
    uint64_t old = memswap_word_load(word);
    bool charged = false;

    for (;;) {
        MemswapState state = memswap_word_state(old);
        bool room = state_needs_room(state);
        uint64_t new;

        if (charged && !room) {
            memswap_uncharge(engine, size);
            charged = false;
        }
        if (hint && state != MEMSWAP_STORED && state != MEMSWAP_ZERO) {
            fill->old = old;
            return MEMSWAP_BUSY;
        }
        switch (state) {
        case MEMSWAP_EVICTING:
        case MEMSWAP_FILLING:
        case MEMSWAP_DISCARDING:
        case MEMSWAP_POISONED:
            if (!memswap_page_want(word, &old)) {
                continue;
            }
            fill->old = old;
            return state == MEMSWAP_POISONED ? MEMSWAP_LOST : MEMSWAP_BUSY;
        default:
            break;
        }
        if (room && !charged) {
            if (!memswap_charge(engine, size, flags & MEMSWAP_FILL_FORCE)) {
                fill->old = old;
                return MEMSWAP_NO_ROOM;
            }
            charged = true;
        }
        if (pin && memswap_word_pins(old) + 1 >= MEMSWAP_PIN_SATURATED) {
            /* only the side table counts so far; resident, so not charged */
            fill->old = old;
            return MEMSWAP_BUSY;
        }
        new = memswap_word_with_state(old & ~MEMSWAP_WORD_MAPPED,
                                      MEMSWAP_FILLING) + pin;
        if (memswap_word_cas(word, &old, new)) {
            fill->old = old;
            return MEMSWAP_DONE;
        }
    }
}

MemswapOutcome memswap_fill(MemswapBlock *block, uint64_t page,
                            unsigned int flags, MemswapFaultKind *kind)
{
    MemswapEngine *engine = block->engine;
    MemswapRegion *region = memswap_page_region(block, page);
    bool pin = flags & MEMSWAP_FILL_PIN;
    bool hint = flags & MEMSWAP_FILL_HINT;
    Fill fill = {
        .engine = engine,
        .block = block,
        .page = page,
        .host = memswap_page_host(block, page),
    };
    MemswapOutcome outcome;
    bool zapping;
    int ret;

    if (!pin && !hint && memswap_huge_fill(block, page)) {
        *kind = MEMSWAP_FAULT_TRIAL;
        memswap_count(engine->faults[MEMSWAP_FAULT_TRIAL], 1);
        memswap_trace(engine, MEMSWAP_TRACE_FILL, block, page, *kind);
        return MEMSWAP_DONE;
    }
    outcome = fill_own(&fill, flags);
    *kind = fill_kind(memswap_word_state(fill.old));
    if (outcome != MEMSWAP_DONE) {
        return outcome;
    }

    /* after FILLING was set, see the head of this file */
    zapping = atomic_load(&region->zapping) != 0;
    if (pin && zapping) {
        memswap_region_zap_wait(region);
        zapping = false;
    }
    ret = fill_place(&fill);
    if (ret) {
        return fill_fail(&fill, ret, flags);
    }
    if (pin && !memswap_word_pins(fill.old)) {
        memswap_count(engine->pinned, block->page_size);
    }
    if (*kind == MEMSWAP_FAULT_MINOR && fill.spurious) {
        memswap_count(engine->spurious, 1);
    } else if (!hint) {
        memswap_count(engine->faults[*kind], 1);
        memswap_trace(engine, MEMSWAP_TRACE_FILL, block, page, *kind);
    }
    memswap_fill_finish(block, page, fill.old, !zapping, hint);
    return MEMSWAP_DONE;
}

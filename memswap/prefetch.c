/*
 * Prefetch: bring in what a policy expects to be touched
 *
 * How much of it was worth it?  A page that is brought in is mapped, and
 * nothing tells whether it is touched then.  One that comes in unmapped, on
 * trial, tells: its first touch is a minor fault.  But that costs about as much
 * as the fault that was to be saved.  So one page in WATCH_EVERY comes in so,
 * and the last of each request, whose touch tells a prefetcher to go on.  The
 * word says for which policy it is watched.  What holds for those is taken to
 * hold for all.
 *
 * A watched page is written to the page cache through the file, in FILLING, and
 * goes from there straight to TRIAL.  Nobody can have mapped it in between, so
 * it may be evicted like any page on trial, though no zap came before.  (In
 * blocks that other processes have mapped none is watched: these could see it
 * half written.)
 *
 * A policy that wastes more than a fifth of what it brings in is throttled: to
 * half as many pages as it asks for, then a quarter, and so on until it does
 * better.  A little always comes in, or nobody would see it do better; and of
 * what comes in, more is watched, so that it is seen as soon.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "policy-internal.h"

/* See above; measured: see docs/devel/memswap-policy.rst. */
#define WATCH_EVERY 16
#define SMALL_PAGE 4096

/* The governor: in so many parts is what a policy may bring in counted. */
#define RATE_FULL 64
/* Watched pages whose fate is known, to judge by. */
#define JUDGE_BY 32
/* The part that may be wasted. */
#define WASTE_PART 5

/* Who lacked room has it before those after it, for so long. */
#define HUNGRY_NS 100000000

void memswap_prefetch_init(MemswapPolicyHost *host)
{
    atomic_store(&host->governor.rate, RATE_FULL);
}

static void judge(PolicyGovernor *governor)
{
    uint32_t hits = atomic_load(&governor->hits);
    uint32_t wasted = atomic_load(&governor->wasted);
    uint32_t rate = atomic_load(&governor->rate);

    if (hits + wasted < JUDGE_BY) {
        return;
    }
    if (wasted * WASTE_PART > hits + wasted) {
        rate = MAX(rate / 2, 1);
    } else {
        rate = MIN(rate * 2, RATE_FULL);
    }
    atomic_store(&governor->rate, rate);
    atomic_fetch_sub(&governor->hits, hits);
    atomic_fetch_sub(&governor->wasted, wasted);
}

/* How many of @n pages may it bring in?  The others are left out. */
static uint64_t throttle(MemswapPolicyHost *host, uint64_t n)
{
    PolicyGovernor *governor = &host->governor;
    uint64_t allowed;

    judge(governor);
    governor->credit += n * atomic_load(&governor->rate);
    allowed = governor->credit / RATE_FULL;
    governor->credit %= RATE_FULL;
    memswap_count(host->n_throttled, n - allowed);
    return allowed;
}

/* Bytes to leave free, so that nobody has to make room for a touch. */
static uint64_t reserve(MemswapEngine *engine, MemswapPolicyPriority priority)
{
    switch (priority) {
    case MEMSWAP_POLICY_LOW:
        return atomic_load(&engine->reserve_low);
    case MEMSWAP_POLICY_NORMAL:
        return atomic_load(&engine->reserve_low) / 2;
    default:
        return 0;
    }
}

/* Does one that goes before lack room? */
static bool others_hungry(MemswapPolicyHost *host, int64_t now)
{
    MemswapPolicies *policies = &host->engine->policies;
    bool hungry = false;

    g_mutex_lock(&policies->lock);
    for (unsigned int i = 0; i < MEMSWAP_MAX_POLICIES; i++) {
        MemswapPolicyHost *other = atomic_load(&policies->slots[i]);

        hungry |= other && other->order < host->order &&
                  atomic_load(&other->hungry_until) > now;
    }
    g_mutex_unlock(&policies->lock);
    return hungry;
}

static bool has_room(MemswapBlock *block, uint64_t n,
                     MemswapPolicyPriority priority)
{
    MemswapEngine *engine = block->engine;
    uint64_t limit = atomic_load(&engine->limit);

    return atomic_load(&engine->charged) + (n << block->page_shift) +
           reserve(engine, priority) <= limit;
}

static bool is_stored(uint64_t word)
{
    MemswapState state = memswap_word_state(word);

    return state == MEMSWAP_STORED || state == MEMSWAP_ZERO;
}

/* On trial, and nobody's that is watched. */
static bool is_tried(uint64_t word)
{
    return memswap_word_state(word) == MEMSWAP_TRIAL &&
           !memswap_word_ahead(word);
}

/*
 * Map pages on trial, for which there is room already: who expects a touch
 * doesn't want it to fault.  Returns how many of them from @first on there
 * were.
 */
static uint64_t map_tried(MemswapBlock *block, uint64_t first, uint64_t end)
{
    unsigned int stored = 0;
    uint64_t n = 0;

    while (first + n < end && n < WATCH_EVERY &&
           is_tried(memswap_word_load(&block->words[first + n]))) {
        n++;
    }
    /* a huge page comes back as one */
    if (n && block->page_size == SMALL_PAGE &&
        !memswap_huge_fill(block, first)) {
        memswap_bring_in(block, first, first + n, MEMSWAP_BRING_ASKED,
                         &stored);
    }
    return n;
}

/*
 * Bring a page in unmapped, to see whether it is touched.  The caller owns the
 * region.
 */
static bool write_watched(MemswapPolicyHost *host, MemswapBlock *block,
                          uint64_t page)
{
    uint8_t data[SMALL_PAGE] __attribute__((aligned(SMALL_PAGE)));
    MemswapWord *word = &block->words[page];
    uint64_t old = memswap_word_load(word);

    if (!is_stored(old) ||
        !memswap_charge(block->engine, block->page_size, false)) {
        return false;
    }
    if (!memswap_word_cas(word, &old, memswap_word_with_state(
                                          old, MEMSWAP_FILLING))) {
        memswap_uncharge(block->engine, block->page_size);
        return false;
    }
    if (memswap_fill_build(block, old, data) ||
        memswap_page_write(block, page, data)) {
        /* as if it had never been asked for */
        memswap_uncharge(block->engine, block->page_size);
        memswap_page_settle(block, page, memswap_word_state(old), 0,
                            memswap_word_handle(old));
        return false;
    }
    memswap_fill_finish_watched(block, page, old, host->slot + 1);
    return true;
}

/*
 * Once another process may write to the page, a write of ours can come too
 * late.  Who exposes a block owns each of its regions in between.
 */
static bool bring_watched(MemswapPolicyHost *host, MemswapBlock *block,
                          uint64_t page)
{
    MemswapRegion *region = memswap_page_region(block, page);
    bool brought;

    if (!memswap_region_try_own(region)) {
        return false;
    }
    brought = !memswap_block_exposed(block) &&
              write_watched(host, block, page);
    memswap_region_disown(region);
    return brought;
}

/* A hugepage: what it saves is so much that there is no need to watch. */
static uint64_t bring_hugepages(MemswapBlock *block, uint64_t first,
                                uint64_t end, bool *more)
{
    uint64_t n = 0;

    for (uint64_t page = first; page < end && *more; page++) {
        MemswapFaultKind kind;

        switch (memswap_fill(block, page, MEMSWAP_FILL_HINT, &kind)) {
        case MEMSWAP_DONE:
            n++;
            break;
        case MEMSWAP_NO_ROOM:
            /* or no free hugepage: none is taken out for it */
            *more = false;
            break;
        default:
            break;
        }
    }
    return n;
}

/* For nobody who would want to know whether they are touched. */
static uint64_t bring_unwatched(MemswapBlock *block, uint64_t first,
                                uint64_t end, bool *more)
{
    unsigned int stored = 0;

    if (block->page_size != SMALL_PAGE) {
        return bring_hugepages(block, first, end, more);
    }
    return memswap_bring_in(block, first, end, MEMSWAP_BRING_ASKED, &stored);
}

/* Pages that are all stored, but for a change just now. */
static uint64_t bring_watched_run(MemswapPolicyHost *host,
                                  MemswapBlock *block,
                                  uint64_t first, uint64_t end, bool last)
{
    PolicyGovernor *governor = &host->governor;
    uint64_t rate = atomic_load(&governor->rate);
    uint64_t every = MAX(WATCH_EVERY * rate / RATE_FULL, 1);
    uint64_t done = 0;

    while (first < end) {
        uint64_t plain = MIN(end - first, every - 1 -
                             MIN(governor->since_watched, every - 1));
        unsigned int stored = 0;

        if (last && plain == end - first) {
            plain--;
        }
        if (plain) {
            unsigned int n = memswap_bring_in(block, first, first + plain,
                                              MEMSWAP_BRING_ASKED, &stored);

            governor->since_watched += n;
            done += n;
            if (n < plain) {
                break;
            }
        }
        first += plain;
        if (first < end) {
            if (!bring_watched(host, block, first)) {
                break;
            }
            governor->since_watched = 0;
            done++;
            first++;
        }
    }
    return done;
}

uint64_t memswap_prefetch_range(MemswapPolicyHost *host,
                                MemswapBlock *block, uint64_t first,
                                uint64_t end, bool last,
                                MemswapPolicyPriority priority, bool *more)
{
    int64_t now = memswap_policy_real_time();
    uint64_t done = 0;

    if (host && others_hungry(host, now)) {
        *more = false;
        return 0;
    }
    while (first < end && *more) {
        uint64_t n = 0, allowed;

        while (first + n < end && n < WATCH_EVERY &&
               is_stored(memswap_word_load(&block->words[first + n]))) {
            n++;
        }
        if (!n) {
            first += MAX(map_tried(block, first, end), 1);
            continue;
        }
        if (!has_room(block, n, priority)) {
            if (host) {
                atomic_store(&host->hungry_until, now + HUNGRY_NS);
            }
            *more = false;
            break;
        }
        allowed = host ? throttle(host, n) : n;
        /* a write might make a huge page of a page, where the host does that */
        if (host && block->page_size == SMALL_PAGE && block->kept_out &&
            !memswap_block_exposed(block)) {
            done += bring_watched_run(host, block, first, first + allowed,
                                      last && first + allowed == end);
        } else {
            done += bring_unwatched(block, first, first + allowed, more);
        }
        first += n;
    }
    if (host) {
        memswap_count(host->n_prefetched, done);
    }
    return done;
}

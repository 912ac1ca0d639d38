/*
 * memswap engine: what its files share
 *
 * Locks, in the order they are taken.  The fault path takes none of them
 * but the leaves stall_lock and helpers.lock, which nobody holds across a
 * system call.  (With no evictors it reclaims as well, and takes what reclaim
 * takes.)
 *
 *   clients_lock       the device processes that pin; before their own locks
 *   exposure.lock      who exposes blocks, and remotes
 *   retain_lock        who retains blocks, and releases them
 *   region ownership   one at a time a region: trial, eviction, collapse,
 *                      discard; a fault only tries, and does without
 *   reclaim_lock       the queues of offers and of trials
 *   settings_lock      writers of the settings
 *   blocks_lock        writers of the table of blocks
 *   overflow_lock      pin counts too high for a word
 *   stall_lock         faults held back for room
 *   helpers.lock       slow faults, and who reads events
 *   policies.*lock     see policy-internal.h
 *
 * Nobody holds a page (EVICTING, FILLING, DISCARDING) while waiting for room,
 * for another page, or for a region's owner.  One who owns a region may wait
 * for a page in FILLING, since no filler waits for owners.  A pin in FILLING
 * may wait for a zap to end, since a zapper waits for nobody.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_INTERNAL_H
#define MEMSWAP_INTERNAL_H

#include <glib.h>
#include <stdatomic.h>

#include "memswap/engine.h"
#include "memswap/policies.h"
#include "memswap/policy.h"
#include "offers.h"
#include "store.h"
#include "word.h"

/* C libraries older than the kernel lack it. */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* Slots in the table of blocks. */
#define MEMSWAP_MAX_BLOCKS 1024
/* Buckets for 32-bit values, eight for each power of two. */
#define MEMSWAP_EIGHTHS 240
/* The curve counts in pages of 4 KiB. */
#define MEMSWAP_CURVE_SHIFT 12
/* Regions behind sequences of faults that are remembered. */
#define MEMSWAP_BEHIND_MAX 8
/* The default reclaimer comes after all other policies. */
#define MEMSWAP_DEFAULT_SLOT MEMSWAP_MAX_POLICIES
#define MEMSWAP_POLICY_SLOTS (MEMSWAP_MAX_POLICIES + 1)
/* Device processes that share one block. */
#define MEMSWAP_MAX_TABLES MEMSWAP_MAX_CLIENTS
/* A store's owner names a page by its block's slot and its number in it. */
#define MEMSWAP_OWNER_SHIFT 40

/* Where a page counts at rest. */
typedef enum MemswapPlace {
    MEMSWAP_IN_NONE,     /* untouched */
    MEMSWAP_IN_CACHE,
    MEMSWAP_IN_STORE,
    MEMSWAP_IN_WORD,
    MEMSWAP_IN_POISON,
    MEMSWAP_PLACE__MAX,
} MemswapPlace;

/*
 * What is known of 2 MiB of a block.  All zero for RAM never touched, so that
 * the array costs nothing there.
 */
typedef struct MemswapRegion {
    /* futex: 0 free, 1 owned, 2 owned and somebody waits */
    _Atomic uint32_t owner;
    /*
     * futex: 1 from before the first trial mark until the zap that follows
     * has returned, 2 if a pin waits for that
     */
    _Atomic uint32_t zapping;
    /* pages that count as MEMSWAP_IN_CACHE; reclaim skips a region of none */
    _Atomic uint32_t resident;
    _Atomic uint32_t stored;    /* the same of MEMSWAP_IN_STORE and IN_WORD */
    /* bit 0: some page was ever touched; bit 1: in the queue of trials */
    _Atomic uint32_t flags;
    /* faults in sequence, see readahead.c */
    _Atomic uint32_t stream;
    _Atomic uint32_t streamed;  /* pages that the last sequence brought in */
    _Atomic uint32_t turns;     /* see offers.c */
    /* see age.c */
    _Atomic uint32_t evicted_at;    /* engine->evictions, its lower half */
    _Atomic uint32_t passed_at; /* the same, when a sequence had passed */
    /* a fault was seen: seconds of the clock, from 1; see workingset.c */
    _Atomic uint32_t touched_at;
    /* MEMSWAP_HUGE_*; the owner of the region writes it, anybody reads it */
    _Atomic uint32_t huge;
} MemswapRegion;

#define MEMSWAP_REGION_TOUCHED 1u
#define MEMSWAP_REGION_QUEUED  2u

/*
 * The page cache may hold a large folio here: no part of the region is
 * punched, and it is zapped whole or not at all; see huge.c.
 */
#define MEMSWAP_HUGE_FOLIO     1u
/* It was collapsed, and has not left since.  Counted in huge_regions. */
#define MEMSWAP_HUGE_WHOLE     2u
/* On a fine trial: touches bring back single pages. */
#define MEMSWAP_HUGE_FINE      4u
/* Small pages, nearly all of which came back in the last trial. */
#define MEMSWAP_HUGE_WARM      8u
/* Trials since the last fine one that found it warm. */
#define MEMSWAP_HUGE_STREAK_SHIFT 8
#define MEMSWAP_HUGE_STREAK    (0xffu << MEMSWAP_HUGE_STREAK_SHIFT)
/* A collapse failed: for how many ticks of the collapser to leave it be. */
#define MEMSWAP_HUGE_REST_SHIFT 16
#define MEMSWAP_HUGE_REST      (0xffu << MEMSWAP_HUGE_REST_SHIFT)

/* A page that stands for its neighbours; see workingset.c.  0: never. */
typedef struct MemswapSample {
    _Atomic uint32_t touched_at;
    _Atomic uint32_t unmapped_at;
} MemswapSample;

typedef struct MemswapTable MemswapTable;

struct MemswapBlock {
    MemswapEngine *engine;
    char *name;
    uint8_t *host;
    uint64_t size;
    int fd;
    uint64_t fd_offset;
    uint64_t page_size;
    unsigned int page_shift;
    uint64_t n_pages;
    unsigned int region_pages;  /* pages a region; the last may have fewer */
    uint64_t n_regions;
    unsigned int slot;          /* in MemswapEngine.blocks */
    uint8_t *alias;             /* of hugepages, see hugetlb.c; else NULL */
    MemswapWord *words;         /* n_pages, zero memory until touched */
    MemswapRegion *regions;     /* n_regions, the same */
    MemswapSample *samples;     /* one of each 2^sample_shift pages */
    unsigned int sample_shift;
    uint64_t n_samples;
    bool kept_out;              /* what was there had no large folios */
    bool huge;                  /* unless exposed, regions may become huge */
    _Atomic uint32_t exposed;   /* who asked for it; see exposed.c */
    _Atomic uint64_t huge_regions;
    /*
     * Users who found the block in the table.  Removal sets @dead, then waits
     * for none; who finds @dead set after counting itself in leaves again.
     */
    _Atomic uint32_t refs;
    _Atomic bool dead;
    _Atomic uint32_t retained;  /* nothing leaves; see retain.c */
    /* what device processes have pinned; see shared-pins.c */
    _Atomic uint32_t n_tables;
    _Atomic(MemswapTable *) tables[MEMSWAP_MAX_TABLES];
    _Atomic uint32_t table_users;   /* who looks without owning a region */
    _Atomic int64_t pages[MEMSWAP_PLACE__MAX];
    _Atomic uint64_t regions_touched;
};

/* A region on trial, waiting to be looked at again. */
typedef struct MemswapTrial {
    MemswapBlock *block;        /* holds a reference */
    uint64_t region;
    uint64_t next;              /* first page not looked at yet */
    bool behind;                /* a sequence of faults left it behind */
    uint64_t tried, gone;       /* pages on trial at first, and gone since */
} MemswapTrial;

/* A fault held back for room. */
typedef struct MemswapStalled {
    MemswapBlock *block;        /* holds a reference */
    uint64_t page;
    int64_t since;
    bool force;                 /* it may pass the limit */
    bool other;                 /* another process waits */
    bool in_hand;               /* somebody tries to resolve it */
    bool again;                 /* and it was reported meanwhile */
    bool starved;               /* counted in n_starved */
} MemswapStalled;

/* Bits for who uses which of a set of buffers. */
#define MEMSWAP_BUFFERS_MAX 1024

/*
 * What blocks of hugepages share; see hugetlb.c.  The buffers are there from
 * before the first of these blocks is known to anyone until the engine goes.
 */
typedef struct MemswapHugetlb {
    bool supported;             /* by userfaultfd; never changes */
    uint8_t *zeroes;            /* a hugepage of them; takes no memory */
    uint8_t *buffers;
    unsigned int n_buffers;
    _Atomic uint64_t busy[MEMSWAP_BUFFERS_MAX / 64];
    _Atomic int64_t resident;   /* hugepages in the page cache */
    _Atomic uint32_t wanted;    /* hugepages to take out, the limit aside */
    _Atomic uint32_t n_stalled; /* of the faults that wait, those for these */
    _Atomic int64_t told;       /* when the last event was; 0: never */
} MemswapHugetlb;

/* A pipe, and how many pages it holds. */
typedef struct MemswapPipe {
    int fds[2];
    unsigned int pages;
} MemswapPipe;

/* Pages that may leave exposed blocks at once, in runs; at most 64. */
#define MEMSWAP_PIPES 8

/* What exposed blocks need; see exposed.c. */
typedef struct MemswapExposure {
    GMutex lock;
    /* these two are there from before the first block is exposed */
    MemswapPipe pipes[MEMSWAP_PIPES];
    unsigned int n_pipes;
    _Atomic uint64_t busy;      /* bits: the pipes in use */
    _Atomic uint64_t n_changed;
} MemswapExposure;

/* Remotes at once. */
#define MEMSWAP_MAX_REMOTES 256

/* Another process whose faults are resolved here; see remote.c. */
struct MemswapRemote {
    MemswapEngine *engine;
    bool used;                  /* under exposure.lock */
    _Atomic uint32_t users;
    _Atomic bool live;
    /* for users, while it is live */
    int uffd;
    MemswapRemoteRange *ranges;
    unsigned int n_ranges;
    /* the owner's */
    int stop;                   /* eventfd */
    GThread *thread;
};

/* The thread of a fault, when it is another process's. */
#define MEMSWAP_TID_OTHER ((pid_t)-1)

/* A fault that may take long; see helper.c. */
typedef struct MemswapSlow {
    MemswapBlock *block;        /* holds a reference */
    uint64_t page;
    pid_t tid;
    bool write;
    int64_t since;
} MemswapSlow;

typedef enum MemswapHelperRole {
    MEMSWAP_HELPER_IDLE,
    MEMSWAP_HELPER_READING,     /* events, or resolving what was fast */
    MEMSWAP_HELPER_FILLING,     /* what is slow */
} MemswapHelperRole;

typedef struct MemswapHelper {
    MemswapEngine *engine;
    GThread *thread;
    int wake;                   /* eventfd: its role changed, or stop */
    MemswapHelperRole role;     /* under the lock */
} MemswapHelper;

typedef struct MemswapHelpers {
    unsigned int n;             /* these four never change */
    MemswapHelper *each;
    bool spread;
    int cpus[2];                /* the poller's, and the first helper's */
    _Atomic bool stop;
    _Atomic uint32_t busy;      /* helpers that have events in hand */
    GMutex lock;
    /* under the lock */
    GArray *slow;               /* of MemswapSlow, in the order of time */
    unsigned int away;          /* other threads that are in slow fills */
} MemswapHelpers;

/* What the curve of refaults is made of; see workingset.c. */
typedef struct MemswapWorkingset {
    _Atomic uint32_t now;       /* seconds, when it was looked at last */
    _Atomic uint32_t decayed_at;    /* the same of decayed_ns */
    _Atomic uint64_t counts[MEMSWAP_EIGHTHS];
    _Atomic bool busy;          /* who set it has what follows */
    int64_t decayed_ns;
    uint64_t taken[MEMSWAP_EIGHTHS];    /* of counts */
    double sums[MEMSWAP_EIGHTHS];
    double time;                /* seconds, weighted alike */
} MemswapWorkingset;

/* The policies; see policy-internal.h. */
typedef struct MemswapPolicies {
    GMutex admin_lock;
    GMutex lock;
    /* What any of them wants to hear of: MEMSWAP_POLICY_EVENT_BIT()s. */
    _Atomic uint64_t wanted;
    _Atomic(MemswapPolicyHost *) slots[MEMSWAP_POLICY_SLOTS];
    _Atomic uint32_t users[MEMSWAP_POLICY_SLOTS];
    /* precedence of the one in the slot: a lower one goes first; 0: none */
    _Atomic uint64_t orders[MEMSWAP_POLICY_SLOTS];
    uint64_t n_added;           /* ever; under admin_lock, as is this: */
    unsigned int last_slot;     /* given to a policy */
    GPtrArray *hosts;           /* all that destroy has to see off */
    _Atomic(MemswapPolicyHost *) reclaimer;
    _Atomic bool makes_room;    /* it does, rather than to make offers only */
    /* It is to be told when room gets short; counts as a sleeper. */
    _Atomic bool armed;
    char *default_name;         /* see policy-default.c; NULL: there is none */
    _Atomic bool default_wanted;
    _Atomic int64_t default_due;    /* not before, in real time */
    /* These two are the same all the time, but for tests. */
    _Atomic int64_t patience;   /* ns until one that doesn't return hangs */
    _Atomic int64_t requests_per_s;     /* of each; see policy-request.c */
    GThread *watch;             /* NULL until there is something to watch */
    _Atomic uint32_t watch_kick;    /* futex */
    _Atomic bool watch_stop;
} MemswapPolicies;

struct MemswapEngine {
    MemswapHost host;
    void *opaque;
    MemswapStore *store;        /* the engine's own */
    int uffd;
    bool inline_faults;     /* MEMSWAP_FAULTS_INLINE: nobody waits in uffd */

    /* Settings: written under settings_lock, read anywhere. */
    GMutex settings_lock;
    _Atomic uint64_t limit;
    _Atomic uint64_t reserve_low;
    _Atomic uint64_t reserve_high;
    _Atomic uint64_t pool_limit;
    _Atomic int codec; /* MemswapCodec */
    _Atomic int compression_level;
    _Atomic int when_full;
    _Atomic uint64_t readahead;
    _Atomic uint64_t keep_copies;
    _Atomic uint64_t pin_limit;     /* 0: follows the limit */
    bool reserve_auto;
    _Atomic uint64_t largest_page;  /* of any block so far */

    /* Blocks: slots are written under blocks_lock, read anywhere. */
    GMutex blocks_lock;
    _Atomic(MemswapBlock *) blocks[MEMSWAP_MAX_BLOCKS];
    _Atomic unsigned int n_slots;   /* slots ever used */
    GPtrArray *removed;             /* freed with the engine, see refs */

    /*
     * Bytes of managed RAM in the page cache or about to be: charged before
     * a fill, uncharged after a punch.  What the limit is held against.
     */
    _Atomic uint64_t charged;
    _Atomic uint64_t ceiling;       /* at least the limit, see charge.c */
    _Atomic uint64_t peak_charged;
    _Atomic uint32_t n_starved;     /* see charge.c */

    /* Reclaim. */
    GMutex reclaim_lock;
    GQueue trials;                  /* of MemswapTrial, oldest first */
    _Atomic uint32_t in_hand;       /* trials that somebody looks at now */
    MemswapOffers offers;
    /* how far gone, in % of memory, is behind; 0: nothing is; see age.c */
    _Atomic uint32_t behind_percent;
    /* regions that a sequence left behind: slot + 1 and number; 0: none */
    _Atomic uint64_t behind[MEMSWAP_BEHIND_MAX];
    _Atomic uint32_t behind_at; /* evictions when the last one was added */
    _Atomic int64_t behind_ns;
    _Atomic uint32_t behind_next;
    _Atomic bool store_full;        /* a put was refused, none worked since */
    _Atomic uint64_t shed_hand;     /* as a page's owner, but of a region */

    MemswapHugetlb hugetlb;
    MemswapExposure exposure;
    MemswapRemote remotes[MEMSWAP_MAX_REMOTES];
    _Atomic unsigned int n_remote_slots;    /* slots ever used */
    _Atomic uint64_t n_remote_faults;
    MemswapHelpers helpers;

    /* Evictors. */
    GThread **evictors;
    /* the same all the time, but for tests that stop and start them */
    _Atomic unsigned int n_evictors;
    _Atomic uint32_t kick;          /* futex: counts reasons to look again */
    _Atomic uint32_t helpers_kick;  /* the same for all but the first */
    _Atomic uint32_t sleepers;      /* evictors with nothing to do */
    _Atomic uint32_t helpers_asleep;    /* of these, all but the first */
    _Atomic uint32_t evictors_up;   /* counts those that started */
    _Atomic bool stop;

    /* The collapser; see collapser.c. */
    bool huge;                      /* never changes */
    GThread *collapser;             /* NULL: none */
    _Atomic uint32_t huge_kick;     /* futex: counts reasons to look again */
    _Atomic bool huge_sleeps;
    _Atomic uint64_t huge_stuck;    /* see memswap_huge_count_stuck() */

    GMutex stall_lock;
    GArray *stalled;                /* of MemswapStalled */
    /* those in somebody's hands included, and threads that wait themselves */
    _Atomic uint32_t n_stalled;
    _Atomic uint32_t n_held;        /* of these, threads that wait themselves */
    _Atomic uint32_t held_failed;   /* counts their attempts in vain */
    _Atomic uint32_t room_seq;      /* futex: counts chances to find room */
    _Atomic uint32_t hold_nobody;   /* who asked for it, see engine.h */

    MemswapPolicies policies;

    GMutex overflow_lock;
    GHashTable *overflow;           /* word's address -> GSIZE pin count */

    GMutex clients_lock;
    GPtrArray *clients;             /* of MemswapClient, under the lock */
    _Atomic uint32_t n_clients;     /* of these */
    /* bytes they had pinned, what they were given since, when to look again */
    _Atomic uint64_t shared_pinned;
    _Atomic uint64_t shared_given;
    _Atomic int64_t shared_look_at;

    GMutex retain_lock;             /* writers of MemswapBlock.retained */
    _Atomic uint32_t n_retained;    /* the sum of these */

    /* Counters; see MemswapStats. */
    _Atomic int64_t trial_pages;    /* bytes on trial */
    /* bytes with a pin, or about to have one; see pin.c */
    _Atomic int64_t pinned;
    _Atomic uint64_t pins_refused;
    _Atomic int64_t kept;           /* bytes of pages with a kept copy */
    _Atomic uint64_t faults[MEMSWAP_FAULT__MAX];
    _Atomic uint64_t evictions, refaults, n_trials, given_back, discards;
    _Atomic uint64_t evicted_bytes; /* of evictions, which are of any size */
    _Atomic uint64_t n_store_full, overshoots, stalls, stall_ns, spurious;
    _Atomic uint64_t n_readahead, n_unchanged, n_no_hugepages;
    _Atomic uint64_t refault_ns;

    uint8_t *ahead_buffers;         /* MEMSWAP_AHEAD_BUFFERS, readahead.c's */
    _Atomic uint64_t ahead_busy;    /* bits: those in use */
    _Atomic uint64_t collapses, collapse_failures, splits;
    _Atomic uint64_t latency[MEMSWAP_LATENCY_BUCKETS];
    _Atomic uint64_t distances[MEMSWAP_DISTANCE_BUCKETS];
    MemswapWorkingset workingset;
};

/* Counters are statistics: no order with anything else is implied. */
#define memswap_count(counter, n) \
    ((void)atomic_fetch_add_explicit(&(counter), n, memory_order_relaxed))

/*
 * A sum that others may take below zero for a moment.  MAX() would look twice,
 * and may see that the second time.
 */
static inline uint64_t memswap_sum(const _Atomic int64_t *sum)
{
    int64_t now = atomic_load(sum);

    return MAX(now, 0);
}

/* engine.c */

/*
 * A thread of ours, which takes no signals: these are for the threads of
 * whoever made the engine.  NULL, with *@why set unless that is NULL, if there
 * can't be one.
 */
GThread *memswap_thread_new(const char *name, GThreadFunc function,
                            gpointer opaque, GError **why);
/* The lowest limit that pages of the sizes there are can work with. */
uint64_t memswap_min_limit(MemswapEngine *engine);
/*
 * There are pages of this size from now on.  -EINVAL, with *@error set as
 * memswap_block_add() does, if the limit is too low for them.
 */
int memswap_admit_page_size(MemswapEngine *engine, uint64_t page_size,
                            char **error);
int64_t memswap_now(MemswapEngine *engine);
void memswap_event(MemswapEngine *engine, MemswapEvent event,
                   const MemswapBlock *block, uint64_t page);
/* A pin of our own has ended; called with no lock but retain_lock. */
void memswap_unpinned(MemswapEngine *engine);
void memswap_trace(MemswapEngine *engine, MemswapTracePoint point,
                   const MemswapBlock *block, uint64_t page, uint64_t arg);

/* block.c */

/* The block that @host lies in, counted in; NULL if none. */
MemswapBlock *memswap_block_find(MemswapEngine *engine, const void *host);
/* The block in a slot of the table, counted in; NULL if none. */
MemswapBlock *memswap_block_get(MemswapEngine *engine, unsigned int slot);
MemswapBlock *memswap_block_ref(MemswapBlock *block);
void memswap_block_unref(MemswapBlock *block);
/*
 * Take in those of pages [first, end) of one region, which the caller owns,
 * that are in the page cache although nobody told us.
 */
void memswap_block_adopt(MemswapBlock *block, uint64_t first, uint64_t end);
/* The same for all of the block; @huge: its full regions may be huge. */
void memswap_block_adopt_all(MemswapBlock *block, bool huge);
/*
 * The first region from @number on that may have pages in the page cache;
 * n_regions if there is none.
 */
uint64_t memswap_block_next_cached(MemswapBlock *block, uint64_t number);
/* A page at rest counts elsewhere now. */
void memswap_block_moved(MemswapBlock *block, uint64_t page,
                         MemswapPlace from, MemswapPlace to);

static inline void *memswap_page_host(const MemswapBlock *block,
                                      uint64_t page)
{
    return block->host + (page << block->page_shift);
}

static inline MemswapRegion *memswap_page_region(const MemswapBlock *block,
                                                 uint64_t page)
{
    return &block->regions[page / block->region_pages];
}

static inline uint64_t memswap_region_first(const MemswapBlock *block,
                                            uint64_t region)
{
    return region * block->region_pages;
}

static inline uint64_t memswap_region_end(const MemswapBlock *block,
                                          uint64_t region)
{
    return MIN((region + 1) * block->region_pages, block->n_pages);
}

static inline uint64_t memswap_page_owner(const MemswapBlock *block,
                                          uint64_t page)
{
    return (uint64_t)block->slot << MEMSWAP_OWNER_SHIFT | page;
}

/* retain.c */

/*
 * Does all of the block's memory stay?  Who takes some out asks, owning its
 * region.
 */
static inline bool memswap_block_retained(const MemswapBlock *block)
{
    return atomic_load(&block->retained) > 0;
}

/* Bytes that are, or have to be, resident for that reason. */
uint64_t memswap_retained(MemswapEngine *engine);

/* shared-pins.c */

/*
 * A page that the caller owns, with its region, in a state in which nobody can
 * pin it, is about to leave the page cache.  False if a device process uses
 * it: then it must stay.  Else none does, until the page is in again.
 */
bool memswap_shared_take(MemswapBlock *block, uint64_t page);
/* The same for who doesn't own the page's region: a fault.  It costs more. */
bool memswap_shared_take_unowned(MemswapBlock *block, uint64_t page);
/* Does one use a page of the region?  Its owner asks. */
bool memswap_shared_uses(MemswapBlock *block, uint64_t number);
/* Bytes that they use, as of not long ago. */
uint64_t memswap_shared_pinned(MemswapEngine *engine);
/* Is the block shared with processes that say what they use? */
static inline bool memswap_block_shared(const MemswapBlock *block)
{
    return atomic_load(&block->n_tables) > 0;
}

/* region.c */
bool memswap_region_try_own(MemswapRegion *region);
void memswap_region_own(MemswapRegion *region);
void memswap_region_disown(MemswapRegion *region);
void memswap_region_zap_begin(MemswapRegion *region);
void memswap_region_zap_end(MemswapRegion *region);
/* Wait until no zap that began before the call is going on. */
void memswap_region_zap_wait(MemswapRegion *region);

/* page.c: what owners of pages share */

/* Wake all who wait for the page, in here or in the kernel. */
void memswap_page_wake(MemswapBlock *block, uint64_t page);
/*
 * Say that somebody waits.  *@word is what was seen last, and is updated.
 * False if it changed meanwhile.
 */
bool memswap_page_want(MemswapWord *word, uint64_t *seen);
/* Sleep until nobody owns the page. */
void memswap_page_wait(MemswapWord *word);
/* Sleep until the page is not poisoned any more. */
void memswap_page_wait_lost(MemswapWord *word);
/*
 * The caller's eviction or discard can't be: the page is still in the page
 * cache, now in FILLING, to be settled by the caller.
 */
void memswap_page_call_off(MemswapWord *word);
/*
 * End a transition that the caller owns: to @state with @flags and @handle,
 * pins kept; wakes who waits.  With DISCARD set in FILLING, a page in the
 * page cache without pins is forgotten instead; see discard.c.  A kept copy
 * stays with a page that stays in the page cache, and is dropped otherwise.
 * False if the page was forgotten.
 */
bool memswap_page_settle(MemswapBlock *block, uint64_t page,
                         MemswapState state, uint64_t flags,
                         uint64_t handle);
/* Read or write pages in the page cache; 0 or a negative errno. */
int memswap_page_read(MemswapBlock *block, uint64_t page, uint64_t n,
                      void *buffer);
int memswap_page_write(MemswapBlock *block, uint64_t page,
                       const void *buffer);
/*
 * Take @n pages out of the page cache.  Returns 0 and sets *@left if one of
 * them is still there, now zeroed: the page cache holds it in a large folio.
 */
int memswap_page_punch(MemswapBlock *block, uint64_t page, uint64_t n,
                       bool *left);
/* Is the page in the page cache? */
bool memswap_page_cached(MemswapBlock *block, uint64_t page);

/* charge.c: the limit */

/*
 * Count @size bytes in; with @force, even past the limit.  False: there is no
 * room, or none that may be taken.
 */
bool memswap_charge(MemswapEngine *engine, uint64_t size, bool force);
void memswap_uncharge(MemswapEngine *engine, uint64_t size);
/* Is there so much room that nothing has to be evicted for a while? */
bool memswap_has_room(MemswapEngine *engine);
/* What is charged already may stay until it is reclaimed. */
void memswap_set_limit(MemswapEngine *engine, uint64_t limit);

/* pin.c */

/* Bytes that may be pinned. */
uint64_t memswap_pin_bound(MemswapEngine *engine);
/* Pin a page if it is in place, or else leave it; in spite of the bound. */
bool memswap_pin_mapped(MemswapBlock *block, uint64_t page);
/* That pin ends, which nobody is to have waited for. */
void memswap_unpin_mapped(MemswapBlock *block, uint64_t page);
/*
 * Pin pages of a block that the caller has counted in, in spite of the bound; a
 * short time.  It may be going, and is not to be found any more then: by the
 * address of its pages none would be pinned, without an error.
 */
int memswap_block_pin(MemswapBlock *block, uint64_t first, uint64_t n);
void memswap_block_unpin(MemswapBlock *block, uint64_t first, uint64_t n);

/* fault.c */

typedef enum MemswapOutcome {
    MEMSWAP_DONE,    /* mapped */
    MEMSWAP_BUSY,    /* somebody else's transition; its end wakes */
    MEMSWAP_NO_ROOM, /* under the limit, or in the host */
    MEMSWAP_LOST,    /* poisoned: the access waits for a discard */
    MEMSWAP_GONE,    /* the range is no longer registered */
} MemswapOutcome;

#define MEMSWAP_FILL_FORCE 1u   /* even past the limit */
#define MEMSWAP_FILL_PIN   2u   /* DONE means mapped and pinned once more */
/*
 * Nobody waits for it: only what is stored comes, no fault is counted, and
 * when it can't be done, nobody is told, nor does anything leave for it.
 */
#define MEMSWAP_FILL_HINT  4u

/*
 * Put a page in place and map it.  Never waits for another owner, nor for
 * room.  *@kind says where it was found.
 */
MemswapOutcome memswap_fill(MemswapBlock *block, uint64_t page,
                            unsigned int flags, MemswapFaultKind *kind);

/*
 * For other fillers.  Build the content of a page that was @old before it was
 * taken into FILLING, STORED or ZERO; 0 or a negative errno.
 */
int memswap_fill_build(MemswapBlock *block, uint64_t old, uint8_t *data);
/*
 * It is in place: account for it, then let others at it.  @ahead: nobody came
 * for it, to the curve it is no refault.
 */
void memswap_fill_finish(MemswapBlock *block, uint64_t page, uint64_t old,
                         bool mapped, bool ahead);

/*
 * It is in the page cache, and not mapped: on trial, watched for the policy in
 * slot @ahead - 1.
 */
void memswap_fill_finish_watched(MemswapBlock *block, uint64_t page,
                                 uint64_t old, unsigned int ahead);

/* age.c */

/* Pages of the region left, or came back. */
void memswap_age_evicted(MemswapEngine *engine, MemswapRegion *region);
void memswap_age_refaulted(MemswapBlock *block, MemswapRegion *region);
/* Another process soon missed what had left the region. */
void memswap_age_missed(MemswapBlock *block, MemswapRegion *region);
/* In pages, of whatever was evicted last in the region. */
uint32_t memswap_refault_distance(MemswapEngine *engine,
                                  MemswapRegion *region);
/* A sequence of faults brought the region in, and went on to the next. */
void memswap_age_behind(MemswapBlock *block, uint64_t number);
bool memswap_age_any_behind(MemswapEngine *engine);
/* Is such a sequence going on? */
bool memswap_age_streaming(MemswapEngine *engine);
/* Such a region that is to go first; its block is counted in.  NULL: none. */
MemswapBlock *memswap_age_take_behind(MemswapEngine *engine,
                                      uint64_t *number);

/* offers.c */

/* Is the region to be passed by, this time?  Counts as once. */
bool memswap_pass_by(MemswapRegion *region);
/* How often it is to be passed by still. */
unsigned int memswap_passes(MemswapRegion *region);
/* It is to be passed by so many times, at most 15. */
void memswap_pass_set(MemswapRegion *region, unsigned int times);
/* The same, as often as can be, for the policy in slot @keeper - 1. */
void memswap_pass_keep(MemswapRegion *region, unsigned int keeper);
/* Who keeps it still; 0: nobody. */
unsigned int memswap_pass_keeper(MemswapRegion *region);
/* A trial is over: of so many pages so many left.  In 15ths, what stayed. */
void memswap_heat_set(MemswapRegion *region, uint64_t tried, uint64_t gone);
unsigned int memswap_heat(MemswapRegion *region);

/* Offer a region, before all others if it is to be @first.  False: full. */
bool memswap_offers_put(MemswapBlock *block, uint64_t number, bool first);
void memswap_offers_clear(MemswapEngine *engine);
/* How many there are, about.  Called with reclaim_lock. */
uint32_t memswap_offers_left(MemswapEngine *engine, unsigned int flags);
/* Have the policy that makes them, if there is one, make more. */
void memswap_offers_ask(MemswapEngine *engine, unsigned int flags);
/*
 * The region whose turn it is to be put on trial; its block is counted in, and
 * MEMSWAP_REGION_QUEUED set.  NULL if there is none, or, with @can_wait, none
 * on offer just now.  Called with reclaim_lock.
 */
MemswapBlock *memswap_offers_take(MemswapEngine *engine, unsigned int flags,
                                  bool can_wait, uint64_t *number);
/* Make it that region's turn: sets MEMSWAP_REGION_QUEUED, if it wasn't. */
bool memswap_offers_claim(MemswapBlock *block, uint64_t number);
/* Is the block one for reclaim with these flags? */
bool memswap_reclaims_from(const MemswapBlock *block, unsigned int flags);

/* workingset.c */

void memswap_workingset_init(MemswapEngine *engine);
int memswap_samples_open(MemswapBlock *block);
/* Bytes of them that are in use, about. */
uint64_t memswap_samples_used(MemswapBlock *block);
/* Of the samples there are, one in so many is looked at by a query. */
uint64_t memswap_samples_step(MemswapEngine *engine);
void memswap_samples_close(MemswapBlock *block);
/* The bucket of a value, of MEMSWAP_EIGHTHS. */
unsigned int memswap_eighth(uint32_t value);
/* A fault on the page, at @when, shows that it is in use. */
void memswap_touched(MemswapBlock *block, uint64_t page, int64_t when);
/* Before pages are unmapped: what time it is. */
void memswap_note_time(MemswapEngine *engine);
/* The page is about to be unmapped; from then on touches are seen. */
void memswap_unmapped(MemswapBlock *block, uint64_t page);
/* Seconds since a fault in the region; UINT32_MAX: there was none. */
uint32_t memswap_region_idle(MemswapRegion *region, int64_t now);
/* A page of the block came back after so many of its pages had left. */
void memswap_curve_add(MemswapBlock *block, uint32_t distance);

/* map.c */

/* How much of @whole is @part, in a byte: 0 and 255 are none and all. */
uint8_t memswap_map_share(uint64_t part, uint64_t whole);

/* copies.c */

/* Larger pages keep no copies. */
#define MEMSWAP_KEEP_PAGE_SIZE 4096

/* May one more page keep its copy?  Then it is counted. */
bool memswap_copy_keep(MemswapBlock *block);
/*
 * If the page that the caller is evicting kept a copy that is the same as
 * @data, the copy is the caller's from then on, as if it had put it.
 */
bool memswap_copy_take(MemswapBlock *block, uint64_t page, const void *data,
                       uint64_t *handle);
/* Drop the copy that this word, which is changed already, kept. */
void memswap_copy_forget(MemswapBlock *block, uint64_t word);
/* Drop copies of about @bytes of pages; returns of how many. */
uint64_t memswap_shed_copies(MemswapEngine *engine, uint64_t bytes);
/*
 * With the budget nearly used up: drop those of a region's pages that proved
 * warm, for the sake of pages that will leave sooner.
 */
void memswap_shed_warm(MemswapBlock *block, uint64_t number);
/* Drop those beyond the budget. */
void memswap_shed_excess(MemswapEngine *engine);

/* readahead.c */

/* Threads that may read ahead at once; at most 64. */
#define MEMSWAP_AHEAD_BUFFERS 32

void memswap_readahead_init(MemswapEngine *engine);
void memswap_readahead_destroy(MemswapEngine *engine);
/*
 * A fault on the page was resolved in this thread: if it is one of a
 * sequence, bring in what comes next.  Never waits.
 */
void memswap_readahead(MemswapBlock *block, uint64_t page,
                       MemswapFaultKind kind);
typedef enum MemswapBring {
    MEMSWAP_BRING_ASKED,        /* somebody named them, who may be wrong */
    MEMSWAP_BRING_NEXT,         /* of a sequence of faults */
    MEMSWAP_BRING_NEXT_OR_NEW,  /* the same, those never touched, too */
} MemswapBring;

/*
 * Bring in the pages of one region from @page on, as far as it goes without
 * waiting.  Returns how many; *@stored says how many of them had left the page
 * cache.
 */
unsigned int memswap_bring_in(MemswapBlock *block, uint64_t page,
                              uint64_t end, MemswapBring what,
                              unsigned int *stored);

/* events.c */

/* Read events and resolve them; @self: NULL for a thread that is no helper. */
unsigned int memswap_events_handle(MemswapEngine *engine, MemswapHelper *self);
/*
 * Resolve a fault that was just read.  Returns true if it is left to
 * memswap_slow_run(); without a managed block there is nothing to do.
 */
bool memswap_fault_arrived(MemswapEngine *engine, void *host, pid_t tid,
                           bool write);
/*
 * Resolve a fault of thread @tid, by a @write or not, that was read at @since.
 * Never waits.
 */
void memswap_fault_resolve(MemswapBlock *block, uint64_t page, pid_t tid,
                           bool write, int64_t since);

/* helper.c */

/*
 * Start @n helpers; with @spread, and two CPUs to run on, readers stay on one
 * each.  Returns 0 or a negative errno; memswap_helpers_stop() in any case.
 */
int memswap_helpers_start(MemswapEngine *engine, unsigned int n, bool spread);
/* Wait for them to end. */
void memswap_helpers_stop(MemswapEngine *engine);
/* Once there are no blocks. */
void memswap_helpers_free(MemswapEngine *engine);
/* The calling thread reads events, and is no helper. */
void memswap_helpers_settle_in(MemswapEngine *engine);
/* May resolving this fault take long, and is there who may do it? */
bool memswap_fault_slow(MemswapBlock *block, uint64_t page);
/* Leave a fault to memswap_slow_run().  The block is counted in again. */
void memswap_slow_add(const MemswapSlow *fault);
/*
 * Resolve slow faults as long as there are any, and somebody else reads events
 * meanwhile.  To be called by who added one, after all that was fast.
 */
void memswap_slow_run(MemswapEngine *engine, MemswapHelper *self);
/* Drop those of a block that goes. */
void memswap_forget_slow(MemswapBlock *block);

/* stall.c: faults that wait for room */

/*
 * The calling thread waits itself for room for a page of the block, which may
 * be dead, from memswap_hold() to memswap_hold_over(): evictors make some, and
 * know that it looks for itself whether there is enough.
 */
void memswap_hold(MemswapBlock *block);
void memswap_hold_over(MemswapBlock *block);
/*
 * Meanwhile, after an attempt in vain: sleep until there is another chance, for
 * @timeout ns at most, -1: for ever.  @seen is room_seq before the attempt.
 */
void memswap_hold_on(MemswapEngine *engine, uint32_t seen, int64_t timeout);
void memswap_stall(MemswapBlock *block, uint64_t page, int64_t since,
                   bool force, bool other);
/*
 * Hold the calling thread back until the page is in place, or somebody else
 * has it in hand.  What memswap_stall() is for faults that come as events.
 */
MemswapOutcome memswap_stall_here(MemswapBlock *block, uint64_t page,
                                  bool force, MemswapFaultKind *kind);
/* Try those faults again. */
void memswap_serve_stalled(MemswapEngine *engine);
/* There may be room for them now: see to it that somebody tries. */
void memswap_room_made(MemswapEngine *engine);
/* Drop those of a block that goes; who waits itself, waits no more. */
void memswap_forget_stalled(MemswapBlock *block);
/* May the limit be passed, whoever asks? */
bool memswap_limit_is_soft(MemswapEngine *engine);
/*
 * Is this thread to make room itself?  With nobody else to do it, and if it
 * must not wait, since it holds a lock that the world waits for: it may be
 * about to copy many megabytes, faster than the evictors make room for.
 */
bool memswap_makes_own_room(MemswapEngine *engine);
/* May the limit be passed, for thread @tid (0: this one)? */
bool memswap_may_overshoot(MemswapEngine *engine, pid_t tid);

/* reclaim.c */

/* Give pages no time to prove warm. */
#define MEMSWAP_RECLAIM_URGENT  1u
/* Only from blocks of hugepages. */
#define MEMSWAP_RECLAIM_HUGETLB 2u
/* Only what a sequence of faults left behind. */
#define MEMSWAP_RECLAIM_BEHIND  4u

/*
 * One step of reclaim: put regions on trial, look at the oldest trial
 * again, and take out its cold pages, at most about @max bytes of them.
 * *@gone is what left.  Returns false if there was nothing to look at.
 */
bool memswap_reclaim_step(MemswapEngine *engine, uint64_t max,
                          unsigned int flags, uint64_t *gone);
/* Regions with something resident: so many steps go around once. */
uint64_t memswap_reclaim_round(MemswapEngine *engine);
/* How many regions are to be on trial at once. */
unsigned int memswap_trial_window(MemswapEngine *engine, unsigned int flags);
/* Drop the trials of a block that goes. */
void memswap_forget_trials(MemswapBlock *block);
/*
 * Mark a page for the zap that follows, if it is resident and not pinned.  The
 * caller owns the region and is zapping it.  *@seen is the word as it is then.
 * Returns true if it was marked just now.
 */
bool memswap_trial_mark(MemswapBlock *block, uint64_t page, uint64_t *seen);
/*
 * Pages [first, end) are still mapped, so those on trial are no longer: they
 * could be written to while they are evicted.  The caller owns the region.
 */
void memswap_trial_undo(MemswapBlock *block, uint64_t first, uint64_t end);

/* Put a region on trial.  The caller owns it.  Returns the pages on trial. */
uint64_t memswap_trial_region(MemswapBlock *block, uint64_t number);
/*
 * Take out pages of one region now; with @cold, those on trial.  Waits for
 * nobody.  Returns the bytes gone.
 */
uint64_t memswap_reclaim_pages(MemswapBlock *block, uint64_t first,
                               uint64_t end, bool cold);

/*
 * Put a part of a region on trial, a large folio only whole.  Waits for nobody.
 */
void memswap_trial_range(MemswapBlock *block, uint64_t first, uint64_t end);

/* ranges.c */

typedef enum MemswapTake {
    MEMSWAP_TAKE_ALL,
    MEMSWAP_TAKE_COLD,          /* what is on trial */
    MEMSWAP_TAKE_COLD_THEN_TRY, /* then put the rest on trial */
} MemswapTake;

typedef enum MemswapRangeStep {
    MEMSWAP_RANGE_GO,
    MEMSWAP_RANGE_SKIP,
    MEMSWAP_RANGE_STOP,
} MemswapRangeStep;

/*
 * Asked before each region in which there is something to do.  With NULL, after
 * so many in which there was nothing: GO and SKIP are the same then.
 */
#define MEMSWAP_RANGE_PASSED_MAX 4096
typedef MemswapRangeStep MemswapRangeAsk(void *opaque,
                                         MemswapRegion *region);

/*
 * Take out pages [@page, @end), which lie in the block; *@gone grows by the
 * bytes.  False if @ask said stop.
 */
bool memswap_range_reclaim(MemswapBlock *block, uint64_t page, uint64_t end,
                           MemswapTake take, MemswapRangeAsk *ask,
                           void *opaque, uint64_t *gone);
/* At the end of it. */
void memswap_range_reclaimed(MemswapEngine *engine, uint64_t gone);

/* evict.c */

/* So many pages of the region of @first were taken out: count, and tell. */
void memswap_evicted(MemswapBlock *block, uint64_t first, uint64_t n);
/*
 * Take out the pages on trial in a part of a region without a large folio.
 * As memswap_evict_region() else.
 */
uint64_t memswap_evict_pages(MemswapBlock *block, uint64_t *next,
                             uint64_t end, uint64_t max);
/*
 * Take out the pages of a region that are still on trial, from *@next on, at
 * most about @max bytes.  The caller owns the region.  *@next is where to go
 * on.  Returns the bytes gone.
 */
uint64_t memswap_evict_region(MemswapBlock *block, uint64_t region,
                              uint64_t *next, uint64_t max);
/*
 * Make the copy of a page that its owner read.  MEMSWAP_IN_WORD: it repeats
 * the value in *@handle, and needs none; MEMSWAP_IN_STORE: *@handle is the
 * copy's; MEMSWAP_IN_CACHE: the store refused it, and *@full is set.  With
 * *@full set on entry the store is not asked.
 */
MemswapPlace memswap_evict_copy(MemswapBlock *block, uint64_t page,
                                const void *data, bool *full,
                                uint64_t *handle);

/* huge.c: huge pages; the rules are at its head */

/* Does the host leave it to us where this file's memory gets huge pages? */
bool memswap_huge_kept_out(int fd);
/* Find out whether this kernel and host can; sets engine->huge. */
void memswap_huge_probe(MemswapEngine *engine);
/* May there be a large folio in the region? */
static inline bool memswap_region_large(MemswapRegion *region)
{
    return atomic_load(&region->huge) & MEMSWAP_HUGE_FOLIO;
}
/* The region's pages were there before anybody told us: expect the worst. */
void memswap_huge_adopt(MemswapBlock *block, uint64_t number);
/*
 * Make the region one huge page, or map the one it is again.  The caller owns
 * it.  Returns 0; -EBUSY if a page is pinned, owned, or not resident; else
 * the kernel's answer.
 */
int memswap_huge_collapse(MemswapBlock *block, uint64_t number);
/*
 * Take a page without pins from one of @states (bits) to FILLING.  One that
 * is in FILLING gets a moment to leave it.  *@old is the word before, or the
 * one that can't be taken.  The caller owns the region.
 */
bool memswap_huge_take(MemswapBlock *block, uint64_t page,
                       unsigned int states, uint64_t *old);
/*
 * A fault: bring the page's region back whole.  False if that can't be, and
 * the page is to be resolved by itself.  Waits for nobody.
 */
bool memswap_huge_fill(MemswapBlock *block, uint64_t page);
/*
 * Put a region with a large folio on trial.  The caller owns it.  Returns
 * the number of pages on trial.
 */
uint64_t memswap_huge_trial(MemswapBlock *block, uint64_t number);
/* The next trial of the region, if it has a large folio, is a fine one. */
void memswap_huge_fine(MemswapRegion *region);
/*
 * The second look at the trial of a region with a large folio: take out what
 * proved cold, or bring it back.  The caller owns it.  Returns the bytes gone.
 */
uint64_t memswap_huge_look(MemswapBlock *block, uint64_t number);
/*
 * The second look at a region of small pages: is it rather to be collapsed
 * than to lose its cold pages?  The caller owns it.
 */
bool memswap_huge_keep(MemswapBlock *block, uint64_t number);

/*
 * Reclaim found nothing: how much is that because of pins in huge regions,
 * which have to leave whole?  Sets engine->huge_stuck, in bytes.
 */
void memswap_huge_count_stuck(MemswapEngine *engine);

/* huge-leave.c */

/*
 * Take out a region with a large folio, as a whole: pages on trial go to the
 * store, others are copied back small, those in [drop, drop_end) are
 * forgotten.  Without any to forget, pages on trial too few to pay stay.  The
 * caller owns the region.  Returns the bytes gone from the page cache; 0
 * also if something was in the way.
 */
uint64_t memswap_huge_leave(MemswapBlock *block, uint64_t number,
                            uint64_t drop, uint64_t drop_end);
/*
 * Copy all that is resident in such a region back small.  The caller owns it.
 * False if something is in the way.
 */
bool memswap_huge_split(MemswapBlock *block, uint64_t number);

/* collapser.c */
void memswap_collapser_start(MemswapEngine *engine);
/* Once engine->stop is set. */
void memswap_collapser_stop(MemswapEngine *engine);
/* There may be something to collapse. */
void memswap_collapser_kick(MemswapEngine *engine);
/* Something to be seen at once, even between two regions: a stop. */
void memswap_collapser_wake(MemswapEngine *engine);
/*
 * Look at all regions once, and collapse those worth it.  @paced: as slowly
 * as the budget says; @tick: a second went by.  Returns the number of regions
 * for which it is to be tried again later.
 */
uint64_t memswap_collapser_pass(MemswapEngine *engine, bool paced, bool tick);

/* hugetlb.c: blocks of hugepages */

/* What is wrong with these pages of @fd's?  NULL if nothing is. */
const char *memswap_hugetlb_check(MemswapEngine *engine, int fd,
                                  uint64_t page_size);
/*
 * What a block of hugepages needs beyond others, made before anybody knows of
 * it, and freed when nobody does.  Returns 0 or a negative errno.
 */
int memswap_hugetlb_open(MemswapBlock *block);
void memswap_hugetlb_close(MemswapBlock *block);
void memswap_hugetlb_free(MemswapEngine *engine);
/* Take in a page if it is there.  The caller owns its region. */
void memswap_hugetlb_adopt(MemswapBlock *block, uint64_t page);
/*
 * A buffer for a hugepage's content: allocates nothing, takes no lock, waits
 * for nobody but who holds one.
 */
uint8_t *memswap_hugetlb_take_buffer(MemswapEngine *engine);
void memswap_hugetlb_put_buffer(MemswapEngine *engine, uint8_t *buffer);
/*
 * Write to a page that the caller owns.  -ENOMEM if the page cache doesn't
 * have it.
 */
int memswap_hugetlb_write(MemswapBlock *block, uint64_t page,
                          const void *buffer);
/* A page came to the page cache (1), or left it (-1). */
void memswap_hugetlb_moved(MemswapBlock *block, int by);
/* A fill found no hugepage that is free: have some taken out. */
void memswap_hugetlb_short(MemswapBlock *block, uint64_t page);

/* Who finds none has some taken out for those who come next, too. */
#define MEMSWAP_HUGEPAGES_WANTED 4u

/* Is there a lack of hugepages, which only taking out some can end? */
static inline bool memswap_hugetlb_wanted(MemswapEngine *engine)
{
    return atomic_load(&engine->hugetlb.wanted) > 0;
}

/* exposed.c: blocks that other processes have mapped; the rules are there */

static inline bool memswap_block_exposed(const MemswapBlock *block)
{
    return atomic_load(&block->exposed) > 0;
}

/* May its regions become huge? */
static inline bool memswap_block_may_be_huge(const MemswapBlock *block)
{
    return block->huge && !memswap_block_exposed(block) &&
           !memswap_block_retained(block) && !memswap_block_shared(block);
}

/* What memswap_expose() and memswap_conceal() do. */
int memswap_block_expose(MemswapBlock *block, char **error);
void memswap_block_conceal(MemswapBlock *block);

/* What became of a page. */
typedef enum MemswapFate {
    MEMSWAP_TAKEN,       /* gone, and as it was when it was copied */
    MEMSWAP_CHANGED,     /* gone, and somebody wrote to it before */
    MEMSWAP_STAYED,      /* the page cache has another one in its place */
    MEMSWAP_RUINED,      /* the same, and the content is lost */
} MemswapFate;

/*
 * Take pages that the caller evicts out of an exposed block, after a copy of
 * each was made of what is in @before.  Returns 0 with @after and @fate filled
 * in for each page; or a negative errno, with nothing done.
 */
int memswap_exposed_take(MemswapBlock *block, uint64_t page, uint64_t n,
                         const uint8_t *before, uint8_t *after,
                         MemswapFate *fate);
/*
 * A page in FILLING that is not in the page cache, or so it should be: take
 * away what is there, and COPY.  0 or a negative errno; -EEXIST if it always
 * comes back, or can't be taken away.
 */
int memswap_exposed_copy(MemswapBlock *block, uint64_t page, const void *data);
/*
 * A page that was taken, and is in FILLING now, is to stay: put @data in place
 * and map it.  Without memory for that it is stored: returns where it is, with
 * *@handle as memswap_evict_copy() sets it; MEMSWAP_IN_NONE if nobody needs it
 * any more.
 */
MemswapPlace memswap_exposed_put_back(MemswapBlock *block, uint64_t page,
                                      const void *data, uint64_t *handle);
/* Pages that can be taken at once. */
unsigned int memswap_exposed_run(MemswapEngine *engine);
void memswap_exposure_init(MemswapEngine *engine);
void memswap_exposure_destroy(MemswapEngine *engine);

/* remote.c */

/* Let every remote that may wait for the page try again. */
void memswap_remotes_wake(MemswapBlock *block, uint64_t page);
/* With nobody else to add or remove any. */
void memswap_remotes_remove_all(MemswapEngine *engine);

/* evictor.c */
void memswap_evictors_start(MemswapEngine *engine, unsigned int n);
void memswap_evictors_stop(MemswapEngine *engine);
/* Something that can't wait: a stalled fault, new settings. */
void memswap_evictors_kick(MemswapEngine *engine);
/* So much is charged, and somebody sleeps: wake who has to work. */
void memswap_evictors_charged(MemswapEngine *engine, uint64_t charged);
/* A region was left behind: wake them if they have use for its room. */
void memswap_evictors_behind(MemswapEngine *engine);
/* Does somebody wait for room, or is about to? */
bool memswap_short_of_room(MemswapEngine *engine);
/*
 * Reclaim in this thread until there is room for @size bytes, or no hope, or
 * others have taken too much of what it made.  True: there is room now.
 */
bool memswap_reclaim_direct(MemswapEngine *engine, uint64_t size);
/*
 * Take some out in this thread, whatever the limit says.  False if nothing can
 * be.
 */
bool memswap_reclaim_some(MemswapEngine *engine);

/*
 * policy.c: telling policies.  Never blocks, allocates nothing; with none
 * there it is a load and a branch.
 */
static inline bool memswap_policy_wants(MemswapEngine *engine, uint64_t bits)
{
    return G_UNLIKELY(atomic_load_explicit(&engine->policies.wanted,
                                           memory_order_relaxed) & bits);
}
void memswap_policies_init(MemswapEngine *engine);
void memswap_policies_destroy(MemswapEngine *engine);
/* An event about pages of a block, which may be NULL; the rest is 0. */
void memswap_policy_emit(MemswapEngine *engine, MemswapPolicyEventKind kind,
                         const MemswapBlock *block, uint64_t page,
                         uint64_t n);
/* Those that tell more than memswap_policy_emit() does. */
void memswap_policy_emit_fault(MemswapBlock *block, const void *host,
                               pid_t tid, const bool *write,
                               MemswapFaultKind kind);
void memswap_policy_emit_stall(MemswapBlock *block, uint64_t page,
                               uint64_t waited);
void memswap_policy_emit_limit(MemswapEngine *engine);
/* A page that was watched was touched, or left untouched. */
void memswap_policy_watched(MemswapBlock *block, uint64_t page,
                            unsigned int ahead, bool hit);
/* A trial of the region is over. */
void memswap_policy_looked(MemswapBlock *block, uint64_t number);
/* So is what followed: of so many pages so many left. */
void memswap_policy_emit_tried(MemswapBlock *block, uint64_t number,
                               uint64_t tried, uint64_t gone);
/* Have the reclaimer look whether it is asked for something. */
void memswap_policy_poke_reclaimer(MemswapEngine *engine);
/* Is there one that makes room?  Then evictors only help. */
static inline bool memswap_policy_reclaims(MemswapEngine *engine)
{
    return atomic_load_explicit(&engine->policies.makes_room,
                                memory_order_relaxed);
}
/* It is to make some. */
void memswap_policy_ask_room(MemswapEngine *engine);
/* evictor.c: bytes beyond the limit less @reserve */
uint64_t memswap_excess(MemswapEngine *engine, uint64_t reserve);

/* discard.c */

/* Forget a page in FILLING whose filler found DISCARD set. */
void memswap_discard_filled(MemswapBlock *block, uint64_t page);

#endif /* MEMSWAP_INTERNAL_H */

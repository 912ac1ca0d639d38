/*
 * memswap policies: what a policy may know and ask
 *
 * A policy decides which pages leave a guest's memory, or which come back
 * before they are touched.  It is a shared object that needs nothing but this
 * header:
 *
 *     cc -shared -fPIC -I include -o mine.so mine.c
 *
 * It has one entry point, memswap_policy_entry(), that is given the host's
 * operations and returns its own.  From then on it runs on a thread of its own
 * and is called there only: told of events, and free to ask for things by
 * calling the host's operations from within such a call.  It never sees data,
 * only the numbers of pages.  Every request is a hint that the host checks: a
 * wrong one costs time, never data.
 *
 * Rules for policies:
 *
 * - Return from each call soon.  One that doesn't within some seconds, while
 *   events wait, or room is short and it is the reclaimer, is given up:
 *   reported, and replaced by what there is without it.  What requests take is
 *   not counted, unless one call makes them for twelve times as long.  For long
 *   work ask to be woken, and go on then.
 * - Call the host's operations from the policy's own thread only.
 * - Events may be lost when they come faster than they are handled; how many
 *   were is counted, and known from the status.
 * - A policy lives in the host's process: one that writes to wild addresses,
 *   exits or raises signals can't be contained.
 *
 * Sizes are bytes, times ns of the host's monotonic clock, errors negative
 * errno values.  A page is named by its block and its number in there.  What a
 * block's number means may change when memory is unplugged and plugged.
 *
 * This header is an ABI.  Structs grow at their ends, and say how large they
 * are; MEMSWAP_POLICY_VERSION changes when something that was there changes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_POLICY_H
#define MEMSWAP_POLICY_H

#include <stdint.h>

#define MEMSWAP_POLICY_VERSION 1
/* The name of the entry point. */
#define MEMSWAP_POLICY_ENTRY "memswap_policy_entry"

/* The policy as its host knows it. */
typedef struct MemswapPolicyHost MemswapPolicyHost;

/* What a policy is.  An observer asks for nothing. */
#define MEMSWAP_POLICY_RECLAIMER  1u  /* one at a time */
#define MEMSWAP_POLICY_PREFETCHER 2u
#define MEMSWAP_POLICY_OBSERVER   4u

typedef enum MemswapPolicyEventKind {
    /* A fault was resolved: page, fault. */
    MEMSWAP_POLICY_FAULT,
    /* A region's trial was looked at: page is its first, n, trial. */
    MEMSWAP_POLICY_TRIAL,
    /* n pages from page on left for the store. */
    MEMSWAP_POLICY_EVICTED,
    /* A page came back from the store, for whatever reason. */
    MEMSWAP_POLICY_FILLED,
    /* This policy brought a page in, and it was touched. */
    MEMSWAP_POLICY_HIT,
    /* The same, but it left untouched. */
    MEMSWAP_POLICY_WASTED,
    /* The limit is another one: room. */
    MEMSWAP_POLICY_LIMIT,
    /*
     * For a reclaimer that makes room itself: little is free under the limit.
     * While it wants to hear of that evictors only help.  room
     */
    MEMSWAP_POLICY_ROOM,
    /* A fault is held back for room: page.  Its end: page, stall. */
    MEMSWAP_POLICY_STALL_BEGIN,
    MEMSWAP_POLICY_STALL_END,
    /* Host memory pressure, once a second: pressure. */
    MEMSWAP_POLICY_PRESSURE,
    /* What wake() asked for. */
    MEMSWAP_POLICY_TIMER,
    /* The guest was reset. */
    MEMSWAP_POLICY_RESET,
    /* A block of n pages is there, or goes. */
    MEMSWAP_POLICY_BLOCK_ADDED,
    MEMSWAP_POLICY_BLOCK_REMOVED,
    /*
     * For the reclaimer: evictors try what is on offer, and soon there is
     * none.  n, page_size: so many regions would do.
     */
    MEMSWAP_POLICY_CHOOSE,
    /* A region's turn is over: page is its first, n, tried. */
    MEMSWAP_POLICY_TRIED,
    MEMSWAP_POLICY_EVENT__MAX,
} MemswapPolicyEventKind;

#define MEMSWAP_POLICY_EVENT_BIT(kind) (UINT64_C(1) << MEMSWAP_POLICY_##kind)
/*
 * Among these bits: a fault is to come with who made it, and from where, as
 * far as that can be known, and reverse() is to be of use.  That takes some
 * time of each fault, and of each TLB miss under TCG.
 */
#define MEMSWAP_POLICY_WITH_CONTEXT (UINT64_C(1) << 63)

/* Where a faulting page was found. */
typedef enum MemswapPolicyFaultKind {
    MEMSWAP_POLICY_ABSENT,  /* never touched, or discarded */
    MEMSWAP_POLICY_MINOR,   /* in memory, not mapped */
    MEMSWAP_POLICY_WARM,    /* the same, and on trial: it proved warm */
    MEMSWAP_POLICY_SAME,    /* repeats one value */
    MEMSWAP_POLICY_STORED,
    MEMSWAP_POLICY_WAITED,  /* somebody else had it in hand */
} MemswapPolicyFaultKind;

/* Fields of a fault that are known; the others are 0. */
#define MEMSWAP_POLICY_KNOWN_WRITE   1u
#define MEMSWAP_POLICY_KNOWN_THREAD  2u
#define MEMSWAP_POLICY_KNOWN_VCPU    4u
#define MEMSWAP_POLICY_KNOWN_PC      8u
#define MEMSWAP_POLICY_KNOWN_ROOT    16u
#define MEMSWAP_POLICY_KNOWN_ADDRESS 32u

typedef struct MemswapPolicyFault {
    uint32_t kind;          /* MemswapPolicyFaultKind */
    uint32_t write;
    uint32_t vcpu;
    uint32_t thread;        /* the host's number for it */
    uint64_t pc;            /* guest-virtual, of the instruction */
    uint64_t root;          /* the guest's page table: only for translate() */
    uint64_t address;       /* guest-virtual, that was touched */
} MemswapPolicyFault;

typedef struct MemswapPolicyTrial {
    /* A bit for each page of the region that was touched since. */
    uint64_t touched[8];
    uint32_t n_touched;
    uint32_t n_cold;        /* pages that are still untouched */
} MemswapPolicyTrial;

typedef struct MemswapPolicyTried {
    uint64_t pages;         /* that were on trial */
    uint64_t gone;          /* of these */
} MemswapPolicyTried;

typedef struct MemswapPolicyRoom {
    uint64_t limit;
    uint64_t resident;
    uint64_t wanted;        /* bytes to take out for enough to be free */
    uint64_t waiting;       /* faults that are held back */
} MemswapPolicyRoom;

typedef struct MemswapPolicyPressure {
    uint64_t interval_ns;
    /* Of it, time in which some, or all, tasks of the host waited. */
    uint64_t some_ns, full_ns;
} MemswapPolicyPressure;

typedef struct MemswapPolicyEvent {
    uint32_t kind;          /* MemswapPolicyEventKind */
    uint32_t known;         /* MEMSWAP_POLICY_KNOWN_* */
    int64_t time;
    uint32_t block;
    uint32_t reserved;
    uint64_t page;
    uint64_t n;
    union {
        MemswapPolicyFault fault;
        MemswapPolicyTrial trial;
        MemswapPolicyRoom room;
        MemswapPolicyPressure pressure;
        uint64_t stall_ns;
        MemswapPolicyTried tried;
        uint64_t page_size; /* only of blocks with such pages; 0: of any */
    };
} MemswapPolicyEvent;

/* Pages [page, page + n) of a block. */
typedef struct MemswapPolicyRange {
    uint32_t block;
    uint32_t reserved;
    uint64_t page;
    uint64_t n;
} MemswapPolicyRange;

/* Ranges, and pages, that one request may name. */
#define MEMSWAP_POLICY_MAX_RANGES 1024
#define MEMSWAP_POLICY_MAX_PAGES 65536

typedef struct MemswapPolicyBlock {
    uint32_t size;          /* of this struct, set by the caller */
    uint32_t region_pages;  /* pages a region; the last may have fewer */
    uint64_t page_size;
    uint64_t n_pages;
    uint64_t resident;      /* bytes */
} MemswapPolicyBlock;

typedef struct MemswapPolicyInfo {
    uint32_t size;          /* of this struct, set by the caller */
    uint32_t n_blocks;      /* numbers of blocks are below this */
    uint64_t limit;
    uint64_t resident;
    /* Reclaim begins when less than low is free, until high is. */
    uint64_t reserve_low, reserve_high;
    uint64_t evictions, refaults;   /* pages, since the engine began */
    uint64_t stall_ns;              /* summed */
    /* Time of faults that fetched a page, but for what they were held back. */
    uint64_t refault_ns;
} MemswapPolicyInfo;

/* States that pages() asks for; several may be given at once. */
#define MEMSWAP_POLICY_IS_ABSENT   1u
#define MEMSWAP_POLICY_IS_RESIDENT 2u   /* and not on trial */
#define MEMSWAP_POLICY_IS_TRIAL    4u   /* resident, untouched so far */
#define MEMSWAP_POLICY_IS_STORED   8u
#define MEMSWAP_POLICY_IS_ZERO     16u  /* repeats one value */
#define MEMSWAP_POLICY_IS_PINNED   32u
#define MEMSWAP_POLICY_IS_HUGE     64u  /* of a region that is one huge page */

/* For reclaim(): only pages on trial that nobody touched since. */
#define MEMSWAP_POLICY_COLD 1u
/* For offer(): before what was offered so far. */
#define MEMSWAP_POLICY_FIRST 1u

/* How much of what is free a prefetch may take. */
typedef enum MemswapPolicyPriority {
    MEMSWAP_POLICY_LOW,     /* none that anybody would have to evict for */
    MEMSWAP_POLICY_NORMAL,  /* half of the reserve */
    MEMSWAP_POLICY_HIGH,    /* all there is */
} MemswapPolicyPriority;

/* trial()'s look_ns: evictors, or the policy itself, are to look. */
#define MEMSWAP_POLICY_NO_LOOK (-1)
/* translate()'s root: addresses are guest-physical. */
#define MEMSWAP_POLICY_PHYSICAL UINT64_MAX

/*
 * What the host offers.  Beside what is said of each, they return
 *
 *   -EPERM      not for a policy of this role
 *   -EINVAL     an argument means nothing
 *   -ENOENT     there is no such block (any more)
 *   -ERANGE     a page outside its block, or too many at once
 *   -EAGAIN     too many requests; the call took a millisecond
 *   -ESHUTDOWN  the policy was given up
 *
 * Nothing is done then.  Of -EINVAL and -ERANGE a policy gets so many, and is
 * given up.
 */
typedef struct MemswapPolicyHostOps {
    uint32_t size;          /* of this struct */
    uint32_t version;       /* MEMSWAP_POLICY_VERSION */

    int64_t (*now)(MemswapPolicyHost *host);
    int (*info)(MemswapPolicyHost *host, MemswapPolicyInfo *info);
    int (*block)(MemswapPolicyHost *host, uint32_t block,
                 MemswapPolicyBlock *info);
    /* resident[i] is the number of pages in memory of region first + i */
    int (*regions)(MemswapPolicyHost *host, uint32_t block, uint64_t first,
                   uint64_t n, uint32_t *resident);
    /*
     * Bit i says whether page first + i is in one of the states.  bitmap has
     * room for n bits, in words of 64.
     */
    int (*pages)(MemswapPolicyHost *host, uint32_t block, uint64_t first,
                 uint64_t n, uint32_t states, uint64_t *bitmap);

    /*
     * Take pages out, in the calling thread.  Those that are pinned, kept by
     * a policy that goes before, or in somebody's hands stay.  A region that
     * is one huge page goes whole or not at all.  Without MEMSWAP_POLICY_COLD
     * each region is put on trial first, and costs as much of the budget.
     * Returns the bytes gone.
     */
    int64_t (*reclaim)(MemswapPolicyHost *host,
                       const MemswapPolicyRange *ranges, uint32_t n,
                       uint32_t flags);
    /*
     * Take out so many bytes of what is cold in regions on offer and, with
     * none, in others in the order of addresses.  Each step on the way costs
     * as much of the budget as trial().  Returns the bytes gone: what there
     * was by then when the budget was used up, or a second over.
     */
    int64_t (*reclaim_bytes)(MemswapPolicyHost *host, uint64_t bytes);
    /*
     * Bring pages in that are in the store, in the order given, in the calling
     * thread, until there is no room or deadline (0: none) is over.  The last
     * page of a request and one in sixteen come in unmapped: their first touch
     * is what MEMSWAP_POLICY_HIT tells of.  While more than a fifth of these
     * is wasted, fewer pages are brought in than were asked for.  Returns how
     * many were.  Pages that are on trial are mapped again, and don't count.
     */
    int64_t (*prefetch)(MemswapPolicyHost *host,
                        const MemswapPolicyRange *ranges, uint32_t n,
                        uint32_t priority, int64_t deadline);
    /*
     * Put a region on trial: unmap it, so that touches show.  look_ns later
     * MEMSWAP_POLICY_TRIAL tells what was touched; INT64_MAX / 2 is the most
     * that may be.  Returns the number of pages on trial; -EBUSY if somebody is
     * at work on the region, or too many looks are ahead.
     */
    int64_t (*trial)(MemswapPolicyHost *host, uint32_t block,
                     uint64_t region, int64_t look_ns);
    /*
     * A region is to be passed by when its turn comes to be tried, so many
     * times, up to 15.  One that a policy that goes before this one keeps is
     * left as it is.
     */
    int (*set_interval)(MemswapPolicyHost *host, uint32_t block,
                        uint64_t region, uint32_t rounds);
    /*
     * Pages not to be taken for a while: regions that hold them are passed by
     * for as long as can be.  Returns the number of pages; fewer than asked
     * for when the budget is used up, which is a quarter of the limit until as
     * much as the limit was evicted.  A region costs all of its bytes, however
     * few of its pages are named, and again once it was passed by.  One that a
     * policy that goes before keeps stays that one's, and costs nothing.
     */
    int64_t (*keep)(MemswapPolicyHost *host,
                    const MemswapPolicyRange *ranges, uint32_t n);

    /*
     * The page of an address, by the guest's page table now, and back.
     * -EFAULT if there is none, or none that is known; -EBUSY if a table is in
     * somebody's hands; -EOPNOTSUPP where the host can't tell.  reverse() knows
     * of 4 KiB: of a larger page, only what uses the first of it.
     */
    int (*translate)(MemswapPolicyHost *host, uint64_t root,
                     uint64_t address, uint32_t *block, uint64_t *page);
    int (*reverse)(MemswapPolicyHost *host, uint32_t block, uint64_t page,
                   uint64_t *root, uint64_t *address);

    /* MEMSWAP_POLICY_TIMER in so many ms; replaces the one before. */
    int (*wake)(MemswapPolicyHost *host, uint64_t ms);
    /* Show a number under a name, of at most 31 characters; 16 of them. */
    int (*counter)(MemswapPolicyHost *host, const char *name,
                   uint64_t value);

    /*
     * translate() for n addresses at once, each stride bytes on from the one
     * before.  pages[i].n is 1, or 0 if that one isn't known.  Returns how
     * many are.
     */
    int64_t (*translate_many)(MemswapPolicyHost *host, uint64_t root,
                              uint64_t address, int64_t stride, uint32_t n,
                              MemswapPolicyRange *pages);

    /*
     * Offer regions to be tried by whoever reclaims, in this order, each that
     * a range has a page of.  Best ahead of need: then evictors, as many as
     * there is work for, go from one to the next, and what comes of each is
     * told by MEMSWAP_POLICY_TRIED.  When few are left there is
     * MEMSWAP_POLICY_CHOOSE; with none, regions go in the order of addresses.
     * Returns how many were taken, fewer when 1024 wait; -EBUSY as long as
     * this is not the reclaimer in charge.
     */
    int64_t (*offer)(MemswapPolicyHost *host,
                     const MemswapPolicyRange *ranges, uint32_t n,
                     uint32_t flags);
    /*
     * What a sequence of faults brought in and left behind is to go before
     * all that is on offer, without a trial, if the pages evicted since its
     * own were, or since such a sequence left it the last time, are so many
     * per cent of those in memory, up to 100.  0, as in the beginning: never.
     * Ends with the policy.
     */
    int (*behind)(MemswapPolicyHost *host, uint32_t percent);
} MemswapPolicyHostOps;

/* One that would let events gather for longer is refused. */
#define MEMSWAP_POLICY_MAX_DELAY_US 1000000

/*
 * What a policy offers.  Each is called in the policy's thread; set and stop
 * may be NULL.
 */
typedef struct MemswapPolicyOps {
    uint32_t size;          /* of this struct */
    uint32_t version;       /* MEMSWAP_POLICY_VERSION it was built with */
    const char *name;
    uint32_t roles;         /* MEMSWAP_POLICY_RECLAIMER, ... */
    /*
     * Let events gather for so long, MAX_DELAY_US at most, or until half of
     * the room for events is used; 0: don't.
     */
    uint32_t delay_us;
    /* MEMSWAP_POLICY_EVENT_BIT()s of those wanted, and WITH_CONTEXT */
    uint64_t events;

    /*
     * Begin: 0 and *self, passed to the others; or a negative errno.  host and
     * its ops are to be kept in there: there may be two of a kind.
     */
    int (*start)(const MemswapPolicyHostOps *ops, MemswapPolicyHost *host,
                 void **self);
    void (*event)(void *self, const MemswapPolicyEvent *event);
    /* An option; 0, -ENOENT if there is none, -EINVAL for its value. */
    int (*set)(void *self, const char *name, const char *value);
    /* End: nothing is called after this, nor will anything be done. */
    void (*stop)(void *self);
    /*
     * Events that are no reason to wake the policy: they wait until something
     * else does, or half of the room for events is used.
     */
    uint64_t quiet;
} MemswapPolicyOps;

/*
 * The entry point: called once for each policy, and in a child process before
 * the object is loaded for good.  What it returns stays the policy's, and is
 * valid until it is unloaded.  NULL: it doesn't work with this host.
 */
typedef const MemswapPolicyOps *
MemswapPolicyEntry(const MemswapPolicyHostOps *host);

#endif /* MEMSWAP_POLICY_H */

/*
 * memswap engine: keeps a set of shared-memory RAM blocks under a limit
 *
 * The engine takes cold pages out of the page cache into a store, and brings
 * them back when userfaultfd reports that somebody touched them.  It knows
 * nothing of QEMU: whatever it needs from its surroundings comes through
 * MemswapHost, whatever it offers is in this file.
 *
 * Errors are negative errno values.  Sizes are bytes.  Unless a function says
 * otherwise it may be called from any thread, and never calls back into its
 * caller except through MemswapHost.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_ENGINE_H
#define MEMSWAP_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct MemswapEngine MemswapEngine;
typedef struct MemswapBlock MemswapBlock;
typedef struct MemswapRemote MemswapRemote;

/* Reclaim works on regions of this size; blocks should be aligned to it. */
#define MEMSWAP_REGION_SIZE (2ULL * 1024 * 1024)

/*
 * Below this limit a guest would not get from one instruction to the next.
 * With blocks of hugepages it is MEMSWAP_MIN_LIMIT_HUGETLB.
 */
#define MEMSWAP_MIN_LIMIT (1ULL * 1024 * 1024)
#define MEMSWAP_MIN_LIMIT_HUGETLB (32ULL * 1024 * 1024)

/* Below this limit the pool would have no room to compact in. */
#define MEMSWAP_MIN_POOL_LIMIT (4ULL * 1024 * 1024)

/*
 * With a lower pin limit some requests would never get on.  With blocks of
 * hugepages it is MEMSWAP_MIN_PIN_LIMIT_HUGETLB.
 */
#define MEMSWAP_MIN_PIN_LIMIT (256ULL * 1024)
#define MEMSWAP_MIN_PIN_LIMIT_HUGETLB (8ULL * 1024 * 1024)

/* What the operator has to hear of; see MemswapHost.event. */
typedef enum MemswapEvent {
    /* The store refused a page for want of room; eviction pauses. */
    MEMSWAP_EVENT_STORE_FULL,
    /* A stored copy failed its checksum: its page is lost and poisoned. */
    MEMSWAP_EVENT_PAGE_LOST,
    /*
     * A page waits for one to be evicted, because the host has no free
     * hugepage, whatever the limit.  Not told again within a minute.
     */
    MEMSWAP_EVENT_NO_HUGEPAGES,
    /*
     * A policy was given up.  Here the callback's @block is the policy's id,
     * and @offset a MemswapPolicyError; see policies.h.
     */
    MEMSWAP_EVENT_POLICY_ERROR,
    /* An invariant is broken: the VM must stop before it does harm. */
    MEMSWAP_EVENT_BUG,
} MemswapEvent;

/* Points in a page's life that can be traced; see MemswapHost.trace. */
typedef enum MemswapTracePoint {
    MEMSWAP_TRACE_FAULT,    /* arg: MemswapFaultKind */
    MEMSWAP_TRACE_TRIAL,    /* offset: of the region, arg: pages on trial */
    MEMSWAP_TRACE_EVICT,    /* offset: of the run, arg: pages gone */
    /* offset: of the region, arg: 0, or the errno that it failed with */
    MEMSWAP_TRACE_COLLAPSE,
    MEMSWAP_TRACE_FILL,     /* arg: MemswapFaultKind */
    MEMSWAP_TRACE_DISCARD,  /* arg: bytes */
    MEMSWAP_TRACE_PIN_WAIT, /* arg: ns waited for somebody else's transition */
    MEMSWAP_TRACE_STALL,    /* arg: ns a fault was held back for room */
} MemswapTracePoint;

/* Where a faulting page was found. */
typedef enum MemswapFaultKind {
    MEMSWAP_FAULT_ABSENT,   /* never touched, or discarded: a zero page */
    MEMSWAP_FAULT_MINOR,    /* in the page cache, not mapped */
    MEMSWAP_FAULT_TRIAL,    /* the same, and on trial: it proved warm */
    MEMSWAP_FAULT_SAME,     /* same-filled: rebuilt from its word */
    MEMSWAP_FAULT_STORED,   /* fetched from the store */
    MEMSWAP_FAULT_WAITED,   /* somebody else's transition was under way */
    MEMSWAP_FAULT__MAX,
} MemswapFaultKind;

/*
 * What policies may know of who faults; see policy.h.  Bits of @known say
 * which of the others mean something.
 */
typedef struct MemswapFaultContext {
    uint32_t known;        /* MEMSWAP_POLICY_KNOWN_VCPU, _PC, ... */
    uint32_t vcpu;
    uint64_t pc;
    uint64_t root;
    uint64_t address;
} MemswapFaultContext;

/*
 * What the engine needs of its creator.  Every member may be NULL.  The
 * callbacks run on whichever thread met the occasion, possibly in the middle
 * of a fault or with a region in hand: they must not touch managed RAM, must
 * not wait for anything that might, and must not call back into the engine.
 */
typedef struct MemswapHost {
    /* Monotonic time in ns.  NULL: CLOCK_MONOTONIC. */
    int64_t (*clock_ns)(void *opaque);
    /*
     * May thread @tid (0: the calling one, -1: one of another process) be held
     * back until there is room under the limit?  False for one whose wait
     * would block the command that raises the limit.  NULL: every thread may.
     */
    bool (*may_hold_back)(void *opaque, pid_t tid);
    /*
     * Has somebody waited so long, with what others need, that it may be for a
     * thread that is held back?  Then none is that has waited for a while, for
     * as long as that is so.  It is asked again and again while there is one.
     * NULL: never.
     */
    bool (*held_up)(void *opaque);
    /* @block and @offset name the page concerned, where there is one. */
    void (*event)(void *opaque, MemswapEvent event, const char *block,
                  uint64_t offset);
    void (*trace)(void *opaque, MemswapTracePoint point, const char *block,
                  uint64_t offset, uint64_t arg);
    /*
     * A pin of the engine's own has ended, which was for a moment, and that
     * others may have been refused for: see memswap_pin().
     */
    void (*unpinned)(void *opaque);
    /*
     * Who is thread @tid (0: the calling one), in the middle of a fault, or
     * just after it, at @host?  Called only for policies that want to hear of
     * faults.
     */
    void (*fault_context)(void *opaque, pid_t tid, const void *host,
                          MemswapFaultContext *context);
    /*
     * Where a guest-virtual address is, by the page table at @root, or a
     * guest-physical one if that is MEMSWAP_POLICY_PHYSICAL; and back.  0, or
     * -EFAULT if nowhere, -EBUSY if that can't be told just now.  Called by
     * policies' threads, with no block in hand: @host is an address that was
     * managed a moment ago.  The engine is not freed meanwhile.  So they must
     * not take QEMU's big lock, nor wait for anybody who may be freeing the
     * engine or removing a block.
     */
    int (*translate)(void *opaque, uint64_t root, uint64_t address,
                     const void **host);
    int (*reverse)(void *opaque, const void *host, uint64_t *root,
                   uint64_t *address);
} MemswapHost;

/* What a fault does when the limit is reached and the store is full. */
typedef enum MemswapFullPolicy {
    MEMSWAP_FULL_HOLD,      /* waits until the operator makes room */
    MEMSWAP_FULL_OVERSHOOT, /* passes the limit, and is counted */
} MemswapFullPolicy;

/* Keep the copies of a sixteenth of what may be resident. */
#define MEMSWAP_KEEP_AUTO UINT64_MAX

/* How pages are compressed. */
typedef enum MemswapCodec {
    MEMSWAP_CODEC_ZSTD,    /* at a level: from fast to small */
    /* About as small as zstd's level -5, decompressed in half the time. */
    MEMSWAP_CODEC_LZ4,
} MemswapCodec;

/* What can be changed at run time, all of it or nothing. */
typedef struct MemswapSettings {
    uint64_t limit;        /* bytes of managed RAM that may be resident */
    uint64_t pool_limit;   /* bytes of the pool; UINT64_MAX: no limit */
    MemswapCodec codec;    /* for pages stored from now on */
    int compression_level; /* zstd's; negative is faster; none of LZ4's */
    MemswapFullPolicy when_full;
    /*
     * Bytes that are brought in ahead of a sequence of faults, at most; 0:
     * none.  More than a region is as good as a region.
     */
    uint64_t readahead;
    /*
     * Bytes of resident pages that may keep their stored copies, so that one
     * that was not written to is not compressed again; 0: none,
     * MEMSWAP_KEEP_AUTO: a part of the limit.  The copies go first when the
     * store is full.
     */
    uint64_t keep_copies;
    /*
     * Bytes that may be pinned at a time: at least MEMSWAP_MIN_PIN_LIMIT, at
     * most the limit; 0: seven eighths of it.  The rest is what everybody else
     * has to live in.
     */
    uint64_t pin_limit;
} MemswapSettings;

/* How faults reach the engine. */
typedef enum MemswapFaultMode {
    /*
     * They are read from memswap_engine_fd(), by whoever polls it.  For
     * whatever touches RAM, the kernel on somebody's behalf included.
     */
    MEMSWAP_FAULTS_EVENTS,
    /*
     * Each is a SIGBUS in the thread that touched the page, which resolves it
     * itself: see memswap_engine_fault().  A system call that is given a page
     * that is neither mapped nor pinned fails with EFAULT.  Needs no right to
     * anything.
     */
    MEMSWAP_FAULTS_INLINE,
} MemswapFaultMode;

/* What is decided once. */
typedef struct MemswapConfig {
    MemswapSettings settings;
    /*
     * Background threads that reclaim.  0: none; then a fault that finds no
     * room reclaims in the thread that handles it, which makes counts exact.
     */
    unsigned int evictors;
    /*
     * Room in bytes that background reclaim keeps free under the limit: it
     * starts when less than @reserve_low is free and goes on until
     * @reserve_high is.  Both 0: chosen from the limit (with evictors).
     */
    uint64_t reserve_low;
    uint64_t reserve_high;
    MemswapFaultMode fault_mode;
    /*
     * With MEMSWAP_FAULTS_EVENTS: threads of the engine's that read events
     * while the one that polls is busy with a fill that takes long, as that of
     * a hugepage does.  0: none; then everybody waits for such a fill.
     */
    unsigned int fault_helpers;
    /*
     * Where the process may use two CPUs, keep a thread that reads events on
     * each: the thread that calls memswap_engine_handle(), which is to be the
     * same each time and in charge of nothing else, and a helper.
     */
    bool spread_faults;
    /*
     * Collapse regions that are resident and warm into huge pages, where
     * kernel and host can; see MemswapStats.huge_supported.
     */
    bool huge_regions;
    /*
     * The policy that chooses what goes while no other reclaimer is there, of
     * those that are built in: see memswap_policy_default().  NULL: none; then
     * regions go in the order of addresses.
     */
    const char *reclaimer;
    /* Only user-mode faults: for users without the right to the others. */
    bool user_mode_only;
    /* An open userfaultfd to use, which the engine then owns; or -1. */
    int uffd;
} MemswapConfig;

#define MEMSWAP_LATENCY_BUCKETS 40
#define MEMSWAP_DISTANCE_BUCKETS 32

/* Counters since creation, gauges now; see memswap_get_stats(). */
typedef struct MemswapStats {
    /* Gauges, bytes of guest RAM; they add up to @managed at rest. */
    uint64_t managed;
    uint64_t resident;     /* in the page cache; includes @trial */
    uint64_t stored;       /* in the store */
    uint64_t zero;         /* same-filled pages, kept in their words */
    uint64_t untouched;    /* never touched, or discarded since */
    uint64_t poisoned;

    uint64_t trial;        /* part of @resident: unmapped, awaiting a touch */
    uint64_t pinned;       /* bytes with at least one pin */
    uint64_t pin_limit;    /* what they may be, now */
    uint64_t kept;         /* bytes whose stored copies are kept */
    uint64_t huge;         /* part of @resident: in regions that are huge */
    /* part of @resident: in blocks that are retained; more while they begin */
    uint64_t retained;
    bool huge_supported;   /* asked for, and the kernel and host can */
    uint64_t exposed;      /* part of @managed: see memswap_expose() */
    uint64_t peak_resident;
    uint64_t metadata;     /* bytes of page words and region state in use */

    /* The pool. */
    uint64_t pool_bytes;      /* memory its segments take */
    uint64_t pool_live_bytes; /* of these, used by stored pages and headers */
    uint64_t pool_data_bytes; /* of these, compressed data alone */
    uint64_t pool_segments;
    uint64_t pool_moved;      /* entries moved by compaction, a counter */

    /* Counters, in pages and faults. */
    uint64_t faults[MEMSWAP_FAULT__MAX];
    uint64_t evictions;    /* pages taken out, same-filled ones included */
    uint64_t refaults;     /* evicted pages brought back */
    uint64_t trials;       /* regions put on trial */
    uint64_t given_back;   /* evictions called off before the punch */
    uint64_t discards;     /* pages discarded */
    uint64_t store_full;   /* puts refused for want of room */
    uint64_t overshoots;   /* fills that passed the limit */
    uint64_t stalls;       /* faults held back for room */
    uint64_t stall_ns;     /* time they waited, summed */
    uint64_t spurious;     /* events for pages that needed nothing */
    uint64_t readahead;    /* pages brought in or mapped ahead of a touch */
    uint64_t unchanged;    /* evictions that found a kept copy right */
    uint64_t collapses;    /* regions made huge */
    uint64_t collapse_failures;
    /* Huge regions of which only a part was to go, so they are small now. */
    uint64_t splits;
    uint64_t no_hugepages; /* fills that found no hugepage free */
    uint64_t pins_refused; /* for passing the pin limit */
    uint64_t remote_faults; /* of @faults, those of other processes */
    /*
     * Pages of exposed blocks that were written to while they were evicted, and
     * so stayed.
     */
    uint64_t changed;

    /*
     * Faults by the time it took to resolve them, from reading the event:
     * bucket n counts those of [2^n, 2^(n+1)) ns.
     */
    uint64_t latency[MEMSWAP_LATENCY_BUCKETS];
    /*
     * Refaults by the pages evicted between a page's eviction and its return:
     * bucket n counts those of [2^n, 2^(n+1)).  Known for whole regions: it is
     * the distance from the last eviction in the page's region.
     */
    uint64_t distances[MEMSWAP_DISTANCE_BUCKETS];
} MemswapStats;

/* The gauges of one block; same meaning as in MemswapStats. */
typedef struct MemswapBlockStats {
    uint64_t managed;
    uint64_t page_size;
    uint64_t resident;
    uint64_t stored;
    uint64_t zero;
    uint64_t untouched;
    uint64_t poisoned;
} MemswapBlockStats;

/* What the engine must know of a RAM block. */
typedef struct MemswapBlockInfo {
    const char *name;      /* for statistics and traces; copied */
    void *host;            /* the mapping that vCPUs and devices use */
    uint64_t size;         /* bytes; a multiple of @page_size */
    int fd;                /* shared memory behind @host; stays the caller's */
    uint64_t fd_offset;    /* of @host within @fd */
    /*
     * Bytes; the block's unit of swap: the host's ordinary page, or 2 MiB on
     * hugetlbfs, where mapping it with MAP_NORESERVE lets the pool of
     * hugepages be as small as the limit.
     */
    uint64_t page_size;
} MemswapBlockInfo;

/**
 * memswap_settings_in_range: could these be the settings of some engine?
 * @error: if not, set to one line that says what to change, g_free() it; may
 *         be NULL
 *
 * Needs no engine.  One with large pages or pinned ones may refuse more.
 */
bool memswap_settings_in_range(const MemswapSettings *settings, char **error);

/**
 * memswap_engine_new: create an engine that manages nothing yet
 * @config: copied
 * @host: may be NULL; stays the caller's and must outlive the engine
 * @opaque: passed to every callback of @host
 * @engine: the result; owned by the caller, see memswap_engine_free()
 * @error: set to one line that says what to change, g_free() it; may be NULL
 *
 * Opens a userfaultfd unless @config brings one, and starts the evictors.
 * Returns 0; -EPERM without the right to userfaultfd; -ENOSYS where the
 * kernel lacks what is needed; -EINVAL for settings out of range.
 */
int memswap_engine_new(const MemswapConfig *config, const MemswapHost *host,
                       void *opaque, MemswapEngine **engine, char **error);

/**
 * memswap_engine_free: stop the evictors and free everything
 *
 * Blocks still there are removed as memswap_block_remove() does.  Nobody may
 * touch their RAM any more.
 */
void memswap_engine_free(MemswapEngine *engine);

/**
 * memswap_engine_fd: the file descriptor to poll for reading
 *
 * It stays the engine's.  When it is readable, call memswap_engine_handle().
 */
int memswap_engine_fd(MemswapEngine *engine);

/**
 * memswap_engine_handle: resolve the faults that are waiting
 *
 * With MEMSWAP_FAULTS_EVENTS; in the other mode there are none to read.
 * Reads the userfaultfd until it is empty.  Never blocks on another fault,
 * on I/O or for room: what can't be resolved now is resolved by the thread
 * that it waits for.  Several threads may call it at once.  With helpers it may
 * be busy for longer with a single fill, but not unless one of them reads
 * meanwhile.
 *
 * Returns the number of events read.
 */
unsigned int memswap_engine_handle(MemswapEngine *engine);

/**
 * memswap_engine_spreads: does a reader of events stay on each CPU?
 *
 * See MemswapConfig.spread_faults.  Then to look for events before sleeping
 * would only take time from those who fault.
 */
bool memswap_engine_spreads(MemswapEngine *engine);

/**
 * memswap_engine_fault: resolve a fault in the thread that met it
 * @host: the address that was touched
 *
 * With MEMSWAP_FAULTS_INLINE, for the handler of SIGBUS where si_code is
 * BUS_ADRERR.  Waits for whoever has the page in hand, and for room under the
 * limit if the thread may be held back; keeps errno.  Takes no lock that the
 * thread could hold, since the engine itself never touches managed RAM.  With
 * evictors it allocates nothing, unless the thread may not be held back and
 * has to make room itself; allocators don't touch managed RAM either.
 *
 * Returns true when the access is to be tried again; false if the address is
 * in no managed block, in which case the signal means something else.
 */
bool memswap_engine_fault(MemswapEngine *engine, const void *host);

/**
 * memswap_get_settings: the settings in force
 */
void memswap_get_settings(MemswapEngine *engine, MemswapSettings *settings);

/**
 * memswap_set_settings: change all settings at once
 * @error: as in memswap_engine_new()
 *
 * To a lower limit, reclaim works residency down in the background; until it
 * is there, fills get half of the room that this makes.  Returns 0, or
 * -EINVAL with nothing changed.  Never blocks on a fault.
 */
int memswap_set_settings(MemswapEngine *engine,
                         const MemswapSettings *settings, char **error);

/**
 * memswap_block_add: manage a RAM block
 * @block: the result, valid until memswap_block_remove()
 * @error: as in memswap_engine_new()
 *
 * Registers @info->host with userfaultfd, then takes stock of the pages that
 * are there already; residency may pass the limit by these until they are
 * reclaimed.  Pages keep their contents.
 *
 * Returns 0; -EINVAL for a size or alignment that doesn't fit, pages of a
 * size that is not supported, a limit too low for them, memory that is not
 * shared or locked; -EBUSY if somebody registered the range already; -ENOMEM.
 */
int memswap_block_add(MemswapEngine *engine, const MemswapBlockInfo *info,
                      MemswapBlock **block, char **error);

/**
 * memswap_block_remove: stop managing a block whose contents are not needed
 *
 * Drops the stored copies, waits for whoever works on the block, unregisters
 * the range.  Nobody may touch its RAM while this runs, nor hold a pin in it;
 * a memswap_pin() that waits for room fails.  @block is freed.
 */
void memswap_block_remove(MemswapEngine *engine, MemswapBlock *block);

/**
 * memswap_expose: other processes are about to have a block mapped
 * @host: any address in the block
 * @error: as in memswap_engine_new()
 *
 * To be called before they have.  From then on the block's regions don't become
 * huge, those that are get small pages, and pages leave in a way that does not
 * lose what another process writes by CPU at any moment, through its own
 * mapping.  What devices write by DMA on its behalf is not covered: such a page
 * has to be pinned as long as that may be.  A region that can't be made small
 * now, since something in it is pinned or the block is retained, stays as long
 * as the block is exposed: later it is too late, since others have it mapped.
 *
 * Another process that touches a page that is out must get a fault that is
 * resolved, see memswap_remote_add(): without one it would read zeroes.  So
 * until it is registered with userfaultfd, pin what it may touch.
 *
 * Nests; each takes one memswap_conceal() of the same block.  Takes up to some
 * seconds, for many gigabytes of huge pages.  Returns 0; -ENOENT if @host is in
 * no managed block; -ENOTSUP for a block of hugepages, on a host that may make
 * huge pages of any shared memory, and on a kernel that has no way to do it;
 * -EMFILE or -ENFILE.
 */
int memswap_expose(MemswapEngine *engine, const void *host, char **error);

/**
 * memswap_conceal: undo one memswap_expose() of the same block
 *
 * Nobody else has the block mapped any more, if it was the last.  What is in
 * no managed block is ignored: removal of a block ends it as well.
 */
void memswap_conceal(MemswapEngine *engine, const void *host);

/* A part of an exposed block, and where another process has it mapped. */
typedef struct MemswapRemoteRange {
    void *host;            /* in our mapping; aligned to pages */
    uint64_t size;         /* bytes; within one block */
    uint64_t base;         /* what is @host here is this address there */
} MemswapRemoteRange;

/**
 * memswap_remote_add: resolve another process's faults
 * @uffd: a userfaultfd of that process; the engine's from then on, if it works
 * @ranges: copied; those that the other registers with @uffd, for MISSING
 *          faults only, before anything in them is evicted
 * @remote: the result, valid until memswap_remote_remove()
 * @error: as in memswap_engine_new()
 *
 * A thread of the engine reads its faults.  When one is resolved the page is in
 * the file behind @ranges, and the other process is woken.  A fault without
 * room under the limit is held back for a moment, then passes it.  That the
 * process dies does no harm.
 *
 * Returns 0; -EINVAL if @uffd is no userfaultfd, a range is not all in one
 * exposed block, or there are too many; -EMFILE, -EAGAIN.
 */
int memswap_remote_add(MemswapEngine *engine, int uffd,
                       const MemswapRemoteRange *ranges, unsigned int n,
                       MemswapRemote **remote, char **error);

/**
 * memswap_remote_set_ranges: another process has mapped other ranges
 *
 * Arguments and errors are those of memswap_remote_add(); all ranges at once.
 * Faults that come meanwhile wait.  Not to be called twice at the same time
 * for one remote.
 */
int memswap_remote_set_ranges(MemswapRemote *remote,
                              const MemswapRemoteRange *ranges,
                              unsigned int n, char **error);

/**
 * memswap_remote_remove: don't resolve another process's faults any more
 *
 * It has gone, or what it may touch is pinned: from then on it reads zeroes
 * for what is not there.  @remote is freed, and its userfaultfd closed.
 */
void memswap_remote_remove(MemswapRemote *remote);

/**
 * memswap_free_hugepages: how much memory the host has in free hugepages
 * @page_size: bytes; what size of hugepages to ask about
 *
 * Needs no engine.  What is reserved for somebody's mapping does not count,
 * nor does what the host may add on demand (nr_overcommit_hugepages).  Returns
 * bytes; -ENOENT if the host has no hugepages of this size, or another
 * negative errno.
 */
int64_t memswap_free_hugepages(uint64_t page_size);

/**
 * memswap_owns: is this address in a managed block?
 */
bool memswap_owns(MemswapEngine *engine, const void *host);

/**
 * memswap_peek: read managed RAM without touching it
 * @host: where it is mapped; the mapping is not used
 * @size: bytes, all of one page of the block
 *
 * From where it is: the page cache, or its stored copy.  Nothing is brought
 * in or counted, and nobody is waited for.  What others write meanwhile, or
 * take out, may be seen in part.
 *
 * Returns 0; -EAGAIN while the page is in somebody's hands, and for stored
 * hugepages and what takes long to fetch; -EIO if it is lost; -ENOENT if
 * @host is in no managed block; -EINVAL across pages.
 */
int memswap_peek(MemswapEngine *engine, const void *host, void *buffer,
                 size_t size);

/**
 * memswap_pin: make a range resident and mapped, and keep it so
 * @host: start; need not be aligned to pages
 * @size: bytes; parts outside managed blocks are skipped
 *
 * For whoever hands guest memory to the kernel or to another process.  Waits
 * for fills and evictions under way, never for room when the calling thread
 * may not be held back.  If the host has no memory for a page, it waits until
 * there is some, whoever calls.  Pins nest, and may overlap; each takes one
 * memswap_unpin() of the same range.
 *
 * Returns 0; -EIO if a page is lost, -EFAULT if its block is being removed,
 * -ENOBUFS if more would be pinned than MemswapSettings.pin_limit allows.  In
 * these cases nothing is pinned.
 */
int memswap_pin(MemswapEngine *engine, const void *host, uint64_t size);

/* Never -ENOBUFS: for little, and for a moment. */
#define MEMSWAP_PIN_FORCE 1u
/*
 * The pin has no end in sight.  All that is pinned may then be half of the pin
 * limit, so that I/O finds the other half.
 */
#define MEMSWAP_PIN_HOLD  2u

/**
 * memswap_pin_with: memswap_pin() with flags, MEMSWAP_PIN_*
 */
int memswap_pin_with(MemswapEngine *engine, const void *host, uint64_t size,
                     unsigned int flags);

/**
 * memswap_pin_room: bytes that could be pinned now before it is refused
 */
uint64_t memswap_pin_room(MemswapEngine *engine);

/**
 * memswap_unpin: undo one memswap_pin() of the same range
 */
void memswap_unpin(MemswapEngine *engine, const void *host, uint64_t size);

/**
 * memswap_retain: bring all of a block back, and keep all of it resident
 * @host: any address in the block
 * @error: as in memswap_engine_new()
 *
 * For a process that has the block's memory mapped by itself, whose touches
 * nobody reports: it must not have it before this returns, nor any more when
 * memswap_release() is called.  What that process touches first is made by the
 * kernel, and counted later.  Discards go on; so does the rest of memory.
 * Nests.  Takes as long as what is out takes to come back; waits like
 * memswap_pin().
 *
 * Returns 0; -ENOENT if @host is in no managed block; -ENOSPC if the limit is
 * too low for what would stay, or free hugepages are too few; -EIO if a page is
 * lost; -EFAULT if the block is being removed.  On errors nothing is retained.
 */
int memswap_retain(MemswapEngine *engine, const void *host, char **error);

/**
 * memswap_release: undo one memswap_retain() of the same block
 *
 * Takes stock of what others made in the block, so that it can leave.  What is
 * in no managed block is ignored: removal of a block ends it as well.
 */
void memswap_release(MemswapEngine *engine, const void *host);

/*
 * A device process that maps blocks by itself, and says which of their pages
 * it uses; see docs/interop/vhost-user-memswap.rst.
 */
typedef struct MemswapClient MemswapClient;
/* Words of its tables; see memswap/client.h. */
typedef struct MemswapClientRange MemswapClientRange;

/* So many at a time can have a block for certain. */
#define MEMSWAP_MAX_CLIENTS 16

/* What such a process has to be given for a block. */
typedef struct MemswapShared {
    int fd;                /* the table's file; stays the client's */
    uint64_t file;         /* its number, for memswap_client_pin() */
    void *host;            /* of the page whose word is the first */
    uint64_t page_size;    /* bytes; there is a word of 4 bytes for each */
} MemswapShared;

/**
 * memswap_client_new: a device process is about to come
 *
 * To be freed before the engine.
 */
MemswapClient *memswap_client_new(MemswapEngine *engine);

/**
 * memswap_client_free: it is gone
 *
 * It can't touch the memory any more, nor is anybody in a function with
 * @client.  What it had pinned may leave again.
 */
void memswap_client_free(MemswapClient *client);

/**
 * memswap_client_share: make, or find, the process's table for a block
 * @host: any address in the block
 *
 * From when it has the block's memory it touches only what it has pinned.
 * Returns 0; -ENOENT if @host is in no managed block; -EUSERS if too many
 * processes share the block; -ENOMEM.
 */
int memswap_client_share(MemswapClient *client, const void *host,
                         MemswapShared *shared);

/**
 * memswap_client_pin: the process asks for pages that are out
 * @ranges: of pages' words in tables; see memswap/client.h
 * @n: how many ranges
 * @flags: MEMSWAP_CLIENT_BOUNDED..., of memswap/client.h
 *
 * Brings them in, says so in the tables, and counts each once for the process,
 * or as often as it is in @ranges; waits like memswap_pin().  @ranges and
 * @flags may be anything, but nobody else is to change them.
 *
 * Returns 0, or, with nothing pinned: -EINVAL; what memswap_pin() returned;
 * -ENOENT if the block was removed; -EOVERFLOW if a count is full; -ENOBUFS
 * only as the flags say.  The bound is that of memswap_pin(); pages that are in
 * already are pinned without being asked for, and can pass it, but not the
 * limit.
 */
int memswap_client_pin(MemswapClient *client, const MemswapClientRange *ranges,
                       unsigned int n, uint32_t flags);

/**
 * memswap_client_serve: answer the process's requests, until it is gone
 * @fd: a connected socket of type SOCK_SEQPACKET; stays the caller's
 *
 * In a thread that has nothing else to do; shutdown() of the socket ends it.
 * Returns 0 when there is nobody at the other end, -EINVAL if that one breaks
 * the rules, or another negative errno.
 */
int memswap_client_serve(MemswapClient *client, int fd);

/**
 * memswap_client_pinned: how many bytes the process has pinned now
 *
 * Looks at all of its tables.
 */
uint64_t memswap_client_pinned(MemswapClient *client);

/**
 * memswap_discard: forget the contents of a range of one block
 * @host: aligned to the block's page size
 * @size: a multiple of it
 *
 * Afterwards the range reads as zeroes and, pinned pages aside, takes no
 * memory.  Waits for fills under way.  Returns 0 or a negative errno, with
 * the pages before the failing one discarded; -ENOENT if @host is in no
 * managed block.
 */
int memswap_discard(MemswapEngine *engine, const void *host, uint64_t size);

/**
 * memswap_reclaim: take out this many bytes now
 *
 * Works in the calling thread: first what is on trial already and still
 * cold, then the next regions, as if once around.  Returns the bytes that
 * left the page cache, which may be fewer than asked for, or more by less
 * than a region.
 */
uint64_t memswap_reclaim(MemswapEngine *engine, uint64_t size);

/* Asked again and again in the course of a long work: false ends it. */
typedef bool MemswapGoOn(void *opaque);

/**
 * memswap_reclaim_while: the same, for as long as somebody says so
 * @go_on: asked before each step, which tries a region or a few, or waits
 *         200 us for whoever has them; NULL: to the end
 *
 * Once around can be long, where all is warm: every region is unmapped then,
 * and nothing gained.
 */
uint64_t memswap_reclaim_while(MemswapEngine *engine, uint64_t size,
                               MemswapGoOn *go_on, void *opaque);

/* A part of a block, which is known by its name; see MemswapBlockInfo. */
typedef struct MemswapRange {
    const char *block;
    uint64_t offset;       /* bytes; multiples of the block's page size */
    uint64_t size;
} MemswapRange;

/* Ranges that one call may name. */
#define MEMSWAP_MAX_RANGES 1024

/**
 * memswap_reclaim_ranges: take out what somebody names, now
 * @ranges: may overlap; stay the caller's
 * @cold: take only pages that were put on trial and not touched since, then
 *        put the others on trial.  So a second call, some time later, takes
 *        what nobody touched in between.
 * @go_on: NULL: to the end
 * @error: as in memswap_engine_new()
 *
 * Works in the calling thread, in the order given.  Pages that are pinned, or
 * in somebody's hands, stay.  A region that is one huge page goes whole or not
 * at all, so only if a range holds all of it.  What policies want to keep goes
 * all the same.
 *
 * Returns the bytes that left the page cache; -EINVAL, with nothing done, for
 * too many ranges, a block that is not managed, an offset or size that is no
 * multiple of its page size, an end beyond its own.
 */
int64_t memswap_reclaim_ranges(MemswapEngine *engine,
                               const MemswapRange *ranges, unsigned int n,
                               bool cold, MemswapGoOn *go_on, void *opaque,
                               char **error);

/**
 * memswap_prefetch: bring in what somebody names, now
 *
 * Arguments are those of memswap_reclaim_ranges(), and so are the errors.  Only
 * what was taken out comes; what is on trial is mapped again.  Nothing leaves
 * for it: it ends when the evictors would have to work, or a block of hugepages
 * finds none free.  Returns the bytes that came.
 */
int64_t memswap_prefetch(MemswapEngine *engine, const MemswapRange *ranges,
                         unsigned int n, MemswapGoOn *go_on, void *opaque,
                         char **error);

/**
 * memswap_hold_nobody: from now on, no fault waits for room
 * @begin: true to begin, false to end; the two nest
 *
 * For as long as somebody waits for threads that may be in a fault, to stop
 * vCPUs for instance: with a full store these would never get on.  Fills pass
 * the limit meanwhile, and are counted.
 */
void memswap_hold_nobody(MemswapEngine *engine, bool begin);

/**
 * memswap_forget_lost: give up the contents of all poisoned pages
 *
 * From then on they read as zeroes, and whoever waits for one goes on.  That
 * is the operator's decision, never the engine's.  Returns the number of
 * bytes given up.
 */
uint64_t memswap_forget_lost(MemswapEngine *engine);

/**
 * memswap_get_stats: all counters and gauges
 *
 * Never blocks.  Gauges are exact at rest, and momentary under load.
 */
void memswap_get_stats(MemswapEngine *engine, MemswapStats *stats);

/**
 * memswap_block_get_stats: the gauges of one block
 */
void memswap_block_get_stats(MemswapBlock *block, MemswapBlockStats *stats);

/* The map: a region, or several of one block, in a few bytes. */
typedef struct MemswapMapCell {
    /*
     * Shares of the cell's pages that are in memory, and that are stored (or
     * same-filled).  0: none, 255: all, else 1 + 254 * part / whole.
     */
    uint8_t resident;
    uint8_t stored;
    /*
     * Seconds since a fault was seen in it, the latest if it is of several
     * regions: up to 7 as they are, from there n stands for at least
     * (8 + n % 8) << (n / 8 - 1) and less than what n + 1 stands for.
     * MEMSWAP_MAP_NEVER: never.  No fault means no touch only for what
     * was on trial since.
     */
    uint8_t idle;
    /*
     * How much of what was on trial had been touched when that ended the last
     * time, in 15ths, the most of several: about how warm it was.
     */
    uint8_t heat;
} MemswapMapCell;

#define MEMSWAP_MAP_NEVER 255

/**
 * memswap_block_map: show where a block's memory is
 * @start: bytes, where the first cell begins; a multiple of the region size
 * @granularity: bytes a cell; a multiple of the region size
 * @cells: room for @n
 *
 * The block must stay until this returns.  Never blocks; takes some tens of ms
 * for a terabyte.  Returns the number of cells, fewer than @n where the block
 * ends; -EINVAL for what is no such multiple.
 */
int64_t memswap_block_map(MemswapBlock *block, uint64_t start,
                          uint64_t granularity, uint64_t n,
                          MemswapMapCell *cells);

/* The guest's working set in the last so many seconds; see workingset.c. */
typedef struct MemswapWindow {
    uint32_t seconds;
    uint64_t at_least;     /* bytes seen to be touched */
    /* Of these and others that were mapped, so that touches aren't seen. */
    uint64_t at_most;
} MemswapWindow;

/* A minute, ten minutes, an hour. */
#define MEMSWAP_WINDOWS 3

/**
 * memswap_get_working_sets: estimate working sets
 *
 * Exact for blocks of up to 16 MiB; for larger ones from a sample, with a
 * standard error of about 0.3 % of 1 GiB or more, and 0.8 % at worst.  Never
 * blocks; takes some ms at most, however many blocks there are.
 */
void memswap_get_working_sets(MemswapEngine *engine,
                              MemswapWindow sets[MEMSWAP_WINDOWS]);

/* With so much resident, so many refaults a second would be left. */
typedef struct MemswapCurvePoint {
    uint64_t resident;     /* bytes */
    double refaults;
} MemswapCurvePoint;

#define MEMSWAP_CURVE_POINTS 242

/**
 * memswap_get_curve: refaults a second against resident size
 * @points: room for MEMSWAP_CURVE_POINTS
 *
 * The first is what is resident and the refaults there are now, each other one
 * is where some of these end.  Between two, the rate is that of the first.  A
 * weighted mean, half of whose weight is in the last ten minutes.  Returns the
 * number of points, at least 1.
 */
unsigned int memswap_get_curve(MemswapEngine *engine,
                               MemswapCurvePoint *points);

/**
 * memswap_latency_percentile: a percentile of a latency histogram
 * @percent: above 0, up to 100
 *
 * Returns ns, interpolated within its bucket; 0 if nothing was counted.
 */
uint64_t memswap_latency_percentile(
    const uint64_t latency[MEMSWAP_LATENCY_BUCKETS], double percent);

#endif /* MEMSWAP_ENGINE_H */

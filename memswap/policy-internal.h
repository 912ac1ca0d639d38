/*
 * Policies: what the files that serve them share
 *
 * A policy's life, in MemswapPolicyHost.phase:
 *
 *     LOADING --> UP --> STOPPING --> DOWN
 *        |        |         |
 *        +--------+---------+---> GIVEN_UP
 *
 * Its own thread goes from LOADING to UP, or DOWN, and from STOPPING to DOWN;
 * who removes it goes to STOPPING, and whoever finds it hung, or out of its
 * mind, to GIVEN_UP.  All are compare-and-swaps, so one of them wins.
 *
 * Who may use it:
 *
 * - Whoever tells of an event finds it in MemswapPolicies.slots, and counts
 *   itself in meanwhile, in users; who takes it out of there waits for none.
 * - The policy itself asks for things by its pointer, as long as it lives, even
 *   when it was given up and the engine is gone.  So each request counts itself
 *   in, in in_op, then looks at the phase; who sets GIVEN_UP and then finds
 *   in_op at 0 knows that nothing of the engine is used any more.
 * - Who sets GIVEN_UP has the engine in use until it sets tidied, the policy's
 *   own thread too.  So an engine that is freed waits for both, of each policy
 *   in MemswapPolicies.hosts: whoever was launched and is not freed.
 * - A policy that was given up may be in its own code for ever.  The struct is
 *   the engine's and its thread's, and freed when both have let go of it.
 *
 * The number of its slot is in the words of pages that it watches, and with
 * regions that it wants kept, also when it is gone.  So slots are given in
 * turn: with few policies, what is left of that is long gone when one is used
 * again.  With all others in use an heir is told of another's hits and waste,
 * for a while, and has what that wanted kept.  Precedence has numbers of its
 * own.
 *
 * Locks: admin_lock serializes those who add, remove and set, for seconds; lock
 * is a leaf, taken for moments, by the list and the watch too.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_POLICY_INTERNAL_H
#define MEMSWAP_POLICY_INTERNAL_H

#include <pthread.h>

#include "internal.h"
#include "memswap/policies.h"
#include "policy-ring.h"

typedef enum PolicyPhase {
    POLICY_LOADING,
    POLICY_UP,
    POLICY_STOPPING,
    POLICY_DOWN,
    POLICY_GIVEN_UP,
} PolicyPhase;

/* A region whose trial is to be looked at. */
typedef struct PolicyLook {
    uint32_t block;
    uint64_t region;
    int64_t due;
} PolicyLook;

/* An option to be set, by the policy's thread; under MemswapPolicies.lock. */
typedef struct PolicySetting {
    const char *name;           /* NULL: none is waiting */
    const char *value;
    int result;
} PolicySetting;

/* Prefetch: how much of it was wasted of late; see prefetch.c. */
typedef struct PolicyGovernor {
    _Atomic uint32_t hits, wasted;  /* since the rate was set last */
    _Atomic uint32_t rate;          /* of RATE_FULL */
    uint32_t credit;                /* the policy's thread's, as are these */
    uint32_t since_watched;         /* pages since one came in unmapped */
} PolicyGovernor;

struct MemswapPolicyHost {
    MemswapEngine *engine;
    unsigned int slot;
    /* counts those added before it, and itself; the default comes last */
    uint64_t order;
    char id[MEMSWAP_POLICY_NAME_SIZE];
    char *path;                 /* NULL: built in */
    char *builtin;
    MemswapPolicyOption *options;
    unsigned int n_options;

    /* Set by its thread before it is UP. */
    void *object;               /* dlopen()'s */
    const MemswapPolicyOps *ops;
    uint64_t quiet;             /* of ops, if it has that */
    void *self;
    int error;                  /* why it is DOWN */
    char *why;

    GThread *thread;
    pthread_t self_thread;      /* set by itself */
    _Atomic uint32_t phase;     /* futex: PolicyPhase */
    _Atomic uint32_t in_op;
    _Atomic bool tidied;        /* GIVEN_UP, and all is done that follows */
    /* Under MemswapPolicies.lock: was in a slot, and is to be listed. */
    bool published;
    uint32_t behind_percent;    /* the engine's while it reclaims */
    MemswapPolicyError reason;  /* GIVEN_UP; set before it leaves the slot */
    _Atomic uint32_t owners;    /* its thread, and the engine */
    /* Time of a call, less what requests took of it; 0: in none. */
    _Atomic int64_t busy_since;
    _Atomic int64_t called_at;  /* the same with these */

    _Atomic uint32_t wake;      /* futex: counts reasons to look */
    _Atomic bool asleep;        /* an event is a reason, too */
    _Atomic bool gathers;       /* half of the ring full of them is */
    PolicySetting setting;
    _Atomic bool set_waits;     /* setting.name is set */
    _Atomic uint32_t set_done;  /* futex: 1 once setting.result is */

    /* Its thread's. */
    GArray *looks;              /* of PolicyLook */
    int64_t timer;              /* when; 0: not set */
    int64_t sampled;            /* when pressure was, the last time */
    uint64_t some_us, full_us;  /* and what it was */
    int64_t room_rest;          /* ns to wait before asking for room again */
    int64_t room_due;
    int64_t choose_rest;        /* the same, for offers */
    int64_t choose_due;
    uint64_t offered;           /* regions, ever */
    int64_t tokens, tokens_at;  /* budget of requests; see policy-request.c */
    int64_t request_began;
    unsigned int nonsense;
    uint64_t keep_evicted;      /* evicted_bytes when keep_bytes was 0 */
    uint64_t keep_bytes;
    PolicyGovernor governor;

    /* Statistics. */
    _Atomic uint64_t n_events, n_requests, n_refused, n_reclaimed;
    _Atomic uint64_t n_prefetched, n_throttled, n_hits, n_wasted;
    _Atomic int64_t hungry_until;   /* it lacked room for a prefetch */
    unsigned int n_counters;    /* under MemswapPolicies.lock, as are these */
    struct {
        char name[MEMSWAP_POLICY_NAME_SIZE];
        uint64_t value;
    } counters[MEMSWAP_MAX_POLICY_COUNTERS];

    MemswapRing ring;
};

/* policy-watch.c */

/* How often the watch looks, of the time that a policy may take to return. */
#define MEMSWAP_WATCH_PART 8

/* Real time, in ns: what waiting is measured by, whatever the host's clock. */
int64_t memswap_policy_real_time(void);
/*
 * The same, but for when the process was stopped: what calls are judged by.
 * Whoever is to judge looks, at least as often as the watch.
 */
int64_t memswap_policy_call_time(void);
int64_t memswap_policy_look_at_clock(MemswapPolicies *policies);
/*
 * Has it been in one call for too long, at this call time?  What requests take
 * is not for the policy to answer for, unless it makes them for ever.
 */
bool memswap_policy_overdue(MemswapPolicyHost *host, int64_t now);
/* Once, with admin_lock held.  False if there can't be a thread for it. */
bool memswap_policy_watch_start(MemswapEngine *engine);
/* Make it look now. */
void memswap_policy_watch_kick(MemswapPolicies *policies);
void memswap_policy_watch_stop(MemswapPolicies *policies);

/* policy.c */

/*
 * Around what the policy's thread does with the engine.  False if it may not
 * any more; then there is nothing to leave.
 */
bool memswap_policy_enter(MemswapPolicyHost *host);
void memswap_policy_leave(MemswapPolicyHost *host);
/* Tell the one policy, if it wants to hear of it. */
void memswap_policy_tell(MemswapPolicyHost *host,
                         const MemswapPolicyEvent *event);
/* It hangs, or makes no sense.  Any thread, its own too; no lock held. */
void memswap_policy_give_up(MemswapPolicyHost *host,
                            MemswapPolicyError reason);
/*
 * The same in two steps: the mark, which may be made with policies->lock held,
 * true for the one who made it, and what he does then, without a lock.
 */
bool memswap_policy_mark_given_up(MemswapPolicyHost *host);
void memswap_policy_after_given_up(MemswapPolicyHost *host,
                                   MemswapPolicyError reason);

/* Is it the one of policy-default.c? */
static inline bool memswap_policy_is_default(const MemswapPolicyHost *host)
{
    return host->slot == MEMSWAP_DEFAULT_SLOT;
}

/* Does it want to hear of these? */
static inline bool memswap_policy_hears(const MemswapPolicyHost *host,
                                        MemswapPolicyEventKind kind)
{
    return host->ops->events >> kind & 1;
}

/* Let go of it: the engine, and its thread at its end. */
void memswap_policy_release(MemswapPolicyHost *host);

/*
 * Run a policy in a slot that is free, with no id that is in use.  As
 * memswap_policy_add(), with admin_lock held.
 */
int memswap_policy_launch(MemswapEngine *engine,
                          const MemswapPolicyConfig *config,
                          unsigned int slot, char **error);
/* As memswap_policy_remove(), with admin_lock held. */
int memswap_policy_end(MemswapPolicyHost *host, char **error);

/* policy-default.c: the reclaimer there is when there is no other */

/* As memswap_policy_add(); @name: one that is built in. */
int memswap_policy_start_default(MemswapEngine *engine, const char *name,
                                 char **error);
/* There is another one: end it.  With admin_lock held. */
void memswap_policy_retire_default(MemswapEngine *engine);
/* It is ended by hand: not to be brought back.  With admin_lock held. */
void memswap_policy_drop_default(MemswapEngine *engine);
/* With no reclaimer there, start it.  With admin_lock held. */
void memswap_policy_restore_default(MemswapEngine *engine);
/*
 * Is it the default's id, and is that one to be there, even if it isn't just
 * now?  With admin_lock held.
 */
bool memswap_policy_is_taken(MemswapEngine *engine, const char *id);
/* It was given up: wait before it is started again. */
void memswap_policy_rest_default(MemswapEngine *engine);
/* Is it to be started, as far as can be seen without a lock? */
bool memswap_policy_lacks_default(MemswapEngine *engine);

/* policy-status.c: no more of one that was given up; called with the lock */
bool memswap_policy_forget_id(MemswapPolicies *policies, const char *id);

/* policy-load.c */

/*
 * Find the policy's operations, in its thread.  0, or a negative errno with
 * host->why set.
 */
int memswap_policy_load(MemswapPolicyHost *host);
/* Once nobody is in it any more. */
void memswap_policy_unload(MemswapPolicyHost *host);
/*
 * Try to load @path in a child process, for so long.  As above, with *@why
 * set.
 */
int memswap_policy_probe(const char *path, int64_t patience, char **why);

/* policy-thread.c */
gpointer memswap_policy_thread(gpointer opaque);
/* Make it look whether there is something to do. */
void memswap_policy_poke(MemswapPolicyHost *host);
/*
 * In its thread: hand it an event.  Called having entered, and leaves for as
 * long as the policy has the thread.  False if it was given up meanwhile: then
 * the engine may be gone.
 */
bool memswap_policy_deliver(MemswapPolicyHost *host,
                            const MemswapPolicyEvent *event);

/* policy-request.c: what it may ask */

#define MEMSWAP_REQUEST_ANY UINT32_MAX

/*
 * Every request begins so, for policies of these roles, and ends with
 * memswap_request_end(), whose result it returns.  Not 0: it ends right here.
 */
int memswap_request_begin(MemswapPolicyHost *host, uint32_t roles,
                          int64_t tokens);
int64_t memswap_request_end(MemswapPolicyHost *host, int64_t ret);
/* The block, counted in, if the pages are within it. */
int memswap_request_pages(MemswapPolicyHost *host, uint32_t number,
                          uint64_t first, uint64_t n, MemswapBlock **block);

/* All of them are right, and not too many. */
int memswap_request_ranges(MemswapPolicyHost *host,
                           const MemswapPolicyRange *ranges, uint32_t n);

extern const MemswapPolicyHostOps memswap_policy_host_ops;

/* policy-offer.c: of these, which regions are next; see policy.h */
int64_t memswap_policy_op_offer(MemswapPolicyHost *host,
                                const MemswapPolicyRange *ranges, uint32_t n,
                                uint32_t flags);
int memswap_policy_op_behind(MemswapPolicyHost *host, uint32_t percent);
/*
 * In its thread, having entered: ask it for offers, if evictors did.  @now is
 * real time; *@due is when to do so again, and 0 else.  False if it was given
 * up meanwhile.
 */
bool memswap_policy_serve_choose(MemswapPolicyHost *host, int64_t now,
                                 int64_t *due);
/* Is it asked for some? */
bool memswap_policy_choose_waits(MemswapPolicyHost *host);

/* policy-query.c: of these, what changes nothing; see policy.h */
int64_t memswap_policy_op_now(MemswapPolicyHost *host);
int memswap_policy_op_info(MemswapPolicyHost *host, MemswapPolicyInfo *info);
int memswap_policy_op_block(MemswapPolicyHost *host, uint32_t number,
                            MemswapPolicyBlock *info);
int memswap_policy_op_regions(MemswapPolicyHost *host, uint32_t number,
                              uint64_t first, uint64_t n,
                              uint32_t *resident);
int memswap_policy_op_pages(MemswapPolicyHost *host, uint32_t number,
                            uint64_t first, uint64_t n, uint32_t states,
                            uint64_t *bitmap);
int memswap_policy_op_translate(MemswapPolicyHost *host, uint64_t root,
                                uint64_t address, uint32_t *number,
                                uint64_t *page);
int64_t memswap_policy_op_translate_many(MemswapPolicyHost *host,
                                         uint64_t root, uint64_t address,
                                         int64_t stride, uint32_t n,
                                         MemswapPolicyRange *pages);
int memswap_policy_op_reverse(MemswapPolicyHost *host, uint32_t number,
                              uint64_t page, uint64_t *root,
                              uint64_t *address);

/*
 * ranges.c: bring in pages [@page, @end), region by region, as
 * memswap_prefetch_range() does; *@done grows by their number.  False if @ask
 * said stop, or there was no room.
 */
bool memswap_range_prefetch(MemswapPolicyHost *host, MemswapBlock *block,
                            uint64_t page, uint64_t end, bool last,
                            MemswapPolicyPriority priority,
                            MemswapRangeAsk *ask, void *opaque,
                            uint64_t *done);

/* prefetch.c */
void memswap_prefetch_init(MemswapPolicyHost *host);
/*
 * Bring in those of the pages that are stored, until there is no room.
 * *@more is set to false then.  Returns how many came.  @host: the policy that
 * asked; NULL: somebody outside, for whom nothing is watched or throttled, and
 * who waits for no policy's turn.
 */
uint64_t memswap_prefetch_range(MemswapPolicyHost *host,
                                MemswapBlock *block, uint64_t first,
                                uint64_t end, bool last,
                                MemswapPolicyPriority priority, bool *more);

/*
 * policy-events.c.  What was touched of a region on trial: tell all, or only
 * @host.
 */
void memswap_policy_look(MemswapBlock *block, uint64_t number,
                         MemswapPolicyHost *host);
void memswap_policy_fill_room(MemswapEngine *engine,
                              MemswapPolicyRoom *room);

#endif /* MEMSWAP_POLICY_INTERNAL_H */

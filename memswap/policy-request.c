/*
 * What policies may ask: every request is checked here
 *
 * What only asks is in policy-query.c.
 *
 * Requests are made in the policy's own thread and done in it, so what they
 * cost is paid there.  There is a budget of them all the same, since they
 * take locks and zap the guest's pages: who uses it up sleeps a little in each
 * further call.  Who asks for what can't be a thousand times is given up.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>

#include "policy-internal.h"

/* What may be saved up of a second's requests. */
#define SAVED_PART 5
/* A trial costs the guest up to 512 minor faults. */
#define TRIAL_TOKENS 50
/* Who has none left sleeps so long. */
#define TOO_MANY_US 1000
/* Requests that mean nothing, before a policy is given up. */
#define NONSENSE_MAX 1000
/* What one call takes out at most: it has to return soon. */
#define RECLAIM_MAX (64 * 1024 * 1024)
/* The same for one that looks for something to take. */
#define RECLAIM_NS 1000000000LL
/* Trials to be looked at later, at once. */
#define LOOKS_MAX 4096
#define ROUNDS_MAX 15
/* The part of the limit that may be kept. */
#define KEEP_PART 4

#define ASKS_RECLAIM MEMSWAP_POLICY_RECLAIMER
#define ASKS_PREFETCH MEMSWAP_POLICY_PREFETCHER
#define ASKS_TRIAL (MEMSWAP_POLICY_RECLAIMER | MEMSWAP_POLICY_PREFETCHER)

/* Take from the budget; false if there is not enough. */
static bool take_tokens(MemswapPolicyHost *host, int64_t n)
{
    int64_t per_s = atomic_load(&host->engine->policies.requests_per_s);
    int64_t each = 1000000000 / per_s;
    int64_t most = per_s / SAVED_PART;
    int64_t now = memswap_policy_real_time();
    int64_t gained = (now - host->tokens_at) / each;

    if (!host->tokens_at || gained > most) {
        host->tokens = most;
        host->tokens_at = now;
    } else {
        host->tokens = MIN(host->tokens + gained, most);
        host->tokens_at += gained * each;
    }
    if (host->tokens < n) {
        return false;
    }
    host->tokens -= n;
    return true;
}

int memswap_request_begin(MemswapPolicyHost *host, uint32_t roles,
                          int64_t tokens)
{
    if (!pthread_equal(pthread_self(), host->self_thread)) {
        return -EPERM;
    }
    if (!memswap_policy_enter(host)) {
        /* who doesn't listen is at least slow */
        g_usleep(TOO_MANY_US);
        return -ESHUTDOWN;
    }
    memswap_count(host->n_requests, 1);
    if (!(host->ops->roles & roles)) {
        memswap_count(host->n_refused, 1);
        memswap_policy_leave(host);
        return -EPERM;
    }
    if (!take_tokens(host, tokens)) {
        memswap_count(host->n_refused, 1);
        memswap_policy_leave(host);
        g_usleep(TOO_MANY_US);
        return -EAGAIN;
    }
    host->request_began = memswap_policy_real_time();
    return 0;
}

/*
 * The request's time is ours, not the policy's.  No more than that is taken
 * off: who does nothing but ask hangs, too.  In the policy's thread.
 */
static void add_our_time(MemswapPolicyHost *host)
{
    int64_t since = atomic_load(&host->busy_since);

    if (since) {
        atomic_store(&host->busy_since, since + memswap_policy_real_time() -
                                        host->request_began);
    }
}

int64_t memswap_request_end(MemswapPolicyHost *host, int64_t ret)
{
    if (ret < 0) {
        memswap_count(host->n_refused, 1);
    }
    if ((ret == -EINVAL || ret == -ERANGE) &&
        ++host->nonsense == NONSENSE_MAX) {
        memswap_policy_give_up(host, MEMSWAP_POLICY_NONSENSE);
    }
    add_our_time(host);
    memswap_policy_leave(host);
    return ret;
}

int memswap_request_pages(MemswapPolicyHost *host, uint32_t number,
                          uint64_t first, uint64_t n, MemswapBlock **block)
{
    *block = number < MEMSWAP_MAX_BLOCKS ?
             memswap_block_get(host->engine, number) : NULL;
    if (!*block) {
        return number < MEMSWAP_MAX_BLOCKS ? -ENOENT : -ERANGE;
    }
    if (first > (*block)->n_pages || n > (*block)->n_pages - first) {
        memswap_block_unref(*block);
        return -ERANGE;
    }
    return 0;
}

static int get_region(MemswapPolicyHost *host, uint32_t number,
                      uint64_t region, MemswapBlock **block)
{
    int ret = memswap_request_pages(host, number, 0, 0, block);

    if (!ret && region >= (*block)->n_regions) {
        memswap_block_unref(*block);
        ret = -ERANGE;
    }
    return ret;
}

int memswap_request_ranges(MemswapPolicyHost *host,
                           const MemswapPolicyRange *ranges, uint32_t n)
{
    uint64_t pages = 0;

    if (n > MEMSWAP_POLICY_MAX_RANGES) {
        return -ERANGE;
    }
    if (n && !ranges) {
        return -EINVAL;
    }
    for (uint32_t i = 0; i < n; i++) {
        MemswapBlock *block;
        int ret = memswap_request_pages(host, ranges[i].block, ranges[i].page,
                                        ranges[i].n, &block);

        if (ret) {
            return ret;
        }
        memswap_block_unref(block);
        if (ranges[i].n > MEMSWAP_POLICY_MAX_PAGES - pages) {
            return -ERANGE;
        }
        pages += ranges[i].n;
    }
    return 0;
}

/* Which was there when it was checked; NULL if it has gone since. */
static MemswapBlock *range_block(MemswapPolicyHost *host,
                                 const MemswapPolicyRange *range)
{
    MemswapBlock *block;

    return memswap_request_pages(host, range->block, range->page, range->n,
                                 &block) ? NULL : block;
}

/* Does one that goes before this policy want the region kept? */
static bool keeper_before(MemswapPolicyHost *host, MemswapRegion *region)
{
    MemswapPolicies *policies = &host->engine->policies;
    unsigned int keeper = memswap_pass_keeper(region);
    uint64_t order = keeper ? atomic_load(&policies->orders[keeper - 1]) : 0;

    return order && order < host->order;
}

static bool kept_from(MemswapPolicyHost *host, MemswapRegion *region)
{
    /* what is asked for again and again goes in the end */
    return keeper_before(host, region) && memswap_pass_by(region);
}

/* What a reclaim(), or reclaim_bytes(), has done, and may do. */
typedef struct Reclaim {
    MemswapPolicyHost *host;
    bool cold;
    bool broke;                 /* the budget is used up */
    uint64_t gone;
    MemswapRegion *paid;        /* the last whose trial was paid for */
    MemswapRegion *asked;       /* the last that somebody may want kept */
    bool kept;                  /* it is; asked for once by this request */
} Reclaim;

static bool keeps(Reclaim *reclaim, MemswapRegion *region)
{
    if (reclaim->asked != region) {
        reclaim->asked = region;
        reclaim->kept = kept_from(reclaim->host, region);
    }
    return reclaim->kept;
}

/* Pages that are not cold are put on trial, which has its price. */
static bool pay_trial(Reclaim *reclaim, MemswapRegion *region)
{
    if (!reclaim->cold && reclaim->paid != region) {
        reclaim->broke = !take_tokens(reclaim->host, TRIAL_TOKENS);
        reclaim->paid = region;
    }
    return !reclaim->broke;
}

static MemswapRangeStep ask_reclaim(void *opaque, MemswapRegion *region)
{
    Reclaim *reclaim = opaque;

    if (reclaim->gone >= RECLAIM_MAX) {
        return MEMSWAP_RANGE_STOP;
    }
    if (!region || keeps(reclaim, region)) {
        return MEMSWAP_RANGE_SKIP;
    }
    return pay_trial(reclaim, region) ? MEMSWAP_RANGE_GO :
                                        MEMSWAP_RANGE_STOP;
}

/* The end of the request: what it has got. */
static int64_t reclaimed(const Reclaim *reclaim)
{
    MemswapPolicyHost *host = reclaim->host;
    uint64_t gone = reclaim->gone;

    if (reclaim->broke && !gone) {
        memswap_request_end(host, -EAGAIN);
        g_usleep(TOO_MANY_US);
        return -EAGAIN;
    }
    memswap_count(host->n_reclaimed, gone);
    memswap_range_reclaimed(host->engine, gone);
    return memswap_request_end(host, gone);
}

static int64_t op_reclaim(MemswapPolicyHost *host,
                          const MemswapPolicyRange *ranges, uint32_t n,
                          uint32_t flags)
{
    Reclaim reclaim = {
        .host = host,
        .cold = flags & MEMSWAP_POLICY_COLD,
    };
    bool more = true;
    int ret = memswap_request_begin(host, ASKS_RECLAIM, 1);

    if (ret) {
        return ret;
    }
    ret = flags & ~MEMSWAP_POLICY_COLD ? -EINVAL :
          memswap_request_ranges(host, ranges, n);
    if (ret) {
        return memswap_request_end(host, ret);
    }
    for (uint32_t i = 0; i < n && more; i++) {
        MemswapBlock *block = range_block(host, &ranges[i]);

        if (block) {
            more = memswap_range_reclaim(block, ranges[i].page,
                                         ranges[i].page + ranges[i].n,
                                         reclaim.cold ? MEMSWAP_TAKE_COLD :
                                                        MEMSWAP_TAKE_ALL,
                                         ask_reclaim, &reclaim,
                                         &reclaim.gone);
            memswap_block_unref(block);
        }
    }
    return reclaimed(&reclaim);
}

/*
 * Asked before each step, which puts a region on trial as a rule.  Nobody else
 * looks at the time meanwhile: to the watch this is a request, which is not the
 * policy's to answer for, and who ends the policy waits for it.
 */
static bool go_on_reclaiming(void *opaque)
{
    Reclaim *reclaim = opaque;
    MemswapPolicyHost *host = reclaim->host;
    uint32_t phase = atomic_load(&host->phase);

    if (phase == POLICY_STOPPING || phase == POLICY_GIVEN_UP ||
        memswap_policy_real_time() - host->request_began >= RECLAIM_NS) {
        return false;
    }
    reclaim->broke = !take_tokens(host, TRIAL_TOKENS);
    return !reclaim->broke;
}

static int64_t op_reclaim_bytes(MemswapPolicyHost *host, uint64_t bytes)
{
    Reclaim reclaim = { .host = host };
    int ret = memswap_request_begin(host, ASKS_RECLAIM, 1);

    if (ret) {
        return ret;
    }
    reclaim.gone = memswap_reclaim_while(host->engine,
                                         MIN(bytes, RECLAIM_MAX),
                                         go_on_reclaiming, &reclaim);
    return reclaimed(&reclaim);
}

typedef struct Deadline {
    MemswapEngine *engine;
    int64_t at;                 /* 0: none */
} Deadline;

/* Asked region by region. */
static MemswapRangeStep ask_deadline(void *opaque, MemswapRegion *region)
{
    Deadline *deadline = opaque;

    return deadline->at && memswap_now(deadline->engine) >= deadline->at ?
           MEMSWAP_RANGE_STOP : MEMSWAP_RANGE_GO;
}

static int64_t op_prefetch(MemswapPolicyHost *host,
                           const MemswapPolicyRange *ranges, uint32_t n,
                           uint32_t priority, int64_t deadline)
{
    Deadline until = { .engine = host->engine, .at = deadline };
    bool more = true;
    uint64_t done = 0;
    int ret = memswap_request_begin(host, ASKS_PREFETCH, 1);

    if (ret) {
        return ret;
    }
    ret = priority > MEMSWAP_POLICY_HIGH ? -EINVAL :
          memswap_request_ranges(host, ranges, n);
    if (ret) {
        return memswap_request_end(host, ret);
    }
    for (uint32_t i = 0; i < n && more; i++) {
        MemswapBlock *block = range_block(host, &ranges[i]);

        if (block) {
            more = memswap_range_prefetch(host, block, ranges[i].page,
                                          ranges[i].page + ranges[i].n,
                                          i == n - 1, priority, ask_deadline,
                                          &until, &done);
            memswap_block_unref(block);
        }
    }
    return memswap_request_end(host, done);
}

static int64_t op_trial(MemswapPolicyHost *host, uint32_t number,
                        uint64_t region, int64_t look_ns)
{
    MemswapBlock *block;
    int64_t waiting;
    int ret = memswap_request_begin(host, ASKS_TRIAL, TRIAL_TOKENS);

    if (ret) {
        return ret;
    }
    /* with the time now it is to be a time still */
    ret = look_ns < MEMSWAP_POLICY_NO_LOOK || look_ns > INT64_MAX / 2 ?
          -EINVAL : get_region(host, number, region, &block);
    if (ret) {
        return memswap_request_end(host, ret);
    }
    waiting = -EBUSY;
    if ((look_ns < 0 || host->looks->len < LOOKS_MAX) &&
        memswap_region_try_own(&block->regions[region])) {
        waiting = memswap_trial_region(block, region);
        memswap_region_disown(&block->regions[region]);
    }
    memswap_block_unref(block);
    if (waiting > 0 && look_ns >= 0) {
        PolicyLook look = {
            .block = number,
            .region = region,
            .due = memswap_policy_real_time() + look_ns,
        };

        g_array_append_val(host->looks, look);
    }
    return memswap_request_end(host, waiting);
}

static int op_set_interval(MemswapPolicyHost *host, uint32_t number,
                           uint64_t region, uint32_t rounds)
{
    MemswapBlock *block;
    int ret = memswap_request_begin(host, ASKS_TRIAL, 1);

    if (ret) {
        return ret;
    }
    ret = rounds > ROUNDS_MAX ? -EINVAL :
          get_region(host, number, region, &block);
    if (!ret) {
        if (!keeper_before(host, &block->regions[region])) {
            memswap_pass_set(&block->regions[region], rounds);
        }
        memswap_block_unref(block);
    }
    return memswap_request_end(host, ret);
}

/* Take from the budget of what may be kept; false if there is not enough. */
static bool pay_keep(MemswapPolicyHost *host, uint64_t bytes)
{
    MemswapEngine *engine = host->engine;
    uint64_t limit = atomic_load(&engine->limit);
    uint64_t evicted = atomic_load(&engine->evicted_bytes);

    if (evicted - host->keep_evicted >= limit) {
        host->keep_evicted = evicted;
        host->keep_bytes = 0;
    }
    if (host->keep_bytes > limit / KEEP_PART ||
        bytes > limit / KEEP_PART - host->keep_bytes) {
        return false;
    }
    host->keep_bytes += bytes;
    return true;
}

/*
 * Keep a region, whatever page of it was named.  One that is kept as it would
 * be, or by one that goes before, costs nothing.  False if there is no budget
 * for it.
 */
static bool keep_region(MemswapPolicyHost *host, MemswapBlock *block,
                        uint64_t number)
{
    MemswapRegion *region = &block->regions[number];
    uint64_t n = memswap_region_end(block, number) -
                 memswap_region_first(block, number);

    if (keeper_before(host, region) ||
        (memswap_pass_keeper(region) == host->slot + 1 &&
         memswap_passes(region) == ROUNDS_MAX)) {
        return true;
    }
    if (!pay_keep(host, n << block->page_shift)) {
        return false;
    }
    memswap_pass_keep(region, host->slot + 1);
    return true;
}

static int64_t op_keep(MemswapPolicyHost *host,
                       const MemswapPolicyRange *ranges, uint32_t n)
{
    uint64_t kept = 0;
    int ret = memswap_request_begin(host, ASKS_TRIAL, 1);

    if (ret) {
        return ret;
    }
    ret = memswap_request_ranges(host, ranges, n);
    if (ret) {
        return memswap_request_end(host, ret);
    }
    for (uint32_t i = 0; i < n; i++) {
        MemswapBlock *block = range_block(host, &ranges[i]);
        uint64_t page = ranges[i].page;
        uint64_t stop = page + ranges[i].n;

        if (!block) {
            continue;
        }
        while (page < stop && !atomic_load(&block->dead)) {
            uint64_t number = page / block->region_pages;
            uint64_t next = MIN(stop, memswap_region_end(block, number));

            if (!keep_region(host, block, number)) {
                break;
            }
            kept += next - page;
            page = next;
        }
        memswap_block_unref(block);
    }
    return memswap_request_end(host, kept);
}

static int op_wake(MemswapPolicyHost *host, uint64_t ms)
{
    int ret = memswap_request_begin(host, MEMSWAP_REQUEST_ANY, 1);

    if (ret) {
        return ret;
    }
    if (ms > INT64_MAX / 1000000 / 2) {
        return memswap_request_end(host, -EINVAL);
    }
    host->timer = memswap_policy_real_time() + (int64_t)ms * 1000000;
    return memswap_request_end(host, 0);
}

static int op_counter(MemswapPolicyHost *host, const char *name,
                      uint64_t value)
{
    GMutex *lock = &host->engine->policies.lock;
    unsigned int i = 0;
    int ret = memswap_request_begin(host, MEMSWAP_REQUEST_ANY, 1);

    if (ret) {
        return ret;
    }
    if (!name || !*name || strlen(name) >= MEMSWAP_POLICY_NAME_SIZE) {
        return memswap_request_end(host, -EINVAL);
    }
    g_mutex_lock(lock);
    while (i < host->n_counters && strcmp(host->counters[i].name, name)) {
        i++;
    }
    if (i == MEMSWAP_MAX_POLICY_COUNTERS) {
        ret = -ENOSPC;
    } else {
        if (i == host->n_counters) {
            g_strlcpy(host->counters[i].name, name,
                      MEMSWAP_POLICY_NAME_SIZE);
            host->n_counters++;
        }
        host->counters[i].value = value;
    }
    g_mutex_unlock(lock);
    return memswap_request_end(host, ret);
}

const MemswapPolicyHostOps memswap_policy_host_ops = {
    .size = sizeof(MemswapPolicyHostOps),
    .version = MEMSWAP_POLICY_VERSION,
    .now = memswap_policy_op_now,
    .info = memswap_policy_op_info,
    .block = memswap_policy_op_block,
    .regions = memswap_policy_op_regions,
    .pages = memswap_policy_op_pages,
    .reclaim = op_reclaim,
    .reclaim_bytes = op_reclaim_bytes,
    .prefetch = op_prefetch,
    .trial = op_trial,
    .set_interval = op_set_interval,
    .keep = op_keep,
    .translate = memswap_policy_op_translate,
    .reverse = memswap_policy_op_reverse,
    .wake = op_wake,
    .counter = op_counter,
    .translate_many = memswap_policy_op_translate_many,
    .offer = memswap_policy_op_offer,
    .behind = memswap_policy_op_behind,
};

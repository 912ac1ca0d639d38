/*
 * Policies: the watch for those that don't return, and the time it judges by
 *
 * That stands still while nobody looks, so that a process that was stopped for
 * a while, by a debugger or a freezer, finds no policy hung when it goes on.
 * Processes are stopped, not engines, so it is the same for all.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "futex.h"
#include "policy-internal.h"

/* How long a call may take with all its requests, in times the patience. */
#define CALL_PATIENCES 12

/* Real time of the last look. */
static _Atomic int64_t looked_at;
/* For how long nobody could look, in ns. */
static _Atomic int64_t stood_still;

int64_t memswap_policy_real_time(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int64_t memswap_policy_call_time(void)
{
    return memswap_policy_real_time() - atomic_load(&stood_still);
}

int64_t memswap_policy_look_at_clock(MemswapPolicies *policies)
{
    /* a look that is late on a busy machine counts in full */
    int64_t most = 2 * policies->patience / MEMSWAP_WATCH_PART;
    int64_t now = memswap_policy_real_time();
    int64_t last = atomic_exchange(&looked_at, now);

    if (last && now - last > most) {
        atomic_fetch_add(&stood_still, now - last - most);
    }
    return memswap_policy_call_time();
}

/* How long ago it was; 0 if it isn't set. */
static int64_t time_since(_Atomic int64_t *when, int64_t now)
{
    int64_t since = atomic_load(when);

    if (since > now) {
        /* read when the process went on, before somebody looked */
        atomic_compare_exchange_strong(when, &since, now);
        return 0;
    }
    return since ? now - since : 0;
}

bool memswap_policy_overdue(MemswapPolicyHost *host, int64_t now)
{
    int64_t patience = host->engine->policies.patience;
    /* first: a request adds the time it took before it ends */
    bool in_engine = atomic_load(&host->in_op) > 0;

    return (!in_engine && time_since(&host->busy_since, now) > patience) ||
           time_since(&host->called_at, now) > CALL_PATIENCES * patience;
}

/* Does anybody want something of it? */
static bool waited_for(MemswapPolicyHost *host)
{
    MemswapEngine *engine = host->engine;

    return !memswap_ring_empty(&host->ring) ||
           atomic_load(&host->set_waits) ||
           memswap_policy_choose_waits(host) ||
           (atomic_load(&engine->policies.reclaimer) == host &&
            memswap_policy_reclaims(engine) &&
            memswap_excess(engine, atomic_load(&engine->reserve_low)) > 0);
}

static gpointer watch(gpointer opaque)
{
    MemswapEngine *engine = opaque;
    MemswapPolicies *policies = &engine->policies;

    while (!atomic_load(&policies->watch_stop)) {
        uint32_t seen = atomic_load(&policies->watch_kick);
        int64_t now = memswap_policy_look_at_clock(policies);
        MemswapPolicyHost *hung = NULL;
        bool any = false;

        g_mutex_lock(&policies->lock);
        for (unsigned int i = 0; i < MEMSWAP_POLICY_SLOTS && !hung; i++) {
            MemswapPolicyHost *host = atomic_load(&policies->slots[i]);

            any |= host != NULL;
            /* marked with the lock held, before it can be freed */
            if (host && memswap_policy_overdue(host, now) &&
                waited_for(host) && memswap_policy_mark_given_up(host)) {
                hung = host;
            }
        }
        g_mutex_unlock(&policies->lock);
        any |= memswap_policy_lacks_default(engine);
        if (hung) {
            memswap_policy_after_given_up(hung, MEMSWAP_POLICY_HUNG);
        } else if (memswap_policy_lacks_default(engine) &&
                   g_mutex_trylock(&policies->admin_lock)) {
            /* who has it sees to that as well, as far as it is due then */
            memswap_policy_restore_default(engine);
            g_mutex_unlock(&policies->admin_lock);
        }
        if (!hung && !atomic_load(&policies->watch_stop)) {
            memswap_futex_wait(&policies->watch_kick, seen, !any ? -1 :
                               policies->patience / MEMSWAP_WATCH_PART);
        }
    }
    return NULL;
}

bool memswap_policy_watch_start(MemswapEngine *engine)
{
    MemswapPolicies *policies = &engine->policies;

    if (!policies->watch) {
        policies->watch = memswap_thread_new("memswap-watch", watch, engine,
                                             NULL);
    }
    return policies->watch;
}

void memswap_policy_watch_kick(MemswapPolicies *policies)
{
    atomic_fetch_add(&policies->watch_kick, 1);
    memswap_futex_wake(&policies->watch_kick);
}

void memswap_policy_watch_stop(MemswapPolicies *policies)
{
    if (policies->watch) {
        atomic_store(&policies->watch_stop, true);
        memswap_policy_watch_kick(policies);
        g_thread_join(policies->watch);
    }
}

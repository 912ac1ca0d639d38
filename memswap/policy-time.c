/*
 * Policies: the time that they are judged by
 *
 * It stands still while nobody looks, so that a process that was stopped for a
 * while, by a debugger or a freezer, finds no policy hung when it goes on.
 * Processes are stopped, not engines, so it is the same for all.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

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

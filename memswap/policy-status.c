/*
 * Policies: what there is to tell of them
 *
 * Those in slots are at work.  One that was given up stays on the list of all,
 * with its struct, until the engine goes, since its thread may be in its own
 * code for ever; it is told of until it is forgotten.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>

#include "policy-internal.h"

static void fill_status(MemswapPolicyHost *host, MemswapPolicyStatus *status)
{
    *status = (MemswapPolicyStatus) {
        .roles = host->ops->roles,
        .events = atomic_load(&host->n_events),
        .dropped = atomic_load(&host->ring.dropped),
        .requests = atomic_load(&host->n_requests),
        .refused = atomic_load(&host->n_refused),
        .reclaimed = atomic_load(&host->n_reclaimed),
        .prefetched = atomic_load(&host->n_prefetched),
        .throttled = atomic_load(&host->n_throttled),
        .hits = atomic_load(&host->n_hits),
        .wasted = atomic_load(&host->n_wasted),
        .n_counters = host->n_counters,
        .reason = host->reason,
    };
    memcpy(status->id, host->id, sizeof(status->id));
    g_strlcpy(status->name, host->ops->name, sizeof(status->name));
    memcpy(status->counters, host->counters, sizeof(status->counters));
}

MemswapPolicyStatus *memswap_policy_list(MemswapEngine *engine,
                                         unsigned int *n)
{
    MemswapPolicies *policies = &engine->policies;
    MemswapPolicyStatus *list = g_new(MemswapPolicyStatus,
                                      MEMSWAP_MAX_POLICIES);

    *n = 0;
    g_mutex_lock(&policies->lock);
    for (unsigned int i = 0; i < MEMSWAP_MAX_POLICIES; i++) {
        MemswapPolicyHost *host = atomic_load(&policies->slots[i]);

        if (host) {
            fill_status(host, &list[(*n)++]);
        }
    }
    g_mutex_unlock(&policies->lock);
    if (!*n) {
        g_clear_pointer(&list, g_free);
    }
    return list;
}

/*
 * Was it given up, out of its slot?  Its ops stay then: it is never unloaded
 * as long as the engine has it.  Called with the lock.
 */
static bool was_given_up(MemswapPolicies *policies, MemswapPolicyHost *host)
{
    return host->published && atomic_load(&host->phase) == POLICY_GIVEN_UP &&
           atomic_load(&policies->slots[host->slot]) != host;
}

MemswapPolicyStatus *memswap_policy_list_given_up(MemswapEngine *engine,
                                                  unsigned int *n)
{
    MemswapPolicies *policies = &engine->policies;
    MemswapPolicyStatus *list;

    *n = 0;
    g_mutex_lock(&policies->lock);
    list = g_new(MemswapPolicyStatus, policies->hosts->len);
    for (guint i = 0; i < policies->hosts->len; i++) {
        MemswapPolicyHost *host = g_ptr_array_index(policies->hosts, i);

        if (was_given_up(policies, host)) {
            fill_status(host, &list[(*n)++]);
        }
    }
    g_mutex_unlock(&policies->lock);
    if (!*n) {
        g_clear_pointer(&list, g_free);
    }
    return list;
}

bool memswap_policy_forget_id(MemswapPolicies *policies, const char *id)
{
    bool found = false;

    for (guint i = 0; i < policies->hosts->len; i++) {
        MemswapPolicyHost *host = g_ptr_array_index(policies->hosts, i);

        if (was_given_up(policies, host) && !strcmp(host->id, id)) {
            host->published = false;
            found = true;
        }
    }
    return found;
}

int memswap_policy_forget(MemswapEngine *engine, const char *id)
{
    MemswapPolicies *policies = &engine->policies;
    bool found;

    g_mutex_lock(&policies->lock);
    found = memswap_policy_forget_id(policies, id);
    g_mutex_unlock(&policies->lock);
    return found ? 0 : -ENOENT;
}

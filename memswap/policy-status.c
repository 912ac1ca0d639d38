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

/* The next in order after one of @order; NULL past the last. */
static MemswapPolicyHost *next_in_order(MemswapPolicies *policies,
                                        uint64_t order)
{
    MemswapPolicyHost *next = NULL;

    for (unsigned int i = 0; i < MEMSWAP_POLICY_SLOTS; i++) {
        MemswapPolicyHost *host = atomic_load(&policies->slots[i]);

        if (host && host->order > order &&
            (!next || host->order < next->order)) {
            next = host;
        }
    }
    return next;
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

MemswapPolicyStatus *memswap_policy_list_all(MemswapEngine *engine,
                                             unsigned int *n,
                                             unsigned int *n_given_up)
{
    MemswapPolicies *policies = &engine->policies;
    MemswapPolicyStatus *list;
    MemswapPolicyHost *host;
    uint64_t order = 0;

    *n = *n_given_up = 0;
    g_mutex_lock(&policies->lock);
    /* whoever is in a slot is one of hosts, too */
    list = g_new(MemswapPolicyStatus, policies->hosts->len);
    while ((host = next_in_order(policies, order))) {
        fill_status(host, &list[(*n)++]);
        order = host->order;
    }
    for (guint i = 0; i < policies->hosts->len; i++) {
        host = g_ptr_array_index(policies->hosts, i);
        if (was_given_up(policies, host)) {
            fill_status(host, &list[*n + (*n_given_up)++]);
        }
    }
    g_mutex_unlock(&policies->lock);
    if (!*n && !*n_given_up) {
        g_clear_pointer(&list, g_free);
    }
    return list;
}

MemswapPolicyStatus *memswap_policy_list(MemswapEngine *engine,
                                         unsigned int *n)
{
    unsigned int n_given_up;
    MemswapPolicyStatus *list = memswap_policy_list_all(engine, n,
                                                        &n_given_up);

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

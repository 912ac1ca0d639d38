/*
 * memswap inside QEMU: QMP commands about policies
 *
 * Each is done in a worker thread, so that neither the guest nor the main loop
 * waits for a policy.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/thread-pool.h"
#include "memswap/policy.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-memswap.h"
#include "qapi/util.h"
#include "policy.h"

const char *memswap_policy_error(uint64_t reason)
{
    return reason == MEMSWAP_POLICY_HUNG ? "it does not return" :
           "its requests make no sense";
}

static MemswapPolicyRoleList *query_roles(uint32_t roles)
{
    static const struct {
        uint32_t bit;
        MemswapPolicyRole role;
    } all[] = {
        { MEMSWAP_POLICY_RECLAIMER, MEMSWAP_POLICY_ROLE_RECLAIMER },
        { MEMSWAP_POLICY_PREFETCHER, MEMSWAP_POLICY_ROLE_PREFETCHER },
        { MEMSWAP_POLICY_OBSERVER, MEMSWAP_POLICY_ROLE_OBSERVER },
    };
    MemswapPolicyRoleList *list = NULL;
    MemswapPolicyRoleList **tail = &list;

    for (int i = 0; i < ARRAY_SIZE(all); i++) {
        if (roles & all[i].bit) {
            QAPI_LIST_APPEND(tail, all[i].role);
        }
    }
    return list;
}

static MemswapPolicyCounterList *query_counters(
    const MemswapPolicyStatus *status)
{
    MemswapPolicyCounterList *list = NULL;
    MemswapPolicyCounterList **tail = &list;

    for (unsigned int i = 0; i < status->n_counters; i++) {
        MemswapPolicyCounter *counter = g_new(MemswapPolicyCounter, 1);

        *counter = (MemswapPolicyCounter) {
            .name = g_strdup(status->counters[i].name),
            .value = status->counters[i].value,
        };
        QAPI_LIST_APPEND(tail, counter);
    }
    return list;
}

static MemswapLoadedPolicy *query_policy(const MemswapPolicyStatus *status)
{
    MemswapLoadedPolicy *info = g_new(MemswapLoadedPolicy, 1);

    *info = (MemswapLoadedPolicy) {
        .id = g_strdup(status->id),
        .name = g_strdup(status->name),
        .roles = query_roles(status->roles),
        .events = status->events,
        .dropped = status->dropped,
        .requests = status->requests,
        .refused = status->refused,
        .reclaimed = status->reclaimed,
        .prefetched = status->prefetched,
        .throttled = status->throttled,
        .hits = status->hits,
        .wasted = status->wasted,
        .counters = query_counters(status),
    };
    return info;
}

MemswapLoadedPolicyList *memswap_policies_query(MemswapEngine *engine)
{
    MemswapLoadedPolicyList *list = NULL;
    MemswapLoadedPolicyList **tail = &list;
    g_autofree MemswapPolicyStatus *all = NULL;
    unsigned int n, n_given_up;

    all = memswap_policy_list_all(engine, &n, &n_given_up);
    for (unsigned int i = 0; i < n + n_given_up; i++) {
        MemswapLoadedPolicy *info = query_policy(&all[i]);

        if (i >= n) {
            info->error = g_strdup(memswap_policy_error(all[i].reason));
        }
        QAPI_LIST_APPEND(tail, info);
    }
    return list;
}

static bool is_swapped(Error **errp)
{
    if (!memswap_engine()) {
        error_setg(errp, "memswap: guest RAM is not swapped: start QEMU with"
                   " -memswap");
        return false;
    }
    return true;
}

void coroutine_fn qmp_memswap_policy_add(const char *id, const char *path,
                                         const char *builtin,
                                         QObject *options, Error **errp)
{
    g_autoptr(PolicyJob) job = NULL;

    if (!is_swapped(errp)) {
        return;
    }
    job = policy_job_new_add(id, path, builtin, options, errp);
    if (!job) {
        return;
    }
    if (policy_object(id)) {
        error_setg(errp, "memswap: there is a policy '%s' already: remove it"
                   " first", id);
        return;
    }
    thread_pool_submit_co(policy_job_add, job);
    policy_job_done(job, errp);
}

/* Of one that is an object, the object goes too. */
void coroutine_fn qmp_memswap_policy_remove(const char *id, Error **errp)
{
    g_autoptr(PolicyJob) job = NULL;
    Object *obj;

    if (!is_swapped(errp)) {
        return;
    }
    job = policy_job_new(id, NULL, errp);
    obj = policy_object(id);
    if (obj) {
        object_ref(obj);
    }
    thread_pool_submit_co(policy_job_remove, job);
    policy_job_done(job, errp);
    if (obj) {
        /* Unless object-del was faster. */
        if (policy_object(id) == obj) {
            policy_object_gone(obj);
        }
        object_unref(obj);
    }
}

void coroutine_fn qmp_memswap_policy_set(const char *id, QObject *options,
                                         Error **errp)
{
    g_autoptr(PolicyJob) job = NULL;
    g_autoptr(GString) set = g_string_new(NULL);

    if (!is_swapped(errp)) {
        return;
    }
    job = policy_job_new(id, options, errp);
    if (!job) {
        return;
    }
    thread_pool_submit_co(policy_job_set, job);
    if (job->ret) {
        for (unsigned int i = 0; i < job->n_set; i++) {
            g_string_append_printf(set, "%s%s", i ? ", " : "",
                                   job->options[i].name);
        }
        error_setg(errp, "memswap: %s (set before it: %s)", job->message,
                   job->n_set ? set->str : "none");
    }
}

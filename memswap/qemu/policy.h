/*
 * memswap inside QEMU: policies, as an operator adds and removes them
 *
 * The engine has the list of those that are loaded, whoever added them.  Some
 * also are objects, made by -object or object-add, and live as long as these;
 * the others were added by memswap-policy-add.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_QEMU_POLICY_H
#define MEMSWAP_QEMU_POLICY_H

#include "glue.h"
#include "memswap/policies.h"
#include "qobject/qobject.h"

#define TYPE_MEMSWAP_POLICY "memswap-policy"

/* What is to be done to a policy; to be freed. */
typedef struct PolicyJob {
    MemswapEngine *engine;
    char *id;
    char *path;
    char *builtin;
    MemswapPolicyOption *options;
    unsigned int n_options;

    /* The outcome: as memswap_policy_add() and the others have it. */
    int ret;
    char *message;
    unsigned int n_set;     /* options that were set */
} PolicyJob;

void policy_job_free(PolicyJob *job);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PolicyJob, policy_job_free)

/*
 * @options: a dict of strings, numbers and booleans, or NULL.  Returns NULL
 * if they aren't, or what is asked for can never be had.
 */
PolicyJob *policy_job_new(const char *id, QObject *options, Error **errp);
PolicyJob *policy_job_new_add(const char *id, const char *path,
                              const char *builtin, QObject *options,
                              Error **errp);

/*
 * Do it, on any thread without the BQL.  They take seconds when a policy does
 * not return.  Return 0, for thread_pool_submit_co().
 */
int policy_job_add(void *job);
int policy_job_remove(void *job);
int policy_job_set(void *job);
/* False if it failed. */
bool policy_job_done(const PolicyJob *job, Error **errp);

/*
 * The object of this id, or NULL: main thread only.  Once the policy has
 * gone the object is to go as well, without a second attempt.
 */
Object *policy_object(const char *id);
void policy_object_gone(Object *obj);

#endif /* MEMSWAP_QEMU_POLICY_H */

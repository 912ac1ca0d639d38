/*
 * The default reclaimer: who chooses what goes as long as nobody else does
 *
 * One that is built in, which whoever made the engine named.  It gives way to
 * any other reclaimer, and takes its place again when that is removed or given
 * up; the watch sees to the latter.  If it is given up itself it is started
 * anew after a while, since that may have been the machine's fault.  Once it
 * was removed by hand it stays away.  It has a slot of its own, after all
 * others, so they have their places and precedence whether or not it is there;
 * in a page's word there is no room for that slot, so it must not prefetch.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "policy-internal.h"

#define DEFAULT_ID "default"
/* How long one that was given up is left alone, in times its patience. */
#define REST 12

static int start(MemswapEngine *engine, char **error)
{
    MemswapPolicies *policies = &engine->policies;
    MemswapPolicyConfig config = {
        .id = DEFAULT_ID, .builtin = policies->default_name,
    };

    return memswap_policy_launch(engine, &config, MEMSWAP_DEFAULT_SLOT,
                                 error);
}

int memswap_policy_start_default(MemswapEngine *engine, const char *name,
                                 char **error)
{
    MemswapPolicies *policies = &engine->policies;
    int ret;

    g_mutex_lock(&policies->admin_lock);
    policies->default_name = g_strdup(name);
    ret = start(engine, error);
    atomic_store(&policies->default_wanted, !ret);
    g_mutex_unlock(&policies->admin_lock);
    return ret;
}

void memswap_policy_retire_default(MemswapEngine *engine)
{
    MemswapPolicyHost *host = atomic_load(&engine->policies.reclaimer);

    /* one that doesn't return is out of the way as well */
    if (host && memswap_policy_is_default(host)) {
        memswap_policy_end(host, NULL);
    }
}

void memswap_policy_drop_default(MemswapEngine *engine)
{
    atomic_store(&engine->policies.default_wanted, false);
}

bool memswap_policy_is_taken(MemswapEngine *engine, const char *id)
{
    return atomic_load(&engine->policies.default_wanted) &&
           g_str_equal(id, DEFAULT_ID);
}

bool memswap_policy_lacks_default(MemswapEngine *engine)
{
    MemswapPolicies *policies = &engine->policies;

    return atomic_load(&policies->default_wanted) &&
           !atomic_load(&policies->reclaimer);
}

void memswap_policy_rest_default(MemswapEngine *engine)
{
    MemswapPolicies *policies = &engine->policies;

    atomic_store(&policies->default_due, memswap_policy_real_time() +
                                         REST * policies->patience);
}

void memswap_policy_restore_default(MemswapEngine *engine)
{
    MemswapPolicies *policies = &engine->policies;

    if (memswap_policy_lacks_default(engine) &&
        memswap_policy_real_time() >= atomic_load(&policies->default_due) &&
        start(engine, NULL)) {
        /* no memory for a thread, perhaps */
        memswap_policy_rest_default(engine);
    }
}

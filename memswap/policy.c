/*
 * Policies: who there is, and who goes
 *
 * Adding, removing and setting wait for the policy's thread, but only so long:
 * one that doesn't return is given up.  A watch does the same with one that
 * doesn't return from an event while others wait (policy-watch.c).
 *
 * What is without a policy is what is left when one is given up: evictors make
 * room all the time when half of the reserve is gone, whether or not there is
 * a reclaimer, and go on in the order of addresses when none makes offers, so
 * that a guest never depends on one.  When a reclaimer goes, for whatever
 * reason, the default one takes its place (policy-default.c).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <sched.h>
#include <string.h>

#include "futex.h"
#include "policy-internal.h"

/* How long a policy may take to return. */
#define PATIENCE_NS 5000000000LL
/* What it may ask for in a second. */
#define REQUESTS_PER_S 100000
/* How often somebody who waits looks at more than what wakes him. */
#define SLICE_NS 10000000

bool memswap_policy_enter(MemswapPolicyHost *host)
{
    atomic_fetch_add(&host->in_op, 1);
    if (atomic_load(&host->phase) == POLICY_GIVEN_UP) {
        atomic_fetch_sub(&host->in_op, 1);
        return false;
    }
    return true;
}

void memswap_policy_leave(MemswapPolicyHost *host)
{
    atomic_fetch_sub(&host->in_op, 1);
}

void memswap_policies_init(MemswapEngine *engine)
{
    MemswapPolicies *policies = &engine->policies;

    g_mutex_init(&policies->admin_lock);
    g_mutex_init(&policies->lock);
    policies->hosts = g_ptr_array_new();
    policies->last_slot = MEMSWAP_MAX_POLICIES - 1;
    policies->patience = PATIENCE_NS;
    policies->requests_per_s = REQUESTS_PER_S;
}

/* Called with policies->lock. */
static void update_wanted(MemswapPolicies *policies)
{
    uint64_t wanted = 0;

    for (unsigned int i = 0; i < MEMSWAP_POLICY_SLOTS; i++) {
        MemswapPolicyHost *host = atomic_load(&policies->slots[i]);

        if (host) {
            wanted |= host->ops->events;
            if (host->ops->roles & MEMSWAP_POLICY_PREFETCHER) {
                /* counted, whoever wants to hear of it */
                wanted |= MEMSWAP_POLICY_EVENT_BIT(WASTED);
            }
        }
    }
    atomic_store(&policies->wanted, wanted);
}

/* Put @host, or nobody, in charge of reclaim.  Called with policies->lock. */
static void put_in_charge(MemswapEngine *engine, MemswapPolicyHost *host)
{
    MemswapPolicies *policies = &engine->policies;
    bool offers = host && memswap_policy_hears(host, MEMSWAP_POLICY_CHOOSE);

    atomic_store(&policies->reclaimer, host);
    atomic_store(&policies->makes_room, host &&
                 memswap_policy_hears(host, MEMSWAP_POLICY_ROOM));
    atomic_store(&engine->behind_percent, host ? host->behind_percent : 0);
    atomic_store(&engine->offers.open, offers);
    /* some are to be there when they are needed */
    atomic_store(&engine->offers.asked, offers ? MEMSWAP_ASKED_ANY : 0);
}

/* False if it was given up by now. */
static bool publish(MemswapPolicyHost *host)
{
    MemswapPolicies *policies = &host->engine->policies;
    bool up;

    g_mutex_lock(&policies->lock);
    up = atomic_load(&host->phase) == POLICY_UP;
    if (up) {
        /* who takes a name that was given up takes its place in the list */
        memswap_policy_forget_id(policies, host->id);
        host->published = true;
        atomic_store(&policies->orders[host->slot], host->order);
        atomic_store(&policies->slots[host->slot], host);
        update_wanted(policies);
        if (host->ops->roles & MEMSWAP_POLICY_RECLAIMER) {
            put_in_charge(host->engine, host);
        }
    }
    g_mutex_unlock(&policies->lock);
    /* it may be for the reclaimer to arm itself */
    memswap_policy_poke(host);
    return up;
}

/* Nobody tells it of anything when this returns. */
static void unpublish(MemswapPolicyHost *host)
{
    MemswapEngine *engine = host->engine;
    MemswapPolicies *policies = &engine->policies;
    bool reclaimed = false;

    g_mutex_lock(&policies->lock);
    if (atomic_load(&policies->slots[host->slot]) == host) {
        atomic_store(&policies->slots[host->slot], NULL);
        atomic_store(&policies->orders[host->slot], 0);
        update_wanted(policies);
        reclaimed = atomic_load(&policies->reclaimer) == host;
        if (reclaimed) {
            put_in_charge(engine, NULL);
            if (atomic_exchange(&policies->armed, false)) {
                atomic_fetch_sub(&engine->sleepers, 1);
            }
        }
    }
    g_mutex_unlock(&policies->lock);
    while (atomic_load(&policies->users[host->slot])) {
        sched_yield();
    }
    if (reclaimed) {
        memswap_offers_clear(engine);
        memswap_evictors_kick(engine);
    }
}

static bool change_phase(MemswapPolicyHost *host, PolicyPhase from,
                         PolicyPhase to)
{
    uint32_t expected = from;

    if (!atomic_compare_exchange_strong(&host->phase, &expected, to)) {
        return false;
    }
    memswap_futex_wake(&host->phase);
    return true;
}

bool memswap_policy_mark_given_up(MemswapPolicyHost *host)
{
    return change_phase(host, POLICY_UP, POLICY_GIVEN_UP) ||
           change_phase(host, POLICY_STOPPING, POLICY_GIVEN_UP) ||
           change_phase(host, POLICY_LOADING, POLICY_GIVEN_UP);
}

void memswap_policy_after_given_up(MemswapPolicyHost *host,
                                   MemswapPolicyError reason)
{
    MemswapEngine *engine = host->engine;

    g_mutex_lock(&engine->policies.lock);
    host->reason = reason;
    g_mutex_unlock(&engine->policies.lock);
    if (memswap_policy_is_default(host)) {
        memswap_policy_rest_default(engine);
    }
    unpublish(host);
    memswap_policy_poke(host);
    if (engine->host.event) {
        engine->host.event(engine->opaque, MEMSWAP_EVENT_POLICY_ERROR,
                           host->id, reason);
    }
    /* another one may be to take its place */
    memswap_policy_watch_kick(&engine->policies);
    /* last: from now on the engine may go */
    atomic_store(&host->tidied, true);
}

void memswap_policy_give_up(MemswapPolicyHost *host,
                            MemswapPolicyError reason)
{
    if (memswap_policy_mark_given_up(host)) {
        memswap_policy_after_given_up(host, reason);
    }
}

void memswap_policy_release(MemswapPolicyHost *host)
{
    if (atomic_fetch_sub(&host->owners, 1) > 1) {
        return;
    }
    memswap_policy_unload(host);
    for (unsigned int i = 0; i < host->n_options; i++) {
        g_free((char *)host->options[i].name);
        g_free((char *)host->options[i].value);
    }
    g_free(host->options);
    g_array_free(host->looks, true);
    g_free(host->builtin);
    g_free(host->path);
    g_free(host->why);
    g_free(host);
}

static void enlist(MemswapPolicyHost *host)
{
    MemswapPolicies *policies = &host->engine->policies;

    g_mutex_lock(&policies->lock);
    g_ptr_array_add(policies->hosts, host);
    g_mutex_unlock(&policies->lock);
}

static void delist(MemswapPolicyHost *host)
{
    MemswapPolicies *policies = &host->engine->policies;

    g_mutex_lock(&policies->lock);
    g_ptr_array_remove(policies->hosts, host);
    g_mutex_unlock(&policies->lock);
}

/* One whose thread has ended, or is about to. */
static void policy_free(MemswapPolicyHost *host)
{
    delist(host);
    g_thread_join(host->thread);
    memswap_policy_release(host);
}

/* One that is GIVEN_UP: its thread may go on for ever, without the engine. */
static void policy_forsake(MemswapPolicyHost *host)
{
    while (!atomic_load(&host->tidied) || atomic_load(&host->in_op)) {
        g_usleep(100);
    }
    delist(host);
    g_thread_unref(host->thread);
    memswap_policy_release(host);
}

/*
 * Was it given up, and is back from its own code for good, with nobody to be
 * told of it any more?
 */
static bool is_left_over(MemswapPolicyHost *host)
{
    MemswapPolicies *policies = &host->engine->policies;
    bool published;

    g_mutex_lock(&policies->lock);
    published = host->published;
    g_mutex_unlock(&policies->lock);
    /* the last of its thread is to let go of it */
    return !published && atomic_load(&host->tidied) &&
           atomic_load(&host->owners) == 1;
}

/* Called with admin_lock. */
static void free_left_over(MemswapPolicies *policies)
{
    for (guint i = policies->hosts->len; i-- > 0;) {
        MemswapPolicyHost *host = g_ptr_array_index(policies->hosts, i);

        if (is_left_over(host)) {
            policy_free(host);
        }
    }
}

/* --- adding, removing, setting ----------------------------------------- */

static int G_GNUC_PRINTF(3, 4) fail(char **error, int ret,
                                    const char *format, ...)
{
    va_list args;

    if (error) {
        va_start(args, format);
        *error = g_strdup_vprintf(format, args);
        va_end(args);
    }
    return ret;
}

/* The policy that goes by @id; NULL if none does.  Called with admin_lock. */
static MemswapPolicyHost *find(MemswapPolicies *policies, const char *id)
{
    MemswapPolicyHost *found = NULL;

    g_mutex_lock(&policies->lock);
    for (unsigned int i = 0; i < MEMSWAP_POLICY_SLOTS; i++) {
        MemswapPolicyHost *host = atomic_load(&policies->slots[i]);

        if (host && !strcmp(host->id, id)) {
            found = host;
        }
    }
    g_mutex_unlock(&policies->lock);
    return found;
}

/*
 * Is it too late, at @end, for one that doesn't return?  One that returns from
 * each call in time may have some to return from yet.
 */
static bool too_late(MemswapPolicyHost *host, int64_t end)
{
    int64_t now = memswap_policy_look_at_clock(&host->engine->policies);

    return memswap_policy_real_time() >= end &&
           memswap_policy_overdue(host, now);
}

/* Wait until it has left @phase; false if that took too long. */
static bool wait_phase(MemswapPolicyHost *host, PolicyPhase phase)
{
    int64_t patience = host->engine->policies.patience;
    int64_t end = memswap_policy_real_time() + patience;

    while (atomic_load(&host->phase) == phase) {
        if (too_late(host, end)) {
            return false;
        }
        memswap_futex_wait(&host->phase, phase, patience / MEMSWAP_WATCH_PART);
    }
    return true;
}

static int check_config(MemswapEngine *engine,
                        const MemswapPolicyConfig *config, char **error)
{
    if (!config->id || !*config->id ||
        strlen(config->id) >= MEMSWAP_POLICY_NAME_SIZE) {
        return fail(error, -EINVAL, "a policy's id has 1 to %d characters",
                    MEMSWAP_POLICY_NAME_SIZE - 1);
    }
    if (!config->path == !config->builtin) {
        return fail(error, -EINVAL, "policy '%s': one of path and builtin "
                    "is needed", config->id);
    }
    if (find(&engine->policies, config->id)) {
        return fail(error, -EEXIST, "there is a policy '%s' already",
                    config->id);
    }
    if (memswap_policy_is_taken(engine, config->id)) {
        return fail(error, -EEXIST, "the id '%s' is that of the default "
                    "reclaimer, which may come back", config->id);
    }
    return 0;
}

/*
 * The next slot that is free, or MEMSWAP_MAX_POLICIES.  Called with admin_lock.
 */
static unsigned int free_slot(MemswapPolicies *policies)
{
    for (unsigned int i = 1; i <= MEMSWAP_MAX_POLICIES; i++) {
        unsigned int slot = (policies->last_slot + i) % MEMSWAP_MAX_POLICIES;

        if (!atomic_load(&policies->slots[slot])) {
            return slot;
        }
    }
    return MEMSWAP_MAX_POLICIES;
}

/* Called with admin_lock. */
static MemswapPolicyHost *policy_new(MemswapEngine *engine,
                                     const MemswapPolicyConfig *config,
                                     unsigned int slot)
{
    MemswapPolicyHost *host = g_new0(MemswapPolicyHost, 1);

    host->engine = engine;
    host->owners = 2;
    host->slot = slot;
    if (slot == MEMSWAP_DEFAULT_SLOT) {
        host->order = UINT64_MAX;
    } else {
        host->order = ++engine->policies.n_added;
        engine->policies.last_slot = slot;
    }
    g_strlcpy(host->id, config->id, sizeof(host->id));
    host->path = g_strdup(config->path);
    host->builtin = g_strdup(config->builtin);
    host->options = g_new(MemswapPolicyOption, config->n_options);
    host->n_options = config->n_options;
    for (unsigned int i = 0; i < config->n_options; i++) {
        host->options[i].name = g_strdup(config->options[i].name);
        host->options[i].value = g_strdup(config->options[i].value);
    }
    host->looks = g_array_new(false, false, sizeof(PolicyLook));
    memswap_prefetch_init(host);
    memswap_ring_init(&host->ring);
    return host;
}

int memswap_policy_launch(MemswapEngine *engine,
                          const MemswapPolicyConfig *config,
                          unsigned int slot, char **error)
{
    MemswapPolicyHost *host = policy_new(engine, config, slot);
    MemswapPolicies *policies = &engine->policies;
    int ret;

    free_left_over(policies);
    /* before it can give itself up */
    enlist(host);
    host->thread = memswap_policy_watch_start(engine) ?
        memswap_thread_new("memswap-policy", memswap_policy_thread, host,
                           NULL) : NULL;
    if (!host->thread) {
        ret = fail(error, -EAGAIN, "policy '%s': can't make a thread",
                   host->id);
        delist(host);
        atomic_store(&host->owners, 1);
        memswap_policy_release(host);
        return ret;
    }
    if (!wait_phase(host, POLICY_LOADING)) {
        memswap_policy_give_up(host, MEMSWAP_POLICY_HUNG);
    }
    if (atomic_load(&host->phase) == POLICY_DOWN) {
        ret = fail(error, host->error, "policy '%s': %s", host->id,
                   host->why);
        policy_free(host);
        return ret;
    }
    /* one that was given up while it was loaded may have no ops yet */
    if (atomic_load(&host->phase) == POLICY_UP &&
        (host->ops->roles & MEMSWAP_POLICY_RECLAIMER)) {
        memswap_policy_retire_default(engine);
    }
    if (!publish(host)) {
        return fail(error, -ETIMEDOUT, "policy '%s' was given up while it "
                    "began", host->id);
    }
    memswap_policy_watch_kick(policies);
    return 0;
}

int memswap_policy_add(MemswapEngine *engine,
                       const MemswapPolicyConfig *config, char **error)
{
    MemswapPolicies *policies = &engine->policies;
    g_autofree char *why = NULL;
    unsigned int slot;
    int ret;

    g_mutex_lock(&policies->admin_lock);
    ret = check_config(engine, config, error);
    slot = free_slot(policies);
    if (!ret && slot == MEMSWAP_MAX_POLICIES) {
        ret = fail(error, -ENOSPC, "there are %d policies already",
                   MEMSWAP_MAX_POLICIES);
    }
    if (!ret && config->path) {
        ret = memswap_policy_probe(config->path, policies->patience, &why);
        if (ret) {
            fail(error, ret, "policy '%s': %s", config->id, why);
        }
    }
    if (!ret) {
        ret = memswap_policy_launch(engine, config, slot, error);
    }
    memswap_policy_restore_default(engine);
    g_mutex_unlock(&policies->admin_lock);
    return ret;
}

int memswap_policy_end(MemswapPolicyHost *host, char **error)
{
    MemswapPolicies *policies = &host->engine->policies;

    if (!change_phase(host, POLICY_UP, POLICY_STOPPING)) {
        return fail(error, -ENOENT, "there is no such policy any more");
    }
    unpublish(host);
    g_mutex_lock(&policies->lock);
    host->published = false;
    g_mutex_unlock(&policies->lock);
    memswap_policy_poke(host);
    if (!wait_phase(host, POLICY_STOPPING)) {
        memswap_policy_give_up(host, MEMSWAP_POLICY_HUNG);
    }
    if (atomic_load(&host->phase) == POLICY_GIVEN_UP) {
        return fail(error, -ETIMEDOUT, "policy '%s' does not return",
                    host->id);
    }
    policy_free(host);
    return 0;
}

int memswap_policy_remove(MemswapEngine *engine, const char *id, char **error)
{
    MemswapPolicies *policies = &engine->policies;
    MemswapPolicyHost *host;
    int ret;

    g_mutex_lock(&policies->admin_lock);
    host = find(policies, id);
    if (host && memswap_policy_is_default(host)) {
        memswap_policy_drop_default(engine);
    }
    ret = host ? memswap_policy_end(host, error) :
          fail(error, -ENOENT, "there is no policy '%s'", id);
    memswap_policy_restore_default(engine);
    g_mutex_unlock(&policies->admin_lock);
    return ret;
}

/* Hand the policy's thread an option, and wait.  Called with admin_lock. */
static int set_option(MemswapPolicyHost *host, const char *name,
                      const char *value)
{
    MemswapPolicies *policies = &host->engine->policies;
    int64_t end = memswap_policy_real_time() + policies->patience;
    bool done = false;
    int ret = -ETIMEDOUT;

    g_mutex_lock(&policies->lock);
    host->setting = (PolicySetting) { .name = name, .value = value };
    atomic_store(&host->set_waits, true);
    g_mutex_unlock(&policies->lock);
    memswap_policy_poke(host);
    while (!done && !too_late(host, end) &&
           atomic_load(&host->phase) == POLICY_UP) {
        memswap_futex_wait(&host->set_done, 0, SLICE_NS);
        done = atomic_load(&host->set_done);
    }
    g_mutex_lock(&policies->lock);
    if (atomic_exchange(&host->set_done, 0)) {
        ret = host->setting.result;
        done = true;
    }
    host->setting.name = host->setting.value = NULL;
    atomic_store(&host->set_waits, false);
    g_mutex_unlock(&policies->lock);
    if (!done) {
        memswap_policy_give_up(host, MEMSWAP_POLICY_HUNG);
    }
    return ret;
}

int memswap_policy_set(MemswapEngine *engine, const char *id,
                       const char *name, const char *value, char **error)
{
    MemswapPolicies *policies = &engine->policies;
    MemswapPolicyHost *host;
    int ret;

    g_mutex_lock(&policies->admin_lock);
    host = find(policies, id);
    if (!host) {
        ret = fail(error, -ENOENT, "there is no policy '%s'", id);
    } else {
        ret = name ? set_option(host, name, value) : 0;
        if (ret) {
            fail(error, ret, "policy '%s': option '%s': %s", id, name,
                 ret == -ENOENT ? "there is none" : g_strerror(-ret));
        }
    }
    g_mutex_unlock(&policies->admin_lock);
    return ret;
}

void memswap_policies_destroy(MemswapEngine *engine)
{
    MemswapPolicies *policies = &engine->policies;

    memswap_policy_watch_stop(policies);
    g_mutex_lock(&policies->admin_lock);
    /* only who has admin_lock adds to it, or takes from it */
    while (policies->hosts->len) {
        MemswapPolicyHost *host = g_ptr_array_index(policies->hosts, 0);

        /* all are UP, but those that were given up, just now perhaps */
        if (memswap_policy_end(host, NULL)) {
            policy_forsake(host);
        }
    }
    g_mutex_unlock(&policies->admin_lock);
    g_ptr_array_unref(policies->hosts);
    g_free(policies->default_name);
    g_mutex_clear(&policies->admin_lock);
    g_mutex_clear(&policies->lock);
}

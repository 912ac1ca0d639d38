/*
 * memswap engine: attaching policies
 *
 * A policy is loaded from a shared object, or built in, and runs on a thread
 * of its own; what it may know and ask is in policy.h.  Several may be there at
 * once: one reclaimer, any number of others.  The order in which they were
 * added is their precedence: for room, which a prefetcher leaves to those
 * before it, and for pages that one wants to keep and another to take.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_POLICIES_H
#define MEMSWAP_POLICIES_H

#include "memswap/engine.h"

/* Policies at once. */
#define MEMSWAP_MAX_POLICIES 15
#define MEMSWAP_MAX_POLICY_COUNTERS 16
#define MEMSWAP_POLICY_NAME_SIZE 32

typedef struct MemswapPolicyOption {
    const char *name;
    const char *value;
} MemswapPolicyOption;

typedef struct MemswapPolicyConfig {
    const char *id;         /* no other policy has it */
    const char *path;       /* of a shared object; or NULL */
    const char *builtin;    /* the name of one that is built in; or NULL */
    const MemswapPolicyOption *options;
    unsigned int n_options;
} MemswapPolicyConfig;

/* Why a policy was given up: the offset of MEMSWAP_EVENT_POLICY_ERROR. */
typedef enum MemswapPolicyError {
    MEMSWAP_POLICY_HUNG,        /* it didn't return */
    MEMSWAP_POLICY_NONSENSE,    /* too many requests that mean nothing */
} MemswapPolicyError;

typedef struct MemswapPolicyStatus {
    char id[MEMSWAP_POLICY_NAME_SIZE];
    char name[MEMSWAP_POLICY_NAME_SIZE];    /* what it calls itself */
    uint32_t roles;         /* MEMSWAP_POLICY_RECLAIMER, ... */
    uint64_t events;        /* handled */
    uint64_t dropped;       /* events lost: they came too fast */
    uint64_t requests;
    uint64_t refused;       /* requests that were wrong, or too many */
    uint64_t reclaimed;     /* bytes that it took out */
    uint64_t prefetched;    /* pages that it brought in */
    uint64_t throttled;     /* pages that it wanted to, while it wasted */
    /* Of the pages it brought in, those watched that were touched, or not. */
    uint64_t hits, wasted;
    unsigned int n_counters;
    struct {
        char name[MEMSWAP_POLICY_NAME_SIZE];
        uint64_t value;
    } counters[MEMSWAP_MAX_POLICY_COUNTERS];
    MemswapPolicyError reason;  /* of one that was given up */
} MemswapPolicyStatus;

/**
 * memswap_policy_add: load a policy and begin to tell it of events
 * @config: copied
 * @error: as in memswap_engine_new()
 *
 * A reclaimer takes the place of MemswapConfig.reclaimer.
 *
 * A shared object is loaded in a child process first, so that one that
 * crashes or hangs while it is loaded does so there; whoever is called with
 * SIGCHLD must expect a child that is not its own.  Takes seconds at most; no
 * fault waits meanwhile.
 *
 * Returns 0; -EEXIST for an id in use, or for "default" as long as
 * MemswapConfig.reclaimer may come back; -ENOENT without such a policy;
 * -ENOEXEC for a file that is none, or crashes, or is not as policy.h says;
 * -EPROTONOSUPPORT for one of another version; -EBUSY with a reclaimer there
 * already; -ENOSPC for one too many; -EINVAL for an option; -ETIMEDOUT for one
 * that doesn't return; or what its start() returned.
 */
int memswap_policy_add(MemswapEngine *engine,
                       const MemswapPolicyConfig *config, char **error);

/**
 * memswap_policy_remove: let a policy end, and unload it
 *
 * When a reclaimer goes, MemswapConfig.reclaimer takes its place.  That one has
 * the id "default", and stays away if it is removed itself: without a
 * reclaimer regions go in the order of addresses.
 *
 * Returns 0; -ENOENT without one of this id; -ETIMEDOUT if it doesn't return,
 * in which case it is given up: gone for the engine, but loaded until it does.
 */
int memswap_policy_remove(MemswapEngine *engine, const char *id,
                          char **error);

/**
 * memswap_policy_set: change an option of a policy
 * @name: NULL: change nothing, only see whether there is such a policy
 *
 * Returns 0; -ENOENT without such a policy or option; -EINVAL for its value;
 * -ETIMEDOUT if it doesn't return.
 */
int memswap_policy_set(MemswapEngine *engine, const char *id,
                       const char *name, const char *value, char **error);

/**
 * memswap_policy_list: the policies there are, in their order
 * @n: how many
 *
 * Never blocks.  Returns an array for g_free(), NULL with none.
 */
MemswapPolicyStatus *memswap_policy_list(MemswapEngine *engine,
                                         unsigned int *n);

/**
 * memswap_policy_list_all: the same, and those that were given up
 * @n: how many there are
 * @n_given_up: how many more were given up
 *
 * Those that were given up follow, oldest first, with what they had done by
 * then, until they are forgotten, or another one is added under the same id.
 * Who is given up meanwhile is listed once.  Never blocks.  Returns an array
 * for g_free(), NULL with none.
 */
MemswapPolicyStatus *memswap_policy_list_all(MemswapEngine *engine,
                                             unsigned int *n,
                                             unsigned int *n_given_up);

/**
 * memswap_policy_forget: list one that was given up no more
 *
 * Returns 0; -ENOENT without one of this id.
 */
int memswap_policy_forget(MemswapEngine *engine, const char *id);

/**
 * memswap_policy_builtin: the name of the @i-th that is built in
 *
 * Returns NULL past the last.
 */
const char *memswap_policy_builtin(unsigned int i);

/**
 * memswap_policy_default: the one to be MemswapConfig.reclaimer
 *
 * Never NULL; a name that memswap_policy_builtin() has.
 */
const char *memswap_policy_default(void);

/**
 * memswap_policies_want_context: does any want to know who makes faults?
 *
 * Then it pays to keep what MemswapHost.fault_context tells.  Costs a load.
 */
bool memswap_policies_want_context(MemswapEngine *engine);

/**
 * memswap_guest_reset: tell policies that the guest was reset
 */
void memswap_guest_reset(MemswapEngine *engine);

#endif /* MEMSWAP_POLICIES_H */

/*
 * Policies that are wrong from the start, one for each way to be so
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <signal.h>
#include <stddef.h>
#include <unistd.h>

#include "memswap/policy.h"

static int start(const MemswapPolicyHostOps *ops, MemswapPolicyHost *host,
                 void **self)
{
#ifdef REFUSES
    return -5;
#endif
#ifdef NONSENSE_START
    for (unsigned int i = 0; i < 1000; i++) {
        ops->info(host, NULL);
    }
#endif
    return 0;
}

static void event(void *self, const MemswapPolicyEvent *event)
{
}

#ifdef CRASH_LOADING
static void __attribute__((constructor)) crash(void)
{
    raise(SIGSEGV);
}
#endif

#ifdef HANG_LOADING
static void __attribute__((constructor)) hang(void)
{
    while (1) {
        pause();
    }
}
#endif

#ifdef EXIT_LOADING
static void __attribute__((constructor)) leave(void)
{
    _exit(0);
}
#endif

#ifdef NO_ENTRY
#define memswap_policy_entry another_entry
#endif

MemswapPolicyEntry memswap_policy_entry;

const MemswapPolicyOps *memswap_policy_entry(const MemswapPolicyHostOps *host)
{
    static const MemswapPolicyOps mine = {
        .size = sizeof(mine),
#ifdef OTHER_VERSION
        .version = MEMSWAP_POLICY_VERSION + 1,
#else
        .version = MEMSWAP_POLICY_VERSION,
#endif
        .name = "broken",
#ifndef NO_ROLE
        .roles = MEMSWAP_POLICY_OBSERVER,
#endif
#ifdef SLOW
        .delay_us = 1000001,
#endif
        .start = start,
        .event = event,
    };

#ifdef CRASH_ENTRY
    raise(SIGSEGV);
#endif
#ifdef DECLINES
    return NULL;
#endif
    return &mine;
}

/*
 * The policies that are built in: add yours here, and to meson.build
 *
 * Each is a file of its own that includes policy.h, and nothing else of ours
 * but what policies share in this directory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <stddef.h>

#include "builtins.h"
#include "memswap/policies.h"

MemswapPolicyEntry memswap_policy_generation;
MemswapPolicyEntry memswap_policy_limit;
MemswapPolicyEntry memswap_policy_linear;
MemswapPolicyEntry memswap_policy_pressure;
MemswapPolicyEntry memswap_policy_target;
MemswapPolicyEntry memswap_policy_virtual;
MemswapPolicyEntry memswap_policy_working_set;

const MemswapBuiltin memswap_builtins[] = {
    { "generation", memswap_policy_generation },
    { "limit", memswap_policy_limit },
    { "linear", memswap_policy_linear },
    { "pressure", memswap_policy_pressure },
    { "target", memswap_policy_target },
    { "virtual", memswap_policy_virtual },
    { "working-set", memswap_policy_working_set },
    { NULL, NULL },
};

const char *memswap_policy_builtin(unsigned int i)
{
    return i < sizeof(memswap_builtins) / sizeof(memswap_builtins[0]) ?
           memswap_builtins[i].name : NULL;
}

const char *memswap_policy_default(void)
{
    return "generation";
}

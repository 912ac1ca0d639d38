/*
 * The policies that are built in
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_BUILTINS_H
#define MEMSWAP_BUILTINS_H

#include "memswap/policy.h"

typedef struct MemswapBuiltin {
    const char *name;
    MemswapPolicyEntry *entry;
} MemswapBuiltin;

/* Ended by one without a name. */
extern const MemswapBuiltin memswap_builtins[];

#endif /* MEMSWAP_BUILTINS_H */

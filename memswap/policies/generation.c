/*
 * Policy "generation": a clock with generations, the default
 *
 * It only says which regions are next, by their age (order.h); evictors try
 * them, and take what is cold, in the background.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <stdlib.h>

#include "order.h"

MemswapPolicyEntry memswap_policy_generation;

static int start(const MemswapPolicyHostOps *ops, MemswapPolicyHost *host,
                 void **self)
{
    Order *order = malloc(sizeof(*order));
    int ret = order ? order_start(order, ops, host) : -ENOMEM;

    if (ret) {
        free(order);
        return ret;
    }
    *self = order;
    return 0;
}

static void event(void *self, const MemswapPolicyEvent *what)
{
    order_event(self, what);
}

static void stop(void *self)
{
    order_stop(self);
    free(self);
}

const MemswapPolicyOps *
memswap_policy_generation(const MemswapPolicyHostOps *host)
{
    static const MemswapPolicyOps generation = {
        .size = sizeof(generation),
        .version = MEMSWAP_POLICY_VERSION,
        .name = "generation",
        .roles = MEMSWAP_POLICY_RECLAIMER,
        .events = ORDER_EVENTS,
        .quiet = ORDER_QUIET,
        .start = start,
        .event = event,
        .stop = stop,
    };

    return &generation;
}

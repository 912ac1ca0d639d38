/*
 * A policy that looks whether what it is told of faults is true
 *
 * For each fault it asks for the page of its address, which has to be the one
 * that was touched, and for the address of its page.  It shows counts.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <stdlib.h>

#include "memswap/policy.h"

/* Where static programs have their code, all of them. */
#define TEXT UINT64_C(0x400000)
#define TEXT_END UINT64_C(0x800000)
#define KERNEL (UINT64_C(1) << 63)
/* Counts are shown each time after so many faults. */
#define SHOW_EVERY 64

enum {
    FAULTS,         /* but those of memory never touched */
    VCPU,           /* of these, those with the vCPU known; and so on */
    PC,
    ROOT,
    ADDRESS,
    SAME,           /* the address is the page's */
    OTHER,          /* it is another page's */
    REVERSE,        /* for the page there is an address */
    REVERSE_SAME,   /* it is the same */
    USER,           /* the address is a program's, and the PC is known */
    USER_TEXT,      /* of these, the PC is where a program's may be */
    COUNTS,
};

static const char *const names[COUNTS] = {
    "faults", "vcpu", "pc", "root", "address", "same", "other", "reverse",
    "reverse-same", "user", "user-text",
};

typedef struct Observer {
    const MemswapPolicyHostOps *ops;
    MemswapPolicyHost *host;
    uint64_t counts[COUNTS];
} Observer;

static int start(const MemswapPolicyHostOps *ops, MemswapPolicyHost *host,
                 void **self)
{
    Observer *observer = calloc(1, sizeof(*observer));

    if (!observer) {
        return -ENOMEM;
    }
    observer->ops = ops;
    observer->host = host;
    *self = observer;
    return 0;
}

static void check_address(Observer *observer, const MemswapPolicyEvent *event)
{
    uint32_t block;
    uint64_t page;
    int ret = observer->ops->translate(observer->host, event->fault.root,
                                       event->fault.address, &block, &page);

    if (!ret) {
        observer->counts[block == event->block && page == event->page ?
                         SAME : OTHER]++;
    }
}

static void event(void *self, const MemswapPolicyEvent *event)
{
    Observer *observer = self;
    uint64_t *counts = observer->counts;
    const MemswapPolicyFault *fault = &event->fault;
    uint32_t known = event->known;
    uint64_t root, address;

    if (fault->kind == MEMSWAP_POLICY_ABSENT) {
        return;
    }
    counts[FAULTS]++;
    counts[VCPU] += !!(known & MEMSWAP_POLICY_KNOWN_VCPU);
    counts[PC] += !!(known & MEMSWAP_POLICY_KNOWN_PC);
    counts[ROOT] += !!(known & MEMSWAP_POLICY_KNOWN_ROOT);
    if (known & MEMSWAP_POLICY_KNOWN_ADDRESS) {
        counts[ADDRESS]++;
        check_address(observer, event);
        if ((known & MEMSWAP_POLICY_KNOWN_PC) &&
            !((fault->address | fault->pc) & KERNEL)) {
            counts[USER]++;
            counts[USER_TEXT] += fault->pc >= TEXT && fault->pc < TEXT_END;
        }
    }
    if (!observer->ops->reverse(observer->host, event->block, event->page,
                                &root, &address)) {
        counts[REVERSE]++;
        counts[REVERSE_SAME] += root == fault->root &&
                                address >> 12 == fault->address >> 12;
    }
    if (counts[FAULTS] % SHOW_EVERY == 0) {
        for (int i = 0; i < COUNTS; i++) {
            observer->ops->counter(observer->host, names[i], counts[i]);
        }
    }
}

static void stop(void *self)
{
    free(self);
}

const MemswapPolicyOps *memswap_policy_entry(const MemswapPolicyHostOps *host)
{
    static const MemswapPolicyOps ops = {
        .size = sizeof(ops),
        .version = MEMSWAP_POLICY_VERSION,
        .name = "observer",
        .roles = MEMSWAP_POLICY_OBSERVER,
        .events = MEMSWAP_POLICY_EVENT_BIT(FAULT) |
                  MEMSWAP_POLICY_WITH_CONTEXT,
        .start = start,
        .event = event,
        .stop = stop,
    };

    return &ops;
}

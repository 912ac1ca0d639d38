/*
 * A policy that does as it is told: each option is a request, whose result it
 * publishes as the counter "result"; it counts the events of each kind.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "memswap/policy.h"

#ifndef ROLES
#define ROLES (MEMSWAP_POLICY_RECLAIMER | MEMSWAP_POLICY_PREFETCHER)
#endif
#ifndef EVENTS
#define EVENTS (UINT64_MAX & ~MEMSWAP_POLICY_EVENT_BIT(PRESSURE))
#endif
#ifndef QUIET
#define QUIET 0
#endif
#ifndef DELAY_US
#define DELAY_US 0
#endif

/* Found by the test: what ends a hang, and what requests said after it. */
_Atomic int puppet_release;
_Atomic long puppet_after;
/* How many hangs there were. */
_Atomic int puppet_hangs;

typedef struct Puppet {
    const MemswapPolicyHostOps *ops;
    MemswapPolicyHost *host;
    int hang;               /* in the next event */
    int spin;               /* the same, by asking for ever */
    int spin_slowly;        /* the same, for what takes long */
    uint64_t slow_ms;       /* each event takes so long */
    int hang_timer;         /* in the next timer */
    int64_t wake_ms;        /* the next event sets a timer; -1: it doesn't */
    uint64_t n[MEMSWAP_POLICY_EVENT__MAX];
    MemswapPolicyEvent last, tried;
    int64_t too_early;      /* what offer() said when it started */
} Puppet;

MemswapPolicyEntry memswap_policy_entry;

static void hang(Puppet *puppet)
{
    MemswapPolicyHost *host = puppet->host;

    atomic_fetch_add(&puppet_hangs, 1);
    while (!atomic_load(&puppet_release)) {
        usleep(1000);
    }
    /* in vain: it was given up */
    atomic_store(&puppet_after, puppet->ops->now(host));
}

static void spin_slowly(Puppet *puppet)
{
    uint32_t number;
    uint64_t page;
    int ret;

    do {
        ret = puppet->ops->translate(puppet->host, 0, 0, &number, &page);
    } while (ret != -ESHUTDOWN);
}

static void event(void *self, const MemswapPolicyEvent *event)
{
    static const char *const names[] = {
        "fault", "trial", "evicted", "filled", "hit", "wasted", "limit",
        "room", "stall-begin", "stall-end", "pressure", "timer", "reset",
        "added", "removed", "choose", "tried",
    };
    Puppet *puppet = self;

    if (event->kind == MEMSWAP_POLICY_TRIED) {
        puppet->tried = *event;
    } else if (event->kind != MEMSWAP_POLICY_CHOOSE) {
        /* what the reclaimer hears of at any time is not the next event */
        if (puppet->hang) {
            hang(puppet);
        }
        usleep(1000 * puppet->slow_ms);
        if (puppet->hang_timer && event->kind == MEMSWAP_POLICY_TIMER) {
            hang(puppet);
            puppet->hang_timer = 0;
        }
        if (puppet->wake_ms >= 0) {
            puppet->ops->wake(puppet->host, puppet->wake_ms);
            puppet->wake_ms = -1;
        }
        while (puppet->spin &&
               puppet->ops->now(puppet->host) != -ESHUTDOWN) {
        }
        if (puppet->spin_slowly) {
            spin_slowly(puppet);
        }
        puppet->last = *event;
    }
    /* the reclaimer's, which comes again and again, is not counted */
    if (event->kind < sizeof(names) / sizeof(names[0]) &&
        event->kind != MEMSWAP_POLICY_ROOM) {
        puppet->n[event->kind] += event->kind == MEMSWAP_POLICY_EVICTED ?
                                  event->n : 1;
        puppet->ops->counter(puppet->host, names[event->kind],
                     puppet->n[event->kind]);
    }
}

static int64_t flood(Puppet *puppet, uint64_t n)
{
    int64_t refused = 0;

    while (n--) {
        refused += puppet->ops->now(puppet->host) == -EAGAIN;
    }
    return refused;
}

static int64_t flood_reclaim(Puppet *puppet, uint64_t n, uint32_t flags)
{
    MemswapPolicyRange range = { .n = 1 };
    int64_t refused = 0;

    while (n--) {
        refused += puppet->ops->reclaim(puppet->host, &range, 1, flags) ==
                   -EAGAIN;
    }
    return refused;
}

/* Every other of n pages, in as many ranges. */
static int64_t reclaim_split(Puppet *puppet, uint64_t n)
{
    MemswapPolicyRange ranges[MEMSWAP_POLICY_MAX_RANGES];

    for (uint64_t i = 0; i < n; i++) {
        ranges[i] = (MemswapPolicyRange) { .page = 2 * i, .n = 1 };
    }
    return puppet->ops->reclaim(puppet->host, ranges, n, 0);
}

/* How many looks at a region's trial, at once, there will be. */
static int64_t flood_looks(Puppet *puppet, uint64_t n)
{
    int64_t looks = 0;

    while (n--) {
        looks += puppet->ops->trial(puppet->host, 0, 0, 0) > 0;
    }
    return looks;
}

/* The popcount of a bitmap of pages in these states. */
static int64_t count_pages(Puppet *puppet, uint32_t block, uint64_t page,
                           uint64_t n, uint32_t states)
{
    uint64_t *bitmap = calloc(n / 64 + 1, sizeof(*bitmap));
    int64_t ret = puppet->ops->pages(puppet->host, block, page, n, states,
                                     bitmap);

    for (uint64_t i = 0; i < n / 64 + 1 && ret >= 0; i++) {
        ret += __builtin_popcountll(bitmap[i]);
    }
    free(bitmap);
    return ret;
}

/* How many there are, and the sum of their pages. */
static int64_t translate_many(Puppet *puppet, uint64_t root, uint64_t address,
                              uint64_t n)
{
    MemswapPolicyRange pages[MEMSWAP_POLICY_MAX_RANGES];
    int64_t known = puppet->ops->translate_many(puppet->host, root, address,
                                                0x2000, n, pages);
    int64_t sum = 0;

    if (known < 0) {
        return known;
    }
    for (uint64_t i = 0; i < n; i++) {
        sum += pages[i].n ? pages[i].page : 0;
        known -= pages[i].n;
    }
    return known ? -1000 : sum;
}

static int set(void *self, const char *name, const char *value)
{
    Puppet *puppet = self;
    const MemswapPolicyHostOps *ops = puppet->ops;
    MemswapPolicyHost *host = puppet->host;
    MemswapPolicyInfo info = { .size = sizeof(info) };
    MemswapPolicyBlock block = { .size = sizeof(block) };
    uint32_t resident[16];
    uint64_t root, at;
    uint32_t number;
    uint64_t a = 0, b = 0, c = 0;
    int64_t ret;
    MemswapPolicyRange range;

    /* "BLOCK PAGE N", or what else the option means */
    sscanf(value, "%li %li %li", (long *)&a, (long *)&b, (long *)&c);
    range = (MemswapPolicyRange) { .block = a, .page = b, .n = c };
    if (!strcmp(name, "reclaim")) {
        ret = ops->reclaim(host, &range, 1, 0);
    } else if (!strcmp(name, "reclaim-cold")) {
        ret = ops->reclaim(host, &range, 1, MEMSWAP_POLICY_COLD);
    } else if (!strcmp(name, "reclaim-flags")) {
        ret = ops->reclaim(host, &range, 1, 0x80);
    } else if (!strcmp(name, "reclaim-null")) {
        ret = ops->reclaim(host, NULL, 1, 0);
    } else if (!strcmp(name, "reclaim-many")) {
        ret = ops->reclaim(host, &range, UINT32_MAX, 0);
    } else if (!strcmp(name, "reclaim-split")) {
        ret = reclaim_split(puppet, a);
    } else if (!strcmp(name, "reclaim-bytes")) {
        ret = ops->reclaim_bytes(host, a);
    } else if (!strcmp(name, "prefetch")) {
        ret = ops->prefetch(host, &range, 1, MEMSWAP_POLICY_HIGH, 0);
    } else if (!strcmp(name, "prefetch-normal")) {
        ret = ops->prefetch(host, &range, 1, MEMSWAP_POLICY_NORMAL, 0);
    } else if (!strcmp(name, "prefetch-late")) {
        ret = ops->prefetch(host, &range, 1, MEMSWAP_POLICY_HIGH, 1);
    } else if (!strcmp(name, "prefetch-priority")) {
        ret = ops->prefetch(host, &range, 1, 77, 0);
    } else if (!strcmp(name, "trial")) {
        ret = ops->trial(host, a, b, (int64_t)c);
    } else if (!strcmp(name, "interval")) {
        ret = ops->set_interval(host, a, b, c);
    } else if (!strcmp(name, "keep")) {
        ret = ops->keep(host, &range, 1);
    } else if (!strcmp(name, "offer")) {
        ret = ops->offer(host, &range, 1, 0);
    } else if (!strcmp(name, "offer-first")) {
        ret = ops->offer(host, &range, 1, MEMSWAP_POLICY_FIRST);
    } else if (!strcmp(name, "offer-flags")) {
        ret = ops->offer(host, &range, 1, 0x80);
    } else if (!strcmp(name, "offer-null")) {
        ret = ops->offer(host, NULL, 1, 0);
    } else if (!strcmp(name, "offer-early")) {
        ret = puppet->too_early;
    } else if (!strcmp(name, "behind")) {
        ret = ops->behind(host, a);
    } else if (!strcmp(name, "tried-gone")) {
        ret = puppet->tried.tried.pages * 1000 + puppet->tried.tried.gone;
    } else if (!strcmp(name, "tried-page")) {
        ret = puppet->tried.page;
    } else if (!strcmp(name, "wake")) {
        ret = ops->wake(host, a);
    } else if (!strcmp(name, "counter")) {
        ret = ops->counter(host, value, 1);
    } else if (!strcmp(name, "resident-pages")) {
        ret = count_pages(puppet, a, b, c, MEMSWAP_POLICY_IS_RESIDENT);
    } else if (!strcmp(name, "trial-pages")) {
        ret = count_pages(puppet, a, b, c, MEMSWAP_POLICY_IS_TRIAL);
    } else if (!strcmp(name, "stored-pages")) {
        ret = count_pages(puppet, a, b, c, MEMSWAP_POLICY_IS_STORED |
                                           MEMSWAP_POLICY_IS_ZERO);
    } else if (!strcmp(name, "pinned-pages")) {
        ret = count_pages(puppet, a, b, c, MEMSWAP_POLICY_IS_PINNED);
    } else if (!strcmp(name, "region")) {
        ret = ops->regions(host, a, b, 1, resident);
        ret = ret ? ret : resident[0];
    } else if (!strcmp(name, "limit")) {
        ret = ops->info(host, &info);
        ret = ret ? ret : (int64_t)info.limit;
    } else if (!strcmp(name, "block-pages")) {
        ret = ops->block(host, a, &block);
        ret = ret ? ret : (int64_t)block.n_pages;
    } else if (!strcmp(name, "translate")) {
        ret = ops->translate(host, a, b, &number, &at);
        ret = ret ? ret : (int64_t)at;
    } else if (!strcmp(name, "translate-many")) {
        ret = translate_many(puppet, a, b, c);
    } else if (!strcmp(name, "translate-null")) {
        ret = ops->translate_many(host, a, b, 1, c, NULL);
    } else if (!strcmp(name, "reverse")) {
        ret = ops->reverse(host, a, b, &root, &at);
        ret = ret ? ret : (int64_t)at;
    } else if (!strcmp(name, "flood")) {
        ret = flood(puppet, a);
    } else if (!strcmp(name, "flood-reclaim")) {
        ret = flood_reclaim(puppet, a, b);
    } else if (!strcmp(name, "flood-looks")) {
        ret = flood_looks(puppet, a);
    } else if (!strcmp(name, "flood-nonsense")) {
        while (a--) {
            ops->reclaim(host, NULL, 1, 0);
        }
        return 0;
    } else if (!strcmp(name, "spin-next")) {
        puppet->spin = 1;
        ret = 0;
    } else if (!strcmp(name, "spin-slowly")) {
        puppet->spin_slowly = 1;
        ret = 0;
    } else if (!strcmp(name, "slow")) {
        puppet->slow_ms = a;
        ret = 0;
    } else if (!strcmp(name, "hang-next")) {
        puppet->hang = 1;
        ret = 0;
    } else if (!strcmp(name, "hang-timer")) {
        puppet->hang_timer = 1;
        ret = 0;
    } else if (!strcmp(name, "wake-in-event")) {
        puppet->wake_ms = a;
        ret = 0;
    } else if (!strcmp(name, "hang-now")) {
        hang(puppet);
        return 0;
    } else if (!strcmp(name, "touched")) {
        ret = puppet->last.kind == MEMSWAP_POLICY_TRIAL ?
              (int64_t)puppet->last.trial.n_touched : -1;
    } else if (!strcmp(name, "last-vcpu")) {
        ret = puppet->last.known & MEMSWAP_POLICY_KNOWN_VCPU ?
              (int64_t)puppet->last.fault.vcpu : -1;
    } else if (!strcmp(name, "bad")) {
        return -EINVAL;
    } else {
        return -ENOENT;
    }
    while (ops->counter(host, "result", ret) == -EAGAIN) {
        /* that was one request too many; each is slept over */
    }
    return 0;
}

static int start(const MemswapPolicyHostOps *ops, MemswapPolicyHost *host,
                 void **self)
{
    Puppet *puppet = calloc(1, sizeof(*puppet));

    puppet->ops = ops;
    puppet->host = host;
    puppet->wake_ms = -1;
#ifdef TOO_EARLY
    puppet->too_early = ops->offer(host, NULL, 0, 0);
#endif
    *self = puppet;
    return 0;
}

static void stop(void *self)
{
    Puppet *puppet = self;

    free(puppet);
}

const MemswapPolicyOps *memswap_policy_entry(const MemswapPolicyHostOps *host)
{
    static const MemswapPolicyOps mine = {
        .size = sizeof(mine),
        .version = MEMSWAP_POLICY_VERSION,
        .name = "puppet",
        .roles = ROLES,
        .events = EVENTS,
        .start = start,
        .event = event,
        .set = set,
        .stop = stop,
        .delay_us = DELAY_US,
        .quiet = QUIET,
    };

    return &mine;
}

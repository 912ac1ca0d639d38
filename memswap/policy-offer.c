/*
 * What policies may ask: which regions are next
 *
 * A policy that makes offers is asked for them in its own thread, woken by who
 * took one of the last.  Whoever takes sets a bit of MemswapOffers.asked, and
 * wakes it only if that wasn't set; it is cleared before the policy is told, so
 * that nothing asked for meanwhile is lost.  One that offers nothing is left
 * alone for a while.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>

#include "policy-internal.h"

/* How long to leave one alone that had nothing to offer. */
#define REST_MIN_NS 1000000
#define REST_MAX_NS 100000000
/* Offers for one token. */
#define OFFERS_PER_TOKEN 16

static bool in_charge(MemswapPolicyHost *host)
{
    return atomic_load(&host->engine->policies.reclaimer) == host;
}

/* All regions that a range has a page of; false when there is no room. */
static bool offer_range(MemswapPolicyHost *host,
                        const MemswapPolicyRange *range, bool first,
                        int64_t *offered)
{
    MemswapBlock *block;
    uint64_t number, end;
    bool room = true;

    if (!range->n || memswap_request_pages(host, range->block, range->page,
                                           range->n, &block)) {
        /* it was there when it was checked */
        return true;
    }
    number = range->page / block->region_pages;
    end = (range->page + range->n - 1) / block->region_pages + 1;
    for (uint64_t i = 0; i < end - number && room; i++) {
        room = memswap_offers_put(block, first ? end - 1 - i : number + i,
                                  first);
        *offered += room;
    }
    memswap_block_unref(block);
    return room;
}

int64_t memswap_policy_op_offer(MemswapPolicyHost *host,
                                const MemswapPolicyRange *ranges, uint32_t n,
                                uint32_t flags)
{
    bool first = flags & MEMSWAP_POLICY_FIRST;
    int64_t offered = 0;
    int ret = memswap_request_begin(host, MEMSWAP_POLICY_RECLAIMER,
                                    1 + n / OFFERS_PER_TOKEN);

    if (ret) {
        return ret;
    }
    ret = flags & ~MEMSWAP_POLICY_FIRST ? -EINVAL :
          memswap_request_ranges(host, ranges, n);
    if (!ret && !in_charge(host)) {
        ret = -EBUSY;
    }
    if (ret) {
        return memswap_request_end(host, ret);
    }
    for (uint32_t i = 0; i < n; i++) {
        /* each goes before those before it */
        if (!offer_range(host, &ranges[first ? n - 1 - i : i], first,
                         &offered)) {
            break;
        }
    }
    host->offered += offered;
    return memswap_request_end(host, offered);
}

int memswap_policy_op_behind(MemswapPolicyHost *host, uint32_t percent)
{
    MemswapEngine *engine = host->engine;
    int ret = memswap_request_begin(host, MEMSWAP_POLICY_RECLAIMER, 1);

    if (ret) {
        return ret;
    }
    if (percent > 100) {
        return memswap_request_end(host, -EINVAL);
    }
    g_mutex_lock(&engine->policies.lock);
    host->behind_percent = percent;
    if (in_charge(host)) {
        atomic_store(&engine->behind_percent, percent);
    }
    g_mutex_unlock(&engine->policies.lock);
    return memswap_request_end(host, 0);
}

bool memswap_policy_choose_waits(MemswapPolicyHost *host)
{
    return memswap_policy_hears(host, MEMSWAP_POLICY_CHOOSE) &&
           in_charge(host) && atomic_load(&host->engine->offers.asked);
}

/* How many more would do? */
static uint64_t lacking(MemswapEngine *engine, unsigned int flags)
{
    uint64_t window = memswap_trial_window(engine, flags);
    uint64_t left;

    g_mutex_lock(&engine->reclaim_lock);
    left = memswap_offers_left(engine, flags);
    g_mutex_unlock(&engine->reclaim_lock);
    return window - MIN(left, window);
}

/* *@told says whether there was a reason to. */
static bool tell(MemswapPolicyHost *host, unsigned int flags, bool *told)
{
    MemswapEngine *engine = host->engine;
    MemswapPolicyEvent event = {
        .kind = MEMSWAP_POLICY_CHOOSE,
        .time = memswap_now(engine),
        .n = lacking(engine, flags),
        .page_size = flags & MEMSWAP_RECLAIM_HUGETLB ? MEMSWAP_REGION_SIZE :
                     0,
    };

    *told |= event.n > 0;
    return !event.n || memswap_policy_deliver(host, &event);
}

bool memswap_policy_serve_choose(MemswapPolicyHost *host, int64_t now,
                                 int64_t *due)
{
    MemswapEngine *engine = host->engine;
    uint64_t before = host->offered;
    bool told = false;
    uint32_t asked;

    *due = 0;
    if (!memswap_policy_choose_waits(host)) {
        return true;
    }
    if (now < host->choose_due) {
        *due = host->choose_due;
        return true;
    }
    asked = atomic_exchange(&engine->offers.asked, 0);
    if (((asked & MEMSWAP_ASKED_ANY) && !tell(host, 0, &told)) ||
        ((asked & MEMSWAP_ASKED_HUGETLB) &&
         !tell(host, MEMSWAP_RECLAIM_HUGETLB, &told))) {
        return false;
    }
    if (host->offered != before) {
        host->choose_rest = 0;
    } else if (told) {
        host->choose_rest = CLAMP(2 * host->choose_rest, REST_MIN_NS,
                                  REST_MAX_NS);
        host->choose_due = memswap_policy_real_time() + host->choose_rest;
    }
    return true;
}

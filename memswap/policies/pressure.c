/*
 * Policy "pressure": take a little again and again, until it hurts a little
 *
 * After Senpai: Weiner et al., "TMO: Transparent Memory Offloading in
 * Datacenters", ASPLOS 2022.  Each interval it takes
 *
 *     resident * ratio * max(0, 1 - pressure / threshold)
 *
 * so that pressure settles a bit below the threshold.  Pressure is the part of
 * the time for which somebody in the guest waited for what was taken: faults
 * that fetch a page, and those that are held back for room; or the host's
 * memory pressure (PSI), if that is higher.  Above the threshold it takes
 * nothing, for longer and longer while that lasts.
 *
 * A hand goes around the regions.  It puts as many on trial as could be enough,
 * and an interval later takes what nobody touched since.  Where little was
 * cold, it tries more of them the next time, but no more than MORE_MAX.
 *
 * What is to go when room is needed it chooses as "generation" does (order.h).
 *
 * Options:
 *   threshold   % of the time (default 0.1)
 *   ratio       % of what is in memory, an interval (default 0.5)
 *   interval    seconds (default 6)
 *   psi         does the host's pressure count? 1 (default), or 0
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "again.h"
#include "memswap/policy.h"
#include "order.h"

#define REGION_BYTES (2 * 1024 * 1024)
/* Words of a bitmap for a region. */
#define WORDS 8
#define TRIALS_MAX 1024
/* Regions to try beyond those that could be enough. */
#define MORE_MAX 16
/* Intervals to leave the guest alone. */
#define PAUSE_MAX 16
/* Regions asked about at once. */
#define CHUNK 64
#define MS 1000000
#define S 1000000000.0

/* A region on trial. */
typedef struct Trial {
    uint32_t block;
    uint64_t region;
} Trial;

typedef struct Pressure {
    const MemswapPolicyHostOps *ops;
    MemswapPolicyHost *host;
    Order order;
    double threshold, ratio, interval, psi;

    Trial trials[TRIALS_MAX];   /* a ring */
    uint32_t first, n;
    uint32_t more;              /* regions beyond those enough */
    uint32_t block;             /* the hand */
    uint64_t region;

    int64_t last;               /* when it took, or might have */
    uint64_t waited_ns;         /* by then, by all who ever waited */
    uint64_t some_ns, told_ns;  /* the host's, since */
    uint64_t debt;              /* bytes taken ahead */
    uint32_t pause;             /* how long it was, the last time */
    uint32_t pausing;           /* what is left of it */
    uint64_t steps, pauses;
} Pressure;

MemswapPolicyEntry memswap_policy_pressure;

static void show(Pressure *mine, const char *name, uint64_t value)
{
    again(mine->ops->counter(mine->host, name, value));
}

static int64_t time_now(Pressure *mine)
{
    return again(mine->ops->now(mine->host));
}

/* Without it nothing would go on. */
static void wake(Pressure *mine, uint64_t ms)
{
    again(mine->ops->wake(mine->host, ms));
}

/* --- the hand ---------------------------------------------------------- */

/* The next region with something in it.  False at the end of the blocks. */
static bool next_region(Pressure *mine, uint32_t n_blocks, Trial *trial)
{
    while (mine->block < n_blocks) {
        MemswapPolicyBlock block = { .size = sizeof(block) };
        uint32_t resident[CHUNK];
        uint64_t n = 0;

        if (!again(mine->ops->block(mine->host, mine->block, &block))) {
            n = (block.n_pages + block.region_pages - 1) /
                block.region_pages;
        }
        while (mine->region < n) {
            uint64_t some = n - mine->region;

            some = some < CHUNK ? some : CHUNK;
            if (again(mine->ops->regions(mine->host, mine->block,
                                         mine->region, some, resident))) {
                break;
            }
            for (uint64_t i = 0; i < some; i++) {
                if (resident[i]) {
                    *trial = (Trial) { mine->block, mine->region + i };
                    mine->region += i + 1;
                    return true;
                }
            }
            mine->region += some;
        }
        mine->block++;
        mine->region = 0;
    }
    mine->block = 0;
    return false;
}

/* Have so many on trial, but at most half of what is in memory. */
static void try_regions(Pressure *mine, uint32_t want, uint64_t resident)
{
    MemswapPolicyInfo info = { .size = sizeof(info) };
    /* pinned or in use, they may all refuse: not to go around for that */
    uint32_t tries = 2 * TRIALS_MAX, ends = 0;
    Trial trial;

    if (want > resident / REGION_BYTES / 2) {
        want = resident / REGION_BYTES / 2;
    }
    want = want < 1 ? 1 : want < TRIALS_MAX ? want : TRIALS_MAX;
    if (again(mine->ops->info(mine->host, &info))) {
        return;
    }
    while (mine->n < want && ends < 2 && tries--) {
        if (!next_region(mine, info.n_blocks, &trial)) {
            ends++;
        } else if (again(mine->ops->trial(mine->host, trial.block,
                                          trial.region,
                                          MEMSWAP_POLICY_NO_LOOK)) > 0) {
            mine->trials[(mine->first + mine->n++) % TRIALS_MAX] = trial;
        }
    }
}

/* --- taking ------------------------------------------------------------ */

/*
 * The first pages on trial of a region that make up so many bytes.  Returns
 * the number of ranges; *@all says that there are no more.
 */
static uint32_t choose(const Trial *trial, const MemswapPolicyBlock *block,
                       uint64_t n, const uint64_t bits[WORDS], uint64_t bytes,
                       MemswapPolicyRange *ranges, bool *all)
{
    uint64_t first = trial->region * block->region_pages;
    uint64_t left = bytes / block->page_size;
    uint32_t n_ranges = 0;

    *all = true;
    for (uint64_t i = 0; i < n; i++) {
        MemswapPolicyRange *last = ranges + n_ranges - 1;

        if (!(bits[i / 64] >> i % 64 & 1)) {
            continue;
        }
        if (!left) {
            *all = false;
            break;
        }
        left--;
        if (n_ranges && last->page + last->n == first + i) {
            last->n++;
        } else {
            ranges[n_ranges++] = (MemswapPolicyRange) {
                .block = trial->block, .page = first + i, .n = 1,
            };
        }
    }
    return n_ranges;
}

/*
 * Take so much of a region that is on trial, or all of it if it is a huge page.
 * Returns the bytes; *@all says that there is nothing more to get.
 */
static uint64_t take_region(Pressure *mine, const Trial *trial,
                            uint64_t bytes, bool *all)
{
    MemswapPolicyBlock block = { .size = sizeof(block) };
    MemswapPolicyRange ranges[WORDS * 64];
    uint64_t bits[WORDS] = { 0 }, huge = 0;
    uint64_t first, n;
    uint32_t n_ranges;
    int64_t gone;

    *all = true;
    if (again(mine->ops->block(mine->host, trial->block, &block)) ||
        block.region_pages > WORDS * 64 ||
        trial->region > (block.n_pages - 1) / block.region_pages) {
        return 0;
    }
    first = trial->region * block.region_pages;
    n = block.n_pages - first;
    n = n < block.region_pages ? n : block.region_pages;
    if (again(mine->ops->pages(mine->host, trial->block, first, n,
                               MEMSWAP_POLICY_IS_TRIAL, bits)) ||
        again(mine->ops->pages(mine->host, trial->block, first, 1,
                               MEMSWAP_POLICY_IS_HUGE, &huge))) {
        return 0;
    }
    if (huge || block.region_pages == 1) {
        bytes = n * block.page_size;
    }
    n_ranges = choose(trial, &block, n, bits, bytes, ranges, all);
    if (n_ranges && huge) {
        n_ranges = 1;
        ranges[0].page = first;
        ranges[0].n = n;
    }
    gone = n_ranges ? again(mine->ops->reclaim(mine->host, ranges, n_ranges,
                                               MEMSWAP_POLICY_COLD)) : 0;
    return gone > 0 ? gone : 0;
}

/* What has been on trial since the last interval, and stayed cold. */
static uint64_t take(Pressure *mine, uint64_t bytes)
{
    uint64_t gone = 0;

    while (mine->n && gone < bytes) {
        bool all;

        gone += take_region(mine, &mine->trials[mine->first], bytes - gone,
                            &all);
        if (!all) {
            break;
        }
        mine->first = (mine->first + 1) % TRIALS_MAX;
        mine->n--;
    }
    return gone;
}

static void step(Pressure *mine, uint64_t resident, double part)
{
    uint64_t bytes = resident * (mine->ratio / 100) * part;
    uint64_t gone;

    if (mine->debt >= bytes) {
        mine->debt -= bytes;
        bytes = 0;
    } else {
        bytes -= mine->debt;
        mine->debt = 0;
    }
    gone = take(mine, bytes);
    if (gone > bytes) {
        mine->debt += gone - bytes;
    }
    if (gone * 2 >= bytes) {
        mine->more /= 2;
    } else if (part > 0.5 && mine->more < MORE_MAX) {
        mine->more = 2 * mine->more + 1;
    }
    try_regions(mine, 2 * bytes / REGION_BYTES + 1 + mine->more, resident);
    mine->steps++;
}

/* --- when -------------------------------------------------------------- */

/* Part of the time since the last interval that somebody waited. */
static double measure(Pressure *mine, const MemswapPolicyInfo *info,
                      int64_t now)
{
    uint64_t waited = info->stall_ns + info->refault_ns;
    double pressure = 0, host = 0;

    if (now > mine->last) {
        pressure = (double)(waited - mine->waited_ns) / (now - mine->last);
    }
    if (mine->told_ns && mine->psi) {
        host = (double)mine->some_ns / mine->told_ns;
    }
    mine->waited_ns = waited;
    mine->some_ns = mine->told_ns = 0;
    mine->last = now;
    return pressure > host ? pressure : host;
}

static void interval_over(Pressure *mine, int64_t now)
{
    MemswapPolicyInfo info = { .size = sizeof(info) };
    double pressure, part;

    if (again(mine->ops->info(mine->host, &info))) {
        return;
    }
    pressure = measure(mine, &info, now);
    part = 1 - pressure / (mine->threshold / 100);
    if (part <= 0) {
        mine->pause = mine->pause ? 2 * mine->pause : 1;
        mine->pause = mine->pause < PAUSE_MAX ? mine->pause : PAUSE_MAX;
        mine->pausing = mine->pause;
        mine->pauses++;
    } else if (mine->pausing) {
        mine->pausing--;
    } else {
        mine->pause /= 2;
        step(mine, info.resident, part);
    }
    show(mine, "pressure-ppm", pressure < 1 ?
                       pressure * 1000000 : 1000000);
    show(mine, "steps", mine->steps);
    show(mine, "pauses", mine->pauses);
    show(mine, "trials", mine->n);
}

static void tick(Pressure *mine)
{
    int64_t now = time_now(mine);
    int64_t due = mine->last + mine->interval * S;

    if (now >= due) {
        interval_over(mine, now);
        due = now + mine->interval * S;
    }
    wake(mine, (due - now) / MS + 1);
}

/* --- the policy -------------------------------------------------------- */

static void event(void *self, const MemswapPolicyEvent *what)
{
    Pressure *mine = self;

    switch (what->kind) {
    case MEMSWAP_POLICY_TIMER:
        tick(mine);
        break;
    case MEMSWAP_POLICY_PRESSURE:
        mine->some_ns += what->pressure.some_ns;
        mine->told_ns += what->pressure.interval_ns;
        break;
    default:
        order_event(&mine->order, what);
        break;
    }
}

static int set(void *self, const char *name, const char *value)
{
    Pressure *mine = self;
    const struct {
        const char *name;
        double *value, min, max;
    } options[] = {
        { "threshold", &mine->threshold, 0.001, 100 },
        { "ratio", &mine->ratio, 0, 100 },
        { "interval", &mine->interval, 0.01, 86400 },
        { "psi", &mine->psi, 0, 1 },
    };

    for (unsigned int i = 0; i < sizeof(options) / sizeof(*options); i++) {
        if (!strcmp(name, options[i].name)) {
            char *end;
            double number = strtod(value, &end);

            /* not so: a number that is none */
            if (*end || end == value || !(number >= options[i].min &&
                                          number <= options[i].max) ||
                (options[i].value == &mine->psi && number != (int)number)) {
                return -EINVAL;
            }
            *options[i].value = number;
            /* it may be over by now */
            wake(mine, 0);
            return 0;
        }
    }
    return -ENOENT;
}

static int start(const MemswapPolicyHostOps *ops, MemswapPolicyHost *host,
                 void **self)
{
    MemswapPolicyInfo info = { .size = sizeof(info) };
    Pressure *mine = calloc(1, sizeof(*mine));
    int ret;

    if (!mine) {
        return -ENOMEM;
    }
    mine->ops = ops;
    mine->host = host;
    mine->threshold = 0.1;
    mine->ratio = 0.5;
    mine->interval = 6;
    mine->psi = 1;
    ret = order_start(&mine->order, ops, host);
    if (!ret) {
        ret = ops->info(host, &info);
    }
    if (ret) {
        free(mine);
        return ret;
    }
    measure(mine, &info, again(ops->now(host)));
    wake(mine, 0);
    *self = mine;
    return 0;
}

static void stop(void *self)
{
    Pressure *mine = self;

    order_stop(&mine->order);
    free(mine);
}

const MemswapPolicyOps *
memswap_policy_pressure(const MemswapPolicyHostOps *host)
{
    static const MemswapPolicyOps pressure = {
        .size = sizeof(pressure),
        .version = MEMSWAP_POLICY_VERSION,
        .name = "pressure",
        .roles = MEMSWAP_POLICY_RECLAIMER,
        .events = ORDER_EVENTS |
                  MEMSWAP_POLICY_EVENT_BIT(PRESSURE),
        .quiet = ORDER_QUIET,
        .start = start,
        .event = event,
        .set = set,
        .stop = stop,
    };

    return &pressure;
}

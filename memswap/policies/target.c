/*
 * Policy "target": take what is cold, as far as a promotion rate allows
 *
 * After Lagar-Cavilla et al., "Software-Defined Far Memory in Warehouse-Scale
 * Computers", ASPLOS 2019.  Memory is scanned again and again, and each page
 * has an age: the scans since it was touched, also while it is in the store.
 * A histogram of the ages of what is touched again says what would have come
 * back, had all of at least some age T been taken out.  The smallest T for
 * which that is less than a share of the working set a minute was best for the
 * last scan.  What goes is of an age that was best for most of the last scans,
 * or of the last one's if that is higher: a guest that becomes busy is left
 * alone at once.  Nothing goes at the beginning, when too little is known.
 *
 * A scan puts each region on trial; the next one sees what was touched of it.
 * The guest's minor faults for that count as a part of what a scan costs; where
 * that is beyond the budget, it takes longer.
 *
 * What is to go when room is needed it chooses as "generation" does (order.h).
 * What evictors put on trial looks untouched to a scan, though it may have
 * been touched before; so under a limit that is too low ages are too high.
 *
 * Options:
 *   rate        promotions, in % of the working set a minute (default 0.2)
 *   interval    seconds between the beginnings of scans (default 30)
 *   budget      what scans may cost, in % of a CPU (default 1)
 *   grace       seconds before anything is taken (default 120)
 *   percentile  of the best ages of the last 32 scans (default 90)
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

#define WORDS BLOCK_REGION_WORDS
#define AGES 256
/* Of a page that is nowhere. */
#define AGE_NONE 255
#define AGE_MAX 254
#define HISTORY 32
/* Regions asked about at once. */
#define CHUNK 64
/* How long to work before other events get their turn. */
#define SLICE_NS 10000000
#define SLICE_REGIONS 256
/* What a minor fault costs the guest, about. */
#define FAULT_NS 5000
/* What was touched within so long is the working set. */
#define WORKING_NS 120000000000
#define MS 1000000
#define S 1000000000.0
/* The longest that an option may be. */
#define SECONDS_MAX 86400

typedef struct Region {
    uint32_t seen;              /* the scan that saw it last */
    uint8_t ages[];             /* as of then, by page */
} Region;

/* The pages of a region, by what they are now. */
typedef struct Pages {
    uint64_t mapped[WORDS], trial[WORDS], stored[WORDS];
} Pages;

typedef struct Target {
    const MemswapPolicyHostOps *ops;
    MemswapPolicyHost *host;
    Order order;
    double rate, interval, budget, grace, percentile;
    PolicyBlocks blocks;        /* elements are pointers to a Region */
    int64_t began;              /* the policy itself */

    /* The scan, or the one to come. */
    bool scanning;
    uint32_t scan;              /* from 1 */
    int64_t scan_began;         /* or the last one did; 0: none was */
    int64_t period;             /* between the last two; 0: not known */
    uint32_t block;
    uint64_t region;
    int64_t spent;              /* in this slice, by the guest */
    int64_t evicting;           /* in this slice, not by the scan */
    uint64_t in_memory[AGES];   /* bytes by age */
    uint64_t promoted[AGES];    /* bytes touched, by the age they had */

    uint32_t threshold;         /* 0: take nothing */
    uint32_t best[HISTORY];     /* a ring */
    uint32_t n_best;            /* ever */
} Target;

MemswapPolicyEntry memswap_policy_target;

static void show(Target *target, const char *name, uint64_t value)
{
    again(target->ops->counter(target->host, name, value));
}

static int64_t time_now(Target *target)
{
    return again(target->ops->now(target->host));
}

/* Without it nothing would go on. */
static void wake(Target *target, uint64_t ms)
{
    again(target->ops->wake(target->host, ms));
}

/* --- regions ----------------------------------------------------------- */

static Region *make_region(Target *target, PolicyBlock *block,
                           uint64_t number)
{
    Region **region = (Region **)block->regions + number;

    if (!*region) {
        *region = malloc(sizeof(**region) + block->region_pages);
        if (*region) {
            (*region)->seen = target->scan;
            memset((*region)->ages, AGE_NONE, block->region_pages);
        }
    }
    return *region;
}

static bool has(const uint64_t *bits, unsigned int i)
{
    return bits[i / 64] >> i % 64 & 1;
}

/* --- a region's turn --------------------------------------------------- */

/*
 * Looked at in the order that touches move pages in: one that is touched
 * meanwhile is mapped whatever else it was.
 */
static bool look_at(Target *target, uint64_t n, Pages *pages)
{
    static const uint32_t states[] = {
        MEMSWAP_POLICY_IS_STORED | MEMSWAP_POLICY_IS_ZERO,
        MEMSWAP_POLICY_IS_TRIAL,
        MEMSWAP_POLICY_IS_RESIDENT,
    };
    uint64_t *bits[] = { pages->stored, pages->trial, pages->mapped };
    const PolicyBlock *block = &target->blocks.blocks[target->block];

    memset(pages, 0, sizeof(*pages));
    for (unsigned int i = 0; i < 3; i++) {
        if (again(target->ops->pages(target->host, target->block,
                                     target->region * block->region_pages, n,
                                     states[i], bits[i]))) {
            return false;
        }
    }
    return true;
}

/* The age that a page had which was touched since. */
static uint8_t older(uint8_t age, uint32_t scans)
{
    return scans < AGE_MAX && age < AGE_MAX - scans ? age + scans : AGE_MAX;
}

/* Returns the number of pages that were touched. */
static uint64_t grow_old(Target *target, const PolicyBlock *block,
                         Region *region, uint64_t n, const Pages *pages)
{
    uint32_t scans = target->scan - region->seen;
    uint64_t touched = 0;

    for (unsigned int i = 0; i < n; i++) {
        uint8_t *age = &region->ages[i];

        if (has(pages->mapped, i)) {
            if (*age != AGE_NONE && scans) {
                target->promoted[older(*age, scans - 1)] += block->page_size;
            }
            *age = 0;
            touched++;
        } else if (has(pages->trial, i) || has(pages->stored, i)) {
            *age = *age == AGE_NONE ? 0 : older(*age, scans);
        } else {
            *age = AGE_NONE;
        }
        if (has(pages->mapped, i) || has(pages->trial, i)) {
            target->in_memory[*age] += block->page_size;
        }
    }
    region->seen = target->scan;
    return touched;
}

/* Take out what is old enough of what nobody touched. */
static void evict(Target *target, const PolicyBlock *block,
                  const Region *region, uint64_t n, const Pages *pages)
{
    MemswapPolicyRange ranges[WORDS * 64];
    uint64_t first = target->region * block->region_pages;
    int64_t before = time_now(target);
    uint32_t n_ranges = 0;
    bool all = true;

    for (unsigned int i = 0; i < n; i++) {
        MemswapPolicyRange *last = ranges + n_ranges - 1;

        if (!has(pages->trial, i) || has(pages->mapped, i)) {
            continue;
        }
        if (region->ages[i] < target->threshold) {
            all = false;
        } else if (n_ranges && last->page + last->n == first + i) {
            last->n++;
        } else {
            ranges[n_ranges++] = (MemswapPolicyRange) {
                .block = target->block, .page = first + i, .n = 1,
            };
        }
    }
    if (!n_ranges) {
        return;
    }
    if (all) {
        /* a huge page goes only as a whole */
        n_ranges = 1;
        ranges[0].page = first;
        ranges[0].n = n;
    }
    again(target->ops->reclaim(target->host, ranges, n_ranges,
                               MEMSWAP_POLICY_COLD));
    target->evicting += time_now(target) - before;
}

/* Is it one huge page, which comes back by a single fault? */
static bool is_huge(Target *target, const PolicyBlock *block)
{
    uint64_t bit = 0;

    again(target->ops->pages(target->host, target->block,
                             target->region * block->region_pages, 1,
                             MEMSWAP_POLICY_IS_HUGE, &bit));
    return bit;
}

static void visit(Target *target, PolicyBlock *block)
{
    uint64_t n = block_pages_in(block, target->region);
    Region *region = make_region(target, block, target->region);
    uint64_t touched;
    Pages pages;

    if (!region || !look_at(target, n, &pages)) {
        return;
    }
    touched = grow_old(target, block, region, n, &pages);
    if (target->threshold) {
        evict(target, block, region, n, &pages);
    }
    if (touched) {
        target->spent += FAULT_NS * (is_huge(target, block) ? 1 : touched);
    }
    /* left out, all of it would count as touched */
    again(target->ops->trial(target->host, target->block, target->region,
                             MEMSWAP_POLICY_NO_LOOK));
}

/* --- a scan ------------------------------------------------------------ */

/* The smallest age for which little enough would have come back. */
static uint32_t best_threshold(Target *target)
{
    uint64_t last = (WORKING_NS - 1) / target->period;
    uint64_t working_set = 0, promoted = 0, sum = 0;
    uint32_t best = AGES;
    double allowed;

    for (unsigned int i = 0; i < AGES && i <= last; i++) {
        working_set += target->in_memory[i];
    }
    allowed = working_set * target->rate / 100 * target->period / (60 * S);
    for (unsigned int i = 1; i < AGES; i++) {
        promoted += target->promoted[i];
    }
    while (best > 1 && sum + target->promoted[best - 1] <= allowed) {
        sum += target->promoted[--best];
    }
    show(target, "working-set", working_set);
    show(target, "touched-again", promoted);
    return best;
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static uint32_t choose_threshold(Target *target)
{
    uint32_t sorted[HISTORY];
    uint32_t n = target->n_best < HISTORY ? target->n_best : HISTORY;
    uint32_t last = target->best[(target->n_best - 1) % HISTORY];
    uint32_t at;

    memcpy(sorted, target->best, n * sizeof(*sorted));
    qsort(sorted, n, sizeof(*sorted), compare);
    at = (n - 1) * target->percentile / 100 + 0.5;
    return sorted[at] > last ? sorted[at] : last;
}

static void scan_end(Target *target, int64_t now)
{
    target->scanning = false;
    if (target->period) {
        target->best[target->n_best++ % HISTORY] = best_threshold(target);
    }
    target->threshold = 0;
    if (target->n_best && now - target->began >= target->grace * S) {
        target->threshold = choose_threshold(target);
    }
    show(target, "scans", target->scan);
    show(target, "threshold", target->threshold);
    show(target, "threshold-ms", target->threshold *
                         (uint64_t)target->period / MS);
}

static void scan_begin(Target *target, int64_t now)
{
    target->period = target->scan_began ? now - target->scan_began : 0;
    if (target->scan_began && target->period < MS) {
        /* a clock that stands still */
        target->period = MS;
    }
    target->scan_began = now;
    target->scanning = true;
    target->scan++;
    target->block = 0;
    target->region = 0;
    memset(target->in_memory, 0, sizeof(target->in_memory));
    memset(target->promoted, 0, sizeof(target->promoted));
}

/* Regions of the block from the hand on.  False at the block's end. */
static bool scan_chunk(Target *target, unsigned int *visits, int64_t end)
{
    PolicyBlock *block = blocks_ask(&target->blocks, target->block);
    uint32_t resident[CHUNK];
    uint64_t first = target->region, n;

    if (!block || first >= block->n_regions) {
        return false;
    }
    n = block->n_regions - first;
    n = n < CHUNK ? n : CHUNK;
    if (again(target->ops->regions(target->host, target->block, first, n,
                                   resident))) {
        /* it has gone */
        return false;
    }
    for (uint64_t i = 0; i < n; i++) {
        target->region = first + i;
        if (!resident[i]) {
            continue;
        }
        if (!*visits || time_now(target) >= end) {
            *visits = 0;
            return true;
        }
        visit(target, block);
        --*visits;
    }
    target->region = first + n;
    return true;
}

/* Go on with the scan for a while.  Returns how long to rest, in ms. */
static uint64_t scan_slice(Target *target)
{
    MemswapPolicyInfo info = { .size = sizeof(info) };
    int64_t begin = time_now(target);
    unsigned int visits = SLICE_REGIONS;
    int64_t now, cost;
    double rest;

    target->spent = target->evicting = 0;
    if (again(target->ops->info(target->host, &info))) {
        return 1;
    }
    while (visits && target->block < info.n_blocks) {
        if (!scan_chunk(target, &visits, begin + SLICE_NS)) {
            target->block++;
            target->region = 0;
        }
    }
    now = time_now(target);
    cost = now - begin - target->evicting + target->spent;
    if (target->block >= info.n_blocks) {
        scan_end(target, now);
    }
    rest = cost * 100 / target->budget - cost;
    return rest < MS ? 1 : rest / MS;
}

static void tick(Target *target)
{
    int64_t now = time_now(target);
    int64_t due = target->scan_began + target->interval * S;
    uint64_t rest;

    if (!target->scanning) {
        if (target->scan_began && now < due) {
            wake(target, (due - now) / MS + 1);
            return;
        }
        scan_begin(target, now);
    }
    rest = scan_slice(target);
    if (!target->scanning) {
        due = target->scan_began + target->interval * S;
        now = time_now(target);
        if (now < due && (uint64_t)(due - now) / MS >= rest) {
            rest = (due - now) / MS + 1;
        }
    }
    wake(target, rest);
}

/* --- the policy -------------------------------------------------------- */

static void event(void *self, const MemswapPolicyEvent *what)
{
    Target *target = self;

    switch (what->kind) {
    case MEMSWAP_POLICY_TIMER:
        tick(target);
        break;
    case MEMSWAP_POLICY_BLOCK_ADDED:
    case MEMSWAP_POLICY_BLOCK_REMOVED:
        blocks_forget(&target->blocks, what->block);
        break;
    default:
        order_event(&target->order, what);
        break;
    }
}

static int set(void *self, const char *name, const char *value)
{
    Target *target = self;
    const struct {
        const char *name;
        double *value, min, max;
    } options[] = {
        { "rate", &target->rate, 0, 100 },
        { "interval", &target->interval, 0.01, SECONDS_MAX },
        { "budget", &target->budget, 0.01, 100 },
        { "grace", &target->grace, 0, SECONDS_MAX },
        { "percentile", &target->percentile, 0, 100 },
    };

    for (unsigned int i = 0; i < sizeof(options) / sizeof(*options); i++) {
        if (!strcmp(name, options[i].name)) {
            char *end;
            double number = strtod(value, &end);

            /* not so: a number that is none */
            if (*end || end == value || !(number >= options[i].min &&
                                          number <= options[i].max)) {
                return -EINVAL;
            }
            *options[i].value = number;
            /* a scan may be due by now */
            wake(target, 0);
            return 0;
        }
    }
    return -ENOENT;
}

static int start(const MemswapPolicyHostOps *ops, MemswapPolicyHost *host,
                 void **self)
{
    Target *target = calloc(1, sizeof(*target));
    int ret = target ? order_start(&target->order, ops, host) : -ENOMEM;

    if (ret) {
        free(target);
        return ret;
    }
    target->ops = ops;
    target->host = host;
    target->blocks = (PolicyBlocks) {
        .ops = ops,
        .host = host,
        .element = sizeof(Region *),
        .pointers = true,
    };
    target->rate = 0.2;
    target->interval = 30;
    target->budget = 1;
    target->grace = 120;
    target->percentile = 90;
    target->began = ops->now(host);
    ops->wake(host, 0);
    *self = target;
    return 0;
}

static void stop(void *self)
{
    Target *target = self;

    blocks_free(&target->blocks);
    order_stop(&target->order);
    free(target);
}

const MemswapPolicyOps *memswap_policy_target(const MemswapPolicyHostOps *host)
{
    static const MemswapPolicyOps target = {
        .size = sizeof(target),
        .version = MEMSWAP_POLICY_VERSION,
        .name = "target",
        .roles = MEMSWAP_POLICY_RECLAIMER,
        .events = ORDER_EVENTS |
                  MEMSWAP_POLICY_EVENT_BIT(BLOCK_ADDED) |
                  MEMSWAP_POLICY_EVENT_BIT(BLOCK_REMOVED),
        .quiet = ORDER_QUIET,
        .start = start,
        .event = event,
        .set = set,
        .stop = stop,
    };

    return &target;
}

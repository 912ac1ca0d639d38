/*
 * Policy "working-set": bring back what a squeeze took
 *
 * When the limit is lowered it records which pages are in memory, and when
 * there is room again it brings back those that left.  Without it a guest gets
 * them one fault at a time, for as long as it takes to touch each once.  The
 * same for a guest that went idle: what leaves although there is room for it,
 * because an operator or a reclaimer found it cold, is recorded as well, and
 * brought back when the guest comes for it in earnest.
 *
 * How much a page is worth is recorded in two bits:
 *
 *   3  it came back by itself during the squeeze, and left again
 *   2  it was mapped when the limit was lowered
 *   1  it was on trial then, or came and left during the squeeze, or left
 *      an idle guest
 *   0  not recorded
 *
 * Pages come back in this order, each kind in the order of addresses, and only
 * as far as nobody has to be evicted for them: enough for the reserve to be
 * full stays free.  Each page is asked for once, whatever becomes of it, so
 * what the host throttles stays away.
 *
 * Events that are lost cost the order in which pages come, and those recorded
 * by nothing else.  The record takes 128 bytes for a region of 2 MiB, and a
 * pointer for those without.
 *
 * Options:
 *   idle      record what leaves an idle guest: 1 (default), or 0
 *   batch     MiB that are asked for at once (default 8)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "memswap/policy.h"

#define MIB (1024 * 1024)
#define WORTH_MAX 3
#define BLOCKS_MAX 1024
/* Words of a bitmap for a region. */
#define WORDS 8
/* How long to work before other events get their turn. */
#define SLICE_NS 50000000
/* How often to look for room, and whether an event was missed. */
#define TICK_MS 1000
/* A guest is idle if what leaves it leaves so much of the limit unused. */
#define IDLE_PART 8
/* Regions asked about at once. */
#define CHUNK 512
/*
 * A guest that comes back: this part of what it left, but no fewer pages than
 * that, within so long.
 */
#define WAKE_PART 64
#define WAKE_PAGES 64
#define WAKE_NS 10000000000
#define DELAY_US 5000

typedef enum State {
    CALM,       /* nothing but what left an idle guest is recorded */
    SQUEEZED,   /* the limit was lowered, and what left has no room */
    RESTORING,  /* there is room, or an idle guest comes back */
} State;

/* A region's pages, two bits each. */
typedef struct Record {
    uint64_t low[WORDS], high[WORDS];
} Record;

typedef struct Block {
    uint64_t n_pages;           /* 0: there is none */
    uint64_t n_regions;
    uint32_t region_pages;
    uint32_t page_kib;
    Record **records;           /* by region; NULL: nothing of it */
} Block;

typedef struct WorkingSet {
    const MemswapPolicyHostOps *ops;
    MemswapPolicyHost *host;
    bool idle;
    uint64_t batch;             /* bytes */

    State state;
    bool squeeze;               /* RESTORING: not because the guest woke */
    uint64_t limit;             /* as told the last time */
    Block *blocks;              /* by number */
    uint32_t n_blocks;
    uint64_t idle_pages;        /* recorded while CALM, about */
    uint64_t woken;             /* of these, those that came back */
    int64_t woken_since;

    /* The hand, while RESTORING. */
    unsigned int worth;
    uint32_t block;
    uint64_t region;

    uint64_t recorded, restored, rounds;    /* counters */
} WorkingSet;

/* Ranges for one request. */
typedef struct Batch {
    MemswapPolicyRange ranges[MEMSWAP_POLICY_MAX_RANGES];
    uint32_t n;
    uint64_t pages;
    uint64_t bytes;
} Batch;

MemswapPolicyEntry memswap_policy_working_set;

/* --- the record -------------------------------------------------------- */

static void forget_block(Block *block)
{
    for (uint64_t i = 0; i < block->n_regions; i++) {
        free(block->records[i]);
    }
    free(block->records);
    memset(block, 0, sizeof(*block));
}

static void forget_all(WorkingSet *mine)
{
    for (uint32_t i = 0; i < mine->n_blocks; i++) {
        forget_block(&mine->blocks[i]);
    }
    mine->idle_pages = mine->woken = 0;
}

static bool grow_blocks(WorkingSet *mine, uint32_t number)
{
    Block *blocks;

    if (number < mine->n_blocks) {
        return true;
    }
    if (number >= BLOCKS_MAX) {
        return false;
    }
    blocks = realloc(mine->blocks, (number + 1) * sizeof(*blocks));
    if (!blocks) {
        return false;
    }
    memset(blocks + mine->n_blocks, 0,
           (number + 1 - mine->n_blocks) * sizeof(*blocks));
    mine->blocks = blocks;
    mine->n_blocks = number + 1;
    return true;
}

/* The block as the host has it now; NULL if it has none, or no memory. */
static Block *know_block(WorkingSet *mine, uint32_t number)
{
    MemswapPolicyBlock info = { .size = sizeof(info) };
    Block *block;

    if (!grow_blocks(mine, number)) {
        return NULL;
    }
    block = &mine->blocks[number];
    if (mine->ops->block(mine->host, number, &info) ||
        info.region_pages > WORDS * 64) {
        forget_block(block);
        return NULL;
    }
    if (block->n_pages != info.n_pages ||
        block->region_pages != info.region_pages) {
        forget_block(block);
        block->n_regions = (info.n_pages + info.region_pages - 1) /
                           info.region_pages;
        block->records = calloc(block->n_regions, sizeof(*block->records));
        if (!block->records) {
            block->n_regions = 0;
            return NULL;
        }
        block->n_pages = info.n_pages;
        block->region_pages = info.region_pages;
        block->page_kib = info.page_size / 1024;
    }
    return block;
}

static Record *make_record(Block *block, uint64_t region)
{
    if (!block->records[region]) {
        block->records[region] = calloc(1, sizeof(Record));
    }
    return block->records[region];
}

/* Of a word of the record: the pages worth so much. */
static uint64_t worth_bits(const Record *record, unsigned int i,
                           unsigned int worth)
{
    return (worth & 1 ? record->low[i] : ~record->low[i]) &
           (worth & 2 ? record->high[i] : ~record->high[i]);
}

static void set_bits(Record *record, unsigned int i, uint64_t bits,
                     unsigned int worth)
{
    record->low[i] = (record->low[i] & ~bits) | (worth & 1 ? bits : 0);
    record->high[i] = (record->high[i] & ~bits) | (worth & 2 ? bits : 0);
}

/* Pages that are worth at least so much. */
static void raise_bits(Record *record, unsigned int i, uint64_t bits,
                       unsigned int worth)
{
    for (unsigned int less = 0; less < worth; less++) {
        set_bits(record, i, bits & worth_bits(record, i, less), worth);
    }
}

/* Which of a region's pages are in one of these states. */
static bool ask_pages(WorkingSet *mine, uint32_t number, uint64_t region,
                      uint32_t states, uint64_t bits[WORDS])
{
    const Block *block = &mine->blocks[number];
    uint64_t first = region * block->region_pages;
    uint64_t n = block->n_pages - first;
    int ret;

    if (n > block->region_pages) {
        n = block->region_pages;
    }
    memset(bits, 0, WORDS * sizeof(*bits));
    do {
        ret = mine->ops->pages(mine->host, number, first, n, states, bits);
    } while (ret == -EAGAIN);
    return !ret;
}

static void record_region(WorkingSet *mine, uint32_t number, uint64_t region)
{
    uint64_t mapped[WORDS], trial[WORDS];
    Record *record;

    /* one that is touched in between is in both */
    if (!ask_pages(mine, number, region, MEMSWAP_POLICY_IS_TRIAL, trial) ||
        !ask_pages(mine, number, region, MEMSWAP_POLICY_IS_RESIDENT,
                   mapped)) {
        return;
    }
    record = make_record(&mine->blocks[number], region);
    for (unsigned int i = 0; record && i < WORDS; i++) {
        raise_bits(record, i, trial[i], 1);
        raise_bits(record, i, mapped[i], 2);
        mine->recorded += __builtin_popcountll(trial[i] | mapped[i]);
    }
}

static void record_block(WorkingSet *mine, uint32_t number)
{
    Block *block = know_block(mine, number);
    uint32_t resident[CHUNK];

    for (uint64_t first = 0; block && first < block->n_regions;) {
        uint64_t n = block->n_regions - first;
        int ret;

        n = n < CHUNK ? n : CHUNK;
        ret = mine->ops->regions(mine->host, number, first, n, resident);
        if (ret == -EAGAIN) {
            continue;
        }
        if (ret) {
            return;
        }
        for (uint64_t i = 0; i < n; i++) {
            if (resident[i]) {
                record_region(mine, number, first + i);
            }
        }
        first += n;
    }
}

static void count(WorkingSet *mine)
{
    mine->ops->counter(mine->host, "recorded", mine->recorded);
    mine->ops->counter(mine->host, "restored", mine->restored);
    mine->ops->counter(mine->host, "rounds", mine->rounds);
}

/* --- bringing back ----------------------------------------------------- */

/* Bytes that may come without anybody being evicted for them. */
static uint64_t room(WorkingSet *mine)
{
    MemswapPolicyInfo info = { .size = sizeof(info) };

    if (mine->ops->info(mine->host, &info) ||
        info.resident + info.reserve_high >= info.limit) {
        return 0;
    }
    return info.limit - info.resident - info.reserve_high;
}

/* False if the batch is full. */
static bool add_page(Batch *batch, uint32_t number, const Block *block,
                     uint64_t page, uint64_t bytes)
{
    MemswapPolicyRange *last = batch->ranges + batch->n - 1;
    uint64_t size = block->page_kib * UINT64_C(1024);

    if (batch->bytes + size > bytes ||
        batch->pages == MEMSWAP_POLICY_MAX_PAGES) {
        return false;
    }
    if (batch->n && last->block == number && last->page + last->n == page) {
        last->n++;
    } else if (batch->n < MEMSWAP_POLICY_MAX_RANGES) {
        batch->ranges[batch->n++] = (MemswapPolicyRange) {
            .block = number, .page = page, .n = 1,
        };
    } else {
        return false;
    }
    batch->pages++;
    batch->bytes += size;
    return true;
}

/*
 * Add what is worth as much as is looked for now, and away, or on trial since
 * the squeeze: it need not fault, either.  Those pages are not recorded any
 * more.  False if not all of them found a place.
 */
static bool add_region(WorkingSet *mine, Batch *batch, uint64_t bytes)
{
    Block *block = &mine->blocks[mine->block];
    Record *record = block->records[mine->region];
    uint64_t first = mine->region * block->region_pages;
    uint64_t away[WORDS];

    if (!record || !ask_pages(mine, mine->block, mine->region,
                              MEMSWAP_POLICY_IS_STORED |
                              MEMSWAP_POLICY_IS_ZERO |
                              MEMSWAP_POLICY_IS_TRIAL, away)) {
        return true;
    }
    for (unsigned int i = 0; i < WORDS; i++) {
        uint64_t bits = worth_bits(record, i, mine->worth);

        /* what is there by now needs nobody */
        set_bits(record, i, bits & ~away[i], 0);
        bits &= away[i];
        while (bits) {
            uint64_t bit = bits & -bits;

            if (!add_page(batch, mine->block, block, first + 64 * i +
                          __builtin_ctzll(bit), bytes)) {
                return false;
            }
            set_bits(record, i, bit, 0);
            bits ^= bit;
        }
    }
    return true;
}

/* Fill a batch from where the hand is.  False if the hand got to the end. */
static bool gather(WorkingSet *mine, Batch *batch, uint64_t bytes)
{
    while (mine->worth) {
        if (mine->block >= mine->n_blocks) {
            mine->worth--;
            mine->block = 0;
            mine->region = 0;
        } else if (mine->region >= mine->blocks[mine->block].n_regions) {
            mine->block++;
            mine->region = 0;
        } else if (add_region(mine, batch, bytes)) {
            mine->region++;
        } else {
            return true;
        }
    }
    return false;
}

static void calm_down(WorkingSet *mine)
{
    forget_all(mine);
    mine->state = CALM;
    mine->rounds++;
}

/* What an idle guest left is not waited for; it gets that by itself. */
static void no_room(WorkingSet *mine)
{
    if (mine->squeeze) {
        mine->state = SQUEEZED;
        count(mine);
    } else {
        calm_down(mine);
    }
}

/* Go on bringing back, for a while. */
static void restore(WorkingSet *mine)
{
    int64_t end = mine->ops->now(mine->host) + SLICE_NS;
    Batch *batch = malloc(sizeof(*batch));
    bool more = true;

    while (batch && more) {
        uint64_t bytes = room(mine);
        int64_t done = -EAGAIN;

        batch->n = batch->pages = batch->bytes = 0;
        bytes = bytes < mine->batch ? bytes : mine->batch;
        more = gather(mine, batch, bytes);
        while (batch->n && done == -EAGAIN) {
            done = mine->ops->prefetch(mine->host, batch->ranges, batch->n,
                                       MEMSWAP_POLICY_LOW, 0);
        }
        mine->restored += done > 0 ? done : 0;
        if (more && !batch->n) {
            /* not even for one */
            no_room(mine);
            break;
        }
        if (mine->ops->now(mine->host) >= end) {
            break;
        }
    }
    free(batch);
    if (!more) {
        calm_down(mine);
    }
    count(mine);
}

static void begin_restoring(WorkingSet *mine, bool squeeze)
{
    mine->state = RESTORING;
    mine->squeeze = squeeze;
    mine->worth = WORTH_MAX;
    mine->block = 0;
    mine->region = 0;
    mine->ops->wake(mine->host, 0);
}

/* --- events ------------------------------------------------------------ */

static void limit_changed(WorkingSet *mine, uint64_t limit)
{
    MemswapPolicyInfo info = { .size = sizeof(info) };
    uint64_t before = mine->limit;

    mine->limit = limit;
    if (limit > before && mine->state == SQUEEZED) {
        begin_restoring(mine, true);
    }
    if (limit >= before || mine->ops->info(mine->host, &info)) {
        return;
    }
    mine->state = SQUEEZED;
    for (uint32_t i = 0; i < info.n_blocks; i++) {
        record_block(mine, i);
    }
    count(mine);
}

/* Go on with what there is to do. */
static void tick(WorkingSet *mine)
{
    MemswapPolicyInfo info = { .size = sizeof(info) };

    /* it may have been told of in vain */
    if (!mine->ops->info(mine->host, &info) && info.limit != mine->limit) {
        limit_changed(mine, info.limit);
    }
    if (mine->state == SQUEEZED && room(mine) >= mine->batch) {
        begin_restoring(mine, true);
    }
    if (mine->state == RESTORING) {
        restore(mine);
    }
    mine->ops->wake(mine->host, mine->state == RESTORING ? 0 : TICK_MS);
}

/* Where a page is recorded, with @make even if it isn't; or NULL. */
static Record *find_record(WorkingSet *mine, uint32_t number, uint64_t page,
                           bool make)
{
    Block *block = number < mine->n_blocks ? &mine->blocks[number] : NULL;

    if (make && (!block || !block->n_pages)) {
        block = know_block(mine, number);
    }
    if (!block || page >= block->n_pages) {
        return NULL;
    }
    return make ? make_record(block, page / block->region_pages) :
           block->records[page / block->region_pages];
}

/* Did it leave although there was room for it? */
static bool left_idle(WorkingSet *mine)
{
    return mine->idle && mine->state == CALM &&
           room(mine) >= mine->limit / IDLE_PART;
}

/* Pages of one region left. */
static void evicted(WorkingSet *mine, const MemswapPolicyEvent *event)
{
    Record *record;

    if (mine->state == SQUEEZED || left_idle(mine)) {
        record = find_record(mine, event->block, event->page, true);
        for (uint64_t i = 0; record && i < event->n; i++) {
            uint64_t at = (event->page + i) %
                          mine->blocks[event->block].region_pages;

            raise_bits(record, at / 64, UINT64_C(1) << at % 64, 1);
        }
        if (mine->state == CALM) {
            mine->idle_pages += event->n;
        }
    }
}

/* A page that left an idle guest is back: does it want the others, too? */
static void came_back(WorkingSet *mine, int64_t now)
{
    uint64_t enough = mine->idle_pages / WAKE_PART;

    if (!mine->woken || now - mine->woken_since > WAKE_NS) {
        mine->woken = 0;
        mine->woken_since = now;
    }
    mine->woken++;
    if (mine->woken >= (enough > WAKE_PAGES ? enough : WAKE_PAGES)) {
        begin_restoring(mine, false);
    }
}

static void filled(WorkingSet *mine, const MemswapPolicyEvent *event)
{
    Record *record;
    uint64_t at, bit;

    if (mine->state == RESTORING) {
        /* whoever brought it; it is looked at again in any case */
        return;
    }
    record = find_record(mine, event->block, event->page,
                         mine->state == SQUEEZED);
    if (!record) {
        return;
    }
    at = event->page % mine->blocks[event->block].region_pages;
    bit = UINT64_C(1) << at % 64;
    if (mine->state == SQUEEZED) {
        set_bits(record, at / 64, bit, 3);
    } else if (!(worth_bits(record, at / 64, 0) & bit)) {
        set_bits(record, at / 64, bit, 0);
        came_back(mine, event->time);
    }
}

static void event(void *self, const MemswapPolicyEvent *what)
{
    WorkingSet *mine = self;

    switch (what->kind) {
    case MEMSWAP_POLICY_LIMIT:
        limit_changed(mine, what->room.limit);
        break;
    case MEMSWAP_POLICY_EVICTED:
        evicted(mine, what);
        break;
    case MEMSWAP_POLICY_FILLED:
        filled(mine, what);
        break;
    case MEMSWAP_POLICY_TIMER:
        tick(mine);
        break;
    case MEMSWAP_POLICY_RESET:
        forget_all(mine);
        break;
    case MEMSWAP_POLICY_BLOCK_ADDED:
    case MEMSWAP_POLICY_BLOCK_REMOVED:
        if (what->block < mine->n_blocks) {
            forget_block(&mine->blocks[what->block]);
        }
        break;
    default:
        break;
    }
}

static int set(void *self, const char *name, const char *value)
{
    WorkingSet *mine = self;
    char *end;
    long n = strtol(value, &end, 10);

    if (strcmp(name, "idle") && strcmp(name, "batch")) {
        return -ENOENT;
    }
    if (*end || end == value) {
        return -EINVAL;
    }
    if (!strcmp(name, "idle")) {
        if (n < 0 || n > 1) {
            return -EINVAL;
        }
        mine->idle = n;
    } else {
        if (n < 2 || n > 256) {
            return -EINVAL;
        }
        mine->batch = n * MIB;
    }
    return 0;
}

static void stop(void *self)
{
    WorkingSet *mine = self;

    forget_all(mine);
    free(mine->blocks);
    free(mine);
}

static int start(const MemswapPolicyHostOps *ops, MemswapPolicyHost *host,
                 void **self)
{
    MemswapPolicyInfo info = { .size = sizeof(info) };
    WorkingSet *mine = calloc(1, sizeof(*mine));
    int ret;

    if (!mine) {
        return -ENOMEM;
    }
    mine->ops = ops;
    mine->host = host;
    mine->idle = true;
    mine->batch = 8 * MIB;
    ret = ops->info(host, &info);
    if (ret) {
        stop(mine);
        return ret;
    }
    mine->limit = info.limit;
    ops->wake(host, TICK_MS);
    *self = mine;
    return 0;
}

const MemswapPolicyOps *
memswap_policy_working_set(const MemswapPolicyHostOps *host)
{
    static const MemswapPolicyOps working_set = {
        .size = sizeof(working_set),
        .version = MEMSWAP_POLICY_VERSION,
        .name = "working-set",
        .roles = MEMSWAP_POLICY_PREFETCHER,
        .delay_us = DELAY_US,
        .events = MEMSWAP_POLICY_EVENT_BIT(LIMIT) |
                  MEMSWAP_POLICY_EVENT_BIT(EVICTED) |
                  MEMSWAP_POLICY_EVENT_BIT(FILLED) |
                  MEMSWAP_POLICY_EVENT_BIT(RESET) |
                  MEMSWAP_POLICY_EVENT_BIT(BLOCK_ADDED) |
                  MEMSWAP_POLICY_EVENT_BIT(BLOCK_REMOVED),
        .start = start,
        .event = event,
        .set = set,
        .stop = stop,
    };

    return &working_set;
}

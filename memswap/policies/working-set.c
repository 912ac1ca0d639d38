/*
 * Policy "working-set": bring back what a squeeze took
 *
 * When a lowered limit gets tight it records which pages are in memory, and
 * when there is room again it brings back those that left.  Without it a guest
 * gets them one fault at a time, for as long as it takes to touch each once.
 * The same for a guest that went idle: what leaves although there is room for
 * it, because an operator or a reclaimer found it cold, is recorded as well,
 * and brought back when the guest comes for it in earnest.
 *
 * How much a page is worth is recorded in two bits:
 *
 *   3  it came back by itself during the squeeze, and left again
 *   2  it was mapped when the squeeze began
 *   1  it was on trial then, or came and left during the squeeze, or left
 *      an idle guest
 *   0  not recorded
 *
 * Pages come back in this order, each kind in the order of addresses, and only
 * as far as nobody has to be evicted for them: enough for the reserve to be
 * full stays free.  Each page is asked for once, whatever becomes of it, so
 * what the host throttles stays away.
 *
 * A guest may have terabytes.  So all that looks at regions one after the other
 * is done in slices, from a timer, with events handled in between: what leaves
 * before it was looked at is recorded by its EVICTED.
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

#include "again.h"
#include "memswap/policy.h"
#include "records.h"

#define MIB (1024 * 1024)
/* How long to work before other events get their turn. */
#define SLICE_NS 10000000
/* How long that is, at least, while events matter. */
#define PAUSE_MS 2
/* Regions asked about at once, and looked at between looks at the time. */
#define CHUNK 64
/* How often to look for room, and whether an event was missed. */
#define TICK_MS 1000
/* A guest is idle if what leaves it leaves so much of the limit unused. */
#define IDLE_PART 8
/* Regions of an idle guest that are looked at again in a tick. */
#define CHECK_REGIONS 256
/*
 * A guest that comes back: this part of what it left, but no fewer pages than
 * that, within so long.
 */
#define WAKE_PART 64
#define WAKE_PAGES 64
#define WAKE_NS 10000000000
#define DELAY_US 5000

typedef enum State {
    CALM,       /* what is recorded are the pages that left an idle guest */
    SQUEEZED,   /* the limit was lowered, and what left has no room */
    RESTORING,  /* there is room, or an idle guest comes back */
} State;

/* Ranges for one request. */
typedef struct Batch {
    MemswapPolicyRange ranges[MEMSWAP_POLICY_MAX_RANGES];
    uint32_t n;
    uint64_t pages;
    uint64_t bytes;
} Batch;

typedef struct WorkingSet {
    const MemswapPolicyHostOps *ops;
    MemswapPolicyHost *host;
    bool idle;
    uint64_t batch_max;         /* bytes */

    State state;
    bool squeeze;               /* RESTORING: not because the guest woke */
    uint64_t limit;             /* as told the last time */
    uint64_t full;              /* before it was lowered; 0: it wasn't */
    PolicyBlocks records;
    uint64_t woken;             /* pages of an idle guest that came back */
    int64_t woken_since;
    int64_t asked_at;           /* when our last request for pages ended */

    bool recording;             /* not all of memory was looked at yet */
    RecordHand look;            /* where that is to go on */
    RecordHand hand;            /* the same of bringing back, or checking */
    unsigned int worth;         /* RESTORING: what is brought back now */
    Batch batch;

    uint64_t recorded, restored, rounds;    /* counters */
} WorkingSet;

MemswapPolicyEntry memswap_policy_working_set;

static void show(WorkingSet *mine, const char *name, uint64_t value)
{
    again(mine->ops->counter(mine->host, name, value));
}

static void count(WorkingSet *mine)
{
    show(mine, "recorded", mine->recorded);
    show(mine, "restored", mine->restored);
    show(mine, "rounds", mine->rounds);
    show(mine, "idle", mine->state == CALM ?
                       records_count(&mine->records) : 0);
}

static int64_t time_now(WorkingSet *mine)
{
    return again(mine->ops->now(mine->host));
}

static void wake(WorkingSet *mine, uint64_t ms)
{
    again(mine->ops->wake(mine->host, ms));
}

static MemswapPolicyInfo get_info(WorkingSet *mine)
{
    MemswapPolicyInfo info = { .size = sizeof(info) };

    if (again(mine->ops->info(mine->host, &info))) {
        /* it ends */
        info.limit = mine->limit;
    }
    return info;
}

/* Bytes that may come without anybody being evicted for them. */
static uint64_t room(const MemswapPolicyInfo *info)
{
    uint64_t used = info->resident + info->reserve_high;

    return used < info->limit ? info->limit - used : 0;
}

/* --- what there is when a squeeze begins ------------------------------- */

static void record_region(WorkingSet *mine, uint32_t number, uint64_t region)
{
    uint64_t mapped[RECORD_WORDS], trial[RECORD_WORDS];
    PolicyBlock *block = &mine->records.blocks[number];
    unsigned int at;
    Record *record;

    /* one that is touched in between is in both */
    if (!records_ask(&mine->records, number, region, MEMSWAP_POLICY_IS_TRIAL,
                     trial) ||
        !records_ask(&mine->records, number, region,
                     MEMSWAP_POLICY_IS_RESIDENT, mapped)) {
        return;
    }
    record = records_find(&mine->records, number,
                          region * block->region_pages, true, &at);
    for (unsigned int i = 0; record && i < RECORD_WORDS; i++) {
        records_raise(block, record, i, trial[i], 1);
        records_raise(block, record, i, mapped[i], 2);
        mine->recorded += __builtin_popcountll(trial[i] | mapped[i]);
    }
}

/* Some regions from where it is to go on.  False at the block's end. */
static bool record_chunk(WorkingSet *mine)
{
    PolicyBlock *block = blocks_ask(&mine->records, mine->look.block);
    uint32_t resident[CHUNK];
    uint64_t n;

    if (!block || mine->look.region >= block->n_regions) {
        return false;
    }
    n = block->n_regions - mine->look.region;
    n = n < CHUNK ? n : CHUNK;
    if (again(mine->ops->regions(mine->host, mine->look.block,
                                 mine->look.region, n, resident))) {
        return false;
    }
    for (uint64_t i = 0; i < n; i++) {
        if (resident[i]) {
            record_region(mine, mine->look.block, mine->look.region + i);
        }
    }
    mine->look.region += n;
    return true;
}

/* Go on recording, for a while. */
static void record(WorkingSet *mine)
{
    uint32_t n_blocks = get_info(mine).n_blocks;
    int64_t end = time_now(mine) + SLICE_NS;

    do {
        if (!record_chunk(mine)) {
            mine->look.block++;
            mine->look.region = 0;
        }
        mine->recording = mine->look.block < n_blocks;
    } while (mine->recording && time_now(mine) < end);
    count(mine);
}

static void begin_squeeze(WorkingSet *mine)
{
    mine->state = SQUEEZED;
    mine->recording = true;
    mine->look = (RecordHand) { 0 };
    mine->woken = 0;
    wake(mine, 0);
}

/* --- bringing back ----------------------------------------------------- */

/* False if the batch is full. */
static bool add_page(Batch *batch, uint32_t number, uint64_t page,
                     uint64_t size, uint64_t bytes)
{
    MemswapPolicyRange *last = batch->ranges + batch->n - 1;

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
static bool add_region(WorkingSet *mine, uint64_t bytes)
{
    uint32_t number = mine->hand.block;
    PolicyBlock *block = &mine->records.blocks[number];
    Record *record = records_of(block, mine->hand.region);
    uint64_t first = mine->hand.region * block->region_pages;
    uint64_t away[RECORD_WORDS];

    if (!records_ask(&mine->records, number, mine->hand.region,
                     MEMSWAP_POLICY_IS_STORED | MEMSWAP_POLICY_IS_ZERO |
                     MEMSWAP_POLICY_IS_TRIAL, away)) {
        return true;
    }
    for (unsigned int i = 0; i < RECORD_WORDS; i++) {
        uint64_t bits = record_bits(record, i, mine->worth);

        /* what is there by now needs nobody */
        records_set(block, record, i, bits & ~away[i], 0);
        bits &= away[i];
        while (bits) {
            uint64_t bit = bits & -bits;

            if (!add_page(&mine->batch, number, first + 64 * i +
                          __builtin_ctzll(bit), block->page_size, bytes)) {
                return false;
            }
            records_set(block, record, i, bit, 0);
            bits ^= bit;
        }
    }
    return true;
}

typedef enum Gathered {
    GATHERED_FULL,      /* there is more than that */
    GATHERED_SOME,      /* it was time to end */
    GATHERED_ALL,       /* there is nothing else */
} Gathered;

/* Fill a batch from where the hand is. */
static Gathered gather(WorkingSet *mine, uint64_t bytes, int64_t end)
{
    unsigned int regions = 0;

    mine->batch.n = mine->batch.pages = mine->batch.bytes = 0;
    while (mine->worth) {
        if (!records_next(&mine->records, &mine->hand)) {
            mine->worth--;
            mine->hand = (RecordHand) { 0 };
        } else if (!add_region(mine, bytes)) {
            return GATHERED_FULL;
        } else {
            mine->hand.region++;
            if (++regions % CHUNK == 0 && time_now(mine) >= end) {
                return GATHERED_SOME;
            }
        }
    }
    return GATHERED_ALL;
}

/* What is recorded is of no use, or no more. */
static void reset(WorkingSet *mine)
{
    blocks_forget_all(&mine->records);
    mine->recording = false;
    mine->woken = 0;
}

/* All is there that is to come. */
static void calm_down(WorkingSet *mine)
{
    reset(mine);
    mine->state = CALM;
    mine->hand = (RecordHand) { 0 };
    mine->rounds++;
    if (mine->limit >= mine->full) {
        mine->full = 0;
    }
}

/* What an idle guest left is not waited for; it gets that by itself. */
static void no_room(WorkingSet *mine)
{
    if (mine->squeeze) {
        mine->state = SQUEEZED;
    } else {
        calm_down(mine);
    }
}

/* Go on bringing back, for a while. */
static void restore(WorkingSet *mine)
{
    int64_t end = time_now(mine) + SLICE_NS;

    do {
        MemswapPolicyInfo info = get_info(mine);
        uint64_t bytes = room(&info);
        Gathered gathered;
        int64_t done = 0;

        bytes = bytes < mine->batch_max ? bytes : mine->batch_max;
        gathered = gather(mine, bytes, end);
        if (mine->batch.n) {
            done = again(mine->ops->prefetch(mine->host, mine->batch.ranges,
                                             mine->batch.n,
                                             MEMSWAP_POLICY_LOW, 0));
        }
        mine->restored += done > 0 ? done : 0;
        mine->asked_at = time_now(mine);
        if (gathered == GATHERED_ALL) {
            calm_down(mine);
        } else if (gathered == GATHERED_FULL && !mine->batch.n) {
            /* not even for one */
            no_room(mine);
        }
    } while (mine->state == RESTORING && mine->asked_at < end);
    count(mine);
}

static void begin_restoring(WorkingSet *mine, bool squeeze)
{
    mine->state = RESTORING;
    mine->squeeze = squeeze;
    mine->worth = RECORD_MAX;
    mine->hand = (RecordHand) { 0 };
    wake(mine, 0);
}

/* --- events ------------------------------------------------------------ */

/*
 * A limit that was lowered is a squeeze once something leaves for it.  That may
 * be at once, or, with room left, when the guest has grown; see evicted().
 */
static void limit_changed(WorkingSet *mine, const MemswapPolicyInfo *info)
{
    uint64_t before = mine->limit;

    mine->limit = info->limit;
    if (info->limit > before && mine->full) {
        if (mine->state != CALM) {
            begin_restoring(mine, true);
        } else if (info->limit >= mine->full) {
            /* nothing left for it */
            mine->full = 0;
        }
    } else if (info->limit < before) {
        mine->full = mine->full > before ? mine->full : before;
        if (!room(info)) {
            begin_squeeze(mine);
        }
    }
}

/* A page that left an idle guest is back: does it want the others, too? */
static void came_back(WorkingSet *mine, int64_t when)
{
    uint64_t enough = records_count(&mine->records) / WAKE_PART;

    if (!mine->woken || when - mine->woken_since > WAKE_NS) {
        mine->woken = 0;
        mine->woken_since = when;
    }
    mine->woken++;
    if (mine->woken >= (enough > WAKE_PAGES ? enough : WAKE_PAGES)) {
        begin_restoring(mine, false);
    }
}

/*
 * Of what an idle guest left: forget what it gave up since, and what is back,
 * though we weren't told.  Who is found back may be told of yet; so it has to
 * be found twice, and is worth 2 in between.
 */
static void check_region(WorkingSet *mine, const RecordHand *at)
{
    PolicyBlock *block = &mine->records.blocks[at->block];
    Record *record = records_of(block, at->region);
    uint64_t gone[RECORD_WORDS], back[RECORD_WORDS];

    if (!records_ask(&mine->records, at->block, at->region,
                     MEMSWAP_POLICY_IS_ABSENT, gone) ||
        !records_ask(&mine->records, at->block, at->region,
                     MEMSWAP_POLICY_IS_RESIDENT | MEMSWAP_POLICY_IS_TRIAL,
                     back)) {
        return;
    }
    for (unsigned int i = 0; i < RECORD_WORDS; i++) {
        uint64_t twice = back[i] & record_bits(record, i, 2);

        records_set(block, record, i, gone[i] | twice, 0);
        records_set(block, record, i, back[i] & record_bits(record, i, 1), 2);
    }
}

static void check_idle(WorkingSet *mine)
{
    for (unsigned int i = 0; i < CHECK_REGIONS; i++) {
        if (!records_next(&mine->records, &mine->hand)) {
            mine->hand = (RecordHand) { 0 };
            break;
        }
        check_region(mine, &mine->hand);
        mine->hand.region++;
    }
    count(mine);
}

/* Go on with what there is to do. */
static void tick(WorkingSet *mine)
{
    MemswapPolicyInfo info = get_info(mine);

    /* what follows may have been told of in vain */
    limit_changed(mine, &info);
    if (mine->state == CALM && mine->full && !room(&info)) {
        begin_squeeze(mine);
    }
    if (mine->state == SQUEEZED && room(&info) >= mine->batch_max) {
        begin_restoring(mine, true);
    }
    if (mine->recording) {
        record(mine);
    }
    if (mine->state == RESTORING) {
        restore(mine);
    } else if (mine->state == CALM) {
        check_idle(mine);
    }
    wake(mine, mine->state == RESTORING ? 0 :
               mine->recording ? PAUSE_MS : TICK_MS);
}

/* Something leaves although nothing did so far: is it for lack of room? */
static void look_why(WorkingSet *mine, bool *unused)
{
    MemswapPolicyInfo info = get_info(mine);

    /* who is evicted for a limit may be told of before the limit is */
    limit_changed(mine, &info);
    *unused = room(&info) >= info.limit / IDLE_PART;
    if (mine->state == CALM && mine->full && !*unused) {
        begin_squeeze(mine);
    }
}

/* Pages of one region left. */
static void evicted(WorkingSet *mine, const MemswapPolicyEvent *event)
{
    bool unused = true;
    unsigned int at;
    Record *record;

    if (mine->state == CALM) {
        look_why(mine, &unused);
    }
    if (mine->state == RESTORING ||
        (mine->state == CALM && !(unused && mine->idle))) {
        return;
    }
    record = records_find(&mine->records, event->block, event->page, true,
                          &at);
    for (uint64_t i = 0; record && i < event->n; i++, at++) {
        records_raise(&mine->records.blocks[event->block], record, at / 64,
                      UINT64_C(1) << at % 64, 1);
    }
}

static void filled(WorkingSet *mine, const MemswapPolicyEvent *event)
{
    PolicyBlock *block;
    Record *record;
    unsigned int at;
    uint64_t bit;

    if (mine->state == RESTORING || event->time <= mine->asked_at) {
        /* most likely by us */
        return;
    }
    record = records_find(&mine->records, event->block, event->page,
                          mine->state == SQUEEZED, &at);
    if (!record) {
        return;
    }
    block = &mine->records.blocks[event->block];
    bit = UINT64_C(1) << at % 64;
    if (mine->state == SQUEEZED) {
        records_set(block, record, at / 64, bit, RECORD_MAX);
    } else if (!(record_bits(record, at / 64, 0) & bit)) {
        records_set(block, record, at / 64, bit, 0);
        came_back(mine, event->time);
    }
}

static void event(void *self, const MemswapPolicyEvent *what)
{
    WorkingSet *mine = self;
    MemswapPolicyInfo info;

    switch (what->kind) {
    case MEMSWAP_POLICY_LIMIT:
        /* it may have changed again since */
        info = get_info(mine);
        limit_changed(mine, &info);
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
        reset(mine);
        break;
    case MEMSWAP_POLICY_BLOCK_ADDED:
    case MEMSWAP_POLICY_BLOCK_REMOVED:
        blocks_forget(&mine->records, what->block);
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
        mine->batch_max = n * MIB;
    }
    return 0;
}

static void stop(void *self)
{
    WorkingSet *mine = self;

    blocks_free(&mine->records);
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
    records_init(&mine->records, ops, host);
    mine->idle = true;
    mine->batch_max = 8 * MIB;
    mine->asked_at = -1;
    ret = ops->info(host, &info);
    if (ret) {
        stop(mine);
        return ret;
    }
    mine->limit = info.limit;
    wake(mine, TICK_MS);
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

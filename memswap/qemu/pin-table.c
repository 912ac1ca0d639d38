/*
 * memswap inside QEMU: the table of maps that are outstanding
 *
 * A hash table by what undoes the map.  It is on the path of every I/O, so an
 * entry costs no allocation, and there are as many locks as it takes for two
 * threads hardly ever to want the same.  Entries that were freed are kept for
 * the next.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "pins.h"

#define BUCKET_BITS 14
#define SHARD_BITS 6

#define N_BUCKETS (1u << BUCKET_BITS)
#define N_SHARDS (1u << SHARD_BITS)

/* Covers the buckets whose number ends in its own. */
typedef struct Shard {
    QemuSpin lock;
    unsigned int n;     /* entries */
    MemswapHeld *free;   /* to be used again */
} QEMU_ALIGNED(64) Shard;

static Shard shards[N_SHARDS];
static MemswapHeld *buckets[N_BUCKETS];

static void __attribute__((__constructor__)) init_shards(void)
{
    for (int i = 0; i < N_SHARDS; i++) {
        qemu_spin_init(&shards[i].lock);
    }
}

static unsigned int bucket_of(const void *key)
{
    uint64_t hash = (uintptr_t)key * 0x9e3779b97f4a7c15ULL;

    return hash >> (64 - BUCKET_BITS);
}

static Shard *shard_of(unsigned int bucket)
{
    return &shards[bucket % N_SHARDS];
}

int64_t memswap_held_clock(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return now.tv_sec * NANOSECONDS_PER_SECOND + now.tv_nsec;
}

void memswap_held_add(const MemswapHeld *map)
{
    unsigned int bucket = bucket_of(map->key);
    Shard *shard = shard_of(bucket);
    MemswapHeld *entry;

    qemu_spin_lock(&shard->lock);
    entry = shard->free;
    if (entry) {
        shard->free = entry->next;
    } else {
        entry = g_new(MemswapHeld, 1);
    }
    *entry = *map;
    entry->next = buckets[bucket];
    buckets[bucket] = entry;
    shard->n++;
    qemu_spin_unlock(&shard->lock);
}

/* Move the entry behind @link to @map.  Called with the lock. */
static void take(Shard *shard, MemswapHeld **link, MemswapHeld *map)
{
    MemswapHeld *entry = *link;

    *link = entry->next;
    *map = *entry;
    entry->next = shard->free;
    shard->free = entry;
    shard->n--;
}

bool memswap_held_take(void *key, MemswapHeld *map)
{
    unsigned int bucket = bucket_of(key);
    Shard *shard = shard_of(bucket);
    MemswapHeld **found = NULL;

    qemu_spin_lock(&shard->lock);
    for (MemswapHeld **link = &buckets[bucket]; *link;
         link = &(*link)->next) {
        if ((*link)->key == key &&
            (!found || (*link)->size < (*found)->size)) {
            found = link;
        }
    }
    if (found) {
        take(shard, found, map);
    }
    qemu_spin_unlock(&shard->lock);
    return found;
}

/*
 * Is this map a better guess than the best so far?  What device models trim is
 * a header of some bytes at the front: then the ends are the same, and the
 * fronts are near.
 */
static bool better(const MemswapHeld *map, const MemswapHeld *best,
                   const uint8_t *end)
{
    const uint8_t *map_end = (uint8_t *)map->host + map->size;
    const uint8_t *best_end = (uint8_t *)best->host + best->size;

    if ((map_end == end) != (best_end == end)) {
        return map_end == end;
    }
    return map->host > best->host;
}

bool memswap_held_take_around(void *host, uint64_t size, MemswapHeld *map)
{
    const uint8_t *at = host;
    MemswapHeld best;
    unsigned int n = 0;

    for (unsigned int i = 0; i < N_BUCKETS; i++) {
        Shard *shard = shard_of(i);

        qemu_spin_lock(&shard->lock);
        for (MemswapHeld *entry = buckets[i]; entry; entry = entry->next) {
            if (entry->key == entry->host && (uint8_t *)entry->host <= at &&
                at < (uint8_t *)entry->host + entry->size) {
                if (!n || better(entry, &best, at + size)) {
                    best = *entry;
                }
                n++;
            }
        }
        qemu_spin_unlock(&shard->lock);
    }
    if (!n || (n > 1 && (uint8_t *)best.host + best.size != at + size)) {
        /* Who is pinned too long is better off than who isn't any more. */
        return false;
    }
    return memswap_held_take(best.key, map);
}

GArray *memswap_held_list(void)
{
    GArray *list = g_array_new(false, false, sizeof(MemswapHeld));

    for (unsigned int i = 0; i < N_SHARDS; i++) {
        Shard *shard = &shards[i];
        unsigned int first = list->len;
        unsigned int at = first;
        unsigned int n;

        /* Nothing is allocated with the lock held. */
        qemu_spin_lock(&shard->lock);
        n = shard->n;
        qemu_spin_unlock(&shard->lock);
        g_array_set_size(list, first + n);
        qemu_spin_lock(&shard->lock);
        for (unsigned int b = i; b < N_BUCKETS; b += N_SHARDS) {
            for (MemswapHeld *entry = buckets[b]; entry && at < list->len;
                 entry = entry->next) {
                g_array_index(list, MemswapHeld, at++) = *entry;
            }
        }
        qemu_spin_unlock(&shard->lock);
        g_array_set_size(list, at);
    }
    return list;
}

GArray *memswap_held_take_all(void)
{
    GArray *list = g_array_new(false, false, sizeof(MemswapHeld));

    for (unsigned int i = 0; i < N_BUCKETS; i++) {
        MemswapHeld map;
        bool more = true;

        while (more) {
            Shard *shard = shard_of(i);

            qemu_spin_lock(&shard->lock);
            more = buckets[i];
            if (more) {
                take(shard, &buckets[i], &map);
            }
            qemu_spin_unlock(&shard->lock);
            if (more) {
                g_array_append_val(list, map);
            }
        }
    }
    return list;
}

/*
 * memswap inside QEMU: pins for whoever holds a pointer to guest RAM
 *
 * QEMU's own accesses to guest RAM just fault.  The kernel and other
 * processes, to whom devices pass pointers for I/O, need the pages to stay:
 * so address_space_map() pins, address_space_unmap() unpins.
 *
 * The length that a caller passes to address_space_unmap() can't be trusted,
 * so the one of the map is recorded here, by pointer.  When several maps of
 * one pointer are outstanding, nobody can tell whose is undone; then the
 * shortest goes: the longer ones still cover its pages, so that whoever is
 * left keeps what it uses.  What is over-pinned meanwhile goes with the last.
 *
 * A MemoryRegionCache is pinned as well, although only QEMU uses it: access
 * to a virtqueue's rings then can't fault within a drained section.  These
 * pins last as long as the queue.
 *
 * The few places that hand guest RAM to the kernel without a map pin it for
 * one call (memswap_pin_for_kernel()).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "exec/ramblock.h"
#include "memswap/hooks.h"
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include "glue.h"
#include "trace.h"

typedef struct Map Map;

/* One map that is outstanding. */
struct Map {
    void *host;
    uint64_t size;
    bool pinned;    /* false: made before the engine ran, or to discard */
    Map *next;      /* of the same key, not shorter than this one */
};

/*
 * A part of the table.  The lock covers the table alone: pins are taken
 * before and released after it is held.
 */
typedef struct Shard {
    QemuMutex lock;
    GHashTable *maps;   /* shortest Map by pointer or cache */
} Shard;

#define SHARD_BITS 6

static Shard shards[1 << SHARD_BITS];
static __thread bool to_discard;

static void __attribute__((__constructor__)) init_shards(void)
{
    for (int i = 0; i < ARRAY_SIZE(shards); i++) {
        qemu_mutex_init(&shards[i].lock);
        shards[i].maps = g_hash_table_new(NULL, NULL);
    }
}

static Shard *shard_of(void *key)
{
    uint64_t hash = (uintptr_t)key * 0x9e3779b97f4a7c15ULL;

    return &shards[hash >> (64 - SHARD_BITS)];
}

static void record(void *key, void *host, uint64_t size, bool pinned)
{
    Shard *shard = shard_of(key);
    Map *map = g_new(Map, 1);
    Map *first, **link;

    *map = (Map) { .host = host, .size = size, .pinned = pinned };
    QEMU_LOCK_GUARD(&shard->lock);
    first = g_hash_table_lookup(shard->maps, key);
    for (link = &first; *link && (*link)->size < size; link = &(*link)->next) {
        ;
    }
    map->next = *link;
    *link = map;
    g_hash_table_insert(shard->maps, key, first);
}

static void release(void *key)
{
    Shard *shard = shard_of(key);
    g_autofree Map *map = NULL;

    WITH_QEMU_LOCK_GUARD(&shard->lock) {
        map = g_hash_table_lookup(shard->maps, key);
        if (map && map->next) {
            g_hash_table_insert(shard->maps, key, map->next);
        } else {
            g_hash_table_remove(shard->maps, key);
        }
    }
    if (map) {
        trace_memswap_unmap(map->host, map->size);
        if (map->pinned) {
            memswap_unpin(memswap_engine(), map->host, map->size);
        }
    }
}

/*
 * Pin a range for the kernel.  It fails for a page that is lost, and whoever
 * accesses that has to wait.  Where the kernel can't, for which it would be a
 * bad address, this waits in its place, by an access.
 */
static bool pin_for_kernel(MemswapEngine *engine, const void *host,
                           uint64_t size)
{
    /* volatile: all that counts is the access */
    const volatile uint8_t *bytes = host;

    while (memswap_pin(engine, host, size)) {
        if (!memswap_user_mode_only(memswap_object())) {
            return false;
        }
        for (uint64_t i = 0; i < size; i += qemu_real_host_page_size()) {
            (void)bytes[i];
        }
        (void)bytes[size - 1];
    }
    return true;
}

void memswap_do_map(RAMBlock *rb, uint64_t offset, uint64_t size)
{
    MemswapEngine *engine = memswap_engine();
    void *host = rb->host + offset;
    /* To refuse the map would make device models try again for ever. */
    bool pinned = engine && !to_discard && pin_for_kernel(engine, host, size);

    trace_memswap_map(host, size, pinned);
    record(host, host, size, pinned);
}

void memswap_do_unmap(void *host)
{
    release(host);
}

void memswap_do_cache_map(void *cache, void *host, uint64_t size)
{
    MemswapEngine *engine = memswap_engine();

    if (host) {
        /* Without the pin, a page that is lost is met when it is used. */
        bool pinned = engine && memswap_pin(engine, host, size) == 0;

        record(cache, host, size, pinned);
    }
}

void memswap_do_cache_unmap(void *cache)
{
    release(cache);
}

bool memswap_do_pin(const void *host, uint64_t size)
{
    MemswapEngine *engine = memswap_engine();

    return engine && pin_for_kernel(engine, host, size);
}

void memswap_do_unpin(const void *host, uint64_t size)
{
    int saved_errno = errno;

    memswap_unpin(memswap_engine(), host, size);
    errno = saved_errno;
}

void memswap_do_maps_to_discard(bool begin)
{
    to_discard = begin;
}

/*
 * The machine has just been built: nothing runs yet that could undo a map
 * meanwhile, and the engine never waits for us, so the lock may be held.
 */
void memswap_pins_start(MemswapEngine *engine)
{
    for (int i = 0; i < ARRAY_SIZE(shards); i++) {
        GHashTableIter iter;
        Map *map;

        QEMU_LOCK_GUARD(&shards[i].lock);
        g_hash_table_iter_init(&iter, shards[i].maps);
        while (g_hash_table_iter_next(&iter, NULL, (gpointer *)&map)) {
            for (; map; map = map->next) {
                map->pinned = map->pinned ||
                    memswap_pin(engine, map->host, map->size) == 0;
            }
        }
    }
}

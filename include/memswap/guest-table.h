/*
 * memswap: a guest's page tables, as x86-64 has them
 *
 * Needs no engine, and nothing of QEMU.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_GUEST_TABLE_H
#define MEMSWAP_GUEST_TABLE_H

#include <stddef.h>
#include <stdint.h>

/*
 * A root is the guest-physical address of the topmost table, and in its low
 * bits the number of levels: 4 or 5.
 */
#define MEMSWAP_GUEST_LEVELS 7u
#define MEMSWAP_GUEST_ADDRESS UINT64_C(0x000ffffffffff000)

static inline uint64_t memswap_guest_root(uint64_t table, unsigned int levels)
{
    return (table & MEMSWAP_GUEST_ADDRESS) | levels;
}

/*
 * Read @size bytes at a guest-physical address, all of one 4 KiB page; 0,
 * -EFAULT if there is no RAM, or another negative errno.
 */
typedef int MemswapGuestRead(void *opaque, uint64_t physical, void *buffer,
                             size_t size);

/**
 * memswap_guest_walk: where a guest-virtual address is
 * @physical: set to the guest-physical address
 * @page_size: set to the size of the page that it is in, in bytes; may be NULL
 *
 * Nothing is checked but that there is a page: not what access it allows.  A
 * guest may change its tables meanwhile, or make them of anything: the answer
 * may be wrong then, but comes after one read a level.
 *
 * Returns 0; -EFAULT if there is no such page; -EINVAL if @root is none; or
 * what @read returned.
 */
int memswap_guest_walk(uint64_t root, uint64_t address, MemswapGuestRead *read,
                       void *opaque, uint64_t *physical, uint64_t *page_size);

/*
 * Pages of tables that were read just now: who translates one address mostly
 * goes on with its neighbours.  A page may be in any of the ways of its set, so
 * that the few tables of one walk don't take each other's place.
 */
#define MEMSWAP_TABLE_SETS 16
#define MEMSWAP_TABLE_WAYS 4
#define MEMSWAP_TABLE_SIZE 4096

typedef struct MemswapTable {
    uint64_t page;      /* guest-physical */
    int64_t read_at;    /* 0: never, or in vain */
    uint8_t data[MEMSWAP_TABLE_SIZE];
} MemswapTable;

typedef struct MemswapTableCache {
    MemswapGuestRead *read; /* a whole page */
    void *opaque;
    int64_t fresh_ns;       /* how long what was read serves */
    MemswapTable tables[MEMSWAP_TABLE_SETS][MEMSWAP_TABLE_WAYS];
} MemswapTableCache;

/**
 * memswap_table_read: as MemswapGuestRead, out of the cache if it can be
 * @now: ns, above 0
 *
 * One thread at a time.  What can't be read is asked for again the next time.
 */
int memswap_table_read(MemswapTableCache *cache, int64_t now,
                       uint64_t physical, void *buffer, size_t size);

#endif /* MEMSWAP_GUEST_TABLE_H */

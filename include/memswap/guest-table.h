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

#endif /* MEMSWAP_GUEST_TABLE_H */

/*
 * A walk through a guest's page tables, as x86-64 has them
 *
 * 4 or 5 levels; pages of 4 KiB, 2 MiB and 1 GiB.  Each level has 512 entries
 * of 8 bytes, chosen by 9 bits of the address; the lowest by bits 12-20.
 *
 * The tables are a guest's: they change under us, and may say anything.  So no
 * more is read than one entry a level, whatever the entries say, and what they
 * say is only ever an address to read from, which the reader checks, or the
 * result, which is a hint.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>

#include "memswap/guest-table.h"

#define ENTRY_PRESENT (UINT64_C(1) << 0)
/* The entry is a page's, not a table's. */
#define ENTRY_PAGE (UINT64_C(1) << 7)
/* A large page's address begins above it: bit 12 is about caching. */
#define LARGE_LOW UINT64_C(0x1000)

#define PAGE_SHIFT 12
#define LEVEL_BITS 9
#define LEVEL_MASK ((1u << LEVEL_BITS) - 1)
/* Up to here, an entry may be a page's. */
#define LEVEL_1G 3

static unsigned int level_shift(unsigned int level)
{
    return PAGE_SHIFT + LEVEL_BITS * (level - 1);
}

/* The bits above those that the tables translate are copies of the topmost. */
static int canonical(uint64_t address, unsigned int levels)
{
    unsigned int unused = 64 - level_shift(levels + 1);

    return (uint64_t)((int64_t)(address << unused) >> unused) == address;
}

int memswap_guest_walk(uint64_t root, uint64_t address, MemswapGuestRead *read,
                       void *opaque, uint64_t *physical, uint64_t *page_size)
{
    unsigned int level = root & MEMSWAP_GUEST_LEVELS;
    uint64_t table = root & MEMSWAP_GUEST_ADDRESS;
    uint64_t entry, size;

    if ((level != 4 && level != 5) || root != (table | level)) {
        return -EINVAL;
    }
    if (!canonical(address, level)) {
        return -EFAULT;
    }
    while (1) {
        unsigned int index = address >> level_shift(level) & LEVEL_MASK;
        int ret = read(opaque, table + index * sizeof(entry), &entry,
                       sizeof(entry));

        if (ret) {
            return ret;
        }
        if (!(entry & ENTRY_PRESENT)) {
            return -EFAULT;
        }
        table = entry & MEMSWAP_GUEST_ADDRESS;
        if (level == 1) {
            break;
        }
        if (entry & ENTRY_PAGE) {
            if (level > LEVEL_1G) {
                /* reserved */
                return -EFAULT;
            }
            table &= ~LARGE_LOW;
            break;
        }
        level--;
    }
    size = UINT64_C(1) << level_shift(level);
    if (table & (size - 1)) {
        /* reserved */
        return -EFAULT;
    }
    *physical = table | (address & (size - 1));
    if (page_size) {
        *page_size = size;
    }
    return 0;
}

/* The one with this page, or else whose place it is to take. */
static MemswapTable *find_table(MemswapTableCache *cache, uint64_t page)
{
    MemswapTable *set = cache->tables[page / MEMSWAP_TABLE_SIZE %
                                      MEMSWAP_TABLE_SETS];
    MemswapTable *found = &set[0];

    for (unsigned int i = 0; i < MEMSWAP_TABLE_WAYS; i++) {
        if (set[i].read_at && set[i].page == page) {
            return &set[i];
        }
        if (set[i].read_at < found->read_at) {
            found = &set[i];
        }
    }
    return found;
}

int memswap_table_read(MemswapTableCache *cache, int64_t now,
                       uint64_t physical, void *buffer, size_t size)
{
    uint64_t offset = physical % MEMSWAP_TABLE_SIZE;
    uint64_t page = physical - offset;
    MemswapTable *table = find_table(cache, page);

    if (!table->read_at || table->page != page ||
        now - table->read_at > cache->fresh_ns) {
        int ret = cache->read(cache->opaque, page, table->data,
                              MEMSWAP_TABLE_SIZE);

        table->page = page;
        table->read_at = ret ? 0 : now;
        if (ret) {
            return ret;
        }
    }
    memcpy(buffer, table->data + offset, size);
    return 0;
}

/*
 * memswap pool: one stored page in a segment
 *
 * The header has a short check of its own, because the compactor and drop()
 * need to know an entry's length without reading all of it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "pool-internal.h"

static uint64_t header_hash(const MemswapEntry *entry)
{
    const uint64_t fields[2] = {
        entry->owner,
        (uint64_t)entry->length << 8 | entry->codec,
    };

    return XXH3_64bits(fields, sizeof(fields));
}

void memswap_entry_init(MemswapEntry *entry, uint64_t owner,
                        MemswapEntryCodec codec, const void *bytes,
                        uint32_t length)
{
    uint64_t hash;

    entry->owner = owner;
    entry->length = length;
    entry->codec = codec;
    atomic_init(&entry->dead, 0);
    hash = header_hash(entry);
    entry->check = hash >> 48;
    entry->checksum = XXH3_64bits(bytes, length) ^ hash;
}

bool memswap_entry_header_ok(const MemswapEntry *entry, uint32_t room)
{
    return room >= sizeof(MemswapEntry) &&
           entry->length <= room - sizeof(MemswapEntry) &&
           entry->codec < MEMSWAP_ENTRY__MAX &&
           entry->check == header_hash(entry) >> 48;
}

bool memswap_entry_bytes_ok(const MemswapEntry *entry)
{
    return entry->checksum == (XXH3_64bits(entry->bytes, entry->length) ^
                               header_hash(entry));
}

/*
 * At which guest-virtual addresses pages were used lately
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "memswap/guest-notes.h"

/* Guest pages are of 4 KiB at least. */
#define PAGE 4096
#define PAGE_MASK (~(uint64_t)(PAGE - 1))

static uint64_t note_key(const void *host, bool user)
{
    return ((uintptr_t)host & PAGE_MASK) | user;
}

static MemswapGuestNote *note_of(MemswapGuestNotes *notes, uint64_t key)
{
    /* Neighbours get neighbouring places: 128 MiB don't collide. */
    uint64_t page = key / PAGE * 2 + (key & 1);

    return &notes->notes[(page ^ page >> MEMSWAP_NOTES_BITS) &
                         ((1 << MEMSWAP_NOTES_BITS) - 1)];
}

static void set(_Atomic uint64_t *field, uint64_t value)
{
    atomic_store_explicit(field, value, memory_order_relaxed);
}

static uint64_t get(_Atomic uint64_t *field)
{
    return atomic_load_explicit(field, memory_order_relaxed);
}

void memswap_notes_set(MemswapGuestNotes *notes, const void *host, bool user,
                       uint64_t root, uint64_t address)
{
    uint64_t key = note_key(host, user);
    MemswapGuestNote *note = note_of(notes, key);

    set(&note->page, key);
    set(&note->root, root);
    set(&note->address, address & PAGE_MASK);
}

bool memswap_notes_get(MemswapGuestNotes *notes, const void *host, bool user,
                       uint64_t *root, uint64_t *address)
{
    uint64_t key = note_key(host, user);
    MemswapGuestNote *note = note_of(notes, key);

    if (get(&note->page) != key) {
        return false;
    }
    *root = get(&note->root);
    *address = get(&note->address) | ((uintptr_t)host & (PAGE - 1));
    return true;
}

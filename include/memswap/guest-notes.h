/*
 * memswap: at which guest-virtual addresses pages were used lately
 *
 * A table of a fixed size, by a page's place in the host, where a page that is
 * noted later may take another's place.  Needs no engine, and nothing of QEMU.
 *
 * Notes are written and read without a lock, and may be torn: one thread's
 * address with another's root.  Who finds one checks it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_GUEST_NOTES_H
#define MEMSWAP_GUEST_NOTES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define MEMSWAP_NOTES_BITS 16

typedef struct MemswapGuestNote {
    _Atomic uint64_t page;  /* in the host, bit 0: the user part's; 0: none */
    _Atomic uint64_t root;
    _Atomic uint64_t address;
} MemswapGuestNote;

typedef struct MemswapGuestNotes {
    MemswapGuestNote notes[1 << MEMSWAP_NOTES_BITS];
} MemswapGuestNotes;

/**
 * memswap_notes_set: the page that @host lies in was used at an address
 * @user: by the guest's user mode, which is noted apart
 * @address: of the page; what is below 4 KiB is left out
 *
 * Any thread; a few stores.
 */
void memswap_notes_set(MemswapGuestNotes *notes, const void *host, bool user,
                       uint64_t root, uint64_t address);

/**
 * memswap_notes_get: what was noted last of the page
 * @address: set to that of the byte at @host
 *
 * Any thread.  Returns false if there is nothing, or no more.
 */
bool memswap_notes_get(MemswapGuestNotes *notes, const void *host, bool user,
                       uint64_t *root, uint64_t *address);

#endif /* MEMSWAP_GUEST_NOTES_H */

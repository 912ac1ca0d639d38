/*
 * memswap inside QEMU: the table of who holds guest RAM
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_QEMU_PINS_H
#define MEMSWAP_QEMU_PINS_H

#include "qapi/qapi-types-memswap.h"

/* One map that is outstanding. */
typedef struct MemswapHeld {
    void *key;          /* what undoes it: @host, or a queue's cache */
    void *host;
    uint64_t size;
    /* the device, or its address space, which may be gone: never followed */
    const void *who;
    int64_t since;      /* ns, see memswap_held_clock() */
    MemswapPinUse use;
    bool pinned;        /* false: there was no need, or it couldn't be */
    /* which of its pages are not, all the same: their addresses; or NULL */
    GArray *lost;
    uint64_t page_size; /* of these */
    struct MemswapHeld *next;
} MemswapHeld;

/*
 * pin-table.c.  Any thread.  Its locks are leaves, held for a few instructions:
 * pins are taken before and released after.
 */

/* The time, at a resolution of some ms; cheap. */
int64_t memswap_held_clock(void);
/* Add an entry, of which @next doesn't count. */
void memswap_held_add(const MemswapHeld *map);
/*
 * Take out the entry with this key.  Of several, nobody can tell which is
 * meant; the shortest goes: the longer ones still cover its pages, so that
 * whoever is left keeps what it uses.  False if there is none.
 */
bool memswap_held_take(void *key, MemswapHeld *map);
/*
 * The same by a part of what was mapped, the end of it most likely.  False if
 * there is none, or if it can't be told which.
 */
bool memswap_held_take_around(void *host, uint64_t size, MemswapHeld *map);
/* All entries there are now, to be freed by g_array_unref(). */
GArray *memswap_held_list(void);
/* The same, and they are taken out. */
GArray *memswap_held_take_all(void);

/* pins.c */

/* Does this QEMU look for leaks?  A debug build does, or if told to. */
bool memswap_pins_checked(void);
/* Say so and abort. */
G_NORETURN void memswap_pins_leaked(const MemswapHeld *map);

/* pin-holders.c */

/* The device's path, to be freed; NULL if it isn't known, or is gone. */
char *memswap_holder_name(const void *who);

#endif /* MEMSWAP_QEMU_PINS_H */

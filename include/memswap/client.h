/*
 * memswap for device processes: pin the guest memory that is in use
 *
 * A device process, a vhost-user backend for instance, has guest memory mapped
 * of which pages may be out.  Before it touches a page, or hands it to the
 * kernel, it pins it.  docs/interop/vhost-user-memswap.rst has the rules; this
 * is what is exchanged, and a small library that keeps to them, in
 * memswap/client/.  It needs neither QEMU nor GLib.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_CLIENT_H
#define MEMSWAP_CLIENT_H

#include <stdint.h>

/* --- what is exchanged ------------------------------------------------- */

/* A bit of the protocol features of vhost-user. */
#define MEMSWAP_VHOST_USER_F_PINS 48
/* A request of the front-end's; its payload is a MemswapTableMessage. */
#define MEMSWAP_VHOST_USER_SET_TABLE 1000

typedef struct MemswapTableMessage {
    uint64_t guest_address;
    uint64_t size;          /* bytes */
    uint64_t page_size;     /* bytes; a power of two */
    uint64_t file;          /* number of the file that comes with it */
    uint64_t offset;        /* in it, of the first page's word; bytes */
} MemswapTableMessage;

/* A page's word: how often it is pinned; and whether it is in. */
#define MEMSWAP_CLIENT_COUNT 0x7fffffffu
#define MEMSWAP_CLIENT_IN    0x80000000u

#define MEMSWAP_CLIENT_PIN 1
/* Words in one request, at most; and so ranges of them. */
#define MEMSWAP_CLIENT_MAX_WORDS 512

typedef struct MemswapClientRange {
    uint32_t file;
    uint32_t words;         /* at least one */
    uint64_t offset;        /* bytes, of the first word */
} MemswapClientRange;

/* Ranges follow, as many as are in the packet. */
typedef struct MemswapClientRequest {
    uint32_t code;          /* MEMSWAP_CLIENT_PIN */
    uint32_t flags;         /* MEMSWAP_CLIENT_... */
} MemswapClientRequest;

/* Refuse with -ENOBUFS if more would be pinned, by anybody, than is to be. */
#define MEMSWAP_CLIENT_BOUNDED 1u
/* Or if this process alone would pin more. */
#define MEMSWAP_CLIENT_BOUNDED_OWN 2u

typedef struct MemswapClientReply {
    uint32_t code;
    int32_t error;          /* 0 or a negative errno */
} MemswapClientReply;

/* --- the library ------------------------------------------------------- */

/* What one connection to a front-end has.  NULL is one without tables. */
typedef struct MemswapPins MemswapPins;

/**
 * memswap_pins_new: for a new connection
 *
 * Returns NULL for want of memory.
 */
MemswapPins *memswap_pins_new(void);

/**
 * memswap_pins_free: at the end of a connection
 *
 * Nobody may use @pins any more.  What is pinned still is the front-end's to
 * release.
 */
void memswap_pins_free(MemswapPins *pins);

/**
 * memswap_pins_set_table: the front-end sent a table
 * @message: its payload; need not be aligned
 * @size: of the payload, in bytes
 * @table: the file that came with it; closed in any case
 * @channel: likewise
 *
 * By one thread at a time; others may pin meanwhile.  Returns 0; -EINVAL for
 * what breaks the rules, -ENOMEM, or what mmap() failed with.
 */
int memswap_pins_set_table(MemswapPins *pins, const void *message,
                           uint64_t size, int table, int channel);

/**
 * memswap_pins_end_table: the front-end took a region of memory away
 *
 * The one whose first address is @guest_address, if that has a table.  Returns
 * 0 or -ENOMEM.  Threads as for memswap_pins_set_table().
 */
int memswap_pins_end_table(MemswapPins *pins, uint64_t guest_address);

/**
 * memswap_pins_end_others: the front-end gave all regions of memory anew
 *
 * Those whose table was not set since the last time have none any more.
 * Returns 0 or -ENOMEM.  Threads as for memswap_pins_set_table().
 */
int memswap_pins_end_others(MemswapPins *pins);

/**
 * memswap_pin_guest: make guest memory usable, and keep it so
 * @address: guest physical, of the first byte
 * @size: bytes
 *
 * From any thread.  Costs an atomic addition for each page that is in; else
 * it waits until the front-end has brought it in.  Pins nest.  What no table
 * covers is skipped.
 *
 * Returns 0, or a negative errno with nothing pinned: -EIO for a page that is
 * lost; -EPIPE if the front-end is gone; -ENOMEM.
 */
int memswap_pin_guest(MemswapPins *pins, uint64_t address, uint64_t size);

/**
 * memswap_unpin_guest: undo one memswap_pin_guest() of the same range
 *
 * After the last access, the kernel's included.  From any thread; never waits.
 * It looks for the words in the tables as they are now: no table may have been
 * set or ended since the pin.  Who can't say so has MemswapHeldPins for that.
 */
void memswap_unpin_guest(MemswapPins *pins, uint64_t address, uint64_t size);

/*
 * Pins that somebody holds, or is about to ask for.  Regions may come and go
 * meanwhile: it says which words the pins are in, not which memory they are
 * for.  All zero to begin with, and empty again after memswap_unpin_held();
 * @parts is to be freed.
 */
typedef struct MemswapHeldPart {
    void *words;
    uint64_t n;
    uint64_t offset;        /* of the first word in the file, in bytes */
    uint32_t file;
    uint32_t out;           /* not pinned yet: to be asked for */
} MemswapHeldPart;

typedef struct MemswapHeldPins {
    MemswapHeldPart *parts;
    unsigned int n, room;
} MemswapHeldPins;

/**
 * memswap_pin_present: pin what is in of guest memory, and note all of it
 * @address: guest physical, of the first byte
 * @size: bytes
 *
 * Never waits.  Nothing is usable before memswap_pin_absent(), which comes
 * after the last part of what is needed together.  One thread at a time for
 * each @held.
 *
 * Returns 0; or -ENOMEM, after which all of it is to be undone.
 */
int memswap_pin_present(MemswapPins *pins, uint64_t address, uint64_t size,
                        MemswapHeldPins *held);

/**
 * memswap_pin_absent: have what is out of @held brought in, and pin it
 * @flags: MEMSWAP_CLIENT_BOUNDED...
 *
 * Asks once for all of it, if that is not very much.  Waits, and fails, like
 * memswap_pin_guest(), and with flags with -ENOBUFS: it may be tried again when
 * something was unpinned.  If it fails @held is empty, and nothing pinned.
 */
int memswap_pin_absent(MemswapPins *pins, uint32_t flags,
                       MemswapHeldPins *held);

/**
 * memswap_unpin_held: undo all that is noted in @held
 *
 * What is out is only forgotten.  As memswap_unpin_guest(), and before
 * memswap_pins_free().
 */
void memswap_unpin_held(MemswapHeldPins *held);

#endif /* MEMSWAP_CLIENT_H */

/*
 * A device process for tests: really another one, which does as it is told
 *
 * It maps the harness's RAM and pins what it touches, by the library that such
 * processes use.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_DEVICE_H
#define TEST_DEVICE_H

#include "harness.h"
#include "memswap/client.h"

typedef struct Device Device;

typedef enum DeviceOrder {
    DEVICE_PIN,         /* pages [page, page + n) */
    DEVICE_UNPIN,
    DEVICE_READ,        /* the page's first 8 bytes, without a pin */
    DEVICE_WRITE,       /* page_build() with number @n, without a pin */
    DEVICE_CHURN,       /* add to the counters of pages, @n requests */
} DeviceOrder;

/* Each page has a counter of the device's there, for DEVICE_CHURN. */
#define DEVICE_COUNTER 2048
/* A request of DEVICE_CHURN is for pages in so many places. */
#define DEVICE_PARTS 3

/* Of a harness without other devices; its RAM starts at address 0. */
Device *device_new(Harness *h);
/* Have it done, and wait for that.  Returns a negative errno, or the result. */
int64_t device_do(Device *device, DeviceOrder order, uint64_t page,
                  uint64_t n);
/* The same in two parts. */
void device_order(Device *device, DeviceOrder order, uint64_t page,
                  uint64_t n);
int64_t device_result(Device *device);
/* Returns once it waits for an answer over the channel. */
void device_wait_asks(Device *device);
/* Its table's word for a page. */
uint32_t device_word(Device *device, uint64_t page);
MemswapClient *device_client(Device *device);
/* kill -9, and its pins are forgotten. */
void device_kill(Device *device);

/* memswap_client_pin() of one range. */
static inline int pin_words(MemswapClient *client, uint32_t file,
                            uint64_t offset, uint32_t words, uint32_t flags)
{
    MemswapClientRange range = {
        .file = file, .words = words, .offset = offset,
    };

    return memswap_client_pin(client, &range, 1, flags);
}

#endif /* TEST_DEVICE_H */

/*
 * memswap: a virtio device in a qtest, and its driver, which is us
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_DRIVER_H
#define MEMSWAP_DRIVER_H

#include "libqos/libqos-pc.h"
#include "libqos/virtio.h"
#include "libqos/virtio-pci.h"
#include "memswap-util.h"

typedef struct Driver {
    QTestState *qts;
    QGuestAllocator alloc;
    QPCIBus *bus;
    QVirtioPCIDevice *pci;
    QVirtioDevice *device;
} Driver;

/*
 * Start QEMU with these arguments of its own and of -memswap, in the fault
 * mode of the test, and negotiate with the device, which must be in slot 4.
 */
void driver_start(Driver *driver, const char *memswap, const char *args);
void driver_end(Driver *driver);

/* Reset the device, and negotiate again; its queues have to be removed. */
void driver_reset(Driver *driver);

QVirtQueue *driver_add_queue(Driver *driver, uint16_t index);
void driver_remove_queue(Driver *driver, QVirtQueue *queue);

/* Make what was added from @head on known, and wait until it is used. */
void driver_submit(Driver *driver, QVirtQueue *queue, uint32_t head);

/*
 * Add one request to a virtio-blk device; the header and the data of a write
 * may be one.
 */
uint32_t driver_add_request(Driver *driver, QVirtQueue *queue, uint32_t type,
                            uint64_t addr, uint64_t size, bool together);

/*
 * What query-memswap says of what is pinned for one use, and of one device if
 * its path contains @device.  NULL if there is nothing.
 */
QDict *holder(QTestState *qts, const char *device, const char *use);

/* How many bytes that are. */
uint64_t held(QTestState *qts, const char *device, const char *use);

void expect_nothing_pinned(QTestState *qts);

#endif /* MEMSWAP_DRIVER_H */

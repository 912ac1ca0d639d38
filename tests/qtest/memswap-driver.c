/*
 * memswap: a virtio device in a qtest, and its driver, which is us
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libqos/malloc-pc.h"
#include "libqos/pci-pc.h"
#include "memswap-driver.h"

static void negotiate(Driver *driver)
{
    uint64_t features;

    qvirtio_start_device(driver->device);
    features = qvirtio_get_features(driver->device);
    features &= ~(QVIRTIO_F_BAD_FEATURE | (1ull << VIRTIO_RING_F_EVENT_IDX) |
                  (1ull << VIRTIO_RING_F_INDIRECT_DESC));
    qvirtio_set_features(driver->device, features);
}

void driver_start(Driver *driver, const char *memswap, const char *args)
{
    QPCIAddress address = { .devfn = QPCI_DEVFN(4, 0) };
    QTestState *qts = qtest_initf("%s -nodefaults -memswap %s,fault-mode=%s",
                                  args, memswap, fault_mode);

    driver->qts = qts;
    pc_alloc_init(&driver->alloc, qts, 0);
    driver->bus = qpci_new_pc(qts, &driver->alloc);
    driver->pci = virtio_pci_new(driver->bus, &address);
    g_assert_nonnull(driver->pci);
    driver->device = &driver->pci->vdev;
    qvirtio_pci_device_enable(driver->pci);
    negotiate(driver);
}

void driver_reset(Driver *driver)
{
    qvirtio_reset(driver->device);
    negotiate(driver);
}

void driver_end(Driver *driver)
{
    qvirtio_pci_device_disable(driver->pci);
    qos_object_destroy((QOSGraphObject *)driver->pci);
    qpci_free_pc(driver->bus);
    alloc_destroy(&driver->alloc);
    qtest_quit(driver->qts);
}

QVirtQueue *driver_add_queue(Driver *driver, uint16_t index)
{
    return qvirtqueue_setup(driver->device, &driver->alloc, index);
}

void driver_remove_queue(Driver *driver, QVirtQueue *queue)
{
    qvirtqueue_cleanup(driver->device->bus, queue, &driver->alloc);
}

void driver_submit(Driver *driver, QVirtQueue *queue, uint32_t head)
{
    qvirtqueue_kick(driver->qts, driver->device, queue, head);
    qvirtio_wait_used_elem(driver->qts, driver->device, queue, head, NULL,
                           PATIENCE_US);
}

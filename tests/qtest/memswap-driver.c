/*
 * memswap: a virtio device in a qtest, and its driver, which is us
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libqos/malloc-pc.h"
#include "libqos/pci-pc.h"
#include "qemu/bswap.h"
#include "qobject/qlist.h"
#include "standard-headers/linux/virtio_blk.h"
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

uint32_t driver_add_request(Driver *driver, QVirtQueue *queue, uint32_t type,
                            uint64_t addr, uint64_t size, bool together)
{
    QTestState *qts = driver->qts;
    struct virtio_blk_outhdr header = { .type = cpu_to_le32(type) };
    bool write = type == VIRTIO_BLK_T_OUT;
    uint64_t at = together ? addr - sizeof(header) : addr - PAGE;
    uint32_t head;

    qtest_bufwrite(qts, at, &header, sizeof(header));
    head = qvirtqueue_add(qts, queue, at, sizeof(header) +
                          (together ? size : 0), false, true);
    if (!together) {
        qvirtqueue_add(qts, queue, addr, size, !write, true);
    }
    qvirtqueue_add(qts, queue, addr + size, 1, true, false);
    return head;
}

QDict *holder(QTestState *qts, const char *device, const char *use)
{
    g_autoptr(QDict) info = query(qts);
    QDict *pins = qdict_get_qdict(info, "pins");
    const QListEntry *entry;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(pins, "holders"), entry) {
        QDict *one = qobject_to(QDict, qlist_entry_obj(entry));
        const char *path = qdict_get_try_str(one, "device");

        if (g_str_equal(qdict_get_str(one, "use"), use) &&
            (!device || (path && strstr(path, device)))) {
            return qobject_ref(one);
        }
    }
    return NULL;
}

uint64_t held(QTestState *qts, const char *device, const char *use)
{
    g_autoptr(QDict) one = holder(qts, device, use);

    return one ? qdict_get_int(one, "bytes") : 0;
}

void expect_nothing_pinned(QTestState *qts)
{
    expect_soon(qts, "memory", "pinned", 0);
    g_assert_null(holder(qts, NULL, "io"));
    g_assert_null(holder(qts, NULL, "queues"));
    g_assert_null(holder(qts, NULL, "buffers"));
    expect_sums(qts);
}

/*
 * memswap: DMA of devices that is not pinned whole: it goes in pieces, or waits
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libqos/ahci.h"
#include "hw/pci/pci_regs.h"
#include "standard-headers/linux/virtio_blk.h"
#include "memswap-driver.h"

#define SECTOR 512

/* Guest RAM out of the way of the driver's own. */
#define BASE (64 * MIB)

#define LARGE (3 * MIB)

/*
 * What may not be pinned whole goes piece by piece; also where a piece that can
 * be had ends within a sector.
 */
static void pieces(void)
{
    /* the memory of one entry of the guest's list; 0: as large as can be */
    static const unsigned int piece[] = { 0, 1022, 510, 70000 };
    g_autofree uint8_t *data = g_malloc(LARGE);
    g_autofree uint8_t *back = g_malloc0(LARGE);
    g_autofree char *path = NULL;
    AHCIQState ahci = { 0 };
    uint64_t refused;
    QTestState *qts;
    uint8_t port;
    char *disk;
    gsize size;
    int fd = g_file_open_tmp("memswap-XXXXXX", &path, NULL);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, 2 * LARGE), ==, 0);
    close(fd);
    ahci.parent = qtest_pc_boot("-M q35 -m 128M -nodefaults -memswap"
                                " limit=16M,pin-limit=256K,fault-mode=%s"
                                " -blockdev file,node-name=disk,filename=%s"
                                " -device ide-hd,drive=disk", fault_mode,
                                path);
    qts = ahci.parent->qts;
    ahci.dev = get_ahci_device(qts, &ahci.fingerprint);
    ahci_pci_enable(&ahci);
    ahci_hba_enable(&ahci);
    port = ahci_port_select(&ahci);
    ahci_port_clear(&ahci, port);

    for (uint64_t at = 0; at < LARGE; at += PAGE) {
        make_page(data + at, at, CONTENT_RANDOM, 5);
    }
    for (int i = 0; i < ARRAY_SIZE(piece); i++) {
        AHCIOpts opts = {
            .size = LARGE, .lba = 1, .prd_size = piece[i],
            .buffer = ahci_alloc(&ahci, LARGE),
        };

        refused = number(qts, "pins", "refused");
        qtest_bufwrite(qts, opts.buffer, data, LARGE);
        ahci_exec(&ahci, port, CMD_WRITE_DMA_EXT, &opts);
        g_assert_cmpuint(number(qts, "pins", "refused"), >, refused);
        qtest_memset(qts, opts.buffer, 0, LARGE);
        reclaim(qts, 128 * MIB);
        refused = number(qts, "pins", "refused");
        ahci_exec(&ahci, port, CMD_READ_DMA_EXT, &opts);
        g_assert_cmpuint(number(qts, "pins", "refused"), >, refused);
        qtest_bufread(qts, opts.buffer, back, LARGE);
        g_assert_cmpint(memcmp(data, back, LARGE), ==, 0);
        g_assert_cmpuint(number(qts, "memory", "pinned"), <=, 128 * 1024);
        /* what is on the disk is right, too */
        g_assert_true(g_file_get_contents(path, &disk, &size, NULL));
        g_assert_cmpint(memcmp(data, disk + SECTOR, LARGE), ==, 0);
        g_free(disk);
        ahci_free(&ahci, opts.buffer);
        memset(data, i + 1, PAGE);
    }

    ahci_clean_mem(&ahci);
    free_ahci_device(ahci.dev);
    qtest_shutdown(ahci.parent);
    unlink(path);
}

/*
 * What can't be pinned at all, since others have it, waits for them: without a
 * retry that is in vain.
 */
static void waits(void)
{
    /* with what both devices keep, more than 192 KiB */
    const uint64_t taken = 36 * PAGE, size = 64 * PAGE;
    g_autofree uint8_t *data = g_malloc0(size);
    QOSState parent = { 0 };
    AHCIQState ahci = { .parent = &parent };
    Driver driver;
    QVirtQueue *queue;
    QTestState *qts;
    uint32_t head;
    uint8_t port;

    driver_start(&driver, "limit=16M,pin-limit=256K", "-m 128M"
                 " -blockdev null-co,node-name=slow,size=16777216,"
                 "latency-ns=1500000000"
                 " -device virtio-blk-pci,id=disk0,addr=4.0,drive=slow"
                 " -device ich9-ahci,id=ahci,addr=1f.2"
                 " -blockdev null-co,node-name=fast,size=16777216,"
                 "read-zeroes=on -device ide-hd,bus=ahci.0,drive=fast");
    qts = driver.qts;
    parent.qts = qts;
    alloc_init(&parent.alloc, 0, BASE + 16 * MIB, BASE + 32 * MIB, PAGE);
    queue = driver_add_queue(&driver, 0);
    qvirtio_set_driver_ok(driver.device);
    ahci.dev = qpci_device_find(driver.bus, QPCI_DEVFN(0x1f, 2));
    g_assert_nonnull(ahci.dev);
    ahci.fingerprint = qpci_config_readl(ahci.dev, PCI_VENDOR_ID);
    ahci_pci_enable(&ahci);
    ahci_hba_enable(&ahci);
    port = ahci_port_select(&ahci);
    ahci_port_clear(&ahci, port);

    head = driver_add_request(&driver, queue, VIRTIO_BLK_T_OUT, BASE, taken,
                              false);
    qvirtqueue_kick(qts, driver.device, queue, head);
    while (held(qts, "disk0", "io") < taken) {
        g_usleep(1000);
    }
    g_assert_cmpuint(number(qts, "memory", "pinned"), >, 192 * 1024);
    memset(data, 1, size);
    ahci_io(&ahci, port, CMD_READ_DMA_EXT, data, size, 1);
    for (uint64_t i = 0; i < size; i++) {
        g_assert_cmpint(data[i], ==, 0);
    }
    qvirtio_wait_used_elem(qts, driver.device, queue, head, NULL,
                           PATIENCE_US);
    /* the whole of it, its first piece, and perhaps once more for either */
    g_assert_cmpuint(number(qts, "pins", "refused"), >, 0);
    g_assert_cmpuint(number(qts, "pins", "refused"), <=, 20);
    g_assert_null(holder(qts, "disk0", "io"));

    ahci_clean_mem(&ahci);
    g_free(ahci.dev);
    alloc_destroy(&parent.alloc);
    qvirtio_reset(driver.device);
    driver_remove_queue(&driver, queue);
    driver_end(&driver);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_in_both_modes("memswap/dma/pieces", pieces);
    add_in_both_modes("memswap/dma/waits", waits);
    return g_test_run();
}

/*
 * memswap: a machine with little left to pin, since a slow disk has the rest
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/pci/pci_regs.h"
#include "standard-headers/linux/virtio_blk.h"
#include "memswap-machine.h"

/* The disk's geometry is given, so that nobody waits until it is guessed. */
void machine_start(Machine *machine, const char *args)
{
    Driver *driver = &machine->driver;
    AHCIQState *ahci = &machine->ahci;
    g_autofree char *all = g_strdup_printf(
        "-m 128M -blockdev null-co,node-name=slow,size=16777216,"
        "latency-ns=5000000000"
        " -device virtio-blk-pci,id=disk0,addr=4.0,drive=slow,cyls=1,heads=1,"
        "secs=1"
        " -device ich9-ahci,id=ahci,addr=1f.2"
        " -blockdev null-co,node-name=fast,size=16777216,read-zeroes=on %s",
        args);

    memset(machine, 0, sizeof(*machine));
    driver_start(driver, "limit=16M,pin-limit=256K", all);
    machine->queue = driver_add_queue(driver, 0);
    qvirtio_set_driver_ok(driver->device);
    machine->parent.qts = driver->qts;
    alloc_init(&machine->parent.alloc, 0, BASE + 16 * MIB, BASE + 32 * MIB,
               PAGE);
    ahci->parent = &machine->parent;
    ahci->dev = qpci_device_find(driver->bus, QPCI_DEVFN(0x1f, 2));
    g_assert_nonnull(ahci->dev);
    ahci->fingerprint = qpci_config_readl(ahci->dev, PCI_VENDOR_ID);
    ahci_pci_enable(ahci);
    ahci_hba_enable(ahci);
}

void machine_take(Machine *machine)
{
    QTestState *qts = machine->driver.qts;

    /* a read: after a write there would be a flush at the end, as slow */
    machine->head = driver_add_request(&machine->driver, machine->queue,
                                       VIRTIO_BLK_T_IN, BASE, TAKEN, false);
    qvirtqueue_kick(qts, machine->driver.device, machine->queue,
                    machine->head);
    wait_until(held(qts, "disk0", "io") >= TAKEN);
    machine->refused = number(qts, "pins", "refused");
    machine->pinned = number(qts, "memory", "pinned");
    g_assert_cmpuint(machine->pinned, >, 192 * 1024);
}

void machine_expect_waiting(Machine *machine)
{
    QTestState *qts = machine->driver.qts;

    wait_until(number(qts, "pins", "refused") != machine->refused);
    g_assert_cmpuint(number(qts, "pins", "refused"), <=,
                     machine->refused + 20);
    g_assert_cmpuint(number(qts, "memory", "pinned"), ==, machine->pinned);
    g_assert_cmpuint(held(qts, "disk0", "io"), >=, TAKEN);
}

void machine_wait_taken(Machine *machine)
{
    qvirtio_wait_used_elem(machine->driver.qts, machine->driver.device,
                           machine->queue, machine->head, NULL, PATIENCE_US);
}

void machine_end(Machine *machine)
{
    Driver *driver = &machine->driver;

    ahci_clean_mem(&machine->ahci);
    g_free(machine->ahci.dev);
    alloc_destroy(&machine->parent.alloc);
    driver_remove_queue(driver, machine->queue);
    driver_end(driver);
}

void machine_stop(Machine *machine)
{
    for (int port = 0; port < PORTS; port++) {
        ahci_px_clr(&machine->ahci, port, AHCI_PX_CMD, AHCI_PX_CMD_ST);
        ahci_px_clr(&machine->ahci, port, AHCI_PX_CMD, AHCI_PX_CMD_FRE);
    }
    qvirtio_reset(machine->driver.device);
    expect_nothing_pinned(machine->driver.qts);
}

void expect_running(QTestState *qts)
{
    g_autoptr(QDict) response = qtest_qmp(qts,
                                          "{ 'execute': 'query-status' }");

    g_assert_cmpstr(qdict_get_str(qdict_get_qdict(response, "return"),
                                  "status"), ==, "running");
}

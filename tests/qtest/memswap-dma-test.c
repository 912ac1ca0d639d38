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

/* --- devices that wait for one that has what they need ------------------ */

/* With what both devices keep, more than 192 KiB. */
#define TAKEN (36 * PAGE)

#define SIZE (64 * PAGE)

typedef struct Machine {
    Driver driver;          /* of the device that takes */
    QVirtQueue *queue;
    uint32_t head;
    QOSState parent;
    AHCIQState ahci;
    uint8_t port;
    uint64_t refused, pinned;
} Machine;

/* The disk's geometry is given, so that nobody waits until it is guessed. */
static void start(Machine *machine, const char *args)
{
    Driver *driver = &machine->driver;
    AHCIQState *ahci = &machine->ahci;
    g_autofree char *all = g_strdup_printf(
        "-m 128M -blockdev null-co,node-name=slow,size=16777216,"
        "latency-ns=1500000000"
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

/* Take most of what may be pinned, for a while. */
static void take(Machine *machine)
{
    QTestState *qts = machine->driver.qts;

    machine->head = driver_add_request(&machine->driver, machine->queue,
                                       VIRTIO_BLK_T_OUT, BASE, TAKEN, false);
    qvirtqueue_kick(qts, machine->driver.device, machine->queue,
                    machine->head);
    while (held(qts, "disk0", "io") < TAKEN) {
        g_usleep(1000);
    }
    machine->refused = number(qts, "pins", "refused");
    machine->pinned = number(qts, "memory", "pinned");
    g_assert_cmpuint(machine->pinned, >, 192 * 1024);
}

/* What was asked for since then gets nothing yet, and seldom tries to. */
static void expect_waiting(Machine *machine)
{
    QTestState *qts = machine->driver.qts;

    while (number(qts, "pins", "refused") == machine->refused) {
        g_usleep(1000);
    }
    g_assert_cmpuint(number(qts, "pins", "refused"), <=,
                     machine->refused + 20);
    g_assert_cmpuint(number(qts, "memory", "pinned"), ==, machine->pinned);
    g_assert_cmpuint(held(qts, "disk0", "io"), >=, TAKEN);
}

static void wait_taken(Machine *machine)
{
    qvirtio_wait_used_elem(machine->driver.qts, machine->driver.device,
                           machine->queue, machine->head, NULL, PATIENCE_US);
}

static void end(Machine *machine)
{
    Driver *driver = &machine->driver;

    ahci_clean_mem(&machine->ahci);
    g_free(machine->ahci.dev);
    alloc_destroy(&machine->parent.alloc);
    driver_remove_queue(driver, machine->queue);
    driver_end(driver);
}

/* The guest sees to it that no device has anything. */
static void stop_all(Machine *machine)
{
    for (int port = 0; port < 6; port++) {
        ahci_px_clr(&machine->ahci, port, AHCI_PX_CMD, AHCI_PX_CMD_ST);
        ahci_px_clr(&machine->ahci, port, AHCI_PX_CMD, AHCI_PX_CMD_FRE);
    }
    qvirtio_reset(machine->driver.device);
    expect_nothing_pinned(machine->driver.qts);
}

/* --- AHCI -------------------------------------------------------------- */

#define AHCI_DISK "-device ide-hd,bus=ahci.0,drive=fast"

static void select_port(Machine *machine)
{
    machine->port = ahci_port_select(&machine->ahci);
    ahci_port_clear(&machine->ahci, machine->port);
}

static int waiting(AHCIQState *ahci, AHCICommand *cmd, const AHCIOpts *opts)
{
    expect_waiting(opts->opaque);
    return 0;
}

/* All memory is one entry of the list: no small part of it can be had. */
static void expect_to_read(Machine *machine, bool waits)
{
    QTestState *qts = machine->driver.qts;
    AHCIOpts opts = {
        .size = SIZE, .lba = 1, .prd_size = SIZE,
        .buffer = ahci_alloc(&machine->ahci, SIZE),
        .mid_cb = waits ? waiting : NULL, .opaque = machine,
    };

    fill(qts, opts.buffer, SIZE, CONTENT_RANDOM, 1);
    ahci_exec(&machine->ahci, machine->port, CMD_READ_DMA_EXT, &opts);
    check(qts, opts.buffer, SIZE, CONTENT_ZERO, 0);
    ahci_free(&machine->ahci, opts.buffer);
}

/*
 * What can't be pinned at all, since others have it, waits for them: without a
 * retry that is in vain.
 */
static void waits(void)
{
    Machine machine;
    QTestState *qts;

    start(&machine, AHCI_DISK);
    qts = machine.driver.qts;
    select_port(&machine);
    take(&machine);
    expect_to_read(&machine, true);
    wait_taken(&machine);
    g_assert_cmpuint(number(qts, "pins", "refused"), <=, 20);
    g_assert_null(holder(qts, "disk0", "io"));
    stop_all(&machine);
    end(&machine);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_in_both_modes("memswap/dma/pieces", pieces);
    add_in_both_modes("memswap/dma/waits", waits);
    return g_test_run();
}

/*
 * memswap: DMA of devices that is not pinned whole: it goes in pieces, or waits
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libqos/ahci.h"
#include "block/nvme.h"
#include "hw/pci/pci_regs.h"
#include "qemu/bswap.h"
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

/* To be called again and again, until what is waited for has come. */
static void pause_until(int64_t until)
{
    g_assert_cmpint(g_get_monotonic_time(), <, until);
    g_usleep(1000);
}

/* With what both devices keep, more than 192 KiB. */
#define TAKEN (36 * PAGE)

#define SIZE (64 * PAGE)

/* What an entry of IDE's list is for, and can be had at once. */
#define ENTRY (64 * 1024)

/* Of AHCI; each has a page pinned, and one that is used another. */
#define PORTS 6

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

/*
 * Take most of what may be pinned, for a while: until the disk is done, what is
 * to be seen while others wait has to be seen.
 */
static void take(Machine *machine)
{
    int64_t until = g_get_monotonic_time() + PATIENCE_US;
    QTestState *qts = machine->driver.qts;

    /* a read: after a write there would be a flush at the end, as slow */
    machine->head = driver_add_request(&machine->driver, machine->queue,
                                       VIRTIO_BLK_T_IN, BASE, TAKEN, false);
    qvirtqueue_kick(qts, machine->driver.device, machine->queue,
                    machine->head);
    while (held(qts, "disk0", "io") < TAKEN) {
        pause_until(until);
    }
    machine->refused = number(qts, "pins", "refused");
    machine->pinned = number(qts, "memory", "pinned");
    g_assert_cmpuint(machine->pinned, >, 192 * 1024);
}

/* What was asked for since then gets nothing yet, and seldom tries to. */
static void expect_waiting(Machine *machine)
{
    int64_t until = g_get_monotonic_time() + PATIENCE_US;
    QTestState *qts = machine->driver.qts;

    while (number(qts, "pins", "refused") == machine->refused) {
        pause_until(until);
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
    for (int port = 0; port < PORTS; port++) {
        ahci_px_clr(&machine->ahci, port, AHCI_PX_CMD, AHCI_PX_CMD_ST);
        ahci_px_clr(&machine->ahci, port, AHCI_PX_CMD, AHCI_PX_CMD_FRE);
    }
    qvirtio_reset(machine->driver.device);
    expect_nothing_pinned(machine->driver.qts);
}

/* It is no error, for which the VM would stop. */
static void expect_running(QTestState *qts)
{
    g_autoptr(QDict) response = qtest_qmp(qts,
                                          "{ 'execute': 'query-status' }");

    g_assert_cmpstr(qdict_get_str(qdict_get_qdict(response, "return"),
                                  "status"), ==, "running");
}

/* --- AHCI -------------------------------------------------------------- */

#define AHCI_DISK "-device ide-hd,bus=ahci.0,drive=fast,rerror=stop"

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

/* Have a read wait; its memory is the caller's to free. */
static uint64_t wait_to_read(Machine *machine, uint8_t command)
{
    uint64_t buffer = ahci_alloc(&machine->ahci, SIZE);
    AHCICommand *cmd = ahci_command_create(command);
    int busy = command == READ_FPDMA_QUEUED ? AHCI_PX_SACT : AHCI_PX_CI;

    ahci_command_adjust(cmd, 1, buffer, SIZE, SIZE);
    ahci_command_commit(&machine->ahci, cmd, machine->port);
    ahci_command_issue_async(&machine->ahci, cmd);
    ahci_command_free(cmd);
    expect_waiting(machine);
    g_assert_cmphex(ahci_px_rreg(&machine->ahci, machine->port, busy), !=, 0);
    return buffer;
}

/* The guest need not wait for it: it resets the port, or stops its engine. */
static void cancelled(uint8_t command, bool reset)
{
    Machine machine;
    AHCIQState *ahci = &machine.ahci;
    QTestState *qts;
    uint64_t buffer;

    start(&machine, AHCI_DISK);
    qts = machine.driver.qts;
    select_port(&machine);
    take(&machine);
    buffer = wait_to_read(&machine, command);
    if (reset) {
        ahci_px_wreg(ahci, machine.port, AHCI_PX_SCTL, 1);
        ahci_px_wreg(ahci, machine.port, AHCI_PX_SCTL, 0);
    }
    ahci_px_clr(ahci, machine.port, AHCI_PX_CMD, AHCI_PX_CMD_ST);
    g_assert_cmphex(ahci_px_rreg(ahci, machine.port, AHCI_PX_CI), ==, 0);
    g_assert_cmphex(ahci_px_rreg(ahci, machine.port, AHCI_PX_SACT), ==, 0);
    /* the list of commands isn't mapped any more */
    g_assert_cmpuint(number(qts, "memory", "pinned"), ==,
                     machine.pinned - PAGE);
    g_assert_cmpuint(held(qts, "disk0", "io"), >=, TAKEN);
    expect_running(qts);

    ahci_px_set(ahci, machine.port, AHCI_PX_CMD, AHCI_PX_CMD_ST);
    ahci_port_clear(ahci, machine.port);
    ahci_free(ahci, buffer);
    wait_taken(&machine);
    expect_to_read(&machine, false);
    stop_all(&machine);
    end(&machine);
}

static void cancelled_reset(void)
{
    cancelled(CMD_READ_DMA_EXT, true);
}

static void cancelled_queued(void)
{
    cancelled(READ_FPDMA_QUEUED, true);
}

static void cancelled_stop(void)
{
    cancelled(CMD_READ_DMA_EXT, false);
}

/* So does the machine, device by device: last the one that has it all. */
static void cancelled_system(void)
{
    Machine machine;
    QTestState *qts;

    start(&machine, AHCI_DISK);
    qts = machine.driver.qts;
    select_port(&machine);
    take(&machine);
    wait_to_read(&machine, READ_FPDMA_QUEUED);
    qtest_qmp_assert_success(qts, "{ 'execute': 'system_reset' }");
    qtest_qmp_eventwait(qts, "RESET");
    /* the lists of AHCI's ports stay mapped until it gets others */
    expect_soon(qts, "memory", "pinned", (PORTS + 1) * PAGE);
    g_assert_null(holder(qts, "disk0", "io"));
    g_assert_null(holder(qts, "disk0", "queues"));
    expect_running(qts);
    end(&machine);
}

/*
 * A disk may fail with the same errno as what the guest cancels.  Then the VM
 * stops, and the request is tried again when it goes on.
 */
#define FAILING \
    "-blockdev \"{'driver':'blkdebug','node-name':'failing'," \
    "'image':{'driver':'null-co','size':16777216,'read-zeroes':true}," \
    "'inject-error':[{'event':'none','iotype':'read','errno':125," \
    "'sector':1,'once':true}]}\" -device ide-hd,drive=failing,rerror=stop,bus="

static void failed_queued(void)
{
    Machine machine;
    AHCICommand *cmd;
    uint64_t buffer;

    start(&machine, FAILING "ahci.0");
    select_port(&machine);
    buffer = ahci_alloc(&machine.ahci, ENTRY);
    fill(machine.driver.qts, buffer, ENTRY, CONTENT_RANDOM, 1);
    cmd = ahci_guest_io_halt(&machine.ahci, machine.port, READ_FPDMA_QUEUED,
                             buffer, ENTRY, 1);
    check(machine.driver.qts, buffer, ENTRY, CONTENT_RANDOM, 1);
    qtest_qmp_assert_success(machine.driver.qts, "{ 'execute': 'cont' }");
    ahci_command_wait(&machine.ahci, cmd);
    ahci_command_free(cmd);
    check(machine.driver.qts, buffer, ENTRY, CONTENT_ZERO, 0);
    ahci_free(&machine.ahci, buffer);
    stop_all(&machine);
    end(&machine);
}

/* --- NVMe -------------------------------------------------------------- */

/* Pages of the queues, and of what is read. */
enum { ADMIN_SQ, ADMIN_CQ, IO_SQ, IO_CQ, DATA };

typedef struct Nvme {
    QTestState *qts;
    QPCIDevice *dev;
    QPCIBar bar;
} Nvme;

static uint64_t nvme_page(int index)
{
    return BASE + 48 * MIB + index * PAGE;
}

/* The n-th command of a queue; it is done when there is a completion. */
static void nvme_submit(Nvme *nvme, int id, int n, const void *command)
{
    qtest_bufwrite(nvme->qts, nvme_page(2 * id) + n * sizeof(NvmeCmd),
                   command, sizeof(NvmeCmd));
    qpci_io_writel(nvme->dev, nvme->bar, sizeof(NvmeBar) + 8 * id, n + 1);
}

static uint16_t nvme_status(Nvme *nvme, int id, int n)
{
    NvmeCqe cqe;

    qtest_bufread(nvme->qts, nvme_page(2 * id + 1) + n * sizeof(cqe), &cqe,
                  sizeof(cqe));
    return le16_to_cpu(cqe.status);
}

static uint16_t nvme_wait(Nvme *nvme, int id, int n)
{
    int64_t until = g_get_monotonic_time() + PATIENCE_US;
    uint16_t status;

    while (!(status = nvme_status(nvme, id, n))) {
        pause_until(until);
    }
    return status;
}

static void nvme_start(Nvme *nvme, Driver *driver)
{
    NvmeCreateCq cq = {
        .opcode = NVME_ADM_CMD_CREATE_CQ, .cqid = cpu_to_le16(1),
        .prp1 = cpu_to_le64(nvme_page(IO_CQ)), .qsize = cpu_to_le16(7),
        .cq_flags = cpu_to_le16(NVME_CQ_PC),
    };
    NvmeCreateSq sq = {
        .opcode = NVME_ADM_CMD_CREATE_SQ, .sqid = cpu_to_le16(1),
        .prp1 = cpu_to_le64(nvme_page(IO_SQ)), .qsize = cpu_to_le16(7),
        .sq_flags = cpu_to_le16(NVME_SQ_PC), .cqid = cpu_to_le16(1),
    };

    nvme->qts = driver->qts;
    nvme->dev = qpci_device_find(driver->bus, QPCI_DEVFN(5, 0));
    g_assert_nonnull(nvme->dev);
    qpci_device_enable(nvme->dev);
    nvme->bar = qpci_iomap(nvme->dev, 0, NULL);
    qtest_memset(nvme->qts, nvme_page(ADMIN_SQ), 0, DATA * PAGE);
    qpci_io_writel(nvme->dev, nvme->bar, NVME_REG_AQA, 7 << 16 | 7);
    qpci_io_writeq(nvme->dev, nvme->bar, NVME_REG_ASQ, nvme_page(ADMIN_SQ));
    qpci_io_writeq(nvme->dev, nvme->bar, NVME_REG_ACQ, nvme_page(ADMIN_CQ));
    qpci_io_writel(nvme->dev, nvme->bar, NVME_REG_CC,
                   4 << CC_IOCQES_SHIFT | 6 << CC_IOSQES_SHIFT |
                   1 << CC_EN_SHIFT);
    g_assert_cmphex(qpci_io_readl(nvme->dev, nvme->bar, NVME_REG_CSTS), ==,
                    NVME_CSTS_READY);
    nvme_submit(nvme, 0, 0, &cq);
    nvme_submit(nvme, 0, 1, &sq);
    /* the phase, and no error */
    g_assert_cmphex(nvme_wait(nvme, 0, 1), ==, 1);
    g_assert_cmphex(nvme_status(nvme, 0, 0), ==, 1);
}

static void nvme_read(Nvme *nvme)
{
    NvmeRwCmd command = {
        .opcode = NVME_CMD_READ, .nsid = cpu_to_le32(1),
        .flags = NVME_PSDT_SGL_MPTR_CONTIGUOUS << 6,
        .dptr.sgl.addr = cpu_to_le64(nvme_page(DATA)),
        .dptr.sgl.len = cpu_to_le32(SIZE),
        .nlb = cpu_to_le16(SIZE / SECTOR - 1),
    };

    nvme_submit(nvme, 1, 0, &command);
}

/* The guest resets the controller. */
static void cancelled_nvme(void)
{
    Machine machine;
    Nvme nvme;

    start(&machine, "-device nvme,id=nvme0,addr=5.0,drive=fast,serial=1");
    nvme_start(&nvme, &machine.driver);
    take(&machine);
    nvme_read(&nvme);
    expect_waiting(&machine);
    g_assert_cmphex(nvme_status(&nvme, 1, 0), ==, 0);
    qpci_io_writel(nvme.dev, nvme.bar, NVME_REG_CC, 0);
    g_assert_cmphex(qpci_io_readl(nvme.dev, nvme.bar, NVME_REG_CSTS), ==, 0);
    g_assert_cmpuint(number(nvme.qts, "memory", "pinned"), ==,
                     machine.pinned);
    g_assert_cmpuint(held(nvme.qts, "disk0", "io"), >=, TAKEN);
    wait_taken(&machine);

    nvme_start(&nvme, &machine.driver);
    fill(nvme.qts, nvme_page(DATA), SIZE, CONTENT_RANDOM, 1);
    nvme_read(&nvme);
    g_assert_cmphex(nvme_wait(&nvme, 1, 0), ==, 1);
    check(nvme.qts, nvme_page(DATA), SIZE, CONTENT_ZERO, 0);
    g_free(nvme.dev);
    stop_all(&machine);
    end(&machine);
}

/* --- IDE: it takes what it cancels to be at its end ---------------------- */

#define READ_DMA_EXT 0x25

typedef struct Ide {
    QTestState *qts;
    QPCIDevice *dev;
    QPCIBar ports, control, bmdma;
} Ide;

static void ide_start(Ide *ide, Driver *driver)
{
    ide->qts = driver->qts;
    ide->dev = qpci_device_find(driver->bus, QPCI_DEVFN(1, 1));
    g_assert_nonnull(ide->dev);
    ide->bmdma = qpci_iomap(ide->dev, 4, NULL);
    ide->ports = qpci_legacy_iomap(ide->dev, 0x1f0);
    ide->control = qpci_legacy_iomap(ide->dev, 0x3f6);
    qpci_device_enable(ide->dev);
}

static void ide_stop(Ide *ide)
{
    qpci_io_writeb(ide->dev, ide->bmdma, 0, 0);
}

static void ide_read(Ide *ide, uint64_t addr, uint64_t size)
{
    uint64_t list = addr - PAGE;
    int sectors = size / SECTOR;

    for (int i = 0; i < size / ENTRY; i++) {
        /* 64 KiB are given as 0; the last one is marked */
        qtest_writel(ide->qts, list + 8 * i, addr + i * ENTRY);
        qtest_writel(ide->qts, list + 8 * i + 4,
                     i == size / ENTRY - 1 ? 1u << 31 : 0);
    }
    ide_stop(ide);
    qpci_io_writeb(ide->dev, ide->bmdma, 2, 4);
    qpci_io_writel(ide->dev, ide->bmdma, 4, list);
    qpci_io_writeb(ide->dev, ide->ports, 6, 0x40);
    qpci_io_writeb(ide->dev, ide->ports, 2, sectors >> 8);
    qpci_io_writeb(ide->dev, ide->ports, 2, sectors);
    for (int i = 3; i < 6; i++) {
        qpci_io_writeb(ide->dev, ide->ports, i, 0);
        qpci_io_writeb(ide->dev, ide->ports, i, 0);
    }
    qpci_io_writeb(ide->dev, ide->ports, 7, READ_DMA_EXT);
    /* from the disk, and start */
    qpci_io_writeb(ide->dev, ide->bmdma, 0, 8 | 1);
}

static void ide_reset(Ide *ide)
{
    int64_t until = g_get_monotonic_time() + PATIENCE_US;

    qpci_io_writeb(ide->dev, ide->control, 0, 4);
    qpci_io_writeb(ide->dev, ide->control, 0, 0);
    while (qpci_io_readb(ide->dev, ide->ports, 7) & 0x80) {
        pause_until(until);
    }
}

static void ide_expect_to_end(Ide *ide, uint64_t addr, uint64_t size)
{
    int64_t until = g_get_monotonic_time() + PATIENCE_US;

    while (qpci_io_readb(ide->dev, ide->bmdma, 2) & 1) {
        pause_until(until);
    }
    g_assert_cmphex(qpci_io_readb(ide->dev, ide->ports, 7) & 1, ==, 0);
    check(ide->qts, addr, size, CONTENT_ZERO, 0);
}

static void ide_expect_to_read(Ide *ide, uint64_t addr, uint64_t size)
{
    fill(ide->qts, addr, size, CONTENT_RANDOM, 1);
    ide_read(ide, addr, size);
    ide_expect_to_end(ide, addr, size);
}

static void failed_ide(void)
{
    const uint64_t addr = BASE + 48 * MIB;
    Machine machine;
    Ide ide;

    start(&machine, FAILING "ide.0");
    ide_start(&ide, &machine.driver);
    fill(ide.qts, addr, ENTRY, CONTENT_RANDOM, 1);
    ide_read(&ide, addr, ENTRY);
    qtest_qmp_eventwait(ide.qts, "STOP");
    check(ide.qts, addr, ENTRY, CONTENT_RANDOM, 1);
    qtest_qmp_assert_success(ide.qts, "{ 'execute': 'cont' }");
    ide_expect_to_end(&ide, addr, ENTRY);
    g_free(ide.dev);
    stop_all(&machine);
    end(&machine);
}

static void cancelled_ide(const char *drive, void (*cancel)(Ide *ide))
{
    g_autofree char *args = g_strdup_printf(
        "-blockdev null-co,node-name=inert,size=16777216,read-zeroes=on,"
        "latency-ns=1500000000"
        " -device ide-hd,bus=ide.0,drive=%s,rerror=stop", drive);
    const uint64_t addr = BASE + 48 * MIB, size = MIB / 2;
    bool waits = g_str_equal(drive, "fast");
    Machine machine;
    Ide ide;

    start(&machine, args);
    ide_start(&ide, &machine.driver);
    machine.pinned = number(ide.qts, "memory", "pinned");
    fill(ide.qts, addr, size, CONTENT_RANDOM, 1);
    if (waits) {
        take(&machine);
        ide_read(&ide, addr, size);
        expect_waiting(&machine);
    } else {
        ide_read(&ide, addr, size);
        g_assert_cmpuint(number(ide.qts, "pins", "refused"), >, 0);
        g_assert_cmpuint(number(ide.qts, "memory", "pinned"), >,
                         machine.pinned);
    }
    g_assert_cmphex(qpci_io_readb(ide.dev, ide.bmdma, 2) & 1, ==, 1);
    cancel(&ide);
    g_assert_cmphex(qpci_io_readb(ide.dev, ide.bmdma, 2) & 1, ==, 0);
    g_assert_cmpuint(number(ide.qts, "memory", "pinned"), ==, machine.pinned);
    expect_running(ide.qts);
    if (waits) {
        g_assert_cmpuint(held(ide.qts, "disk0", "io"), >=, TAKEN);
        wait_taken(&machine);
    } else {
        /* what was under way came, and no more */
        check(ide.qts, addr, ENTRY, CONTENT_ZERO, 0);
    }
    check(ide.qts, addr + size - ENTRY, ENTRY, CONTENT_RANDOM, 1);
    /* at once, or piece by piece: one is enough */
    ide_expect_to_read(&ide, addr, waits ? size : ENTRY);
    g_free(ide.dev);
    stop_all(&machine);
    end(&machine);
}

static void cancelled_ide_stop(void)
{
    cancelled_ide("fast", ide_stop);
}

static void cancelled_ide_reset(void)
{
    cancelled_ide("fast", ide_reset);
}

static void cancelled_pieces_stop(void)
{
    cancelled_ide("inert", ide_stop);
}

static void cancelled_pieces_reset(void)
{
    cancelled_ide("inert", ide_reset);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_in_both_modes("memswap/dma/pieces", pieces);
    add_in_both_modes("memswap/dma/waits", waits);
    add_in_both_modes("memswap/dma/cancelled/reset", cancelled_reset);
    add_in_both_modes("memswap/dma/cancelled/queued", cancelled_queued);
    add_in_both_modes("memswap/dma/cancelled/stop", cancelled_stop);
    add_in_both_modes("memswap/dma/cancelled/system", cancelled_system);
    add_in_both_modes("memswap/dma/cancelled/nvme", cancelled_nvme);
    add_in_both_modes("memswap/dma/failed/queued", failed_queued);
    add_in_both_modes("memswap/dma/failed/ide", failed_ide);
    add_in_both_modes("memswap/dma/cancelled/ide/stop", cancelled_ide_stop);
    add_in_both_modes("memswap/dma/cancelled/ide/reset", cancelled_ide_reset);
    add_in_both_modes("memswap/dma/cancelled/pieces/stop",
                      cancelled_pieces_stop);
    add_in_both_modes("memswap/dma/cancelled/pieces/reset",
                      cancelled_pieces_reset);
    return g_test_run();
}

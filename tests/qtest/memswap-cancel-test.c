/*
 * memswap: DMA of NVMe and IDE disks that the guest cancels
 *
 * While it waits for memory to be pinned, or between two of its pieces.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/nvme.h"
#include "qemu/bswap.h"
#include "memswap-machine.h"

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
    wait_until(nvme_status(nvme, id, n));
    return nvme_status(nvme, id, n);
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

    machine_start(&machine,
                  "-device nvme,id=nvme0,addr=5.0,drive=fast,serial=1");
    nvme_start(&nvme, &machine.driver);
    machine_take(&machine);
    nvme_read(&nvme);
    machine_expect_waiting(&machine);
    g_assert_cmphex(nvme_status(&nvme, 1, 0), ==, 0);
    qpci_io_writel(nvme.dev, nvme.bar, NVME_REG_CC, 0);
    g_assert_cmphex(qpci_io_readl(nvme.dev, nvme.bar, NVME_REG_CSTS), ==, 0);
    g_assert_cmpuint(number(nvme.qts, "memory", "pinned"), ==,
                     machine.pinned);
    g_assert_cmpuint(held(nvme.qts, "disk0", "io"), >=, TAKEN);
    machine_wait_taken(&machine);

    nvme_start(&nvme, &machine.driver);
    fill(nvme.qts, nvme_page(DATA), SIZE, CONTENT_RANDOM, 1);
    nvme_read(&nvme);
    g_assert_cmphex(nvme_wait(&nvme, 1, 0), ==, 1);
    check(nvme.qts, nvme_page(DATA), SIZE, CONTENT_ZERO, 0);
    g_free(nvme.dev);
    machine_stop(&machine);
    machine_end(&machine);
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
    qpci_io_writeb(ide->dev, ide->control, 0, 4);
    qpci_io_writeb(ide->dev, ide->control, 0, 0);
    wait_until(!(qpci_io_readb(ide->dev, ide->ports, 7) & 0x80));
}

static void ide_expect_to_end(Ide *ide, uint64_t addr, uint64_t size)
{
    wait_until(!(qpci_io_readb(ide->dev, ide->bmdma, 2) & 1));
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

    machine_start(&machine, MACHINE_FAILING "ide.0");
    ide_start(&ide, &machine.driver);
    fill(ide.qts, addr, ENTRY, CONTENT_RANDOM, 1);
    ide_read(&ide, addr, ENTRY);
    qtest_qmp_eventwait(ide.qts, "STOP");
    check(ide.qts, addr, ENTRY, CONTENT_RANDOM, 1);
    qtest_qmp_assert_success(ide.qts, "{ 'execute': 'cont' }");
    ide_expect_to_end(&ide, addr, ENTRY);
    g_free(ide.dev);
    machine_stop(&machine);
    machine_end(&machine);
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

    machine_start(&machine, args);
    ide_start(&ide, &machine.driver);
    machine.pinned = number(ide.qts, "memory", "pinned");
    fill(ide.qts, addr, size, CONTENT_RANDOM, 1);
    if (waits) {
        machine_take(&machine);
        ide_read(&ide, addr, size);
        machine_expect_waiting(&machine);
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
        machine_wait_taken(&machine);
    } else {
        /* what was under way came, and no more */
        check(ide.qts, addr, ENTRY, CONTENT_ZERO, 0);
    }
    check(ide.qts, addr + size - ENTRY, ENTRY, CONTENT_RANDOM, 1);
    /* at once, or piece by piece: one is enough */
    ide_expect_to_read(&ide, addr, waits ? size : ENTRY);
    g_free(ide.dev);
    machine_stop(&machine);
    machine_end(&machine);
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
    add_in_both_modes("memswap/cancel/nvme", cancelled_nvme);
    add_in_both_modes("memswap/cancel/ide/stop", cancelled_ide_stop);
    add_in_both_modes("memswap/cancel/ide/reset", cancelled_ide_reset);
    add_in_both_modes("memswap/cancel/ide/failed", failed_ide);
    add_in_both_modes("memswap/cancel/pieces/stop", cancelled_pieces_stop);
    add_in_both_modes("memswap/cancel/pieces/reset", cancelled_pieces_reset);
    return g_test_run();
}

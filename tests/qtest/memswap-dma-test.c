/*
 * memswap: DMA that is not pinned whole: it goes in pieces, or waits
 *
 * With AHCI; of other disks memswap-cancel-test.c has what the guest cancels.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "memswap-machine.h"

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

/* --- waiting for others to unpin ------------------------------------------ */

#define AHCI_DISK "-device ide-hd,bus=ahci.0,drive=fast,rerror=stop"

static void select_port(Machine *machine)
{
    machine->port = ahci_port_select(&machine->ahci);
    ahci_port_clear(&machine->ahci, machine->port);
}

static int waiting(AHCIQState *ahci, AHCICommand *cmd, const AHCIOpts *opts)
{
    machine_expect_waiting(opts->opaque);
    return 0;
}

/* Its disk can pin little.  The machine is the caller's to end. */
static QTestState *start_taken(Machine *machine)
{
    machine_start(machine, AHCI_DISK);
    select_port(machine);
    machine_take(machine);
    return machine->driver.qts;
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

    qts = start_taken(&machine);
    expect_to_read(&machine, true);
    machine_wait_taken(&machine);
    g_assert_cmpuint(number(qts, "pins", "refused"), <=, 20);
    g_assert_null(holder(qts, "disk0", "io"));
    machine_stop(&machine);
    machine_end(&machine);
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
    machine_expect_waiting(machine);
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

    qts = start_taken(&machine);
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
    machine_wait_taken(&machine);
    expect_to_read(&machine, false);
    machine_stop(&machine);
    machine_end(&machine);
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

    qts = start_taken(&machine);
    wait_to_read(&machine, READ_FPDMA_QUEUED);
    qtest_qmp_assert_success(qts, "{ 'execute': 'system_reset' }");
    qtest_qmp_eventwait(qts, "RESET");
    /* the lists of AHCI's ports stay mapped until it gets others */
    expect_soon(qts, "memory", "pinned", (PORTS + 1) * PAGE);
    g_assert_null(holder(qts, "disk0", "io"));
    g_assert_null(holder(qts, "disk0", "queues"));
    expect_running(qts);
    machine_end(&machine);
}

static void failed_queued(void)
{
    Machine machine;
    AHCICommand *cmd;
    uint64_t buffer;

    machine_start(&machine, MACHINE_FAILING "ahci.0");
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
    machine_stop(&machine);
    machine_end(&machine);
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
    add_in_both_modes("memswap/dma/failed/queued", failed_queued);
    return g_test_run();
}

/*
 * memswap: pins of devices: who has them, how many, and that they go
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qobject/qlist.h"
#include "standard-headers/linux/virtio_blk.h"
#include "standard-headers/linux/virtio_config.h"
#include "standard-headers/linux/virtio_gpu.h"
#include "standard-headers/linux/virtio_scsi.h"
#include "memswap-driver.h"

#define SECTOR 512

/* Guest RAM out of the way of the driver's own. */
#define BASE (64 * MIB)

/* --- block ------------------------------------------------------------- */

static uint8_t status_of(Driver *driver, uint64_t addr, uint64_t size)
{
    return qtest_readb(driver->qts, addr + size);
}

static void io(Driver *driver, QVirtQueue *queue, uint32_t type,
               uint64_t addr, uint64_t size)
{
    driver_submit(driver, queue,
                  driver_add_request(driver, queue, type, addr, size, false));
    g_assert_cmpint(status_of(driver, addr, size), ==, VIRTIO_BLK_S_OK);
}

/* The queue is the device's as long as the driver uses it. */
static void holders(void)
{
    Driver driver;
    QVirtQueue *queue;
    QTestState *qts;
    g_autoptr(QDict) one = NULL;
    g_autofree char *text = NULL;
    int64_t before;

    driver_start(&driver, "limit=16M", "-m 128M"
                 " -blockdev null-co,node-name=disk,size=16777216"
                 " -device virtio-blk-pci,id=disk0,addr=4.0,drive=disk");
    qts = driver.qts;
    expect_nothing_pinned(qts);
    queue = driver_add_queue(&driver, 0);
    qvirtio_set_driver_ok(driver.device);
    io(&driver, queue, VIRTIO_BLK_T_OUT, BASE, 64 * SECTOR);
    g_assert_cmpuint(held(qts, "disk0", "io"), ==, 0);

    one = holder(qts, "/machine/peripheral/disk0", "queues");
    g_assert_nonnull(one);
    g_assert_cmpint(qdict_get_int(one, "maps"), ==, 3);
    before = qdict_get_int(one, "longest");
    /* the clock's resolution is some ms */
    do {
        qobject_unref(g_steal_pointer(&one));
        one = holder(qts, "disk0", "queues");
    } while (qdict_get_int(one, "longest") <= before);
    text = qtest_hmp(qts, "info memswap");
    g_assert_nonnull(strstr(text, "disk0"));
    g_assert_nonnull(strstr(text, "of queues in 3 pieces"));

    qvirtio_reset(driver.device);
    expect_nothing_pinned(qts);
    driver_remove_queue(&driver, queue);
    driver_end(&driver);
}

#define FAILING \
    "-m 128M -blockdev \"{'driver':'blkdebug','node-name':'disk'," \
    "'image':{'driver':'null-co','size':16777216}," \
    "'inject-error':[{'event':'none','iotype':'write','errno':5}]}\"" \
    " -device virtio-blk-pci,id=disk0,addr=4.0,drive=disk,werror=stop"

/*
 * A request that failed waits for the operator, with its memory.  When the
 * guest resets the device instead, virtio-blk unmaps what it has moved past the
 * header.
 */
static void stopped(bool together)
{
    Driver driver;
    QVirtQueue *queue;
    QTestState *qts;
    uint64_t pinned;

    driver_start(&driver, "limit=16M", FAILING);
    qts = driver.qts;
    queue = driver_add_queue(&driver, 0);
    qvirtio_set_driver_ok(driver.device);
    pinned = number(qts, "memory", "pinned");
    for (int i = 0; i < 3; i++) {
        uint64_t addr = BASE + i * MIB + PAGE;

        fill(qts, addr - PAGE, 4 * PAGE, CONTENT_RANDOM, i);
        qvirtqueue_kick(qts, driver.device, queue,
                        driver_add_request(&driver, queue, VIRTIO_BLK_T_OUT,
                                           addr, 2 * PAGE, together));
        if (!i) {
            qtest_qmp_eventwait(qts, "STOP");
        }
    }
    /* what came later is not looked at until the VM goes on */
    g_assert_cmpuint(held(qts, "disk0", "io"), >=, 2 * PAGE);
    g_assert_cmpuint(number(qts, "memory", "pinned"), >=, pinned + 2 * PAGE);
    reclaim(qts, 128 * MIB);
    g_assert_cmpuint(number(qts, "memory", "resident"), >=,
                     pinned + 2 * PAGE);

    qvirtio_reset(driver.device);
    expect_nothing_pinned(qts);
    g_assert_cmpuint(reclaim_all(qts, 128 * MIB), >=, 2 * PAGE);
    driver_remove_queue(&driver, queue);
    driver_end(&driver);
}

static void stopped_apart(void)
{
    stopped(false);
}

static void stopped_together(void)
{
    stopped(true);
}

/* A request that is too much fails the device, which works after a reset. */
static void bound(void)
{
    Driver driver;
    QVirtQueue *queue;
    QTestState *qts;
    g_autoptr(QDict) event = NULL;
    QDict *data;

    driver_start(&driver, "limit=16M,pin-limit=256K", "-m 128M"
                 " -blockdev null-co,node-name=disk,size=16777216"
                 " -device virtio-blk-pci,id=disk0,addr=4.0,drive=disk");
    qts = driver.qts;
    g_assert_cmpuint(number(qts, "settings", "pin-limit"), ==, 256 * 1024);
    g_assert_cmpuint(number(qts, "pins", "limit"), ==, 256 * 1024);
    queue = driver_add_queue(&driver, 0);
    qvirtio_set_driver_ok(driver.device);
    io(&driver, queue, VIRTIO_BLK_T_OUT, BASE, 32 * PAGE);
    g_assert_cmpuint(number(qts, "pins", "refused"), ==, 0);

    qvirtqueue_kick(qts, driver.device, queue,
                    driver_add_request(&driver, queue, VIRTIO_BLK_T_OUT, BASE,
                                       MIB, false));
    event = qtest_qmp_eventwait_ref(qts, "MEMSWAP_PIN_LIMIT");
    data = qdict_get_qdict(event, "data");
    g_assert_nonnull(strstr(qdict_get_str(data, "device"), "disk0"));
    g_assert_cmpint(qdict_get_int(data, "size"), ==, MIB);
    g_assert_cmpuint(number(qts, "pins", "refused"), ==, 1);
    g_assert_cmpuint(number(qts, "memory", "pinned"), <=, 256 * 1024);
    g_assert_cmpint(driver.device->bus->get_status(driver.device) &
                    VIRTIO_CONFIG_S_NEEDS_RESET, !=, 0);

    expect_error(qts, "pin-limit must be at most limit",
                 "{ 'execute': 'memswap-set', 'arguments':"
                 " { 'pin-limit': 16777217 } }");
    qtest_qmp_assert_success(qts, "{ 'execute': 'memswap-set', 'arguments':"
                             " { 'pin-limit': 0 } }");
    g_assert_cmpuint(number(qts, "pins", "limit"), ==, 14 * MIB);
    driver_remove_queue(&driver, queue);
    driver_reset(&driver);
    expect_nothing_pinned(qts);
    queue = driver_add_queue(&driver, 0);
    qvirtio_set_driver_ok(driver.device);
    io(&driver, queue, VIRTIO_BLK_T_OUT, BASE, MIB);
    qvirtio_reset(driver.device);
    expect_nothing_pinned(qts);
    driver_remove_queue(&driver, queue);
    driver_end(&driver);
}

/* Where not all queues can be pinned, some do without. */
static void bound_queues(void)
{
    Driver driver;
    QVirtQueue *queues[8];
    QTestState *qts;

    driver_start(&driver, "limit=16M,pin-limit=256K", "-m 128M"
                 " -blockdev null-co,node-name=disk,size=16777216"
                 " -device virtio-blk-pci,id=disk0,addr=4.0,drive=disk,"
                 "num-queues=8,queue-size=1024");
    qts = driver.qts;
    for (int i = 0; i < ARRAY_SIZE(queues); i++) {
        queues[i] = driver_add_queue(&driver, i);
    }
    qvirtio_set_driver_ok(driver.device);
    g_assert_cmpuint(number(qts, "pins", "refused"), >, 0);
    g_assert_cmpuint(number(qts, "memory", "pinned"), <=, 128 * 1024);
    for (int i = 0; i < 3 * ARRAY_SIZE(queues); i++) {
        reclaim(qts, 128 * MIB);
        io(&driver, queues[i % ARRAY_SIZE(queues)], VIRTIO_BLK_T_IN, BASE,
           PAGE);
    }
    qvirtio_reset(driver.device);
    expect_nothing_pinned(qts);
    for (int i = 0; i < ARRAY_SIZE(queues); i++) {
        driver_remove_queue(&driver, queues[i]);
    }
    driver_end(&driver);
}

/* --- memory that is not guest RAM --------------------------------------- */

static uint64_t pmem_address(QTestState *qts)
{
    g_autoptr(QDict) response = qtest_qmp(
        qts, "{ 'execute': 'query-memory-devices' }");
    QDict *device = qobject_to(QDict, qlist_peek(qdict_get_qlist(response,
                                                                 "return")));

    return qdict_get_int(qdict_get_qdict(device, "data"), "memaddr");
}

static void expect_unmanaged(QTestState *qts, const char *block)
{
    g_autofree char *reason = block_reason(qts, block);

    g_assert_cmpstr(reason, ==, "is not RAM of the guest");
}

/* Devices may do I/O to and from it; it is neither swapped nor pinned. */
static void unmanaged(void)
{
    g_autofree char *path = NULL;
    g_autofree char *args = NULL;
    Driver driver;
    QVirtQueue *queue;
    QTestState *qts;
    QPCIDevice *ivshmem;
    QPCIBar bar;
    uint64_t size, pinned, places[2];
    int fd = g_file_open_tmp("memswap-XXXXXX", &path, NULL);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, 16 * MIB), ==, 0);
    close(fd);
    args = g_strdup_printf(
        "-m 128M,maxmem=1G"
        " -object memory-backend-memfd,id=shared,size=16M"
        " -device ivshmem-plain,memdev=shared,addr=5.0"
        " -object memory-backend-file,id=file,size=16M,share=on,mem-path=%s"
        " -device virtio-pmem-pci,memdev=file,addr=6.0"
        " -blockdev null-co,node-name=disk,size=16777216,read-zeroes=on"
        " -device virtio-blk-pci,id=disk0,addr=4.0,drive=disk", path);
    driver_start(&driver, "limit=16M", args);
    qts = driver.qts;
    expect_unmanaged(qts, "shared");
    expect_unmanaged(qts, "file");
    queue = driver_add_queue(&driver, 0);
    qvirtio_set_driver_ok(driver.device);
    pinned = number(qts, "memory", "pinned");

    ivshmem = qpci_device_find(driver.bus, QPCI_DEVFN(5, 0));
    g_assert_nonnull(ivshmem);
    qpci_device_enable(ivshmem);
    bar = qpci_iomap(ivshmem, 2, &size);
    g_assert_cmpuint(size, ==, 16 * MIB);
    places[0] = bar.addr;
    places[1] = pmem_address(qts);
    for (int i = 0; i < ARRAY_SIZE(places); i++) {
        uint64_t addr = places[i] + 4 * MIB;

        fill(qts, addr, MIB, CONTENT_RANDOM, i);
        reclaim(qts, 128 * MIB);
        check(qts, addr, MIB, CONTENT_RANDOM, i);
        io(&driver, queue, VIRTIO_BLK_T_OUT, addr, MIB);
        io(&driver, queue, VIRTIO_BLK_T_IN, addr, MIB);
        check(qts, addr, MIB, CONTENT_ZERO, 0);
        g_assert_cmpuint(number(qts, "memory", "pinned"), ==, pinned);
    }
    g_assert_null(holder(qts, NULL, "io"));
    qpci_iounmap(ivshmem, bar);
    g_free(ivshmem);
    qvirtio_reset(driver.device);
    expect_nothing_pinned(qts);
    driver_remove_queue(&driver, queue);
    driver_end(&driver);
    unlink(path);
}

/* --- SCSI: dma_blk_io() ------------------------------------------------ */

/*
 * The guest gives more memory than the command needs, and in more pieces:
 * dma_blk_cb() drops some that it has mapped.
 */
static void dropped(void)
{
    Driver driver;
    QVirtQueue *queue;
    QTestState *qts;
    struct virtio_scsi_cmd_req req = {
        /* READ(10) of one sector */
        .lun = { 1, 0, 0x40 }, .cdb = { 0x28, [8] = 1 },
    };
    uint8_t sector[SECTOR];
    uint64_t pinned;
    uint32_t head;

    driver_start(&driver, "limit=16M", "-m 128M"
                 " -device virtio-scsi-pci,id=scsi0,addr=4.0"
                 " -blockdev null-co,node-name=disk,size=16777216,"
                 "read-zeroes=on -device scsi-hd,drive=disk");
    qts = driver.qts;
    queue = driver_add_queue(&driver, 2);
    qvirtio_set_driver_ok(driver.device);
    pinned = number(qts, "memory", "pinned");
    /* the first command is answered with "power on, reset" */
    for (int i = 0; i < 6; i++) {
        uint64_t addr = BASE + i * MIB;

        qtest_bufwrite(qts, addr, &req, sizeof(req));
        qtest_memset(qts, addr + 2 * PAGE, 0xff, SECTOR);
        head = qvirtqueue_add(qts, queue, addr, sizeof(req), false, true);
        qvirtqueue_add(qts, queue, addr + PAGE,
                       sizeof(struct virtio_scsi_cmd_resp), true, true);
        qvirtqueue_add(qts, queue, addr + 2 * PAGE, SECTOR, true, true);
        qvirtqueue_add(qts, queue, addr + 3 * PAGE, 100, true, true);
        qvirtqueue_add(qts, queue, addr + 4 * PAGE, 10, true, false);
        driver_submit(&driver, queue, head);
        g_assert_cmpuint(number(qts, "memory", "pinned"), ==, pinned);
        qtest_bufread(qts, addr + 2 * PAGE, sector, SECTOR);
        for (int j = 0; i && j < SECTOR; j++) {
            g_assert_cmphex(sector[j], ==, 0);
        }
    }
    g_assert_null(holder(qts, NULL, "io"));
    qvirtio_reset(driver.device);
    expect_nothing_pinned(qts);
    driver_remove_queue(&driver, queue);
    driver_end(&driver);
}

/* --- GPU: what the guest lends it --------------------------------------- */

static uint32_t gpu_command(Driver *driver, QVirtQueue *queue,
                            const void *command, size_t size)
{
    struct virtio_gpu_ctrl_hdr answer = { 0 };
    QTestState *qts = driver->qts;
    uint64_t addr = guest_alloc(&driver->alloc, size);
    uint64_t reply = guest_alloc(&driver->alloc, sizeof(answer));
    uint32_t head;

    qtest_bufwrite(qts, addr, command, size);
    head = qvirtqueue_add(qts, queue, addr, size, false, true);
    qvirtqueue_add(qts, queue, reply, sizeof(answer), true, false);
    driver_submit(driver, queue, head);
    qtest_bufread(qts, reply, &answer, sizeof(answer));
    guest_free(&driver->alloc, addr);
    guest_free(&driver->alloc, reply);
    return le32_to_cpu(answer.type);
}

static uint32_t gpu_attach(Driver *driver, QVirtQueue *queue, uint32_t id,
                           uint64_t addr, uint32_t size)
{
    struct virtio_gpu_resource_create_2d create = {
        .hdr.type = cpu_to_le32(VIRTIO_GPU_CMD_RESOURCE_CREATE_2D),
        .resource_id = cpu_to_le32(id),
        .format = cpu_to_le32(VIRTIO_GPU_FORMAT_B8G8R8A8_UNORM),
        .width = cpu_to_le32(512),
        .height = cpu_to_le32(size / 4 / 512),
    };
    struct {
        struct virtio_gpu_resource_attach_backing attach;
        struct virtio_gpu_mem_entry entry;
    } backing = {
        .attach = {
            .hdr.type =
                cpu_to_le32(VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING),
            .resource_id = cpu_to_le32(id),
            .nr_entries = cpu_to_le32(1),
        },
        .entry = {
            .addr = cpu_to_le64(addr),
            .length = cpu_to_le32(size),
        },
    };

    g_assert_cmphex(gpu_command(driver, queue, &create, sizeof(create)), ==,
                    VIRTIO_GPU_RESP_OK_NODATA);
    return gpu_command(driver, queue, &backing, sizeof(backing));
}

static uint32_t gpu_detach(Driver *driver, QVirtQueue *queue, uint32_t id)
{
    struct virtio_gpu_resource_detach_backing detach = {
        .hdr.type = cpu_to_le32(VIRTIO_GPU_CMD_RESOURCE_DETACH_BACKING),
        .resource_id = cpu_to_le32(id),
    };

    return gpu_command(driver, queue, &detach, sizeof(detach));
}

/* A resource may take half of what can be pinned; else the guest is told. */
static void gpu(void)
{
    Driver driver;
    QVirtQueue *queue;
    QTestState *qts;

    driver_start(&driver, "limit=16M,pin-limit=8M",
                 "-m 128M -device virtio-gpu-pci,id=gpu0,addr=4.0");
    qts = driver.qts;
    queue = driver_add_queue(&driver, 0);
    qvirtio_set_driver_ok(driver.device);
    fill(qts, BASE, 8 * MIB, CONTENT_RANDOM, 1);
    g_assert_cmphex(gpu_attach(&driver, queue, 1, BASE, 2 * MIB), ==,
                    VIRTIO_GPU_RESP_OK_NODATA);
    g_assert_cmpuint(held(qts, "gpu0", "buffers"), ==, 2 * MIB);
    g_assert_cmphex(gpu_attach(&driver, queue, 2, BASE + 2 * MIB, 4 * MIB),
                    ==, VIRTIO_GPU_RESP_ERR_UNSPEC);
    g_assert_cmpuint(number(qts, "pins", "refused"), ==, 1);
    qtest_qmp_eventwait(qts, "MEMSWAP_PIN_LIMIT");
    g_assert_cmpuint(held(qts, "gpu0", "buffers"), ==, 2 * MIB);

    reclaim(qts, 128 * MIB);
    g_assert_cmpuint(number(qts, "memory", "resident"), >=, 2 * MIB);
    check(qts, BASE, 8 * MIB, CONTENT_RANDOM, 1);

    g_assert_cmphex(gpu_detach(&driver, queue, 1), ==,
                    VIRTIO_GPU_RESP_OK_NODATA);
    g_assert_cmpuint(held(qts, "gpu0", "buffers"), ==, 0);
    g_assert_cmphex(gpu_attach(&driver, queue, 3, BASE, 2 * MIB), ==,
                    VIRTIO_GPU_RESP_OK_NODATA);
    qvirtio_reset(driver.device);
    expect_nothing_pinned(qts);
    driver_remove_queue(&driver, queue);
    driver_end(&driver);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_in_both_modes("memswap/pin/holders", holders);
    add_in_both_modes("memswap/pin/stopped/apart", stopped_apart);
    add_in_both_modes("memswap/pin/stopped/together", stopped_together);
    add_in_both_modes("memswap/pin/bound/request", bound);
    add_in_both_modes("memswap/pin/bound/queues", bound_queues);
    add_in_both_modes("memswap/pin/bound/gpu", gpu);
    add_in_both_modes("memswap/pin/dropped", dropped);
    add_in_both_modes("memswap/pin/unmanaged", unmanaged);
    return g_test_run();
}

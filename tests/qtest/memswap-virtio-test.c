/*
 * memswap: virtio devices that give memory back, and that keep it in use
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "standard-headers/linux/virtio_mem.h"
#include "memswap-driver.h"

/* Guest RAM out of the way of the driver's own. */
#define BASE (64 * MIB)

static void start(Driver *driver, const char *args)
{
    driver_start(driver, "limit=16M", args);
}

static void expect_zero(QTestState *qts, uint64_t addr, uint64_t size)
{
    check(qts, addr, size, CONTENT_ZERO, 0);
}

/* Tell the balloon of a range, page by page. */
static void send_pages(Driver *driver, QVirtQueue *queue, uint64_t addr,
                       uint64_t size)
{
    uint64_t n = size / PAGE;
    uint64_t bytes = n * sizeof(uint32_t);
    uint64_t buffer = guest_alloc(&driver->alloc, bytes);
    g_autofree uint32_t *numbers = g_new(uint32_t, n);

    for (uint64_t i = 0; i < n; i++) {
        numbers[i] = cpu_to_le32(addr / PAGE + i);
    }
    qtest_bufwrite(driver->qts, buffer, numbers, bytes);
    driver_submit(driver, queue, qvirtqueue_add(driver->qts, queue, buffer,
                                                bytes, false, false));
    guest_free(&driver->alloc, buffer);
}

/* Pages go into the balloon from memory as well as from the store. */
static void balloon(void)
{
    Driver driver;
    QVirtQueue *inflate, *deflate;
    QTestState *qts;

    start(&driver, "-m 128M -device virtio-balloon-pci,addr=4.0");
    qts = driver.qts;
    inflate = driver_add_queue(&driver, 0);
    deflate = driver_add_queue(&driver, 1);
    qvirtio_set_driver_ok(driver.device);

    for (unsigned int round = 1; round <= 2; round++) {
        uint64_t untouched, discards;

        fill(qts, BASE, 24 * MIB, CONTENT_RANDOM, round);
        expect_within_limit(qts);
        untouched = number(qts, "memory", "untouched");
        discards = number(qts, "reclaim", "discards");
        send_pages(&driver, inflate, BASE + 2 * MIB, 20 * MIB);
        g_assert_cmpuint(number(qts, "memory", "untouched"), >=,
                         untouched + 20 * MIB - 32 * PAGE);
        g_assert_cmpuint(number(qts, "reclaim", "discards"), >=,
                         discards + 20 * MIB / PAGE);
        g_assert_cmpuint(number(qts, "memory", "resident"), <=, 5 * MIB);
        g_assert_cmpuint(number(qts, "pool", "live-bytes"), <=, 5 * MIB);
        expect_within_limit(qts);
        expect_sums(qts);

        check(qts, BASE, 2 * MIB, CONTENT_RANDOM, round);
        check(qts, BASE + 22 * MIB, 2 * MIB, CONTENT_RANDOM, round);
        send_pages(&driver, deflate, BASE + 2 * MIB, 20 * MIB);
        expect_zero(qts, BASE + 2 * MIB, 20 * MIB);
        expect_within_limit(qts);
        expect_sums(qts);
    }
    driver_remove_queue(&driver, inflate);
    driver_remove_queue(&driver, deflate);
    driver_end(&driver);
}

/* Hinting is for migration; that the balloon can do it changes nothing. */
static void hinting(void)
{
    Driver driver;
    QVirtQueue *inflate;
    QTestState *qts;

    start(&driver, "-m 128M -object iothread,id=hints -device"
          " virtio-balloon-pci,addr=4.0,free-page-hint=on,iothread=hints");
    qts = driver.qts;
    inflate = driver_add_queue(&driver, 0);
    qvirtio_set_driver_ok(driver.device);
    fill(qts, BASE, 24 * MIB, CONTENT_RANDOM, 1);
    send_pages(&driver, inflate, BASE + 2 * MIB, 20 * MIB);
    expect_zero(qts, BASE + 2 * MIB, 20 * MIB);
    check(qts, BASE, 2 * MIB, CONTENT_RANDOM, 1);
    check(qts, BASE + 22 * MIB, 2 * MIB, CONTENT_RANDOM, 1);
    expect_sums(qts);
    qvirtio_reset(driver.device);
    expect_soon(qts, "memory", "pinned", 0);
    driver_remove_queue(&driver, inflate);
    driver_end(&driver);
}

/* The guest reports ranges as free: no page may come in for that. */
static void reporting(void)
{
    Driver driver;
    QVirtQueue *queue;
    QTestState *qts;
    uint64_t untouched, faults;
    uint32_t head = 0;

    start(&driver, "-m 128M "
          "-device virtio-balloon-pci,addr=4.0,free-page-reporting=on");
    qts = driver.qts;
    queue = driver_add_queue(&driver, 3);
    qvirtio_set_driver_ok(driver.device);
    fill(qts, BASE, 24 * MIB, CONTENT_RANDOM, 1);
    reclaim(qts, 128 * MIB);

    untouched = number(qts, "memory", "untouched");
    faults = number(qts, "faults", "stored");
    for (int i = 0; i < 5; i++) {
        uint32_t added = qvirtqueue_add(qts, queue, BASE + (2 + 4 * i) * MIB,
                                        4 * MIB, true, i < 4);
        head = i ? head : added;
    }
    driver_submit(&driver, queue, head);
    g_assert_cmpuint(number(qts, "memory", "untouched"), >=,
                     untouched + 20 * MIB - 32 * PAGE);
    /* The rings may have been out. */
    g_assert_cmpuint(number(qts, "faults", "stored"), <=, faults + 16);
    g_assert_cmpuint(number(qts, "pool", "live-bytes"), <=, 5 * MIB);

    check(qts, BASE, 2 * MIB, CONTENT_RANDOM, 1);
    expect_zero(qts, BASE + 2 * MIB, 20 * MIB);
    check(qts, BASE + 22 * MIB, 2 * MIB, CONTENT_RANDOM, 1);
    expect_sums(qts);
    driver_remove_queue(&driver, queue);
    driver_end(&driver);
}

static void request(Driver *driver, QVirtQueue *queue, uint16_t type,
                    uint64_t addr, uint16_t blocks)
{
    struct virtio_mem_req req = {
        .type = cpu_to_le16(type),
        .u.plug.addr = cpu_to_le64(addr),
        .u.plug.nb_blocks = cpu_to_le16(blocks),
    };
    struct virtio_mem_resp resp = { .type = 0xffff };
    uint64_t in = guest_alloc(&driver->alloc, sizeof(req));
    uint64_t out = guest_alloc(&driver->alloc, sizeof(resp));
    uint32_t head;

    qtest_bufwrite(driver->qts, in, &req, sizeof(req));
    qtest_bufwrite(driver->qts, out, &resp, sizeof(resp));
    head = qvirtqueue_add(driver->qts, queue, in, sizeof(req), false, true);
    qvirtqueue_add(driver->qts, queue, out, sizeof(resp), true, false);
    driver_submit(driver, queue, head);
    qtest_bufread(driver->qts, out, &resp, sizeof(resp));
    g_assert_cmpint(le16_to_cpu(resp.type), ==, VIRTIO_MEM_RESP_ACK);
    guest_free(&driver->alloc, in);
    guest_free(&driver->alloc, out);
}

static uint64_t config(Driver *driver, size_t offset)
{
    return qvirtio_config_readq(driver->device, offset);
}

static void virtio_mem(void)
{
    Driver driver;
    QVirtQueue *queue;
    QTestState *qts;
    uint64_t addr, block_size;

    start(&driver, "-m 128M,maxmem=1G "
          "-object memory-backend-memfd,id=mem,size=128M,reserve=off"
          " -device virtio-mem-pci,id=vm,memdev=mem,addr=4.0");
    qts = driver.qts;
    queue = driver_add_queue(&driver, 0);
    qvirtio_set_driver_ok(driver.device);
    addr = config(&driver, offsetof(struct virtio_mem_config, addr));
    block_size = config(&driver, offsetof(struct virtio_mem_config,
                                          block_size));
    g_assert_cmpint(block_number(qts, "mem", "managed"), ==, 128 * MIB);
    g_assert_cmpint(block_number(qts, "mem", "untouched"), ==, 128 * MIB);

    for (unsigned int round = 1; round <= 2; round++) {
        qtest_qmp_assert_success(qts, "{ 'execute': 'qom-set', 'arguments': {"
                                 " 'path': '/machine/peripheral/vm',"
                                 " 'property': 'requested-size',"
                                 " 'value': 33554432 } }");
        g_assert_cmpuint(config(&driver, offsetof(struct virtio_mem_config,
                                                  requested_size)), ==,
                         32 * MIB);
        request(&driver, queue, VIRTIO_MEM_REQ_PLUG, addr,
                32 * MIB / block_size);
        fill(qts, addr, 32 * MIB, CONTENT_RANDOM, round);
        expect_within_limit(qts);
        check(qts, addr, 32 * MIB, CONTENT_RANDOM, round);
        expect_sums(qts);
        g_assert_cmpint(block_number(qts, "mem", "untouched"), ==, 96 * MIB);
        g_assert_cmpint(block_number(qts, "mem", "stored"), >, 0);

        /* Part of it goes, the other part keeps its contents. */
        qtest_qmp_assert_success(qts, "{ 'execute': 'qom-set', 'arguments': {"
                                 " 'path': '/machine/peripheral/vm',"
                                 " 'property': 'requested-size',"
                                 " 'value': 8388608 } }");
        request(&driver, queue, VIRTIO_MEM_REQ_UNPLUG, addr + 8 * MIB,
                24 * MIB / block_size);
        g_assert_cmpint(block_number(qts, "mem", "untouched"), ==, 120 * MIB);
        check(qts, addr, 8 * MIB, CONTENT_RANDOM, round);
        request(&driver, queue, VIRTIO_MEM_REQ_UNPLUG_ALL, 0, 0);
        g_assert_cmpint(block_number(qts, "mem", "untouched"), ==, 128 * MIB);
        g_assert_cmpint(block_number(qts, "mem", "stored"), ==, 0);
        expect_sums(qts);
    }
    driver_remove_queue(&driver, queue);
    driver_end(&driver);
}

#define QUEUES 48

/* A device's rings stay in memory for as long as it uses them. */
static void pins(void)
{
    Driver driver;
    QVirtQueue *queues[QUEUES];
    QTestState *qts;
    uint64_t pinned;

    start(&driver, "-m 128M -blockdev null-co,node-name=disk"
          " -device virtio-blk-pci,addr=4.0,drive=disk,num-queues=48,"
          "queue-size=1024");
    qts = driver.qts;
    g_assert_cmpuint(number(qts, "memory", "pinned"), ==, 0);
    for (int i = 0; i < QUEUES; i++) {
        queues[i] = driver_add_queue(&driver, i);
    }
    qvirtio_set_driver_ok(driver.device);

    pinned = number(qts, "memory", "pinned");
    g_assert_cmpuint(pinned, >, MIB);
    reclaim(qts, 128 * MIB);
    g_assert_cmpuint(number(qts, "memory", "pinned"), ==, pinned);
    g_assert_cmpuint(number(qts, "memory", "resident"), >=, pinned);
    g_assert_cmpuint(allocated(qts), >=, pinned);
    expect_sums(qts);

    expect_error(qts, "that are pinned", "{ 'execute': 'memswap-set',"
                 " 'arguments': { 'limit': 1048576 } }");
    g_assert_cmpuint(number(qts, "settings", "limit"), ==, 16 * MIB);

    qvirtio_reset(driver.device);
    expect_soon(qts, "memory", "pinned", 0);
    reclaim_all(qts, 128 * MIB);
    qtest_qmp_assert_success(qts, "{ 'execute': 'memswap-set', 'arguments':"
                             " { 'limit': 1048576 } }");
    expect_sums(qts);
    for (int i = 0; i < QUEUES; i++) {
        driver_remove_queue(&driver, queues[i]);
    }
    driver_end(&driver);
}

/*
 * An IOThread waits for room, which there is none of until the operator raises
 * the limit, and whoever resets its device waits for it, with the BQL.
 */
static void held_up(void)
{
    Driver driver;
    QVirtQueue *queue;
    QTestState *qts;
    uint64_t stalls, table = BASE + 40 * MIB;
    uint32_t head;

    driver_start(&driver, "limit=16M,pool-limit=4M,when-full=hold", "-m 128M"
                 " -object iothread,id=io0"
                 " -blockdev null-co,node-name=disk,size=16777216"
                 " -device virtio-blk-pci,addr=4.0,drive=disk,iothread=io0");
    qts = driver.qts;
    queue = driver_add_queue(&driver, 0);
    qvirtio_set_driver_ok(driver.device);
    fill(qts, BASE, 32 * MIB, CONTENT_RANDOM, 1);
    g_assert_cmpuint(number(qts, "memory", "resident"), >, 20 * MIB);

    /* what is in a table of descriptors doesn't matter, but where that is */
    stalls = number(qts, "reclaim", "stalls");
    head = qvirtqueue_add(qts, queue, table, sizeof(struct vring_desc), false,
                          false);
    qtest_writew(qts, queue->desc + head * sizeof(struct vring_desc) +
                 offsetof(struct vring_desc, flags), VRING_DESC_F_INDIRECT);
    qvirtqueue_kick(qts, driver.device, queue, head);
    wait_until(number(qts, "reclaim", "stalls") != stalls);
    qvirtio_reset(driver.device);
    check(qts, BASE, 32 * MIB, CONTENT_RANDOM, 1);

    /* for as long as somebody is held up, and no longer */
    qtest_qmp_assert_success(qts, "{ 'execute': 'memswap-set', 'arguments':"
                             " { 'pool-limit': %" PRIu64 " } }", 64 * MIB);
    expect_within_limit(qts);
    expect_sums(qts);
    driver_remove_queue(&driver, queue);
    driver_end(&driver);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_in_both_modes("memswap/virtio/balloon", balloon);
    add_in_both_modes("memswap/virtio/hinting", hinting);
    add_in_both_modes("memswap/virtio/reporting", reporting);
    add_in_both_modes("memswap/virtio/mem", virtio_mem);
    add_in_both_modes("memswap/virtio/pins", pins);
    add_in_both_modes("memswap/virtio/held-up", held_up);
    return g_test_run();
}

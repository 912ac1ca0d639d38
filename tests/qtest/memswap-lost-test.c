/*
 * memswap: pages that are lost, and devices that are to use them
 *
 * What is in the pool is damaged from outside: a page that doesn't compress is
 * stored as it is, and can be found.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "standard-headers/linux/virtio_blk.h"
#include "memswap-driver.h"

/* Guest RAM out of the way of the driver's own. */
#define BASE (64 * MIB)
#define NEEDLE 64
#define PIECE (4 * MIB)

/* Flip a byte of each copy of @needle in a part of a process's memory. */
static int damage_part(int memory, uint64_t at, uint64_t size,
                       const uint8_t *needle)
{
    g_autofree uint8_t *data = g_malloc(size);
    ssize_t got = pread(memory, data, size, at);
    uint8_t wrong = needle[0] ^ 1;
    int n = 0;

    for (uint8_t *found = data; got > 0 &&
         (found = memmem(found, data + got - found, needle, NEEDLE));
         found += NEEDLE) {
        g_assert_cmpint(pwrite(memory, &wrong, 1, at + (found - data)), ==, 1);
        n++;
    }
    return n;
}

/* The same in all of QEMU's own memory: some are in buffers it is done with. */
static void damage(QTestState *qts, const uint8_t *needle)
{
    g_autofree char *maps = g_strdup_printf("/proc/%d/maps", qtest_pid(qts));
    g_autofree char *mem = g_strdup_printf("/proc/%d/mem", qtest_pid(qts));
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    int memory = open(mem, O_RDWR | O_CLOEXEC);
    int n = 0;

    g_assert_cmpint(memory, >=, 0);
    g_assert_true(g_file_get_contents(maps, &text, NULL, NULL));
    lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        uint64_t begin, end, inode;

        if (sscanf(*line, "%" SCNx64 "-%" SCNx64 " rw%*cp %*s %*s %" SCNu64,
                   &begin, &end, &inode) == 3 && !inode) {
            for (uint64_t at = begin; at < end; at += PIECE) {
                n += damage_part(memory, at, MIN(PIECE, end - at), needle);
            }
        }
    }
    close(memory);
    g_assert_cmpint(n, >, 0);
}

/* May the kernel wait for guest RAM, or do we wait in its place? */
static bool kernel_waits(QTestState *qts)
{
    g_autoptr(QDict) info = query(qts);

    return !qdict_get_bool(qdict_get_qdict(info, "settings"),
                           "user-mode-only");
}

/*
 * A device that the kernel serves waits at the page that is lost, with all
 * others of the same buffer in hand: none of these may leave until it is done.
 */
static void buffer(void)
{
    const uint64_t n = 32;
    Driver driver;
    QVirtQueue *queue;
    QTestState *qts;
    uint8_t needle[NEEDLE];
    uint64_t pinned;
    uint32_t head;

    fault_mode = "iothread";
    driver_start(&driver, "limit=64M", "-m 128M -blockdev null-co,"
                 "node-name=disk,size=16777216,latency-ns=10000000000"
                 " -device virtio-blk-pci,addr=4.0,drive=disk,"
                 "cyls=1,heads=1,secs=1");
    qts = driver.qts;
    if (!kernel_waits(qts)) {
        g_test_skip("no right to have the kernel's page faults resolved");
        driver_end(&driver);
        return;
    }
    queue = driver_add_queue(&driver, 0);
    qvirtio_set_driver_ok(driver.device);
    fill(qts, BASE, (n + 2) * PAGE, CONTENT_RANDOM, 1);
    qtest_memread(qts, BASE + 7 * PAGE + 256, needle, NEEDLE);
    /* all but the queue */
    pinned = number(qts, "memory", "pinned");
    wait_until(reclaim(qts, 128 * MIB) == 0 &&
               number(qts, "memory", "resident") <= pinned);
    damage(qts, needle);

    head = driver_add_request(&driver, queue, VIRTIO_BLK_T_IN, BASE + PAGE,
                              n * PAGE, false);
    qvirtqueue_kick(qts, driver.device, queue, head);
    qtest_qmp_eventwait(qts, "MEMSWAP_PAGE_LOST");
    expect_soon(qts, "memory", "poisoned", PAGE);
    /* beside these the header and the status */
    g_assert_cmpuint(number(qts, "memory", "pinned"), >=,
                     pinned + (n - 1) * PAGE);
    reclaim(qts, 128 * MIB);
    g_assert_cmpuint(number(qts, "memory", "resident"), >=,
                     pinned + (n - 1) * PAGE);

    qtest_qmp_assert_success(qts, "{ 'execute': 'memswap-forget-lost' }");
    qvirtio_wait_used_elem(qts, driver.device, queue, head, NULL,
                           PATIENCE_US);
    expect_soon(qts, "memory", "pinned", pinned);
    expect_soon(qts, "memory", "poisoned", 0);
    expect_sums(qts);
    qvirtio_reset(driver.device);
    expect_soon(qts, "memory", "pinned", 0);
    driver_remove_queue(&driver, queue);
    driver_end(&driver);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("memswap/lost/buffer", buffer);
    return g_test_run();
}

/*
 * memswap: memory that is plugged joins, memory that is unplugged leaves
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qobject/qlist.h"
#include "memswap-util.h"

#define ON "-nodefaults -m 128M,slots=2,maxmem=1G -memswap limit=16M "

/* Registers by which firmware drives memory slots. */
#define SLOT_SELECT 0xa00
#define SLOT_FLAGS 0xa14
#define SLOT_EJECT 8

static uint64_t address_of(QTestState *qts, const char *id)
{
    g_autoptr(QDict) response = qtest_qmp(
        qts, "{ 'execute': 'query-memory-devices' }");
    const QListEntry *entry;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(response, "return"), entry) {
        QDict *data = qdict_get_qdict(qobject_to(QDict,
                                                 qlist_entry_obj(entry)),
                                      "data");

        if (g_str_equal(qdict_get_str(data, "id"), id)) {
            return qdict_get_int(data, "addr");
        }
    }
    g_assert_not_reached();
}

static void plug(QTestState *qts, const char *backend)
{
    qtest_qmp_assert_success(qts, "{ 'execute': 'object-add', 'arguments': {"
                             " 'qom-type': %s, 'id': 'mem',"
                             " 'size': 67108864 } }", backend);
    qtest_qmp_device_add(qts, "pc-dimm", "dimm", "{ 'memdev': 'mem' }");
}

/* The guest agrees at once; the block goes after a grace period. */
static void unplug(QTestState *qts)
{
    qtest_qmp_device_del_send(qts, "dimm");
    qtest_outl(qts, SLOT_SELECT, 0);
    qtest_outb(qts, SLOT_FLAGS, SLOT_EJECT);
    qtest_qmp_eventwait(qts, "DEVICE_DELETED");
    qtest_qmp_assert_success(qts, "{ 'execute': 'object-del',"
                             " 'arguments': { 'id': 'mem' } }");
    expect_soon(qts, "memory", "managed", 128 * MIB);
    g_assert_cmpint(block_number(qts, "mem", "managed"), ==, -1);
}

/* Unplugged with its pages everywhere: in memory, stored, not there. */
static void dimm(const void *opaque)
{
    QTestState *qts = qtest_init(ON);
    uint64_t addr;

    for (unsigned int round = 1; round <= 3; round++) {
        g_assert_cmpint(block_number(qts, "mem", "managed"), ==, -1);
        plug(qts, opaque);
        g_assert_cmpint(block_number(qts, "mem", "managed"), ==, 64 * MIB);
        g_assert_cmpint(block_number(qts, "mem", "untouched"), ==, 64 * MIB);
        g_assert_cmpuint(number(qts, "memory", "managed"), ==, 192 * MIB);

        addr = address_of(qts, "dimm");
        fill(qts, 4 * MIB, 8 * MIB, CONTENT_MIXED, round);
        fill(qts, addr, 24 * MIB, CONTENT_RANDOM, round);
        expect_within_limit(qts);
        check(qts, addr, 24 * MIB, CONTENT_RANDOM, round);
        check(qts, 4 * MIB, 8 * MIB, CONTENT_MIXED, round);
        expect_sums(qts);
        g_assert_cmpint(block_number(qts, "mem", "stored"), >, 0);

        unplug(qts);
        expect_sums(qts);
        check(qts, 4 * MIB, 8 * MIB, CONTENT_MIXED, round);
    }
    qtest_quit(qts);
}

/* What it had in the pool is dropped, and its pages given up. */
static void nothing_left(void)
{
    QTestState *qts = qtest_init(ON);
    uint64_t live, resident;
    uint64_t addr;

    reclaim(qts, 128 * MIB);
    live = number(qts, "pool", "live-bytes");
    resident = number(qts, "memory", "resident");
    plug(qts, "memory-backend-memfd");
    addr = address_of(qts, "dimm");
    fill(qts, addr, 24 * MIB, CONTENT_RANDOM, 1);
    reclaim(qts, 16 * MIB);
    fill(qts, addr, 2 * MIB, CONTENT_RANDOM, 2);
    g_assert_cmpuint(number(qts, "pool", "live-bytes"), >=, 16 * MIB);
    g_assert_cmpuint(number(qts, "memory", "resident"), >=, 2 * MIB);

    unplug(qts);
    g_assert_cmpuint(number(qts, "pool", "live-bytes"), ==, live);
    /* An empty pool takes next to nothing, also while all else rests. */
    wait_until(number(qts, "pool", "bytes") <= live + 4 * MIB);
    g_assert_cmpuint(number(qts, "memory", "resident"), ==, resident);
    expect_sums(qts);
    qtest_quit(qts);
}

/* Without having been plugged, and so never managed. */
static void backend_alone(void)
{
    QTestState *qts = qtest_init(ON);

    for (int i = 0; i < 3; i++) {
        qtest_qmp_assert_success(qts, "{ 'execute': 'object-add',"
                                 " 'arguments': { 'qom-type':"
                                 " 'memory-backend-memfd', 'id': 'mem',"
                                 " 'size': 67108864 } }");
        g_assert_cmpuint(number(qts, "memory", "managed"), ==, 128 * MIB);
        qtest_qmp_assert_success(qts, "{ 'execute': 'object-del',"
                                 " 'arguments': { 'id': 'mem' } }");
    }
    expect_sums(qts);
    qtest_quit(qts);
}

/* Private memory may be plugged, and is left alone. */
static void private_dimm(void)
{
    QTestState *qts = qtest_init(ON);
    g_autofree char *reason = NULL;
    uint64_t addr;

    qtest_qmp_assert_success(qts, "{ 'execute': 'object-add', 'arguments': {"
                             " 'qom-type': 'memory-backend-ram', 'id': 'mem',"
                             " 'size': 67108864, 'share': false } }");
    qtest_qmp_device_add(qts, "pc-dimm", "dimm", "{ 'memdev': 'mem' }");
    reason = block_reason(qts, "mem");
    g_assert_nonnull(reason);
    g_assert_nonnull(strstr(reason, "is private memory: add share=on"));
    g_assert_cmpuint(number(qts, "memory", "managed"), ==, 128 * MIB);
    addr = address_of(qts, "dimm");
    fill(qts, addr, 20 * MIB, CONTENT_RANDOM, 1);
    reclaim(qts, 128 * MIB);
    check(qts, addr, 20 * MIB, CONTENT_RANDOM, 1);
    g_assert_cmpuint(number(qts, "memory", "stored"), <, 16 * MIB);
    unplug(qts);
    expect_sums(qts);
    qtest_quit(qts);
}

/* There from the start. */
static void cold_plugged(void)
{
    QTestState *qts = qtest_init(ON "-object memory-backend-memfd,id=mem,"
                                 "size=64M -device pc-dimm,id=dimm,"
                                 "memdev=mem");
    uint64_t addr = address_of(qts, "dimm");

    g_assert_cmpint(block_number(qts, "mem", "managed"), ==, 64 * MIB);
    fill(qts, addr, 24 * MIB, CONTENT_MIXED, 1);
    reclaim(qts, 128 * MIB);
    check(qts, addr, 24 * MIB, CONTENT_MIXED, 1);
    /* Later memory counts: the limit may be as large as RAM may get. */
    qtest_qmp_assert_success(qts, "{ 'execute': 'memswap-set', 'arguments':"
                             " { 'limit': 1073741824 } }");
    expect_error(qts, "limit must not be larger than guest RAM, 1024 MiB",
                 "{ 'execute': 'memswap-set', 'arguments':"
                 " { 'limit': 1073741825 } }");
    expect_sums(qts);
    qtest_quit(qts);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_data_func("memswap/plug/memfd", "memory-backend-memfd", dimm);
    qtest_add_data_func("memswap/plug/ram", "memory-backend-ram", dimm);
    qtest_add_func("memswap/plug/nothing-left", nothing_left);
    qtest_add_func("memswap/plug/backend-alone", backend_alone);
    qtest_add_func("memswap/plug/private", private_dimm);
    qtest_add_func("memswap/plug/cold", cold_plugged);
    return g_test_run();
}

/*
 * memswap: what is refused while QEMU runs, with nothing changed
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qobject/qlist.h"
#include "memswap-util.h"

#define ON "-nodefaults -m 128M -memswap limit=16M "
#define NOT_YET "memswap: migration and snapshots are not supported yet"

static QTestState *start(const char *args)
{
    /* A socket whose name is no file, and like no other program's. */
    QTestState *qts = qtest_initf("-chardev socket,id=c,path=memswap-%d,"
                                  "abstract=on,server=on,wait=off %s",
                                  getpid(), args);

    fill(qts, 2 * MIB, 20 * MIB, CONTENT_MIXED, 1);
    return qts;
}

/* After all that was refused, all goes on as before. */
static void end(QTestState *qts)
{
    g_autoptr(QDict) status = qtest_qmp_assert_success_ref(
        qts, "{ 'execute': 'query-status' }");

    g_assert_cmpstr(qdict_get_str(status, "status"), ==, "running");
    reclaim(qts, 128 * MIB);
    check(qts, 2 * MIB, 20 * MIB, CONTENT_MIXED, 1);
    expect_within_limit(qts);
    expect_sums(qts);
    qtest_quit(qts);
}

static void set_capability(QTestState *qts, const char *name, bool on)
{
    if (name) {
        qtest_qmp_assert_success(qts, "{ 'execute':"
                                 " 'migrate-set-capabilities', 'arguments':"
                                 " { 'capabilities': [ { 'capability': %s,"
                                 " 'state': %i } ] } }", name, on);
    }
}

static void migrate(void)
{
    static const struct {
        const char *capability;
        const char *uri;
    } ways[] = {
        { NULL, "exec:cat > /dev/null" },
        { "multifd", "tcp:127.0.0.1:1" },
        { "postcopy-ram", "tcp:127.0.0.1:1" },
        { "mapped-ram", "file:/dev/null" },
        { "x-ignore-shared", "exec:cat > /dev/null" },
    };
    QTestState *qts = start(ON);
    g_autoptr(QDict) state = NULL;

    for (int i = 0; i < ARRAY_SIZE(ways); i++) {
        set_capability(qts, ways[i].capability, true);
        expect_error(qts, NOT_YET, "{ 'execute': 'migrate', 'arguments':"
                     " { 'uri': %s } }", ways[i].uri);
        set_capability(qts, ways[i].capability, false);
    }
    state = qtest_qmp_assert_success_ref(qts,
                                         "{ 'execute': 'query-migrate' }");
    g_assert_false(qdict_haskey(state, "status"));
    g_assert_cmpint(qlist_size(qdict_get_qlist(state, "blocked-reasons")), ==,
                    1);
    end(qts);
}

/* The modes that leave RAM in place need to have all of it there. */
static void reboot_in_place(void)
{
    QTestState *qts = start(ON);

    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate-set-parameters',"
                             " 'arguments': { 'mode': 'cpr-reboot' } }");
    expect_error(qts, NOT_YET, "{ 'execute': 'migrate', 'arguments':"
                 " { 'uri': 'exec:cat > /dev/null' } }");
    end(qts);
}

static void transfer_in_place(void)
{
    QTestState *qts = start(ON "-machine aux-ram-share=on");

    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate-set-parameters',"
                             " 'arguments': { 'mode': 'cpr-transfer' } }");
    expect_error(qts, NOT_YET, "{ 'execute': 'migrate', 'arguments': {"
                 " 'channels': [ { 'channel-type': 'main', 'addr': {"
                 " 'transport': 'socket', 'type': 'unix',"
                 " 'path': 'memswap-none.sock' } }, { 'channel-type': 'cpr',"
                 " 'addr': { 'transport': 'socket', 'type': 'unix',"
                 " 'path': 'memswap-none.sock' } } ] } }");
    end(qts);
}

/* Run a job that saves a snapshot.  Returns its error, to be freed. */
static char *save_by_job(QTestState *qts)
{
    int64_t until = g_get_monotonic_time() + PATIENCE_US;
    char *error = NULL;

    qtest_qmp_assert_success(qts, "{ 'execute': 'snapshot-save', 'arguments':"
                             " { 'job-id': 'job', 'tag': 'snap',"
                             " 'vmstate': 'disk', 'devices': [ 'disk' ] } }");
    for (;;) {
        g_autoptr(QDict) response = qtest_qmp(qts,
                                              "{ 'execute': 'query-jobs' }");
        QDict *job = qobject_to(QDict, qlist_peek(
            qdict_get_qlist(response, "return")));

        if (g_str_equal(qdict_get_str(job, "status"), "concluded")) {
            error = g_strdup(qdict_get_try_str(job, "error"));
            break;
        }
        g_assert_cmpint(g_get_monotonic_time(), <, until);
        g_usleep(10 * 1000);
    }
    qtest_qmp_assert_success(qts, "{ 'execute': 'job-dismiss', 'arguments':"
                             " { 'id': 'job' } }");
    return error;
}

static void save_snapshot(void)
{
    QTestState *qts = start(ON "-blockdev null-co,node-name=disk");
    g_autofree char *text = qtest_hmp(qts, "savevm snap");
    g_autofree char *error = save_by_job(qts);

    g_assert_nonnull(strstr(text, NOT_YET));
    g_assert_nonnull(error);
    g_assert_nonnull(strstr(error, NOT_YET));
    end(qts);
}

static void load_snapshot(void)
{
    QTestState *qts = start(ON "-blockdev null-co,node-name=disk");
    g_autofree char *text = qtest_hmp(qts, "loadvm snap");

    g_assert_nonnull(strstr(text, NOT_YET));
    expect_error(qts, NOT_YET, "{ 'execute': 'snapshot-load', 'arguments':"
                 " { 'job-id': 'job', 'tag': 'snap', 'vmstate': 'disk',"
                 " 'devices': [ 'disk' ] } }");
    end(qts);
}

/* Reads no RAM but what it needs a look at, and so may run. */
static void dirty_rate(void)
{
    QTestState *qts = start(ON);
    int64_t until = g_get_monotonic_time() + PATIENCE_US;
    bool done = false;

    qtest_qmp_assert_success(qts, "{ 'execute': 'calc-dirty-rate',"
                             " 'arguments': { 'calc-time': 1 } }");
    while (!done) {
        g_autoptr(QDict) rate = qtest_qmp_assert_success_ref(
            qts, "{ 'execute': 'query-dirty-rate' }");

        done = g_str_equal(qdict_get_str(rate, "status"), "measured");
        g_assert_cmpint(g_get_monotonic_time(), <, until);
        g_usleep(100 * 1000);
    }
    end(qts);
}

/* What can't be there at start can't come later either. */
static void devices(void)
{
    QTestState *qts = start(ON "-object iothread,id=other"
                            " -blockdev null-co,node-name=disk");

    expect_error(qts, "memswap: VFIO devices are not supported yet",
                 "{ 'execute': 'device_add', 'arguments': { 'driver':"
                 " 'vfio-pci', 'id': 'd', 'host': '0000:ff:1f.7' } }");
    qtest_qmp_assert_success(qts, "{ 'execute': 'device_add', 'arguments':"
                             " { 'driver': 'virtio-blk-pci', 'id': 'd',"
                             " 'drive': 'disk', 'iothread': 'other' } }");
    end(qts);
}

/* At run time it must not even leave the backend behind. */
static void vhost_user_net(void)
{
    QTestState *qts = start(ON);

    expect_error(qts, "memswap: vhost-user devices keep all guest RAM"
                 " resident, 128 MiB",
                 "{ 'execute': 'netdev_add', 'arguments': {"
                 " 'type': 'vhost-user', 'id': 'n', 'chardev': 'c' } }");
    end(qts);
}

static void iothread(void)
{
    QTestState *qts = start("-nodefaults -m 128M -object iothread,id=faults"
                            " -memswap limit=16M,iothread=faults"
                            " -blockdev null-co,node-name=disk");

    expect_error(qts, "IOThread 'faults' resolves page faults: give the device"
                 " another one", "{ 'execute': 'device_add', 'arguments':"
                 " { 'driver': 'virtio-blk-pci', 'id': 'd', 'drive': 'disk',"
                 " 'iothread': 'faults' } }");
    expect_error(qts, "IOThread 'faults' resolves page faults: give the device"
                 " another one", "{ 'execute': 'device_add', 'arguments':"
                 " { 'driver': 'virtio-blk-pci', 'id': 'd', 'drive': 'disk',"
                 " 'iothread-vq-mapping': [ { 'iothread': 'faults' } ] } }");
    end(qts);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("memswap/refuse/migrate", migrate);
    qtest_add_func("memswap/refuse/cpr-reboot", reboot_in_place);
    qtest_add_func("memswap/refuse/cpr-transfer", transfer_in_place);
    qtest_add_func("memswap/refuse/save-snapshot", save_snapshot);
    qtest_add_func("memswap/refuse/load-snapshot", load_snapshot);
    qtest_add_func("memswap/refuse/devices", devices);
    qtest_add_func("memswap/refuse/vhost-user-net", vhost_user_net);
    qtest_add_func("memswap/refuse/iothread", iothread);
    qtest_add_func("memswap/harmless/dirty-rate", dirty_rate);
    return g_test_run();
}

/*
 * memswap: its commands out of band, beside others and while all else waits
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/ptrace.h>
#include <sys/wait.h>
#include "qobject/qlist.h"
#include "libqmp.h"
#include "memswap-util.h"

#define ROUNDS 200

/* Settings that belong together: each is a function of the limit. */
static void expect_one_of_two(QDict *info)
{
    QDict *now = qdict_get_qdict(info, "settings");
    bool first = qdict_get_int(now, "limit") == 16 * MIB;

    g_assert_cmpint(qdict_get_int(now, "limit"), ==,
                    first ? 16 * MIB : 24 * MIB);
    g_assert_cmpint(qdict_get_int(now, "pool-limit"), ==,
                    first ? 32 * MIB : 48 * MIB);
    g_assert_cmpint(qdict_get_int(now, "compression-level"), ==,
                    first ? 1 : 2);
    g_assert_cmpstr(qdict_get_str(now, "when-full"), ==,
                    first ? "hold" : "overshoot");
}

static void *set_out_of_band(void *opaque)
{
    int monitor = *(int *)opaque;

    for (int i = 0; i < ROUNDS; i++) {
        g_autoptr(QDict) info = NULL;

        qobject_unref(qmp_fd(monitor, "{ 'exec-oob': 'memswap-set', 'id': 'a',"
                             " 'arguments': { 'limit': 25165824,"
                             " 'pool-limit': 50331648, 'when-full':"
                             " 'overshoot', 'compression-level': 2 } }"));
        info = qmp_fd(monitor, "{ 'exec-oob': 'query-memswap', 'id': 'b' }");
        expect_one_of_two(qdict_get_qdict(info, "return"));
    }
    return NULL;
}

static void set_concurrently(void)
{
    int monitor;
    QTestState *qts = start_with_monitor(
        "-nodefaults -m 128M"
        " -memswap limit=16M,pool-limit=32M,compression-level=1", &monitor);
    GThread *thread = g_thread_new("monitor", set_out_of_band, &monitor);

    for (int i = 0; i < ROUNDS; i++) {
        g_autoptr(QDict) info = NULL;

        qtest_qmp_assert_success(qts, "{ 'execute': 'memswap-set',"
                                 " 'arguments': { 'limit': 16777216,"
                                 " 'pool-limit': 33554432, 'when-full':"
                                 " 'hold', 'compression-level': 1 } }");
        info = query(qts);
        expect_one_of_two(info);
        /* And one that is refused must leave no trace. */
        expect_error(qts, "limit must be", "{ 'execute': 'memswap-set',"
                     " 'arguments': { 'limit': 1, 'pool-limit': 9999999,"
                     " 'compression-level': 3 } }");
    }
    g_thread_join(thread);
    close(monitor);
    qtest_quit(qts);
}

static pid_t find_iothread(QTestState *qts, const char *id)
{
    g_autoptr(QDict) response = qtest_qmp(qts,
                                          "{ 'execute': 'query-iothreads' }");
    const QListEntry *entry;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(response, "return"), entry) {
        QDict *thread = qobject_to(QDict, qlist_entry_obj(entry));

        if (g_str_equal(qdict_get_str(thread, "id"), id)) {
            return qdict_get_int(thread, "thread-id");
        }
    }
    g_assert_not_reached();
}

/* Stop a single thread.  To be undone by the same thread of ours. */
static bool stop_thread(pid_t tid)
{
    int status;

    if (ptrace(PTRACE_SEIZE, tid, NULL, NULL)) {
        g_test_skip("this user may not trace processes");
        return false;
    }
    g_assert_cmpint(ptrace(PTRACE_INTERRUPT, tid, NULL, NULL), ==, 0);
    g_assert_cmpint(waitpid(tid, &status, __WALL), ==, tid);
    g_assert_true(WIFSTOPPED(status));
    return true;
}

static void *read_guest_ram(void *opaque)
{
    check(opaque, 16 * MIB, 4 * PAGE, CONTENT_RANDOM, 1);
    return NULL;
}

/*
 * Nobody resolves faults, the main loop waits in one: it answers nothing,
 * but what is executed out of band works.
 */
static void main_loop_waits(void)
{
    int monitor;
    QTestState *qts = start_with_monitor(
        "-nodefaults -m 128M -object iothread,id=faults"
        " -memswap limit=16M,iothread=faults", &monitor);
    int64_t until = g_get_monotonic_time() + PATIENCE_US;
    pid_t tid = find_iothread(qts, "faults");
    g_autoptr(QDict) info = NULL;
    GThread *thread;

    fill(qts, 16 * MIB, 4 * PAGE, CONTENT_RANDOM, 1);
    g_assert_cmpuint(reclaim(qts, 128 * MIB), >=, 4 * PAGE);
    if (stop_thread(tid)) {
        /* libqtest uses separate sockets for this and for QMP. */
        thread = g_thread_new("guest", read_guest_ram, qts);
        /* The read may be on its way yet: until one isn't answered. */
        for (;;) {
            qmp_fd_send(monitor,
                        "{ 'execute': 'query-memswap', 'id': 'in' }");
            if (!answers(monitor, 500)) {
                break;
            }
            g_assert_cmpint(g_get_monotonic_time(), <, until);
            qobject_unref(answer(monitor, "in"));
        }

        for (int i = 0; i < 3; i++) {
            qmp_fd_send(monitor,
                        "{ 'exec-oob': 'query-memswap', 'id': 'out' }");
            qobject_unref(answer(monitor, "out"));
            qmp_fd_send(monitor, "{ 'exec-oob': 'memswap-set', 'id': 'set',"
                        " 'arguments': { 'limit': %d } }",
                        (int)((20 + i) * MIB));
            qobject_unref(answer(monitor, "set"));
        }
        qmp_fd_send(monitor, "{ 'exec-oob': 'query-memswap', 'id': 'out' }");
        info = answer(monitor, "out");
        g_assert_cmpint(qdict_get_int(qdict_get_qdict(
            qdict_get_qdict(info, "return"), "settings"), "limit"), ==,
            22 * MIB);
        g_assert_cmpint(qdict_get_int(qdict_get_qdict(
            qdict_get_qdict(info, "return"), "memory"), "resident"), ==, 0);

        g_assert_cmpint(ptrace(PTRACE_DETACH, tid, NULL, NULL), ==, 0);
        g_thread_join(thread);
        qobject_unref(answer(monitor, "in"));
        g_assert_cmpuint(number(qts, "settings", "limit"), ==, 22 * MIB);
    }
    close(monitor);
    qtest_quit(qts);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("memswap/oob/concurrently", set_concurrently);
    qtest_add_func("memswap/oob/main-loop-waits", main_loop_waits);
    return g_test_run();
}

/*
 * memswap: bad policies, and slow ones: they cost time, and nothing else
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include "libqmp.h"
#include "memswap-policy-util.h"

/* Longer than the engine waits for a policy. */
#define HANG_MS 5000

/* --- bad ones ---------------------------------------------------------- */

static void expect_event(QTestState *qts, const char *id, const char *reason)
{
    g_autoptr(QDict) event = qtest_qmp_eventwait_ref(qts,
                                                     "MEMSWAP_POLICY_ERROR");
    QDict *data = qdict_get_qdict(event, "data");

    g_assert_cmpstr(qdict_get_str(data, "id"), ==, id);
    g_assert_cmpstr(qdict_get_str(data, "reason"), ==, reason);
}

static void expect_given_up(QTestState *qts, const char *id,
                            const char *reason)
{
    g_autoptr(QDict) found = policy(qts, id);
    g_autofree char *text = qtest_hmp(qts, "info memswap");
    g_autofree char *line = g_strdup_printf("%s: puppet, given up: %s, ", id,
                                            reason);

    g_assert_nonnull(found);
    g_assert_cmpstr(qdict_get_str(found, "error"), ==, reason);
    g_assert_cmpuint(qdict_get_int(found, "requests"), >, 0);
    g_assert_nonnull(strstr(text, line));
}

/* The guest goes on without it, and another takes its place. */
static void hung(void)
{
    QTestState *qts = qtest_init(MACHINE "-memswap limit=16M,readahead=0 "
                                 OBJECT "p,path=" SO("puppet"));
    int64_t until = g_get_monotonic_time() + PATIENCE_US;

    ask(qts, "p", "hang-next", "0");
    fill(qts, 16 * MIB, 32 * MIB, CONTENT_MIXED, 1);
    expect_event(qts, "p", "it does not return");
    expect_given_up(qts, "p", "it does not return");
    await_policies(qts, DEFAULT " p:puppet:error");
    check(qts, 16 * MIB, 32 * MIB, CONTENT_MIXED, 1);
    expect_within_limit(qts);

    expect_error(qts, "there is no policy 'p'", SET
                 "{ 'id': 'p', 'options': { 'limit': 0 } } }");
    qtest_qmp_assert_success(qts, ADD "{ 'id': 'q', 'builtin': 'limit' } }");
    expect_policies(qts, "q:limit p:puppet:error");
    /* Evictors may be faster, now and then. */
    do {
        check(qts, 16 * MIB, 32 * MIB, CONTENT_MIXED, 1);
        g_assert_cmpint(g_get_monotonic_time(), <, until);
    } while (!figure(qts, "q", "reclaimed"));
    expect_within_limit(qts);

    /* The name is the object's as long as that is there. */
    expect_error(qts, "there is a policy 'p' already: remove it first", ADD
                 "{ 'id': 'p', 'builtin': 'linear' } }");
    qtest_qmp_assert_success(qts, OBJECT_DEL "{ 'id': 'p' } }");
    expect_policies(qts, "q:limit");
    qtest_qmp_assert_success(qts, OBJECT_ADD
                             "'id': 'p', 'builtin': 'linear' } }");
    expect_policies(qts, "q:limit p:linear");
    qtest_quit(qts);
}

/* It hangs when it is to end: gone all the same. */
static void hung_at_end(void)
{
    QTestState *qts = qtest_init(ON);
    uint64_t before;

    qtest_qmp_assert_success(qts, ADD "{ 'id': 'p', 'path': %s } }",
                             SO("puppet"));
    before = figure(qts, "p", "events");
    ask(qts, "p", "hang-next", "0");
    fill(qts, 16 * MIB, PAGE, CONTENT_RANDOM, 1);
    /* Or it would be gone before it hears of that. */
    expect_more(qts, "p", "events", before);
    expect_error(qts, "policy 'p' does not return", REMOVE "{ 'id': 'p' } }");
    expect_event(qts, "p", "it does not return");
    expect_policies(qts, DEFAULT);
    expect_swapping(qts);
    qtest_quit(qts);
}

static void nonsense(void)
{
    QTestState *qts = qtest_init(ON);

    for (int i = 0; i < 2; i++) {
        g_autofree char *id = g_strdup_printf("p%d", i);

        qtest_qmp_assert_success(qts, ADD "{ 'id': %s, 'path': %s } }", id,
                                 SO("puppet"));
        expect_error(qts, "option 'flood-nonsense'", SET "{ 'id': %s,"
                     " 'options': { 'flood-nonsense': 1000 } } }", id);
        /* One's event does not keep another's back. */
        expect_event(qts, id, "its requests make no sense");
        expect_given_up(qts, id, "its requests make no sense");
        g_assert_cmpuint(figure(qts, id, "refused"), >=, 1000);
    }
    await_policies(qts, DEFAULT " p0:puppet:error p1:puppet:error");
    qtest_qmp_assert_success(qts, ADD "{ 'id': 'p1', 'builtin': 'limit' } }");
    expect_policies(qts, "p1:limit p0:puppet:error");
    qtest_qmp_assert_success(qts, REMOVE "{ 'id': 'p0' } }");
    expect_policies(qts, "p1:limit");
    qtest_quit(qts);
}

/* --- who waits --------------------------------------------------------- */

/* While a policy hangs in being loaded the main loop serves others. */
static void main_loop_goes_on(void)
{
    int monitor;
    QTestState *qts = start_with_monitor(ON, &monitor);
    g_autoptr(QDict) response = NULL;
    int64_t began = g_get_monotonic_time(), took;
    int served = 0;

    fill(qts, 16 * MIB, 4 * MIB, CONTENT_RANDOM, 1);
    reclaim(qts, 128 * MIB);
    qmp_fd_send(monitor, ADD "{ 'id': 'p', 'path': %s } }",
                SO("hang-loading"));
    while (!answers(monitor, 0)) {
        check(qts, 16 * MIB, PAGE, CONTENT_RANDOM, 1);
        served++;
        g_assert_cmpint(g_get_monotonic_time() - began, <, PATIENCE_US);
    }
    took = g_get_monotonic_time() - began;
    g_test_message("took %" PRId64 " us, %d times served", took, served);
    g_assert_cmpint(took, >=, HANG_MS * 1000 * 9 / 10);
    /* Were it to wait for the policy, there would be one at each end. */
    g_assert_cmpint(served, >, 10);
    response = qmp_fd_receive(monitor);
    g_assert_nonnull(strstr(qdict_get_str(qdict_get_qdict(response, "error"),
                                          "desc"),
                            "does not return from being loaded"));
    check(qts, 16 * MIB, 4 * MIB, CONTENT_RANDOM, 1);
    close(monitor);
    qtest_quit(qts);
}

/* A guest that writes to a port, which takes the BQL, for ever. */
static const uint8_t busy_guest[] = {
    0xba, 0x02, 0x04,       /* mov $0x402,%dx */
    0xb0, 0x78,             /* mov $'x',%al */
    0xee,                   /* out %al,(%dx) */
    0xeb, 0xfd,             /* jmp to the out */
};

static uint64_t written(const char *path)
{
    GStatBuf st;

    g_assert_cmpint(g_stat(path, &st), ==, 0);
    return st.st_size;
}

/* Whatever waits for a policy, vCPUs don't. */
static void vcpus_go_on(void)
{
    g_autofree char *dir = g_dir_make_tmp("memswap-XXXXXX", NULL);
    g_autofree char *disk = g_build_filename(dir, "disk", NULL);
    g_autofree char *log = g_build_filename(dir, "log", NULL);
    uint8_t sector[512] = { 0 };
    int64_t until = g_get_monotonic_time() + PATIENCE_US;
    const char *const slow[] = {
        OBJECT_ADD "'id': 'p', 'path': %s } }",
        ADD "{ 'id': 'p', 'path': %s } }",
    };
    int monitor;
    g_autofree char *args = NULL;
    QTestState *qts;

    memcpy(sector, busy_guest, sizeof(busy_guest));
    sector[510] = 0x55;
    sector[511] = 0xaa;
    g_assert_true(g_file_set_contents(disk, (char *)sector, sizeof(sector),
                                      NULL));
    args = g_strdup_printf("-accel tcg " ON "-boot c"
                           " -drive if=ide,format=raw,readonly=off,file=%s"
                           " -chardev file,id=log,path=%s"
                           " -device isa-debugcon,iobase=0x402,chardev=log",
                           disk, log);
    qts = start_with_monitor(args, &monitor);
    while (written(log) < 100000) {
        g_assert_cmpint(g_get_monotonic_time(), <, until);
        g_usleep(50 * 1000);
    }
    for (int i = 0; i < ARRAY_SIZE(slow); i++) {
        g_autoptr(QDict) response = NULL;
        uint64_t before, last;

        qmp_fd_send(monitor, slow[i], SO("hang-loading"));
        /* It is under way by then, and will be for long. */
        g_assert_false(answers(monitor, HANG_MS / 5));
        before = last = written(log);
        /* What is written by the time of the last look, it still is. */
        while (!answers(monitor, HANG_MS / 50)) {
            last = written(log);
            g_assert_cmpint(g_get_monotonic_time(), <, until);
        }
        g_test_message("%" PRIu64 " written", last - before);
        g_assert_cmpuint(last - before, >, 1000);
        response = qmp_fd_receive(monitor);
        g_assert_true(qdict_haskey(response, "error"));
    }
    close(monitor);
    qtest_quit(qts);
    g_assert_cmpint(g_unlink(disk), ==, 0);
    g_assert_cmpint(g_unlink(log), ==, 0);
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("memswap/policy/hung", hung);
    qtest_add_func("memswap/policy/hung-at-end", hung_at_end);
    qtest_add_func("memswap/policy/nonsense", nonsense);
    qtest_add_func("memswap/policy/main-loop-goes-on", main_loop_goes_on);
    if (qtest_has_accel("tcg")) {
        qtest_add_func("memswap/policy/vcpus-go-on", vcpus_go_on);
    }
    return g_test_run();
}

/*
 * memswap: who resolves faults, and with what rights to userfaultfd
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "memswap-util.h"

/* A machine that is there at once. */
#define MACHINE "-nodefaults -m 128M "
#define ON MACHINE "-memswap limit=16M "

static void expect_mode(QTestState *qts, const char *mode,
                        bool user_mode_only)
{
    g_autoptr(QDict) info = query(qts);
    QDict *now = qdict_get_qdict(info, "settings");

    g_assert_cmpstr(qdict_get_str(now, "fault-mode"), ==, mode);
    g_assert_cmpint(qdict_get_bool(now, "user-mode-only"), ==,
                    user_mode_only);
}

/* The threads of a process by name, each followed by a semicolon. */
static char *threads(pid_t pid, bool only_without_sigbus)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task", pid);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    GString *found = g_string_new("");
    const char *tid;

    g_assert_nonnull(dir);
    while ((tid = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, tid, "status", NULL);
        g_autofree char *text = NULL;
        const char *name, *blocked;

        if (!g_file_get_contents(file, &text, NULL, NULL)) {
            continue;
        }
        name = text + strlen("Name:\t");
        blocked = strstr(text, "SigBlk:");
        g_assert_nonnull(blocked);
        if (!only_without_sigbus ||
            (g_ascii_strtoull(blocked + strlen("SigBlk:"), NULL, 16) &
             (1ULL << (SIGBUS - 1)))) {
            g_string_append_printf(found, "%.*s;", (int)strcspn(name, "\n"),
                                   name);
        }
    }
    return g_string_free(found, false);
}

static bool has_thread(pid_t pid, const char *name)
{
    g_autofree char *all = threads(pid, false);

    return strstr(all, name) != NULL;
}

/* Of those that don't take the signal, the first that is none of ours. */
static char *other_without_sigbus(pid_t pid)
{
    static const char *const ours[] = {
        "memswap-evictor", "memswap-huge", "memswap-policy", "memswap-watch",
        NULL,
    };
    g_autofree char *found = threads(pid, true);
    g_auto(GStrv) names = g_strsplit(found, ";", -1);

    for (int i = 0; *names[i]; i++) {
        if (!g_strv_contains(ours, names[i])) {
            return g_strdup(names[i]);
        }
    }
    return NULL;
}

/*
 * Every thread takes the signal, also those that are older than the memswap
 * object.  Only memswap's own don't: they never touch guest RAM.
 */
static void mode_inline(void)
{
    int64_t until = g_get_monotonic_time() + PATIENCE_US;
    QTestState *qts = qtest_init(MACHINE "-object iothread,id=before"
                                 " -memswap limit=16M,fault-mode=inline"
                                 " -object iothread,id=after -smp 2"
                                 " -blockdev null-co,node-name=disk"
                                 " -device virtio-blk-pci,drive=disk,"
                                 "iothread=before");
    char *other;

    expect_mode(qts, "inline", true);
    qtest_qmp_assert_success(qts, "{ 'execute': 'object-add', 'arguments':"
                             " { 'qom-type': 'iothread', 'id': 'late' } }");
    /* RCU's gets at it when it has something to do next */
    while ((other = other_without_sigbus(qtest_pid(qts)))) {
        g_test_message("%s", other);
        g_free(other);
        g_assert_cmpint(g_get_monotonic_time(), <, until);
        g_usleep(10000);
    }
    expect_swapping(qts);
    qtest_quit(qts);
}

/*
 * In the other mode, masks are as they were without memswap, except those of
 * threads made before the accelerator was known.
 */
static void mode_iothread(void)
{
    QTestState *qts = qtest_init(MACHINE "-name debug-threads=on"
                                 " -object iothread,id=before"
                                 " -memswap limit=16M");
    g_autofree char *found = NULL;

    expect_mode(qts, "iothread", false);
    qtest_qmp_assert_success(qts, "{ 'execute': 'object-add', 'arguments':"
                             " { 'qom-type': 'iothread', 'id': 'late' } }");
    found = threads(qtest_pid(qts), true);
    g_assert_nonnull(strstr(found, "qemu-system-"));
    g_assert_nonnull(strstr(found, "IO before"));
    g_assert_nonnull(strstr(found, "IO late"));
    expect_swapping(qts);
    qtest_quit(qts);
}

/* A signal that isn't ours ends QEMU, as it does without memswap. */
static void foreign_sigbus(void)
{
    g_autofree char *command = g_strdup_printf(
        "%s -display none -accel qtest " MACHINE
        "-memswap limit=16M,fault-mode=inline",
        g_getenv("QTEST_QEMU_BINARY"));
    g_auto(GStrv) argv = NULL;
    g_autoptr(GError) error = NULL;
    int64_t until = g_get_monotonic_time() + PATIENCE_US;
    GPid pid;
    int status;

    g_assert_true(g_shell_parse_argv(command, NULL, &argv, NULL));
    g_spawn_async(NULL, argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD |
                  G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL, &pid, &error);
    g_assert_no_error(error);
    while (!has_thread(pid, "memswap-evictor")) {
        g_assert_cmpint(g_get_monotonic_time(), <, until);
        g_usleep(10000);
    }
    g_usleep(100000);
    g_assert_cmpint(kill(pid, SIGBUS), ==, 0);
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (g_get_monotonic_time() > until) {
            kill(pid, SIGKILL);
        }
        g_usleep(10000);
    }
    g_assert_true(WIFSIGNALED(status));
    g_assert_cmpint(WTERMSIG(status), ==, SIGBUS);
}

/* TCG takes the fastest way, unless an IOThread is named. */
static void mode_auto(void)
{
    QTestState *qts = qtest_init("-accel tcg " ON "-S");

    expect_mode(qts, "inline", true);
    expect_swapping(qts);
    qtest_quit(qts);
    qts = qtest_init("-accel tcg " MACHINE "-S -object iothread,id=it"
                     " -memswap limit=16M,iothread=it");
    expect_mode(qts, "iothread", false);
    expect_swapping(qts);
    qtest_quit(qts);
}

/*
 * A host may show a register to guests that it does not let QEMU set: for
 * such the CPU goes without it.
 */
#define KVM_CPU "-cpu host,vmx=off,svm=off,arch-capabilities=off "

/* /dev/kvm may be there, and QEMU not able to use it. */
static bool kvm_works(void)
{
    g_autofree char *command = NULL;
    int status;

    if (access("/dev/kvm", R_OK | W_OK)) {
        return false;
    }
    command = g_strdup_printf(
        "sh -c 'echo quit | timeout --signal=KILL 30 %s -display none"
        " -nodefaults -accel kvm " KVM_CPU "-S -monitor stdio"
        " >/dev/null 2>&1'", g_getenv("QTEST_QEMU_BINARY"));
    return g_spawn_command_line_sync(command, NULL, NULL, &status, NULL) &&
           status == 0;
}

static void mode_kvm(void)
{
    if (!kvm_works()) {
        g_test_skip("needs a KVM that works");
        return;
    }
    expect_refusal("-accel kvm " KVM_CPU MACHINE
                   "-memswap limit=16M,fault-mode=inline",
                   "memswap: KVM can't resolve faults inline: use"
                   " fault-mode=iothread");
}

/* TCG can do with faults of user code, KVM can't. */
static void no_rights_tcg(void)
{
    static const char *const modes[] = { "inline", "iothread" };

    for (int i = 0; i < ARRAY_SIZE(modes); i++) {
        g_autofree char *args = g_strdup_printf(
            "-accel tcg " MACHINE "-S -memswap limit=16M,fault-mode=%s",
            modes[i]);
        QTestState *qts = start_without_rights(args);

        if (!qts) {
            return;
        }
        expect_mode(qts, modes[i], true);
        expect_swapping(qts);
        qtest_quit(qts);
    }
}

/* The refusals say what the user lacks, where that is what it takes. */
static void no_rights_vhost(void)
{
    QTestState *qts = start_without_rights(
        MACHINE "-memswap limit=16M,fault-mode=iothread");

    if (qts) {
        expect_error(qts, "memswap: vhost needs userfaultfd for faults of the"
                     " kernel: give this user access to /dev/userfaultfd",
                     "{ 'execute': 'device_add', 'arguments': { 'driver':"
                     " 'vhost-vsock-pci', 'guest-cid': 3, 'vhostfd': '0' } }");
        expect_swapping(qts);
        qtest_quit(qts);
    }
}

static void no_rights_kvm(void)
{
    g_autofree char *out = NULL;
    g_autofree char *err = NULL;
    g_autofree char *command = NULL;
    g_autoptr(GError) error = NULL;
    int status;

    if (geteuid() != 0 || !kvm_works()) {
        g_test_skip("needs root, and a KVM that works");
        return;
    }
    /* The right to KVM is handed over, that to userfaultfd isn't. */
    command = g_strdup_printf(
        "sh -c 'exec 9<>/dev/kvm; exec timeout --signal=KILL 30 setpriv"
        " --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all"
        " --inh-caps=-all %s -display none -add-fd fd=9,set=1"
        " -accel kvm,device=/dev/fdset/1 " KVM_CPU ON "'",
        g_getenv("QTEST_QEMU_BINARY"));
    g_spawn_command_line_sync(command, &out, &err, &status, &error);
    g_assert_no_error(error);
    g_test_message("%s", err);
    if (strstr(err, "setpriv")) {
        g_test_skip("needs setpriv, and a QEMU that all may execute");
        return;
    }
    g_assert_cmpint(WEXITSTATUS(status), ==, 1);
    g_assert_nonnull(strstr(err, "memswap: KVM needs userfaultfd for faults of"
                            " the kernel: give this user access to"
                            " /dev/userfaultfd"));
    g_assert_cmpstr(strchr(err, '\n'), ==, "\n");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("memswap/fault-mode/inline", mode_inline);
    qtest_add_func("memswap/fault-mode/iothread", mode_iothread);
    qtest_add_func("memswap/fault-mode/foreign-sigbus", foreign_sigbus);
    qtest_add_func("memswap/fault-mode/auto", mode_auto);
    qtest_add_func("memswap/fault-mode/kvm", mode_kvm);
    qtest_add_func("memswap/no-rights/tcg", no_rights_tcg);
    qtest_add_func("memswap/no-rights/vhost", no_rights_vhost);
    qtest_add_func("memswap/no-rights/kvm", no_rights_kvm);
    return g_test_run();
}

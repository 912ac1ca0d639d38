/*
 * memswap: what its qtests share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include "libqmp.h"
#include "qobject/qlist.h"
#include "qobject/qstring.h"
#include "memswap-util.h"

/* A user who owns nothing. */
#define NOBODY 65534

/*
 * As much as one command of qtest's moves.  Both ends look for the end of a
 * line from its start whenever a part of it has come: long ones take long.
 */
#define CHUNK (64 * 1024)

#define MONITOR "-chardev socket,id=more,fd=%d -mon chardev=more,mode=control "

/* Each QEMU looks for pins that nobody has, when it ends. */
static void __attribute__((__constructor__)) check_pins(void)
{
    g_setenv("MEMSWAP_CHECK_PINS", "1", true);
}

static const char *qemu_binary(void)
{
    const char *binary = g_getenv("QTEST_QEMU_BINARY");

    g_assert(binary);
    return binary;
}

int run_qemu(const char *args, char **out, char **err)
{
    /* If it doesn't end, it is ended, and the status says so. */
    g_autofree char *command = g_strdup_printf(
        "timeout --signal=KILL 30 %s -display none -audio none %s"
        " -accel qtest", qemu_binary(), args);
    g_autoptr(GError) error = NULL;
    int status;

    g_test_message("running %s", command);
    g_spawn_command_line_sync(command, out, err, &status, &error);
    g_assert_no_error(error);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

void expect_refusal(const char *args, const char *message)
{
    g_autofree char *out = NULL;
    g_autofree char *err = NULL;
    int status = run_qemu(args, &out, &err);
    char *end = strchr(err, '\n');

    g_test_message("exit status %d: %s", status, err);
    /* One line, and nothing behind it. */
    if (status != 1 || !strstr(err, message) || g_strcmp0(end, "\n") || *out) {
        g_test_message("expected exit status 1 and one line with: %s",
                       message);
        g_test_fail();
    }
}

QTestState *start_without_rights(const char *args)
{
    g_autofree char *command = NULL;
    QTestState *qts;
    mode_t mask;

    if (geteuid() == 0) {
        g_autofree char *drop = g_strdup_printf(
            "setpriv --reuid=%d --regid=%d --clear-groups --no-new-privs"
            " --inh-caps=-all --bounding-set=-all", NOBODY, NOBODY);
        g_autofree char *probe = g_strdup_printf("%s test -x %s", drop,
                                                 qemu_binary());
        int status;

        if (!g_spawn_command_line_sync(probe, NULL, NULL, &status, NULL) ||
            status) {
            g_test_skip("needs setpriv, and a QEMU that all may execute");
            return NULL;
        }
        command = g_strdup_printf("%s %s", drop, qemu_binary());
    } else if (access("/dev/userfaultfd", R_OK | W_OK) == 0) {
        g_test_skip("this user has access to /dev/userfaultfd");
        return NULL;
    } else {
        command = g_strdup(qemu_binary());
    }
    /* The sockets are made by us; QEMU connects to them. */
    mask = umask(0);
    g_setenv("MEMSWAP_QTEST_COMMAND", command, true);
    qts = qtest_init_with_env("MEMSWAP_QTEST_COMMAND", args, true);
    umask(mask);
    return qts;
}

QTestState *start_with_monitor(const char *args, int *monitor)
{
    g_autoptr(QDict) greeting = NULL;
    g_autoptr(QDict) response = NULL;
    QTestState *qts;
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    g_assert_cmpint(fcntl(fds[0], F_SETFD, FD_CLOEXEC), ==, 0);
    qts = qtest_initf(MONITOR "%s", fds[1], args);
    close(fds[1]);
    greeting = qmp_fd_receive(fds[0]);
    response = qmp_fd(fds[0], "{ 'execute': 'qmp_capabilities',"
                      " 'arguments': { 'enable': [ 'oob' ] } }");
    g_assert_true(qdict_haskey(response, "return"));
    *monitor = fds[0];
    return qts;
}

bool answers(int monitor, int ms)
{
    struct pollfd poll_fd = { .fd = monitor, .events = POLLIN };
    char c;

    /* What is left of the line before is none. */
    while (poll(&poll_fd, 1, ms) == 1) {
        g_assert_cmpint(recv(monitor, &c, 1, MSG_PEEK), ==, 1);
        if (!g_ascii_isspace(c)) {
            return true;
        }
        g_assert_cmpint(recv(monitor, &c, 1, 0), ==, 1);
    }
    return false;
}

QDict *answer(int monitor, const char *id)
{
    QDict *response;

    g_assert_true(answers(monitor, PATIENCE_MS));
    response = qmp_fd_receive(monitor);
    g_assert_false(qdict_haskey(response, "error"));
    g_assert_cmpstr(qdict_get_str(response, "id"), ==, id);
    return response;
}

const char *fault_mode = "auto";

typedef struct ModeTest {
    const char *mode;
    void (*test)(void);
} ModeTest;

static void test_in_mode(const void *opaque)
{
    const ModeTest *test = opaque;

    fault_mode = test->mode;
    test->test();
    fault_mode = "auto";
}

void add_in_both_modes(const char *path, void (*test)(void))
{
    static const char *const modes[] = { "inline", "iothread" };

    for (int i = 0; i < ARRAY_SIZE(modes); i++) {
        g_autofree char *name = g_strdup_printf("%s/%s", path, modes[i]);
        ModeTest *data = g_new(ModeTest, 1);

        *data = (ModeTest) { .mode = modes[i], .test = test };
        qtest_add_data_func_full(name, data, (void *)test_in_mode, g_free);
    }
}

QDict *query(QTestState *qts)
{
    return qtest_qmp_assert_success_ref(qts,
                                        "{ 'execute': 'query-memswap' }");
}

uint64_t number(QTestState *qts, const char *group, const char *name)
{
    g_autoptr(QDict) info = query(qts);

    return qdict_get_int(qdict_get_qdict(info, group), name);
}

/* NULL if there is none.  Part of @info. */
static QDict *find_block(QDict *info, const char *name)
{
    g_autofree char *of_device = g_strdup_printf("/%s", name);
    const QListEntry *entry;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(info, "blocks"), entry) {
        QDict *block = qobject_to(QDict, qlist_entry_obj(entry));

        const char *found = qdict_get_str(block, "name");

        if (g_str_equal(found, name) || g_str_has_suffix(found, of_device)) {
            return block;
        }
    }
    return NULL;
}

int64_t block_number(QTestState *qts, const char *name, const char *what)
{
    g_autoptr(QDict) info = query(qts);
    QDict *block = find_block(info, name);

    if (!block || !qdict_get_bool(block, "managed")) {
        return -1;
    }
    return qdict_get_int(qdict_get_qdict(block, "memory"), what);
}

char *block_reason(QTestState *qts, const char *name)
{
    g_autoptr(QDict) info = query(qts);
    QDict *block = find_block(info, name);

    g_assert_nonnull(block);
    g_assert_cmpint(qdict_get_bool(block, "managed"), !=,
                    qdict_haskey(block, "reason"));
    g_assert_cmpint(qdict_get_bool(block, "managed"), ==,
                    qdict_haskey(block, "memory"));
    return g_strdup(qdict_get_try_str(block, "reason"));
}

void expect_error(QTestState *qts, const char *message, const char *fmt, ...)
{
    g_autoptr(QDict) error = NULL;
    const char *text;
    va_list ap;

    va_start(ap, fmt);
    error = qtest_vqmp_assert_failure_ref(qts, fmt, ap);
    va_end(ap);
    text = qdict_get_str(error, "desc");
    g_test_message("error: %s", text);
    g_assert_nonnull(strstr(text, message));
    g_assert_null(strchr(text, '\n'));
}

uint64_t reclaim(QTestState *qts, uint64_t size)
{
    g_autoptr(QDict) result = qtest_qmp_assert_success_ref(
        qts, "{ 'execute': 'memswap-reclaim', 'arguments': { 'size': %" PRIu64
        " } }", size);

    return qdict_get_int(result, "reclaimed");
}

uint64_t reclaim_all(QTestState *qts, uint64_t ram)
{
    int64_t until = g_get_monotonic_time() + PATIENCE_US;
    uint64_t got = reclaim(qts, ram);

    while (number(qts, "memory", "resident")) {
        g_test_message("not yet all");
        g_assert_cmpint(g_get_monotonic_time(), <, until);
        g_usleep(10 * 1000);
        got += reclaim(qts, ram);
    }
    return got;
}

void expect_within_limit(QTestState *qts)
{
    uint64_t limit = number(qts, "settings", "limit");
    int64_t until = g_get_monotonic_time() + PATIENCE_US;

    while (number(qts, "memory", "resident") > limit ||
           allocated(qts) > limit + limit / 100) {
        g_test_message("resident %" PRIu64 ", allocated %" PRIu64 ", limit %"
                       PRIu64, number(qts, "memory", "resident"),
                       allocated(qts), limit);
        g_assert_cmpint(g_get_monotonic_time(), <, until);
        g_usleep(50 * 1000);
    }
}

void expect_soon(QTestState *qts, const char *group, const char *name,
                 uint64_t value)
{
    int64_t until = g_get_monotonic_time() + PATIENCE_US;

    while (number(qts, group, name) != value) {
        g_test_message("%s is %" PRIu64 ", not yet %" PRIu64, name,
                       number(qts, group, name), value);
        g_assert_cmpint(g_get_monotonic_time(), <, until);
        g_usleep(50 * 1000);
    }
}

static bool adds_up(QDict *memory)
{
    static const char *const parts[] = {
        "resident", "stored", "zero", "untouched", "poisoned",
    };
    uint64_t sum = 0;

    for (int i = 0; i < ARRAY_SIZE(parts); i++) {
        sum += qdict_get_int(memory, parts[i]);
    }
    return sum == qdict_get_int(memory, "managed");
}

/* Does each number of all memory equal the sum of the blocks'? */
static bool blocks_add_up(QDict *info)
{
    static const char *const parts[] = {
        "managed", "resident", "stored", "zero", "untouched", "poisoned",
    };
    QDict *memory = qdict_get_qdict(info, "memory");
    const QListEntry *entry;

    for (int i = 0; i < ARRAY_SIZE(parts); i++) {
        uint64_t sum = 0;

        QLIST_FOREACH_ENTRY(qdict_get_qlist(info, "blocks"), entry) {
            QDict *block = qobject_to(QDict, qlist_entry_obj(entry));

            if (qdict_get_bool(block, "managed")) {
                QDict *part = qdict_get_qdict(block, "memory");

                sum += qdict_get_int(part, parts[i]);
            }
        }
        if (sum != qdict_get_int(memory, parts[i])) {
            g_test_message("blocks have %" PRIu64 " %s", sum, parts[i]);
            return false;
        }
    }
    return true;
}

void expect_sums(QTestState *qts)
{
    int64_t until = g_get_monotonic_time() + PATIENCE_US;

    for (;;) {
        g_autoptr(QDict) info = query(qts);
        QDict *memory = qdict_get_qdict(info, "memory");

        if (adds_up(memory) && blocks_add_up(info)) {
            return;
        }
        g_test_message("not yet at rest");
        g_assert_cmpint(g_get_monotonic_time(), <, until);
        g_usleep(50 * 1000);
    }
}

/* With aux-ram-share=on firmware is shared memory as well. */
static bool is_guest_ram(const char *target)
{
    return g_str_has_prefix(target, "/memfd:") &&
           !g_str_has_prefix(target, "/memfd:/rom@") &&
           !g_str_has_prefix(target, "/memfd:pc.bios") &&
           !g_str_has_prefix(target, "/memfd:pc.rom");
}

/* All shared memory that the process has open, each file once. */
uint64_t allocated(QTestState *qts)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", qtest_pid(qts));
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    uint64_t bytes = 0;
    const char *name;

    g_assert_nonnull(dir);
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *link = g_build_filename(path, name, NULL);
        g_autofree char *target = g_file_read_link(link, NULL);
        struct stat st;

        if (target && is_guest_ram(target) && stat(link, &st) == 0 &&
            g_hash_table_add(seen, GSIZE_TO_POINTER(st.st_ino))) {
            bytes += st.st_blocks * 512;
        }
    }
    return bytes;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

void make_page(uint8_t *page, uint64_t addr, Content content,
               unsigned int seed)
{
    uint64_t state = (addr / PAGE + 1) * 0x9e3779b97f4a7c15ULL + seed;
    uint64_t *words = (uint64_t *)page;

    next_random(&state);
    if (content == CONTENT_MIXED) {
        content = next_random(&state) % CONTENT_MIXED;
    }
    switch (content) {
    case CONTENT_ZERO:
        memset(page, 0, PAGE);
        break;
    case CONTENT_SAME:
        memset(page, next_random(&state) | 1, PAGE);
        break;
    case CONTENT_TEXT:
        memset(page, 0, PAGE);
        for (int i = 0; i < PAGE; i += 64) {
            snprintf((char *)page + i, 64, "page %" PRIx64 " seed %u line %d",
                     addr, seed, i);
        }
        break;
    case CONTENT_RANDOM:
        for (int i = 0; i < PAGE / sizeof(*words); i++) {
            words[i] = next_random(&state);
        }
        break;
    default:
        g_assert_not_reached();
    }
}

static uint64_t make_chunk(uint8_t *chunk, uint64_t addr, uint64_t left,
                           Content content, unsigned int seed)
{
    uint64_t size = MIN(left, CHUNK);

    g_assert(size % PAGE == 0);
    for (uint64_t at = 0; at < size; at += PAGE) {
        make_page(chunk + at, addr + at, content, seed);
    }
    return size;
}

void fill(QTestState *qts, uint64_t addr, uint64_t size, Content content,
          unsigned int seed)
{
    g_autofree uint8_t *chunk = g_malloc(CHUNK);
    uint64_t n;

    for (; size; addr += n, size -= n) {
        n = make_chunk(chunk, addr, size, content, seed);
        qtest_bufwrite(qts, addr, chunk, n);
    }
}

void check(QTestState *qts, uint64_t addr, uint64_t size, Content content,
           unsigned int seed)
{
    g_autofree uint8_t *expected = g_malloc(CHUNK);
    g_autofree uint8_t *found = g_malloc(CHUNK);
    uint64_t n;

    for (; size; addr += n, size -= n) {
        n = make_chunk(expected, addr, size, content, seed);
        qtest_bufread(qts, addr, found, n);
        for (uint64_t at = 0; at < n; at += PAGE) {
            if (memcmp(found + at, expected + at, PAGE)) {
                g_test_message("wrong page at 0x%" PRIx64, addr + at);
            }
            g_assert_cmpmem(found + at, PAGE, expected + at, PAGE);
        }
    }
}

void expect_swapping(QTestState *qts)
{
    fill(qts, 2 * MIB, 8 * MIB, CONTENT_MIXED, 1);
    reclaim(qts, 8 * MIB);
    g_assert_cmpuint(number(qts, "memory", "stored"), >, 0);
    expect_within_limit(qts);
    check(qts, 2 * MIB, 8 * MIB, CONTENT_MIXED, 1);
    expect_sums(qts);
}

/*
 * Loading a policy: from a file, or one that is built in
 *
 * A shared object runs code while it is loaded, so it is loaded in a child
 * process first, entry point and all.  A crash or a hang there costs a child.
 * What can't be contained is one that behaves differently the second time, in
 * this process, and whatever a policy does once it runs.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "policies/builtins.h"
#include "policy-internal.h"

#define ROLES (MEMSWAP_POLICY_RECLAIMER | MEMSWAP_POLICY_PREFETCHER | \
               MEMSWAP_POLICY_OBSERVER)

/* What version 1 began with: what came later may be missing. */
#define OPS_SIZE offsetof(MemswapPolicyOps, quiet)

/* What the child has to say. */
typedef struct Verdict {
    int ret;
    char why[256];
} Verdict;

static void G_GNUC_PRINTF(3, 4) say(Verdict *verdict, int ret,
                                    const char *format, ...)
{
    va_list args;

    va_start(args, format);
    verdict->ret = ret;
    vsnprintf(verdict->why, sizeof(verdict->why), format, args);
    va_end(args);
}

static bool ops_fit(const MemswapPolicyOps *ops, Verdict *verdict)
{
    if (!ops) {
        say(verdict, -EPROTONOSUPPORT,
            "it does not work with this version of memswap");
    } else if (ops->version != MEMSWAP_POLICY_VERSION ||
               ops->size < OPS_SIZE) {
        say(verdict, -EPROTONOSUPPORT,
            "it was built for version %u of policy.h, this is %d",
            ops->version, MEMSWAP_POLICY_VERSION);
    } else if (!ops->name || !ops->start || !ops->event || !ops->roles ||
               (ops->roles & ~ROLES)) {
        say(verdict, -ENOEXEC,
            "it lacks a name, a role, start() or event()");
    } else if (ops->delay_us > MEMSWAP_POLICY_MAX_DELAY_US) {
        say(verdict, -ENOEXEC, "it lets events gather for %u us, of %d at "
            "most", ops->delay_us, MEMSWAP_POLICY_MAX_DELAY_US);
    } else {
        return true;
    }
    return false;
}

static MemswapPolicyEntry *find_builtin(const char *name, Verdict *verdict)
{
    for (const MemswapBuiltin *it = memswap_builtins; it->name; it++) {
        if (!strcmp(it->name, name)) {
            return it->entry;
        }
    }
    say(verdict, -ENOENT, "there is no policy '%s' built in", name);
    return NULL;
}

/*
 * dlopen() looks for a name among those loaded before it looks at the file, so
 * what replaced a file that can't be unloaded would never be run.  By a name
 * not used before it finds out by the file itself, and loads none twice.
 * @full begins with a slash: spell that differently, a bit of a number each.
 */
static char *fresh_name(const char *full)
{
    static _Atomic unsigned int n_names;
    GString *name = g_string_new(NULL);

    for (unsigned int n = atomic_fetch_add(&n_names, 1); n; n /= 2) {
        g_string_append(name, n & 1 ? "/." : "/");
    }
    g_string_append(name, full);
    return g_string_free(name, false);
}

static void say_load_error(Verdict *verdict, const char *path,
                           const char *name)
{
    const char *error = dlerror();

    /* as a rule it begins with the name, which nobody knows it by */
    if (g_str_has_prefix(error, name)) {
        say(verdict, -ENOEXEC, "%s%s", path, error + strlen(name));
    } else {
        say(verdict, -ENOEXEC, "%s", error);
    }
}

static MemswapPolicyEntry *find_entry(const char *path, void **object,
                                      Verdict *verdict)
{
    g_autofree char *full = g_canonicalize_filename(path, NULL);
    g_autofree char *name = fresh_name(full);
    MemswapPolicyEntry *entry;

    if (access(full, R_OK)) {
        int ret = -errno;

        say(verdict, ret, "%s: %s", path, g_strerror(-ret));
        return NULL;
    }
    *object = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!*object) {
        say_load_error(verdict, path, name);
        return NULL;
    }
    entry = (MemswapPolicyEntry *)dlsym(*object, MEMSWAP_POLICY_ENTRY);
    if (!entry) {
        say(verdict, -ENOEXEC, "%s has no entry point "
            MEMSWAP_POLICY_ENTRY, path);
    }
    return entry;
}

int memswap_policy_load(MemswapPolicyHost *host)
{
    Verdict verdict = { 0 };
    MemswapPolicyEntry *entry = host->path ?
        find_entry(host->path, &host->object, &verdict) :
        find_builtin(host->builtin, &verdict);

    if (entry) {
        host->ops = entry(&memswap_policy_host_ops);
        if (ops_fit(host->ops, &verdict) &&
            host->ops->size >= sizeof(*host->ops)) {
            host->quiet = host->ops->quiet;
        }
    }
    if (verdict.ret) {
        host->why = g_strdup(verdict.why);
    }
    return verdict.ret;
}

void memswap_policy_unload(MemswapPolicyHost *host)
{
    if (host->object) {
        dlclose(host->object);
    }
}

/* In the child: nothing of the parent's may run, nor leave a core dump. */
static void G_GNUC_NORETURN probe(const char *path, int fd, int64_t patience)
{
    static const int deadly[] = {
        SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGSYS, SIGALRM,
    };
    const struct rlimit none = { 0 };
    Verdict verdict = { 0 };
    MemswapPolicyEntry *entry;
    void *object = NULL;
    sigset_t set;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setrlimit(RLIMIT_CORE, &none);
    for (size_t i = 0; i < G_N_ELEMENTS(deadly); i++) {
        signal(deadly[i], SIG_DFL);
    }
    sigemptyset(&set);
    sigprocmask(SIG_SETMASK, &set, NULL);
    /* should the parent not get to kill it */
    alarm(patience / 1000000000 + 2);

    entry = find_entry(path, &object, &verdict);
    if (entry) {
        ops_fit(entry(&memswap_policy_host_ops), &verdict);
    }
    _exit(write(fd, &verdict, sizeof(verdict)) != sizeof(verdict));
}

/* Until it said something, hung up, or took too long. */
static int await_verdict(int fd, int64_t patience, Verdict *verdict)
{
    int64_t end = memswap_policy_real_time() + patience;
    ssize_t got;

    while (true) {
        struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
        int64_t left = end - memswap_policy_real_time();
        int n = poll(&poll_fd, 1, MAX(left, 0) / 1000000);

        if (n > 0) {
            break;
        }
        if (n == 0 && left < 1000000) {
            return -ETIMEDOUT;
        }
        if (n < 0 && errno != EINTR) {
            return -errno;
        }
    }
    do {
        /* smaller than a pipe's buffer: all of it or nothing */
        got = read(fd, verdict, sizeof(*verdict));
    } while (got < 0 && errno == EINTR);
    return got == sizeof(*verdict) ? 0 : -ENOEXEC;
}

int memswap_policy_probe(const char *path, int64_t patience, char **why)
{
    Verdict verdict = { 0 };
    int fds[2];
    pid_t pid;
    int ret;

    if (pipe2(fds, O_CLOEXEC)) {
        ret = -errno;
        *why = g_strdup_printf("no pipe to try it with: %s",
                               g_strerror(-ret));
        return ret;
    }
    pid = fork();
    if (!pid) {
        probe(path, fds[1], patience);
    }
    ret = pid < 0 ? -errno : 0;
    close(fds[1]);
    if (ret) {
        *why = g_strdup_printf("no child to try it in: %s",
                               g_strerror(-ret));
        close(fds[0]);
        return ret;
    }
    ret = await_verdict(fds[0], patience, &verdict);
    close(fds[0]);
    if (ret == -ETIMEDOUT) {
        *why = g_strdup("it does not return from being loaded");
    } else if (ret) {
        *why = g_strdup("it crashes while it is loaded");
    } else if (verdict.ret) {
        ret = verdict.ret;
        *why = g_strdup(verdict.why);
    }
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
    return ret;
}

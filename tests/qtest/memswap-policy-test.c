/*
 * memswap: policies, as an operator loads and ends them
 *
 * With the unit tests' policies: "puppet" does what its options say, publishes
 * the result, and counts what it is told.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include "libqmp.h"
#include "qemu/atomic.h"
#include "qobject/qlist.h"
#include "qobject/qnum.h"
#include "qobject/qstring.h"
#include "memswap-util.h"
#include "tests/qtest/memswap-policies/memswap-policies.h"

#define SO(name) MEMSWAP_POLICIES "/memswap-policy-" name ".so"

#define MACHINE "-nodefaults -m 128M "
#define ON MACHINE "-memswap limit=64M,readahead=0 "
#define OBJECT "-object memswap-policy,id="

#define ADD "{ 'execute': 'memswap-policy-add', 'arguments': "
#define SET "{ 'execute': 'memswap-policy-set', 'arguments': "
#define REMOVE "{ 'execute': 'memswap-policy-remove', 'arguments': "
#define OBJECT_ADD "{ 'execute': 'object-add', 'arguments': " \
                   "{ 'qom-type': 'memswap-policy', "
#define OBJECT_DEL "{ 'execute': 'object-del', 'arguments': "

/* Longer than the engine waits for a policy. */
#define HANG_MS 5000

/* --- what there is ----------------------------------------------------- */

/* "id:name:error " of each. */
static char *policies(QTestState *qts)
{
    g_autoptr(QDict) info = query(qts);
    g_autoptr(GString) text = g_string_new(NULL);
    const QListEntry *entry;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(info, "policies"), entry) {
        QDict *policy = qobject_to(QDict, qlist_entry_obj(entry));
        const char *error = qdict_get_try_str(policy, "error");

        g_string_append_printf(text, "%s%s:%s%s", text->len ? " " : "",
                               qdict_get_str(policy, "id"),
                               qdict_get_str(policy, "name"),
                               error ? ":error" : "");
    }
    return g_string_free(g_steal_pointer(&text), false);
}

/* What there is as long as there is no other reclaimer. */
#define DEFAULT "default:generation"

static void expect_policies(QTestState *qts, const char *expected)
{
    g_autofree char *found = policies(qts);

    g_assert_cmpstr(found, ==, expected);
}

/* NULL if there is none; to be unreferenced. */
/* The default one begins a moment after another was given up. */
static void await_policies(QTestState *qts, const char *expected)
{
    int64_t until = g_get_monotonic_time() + PATIENCE_US;
    g_autofree char *found = policies(qts);

    while (!g_str_equal(found, expected)) {
        if (g_get_monotonic_time() > until) {
            g_error("%s instead of %s", found, expected);
        }
        g_usleep(10 * 1000);
        g_free(found);
        found = policies(qts);
    }
}

static QDict *policy(QTestState *qts, const char *id)
{
    g_autoptr(QDict) info = query(qts);
    const QListEntry *entry;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(info, "policies"), entry) {
        QDict *found = qobject_to(QDict, qlist_entry_obj(entry));

        if (g_str_equal(qdict_get_str(found, "id"), id)) {
            return qobject_ref(found);
        }
    }
    return NULL;
}

static uint64_t figure(QTestState *qts, const char *id, const char *name)
{
    g_autoptr(QDict) found = policy(qts, id);

    g_assert_nonnull(found);
    return qdict_get_int(found, name);
}

/* 0 if it isn't published. */
static uint64_t counter(QTestState *qts, const char *id, const char *name)
{
    g_autoptr(QDict) found = policy(qts, id);
    const QListEntry *entry;

    g_assert_nonnull(found);
    QLIST_FOREACH_ENTRY(qdict_get_qlist(found, "counters"), entry) {
        QDict *one = qobject_to(QDict, qlist_entry_obj(entry));

        if (g_str_equal(qdict_get_str(one, "name"), name)) {
            return qnum_get_uint(qobject_to(QNum, qdict_get(one, "value")));
        }
    }
    return 0;
}

/* A policy hears of things a moment after they happened. */
static void expect_counter(QTestState *qts, const char *id, const char *name,
                           uint64_t value)
{
    int64_t until = g_get_monotonic_time() + PATIENCE_US;

    while (counter(qts, id, name) != value) {
        g_test_message("%s is %" PRIu64 ", not yet %" PRIu64, name,
                       counter(qts, id, name), value);
        g_assert_cmpint(g_get_monotonic_time(), <, until);
        g_usleep(20 * 1000);
    }
}

/* The same of a figure of the engine's, which only grows. */
static void expect_more(QTestState *qts, const char *id, const char *name,
                        uint64_t than)
{
    int64_t until = g_get_monotonic_time() + PATIENCE_US;

    while (figure(qts, id, name) <= than) {
        g_assert_cmpint(g_get_monotonic_time(), <, until);
        g_usleep(20 * 1000);
    }
}

/* Have a puppet ask for something; what it got. */
static uint64_t ask(QTestState *qts, const char *id, const char *request,
                    const char *value)
{
    qtest_qmp_assert_success(qts, SET "{ 'id': %s, 'options': { %s: %s } } }",
                             id, request, value);
    return counter(qts, id, "result");
}

/* --- at start ---------------------------------------------------------- */

typedef struct Refusal {
    const char *name;
    const char *args;
    const char *message;
} Refusal;

static const Refusal refusals[] = {
    { "no-memswap", MACHINE OBJECT "p,builtin=linear",
      "memswap: policy 'p' has no guest RAM to work on: add -memswap" },
    { "neither", ON OBJECT "p", "policy 'p': give either path= or builtin=" },
    { "both", ON OBJECT "p,builtin=linear,path=x",
      "policy 'p': give either path= or builtin=" },
    { "unknown", ON OBJECT "p,builtin=best",
      "policy 'p': 'best' is not built in: there are " },
    { "no-file", ON OBJECT "p,path=/that/is/not/there.so",
      "policy 'p': /that/is/not/there.so: No such file or directory" },
    { "no-policy", ON OBJECT "p,path=/proc/self/exe",
      "memswap: policy 'p': " },
    { "other-version", ON OBJECT "p,path=" SO("other-version"),
      "policy 'p': it was built for version 2 of policy.h, this is 1" },
    { "crash", ON OBJECT "p,path=" SO("crash-loading"),
      "policy 'p': it crashes while it is loaded" },
    { "hang", ON OBJECT "p,path=" SO("hang-loading"),
      "policy 'p': it does not return from being loaded" },
    { "two-reclaimers", OBJECT "p,builtin=limit " ON OBJECT "q,path="
      SO("puppet"), "policy 'q': there is a reclaimer already" },
    { "twice", ON OBJECT "p,builtin=limit " OBJECT "p,builtin=linear",
      "Duplicate ID 'p'" },
    { "long-id", ON OBJECT "a23456789012345678901234567890123,builtin=limit",
      "a policy's id begins with a letter, and has at most 31" },
    { "option/unknown", ON OBJECT "p,builtin=linear,opt.windows=8",
      "policy 'p': option 'windows': there is none" },
    { "option/value", ON OBJECT "p,builtin=linear,opt.window=x",
      "policy 'p': option 'window': Invalid argument" },
    { "option/no-name", ON OBJECT "p,builtin=linear,opt=8",
      "policy 'p': options must be NAME=VALUE each" },
    { "option/no-name-later", ON "-object"
      " id=p,opt=8,builtin=linear,qom-type=memswap-policy",
      "policy 'p': options must be NAME=VALUE each" },
    { "option/nested", ON OBJECT "p,builtin=linear,opt.window.size=8",
      "policy 'p': option 'window' must be a string, number or boolean" },
    { "option/mixed", ON OBJECT "p,builtin=linear,opt=8,opt.window=8",
      "Parameters 'opt.*' used inconsistently" },
    { "option/outside", ON OBJECT "p,builtin=linear,window=8",
      "Parameter 'window' is unexpected" },
#ifdef CONFIG_SECCOMP
    { "sandbox", ON OBJECT "p,path=" SO("puppet") " -sandbox on,spawn=deny",
      "policy 'p': -sandbox spawn=deny keeps it from being tried in a child"
      " process: use spawn=allow, or builtin=" },
#endif
};

static void refused(const void *opaque)
{
    const Refusal *refusal = opaque;

    expect_refusal(refusal->args, refusal->message);
}

static void check_start(const char *args)
{
    QTestState *qts = qtest_init(args);
    g_autoptr(QDict) puppet = NULL;
    g_autofree char *text = NULL;
    QList *roles;

    expect_policies(qts, "b:linear a:puppet");
    puppet = policy(qts, "a");
    roles = qdict_get_qlist(puppet, "roles");
    g_assert_cmpuint(qlist_size(roles), ==, 2);
    g_assert_cmpstr(qstring_get_str(qobject_to(QString, qlist_peek(roles))),
                    ==, "reclaimer");
    /* Its option was set, and it hears of nothing that didn't happen. */
    g_assert_cmpuint(counter(qts, "a", "result"), ==, 64 * MIB);
    g_assert_cmpuint(counter(qts, "a", "reset"), ==, 0);
    qtest_system_reset(qts);
    expect_counter(qts, "a", "reset", 1);

    text = qtest_hmp(qts, "info memswap");
    g_assert_nonnull(strstr(text, "\n  b: linear, "));
    g_assert_nonnull(strstr(text, "\n  a: puppet, "));
    fill(qts, 2 * MIB, 8 * MIB, CONTENT_MIXED, 1);
    expect_swapping(qts);
    qtest_quit(qts);
}

/* Whatever its place beside -memswap. */
static void start_order(void)
{
    check_start(ON OBJECT "b,builtin=linear,opt.window=8 "
                OBJECT "a,path=" SO("puppet") ",opt.limit=0");
    check_start(OBJECT "b,builtin=linear,opt.window=8 " ON
                OBJECT "a,path=" SO("puppet") ",opt.limit=0");
    check_start(OBJECT "b,builtin=linear,opt.window=8 "
                "-object qom-type=memswap-policy,path=" SO("puppet")
                ",id=a,opt.limit=0 " ON);
    check_start("-object '{\"qom-type\":\"memswap-policy\",\"id\":\"b\","
                "\"builtin\":\"linear\",\"opt\":{\"window\":8}}' "
                OBJECT "a,path=" SO("puppet") ",opt.limit=0 " ON);
}

#ifdef CONFIG_SECCOMP
/* What is built in needs no child. */
static void sandbox(void)
{
    QTestState *qts = qtest_init(ON OBJECT "b,builtin=linear "
                                 "-sandbox on,spawn=deny,obsolete=deny,"
                                 "resourcecontrol=deny");

    expect_error(qts, "-sandbox spawn=deny keeps it from being tried", ADD
                 "{ 'id': 'p', 'path': %s } }", SO("puppet"));
    qtest_qmp_assert_success(qts, ADD "{ 'id': 'l', 'builtin': 'limit' } }");
    expect_policies(qts, "b:linear l:limit");
    expect_swapping(qts);
    qtest_quit(qts);

    qts = qtest_init(ON OBJECT "p,path=" SO("puppet") " -sandbox on,"
                     "spawn=allow,obsolete=deny,resourcecontrol=deny");
    expect_policies(qts, "p:puppet");
    expect_swapping(qts);
    qtest_quit(qts);
}
#endif

/* --- at run time ------------------------------------------------------- */

/* The reclaimer there is by default makes way, and comes back. */
static void by_default(void)
{
    QTestState *qts = qtest_init(MACHINE "-memswap limit=16M,readahead=0");

    expect_policies(qts, DEFAULT);
    fill(qts, 16 * MIB, 32 * MIB, CONTENT_MIXED, 1);
    check(qts, 16 * MIB, 32 * MIB, CONTENT_MIXED, 1);
    g_assert_cmpuint(counter(qts, "default", "offered"), >, 0);
    expect_error(qts, "there is a policy 'default' already", ADD
                 "{ 'id': 'default', 'builtin': 'limit' } }");
    qtest_qmp_assert_success(qts, ADD "{ 'id': 'p', 'builtin': 'limit' } }");
    expect_policies(qts, "p:limit");
    check(qts, 16 * MIB, 32 * MIB, CONTENT_MIXED, 1);
    qtest_qmp_assert_success(qts, REMOVE "{ 'id': 'p' } }");
    expect_policies(qts, DEFAULT);
    check(qts, 16 * MIB, 32 * MIB, CONTENT_MIXED, 1);
    qtest_qmp_assert_success(qts, REMOVE "{ 'id': 'default' } }");
    expect_policies(qts, "");
    check(qts, 16 * MIB, 32 * MIB, CONTENT_MIXED, 1);
    expect_within_limit(qts);
    qtest_quit(qts);
}

static void commands(void)
{
    QTestState *qts = qtest_init(ON);

    expect_policies(qts, DEFAULT);
    qtest_qmp_assert_success(qts, ADD "{ 'id': 'a', 'path': %s, 'options':"
                             " { 'limit': 0 } } }", SO("puppet"));
    g_assert_cmpuint(counter(qts, "a", "result"), ==, 64 * MIB);
    qtest_qmp_assert_success(qts, ADD "{ 'id': 'b', 'builtin': 'linear',"
                             " 'options': { 'window': 8 } } }");
    expect_policies(qts, "a:puppet b:linear");

    expect_error(qts, "there is a policy 'a' already", ADD
                 "{ 'id': 'a', 'builtin': 'linear' } }");
    expect_error(qts, "there is a reclaimer already", ADD
                 "{ 'id': 'c', 'builtin': 'limit' } }");
    expect_error(qts, "'best' is not built in: there are ", ADD
                 "{ 'id': 'c', 'builtin': 'best' } }");
    expect_error(qts, "give either path= or builtin=", ADD
                 "{ 'id': 'c' } }");
    expect_error(qts, "a policy's id begins with a letter", ADD
                 "{ 'id': '', 'builtin': 'linear' } }");
    expect_error(qts, "a policy's id begins with a letter", ADD
                 "{ 'id': '1', 'builtin': 'linear' } }");
    expect_error(qts, "options must be NAME=VALUE", ADD
                 "{ 'id': 'c', 'builtin': 'linear', 'options': [ 8 ] } }");
    expect_error(qts, "option 'window' must be a string, number or boolean",
                 ADD "{ 'id': 'c', 'builtin': 'linear', 'options':"
                 " { 'window': null } } }");
    expect_error(qts, "option 'window': Invalid argument", ADD
                 "{ 'id': 'c', 'builtin': 'linear', 'options':"
                 " { 'window': true } } }");
    expect_error(qts, "it crashes while it is loaded", ADD
                 "{ 'id': 'c', 'path': %s } }", SO("crash-loading"));
    expect_policies(qts, "a:puppet b:linear");

    expect_error(qts, "there is no policy 'c'", REMOVE "{ 'id': 'c' } }");
    qtest_qmp_assert_success(qts, REMOVE "{ 'id': 'a' } }");
    expect_policies(qts, "b:linear " DEFAULT);
    expect_error(qts, "there is no policy 'a'", REMOVE "{ 'id': 'a' } }");
    qtest_qmp_assert_success(qts, ADD "{ 'id': 'a', 'builtin': 'limit' } }");
    qtest_qmp_assert_success(qts, REMOVE "{ 'id': 'b' } }");
    qtest_qmp_assert_success(qts, REMOVE "{ 'id': 'a' } }");
    expect_policies(qts, DEFAULT);
    qtest_quit(qts);

    qts = qtest_init(MACHINE);
    expect_error(qts, "guest RAM is not swapped: start QEMU with -memswap",
                 ADD "{ 'id': 'a', 'builtin': 'linear' } }");
    expect_error(qts, "guest RAM is not swapped", REMOVE "{ 'id': 'a' } }");
    expect_error(qts, "guest RAM is not swapped", SET
                 "{ 'id': 'a', 'options': {} } }");
    expect_error(qts, "guest RAM is not swapped", OBJECT_ADD
                 "'id': 'a', 'builtin': 'linear' } }");
    qtest_quit(qts);
}

/* In the order of their names, up to the first that is refused. */
static void set(void)
{
    QTestState *qts = qtest_init(ON OBJECT "p,path=" SO("puppet"));

    qtest_qmp_assert_success(qts, SET "{ 'id': 'p', 'options': {} } }");
    expect_error(qts, "there is no policy 'q'", SET
                 "{ 'id': 'q', 'options': {} } }");
    g_assert_cmpuint(ask(qts, "p", "limit", "0"), ==, 64 * MIB);
    /* "block-pages", then "limit" */
    qtest_qmp_assert_success(qts, SET "{ 'id': 'p', 'options':"
                             " { 'limit': 0, 'block-pages': 0 } } }");
    g_assert_cmpuint(counter(qts, "p", "result"), ==, 64 * MIB);
    expect_error(qts, "policy 'p': option 'nice': there is none (set before"
                 " it: block-pages, limit)", SET "{ 'id': 'p', 'options':"
                 " { 'nice': true, 'limit': 0, 'wake': 1,"
                 " 'block-pages': '0' } } }");
    g_assert_cmpuint(counter(qts, "p", "result"), ==, 64 * MIB);
    expect_error(qts, "option 'bad': Invalid argument (set before it: none)",
                 SET "{ 'id': 'p', 'options': { 'limit': 0, 'bad': 1 } } }");
    expect_error(qts, "there is no policy 'q'", SET
                 "{ 'id': 'q', 'options': { 'limit': 0 } } }");
    expect_error(qts, "Parameter 'options' is missing", SET
                 "{ 'id': 'p' } }");
    qtest_quit(qts);
}

static bool object_exists(QTestState *qts, const char *id)
{
    g_autoptr(QDict) response = qtest_qmp(qts, "{ 'execute': 'qom-list',"
                                          " 'arguments': { 'path':"
                                          " '/objects' } }");
    const QListEntry *entry;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(response, "return"), entry) {
        QDict *one = qobject_to(QDict, qlist_entry_obj(entry));

        if (g_str_equal(qdict_get_str(one, "name"), id)) {
            return true;
        }
    }
    return false;
}

/* Objects and the commands have one list. */
static void objects(void)
{
    QTestState *qts = qtest_init(ON OBJECT "a,builtin=limit");
    g_autofree char *text = NULL;

    qtest_qmp_assert_success(qts, OBJECT_ADD "'id': 'b', 'path': %s, 'opt':"
                             " { 'limit': 0 } } }", SO("prefetcher"));
    expect_policies(qts, "a:limit b:puppet");
    g_assert_cmpuint(counter(qts, "b", "result"), ==, 64 * MIB);
    expect_error(qts, "use memswap-policy-set", "{ 'execute': 'qom-set',"
                 " 'arguments': { 'path': '/objects/b', 'property': 'opt',"
                 " 'value': {} } }");
    expect_error(qts, "use memswap-policy-set", "{ 'execute': 'qom-set',"
                 " 'arguments': { 'path': '/objects/b', 'property':"
                 " 'builtin', 'value': 'limit' } }");
    g_assert_cmpuint(ask(qts, "b", "block-pages", "0"), ==, 128 * MIB / PAGE);

    /* What fails leaves nothing. */
    expect_error(qts, "there is a reclaimer already", OBJECT_ADD
                 "'id': 'c', 'path': %s } }", SO("puppet"));
    expect_error(qts, "it crashes while it is loaded", OBJECT_ADD
                 "'id': 'c', 'path': %s } }", SO("crash-loading"));
    g_assert_false(object_exists(qts, "c"));
    expect_error(qts, "there is a policy 'b' already: remove it first", ADD
                 "{ 'id': 'b', 'builtin': 'linear' } }");
    qtest_qmp_assert_success(qts, ADD "{ 'id': 'c', 'builtin': 'linear' } }");
    expect_error(qts, "there is a policy 'c' already", OBJECT_ADD
                 "'id': 'c', 'builtin': 'linear' } }");
    g_assert_false(object_exists(qts, "c"));
    expect_error(qts, "'c' not found", OBJECT_DEL "{ 'id': 'c' } }");
    expect_policies(qts, "a:limit b:puppet c:linear");

    qtest_qmp_assert_success(qts, OBJECT_DEL "{ 'id': 'a' } }");
    expect_policies(qts, "b:puppet c:linear " DEFAULT);
    qtest_qmp_assert_success(qts, REMOVE "{ 'id': 'b' } }");
    g_assert_false(object_exists(qts, "b"));
    qtest_qmp_assert_success(qts, REMOVE "{ 'id': 'c' } }");
    expect_policies(qts, DEFAULT);

    text = qtest_hmp(qts, "object_add memswap-policy,id=b,builtin=linear,"
                     "opt.window=8");
    g_assert_cmpstr(text, ==, "");
    expect_policies(qts, "b:linear " DEFAULT);
    qtest_quit(qts);
}

/* What the engine counts is what the query says. */
static void figures(void)
{
    /* a region that is just being made huge is not reclaimed */
    QTestState *qts = qtest_init(MACHINE "-memswap limit=64M,readahead=0,"
                                 "huge-regions=off "
                                 OBJECT "p,path=" SO("puppet") " "
                                 OBJECT "o,path=" SO("observer"));
    uint64_t before, filled;

    fill(qts, 16 * MIB, 2 * MIB, CONTENT_RANDOM, 1);
    expect_counter(qts, "p", "fault", 512);
    expect_counter(qts, "o", "fault", 512);
    g_assert_cmpuint(figure(qts, "p", "events"), >=, 512);
    g_assert_cmpuint(figure(qts, "p", "dropped"), ==, 0);
    g_assert_cmpuint(figure(qts, "p", "refused"), ==, 0);

    before = figure(qts, "p", "requests");
    g_assert_cmpuint(ask(qts, "p", "reclaim", "0 4096 512"), ==, 2 * MIB);
    g_assert_cmpuint(figure(qts, "p", "requests"), >, before);
    g_assert_cmpuint(figure(qts, "p", "reclaimed"), ==, 2 * MIB);
    g_assert_cmpuint(figure(qts, "o", "reclaimed"), ==, 0);
    filled = counter(qts, "o", "filled");
    g_assert_cmpuint(ask(qts, "p", "prefetch", "0 4096 256"), ==, 256);
    g_assert_cmpuint(figure(qts, "p", "prefetched"), ==, 256);
    expect_counter(qts, "o", "filled", filled + 256);
    check(qts, 16 * MIB, MIB, CONTENT_RANDOM, 1);
    /* One in 16 was watched. */
    expect_counter(qts, "p", "hit", 16);
    g_assert_cmpuint(figure(qts, "p", "hits"), ==, 16);
    g_assert_cmpuint(figure(qts, "p", "wasted"), ==, 0);
    g_assert_cmpuint(figure(qts, "p", "throttled"), ==, 0);
    ask(qts, "o", "reclaim", "0 4096 512");
    g_assert_cmpuint(figure(qts, "o", "refused"), ==, 1);
    g_assert_cmpuint(figure(qts, "o", "requests"), >, 1);
    qtest_quit(qts);
}

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

typedef struct Pressure {
    QTestState *qts;
    int stop;
    uint64_t rounds;
} Pressure;

/* libqtest has a socket of its own for this. */
static void *press(void *opaque)
{
    Pressure *pressure = opaque;

    for (unsigned int seed = 1; !qatomic_read(&pressure->stop); seed++) {
        fill(pressure->qts, 16 * MIB, 24 * MIB, CONTENT_MIXED, seed);
        check(pressure->qts, 16 * MIB, 24 * MIB, CONTENT_MIXED, seed);
        pressure->rounds++;
    }
    return NULL;
}

/* Policies come and go while memory does. */
static void come_and_go(void)
{
    g_autofree char *args = g_strdup_printf(
        MACHINE "-memswap limit=16M,fault-mode=%s", fault_mode);
    QTestState *qts = qtest_init(args);
    Pressure pressure = { .qts = qts };
    GThread *thread = g_thread_new("guest", press, &pressure);
    int64_t until = g_get_monotonic_time() + 4 * G_USEC_PER_SEC;
    int rounds = 0;

    while (g_get_monotonic_time() < until) {
        qtest_qmp_assert_success(qts, ADD "{ 'id': 'a', 'builtin': 'limit',"
                                 " 'options': { 'window': 4 } } }");
        qtest_qmp_assert_success(qts, OBJECT_ADD "'id': 'b', 'path': %s } }",
                                 SO("prefetcher"));
        qtest_qmp_assert_success(qts, ADD "{ 'id': 'c', 'builtin': 'linear'"
                                 " } }");
        qtest_qmp_assert_success(qts, SET "{ 'id': 'b', 'options':"
                                 " { 'prefetch': '0 4096 512' } } }");
        qtest_qmp_assert_success(qts, SET "{ 'id': 'a', 'options':"
                                 " { 'window': 8 } } }");
        expect_policies(qts, "a:limit b:puppet c:linear");
        qtest_qmp_assert_success(qts, REMOVE "{ 'id': 'a' } }");
        qtest_qmp_assert_success(qts, ADD "{ 'id': 'd', 'path': %s } }",
                                 SO("puppet"));
        qtest_qmp_assert_success(qts, OBJECT_DEL "{ 'id': 'b' } }");
        qtest_qmp_assert_success(qts, REMOVE "{ 'id': 'c' } }");
        qtest_qmp_assert_success(qts, REMOVE "{ 'id': 'd' } }");
        expect_policies(qts, DEFAULT);
        rounds++;
    }
    qatomic_set(&pressure.stop, 1);
    g_thread_join(thread);
    g_test_message("%d times, %" PRIu64 " rounds of the guest", rounds,
                   pressure.rounds);
    g_assert_cmpint(rounds, >, 0);
    expect_within_limit(qts);
    expect_sums(qts);
    qtest_quit(qts);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (int i = 0; i < ARRAY_SIZE(refusals); i++) {
        g_autofree char *name = g_strdup_printf("memswap/policy/refuse/%s",
                                                refusals[i].name);

        qtest_add_data_func(name, &refusals[i], refused);
    }
    qtest_add_func("memswap/policy/start-order", start_order);
#ifdef CONFIG_SECCOMP
    qtest_add_func("memswap/policy/sandbox", sandbox);
#endif
    qtest_add_func("memswap/policy/default", by_default);
    qtest_add_func("memswap/policy/commands", commands);
    qtest_add_func("memswap/policy/set", set);
    qtest_add_func("memswap/policy/objects", objects);
    qtest_add_func("memswap/policy/figures", figures);
    qtest_add_func("memswap/policy/hung", hung);
    qtest_add_func("memswap/policy/hung-at-end", hung_at_end);
    qtest_add_func("memswap/policy/nonsense", nonsense);
    qtest_add_func("memswap/policy/main-loop-goes-on", main_loop_goes_on);
    if (qtest_has_accel("tcg")) {
        qtest_add_func("memswap/policy/vcpus-go-on", vcpus_go_on);
    }
    add_in_both_modes("memswap/policy/come-and-go", come_and_go);
    return g_test_run();
}

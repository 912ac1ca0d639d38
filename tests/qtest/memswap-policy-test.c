/*
 * memswap: policies, as an operator loads and ends them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libqmp.h"
#include "qemu/atomic.h"
#include "qobject/qlist.h"
#include "qobject/qstring.h"
#include "memswap-policy-util.h"

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
    add_in_both_modes("memswap/policy/come-and-go", come_and_go);
    return g_test_run();
}

/*
 * memswap: what tests of policies share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libqmp.h"
#include "qobject/qlist.h"
#include "qobject/qnum.h"
#include "memswap-policy-util.h"

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

void expect_policies(QTestState *qts, const char *expected)
{
    g_autofree char *found = policies(qts);

    g_assert_cmpstr(found, ==, expected);
}

void await_policies(QTestState *qts, const char *expected)
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

QDict *policy(QTestState *qts, const char *id)
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

uint64_t figure(QTestState *qts, const char *id, const char *name)
{
    g_autoptr(QDict) found = policy(qts, id);

    g_assert_nonnull(found);
    return qdict_get_int(found, name);
}

uint64_t counter(QTestState *qts, const char *id, const char *name)
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

void expect_counter(QTestState *qts, const char *id, const char *name,
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

void expect_more(QTestState *qts, const char *id, const char *name,
                 uint64_t than)
{
    wait_until(figure(qts, id, name) > than);
}

uint64_t ask(QTestState *qts, const char *id, const char *request,
             const char *value)
{
    qtest_qmp_assert_success(qts, SET "{ 'id': %s, 'options': { %s: %s } } }",
                             id, request, value);
    return counter(qts, id, "result");
}

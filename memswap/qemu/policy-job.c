/*
 * memswap inside QEMU: what can be done to a policy, checked and done
 *
 * A job is made on the main thread, where what can never be is refused, and
 * done on any, without the BQL: the engine waits for the policy meanwhile.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/config-file.h"
#include "qemu/cutils.h"
#include "qemu/id.h"
#include "qemu/option.h"
#include "qobject/qbool.h"
#include "qobject/qdict.h"
#include "qobject/qnum.h"
#include "qobject/qstring.h"
#include "policy.h"

void policy_job_free(PolicyJob *job)
{
    for (unsigned int i = 0; i < job->n_options; i++) {
        g_free((char *)job->options[i].name);
        g_free((char *)job->options[i].value);
    }
    g_free(job->options);
    g_free(job->id);
    g_free(job->path);
    g_free(job->builtin);
    g_free(job->message);
    g_free(job);
}

/* Policies take strings; NULL for what can't be one. */
static char *option_value(const QObject *value)
{
    switch (qobject_type(value)) {
    case QTYPE_QSTRING:
        return g_strdup(qstring_get_str(qobject_to(QString, value)));
    case QTYPE_QNUM:
        return qnum_to_string(qobject_to(QNum, value));
    case QTYPE_QBOOL:
        return g_strdup(qbool_get_bool(qobject_to(QBool, value)) ? "on" :
                                                                   "off");
    default:
        return NULL;
    }
}

static int compare_options(const void *a, const void *b)
{
    const MemswapPolicyOption *one = a, *other = b;

    return strcmp(one->name, other->name);
}

static bool parse_options(PolicyJob *job, QObject *options, Error **errp)
{
    QDict *dict = qobject_to(QDict, options);
    const QDictEntry *entry;

    if (!options) {
        return true;
    }
    if (!dict) {
        error_setg(errp, "memswap: policy '%s': options must be NAME=VALUE"
                   " each", job->id);
        return false;
    }
    job->options = g_new(MemswapPolicyOption, qdict_size(dict));
    for (entry = qdict_first(dict); entry; entry = qdict_next(dict, entry)) {
        char *value = option_value(qdict_entry_value(entry));

        if (!value) {
            error_setg(errp, "memswap: policy '%s': option '%s' must be a"
                       " string, number or boolean", job->id,
                       qdict_entry_key(entry));
            return false;
        }
        job->options[job->n_options++] = (MemswapPolicyOption) {
            .name = g_strdup(qdict_entry_key(entry)), .value = value,
        };
    }
    /* A dict has no order, but they are to be set in the same one always. */
    qsort(job->options, job->n_options, sizeof(*job->options),
          compare_options);
    return true;
}

PolicyJob *policy_job_new(const char *id, QObject *options, Error **errp)
{
    g_autoptr(PolicyJob) job = g_new0(PolicyJob, 1);

    job->engine = memswap_engine();
    job->id = g_strdup(id);
    if (!parse_options(job, options, errp)) {
        return NULL;
    }
    return g_steal_pointer(&job);
}

static bool check_builtin(const PolicyJob *job, Error **errp)
{
    g_autoptr(GString) names = g_string_new(NULL);
    const char *name;

    for (unsigned int i = 0; (name = memswap_policy_builtin(i)); i++) {
        if (g_str_equal(name, job->builtin)) {
            return true;
        }
        g_string_append_printf(names, "%s%s", i ? ", " : "", name);
    }
    error_setg(errp, "memswap: policy '%s': '%s' is not built in: there are"
               " %s", job->id, job->builtin, names->str);
    return false;
}

/* The sandbox lets nobody fork(), which is how a policy is tried. */
static bool spawn_denied(void)
{
    QemuOptsList *list = qemu_find_opts_err("sandbox", NULL);
    QemuOpts *opts = list ? qemu_opts_find(list, NULL) : NULL;

    return opts && qemu_opt_get_bool(opts, "enable", false) &&
           g_strcmp0(qemu_opt_get(opts, "spawn"), "deny") == 0;
}

PolicyJob *policy_job_new_add(const char *id, const char *path,
                              const char *builtin, QObject *options,
                              Error **errp)
{
    g_autoptr(PolicyJob) job = NULL;

    if (!id_wellformed(id) || strlen(id) >= MEMSWAP_POLICY_NAME_SIZE) {
        error_setg(errp, "memswap: a policy's id begins with a letter, and has"
                   " at most %d letters, digits, '-', '.' and '_'",
                   MEMSWAP_POLICY_NAME_SIZE - 1);
        return NULL;
    }
    job = policy_job_new(id, options, errp);
    if (!job) {
        return NULL;
    }
    job->path = g_strdup(path);
    job->builtin = g_strdup(builtin);
    if (!path == !builtin) {
        error_setg(errp, "memswap: policy '%s': give either path= or"
                   " builtin=", id);
        return NULL;
    }
    if (builtin && !check_builtin(job, errp)) {
        return NULL;
    }
    if (path && spawn_denied()) {
        error_setg(errp, "memswap: policy '%s': -sandbox spawn=deny keeps it"
                   " from being tried in a child process: use spawn=allow, or"
                   " builtin=", id);
        return NULL;
    }
    return g_steal_pointer(&job);
}

int policy_job_add(void *opaque)
{
    PolicyJob *job = opaque;
    MemswapPolicyConfig config = {
        .id = job->id,
        .path = job->path,
        .builtin = job->builtin,
        .options = job->options,
        .n_options = job->n_options,
    };

    job->ret = memswap_policy_add(job->engine, &config, &job->message);
    return 0;
}

/* One that was given up is only forgotten: it is gone already. */
int policy_job_remove(void *opaque)
{
    PolicyJob *job = opaque;

    job->ret = memswap_policy_remove(job->engine, job->id, &job->message);
    if (job->ret == -ENOENT &&
        memswap_policy_forget(job->engine, job->id) == 0) {
        job->ret = 0;
    }
    return 0;
}

int policy_job_set(void *opaque)
{
    PolicyJob *job = opaque;

    if (!job->n_options) {
        job->ret = memswap_policy_set(job->engine, job->id, NULL, NULL,
                                      &job->message);
    }
    while (job->n_set < job->n_options && !job->ret) {
        const MemswapPolicyOption *option = &job->options[job->n_set];

        job->ret = memswap_policy_set(job->engine, job->id, option->name,
                                      option->value, &job->message);
        job->n_set += !job->ret;
    }
    return 0;
}

bool policy_job_done(const PolicyJob *job, Error **errp)
{
    if (job->ret) {
        error_setg(errp, "memswap: %s", job->message);
    }
    return !job->ret;
}

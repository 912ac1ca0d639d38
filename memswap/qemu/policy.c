/*
 * memswap inside QEMU: policies as objects
 *
 * Those of the command line wait until the engine starts, so that it does not
 * matter whether -memswap comes before or after them.  To load or end one
 * takes seconds if it is no good.  The main loop waits for that when objects
 * come and go at run time, but not with the BQL: vCPUs go on.  The commands in
 * policy-qmp.c don't hold up the main loop either.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/qdev-core.h"
#include "memswap/hooks.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "qemu/error-report.h"
#include "qemu/keyval.h"
#include "qemu/main-loop.h"
#include "qemu/notify.h"
#include "qemu/queue.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qom/object_interfaces.h"
#include "system/system.h"
#include "policy.h"

OBJECT_DECLARE_SIMPLE_TYPE(MemswapPolicyObject, MEMSWAP_POLICY)

struct MemswapPolicyObject {
    Object parent_obj;

    char *path;
    char *builtin;
    QObject *opt;
    bool complete;          /* properties stay as they are */

    /* One of these at most. */
    PolicyJob *pending;     /* until the engine runs; in waiting_policies */
    bool added;
    QTAILQ_ENTRY(MemswapPolicyObject) next;
};

/* In the order of the command line.  The main thread's. */
static QTAILQ_HEAD(, MemswapPolicyObject) waiting_policies =
    QTAILQ_HEAD_INITIALIZER(waiting_policies);

/* QEMU is about to end: nobody waits for policies any more. */
static bool ending;

Object *policy_object(const char *id)
{
    Object *obj = object_resolve_path_component(object_get_objects_root(), id);

    return obj ? object_dynamic_cast(obj, TYPE_MEMSWAP_POLICY) : NULL;
}

void policy_object_gone(Object *obj)
{
    MEMSWAP_POLICY(obj)->added = false;
    object_unparent(obj);
}

/* Run time: with the BQL held, which vCPUs want meanwhile. */
static void do_unlocked(int (*what)(void *job), PolicyJob *job)
{
    bql_unlock();
    what(job);
    bql_lock();
}

const char *memswap_policy_option(const char *argument)
{
    static char *json;
    QDict *dict = keyval_parse(argument, "qom-type", NULL, &error_fatal);
    g_autoptr(GString) text = qobject_to_json(QOBJECT(dict));

    qobject_unref(dict);
    g_free(json);
    json = g_string_free(g_steal_pointer(&text), false);
    return json;
}

/* Without an engine nobody else says that they wait in vain. */
static void machine_done(Notifier *notifier, void *data)
{
    if (!memswap_object() && !QTAILQ_EMPTY(&waiting_policies)) {
        error_report("memswap: policy '%s' has no guest RAM to work on: add"
                     " -memswap", QTAILQ_FIRST(&waiting_policies)->pending->id);
        exit(EXIT_FAILURE);
    }
}

static void wait_for_engine(MemswapPolicyObject *policy, PolicyJob *job)
{
    static Notifier done = { .notify = machine_done };

    policy->pending = job;
    QTAILQ_INSERT_TAIL(&waiting_policies, policy, next);
    if (!done.node.le_prev) {
        qemu_add_machine_init_done_notifier(&done);
    }
}

bool memswap_policies_start(MemswapEngine *engine, Error **errp)
{
    MemswapPolicyObject *policy;

    while ((policy = QTAILQ_FIRST(&waiting_policies))) {
        g_autoptr(PolicyJob) job = g_steal_pointer(&policy->pending);

        QTAILQ_REMOVE(&waiting_policies, policy, next);
        job->engine = engine;
        policy_job_add(job);
        if (!policy_job_done(job, errp)) {
            return false;
        }
        policy->added = true;
    }
    return true;
}

void memswap_policies_leave(void)
{
    ending = true;
}

static void policy_complete(UserCreatable *uc, Error **errp)
{
    MemswapPolicyObject *policy = MEMSWAP_POLICY(uc);
    const char *id = object_get_canonical_path_component(OBJECT(uc));
    g_autoptr(PolicyJob) job = NULL;

    job = policy_job_new_add(id, policy->path, policy->builtin, policy->opt,
                             errp);
    if (!job) {
        return;
    }
    policy->complete = true;
    if (!phase_check(PHASE_MACHINE_READY)) {
        wait_for_engine(policy, g_steal_pointer(&job));
        return;
    }
    job->engine = memswap_engine();
    if (!job->engine) {
        error_setg(errp, "memswap: guest RAM is not swapped: start QEMU with"
                   " -memswap");
        return;
    }
    do_unlocked(policy_job_add, job);
    policy->added = policy_job_done(job, errp);
}

/* No policy outlives its object's name. */
static void policy_unparent(Object *obj)
{
    MemswapPolicyObject *policy = MEMSWAP_POLICY(obj);
    const char *id = object_get_canonical_path_component(obj);

    if (policy->pending) {
        QTAILQ_REMOVE(&waiting_policies, policy, next);
        g_clear_pointer(&policy->pending, policy_job_free);
    }
    if (policy->added && !ending) {
        g_autoptr(PolicyJob) job = policy_job_new(id, NULL, &error_abort);
        Error *err = NULL;

        policy->added = false;
        do_unlocked(policy_job_remove, job);
        if (!policy_job_done(job, &err)) {
            warn_report_err(err);
        }
    }
}

/* memswap-policy-set changes what a policy can change while it runs. */
static bool can_be_set(MemswapPolicyObject *policy, const char *name,
                       Error **errp)
{
    if (policy->complete) {
        error_setg(errp, "memswap: '%s' can't be set as a property at run"
                   " time: use memswap-policy-set for options", name);
        return false;
    }
    return true;
}

static char *get_path(Object *obj, Error **errp)
{
    return g_strdup(MEMSWAP_POLICY(obj)->path);
}

static void set_path(Object *obj, const char *value, Error **errp)
{
    MemswapPolicyObject *policy = MEMSWAP_POLICY(obj);

    if (can_be_set(policy, "path", errp)) {
        g_free(policy->path);
        policy->path = g_strdup(value);
    }
}

static char *get_builtin(Object *obj, Error **errp)
{
    return g_strdup(MEMSWAP_POLICY(obj)->builtin);
}

static void set_builtin(Object *obj, const char *value, Error **errp)
{
    MemswapPolicyObject *policy = MEMSWAP_POLICY(obj);

    if (can_be_set(policy, "builtin", errp)) {
        g_free(policy->builtin);
        policy->builtin = g_strdup(value);
    }
}

/* As they were given: a policy does not tell which it has. */
static void get_opt(Object *obj, Visitor *v, const char *name, void *opaque,
                    Error **errp)
{
    MemswapPolicyObject *policy = MEMSWAP_POLICY(obj);
    QObject *opt = policy->opt ? qobject_ref(policy->opt) :
                                 QOBJECT(qdict_new());

    visit_type_any(v, name, &opt, errp);
    qobject_unref(opt);
}

static void set_opt(Object *obj, Visitor *v, const char *name, void *opaque,
                    Error **errp)
{
    MemswapPolicyObject *policy = MEMSWAP_POLICY(obj);
    QObject *opt;

    if (can_be_set(policy, name, errp) &&
        visit_type_any(v, name, &opt, errp)) {
        qobject_unref(policy->opt);
        policy->opt = opt;
    }
}

static void policy_instance_finalize(Object *obj)
{
    MemswapPolicyObject *policy = MEMSWAP_POLICY(obj);

    g_free(policy->path);
    g_free(policy->builtin);
    qobject_unref(policy->opt);
}

static void policy_class_init(ObjectClass *oc, void *data)
{
    UserCreatableClass *ucc = USER_CREATABLE_CLASS(oc);

    ucc->complete = policy_complete;
    oc->unparent = policy_unparent;

    object_class_property_add_str(oc, "path", get_path, set_path);
    object_class_property_set_description(oc, "path",
        "the policy's shared object");
    object_class_property_add_str(oc, "builtin", get_builtin, set_builtin);
    object_class_property_set_description(oc, "builtin",
        "name of a policy that is built in");
    object_class_property_add(oc, "opt", "any", get_opt, set_opt, NULL, NULL);
    object_class_property_set_description(oc, "opt",
        "the policy's own options: opt.NAME=VALUE for each");
}

static const TypeInfo policy_info = {
    .name = TYPE_MEMSWAP_POLICY,
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(MemswapPolicyObject),
    .instance_finalize = policy_instance_finalize,
    .class_init = policy_class_init,
    .interfaces = (InterfaceInfo[]) {
        { TYPE_USER_CREATABLE },
        { }
    }
};

static void policy_register_types(void)
{
    type_register_static(&policy_info);
}

type_init(policy_register_types)

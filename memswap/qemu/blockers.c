/*
 * memswap inside QEMU: what can't be combined with it
 *
 * Whatever else reads or takes guest RAM behind QEMU's back would read
 * pages that are elsewhere, and write to pages that are gone.  Until it is
 * taught better it is refused, here, with a line that says so.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "exec/memory.h"
#include "hw/boards.h"
#include "hw/core/cpu.h"
#include "hw/mem/pc-dimm.h"
#include "hw/qdev-core.h"
#include "hw/xen/xen.h"
#include "memswap/hooks.h"
#include "migration/blocker.h"
#include "qapi/error.h"
#include "qapi/util.h"
#include "qemu/cutils.h"
#include "qobject/qbool.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "qobject/qnum.h"
#include "qobject/qstring.h"
#include "system/kvm.h"
#include "system/runstate.h"
#include "system/system.h"
#include "system/xen.h"
#include "devices.h"
#include "glue.h"

#define NO_MIGRATION "memswap: migration and snapshots are not supported yet"

static bool is_true(const QDict *opts, const char *name)
{
    QObject *value = qdict_get(opts, name);
    QString *text = qobject_to(QString, value);
    QBool *flag = qobject_to(QBool, value);
    bool yes = flag && qbool_get_bool(flag);

    if (text) {
        qapi_bool_parse(name, qstring_get_str(text), &yes, NULL);
    }
    return yes;
}

/* Devices that access guest RAM on their own, by the start of their names. */
static const struct {
    const char *prefix;
    const char *what;
} refused_devices[] = {
    { "vfio-", "VFIO devices" },
    { "vhost-scsi", "vhost-scsi devices" },
    { "vhost-vdpa-device", "vDPA devices" },
    { "x-pci-proxy-dev", "devices in other processes" },
};

/* Does the device's description name our IOThread? */
static bool wants_our_iothread(const QDict *opts)
{
    const char *ours = memswap_object() ? memswap_object()->iothread_id : NULL;
    QList *mapping = qobject_to(QList, qdict_get(opts, "iothread-vq-mapping"));
    const QListEntry *entry;

    if (!ours) {
        return false;
    }
    if (g_strcmp0(qdict_get_try_str(opts, "iothread"), ours) == 0) {
        return true;
    }
    if (!mapping) {
        return false;
    }
    QLIST_FOREACH_ENTRY(mapping, entry) {
        QDict *item = qobject_to(QDict, qlist_entry_obj(entry));

        if (item && !g_strcmp0(qdict_get_try_str(item, "iothread"), ours)) {
            return true;
        }
    }
    return false;
}

/* By how much does this device make guest RAM larger?  In bytes. */
static uint64_t memory_of(const char *driver, const QDict *opts)
{
    const char *id = qdict_get_try_str(opts, "memdev");
    QObject *value = qdict_get(opts, "requested-size");
    QString *text = qobject_to(QString, value);
    QNum *number = qobject_to(QNum, value);
    uint64_t size = 0;
    Object *backend;

    if (g_str_has_prefix(driver, "virtio-mem")) {
        if (number) {
            qnum_get_try_uint(number, &size);
        } else if (text &&
                   qemu_strtosz(qstring_get_str(text), NULL, &size)) {
            size = 0;
        }
        return size;
    }
    backend = id && !strcmp(driver, TYPE_PC_DIMM) ?
              object_resolve_path_component(object_get_objects_root(), id) :
              NULL;
    return backend ? object_property_get_uint(backend, "size", NULL) : 0;
}

/* Called for every device that is asked for, at start or at run time. */
static bool check_device(DeviceListener *listener, const QDict *opts,
                         bool from_json, Error **errp)
{
    const char *driver = opts ? qdict_get_try_str(opts, "driver") : NULL;

    if (!driver) {
        return false;
    }
    for (int i = 0; i < ARRAY_SIZE(refused_devices); i++) {
        if (g_str_has_prefix(driver, refused_devices[i].prefix)) {
            error_setg(errp, "memswap: %s are not supported yet",
                       refused_devices[i].what);
            return false;
        }
    }
    if (!memswap_processes_allow_more(memory_of(driver, opts), errp)) {
        return false;
    }
    if (g_str_has_prefix(driver, "virtio-mem") && is_true(opts, "prealloc")) {
        error_setg(errp, "memswap: virtio-mem can't preallocate memory that is"
                   " swapped: remove prealloc=on");
    } else if (wants_our_iothread(opts)) {
        error_setg(errp, "memswap: IOThread '%s' resolves page faults: give"
                   " the device another one", memswap_object()->iothread_id);
    }
    /* True would hide the device without an error. */
    return false;
}

static void device_comes(DeviceListener *listener, DeviceState *dev)
{
    memswap_holder_add(dev);
}

static void device_goes(DeviceListener *listener, DeviceState *dev)
{
    memswap_holder_remove(dev);
}

static DeviceListener device_listener = {
    .hide_device = check_device,
    .realize = device_comes,
    .unrealize = device_goes,
};

/*
 * Asked for a netdev, before there is a connection: refused later, it would
 * wait for another one for ever.  So what its backend offers isn't asked for,
 * unless it was stated that it is one that doesn't keep memory resident.
 */
bool memswap_refuses_vhost_user(Error **errp)
{
    return memswap_is_on() && memswap_object()->vhost_user_dma &&
           !memswap_processes_allow_one(errp);
}

/* The kernel's worker accesses guest RAM by itself. */
bool memswap_refuses_vhost_kernel(Error **errp)
{
    if (!memswap_is_on()) {
        return false;
    }
    if (memswap_inline(memswap_object())) {
        error_setg(errp, "memswap: vhost needs page faults of the kernel"
                   " resolved: use fault-mode=iothread");
        return true;
    }
    if (memswap_user_mode_only(memswap_object())) {
        error_setg(errp, "memswap: vhost needs userfaultfd for faults of the"
                   " kernel: " MEMSWAP_GRANT_HINT);
        return true;
    }
    return false;
}

/* Blobs hand the pages of guest RAM to a udmabuf, which has no end. */
bool memswap_refuses_blobs(Error **errp)
{
    if (memswap_is_on()) {
        error_setg(errp, "memswap: blob resources are not supported yet:"
                   " remove blob=on");
        return true;
    }
    return false;
}

/* Saving one is stopped by the migration blocker, loading is not. */
bool memswap_refuses_loadvm(Error **errp)
{
    if (memswap_is_on()) {
        error_setg(errp, NO_MIGRATION);
        return true;
    }
    return false;
}

bool memswap_blockers_init(MemswapObject *ms, Error **errp)
{
    if (runstate_check(RUN_STATE_INMIGRATE)) {
        error_setg(errp, NO_MIGRATION ": remove -incoming");
        return false;
    }
    error_setg(&ms->migration_blocker, NO_MIGRATION);
    if (migrate_add_blocker_modes(&ms->migration_blocker, errp,
                                  MIG_MODE_ALL) < 0) {
        return false;
    }
    /*
     * Keeps out what needs all of guest RAM in place: VFIO, vDPA, host NVMe,
     * SEV, RDMA, COLO.  virtio-mem and the balloon are not concerned.
     */
    if (ram_block_discard_require(true) < 0) {
        error_setg(errp, "memswap: another object needs all guest RAM in"
                   " place: remove it");
        return false;
    }
    device_listener_register(&device_listener);
    return true;
}

/*
 * For a guest's guest, KVM holds pages of the guest that no unmapping of ours
 * reaches.
 */
static bool has_nested_kvm(void)
{
    Object *cpu = OBJECT(first_cpu);

    return kvm_enabled() && cpu &&
           (object_property_get_bool(cpu, "vmx", NULL) ||
            object_property_get_bool(cpu, "svm", NULL));
}

bool memswap_blockers_check(MemswapObject *ms, Error **errp)
{
    if (xen_enabled()) {
        error_setg(errp, "memswap: Xen keeps guest RAM itself: use KVM or TCG");
    } else if (xen_mode == XEN_EMULATE) {
        /* Its grant tables hand out guest RAM without a pin. */
        error_setg(errp, "memswap: Xen on KVM is not supported yet: remove"
                   " xen-version from -accel");
    } else if (current_machine->cgs) {
        error_setg(errp, "memswap: memory of confidential guests can't be"
                   " swapped: remove confidential-guest-support");
    } else if (should_mlock(mlock_state)) {
        error_setg(errp, "memswap: guest RAM is locked in memory: remove"
                   " -overcommit mem-lock");
    } else if (kvm_enabled() && memswap_inline(ms)) {
        error_setg(errp, "memswap: KVM can't resolve faults inline: use"
                   " fault-mode=iothread");
    } else if (kvm_enabled() && !kvm_has_sync_mmu()) {
        error_setg(errp, "memswap: this host's KVM can't follow changes of"
                   " memory: use TCG");
    } else if (has_nested_kvm()) {
        error_setg(errp, "memswap: nested virtualization is not supported yet:"
                   " add vmx=off,svm=off to -cpu");
    } else if (kvm_enabled() && memswap_user_mode_only(ms)) {
        error_setg(errp, "memswap: KVM needs userfaultfd for faults of the"
                   " kernel: " MEMSWAP_GRANT_HINT);
    } else {
        return true;
    }
    return false;
}

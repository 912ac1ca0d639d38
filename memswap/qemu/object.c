/*
 * memswap inside QEMU: the user-creatable object and its option
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/userfaultfd.h>
#include "hw/qdev-core.h"
#include "memswap/hooks.h"
#include "qapi/error.h"
#include "qapi/qapi-types-memswap-common.h"
#include "qapi/visitor.h"
#include "qemu/main-loop.h"
#include "qemu/notify.h"
#include "qemu/units.h"
#include "qemu/userfaultfd.h"
#include "qom/object_interfaces.h"
#include "system/system.h"
#include "system/tcg.h"
#include "glue.h"

bool memswap_on;

static MemswapObject *the_object;

MemswapObject *memswap_object(void)
{
    return the_object;
}

const char *memswap_object_option(const char *arguments)
{
    static char *option;

    g_free(option);
    option = g_strdup_printf(TYPE_MEMSWAP ",id=memswap0,%s", arguments);
    return option;
}

bool memswap_inline(const MemswapObject *ms)
{
    if (ms->fault_mode == MEMSWAP_FAULT_THREAD_AUTO) {
        return !ms->iothread_id && tcg_enabled();
    }
    return ms->fault_mode == MEMSWAP_FAULT_THREAD_INLINE;
}

bool memswap_user_mode_only(const MemswapObject *ms)
{
    return ms->no_kernel_faults || memswap_inline(ms);
}

static void machine_done(Notifier *notifier, void *data)
{
    memswap_start(the_object);
}

/*
 * Opened here because devices made between now and the start of the engine
 * have to know what kind of faults it can resolve.
 */
static bool open_userfaultfd(MemswapObject *ms, Error **errp)
{
    int flags = O_CLOEXEC | O_NONBLOCK;

    ms->uffd = uffd_open(flags);
    if (ms->uffd < 0 && (errno == EPERM || errno == EACCES)) {
        ms->no_kernel_faults = true;
        ms->uffd = uffd_open(flags | UFFD_USER_MODE_ONLY);
    }
    if (ms->uffd < 0) {
        error_setg_errno(errp, errno, "memswap: no userfaultfd: give this user"
                         " access to /dev/userfaultfd, and the host a kernel"
                         " of 6.1 or later that has it");
        return false;
    }
    return true;
}

static void memswap_complete(UserCreatable *uc, Error **errp)
{
    static Notifier done = { .notify = machine_done };
    MemswapObject *ms = MEMSWAP(uc);

    if (the_object) {
        error_setg(errp, "memswap: there is a memswap object already: remove"
                   " this one");
        return;
    }
    if (phase_check(PHASE_MACHINE_CREATED)) {
        error_setg(errp, "memswap: can't be switched on at run time: use"
                   " -memswap on the command line");
        return;
    }
    if (ms->fault_mode == MEMSWAP_FAULT_THREAD_INLINE && ms->iothread_id) {
        error_setg(errp, "memswap: iothread= needs fault-mode=iothread: remove"
                   " one of them");
        return;
    }
    if (!memswap_check_settings(&ms->settings, UINT64_MAX, errp) ||
        !open_userfaultfd(ms, errp) ||
        !memswap_blockers_init(ms, errp)) {
        return;
    }

    /* Private memory can't be managed; a backend that says so is refused. */
    object_register_sugar_prop("memory-backend-ram", "share", "on", false);

    the_object = ms;
    if (ms->fault_mode != MEMSWAP_FAULT_THREAD_IOTHREAD && !ms->iothread_id) {
        memswap_sigbus_prepare();
    }
    qatomic_set(&memswap_on, true);
    memswap_do_bql_taken();
    qemu_add_machine_init_done_notifier(&done);
}

static bool memswap_can_be_deleted(UserCreatable *uc)
{
    return MEMSWAP(uc) != the_object;
}

/* The settings in force, once there are any. */
static MemswapSettings current_settings(MemswapObject *ms)
{
    MemswapSettings settings = ms->settings;

    if (ms == the_object && memswap_engine()) {
        memswap_get_settings(memswap_engine(), &settings);
    }
    return settings;
}

/* @opaque: offset in MemswapSettings */
static void get_size(Object *obj, Visitor *v, const char *name, void *opaque,
                     Error **errp)
{
    MemswapSettings settings = current_settings(MEMSWAP(obj));
    uint64_t *field = (void *)((char *)&settings + (uintptr_t)opaque);

    visit_type_size(v, name, field, errp);
}

/* What can be changed while QEMU runs is changed with memswap-set. */
static bool can_be_set(MemswapObject *ms, const char *name, Error **errp)
{
    if (ms == the_object) {
        error_setg(errp, "memswap: '%s' can't be set as a property at run"
                   " time: use memswap-set", name);
        return false;
    }
    return true;
}

static void set_size(Object *obj, Visitor *v, const char *name, void *opaque,
                     Error **errp)
{
    MemswapObject *ms = MEMSWAP(obj);
    uint64_t *field = (void *)((char *)&ms->settings + (uintptr_t)opaque);

    if (can_be_set(ms, name, errp)) {
        visit_type_size(v, name, field, errp);
    }
}

static void get_level(Object *obj, Visitor *v, const char *name, void *opaque,
                      Error **errp)
{
    int64_t level = current_settings(MEMSWAP(obj)).compression_level;

    visit_type_int(v, name, &level, errp);
}

static void set_level(Object *obj, Visitor *v, const char *name, void *opaque,
                      Error **errp)
{
    MemswapObject *ms = MEMSWAP(obj);
    int64_t level;

    if (!can_be_set(ms, name, errp) || !visit_type_int(v, name, &level, errp)) {
        return;
    }
    /* Whether zstd knows it is for the engine to say; it wants an int. */
    ms->settings.compression_level = MAX(INT_MIN, MIN(level, INT_MAX));
}

static int get_when_full(Object *obj, Error **errp)
{
    return memswap_when_full_to_qapi(
        current_settings(MEMSWAP(obj)).when_full);
}

static void set_when_full(Object *obj, int value, Error **errp)
{
    if (can_be_set(MEMSWAP(obj), "when-full", errp)) {
        MEMSWAP(obj)->settings.when_full = memswap_when_full_from_qapi(value);
    }
}

static int get_compression(Object *obj, Error **errp)
{
    return memswap_codec_to_qapi(current_settings(MEMSWAP(obj)).codec);
}

static void set_compression(Object *obj, int value, Error **errp)
{
    if (can_be_set(MEMSWAP(obj), "compression", errp)) {
        MEMSWAP(obj)->settings.codec = memswap_codec_from_qapi(value);
    }
}

static bool get_huge_regions(Object *obj, Error **errp)
{
    return MEMSWAP(obj)->huge_regions;
}

static void set_huge_regions(Object *obj, bool value, Error **errp)
{
    if (can_be_set(MEMSWAP(obj), "huge-regions", errp)) {
        MEMSWAP(obj)->huge_regions = value;
    }
}

static bool get_vhost_user_dma(Object *obj, Error **errp)
{
    return MEMSWAP(obj)->vhost_user_dma;
}

static void set_vhost_user_dma(Object *obj, bool value, Error **errp)
{
    if (can_be_set(MEMSWAP(obj), "vhost-user-dma", errp)) {
        MEMSWAP(obj)->vhost_user_dma = value;
    }
}

static int get_fault_mode(Object *obj, Error **errp)
{
    return MEMSWAP(obj)->fault_mode;
}

static void set_fault_mode(Object *obj, int value, Error **errp)
{
    if (can_be_set(MEMSWAP(obj), "fault-mode", errp)) {
        MEMSWAP(obj)->fault_mode = value;
    }
}

static char *get_iothread(Object *obj, Error **errp)
{
    return g_strdup(MEMSWAP(obj)->iothread_id);
}

static void set_iothread(Object *obj, const char *value, Error **errp)
{
    MemswapObject *ms = MEMSWAP(obj);

    if (can_be_set(ms, "iothread", errp)) {
        g_free(ms->iothread_id);
        ms->iothread_id = g_strdup(value);
    }
}

static void memswap_instance_init(Object *obj)
{
    MemswapObject *ms = MEMSWAP(obj);

    ms->uffd = -1;
    ms->fault_mode = MEMSWAP_FAULT_THREAD_AUTO;
    ms->huge_regions = true;
    ms->vhost_user_dma = true;
    ms->settings = (MemswapSettings) {
        .pool_limit = UINT64_MAX,
        .codec = MEMSWAP_CODEC_LZ4,
        .compression_level = -1,
        .when_full = MEMSWAP_FULL_HOLD,
        .readahead = 16 * KiB,
        .keep_copies = MEMSWAP_KEEP_AUTO,
    };
}

/* Once the object is complete it stays until QEMU ends. */
static void memswap_instance_finalize(Object *obj)
{
    MemswapObject *ms = MEMSWAP(obj);

    if (ms != the_object) {
        if (ms->uffd >= 0) {
            close(ms->uffd);
        }
        g_free(ms->iothread_id);
    }
}

static void memswap_class_init(ObjectClass *oc, void *data)
{
    UserCreatableClass *ucc = USER_CREATABLE_CLASS(oc);

    ucc->complete = memswap_complete;
    ucc->can_be_deleted = memswap_can_be_deleted;

    object_class_property_add(oc, "limit", "size", get_size, set_size, NULL,
                              (void *)offsetof(MemswapSettings, limit));
    object_class_property_set_description(oc, "limit",
        "how much guest RAM may be resident");
    object_class_property_add(oc, "pool-limit", "size", get_size, set_size,
                              NULL, (void *)offsetof(MemswapSettings,
                                                     pool_limit));
    object_class_property_set_description(oc, "pool-limit",
        "how much memory the compressed pages may take (default: no limit)");
    object_class_property_add(oc, "compression-level", "int", get_level,
                              set_level, NULL, NULL);
    object_class_property_set_description(oc, "compression-level",
        "zstd compression level (default: -1)");
    object_class_property_add_enum(oc, "compression", "MemswapCompression",
                                   &MemswapCompression_lookup,
                                   get_compression, set_compression);
    object_class_property_set_description(oc, "compression",
        "how pages are compressed (default: lz4)");
    object_class_property_add(oc, "readahead", "size", get_size, set_size,
                              NULL, (void *)offsetof(MemswapSettings,
                                                     readahead));
    object_class_property_set_description(oc, "readahead",
        "how much to bring in ahead of a sequence of faults (default: 16K)");
    object_class_property_add(oc, "keep-copies", "size", get_size, set_size,
                              NULL, (void *)offsetof(MemswapSettings,
                                                     keep_copies));
    object_class_property_set_description(oc, "keep-copies",
        "of how many resident bytes to keep stored copies (default: a"
        " sixteenth of the limit)");
    object_class_property_add(oc, "pin-limit", "size", get_size, set_size,
                              NULL, (void *)offsetof(MemswapSettings,
                                                     pin_limit));
    object_class_property_set_description(oc, "pin-limit",
        "how much may be pinned for I/O (default: seven eighths of the"
        " limit)");
    object_class_property_add_bool(oc, "huge-regions", get_huge_regions,
                                   set_huge_regions);
    object_class_property_set_description(oc, "huge-regions",
        "collapse warm memory into huge pages (default: on)");
    object_class_property_add_bool(oc, "vhost-user-dma", get_vhost_user_dma,
                                   set_vhost_user_dma);
    object_class_property_set_description(oc, "vhost-user-dma",
        "vhost-user devices may move data by DMA (default: on)");
    object_class_property_add_enum(oc, "when-full", "MemswapWhenFull",
                                   &MemswapWhenFull_lookup, get_when_full,
                                   set_when_full);
    object_class_property_set_description(oc, "when-full",
        "what happens when the store is full (default: hold)");
    object_class_property_add_enum(oc, "fault-mode", "MemswapFaultThread",
                                   &MemswapFaultThread_lookup, get_fault_mode,
                                   set_fault_mode);
    object_class_property_set_description(oc, "fault-mode",
        "which thread resolves page faults (default: auto)");
    object_class_property_add_str(oc, "iothread", get_iothread, set_iothread);
    object_class_property_set_description(oc, "iothread",
        "IOThread that resolves page faults (default: one is made)");
}

static const TypeInfo memswap_info = {
    .name = TYPE_MEMSWAP,
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(MemswapObject),
    .instance_init = memswap_instance_init,
    .instance_finalize = memswap_instance_finalize,
    .class_init = memswap_class_init,
    .interfaces = (InterfaceInfo[]) {
        { TYPE_USER_CREATABLE },
        { }
    }
};

static void memswap_register_types(void)
{
    type_register_static(&memswap_info);
}

type_init(memswap_register_types)

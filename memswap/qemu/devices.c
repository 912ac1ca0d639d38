/*
 * memswap inside QEMU: who keeps guest RAM resident
 *
 * A device process (a vhost-user backend) maps guest RAM by itself.  QEMU does
 * not see what it touches.  One that is aware of that says what it uses, by
 * pins in shared memory.  While there is another one all RAM is retained: see
 * memswap_retain().  It is so from before the process may get the memory until
 * it is gone for certain.
 *
 * One whose page faults are resolved has all RAM exposed in the same way: see
 * memswap_expose().
 *
 * All RAM means all managed blocks: each is shared with every device process.
 * So blocks are claimed once, for the first process that needs it, and let go
 * after the last one.
 *
 * The list and the claims change with the BQL; the lock makes them safe to read
 * out of band.  It is not held while the engine is waited for.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/boards.h"
#include "memswap/hooks.h"
#include "qapi/error.h"
#include "qapi/qapi-events-memswap.h"
#include "qapi/util.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/queue.h"
#include "qemu/thread.h"
#include "devices.h"
#include "trace.h"

struct MemswapProcess {
    char *chardev;
    char *id;               /* of the device; NULL while not known */
    MemswapDeviceKind kind;
    MemswapClient *client;  /* what it has pinned; NULL: it had no memory yet */
    bool attached;          /* its connection is there */
    QTAILQ_ENTRY(MemswapProcess) next;
};

static QTAILQ_HEAD(, MemswapProcess) processes =
    QTAILQ_HEAD_INITIALIZER(processes);
/* What guest RAM may come to, with what is plugged now. */
static uint64_t usable;
static QemuMutex processes_lock;

/* What is asked of the engine for all blocks, as long as it is needed. */
typedef struct Claim {
    int (*take)(MemswapEngine *engine, const void *host, char **error);
    void (*drop)(MemswapEngine *engine, const void *host);
    /* for a refusal: a device ... RAM 'name' ...: why */
    const char *verb, *how, *remedy;
    unsigned int users;     /* processes that need it; under processes_lock */
    GHashTable *blocks;     /* for which it is taken, by address; BQL */
} Claim;

static Claim retained = {
    .take = memswap_retain, .drop = memswap_release,
    .verb = "needs", .how = "resident", .remedy = "",
};
static Claim exposed = {
    .take = memswap_expose, .drop = memswap_conceal,
    .verb = "can't have", .how = "by page faults",
    .remedy = ": leave out vhost-user-dma=off",
};
static Claim *const claims[] = { &retained, &exposed };

static void __attribute__((__constructor__)) init_processes(void)
{
    qemu_mutex_init(&processes_lock);
    for (unsigned int i = 0; i < G_N_ELEMENTS(claims); i++) {
        claims[i]->blocks = g_hash_table_new(NULL, NULL);
    }
}

/* NULL: it sees to that itself. */
static Claim *claim_for(MemswapDeviceKind kind)
{
    switch (kind) {
    case MEMSWAP_DEVICE_KIND_UNAWARE:
        return &retained;
    case MEMSWAP_DEVICE_KIND_FAULT_CAPABLE:
        return &exposed;
    default:
        return NULL;
    }
}

static bool check_limit(uint64_t limit, uint64_t ram, Error **errp)
{
    if (limit >= ram) {
        return true;
    }
    error_setg(errp, "memswap: vhost-user devices keep all guest RAM resident,"
               " %" PRIu64 " MiB, and the limit is %" PRIu64 " MiB: raise the"
               " limit, or use no vhost-user device",
               DIV_ROUND_UP(ram, 1 << 20), limit >> 20);
    return false;
}

bool memswap_processes_allow_limit(uint64_t limit, Error **errp)
{
    QEMU_LOCK_GUARD(&processes_lock);
    return !retained.users || check_limit(limit, usable, errp);
}

static uint64_t current_limit(void)
{
    MemswapEngine *engine = memswap_engine();
    MemswapSettings settings = memswap_object()->settings;

    if (engine) {
        memswap_get_settings(engine, &settings);
    }
    return settings.limit;
}

bool memswap_processes_allow_more(uint64_t size, Error **errp)
{
    uint64_t limit = current_limit();

    QEMU_LOCK_GUARD(&processes_lock);
    return !size || !retained.users ||
           check_limit(limit, usable + size, errp);
}

static void note_usable(void)
{
    /* before the machine is complete only the main memory's size is known */
    uint64_t size = memswap_engine() ? memswap_ram_usable() :
                    current_machine->ram_size;

    QEMU_LOCK_GUARD(&processes_lock);
    usable = size;
}

bool memswap_processes_allow_one(Error **errp)
{
    uint64_t limit = current_limit();

    note_usable();
    QEMU_LOCK_GUARD(&processes_lock);
    return check_limit(limit, usable, errp);
}

typedef struct Taking {
    Claim *claim;
    MemswapEngine *engine;
    Error **errp;
    bool ok;
} Taking;

static bool take_one(MemswapBlock *block, const char *name, void *host,
                     uint64_t size, void *opaque)
{
    Taking *taking = opaque;
    Claim *claim = taking->claim;
    g_autofree char *message = NULL;
    int ret;

    if (g_hash_table_contains(claim->blocks, host)) {
        return true;
    }
    ret = claim->take(taking->engine, host, &message);
    trace_memswap_claim(claim->how, name, size, ret);
    if (ret) {
        error_setg(taking->errp, "memswap: a vhost-user device %s RAM '%s' %s:"
                   " %s%s", claim->verb, name, claim->how,
                   message ?: strerror(-ret), claim->remedy);
        taking->ok = false;
        return false;
    }
    g_hash_table_add(claim->blocks, host);
    return true;
}

/* Let go of all. */
static void drop_all(Claim *claim)
{
    GHashTableIter iter;
    gpointer host;

    g_hash_table_iter_init(&iter, claim->blocks);
    while (g_hash_table_iter_next(&iter, &host, NULL)) {
        g_hash_table_iter_remove(&iter);
        claim->drop(memswap_engine(), host);
    }
    trace_memswap_unclaim(claim->how);
}

/* Those that were taken before a failure stay so. */
static bool take_all(Claim *claim, MemswapEngine *engine, Error **errp)
{
    Taking taking = {
        .claim = claim, .engine = engine, .errp = errp, .ok = true,
    };

    memswap_ram_each(NULL, take_one, &taking);
    return taking.ok;
}

/* One process more that needs it, or one fewer.  Returns how many do. */
static unsigned int count_user(Claim *claim, int by)
{
    QEMU_LOCK_GUARD(&processes_lock);
    claim->users += by;
    return claim->users;
}

/* One fewer: with the last, what was taken for them is let go. */
static void leave(Claim *claim)
{
    if (!count_user(claim, -1) && memswap_engine()) {
        drop_all(claim);
    }
}

MemswapProcess *memswap_process_add(const char *chardev,
                                    MemswapDeviceKind kind, Error **errp)
{
    Claim *claim = claim_for(kind);
    MemswapEngine *engine = memswap_engine();
    MemswapProcess *process;

    note_usable();
    if (claim) {
        /* first: nobody is to lower the limit while this looks and takes */
        count_user(claim, 1);
        if ((claim == &retained &&
             !check_limit(current_limit(), usable, errp)) ||
            (engine && !take_all(claim, engine, errp))) {
            leave(claim);
            return NULL;
        }
    }
    process = g_new0(MemswapProcess, 1);
    process->chardev = g_strdup(chardev);
    process->kind = kind;
    process->attached = true;
    WITH_QEMU_LOCK_GUARD(&processes_lock) {
        QTAILQ_INSERT_TAIL(&processes, process, next);
    }
    if (engine && claim == &retained) {
        qapi_event_send_memswap_device_keeps_resident(chardev, usable);
    }
    return process;
}

void memswap_process_set_client(MemswapProcess *process,
                                MemswapClient *client)
{
    QEMU_LOCK_GUARD(&processes_lock);
    process->client = client;
}

void memswap_process_set_id(MemswapProcess *process, const char *id)
{
    if (g_strcmp0(process->id, id)) {
        QEMU_LOCK_GUARD(&processes_lock);
        g_free(process->id);
        process->id = g_strdup(id);
    }
}

void memswap_process_leaves(MemswapProcess *process)
{
    QEMU_LOCK_GUARD(&processes_lock);
    process->attached = false;
}

void memswap_process_gone(MemswapProcess *process)
{
    Claim *claim = claim_for(process->kind);

    WITH_QEMU_LOCK_GUARD(&processes_lock) {
        QTAILQ_REMOVE(&processes, process, next);
    }
    if (claim) {
        leave(claim);
    }
    if (memswap_engine()) {
        qapi_event_send_memswap_device_gone(process->chardev);
    }
    g_free(process->chardev);
    g_free(process->id);
    g_free(process);
}

bool memswap_processes_start(MemswapEngine *engine, Error **errp)
{
    MemswapProcess *process;

    note_usable();
    if (!memswap_processes_allow_limit(current_limit(), errp)) {
        return false;
    }
    for (unsigned int i = 0; i < G_N_ELEMENTS(claims); i++) {
        if (claims[i]->users && !take_all(claims[i], engine, errp)) {
            return false;
        }
    }
    QTAILQ_FOREACH(process, &processes, next) {
        if (process->kind == MEMSWAP_DEVICE_KIND_UNAWARE) {
            qapi_event_send_memswap_device_keeps_resident(process->chardev,
                                                          usable);
        }
    }
    return true;
}

static gboolean is_gone(gpointer host, gpointer value, gpointer opaque)
{
    return !memswap_owns(memswap_engine(), host);
}

void memswap_processes_ram_changed(void)
{
    for (unsigned int i = 0; i < G_N_ELEMENTS(claims); i++) {
        /* a block's claim ended with it */
        g_hash_table_foreach_remove(claims[i]->blocks, is_gone, NULL);
    }
    if (QTAILQ_EMPTY(&processes)) {
        /* the first one to come will have it found out */
        return;
    }
    note_usable();
    for (unsigned int i = 0; i < G_N_ELEMENTS(claims); i++) {
        Error *err = NULL;

        /*
         * New RAM is empty: nothing could be in the way of retaining it.  What
         * can't be exposed isn't given away: see vhost-user-faults.c.
         */
        if (claims[i]->users && !take_all(claims[i], memswap_engine(), &err)) {
            error_report_err(err);
        }
    }
}

MemswapDeviceList *memswap_processes_query(uint64_t retained_bytes)
{
    MemswapDeviceList *list = NULL, **tail = &list;
    MemswapProcess *process;

    QEMU_LOCK_GUARD(&processes_lock);
    QTAILQ_FOREACH(process, &processes, next) {
        MemswapDevice *device = g_new0(MemswapDevice, 1);

        device->chardev = g_strdup(process->chardev);
        device->id = g_strdup(process->id);
        device->kind = process->kind;
        device->attached = process->attached;
        device->reachable = usable;
        if (process->kind == MEMSWAP_DEVICE_KIND_PIN_AWARE) {
            device->has_pinned = true;
            device->pinned = process->client ?
                             memswap_client_pinned(process->client) : 0;
            device->resident = device->pinned;
        } else if (process->kind == MEMSWAP_DEVICE_KIND_UNAWARE) {
            device->resident = retained_bytes;
        }
        QAPI_LIST_APPEND(tail, device);
    }
    return list;
}

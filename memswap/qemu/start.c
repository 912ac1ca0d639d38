/*
 * memswap inside QEMU: starting the engine
 *
 * Done when the machine is complete: then all its RAM and its accelerator
 * are there, but no vCPU has run, and privileges are not dropped yet.
 *
 * The engine is never stopped: devices and block jobs may touch guest RAM
 * until QEMU's very end, and would wait for ever if nobody resolved their
 * faults.  The kernel cleans up.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/aio.h"
#include "hw/boards.h"
#include "memswap/hooks.h"
#include "memswap/policies.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/notify.h"
#include "system/reset.h"
#include "system/runstate-action.h"
#include "system/runstate.h"
#include "devices.h"
#include "glue.h"
#include "guest.h"

/* Evictors: more than this many would only meet each other. */
#define EVICTORS_MAX 4

/*
 * Slow fills at once, beside which faults are resolved; see fault_helpers in
 * engine.h.  They sleep when there is none.
 */
#define FAULT_HELPERS 2

/* A MemswapEngine; QEMU's atomics want to know what a pointer points to. */
static void *the_engine;

MemswapEngine *memswap_engine(void)
{
    return qatomic_load_acquire(&the_engine);
}

bool memswap_check_settings(const MemswapSettings *settings,
                            uint64_t max_ram, Error **errp)
{
    g_autofree char *message = NULL;

    if (!memswap_settings_in_range(settings, &message)) {
        error_setg(errp, "memswap: %s", message);
    } else if (settings->limit > max_ram) {
        error_setg(errp, "memswap: limit must not be larger than guest RAM,"
                   " %" PRIu64 " MiB", max_ram >> 20);
    } else {
        return true;
    }
    return false;
}

static bool find_iothread(MemswapObject *ms, Error **errp)
{
    if (!ms->iothread_id) {
        ms->iothread = iothread_create("memswap-faults", errp);
        return ms->iothread != NULL;
    }
    ms->iothread = iothread_by_id(ms->iothread_id);
    if (!ms->iothread) {
        error_setg(errp, "memswap: there is no IOThread '%s': add -object"
                   " iothread,id=%s", ms->iothread_id, ms->iothread_id);
        return false;
    }
    /*
     * I/O on guest RAM faults: in this thread it would wait for itself.
     * One reference is the composition tree's.
     */
    if (OBJECT(ms->iothread)->ref > 1) {
        error_setg(errp, "memswap: IOThread '%s' serves a device: give memswap"
                   " one of its own", ms->iothread_id);
        return false;
    }
    object_ref(OBJECT(ms->iothread));
    return true;
}

static void handle_faults(void *opaque)
{
    memswap_engine_handle(opaque);
}

/* Polling reads the events: that is as cheap as looking for them. */
static bool poll_faults(void *opaque)
{
    return memswap_engine_handle(opaque) > 0;
}

/*
 * QEMU is about to end: it waits for vCPUs and I/O to stop, so none of them
 * may be held back for room any more.
 */
static void hold_nobody_back(Notifier *notifier, void *data)
{
    MemswapSettings settings;

    if (shutdown_action == SHUTDOWN_ACTION_PAUSE) {
        return;
    }
    memswap_get_settings(the_engine, &settings);
    settings.when_full = MEMSWAP_FULL_OVERSHOOT;
    memswap_set_settings(the_engine, &settings, NULL);
    /* What is lost can do no harm any more, but to wait for it would. */
    memswap_forget_lost(the_engine);
    memswap_reclaim_stop();
    memswap_policies_leave();
}

/* The first is no reset, but how QEMU begins. */
static void guest_reset(void *opaque)
{
    static bool begun;

    if (begun) {
        memswap_guest_reset(opaque);
    }
    begun = true;
}

void memswap_do_hold_nobody(bool begin)
{
    MemswapEngine *engine = memswap_engine();

    if (engine) {
        memswap_hold_nobody(engine, begin);
    }
}

/* Have the faults of its userfaultfd read. */
static void read_faults(MemswapObject *ms, MemswapEngine *engine)
{
    if (memswap_engine_spreads(engine)) {
        /* Polling would keep the vCPU that faults from going on. */
        object_property_set_int(OBJECT(ms->iothread), "poll-max-ns", 0,
                                &error_abort);
    }
    aio_set_fd_handler(iothread_get_aio_context(ms->iothread),
                       memswap_engine_fd(engine), handle_faults, NULL,
                       poll_faults, handle_faults, engine);
}

static bool start(MemswapObject *ms, Error **errp)
{
    bool inline_faults = memswap_inline(ms);
    MemswapConfig config = {
        .settings = ms->settings,
        .evictors = CLAMP(g_get_num_processors(), 1, EVICTORS_MAX),
        .huge_regions = ms->huge_regions,
        .reclaimer = memswap_policy_default(),
        .fault_helpers = FAULT_HELPERS,
        /* A user's own IOThread stays where the user wants it. */
        .spread_faults = !ms->iothread_id,
        .fault_mode = inline_faults ? MEMSWAP_FAULTS_INLINE :
                                      MEMSWAP_FAULTS_EVENTS,
        .user_mode_only = memswap_user_mode_only(ms),
        .uffd = ms->uffd,
    };
    static Notifier shutdown = { .notify = hold_nobody_back };
    g_autofree char *message = NULL;
    MemswapEngine *engine;

    if (!inline_faults) {
        memswap_sigbus_cancel();
    }
    if (!memswap_blockers_check(ms, errp) || !memswap_ram_check(errp)) {
        return false;
    }
    ms->max_ram = MAX(current_machine->ram_size, current_machine->maxram_size);
    if (!memswap_check_settings(&ms->settings, ms->max_ram, errp) ||
        (!inline_faults && !find_iothread(ms, errp))) {
        return false;
    }
    if (memswap_engine_new(&config, &memswap_host, ms, &engine, &message)) {
        error_setg(errp, "memswap: %s", message);
        return false;
    }
    if (inline_faults) {
        memswap_sigbus_start(engine);
    } else {
        read_faults(ms, engine);
    }
    qatomic_store_release(&the_engine, engine);

    if (!memswap_ram_start(engine, errp) ||
        !memswap_processes_start(engine, errp)) {
        return false;
    }
    memswap_guest_start(engine);
    memswap_pins_start(engine);
    qemu_register_shutdown_notifier(&shutdown);
    qemu_register_reset(guest_reset, engine);
    return memswap_policies_start(engine, errp);
}

void memswap_start(MemswapObject *ms)
{
    Error *err = NULL;

    if (!start(ms, &err)) {
        error_report_err(err);
        exit(EXIT_FAILURE);
    }
}

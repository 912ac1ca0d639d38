/*
 * memswap inside QEMU: what the engine asks and tells
 *
 * These callbacks run on any thread, possibly in the middle of a fault: they
 * take neither the BQL nor any lock that is held while guest RAM is touched.
 * Sending a QMP event qualifies: the monitor and the character devices copy
 * what they write out first.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "memswap/hooks.h"
#include "qapi/qapi-events-memswap.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "system/runstate.h"
#include "glue.h"
#include "guest.h"
#include "trace.h"

/* The thread that holds the BQL, or 0. */
static int bql_holder;
/* How often it was taken.  Written by who holds it. */
static unsigned int bql_takes;

/*
 * Who has it may wait for a thread that is held back: an IOThread that is to be
 * drained, a vCPU in an ioctl, a thread of the kernel that has a mutex of its
 * own.  Nobody can raise the limit then.  Few things else take so long.
 */
#define BQL_PATIENCE_NS NANOSECONDS_PER_SECOND

/* gettid() is a system call, and the BQL is taken often. */
static int this_thread(void)
{
    static __thread int tid;

    if (!tid) {
        tid = qemu_get_thread_id();
    }
    return tid;
}

void memswap_do_bql_taken(void)
{
    qatomic_set(&bql_takes, bql_takes + 1);
    /* who finds us here finds that as well */
    qatomic_store_release(&bql_holder, this_thread());
}

void memswap_do_bql_released(void)
{
    qatomic_set(&bql_holder, 0);
}

/* Whoever holds the BQL holds up the monitor, and with it memswap-set. */
static bool may_hold_back(void *opaque, pid_t tid)
{
    return qatomic_read(&bql_holder) != (tid ?: this_thread());
}

/*
 * Is it the same holder as when this was asked first, and that is long ago?
 * Threads that ask at once may each note the time; it is about the same.
 */
static bool held_up(void *opaque)
{
    static unsigned int seen;
    static int64_t since;
    unsigned int takes;
    int64_t now;

    if (!qatomic_load_acquire(&bql_holder)) {
        return false;
    }
    takes = qatomic_read(&bql_takes);
    now = get_clock();
    if (qatomic_load_acquire(&seen) != takes) {
        qatomic_set(&since, now);
        qatomic_store_release(&seen, takes);
        return false;
    }
    return now - qatomic_read(&since) > BQL_PATIENCE_NS;
}

static void on_event(void *opaque, MemswapEvent event, const char *block,
                     uint64_t offset)
{
    switch (event) {
    case MEMSWAP_EVENT_STORE_FULL:
        qapi_event_send_memswap_store_full();
        break;
    case MEMSWAP_EVENT_NO_HUGEPAGES:
        qapi_event_send_memswap_no_hugepages(block);
        break;
    case MEMSWAP_EVENT_POLICY_ERROR:
        error_report("memswap: policy '%s' was given up: %s", block,
                     memswap_policy_error(offset));
        qapi_event_send_memswap_policy_error(block,
                                             memswap_policy_error(offset));
        break;
    case MEMSWAP_EVENT_PAGE_LOST:
        error_report("memswap: the page at 0x%" PRIx64 " of RAM '%s' is lost:"
                     " whoever touches it waits for memswap-forget-lost",
                     offset, block);
        qapi_event_send_memswap_page_lost(block, offset);
        break;
    case MEMSWAP_EVENT_BUG:
        error_report("memswap: internal error at 0x%" PRIx64 " of RAM '%s':"
                     " stopping the guest", offset, block ?: "");
        qemu_system_vmstop_request_prepare();
        qemu_system_vmstop_request(RUN_STATE_INTERNAL_ERROR);
        break;
    default:
        g_assert_not_reached();
    }
}

static const char *fault_kind(uint64_t kind)
{
    static const char *const names[] = {
        [MEMSWAP_FAULT_ABSENT] = "absent",
        [MEMSWAP_FAULT_MINOR] = "minor",
        [MEMSWAP_FAULT_TRIAL] = "trial",
        [MEMSWAP_FAULT_SAME] = "zero",
        [MEMSWAP_FAULT_STORED] = "stored",
        [MEMSWAP_FAULT_WAITED] = "waited",
    };

    return kind < ARRAY_SIZE(names) ? names[kind] : "unknown";
}

static void on_trace(void *opaque, MemswapTracePoint point, const char *block,
                     uint64_t offset, uint64_t arg)
{
    switch (point) {
    case MEMSWAP_TRACE_FAULT:
        trace_memswap_fault(block, offset, fault_kind(arg));
        break;
    case MEMSWAP_TRACE_FILL:
        trace_memswap_fill(block, offset, fault_kind(arg));
        break;
    case MEMSWAP_TRACE_TRIAL:
        trace_memswap_trial(block, offset, arg);
        break;
    case MEMSWAP_TRACE_EVICT:
        trace_memswap_evict(block, offset, arg);
        break;
    case MEMSWAP_TRACE_COLLAPSE:
        trace_memswap_collapse(block, offset, arg);
        break;
    case MEMSWAP_TRACE_DISCARD:
        trace_memswap_discard(block, offset, arg);
        break;
    case MEMSWAP_TRACE_PIN_WAIT:
        trace_memswap_pin_wait(block, offset, arg);
        break;
    case MEMSWAP_TRACE_STALL:
        trace_memswap_stall(block, offset, arg);
        break;
    }
}

static void on_unpinned(void *opaque)
{
    memswap_pins_room();
}

const MemswapHost memswap_host = {
    .may_hold_back = may_hold_back,
    .held_up = held_up,
    .event = on_event,
    .trace = on_trace,
    .unpinned = on_unpinned,
    .fault_context = memswap_guest_fault_context,
    .translate = memswap_guest_translate,
    .reverse = memswap_guest_reverse,
};

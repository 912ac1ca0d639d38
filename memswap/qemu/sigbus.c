/*
 * memswap inside QEMU: faults that are resolved where they are met
 *
 * With inline faults the kernel answers the touch of a page that isn't there
 * with SIGBUS, and the handler here has the engine bring it.  A thread that
 * blocks SIGBUS would be killed by the touch instead, so every thread that may
 * touch guest RAM takes the signal:
 *
 * - threads of qemu_thread_create(): by a hook in there, from when the memswap
 *   object is made, which is before any block device and any vCPU
 * - the main thread, which blocks SIGBUS to read it from a signalfd: from then
 *   on too, so that threads inherit it that libraries make
 * - IOThreads that were named before the memswap object, and RCU's thread:
 *   when the engine starts, before guest RAM is managed
 *
 * The signal is synchronous: when the handler returns the access is tried
 * again, whoever made it, generated code included.  It interrupts no system
 * call and runs under whatever locks the thread has, as a page fault does; the
 * engine neither takes one of these nor touches guest RAM.
 *
 * Linux wakes whoever polls a signalfd at any signal of the process, here at
 * every fault.  So the main loop stops to poll its own, which has no use then:
 * SIGBUS isn't read from it any more, and SIGIO and SIGALRM have no handlers.
 *
 * All other kinds of SIGBUS are passed on to the handler before ours, QEMU's
 * own (system/cpus.c).  The one of qemu_prealloc_mem(), which comes after
 * ours, passes on to us what isn't its own.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/aio-wait.h"
#include "memswap/threads.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "glue.h"
#include "guest.h"

/* Written before the handler is there, then only read. */
static MemswapEngine *faults_engine;
static struct sigaction previous;

/* Where the thread was, or 0. */
static uintptr_t context_pc(const ucontext_t *context)
{
#if defined(HOST_X86_64)
    return context->uc_mcontext.gregs[REG_RIP];
#elif defined(HOST_AARCH64)
    return context->uc_mcontext.pc;
#else
    return 0;
#endif
}

static void handle_sigbus(int number, siginfo_t *info, void *context)
{
    bool ours = false;

    if (info->si_code == BUS_ADRERR) {
        memswap_guest_set_host_pc(context_pc(context));
        ours = memswap_engine_fault(faults_engine, info->si_addr);
        memswap_guest_set_host_pc(0);
    }
    if (ours) {
        return;
    }
    previous.sa_sigaction(number, info, context);
}

static void take_sigbus(bool take)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    pthread_sigmask(take ? SIG_UNBLOCK : SIG_BLOCK, &set, NULL);
}

static void take_sigbus_bh(void *opaque)
{
    take_sigbus(true);
}

static int take_sigbus_in_iothread(Object *obj, void *opaque)
{
    IOThread *iothread = (IOThread *)object_dynamic_cast(obj, TYPE_IOTHREAD);

    if (iothread) {
        aio_wait_bh_oneshot(iothread_get_aio_context(iothread),
                            take_sigbus_bh, NULL);
    }
    return 0;
}

static void take_sigbus_in_rcu(struct rcu_head *head)
{
    take_sigbus(true);
}

void memswap_sigbus_prepare(void)
{
    qatomic_set(&memswap_inline_faults, true);
    take_sigbus(true);
}

void memswap_sigbus_cancel(void)
{
    if (memswap_inline_faults) {
        qatomic_set(&memswap_inline_faults, false);
        take_sigbus(false);
    }
}

/* Called in the main thread, with the BQL. */
void memswap_sigbus_start(MemswapEngine *engine)
{
    static struct rcu_head rcu;
    struct sigaction action = {
        .sa_sigaction = handle_sigbus,
        .sa_flags = SA_SIGINFO,
    };

    faults_engine = engine;
    sigemptyset(&action.sa_mask);
    /* First where to, then the handler that passes on to there. */
    sigaction(SIGBUS, NULL, &previous);
    g_assert(previous.sa_flags & SA_SIGINFO);
    sigaction(SIGBUS, &action, NULL);

    object_child_foreach(object_get_objects_root(), take_sigbus_in_iothread,
                         NULL);
    object_child_foreach(object_get_internal_root(), take_sigbus_in_iothread,
                         NULL);
    call_rcu1(&rcu, take_sigbus_in_rcu);
    if (memswap_signalfd >= 0) {
        qemu_set_fd_handler(memswap_signalfd, NULL, NULL, NULL);
    }
}

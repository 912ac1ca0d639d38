/*
 * Fault helpers: who reads events while another fill takes long
 *
 * Faults that come as events are resolved by whoever polls the userfaultfd,
 * one after the other.  What is fast he does at once.  What may be slow (a
 * hugepage, a copy that the store has to fetch from afar) goes to a queue, and
 * is taken from there only by a thread that leaves another one reading:
 *
 * - The poller itself, if a helper reads meanwhile or can be woken to do so.
 *   So a slow fill starts without waiting for another thread to wake up.
 * - A helper, if the poller is not in a slow fill, or another helper reads.
 *
 * Who can't leaves the fault in the queue.  It is not forgotten: all the
 * others are then in slow fills, and whoever ends one looks at the queue before
 * anything else.  That holds for the poller, since the helper that read in his
 * place still does; and for a helper, since either the poller is back or he
 * is the one who ends his fill and looks.
 *
 * With two CPUs there is a second use of them (spread): the poller stays on
 * one, the first helper on the other, and both read all the time.  A fault is
 * then resolved on the CPU where it happened, mostly, since the reader there
 * runs as soon as the thread that faulted sleeps; the one on the other CPU
 * comes in vain, but keeps the scheduler from moving either.  Neither has to
 * look for events before it sleeps.  With more CPUs, waking a reader on each
 * for every fault costs more than it brings.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "internal.h"

/* As many threads may be in slow fills at once. */
#define HELPERS_MAX 8

/* The CPUs that readers are spread over. */
#define SPREAD_CPUS 2

static void wake(MemswapHelper *helper)
{
    eventfd_write(helper->wake, 1);
}

bool memswap_fault_slow(MemswapBlock *block, uint64_t page)
{
    MemswapStore *store = block->engine->store;
    uint64_t word;

    if (!block->engine->helpers.n || (!block->alias && !store->ops->slow)) {
        return false;
    }
    word = memswap_word_load(&block->words[page]);
    switch (memswap_word_state(word)) {
    case MEMSWAP_STORED:
        return block->alias ||
               store->ops->slow(store, memswap_word_handle(word));
    case MEMSWAP_ABSENT:
    case MEMSWAP_ZERO:
        return block->alias;
    default:
        return false;
    }
}

void memswap_slow_add(const MemswapSlow *fault)
{
    MemswapHelpers *helpers = &fault->block->engine->helpers;
    bool known = false;

    g_mutex_lock(&helpers->lock);
    /* A signal makes the kernel report the same fault again. */
    for (guint i = 0; i < helpers->slow->len && !known; i++) {
        MemswapSlow *other = &g_array_index(helpers->slow, MemswapSlow, i);

        /* who resolves another process's wakes that one, and only then */
        known = other->block == fault->block && other->page == fault->page &&
                (other->tid == MEMSWAP_TID_OTHER) ==
                (fault->tid == MEMSWAP_TID_OTHER);
    }
    if (!known) {
        memswap_block_ref(fault->block);
        g_array_append_val(helpers->slow, *fault);
    }
    g_mutex_unlock(&helpers->lock);
}

/*
 * Does anybody read events while @self, NULL for a thread that is no helper,
 * does not?  *@woken is a helper that has been told to, and is to be woken.
 * Called with the lock.
 */
static bool others_read(MemswapHelpers *helpers, MemswapHelper *self,
                        MemswapHelper **woken)
{
    *woken = NULL;
    if (self && !helpers->away) {
        return true;
    }
    for (unsigned int i = 0; i < helpers->n; i++) {
        if (&helpers->each[i] != self &&
            helpers->each[i].role == MEMSWAP_HELPER_READING) {
            return true;
        }
    }
    for (unsigned int i = 0; i < helpers->n; i++) {
        if (helpers->each[i].role == MEMSWAP_HELPER_IDLE) {
            *woken = &helpers->each[i];
            (*woken)->role = MEMSWAP_HELPER_READING;
            return true;
        }
    }
    return false;
}

void memswap_slow_run(MemswapEngine *engine, MemswapHelper *self)
{
    MemswapHelpers *helpers = &engine->helpers;
    MemswapHelper *woken;

    g_mutex_lock(&helpers->lock);
    while (helpers->slow->len && others_read(helpers, self, &woken)) {
        MemswapSlow fault = g_array_index(helpers->slow, MemswapSlow, 0);

        g_array_remove_index(helpers->slow, 0);
        if (self) {
            self->role = MEMSWAP_HELPER_FILLING;
        } else {
            helpers->away++;
        }
        g_mutex_unlock(&helpers->lock);
        if (woken) {
            wake(woken);
        }
        memswap_fault_resolve(fault.block, fault.page, fault.tid,
                              fault.write, fault.since);
        memswap_block_unref(fault.block);
        g_mutex_lock(&helpers->lock);
        if (self) {
            self->role = MEMSWAP_HELPER_READING;
        } else {
            helpers->away--;
        }
    }
    g_mutex_unlock(&helpers->lock);
}

void memswap_forget_slow(MemswapBlock *block)
{
    MemswapHelpers *helpers = &block->engine->helpers;

    if (!helpers->n) {
        return;
    }
    g_mutex_lock(&helpers->lock);
    for (guint i = helpers->slow->len; i-- > 0;) {
        if (g_array_index(helpers->slow, MemswapSlow, i).block == block) {
            g_array_remove_index(helpers->slow, i);
            memswap_block_unref(block);
        }
    }
    g_mutex_unlock(&helpers->lock);
}

/* Is this helper to read, now that it has nothing in hand? */
static bool reads_on(MemswapHelper *self)
{
    MemswapHelpers *helpers = &self->engine->helpers;
    bool needed = helpers->spread && self == helpers->each;

    g_mutex_lock(&helpers->lock);
    if (self->role == MEMSWAP_HELPER_READING && !needed) {
        needed = helpers->away > 0;
        for (unsigned int i = 0; i < helpers->n; i++) {
            if (&helpers->each[i] != self &&
                helpers->each[i].role == MEMSWAP_HELPER_READING) {
                needed = false;
            }
        }
    }
    self->role = needed ? MEMSWAP_HELPER_READING : MEMSWAP_HELPER_IDLE;
    g_mutex_unlock(&helpers->lock);
    return needed;
}

/* How it is done does not depend on it, so it may fail. */
static void stay_on(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof(set), &set);
}

static gpointer helper(gpointer opaque)
{
    MemswapHelper *self = opaque;
    MemswapHelpers *helpers = &self->engine->helpers;

    if (helpers->spread && self == helpers->each) {
        stay_on(helpers->cpus[1]);
    }
    while (!atomic_load(&helpers->stop)) {
        struct pollfd fds[] = {
            { .fd = self->wake, .events = POLLIN },
            { .fd = self->engine->uffd, .events = POLLIN },
        };
        nfds_t n = reads_on(self) ? 2 : 1;
        eventfd_t ignored;

        if (poll(fds, n, -1) < 0) {
            /* EINTR, or ENOMEM, which passes */
            continue;
        }
        if (fds[0].revents) {
            eventfd_read(self->wake, &ignored);
        }
        if (n == 2 && fds[1].revents) {
            atomic_fetch_add(&helpers->busy, 1);
            memswap_events_handle(self->engine, self);
            atomic_fetch_sub(&helpers->busy, 1);
        }
    }
    return NULL;
}

void memswap_helpers_settle_in(MemswapEngine *engine)
{
    static _Thread_local MemswapEngine *settled_for;

    if (engine->helpers.spread && settled_for != engine) {
        settled_for = engine;
        stay_on(engine->helpers.cpus[0]);
    }
}

/*
 * If there are just these CPUs, one reader is to be on each, unless a sandbox
 * forbids to say so.
 */
static bool find_cpus(MemswapHelpers *helpers)
{
    unsigned int n = 0;
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof(set), &set) ||
        CPU_COUNT(&set) != SPREAD_CPUS ||
        sched_setaffinity(0, sizeof(set), &set)) {
        return false;
    }
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &set)) {
            helpers->cpus[n++] = cpu;
        }
    }
    return true;
}

int memswap_helpers_start(MemswapEngine *engine, unsigned int n, bool spread)
{
    MemswapHelpers *helpers = &engine->helpers;
    sigset_t all, old;
    int ret = 0;

    g_mutex_init(&helpers->lock);
    helpers->slow = g_array_new(false, false, sizeof(MemswapSlow));
    n = MIN(n, HELPERS_MAX);
    helpers->each = g_new0(MemswapHelper, n);
    for (unsigned int i = 0; i < n; i++) {
        helpers->each[i].engine = engine;
        helpers->each[i].wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (helpers->each[i].wake < 0) {
            ret = -errno;
            break;
        }
        /* what is seen by threads, it is before the first of them */
        helpers->n++;
    }
    if (ret) {
        return ret;
    }
    helpers->spread = n && spread && find_cpus(helpers);
    /* Signals are for the threads of whoever made the engine. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (unsigned int i = 0; i < n; i++) {
        helpers->each[i].thread = g_thread_new("memswap-fault", helper,
                                               &helpers->each[i]);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return 0;
}

void memswap_helpers_stop(MemswapEngine *engine)
{
    MemswapHelpers *helpers = &engine->helpers;

    atomic_store(&helpers->stop, true);
    for (unsigned int i = 0; i < helpers->n; i++) {
        wake(&helpers->each[i]);
    }
    for (unsigned int i = 0; i < helpers->n; i++) {
        if (helpers->each[i].thread) {
            g_thread_join(helpers->each[i].thread);
        }
        close(helpers->each[i].wake);
    }
}

void memswap_helpers_free(MemswapEngine *engine)
{
    g_array_free(engine->helpers.slow, true);
    g_free(engine->helpers.each);
    g_mutex_clear(&engine->helpers.lock);
}

bool memswap_engine_spreads(MemswapEngine *engine)
{
    return engine->helpers.spread;
}

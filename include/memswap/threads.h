/*
 * memswap: what QEMU's threads need to resolve page faults inline
 *
 * Apart from hooks.h because QEMU's utility library, which makes threads, is
 * in programs that know nothing of guest RAM.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_THREADS_H
#define MEMSWAP_THREADS_H

#include "qemu/atomic.h"
#include "qemu/compiler.h"
#include <signal.h>

/* May threads meet faults that they have to resolve in a signal handler? */
extern bool memswap_inline_faults;

#ifndef _WIN32
/* @blocked is what a new thread is going to block (util/qemu-thread-posix.c) */
static inline void memswap_thread_signals(sigset_t *blocked)
{
    if (unlikely(qatomic_read(&memswap_inline_faults))) {
        sigdelset(blocked, SIGBUS);
    }
}
#endif

/* The main loop's signalfd, or -1. */
extern int memswap_signalfd;

/* The main loop polls a signalfd (util/main-loop.c). */
static inline void memswap_note_signalfd(int fd)
{
    memswap_signalfd = fd;
}

#endif /* MEMSWAP_THREADS_H */

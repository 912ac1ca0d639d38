/*
 * Waiting on 32 bits of memory
 *
 * The engine waits with futexes rather than with mutexes and condition
 * variables where a waker may be a thread in the middle of a fault.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_FUTEX_H
#define MEMSWAP_FUTEX_H

#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/**
 * memswap_futex_wait: sleep while *@addr is @seen
 * @timeout_ns: negative for none
 *
 * May return early: look at the condition again.
 */
static inline void memswap_futex_wait(void *addr, uint32_t seen,
                                      int64_t timeout_ns)
{
    struct timespec ts = {
        .tv_sec = timeout_ns / 1000000000,
        .tv_nsec = timeout_ns % 1000000000,
    };

    syscall(SYS_futex, addr, FUTEX_WAIT_PRIVATE, seen,
            timeout_ns < 0 ? NULL : &ts, NULL, 0);
}

/**
 * memswap_futex_wake: wake all who sleep on @addr
 */
static inline void memswap_futex_wake(void *addr)
{
    syscall(SYS_futex, addr, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

#endif /* MEMSWAP_FUTEX_H */

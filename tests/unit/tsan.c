/*
 * GLib's mutexes, as ThreadSanitizer should see them
 *
 * GLib takes them with futexes of its own, in code that ThreadSanitizer does
 * not instrument, so that whatever they protect would look like a race.  In
 * builds with it the test programs are linked with --wrap for them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <glib.h>
#include <sanitizer/tsan_interface.h>

#include "wrapped.h"

/*
 * Faults are resolved in signal handlers, where the fake store allocates.
 * That is safe: these signals are raised by a touch of managed RAM, which no
 * allocator touches, and never in the middle of one.
 */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "report_signal_unsafe=0";
}

void __wrap_g_mutex_lock(GMutex *mutex)
{
    __tsan_mutex_pre_lock(mutex, 0);
    __real_g_mutex_lock(mutex);
    __tsan_mutex_post_lock(mutex, 0, 0);
}

gboolean __wrap_g_mutex_trylock(GMutex *mutex)
{
    gboolean locked;

    __tsan_mutex_pre_lock(mutex, __tsan_mutex_try_lock);
    locked = __real_g_mutex_trylock(mutex);
    __tsan_mutex_post_lock(mutex, __tsan_mutex_try_lock |
                           (locked ? 0 : __tsan_mutex_try_lock_failed), 0);
    return locked;
}

void __wrap_g_mutex_unlock(GMutex *mutex)
{
    __tsan_mutex_pre_unlock(mutex, 0);
    __real_g_mutex_unlock(mutex);
    __tsan_mutex_post_unlock(mutex, 0);
}

void __wrap_g_mutex_clear(GMutex *mutex)
{
    __real_g_mutex_clear(mutex);
    __tsan_mutex_destroy(mutex, __tsan_mutex_not_static);
}

void __wrap_g_cond_wait(GCond *cond, GMutex *mutex)
{
    __tsan_mutex_pre_unlock(mutex, 0);
    __tsan_mutex_post_unlock(mutex, 0);
    __real_g_cond_wait(cond, mutex);
    __tsan_mutex_pre_lock(mutex, 0);
    __tsan_mutex_post_lock(mutex, 0, 0);
}

/*
 * Functions that the test programs stand in front of
 *
 * With --wrap=x the linker calls x __real_x, and sends every call of x to
 * __wrap_x.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_WRAPPED_H
#define TEST_WRAPPED_H

#include <glib.h>
#include <sys/types.h>

int __real_ioctl(int fd, unsigned long request, ...);
int __real_madvise(void *addr, size_t size, int advice);
ssize_t __real_pread64(int fd, void *buffer, size_t size, off_t offset);
ssize_t __real_pwrite64(int fd, const void *buffer, size_t size,
                        off_t offset);
int __real_fallocate64(int fd, int mode, off_t offset, off_t size);
off_t __real_lseek64(int fd, off_t offset, int whence);
ssize_t __real_splice(int in, off64_t *from, int out, off64_t *to,
                      size_t size, unsigned int flags);

int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_madvise(void *addr, size_t size, int advice);
ssize_t __wrap_pread64(int fd, void *buffer, size_t size, off_t offset);
ssize_t __wrap_pwrite64(int fd, const void *buffer, size_t size,
                        off_t offset);
int __wrap_fallocate64(int fd, int mode, off_t offset, off_t size);
off_t __wrap_lseek64(int fd, off_t offset, int whence);
ssize_t __wrap_splice(int in, off64_t *from, int out, off64_t *to,
                      size_t size, unsigned int flags);

void __real_g_mutex_lock(GMutex *mutex);
gboolean __real_g_mutex_trylock(GMutex *mutex);
void __real_g_mutex_unlock(GMutex *mutex);
void __real_g_mutex_clear(GMutex *mutex);
void __real_g_cond_wait(GCond *cond, GMutex *mutex);

void __wrap_g_mutex_lock(GMutex *mutex);
gboolean __wrap_g_mutex_trylock(GMutex *mutex);
void __wrap_g_mutex_unlock(GMutex *mutex);
void __wrap_g_mutex_clear(GMutex *mutex);
void __wrap_g_cond_wait(GCond *cond, GMutex *mutex);

#endif /* TEST_WRAPPED_H */

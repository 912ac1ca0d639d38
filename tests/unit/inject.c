/*
 * The engine's system calls, stopped and failed at will
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "inject.h"
#include "wrapped.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static _Atomic(const InjectHooks *) current;
static _Thread_local bool in_hook;

void inject(const InjectHooks *hooks)
{
    atomic_store(&current, hooks);
}

/* Returns 0 or the error to give; *@hooks is for after(). */
static int before(const InjectHooks **hooks, InjectCall call, uint64_t where,
                  size_t *size)
{
    int ret = 0;

    *hooks = in_hook ? NULL : atomic_load(&current);
    if (*hooks && (*hooks)->before) {
        in_hook = true;
        ret = (*hooks)->before((*hooks)->opaque, call, where, size);
        in_hook = false;
    }
    if (ret) {
        errno = -ret;
    }
    return ret;
}

static void after(const InjectHooks *hooks, InjectCall call, uint64_t where,
                  size_t size, bool failed)
{
    int saved = errno;

    if (hooks && hooks->after) {
        in_hook = true;
        hooks->after(hooks->opaque, call, where, size, failed ? -saved : 0);
        in_hook = false;
    }
    errno = saved;
}

/* What a userfaultfd's ioctl works on; false if it is none of ours. */
static bool uffd_range(unsigned long request, void *arg, InjectCall *call,
                       struct uffdio_range *range, int64_t **result)
{
    *result = NULL;
    switch (request) {
    case UFFDIO_REGISTER:
        *call = INJECT_REGISTER;
        *range = ((struct uffdio_register *)arg)->range;
        return true;
    case UFFDIO_UNREGISTER:
        *call = INJECT_UNREGISTER;
        *range = *(struct uffdio_range *)arg;
        return true;
    case UFFDIO_WAKE:
        *call = INJECT_WAKE;
        *range = *(struct uffdio_range *)arg;
        return true;
    case UFFDIO_ZEROPAGE:
        *call = INJECT_ZEROPAGE;
        *range = ((struct uffdio_zeropage *)arg)->range;
        *result = (int64_t *)&((struct uffdio_zeropage *)arg)->zeropage;
        return true;
    case UFFDIO_CONTINUE:
        *call = INJECT_CONTINUE;
        *range = ((struct uffdio_continue *)arg)->range;
        *result = (int64_t *)&((struct uffdio_continue *)arg)->mapped;
        return true;
    case UFFDIO_COPY:
        *call = INJECT_COPY;
        range->start = ((struct uffdio_copy *)arg)->dst;
        range->len = ((struct uffdio_copy *)arg)->len;
        *result = (int64_t *)&((struct uffdio_copy *)arg)->copy;
        return true;
    default:
        return false;
    }
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
    const InjectHooks *hooks;
    struct uffdio_range range;
    InjectCall call;
    int64_t *result;
    size_t size;
    va_list args;
    void *arg;
    int ret;

    va_start(args, request);
    arg = va_arg(args, void *);
    va_end(args);
    if (!uffd_range(request, arg, &call, &range, &result)) {
        return __real_ioctl(fd, request, arg);
    }
    size = range.len;
    ret = before(&hooks, call, range.start, &size);
    if (ret) {
        /* as the kernel says it */
        if (result) {
            *result = ret;
        }
        return -1;
    }
    ret = __real_ioctl(fd, request, arg);
    after(hooks, call, range.start, range.len, ret < 0);
    return ret;
}

int __wrap_madvise(void *addr, size_t size, int advice)
{
    const InjectHooks *hooks;
    InjectCall call;
    int ret;

    switch (advice) {
    case MADV_DONTNEED:
        call = INJECT_ZAP;
        break;
    case MADV_COLLAPSE:
        call = INJECT_COLLAPSE;
        break;
    default:
        return __real_madvise(addr, size, advice);
    }
    if (before(&hooks, call, (uintptr_t)addr, &size)) {
        return -1;
    }
    ret = __real_madvise(addr, size, advice);
    after(hooks, call, (uintptr_t)addr, size, ret < 0);
    return ret;
}

ssize_t __wrap_pread64(int fd, void *buffer, size_t size, off_t offset)
{
    const InjectHooks *hooks;
    ssize_t ret;

    if (before(&hooks, INJECT_READ, offset, &size)) {
        return -1;
    }
    ret = __real_pread64(fd, buffer, size, offset);
    after(hooks, INJECT_READ, offset, size, ret < 0);
    return ret;
}

ssize_t __wrap_pwrite64(int fd, const void *buffer, size_t size,
                        off_t offset)
{
    const InjectHooks *hooks;
    ssize_t ret;

    if (before(&hooks, INJECT_WRITE, offset, &size)) {
        return -1;
    }
    ret = __real_pwrite64(fd, buffer, size, offset);
    after(hooks, INJECT_WRITE, offset, size, ret < 0);
    return ret;
}

int __wrap_fallocate64(int fd, int mode, off_t offset, off_t size)
{
    const InjectHooks *hooks;
    size_t length = size;
    int ret;

    if (before(&hooks, INJECT_PUNCH, offset, &length)) {
        return -1;
    }
    ret = __real_fallocate64(fd, mode, offset, size);
    after(hooks, INJECT_PUNCH, offset, size, ret < 0);
    return ret;
}

off_t __wrap_lseek64(int fd, off_t offset, int whence)
{
    const InjectHooks *hooks;
    size_t size = 0;
    off_t ret;

    if (whence != SEEK_DATA) {
        return __real_lseek64(fd, offset, whence);
    }
    if (before(&hooks, INJECT_SEEK, offset, &size)) {
        return -1;
    }
    ret = __real_lseek64(fd, offset, whence);
    after(hooks, INJECT_SEEK, offset, size, ret < 0);
    return ret;
}

ssize_t __wrap_splice(int in, off64_t *from, int out, off64_t *to,
                      size_t size, unsigned int flags)
{
    const InjectHooks *hooks;
    uint64_t where = from ? *from : 0;
    ssize_t ret;

    if (before(&hooks, INJECT_SPLICE, where, &size)) {
        return -1;
    }
    ret = __real_splice(in, from, out, to, size, flags);
    after(hooks, INJECT_SPLICE, where, size, ret < 0);
    return ret;
}

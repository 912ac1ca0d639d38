/*
 * userfaultfd: one function an operation
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "uffd.h"

/* Without these there is nothing to do. */
#define UFFD_NEEDED (UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM)
/* These tell who faulted where; older kernels lack the second. */
#define UFFD_WANTED (UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_EXACT_ADDRESS)
/* These are for blocks on hugetlbfs. */
#define UFFD_HUGETLB (UFFD_FEATURE_MISSING_HUGETLBFS | \
                      UFFD_FEATURE_MINOR_HUGETLBFS)

static int uffd_new(bool user_mode_only)
{
    int flags = O_CLOEXEC | O_NONBLOCK;
    int dev, uffd;

    if (user_mode_only) {
        flags |= UFFD_USER_MODE_ONLY;
    }
    /* The device grants what the system call would want a privilege for. */
    dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (dev >= 0) {
        uffd = ioctl(dev, USERFAULTFD_IOC_NEW, flags);
        close(dev);
        if (uffd >= 0) {
            return uffd;
        }
    }
    uffd = syscall(SYS_userfaultfd, flags);
    return uffd >= 0 ? uffd : -errno;
}

int memswap_uffd_open(int uffd, bool user_mode_only, bool inline_faults,
                      bool *hugetlb)
{
    const uint64_t mode = inline_faults ? UFFD_FEATURE_SIGBUS : 0;
    const uint64_t features[] = {
        UFFD_NEEDED | UFFD_WANTED | UFFD_HUGETLB | mode,
        UFFD_NEEDED | UFFD_FEATURE_THREAD_ID | UFFD_HUGETLB | mode,
        UFFD_NEEDED | UFFD_WANTED | mode,
        UFFD_NEEDED | UFFD_FEATURE_THREAD_ID | mode,
    };
    bool ours = uffd < 0;
    int ret = 0;

    if (ours) {
        /* With SIGBUS the kernel never waits: nothing to have a right to. */
        uffd = uffd_new(user_mode_only || inline_faults);
        if (uffd < 0) {
            return uffd;
        }
    }
    for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
        struct uffdio_api api = {
            .api = UFFD_API, .features = features[i],
        };

        if (!ioctl(uffd, UFFDIO_API, &api)) {
            fcntl(uffd, F_SETFL, fcntl(uffd, F_GETFL) | O_NONBLOCK);
            *hugetlb = (features[i] & UFFD_HUGETLB) == UFFD_HUGETLB;
            return uffd;
        }
        ret = errno == EINVAL ? -ENOSYS : -errno;
    }
    if (ours) {
        close(uffd);
    }
    return ret;
}

static int uffd_ioctl(int uffd, unsigned long request, void *arg)
{
    while (ioctl(uffd, request, arg)) {
        if (errno == EAGAIN) {
            sched_yield();
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

int memswap_uffd_register(int uffd, void *start, size_t size)
{
    struct uffdio_register args = {
        .range = { .start = (uintptr_t)start, .len = size },
        .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR,
    };

    return uffd_ioctl(uffd, UFFDIO_REGISTER, &args);
}

int memswap_uffd_unregister(int uffd, void *start, size_t size)
{
    struct uffdio_range args = { .start = (uintptr_t)start, .len = size };

    return uffd_ioctl(uffd, UFFDIO_UNREGISTER, &args);
}

int memswap_uffd_copy(int uffd, void *dst, const void *src, size_t size,
                      size_t *copied)
{
    size_t done = 0;
    int error = 0;

    while (done < size && !error) {
        struct uffdio_copy args = {
            .dst = (uintptr_t)dst + done,
            .src = (uintptr_t)src + done,
            .len = size - done,
        };
        int ret = ioctl(uffd, UFFDIO_COPY, &args) ? -errno : 0;

        if (args.copy > 0) {
            done += args.copy;
        } else if (ret == -EAGAIN) {
            sched_yield();
        } else if (ret != -EINTR) {
            error = ret;
        }
    }
    if (copied) {
        *copied = done;
    }
    return error;
}

int memswap_uffd_zero(int uffd, void *dst, size_t size, size_t *zeroed)
{
    size_t done = 0;
    int error = 0;

    while (done < size && !error) {
        struct uffdio_zeropage args = {
            .range = { .start = (uintptr_t)dst + done, .len = size - done },
        };
        int ret = ioctl(uffd, UFFDIO_ZEROPAGE, &args) ? -errno : 0;

        if (args.zeropage > 0) {
            done += args.zeropage;
        } else if (ret == -EAGAIN) {
            sched_yield();
        } else if (ret != -EINTR) {
            error = ret;
        }
    }
    if (zeroed) {
        *zeroed = done;
    }
    return error;
}

int memswap_uffd_continue(int uffd, void *start, size_t size,
                          size_t *mapped)
{
    size_t done = 0;
    int error = 0;

    while (done < size && !error) {
        struct uffdio_continue args = {
            .range = { .start = (uintptr_t)start + done, .len = size - done },
        };
        int ret = ioctl(uffd, UFFDIO_CONTINUE, &args) ? -errno : 0;

        if (args.mapped > 0) {
            done += args.mapped;
        } else if (ret == -EAGAIN) {
            sched_yield();
        } else if (ret != -EINTR) {
            error = ret;
        }
    }
    if (mapped) {
        *mapped = done;
    }
    return error;
}

int memswap_uffd_wake(int uffd, void *start, size_t size)
{
    struct uffdio_range args = { .start = (uintptr_t)start, .len = size };

    return uffd_ioctl(uffd, UFFDIO_WAKE, &args);
}

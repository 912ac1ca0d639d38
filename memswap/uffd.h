/*
 * userfaultfd: one function an operation
 *
 * Each returns 0 or a negative errno.  EAGAIN and EINTR never come back: they
 * are retried here, and a copy that was cut short is resumed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_UFFD_H
#define MEMSWAP_UFFD_H

#include <stdbool.h>
#include <stddef.h>

/**
 * memswap_uffd_open: open a userfaultfd and agree on its features
 * @uffd: one that is open already and to be used, or -1
 * @user_mode_only: faults inside system calls are not wanted
 * @inline_faults: faults are signals, not events
 * @hugetlb: set to whether it serves hugetlbfs, too
 *
 * Returns the descriptor, non-blocking and close-on-exec; -EPERM without the
 * right to it; -ENOSYS where the kernel lacks it, or minor faults on shared
 * memory.
 */
int memswap_uffd_open(int uffd, bool user_mode_only, bool inline_faults,
                      bool *hugetlb);

/* Ask for missing and minor faults in a range; -EBUSY if it is taken. */
int memswap_uffd_register(int uffd, void *start, size_t size);
int memswap_uffd_unregister(int uffd, void *start, size_t size);

/*
 * Put pages in place, up to the first that is there already: -EEXIST, and
 * nobody is woken.  -ENOMEM when the host has none, -ENOENT or -ESRCH if the
 * range is gone.  *@copied and *@zeroed, which may be NULL, say how many bytes
 * are.  On hugetlbfs there is no zero, and -EEXIST may mean that no hugepage
 * is free.
 */
int memswap_uffd_copy(int uffd, void *dst, const void *src, size_t size,
                      size_t *copied);
int memswap_uffd_zero(int uffd, void *dst, size_t size, size_t *zeroed);

/*
 * Map what is in the page cache already.  -EEXIST if it is mapped, and nobody
 * is woken; -EFAULT if the page cache has none.  *@mapped as above.
 */
int memswap_uffd_continue(int uffd, void *start, size_t size,
                          size_t *mapped);

/* Let those waiting in the range try again. */
int memswap_uffd_wake(int uffd, void *start, size_t size);

#endif /* MEMSWAP_UFFD_H */

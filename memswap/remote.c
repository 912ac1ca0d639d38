/*
 * Remotes: other processes whose faults are resolved here
 *
 * A device process maps blocks of ours that are exposed (exposed.c), registers
 * its mapping for MISSING faults with a userfaultfd of its own, and sends us
 * that.  Its faults then come to us.  They are resolved by the same path as our
 * own: the page is put in place in the file, through our mapping, and the
 * remote is told to try again, at its own address.  Then it finds the page in
 * the file, and maps it.
 *
 * A thread for each such remote reads its faults: whatever one does, it keeps
 * only its own faults waiting.  With inline faults, too, these come as events.
 *
 * No wake is missed: a fault that was read is either resolved by its reader,
 * who then wakes the remote; or the word says WANTED, and who ends the page's
 * transition wakes all remotes; or it waits for room, and who finds that wakes
 * them.  Faults that were read by somebody before the remote was known here,
 * or while its ranges changed, are read again: the whole range is woken then,
 * and who still misses a page faults once more.
 *
 * Remotes live in a table whose slots stay, so that it is read without a lock
 * in the middle of faults: who counts itself in (users) and then finds the
 * slot live may use what it says.  Who changes that makes it not live, then
 * waits for none.
 *
 * What a remote says is not trusted: an address outside of its ranges is
 * ignored, a descriptor that is no userfaultfd refused.  On that descriptor
 * only reads and WAKE are done, which don't depend on the remote's memory.
 * So a remote that has died is no different from one that has no faults.  That
 * reads don't block is a property of the open file, which the remote shares.
 * If it has changed that, poll() reports an error, and its faults are left to
 * it: a thread that is in read() can't be stopped.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "internal.h"
#include "uffd.h"

/* Events read at once. */
#define BATCH 32
/* Between looks whether a slot has users left. */
#define USERS_WAIT_US 50

/* --- the table --------------------------------------------------------- */

/* Count in; false if there is no remote in the slot, or it is changing. */
static bool remote_enter(MemswapRemote *remote)
{
    atomic_fetch_add(&remote->users, 1);
    if (atomic_load(&remote->live)) {
        return true;
    }
    atomic_fetch_sub(&remote->users, 1);
    return false;
}

static void remote_leave(MemswapRemote *remote)
{
    atomic_fetch_sub(&remote->users, 1);
}

/* From now on nobody uses what the slot says. */
static void remote_retire(MemswapRemote *remote)
{
    atomic_store(&remote->live, false);
    while (atomic_load(&remote->users)) {
        g_usleep(USERS_WAIT_US);
    }
}

static void wake_ranges(MemswapRemote *remote,
                        const MemswapRemoteRange *ranges, unsigned int n)
{
    for (unsigned int i = 0; i < n; i++) {
        memswap_uffd_wake(remote->uffd, (void *)(uintptr_t)ranges[i].base,
                          ranges[i].size);
    }
}

/* Has the remote a range with this page?  Then it may wait for it. */
static void remote_wake(MemswapRemote *remote, const uint8_t *host,
                        size_t size)
{
    for (unsigned int i = 0; i < remote->n_ranges; i++) {
        const MemswapRemoteRange *range = &remote->ranges[i];
        const uint8_t *start = range->host;

        if (host >= start && host < start + range->size) {
            uint64_t at = range->base + (host - start);

            memswap_uffd_wake(remote->uffd, (void *)(uintptr_t)at, size);
        }
    }
}

void memswap_remotes_wake(MemswapBlock *block, uint64_t page)
{
    MemswapEngine *engine = block->engine;
    unsigned int n = atomic_load(&engine->n_remote_slots);

    for (unsigned int i = 0; i < n; i++) {
        MemswapRemote *remote = &engine->remotes[i];

        if (remote_enter(remote)) {
            remote_wake(remote, memswap_page_host(block, page),
                        block->page_size);
            remote_leave(remote);
        }
    }
}

/* --- its faults -------------------------------------------------------- */

/* Where our mapping has what the remote calls @address; NULL: nowhere. */
static void *find_host(MemswapRemote *remote, uint64_t address)
{
    void *host = NULL;

    if (!remote_enter(remote)) {
        return NULL;
    }
    for (unsigned int i = 0; i < remote->n_ranges; i++) {
        const MemswapRemoteRange *range = &remote->ranges[i];

        if (address >= range->base && address - range->base < range->size) {
            host = (uint8_t *)range->host + (address - range->base);
            break;
        }
    }
    remote_leave(remote);
    return host;
}

/* Returns true if it was left to memswap_slow_run(). */
static bool resolve(MemswapRemote *remote, const struct uffd_msg *msg)
{
    uint64_t flags = msg->arg.pagefault.flags;
    void *host;

    if (msg->event == UFFD_EVENT_FORK) {
        close(msg->arg.fork.ufd);
    }
    if (msg->event != UFFD_EVENT_PAGEFAULT ||
        (flags & (UFFD_PAGEFAULT_FLAG_MINOR | UFFD_PAGEFAULT_FLAG_WP))) {
        /* it was to register for others */
        return false;
    }
    host = find_host(remote, msg->arg.pagefault.address);
    if (!host) {
        return false;
    }
    memswap_count(remote->engine->n_remote_faults, 1);
    return memswap_fault_arrived(remote->engine, host, MEMSWAP_TID_OTHER,
                                 flags & UFFD_PAGEFAULT_FLAG_WRITE);
}

/*
 * Read what there is, once: whoever wants us to stop is seen between two reads,
 * however many faults come.  False if there never will be any more.
 */
static bool handle(MemswapRemote *remote)
{
    MemswapEngine *engine = remote->engine;
    struct uffd_msg msgs[BATCH];
    ssize_t got = read(remote->uffd, msgs, sizeof(msgs));
    bool more = got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
    bool slow = false;

    for (ssize_t i = 0; i < got / (ssize_t)sizeof(msgs[0]); i++) {
        slow |= resolve(remote, &msgs[i]);
    }
    if (slow) {
        memswap_slow_run(engine, NULL);
    }
    if (!engine->n_evictors) {
        memswap_room_made(engine);
    }
    return more;
}

static gpointer remote_thread(gpointer opaque)
{
    MemswapRemote *remote = opaque;
    struct pollfd fds[] = {
        { .fd = remote->stop, .events = POLLIN },
        { .fd = remote->uffd, .events = POLLIN },
    };

    while (!fds[0].revents) {
        if (poll(fds, G_N_ELEMENTS(fds), -1) < 0) {
            /* EINTR, or ENOMEM, which passes */
            fds[0].revents = 0;
            continue;
        }
        if ((fds[1].revents & POLLERR) || (fds[1].revents && !handle(remote))) {
            /* poll() leaves it out from then on */
            fds[1].fd = -1;
        }
    }
    return NULL;
}

/* --- who there is ------------------------------------------------------ */

static int refuse(const char *why, char **error)
{
    if (error) {
        *error = g_strdup_printf("the device process's faults can't be "
                                 "resolved: %s", why);
    }
    return -EINVAL;
}

/* Is it a userfaultfd that is ready for use? */
static bool is_uffd(int fd)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    g_autofree char *what = g_file_read_link(path, NULL);
    struct pollfd pfd = { .fd = fd, .events = POLLIN };

    return what && !strcmp(what, "anon_inode:[userfaultfd]") &&
           !fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) &&
           poll(&pfd, 1, 0) >= 0 && !(pfd.revents & POLLERR);
}

static const char *range_wrong(MemswapEngine *engine,
                               const MemswapRemoteRange *range)
{
    MemswapBlock *block = memswap_block_find(engine, range->host);
    const char *wrong = NULL;
    uint64_t offset;

    if (!block) {
        return "a range is not managed";
    }
    offset = (uint8_t *)range->host - block->host;
    if (!memswap_block_exposed(block)) {
        wrong = "a range's block is not exposed";
    } else if (!range->size || range->size > block->size - offset ||
               range->base + range->size < range->base) {
        wrong = "a range ends beyond its block, or the address space";
    } else if ((offset | range->size | range->base) %
               block->page_size) {
        wrong = "a range is not aligned to pages";
    }
    memswap_block_unref(block);
    return wrong;
}

static int check_ranges(MemswapEngine *engine,
                        const MemswapRemoteRange *ranges, unsigned int n,
                        char **error)
{
    for (unsigned int i = 0; i < n; i++) {
        const char *wrong = range_wrong(engine, &ranges[i]);

        if (wrong) {
            return refuse(wrong, error);
        }
    }
    return 0;
}

static void set_ranges(MemswapRemote *remote,
                       const MemswapRemoteRange *ranges, unsigned int n)
{
    remote->ranges = g_new(MemswapRemoteRange, n);
    memcpy(remote->ranges, ranges, n * sizeof(*ranges));
    remote->n_ranges = n;
}

/* A slot that is free; called with exposure.lock.  NULL: there is none. */
static MemswapRemote *find_slot(MemswapEngine *engine)
{
    unsigned int slot = 0;

    while (slot < MEMSWAP_MAX_REMOTES && engine->remotes[slot].used) {
        slot++;
    }
    if (slot == MEMSWAP_MAX_REMOTES) {
        return NULL;
    }
    if (slot >= atomic_load(&engine->n_remote_slots)) {
        atomic_store(&engine->n_remote_slots, slot + 1);
    }
    return &engine->remotes[slot];
}

/* Called with exposure.lock; the descriptor is the caller's on failure. */
static int remote_start(MemswapRemote *remote, int uffd,
                        const MemswapRemoteRange *ranges, unsigned int n,
                        char **error)
{
    GError *why = NULL;

    remote->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (remote->stop < 0) {
        int ret = -errno;

        refuse(g_strerror(errno), error);
        return ret;
    }
    remote->uffd = uffd;
    set_ranges(remote, ranges, n);
    atomic_store(&remote->live, true);
    remote->thread = memswap_thread_new("memswap-remote", remote_thread,
                                        remote, &why);
    if (!remote->thread) {
        remote_retire(remote);
        g_free(remote->ranges);
        close(remote->stop);
        refuse(why->message, error);
        g_error_free(why);
        return -EAGAIN;
    }
    remote->used = true;
    /* faults that somebody else has read are to come again */
    wake_ranges(remote, ranges, n);
    return 0;
}

int memswap_remote_add(MemswapEngine *engine, int uffd,
                       const MemswapRemoteRange *ranges, unsigned int n,
                       MemswapRemote **result, char **error)
{
    MemswapRemote *remote;
    int ret;

    if (!is_uffd(uffd)) {
        return refuse("what it sent is no userfaultfd", error);
    }
    ret = check_ranges(engine, ranges, n, error);
    if (ret) {
        return ret;
    }
    g_mutex_lock(&engine->exposure.lock);
    remote = find_slot(engine);
    if (remote) {
        remote->engine = engine;
        ret = remote_start(remote, uffd, ranges, n, error);
    } else {
        ret = refuse("there are too many", error);
    }
    g_mutex_unlock(&engine->exposure.lock);
    if (!ret) {
        *result = remote;
    }
    return ret;
}

int memswap_remote_set_ranges(MemswapRemote *remote,
                              const MemswapRemoteRange *ranges,
                              unsigned int n, char **error)
{
    MemswapEngine *engine = remote->engine;
    g_autofree MemswapRemoteRange *old = NULL;
    unsigned int n_old;
    int ret = check_ranges(engine, ranges, n, error);

    if (ret) {
        return ret;
    }
    g_mutex_lock(&engine->exposure.lock);
    remote_retire(remote);
    old = remote->ranges;
    n_old = remote->n_ranges;
    set_ranges(remote, ranges, n);
    atomic_store(&remote->live, true);
    wake_ranges(remote, old, n_old);
    wake_ranges(remote, ranges, n);
    g_mutex_unlock(&engine->exposure.lock);
    return 0;
}

void memswap_remote_remove(MemswapRemote *remote)
{
    MemswapEngine *engine = remote->engine;

    eventfd_write(remote->stop, 1);
    g_thread_join(remote->thread);
    g_mutex_lock(&engine->exposure.lock);
    remote_retire(remote);
    /* what is there by now it finds */
    wake_ranges(remote, remote->ranges, remote->n_ranges);
    g_clear_pointer(&remote->ranges, g_free);
    remote->n_ranges = 0;
    close(remote->stop);
    close(remote->uffd);
    remote->used = false;
    g_mutex_unlock(&engine->exposure.lock);
}

void memswap_remotes_remove_all(MemswapEngine *engine)
{
    for (unsigned int i = 0; i < MEMSWAP_MAX_REMOTES; i++) {
        if (engine->remotes[i].used) {
            memswap_remote_remove(&engine->remotes[i]);
        }
    }
}

/*
 * memswap inside QEMU: vhost-user backends
 *
 * A backend gets file descriptors of guest RAM, and maps them.  What it does
 * with them, and for how long, can't be seen.  One that is aware of that says
 * which pages it uses: docs/interop/vhost-user-memswap.rst.  It gets a table
 * for each region before the region, and a channel, which a thread serves.  For
 * another one guest RAM stays resident from before it gets the first descriptor
 * (devices.c) until it has given up the last.  The tables last as long.
 *
 * One that can have its page faults resolved (vhost-user-faults.c) needs
 * neither, if it was stated that faults are all it takes.
 *
 * When is that?  Not when its connection is closed: then a backend may have
 * requests in flight still, or be alive after all.  If a page were taken out
 * now, it would read zeroes, and write them to a disk.  So what it gets is not
 * our descriptor of the memory, but one opened for it, which holds a lock on a
 * byte of the file that has this backend's number.  The lock lasts as long as
 * anybody has that descriptor, or a mapping made with it, and ends with them,
 * also by kill -9.  To wait for its end is to wait for that lock, in a thread.
 *
 * Where such a descriptor can't be had, guest RAM stays resident until QEMU
 * ends, or what an aware backend had pinned at its end does.
 *
 * DMA that is under way when a process dies holds pages, not mappings.  Pages
 * that are taken out meanwhile stay for it, and what it reads from them is
 * right; what it writes then is lost.  But nobody was told that it is done: the
 * request is made again, or has failed.
 *
 * All of it runs in the main thread with the BQL, but for the waiting and the
 * serving.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/socket.h>
#include "block/aio.h"
#include "chardev/char-fe.h"
#include "exec/ramblock.h"
#include "hw/qdev-core.h"
#include "hw/virtio/vhost.h"
#include "hw/virtio/virtio.h"
#include "memswap/client.h"
#include "memswap/hooks.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/queue.h"
#include "qemu/thread.h"
#include "standard-headers/linux/vhost_types.h"
#include "devices.h"
#include "trace.h"

/* Locks are on bytes from here on, which no file has. */
#define LOCK_BASE (UINT64_C(1) << 62)

/* What a backend got of one block of RAM. */
typedef struct Share {
    void *host;         /* where the block is mapped */
    int ours;           /* the block's, to look at the lock with */
    int theirs;         /* opened for the backend */
    QTAILQ_ENTRY(Share) next;
} Share;

typedef struct Backend {
    void *connection;   /* QEMU's state of it; NULL once that is gone */
    struct CharBackend *chr;
    MemswapDeviceKind kind;
    MemswapRemote *remote;      /* its faults, once it has mapped memory */
    struct vhost_memory *mapped;        /* which it has mapped */
    MemswapClient *client;      /* from the first table on, or NULL */
    int channel[2];             /* our end, and the one to give away */
    QemuThread server;          /* of the channel */
    MemswapProcess *process;
    uint64_t number;
    bool untracked;     /* it has a descriptor that is not opened for it */
    QTAILQ_HEAD(, Share) shares;
    QTAILQ_ENTRY(Backend) next;
} Backend;

static QTAILQ_HEAD(, Backend) backends = QTAILQ_HEAD_INITIALIZER(backends);

bool memswap_vhost_user_was_refused;

/* Of several vhost_devs on one connection, the first one speaks for all. */
static Backend *find_backend(const struct vhost_dev *dev)
{
    Backend *backend;

    QTAILQ_FOREACH(backend, &backends, next) {
        if (backend->connection == dev->opaque) {
            return backend;
        }
    }
    return NULL;
}

static bool is_aware(const Backend *backend)
{
    return backend->kind == MEMSWAP_DEVICE_KIND_PIN_AWARE;
}

/* Tables are few; so are backends that can have one. */
static bool can_have_another(void)
{
    unsigned int n = 0;
    Backend *backend;

    QTAILQ_FOREACH(backend, &backends, next) {
        n += is_aware(backend);
    }
    return n < MEMSWAP_MAX_CLIENTS;
}

uint64_t memswap_do_vhost_user_pins(struct vhost_dev *dev,
                                    struct CharBackend *chr, uint64_t offered)
{
    uint64_t pins = UINT64_C(1) << MEMSWAP_VHOST_USER_F_PINS;
    Backend *backend;

    if (!dev->vq_index) {
        return can_have_another() ? offered & pins : 0;
    }
    /* what the first one acknowledged */
    QTAILQ_FOREACH(backend, &backends, next) {
        if (backend->connection && backend->chr == chr && is_aware(backend)) {
            return offered & pins;
        }
    }
    return 0;
}

/* Tell the operator, but not each time that it comes back. */
static void warn_unaware(const char *name)
{
    static GHashTable *warned;

    warned = warned ?: g_hash_table_new(g_str_hash, g_str_equal);
    if (!g_hash_table_contains(warned, name)) {
        g_hash_table_add(warned, g_strdup(name));
        warn_report("memswap: vhost-user device '%s' doesn't say what memory"
                    " it uses: all guest RAM stays resident while it is"
                    " attached", name);
    }
}

bool memswap_do_vhost_user_attach(struct vhost_dev *dev,
                                  struct CharBackend *chr, Error **errp)
{
    uint64_t features = dev->protocol_features;
    MemswapDeviceKind kind = features >> MEMSWAP_VHOST_USER_F_PINS & 1 ?
                             MEMSWAP_DEVICE_KIND_PIN_AWARE :
                             MEMSWAP_DEVICE_KIND_UNAWARE;
    static uint64_t last_number;
    const char *name = chr->chr && chr->chr->label ? chr->chr->label : "";
    MemswapProcess *process = NULL;
    Backend *backend;

    memswap_vhost_user_was_refused = false;
    if (dev->vq_index) {
        return true;
    }
    if (memswap_do_vhost_user_may_fault(features)) {
        process = memswap_process_add(name, MEMSWAP_DEVICE_KIND_FAULT_CAPABLE,
                                      NULL);
    }
    if (process) {
        kind = MEMSWAP_DEVICE_KIND_FAULT_CAPABLE;
    } else {
        process = memswap_process_add(name, kind, errp);
    }
    if (!process) {
        memswap_vhost_user_was_refused = true;
        return false;
    }
    backend = g_new0(Backend, 1);
    backend->connection = dev->opaque;
    backend->chr = chr;
    backend->kind = kind;
    backend->process = process;
    backend->number = last_number++;
    QTAILQ_INIT(&backend->shares);
    QTAILQ_INSERT_TAIL(&backends, backend, next);
    trace_memswap_vhost_user_attach(name, backend->number,
                                    MemswapDeviceKind_str(kind));
    if (kind == MEMSWAP_DEVICE_KIND_UNAWARE) {
        warn_unaware(name);
    }
    return true;
}

bool memswap_do_vhost_user_faults(struct vhost_dev *dev)
{
    Backend *backend = find_backend(dev);

    return backend && backend->kind == MEMSWAP_DEVICE_KIND_FAULT_CAPABLE;
}

static size_t memory_bytes(const struct vhost_memory *mem)
{
    return sizeof(*mem) + mem->nregions * sizeof(mem->regions[0]);
}

bool memswap_do_vhost_user_has_mapped(struct vhost_dev *dev)
{
    Backend *backend = find_backend(dev);

    return backend && backend->mapped &&
           backend->mapped->nregions == dev->mem->nregions &&
           !memcmp(backend->mapped, dev->mem, memory_bytes(dev->mem));
}

int memswap_do_vhost_user_mapped(struct vhost_dev *dev, int uffd,
                                 const uint64_t *bases)
{
    Backend *backend = find_backend(dev);
    int ret;

    if (!memswap_do_vhost_user_faults(dev)) {
        return 0;
    }
    ret = memswap_vhost_user_take_faults(dev, uffd, bases, &backend->remote);
    if (ret) {
        /* it waits for us to acknowledge that, perhaps with its queues held */
        qemu_chr_fe_disconnect(backend->chr);
        return ret;
    }
    g_free(backend->mapped);
    backend->mapped = g_memdup2(dev->mem, memory_bytes(dev->mem));
    return 0;
}

static void *server(void *opaque)
{
    Backend *backend = opaque;
    int ret = memswap_client_serve(backend->client, backend->channel[0]);

    if (ret) {
        error_report("memswap: a vhost-user device asks for memory in a way"
                     " that it must not: %s", strerror(-ret));
    }
    /* let it find out, rather than wait */
    shutdown(backend->channel[0], SHUT_RDWR);
    return NULL;
}

static int serve(Backend *backend)
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0,
                   backend->channel)) {
        return -errno;
    }
    backend->client = memswap_client_new(memswap_engine());
    memswap_process_set_client(backend->process, backend->client);
    qemu_thread_create(&backend->server, "memswap-pins", server, backend,
                       QEMU_THREAD_JOINABLE);
    return 0;
}

/* Make the table of a region of memory.  Returns 0 or a negative errno. */
static int make_table(Backend *backend, RAMBlock *rb,
                      const struct vhost_memory_region *region,
                      MemswapTableMessage *message, int *fds)
{
    uint8_t *host = (uint8_t *)(uintptr_t)region->userspace_addr;
    MemswapShared shared;
    uint64_t offset;
    int ret = backend->client ? 0 : serve(backend);

    if (!ret) {
        ret = memswap_client_share(backend->client, host, &shared);
    }
    if (ret) {
        return ret;
    }
    offset = host - (uint8_t *)shared.host;
    if ((offset | region->guest_phys_addr | region->memory_size) %
        shared.page_size ||
        region->memory_size > rb->max_length - (host - rb->host)) {
        /* there is no word for each of its pages */
        return -EINVAL;
    }
    *message = (MemswapTableMessage) {
        .guest_address = region->guest_phys_addr,
        .size = region->memory_size,
        .page_size = shared.page_size,
        .file = shared.file,
        .offset = offset / shared.page_size * sizeof(uint32_t),
    };
    fds[0] = shared.fd;
    fds[1] = backend->channel[1];
    return 0;
}

int memswap_do_vhost_user_table(struct vhost_dev *dev, RAMBlock *rb,
                                const struct vhost_memory_region *region,
                                void *message, int *fds)
{
    Backend *backend = find_backend(dev);
    MemswapTableMessage table;
    int ret;

    if (!backend || !is_aware(backend)) {
        return 0;
    }
    if (memswap_engine() && !memswap_manages(rb)) {
        return 0;
    }
    /* what is managed isn't known before the engine runs, nor does the guest */
    ret = memswap_engine() ? make_table(backend, rb, region, &table, fds) :
                             -EAGAIN;
    trace_memswap_vhost_user_table(backend->number, region->guest_phys_addr,
                                   region->memory_size, ret);
    if (ret) {
        error_report("memswap: a vhost-user device can't have RAM '%s': there"
                     " is no table of its pages: %s", rb->idstr,
                     strerror(-ret));
        return ret;
    }
    /* it need not be aligned */
    memcpy(message, &table, sizeof(table));
    return 1;
}

static int lock_byte(int fd, int how, short type, uint64_t number)
{
    struct flock lock = {
        .l_type = type,
        .l_whence = SEEK_SET,
        .l_start = LOCK_BASE + number,
        .l_len = 1,
    };
    int ret = RETRY_ON_EINTR(fcntl(fd, how, &lock));

    return ret ? -errno : 0;
}

static void share_free(Backend *backend, Share *share)
{
    QTAILQ_REMOVE(&backend->shares, share, next);
    if (share->theirs >= 0) {
        close(share->theirs);
    }
    if (share->ours >= 0) {
        close(share->ours);
    }
    g_free(share);
}

static Share *share_new(Backend *backend, void *host, int fd)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    Share *share = g_new0(Share, 1);

    share->host = host;
    share->ours = qemu_dup(fd);
    share->theirs = open(path, O_RDWR | O_CLOEXEC);
    QTAILQ_INSERT_TAIL(&backend->shares, share, next);
    if (share->ours < 0 || share->theirs < 0 ||
        lock_byte(share->theirs, F_OFD_SETLK, F_RDLCK, backend->number)) {
        share_free(backend, share);
        return NULL;
    }
    return share;
}

/* The device is known by the time that it starts. */
static void note_device(Backend *backend, const struct vhost_dev *dev)
{
    DeviceState *device = dev->vdev ? DEVICE(dev->vdev) : NULL;

    /* what the user named may be what it is plugged into */
    if (device && !device->id && device->parent_bus) {
        device = device->parent_bus->parent;
    }
    if (device && device->id) {
        memswap_process_set_id(backend->process, device->id);
    }
}

int memswap_do_vhost_user_fd(struct vhost_dev *dev, RAMBlock *rb, int fd)
{
    Backend *backend = find_backend(dev);
    Share *share;

    if (!backend || fd < 0 || !memswap_manages(rb)) {
        return fd;
    }
    note_device(backend, dev);
    QTAILQ_FOREACH(share, &backend->shares, next) {
        if (share->host == rb->host) {
            return share->theirs;
        }
    }
    share = share_new(backend, rb->host, fd);
    if (share) {
        return share->theirs;
    }
    if (!backend->untracked) {
        backend->untracked = true;
        warn_report("memswap: can't open guest RAM anew (is /proc mounted?):"
                    " it will stay resident until QEMU ends");
    }
    return fd;
}

/*
 * A backend that was stopped meanwhile may have the block mapped still.  Told
 * of another one in its place it wouldn't see a difference.
 */
static void forget_mapped(Backend *backend, void *host, uint64_t size)
{
    for (unsigned int i = 0; backend->mapped &&
         i < backend->mapped->nregions; i++) {
        if (backend->mapped->regions[i].userspace_addr - (uintptr_t)host <
            size) {
            g_clear_pointer(&backend->mapped, g_free);
            qemu_chr_fe_disconnect(backend->chr);
        }
    }
}

void memswap_vhost_user_forget_ram(void *host, uint64_t size)
{
    Backend *backend;
    Share *share, *next;

    QTAILQ_FOREACH(backend, &backends, next) {
        if (backend->connection) {
            forget_mapped(backend, host, size);
        }
        QTAILQ_FOREACH_SAFE(share, &backend->shares, next, next) {
            if (backend->connection && share->host == host) {
                share_free(backend, share);
            }
        }
    }
}

static void backend_gone(void *opaque)
{
    Backend *backend = opaque;
    Share *share, *next;

    trace_memswap_vhost_user_gone(backend->number);
    QTAILQ_FOREACH_SAFE(share, &backend->shares, next, next) {
        share_free(backend, share);
    }
    QTAILQ_REMOVE(&backends, backend, next);
    memswap_process_set_client(backend->process, NULL);
    if (backend->client) {
        memswap_client_free(backend->client);
        close(backend->channel[0]);
        close(backend->channel[1]);
    }
    if (backend->remote) {
        memswap_remote_remove(backend->remote);
    }
    memswap_process_gone(backend->process);
    g_free(backend->mapped);
    g_free(backend);
}

/* Wait for the backend's locks: from then on nobody has its memory. */
static bool wait_gone(Backend *backend, int how)
{
    Share *share;

    QTAILQ_FOREACH(share, &backend->shares, next) {
        int ret = lock_byte(share->ours, how, F_WRLCK, backend->number);

        if (ret) {
            return false;
        }
        lock_byte(share->ours, F_OFD_SETLK, F_UNLCK, backend->number);
    }
    return true;
}

/* Nobody else touches a backend's shares once its connection is gone. */
static void *waiter(void *opaque)
{
    Backend *backend = opaque;

    if (backend->client) {
        /* it may be bringing in a page still */
        qemu_thread_join(&backend->server);
    }
    if (wait_gone(backend, F_OFD_SETLKW)) {
        aio_bh_schedule_oneshot(qemu_get_aio_context(), backend_gone,
                                backend);
    } else {
        error_report("memswap: can't see when a vhost-user device is gone:"
                     " guest RAM will stay resident until QEMU ends");
    }
    return NULL;
}

void memswap_do_vhost_user_detach(struct vhost_dev *dev)
{
    Backend *backend = find_backend(dev);
    QemuThread thread;
    Share *share;

    if (!backend) {
        return;
    }
    backend->connection = NULL;
    if (is_aware(backend) && qemu_chr_fe_backend_open(backend->chr)) {
        /* it can't have another device's tables beside what it has */
        qemu_chr_fe_disconnect(backend->chr);
    }
    memswap_process_leaves(backend->process);
    trace_memswap_vhost_user_detach(backend->number);
    if (backend->client) {
        shutdown(backend->channel[0], SHUT_RDWR);
    }
    if (backend->untracked) {
        return;
    }
    QTAILQ_FOREACH(share, &backend->shares, next) {
        close(share->theirs);
        share->theirs = -1;
    }
    if (!backend->client && wait_gone(backend, F_OFD_SETLK)) {
        backend_gone(backend);
    } else {
        qemu_thread_create(&thread, "memswap-gone", waiter, backend,
                           QEMU_THREAD_DETACHED);
    }
}

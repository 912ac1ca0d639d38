/*
 * memswap inside QEMU: which RAM is managed
 *
 * Managed is what the guest uses as RAM: the machine's main memory, DIMMs
 * and virtio-mem.  All else (ROMs, video memory, memory shared with other
 * machines) belongs to a device, and stays as it is.  Every block is listed
 * in query-memswap, with the reason if it is not managed.
 *
 * Memory that is plugged later joins when it becomes visible to the guest,
 * and leaves when its backend is deleted.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/magic.h>
#include <sys/vfs.h>
#include "exec/address-spaces.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#include "hw/boards.h"
#include "hw/mem/nvdimm.h"
#include "hw/mem/pc-dimm.h"
#include "hw/virtio/virtio-mem.h"
#include "memswap/hooks.h"
#include "qapi/error.h"
#include "qapi/util.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/queue.h"
#include "qemu/thread.h"
#include "system/hostmem.h"
#include "system/numa.h"
#include "devices.h"
#include "glue.h"
#include "trace.h"

/* Why a block can't be managed, and what to change. */
typedef struct Obstacle {
    const char *what;
    const char *remedy;
} Obstacle;

typedef struct Ram {
    void *host;
    HostMemoryBackend *backend; /* or NULL; as long as the block is there */
    char *name;
    uint64_t size;
    MemswapBlock *block;        /* NULL if not managed */
    char *reason;               /* why not */
    QTAILQ_ENTRY(Ram) next;
} Ram;

/*
 * All blocks.  The BQL covers changes; the lock makes the list safe to read
 * out of band, so it is held for neither of the engine's slow functions.
 */
static QTAILQ_HEAD(, Ram) rams = QTAILQ_HEAD_INITIALIZER(rams);
static QemuMutex rams_lock;

static void __attribute__((__constructor__)) init_rams_lock(void)
{
    qemu_mutex_init(&rams_lock);
}

static HostMemoryBackend *backend_of(RAMBlock *rb)
{
    return (HostMemoryBackend *)object_dynamic_cast(rb->mr->owner,
                                                    TYPE_MEMORY_BACKEND);
}

static bool is_main_ram(RAMBlock *rb)
{
    MachineState *machine = current_machine;

    if (rb->mr == machine->ram) {
        return true;
    }
    for (int i = 0; machine->numa_state && i < machine->numa_state->num_nodes;
         i++) {
        HostMemoryBackend *backend = machine->numa_state->nodes[i].node_memdev;

        if (backend && backend == backend_of(rb)) {
            return true;
        }
    }
    return false;
}

/* Does this device offer the backend in @opaque to the guest as RAM? */
static int uses_as_ram(Object *obj, void *opaque)
{
    const char *name = NULL;

    if (object_dynamic_cast(obj, TYPE_NVDIMM)) {
        return 0;
    } else if (object_dynamic_cast(obj, TYPE_PC_DIMM)) {
        name = PC_DIMM_MEMDEV_PROP;
    } else if (object_dynamic_cast(obj, TYPE_VIRTIO_MEM)) {
        name = VIRTIO_MEM_MEMDEV_PROP;
    }
    return name && object_property_get_link(obj, name, NULL) == opaque;
}

/* Is there nothing in the way of the engine? */
static const Obstacle *find_obstacle(RAMBlock *rb)
{
    static const Obstacle guest_memfd = {
        "is private to a confidential guest", "it can't be swapped"
    }, read_only = {
        "is read-only", "remove readonly=on and rom=on from its backend"
    }, pmem = {
        "is persistent memory", "remove pmem=on from its backend"
    }, prealloc = {
        "is preallocated", "remove prealloc=on from its backend, and"
        " -mem-prealloc"
    }, private = {
        "is private memory", "add share=on to its backend"
    }, reserved = {
        "has its hugepages reserved", "add reserve=off to its backend"
    }, disk = {
        "is on a disk file", "put it on tmpfs, or use memory-backend-memfd"
    }, no_file = {
        "is not backed by shared memory", "use memory-backend-memfd"
    }, size = {
        "is not made of whole pages", "use a size that is a multiple of 4 KiB"
    };
    HostMemoryBackend *backend = backend_of(rb);
    struct statfs fs = { };

    if (rb->fd >= 0 && fstatfs(rb->fd, &fs)) {
        return &no_file;
    } else if (rb->guest_memfd >= 0) {
        return &guest_memfd;
    } else if (rb->flags & (RAM_READONLY | RAM_READONLY_FD)) {
        return &read_only;
    } else if (rb->flags & RAM_PMEM) {
        return &pmem;
    } else if (backend && backend->prealloc) {
        return &prealloc;
    } else if (fs.f_type == HUGETLBFS_MAGIC && !(rb->flags & RAM_NORESERVE)) {
        return &reserved;
    } else if (rb->fd >= 0 && fs.f_type != TMPFS_MAGIC &&
               fs.f_type != HUGETLBFS_MAGIC) {
        return &disk;
    } else if (!(rb->flags & RAM_SHARED)) {
        return &private;
    } else if (rb->fd < 0 || rb->flags & RAM_PREALLOC) {
        return &no_file;
    } else if (rb->max_length % rb->page_size) {
        return &size;
    }
    return NULL;
}

static char *reason_not_to_manage(RAMBlock *rb)
{
    HostMemoryBackend *backend = backend_of(rb);
    const Obstacle *obstacle;

    if (!is_main_ram(rb)) {
        if (!backend) {
            return g_strdup("belongs to a device");
        }
        if (!object_child_foreach_recursive(object_get_root(), uses_as_ram,
                                            backend)) {
            return g_strdup("is not RAM of the guest");
        }
    }
    obstacle = find_obstacle(rb);
    return obstacle ? g_strdup_printf("%s: %s", obstacle->what,
                                      obstacle->remedy) : NULL;
}

/* The block has no name of its own before its device is complete. */
static const char *name_of(RAMBlock *rb)
{
    return rb->idstr[0] ? rb->idstr : memory_region_name(rb->mr);
}

/* Called with the BQL. */
static Ram *find_ram(void *host)
{
    Ram *ram;

    QTAILQ_FOREACH(ram, &rams, next) {
        if (ram->host == host) {
            return ram;
        }
    }
    return NULL;
}

/* Called with the BQL. */
static void forget_ram(Ram *ram)
{
    WITH_QEMU_LOCK_GUARD(&rams_lock) {
        QTAILQ_REMOVE(&rams, ram, next);
    }
    if (ram->block) {
        trace_memswap_block_remove(ram->name);
        /*
         * The memory itself is freed later, after a grace period: give its
         * pages up now, so that nobody gets their room while they take it.
         */
        memswap_discard(memswap_engine(), ram->host, ram->size);
        memswap_block_remove(memswap_engine(), ram->block);
    }
    g_free(ram->name);
    g_free(ram->reason);
    g_free(ram);
}

/*
 * A file that others map reads as zeroes there where pages were taken out.
 * Another block or QEMU with memswap is seen by its lock; who doesn't lock,
 * isn't.  It goes with the file descriptor.
 */
static bool lock_file(RAMBlock *rb)
{
    struct flock lock = {
        .l_type = F_WRLCK,
        .l_whence = SEEK_SET,
        .l_start = rb->fd_offset,
        .l_len = rb->max_length,
    };

    return fcntl(rb->fd, F_OFD_SETLK, &lock) == 0;
}

/* Are there enough hugepages for what may be resident?  NULL if so. */
static char *lack_of_hugepages(MemswapEngine *engine, RAMBlock *rb)
{
    MemswapSettings settings;
    int64_t have;
    uint64_t want;

    if (rb->page_size <= qemu_real_host_page_size()) {
        return NULL;
    }
    memswap_get_settings(engine, &settings);
    want = MIN(settings.limit, rb->max_length);
    have = memswap_free_hugepages(rb->page_size);
    if (have >= 0 && have < want) {
        return g_strdup_printf("needs %" PRIu64 " free hugepages of %zu KiB,"
                               " and the host has %" PRIu64 ": raise"
                               " vm.nr_hugepages, or lower the limit",
                               want / rb->page_size, rb->page_size / 1024,
                               have / rb->page_size);
    }
    return NULL;
}

/* Called with the BQL.  Sets @ram->reason if the engine refuses it. */
static void manage(MemswapEngine *engine, RAMBlock *rb, Ram *ram)
{
    MemswapBlockInfo info = {
        .name = ram->name,
        .host = rb->host,
        .size = rb->max_length,
        .fd = rb->fd,
        .fd_offset = rb->fd_offset,
        .page_size = rb->page_size,
    };

    ram->reason = lack_of_hugepages(engine, rb);
    if (ram->reason) {
        return;
    }
    if (!lock_file(rb)) {
        ram->reason = g_strdup("its file is in use by another block or QEMU:"
                               " give it one of its own");
    } else if (memswap_block_add(engine, &info, &ram->block, &ram->reason)) {
        ram->block = NULL;
    }
}

/* Called with the BQL. */
static Ram *add_ram(RAMBlock *rb)
{
    Ram *ram = g_new0(Ram, 1);

    ram->host = rb->host;
    ram->backend = backend_of(rb);
    ram->name = g_strdup(name_of(rb));
    ram->size = rb->max_length;
    ram->reason = reason_not_to_manage(rb);
    if (!ram->reason) {
        manage(memswap_engine(), rb, ram);
    }
    if (ram->block) {
        trace_memswap_block_add(ram->name, ram->size);
    } else {
        trace_memswap_block_skip(ram->name, ram->size, ram->reason);
    }
    QEMU_LOCK_GUARD(&rams_lock);
    QTAILQ_INSERT_TAIL(&rams, ram, next);
    return ram;
}

static void region_add(MemoryListener *listener, MemoryRegionSection *section)
{
    RAMBlock *rb = section->mr->ram_block;
    Ram *ram;

    if (!rb || !rb->host) {
        return;
    }
    ram = find_ram(rb->host);
    if (ram && !ram->block) {
        /* A backend that is there from the start may be plugged only now. */
        forget_ram(ram);
        ram = NULL;
    }
    if (!ram) {
        add_ram(rb);
        /* before any device process can have it: we are the first listener */
        memswap_processes_ram_changed();
    }
}

static void block_removed(RAMBlockNotifier *n, void *host, size_t size,
                          size_t max_size)
{
    Ram *ram = find_ram(host);

    if (ram) {
        memswap_vhost_user_forget_ram(host, ram->size);
        forget_ram(ram);
        memswap_processes_ram_changed();
    }
}

static int check_block(RAMBlock *rb, void *opaque)
{
    const Obstacle *obstacle = is_main_ram(rb) ? find_obstacle(rb) : NULL;

    if (obstacle) {
        error_setg(opaque, "memswap: RAM '%s' %s: %s", name_of(rb),
                   obstacle->what, obstacle->remedy);
    }
    return obstacle != NULL;
}

bool memswap_ram_check(Error **errp)
{
    if (!current_machine->ram) {
        error_setg(errp, "memswap: machine '%s' has no RAM: use another one",
                   MACHINE_GET_CLASS(current_machine)->name);
        return false;
    }
    return !qemu_ram_foreach_block(check_block, errp);
}

static int start_block(RAMBlock *rb, void *opaque)
{
    Ram *ram = rb->host ? add_ram(rb) : NULL;

    if (ram && !ram->block && is_main_ram(rb)) {
        error_setg(opaque, "memswap: RAM '%s': %s", ram->name, ram->reason);
        return 1;
    }
    return 0;
}

bool memswap_ram_start(MemswapEngine *engine, Error **errp)
{
    static RAMBlockNotifier notifier = {
        .ram_block_removed = block_removed,
    };
    static MemoryListener listener = {
        .name = TYPE_MEMSWAP,
        .priority = MEMORY_LISTENER_PRIORITY_MIN,
        .region_add = region_add,
    };

    if (qemu_ram_foreach_block(start_block, errp)) {
        return false;
    }
    ram_block_notifier_add(&notifier);
    memory_listener_register(&listener, &address_space_memory);
    return true;
}

uint64_t memswap_do_ram_align(uint64_t size)
{
    /* Alignment is what a DIMM's size has to be a multiple of, too. */
    return size % MEMSWAP_REGION_SIZE ? 0 : MEMSWAP_REGION_SIZE;
}

bool memswap_do_manages(RAMBlock *rb)
{
    MemswapEngine *engine = memswap_engine();

    return engine && memswap_owns(engine, rb->host);
}

int memswap_discard_ram(RAMBlock *rb, uint64_t start, uint64_t size)
{
    int ret = memswap_discard(memswap_engine(), rb->host + start, size);

    if (ret < 0) {
        error_report("memswap: can't discard RAM '%s' at 0x%" PRIx64 ": %s",
                     rb->idstr, start, strerror(-ret));
    }
    return ret;
}

static MemswapRamBlockMemory *query_memory(MemswapBlock *block)
{
    MemswapRamBlockMemory *memory = g_new(MemswapRamBlockMemory, 1);
    MemswapBlockStats stats;

    memswap_block_get_stats(block, &stats);
    *memory = (MemswapRamBlockMemory) {
        .page_size = stats.page_size,
        .managed = stats.managed,
        .resident = stats.resident,
        .stored = stats.stored,
        .zero = stats.zero,
        .untouched = stats.untouched,
        .poisoned = stats.poisoned,
    };
    return memory;
}

MemswapRamBlockList *memswap_ram_query(void)
{
    MemswapRamBlockList *list = NULL, **tail = &list;
    Ram *ram;

    QEMU_LOCK_GUARD(&rams_lock);
    QTAILQ_FOREACH(ram, &rams, next) {
        MemswapRamBlock *block = g_new0(MemswapRamBlock, 1);

        block->name = g_strdup(ram->name);
        block->size = ram->size;
        block->managed = ram->block != NULL;
        if (ram->block) {
            block->memory = query_memory(ram->block);
        } else {
            block->reason = g_strdup(ram->reason);
        }
        QAPI_LIST_APPEND(tail, block);
    }
    return list;
}

unsigned int memswap_ram_each(const char *name,
                              bool (*one)(MemswapBlock *block,
                                          const char *name, void *host,
                                          uint64_t size, void *opaque),
                              void *opaque)
{
    unsigned int n = 0;
    Ram *ram;

    QTAILQ_FOREACH(ram, &rams, next) {
        if (!ram->block || (name && strcmp(name, ram->name))) {
            continue;
        }
        n++;
        if (!one(ram->block, ram->name, ram->host, ram->size, opaque)) {
            break;
        }
    }
    return n;
}

/* What of it the guest may use: of virtio-mem, what is plugged. */
static uint64_t usable_of(const Ram *ram)
{
    MemoryRegion *mr = ram->backend ?
                       host_memory_backend_get_memory(ram->backend) : NULL;
    RamDiscardManager *manager =
        mr ? memory_region_get_ram_discard_manager(mr) : NULL;

    return manager && object_dynamic_cast(OBJECT(manager), TYPE_VIRTIO_MEM) ?
           object_property_get_uint(OBJECT(manager), VIRTIO_MEM_SIZE_PROP,
                                    NULL) : ram->size;
}

uint64_t memswap_ram_usable(void)
{
    uint64_t bytes = 0;
    Ram *ram;

    QTAILQ_FOREACH(ram, &rams, next) {
        if (ram->block) {
            bytes += usable_of(ram);
        }
    }
    return bytes;
}

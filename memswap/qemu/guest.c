/*
 * memswap inside QEMU: the guest's addresses, for policies
 *
 * Three things: where guest-physical memory is, at which guest-virtual
 * addresses pages were used lately, and which thread is which vCPU.
 *
 * Policies' threads ask, which are the engine's, and nothing to RCU.  So what
 * they need is kept here, under locks that nobody takes in a fault.  Only
 * policies' threads take tables_lock, and may hold it while a page is read;
 * ranges_lock nobody holds while waiting.  The order: tables_lock, ranges_lock.
 *
 * From page to address: TCG tells of every page that it enters in its TLB,
 * and this is noted in a table of a fixed size (guest-notes.c).  So it needs no
 * thread that walks through the guest's page tables, it has what the guest
 * used last, and it is always as old as it says.  Who finds a note checks it:
 * against the TLB in a fault, by a walk through the tables elsewhere.  Under
 * KVM nobody tells us, and the table is empty.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/aio.h"
#include "exec/address-spaces.h"
#include "exec/memory.h"
#include "hw/core/cpu.h"
#include "memswap/guest-notes.h"
#include "memswap/guest-table.h"
#include "memswap/policies.h"
#include "memswap/policy.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/thread.h"
#include "system/runstate.h"
#include "system/tcg.h"
#include "glue.h"
#include "guest.h"

/* --- guest-physical memory --------------------------------------------- */

typedef struct RamRange {
    hwaddr start;
    hwaddr end;
    uint8_t *host;
} RamRange;

/* In the order of addresses; the BQL and the lock cover changes. */
static GArray *ranges;
static QemuMutex ranges_lock;

/* The number of the first range that ends beyond @address. */
static guint find_range(hwaddr address)
{
    guint low = 0, high = ranges->len;

    while (low < high) {
        guint middle = (low + high) / 2;

        if (g_array_index(ranges, RamRange, middle).end <= address) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static void region_add(MemoryListener *listener, MemoryRegionSection *section)
{
    hwaddr start = section->offset_within_address_space;
    RamRange range = { .start = start };

    if (!memory_region_is_ram(section->mr)) {
        return;
    }
    range.end = start + int128_get64(section->size);
    range.host = (uint8_t *)memory_region_get_ram_ptr(section->mr) +
                 section->offset_within_region;
    QEMU_LOCK_GUARD(&ranges_lock);
    g_array_insert_val(ranges, find_range(start), range);
}

static void region_del(MemoryListener *listener, MemoryRegionSection *section)
{
    hwaddr start = section->offset_within_address_space;
    guint i;

    QEMU_LOCK_GUARD(&ranges_lock);
    i = find_range(start);
    if (i < ranges->len && g_array_index(ranges, RamRange, i).start == start) {
        g_array_remove_index(ranges, i);
    }
}

/* Where a guest-physical address is mapped, or was just now; or NULL. */
static uint8_t *physical_host(hwaddr address)
{
    RamRange *range;
    guint i;

    QEMU_LOCK_GUARD(&ranges_lock);
    i = find_range(address);
    range = i < ranges->len ? &g_array_index(ranges, RamRange, i) : NULL;
    return range && range->start <= address ?
           range->host + (address - range->start) : NULL;
}

/* --- page tables ------------------------------------------------------- */

#define TABLE_FRESH_NS (NANOSECONDS_PER_SECOND / 1000)

/* A page, from wherever it is. */
static int read_page(void *opaque, uint64_t physical, void *buffer,
                     size_t size)
{
    uint8_t *host = physical_host(physical);

    return host ? memswap_peek(memswap_engine(), host, buffer, size) :
           -EFAULT;
}

/* Under the lock, which only policies' threads take. */
static MemswapTableCache tables = {
    .read = read_page,
    .fresh_ns = TABLE_FRESH_NS,
};
static QemuMutex tables_lock;

/* Inside of one page. */
static int read_table(void *opaque, uint64_t physical, void *buffer,
                      size_t size)
{
    QEMU_LOCK_GUARD(&tables_lock);
    return memswap_table_read(&tables, get_clock(), physical, buffer, size);
}

int memswap_guest_translate(void *opaque, uint64_t root, uint64_t address,
                            const void **host)
{
    uint64_t physical = address;
    int ret = 0;

    if (root != MEMSWAP_POLICY_PHYSICAL) {
        ret = memswap_cpu_has_tables() ?
              memswap_guest_walk(root, address, read_table, NULL, &physical,
                                 NULL) : -EOPNOTSUPP;
    }
    switch (ret) {
    case 0:
        *host = physical_host(physical);
        return *host ? 0 : -EFAULT;
    case -EAGAIN:
        return -EBUSY;
    case -EINVAL:
    case -EOPNOTSUPP:
        return ret;
    default:
        return -EFAULT;
    }
}

/* --- from page to address ---------------------------------------------- */

static MemswapGuestNotes notes;

void memswap_guest_note(const void *host, bool user, uint64_t root,
                        uint64_t address)
{
    memswap_notes_set(&notes, host, user, root, address);
}

bool memswap_guest_noted(const void *host, bool user, uint64_t *root,
                         uint64_t *address)
{
    return memswap_notes_get(&notes, host, user, root, address);
}

int memswap_guest_reverse(void *opaque, const void *host, uint64_t *root,
                          uint64_t *address)
{
    int ret = -EFAULT;

    if (!tcg_enabled() || !memswap_cpu_has_tables()) {
        return -EOPNOTSUPP;
    }
    for (int user = 1; user >= 0; user--) {
        uint64_t noted_root, noted_address;
        const void *there;
        int err;

        if (!memswap_guest_noted(host, user, &noted_root, &noted_address)) {
            continue;
        }
        err = memswap_guest_translate(opaque, noted_root, noted_address,
                                      &there);
        if (!err && there == host) {
            *root = noted_root;
            *address = noted_address;
            return 0;
        }
        ret = err == -EBUSY ? err : ret;
    }
    return ret;
}

/* --- which thread is which vCPU ---------------------------------------- */

#define THREADS_MAX 1024
/* A thread that is none may be a vCPU that was plugged since. */
#define THREADS_RENEW_NS NANOSECONDS_PER_SECOND

/* A thread's number, and a vCPU's; several of a thread's have none. */
static uint64_t threads[THREADS_MAX];
static unsigned int n_threads;
static int64_t threads_renewed;

#define THREAD(tid, vcpu) ((uint64_t)(tid) << 32 | (vcpu))
#define THREAD_MANY UINT32_MAX

/* Called with the BQL. */
static void renew_threads(void *opaque)
{
    g_autofree uint64_t *found = g_new(uint64_t, THREADS_MAX);
    unsigned int n = 0;
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        unsigned int i = 0;

        while (i < n && found[i] >> 32 != cpu->thread_id) {
            i++;
        }
        if (i < n) {
            found[i] = THREAD(cpu->thread_id, THREAD_MANY);
        } else if (n < THREADS_MAX && cpu->thread_id > 0) {
            found[n++] = THREAD(cpu->thread_id, cpu->cpu_index);
        }
    }
    for (unsigned int i = 0; i < n; i++) {
        qatomic_set(&threads[i], found[i]);
    }
    qatomic_store_release(&n_threads, n);
}

static void vm_state_changed(void *opaque, bool running, RunState state)
{
    if (running) {
        renew_threads(NULL);
    }
}

static void find_thread(pid_t tid, MemswapFaultContext *context)
{
    unsigned int n = qatomic_load_acquire(&n_threads);
    int64_t renewed = qatomic_read(&threads_renewed);
    int64_t now;

    for (unsigned int i = 0; i < n; i++) {
        uint64_t thread = qatomic_read(&threads[i]);

        if (thread >> 32 == tid) {
            if ((uint32_t)thread != THREAD_MANY) {
                context->known |= MEMSWAP_POLICY_KNOWN_VCPU;
                context->vcpu = thread;
            }
            return;
        }
    }
    now = get_clock();
    if (now - renewed > THREADS_RENEW_NS &&
        qatomic_cmpxchg(&threads_renewed, renewed, now) == renewed) {
        aio_bh_schedule_oneshot(qemu_get_aio_context(), renew_threads, NULL);
    }
}

/* --- faults ------------------------------------------------------------ */

static __thread uintptr_t host_pc;

void memswap_guest_set_host_pc(uintptr_t pc)
{
    host_pc = pc;
}

void memswap_guest_fault_context(void *opaque, pid_t tid, const void *host,
                                 MemswapFaultContext *context)
{
    if (tid) {
        /* It may be running again: its registers are its own. */
        find_thread(tid, context);
    } else if (current_cpu) {
        memswap_cpu_fault_context(current_cpu, host, host_pc, context);
    }
}

void memswap_guest_start(MemswapEngine *engine)
{
    static MemoryListener listener = {
        .name = "memswap-guest",
        .priority = MEMORY_LISTENER_PRIORITY_MIN,
        .region_add = region_add,
        .region_del = region_del,
    };

    qemu_mutex_init(&ranges_lock);
    qemu_mutex_init(&tables_lock);
    ranges = g_array_new(false, false, sizeof(RamRange));
    memory_listener_register(&listener, &address_space_memory);
    qemu_add_vm_change_state_handler(vm_state_changed, NULL);
}

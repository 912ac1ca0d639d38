/*
 * memswap inside QEMU: pins for whoever holds a pointer to guest RAM
 *
 * QEMU's own accesses to guest RAM just fault.  The kernel and other
 * processes, to whom devices pass pointers for I/O, need the pages to stay:
 * so address_space_map() pins, address_space_unmap() unpins.
 *
 * The length that a caller passes to address_space_unmap() can't be trusted,
 * so the one of the map is recorded, by pointer (pin-table.c).  Not even the
 * pointer always can: one that was moved past a header is looked up by the end
 * of what it points to.
 *
 * A virtqueue's rings are pinned as well, although only QEMU uses them: access
 * to them then can't fault within a drained section.  These pins last as long
 * as the queue.
 *
 * What may be pinned in all is bounded (MemswapSettings.pin_limit).  Beyond
 * that a map fails, with no memory to map as its reason, which device models
 * have to expect; the guest sees an I/O error or a device that needs a reset.
 * To map without a pin would lose data, to wait here could be for ever: who has
 * the pins may need this very thread.  Three are different:
 *
 * - dma_blk_io() comes back when there are resources.  So it has to be told:
 *   whoever unmaps wakes those that wait, if there are any.  And it has to get
 *   on then: its first map is cut down to FIRST_SIZE if need be, so a request
 *   larger than the bound goes piece by piece.
 * - rings: they are used without a pin instead, which is right, if slower.
 * - a single system call (memswap_pin_for_kernel()) passes the bound; it is
 *   soon over.
 *
 * What a guest gives to a device for as long as it likes (virtio-gpu's
 * resources), and rings, may take half of the bound only.  So it can't keep its
 * own disks from working, and who waits waits for I/O that ends.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#include "memswap/hooks.h"
#include "qapi/qapi-events-memswap.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/notify.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "system/system.h"
#include "glue.h"
#include "pins.h"
#include "trace.h"

/* A multiple of what any disk's blocks are; see MEMSWAP_MIN_PIN_LIMIT. */
#define FIRST_SIZE (64 * KiB)

/* A guest can be refused as often as it likes; to say so, once in this time. */
#define TELL_NS (10 * NANOSECONDS_PER_SECOND)

/* What the next map of this thread is for. */
static __thread struct {
    const void *who;
    bool holds;
    bool in_parts;      /* a request that can be done in parts */
    bool first;         /* of such a request, the first */
    uint64_t refused;   /* since @first was set: what it took; 0: nothing */
    bool to_discard;
} mapper;

/* Who waits for resources to map. */
static QemuMutex waiting_lock;  /* a leaf */
static GPtrArray *waiting;      /* of QEMUBH; under waiting_lock */
/* These are written under it, and read anywhere. */
static unsigned int n_waiting;
static uint64_t waiting_need = UINT64_MAX;  /* bytes that one can do with */

static void __attribute__((__constructor__)) init_waiting(void)
{
    qemu_mutex_init(&waiting_lock);
    waiting = g_ptr_array_new();
}

static void wake_waiting(void)
{
    QEMU_LOCK_GUARD(&waiting_lock);
    for (guint i = 0; i < waiting->len; i++) {
        /* Who isn't lucky comes back. */
        qemu_bh_schedule(g_ptr_array_index(waiting, i));
    }
    g_ptr_array_set_size(waiting, 0);
    qatomic_set(&n_waiting, 0);
    qatomic_set(&waiting_need, UINT64_MAX);
}

/*
 * Either who begins to wait sees what was unpinned before this, or is seen
 * here.  The engine's last step was an atomic operation.
 */
void memswap_pins_room(void)
{
    smp_mb__after_rmw();
    if (unlikely(qatomic_read(&n_waiting))) {
        wake_waiting();
    }
}

/*
 * A pin reserves more than it takes, or more than it gets: somebody may have
 * been refused for that.  With no room that would only send those that wait
 * around in circles.
 */
static void pin_tried(MemswapEngine *engine)
{
    smp_mb__after_rmw();
    if (unlikely(qatomic_read(&n_waiting)) &&
        memswap_pin_room(engine) >= qatomic_read(&waiting_need)) {
        wake_waiting();
    }
}

/*
 * A page that is lost can't be pinned, and whoever gets to it waits for the
 * operator, with all others in hand: these must not leave meanwhile.  True if
 * there are any.
 */
static bool pin_around_lost(MemswapEngine *engine, MemswapHeld *map,
                            uint64_t page)
{
    uint8_t *end = (uint8_t *)map->host + map->size;
    uint8_t *host = QEMU_ALIGN_PTR_DOWN((uint8_t *)map->host, page);
    bool any = false;

    map->page_size = page;
    map->lost = g_array_new(false, false, sizeof(host));
    for (; host < end; host += page) {
        if (memswap_pin_with(engine, host, page, MEMSWAP_PIN_FORCE)) {
            g_array_append_val(map->lost, host);
        } else {
            any = true;
        }
    }
    return any;
}

static void unpin_around_lost(const MemswapHeld *map)
{
    uint8_t *end = (uint8_t *)map->host + map->size;
    uint8_t *host = QEMU_ALIGN_PTR_DOWN((uint8_t *)map->host, map->page_size);
    guint n = 0;

    for (; host < end; host += map->page_size) {
        if (n < map->lost->len &&
            g_array_index(map->lost, uint8_t *, n) == host) {
            n++;
        } else {
            memswap_unpin(memswap_engine(), host, map->page_size);
        }
    }
    g_array_unref(map->lost);
}

static void release(const MemswapHeld *map)
{
    trace_memswap_unmap(map->host, map->size);
    if (map->lost) {
        unpin_around_lost(map);
    } else if (map->pinned) {
        memswap_unpin(memswap_engine(), map->host, map->size);
    }
    if (map->pinned) {
        memswap_pins_room();
    }
}

bool memswap_do_wait_to_map(QEMUBH *bh)
{
    if (!mapper.refused) {
        return false;
    }
    WITH_QEMU_LOCK_GUARD(&waiting_lock) {
        g_ptr_array_add(waiting, bh);
        qatomic_set(&n_waiting, waiting->len);
        qatomic_set(&waiting_need, MIN(waiting_need, mapper.refused));
    }
    /* who unpins looks for us after that: we look at what it did after this */
    smp_mb();
    pin_tried(memswap_engine());
    return true;
}

void memswap_do_stop_waiting(QEMUBH *bh)
{
    QEMU_LOCK_GUARD(&waiting_lock);
    g_ptr_array_remove(waiting, bh);
    qatomic_set(&n_waiting, waiting->len);
}

/*
 * Pin a range for the kernel.  It fails for a page that is lost, and whoever
 * accesses that has to wait.  Where the kernel can't, for which it would be a
 * bad address, this waits in its place, by an access.
 */
static int pin_for_kernel(MemswapEngine *engine, const void *host,
                          uint64_t size, unsigned int flags)
{
    /* volatile: all that counts is the access */
    const volatile uint8_t *bytes = host;
    int ret;

    while ((ret = memswap_pin_with(engine, host, size, flags))) {
        if (ret == -ENOBUFS || !memswap_user_mode_only(memswap_object())) {
            return ret;
        }
        for (uint64_t i = 0; i < size; i += qemu_real_host_page_size()) {
            (void)bytes[i];
        }
        (void)bytes[size - 1];
    }
    return 0;
}

/* Tell the operator whose map failed, or whose rings are not pinned. */
static void tell_refused(const void *who, uint64_t size, bool holds)
{
    static int64_t told;
    int64_t now = memswap_held_clock();
    int64_t last = qatomic_read(&told);
    g_autofree char *name = NULL;
    MemswapStats stats;

    if ((last && now - last < TELL_NS) ||
        qatomic_cmpxchg(&told, last, now) != last) {
        return;
    }
    name = memswap_holder_name(who);
    memswap_get_stats(memswap_engine(), &stats);
    error_report("memswap: %s can't have %" PRIu64 " KiB of guest RAM pinned"
                 " for %s: %" PRIu64 " KiB of at most %" PRIu64 " are: raise"
                 " limit or pin-limit", name ?: "a device",
                 DIV_ROUND_UP(size, KiB), holds ? "long" : "I/O",
                 stats.pinned / KiB,
                 (holds ? stats.pin_limit / 2 : stats.pin_limit) / KiB);
    qapi_event_send_memswap_pin_limit(name, size);
}

/* Bytes of the pages that it takes to pin a range. */
static uint64_t span(RAMBlock *rb, uint64_t offset, uint64_t size)
{
    uint64_t page = qemu_ram_pagesize(rb);

    return ROUND_UP(offset + size, page) - ROUND_DOWN(offset, page);
}

bool memswap_do_map(AddressSpace *as, RAMBlock *rb, uint64_t offset,
                    uint64_t *size)
{
    MemswapEngine *engine = memswap_engine();
    MemswapHeld map = {
        .key = rb->host + offset,
        .host = rb->host + offset,
        .who = mapper.who ?: as,
        .use = mapper.holds ? MEMSWAP_PIN_USE_BUFFERS : MEMSWAP_PIN_USE_IO,
        .since = memswap_held_clock(),
    };
    bool lost = false;

    if (engine && !mapper.to_discard) {
        int ret = pin_for_kernel(engine, map.host, *size,
                                 mapper.holds ? MEMSWAP_PIN_HOLD : 0);

        if (ret == -ENOBUFS && mapper.first && *size > FIRST_SIZE) {
            *size = FIRST_SIZE;
            ret = pin_for_kernel(engine, map.host, *size, 0);
        }
        if (ret == -ENOBUFS) {
            trace_memswap_map_refused(map.host, *size);
            if (!mapper.in_parts) {
                tell_refused(map.who, *size, mapper.holds);
            }
            mapper.refused = span(rb, offset, *size);
        }
        pin_tried(engine);
        if (ret == -ENOBUFS) {
            return false;
        }
        lost = ret != 0;
        map.pinned = !lost;
    }
    map.size = *size;
    if (lost) {
        map.pinned = pin_around_lost(engine, &map, qemu_ram_pagesize(rb));
    }
    trace_memswap_map(map.host, map.size, map.pinned);
    memswap_held_add(&map);
    return true;
}

void memswap_do_unmap(void *host, uint64_t size)
{
    MemswapHeld map;

    if (memswap_held_take(host, &map) ||
        memswap_held_take_around(host, size, &map)) {
        release(&map);
    } else {
        trace_memswap_unmap_unknown(host, size);
    }
}

void memswap_do_rings_map(const void *device, MemoryRegionCache *cache)
{
    MemswapEngine *engine = memswap_engine();
    MemswapHeld map = {
        .key = cache,
        .host = cache->ptr,
        .size = cache->len,
        .who = device,
        .use = MEMSWAP_PIN_USE_QUEUES,
        .since = memswap_held_clock(),
    };

    if (!map.host) {
        return;
    }
    if (engine) {
        /* Without the pin, a page that is lost is met when it is used. */
        int ret = memswap_pin_with(engine, map.host, map.size,
                                   MEMSWAP_PIN_HOLD);

        if (ret == -ENOBUFS) {
            tell_refused(device, map.size, true);
        }
        pin_tried(engine);
        map.pinned = ret == 0;
    }
    memswap_held_add(&map);
}

void memswap_do_rings_unmap(MemoryRegionCache *cache)
{
    MemswapHeld map;

    if (memswap_held_take(cache, &map)) {
        release(&map);
    }
}

bool memswap_do_pin(const void *host, uint64_t size)
{
    MemswapEngine *engine = memswap_engine();
    bool pinned = engine &&
                  pin_for_kernel(engine, host, size, MEMSWAP_PIN_FORCE) == 0;

    if (pinned) {
        pin_tried(engine);
    }
    return pinned;
}

void memswap_do_unpin(const void *host, uint64_t size)
{
    int saved_errno = errno;

    memswap_unpin(memswap_engine(), host, size);
    memswap_pins_room();
    errno = saved_errno;
}

void memswap_do_maps_for(const void *device, bool holds)
{
    mapper.who = device;
    mapper.holds = holds;
}

void memswap_do_maps_parts(bool begin, bool first)
{
    mapper.in_parts = begin;
    mapper.first = first;
    if (first) {
        mapper.refused = 0;
    }
}

void memswap_do_maps_to_discard(bool begin)
{
    mapper.to_discard = begin;
}

bool memswap_pins_checked(void)
{
#ifdef CONFIG_DEBUG_MUTEX
    return true;
#else
    return g_getenv("MEMSWAP_CHECK_PINS");
#endif
}

void memswap_pins_leaked(const MemswapHeld *map)
{
    g_autofree char *name = memswap_holder_name(map->who);

    error_report("memswap: %s leaks its map of %" PRIu64 " bytes at %p",
                 name ?: "a device", map->size, map->host);
    abort();
}

/*
 * At the end of QEMU, with all I/O done: every pin has somebody in the table
 * whose it is.  But a device process may ask for pages still, which takes a
 * pin for a moment.
 */
static void check_at_exit(Notifier *notifier, void *data)
{
    g_autoptr(GArray) maps = memswap_held_take_all();
    MemswapStats stats;

    for (guint i = 0; i < maps->len; i++) {
        release(&g_array_index(maps, MemswapHeld, i));
    }
    for (int i = 0; i < 1000; i++) {
        memswap_get_stats(memswap_engine(), &stats);
        if (!stats.pinned) {
            break;
        }
        g_usleep(1000);
    }
    if (stats.pinned) {
        error_report("memswap: %" PRIu64 " bytes of guest RAM are pinned for"
                     " nobody", stats.pinned);
        abort();
    }
}

/*
 * The machine has just been built: nothing runs yet that could undo a map
 * meanwhile.
 */
void memswap_pins_start(MemswapEngine *engine)
{
    static Notifier exit_check = { .notify = check_at_exit };
    g_autoptr(GArray) maps = memswap_held_take_all();

    for (guint i = 0; i < maps->len; i++) {
        MemswapHeld *map = &g_array_index(maps, MemswapHeld, i);

        map->pinned = map->pinned ||
            memswap_pin_with(engine, map->host, map->size,
                             MEMSWAP_PIN_FORCE) == 0;
        memswap_held_add(map);
    }
    if (memswap_pins_checked()) {
        qemu_add_exit_notifier(&exit_check);
    }
}

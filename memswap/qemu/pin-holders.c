/*
 * memswap inside QEMU: who holds guest RAM, by name, and for how long
 *
 * A map knows its holder as a pointer: the device, or the address space that
 * it does DMA in.  Devices that are realized are listed here with both, so that
 * a name can be found without following the pointer: query-memswap runs out of
 * band, while devices come and go.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/pci/pci_device.h"
#include "hw/qdev-core.h"
#include "memswap/hooks.h"
#include "qapi/util.h"
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include "glue.h"
#include "pins.h"

static QemuMutex holders_lock;  /* a leaf */
static GHashTable *holders;     /* device or address space -> path */

static void __attribute__((__constructor__)) init_holders(void)
{
    qemu_mutex_init(&holders_lock);
    holders = g_hash_table_new_full(NULL, NULL, NULL, g_free);
}

/* What stands for the device in a map, besides itself. */
static const void *address_space_of(DeviceState *dev)
{
    Object *pci = object_dynamic_cast(OBJECT(dev), TYPE_PCI_DEVICE);

    return pci ? &PCI_DEVICE(pci)->bus_master_as : NULL;
}

void memswap_holder_add(DeviceState *dev)
{
    g_autofree char *path = object_get_canonical_path(OBJECT(dev));
    const void *as = address_space_of(dev);

    QEMU_LOCK_GUARD(&holders_lock);
    g_hash_table_insert(holders, dev, g_strdup(path));
    if (as) {
        g_hash_table_insert(holders, (void *)as, g_strdup(path));
    }
}

void memswap_holder_remove(DeviceState *dev)
{
    const void *as = address_space_of(dev);

    if (memswap_pins_checked()) {
        g_autoptr(GArray) maps = memswap_held_list();

        for (guint i = 0; i < maps->len; i++) {
            MemswapHeld *map = &g_array_index(maps, MemswapHeld, i);

            /* its queues go when RCU says so */
            if ((map->who == dev || map->who == as) &&
                map->use != MEMSWAP_PIN_USE_QUEUES) {
                memswap_pins_leaked(map);
            }
        }
    }
    QEMU_LOCK_GUARD(&holders_lock);
    g_hash_table_remove(holders, dev);
    if (as) {
        g_hash_table_remove(holders, as);
    }
}

char *memswap_holder_name(const void *who)
{
    QEMU_LOCK_GUARD(&holders_lock);
    return g_strdup(g_hash_table_lookup(holders, who));
}

static int by_holder(gconstpointer a, gconstpointer b)
{
    const MemswapHeld *x = a;
    const MemswapHeld *y = b;

    if (x->who != y->who) {
        return x->who < y->who ? -1 : 1;
    }
    return (int)x->use - (int)y->use;
}

static int by_age(gconstpointer a, gconstpointer b)
{
    const MemswapPinHolder *x = *(MemswapPinHolder **)a;
    const MemswapPinHolder *y = *(MemswapPinHolder **)b;

    return (x->longest < y->longest) - (x->longest > y->longest);
}

/* One for each holder and use, the longest-held first. */
MemswapPinHolderList *memswap_query_holders(void)
{
    g_autoptr(GArray) maps = memswap_held_list();
    g_autoptr(GPtrArray) sums = g_ptr_array_new();
    MemswapPinHolderList *list = NULL, **tail = &list;
    int64_t now = memswap_held_clock();
    const MemswapHeld *last = NULL;
    MemswapPinHolder *sum = NULL;

    g_array_sort(maps, by_holder);
    for (guint i = 0; i < maps->len; i++) {
        const MemswapHeld *map = &g_array_index(maps, MemswapHeld, i);

        if (!map->pinned) {
            continue;
        }
        if (!last || by_holder(last, map)) {
            sum = g_new0(MemswapPinHolder, 1);
            sum->device = memswap_holder_name(map->who);
            sum->use = map->use;
            g_ptr_array_add(sums, sum);
        }
        last = map;
        sum->maps++;
        sum->bytes += map->size;
        sum->longest = MAX(sum->longest, MAX(now - map->since, 0));
    }
    g_ptr_array_sort(sums, by_age);
    for (guint i = 0; i < sums->len; i++) {
        QAPI_LIST_APPEND(tail, g_ptr_array_index(sums, i));
    }
    return list;
}

/*
 * memswap: what QEMU's own files call
 *
 * Every hook is an inline function that costs one predicted branch while
 * memswap is off.  memswap_on is set when the memswap object is created,
 * which is before any guest RAM exists, and stays; whether the engine runs
 * yet is looked at behind it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_HOOKS_H
#define MEMSWAP_HOOKS_H

#include "qemu/atomic.h"
#include "qemu/compiler.h"

struct CharBackend;
struct vhost_dev;
struct vhost_memory_region;

extern bool memswap_on;

static inline bool memswap_is_on(void)
{
    return unlikely(qatomic_read(&memswap_on));
}

/* Keep record of the thread that holds the BQL (system/cpus.c). */
void memswap_do_bql_taken(void);
void memswap_do_bql_released(void);

/* Called with the BQL just taken, also after waiting on a condition. */
static inline void memswap_bql_taken(void)
{
    if (memswap_is_on()) {
        memswap_do_bql_taken();
    }
}

/* Called with the BQL about to be released, also to wait on a condition. */
static inline void memswap_bql_released(void)
{
    if (memswap_is_on()) {
        memswap_do_bql_released();
    }
}

/* Whoever has the BQL is about to wait for threads that may be in a fault. */
void memswap_do_hold_nobody(bool begin);

static inline void memswap_hold_nobody_back(bool begin)
{
    if (memswap_is_on()) {
        memswap_do_hold_nobody(begin);
    }
}

/* Alignment that shared RAM of this size is mapped to, or 0. */
uint64_t memswap_do_ram_align(uint64_t size);

static inline uint64_t memswap_ram_align(uint64_t size)
{
    return memswap_is_on() ? memswap_do_ram_align(size) : 0;
}

/* Pins for whoever gets a pointer to guest RAM (system/physmem.c). */
bool memswap_do_map(AddressSpace *as, RAMBlock *rb, uint64_t offset,
                    uint64_t *size);
void memswap_do_unmap(void *host, uint64_t size);
void memswap_do_rings_map(const void *device, MemoryRegionCache *cache);
void memswap_do_rings_unmap(MemoryRegionCache *cache);
void memswap_do_maps_for(const void *device, bool holds);
void memswap_do_maps_parts(bool begin, bool first);
bool memswap_do_wait_to_map(QEMUBH *bh);
void memswap_do_stop_waiting(QEMUBH *bh);
bool memswap_do_pin(const void *host, uint64_t size);
void memswap_do_unpin(const void *host, uint64_t size);
void memswap_do_maps_to_discard(bool begin);

/*
 * Guest RAM is about to be mapped for a device: make it stay.  With a page
 * that is lost among it, whoever accesses that waits for the operator.  False
 * if so much can't be pinned, and thus not be mapped; *@size may be lowered.
 */
static inline bool memswap_map(AddressSpace *as, RAMBlock *rb,
                               uint64_t offset, uint64_t *size)
{
    return !memswap_is_on() || memswap_do_map(as, rb, offset, size);
}

/*
 * Some undo a map that failed, which without memswap happens only where no
 * RAM is.
 */
static inline bool memswap_unmaps_nothing(const void *host)
{
    return memswap_is_on() && !host;
}

/* The device is done with a mapping from @host, or a bit before it, on. */
static inline void memswap_unmap(void *host, uint64_t size)
{
    if (memswap_is_on()) {
        memswap_do_unmap(host, size);
    }
}

/*
 * The maps that this thread makes from now on are the device's; NULL: of
 * whoever has the address space.
 */
static inline void memswap_maps_for(const void *device)
{
    if (memswap_is_on()) {
        memswap_do_maps_for(device, false);
    }
}

/* The same, and it keeps them as long as the guest likes. */
static inline void memswap_holds_for(const void *device)
{
    if (memswap_is_on()) {
        memswap_do_maps_for(device, device);
    }
}

/*
 * Between the two calls this thread maps for a request that it can do in parts:
 * its first map is rather to be short than not to be, others may fail.
 */
static inline void memswap_maps_parts(bool begin, bool first)
{
    if (memswap_is_on()) {
        memswap_do_maps_parts(begin, first);
    }
}

/*
 * Nothing could be mapped.  If it was this that failed: schedule @bh, once,
 * when it may be otherwise.
 */
static inline bool memswap_wait_to_map(QEMUBH *bh)
{
    return memswap_is_on() && memswap_do_wait_to_map(bh);
}

/* It runs, or is about to be deleted: nobody is to schedule it any more. */
static inline void memswap_stop_waiting(QEMUBH *bh)
{
    if (memswap_is_on()) {
        memswap_do_stop_waiting(bh);
    }
}

/* A part of a device's queue is about to be used by this cache. */
static inline void memswap_rings_map(const void *device,
                                     MemoryRegionCache *cache)
{
    if (memswap_is_on()) {
        memswap_do_rings_map(device, cache);
    }
}

static inline void memswap_rings_unmap(MemoryRegionCache *cache)
{
    if (memswap_is_on()) {
        memswap_do_rings_unmap(cache);
    }
}

/*
 * This thread is about to hand memory, which may be guest RAM, to a system
 * call.  What is returned has to be passed to memswap_unpin_for_kernel() with
 * the same range, which keeps errno.
 */
static inline bool memswap_pin_for_kernel(const void *host, uint64_t size)
{
    return memswap_is_on() && memswap_do_pin(host, size);
}

static inline void memswap_unpin_for_kernel(const void *host, uint64_t size,
                                            bool pinned)
{
    if (pinned) {
        memswap_do_unpin(host, size);
    }
}

/*
 * Between the two calls this thread maps guest RAM only to discard it: that
 * needs no pin, which would bring it in first.
 */
static inline void memswap_maps_to_discard(bool begin)
{
    if (memswap_is_on()) {
        memswap_do_maps_to_discard(begin);
    }
}

/*
 * The page of guest RAM at @host is about to get into a vCPU's TLB, at this
 * guest-virtual address, or whatever @mmu_index means (accel/tcg/cputlb.c).
 */
void memswap_do_guest_maps(CPUState *cpu, int mmu_index, uint64_t address,
                           const void *host);

static inline void memswap_guest_maps(CPUState *cpu, int mmu_index,
                                      uint64_t address, const void *host)
{
    if (memswap_is_on()) {
        memswap_do_guest_maps(cpu, mmu_index, address, host);
    }
}

/*
 * The access at @address, made by the code that returns to @retaddr, or 0,
 * found nothing in the TLB, and now it is there (accel/tcg/cputlb.c).
 */
void memswap_do_guest_misses(CPUState *cpu, uint64_t address,
                             uintptr_t retaddr);

static inline void memswap_guest_misses(CPUState *cpu, uint64_t address,
                                        uintptr_t retaddr)
{
    if (memswap_is_on()) {
        memswap_do_guest_misses(cpu, address, retaddr);
    }
}

/* Discards (system/physmem.c). */
bool memswap_do_manages(RAMBlock *rb);

static inline bool memswap_manages(RAMBlock *rb)
{
    return memswap_is_on() && memswap_do_manages(rb);
}

/*
 * Discard a range of a block that memswap_manages(), aligned to its pages.
 * Returns 0 or a negative errno, which has been reported.
 */
int memswap_discard_ram(RAMBlock *rb, uint64_t start, uint64_t size);

/*
 * vhost-user backends (hw/virtio/vhost-user.c).
 *
 * Which of the protocol features @offered to acknowledge besides QEMU's own:
 * that of a backend that says what it uses, if it can have tables.
 */
uint64_t memswap_do_vhost_user_pins(struct vhost_dev *dev,
                                    struct CharBackend *chr,
                                    uint64_t offered);

static inline uint64_t memswap_vhost_user_pins(struct vhost_dev *dev,
                                               struct CharBackend *chr,
                                               uint64_t offered)
{
    return memswap_is_on() ? memswap_do_vhost_user_pins(dev, chr, offered) : 0;
}

/*
 * What was acknowledged is known, and the backend has no memory yet.  If it
 * doesn't say what it uses, this returns once all that it could reach stays
 * resident.  False with @errp set if that can't be.
 */
bool memswap_do_vhost_user_attach(struct vhost_dev *dev,
                                  struct CharBackend *chr, Error **errp);

static inline bool memswap_vhost_user_attach(struct vhost_dev *dev,
                                             struct CharBackend *chr,
                                             Error **errp)
{
    return !memswap_is_on() || memswap_do_vhost_user_attach(dev, chr, errp);
}

/*
 * Was the last backend that came refused?  Then another try is no use.  Says so
 * once: what is tried next may fail for another reason, before it gets so far.
 */
extern bool memswap_vhost_user_was_refused;

static inline bool memswap_vhost_user_refused(void)
{
    bool refused = memswap_is_on() && memswap_vhost_user_was_refused;

    memswap_vhost_user_was_refused = false;
    return refused;
}

/*
 * The backend is about to get a region of memory, all of which is in block
 * @rb.  Returns 1 with the payload of a VHOST_USER_SET_MEMSWAP_TABLE at
 * @message, and what goes with it in @fds, which stay memswap's; 0 if there is
 * nothing to tell; or a negative errno, which has been reported: it must not
 * get the region.
 */
int memswap_do_vhost_user_table(struct vhost_dev *dev, RAMBlock *rb,
                                const struct vhost_memory_region *region,
                                void *message, int *fds);

static inline int memswap_vhost_user_table(
    struct vhost_dev *dev, RAMBlock *rb,
    const struct vhost_memory_region *region, void *message, int *fds)
{
    return memswap_is_on() ?
        memswap_do_vhost_user_table(dev, rb, region, message, fds) : 0;
}

/*
 * Which descriptor to give to the backend in place of @fd, which is the
 * block's.  It stays memswap's.
 */
int memswap_do_vhost_user_fd(struct vhost_dev *dev, RAMBlock *rb, int fd);

static inline int memswap_vhost_user_fd(struct vhost_dev *dev, RAMBlock *rb,
                                        int fd)
{
    return memswap_is_on() ? memswap_do_vhost_user_fd(dev, rb, fd) : fd;
}

/*
 * Is memory to be swapped for a backend with these protocol features by way of
 * its page faults?  Then it gets all regions in one message.
 */
bool memswap_do_vhost_user_may_fault(uint64_t features);

static inline bool memswap_vhost_user_may_fault(uint64_t features)
{
    return memswap_is_on() && memswap_do_vhost_user_may_fault(features);
}

/* Is it done?  To be asked once it is attached. */
bool memswap_do_vhost_user_faults(struct vhost_dev *dev);

static inline bool memswap_vhost_user_faults(struct vhost_dev *dev)
{
    return memswap_is_on() && memswap_do_vhost_user_faults(dev);
}

/*
 * Has the backend mapped just these regions already?  Sent once more, DPDK
 * doesn't answer with where.
 */
bool memswap_do_vhost_user_has_mapped(struct vhost_dev *dev);

static inline bool memswap_vhost_user_has_mapped(struct vhost_dev *dev)
{
    return memswap_is_on() && memswap_do_vhost_user_has_mapped(dev);
}

/*
 * The backend has mapped its regions of memory, at @bases, and will have their
 * faults reported through @uffd; it touches nothing yet.  Returns 0 or a
 * negative errno, which has been reported.
 */
int memswap_do_vhost_user_mapped(struct vhost_dev *dev, int uffd,
                                 const uint64_t *bases);

static inline int memswap_vhost_user_mapped(struct vhost_dev *dev, int uffd,
                                            const uint64_t *bases)
{
    return memswap_is_on() ?
        memswap_do_vhost_user_mapped(dev, uffd, bases) : 0;
}

/*
 * It may use them.  Where rings were in what it had mapped before, it is told
 * once more.  Returns what vhost_set_vring_addr() does.
 */
int memswap_do_vhost_user_move_rings(struct vhost_dev *dev);

static inline int memswap_vhost_user_move_rings(struct vhost_dev *dev)
{
    return memswap_is_on() ? memswap_do_vhost_user_move_rings(dev) : 0;
}

/* The connection to the backend is about to be forgotten. */
void memswap_do_vhost_user_detach(struct vhost_dev *dev);

static inline void memswap_vhost_user_detach(struct vhost_dev *dev)
{
    if (memswap_is_on()) {
        memswap_do_vhost_user_detach(dev);
    }
}

/* Refusals: true with @errp set if this can't be had together with memswap. */
bool memswap_refuses_loadvm(Error **errp);
bool memswap_refuses_vhost_user(Error **errp);
bool memswap_refuses_vhost_kernel(Error **errp);
bool memswap_refuses_blobs(Error **errp);

/*
 * What -object would be given for an argument of -memswap.  The string is
 * there until the program ends.
 */
const char *memswap_object_option(const char *arguments);

/*
 * The JSON for an argument of -object that is for a policy: its options form a
 * dict, which -object's own syntax doesn't have.  Exits if it is malformed.
 * The string is there until the next call.
 */
const char *memswap_policy_option(const char *argument);

#endif /* MEMSWAP_HOOKS_H */

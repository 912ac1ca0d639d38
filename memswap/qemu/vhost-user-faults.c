/*
 * memswap inside QEMU: vhost-user backends whose page faults are resolved
 *
 * A backend that offers VHOST_USER_PROTOCOL_F_PAGEFAULT can hand over a
 * userfaultfd of its own, for postcopy migration.  The same messages are used
 * without a migration: ADVISE and LISTEN when the connection is made, then each
 * SET_MEM_TABLE is answered with the addresses at which the backend has mapped
 * the regions, and acknowledged once we are ready for faults there.  There is
 * no POSTCOPY_END.
 *
 * Faults stop a processor, in user mode or in the kernel.  They stop no DMA,
 * and none of the kernel's own use of pages that it holds, as for direct I/O.
 * Only the operator knows whether a backend goes without (vhost-user-dma=off).
 *
 * A backend registers all of a region.  So a page that it can reach and that is
 * not managed would keep it waiting for ever: then it doesn't get the regions.
 *
 * All of it runs in the main thread with the BQL.  A backend that is waited for
 * here may wait for a page itself; a thread of the engine sees to that, which
 * needs no lock of QEMU's.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/virtio/vhost.h"
#include "hw/virtio/vhost-backend.h"
#include "hw/virtio/vhost-user.h"
#include "hw/virtio/virtio.h"
#include "memswap/client.h"
#include "memswap/hooks.h"
#include "qemu/error-report.h"
#include "standard-headers/linux/vhost_types.h"
#include "devices.h"
#include "trace.h"

bool memswap_do_vhost_user_may_fault(uint64_t features)
{
    const uint64_t need = UINT64_C(1) << VHOST_USER_PROTOCOL_F_PAGEFAULT |
                          UINT64_C(1) << VHOST_USER_PROTOCOL_F_REPLY_ACK;

    return !memswap_object()->vhost_user_dma && (features & need) == need &&
           !(features >> MEMSWAP_VHOST_USER_F_PINS & 1);
}

int memswap_vhost_user_take_faults(struct vhost_dev *dev, int uffd,
                                   const uint64_t *bases,
                                   MemswapRemote **remote)
{
    g_autofree MemswapRemoteRange *ranges =
        g_new(MemswapRemoteRange, dev->mem->nregions);
    g_autofree char *message = NULL;
    unsigned int n = 0;
    int ret;

    for (unsigned int i = 0; i < dev->mem->nregions; i++) {
        struct vhost_memory_region *region = &dev->mem->regions[i];

        if (bases[i] == region->userspace_addr) {
            /* libvhost-user of QEMU 9 and 10 says where we have it */
            error_report("memswap: a vhost-user device doesn't say where it has"
                         " mapped memory: leave out vhost-user-dma=off");
            return -EPROTO;
        }
        if (bases[i]) {
            ranges[n++] = (MemswapRemoteRange) {
                .host = (void *)(uintptr_t)region->userspace_addr,
                .size = region->memory_size,
                .base = bases[i],
            };
        }
    }
    if (!memswap_engine()) {
        ret = -EAGAIN;
    } else if (*remote) {
        ret = memswap_remote_set_ranges(*remote, ranges, n, &message);
    } else {
        int own = qemu_dup(uffd);

        ret = own < 0 ? -errno : memswap_remote_add(memswap_engine(), own,
                                                    ranges, n, remote,
                                                    &message);
        if (ret && own >= 0) {
            close(own);
        }
    }
    trace_memswap_vhost_user_mapped(n, ret);
    if (ret) {
        error_report("memswap: can't resolve a vhost-user device's page faults:"
                     " %s: leave out vhost-user-dma=off",
                     message ?: strerror(-ret));
    }
    return ret;
}

int memswap_do_vhost_user_move_rings(struct vhost_dev *dev)
{
    int ret = 0;

    for (unsigned int i = 0; i < dev->nvqs && !ret; i++) {
        struct vhost_virtqueue *vq = &dev->vqs[i];
        struct vhost_vring_addr addr = {
            .index = dev->vhost_ops->vhost_get_vq_index(dev,
                                                        dev->vq_index + i),
            .desc_user_addr = (uintptr_t)vq->desc,
            .avail_user_addr = (uintptr_t)vq->avail,
            .used_user_addr = (uintptr_t)vq->used,
            .log_guest_addr = vq->used_phys,
        };

        if (vq->desc_phys && vq->desc) {
            /* it is running: neither stopped, nor did its start fail */
            ret = dev->vhost_ops->vhost_set_vring_addr(dev, &addr);
        }
    }
    return ret;
}

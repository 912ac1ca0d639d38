/*
 * memswap for backends on libvhost-user: what its own code calls
 *
 * Everything here does nothing for a device whose front-end did not
 * acknowledge the feature, or that didn't ask for it (VuDevIface.memswap_pins).
 *
 * Threads: messages are handled by one, and with no request being popped or
 * pushed meanwhile.  All queues of a device are used by one thread at a time: a
 * request that waits until one of another queue has ended would not hear of it
 * if that ended just now.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_CLIENT_VU_H
#define MEMSWAP_CLIENT_VU_H

#include "libvhost-user.h"

/* The bit to offer, or 0.  MEMSWAP_PINS=off in the environment: none. */
uint64_t vu_memswap_offer(const VuDev *dev);

/* The front-end chose features.  False for want of memory. */
bool vu_memswap_start(VuDev *dev, uint64_t protocol_features);
/* The end of the connection, with the memory unmapped. */
void vu_memswap_end(VuDev *dev);

/* A VHOST_USER_SET_MEMSWAP_TABLE came.  False if it is wrong. */
bool vu_memswap_set_table(VuDev *dev, VhostUserMsg *vmsg);
/* A region was removed; or all were replaced. */
bool vu_memswap_region_removed(VuDev *dev, uint64_t guest_address);
bool vu_memswap_regions_set(VuDev *dev);

/*
 * A queue's rings are known, where they are not NULL: pin them.  False if one
 * can't be pinned.
 */
bool vu_memswap_pin_rings(VuDev *dev, VuVirtq *vq);
/* A queue was stopped.  Requests may be under way still. */
void vu_memswap_stop(VuDev *dev, VuVirtq *vq);
/* A message came: rings that are out of use are unpinned. */
void vu_memswap_rest(VuDev *dev);

/* An indirect table is about to be read.  False if it can't be pinned. */
bool vu_memswap_pin_table(VuDev *dev, uint64_t address, uint64_t size);
void vu_memswap_unpin_table(VuDev *dev, uint64_t address, uint64_t size);

/*
 * A request's buffers are known, and were not touched yet.  False if one can't
 * be pinned: it is lost, or the front-end is gone; or the guest gave the head
 * before, and didn't have it back; or they are more than all memory; or, if
 * vu_memswap_waits(), too much is pinned: then it must be popped again, when
 * the queue is kicked.
 */
bool vu_memswap_pin_buffers(VuDev *dev, VuVirtq *vq, VuVirtqElement *elem);
bool vu_memswap_waits(VuDev *dev, VuVirtq *vq);
/*
 * They are not touched any more, and the used ring names the head.  Without the
 * latter it is vu_queue_drop().
 */
void vu_memswap_used(VuDev *dev, VuVirtq *vq, const VuVirtqElement *elem);

#endif /* MEMSWAP_CLIENT_VU_H */

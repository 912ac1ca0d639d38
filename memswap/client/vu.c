/*
 * memswap for backends on libvhost-user: what is pinned, and for how long
 *
 * docs/interop/vhost-user-memswap.rst has the rules.  libvhost-user calls this
 * in few places; it is built as a part of it.
 *
 * - Buffers are pinned when a request is popped, and unpinned when it is put
 *   into the used ring, or given back.  Devices change the request's iovecs
 *   meanwhile, so what is pinned is noted by the descriptor that heads it.
 * - Rings are pinned from when they are known until the queue was stopped, and
 *   no request of it is under way any more: whoever completes one uses them.
 *   That one has been notified for, too, by the time of the next message.
 * - An indirect table is copied, and pinned for no longer.
 * - With too much pinned, a request is not popped yet if others of this device
 *   are under way.  When one of them has ended the queue is kicked, as by the
 *   guest, and the request popped again.  So there is always one to wait for.
 *   One by itself has to fit, and fails if it doesn't.
 *
 * One that the device drops without an answer, it says so: vu_queue_drop().
 *
 * Of two requests with one head it can't be said which has ended.  A guest that
 * gives a descriptor again whose request is under way fails.  After a reset it
 * may do so, as requests from before go on: what all of them have is unpinned
 * when all have ended.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "memswap/client.h"
#include "vu.h"

/* Requests with one head, as a guest may have by resets. */
#define LIVES_MAX 8

/* All that have the same head. */
typedef struct Request {
    unsigned int under_way;     /* more than one: all but one in other lives */
    unsigned int life;          /* the queue's, when the last was popped */
    MemswapHeldPins buffers;
} Request;

typedef struct Queue {
    unsigned int life;          /* counts how often it was stopped */
    bool stopped;
    bool waits;                 /* its next request, for others to end */
    unsigned int under_way;     /* requests that are */
    MemswapHeldPins rings;
    Request requests[VIRTQUEUE_MAX_SIZE];
} Queue;

struct VuMemswap {
    MemswapPins *pins;
    Queue queues[];
};

static Queue *queue_of(VuDev *dev, VuVirtq *vq)
{
    return &dev->memswap->queues[vq - dev->vq];
}

uint64_t vu_memswap_offer(const VuDev *dev)
{
    const char *choice = getenv("MEMSWAP_PINS");

    return dev->iface->memswap_pins && !(choice && !strcmp(choice, "off")) ?
           UINT64_C(1) << MEMSWAP_VHOST_USER_F_PINS : 0;
}

bool vu_memswap_start(VuDev *dev, uint64_t protocol_features)
{
    if (!(protocol_features & vu_memswap_offer(dev)) || dev->memswap) {
        return true;
    }
    dev->memswap = calloc(1, sizeof(*dev->memswap) +
                          dev->max_queues * sizeof(Queue));
    if (dev->memswap) {
        dev->memswap->pins = memswap_pins_new();
        if (dev->memswap->pins) {
            return true;
        }
        free(dev->memswap);
        dev->memswap = NULL;
    }
    return false;
}

void vu_memswap_end(VuDev *dev)
{
    if (!dev->memswap) {
        return;
    }
    for (unsigned int i = 0; i < dev->max_queues; i++) {
        Queue *queue = &dev->memswap->queues[i];

        memswap_unpin_held(&queue->rings);
        free(queue->rings.parts);
        for (unsigned int head = 0; head < VIRTQUEUE_MAX_SIZE; head++) {
            memswap_unpin_held(&queue->requests[head].buffers);
            free(queue->requests[head].buffers.parts);
        }
    }
    memswap_pins_free(dev->memswap->pins);
    free(dev->memswap);
    dev->memswap = NULL;
}

/* --- tables ------------------------------------------------------------ */

bool vu_memswap_set_table(VuDev *dev, VhostUserMsg *vmsg)
{
    if (dev->memswap && vmsg->fd_num == 2) {
        return !memswap_pins_set_table(dev->memswap->pins, &vmsg->payload,
                                       vmsg->size, vmsg->fds[0],
                                       vmsg->fds[1]);
    }
    for (int i = 0; i < vmsg->fd_num; i++) {
        close(vmsg->fds[i]);
    }
    return false;
}

bool vu_memswap_region_removed(VuDev *dev, uint64_t guest_address)
{
    return !dev->memswap ||
           !memswap_pins_end_table(dev->memswap->pins, guest_address);
}

bool vu_memswap_regions_set(VuDev *dev)
{
    return !dev->memswap || !memswap_pins_end_others(dev->memswap->pins);
}

/* --- guest memory by our addresses ------------------------------------- */

/* Pin what is in of what is mapped at @at; it may be in several regions. */
static int pin_present(VuDev *dev, const void *at, uint64_t size,
                       MemswapHeldPins *held)
{
    uint64_t address = (uintptr_t)at;

    while (size) {
        VuDevRegion *found = NULL;
        uint64_t begin = 0, n;
        int ret;

        for (unsigned int i = 0; i < dev->nregions && !found; i++) {
            VuDevRegion *region = &dev->regions[i];

            begin = region->mmap_addr + region->mmap_offset;
            if (address >= begin && address - begin < region->size) {
                found = region;
            }
        }
        if (!found) {
            return -EFAULT;
        }
        n = found->size - (address - begin);
        n = n < size ? n : size;
        ret = memswap_pin_present(dev->memswap->pins,
                                  found->gpa + (address - begin), n, held);
        if (ret) {
            return ret;
        }
        address += n;
        size -= n;
    }
    return 0;
}

/* --- rings ------------------------------------------------------------- */

bool vu_memswap_pin_rings(VuDev *dev, VuVirtq *vq)
{
    const VuRing *ring = &vq->vring;
    /* both have room for an event index at the end */
    uint64_t avail = sizeof(*ring->avail) + (ring->num + 1) * sizeof(uint16_t);
    uint64_t used = sizeof(*ring->used) + sizeof(uint16_t) +
                    ring->num * sizeof(ring->used->ring[0]);
    Queue *queue;

    if (!dev->memswap || !ring->desc || !ring->avail || !ring->used) {
        return true;
    }
    queue = queue_of(dev, vq);
    queue->stopped = false;
    memswap_unpin_held(&queue->rings);
    return !pin_present(dev, ring->desc, ring->num * sizeof(*ring->desc),
                        &queue->rings) &&
           !pin_present(dev, ring->avail, avail, &queue->rings) &&
           !pin_present(dev, ring->used, used, &queue->rings) &&
           !memswap_pin_absent(dev->memswap->pins, 0, &queue->rings);
}

void vu_memswap_stop(VuDev *dev, VuVirtq *vq)
{
    if (dev->memswap) {
        queue_of(dev, vq)->stopped = true;
        queue_of(dev, vq)->life++;
        vu_memswap_rest(dev);
    }
}

void vu_memswap_rest(VuDev *dev)
{
    for (unsigned int i = 0; dev->memswap && i < dev->max_queues; i++) {
        Queue *queue = &dev->memswap->queues[i];
        VuVirtq *vq = &dev->vq[i];

        if (queue->stopped && !queue->under_way) {
            queue->stopped = false;
            memswap_unpin_held(&queue->rings);
            /* they are not to be found again until the front-end says so */
            vq->vring.desc = NULL;
            vq->vring.avail = NULL;
            vq->vring.used = NULL;
            memset(&vq->vra, 0, sizeof(vq->vra));
        }
    }
}

/* --- requests ---------------------------------------------------------- */

bool vu_memswap_pin_table(VuDev *dev, uint64_t address, uint64_t size)
{
    return !dev->memswap ||
           !memswap_pin_guest(dev->memswap->pins, address, size);
}

void vu_memswap_unpin_table(VuDev *dev, uint64_t address, uint64_t size)
{
    if (dev->memswap) {
        memswap_unpin_guest(dev->memswap->pins, address, size);
    }
}

static bool any_under_way(VuDev *dev)
{
    for (unsigned int i = 0; i < dev->max_queues; i++) {
        if (dev->memswap->queues[i].under_way) {
            return true;
        }
    }
    return false;
}

/* More than there is of memory: for the same pages again and again. */
static bool too_large(VuDev *dev, const struct iovec *iov, unsigned int n)
{
    uint64_t size = 0, all = 0;

    for (unsigned int i = 0; i < dev->nregions; i++) {
        all += dev->regions[i].size;
    }
    /* of so many, with at most 4 GiB each, it can't overflow */
    for (unsigned int i = 0; i < n; i++) {
        size += iov[i].iov_len;
    }
    return size > all;
}

/* Have @to hold what @from does, which is empty then.  False: no memory. */
static bool move_held(MemswapHeldPins *to, MemswapHeldPins *from)
{
    unsigned int n = to->n + from->n;
    MemswapHeldPart *parts = realloc(to->parts, n * sizeof(*parts));

    if (!parts && n) {
        return false;
    }
    memcpy(parts + to->n, from->parts, from->n * sizeof(*parts));
    to->parts = parts;
    to->n = to->room = n;
    from->n = 0;
    return true;
}

/* May another one with this head be under way? */
static bool may_begin(const Queue *queue, const Request *request)
{
    return !request->under_way ||
           (request->life != queue->life && request->under_way < LIVES_MAX);
}

bool vu_memswap_pin_buffers(VuDev *dev, VuVirtq *vq, unsigned int head,
                            const struct iovec *iov, unsigned int n)
{
    uint32_t flags = MEMSWAP_CLIENT_BOUNDED_OWN;
    MemswapHeldPins others = { 0 };
    MemswapHeldPins *held;
    Request *request;
    Queue *queue;
    int ret = 0;

    if (!dev->memswap) {
        return true;
    }
    if (head >= VIRTQUEUE_MAX_SIZE) {
        return false;
    }
    queue = queue_of(dev, vq);
    request = &queue->requests[head];
    queue->waits = false;
    if (!may_begin(queue, request) || too_large(dev, iov, n)) {
        return false;
    }
    held = request->under_way ? &others : &request->buffers;
    /* those that were under way in another life are not to wait */
    if (any_under_way(dev) && vq->kick_fd >= 0 && !vq->resubmit_list) {
        flags |= MEMSWAP_CLIENT_BOUNDED;
    }
    for (unsigned int i = 0; i < n && !ret; i++) {
        ret = pin_present(dev, iov[i].iov_base, iov[i].iov_len, held);
    }
    if (!ret) {
        /* most often there are several, here and there: one question */
        ret = memswap_pin_absent(dev->memswap->pins, flags, held);
    }
    if (!ret && held == &others &&
        !move_held(&request->buffers, &others)) {
        ret = -ENOMEM;
    }
    if (ret) {
        memswap_unpin_held(held);
    }
    free(others.parts);
    if (ret) {
        queue->waits = ret == -ENOBUFS && (flags & MEMSWAP_CLIENT_BOUNDED);
        return false;
    }
    request->under_way++;
    request->life = queue->life;
    queue->under_way++;
    return true;
}

bool vu_memswap_waits(VuDev *dev, VuVirtq *vq)
{
    return dev->memswap && queue_of(dev, vq)->waits;
}

/* There is room, perhaps: have those that wait popped. */
static void kick_waiting(VuDev *dev)
{
    for (unsigned int i = 0; i < dev->max_queues; i++) {
        Queue *queue = &dev->memswap->queues[i];

        if (queue->waits) {
            queue->waits = false;
            if (dev->vq[i].kick_fd >= 0) {
                /* it fails only if it is kicked already */
                eventfd_write(dev->vq[i].kick_fd, 1);
            }
        }
    }
}

void vu_memswap_unpin_buffers(VuDev *dev, VuVirtq *vq, unsigned int head)
{
    Request *request;

    if (!dev->memswap || head >= VIRTQUEUE_MAX_SIZE) {
        return;
    }
    request = &queue_of(dev, vq)->requests[head];
    if (request->under_way) {
        request->under_way--;
        queue_of(dev, vq)->under_way--;
        if (!request->under_way) {
            memswap_unpin_held(&request->buffers);
        }
        kick_waiting(dev);
    }
}

void vu_queue_drop(VuDev *dev, VuVirtq *vq, const VuVirtqElement *elem)
{
    vu_memswap_unpin_buffers(dev, vq, elem->index);
}

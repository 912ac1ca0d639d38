/*
 * memswap for backends on libvhost-user: what is pinned, and for how long
 *
 * docs/interop/vhost-user-memswap.rst has the rules.  libvhost-user calls this
 * in few places; it is built as a part of it.
 *
 * - Buffers are pinned when a request is popped, and unpinned when it is put
 *   into the used ring, or given back.  Devices change the request's iovecs
 *   meanwhile, so what is pinned is noted apart from them.
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
 * A guest that gives a descriptor again, which the used ring didn't name since,
 * fails.  That is not to say that one request at a time has it: after a reset
 * requests from before go on, and so the guest may be told that the descriptor
 * is used when it is one of those that has ended.  Each has its own pins.
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

/* There are as many as ever were under way together: seldom a new one. */
typedef struct VuMemswapRequest {
    MemswapHeldPins buffers;
    struct VuMemswapRequest *next;      /* of all */
    struct VuMemswapRequest *next_idle; /* of those that are not under way */
} Request;

typedef struct Queue {
    bool stopped;
    bool waits;                 /* its next request, for others to end */
    unsigned int under_way;     /* requests that are */
    MemswapHeldPins rings;
    Request *all, *idle;
    /* whom the guest gave this head, without having it back */
    const Request *given[VIRTQUEUE_MAX_SIZE];
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
        while (queue->all) {
            Request *request = queue->all;

            queue->all = request->next;
            memswap_unpin_held(&request->buffers);
            free(request->buffers.parts);
            free(request);
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
        Queue *queue = queue_of(dev, vq);

        queue->stopped = true;
        /* the guest has all of them back */
        memset(queue->given, 0, sizeof(queue->given));
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

/* Of so many, with at most 4 GiB each, it can't overflow. */
static uint64_t bytes_of(const struct iovec *iov, unsigned int n)
{
    uint64_t bytes = 0;

    for (unsigned int i = 0; i < n; i++) {
        bytes += iov[i].iov_len;
    }
    return bytes;
}

/* More than there is of memory: for the same pages again and again. */
static bool too_large(VuDev *dev, const VuVirtqElement *elem)
{
    uint64_t all = 0;

    for (unsigned int i = 0; i < dev->nregions; i++) {
        all += dev->regions[i].size;
    }
    return bytes_of(elem->out_sg, elem->out_num) +
           bytes_of(elem->in_sg, elem->in_num) > all;
}

static int pin_present_all(VuDev *dev, const struct iovec *iov, unsigned int n,
                           MemswapHeldPins *held)
{
    int ret = 0;

    for (unsigned int i = 0; i < n && !ret; i++) {
        ret = pin_present(dev, iov[i].iov_base, iov[i].iov_len, held);
    }
    return ret;
}

/*
 * One that is not under way, to be found as such until it is.  NULL: no memory;
 * or those from before resets are too many, as no queue has room for them.
 */
static Request *idle_request(Queue *queue)
{
    Request *request = queue->idle;

    if (!request && queue->under_way < VIRTQUEUE_MAX_SIZE) {
        request = calloc(1, sizeof(*request));
        if (request) {
            request->next = queue->all;
            queue->all = queue->idle = request;
        }
    }
    return request;
}

bool vu_memswap_pin_buffers(VuDev *dev, VuVirtq *vq, VuVirtqElement *elem)
{
    uint32_t flags = MEMSWAP_CLIENT_BOUNDED_OWN;
    MemswapHeldPins *held;
    Request *request;
    Queue *queue;
    int ret;

    elem->memswap = NULL;
    if (!dev->memswap) {
        return true;
    }
    if (elem->index >= VIRTQUEUE_MAX_SIZE) {
        return false;
    }
    queue = queue_of(dev, vq);
    queue->waits = false;
    if (queue->given[elem->index] || too_large(dev, elem)) {
        return false;
    }
    request = idle_request(queue);
    if (!request) {
        return false;
    }
    held = &request->buffers;
    /* those that were under way in another life are not to wait */
    if (any_under_way(dev) && vq->kick_fd >= 0 && !vq->resubmit_list) {
        flags |= MEMSWAP_CLIENT_BOUNDED;
    }
    ret = pin_present_all(dev, elem->out_sg, elem->out_num, held) ?:
          pin_present_all(dev, elem->in_sg, elem->in_num, held);
    if (!ret) {
        /* most often there are several, here and there: one question */
        ret = memswap_pin_absent(dev->memswap->pins, flags, held);
    }
    if (ret) {
        memswap_unpin_held(held);
        queue->waits = ret == -ENOBUFS && (flags & MEMSWAP_CLIENT_BOUNDED);
        return false;
    }
    queue->idle = request->next_idle;
    queue->given[elem->index] = request;
    queue->under_way++;
    elem->memswap = request;
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

static void unpin_buffers(VuDev *dev, VuVirtq *vq, Request *request)
{
    Queue *queue = queue_of(dev, vq);

    memswap_unpin_held(&request->buffers);
    request->next_idle = queue->idle;
    queue->idle = request;
    queue->under_way--;
    kick_waiting(dev);
}

void vu_memswap_used(VuDev *dev, VuVirtq *vq, const VuVirtqElement *elem)
{
    if (dev->memswap && elem->memswap) {
        /* perhaps it was given another: the guest can't know */
        queue_of(dev, vq)->given[elem->index] = NULL;
        unpin_buffers(dev, vq, elem->memswap);
    }
}

void vu_queue_drop(VuDev *dev, VuVirtq *vq, const VuVirtqElement *elem)
{
    if (dev->memswap && elem->memswap) {
        const Request **given = &queue_of(dev, vq)->given[elem->index];

        if (*given == elem->memswap) {
            *given = NULL;
        }
        unpin_buffers(dev, vq, elem->memswap);
    }
}

/*
 * Something done at an exact point of the engine's work
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "meeting.h"

/* Returns whether this is when they meet. */
static bool meet(Meeting *meeting)
{
    if (atomic_fetch_add(&meeting->met, 1)) {
        return false;
    }
    meeting->task = task_start(meeting->h, meeting->function, meeting->page);
    if (meeting->faults) {
        harness_wait_fault(meeting->h);
        harness_handle(meeting->h);
    }
    task_check_waits(meeting->task);
    return true;
}

int meeting_before(void *opaque, InjectCall call, uint64_t where,
                   size_t *size)
{
    Meeting *meeting = opaque;

    if (call == meeting->at && !meeting->after && meet(meeting)) {
        return meeting->error;
    }
    return 0;
}

void meeting_after(void *opaque, InjectCall call, uint64_t where,
                   size_t size, int error)
{
    Meeting *meeting = opaque;

    if (call == meeting->at && meeting->after) {
        meet(meeting);
    }
}

void meeting_in_store(FakeStore *store, void *opaque)
{
    meet(opaque);
}

static void act_once(Once *once, InjectCall call, bool after)
{
    if (call == once->at && after == once->after && !once->done) {
        once->done = true;
        once->act(once);
    }
}

int once_before(void *opaque, InjectCall call, uint64_t where, size_t *size)
{
    act_once(opaque, call, false);
    return 0;
}

void once_after(void *opaque, InjectCall call, uint64_t where, size_t size,
                int error)
{
    act_once(opaque, call, true);
}

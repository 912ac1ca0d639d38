/*
 * Something done at an exact point of the engine's work
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_MEETING_H
#define TEST_MEETING_H

#include "harness.h"

/*
 * In the middle of the engine's work on a page, somebody else wants it, and
 * has to wait.  Happens once.
 */
typedef struct Meeting {
    Harness *h;
    uint64_t page;
    TaskFunction *function; /* what the other does with the page */
    bool faults;            /* by touching it; resolved by hand */
    InjectCall at;          /* with MEETING_HOOKS */
    bool after;             /* the call, not before it */
    int error;              /* what the call gives: a negative errno */
    Task *task;             /* NULL until they have met */
    _Atomic unsigned int met;   /* how often the engine came there */
} Meeting;

int meeting_before(void *opaque, InjectCall call, uint64_t where,
                   size_t *size);
void meeting_after(void *opaque, InjectCall call, uint64_t where,
                   size_t size, int error);
#define MEETING_HOOKS(meeting) { \
    .before = meeting_before, .after = meeting_after, .opaque = meeting \
}
/* A hook of the store's, with the meeting for its opaque. */
void meeting_in_store(FakeStore *store, void *opaque);

/* Anything else, done by the thread that makes the call.  Happens once. */
typedef struct Once {
    Harness *h;
    InjectCall at;
    bool after;
    void (*act)(struct Once *once);
    bool done;              /* false again: to be done at the next call */
    Task *task;             /* these two are the test's */
    uint64_t number;
} Once;

int once_before(void *opaque, InjectCall call, uint64_t where, size_t *size);
void once_after(void *opaque, InjectCall call, uint64_t where, size_t size,
                int error);
#define ONCE_HOOKS(once) { \
    .before = once_before, .after = once_after, .opaque = once \
}

#endif /* TEST_MEETING_H */

/*
 * A store that does what a test says
 *
 * It keeps plain copies, counts every call, and can refuse, damage, and stop
 * in the middle.  A handle is never used twice, so one that is fetched or
 * dropped after it was dropped aborts the test.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_FAKE_STORE_H
#define TEST_FAKE_STORE_H

#include <glib.h>
#include <stdatomic.h>

#include "store.h"

typedef struct FakeStore FakeStore;

/* Runs in the thread that calls the store, with no lock held. */
typedef void FakeStoreHook(FakeStore *store, void *opaque);

struct FakeStore {
    MemswapStore store;

    /* Set by the test at any time. */
    _Atomic int put_error;      /* what put() returns instead of storing */
    _Atomic int get_error;      /* what get() returns instead of content */
    _Atomic uint64_t limit;     /* bytes; put() beyond it gives -ENOSPC */
    _Atomic uint64_t untidy;    /* by what maintain() raises the limit */
    _Atomic int codec;
    _Atomic bool hurry;
    /* Handles below this are slow to get, so it says. */
    _Atomic uint64_t slow_below;
    void *opaque;               /* set before the hooks that want it */
    _Atomic(FakeStoreHook *) before_put;
    _Atomic(FakeStoreHook *) before_get;
    _Atomic(FakeStoreHook *) before_drop;

    /* Calls that succeeded. */
    _Atomic unsigned int puts, gets, drops;
    _Atomic unsigned int configures;
    _Atomic uint64_t live_bytes;    /* put and not dropped yet */
    uint64_t last_owner;        /* of the last put */
    bool *freed;                /* set when the engine frees the store */

    GMutex lock;
    GPtrArray *copies;          /* of GBytes by handle; NULL once dropped */
};

/* Its next handle. */
uint64_t fake_store_next(FakeStore *store);
/* Owned by the engine that it is given to. */
FakeStore *fake_store_new(void);
/* Copies put and not dropped yet. */
unsigned int fake_store_live(FakeStore *store);

#endif /* TEST_FAKE_STORE_H */

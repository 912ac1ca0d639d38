/*
 * A store that does what a test says
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>

#include "fake-store.h"

/* Handles start here: zero would look like none. */
#define FIRST_HANDLE 1000

static GBytes *copy_of(FakeStore *store, uint64_t handle)
{
    GBytes *copy = NULL;

    g_mutex_lock(&store->lock);
    if (handle >= FIRST_HANDLE && handle - FIRST_HANDLE < store->copies->len) {
        copy = g_ptr_array_index(store->copies, handle - FIRST_HANDLE);
        if (copy) {
            g_bytes_ref(copy);
        }
    }
    g_mutex_unlock(&store->lock);
    if (!copy) {
        g_error("fake store: no copy under handle %" G_GUINT64_FORMAT, handle);
    }
    return copy;
}

static int fake_put(MemswapStore *opaque, const void *data, size_t size,
                    uint64_t owner, uint64_t *handle)
{
    FakeStore *store = (FakeStore *)opaque;
    FakeStoreHook *hook = atomic_load(&store->before_put);
    int error;

    if (hook) {
        hook(store, store->opaque);
    }
    error = atomic_load(&store->put_error);
    if (error) {
        return error;
    }
    if (atomic_load(&store->live_bytes) + size > atomic_load(&store->limit)) {
        return -ENOSPC;
    }
    g_mutex_lock(&store->lock);
    *handle = FIRST_HANDLE + store->copies->len;
    g_ptr_array_add(store->copies, g_bytes_new(data, size));
    store->last_owner = owner;
    g_mutex_unlock(&store->lock);
    atomic_fetch_add(&store->puts, 1);
    atomic_fetch_add(&store->live_bytes, size);
    return 0;
}

static int fake_get(MemswapStore *opaque, uint64_t handle, void *buffer,
                    size_t size)
{
    FakeStore *store = (FakeStore *)opaque;
    FakeStoreHook *hook;
    int error = atomic_load(&store->get_error);
    GBytes *copy = copy_of(store, handle);

    hook = atomic_load(&store->before_get);
    if (hook) {
        hook(store, store->opaque);
    }
    g_assert_cmpuint(g_bytes_get_size(copy), ==, size);
    if (!error) {
        memcpy(buffer, g_bytes_get_data(copy, NULL), size);
        atomic_fetch_add(&store->gets, 1);
    }
    g_bytes_unref(copy);
    return error;
}

static bool fake_same(MemswapStore *opaque, uint64_t handle, const void *data,
                      size_t size)
{
    FakeStore *store = (FakeStore *)opaque;
    GBytes *copy = copy_of(store, handle);
    bool same = g_bytes_get_size(copy) == size &&
                !memcmp(g_bytes_get_data(copy, NULL), data, size);

    g_bytes_unref(copy);
    return same;
}

static bool fake_slow(MemswapStore *opaque, uint64_t handle)
{
    FakeStore *store = (FakeStore *)opaque;

    return handle < atomic_load(&store->slow_below);
}

static void fake_drop(MemswapStore *opaque, uint64_t handle)
{
    FakeStore *store = (FakeStore *)opaque;
    GBytes *copy = copy_of(store, handle);
    FakeStoreHook *hook;

    hook = atomic_load(&store->before_drop);
    if (hook) {
        hook(store, store->opaque);
    }
    g_mutex_lock(&store->lock);
    g_ptr_array_index(store->copies, handle - FIRST_HANDLE) = NULL;
    g_mutex_unlock(&store->lock);
    atomic_fetch_add(&store->drops, 1);
    atomic_fetch_sub(&store->live_bytes, g_bytes_get_size(copy));
    g_bytes_unref(copy);
    g_bytes_unref(copy);
}

static bool fake_maintain(MemswapStore *opaque)
{
    FakeStore *store = (FakeStore *)opaque;
    uint64_t untidy = atomic_exchange(&store->untidy, 0);

    atomic_fetch_add(&store->limit, untidy);
    return untidy > 0;
}

static void fake_configure(MemswapStore *opaque, uint64_t limit,
                           MemswapCodec codec, int compression_level)
{
    FakeStore *store = (FakeStore *)opaque;

    atomic_store(&store->limit, limit);
    atomic_store(&store->codec, codec);
    atomic_fetch_add(&store->configures, 1);
}

static void fake_set_hurry(MemswapStore *opaque, bool hurry)
{
    atomic_store(&((FakeStore *)opaque)->hurry, hurry);
}

static void fake_get_stats(MemswapStore *opaque, MemswapStoreStats *stats)
{
    FakeStore *store = (FakeStore *)opaque;

    *stats = (MemswapStoreStats) { .segments = fake_store_live(store) };
}

static void fake_free(MemswapStore *opaque)
{
    FakeStore *store = (FakeStore *)opaque;

    for (guint i = 0; i < store->copies->len; i++) {
        if (g_ptr_array_index(store->copies, i)) {
            g_bytes_unref(g_ptr_array_index(store->copies, i));
        }
    }
    if (store->freed) {
        *store->freed = true;
    }
    g_ptr_array_unref(store->copies);
    g_mutex_clear(&store->lock);
    g_free(store);
}

FakeStore *fake_store_new(void)
{
    static const MemswapStoreOps ops = {
        .put = fake_put,
        .get = fake_get,
        .same = fake_same,
        .slow = fake_slow,
        .drop = fake_drop,
        .maintain = fake_maintain,
        .configure = fake_configure,
        .set_hurry = fake_set_hurry,
        .get_stats = fake_get_stats,
        .free = fake_free,
    };
    FakeStore *store = g_new0(FakeStore, 1);

    store->store.ops = &ops;
    store->limit = UINT64_MAX;
    g_mutex_init(&store->lock);
    store->copies = g_ptr_array_new();
    return store;
}

unsigned int fake_store_live(FakeStore *store)
{
    return atomic_load(&store->puts) - atomic_load(&store->drops);
}

uint64_t fake_store_next(FakeStore *store)
{
    uint64_t next;

    g_mutex_lock(&store->lock);
    next = FIRST_HANDLE + store->copies->len;
    g_mutex_unlock(&store->lock);
    return next;
}

/*
 * A policy's thread: hands it what happened, and sleeps
 *
 * It is woken by the first event after it found its ring empty, but for those
 * that it calls quiet, and by nothing else that others do in the middle of a
 * fault.  Timers, trials to be looked
 * at and the host's pressure end its sleep by time.
 *
 * A reclaimer that sleeps is armed, and counts among the evictors that do:
 * memswap_charge() then asks it for room when there is less than reserve_low.
 * While it works there is nothing to ask.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <stdio.h>

#include "futex.h"
#include "policy-internal.h"

/* Events handled before timers, options and so on have their turn. */
#define TURN_EVENTS 64
/* How often host memory pressure is sampled. */
#define PRESSURE_NS 1000000000LL
/* How long to leave a reclaimer alone that found nothing to take. */
#define ROOM_REST_MIN_NS 1000000
#define ROOM_REST_MAX_NS 100000000
/* How long to wait for who has begun to add an event. */
#define UNFINISHED_NS 1000000

void memswap_policy_poke(MemswapPolicyHost *host)
{
    atomic_fetch_add(&host->wake, 1);
    memswap_futex_wake(&host->wake);
}

static bool is_up(MemswapPolicyHost *host)
{
    return atomic_load(&host->phase) == POLICY_UP;
}

/* Around all calls of its code: for the watch. */
static void call_begin(MemswapPolicyHost *host)
{
    int64_t now = memswap_policy_call_time();

    atomic_store(&host->called_at, now);
    atomic_store(&host->busy_since, now);
}

static void call_end(MemswapPolicyHost *host)
{
    atomic_store(&host->busy_since, 0);
    atomic_store(&host->called_at, 0);
}

bool memswap_policy_deliver(MemswapPolicyHost *host,
                            const MemswapPolicyEvent *event)
{
    memswap_count(host->n_events, 1);
    memswap_policy_leave(host);
    call_begin(host);
    host->ops->event(host->self, event);
    call_end(host);
    return memswap_policy_enter(host);
}

static void call_stop(MemswapPolicyHost *host)
{
    if (host->ops->stop) {
        call_begin(host);
        host->ops->stop(host->self);
        call_end(host);
    }
}

static int call_set(MemswapPolicyHost *host, const char *name,
                    const char *value)
{
    int ret = -ENOENT;

    if (host->ops->set) {
        call_begin(host);
        ret = host->ops->set(host->self, name, value);
        call_end(host);
    }
    return ret;
}

/* An option that somebody waits for. */
static bool serve_setting(MemswapPolicyHost *host)
{
    GMutex *lock = &host->engine->policies.lock;
    g_autofree char *name = NULL;
    g_autofree char *value = NULL;

    if (!atomic_load(&host->set_waits)) {
        return true;
    }
    g_mutex_lock(lock);
    name = g_strdup(host->setting.name);
    value = g_strdup(host->setting.value);
    host->setting.name = host->setting.value = NULL;
    g_mutex_unlock(lock);
    if (name) {
        int ret;

        memswap_policy_leave(host);
        ret = call_set(host, name, value);
        if (!memswap_policy_enter(host)) {
            return false;
        }
        host->setting.result = ret;
        /* who waits may be slow to see it, and events have their turn again */
        atomic_store(&host->set_waits, false);
        atomic_store(&host->set_done, 1);
        memswap_futex_wake(&host->set_done);
    }
    return true;
}

/* What there is to wait for next, as far as time goes. */
static void sooner(int64_t *next, int64_t due)
{
    if (!*next || due < *next) {
        *next = due;
    }
}

static bool serve_timer(MemswapPolicyHost *host, int64_t now, int64_t *next)
{
    if (host->timer && host->timer <= now) {
        MemswapPolicyEvent event = {
            .kind = MEMSWAP_POLICY_TIMER,
            .time = memswap_now(host->engine),
        };

        host->timer = 0;
        if (!memswap_policy_deliver(host, &event)) {
            return false;
        }
    }
    if (host->timer) {
        sooner(next, host->timer);
    }
    return true;
}

static bool serve_looks(MemswapPolicyHost *host, int64_t now, int64_t *next)
{
    for (guint i = host->looks->len; i-- > 0;) {
        PolicyLook look = g_array_index(host->looks, PolicyLook, i);
        MemswapBlock *block;

        if (look.due > now) {
            sooner(next, look.due);
            continue;
        }
        if (memswap_ring_half_full(&host->ring)) {
            /* after these events; room is to be left for others' */
            sooner(next, now);
            break;
        }
        g_array_remove_index_fast(host->looks, i);
        block = memswap_block_get(host->engine, look.block);
        if (block && look.region < block->n_regions) {
            memswap_policy_look(block, look.region, host);
        }
        if (block) {
            memswap_block_unref(block);
        }
    }
    return true;
}

/* Where the kernel has no PSI there is no pressure to tell of. */
static bool read_pressure(uint64_t *some_us, uint64_t *full_us)
{
    FILE *file = fopen("/proc/pressure/memory", "re");
    unsigned long long some, full;
    bool ok;

    if (!file) {
        return false;
    }
    ok = fscanf(file, "some avg10=%*f avg60=%*f avg300=%*f total=%llu\n",
                &some) == 1 &&
         fscanf(file, "full avg10=%*f avg60=%*f avg300=%*f total=%llu\n",
                &full) == 1;
    fclose(file);
    *some_us = ok ? some : 0;
    *full_us = ok ? full : 0;
    return ok;
}

static bool serve_pressure(MemswapPolicyHost *host, int64_t now,
                           int64_t *next)
{
    uint64_t some, full;

    if (!memswap_policy_hears(host, MEMSWAP_POLICY_PRESSURE)) {
        return true;
    }
    if (now >= host->sampled + PRESSURE_NS && read_pressure(&some, &full)) {
        MemswapPolicyEvent event = {
            .kind = MEMSWAP_POLICY_PRESSURE,
            .time = memswap_now(host->engine),
            .pressure = {
                .interval_ns = now - host->sampled,
                .some_ns = (some - host->some_us) * 1000,
                .full_ns = (full - host->full_us) * 1000,
            },
        };
        bool first = !host->sampled;

        host->some_us = some;
        host->full_us = full;
        host->sampled = now;
        if (!first && !memswap_policy_deliver(host, &event)) {
            return false;
        }
    }
    sooner(next, MAX(now, host->sampled) + PRESSURE_NS);
    return true;
}

static bool short_of_room(MemswapEngine *engine)
{
    return memswap_excess(engine, atomic_load(&engine->reserve_low)) > 0;
}

/* Be asked for room from now on.  False if there is reason to already. */
static bool arm(MemswapPolicyHost *host)
{
    MemswapEngine *engine = host->engine;
    MemswapPolicies *policies = &engine->policies;

    g_mutex_lock(&policies->lock);
    if (atomic_load(&policies->reclaimer) == host &&
        !atomic_load(&policies->armed)) {
        atomic_store(&policies->armed, true);
        atomic_fetch_add(&engine->sleepers, 1);
    }
    g_mutex_unlock(&policies->lock);
    /* memswap_charge() looks for sleepers after it has charged */
    return !short_of_room(engine);
}

static void disarm(MemswapPolicyHost *host)
{
    MemswapEngine *engine = host->engine;

    if (atomic_exchange(&engine->policies.armed, false)) {
        atomic_fetch_sub(&engine->sleepers, 1);
    }
}

static bool serve_room(MemswapPolicyHost *host, int64_t now, int64_t *next)
{
    MemswapEngine *engine = host->engine;
    MemswapPolicyEvent event = { .kind = MEMSWAP_POLICY_ROOM };
    uint64_t evictions;

    if (!memswap_policy_hears(host, MEMSWAP_POLICY_ROOM) ||
        atomic_load(&engine->policies.reclaimer) != host) {
        return true;
    }
    if (!short_of_room(engine)) {
        host->room_rest = 0;
        if (arm(host)) {
            return true;
        }
    }
    disarm(host);
    if (host->room_rest && now < host->room_due) {
        sooner(next, host->room_due);
        return true;
    }
    evictions = atomic_load(&engine->evictions);
    event.time = memswap_now(engine);
    memswap_policy_fill_room(engine, &event.room);
    if (!memswap_policy_deliver(host, &event)) {
        return false;
    }
    if (atomic_load(&engine->evictions) != evictions) {
        host->room_rest = 0;
        sooner(next, now);
    } else {
        host->room_rest = CLAMP(2 * host->room_rest, ROOM_REST_MIN_NS,
                                ROOM_REST_MAX_NS);
        host->room_due = memswap_policy_real_time() + host->room_rest;
        sooner(next, host->room_due);
    }
    return true;
}

static bool serve_choose(MemswapPolicyHost *host, int64_t now, int64_t *next)
{
    int64_t due;

    if (!memswap_policy_serve_choose(host, now, &due)) {
        return false;
    }
    if (due) {
        sooner(next, due);
    }
    return true;
}

/*
 * Let events gather, so that they don't wake us one by one.  For nothing else:
 * who poked since @seen was, or will, is not to wait for it, nor what is due
 * at @next, and none is to be lost for it.
 */
static void gather(MemswapPolicyHost *host, uint32_t seen, int64_t next)
{
    int64_t timeout = (int64_t)host->ops->delay_us * 1000;

    if (next) {
        timeout = MIN(timeout, next - memswap_policy_real_time());
    }
    if (timeout <= 0) {
        return;
    }
    /* who adds an event looks at gathers afterwards */
    atomic_store(&host->gathers, true);
    if (!memswap_ring_half_full(&host->ring) && is_up(host)) {
        memswap_futex_wait(&host->wake, seen, timeout);
    }
    atomic_store(&host->gathers, false);
}

static void rest(MemswapPolicyHost *host, uint32_t seen, int64_t next)
{
    int64_t timeout = -1;

    if (next) {
        timeout = next - memswap_policy_real_time();
        if (timeout <= 0) {
            return;
        }
    }
    /* who adds an event looks at asleep afterwards */
    atomic_store(&host->asleep, true);
    if (memswap_ring_empty(&host->ring) && is_up(host)) {
        /*
         * Behind one that isn't finished others may be, who woke us in vain;
         * and who finishes it may add what is quiet, and wake nobody.
         */
        if (memswap_ring_used(&host->ring) &&
            (timeout < 0 || timeout > UNFINISHED_NS)) {
            timeout = UNFINISHED_NS;
        }
        memswap_futex_wait(&host->wake, seen, timeout);
    }
    atomic_store(&host->asleep, false);
}

/*
 * What came in, then what time brought; false if it was given up.  Events may
 * come faster than they are handled, so the others don't wait for the last.
 */
static bool serve(MemswapPolicyHost *host, int64_t *next, bool *any)
{
    unsigned int left = TURN_EVENTS;
    MemswapPolicyEvent event;
    int64_t now;

    *any = false;
    while (left-- && is_up(host) && memswap_ring_get(&host->ring, &event)) {
        *any = true;
        if (!memswap_policy_deliver(host, &event)) {
            return false;
        }
        if (atomic_load(&host->set_waits)) {
            /* it has waited for the one already */
            break;
        }
    }
    now = memswap_policy_real_time();
    return serve_setting(host) && serve_timer(host, now, next) &&
           serve_looks(host, now, next) && serve_pressure(host, now, next) &&
           serve_choose(host, now, next) && serve_room(host, now, next);
}

static void run(MemswapPolicyHost *host)
{
    while (is_up(host)) {
        uint32_t seen = atomic_load(&host->wake);
        int64_t next = 0;
        bool any;

        if (!memswap_policy_enter(host) || !serve(host, &next, &any)) {
            return;
        }
        memswap_policy_leave(host);
        if (any && memswap_ring_empty(&host->ring)) {
            gather(host, seen, next);
        }
        if (is_up(host)) {
            rest(host, seen, next);
        }
    }
}

/* 0, or a negative errno with host->why set. */
static int find_place(MemswapPolicyHost *host)
{
    MemswapPolicyHost *other;
    bool busy;

    if (memswap_policy_is_default(host) &&
        host->ops->roles != MEMSWAP_POLICY_RECLAIMER) {
        host->why = g_strdup("it does more than to reclaim");
        return -EINVAL;
    }
    if (!memswap_policy_enter(host)) {
        return -ESHUTDOWN;
    }
    /* not freed while one is added; the default one makes way */
    other = atomic_load(&host->engine->policies.reclaimer);
    busy = (host->ops->roles & MEMSWAP_POLICY_RECLAIMER) && other &&
           !memswap_policy_is_default(other);
    memswap_policy_leave(host);
    if (busy) {
        host->why = g_strdup("there is a reclaimer already");
        return -EBUSY;
    }
    return 0;
}

static int start(MemswapPolicyHost *host)
{
    int ret;

    call_begin(host);
    ret = memswap_policy_load(host);
    call_end(host);
    if (ret) {
        return ret;
    }
    ret = find_place(host);
    if (ret) {
        return ret;
    }
    call_begin(host);
    ret = host->ops->start(&memswap_policy_host_ops, host, &host->self);
    call_end(host);
    if (ret) {
        host->why = g_strdup_printf("it did not start: %s",
                                    g_strerror(-ret));
        return ret;
    }
    for (unsigned int i = 0; i < host->n_options && !ret; i++) {
        const MemswapPolicyOption *option = &host->options[i];

        ret = call_set(host, option->name, option->value);
        if (ret) {
            host->why = g_strdup_printf("option '%s': %s", option->name,
                                        ret == -ENOENT ? "there is none" :
                                        g_strerror(-ret));
        }
    }
    if (ret) {
        call_stop(host);
    }
    return ret;
}

gpointer memswap_policy_thread(gpointer opaque)
{
    MemswapPolicyHost *host = opaque;
    uint32_t phase = POLICY_LOADING;

    host->self_thread = pthread_self();
    host->error = start(host);
    if (!host->error) {
        if (atomic_compare_exchange_strong(&host->phase, &phase,
                                           POLICY_UP)) {
            memswap_futex_wake(&host->phase);
            run(host);
        }
        /* one that was given up may end as well, if it returned after all */
        call_stop(host);
        phase = POLICY_STOPPING;
    }
    if (atomic_compare_exchange_strong(&host->phase, &phase, POLICY_DOWN)) {
        memswap_futex_wake(&host->phase);
    }
    memswap_policy_release(host);
    return NULL;
}

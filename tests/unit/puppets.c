/*
 * Policies for tests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <dlfcn.h>
#include <string.h>

#include "policy-internal.h"
#include "puppets.h"

char *puppet_path(const char *name)
{
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *directory = g_path_get_dirname(self);

    return g_strdup_printf("%s/policy-%s.so", directory, name);
}

int puppet_try(Harness *h, const char *id, const char *name, char **error)
{
    g_autofree char *path = puppet_path(name);
    MemswapPolicyConfig config = { .id = id, .path = path };

    return memswap_policy_add(h->engine, &config, error);
}

void puppet_add(Harness *h, const char *id, const char *name)
{
    char *error = NULL;

    if (puppet_try(h, id, name, &error)) {
        g_error("%s: %s", name, error);
    }
}

void builtin_add(Harness *h, const char *id, const char *name)
{
    MemswapPolicyConfig config = { .id = id, .builtin = name };
    char *error = NULL;

    if (memswap_policy_add(h->engine, &config, &error)) {
        g_error("%s: %s", name, error);
    }
}

MemswapPolicyHost *puppet_host(Harness *h, const char *id)
{
    for (unsigned int i = 0; i < MEMSWAP_POLICY_SLOTS; i++) {
        MemswapPolicyHost *host = atomic_load(&h->engine->policies.slots[i]);

        if (host && !strcmp(host->id, id)) {
            return host;
        }
    }
    return NULL;
}

void puppet_settle(Harness *h, const char *id)
{
    MemswapPolicyHost *host = puppet_host(h, id);

    harness_settle(h);
    g_assert_nonnull(host);
    if (!memswap_ring_empty(&host->ring)) {
        /* what is quiet waits for that */
        memswap_policy_poke(host);
    }
    wait_until(memswap_ring_empty(&host->ring) &&
               !memswap_policy_choose_waits(host) &&
               atomic_load(&host->asleep));
}

void puppet_wait_busy(Harness *h, const char *id)
{
    MemswapPolicyHost *host = puppet_host(h, id);

    g_assert_nonnull(host);
    wait_until(atomic_load(&host->busy_since));
}

MemswapPolicyStatus puppet_status(Harness *h, const char *id)
{
    g_autofree MemswapPolicyStatus *list = NULL;
    unsigned int n;

    puppet_settle(h, id);
    list = memswap_policy_list(h->engine, &n);
    for (unsigned int i = 0; i < n; i++) {
        if (!strcmp(list[i].id, id)) {
            return list[i];
        }
    }
    g_error("there is no policy %s", id);
}

uint64_t puppet_counter(Harness *h, const char *id, const char *name)
{
    MemswapPolicyStatus status = puppet_status(h, id);

    for (unsigned int i = 0; i < status.n_counters; i++) {
        if (!strcmp(status.counters[i].name, name)) {
            return status.counters[i].value;
        }
    }
    return 0;
}

int64_t puppet_ask(Harness *h, const char *id, const char *request,
                   const char *format, ...)
{
    g_autofree char *value = NULL;
    g_autofree char *error = NULL;
    va_list args;

    va_start(args, format);
    value = g_strdup_vprintf(format, args);
    va_end(args);
    if (memswap_policy_set(h->engine, id, request, value, &error)) {
        g_error("%s %s: %s", request, value, error);
    }
    return puppet_counter(h, id, "result");
}

void puppet_budget(Harness *h, int64_t requests)
{
    atomic_store(&h->engine->policies.requests_per_s, requests);
}

void *puppet_symbol(const char *name, const char *symbol)
{
    g_autofree char *path = puppet_path(name);
    void *object = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    void *found = object ? dlsym(object, symbol) : NULL;

    g_assert_nonnull(found);
    return found;
}

/*
 * Tests of policies: how they are loaded, and the ring that tells them of
 * things
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

#include <glib/gstdio.h>

#include "policy-internal.h"
#include "puppets.h"

/* How long one that hangs may take here. */
#define SHORT_NS 1000000000LL

/* --- the ring ---------------------------------------------------------- */

#define RING_PRODUCERS 3
#define RING_EVENTS 100000

typedef struct RingTest {
    MemswapRing ring;
    _Atomic uint64_t put;
    _Atomic uint32_t numbers;
} RingTest;

static gpointer produce(gpointer opaque)
{
    RingTest *test = opaque;
    uint32_t self = atomic_fetch_add(&test->numbers, 1);

    for (uint64_t i = 1; i <= RING_EVENTS; i++) {
        MemswapPolicyEvent event = { .block = self, .page = i, .n = ~i };

        atomic_fetch_add(&test->put, memswap_ring_put(&test->ring, &event));
    }
    return NULL;
}

/* Nothing is torn, twice there, or out of order; what is lost is counted. */
static void test_ring(void)
{
    g_autofree RingTest *test = g_new0(RingTest, 1);
    uint64_t last[RING_PRODUCERS] = { 0 };
    GThread *threads[RING_PRODUCERS];
    MemswapPolicyEvent event;
    uint64_t got = 0;

    memswap_ring_init(&test->ring);
    for (int i = 0; i < RING_PRODUCERS; i++) {
        threads[i] = g_thread_new("producer", produce, test);
    }
    do {
        while (memswap_ring_get(&test->ring, &event)) {
            g_assert_cmpuint(event.block, <, RING_PRODUCERS);
            g_assert_cmpuint(event.page, >, last[event.block]);
            g_assert_cmpuint(event.n, ==, ~event.page);
            last[event.block] = event.page;
            got++;
        }
    } while (atomic_load(&test->put) + atomic_load(&test->ring.dropped) <
             RING_PRODUCERS * RING_EVENTS || !memswap_ring_empty(&test->ring));
    for (int i = 0; i < RING_PRODUCERS; i++) {
        g_thread_join(threads[i]);
    }
    g_assert_cmpuint(got, ==, atomic_load(&test->put));
    g_assert_cmpuint(got + atomic_load(&test->ring.dropped), ==,
                     RING_PRODUCERS * RING_EVENTS);
}

static void test_ring_full(void)
{
    g_autofree MemswapRing *ring = g_new0(MemswapRing, 1);
    MemswapPolicyEvent event = { 0 };

    memswap_ring_init(ring);
    for (unsigned int round = 0; round < 3; round++) {
        for (unsigned int i = 0; i < MEMSWAP_RING_SLOTS; i++) {
            event.page = i;
            g_assert_true(memswap_ring_put(ring, &event));
        }
        g_assert_false(memswap_ring_put(ring, &event));
        for (unsigned int i = 0; i < MEMSWAP_RING_SLOTS; i++) {
            g_assert_true(memswap_ring_get(ring, &event));
            g_assert_cmpuint(event.page, ==, i);
        }
        g_assert_false(memswap_ring_get(ring, &event));
    }
    g_assert_cmpuint(atomic_load(&ring->dropped), ==, 3);
}

/* --- loading ----------------------------------------------------------- */

static Harness *harness_small(void)
{
    return harness_new(&(HarnessOptions) { .size = 8 * MIB });
}

static void check_refused(Harness *h, const char *name, int expected,
                          const char *text)
{
    g_autofree char *error = NULL;
    g_autofree MemswapPolicyStatus *list = NULL;
    unsigned int n;

    g_assert_cmpint(puppet_try(h, "bad", name, &error), ==, expected);
    g_assert_nonnull(error);
    if (!strstr(error, text)) {
        g_error("%s: '%s' says nothing of '%s'", name, error, text);
    }
    list = memswap_policy_list(h->engine, &n);
    g_assert_cmpuint(n, ==, 0);
    g_assert_cmpuint(atomic_load(&h->engine->policies.wanted), ==, 0);
}

static void test_broken(void)
{
    Harness *h = harness_small();

    check_refused(h, "other-version", -EPROTONOSUPPORT, "version 2");
    check_refused(h, "no-entry", -ENOEXEC, "memswap_policy_entry");
    check_refused(h, "no-role", -ENOEXEC, "role");
    check_refused(h, "declines", -EPROTONOSUPPORT, "does not work");
    check_refused(h, "slow", -ENOEXEC, "gather");
    check_refused(h, "refuses", -5, "start");
    check_refused(h, "crash-loading", -ENOEXEC, "crashes");
    check_refused(h, "crash-entry", -ENOEXEC, "crashes");
    check_refused(h, "exit-loading", -ENOEXEC, "crashes");
    check_refused(h, "that-is-not-there", -ENOENT, "No such file");
    atomic_store(&h->engine->policies.patience, SHORT_NS);
    check_refused(h, "hang-loading", -ETIMEDOUT, "does not return");
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_POLICY_ERROR), ==, 0);
    /* all of it went on as before */
    write_pages(h, 0, 100);
    memswap_reclaim(h->engine, UINT64_MAX);
    check_pages(h, 0, 100);
    harness_free(h);
}

static void check_config(Harness *h, MemswapPolicyConfig config, int expected)
{
    g_autofree char *error = NULL;

    g_assert_cmpint(memswap_policy_add(h->engine, &config, &error), ==,
                    expected);
    g_assert_true(!error == !expected);
}

static void test_config(void)
{
    Harness *h = harness_small();
    MemswapPolicyOption window = { "window", "7" };
    MemswapPolicyOption bad = { "window", "many" };
    MemswapPolicyOption none = { "nonesuch", "7" };
    g_autofree char *error = NULL;
    g_autofree char *text = g_strdup("/proc/self/maps");

    check_config(h, (MemswapPolicyConfig) { .builtin = "linear" }, -EINVAL);
    check_config(h, (MemswapPolicyConfig) {
        .id = "", .builtin = "linear" }, -EINVAL);
    check_config(h, (MemswapPolicyConfig) {
        .id = "far-too-long-to-be-the-name-of-a-policy",
        .builtin = "linear" }, -EINVAL);
    check_config(h, (MemswapPolicyConfig) { .id = "a" }, -EINVAL);
    check_config(h, (MemswapPolicyConfig) {
        .id = "a", .builtin = "linear", .path = text }, -EINVAL);
    check_config(h, (MemswapPolicyConfig) {
        .id = "a", .builtin = "nonesuch" }, -ENOENT);
    check_config(h, (MemswapPolicyConfig) { .id = "a", .path = text },
                 -ENOEXEC);
    check_config(h, (MemswapPolicyConfig) {
        .id = "a", .builtin = "linear", .options = &bad, .n_options = 1,
    }, -EINVAL);
    check_config(h, (MemswapPolicyConfig) {
        .id = "a", .builtin = "linear", .options = &none, .n_options = 1,
    }, -ENOENT);
    check_config(h, (MemswapPolicyConfig) {
        .id = "a", .builtin = "linear", .options = &window, .n_options = 1,
    }, 0);
    check_config(h, (MemswapPolicyConfig) {
        .id = "a", .builtin = "linear" }, -EEXIST);
    check_config(h, (MemswapPolicyConfig) {
        .id = "b", .builtin = "limit" }, 0);
    check_config(h, (MemswapPolicyConfig) {
        .id = "c", .builtin = "limit" }, -EBUSY);

    g_assert_cmpint(memswap_policy_set(h->engine, "a", "window", "9", NULL),
                    ==, 0);
    g_assert_cmpint(memswap_policy_set(h->engine, "a", "window", "0", NULL),
                    ==, -EINVAL);
    g_assert_cmpint(memswap_policy_set(h->engine, "a", "door", "0", &error),
                    ==, -ENOENT);
    g_assert_nonnull(strstr(error, "'door'"));
    g_assert_cmpint(memswap_policy_set(h->engine, "x", "window", "1", NULL),
                    ==, -ENOENT);
    g_assert_cmpint(memswap_policy_set(h->engine, "x", NULL, NULL, NULL),
                    ==, -ENOENT);
    g_assert_cmpint(memswap_policy_set(h->engine, "a", NULL, NULL, NULL),
                    ==, 0);
    g_assert_cmpint(memswap_policy_remove(h->engine, "x", NULL), ==, -ENOENT);
    g_assert_cmpint(memswap_policy_remove(h->engine, "b", NULL), ==, 0);
    check_config(h, (MemswapPolicyConfig) {
        .id = "c", .builtin = "limit" }, 0);
    for (char id[] = "d"; *id < 'd' + MEMSWAP_MAX_POLICIES - 2; (*id)++) {
        check_config(h, (MemswapPolicyConfig) {
            .id = id, .builtin = "linear" }, 0);
    }
    check_config(h, (MemswapPolicyConfig) {
        .id = "last", .builtin = "linear" }, -ENOSPC);
    harness_free(h);
}

/* It names the file as it was given. */
static void test_load_error(void)
{
    Harness *h = harness_small();
    MemswapPolicyConfig config = { .id = "a", .path = "/proc/self/maps" };

    for (unsigned int i = 0; i < 3; i++) {
        g_autofree char *error = NULL;

        g_assert_cmpint(memswap_policy_add(h->engine, &config, &error), ==,
                        -ENOEXEC);
        if (!g_str_has_prefix(error, "policy 'a': /proc/self/maps: ")) {
            g_error("an error that names no file: %s", error);
        }
    }
    harness_free(h);
}

/* As one replaces a file, by another one under the same name. */
static void install(const char *path, const char *name)
{
    g_autofree char *from = puppet_path(name);
    g_autofree char *data = NULL;
    gsize size;

    g_assert_true(g_file_get_contents(from, &data, &size, NULL));
    g_unlink(path);
    g_assert_true(g_file_set_contents(path, data, size, NULL));
}

/* What is added is what is in the file, if another one can't be unloaded. */
static void test_replaced(void)
{
    Harness *h = harness_small();
    g_autofree char *directory = g_dir_make_tmp("policy-XXXXXX", NULL);
    g_autofree char *path = g_strdup_printf("%s/policy.so", directory);
    MemswapPolicyConfig config = { .id = "p", .path = path };
    _Atomic int *release;
    void *object;

    atomic_store(&h->engine->policies.patience, SHORT_NS);
    install(path, "puppet-prefetcher");
    check_config(h, config, 0);
    object = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    g_assert_nonnull(object);
    release = dlsym(object, "puppet_release");
    g_assert_cmpint(memswap_policy_set(h->engine, "p", "hang-now", "0",
                                       NULL), ==, -ETIMEDOUT);
    install(path, "puppet-observer");
    for (unsigned int i = 0; i < 5; i++) {
        MemswapPolicyConfig again = { .id = "q", .path = path };

        check_config(h, config, 0);
        g_assert_cmpuint(puppet_status(h, "p").roles, ==,
                         MEMSWAP_POLICY_OBSERVER);
        /* the same file is one object, whatever it is called by */
        check_config(h, again, 0);
        g_assert_true(puppet_host(h, "p")->ops == puppet_host(h, "q")->ops);
        g_assert_cmpint(memswap_policy_remove(h->engine, "p", NULL), ==, 0);
        g_assert_cmpint(memswap_policy_remove(h->engine, "q", NULL), ==, 0);
    }
    atomic_store(release, 1);
    harness_free(h);
    g_usleep(50000);
    dlclose(object);
    g_unlink(path);
    g_rmdir(directory);
}

static void test_builtins(void)
{
    const char *name;
    unsigned int n = 0;

    while ((name = memswap_policy_builtin(n))) {
        Harness *h = harness_small();

        builtin_add(h, "one", name);
        g_assert_cmpstr(puppet_status(h, "one").name, ==, name);
        harness_free(h);
        n++;
    }
    g_assert_cmpuint(n, >=, 2);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/policy-load/ring", test_ring);
    g_test_add_func("/policy-load/ring-full", test_ring_full);
    g_test_add_func("/policy-load/broken", test_broken);
    g_test_add_func("/policy-load/config", test_config);
    g_test_add_func("/policy-load/replaced", test_replaced);
    g_test_add_func("/policy-load/load-error", test_load_error);
    g_test_add_func("/policy-load/builtins", test_builtins);
    return g_test_run();
}

/*
 * Tests of blocks on hugetlbfs: what fails, and what is refused
 *
 * Skipped where no hugepages are to be had.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hugepages.h"

static void test_store_full(void)
{
    Harness *h = huge_harness(HUGE_PAGES);
    MemswapStats stats;

    harness_set_limit(h, HUGE_PAGES * HUGE_SIZE, 3 * HUGE_SIZE);
    atomic_store(&h->store->limit, 3 * HUGE_SIZE);
    huge_fill_all(h, 6);
    huge_fill(h, 6, 8);
    huge_evict_all(h);
    stats = stats_of(h);
    g_assert_cmpuint(stats.stored, ==, 3 * HUGE_SIZE);
    g_assert_cmpuint(stats.zero, ==, HUGE_SIZE);
    g_assert_cmpuint(stats.resident, ==, 3 * HUGE_SIZE);
    g_assert_cmpuint(stats.given_back, >=, 3);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_STORE_FULL), ==, 1);
    huge_check_all(h, 6);
    huge_check(h, 6, 8);
    harness_free(h);
}

static void test_lost(void)
{
    Harness *h = huge_harness(HUGE_PAGES);
    Task *task;

    huge_fill_all(h, 1);
    huge_evict_all(h);
    atomic_store(&h->store->get_error, -EBADMSG);
    task = task_start(h, task_read, 7);
    task_check_waits(task);
    g_assert_cmpuint(stats_of(h).poisoned, ==, HUGE_SIZE);
    g_assert_cmpuint(harness_events(h, MEMSWAP_EVENT_PAGE_LOST), ==, 1);
    g_assert_cmpuint(memswap_forget_lost(h->engine), ==, HUGE_SIZE);
    g_assert_cmpint(task_join(task), ==, 0);
    huge_check(h, 0, 0);
    harness_free(h);
}

/* Every so many calls of a kind fail, once each. */
typedef struct Fails {
    InjectCall call;
    int error;
    _Atomic unsigned int n, failed;
} Fails;

static int fail_third(void *opaque, InjectCall call, uint64_t where,
                      size_t *size)
{
    Fails *fails = opaque;

    if (call != fails->call || atomic_fetch_add(&fails->n, 1) % 3) {
        return 0;
    }
    atomic_fetch_add(&fails->failed, 1);
    return fails->error;
}

static void test_failures(void)
{
    const struct {
        InjectCall call;
        int error;
    } kinds[] = {
        { INJECT_COPY, -EAGAIN }, { INJECT_COPY, -EINTR },
        { INJECT_COPY, -ENOMEM }, { INJECT_CONTINUE, -EAGAIN },
        { INJECT_CONTINUE, -EINTR }, { INJECT_CONTINUE, -ENOMEM },
        { INJECT_ZAP, -EINVAL },
        { INJECT_READ, -EINTR }, { INJECT_READ, -EIO },
        { INJECT_PUNCH, -EINTR }, { INJECT_PUNCH, -ENOSPC },
    };

    for (unsigned int i = 0; i < G_N_ELEMENTS(kinds); i++) {
        Fails fails = { .call = kinds[i].call, .error = kinds[i].error };
        InjectHooks hooks = { .before = fail_third, .opaque = &fails };
        Harness *h = harness_new(&(HarnessOptions) {
            .size = HUGE_PAGES * HUGE_SIZE, .limit = HUGE_LIMIT * HUGE_SIZE,
            .hugetlb = true, .evictors = i & 1, .overshoot = true,
        });

        inject(&hooks);
        huge_fill_all(h, HUGE_PAGES);
        /* some calls are made only where things happen to coincide */
        for (unsigned int round = 0;
             !round || (!fails.failed && round < 50); round++) {
            memswap_reclaim(h->engine, 4 * HUGE_SIZE);
            for (uint64_t page = 0; page < HUGE_PAGES; page += 3) {
                g_assert_cmpint(memswap_pin(h->engine, huge_host(h, page),
                                            1), ==, 0);
                memswap_unpin(h->engine, huge_host(h, page), 1);
            }
            huge_check_all(h, HUGE_PAGES);
        }
        inject(NULL);
        huge_check_all(h, HUGE_PAGES);
        g_assert_cmpuint(fails.failed, >, 0);
        harness_free(h);
    }
}

static void refuse(Harness *h, const MemswapBlockInfo *info, int error,
                   const char *word)
{
    g_autofree char *line = NULL;
    MemswapBlock *block;

    g_assert_cmpint(memswap_block_add(h->engine, info, &block, &line), ==,
                    error);
    g_assert_nonnull(line);
    g_assert_nonnull(strstr(line, word));
    g_assert_null(strchr(line, '\n'));
}

static int fail_register(void *opaque, InjectCall call, uint64_t where,
                         size_t *size)
{
    return call == INJECT_REGISTER && (where == *(uint64_t *)opaque) ?
           -ENOMEM : 0;
}

static int fail_alias(void *opaque, InjectCall call, uint64_t where,
                      size_t *size)
{
    return call == INJECT_REGISTER && (where != *(uint64_t *)opaque) ?
           -ENOMEM : 0;
}

static void test_refused(void)
{
    Harness *h = harness_new(&(HarnessOptions) { .limit = 31 * MIB });
    Ram ram = ram_new_hugetlb(4 * HUGE_SIZE, 0);
    uint64_t host = (uintptr_t)ram.host;
    InjectHooks hooks = { .before = fail_register, .opaque = &host };
    MemswapBlockInfo info = {
        .name = "ram", .host = ram.host, .size = ram.size, .fd = ram.fd,
        .page_size = HUGE_SIZE,
    };
    g_autofree char *line = NULL;
    int gigantic = memfd_create("gigantic", MFD_CLOEXEC | MFD_HUGETLB |
                                30u << 26);

    refuse(h, &info, -EINVAL, "limit must be at least 32 MiB");
    info.page_size = PAGE;
    refuse(h, &info, -EINVAL, "hugetlbfs");
    info.page_size = HUGE_SIZE;
    harness_set_limit(h, 32 * MIB, 0);
    info.size -= PAGE;
    refuse(h, &info, -EINVAL, "aligned");
    info.size += PAGE;
    if (gigantic >= 0) {
        info.fd = gigantic;
        info.page_size = 1ULL << 30;
        refuse(h, &info, -EINVAL, "hugetlbsize=2M");
        info.fd = ram.fd;
        info.page_size = HUGE_SIZE;
        close(gigantic);
    }
    h->engine->hugetlb.supported = false;
    refuse(h, &info, -EINVAL, "does not serve hugetlbfs");
    h->engine->hugetlb.supported = true;
    inject(&hooks);
    refuse(h, &info, -ENOMEM, "refused");
    hooks.before = fail_alias;
    refuse(h, &info, -ENOMEM, "hugepages");
    inject(NULL);

    /* and that nothing is left of all this */
    h->ram = ram;
    ram_add(h, &h->ram, "ram");
    huge_fill_all(h, 4);
    huge_evict_all(h);
    huge_check_all(h, 4);
    h->settings.limit = 31 * MIB;
    g_assert_cmpint(memswap_set_settings(h->engine, &h->settings, &line), ==,
                    -EINVAL);
    g_assert_nonnull(strstr(line, "at least 32 MiB"));
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!hugepages_get(HUGE_PAGES + 1)) {
        g_test_add_func("/hugetlb-failure", hugepages_skip);
        return g_test_run();
    }
    g_test_add_func("/hugetlb-failure/store-full", test_store_full);
    g_test_add_func("/hugetlb-failure/lost", test_lost);
    g_test_add_func("/hugetlb-failure/failures", test_failures);
    g_test_add_func("/hugetlb-failure/refused", test_refused);
    return g_test_run();
}

/*
 * memswap: guest RAM keeps its contents, whoever reads it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <elf.h>
#include <glib/gstdio.h>
#include "qemu/bswap.h"
#include "memswap-util.h"

/* Guest RAM that nothing else writes to. */
#define BASE (2 * MIB)

static QTestState *start(const char *more)
{
    return qtest_initf("-nodefaults -m 128M -memswap limit=8M,fault-mode=%s%s",
                       fault_mode, more);
}

typedef struct Range {
    const char *path;
    Content content;
    uint64_t size;
    unsigned int rounds;
} Range;

/* Qtest moves some 50 MiB a second, so only one of them is large. */
static const Range ranges[] = {
    { "memswap/contents/zero", CONTENT_ZERO, 24 * MIB, 1 },
    { "memswap/contents/same", CONTENT_SAME, 24 * MIB, 1 },
    { "memswap/contents/text", CONTENT_TEXT, 24 * MIB, 1 },
    { "memswap/contents/random", CONTENT_RANDOM, 24 * MIB, 2 },
    { NULL, CONTENT_MIXED, 64 * MIB, 1 },
};

/* Much more than the limit is written and read, and by command put out. */
static void contents(const void *opaque)
{
    const Range *range = opaque;
    QTestState *qts = start("");

    for (unsigned int round = 1; round <= range->rounds; round++) {
        fill(qts, BASE, range->size, range->content, round);
        expect_within_limit(qts);
        expect_sums(qts);
        g_assert_cmpuint(number(qts, "memory", "stored") +
                         number(qts, "memory", "zero"), >=,
                         range->size - 8 * MIB);
        check(qts, BASE, range->size, range->content, round);
        expect_within_limit(qts);
        reclaim(qts, 128 * MIB);
        check(qts, BASE, range->size, range->content, round);
        expect_within_limit(qts);
        expect_sums(qts);
    }
    qtest_quit(qts);
}

/* The largest of them. */
static void contents_mixed(void)
{
    contents(&ranges[ARRAY_SIZE(ranges) - 1]);
}

/* Single bytes here and there, with what is around them left alone. */
static void scattered(void)
{
    QTestState *qts = start("");
    g_autofree uint8_t *page = g_malloc(PAGE);

    fill(qts, BASE, 32 * MIB, CONTENT_MIXED, 1);
    reclaim(qts, 128 * MIB);
    for (int i = 0; i < 2000; i++) {
        uint64_t addr = BASE + (i * 7919ULL % 8192) * PAGE;
        uint32_t at = i * 31 % (PAGE - 8);

        make_page(page, addr, CONTENT_MIXED, 1);
        g_assert_cmpuint(qtest_readb(qts, addr + at), ==, page[at]);
        /* Written, and put back. */
        qtest_writeq(qts, addr + at, ~ldq_le_p(page + at));
        g_assert_cmpuint(qtest_readq(qts, addr + at), ==,
                         ~ldq_le_p(page + at));
        qtest_writeq(qts, addr + at, ldq_le_p(page + at));
        if (i % 500 == 0) {
            reclaim(qts, 128 * MIB);
        }
    }
    reclaim(qts, 128 * MIB);
    check(qts, BASE, 32 * MIB, CONTENT_MIXED, 1);
    expect_sums(qts);
    qtest_quit(qts);
}

static void set_to_value(void)
{
    QTestState *qts = start("");
    g_autofree uint8_t *found = g_malloc(MIB);
    g_autofree uint8_t *expected = g_malloc(MIB);

    fill(qts, BASE, 32 * MIB, CONTENT_RANDOM, 1);
    qtest_memset(qts, BASE, 0, 16 * MIB);
    qtest_memset(qts, BASE + 16 * MIB, 0xa5, 16 * MIB);
    reclaim(qts, 128 * MIB);
    expect_within_limit(qts);
    /* One value needs no store. */
    g_assert_cmpuint(number(qts, "memory", "zero") +
                     number(qts, "memory", "resident"), >=, 32 * MIB);
    g_assert_cmpuint(number(qts, "pool", "live-bytes"), <=, MIB);
    for (uint64_t at = 0; at < 32 * MIB; at += MIB) {
        memset(expected, at < 16 * MIB ? 0 : 0xa5, MIB);
        qtest_bufread(qts, BASE + at, found, MIB);
        g_assert_cmpmem(found, MIB, expected, MIB);
    }
    expect_sums(qts);
    qtest_quit(qts);
}

/* A lower limit is met, a higher one is made use of, nothing is lost. */
static void limit_changes(void)
{
    static const uint64_t limits[] = { 32, 4, 16, 1, 64, 8 };
    QTestState *qts = qtest_initf("-nodefaults -m 128M -memswap limit=128M,"
                                  "fault-mode=%s", fault_mode);

    fill(qts, BASE, 48 * MIB, CONTENT_MIXED, 1);
    g_assert_cmpuint(number(qts, "memory", "resident"), >=, 47 * MIB);
    for (int i = 0; i < ARRAY_SIZE(limits); i++) {
        qtest_qmp_assert_success(qts, "{ 'execute': 'memswap-set',"
                                 " 'arguments': { 'limit': %" PRIu64 " } }",
                                 limits[i] * MIB);
        expect_within_limit(qts);
        check(qts, BASE, 16 * MIB, CONTENT_MIXED, 1);
        expect_within_limit(qts);
        if (limits[i] == 64) {
            int64_t until = g_get_monotonic_time() + PATIENCE_US;

            /* the evictor may end what it began below the lower one */
            while (number(qts, "memory", "resident") < 16 * MIB) {
                g_assert_cmpint(g_get_monotonic_time(), <, until);
                check(qts, BASE, 16 * MIB, CONTENT_MIXED, 1);
            }
        }
    }
    check(qts, BASE, 48 * MIB, CONTENT_MIXED, 1);
    expect_within_limit(qts);
    expect_sums(qts);
    qtest_quit(qts);
}

/* RAM never touched takes nothing, and needs no pages to be read. */
static void sparse(void)
{
    QTestState *qts = qtest_init("-nodefaults -m 16G -memswap limit=64M");
    uint64_t metadata;

    fill(qts, 1024 * MIB, MIB, CONTENT_RANDOM, 1);
    metadata = number(qts, "memory", "metadata");
    g_test_message("%" PRIu64 " bytes of bookkeeping", metadata);
    g_assert_cmpuint(metadata, <, 2 * MIB);
    g_assert_cmpuint(allocated(qts), <=, 4 * MIB);
    reclaim(qts, 64 * MIB);
    check(qts, 1024 * MIB, MIB, CONTENT_RANDOM, 1);
    expect_sums(qts);
    qtest_quit(qts);
}

/* A file in a directory of its own; both to be removed by remove_file(). */
static char *new_file(void)
{
    g_autofree char *dir = g_dir_make_tmp("memswap-XXXXXX", NULL);

    g_assert_nonnull(dir);
    return g_build_filename(dir, "dump", NULL);
}

static void remove_file(const char *path)
{
    g_autofree char *dir = g_path_get_dirname(path);

    g_assert_cmpint(g_unlink(path), ==, 0);
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

static void expect_contents(const char *data, uint64_t size, uint64_t addr)
{
    g_autofree uint8_t *page = g_malloc(PAGE);

    for (uint64_t at = 0; at < size; at += PAGE) {
        make_page(page, addr + at, CONTENT_MIXED, 1);
        g_assert_cmpmem(data + at, PAGE, page, PAGE);
    }
}

static void pmemsave(void)
{
    QTestState *qts = start("");
    g_autofree char *path = new_file();
    g_autofree char *data = NULL;
    size_t size;

    fill(qts, BASE, 24 * MIB, CONTENT_MIXED, 1);
    reclaim(qts, 128 * MIB);
    qtest_qmp_assert_success(qts, "{ 'execute': 'pmemsave', 'arguments': {"
                             " 'val': %" PRIu64 ", 'size': %" PRIu64 ","
                             " 'filename': %s } }", BASE, 24 * MIB, path);
    g_assert_true(g_file_get_contents(path, &data, &size, NULL));
    g_assert_cmpuint(size, ==, 24 * MIB);
    expect_contents(data, size, BASE);
    expect_within_limit(qts);
    expect_sums(qts);
    remove_file(path);
    qtest_quit(qts);
}

/* Where in an ELF core this guest-physical address is. */
static const char *in_core(const char *core, uint64_t addr)
{
    const Elf64_Ehdr *header = (const void *)core;
    const Elf64_Phdr *segments = (const void *)(core + header->e_phoff);

    g_assert_cmpmem(core, SELFMAG, ELFMAG, SELFMAG);
    g_assert_cmpint(core[EI_CLASS], ==, ELFCLASS64);
    for (int i = 0; i < header->e_phnum; i++) {
        const Elf64_Phdr *segment = &segments[i];

        if (segment->p_type == PT_LOAD && addr >= segment->p_paddr &&
            addr - segment->p_paddr < segment->p_filesz) {
            return core + segment->p_offset + (addr - segment->p_paddr);
        }
    }
    g_assert_not_reached();
}

/*
 * Dumps are written by the kernel straight from guest RAM, whose faults of its
 * own may be out of reach.
 */
static void dump_and_end(QTestState *qts)
{
    g_autofree char *path = new_file();
    g_autofree char *dir = g_path_get_dirname(path);
    g_autofree char *protocol = g_strdup_printf("file:%s", path);
    g_autofree char *data = NULL;
    size_t size;

    /* QEMU may run as another user. */
    g_assert_cmpint(g_chmod(dir, 0777), ==, 0);
    fill(qts, BASE, 24 * MIB, CONTENT_MIXED, 1);
    reclaim(qts, 128 * MIB);
    qtest_qmp_assert_success(qts, "{ 'execute': 'dump-guest-memory',"
                             " 'arguments': { 'paging': false,"
                             " 'protocol': %s } }", protocol);
    g_assert_true(g_file_get_contents(path, &data, &size, NULL));
    g_assert_cmpuint(size, >=, 128 * MIB);
    expect_contents(in_core(data, BASE), 24 * MIB, BASE);
    expect_within_limit(qts);
    g_assert_cmpuint(number(qts, "memory", "pinned"), ==, 0);
    expect_sums(qts);
    check(qts, BASE, 24 * MIB, CONTENT_MIXED, 1);
    remove_file(path);
    qtest_quit(qts);
}

static void dump(void)
{
    dump_and_end(start(""));
}

static void dump_without_rights(void)
{
    QTestState *qts = start_without_rights(
        "-nodefaults -m 128M -memswap limit=8M,fault-mode=iothread");

    if (qts) {
        g_autoptr(QDict) info = query(qts);

        g_assert_true(qdict_get_bool(qdict_get_qdict(info, "settings"),
                                     "user-mode-only"));
        dump_and_end(qts);
    }
}

/* The guest starts anew; its RAM isn't cleared by that. */
static void reset(void)
{
    QTestState *qts = start("");

    fill(qts, BASE, 24 * MIB, CONTENT_MIXED, 1);
    for (int i = 0; i < 3; i++) {
        reclaim(qts, 128 * MIB);
        qtest_system_reset(qts);
        check(qts, BASE, 24 * MIB, CONTENT_MIXED, 1);
    }
    expect_within_limit(qts);
    expect_sums(qts);
    qtest_quit(qts);
}

static int store_full_events(QTestState *qts)
{
    int count = 0;

    for (;;) {
        g_autoptr(QDict) event = NULL;

        /* Events come in front of the answer to a command. */
        qobject_unref(query(qts));
        event = qtest_qmp_event_ref(qts, "MEMSWAP_STORE_FULL");
        if (!event) {
            return count;
        }
        count++;
    }
}

/*
 * The store takes no more, and the guest writes on: whoever holds the BQL
 * may pass the limit, so the monitor lives.  Then the operator makes room.
 */
static void store_full(const char *when_full)
{
    g_autofree char *more = g_strdup_printf(",pool-limit=4M,when-full=%s",
                                            when_full);
    QTestState *qts = start(more);
    int64_t begin = g_get_monotonic_time();
    int events;

    fill(qts, BASE, 32 * MIB, CONTENT_RANDOM, 1);
    g_assert_cmpuint(number(qts, "reclaim", "store-full"), >, 0);
    g_assert_cmpuint(number(qts, "reclaim", "overshoots"), >, 0);
    g_assert_cmpuint(number(qts, "memory", "resident"), >, 20 * MIB);
    g_assert_cmpuint(number(qts, "pool", "bytes"), <=, 4 * MIB);
    check(qts, BASE, 32 * MIB, CONTENT_RANDOM, 1);

    /* At least one, and not more than one a second. */
    events = store_full_events(qts);
    g_assert_cmpint(events, >=, 1);
    g_assert_cmpint(events, <=, 2 + (g_get_monotonic_time() - begin) /
                                    G_USEC_PER_SEC);

    qtest_qmp_assert_success(qts, "{ 'execute': 'memswap-set', 'arguments':"
                             " { 'pool-limit': %" PRIu64 " } }", 64 * MIB);
    expect_within_limit(qts);
    expect_sums(qts);
    check(qts, BASE, 32 * MIB, CONTENT_RANDOM, 1);

    /* A pool that has to shrink keeps what it has. */
    qtest_qmp_assert_success(qts, "{ 'execute': 'memswap-set', 'arguments':"
                             " { 'pool-limit': %" PRIu64 " } }", 8 * MIB);
    check(qts, BASE, 32 * MIB, CONTENT_RANDOM, 1);
    expect_sums(qts);
    qtest_quit(qts);
}

static void store_full_hold(void)
{
    store_full("hold");
}

static void store_full_overshoot(void)
{
    store_full("overshoot");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (int i = 0; i < ARRAY_SIZE(ranges) - 1; i++) {
        qtest_add_data_func(ranges[i].path, &ranges[i], contents);
    }
    add_in_both_modes("memswap/contents/mixed", contents_mixed);
    add_in_both_modes("memswap/contents/scattered", scattered);
    qtest_add_func("memswap/contents/set", set_to_value);
    qtest_add_func("memswap/contents/limit-changes", limit_changes);
    qtest_add_func("memswap/contents/sparse", sparse);
    qtest_add_func("memswap/contents/reset", reset);
    add_in_both_modes("memswap/save/pmemsave", pmemsave);
    add_in_both_modes("memswap/save/dump", dump);
    qtest_add_func("memswap/save/dump/without-rights", dump_without_rights);
    add_in_both_modes("memswap/store-full/hold", store_full_hold);
    add_in_both_modes("memswap/store-full/overshoot", store_full_overshoot);
    return g_test_run();
}

/*
 * memswap: its commands, one at a time
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qobject/qlist.h"
#include "qobject/qnum.h"
#include "memswap-util.h"

#define ON "-nodefaults -m 128M -memswap limit=16M "
#define SET "{ 'execute': 'memswap-set', 'arguments': "

typedef struct Settings {
    uint64_t limit;
    int64_t pool_limit; /* -1: none */
    int64_t level;
    char *when_full;
} Settings;

static Settings get_settings(QTestState *qts)
{
    g_autoptr(QDict) info = query(qts);
    QDict *now = qdict_get_qdict(info, "settings");

    return (Settings) {
        .limit = qdict_get_int(now, "limit"),
        .pool_limit = qdict_get_try_int(now, "pool-limit", -1),
        .level = qdict_get_int(now, "compression-level"),
        .when_full = g_strdup(qdict_get_str(now, "when-full")),
    };
}

static void expect_settings(QTestState *qts, uint64_t limit,
                            int64_t pool_limit, int64_t level,
                            const char *when_full)
{
    Settings now = get_settings(qts);

    g_assert_cmpuint(now.limit, ==, limit);
    g_assert_cmpint(now.pool_limit, ==, pool_limit);
    g_assert_cmpint(now.level, ==, level);
    g_assert_cmpstr(now.when_full, ==, when_full);
    g_free(now.when_full);
}

static void expect_more(QTestState *qts, const char *compression,
                        int64_t readahead, int64_t keep_copies)
{
    g_autoptr(QDict) info = query(qts);
    QDict *now = qdict_get_qdict(info, "settings");

    g_assert_cmpstr(qdict_get_str(now, "compression"), ==, compression);
    g_assert_cmpint(qdict_get_int(now, "readahead"), ==, readahead);
    g_assert_cmpint(qdict_get_int(now, "keep-copies"), ==, keep_copies);
}

static void set_in_range(void)
{
    QTestState *qts = qtest_init(ON);

    qtest_qmp_assert_success(qts, SET "{} }");
    expect_settings(qts, 16 * MIB, -1, -1, "hold");
    qtest_qmp_assert_success(qts, SET "{ 'limit': 33554432 } }");
    expect_settings(qts, 32 * MIB, -1, -1, "hold");
    /* The same again. */
    qtest_qmp_assert_success(qts, SET "{ 'limit': 33554432 } }");
    expect_settings(qts, 32 * MIB, -1, -1, "hold");
    qtest_qmp_assert_success(qts, SET "{ 'pool-limit': 8388608 } }");
    expect_settings(qts, 32 * MIB, 8 * MIB, -1, "hold");
    qtest_qmp_assert_success(qts, SET "{ 'limit': 1048576,"
                             " 'pool-limit': 16777216,"
                             " 'compression-level': 22,"
                             " 'when-full': 'overshoot' } }");
    expect_settings(qts, MIB, 16 * MIB, 22, "overshoot");
    qtest_qmp_assert_success(qts, SET "{ 'limit': 134217728,"
                             " 'compression-level': -131072 } }");
    expect_settings(qts, 128 * MIB, 16 * MIB, -131072, "overshoot");
    qtest_qmp_assert_success(qts, SET "{ 'compression': 'zstd',"
                             " 'readahead': 4096, 'keep-copies': 0 } }");
    expect_more(qts, "zstd", 4096, 0);
    qtest_qmp_assert_success(qts, SET "{ 'compression': 'lz4',"
                             " 'keep-copies': 1048576 } }");
    expect_more(qts, "lz4", 4096, MIB);
    qtest_quit(qts);
}

/* Each comes with something that would be fine by itself. */
static void set_out_of_range(void)
{
    static const struct {
        const char *arguments;
        const char *message;
    } bad[] = {
        { "{ 'when-full': 'overshoot', 'limit': 0 }",
          "limit must be at least 1 MiB" },
        { "{ 'when-full': 'overshoot', 'limit': 1048575 }",
          "limit must be at least 1 MiB" },
        { "{ 'when-full': 'overshoot', 'limit': 134217729 }",
          "limit must not be larger than guest RAM, 128 MiB" },
        { "{ 'when-full': 'overshoot', 'limit': 18446744073709551615 }",
          "limit must not be larger than guest RAM, 128 MiB" },
        { "{ 'when-full': 'overshoot', 'limit': -1 }",
          "must not be larger than guest RAM" },
        { "{ 'limit': 20971520, 'pool-limit': 0 }",
          "pool-limit must be at least" },
        { "{ 'limit': 20971520, 'pool-limit': 1048575 }",
          "pool-limit must be at least" },
        { "{ 'limit': 20971520, 'compression-level': 23 }",
          "compression level must be from -131072 to 22" },
        { "{ 'limit': 20971520, 'compression-level': 4294967297 }",
          "compression level must be from -131072 to 22" },
        { "{ 'limit': 20971520, 'compression-level': -9223372036854775808 }",
          "compression level must be from -131072 to 22" },
        { "{ 'limit': 20971520, 'compression': 'gzip' }",
          "does not accept value 'gzip'" },
        { "{ 'limit': 20971520, 'when-full': 'panic' }",
          "does not accept value 'panic'" },
        { "{ 'limit': 20971520, 'more': 1 }", "'more' is unexpected" },
        { "{ 'limit': '20M' }", "Parameter 'limit' expects uint64" },
    };
    QTestState *qts = qtest_init(ON);

    for (int i = 0; i < ARRAY_SIZE(bad); i++) {
        g_autoptr(QDict) response = NULL;
        const char *text;

        qtest_qmp_send_raw(qts, SET "%s }", bad[i].arguments);
        response = qtest_qmp_receive(qts);
        g_test_message("%s", bad[i].arguments);
        g_assert_true(qdict_haskey(response, "error"));
        text = qdict_get_str(qdict_get_qdict(response, "error"), "desc");
        g_test_message("%s", text);
        g_assert_nonnull(strstr(text, bad[i].message));
        expect_settings(qts, 16 * MIB, -1, -1, "hold");
    }
    qtest_quit(qts);
}


/*
 * What was asked for, or what there is; at least a page and at most RAM.
 *
 * With faults inline: a handler goes on for a while after the access that it
 * was for, and pages that it has in hand are neither counted nor reclaimed.
 */
static void reclaim_range(void)
{
    QTestState *qts = qtest_init("-nodefaults -m 128M"
                                 " -memswap limit=64M,fault-mode=inline");
    uint64_t resident;

    fill(qts, 2 * MIB, 33 * MIB, CONTENT_RANDOM, 1);
    expect_error(qts, "size must be more than 0 and at most guest RAM,"
                 " 134217728 bytes", "{ 'execute': 'memswap-reclaim',"
                 " 'arguments': { 'size': 0 } }");
    expect_error(qts, "size must be more than 0 and at most guest RAM,"
                 " 134217728 bytes", "{ 'execute': 'memswap-reclaim',"
                 " 'arguments': { 'size': 134217729 } }");
    expect_error(qts, "one of size and ranges is needed",
                 "{ 'execute': 'memswap-reclaim' }");

    resident = number(qts, "memory", "resident");
    g_assert_cmpuint(resident, >=, 32 * MIB);
    g_assert_cmpuint(reclaim(qts, 8 * MIB), >=, 8 * MIB);
    g_assert_cmpuint(number(qts, "memory", "resident"), <=,
                     resident - 8 * MIB);
    g_assert_cmpuint(number(qts, "memory", "resident"), >=,
                     resident - 10 * MIB);
    g_assert_cmpuint(reclaim(qts, 1), >=, PAGE);

    /* No more than there is, and nothing twice. */
    resident = number(qts, "memory", "resident");
    g_assert_cmpuint(reclaim(qts, 128 * MIB), ==, resident);
    g_assert_cmpuint(number(qts, "memory", "resident"), ==, 0);
    g_assert_cmpuint(allocated(qts), ==, 0);
    g_assert_cmpuint(reclaim(qts, 128 * MIB), ==, 0);
    check(qts, 2 * MIB, 33 * MIB, CONTENT_RANDOM, 1);
    expect_sums(qts);
    qtest_quit(qts);
}

static uint64_t ranges(QTestState *qts, const char *command,
                       const char *result, const char *list,
                       const char *more)
{
    g_autoptr(QDict) response = NULL;
    QDict *error;

    qtest_qmp_send_raw(qts, "{ 'execute': '%s', 'arguments': { 'ranges': [%s]"
                       "%s } }", command, list, more);
    response = qtest_qmp_receive(qts);
    error = qdict_get_qdict(response, "error");
    g_assert_cmpstr(error ? qdict_get_str(error, "desc") : NULL, ==, NULL);
    return qdict_get_int(qdict_get_qdict(response, "return"), result);
}

static void refuse_ranges(QTestState *qts, const char *list,
                          const char *message)
{
    static const char *const commands[] = {
        "memswap-reclaim", "memswap-prefetch",
    };

    for (int i = 0; i < ARRAY_SIZE(commands); i++) {
        g_autoptr(QDict) response = NULL;
        const char *text;

        qtest_qmp_send_raw(qts, "{ 'execute': '%s', 'arguments': {"
                           " 'ranges': [%s] } }", commands[i], list);
        response = qtest_qmp_receive(qts);
        g_assert_true(qdict_haskey(response, "error"));
        text = qdict_get_str(qdict_get_qdict(response, "error"), "desc");
        g_test_message("%s", text);
        g_assert_nonnull(strstr(text, message));
        g_assert_null(strchr(text, '\n'));
    }
}

#define RANGE(offset, size) \
    "{ 'block': 'pc.ram', 'offset': " #offset ", 'size': " #size " }"
#define GOOD RANGE(16777216, 4194304)

/* What is named goes and comes; of a list with one that is wrong, nothing. */
static void named_ranges(void)
{
    QTestState *qts = qtest_init("-nodefaults -m 128M -memswap limit=64M,"
                                 "readahead=0,huge-regions=off");
    g_autoptr(GString) many = g_string_new(GOOD);
    uint64_t evictions;

    fill(qts, 16 * MIB, 8 * MIB, CONTENT_RANDOM, 1);
    evictions = number(qts, "reclaim", "evictions");
    refuse_ranges(qts, GOOD ", { 'block': 'nobody', 'offset': 0, 'size': 0 }",
                  "range 1: there is no managed block 'nobody'");
    refuse_ranges(qts, GOOD ", { 'block': 'pc.bios', 'offset': 0, 'size': 0"
                  " }", "range 1: there is no managed block 'pc.bios'");
    refuse_ranges(qts, RANGE(1, 4096), "range 0: offset and size must be"
                  " multiples of 4096, the page size of block 'pc.ram'");
    refuse_ranges(qts, RANGE(0, 134221824), "range 0: it ends beyond block"
                  " 'pc.ram', which has 134217728 bytes");
    refuse_ranges(qts, RANGE(18446744073709547520, 4096), "range 0: it ends");
    refuse_ranges(qts, "{ 'block': 'pc.ram' }", "is missing");
    for (int i = 0; i < 1024; i++) {
        g_string_append(many, ", " GOOD);
    }
    refuse_ranges(qts, many->str, "at most 1024 ranges at once");
    expect_error(qts, "one of size and ranges is needed, and not both",
                 "{ 'execute': 'memswap-reclaim', 'arguments': {"
                 " 'size': 4096, 'ranges': [] } }");
    expect_error(qts, "cold is for ranges",
                 "{ 'execute': 'memswap-reclaim', 'arguments': {"
                 " 'size': 4096, 'cold': true } }");
    g_assert_cmpuint(number(qts, "reclaim", "evictions"), ==, evictions);

    /* twice the same is no more than once */
    g_assert_cmpuint(ranges(qts, "memswap-reclaim", "reclaimed",
                            GOOD ", " GOOD, ""), ==, 4 * MIB);
    g_assert_cmpuint(number(qts, "reclaim", "evictions"), ==,
                     evictions + 1024);
    g_assert_cmpuint(ranges(qts, "memswap-prefetch", "prefetched",
                            GOOD, ""), ==, 4 * MIB);
    g_assert_cmpuint(ranges(qts, "memswap-prefetch", "prefetched",
                            GOOD, ""), ==, 0);
    g_assert_cmpuint(ranges(qts, "memswap-prefetch", "prefetched", "", ""),
                     ==, 0);
    /* on trial, then gone, but for what was touched */
    g_assert_cmpuint(ranges(qts, "memswap-reclaim", "reclaimed", GOOD,
                            ", 'cold': true"), ==, 0);
    check(qts, 16 * MIB, 64 * PAGE, CONTENT_RANDOM, 1);
    g_assert_cmpuint(ranges(qts, "memswap-reclaim", "reclaimed", GOOD,
                            ", 'cold': true"), ==, 4 * MIB - 64 * PAGE);
    check(qts, 16 * MIB, 8 * MIB, CONTENT_RANDOM, 1);
    expect_sums(qts);
    qtest_quit(qts);
}

/* The cell of the region at @offset, of four bytes; g_free() it. */
static guchar *map_cell(QTestState *qts, uint64_t offset)
{
    g_autoptr(QDict) map = qtest_qmp_assert_success_ref(
        qts, "{ 'execute': 'query-memswap-map', 'arguments': {"
        " 'block': 'pc.ram', 'start': %" PRIu64 ", 'count': 1 } }", offset);
    const QListEntry *entry = qlist_first(qdict_get_qlist(map, "blocks"));
    QDict *block = qobject_to(QDict, qlist_entry_obj(entry));
    guchar *cell;
    gsize size;

    g_assert_cmpint(qdict_get_int(block, "cells"), ==, 1);
    g_assert_cmpint(qdict_get_int(block, "start"), ==, offset);
    cell = g_base64_decode(qdict_get_str(block, "data"), &size);
    g_assert_cmpuint(size, ==, 4);
    return cell;
}

static void expect_map(QTestState *qts, uint64_t offset, int resident,
                       int stored, bool touched)
{
    g_autofree guchar *cell = map_cell(qts, offset);

    g_assert_cmpint(cell[0], ==, resident);
    g_assert_cmpint(cell[1], ==, stored);
    if (touched) {
        /* less than a minute ago */
        g_assert_cmpint(cell[2], <, 31);
    } else {
        g_assert_cmpint(cell[2], ==, 255);
    }
}

static void map(void)
{
    QTestState *qts = qtest_init("-nodefaults -m 128M -memswap limit=64M,"
                                 "huge-regions=off");
    g_autoptr(QDict) all = NULL;
    QDict *block;

    fill(qts, 16 * MIB, 4 * MIB, CONTENT_RANDOM, 1);
    expect_map(qts, 16 * MIB, 255, 0, true);
    expect_map(qts, 126 * MIB, 0, 0, false);
    ranges(qts, "memswap-reclaim", "reclaimed", RANGE(16777216, 1048576), "");
    expect_map(qts, 16 * MIB, 128, 128, true);
    ranges(qts, "memswap-reclaim", "reclaimed", RANGE(16777216, 2097152), "");
    expect_map(qts, 16 * MIB, 0, 255, true);

    all = qtest_qmp_assert_success_ref(
        qts, "{ 'execute': 'query-memswap-map', 'arguments': {"
        " 'granularity': 67108864 } }");
    g_assert_cmpint(qdict_get_int(all, "granularity"), ==, 64 * MIB);
    block = qobject_to(QDict, qlist_peek(qdict_get_qlist(all, "blocks")));
    g_assert_cmpstr(qdict_get_str(block, "name"), ==, "pc.ram");
    g_assert_cmpint(qdict_get_int(block, "size"), ==, 128 * MIB);
    g_assert_cmpint(qdict_get_int(block, "cells"), ==, 2);
    expect_error(qts, "there is no managed block 'nobody'",
                 "{ 'execute': 'query-memswap-map', 'arguments': {"
                 " 'block': 'nobody' } }");
    expect_error(qts, "must be multiples of 2 MiB",
                 "{ 'execute': 'query-memswap-map', 'arguments': {"
                 " 'granularity': 0 } }");
    expect_error(qts, "must be multiples of 2 MiB",
                 "{ 'execute': 'query-memswap-map', 'arguments': {"
                 " 'start': 4096 } }");
    qtest_quit(qts);
}

/* What was touched a moment ago is in each window, and so in the figures. */
static void working_sets(void)
{
    QTestState *qts = qtest_init("-nodefaults -m 128M -memswap limit=16M,"
                                 "readahead=0,huge-regions=off");
    g_autoptr(QDict) info = NULL;
    const QListEntry *entry;
    double refaults;
    int n = 0;

    fill(qts, 32 * MIB, 32 * MIB, CONTENT_RANDOM, 1);
    check(qts, 32 * MIB, 32 * MIB, CONTENT_RANDOM, 1);
    info = query(qts);
    QLIST_FOREACH_ENTRY(qdict_get_qlist(info, "working-sets"), entry) {
        QDict *set = qobject_to(QDict, qlist_entry_obj(entry));

        g_assert_cmpint(qdict_get_int(set, "at-least"), >=, 32 * MIB);
        g_assert_cmpint(qdict_get_int(set, "at-most"), >=,
                        qdict_get_int(set, "at-least"));
        g_assert_cmpint(qdict_get_int(set, "at-most"), <=, 40 * MIB);
        n++;
    }
    g_assert_cmpint(n, ==, 3);
    entry = qlist_first(qdict_get_qlist(info, "refault-curve"));
    refaults = qdict_get_double(qobject_to(QDict, qlist_entry_obj(entry)),
                                "refaults");
    g_assert_cmpfloat(refaults, >, 0);
    while (qlist_next(entry)) {
        entry = qlist_next(entry);
    }
    g_assert_cmpfloat(qdict_get_double(
                          qobject_to(QDict, qlist_entry_obj(entry)),
                          "refaults"), ==, 0);
    qtest_quit(qts);
}

static void off(void)
{
    QTestState *qts = qtest_init("-nodefaults -m 128M");
    g_autoptr(QDict) info = query(qts);
    g_autofree char *text = qtest_hmp(qts, "info memswap");
    g_autoptr(QDict) map = NULL;

    g_assert_false(qdict_get_bool(info, "enabled"));
    g_assert_cmpint(qdict_size(info), ==, 1);
    g_assert_nonnull(strstr(text, "Guest RAM is not swapped."));
    expect_error(qts, "guest RAM is not swapped: start QEMU with -memswap",
                 SET "{ 'limit': 16777216 } }");
    expect_error(qts, "guest RAM is not swapped: start QEMU with -memswap",
                 "{ 'execute': 'memswap-reclaim',"
                 " 'arguments': { 'size': 4096 } }");
    expect_error(qts, "guest RAM is not swapped: start QEMU with -memswap",
                 "{ 'execute': 'memswap-prefetch',"
                 " 'arguments': { 'ranges': [] } }");
    map = qtest_qmp_assert_success_ref(
        qts, "{ 'execute': 'query-memswap-map' }");
    g_assert_true(qlist_empty(qdict_get_qlist(map, "blocks")));
    expect_error(qts, "can't be switched on at run time: use -memswap",
                 "{ 'execute': 'object-add', 'arguments': {"
                 " 'qom-type': 'memswap', 'id': 'm', 'limit': 16777216 } }");
    qtest_quit(qts);
}

/* The object stays as it was made. */
static void object(void)
{
    QTestState *qts = qtest_init("-nodefaults -m 128M -object"
                                 " iothread,id=faults -memswap"
                                 " limit=16M,iothread=faults");
    g_autoptr(QDict) response = NULL;

    expect_error(qts, "in use", "{ 'execute': 'object-del',"
                 " 'arguments': { 'id': 'memswap0' } }");
    /* The IOThread loses its name, but lives on. */
    qtest_qmp_assert_success(qts, "{ 'execute': 'object-del',"
                             " 'arguments': { 'id': 'faults' } }");
    fill(qts, 2 * MIB, 4 * MIB, CONTENT_MIXED, 1);
    g_assert_cmpuint(reclaim(qts, 4 * MIB), >=, 4 * MIB);
    check(qts, 2 * MIB, 4 * MIB, CONTENT_MIXED, 1);
    expect_error(qts, "there is a memswap object already",
                 "{ 'execute': 'object-add', 'arguments': {"
                 " 'qom-type': 'memswap', 'id': 'm', 'limit': 16777216 } }");
    expect_error(qts, "use memswap-set", "{ 'execute': 'qom-set',"
                 " 'arguments': { 'path': '/objects/memswap0',"
                 " 'property': 'limit', 'value': 33554432 } }");
    expect_error(qts, "use memswap-set", "{ 'execute': 'qom-set',"
                 " 'arguments': { 'path': '/objects/memswap0',"
                 " 'property': 'when-full', 'value': 'overshoot' } }");
    expect_settings(qts, 16 * MIB, -1, -1, "hold");

    qtest_qmp_assert_success(qts, SET "{ 'limit': 33554432 } }");
    response = qtest_qmp(qts, "{ 'execute': 'qom-get',"
                         " 'arguments': { 'path': '/objects/memswap0',"
                         " 'property': 'limit' } }");
    g_assert_cmpint(qdict_get_int(response, "return"), ==, 32 * MIB);
    qtest_quit(qts);
}

static void info(void)
{
    static const char *const parts[] = {
        "limit", "16 MiB", "pool limit", "none", "when full", "hold",
        "managed", "128 MiB", "resident", "stored", "zero", "untouched",
        "compression", "evictions", "refaults", "99 % within", "pc.ram",
        "not managed: belongs to a device", "last 1 min", "last 60 min",
        "refaults a second",
    };
    QTestState *qts = qtest_init(ON);
    g_autofree char *text = qtest_hmp(qts, "info memswap");

    g_test_message("%s", text);
    for (int i = 0; i < ARRAY_SIZE(parts); i++) {
        g_assert_nonnull(strstr(text, parts[i]));
    }
    qtest_quit(qts);
}

/*
 * Exact where nothing else runs: one page at a time, in and out.  Whoever
 * touches a page goes on a moment before it is counted.
 */
static void counts(void)
{
    static const char *const kinds[] = {
        "absent", "minor", "trial", "zero", "stored", "waited",
    };
    QTestState *qts = qtest_init("-nodefaults -m 128M "
                                 "-memswap limit=64M,readahead=0");
    uint64_t absent, stored, zero, evictions, refaults, total = 0, sum = 0;
    g_autoptr(QDict) now = NULL;
    QDict *faults;
    const QListEntry *entry;

    reclaim(qts, 128 * MIB);
    absent = number(qts, "faults", "absent");
    fill(qts, 16 * MIB, 16 * PAGE, CONTENT_RANDOM, 1);
    fill(qts, 32 * MIB, 8 * PAGE, CONTENT_SAME, 1);
    expect_soon(qts, "faults", "absent", absent + 24);
    expect_soon(qts, "memory", "resident", 24 * PAGE);

    evictions = number(qts, "reclaim", "evictions");
    stored = number(qts, "memory", "stored");
    zero = number(qts, "memory", "zero");
    g_assert_cmpuint(reclaim(qts, 128 * MIB), ==, 24 * PAGE);
    g_assert_cmpuint(number(qts, "reclaim", "evictions"), ==, evictions + 24);
    g_assert_cmpuint(number(qts, "memory", "stored"), ==, stored + 16 * PAGE);
    g_assert_cmpuint(number(qts, "memory", "zero"), ==, zero + 8 * PAGE);

    stored = number(qts, "faults", "stored");
    zero = number(qts, "faults", "zero");
    refaults = number(qts, "reclaim", "refaults");
    check(qts, 16 * MIB, 16 * PAGE, CONTENT_RANDOM, 1);
    check(qts, 32 * MIB, 8 * PAGE, CONTENT_SAME, 1);
    expect_soon(qts, "faults", "stored", stored + 16);
    expect_soon(qts, "faults", "zero", zero + 8);
    expect_soon(qts, "reclaim", "refaults", refaults + 24);
    expect_soon(qts, "memory", "resident", 24 * PAGE);

    now = query(qts);
    faults = qdict_get_qdict(now, "faults");
    for (int i = 0; i < ARRAY_SIZE(kinds); i++) {
        total += qdict_get_int(faults, kinds[i]);
    }
    QLIST_FOREACH_ENTRY(qdict_get_qlist(faults, "latency"), entry) {
        QNum *bucket = qobject_to(QNum, qlist_entry_obj(entry));

        sum += qnum_get_int(bucket);
    }
    g_assert_cmpint(qdict_get_int(faults, "total"), ==, total);
    g_assert_cmpuint(sum, ==, total);
    g_assert_cmpint(qdict_get_int(faults, "p50-ns"), >, 0);
    g_assert_cmpint(qdict_get_int(faults, "p50-ns"), <=,
                    qdict_get_int(faults, "p99-ns"));
    expect_sums(qts);
    qtest_quit(qts);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("memswap/set/in-range", set_in_range);
    qtest_add_func("memswap/set/out-of-range", set_out_of_range);
    qtest_add_func("memswap/reclaim", reclaim_range);
    qtest_add_func("memswap/ranges", named_ranges);
    qtest_add_func("memswap/map", map);
    qtest_add_func("memswap/working-sets", working_sets);
    qtest_add_func("memswap/off", off);
    qtest_add_func("memswap/object", object);
    qtest_add_func("memswap/info", info);
    qtest_add_func("memswap/counts", counts);
    return g_test_run();
}

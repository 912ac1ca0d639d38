/*
 * Benchmarks: reading the command line
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <glib.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"

#define MAX_THREADS 8

void bench_fail(int error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fprintf(stderr, "touch: ");
    vfprintf(stderr, format, args);
    va_end(args);
    if (error) {
        fprintf(stderr, ": %s", strerror(error));
    }
    fprintf(stderr, "\n");
    exit(1);
}

bool bench_parse_size(const char *text, uint64_t *bytes)
{
    char *end;
    unsigned int shift = 0;

    errno = 0;
    *bytes = g_ascii_strtoull(text, &end, 0);
    switch (*end) {
    case 'G':
        shift += 10;
        /* fall through */
    case 'M':
        shift += 10;
        /* fall through */
    case 'K':
        shift += 10;
        end++;
        break;
    default:
        break;
    }
    if (end == text || *end || errno || *text == '-' ||
        *bytes > UINT64_MAX >> shift) {
        return false;
    }
    *bytes <<= shift;
    return true;
}

static void parse_size(const char *name, const char *text, uint64_t *bytes)
{
    if (text && !bench_parse_size(text, bytes)) {
        bench_fail(0, "--%s: not a size: %s", name, text);
    }
}

static void set_default(char **text, const char *value)
{
    if (!*text) {
        *text = g_strdup(value);
    }
}

static void check(const BenchOptions *o)
{
    if (!o->size || o->size % (512 * TOUCH_SIZE)) {
        bench_fail(0, "--size must be a multiple of 2M");
    }
    if (o->page_size != TOUCH_SIZE && o->page_size != 512 * TOUCH_SIZE) {
        bench_fail(0, "--page-size must be 4K or 2M");
    }
    if (o->threads < 1 || o->threads > MAX_THREADS) {
        bench_fail(0, "--threads must be from 1 to %d", MAX_THREADS);
    }
    if (o->write_percent < 0 || o->write_percent > 100 ||
        o->hot_percent < 1 || o->hot_percent > 100 ||
        o->hot_touches < 0 || o->hot_touches > 100) {
        bench_fail(0, "a percentage is out of range");
    }
    if (o->theta <= 0 || o->theta >= 1) {
        bench_fail(0, "--theta must be between 0 and 1");
    }
    if (o->stride < 1 || o->visit < 1 || o->move_every < 0 || o->touches < 0 ||
        o->warmup_touches < 0 || o->poll_ns < 0 || o->seconds < 0 ||
        o->warmup_seconds < 0 || o->settle_seconds < 0 ||
        o->squeeze_seconds < 0) {
        bench_fail(0, "a number is out of range");
    }
    if (g_str_equal(o->data, "real") && !o->corpus) {
        bench_fail(0, "--data real needs --corpus");
    }
}

void bench_options_parse(BenchOptions *o, int *argc, char ***argv)
{
    g_autofree char *size = NULL;
    g_autofree char *limit = NULL;
    g_autofree char *squeeze = NULL;
    g_autofree char *page_size = NULL;
    GOptionEntry entries[] = {
        { "backend", 0, 0, G_OPTION_ARG_STRING, &o->backend,
          "memswap, plain or handler-thread", "NAME" },
        { "size", 0, 0, G_OPTION_ARG_STRING, &size, "RAM", "SIZE" },
        { "limit", 0, 0, G_OPTION_ARG_STRING, &limit,
          "of it resident; plain: the control group's matter", "SIZE" },
        { "page-size", 0, 0, G_OPTION_ARG_STRING, &page_size, "4K or 2M",
          "SIZE" },
        { "thp", 0, 0, G_OPTION_ARG_NONE, &o->thp,
          "plain: transparent huge pages", NULL },
        { "syscall", 0, 0, G_OPTION_ARG_NONE, &o->syscall,
          "touch inside a system call", NULL },
        { "step", 0, 0, G_OPTION_ARG_NONE, &o->step,
          "wait for a line between phases", NULL },
        { "pattern", 0, 0, G_OPTION_ARG_STRING, &o->pattern,
          "random, sequential, list, strided, zipf, zipf-region or hotset",
          "NAME" },
        { "stride", 0, 0, G_OPTION_ARG_INT, &o->stride, "strided", "PAGES" },
        { "visit", 0, 0, G_OPTION_ARG_INT, &o->visit,
          "zipf-region: touches in a region at a time", "N" },
        { "theta", 0, 0, G_OPTION_ARG_DOUBLE, &o->theta, "zipf", "THETA" },
        { "hot-percent", 0, 0, G_OPTION_ARG_INT, &o->hot_percent,
          "hotset: part of the pages", "N" },
        { "hot-touches", 0, 0, G_OPTION_ARG_INT, &o->hot_touches,
          "hotset: percentage of touches that go there", "N" },
        { "move-every", 0, 0, G_OPTION_ARG_INT, &o->move_every,
          "hotset: touches after which it moves; 0: never", "N" },
        { "threads", 0, 0, G_OPTION_ARG_INT, &o->threads, NULL, "N" },
        { "write-percent", 0, 0, G_OPTION_ARG_INT, &o->write_percent,
          "touches that write", "N" },
        { "seed", 0, 0, G_OPTION_ARG_INT, &o->seed, NULL, "N" },
        { "data", 0, 0, G_OPTION_ARG_STRING, &o->data,
          "half, ratio1, ratio4 or real", "KIND" },
        { "corpus", 0, 0, G_OPTION_ARG_FILENAME, &o->corpus,
          "real: pages to copy", "FILE" },
        { "seconds", 0, 0, G_OPTION_ARG_DOUBLE, &o->seconds,
          "to measure for", "N" },
        { "touches", 0, 0, G_OPTION_ARG_INT, &o->touches,
          "a thread to measure, whatever the time", "N" },
        { "settle-seconds", 0, 0, G_OPTION_ARG_DOUBLE, &o->settle_seconds,
          "after the fill, touching nothing", "N" },
        { "warmup-seconds", 0, 0, G_OPTION_ARG_DOUBLE, &o->warmup_seconds,
          "at most", "N" },
        { "warmup-touches", 0, 0, G_OPTION_ARG_INT, &o->warmup_touches,
          "a thread, at most; 0: each page once", "N" },
        { "faults", 0, 0, G_OPTION_ARG_STRING, &o->faults,
          "memswap: events or inline", "MODE" },
        { "poll-ns", 0, 0, G_OPTION_ARG_INT, &o->poll_ns,
          "events: look for them so long before sleeping", "NS" },
        { "engine", 0, 0, G_OPTION_ARG_STRING_ARRAY, &o->engine,
          "memswap: a setting of the engine", "KEY=VALUE" },
        { "policy", 0, 0, G_OPTION_ARG_STRING_ARRAY, &o->policies,
          "memswap: a policy that is built in, or a file",
          "NAME[,OPTION=VALUE]..." },
        { "squeeze", 0, 0, G_OPTION_ARG_STRING, &squeeze,
          "a lower limit for a while; how long until the rate is back to "
          "90 %?", "SIZE" },
        { "squeeze-seconds", 0, 0, G_OPTION_ARG_DOUBLE, &o->squeeze_seconds,
          "for how long", "N" },
        { NULL }
    };
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) error = NULL;

    *o = (BenchOptions) {
        .size = 1ULL << 30,
        .page_size = TOUCH_SIZE,
        .stride = 17,
        .visit = 1,
        .theta = 0.99,
        .hot_percent = 25,
        .hot_touches = 90,
        .threads = 1,
        .write_percent = 25,
        .seed = 1,
        .seconds = 5,
        .warmup_seconds = 10,
        .squeeze_seconds = 3,
        .poll_ns = 32768,
    };
    g_option_context_set_summary(context,
        "Touch pages, check what they hold, and tell how long it took.");
    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, argc, argv, &error)) {
        bench_fail(0, "%s", error->message);
    }
    if (*argc > 1) {
        bench_fail(0, "unexpected: %s", (*argv)[1]);
    }
    set_default(&o->backend, "memswap");
    set_default(&o->pattern, "random");
    set_default(&o->data, "half");
    set_default(&o->faults, "events");
    parse_size("size", size, &o->size);
    parse_size("limit", limit, &o->limit);
    parse_size("squeeze", squeeze, &o->squeeze);
    parse_size("page-size", page_size, &o->page_size);
    check(o);
}

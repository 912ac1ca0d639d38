/*
 * Benchmarks: what the touch program is told
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_BENCH_OPTIONS_H
#define MEMSWAP_BENCH_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

/* What is touched at once, whatever the size of the backend's pages. */
#define TOUCH_SIZE 4096ULL

/* Owned by main(), never changed after bench_options_parse(). */
typedef struct BenchOptions {
    char *backend;         /* by name; see backend.h */
    uint64_t size;         /* bytes of RAM */
    uint64_t limit;        /* bytes of it that may be resident; 0: all */
    uint64_t page_size;    /* bytes; of the backend's pages */
    /* GLib wants integers for these yes or no. */
    int thp;               /* ask for transparent huge pages */
    int syscall;           /* touch inside a system call, as KVM does */
    int step;              /* wait for a line on stdin between phases */

    char *pattern;
    int visit;             /* zipf-region: touches in a region at a time */
    int stride;            /* strided: pages from one touch to the next */
    double theta;          /* zipf, zipf-region */
    int hot_percent;       /* hotset: this part of the pages ... */
    int hot_touches;       /* ... gets this percentage of the touches ... */
    int move_every;        /* ... and moves after so many; 0: never */
    int threads;
    int write_percent;
    int seed;

    char *data;            /* what the pages hold */
    char *corpus;          /* data "real": a file of pages to copy */

    double seconds;        /* of the measured phase; or: */
    int touches;           /* so many a thread, if not 0 */
    double settle_seconds; /* before the warm-up, when nothing is touched */
    double warmup_seconds; /* at most, and */
    int warmup_touches;    /* at most so many a thread; 0: once the RAM */

    char *faults;          /* memswap: "events" or "inline" */
    int poll_ns;           /* how long to look for events before sleeping */
    char **engine;         /* memswap: "key=value" settings */
    char **policies;       /* memswap: "name[,option=value]...", built in */
    uint64_t squeeze;      /* a limit to live with, and get rid of */
    double squeeze_seconds;
} BenchOptions;

/**
 * bench_options_parse: read the command line
 *
 * Exits with a message if it makes no sense.
 */
void bench_options_parse(BenchOptions *options, int *argc, char ***argv);

/**
 * bench_parse_size: bytes, with an optional K, M or G behind
 *
 * Returns whether @text is such a number.
 */
bool bench_parse_size(const char *text, uint64_t *bytes);

/**
 * bench_fail: print a message and exit
 * @error: errno to name, or 0
 */
void bench_fail(int error, const char *format, ...)
    __attribute__((noreturn, format(printf, 2, 3)));

#endif /* MEMSWAP_BENCH_OPTIONS_H */

/*
 * Touches memory in the test guest and checks every byte of it
 *
 *     churn [-m MIB] [-t THREADS] [-s SEED] [-w PERCENT] PHASE...
 *
 * Phases run one after the other:
 *     fill       write version 0 of every page
 *     scatter    the same, in no order: what it gets for pages that are side
 *                by side, if these are its first, lies anywhere
 *     seq[:N]    N times (1): all pages in order
 *     strideM[:N]
 *                the same with every Mth page, then those after them, ...
 *     random:N   N touches in random order
 *     random:Ns  the same for N seconds
 *     seq:N:word, strideM:N:word, random:N:word, random:Ns:word
 *                the same, but a touch looks at two words and writes one
 *     until      the same until a line comes in on standard input
 *     drop:P     give the last P percent of the pages back to the kernel;
 *                from then on they must read as zeroes
 *     wait       until a line comes in
 *
 * A touch compares the whole page with what it must hold, and in PERCENT of
 * the cases (default 25) writes it anew in its next version; one of a word
 * counts up the page's first word instead.  The pages are dealt to the threads
 * one by one, so that neighbours belong to different threads.
 *
 * Each second and at the end of each phase it prints a line of name=value
 * pairs; the last line is "total checked=N wrong=N".  Exit code 1 if a page
 * was wrong.
 *
 *     churn stream BYTES SEED
 *
 * writes that many bytes of the same kind of content to standard output: the
 * host's run of it tells the checksum that the guest's must have.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "pattern.h"

#define MAX_THREADS 64
#define MAX_COMPLAINTS 10

typedef enum PhaseKind {
    PHASE_FILL,
    PHASE_SCATTER,
    PHASE_SEQ,
    PHASE_RANDOM,
} PhaseKind;

typedef struct Phase {
    PhaseKind kind;
    uint64_t touches;  /* all threads together */
    bool word;         /* of each page, not all of it */
    uint64_t stride;   /* in order: from one page to the next, if not 1 */
} Phase;

typedef struct Thread {
    pthread_t thread;
    unsigned int index;
    uint64_t random;   /* state of the generator of its touches */
    double ended;      /* its phase, when */
} Thread;

static unsigned char *memory;
static uint32_t *versions;
/* By how much its first word is above what it was written with. */
static uint32_t *counts;
static uint64_t pages;
static unsigned int n_threads = 1;
static unsigned int write_percent = 25;
static uint64_t seed = 1;

static Phase phase;
static atomic_bool stop;
static atomic_uint running;
static _Atomic uint64_t checked;
static _Atomic uint64_t touched;
static _Atomic uint64_t wrong;

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void complain(uint64_t page, unsigned int words, unsigned int first)
{
    uint64_t value;

    if (atomic_fetch_add(&wrong, 1) >= MAX_COMPLAINTS) {
        return;
    }
    memcpy(&value, memory + page * PATTERN_PAGE + first * sizeof(value),
           sizeof(value));
    printf("WRONG page=%llu version=%d words=%u first=%u value=%016llx\n",
           (unsigned long long)page, (int)versions[page], words, first,
           (unsigned long long)value);
    fflush(stdout);
}

static void page_write(uint64_t page, uint32_t version)
{
    versions[page] = version;
    counts[page] = 0;
    pattern_write((uint64_t *)(memory + page * PATTERN_PAGE), seed, page,
                  version);
}

static void page_touch(uint64_t page, uint64_t random)
{
    uint64_t *content = (uint64_t *)(memory + page * PATTERN_PAGE);
    unsigned int first, words;

    if (counts[page]) {
        content[0] -= counts[page];
        counts[page] = 0;
    }
    words = pattern_check(content, seed, page, versions[page], &first);
    if (words) {
        complain(page, words, first);
    }
    atomic_fetch_add_explicit(&checked, 1, memory_order_relaxed);
    /* A wrong page gets right content again: each loss is counted once. */
    if (words || random % 100 < write_percent) {
        page_write(page, versions[page] + 1);
    }
}

static void word_touch(uint64_t page, uint64_t random)
{
    uint64_t *content = (uint64_t *)(memory + page * PATTERN_PAGE);
    Pattern pattern = pattern_start(seed, page, versions[page]);
    bool first = content[0] != pattern_word(&pattern, 0) + counts[page];

    if (first || content[1] != pattern_word(&pattern, 1)) {
        complain(page, 1, !first);
        page_write(page, versions[page]);
    }
    atomic_fetch_add_explicit(&checked, 1, memory_order_relaxed);
    if (random % 100 < write_percent) {
        content[0]++;
        counts[page]++;
    }
}

/* 0 to @n - 1, shuffled */
static uint64_t *shuffled(uint64_t n, uint64_t *random)
{
    uint64_t *order = malloc(n * sizeof(*order));

    if (!order) {
        perror("churn: memory");
        exit(2);
    }
    for (uint64_t i = 0; i < n; i++) {
        uint64_t other = (pattern_next(random) >> 8) % (i + 1);

        order[i] = order[other];
        order[other] = i;
    }
    return order;
}

static void *work(void *opaque)
{
    Thread *t = opaque;
    uint64_t own = (pages - t->index + n_threads - 1) / n_threads;
    uint64_t count = own;
    uint64_t stride = phase.stride ? phase.stride : 1;
    uint64_t next = 0, start = 0; /* in order */
    uint64_t *order = NULL;

    if (phase.kind == PHASE_RANDOM) {
        count = phase.touches / n_threads;
    } else if (phase.kind == PHASE_SCATTER) {
        order = shuffled(own, &t->random);
    }
    for (uint64_t i = 0; i < count && !stop; i++) {
        uint64_t random = pattern_next(&t->random);
        uint64_t nth = phase.kind == PHASE_RANDOM ? (random >> 8) % own :
                       order ? order[i] : next;
        uint64_t page = nth * n_threads + t->index;

        next += stride;
        if (next >= own) {
            next = ++start;
        }
        if (phase.kind == PHASE_FILL || order) {
            page_write(page, 0);
        } else if (phase.word) {
            word_touch(page, pattern_mix(random));
        } else {
            page_touch(page, pattern_mix(random));
        }
        atomic_fetch_add_explicit(&touched, 1, memory_order_relaxed);
    }
    free(order);
    t->ended = now();
    running--;
    return NULL;
}

/* Has a line come in?  Reads it. */
static bool line_waiting(int timeout_ms)
{
    struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };
    char byte;

    if (poll(&in, 1, timeout_ms) <= 0) {
        return false;
    }
    while (read(STDIN_FILENO, &byte, 1) == 1 && byte != '\n') {
        continue;
    }
    return true;
}

static void report(const char *what, const char *name, uint64_t done,
                   double seconds)
{
    printf("%s name=%s pages=%llu seconds=%.1f rate=%.0f checked=%llu "
           "wrong=%llu\n", what, name, (unsigned long long)done, seconds,
           done / seconds, (unsigned long long)checked,
           (unsigned long long)wrong);
    fflush(stdout);
}

/* @seconds, @until_line: ends on whichever comes first; 0, false: neither. */
static void run(Thread *threads, const char *name, Phase what, double seconds,
                bool until_line)
{
    double start = now(), last = start, end = start;
    uint64_t last_touched = 0;

    phase = what;
    stop = false;
    touched = 0;
    running = n_threads;
    for (unsigned int i = 0; i < n_threads; i++) {
        pthread_create(&threads[i].thread, NULL, work, &threads[i]);
    }
    while (running) {
        double t;

        if (until_line) {
            stop = line_waiting(20) || stop;
        } else {
            usleep(20000);
        }
        t = now();
        if (seconds && t - start >= seconds) {
            stop = true;
        }
        if (t - last >= 1) {
            report("progress", name, touched - last_touched, t - last);
            last_touched = touched;
            last = t;
        }
    }
    for (unsigned int i = 0; i < n_threads; i++) {
        pthread_join(threads[i].thread, NULL);
        end = threads[i].ended > end ? threads[i].ended : end;
    }
    report("phase", name, touched, end - start);
}

static void drop(uint64_t percent)
{
    uint64_t first = pages - pages * percent / 100;

    if (madvise(memory + first * PATTERN_PAGE, (pages - first) * PATTERN_PAGE,
                MADV_DONTNEED)) {
        perror("churn: madvise");
        exit(2);
    }
    for (uint64_t i = first; i < pages; i++) {
        versions[i] = PATTERN_ABSENT;
        counts[i] = 0;
    }
    printf("phase name=drop pages=%llu\n",
           (unsigned long long)(pages - first));
    fflush(stdout);
}

static void run_phase(Thread *threads, const char *name)
{
    uint64_t number = 1;
    const char *colon = strchr(name, ':');
    char *end = NULL;
    bool timed, word;

    if (colon) {
        number = strtoull(colon + 1, &end, 10);
    }
    timed = end && *end == 's';
    word = end && !strcmp(end + timed, ":word");
    if (!strcmp(name, "fill")) {
        run(threads, name, (Phase){ PHASE_FILL, pages, false, 0 }, 0, false);
    } else if (!strcmp(name, "scatter")) {
        /* 512 pages at once would lie side by side */
        madvise(memory, pages * PATTERN_PAGE, MADV_NOHUGEPAGE);
        run(threads, name, (Phase){ PHASE_SCATTER, pages, false, 0 }, 0,
            false);
    } else if (!strncmp(name, "seq", 3) || !strncmp(name, "stride", 6)) {
        uint64_t stride = name[1] == 't' ? strtoull(name + 6, NULL, 10) : 1;

        while (number--) {
            run(threads, name, (Phase){ PHASE_SEQ, pages, word, stride }, 0,
                false);
        }
    } else if (!strncmp(name, "random:", 7)) {
        Phase random = { PHASE_RANDOM, timed ? UINT64_MAX : number, word, 0 };

        run(threads, name, random, timed ? number : 0, false);
    } else if (!strcmp(name, "until")) {
        run(threads, name, (Phase){ PHASE_RANDOM, UINT64_MAX, false, 0 }, 0,
            true);
    } else if (!strncmp(name, "drop:", 5)) {
        drop(number);
    } else if (!strcmp(name, "wait")) {
        printf("waiting\n");
        fflush(stdout);
        line_waiting(-1);
    } else {
        fprintf(stderr, "churn: no such phase: %s\n", name);
        exit(2);
    }
}

static int stream(uint64_t bytes, uint64_t stream_seed)
{
    uint64_t words[PATTERN_WORDS];

    for (uint64_t page = 0; bytes; page++) {
        size_t size = bytes < PATTERN_PAGE ? bytes : PATTERN_PAGE;

        pattern_write(words, stream_seed, page, 0);
        if (fwrite(words, 1, size, stdout) != size) {
            perror("churn: write");
            return 2;
        }
        bytes -= size;
    }
    return 0;
}

int main(int argc, char **argv)
{
    Thread threads[MAX_THREADS];
    uint64_t mib = 16;
    int option;

    if (argc == 4 && !strcmp(argv[1], "stream")) {
        return stream(atoll(argv[2]), atoll(argv[3]));
    }
    while ((option = getopt(argc, argv, "m:t:s:w:")) != -1) {
        switch (option) {
        case 'm':
            mib = atoll(optarg);
            break;
        case 't':
            n_threads = atoi(optarg);
            break;
        case 's':
            seed = atoll(optarg);
            break;
        case 'w':
            write_percent = atoi(optarg);
            break;
        default:
            return 2;
        }
    }
    if (n_threads < 1 || n_threads > MAX_THREADS || mib < 1) {
        fprintf(stderr, "churn: -m from 1, -t from 1 to %d\n", MAX_THREADS);
        return 2;
    }
    pages = mib * 1024 * 1024 / PATTERN_PAGE;
    memory = mmap(NULL, pages * PATTERN_PAGE, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    versions = malloc(pages * sizeof(*versions));
    counts = calloc(pages, sizeof(*counts));
    if (memory == MAP_FAILED || !versions || !counts) {
        perror("churn: memory");
        return 2;
    }
    for (uint64_t i = 0; i < pages; i++) {
        versions[i] = PATTERN_ABSENT;
    }
    for (unsigned int i = 0; i < n_threads; i++) {
        threads[i].index = i;
        threads[i].random = pattern_mix(seed * MAX_THREADS + i) | 1;
    }
    while (optind < argc) {
        run_phase(threads, argv[optind++]);
    }
    printf("total checked=%llu wrong=%llu\n", (unsigned long long)checked,
           (unsigned long long)wrong);
    return wrong != 0;
}

/*
 * Guest program: requests to a disk, from and to memory all over the guest
 *
 *     disk [-p KIB] [-m MIB] [-a MIB] [-t THREADS] [-w PERCENT] [-q]
 *          -n SECONDS DEVICE
 *
 * Writes the first -m MiB (256) of a disk, and fills an arena of -a MiB (64),
 * to and from which it reads and writes pieces of -p KiB (4) then, with
 * O_DIRECT: at random, or with -q each thread (1) in the order of its part of
 * the disk.  Where in the arena is a matter of chance: with less memory than
 * that in the host, buffers are where the host has put them.  -w PERCENT (25)
 * of the requests are writes.
 *
 * Each page of the disk has its number and version in its first word and in
 * its last one, and so has a page of the arena, by what it got last.  What is
 * read is compared with what was written, what is in the arena with what got
 * there, before it is written to the disk; and all of both in the end.
 *
 * Says "waiting" and waits for a line before it measures and after it.  Then
 * "phase name=disk pages=REQUESTS seconds=N rate=N ...", and in the end "total
 * checked=N wrong=N".  Exit code 1 if something was wrong.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define WORDS (PAGE / sizeof(uint64_t))
#define MAX_THREADS 16
#define MAX_COMPLAINTS 10

typedef struct Thread {
    pthread_t thread;
    uint64_t random;
    uint64_t first, n_pieces;   /* its part of the disk */
    uint64_t next;              /* in order */
    uint64_t *arena;
    uint64_t *stamps;           /* of the arena's pages */
    uint64_t requests;
} Thread;

static int disk;
static uint64_t piece_pages = 1;
static uint64_t arena_pages;    /* a thread's */
static uint32_t *versions;      /* of the disk's pages */
static unsigned int write_percent = 25;
static bool in_order;
static atomic_bool stop;
static _Atomic uint64_t checked, wrong;

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec / 1e9;
}

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

static uint64_t next_random(Thread *t)
{
    t->random ^= t->random << 13;
    t->random ^= t->random >> 7;
    t->random ^= t->random << 17;
    return mix(t->random);
}

static uint64_t disk_stamp(uint64_t page)
{
    return mix(page << 32 | versions[page]);
}

static void put_stamp(uint64_t *words, uint64_t stamp)
{
    words[0] = stamp;
    words[WORDS - 1] = ~stamp;
}

static void check(const char *what, const uint64_t *words, uint64_t stamp,
                  uint64_t page)
{
    atomic_fetch_add_explicit(&checked, 1, memory_order_relaxed);
    if ((words[0] != stamp || words[WORDS - 1] != ~stamp) &&
        atomic_fetch_add(&wrong, 1) < MAX_COMPLAINTS) {
        printf("WRONG %s page=%llu %016llx %016llx not %016llx\n", what,
               (unsigned long long)page, (unsigned long long)words[0],
               (unsigned long long)words[WORDS - 1],
               (unsigned long long)stamp);
        fflush(stdout);
    }
}

static void transfer(bool writing, uint64_t *buffer, uint64_t page,
                     uint64_t n)
{
    size_t size = n * PAGE;
    ssize_t done = writing ? pwrite(disk, buffer, size, page * PAGE)
                           : pread(disk, buffer, size, page * PAGE);

    if (done != (ssize_t)size) {
        perror(writing ? "disk: write" : "disk: read");
        exit(2);
    }
}

static void write_piece(Thread *t, uint64_t page, uint64_t at, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t *words = t->arena + (at + i) * WORDS;

        check("memory", words, t->stamps[at + i], at + i);
        versions[page + i]++;
        t->stamps[at + i] = disk_stamp(page + i);
        put_stamp(words, t->stamps[at + i]);
    }
    transfer(true, t->arena + at * WORDS, page, n);
}

static void read_piece(Thread *t, uint64_t page, uint64_t at, uint64_t n)
{
    transfer(false, t->arena + at * WORDS, page, n);
    for (uint64_t i = 0; i < n; i++) {
        t->stamps[at + i] = disk_stamp(page + i);
        check("disk", t->arena + (at + i) * WORDS, t->stamps[at + i],
              page + i);
    }
}

static void *work(void *opaque)
{
    Thread *t = opaque;

    while (!stop) {
        uint64_t random = next_random(t);
        uint64_t piece = in_order ? t->next++ : random >> 40;
        uint64_t page = (t->first + piece % t->n_pieces) * piece_pages;
        uint64_t at = next_random(t) % (arena_pages - piece_pages + 1);

        if (random % 100 < write_percent) {
            write_piece(t, page, at, piece_pages);
        } else {
            read_piece(t, page, at, piece_pages);
        }
        t->requests++;
    }
    return NULL;
}

/* Half of the words of a page are random, for whoever compresses it. */
static void prepare_thread(Thread *t)
{
    t->stamps = calloc(arena_pages, sizeof(*t->stamps));
    t->arena = mmap(NULL, arena_pages * PAGE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!t->stamps || t->arena == MAP_FAILED) {
        perror("disk: memory");
        exit(2);
    }
    for (uint64_t page = 0; page < arena_pages; page++) {
        uint64_t *words = t->arena + page * WORDS;
        uint64_t fill = next_random(t);

        for (unsigned int i = 0; i < WORDS; i++) {
            words[i] = i & 32 ? mix(fill + i) : fill;
        }
        t->stamps[page] = fill;
        put_stamp(words, fill);
    }
}

static void wait_line(void)
{
    char byte;

    printf("waiting\n");
    fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) == 1 && byte != '\n') {
        continue;
    }
}

static void run(Thread *threads, unsigned int n, double seconds)
{
    double begin = now();
    uint64_t requests = 0;

    for (unsigned int i = 0; i < n; i++) {
        pthread_create(&threads[i].thread, NULL, work, &threads[i]);
    }
    usleep(seconds * 1e6);
    stop = true;
    for (unsigned int i = 0; i < n; i++) {
        pthread_join(threads[i].thread, NULL);
        requests += threads[i].requests;
    }
    seconds = now() - begin;
    printf("phase name=disk pages=%llu seconds=%.1f rate=%.0f checked=%llu "
           "wrong=%llu\n", (unsigned long long)requests, seconds,
           requests / seconds, (unsigned long long)checked,
           (unsigned long long)wrong);
    fflush(stdout);
}

static void check_all(Thread *threads, unsigned int n, uint64_t pages)
{
    for (unsigned int i = 0; i < n; i++) {
        for (uint64_t page = 0; page < arena_pages; page++) {
            check("memory", threads[i].arena + page * WORDS,
                  threads[i].stamps[page], page);
        }
    }
    for (uint64_t page = 0; page < pages; page += piece_pages) {
        read_piece(&threads[0], page, page % (arena_pages - piece_pages + 1),
                   piece_pages);
    }
}

int main(int argc, char **argv)
{
    static Thread threads[MAX_THREADS];
    uint64_t pages = 256 << 20, pieces;
    unsigned int n = 1;
    double seconds = 0;
    int option;

    arena_pages = (64 << 20) / PAGE;
    pages /= PAGE;
    while ((option = getopt(argc, argv, "p:m:a:t:w:n:q")) != -1) {
        switch (option) {
        case 'p':
            piece_pages = atoll(optarg) * 1024 / PAGE;
            break;
        case 'm':
            pages = atoll(optarg) * 1024 * 1024 / PAGE;
            break;
        case 'a':
            arena_pages = atoll(optarg) * 1024 * 1024 / PAGE;
            break;
        case 't':
            n = atoi(optarg);
            break;
        case 'w':
            write_percent = atoi(optarg);
            break;
        case 'n':
            seconds = atof(optarg);
            break;
        case 'q':
            in_order = true;
            break;
        default:
            return 2;
        }
    }
    if (optind + 1 != argc || n < 1 || n > MAX_THREADS || seconds <= 0 ||
        piece_pages < 1 || pages / n < piece_pages ||
        arena_pages / n < piece_pages) {
        fprintf(stderr, "disk: give it -n and a disk; -t from 1 to %d\n",
                MAX_THREADS);
        return 2;
    }
    arena_pages /= n;
    pieces = pages / piece_pages;
    pages = pieces * piece_pages;
    versions = calloc(pages, sizeof(*versions));
    disk = open(argv[optind], O_RDWR | O_DIRECT);
    if (!versions || disk < 0) {
        perror("disk");
        return 2;
    }
    for (unsigned int i = 0; i < n; i++) {
        threads[i].random = mix(i) | 1;
        threads[i].first = pieces / n * i;
        threads[i].n_pieces = pieces / n;
        prepare_thread(&threads[i]);
    }
    for (uint64_t page = 0; page < pages; page += piece_pages) {
        write_piece(&threads[0], page,
                    page % (arena_pages - piece_pages + 1), piece_pages);
    }
    wait_line();
    run(threads, n, seconds);
    wait_line();
    check_all(threads, n, pages);
    printf("total checked=%llu wrong=%llu\n", (unsigned long long)checked,
           (unsigned long long)wrong);
    return wrong != 0;
}

/*
 * Writes a file in the test guest and reads it back, checking every byte
 *
 *     diskio [-d] [-m MIB] [-a MIB] [-t THREADS] [-n COUNT] [-p EVERY]
 *            [-s SEED] FILE
 *
 * The file (-m, default 16) is written and read at random in pieces of
 * 64 KiB, COUNT (default 1000; 0: until a line comes in) in all, from and to
 * random places in an arena of memory (-a, default 64) that is much larger than
 * what is in flight: the buffers have mostly been swapped out by the host when
 * they are used.  With -d it is done with O_DIRECT, and a buffer may start at
 * any multiple of 512 bytes.  At the end the file is read once more from the
 * disk.  With -p a line "progress N" is printed after each so many pieces.
 * FILE may be a disk, which is then at least as large.  The last line is "total
 * checked=N wrong=N", counted in pages; exit code 1 if one was wrong.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pattern.h"

#define PIECE (64 * 1024)
#define PIECE_PAGES (PIECE / PATTERN_PAGE)
#define SECTOR 512
#define MAX_THREADS 16

typedef struct Thread {
    pthread_t thread;
    unsigned int index;
    unsigned char *arena;
    uint64_t random;
} Thread;

static int file;
static uint64_t pieces;
static uint32_t *versions; /* of the pieces */
static uint64_t arena_size; /* a thread's */
static unsigned int n_threads = 2;
static unsigned int align = 8;
static uint64_t count = 1000;
static uint64_t every;
static _Atomic uint64_t done;
static uint64_t seed = 1;
static _Atomic uint64_t checked;
static _Atomic uint64_t wrong;

/* Page number @page of the file, in version @version, at any address. */
static void buffer_fill(unsigned char *buffer, uint64_t piece)
{
    uint64_t words[PATTERN_WORDS];

    for (unsigned int i = 0; i < PIECE_PAGES; i++) {
        pattern_write(words, seed, piece * PIECE_PAGES + i, versions[piece]);
        memcpy(buffer + i * PATTERN_PAGE, words, PATTERN_PAGE);
    }
}

static void buffer_check(const unsigned char *buffer, uint64_t piece)
{
    uint64_t words[PATTERN_WORDS];
    unsigned int first, n;

    for (unsigned int i = 0; i < PIECE_PAGES; i++) {
        uint64_t page = piece * PIECE_PAGES + i;

        memcpy(words, buffer + i * PATTERN_PAGE, PATTERN_PAGE);
        n = pattern_check(words, seed, page, versions[piece], &first);
        if (n && atomic_fetch_add(&wrong, 1) < 10) {
            printf("WRONG page=%llu version=%d words=%u first=%u\n",
                   (unsigned long long)page, (int)versions[piece], n, first);
        }
    }
    checked += PIECE_PAGES;
}

static void transfer(bool writing, unsigned char *buffer, uint64_t piece)
{
    ssize_t n = writing ? pwrite(file, buffer, PIECE, piece * PIECE)
                        : pread(file, buffer, PIECE, piece * PIECE);

    if (n != PIECE) {
        perror(writing ? "diskio: write" : "diskio: read");
        exit(2);
    }
}

/* Has a thread done @n pieces, and that is enough? */
static bool enough(uint64_t n)
{
    struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };

    return count ? n >= count / n_threads : poll(&in, 1, 0) > 0;
}

static void *work(void *opaque)
{
    Thread *t = opaque;
    uint64_t own = pieces / n_threads;

    for (uint64_t i = 0; !enough(i); i++) {
        uint64_t random = pattern_mix(pattern_next(&t->random));
        uint64_t piece = (random >> 8) % own * n_threads + t->index;
        unsigned char *buffer = t->arena;

        buffer += (random >> 32) % ((arena_size - PIECE) / align) * align;
        if (versions[piece] == PATTERN_ABSENT || (random & 1)) {
            versions[piece]++;
            buffer_fill(buffer, piece);
            transfer(true, buffer, piece);
        } else {
            transfer(false, buffer, piece);
            buffer_check(buffer, piece);
        }
        if (every && (atomic_fetch_add(&done, 1) + 1) % every == 0) {
            printf("progress %llu\n", (unsigned long long)done);
            fflush(stdout);
        }
    }
    return NULL;
}

/* Reads all that was written, from the disk. */
static void check_all(Thread *t)
{
    uint64_t piece;

    if (fsync(file) || posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED)) {
        perror("diskio: fsync");
        exit(2);
    }
    for (piece = 0; piece < pieces; piece++) {
        if (versions[piece] != PATTERN_ABSENT) {
            unsigned char *buffer = t->arena + piece * PIECE %
                                    (arena_size - PIECE);

            transfer(false, buffer, piece);
            buffer_check(buffer, piece);
        }
    }
}

int main(int argc, char **argv)
{
    Thread threads[MAX_THREADS];
    uint64_t file_mib = 16, arena_mib = 64;
    int option, flags = O_RDWR | O_CREAT | O_TRUNC;
    struct stat st;

    while ((option = getopt(argc, argv, "dm:a:t:n:p:s:")) != -1) {
        switch (option) {
        case 'd':
            flags |= O_DIRECT;
            align = SECTOR;
            break;
        case 'm':
            file_mib = atoll(optarg);
            break;
        case 'a':
            arena_mib = atoll(optarg);
            break;
        case 't':
            n_threads = atoi(optarg);
            break;
        case 'n':
            count = atoll(optarg);
            break;
        case 'p':
            every = atoll(optarg);
            break;
        case 's':
            seed = atoll(optarg);
            break;
        default:
            return 2;
        }
    }
    if (optind + 1 != argc || n_threads < 1 || n_threads > MAX_THREADS) {
        fprintf(stderr, "diskio: give it a file, -t from 1 to %d\n",
                MAX_THREADS);
        return 2;
    }
    pieces = file_mib * 1024 * 1024 / PIECE / n_threads * n_threads;
    arena_size = arena_mib * 1024 * 1024 / n_threads & ~(PATTERN_PAGE - 1ULL);
    versions = malloc(pieces * sizeof(*versions));
    file = open(argv[optind], flags, 0600);
    if (!versions || file < 0 || fstat(file, &st) ||
        (S_ISREG(st.st_mode) && ftruncate(file, pieces * PIECE))) {
        perror("diskio: file");
        return 2;
    }
    for (uint64_t i = 0; i < pieces; i++) {
        versions[i] = PATTERN_ABSENT;
    }
    for (unsigned int i = 0; i < n_threads; i++) {
        threads[i].index = i;
        threads[i].random = pattern_mix(seed * MAX_THREADS + i) | 1;
        threads[i].arena = mmap(NULL, arena_size, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (threads[i].arena == MAP_FAILED) {
            perror("diskio: memory");
            return 2;
        }
        /* So that the host has it to swap before the first transfer. */
        for (uint64_t page = 0; page < arena_size / PATTERN_PAGE; page++) {
            pattern_write((uint64_t *)(threads[i].arena +
                                       page * PATTERN_PAGE), seed, page, 0);
        }
    }
    for (unsigned int i = 0; i < n_threads; i++) {
        pthread_create(&threads[i].thread, NULL, work, &threads[i]);
    }
    for (unsigned int i = 0; i < n_threads; i++) {
        pthread_join(threads[i].thread, NULL);
    }
    check_all(&threads[0]);
    printf("total checked=%llu wrong=%llu\n", (unsigned long long)checked,
           (unsigned long long)wrong);
    return wrong != 0;
}

/*
 * Another process that has the guest's RAM mapped, as a device process has
 *
 * A real one, with a page table and a userfaultfd of its own.  It does what it
 * is told, one order after the other.  The same program is run again for it,
 * since a fork of a program with threads can't do much.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_OTHER_H
#define TEST_OTHER_H

#include "harness.h"

/* Threads of a stress. */
#define OTHER_THREADS 2

/* What both processes see of a stress; see other_stress_new(). */
typedef struct OtherStress {
    _Atomic bool stop;
    _Atomic uint64_t done;              /* increments */
    /* The page that each thread is about to count on, plus one; 0: none. */
    _Atomic uint64_t intent[OTHER_THREADS];
    /* By thread and page: how often it has counted. */
    _Atomic uint64_t tally[];
} OtherStress;

/*
 * In a page that is counted on, by words: what all threads did, those of the
 * other process each, and what the kernel wrote for each of these.
 */
#define OTHER_WORD_ALL      0
#define OTHER_WORD_THREAD   8
#define OTHER_WORD_KERNEL   16

typedef struct Other {
    pid_t pid;
    int control;            /* a socket: orders and answers */
    int uffd;               /* -1: it has none, or it is the engine's */
    uint64_t base;          /* where it has the RAM */
    MemswapRemote *remote;  /* NULL: not added */
    Harness *h;
} Other;

/* To be called by main() before anything else: may not return. */
void other_main(int argc, char **argv);

/* Starts one, which maps the harness's RAM; the engine doesn't know of it. */
Other *other_new(Harness *h);
/* It registers for faults, then is added to the engine. */
void other_register(Other *other);
/* Its userfaultfd, registered, and not known to the engine. */
int other_open_uffd(Other *other);
/* Share the RAM, start one, and register it. */
Other *other_expose(Harness *h);
/* Add it with what it has registered. */
void other_add(Other *other);
/* Maps the RAM a second time, and registers that; *@base is where. */
void other_map_again(Other *other, uint64_t *base);
/* Kill it, if it is there still, and remove it. */
void other_kill(Other *other);
void other_free(Other *other);
/* The same; then nobody shares the RAM any more. */
void other_conceal(Other *other);

/* Its accesses, by CPU.  Each returns when it is done. */
uint64_t other_read(Other *other, uint64_t page);       /* the first word */
void other_fill(Other *other, uint64_t page, uint64_t number);
void other_check(Other *other, uint64_t page, uint64_t number);
/* By the kernel: with a system call that is given a guest pointer. */
void other_fill_by_kernel(Other *other, uint64_t page, uint64_t number);

/* Those that may have to wait: begin, and finish. */
void other_begin_read(Other *other, uint64_t page);
void other_begin_fill(Other *other, uint64_t page, uint64_t number);
/* It is not done, and is not for a while. */
void other_check_waits(Other *other);
uint64_t other_finish(Other *other);

/* For @pages; unmap with other_stress_free(). */
OtherStress *other_stress_new(uint64_t pages, int *fd);
void other_stress_free(OtherStress *stress, uint64_t pages, int fd);
/* Count on pages at random until stress->stop, then other_finish(). */
void other_begin_stress(Other *other, int fd, uint64_t pages, uint64_t seed);

#endif /* TEST_OTHER_H */

/*
 * memswap: what its qtests share
 *
 * They run a real QEMU, without a guest, and stand in for one by accesses
 * over the qtest socket.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_UTIL_H
#define MEMSWAP_UTIL_H

#include "qobject/qdict.h"
#include "libqtest.h"

#define PAGE ((uint64_t)4096)
#define MIB ((uint64_t)1024 * 1024)

/* More than any of these tests waits for, on a busy machine. */
#define PATIENCE_US (60 * G_USEC_PER_SEC)
#define PATIENCE_MS (PATIENCE_US / 1000)

/* Wait until @condition, which others bring about. */
#define wait_until(condition)                                               \
    do {                                                                    \
        int64_t end_ = g_get_monotonic_time() + PATIENCE_US;                \
        while (!(condition)) {                                              \
            g_assert_cmpint(g_get_monotonic_time(), <, end_);               \
            g_usleep(10 * 1000);                                            \
        }                                                                   \
    } while (0)

/*
 * Run QEMU with these arguments and those of the qtest accelerator, to its
 * end, which comes by itself.  Returns the exit status.
 */
int run_qemu(const char *args, char **out, char **err);

/*
 * QEMU must refuse to start: with exit status 1, and with one line that
 * contains @message.
 */
void expect_refusal(const char *args, const char *message);

/*
 * Start QEMU as a user without any right to userfaultfd.  Returns NULL after
 * marking the test as skipped if that isn't possible.
 */
QTestState *start_without_rights(const char *args);

/*
 * Start QEMU with one more monitor, which takes commands out of band, at the
 * other end of this descriptor.
 */
QTestState *start_with_monitor(const char *args, int *monitor);

/* Does an answer come there in time? */
bool answers(int monitor, int ms);

/* The next answer, which must be to the command with this id. */
QDict *answer(int monitor, const char *id);

/* What the test is to give as fault-mode; see add_in_both_modes(). */
extern const char *fault_mode;

/* Add a test twice: with faults inline, and with an IOThread's. */
void add_in_both_modes(const char *path, void (*test)(void));

/* The result of query-memswap; to be unreferenced. */
QDict *query(QTestState *qts);

/* One number of it, by its group and name. */
uint64_t number(QTestState *qts, const char *group, const char *name);

/*
 * One number of one block, by its name without the device's; -1 if it isn't
 * there or not managed.
 */
int64_t block_number(QTestState *qts, const char *block, const char *name);

/* The reason why this block isn't managed, g_free() it; NULL if it is. */
char *block_reason(QTestState *qts, const char *block);

/* A command must fail, with an error that contains @message. */
void expect_error(QTestState *qts, const char *message, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);

/* Take out this much.  Returns what was got. */
uint64_t reclaim(QTestState *qts, uint64_t size);

/*
 * Take out all of so much RAM.  What a fault's handler still has in hand when
 * the access is over leaves at a second look.  Returns what was got in all.
 */
uint64_t reclaim_all(QTestState *qts, uint64_t ram);

/*
 * Wait until resident memory is within the limit: the thread that serves
 * qtest holds the BQL and so may pass it for a moment.
 */
void expect_within_limit(QTestState *qts);

/*
 * Wait until a number has this value: RCU frees late, and a page is counted
 * a moment after who touched it goes on.
 */
void expect_soon(QTestState *qts, const char *group, const char *name,
                 uint64_t value);

/* At rest the numbers add up, in all and for each block. */
void expect_sums(QTestState *qts);

/* Bytes that the shared memory behind guest RAM takes, seen from outside. */
uint64_t allocated(QTestState *qts);

/* What a page can be filled with. */
typedef enum Content {
    CONTENT_ZERO,       /* nothing */
    CONTENT_SAME,       /* one value, again and again */
    CONTENT_TEXT,       /* what compresses well */
    CONTENT_RANDOM,     /* what doesn't */
    CONTENT_MIXED,      /* page by page one of the above */
} Content;

/* Write to, and check, a range of guest RAM; @seed makes it different. */
void fill(QTestState *qts, uint64_t addr, uint64_t size, Content content,
          unsigned int seed);
void check(QTestState *qts, uint64_t addr, uint64_t size, Content content,
           unsigned int seed);

/* It is managed, and of use: pages go and come back. */
void expect_swapping(QTestState *qts);

/* Make one page's worth of what fill() writes at @addr. */
void make_page(uint8_t *page, uint64_t addr, Content content,
               unsigned int seed);

#endif /* MEMSWAP_UTIL_H */

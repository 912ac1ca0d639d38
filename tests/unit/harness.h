/*
 * A guest for the engine's tests: a memfd, a mapping, and whoever touches it
 *
 * Faults are real ones.  They are resolved by a thread of the harness, or by
 * hand in the test's own thread where a test needs to say when.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_HARNESS_H
#define TEST_HARNESS_H

#include <glib.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "engine-private.h"
#include "fake-store.h"
#include "fewer.h"
#include "inject.h"
#include "internal.h"

#define PAGE 4096ULL
#define MIB (1024 * 1024ULL)
#define REGION_PAGES (MEMSWAP_REGION_SIZE / PAGE)

/* How long to wait for what must happen, and for what must not. */
#define PATIENCE_US (30 * G_USEC_PER_SEC)
#define NOT_YET_US 30000

/* Shared memory that is mapped once, at an address aligned to a region. */
typedef struct Ram {
    int fd;
    uint64_t fd_offset;
    uint8_t *host;
    uint64_t size;
    uint64_t page_size;
    MemswapBlock *block;    /* NULL while it isn't managed */
} Ram;

typedef struct HarnessOptions {
    uint64_t size;          /* of the RAM; 0: no block is added */
    bool hugetlb;           /* it is of hugepages */
    uint64_t limit;         /* bytes; 0: no less than the RAM */
    uint64_t pool_limit;    /* 0: none */
    uint64_t reserve_low, reserve_high;
    unsigned int evictors;
    bool pool;              /* the real pool, not the fake store */
    bool by_hand;           /* no thread that resolves faults */
    bool user_mode_only;
    bool events_only;       /* never inline faults, see harness_inline() */
    bool inline_faults;     /* always */
    bool fake_clock;        /* time stands still but for harness_tick() */
    bool overshoot;         /* settings.when_full */
    uint64_t readahead;     /* settings.readahead */
    uint64_t keep_copies;   /* settings.keep_copies */
    bool huge;              /* huge regions, where the kernel can */
    unsigned int helpers;   /* fault helpers; then never inline faults */
    bool spread;            /* and one of them reads, with two CPUs */
    const char *reclaimer;  /* the default policy; NULL: none */
    bool slow_store;        /* all that the fake store has is slow to get */
} HarnessOptions;

typedef struct Harness {
    MemswapEngine *engine;
    FakeStore *store;       /* NULL with the pool */
    Ram ram;
    MemswapSettings settings;

    /* What the host was told and says. */
    _Atomic unsigned int events[MEMSWAP_EVENT_BUG + 1];
    _Atomic uint64_t event_offset;
    _Atomic unsigned int traces[MEMSWAP_TRACE_STALL + 1];
    _Atomic unsigned int n_stall_traces;
    _Atomic unsigned int n_unpinned;
    uint64_t stall_traces[16];  /* offsets of the first stalls served */
    _Atomic bool may_not_hold_back;
    _Atomic bool held_up;
    _Atomic int64_t clock;
    /* Added to the clock whenever it is asked. */
    _Atomic int64_t clock_step;
    bool fake_clock;

    GThread *handler;
    int request;            /* eventfd: asks the handler for a sign of life */
    _Atomic bool quit;
    GMutex lock;            /* of what follows */
    GCond answered;
    uint64_t asked, answers;
} Harness;

/* The least limit, and an evictor that keeps a page or two free. */
extern const HarnessOptions harness_evicting;

/*
 * Do threads resolve their own faults?  With MEMSWAP_TEST_FAULTS=inline in the
 * environment they do, unless the test resolves them by hand or wants events.
 */
bool harness_inline(const HarnessOptions *options);
Harness *harness_new(const HarnessOptions *options);
/* By hand, with one page written to, by task_write(). */
Harness *harness_with_page(uint64_t size, uint64_t page);
/* Checks the sums first; frees everything. */
void harness_free(Harness *h);
/* The same, in the middle of whatever is going on: it must not take long. */
void harness_abandon(Harness *h);

/* Memory that the engine knows nothing of. */
Ram ram_new(uint64_t size, uint64_t fd_offset);
/* The same, on hugetlbfs. */
Ram ram_new_hugetlb(uint64_t size, uint64_t fd_offset);
/* The same, in an empty file, which is the RAM's from now on. */
Ram ram_new_in(int fd, uint64_t size);
/* What harness_new() does with its RAM. */
void ram_add(Harness *h, Ram *ram, const char *name);
void ram_remove(Harness *h, Ram *ram);
/* Unmap and close; not while it is managed. */
void ram_free(Ram *ram);
/* Bytes of it that its file takes, as the kernel counts. */
uint64_t ram_cached(const Ram *ram);
/* Is the page in the page table of this process? */
bool ram_mapped(const Ram *ram, uint64_t page);
/* A number of kB from the mapping's entry in smaps; -1 if there is none. */
int ram_smaps(const Ram *ram, const char *name);
/* By the number of the word: of hugepages in a block of these. */
MemswapState ram_state(const Ram *ram, uint64_t page);
unsigned int ram_pins(const Ram *ram, uint64_t page);

/*
 * A page's content follows from a number.  0 is a page of zeroes.  An even one
 * is itself repeated.  An odd one is in the first 8 bytes; what follows does
 * not compress, or, with bit 1 set, half of it does.
 */
void page_build(void *page, uint64_t number);
/* Touch pages: by CPU, in this thread. */
void ram_fill(Harness *h, uint64_t page, uint64_t number);
void ram_check(Harness *h, uint64_t page, uint64_t number);
/* Only touch it. */
void ram_touch(Harness *h, uint64_t page);
/* Runs of pages, each with the odd number that is its own; then settle. */
void write_pages(Harness *h, uint64_t first, uint64_t n);
void check_pages(Harness *h, uint64_t first, uint64_t n);

/* Wait until the harness's thread has nothing to do. */
void harness_settle(Harness *h);
/*
 * At rest: words, gauges, the charge, the store and the memfd's blocks agree,
 * and nothing is pinned or in transition but what the test says.
 */
void harness_check(Harness *h);
MemswapStats stats_of(Harness *h);
void harness_set_limit(Harness *h, uint64_t limit, uint64_t pool_limit);
void harness_tick(Harness *h, int64_t ns);
unsigned int harness_events(Harness *h, MemswapEvent event);

/* By hand: wait until a fault is reported / resolve what is reported. */
void harness_wait_fault(Harness *h);
void harness_handle(Harness *h);

/* Something that may have to wait, in a thread of its own. */
typedef struct Task Task;
typedef int64_t TaskFunction(Harness *h, uint64_t arg);
Task *task_start(Harness *h, TaskFunction *function, uint64_t arg);
/* Returns once it sleeps in the kernel, or is done. */
void task_wait_asleep(Task *task);
bool task_done(Task *task);
/* It is not done, and is not for a while. */
void task_check_waits(Task *task);
/* What the function returned; fails if it takes too long. */
int64_t task_join(Task *task);
/* The same, while faults are resolved in this thread. */
int64_t join_by_hand(Harness *h, Task *task);

/* Functions for tasks; @arg is a page. */
int64_t task_read(Harness *h, uint64_t page);       /* the page's number */
int64_t task_write(Harness *h, uint64_t page);      /* 2 * page + 1 */
int64_t task_pin(Harness *h, uint64_t page);
int64_t task_discard(Harness *h, uint64_t page);
int64_t task_reclaim(Harness *h, uint64_t bytes);

/* What MEMSWAP_STRESS_SECONDS says, or so many. */
double stress_seconds(double otherwise);

/* Wait until @condition, which others bring about. */
#define wait_until(condition)                                               \
    do {                                                                    \
        int64_t end_ = g_get_monotonic_time() + PATIENCE_US;                \
        while (!(condition)) {                                              \
            if (g_get_monotonic_time() > end_) {                            \
                g_error("%s:%d: in vain: %s", __FILE__, __LINE__,           \
                        #condition);                                        \
            }                                                               \
            g_usleep(200);                                                  \
        }                                                                   \
    } while (0)

#endif /* TEST_HARNESS_H */

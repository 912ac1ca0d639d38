/*
 * Benchmarks: touch pages, check what they hold, tell how long it took
 *
 * Prepares everything, fills the RAM, touches nothing for a while if asked to,
 * so that background work gets done, warms up until residency is steady, and
 * then measures.  One reading of the clock per touch: it ends one touch and
 * begins the next, so that all the time is in the histogram.  Prints one JSON
 * object in a line.
 *
 * With --squeeze it has a lower limit for a while, and measures from the moment
 * when that is gone until touches are nearly as fast as before.
 *
 * All that is not RAM is locked, so that swapping concerns RAM alone.  With
 * --step the program tells each phase by a line ("ready", "warm", the result)
 * and goes on when it reads one: whoever started it can read the kernel's
 * counters or change a limit meanwhile.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

#include "backend.h"
#include "clock.h"
#include "content.h"
#include "histogram.h"
#include "options.h"
#include "pattern.h"

/* The exit status when values were wrong. */
#define EXIT_WRONG 2

/* What took longer than this was no ordinary access. */
#define FAULT_NS 1000

/* A signal handler that decompresses needs 11 KiB. */
#define STACK_SIZE (128 * 1024)

/*
 * How often to look at the rate after a squeeze; it is back when most of the
 * last looks found so much of what it was before.
 */
#define LOOK_SECONDS 0.02
#define LOOKS 5
#define BACK 0.9
/* Looks that tell what it was. */
#define FULL_LOOKS 50

/* Of a limit: so little beyond it is within it, for the kernel's accounts. */
#define NEARLY 64
/*
 * Seconds to get there.  A kernel counts what is on its way out as well, and
 * may stay above for ever: then it is measured with the more that it has.
 */
#define SQUEEZE_PATIENCE 20

/* How many pages to ask mincore() for at once. */
#define MINCORE_PAGES 65536

/* One thread that touches; its own, but for main() between the phases. */
typedef struct Worker {
    pthread_t thread;
    unsigned int lane;
    uint32_t *order;
    uint32_t next;          /* index into @order */
    uint16_t *counts;       /* by page: what our counter in it must be */
    Histogram *times;
    uint64_t touches;
    uint64_t wrong;
    uint64_t begin_ns;      /* of the phase */
    uint64_t end_ns;
    double cpu;             /* seconds in this phase */
    uint64_t buffer[CONTENT_WORDS];
} Worker;

/* A phase: whatever comes first ends it; 0: no such bound. */
typedef struct Phase {
    double seconds;
    uint64_t touches;
    bool more;              /* of the one before: counts go on */
} Phase;

/* Written by main() while the workers wait at the barrier. */
static BenchOptions options;
static const BenchBackend *backend;
static Content *content;
static pid_t pid;
static uint64_t *ram;
static Phase phase;
static bool last_phase;
static pthread_barrier_t barrier;

static double cpu_seconds(int who)
{
    struct rusage usage;

    getrusage(who, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static inline void touch(Worker *worker, uint32_t entry)
{
    uint32_t page = entry & ~PATTERN_WRITE;
    uint64_t *words = ram + page * CONTENT_WORDS;

    if (G_UNLIKELY(!content_right(content, page, words, worker->lane,
                                  worker->counts[page]))) {
        worker->wrong++;
    }
    if (entry & PATTERN_WRITE) {
        words[CONTENT_COUNTER + worker->lane] = ++worker->counts[page];
    }
}

/* The same inside the kernel, which gets at the page as KVM would. */
static void touch_syscall(Worker *worker, uint32_t entry)
{
    uint32_t page = entry & ~PATTERN_WRITE;
    uint64_t *words = ram + page * CONTENT_WORDS;
    struct iovec local = { worker->buffer, TOUCH_SIZE };
    struct iovec remote = { words, TOUCH_SIZE };

    if (process_vm_readv(pid, &local, 1, &remote, 1, 0) != TOUCH_SIZE) {
        bench_fail(errno, "process_vm_readv of page %u", page);
    }
    if (!content_right(content, page, worker->buffer, worker->lane,
                       worker->counts[page])) {
        worker->wrong++;
    }
    if (entry & PATTERN_WRITE) {
        uint64_t count = ++worker->counts[page];

        local = (struct iovec) { &count, sizeof(count) };
        remote = (struct iovec) { words + CONTENT_COUNTER + worker->lane,
                                  sizeof(count) };
        if (process_vm_writev(pid, &local, 1, &remote, 1, 0) !=
            sizeof(count)) {
            bench_fail(errno, "process_vm_writev to page %u", page);
        }
    }
}

static void run_phase(Worker *worker)
{
    uint64_t ticks = phase.seconds * 1e9 * bench_ticks_per_ns;
    uint64_t left = phase.touches ?: UINT64_MAX;
    double cpu = cpu_seconds(RUSAGE_THREAD);
    uint64_t begin, last;

    if (!phase.more) {
        memset(worker->times, 0, sizeof(*worker->times));
        worker->begin_ns = bench_clock_ns();
        worker->touches = 0;
        worker->cpu = 0;
    }
    begin = last = bench_clock_ticks();
    do {
        uint32_t entry = worker->order[worker->next];
        uint64_t now;

        worker->next = (worker->next + 1) % PATTERN_LENGTH;
        if (options.syscall) {
            touch_syscall(worker, entry);
        } else {
            touch(worker, entry);
        }
        worker->touches++;
        now = bench_clock_ticks();
        histogram_add(worker->times, now - last);
        last = now;
    } while (--left && (!ticks || last - begin < ticks));
    worker->end_ns = bench_clock_ns();
    worker->cpu += cpu_seconds(RUSAGE_THREAD) - cpu;
}

static void *work(void *opaque)
{
    Worker *worker = opaque;

    while (true) {
        pthread_barrier_wait(&barrier);
        if (last_phase) {
            return NULL;
        }
        run_phase(worker);
        pthread_barrier_wait(&barrier);
    }
}

static Worker *start_workers(void)
{
    Worker *workers = g_new0(Worker, options.threads);
    pthread_attr_t attr;

    pthread_barrier_init(&barrier, NULL, options.threads + 1);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_SIZE);
    for (unsigned int i = 0; i < options.threads; i++) {
        int ret;

        workers[i].lane = i;
        workers[i].order = pattern_new(&options, i);
        workers[i].counts = g_new0(uint16_t, options.size / TOUCH_SIZE);
        workers[i].times = g_new0(Histogram, 1);
        ret = pthread_create(&workers[i].thread, &attr, work, &workers[i]);
        if (ret) {
            bench_fail(ret, "cannot start a thread");
        }
    }
    pthread_attr_destroy(&attr);
    return workers;
}

static void stop_workers(Worker *workers)
{
    last_phase = true;
    pthread_barrier_wait(&barrier);
    for (unsigned int i = 0; i < options.threads; i++) {
        pthread_join(workers[i].thread, NULL);
        g_free(workers[i].order);
        g_free(workers[i].counts);
        g_free(workers[i].times);
    }
    g_free(workers);
}

/* Let the workers run a phase; main() alone runs before and after it. */
static void run_workers(Phase next)
{
    phase = next;
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
}

static uint64_t resident_pages(void)
{
    static unsigned char vector[MINCORE_PAGES];
    uint64_t n_pages = options.size / TOUCH_SIZE;
    uint64_t n = 0;

    for (uint64_t page = 0; page < n_pages; page += MINCORE_PAGES) {
        uint64_t pages = MIN(MINCORE_PAGES, n_pages - page);

        if (mincore(ram + page * CONTENT_WORDS, pages * TOUCH_SIZE,
                    vector) < 0) {
            bench_fail(errno, "mincore");
        }
        for (uint64_t i = 0; i < pages; i++) {
            n += vector[i] & 1;
        }
    }
    return n;
}

/* Touches a second in a short time, which goes on with the phase before. */
static double look(const Worker *workers, bool more)
{
    uint64_t begin = bench_clock_ns();
    uint64_t touches = 0;

    for (int i = 0; more && i < options.threads; i++) {
        touches -= workers[i].touches;
    }
    run_workers((Phase) { .seconds = LOOK_SECONDS, .more = more });
    for (int i = 0; i < options.threads; i++) {
        touches += workers[i].touches;
    }
    return touches * 1e9 / (bench_clock_ns() - begin);
}

static int compare_rates(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(const double *rates, unsigned int n)
{
    double sorted[FULL_LOOKS];

    memcpy(sorted, rates, n * sizeof(*rates));
    qsort(sorted, n, sizeof(*sorted), compare_rates);
    return sorted[n / 2];
}

/* What the rate is without a squeeze; then a squeeze. */
static double squeeze(const Worker *workers)
{
    double rates[FULL_LOOKS];
    uint64_t end;

    for (unsigned int i = 0; i < FULL_LOOKS; i++) {
        rates[i] = look(workers, false);
    }
    backend->set_limit(options.squeeze);
    end = bench_clock_ns() + SQUEEZE_PATIENCE * UINT64_C(1000000000);
    while (resident_pages() * TOUCH_SIZE >
           options.squeeze + options.squeeze / NEARLY &&
           bench_clock_ns() < end) {
        look(workers, false);
    }
    run_workers((Phase) { .seconds = options.squeeze_seconds });
    return median(rates, FULL_LOOKS);
}

/* Seconds until the rate is back. */
static double recover(const Worker *workers, double full)
{
    uint64_t begin = bench_clock_ns();
    double rates[LOOKS] = { 0 };
    double ends[LOOKS] = { 0 };
    bool more = false;

    backend->set_limit(options.limit ?: 2 * options.size);
    for (unsigned int i = 0; true; i = (i + 1) % LOOKS) {
        rates[i] = look(workers, more);
        more = true;
        ends[i] = (bench_clock_ns() - begin) / 1e9;
        if (median(rates, LOOKS) >= BACK * full) {
            unsigned int first = (i + 1) % LOOKS;

            while (rates[first] < BACK * full) {
                first = (first + 1) % LOOKS;
            }
            return ends[first];
        }
        if (ends[i] > options.seconds) {
            bench_fail(0, "the rate was not back in %g s", options.seconds);
        }
    }
}

/* mincore() sees of hugetlbfs only what is mapped. */
static uint64_t resident(void)
{
    if (backend->resident && options.page_size != TOUCH_SIZE) {
        return backend->resident();
    }
    return resident_pages() * TOUCH_SIZE;
}

/* Tell whoever started us, and wait for a word. */
static void step(const char *text)
{
    char line[16];

    if (!options.step) {
        return;
    }
    if (text) {
        printf("%s\n", text);
        fflush(stdout);
    }
    if (!fgets(line, sizeof(line), stdin)) {
        exit(1);
    }
}

static double ns(const Histogram *times, double percent, uint64_t least)
{
    return histogram_percentile(times, percent, least) / bench_ticks_per_ns;
}

static void report_times(const Histogram *times)
{
    uint64_t least = FAULT_NS * bench_ticks_per_ns;

    printf(", \"p50\": %.0f, \"p90\": %.0f, \"p99\": %.0f, \"p999\": %.0f, "
           "\"max\": %.0f", ns(times, 50, 0), ns(times, 90, 0),
           ns(times, 99, 0), ns(times, 99.9, 0),
           times->max / bench_ticks_per_ns);
    printf(", \"slow\": %" PRIu64 ", \"slow_p50\": %.0f, \"slow_p99\": %.0f, "
           "\"slow_p999\": %.0f, \"slow_mean\": %.0f",
           histogram_count(times, least), ns(times, 50, least),
           ns(times, 99, least), ns(times, 99.9, least),
           histogram_mean(times, least) / bench_ticks_per_ns);
}

static double seconds_between(const struct timeval *from,
                              const struct timeval *to)
{
    return to->tv_sec - from->tv_sec + (to->tv_usec - from->tv_usec) / 1e6;
}

/* Returns how many values were wrong. */
static uint64_t report(const Worker *workers,
                       const struct rusage *before,
                       const struct rusage *after, double full,
                       double time)
{
    Histogram *times = g_new0(Histogram, 1);
    uint64_t touches = 0;
    uint64_t wrong = 0;
    uint64_t begin = UINT64_MAX;
    uint64_t end = 0;
    double cpu = 0;
    double user = seconds_between(&before->ru_utime, &after->ru_utime);
    double system = seconds_between(&before->ru_stime, &after->ru_stime);
    double seconds;

    for (unsigned int i = 0; i < options.threads; i++) {
        histogram_merge(times, workers[i].times);
        touches += workers[i].touches;
        wrong += workers[i].wrong;
        begin = MIN(begin, workers[i].begin_ns);
        end = MAX(end, workers[i].end_ns);
        cpu += workers[i].cpu;
    }
    seconds = (end - begin) / 1e9;
    printf("{\"backend\": \"%s\", \"pattern\": \"%s\", \"size\": %" PRIu64
           ", \"limit\": %" PRIu64 ", \"threads\": %d, \"touches\": %" PRIu64
           ", \"seconds\": %.6f, \"rate\": %.1f, \"wrong\": %" PRIu64,
           backend->name, options.pattern, options.size, options.limit,
           options.threads, touches, seconds, touches / seconds, wrong);
    printf(", \"user\": %.6f, \"system\": %.6f, \"background\": %.6f",
           user, system, user + system - cpu);
    printf(", \"minor_faults\": %ld, \"major_faults\": %ld",
           after->ru_minflt - before->ru_minflt,
           after->ru_majflt - before->ru_majflt);
    report_times(times);
    if (options.squeeze) {
        printf(", \"full_rate\": %.1f, \"time\": %.6f", full, time);
    }
    printf(", \"resident\": %" PRIu64, resident());
    if (backend->report) {
        backend->report(stdout);
    }
    printf("}\n");
    fflush(stdout);
    g_free(times);
    return wrong;
}

static void choose_backend(void)
{
    static const BenchBackend *const all[] = {
        &bench_memswap, &bench_plain, &bench_handler_thread,
    };

    for (unsigned int i = 0; i < G_N_ELEMENTS(all); i++) {
        if (g_str_equal(options.backend, all[i]->name)) {
            backend = all[i];
            return;
        }
    }
    bench_fail(0, "--backend: no backend \"%s\"", options.backend);
}

int main(int argc, char **argv)
{
    struct rusage before, after;
    Worker *workers;
    uint64_t warm, wrong;
    double full = 0, time = 0;
    g_autofree char *text = NULL;

    bench_options_parse(&options, &argc, &argv);
    choose_backend();
    if (options.squeeze && !backend->set_limit) {
        bench_fail(0, "--squeeze: not with this backend");
    }
    bench_clock_init();
    pid = getpid();
    content = content_new(&options);
    workers = start_workers();
    if (mlockall(MCL_CURRENT) < 0 && options.step) {
        bench_fail(errno, "cannot lock what is not RAM");
    }
    step("ready");

    ram = backend->open(&options);
    for (uint64_t page = 0; page < options.size / TOUCH_SIZE; page++) {
        content_fill(content, page, ram + page * CONTENT_WORDS);
    }
    if (options.settle_seconds) {
        g_usleep(options.settle_seconds * G_USEC_PER_SEC);
    }
    warm = options.warmup_touches ?:
           options.size / TOUCH_SIZE / options.threads;
    run_workers((Phase) { options.warmup_seconds, warm, false });
    for (unsigned int i = 0; i < options.threads; i++) {
        if (workers[i].wrong) {
            bench_fail(0, "%" PRIu64 " wrong values while warming up",
                       workers[i].wrong);
        }
    }
    if (options.squeeze) {
        full = squeeze(workers);
    }
    text = g_strdup_printf("warm %" PRIu64, resident());
    step(text);

    backend->begin();
    getrusage(RUSAGE_SELF, &before);
    if (options.squeeze) {
        time = recover(workers, full);
    } else {
        run_workers((Phase) { options.touches ? 0 : options.seconds,
                              options.touches, false });
    }
    getrusage(RUSAGE_SELF, &after);
    wrong = report(workers, &before, &after, full, time);
    step(NULL);

    stop_workers(workers);
    if (backend->close) {
        backend->close();
    }
    return wrong ? EXIT_WRONG : 0;
}

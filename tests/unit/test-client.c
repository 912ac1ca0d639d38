/*
 * Tests of the library for device processes, without an engine
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"
#include "memswap/client.h"

#define WORDS 1024

typedef struct FrontEnd {
    MemswapPins *pins;
    int file;
    _Atomic uint32_t *words;
    int channel[2];     /* ours, and the one to give */
    /* the file has a number for each place that something begins at */
    uint32_t file_of[WORDS];
} FrontEnd;

/* All pages are in. */
static FrontEnd *front_end_new(void)
{
    FrontEnd *f = g_new0(FrontEnd, 1);

    f->pins = memswap_pins_new();
    f->file = memfd_create("table", MFD_CLOEXEC);
    g_assert_cmpint(ftruncate(f->file, WORDS * sizeof(uint32_t)), ==, 0);
    f->words = mmap(NULL, WORDS * sizeof(uint32_t), PROT_READ | PROT_WRITE,
                    MAP_SHARED, f->file, 0);
    g_assert_true(f->words != MAP_FAILED);
    for (unsigned int i = 0; i < WORDS; i++) {
        f->words[i] = MEMSWAP_CLIENT_IN;
    }
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0,
                               f->channel), ==, 0);
    return f;
}

static void front_end_free(FrontEnd *f)
{
    memswap_pins_free(f->pins);
    munmap((void *)f->words, WORDS * sizeof(uint32_t));
    close(f->file);
    close(f->channel[0]);
    close(f->channel[1]);
    g_free(f);
}

/* Pages from guest page @page on have the words from @word on. */
static void tell(FrontEnd *f, uint64_t page, uint64_t n, uint64_t word)
{
    MemswapTableMessage message = {
        .guest_address = page * PAGE, .size = n * PAGE, .page_size = PAGE,
        .file = word, .offset = word * sizeof(uint32_t),
    };

    g_assert_cmpint(memswap_pins_set_table(f->pins, &message, sizeof(message),
                                           dup(f->file), dup(f->channel[1])),
                    ==, 0);
    for (uint64_t i = word; i < word + n; i++) {
        f->file_of[i] = word;
    }
}

static unsigned int count(FrontEnd *f, uint64_t word)
{
    return f->words[word] & MEMSWAP_CLIENT_COUNT;
}

/* Pins a guest page, whose word then has so many. */
static void pin_counts(FrontEnd *f, uint64_t page, unsigned int expected)
{
    g_assert_cmpint(memswap_pin_guest(f->pins, page * PAGE, PAGE), ==, 0);
    g_assert_cmpuint(count(f, page), ==, expected);
}

static void assert_none_pinned(FrontEnd *f)
{
    for (unsigned int i = 0; i < WORDS; i++) {
        g_assert_cmpuint(count(f, i), ==, 0);
    }
}

/* The end of a region that gets smaller has its table until it is gone. */
static void test_smaller(void)
{
    FrontEnd *f = front_end_new();

    tell(f, 0, 10, 0);
    tell(f, 0, 4, 0);
    pin_counts(f, 3, 1);
    pin_counts(f, 7, 1);
    g_assert_cmpint(memswap_pin_guest(f->pins, 2 * PAGE, 4 * PAGE), ==, 0);
    g_assert_cmpuint(count(f, 2), ==, 1);
    g_assert_cmpuint(count(f, 3), ==, 2);
    g_assert_cmpuint(count(f, 5), ==, 1);
    memswap_unpin_guest(f->pins, 2 * PAGE, 4 * PAGE);
    g_assert_cmpuint(count(f, 3), ==, 1);
    g_assert_cmpuint(count(f, 5), ==, 0);
    /* told of again, it is the same */
    tell(f, 0, 4, 0);
    g_assert_cmpint(memswap_pins_end_others(f->pins), ==, 0);
    pin_counts(f, 7, 1);
    pin_counts(f, 3, 2);

    /* a larger one takes its place, and both go together */
    tell(f, 0, 8, 0);
    pin_counts(f, 7, 2);
    tell(f, 0, 2, 0);
    g_assert_cmpint(memswap_pins_end_table(f->pins, 0), ==, 0);
    pin_counts(f, 1, 0);
    pin_counts(f, 7, 2);
    front_end_free(f);
}

/* Where two overlap the newer one's words are right, wherever one begins. */
static void test_overlap(void)
{
    FrontEnd *f = front_end_new();

    tell(f, 10, 20, 0);
    tell(f, 20, 20, 100);
    tell(f, 5, 7, 200);
    g_assert_cmpint(memswap_pin_guest(f->pins, 0, 100 * PAGE), ==, 0);
    for (unsigned int i = 0; i < 20; i++) {
        g_assert_cmpuint(count(f, i), ==, i >= 2 && i < 10);
        g_assert_cmpuint(count(f, 100 + i), ==, 1);
        g_assert_cmpuint(count(f, 200 + i), ==, i < 7);
    }
    memswap_unpin_guest(f->pins, 0, 100 * PAGE);
    assert_none_pinned(f);
    front_end_free(f);
}

/* A region that was taken away needs no pins. */
static void test_end(void)
{
    FrontEnd *f = front_end_new();

    tell(f, 0, 10, 0);
    tell(f, 100, 10, 100);
    g_assert_cmpint(memswap_pins_end_table(f->pins, 50 * PAGE), ==, 0);
    pin_counts(f, 5, 1);
    g_assert_cmpint(memswap_pins_end_table(f->pins, 0), ==, 0);
    g_assert_cmpint(memswap_pin_guest(f->pins, 5 * PAGE, 100 * PAGE), ==, 0);
    g_assert_cmpuint(count(f, 5), ==, 1);
    g_assert_cmpuint(count(f, 104), ==, 1);

    /* all are given anew: those that are told of again stay */
    g_assert_cmpint(memswap_pins_end_others(f->pins), ==, 0);
    pin_counts(f, 104, 2);
    tell(f, 200, 10, 200);
    g_assert_cmpint(memswap_pins_end_others(f->pins), ==, 0);
    pin_counts(f, 104, 2);
    pin_counts(f, 200, 1);
    tell(f, 200, 10, 200);
    g_assert_cmpint(memswap_pins_end_others(f->pins), ==, 0);
    pin_counts(f, 200, 2);
    front_end_free(f);
}

/* Part of what is needed together. */
static void note(FrontEnd *f, MemswapHeldPins *held, uint64_t page,
                 uint64_t size)
{
    g_assert_cmpint(memswap_pin_present(f->pins, page * PAGE, size, held), ==,
                    0);
}

/* A pin is undone in the words that it is in. */
static void test_held(void)
{
    FrontEnd *f = front_end_new();
    MemswapHeldPins held = { 0 };

    tell(f, 0, 100, 0);
    for (unsigned int i = 0; i < 40; i++) {
        g_assert_cmpint(memswap_pin_present(f->pins, i * PAGE + 1, PAGE,
                                            &held), ==, 0);
    }
    g_assert_cmpuint(held.n, ==, 40);
    g_assert_cmpuint(count(f, 0), ==, 1);
    g_assert_cmpuint(count(f, 1), ==, 2);
    g_assert_cmpuint(count(f, 40), ==, 1);
    /* the same addresses are elsewhere now */
    tell(f, 0, 100, 500);
    note(f, &held, 0, PAGE);
    g_assert_cmpuint(count(f, 500), ==, 1);
    /* nothing is out: nobody has to answer */
    g_assert_cmpint(memswap_pin_absent(f->pins, 0, &held), ==, 0);
    memswap_unpin_held(&held);
    g_assert_cmpuint(held.n, ==, 0);
    for (unsigned int i = 0; i < WORDS; i++) {
        g_assert_cmphex(f->words[i], ==, MEMSWAP_CLIENT_IN);
    }

    /* what is out is not pinned yet, and not to be unpinned */
    f->words[501] = 0;
    note(f, &held, 0, 4 * PAGE);
    g_assert_cmpuint(held.n, ==, 3);
    g_assert_cmpuint(count(f, 502), ==, 1);
    memswap_unpin_held(&held);
    g_assert_cmphex(f->words[501], ==, 0);
    assert_none_pinned(f);

    /* all or nothing: nobody answers */
    shutdown(f->channel[0], SHUT_RDWR);
    note(f, &held, 0, PAGE);
    note(f, &held, 1, 2 * PAGE);
    g_assert_cmpuint(count(f, 500), ==, 1);
    g_assert_cmpint(memswap_pin_absent(f->pins, 0, &held), ==, -EPIPE);
    g_assert_cmpuint(held.n, ==, 0);
    g_assert_cmphex(f->words[501], ==, 0);
    assert_none_pinned(f);
    g_free(held.parts);
    front_end_free(f);
}

/* Answers requests, and notes what was asked for. */
typedef struct Answers {
    FrontEnd *f;
    GThread *thread;
    unsigned int n;             /* requests to answer */
    unsigned int refuse;        /* one of them, from 1 on */
    gulong delay_us;
    unsigned int ranges[4];     /* of each request */
    unsigned int words[4];
    uint32_t flags[4];
} Answers;

static gpointer answer(gpointer opaque)
{
    Answers *a = opaque;

    for (unsigned int i = 0; i < a->n; i++) {
        struct {
            MemswapClientRequest request;
            MemswapClientRange ranges[MEMSWAP_CLIENT_MAX_WORDS];
        } packet;
        MemswapClientReply reply = { .code = MEMSWAP_CLIENT_PIN };
        ssize_t size = recv(a->f->channel[0], &packet, sizeof(packet),
                            MSG_TRUNC);

        g_assert_cmpint(size, >, sizeof(packet.request));
        g_assert_cmpint(size, <=, sizeof(packet));
        g_assert_cmpuint(packet.request.code, ==, MEMSWAP_CLIENT_PIN);
        a->flags[i] = packet.request.flags;
        a->ranges[i] = (size - sizeof(packet.request)) /
                       sizeof(packet.ranges[0]);
        g_usleep(a->delay_us);
        reply.error = i + 1 == a->refuse ? -ENOBUFS : 0;
        for (unsigned int k = 0; k < a->ranges[i]; k++) {
            MemswapClientRange *range = &packet.ranges[k];

            a->words[i] += range->words;
            g_assert_cmpuint(range->file, ==,
                             a->f->file_of[range->offset / sizeof(uint32_t)]);
            for (unsigned int w = 0; w < range->words && !reply.error; w++) {
                atomic_fetch_add(&a->f->words[range->offset /
                                              sizeof(uint32_t) + w],
                                 MEMSWAP_CLIENT_IN | 1);
            }
        }
        g_assert_cmpint(send(a->f->channel[0], &reply, sizeof(reply), 0), ==,
                        sizeof(reply));
    }
    return NULL;
}

static void answers_start(Answers *a)
{
    a->thread = g_thread_new("answer", answer, a);
}

/* The answer comes late, on a channel that somebody made non-blocking. */
static void test_nonblocking(void)
{
    FrontEnd *f = front_end_new();
    Answers answers = { .f = f, .n = 1, .delay_us = 20000 };

    g_assert_cmpint(fcntl(f->channel[1], F_SETFL, O_NONBLOCK), ==, 0);
    tell(f, 0, 10, 0);
    f->words[3] = 0;
    answers_start(&answers);
    g_assert_cmpint(memswap_pin_guest(f->pins, 3 * PAGE, 1), ==, 0);
    g_assert_cmpuint(count(f, 3), ==, 1);
    g_thread_join(answers.thread);
    front_end_free(f);
}

/* Pages here and there, of two regions: one question for all. */
static void test_scattered(void)
{
    FrontEnd *f = front_end_new();
    Answers answers = { .f = f, .n = 1 };
    MemswapHeldPins held = { 0 };

    tell(f, 0, 100, 0);
    tell(f, 1000, WORDS - 500, 500);
    for (unsigned int i = 0; i < 10; i++) {
        f->words[2 * i] = 0;
        f->words[500 + i] = 0;
    }
    f->words[WORDS - 1] = 0;
    answers_start(&answers);
    /* the last word of a file may be before the first of another */
    note(f, &held, 1000 + WORDS - 1 - 500, PAGE);
    note(f, &held, 0, 20 * PAGE);
    note(f, &held, 1000, 11 * PAGE);
    g_assert_cmpuint(count(f, 1), ==, 1);
    g_assert_cmpuint(count(f, 2), ==, 0);
    g_assert_cmpint(memswap_pin_absent(f->pins, MEMSWAP_CLIENT_BOUNDED, &held),
                    ==, 0);
    g_thread_join(answers.thread);
    g_assert_cmpuint(answers.ranges[0], ==, 12);
    g_assert_cmpuint(answers.words[0], ==, 21);
    g_assert_cmphex(answers.flags[0], ==, MEMSWAP_CLIENT_BOUNDED);
    for (unsigned int i = 0; i < 20; i++) {
        g_assert_cmphex(f->words[i], ==, MEMSWAP_CLIENT_IN | 1);
    }
    for (unsigned int i = 500; i < 511; i++) {
        g_assert_cmphex(f->words[i], ==, MEMSWAP_CLIENT_IN | 1);
    }
    memswap_unpin_held(&held);
    assert_none_pinned(f);
    g_free(held.parts);
    front_end_free(f);
}

/* Many buffers in one page, or in each of two, are one pin of it. */
static void test_small_buffers(void)
{
    FrontEnd *f = front_end_new();
    Answers answers = { .f = f, .n = 1 };
    MemswapHeldPins held = { 0 };

    tell(f, 0, 100, 0);
    f->words[5] = f->words[6] = f->words[8] = 0;
    for (unsigned int i = 0; i < 20; i++) {
        g_assert_cmpint(memswap_pin_present(f->pins, 5 * PAGE + i * 100, 10,
                                            &held), ==, 0);
        note(f, &held, 5 + i % 4, PAGE);
    }
    answers_start(&answers);
    g_assert_cmpint(memswap_pin_absent(f->pins, 0, &held), ==, 0);
    g_thread_join(answers.thread);
    g_assert_cmpuint(answers.ranges[0], ==, 2);
    g_assert_cmpuint(answers.words[0], ==, 3);
    g_assert_cmpuint(count(f, 5), ==, 1);
    g_assert_cmpuint(count(f, 6), ==, 1);
    g_assert_cmpuint(count(f, 7), ==, 5);
    g_assert_cmpuint(count(f, 8), ==, 1);
    memswap_unpin_held(&held);
    assert_none_pinned(f);
    g_free(held.parts);
    front_end_free(f);
}

/* More than one request can ask for; of which the last one is refused. */
static void test_many(void)
{
    FrontEnd *f = front_end_new();
    Answers all = { .f = f, .n = 3 }, refused = { .f = f, .n = 3, .refuse = 3 };
    MemswapHeldPins held = { 0 };

    tell(f, 0, WORDS, 0);
    for (unsigned int round = 0; round < 2; round++) {
        Answers *answers = round ? &refused : &all;

        for (unsigned int i = 0; i < WORDS; i++) {
            f->words[i] = i % 2 && i < 100 ? MEMSWAP_CLIENT_IN : 0;
        }
        answers_start(answers);
        note(f, &held, 0, 700 * PAGE);
        g_assert_cmpint(memswap_pin_absent(f->pins, 0, &held), ==,
                        round ? -ENOBUFS : 0);
        g_thread_join(answers->thread);
        /* 50 by themselves; of those in a row 512, and not with the others */
        g_assert_cmpuint(answers->ranges[0], ==, 50);
        g_assert_cmpuint(answers->words[0], ==, 50);
        g_assert_cmpuint(answers->ranges[1], ==, 1);
        g_assert_cmpuint(answers->words[1], ==, 512);
        g_assert_cmpuint(answers->words[2], ==, 88);
        for (unsigned int i = 0; i < WORDS; i++) {
            g_assert_cmpuint(count(f, i), ==, !round && i < 700);
        }
        memswap_unpin_held(&held);
        assert_none_pinned(f);
    }
    g_free(held.parts);
    front_end_free(f);
}

/* CPU time of this thread, which no other program's work is in. */
static int64_t cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/*
 * A guest says what its buffers are: very many pages, each by itself.  They are
 * not compared each with each, which takes minutes.
 */
static void test_very_many(void)
{
    const uint64_t n = 512 * 1024;
    MemswapPins *pins = memswap_pins_new();
    MemswapHeldPins held = { 0 };
    MemswapTableMessage message = {
        .size = n * PAGE, .page_size = PAGE,
    };
    int file = memfd_create("table", MFD_CLOEXEC);
    _Atomic uint32_t *words;
    int64_t began;

    g_assert_cmpint(ftruncate(file, n * sizeof(*words)), ==, 0);
    words = mmap(NULL, n * sizeof(*words), PROT_READ | PROT_WRITE, MAP_SHARED,
                 file, 0);
    g_assert_true(words != MAP_FAILED);
    for (uint64_t i = 0; i < n; i += 2) {
        words[i] = MEMSWAP_CLIENT_IN;
    }
    g_assert_cmpint(memswap_pins_set_table(pins, &message, sizeof(message),
                                           file, -1), ==, 0);
    began = cpu_ns();
    g_assert_cmpint(memswap_pin_present(pins, 0, n * PAGE, &held), ==, 0);
    g_assert_cmpint(cpu_ns() - began, <, INT64_C(10000000000));
    g_assert_cmpuint(held.n, ==, n);
    g_assert_cmphex(words[n - 2], ==, MEMSWAP_CLIENT_IN | 1);
    memswap_unpin_held(&held);
    for (uint64_t i = 0; i < n; i++) {
        g_assert_cmphex(words[i], ==, i % 2 ? 0 : MEMSWAP_CLIENT_IN);
    }
    munmap((void *)words, n * sizeof(*words));
    memswap_pins_free(pins);
    g_free(held.parts);
}

typedef struct Reader {
    FrontEnd *f;
    atomic_bool stop;
} Reader;

static gpointer read_tables(gpointer opaque)
{
    Reader *reader = opaque;
    MemswapHeldPins held = { 0 };

    while (!atomic_load(&reader->stop)) {
        note(reader->f, &held, 0, 30 * PAGE);
        /* the last one stays */
        g_assert_cmpuint(count(reader->f, 29), ==, 1);
        memswap_unpin_held(&held);
    }
    g_free(held.parts);
    return NULL;
}

/* Old lists of tables go, be they in use when they are replaced or not. */
static void test_again_and_again(void)
{
    FrontEnd *f = front_end_new();
    Reader reader = { .f = f };
    GThread *thread = NULL;
    size_t before;

    for (unsigned int i = 0; i < 30; i++) {
        tell(f, i, 1, i);
    }
    before = mallinfo2().uordblks;
    for (unsigned int i = 0; i < 20000; i++) {
        if (i == 10000) {
            thread = g_thread_new("reader", read_tables, &reader);
        }
        g_assert_cmpint(memswap_pins_end_table(f->pins, i % 29 * PAGE), ==, 0);
        tell(f, i % 29, 1, i % 29);
    }
    atomic_store(&reader.stop, true);
    g_thread_join(thread);
    /* with nobody there */
    g_assert_cmpint(memswap_pins_end_table(f->pins, 0), ==, 0);
    g_assert_cmpuint(mallinfo2().uordblks, <, before + 100 * 1024);
    assert_none_pinned(f);
    front_end_free(f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/client/smaller", test_smaller);
    g_test_add_func("/client/overlap", test_overlap);
    g_test_add_func("/client/end", test_end);
    g_test_add_func("/client/held", test_held);
    g_test_add_func("/client/nonblocking", test_nonblocking);
    g_test_add_func("/client/scattered", test_scattered);
    g_test_add_func("/client/small-buffers", test_small_buffers);
    g_test_add_func("/client/many", test_many);
    g_test_add_func("/client/very-many", test_very_many);
    g_test_add_func("/client/again-and-again", test_again_and_again);
    return g_test_run();
}

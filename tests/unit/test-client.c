/*
 * Tests of the library for device processes, without an engine
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "harness.h"
#include "memswap/client.h"

#define WORDS 1024

typedef struct FrontEnd {
    MemswapPins *pins;
    int file;
    _Atomic uint32_t *words;
    int channel[2];     /* ours, and the one to give */
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
        .offset = word * sizeof(uint32_t),
    };

    g_assert_cmpint(memswap_pins_set_table(f->pins, &message, sizeof(message),
                                           dup(f->file), dup(f->channel[1])),
                    ==, 0);
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

/* A pin is undone in the words that it is in. */
static void test_held(void)
{
    FrontEnd *f = front_end_new();
    MemswapHeldPins held = { 0 };

    tell(f, 0, 100, 0);
    for (unsigned int i = 0; i < 40; i++) {
        g_assert_cmpint(memswap_pin_held(f->pins, i * PAGE + 1, PAGE, 0,
                                         &held), ==, 0);
    }
    g_assert_cmpuint(held.n, ==, 40);
    g_assert_cmpuint(count(f, 0), ==, 1);
    g_assert_cmpuint(count(f, 1), ==, 2);
    g_assert_cmpuint(count(f, 40), ==, 1);
    /* the same addresses are elsewhere now */
    tell(f, 0, 100, 500);
    g_assert_cmpint(memswap_pin_held(f->pins, 0, PAGE, 0, &held), ==, 0);
    g_assert_cmpuint(count(f, 500), ==, 1);
    memswap_unpin_held(&held);
    g_assert_cmpuint(held.n, ==, 0);
    for (unsigned int i = 0; i < WORDS; i++) {
        g_assert_cmphex(f->words[i], ==, MEMSWAP_CLIENT_IN);
    }

    /* all or nothing: nobody answers for the last page */
    shutdown(f->channel[0], SHUT_RDWR);
    f->words[503] = 0;
    g_assert_cmpint(memswap_pin_held(f->pins, 0, PAGE, 0, &held), ==, 0);
    g_assert_cmpint(memswap_pin_held(f->pins, 0, 4 * PAGE, 0, &held), ==,
                    -EPIPE);
    g_assert_cmpuint(held.n, ==, 1);
    g_assert_cmpuint(count(f, 500), ==, 1);
    g_assert_cmpuint(count(f, 501), ==, 0);
    g_assert_cmphex(f->words[503], ==, 0);
    memswap_unpin_held(&held);
    g_assert_cmpuint(count(f, 500), ==, 0);
    g_free(held.parts);
    front_end_free(f);
}

/* The answer comes late, on a channel that somebody made non-blocking. */
static gpointer answer(gpointer opaque)
{
    FrontEnd *f = opaque;
    MemswapClientRequest request;
    MemswapClientReply reply = { .code = MEMSWAP_CLIENT_PIN };

    g_assert_cmpint(recv(f->channel[0], &request, sizeof(request), 0), ==,
                    sizeof(request));
    g_usleep(20000);
    f->words[request.offset / sizeof(uint32_t)] = MEMSWAP_CLIENT_IN | 1;
    g_assert_cmpint(send(f->channel[0], &reply, sizeof(reply), 0), ==,
                    sizeof(reply));
    return NULL;
}

static void test_nonblocking(void)
{
    FrontEnd *f = front_end_new();
    GThread *thread;

    g_assert_cmpint(fcntl(f->channel[1], F_SETFL, O_NONBLOCK), ==, 0);
    tell(f, 0, 10, 0);
    f->words[3] = 0;
    thread = g_thread_new("answer", answer, f);
    g_assert_cmpint(memswap_pin_guest(f->pins, 3 * PAGE, 1), ==, 0);
    g_assert_cmpuint(count(f, 3), ==, 1);
    g_thread_join(thread);
    front_end_free(f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/client/smaller", test_smaller);
    g_test_add_func("/client/end", test_end);
    g_test_add_func("/client/held", test_held);
    g_test_add_func("/client/nonblocking", test_nonblocking);
    return g_test_run();
}

/*
 * Tests of the page word: states, transitions, pins, flags and handles
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "word.h"

#define A MEMSWAP_ABSENT
#define R MEMSWAP_RESIDENT
#define T MEMSWAP_TRIAL
#define E MEMSWAP_EVICTING
#define S MEMSWAP_STORED
#define Z MEMSWAP_ZERO
#define F MEMSWAP_FILLING
#define D MEMSWAP_DISCARDING
#define P MEMSWAP_POISONED

/*
 * The table of the design, written down a second time: rows are where a page
 * comes from, columns where it may go.
 */
static const char *const table[MEMSWAP_STATE__MAX] = {
    /*       ARTESZFDP */
    [A] =   "......x..",
    [R] =   ".xx...xx.",
    [T] =   "..xx..xx.",
    [E] =   "...xxxx..",
    [S] =   "....x.xx.",
    [Z] =   "......xx.",
    [F] =   "xxx.xxxxx",
    [D] =   "x.....xx.",
    [P] =   ".......xx",
};

static void test_transitions(void)
{
    for (int from = 0; from < MEMSWAP_STATE__MAX; from++) {
        for (int to = 0; to < MEMSWAP_STATE__MAX; to++) {
            MemswapWord word = from;
            uint64_t old = from;
            bool legal = table[from][to] == 'x';

            g_test_message("%d to %d", from, to);
            g_assert_cmpint(memswap_word_legal(from, to), ==, legal);
            if (legal) {
                g_assert_true(memswap_word_cas(&word, &old, to));
                g_assert_cmpuint(memswap_word_load(&word), ==, to);
            }
        }
    }
}

static void test_no_such_state(void)
{
    for (uint64_t other = MEMSWAP_STATE__MAX; other < 16; other++) {
        for (uint64_t state = 0; state < 16; state++) {
            g_assert_false(memswap_word_legal(state, other));
            g_assert_false(memswap_word_legal(other, state));
        }
    }
}

/* Each illegal step aborts, in a process of its own. */
static void illegal(gconstpointer data)
{
    unsigned int pair = GPOINTER_TO_UINT(data);
    MemswapWord word = pair >> 4;
    uint64_t old = pair >> 4;

    if (g_test_subprocess()) {
        memswap_word_cas(&word, &old, pair & 15);
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_failed();
    g_test_trap_assert_stderr("*illegal page transition*");
}

static void test_pins(void)
{
    uint64_t pin = MEMSWAP_PIN_ONE;

    /* a pinned page stays in the page cache, and mapped */
    g_assert_false(memswap_word_legal(R | pin, T | pin));
    g_assert_false(memswap_word_legal(R | pin, D | pin));
    g_assert_false(memswap_word_legal(T | pin, E | pin));
    g_assert_false(memswap_word_legal(F | pin, T | pin));
    g_assert_true(memswap_word_legal(R, R | pin));
    g_assert_true(memswap_word_legal(R | pin, R));
    g_assert_true(memswap_word_legal(R | pin, F | 2 * pin));
    g_assert_true(memswap_word_legal(A, F | pin));
    g_assert_true(memswap_word_legal(S, F | pin));
    g_assert_true(memswap_word_legal(F | pin, R | pin));
    /* nor can it turn into memory that was never touched */
    g_assert_false(memswap_word_legal(F | pin, A | pin));
    g_assert_false(memswap_word_legal(D, A | pin));

    for (unsigned int n = 0; n <= MEMSWAP_PIN_SATURATED; n++) {
        uint64_t word = memswap_word_with_handle(R | MEMSWAP_WORD_MAPPED,
                                                 0xabcdef0123) + n * pin;

        g_assert_cmpuint(memswap_word_pins(word), ==, n);
        g_assert_cmpint(memswap_word_state(word), ==, R);
        g_assert_cmphex(memswap_word_handle(word), ==, 0xabcdef0123);
        g_assert_true(word & MEMSWAP_WORD_MAPPED);
    }
}

static void test_flags(void)
{
    static const uint64_t flags[] = {
        MEMSWAP_WORD_WANTED, MEMSWAP_WORD_DISCARD, MEMSWAP_WORD_MAPPED,
    };

    for (int from = 0; from < MEMSWAP_STATE__MAX; from++) {
        for (int to = 0; to < MEMSWAP_STATE__MAX; to++) {
            bool legal = table[from][to] == 'x';

            /* untouched memory is all zero */
            g_assert_cmpint(memswap_word_legal(from, to |
                                               MEMSWAP_WORD_WANTED), ==,
                            legal && to != A);
            g_assert_cmpint(memswap_word_legal(from, to |
                                               MEMSWAP_WORD_MAPPED), ==,
                            legal && (to == R || (from == S && to == F)));
            g_assert_cmpint(memswap_word_legal(from, to |
                                               MEMSWAP_WORD_DISCARD), ==,
                            legal && to == F);
        }
    }
    /* flags, pins, handle and state don't touch each other */
    for (unsigned int i = 0; i < G_N_ELEMENTS(flags); i++) {
        uint64_t word = memswap_word_with_handle(S | flags[i], ~0ULL);

        g_assert_cmpint(memswap_word_state(word), ==, S);
        g_assert_cmpuint(memswap_word_pins(word), ==, 0);
        g_assert_cmphex(memswap_word_handle(word), ==, (1ULL << 40) - 1);
        g_assert_cmphex(word & 0xff0 & ~flags[i], ==, 0);
        word = memswap_word_with_state(word, F);
        g_assert_cmpint(memswap_word_state(word), ==, F);
        g_assert_true(word & flags[i]);
        g_assert_cmphex(memswap_word_handle(word), ==, (1ULL << 40) - 1);
    }
    g_assert_false(memswap_word_legal(D, memswap_word_with_handle(A, 1)));
}

/* A page that is only read goes back to where it was. */
static void test_peeked(void)
{
    uint64_t peeked = F | MEMSWAP_WORD_PEEKED;

    g_assert_true(memswap_word_legal(S, peeked));
    g_assert_true(memswap_word_legal(peeked, peeked | MEMSWAP_WORD_WANTED));
    g_assert_true(memswap_word_legal(peeked, S));
    g_assert_false(memswap_word_legal(peeked, R));
    g_assert_false(memswap_word_legal(peeked, R | MEMSWAP_WORD_MAPPED));
    g_assert_false(memswap_word_legal(F, peeked));
    g_assert_false(memswap_word_legal(R, peeked));
    g_assert_cmpint(memswap_word_told_state(peeked), ==, S);
    g_assert_cmpint(memswap_word_told_state(F), ==, F);
    g_assert_cmpint(memswap_word_told_state(R | MEMSWAP_WORD_MAPPED), ==, R);
}

static void test_handles(void)
{
    for (unsigned int bit = 0; bit < 40; bit++) {
        uint64_t handle = 1ULL << bit;
        uint64_t word = memswap_word_with_handle(S | 5 * MEMSWAP_PIN_ONE |
                                                 MEMSWAP_WORD_WANTED, handle);

        g_assert_cmphex(memswap_word_handle(word), ==, handle);
        g_assert_cmpint(memswap_word_state(word), ==, S);
        g_assert_cmpuint(memswap_word_pins(word), ==, 5);
        word = memswap_word_with_handle(word, 0);
        g_assert_cmphex(memswap_word_handle(word), ==, 0);
        g_assert_cmpuint(memswap_word_pins(word), ==, 5);
    }
    /* a same-filled page's value is 32 bits of it */
    g_assert_cmphex(memswap_word_handle(memswap_word_with_handle(
                        Z, UINT32_MAX)), ==, UINT32_MAX);
}

/* What fails leaves the word alone and tells what was there. */
static void test_lost_race(void)
{
    MemswapWord word = R | MEMSWAP_PIN_ONE;
    uint64_t old = R;

    g_assert_false(memswap_word_cas(&word, &old, T));
    g_assert_cmphex(old, ==, R | MEMSWAP_PIN_ONE);
    g_assert_cmphex(memswap_word_load(&word), ==, R | MEMSWAP_PIN_ONE);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/word/transitions", test_transitions);
    g_test_add_func("/word/no-such-state", test_no_such_state);
    g_test_add_func("/word/pins", test_pins);
    g_test_add_func("/word/flags", test_flags);
    g_test_add_func("/word/peeked", test_peeked);
    g_test_add_func("/word/handles", test_handles);
    g_test_add_func("/word/lost-race", test_lost_race);
    for (unsigned int from = 0; from < MEMSWAP_STATE__MAX; from++) {
        for (unsigned int to = 0; to < MEMSWAP_STATE__MAX; to++) {
            if (table[from][to] != 'x') {
                g_autofree char *name =
                    g_strdup_printf("/word/illegal/%u-to-%u", from, to);

                g_test_add_data_func(name, GUINT_TO_POINTER(from << 4 | to),
                                     illegal);
            }
        }
    }
    return g_test_run();
}

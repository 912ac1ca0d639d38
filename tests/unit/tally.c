/*
 * A guest that counts while its memory is reclaimed
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "tally.h"

struct Tally {
    Harness *h;
    uint64_t n_pages;
    uint64_t *counts;
    _Atomic bool stop;
    GThread *threads[2];
};

static _Atomic uint64_t *counter_of(Tally *tally, uint64_t page)
{
    return (_Atomic uint64_t *)(tally->h->ram.host + page * PAGE + TALLY_AT);
}

static gpointer guest(gpointer opaque)
{
    Tally *tally = opaque;
    GRand *rand = g_rand_new_with_seed(5);

    while (!atomic_load(&tally->stop)) {
        uint64_t page = g_rand_int_range(rand, 0, tally->n_pages);
        _Atomic uint64_t *counter = counter_of(tally, page);

        g_assert_cmpuint(atomic_load(counter), ==, tally->counts[page]);
        atomic_store(counter, ++tally->counts[page]);
    }
    g_rand_free(rand);
    return NULL;
}

static gpointer reclaimer(gpointer opaque)
{
    Tally *tally = opaque;

    while (!atomic_load(&tally->stop)) {
        memswap_reclaim(tally->h->engine, 64 * PAGE);
    }
    return NULL;
}

Tally *tally_start(Harness *h)
{
    Tally *tally = g_new0(Tally, 1);

    tally->h = h;
    tally->n_pages = h->ram.size / PAGE;
    tally->counts = g_new0(uint64_t, tally->n_pages);
    tally->threads[0] = g_thread_new("guest", guest, tally);
    tally->threads[1] = g_thread_new("reclaimer", reclaimer, tally);
    return tally;
}

void tally_end(Tally *tally)
{
    atomic_store(&tally->stop, true);
    for (unsigned int i = 0; i < G_N_ELEMENTS(tally->threads); i++) {
        g_thread_join(tally->threads[i]);
    }
    for (uint64_t page = 0; page < tally->n_pages; page++) {
        g_assert_cmpuint(atomic_load(counter_of(tally, page)), ==,
                         tally->counts[page]);
    }
    g_free(tally->counts);
    g_free(tally);
}

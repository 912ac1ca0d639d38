/*
 * A guest that counts while its memory is reclaimed
 *
 * One thread adds to a counter in each page of RAM, in no order, and compares
 * it with what it added before; another one reclaims.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_TALLY_H
#define TEST_TALLY_H

#include "harness.h"

/* Offset of the counter in a page; the rest is free for others. */
#define TALLY_AT 8

typedef struct Tally Tally;

/* Begin; all of the RAM must be zero there. */
Tally *tally_start(Harness *h);
/* End, and check that each counter is what was counted; frees it. */
void tally_end(Tally *tally);

#endif /* TEST_TALLY_H */

/*
 * Hugepages for tests: some that are free, put back whatever happens
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_HUGEPAGES_H
#define TEST_HUGEPAGES_H

#include "harness.h"

#define HUGE_SIZE (2 * MIB)
/* Parts of a hugepage that have a number of their own. */
#define HUGE_PARTS (HUGE_SIZE / PAGE)

/* The least that the limit may be, in hugepages, and some more. */
#define HUGE_LIMIT (MEMSWAP_MIN_LIMIT_HUGETLB / HUGE_SIZE)
#define HUGE_PAGES (HUGE_LIMIT + 8)

/*
 * Have at least @n free hugepages of 2 MiB until the program ends; the host's
 * pool is made larger for that if this user may, and then made smaller again
 * by as much, even if the program crashes.  Waits while another program has
 * called this.  To be called once, before there are threads.  False: there are
 * too few.
 */
bool hugepages_get(unsigned int n);
/* The test that there is instead where it has failed. */
void hugepages_skip(void);

/* How many are free. */
unsigned int hugepages_free(void);

/* Take all of them but @n, as a stranger would; close() gives them back. */
int hugepages_leave(unsigned int n);

/*
 * Whole hugepages of a harness's RAM, by their number in it: as ram_fill() and
 * its kin.  A part's number follows from the page's.
 */
void huge_fill(Harness *h, uint64_t page, uint64_t number);
void huge_check(Harness *h, uint64_t page, uint64_t number);
void huge_check_part(Harness *h, uint64_t page, uint64_t number,
                     unsigned int part);
void huge_touch(Harness *h, uint64_t page);
void *huge_host(Harness *h, uint64_t page);

/* With RAM of HUGE_PAGES, and a limit of so many. */
Harness *huge_harness(uint64_t limit);
/* The first @n, each with an odd number of its own. */
void huge_fill_all(Harness *h, uint64_t n);
void huge_check_all(Harness *h, uint64_t n);
/* All that may leave does. */
void huge_evict_all(Harness *h);

#endif /* TEST_HUGEPAGES_H */

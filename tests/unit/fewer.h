/*
 * How often a test does what only repeats
 *
 * A sanitizer makes it slow, and finds what it finds in a part of it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_FEWER_H
#define TEST_FEWER_H

#ifdef TEST_SANITIZED
#define FEWER(n) ((n) / 5)
#else
#define FEWER(n) (n)
#endif

#endif

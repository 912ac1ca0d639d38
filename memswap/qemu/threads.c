/*
 * memswap: what is behind threads.h, for QEMU's utility library
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "memswap/threads.h"

bool memswap_inline_faults;
int memswap_signalfd = -1;

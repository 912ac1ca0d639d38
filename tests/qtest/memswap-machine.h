/*
 * memswap: a machine with little left to pin, since a slow disk has the rest
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_MACHINE_H
#define MEMSWAP_MACHINE_H

#include "libqos/ahci.h"
#include "memswap-driver.h"

/* Guest RAM out of the way of the drivers' own. */
#define BASE (64 * MIB)

#define SECTOR 512

/* What the slow disk takes: with what devices keep, more than 192 KiB. */
#define TAKEN (36 * PAGE)

/* More than there is then. */
#define SIZE (64 * PAGE)

/* What can be had at once: of a request of several such parts, the first. */
#define ENTRY (64 * 1024)

/* Of AHCI; each has a page pinned, and one that is used another. */
#define PORTS 6

typedef struct Machine {
    Driver driver;          /* of the device that takes */
    QVirtQueue *queue;
    uint32_t head;
    QOSState parent;
    AHCIQState ahci;
    uint8_t port;
    uint64_t refused, pinned;
} Machine;

/*
 * A disk may fail with the same errno as what the guest cancels.  Then the VM
 * stops, and the request is tried again when it goes on.
 */
#define MACHINE_FAILING \
    "-blockdev \"{'driver':'blkdebug','node-name':'failing'," \
    "'image':{'driver':'null-co','size':16777216,'read-zeroes':true}," \
    "'inject-error':[{'event':'none','iotype':'read','errno':125," \
    "'sector':1,'once':true}]}\" -device ide-hd,drive=failing,rerror=stop,bus="

/*
 * Start QEMU with the slow disk, AHCI, a node "fast" that reads zeroes, and
 * these arguments.  The fault mode is the test's.
 */
void machine_start(Machine *machine, const char *args);
void machine_end(Machine *machine);

/*
 * Take most of what may be pinned, for a while: until the disk is done, what is
 * to be seen while others wait has to be seen.
 */
void machine_take(Machine *machine);
void machine_wait_taken(Machine *machine);

/* What was asked for since then gets nothing yet, and seldom tries to. */
void machine_expect_waiting(Machine *machine);

/* The guest sees to it that no device has anything. */
void machine_stop(Machine *machine);

/* It was no error, for which the VM would stop. */
void expect_running(QTestState *qts);

#endif /* MEMSWAP_MACHINE_H */

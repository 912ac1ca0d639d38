/*
 * memswap inside QEMU: what is known of the guest's own memory management
 *
 * guest.c has what is common to all targets, guest-cpu.c what is a CPU's.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_QEMU_GUEST_H
#define MEMSWAP_QEMU_GUEST_H

#include "memswap/engine.h"

/* guest.c */

/* Called with the BQL. */
void memswap_guest_start(MemswapEngine *engine);

/*
 * Of a fault that is resolved in the thread that met it: where that is in the
 * host's code.  0 afterwards.
 */
void memswap_guest_set_host_pc(uintptr_t pc);

/* The engine's callbacks; see engine.h. */
void memswap_guest_fault_context(void *opaque, pid_t tid, const void *host,
                                 MemswapFaultContext *context);
int memswap_guest_translate(void *opaque, uint64_t root, uint64_t address,
                            const void **host);
int memswap_guest_reverse(void *opaque, const void *host, uint64_t *root,
                          uint64_t *address);

/*
 * Remember that a page of guest RAM was used at an address, by its user part
 * or its kernel; the same is found if it was not forgotten for another page's
 * sake.  They never wait.
 */
void memswap_guest_note(const void *host, bool user, uint64_t root,
                        uint64_t address);
bool memswap_guest_noted(const void *host, bool user, uint64_t *root,
                         uint64_t *address);

/* guest-cpu.c */

/* Do we know how the guest's page tables look? */
bool memswap_cpu_has_tables(void);

/*
 * Called in the thread of a vCPU that is in a fault at @host, in the host's
 * code at @host_pc.  Sets what is known of it.
 */
void memswap_cpu_fault_context(CPUState *cpu, const void *host,
                               uintptr_t host_pc,
                               MemswapFaultContext *context);

#endif /* MEMSWAP_QEMU_GUEST_H */

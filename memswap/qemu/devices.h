/*
 * memswap inside QEMU: device processes, which map guest RAM by themselves
 *
 * devices.c has the list of them, and what it means for the engine that one is
 * there; vhost-user.c knows when one comes, and when it is gone.
 *
 * Unless it says otherwise a function is called with the BQL.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_QEMU_DEVICES_H
#define MEMSWAP_QEMU_DEVICES_H

#include "glue.h"

struct vhost_dev;

typedef struct MemswapProcess MemswapProcess;

/*
 * A process is about to get guest RAM.  @chardev: its connection's name.
 *
 * If it will not say what it uses of it (MEMSWAP_DEVICE_KIND_UNAWARE), this
 * returns once all of it stays; NULL with @errp set if the limit is too low,
 * or a page is lost.  If its page faults are resolved
 * (MEMSWAP_DEVICE_KIND_FAULT_CAPABLE), once all of it leaves in a way that
 * allows for that; NULL if some can't, blocks of hugepages for instance.
 */
MemswapProcess *memswap_process_add(const char *chardev,
                                    MemswapDeviceKind kind, Error **errp);
/* What it pins is known by @client, until memswap_process_gone(). */
void memswap_process_set_client(MemswapProcess *process,
                                MemswapClient *client);
/* It is this device's; told once that is known. */
void memswap_process_set_id(MemswapProcess *process, const char *id);
/* Its connection is closed; it may have the memory still. */
void memswap_process_leaves(MemswapProcess *process);
/* It can't reach guest RAM any more.  Frees @process. */
void memswap_process_gone(MemswapProcess *process);

/* Guest RAM is there, or the engine runs: now and from now on. */
bool memswap_processes_start(MemswapEngine *engine, Error **errp);
/* A block came, or went. */
void memswap_processes_ram_changed(void);
/* May a process come that keeps all of guest RAM resident? */
bool memswap_processes_allow_one(Error **errp);
/* May guest RAM become larger by so much?  For people in the right order. */
bool memswap_processes_allow_more(uint64_t size, Error **errp);
/* May that be the limit?  Any thread, out of band too; the next one as well. */
bool memswap_processes_allow_limit(uint64_t limit, Error **errp);
/* @retained_bytes: bytes that stay resident for device processes. */
MemswapDeviceList *memswap_processes_query(uint64_t retained_bytes);

/*
 * vhost-user-faults.c: resolve the faults of the backend of @dev in all that it
 * has mapped, at @bases.  @uffd is the caller's.  @remote: NULL before the
 * first call for this backend.  Returns 0 or a negative errno, which has been
 * reported.
 */
int memswap_vhost_user_take_faults(struct vhost_dev *dev, int uffd,
                                   const uint64_t *bases,
                                   MemswapRemote **remote);

/* vhost-user.c: a block goes that backends may have. */
void memswap_vhost_user_forget_ram(void *host, uint64_t size);

#endif /* MEMSWAP_QEMU_DEVICES_H */

/*
 * memswap inside QEMU: what the files of this directory share
 *
 * The memswap object (object.c) is created early on the command line, so
 * that memory backends made after it become shared memory.  When the machine
 * is complete it starts the engine (start.c) and hands it the guest's RAM
 * (ram.c).  From then on everything here may be called from any thread; what
 * says so in QEMU's terms is the comment on each function.
 *
 * Lock order: no lock of this directory is held while the engine is waited for,
 * and the engine's callbacks (host.c) take none that is held while guest RAM
 * is touched.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMSWAP_QEMU_GLUE_H
#define MEMSWAP_QEMU_GLUE_H

#include "memswap/engine.h"
#include "qom/object.h"
#include "qapi/qapi-types-memswap.h"
#include "system/iothread.h"

#define TYPE_MEMSWAP "memswap"

/* How to get what an unprivileged user lacks. */
#define MEMSWAP_GRANT_HINT \
    "give this user access to /dev/userfaultfd, or CAP_SYS_PTRACE, or set" \
    " sysctl vm.unprivileged_userfaultfd=1"

OBJECT_DECLARE_SIMPLE_TYPE(MemswapObject, MEMSWAP)

struct MemswapObject {
    Object parent_obj;

    /* As given; the engine has the settings in force. */
    MemswapSettings settings;
    char *iothread_id;
    MemswapFaultThread fault_mode;
    bool huge_regions;
    bool vhost_user_dma;    /* may vhost-user devices use DMA of their own? */

    /* Set when the object is completed. */
    int uffd;               /* the engine's once it runs */
    bool no_kernel_faults;  /* for want of the right to userfaultfd */
    Error *migration_blocker;

    /* Set when the engine starts. */
    IOThread *iothread;     /* NULL with inline faults */
    uint64_t max_ram;       /* most RAM that the machine can have */
};

/* The object, or NULL while memswap is off. */
MemswapObject *memswap_object(void);

/*
 * Does each thread resolve its own faults?  Known from when there is an
 * accelerator, thus in time for all devices.
 */
bool memswap_inline(const MemswapObject *ms);

/* Must whatever is handed to the kernel be pinned?  Known likewise. */
bool memswap_user_mode_only(const MemswapObject *ms);

/* The engine, or NULL until it runs.  It then runs until QEMU ends. */
MemswapEngine *memswap_engine(void);

static inline MemswapFullPolicy memswap_when_full_from_qapi(int value)
{
    return value == MEMSWAP_WHEN_FULL_OVERSHOOT ? MEMSWAP_FULL_OVERSHOOT :
                                                  MEMSWAP_FULL_HOLD;
}

static inline MemswapCodec memswap_codec_from_qapi(int value)
{
    return value == MEMSWAP_COMPRESSION_LZ4 ? MEMSWAP_CODEC_LZ4 :
                                              MEMSWAP_CODEC_ZSTD;
}

static inline MemswapCompression memswap_codec_to_qapi(MemswapCodec codec)
{
    return codec == MEMSWAP_CODEC_LZ4 ? MEMSWAP_COMPRESSION_LZ4 :
                                        MEMSWAP_COMPRESSION_ZSTD;
}

static inline MemswapWhenFull memswap_when_full_to_qapi(MemswapFullPolicy value)
{
    return value == MEMSWAP_FULL_OVERSHOOT ? MEMSWAP_WHEN_FULL_OVERSHOOT :
                                             MEMSWAP_WHEN_FULL_HOLD;
}

/* start.c: to be called with the machine complete; exits on errors. */
void memswap_start(MemswapObject *ms);

/* Refuse what can never be the settings of this machine. */
bool memswap_check_settings(const MemswapSettings *settings,
                            uint64_t max_ram, Error **errp);

/* host.c */
extern const MemswapHost memswap_host;

/*
 * sigbus.c.  Threads made after prepare() take SIGBUS, and the main thread.
 * With inline faults, after start() all do, and the engine resolves faults in
 * its handler.  Otherwise cancel() makes the main thread, and threads to come,
 * block it as they do without memswap.  (It makes no difference to those in
 * between: what Linux sends of its own, about bad memory, goes to one thread
 * that asked for it, QEMU's main thread, or to who touched that memory.)
 */
void memswap_sigbus_prepare(void);
void memswap_sigbus_start(MemswapEngine *engine);
void memswap_sigbus_cancel(void);

/* ram.c: take all guest RAM there is, and follow what is plugged. */
bool memswap_ram_check(Error **errp);
bool memswap_ram_start(MemswapEngine *engine, Error **errp);
MemswapRamBlockList *memswap_ram_query(void);
/*
 * Call @one for each managed block, or that of this name, until it returns
 * false.  They stay meanwhile: to be called with the BQL.  Returns the number
 * of blocks.
 */
unsigned int memswap_ram_each(const char *name,
                              bool (*one)(MemswapBlock *block,
                                          const char *name, void *host,
                                          uint64_t size, void *opaque),
                              void *opaque);

/*
 * What the guest may use of managed RAM, in bytes: of virtio-mem, what is
 * plugged now.  With the BQL.
 */
uint64_t memswap_ram_usable(void);

/* pins.c: pin what was mapped before the engine ran. */
void memswap_pins_start(MemswapEngine *engine);
/* More may be pinned than a moment ago: try again what had to wait. */
void memswap_pins_room(void);

/*
 * pin-holders.c: devices come and go, with the BQL.  The query is for any
 * thread, out of band too.
 */
void memswap_holder_add(DeviceState *dev);
void memswap_holder_remove(DeviceState *dev);
MemswapPinHolderList *memswap_query_holders(void);

/* map.c: for query-memswap */
MemswapWorkingSetList *memswap_query_working_sets(MemswapEngine *engine);
MemswapRefaultPointList *memswap_query_curve(MemswapEngine *engine);

/* qmp.c: the engine, or an error that says how to have one. */
MemswapEngine *memswap_engine_or_error(Error **errp);

/* ranges.c: a reclaim or prefetch under way ends early. */
void memswap_reclaim_stop(void);

/*
 * policy.c: load the policies of the command line.  Once QEMU is about to end
 * they are left as they are.
 */
bool memswap_policies_start(MemswapEngine *engine, Error **errp);
void memswap_policies_leave(void);

/* policy-qmp.c.  Any thread, out of band too. */
MemswapLoadedPolicyList *memswap_policies_query(MemswapEngine *engine);
/* Why one was given up, for people. */
const char *memswap_policy_error(uint64_t reason);

/* blockers.c: keep out what can't be combined with memswap. */
bool memswap_blockers_init(MemswapObject *ms, Error **errp);
bool memswap_blockers_check(MemswapObject *ms, Error **errp);

#endif /* MEMSWAP_QEMU_GLUE_H */

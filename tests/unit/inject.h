/*
 * The engine's system calls, stopped and failed at will
 *
 * The test programs are linked with --wrap for the calls that the engine makes
 * on guest memory.  Unless a test says otherwise they go through.  With hooks
 * a test holds the engine at an exact point, makes something else happen
 * there, or makes the call fail.  Calls made by a hook go through.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_INJECT_H
#define TEST_INJECT_H

#include <stddef.h>
#include <stdint.h>

typedef enum InjectCall {
    INJECT_REGISTER,    /* where: address */
    INJECT_UNREGISTER,
    INJECT_COPY,
    INJECT_ZEROPAGE,
    INJECT_CONTINUE,
    INJECT_WAKE,
    INJECT_ZAP,         /* madvise(MADV_DONTNEED); where: address */
    INJECT_COLLAPSE,    /* madvise(MADV_COLLAPSE); where: address */
    INJECT_READ,        /* where: offset in the file, as with what follows */
    INJECT_WRITE,
    INJECT_PUNCH,
    INJECT_SEEK,
    INJECT_SPLICE,      /* out of a file, into a pipe */
    INJECT__MAX,
} InjectCall;

typedef struct InjectHooks {
    /*
     * Before the call.  0 lets it happen; a negative errno fails it instead.
     * *@size may be lowered for READ, WRITE and SPLICE.
     */
    int (*before)(void *opaque, InjectCall call, uint64_t where,
                  size_t *size);
    /* After a call that was let through; @error is 0 or a negative errno. */
    void (*after)(void *opaque, InjectCall call, uint64_t where, size_t size,
                  int error);
    void *opaque;
} InjectHooks;

/* @hooks must live until the next inject(); NULL lets everything through. */
void inject(const InjectHooks *hooks);

#endif /* TEST_INJECT_H */

/*
 * memswap pool: zstd and its contexts
 *
 * Decompression happens in the middle of faults, perhaps in a signal handler:
 * its contexts are made beforehand and taken by setting a bit.  Compression
 * happens under a writer's lock, with that writer's context.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <sched.h>
#include <unistd.h>
#include <zstd_errors.h>

#include "pool-internal.h"

#define WORD_BITS 64

bool memswap_decompressors_init(MemswapDecompressors *set)
{
    long cpus = sysconf(_SC_NPROCESSORS_CONF);
    unsigned int i;

    /* Twice the CPUs, for threads that are preempted while they have one. */
    set->count = CLAMP(cpus * 2, 8, 1024);
    set->contexts = g_try_new0(ZSTD_DCtx *, set->count);
    set->busy = g_try_malloc0_n((set->count + WORD_BITS - 1) / WORD_BITS,
                                sizeof(set->busy[0]));
    if (!set->contexts || !set->busy) {
        return false;
    }
    for (i = 0; i < set->count; i++) {
        set->contexts[i] = ZSTD_createDCtx();
        if (!set->contexts[i]) {
            return false;
        }
    }
    return true;
}

void memswap_decompressors_destroy(MemswapDecompressors *set)
{
    unsigned int i;

    for (i = 0; set->contexts && i < set->count; i++) {
        ZSTD_freeDCtx(set->contexts[i]);
    }
    g_free(set->contexts);
    g_free((void *)set->busy);
}

/* The lowest that is free: few contexts stay warm, the rest take no memory. */
static unsigned int take_context(MemswapDecompressors *set)
{
    unsigned int i;

    for (;;) {
        for (i = 0; i < set->count; i++) {
            _Atomic uint64_t *word = &set->busy[i / WORD_BITS];
            uint64_t bit = UINT64_C(1) << (i % WORD_BITS);

            if (!(atomic_load_explicit(word, memory_order_relaxed) & bit) &&
                !(atomic_fetch_or_explicit(word, bit, memory_order_acquire)
                  & bit)) {
                return i;
            }
        }
        /* Each is held for one decompression, which waits for nothing. */
        sched_yield();
    }
}

bool memswap_decompress(MemswapDecompressors *set, void *buffer, size_t size,
                        const void *bytes, size_t length)
{
    unsigned int i = take_context(set);
    size_t result = ZSTD_decompressDCtx(set->contexts[i], buffer, size,
                                        bytes, length);

    atomic_fetch_and_explicit(&set->busy[i / WORD_BITS],
                              ~(UINT64_C(1) << (i % WORD_BITS)),
                              memory_order_release);
    return result == size;
}

int64_t memswap_compress(MemswapWriter *writer, int level, const void *data,
                         size_t size, void *bytes)
{
    size_t result = ZSTD_compressCCtx(writer->compressor, bytes,
                                      memswap_compressed_max(size), data, size,
                                      level);

    if (ZSTD_isError(result)) {
        return ZSTD_getErrorCode(result) == ZSTD_error_memory_allocation
               ? -ENOMEM : 0;
    }
    return result;
}

int memswap_pool_min_level(void)
{
    return ZSTD_minCLevel();
}

int memswap_pool_max_level(void)
{
    return ZSTD_maxCLevel();
}

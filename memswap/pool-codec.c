/*
 * memswap pool: zstd and LZ4, and their contexts
 *
 * Decompression happens in the middle of faults, perhaps in a signal handler:
 * zstd's contexts are made beforehand and taken by setting a bit; LZ4 needs
 * none.  Compression
 * happens under a writer's lock, with that writer's context.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <lz4.h>
#include <sched.h>
#include <unistd.h>
#include <zstd_errors.h>

#include "pool-internal.h"

#define WORD_BITS 64

/* LZ4's, to find out fast whether there is anything to be found. */
#define PROBE_ACCELERATION 8
/*
 * LZ4's, in a hurry: what has nothing to be found is passed over faster.  Half
 * of the time for data of which a part is random, three quarters for text and
 * libraries, which take a tenth more room.
 */
#define HURRY_ACCELERATION 4
/* zstd's.  Lower ones give up as fast themselves. */
#define PROBE_FROM_LEVEL 0

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

static bool decompress_zstd(MemswapDecompressors *set, void *buffer,
                            size_t size, const void *bytes, size_t length)
{
    unsigned int i = take_context(set);
    size_t result = ZSTD_decompressDCtx(set->contexts[i], buffer, size,
                                        bytes, length);

    atomic_fetch_and_explicit(&set->busy[i / WORD_BITS],
                              ~(UINT64_C(1) << (i % WORD_BITS)),
                              memory_order_release);
    return result == size;
}

bool memswap_decompress(MemswapDecompressors *set, MemswapEntryCodec codec,
                        void *buffer, size_t size, const void *bytes,
                        size_t length)
{
    if (codec == MEMSWAP_ENTRY_LZ4) {
        return size <= LZ4_MAX_INPUT_SIZE &&
               LZ4_decompress_safe(bytes, buffer, length, size) == (int)size;
    }
    return decompress_zstd(set, buffer, size, bytes, length);
}

bool memswap_compressors_init(MemswapWriter *writer)
{
    writer->zstd = ZSTD_createCCtx();
    writer->lz4 = g_try_malloc(LZ4_sizeofState());
    return writer->zstd && writer->lz4;
}

void memswap_compressors_destroy(MemswapWriter *writer)
{
    ZSTD_freeCCtx(writer->zstd);
    g_free(writer->lz4);
}

/*
 * Are the bytes spread as evenly as random ones?  Most pages that are not show
 * it in the first of four samples.  Of 256 random bytes 162 are distinct, give
 * or take 5; data that entropy coding alone shrinks by 1/16 has 136.
 */
static bool looks_random(const uint8_t *data, size_t size)
{
    static const unsigned int least[] = { 47, 88, 120, 142 };
    const unsigned int samples = 64 * G_N_ELEMENTS(least);
    size_t stride = size / samples;
    uint64_t seen[4] = { 0 };
    unsigned int round, i;

    if (!stride) {
        return false;
    }
    for (round = 0; round < G_N_ELEMENTS(least); round++) {
        for (i = round; i < samples; i += G_N_ELEMENTS(least)) {
            /* Not always the same byte of what is aligned. */
            uint8_t byte = data[i * stride + i * 5 % stride];

            seen[byte / 64] |= UINT64_C(1) << byte % 64;
        }
        if (__builtin_popcountll(seen[0]) + __builtin_popcountll(seen[1]) +
            __builtin_popcountll(seen[2]) + __builtin_popcountll(seen[3])
            < least[round]) {
            return false;
        }
    }
    return true;
}

/* Nothing to gain for zstd: spread evenly, and LZ4 finds no matches. */
static bool is_incompressible(MemswapWriter *writer, const void *data,
                              size_t size, void *bytes)
{
    return size <= LZ4_MAX_INPUT_SIZE && looks_random(data, size) &&
           !LZ4_compress_fast_extState(writer->lz4, data, bytes, size,
                                       memswap_compressed_max(size),
                                       PROBE_ACCELERATION);
}

static int64_t compress_zstd(MemswapPool *pool, MemswapWriter *writer,
                             const void *data, size_t size, void *bytes)
{
    int level = atomic_load_explicit(&pool->compression_level,
                                     memory_order_relaxed);
    size_t result;

    if (level >= PROBE_FROM_LEVEL &&
        is_incompressible(writer, data, size, bytes)) {
        return 0;
    }
    result = ZSTD_compressCCtx(writer->zstd, bytes,
                               memswap_compressed_max(size), data, size,
                               level);
    if (ZSTD_isError(result)) {
        return ZSTD_getErrorCode(result) == ZSTD_error_memory_allocation
               ? -ENOMEM : 0;
    }
    return result;
}

int64_t memswap_compress(MemswapPool *pool, MemswapWriter *writer,
                         const void *data, size_t size, void *bytes,
                         MemswapEntryCodec *codec)
{
    if (atomic_load_explicit(&pool->codec, memory_order_relaxed)
        == MEMSWAP_CODEC_LZ4 && size <= LZ4_MAX_INPUT_SIZE) {
        bool hurry = atomic_load_explicit(&pool->hurry, memory_order_relaxed);

        *codec = MEMSWAP_ENTRY_LZ4;
        return LZ4_compress_fast_extState(writer->lz4, data, bytes, size,
                                          memswap_compressed_max(size),
                                          hurry ? HURRY_ACCELERATION : 1);
    }
    *codec = MEMSWAP_ENTRY_ZSTD;
    return compress_zstd(pool, writer, data, size, bytes);
}

int memswap_pool_min_level(void)
{
    return ZSTD_minCLevel();
}

int memswap_pool_max_level(void)
{
    return ZSTD_maxCLevel();
}

/*
 * Blocks: the RAM that the engine manages
 *
 * The table of blocks is read without a lock by faults, pins and evictors, and
 * changes only when memory is plugged or unplugged.  A block that goes is
 * marked dead, waits for its users to leave, and only then loses its words;
 * the struct itself lives as long as the engine, so that a late reader of the
 * table finds the mark.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"
#include "sparse.h"
#include "uffd.h"

MemswapBlock *memswap_block_ref(MemswapBlock *block)
{
    atomic_fetch_add(&block->refs, 1);
    return block;
}

void memswap_block_unref(MemswapBlock *block)
{
    atomic_fetch_sub(&block->refs, 1);
}

/* Count in on a block that was found in the table; NULL if it is going. */
static MemswapBlock *block_enter(MemswapBlock *block)
{
    memswap_block_ref(block);
    if (atomic_load(&block->dead)) {
        memswap_block_unref(block);
        return NULL;
    }
    return block;
}

MemswapBlock *memswap_block_get(MemswapEngine *engine, unsigned int slot)
{
    MemswapBlock *block = atomic_load(&engine->blocks[slot]);

    return block ? block_enter(block) : NULL;
}

MemswapBlock *memswap_block_find(MemswapEngine *engine, const void *host)
{
    unsigned int n = atomic_load(&engine->n_slots);

    for (unsigned int i = 0; i < n; i++) {
        MemswapBlock *block = atomic_load(&engine->blocks[i]);

        if (block && (const uint8_t *)host >= block->host &&
            (const uint8_t *)host < block->host + block->size) {
            return block_enter(block);
        }
    }
    return NULL;
}

bool memswap_owns(MemswapEngine *engine, const void *host)
{
    MemswapBlock *block = memswap_block_find(engine, host);

    if (block) {
        memswap_block_unref(block);
    }
    return block;
}

void memswap_block_moved(MemswapBlock *block, uint64_t page,
                         MemswapPlace from, MemswapPlace to)
{
    MemswapRegion *region = memswap_page_region(block, page);

    atomic_fetch_sub_explicit(&block->pages[from], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&block->pages[to], 1, memory_order_relaxed);
    if (from == MEMSWAP_IN_STORE || from == MEMSWAP_IN_WORD) {
        atomic_fetch_sub_explicit(&region->stored, 1, memory_order_relaxed);
    } else if (to == MEMSWAP_IN_STORE || to == MEMSWAP_IN_WORD) {
        atomic_fetch_add_explicit(&region->stored, 1, memory_order_relaxed);
    }
    if (from == MEMSWAP_IN_CACHE) {
        atomic_fetch_sub(&region->resident, 1);
    } else if (to == MEMSWAP_IN_CACHE &&
               atomic_fetch_add(&region->resident, 1) + 1 ==
               block->region_pages && memswap_block_may_be_huge(block)) {
        memswap_collapser_kick(block->engine);
    }
    if (block->alias && (from == MEMSWAP_IN_CACHE || to == MEMSWAP_IN_CACHE)) {
        memswap_hugetlb_moved(block, from == MEMSWAP_IN_CACHE ? -1 : 1);
    }
    if (!(atomic_load_explicit(&region->flags, memory_order_relaxed) &
          MEMSWAP_REGION_TOUCHED) &&
        !(atomic_fetch_or(&region->flags, MEMSWAP_REGION_TOUCHED) &
          MEMSWAP_REGION_TOUCHED)) {
        memswap_count(block->regions_touched, 1);
    }
}

/*
 * Is the whole range mapped shared?  Where it isn't, a zap would forget what
 * it should only unmap.
 */
static bool range_shared(const void *host, uint64_t size)
{
    uintptr_t at = (uintptr_t)host;
    uintptr_t end = at + size;
    g_autofree char *line = NULL;
    size_t room = 0;
    FILE *maps = fopen("/proc/self/maps", "re");

    if (!maps) {
        return false;
    }
    while (at < end && getline(&line, &room, maps) > 0) {
        uintptr_t from, to;
        char perms[5];

        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s", &from, &to,
                   perms) != 3 || to <= at) {
            continue;
        }
        if (from > at || perms[3] != 's') {
            break;
        }
        at = to;
    }
    fclose(maps);
    return at >= end;
}

static int check_info(MemswapEngine *engine, const MemswapBlockInfo *info,
                      char **error)
{
    const char *wrong = memswap_hugetlb_check(engine, info->fd,
                                              info->page_size);

    if (wrong) {
        /* of no size that we can handle */
    } else if (!info->size || info->size % info->page_size ||
               (uintptr_t)info->host % info->page_size ||
               info->fd_offset % info->page_size) {
        wrong = "it is not aligned to its page size";
    } else if (info->size >> MEMSWAP_OWNER_SHIFT >= info->page_size) {
        wrong = "it is too large: split it into several blocks";
    } else if (!range_shared(info->host, info->size)) {
        wrong = "its memory is private: use share=on";
    } else if (madvise(info->host, info->size, MADV_DONTNEED)) {
        /* which would only have unmapped it */
        wrong = "its memory is locked: run without mem-lock";
    }
    if (wrong && error) {
        *error = g_strdup_printf("block '%s' can't be managed: %s",
                                 info->name, wrong);
    }
    return wrong ? -EINVAL : 0;
}

static void block_free_arrays(MemswapBlock *block)
{
    if (block->words) {
        munmap(block->words, block->n_pages * sizeof(*block->words));
        block->words = NULL;
    }
    if (block->regions) {
        munmap(block->regions, block->n_regions * sizeof(*block->regions));
        block->regions = NULL;
    }
    memswap_samples_close(block);
    memswap_hugetlb_close(block);
    g_clear_pointer(&block->name, g_free);
}

static MemswapBlock *block_new(MemswapEngine *engine,
                               const MemswapBlockInfo *info)
{
    MemswapBlock *block = g_new0(MemswapBlock, 1);

    block->engine = engine;
    block->name = g_strdup(info->name);
    block->host = info->host;
    block->size = info->size;
    block->fd = info->fd;
    block->fd_offset = info->fd_offset;
    block->page_size = info->page_size;
    block->page_shift = __builtin_ctzll(info->page_size);
    block->n_pages = info->size >> block->page_shift;
    block->region_pages = MAX(MEMSWAP_REGION_SIZE / info->page_size, 1);
    block->n_regions = (block->n_pages + block->region_pages - 1) /
                       block->region_pages;
    block->words = memswap_sparse_map(block->n_pages *
                                      sizeof(*block->words));
    block->regions = memswap_sparse_map(block->n_regions *
                                        sizeof(*block->regions));
    block->pages[MEMSWAP_IN_NONE] = block->n_pages;
    block->kept_out = memswap_huge_kept_out(info->fd);
    block->huge = engine->huge && block->kept_out &&
                  info->page_size < MEMSWAP_REGION_SIZE &&
                  (uintptr_t)info->host % MEMSWAP_REGION_SIZE == 0 &&
                  info->fd_offset % MEMSWAP_REGION_SIZE == 0;
    if (!block->words || !block->regions || memswap_samples_open(block)) {
        block_free_arrays(block);
        g_free(block);
        return NULL;
    }
    return block;
}

/* The page is in the page cache, and nobody told us: take it in. */
static void adopt_page(MemswapBlock *block, uint64_t page)
{
    MemswapWord *word = &block->words[page];
    uint64_t absent = MEMSWAP_ABSENT;

    while (!memswap_word_cas(word, &absent, MEMSWAP_FILLING)) {
        if (memswap_word_state(absent) != MEMSWAP_FILLING) {
            /* a fault was faster */
            return;
        }
        /* somebody who reads ahead may give it back as it was */
        memswap_page_wait(word);
        absent = MEMSWAP_ABSENT;
    }
    memswap_charge(block->engine, block->page_size, true);
    memswap_block_moved(block, page, MEMSWAP_IN_NONE, MEMSWAP_IN_CACHE);
    memswap_page_settle(block, page, MEMSWAP_RESIDENT, 0, 0);
}

/* Owning the region keeps what is seen from being punched before it counts. */
void memswap_block_adopt(MemswapBlock *block, uint64_t first, uint64_t end)
{
    off_t stop = block->fd_offset + (end << block->page_shift);
    off_t at = block->fd_offset + (first << block->page_shift);

    if (block->alias) {
        /* one page is one region; SEEK_DATA takes holes for data */
        memswap_hugetlb_adopt(block, first);
        return;
    }
    while ((at = lseek(block->fd, at, SEEK_DATA)) >= 0 && at < stop) {
        off_t hole = lseek(block->fd, at, SEEK_HOLE);

        if (hole < 0 || hole > stop) {
            hole = stop;
        }
        for (; at < hole; at += block->page_size) {
            adopt_page(block, (at - block->fd_offset) >> block->page_shift);
        }
    }
}

uint64_t memswap_block_next_cached(MemswapBlock *block, uint64_t number)
{
    off_t at = block->fd_offset +
               (memswap_region_first(block, number) << block->page_shift);

    if (block->alias || number >= block->n_regions) {
        /* SEEK_DATA doesn't say; look at each */
        return number;
    }
    at = lseek(block->fd, at, SEEK_DATA);
    return at < 0 ? block->n_regions :
           MIN(((at - block->fd_offset) >> block->page_shift) /
               block->region_pages, block->n_regions);
}

void memswap_block_adopt_all(MemswapBlock *block, bool huge)
{
    uint64_t number = 0;

    while ((number = memswap_block_next_cached(block, number)) <
           block->n_regions) {
        memswap_region_own(&block->regions[number]);
        memswap_block_adopt(block, memswap_region_first(block, number),
                            memswap_region_end(block, number));
        if (huge) {
            memswap_huge_adopt(block, number);
        }
        memswap_region_disown(&block->regions[number]);
        number++;
    }
}

/* The kernel lets one userfaultfd have a range twice; two words it may not. */
static bool block_overlaps(MemswapEngine *engine, const MemswapBlock *block)
{
    unsigned int n = atomic_load(&engine->n_slots);

    for (unsigned int i = 0; i < n; i++) {
        MemswapBlock *other = atomic_load(&engine->blocks[i]);

        if (other && other->host < block->host + block->size &&
            block->host < other->host + other->size) {
            return true;
        }
    }
    return false;
}

/* Give the block a slot in the table.  Returns 0, -EBUSY or -EINVAL. */
static int block_publish(MemswapBlock *block)
{
    MemswapEngine *engine = block->engine;
    unsigned int slot = 0;
    int ret = 0;

    g_mutex_lock(&engine->blocks_lock);
    while (slot < MEMSWAP_MAX_BLOCKS && atomic_load(&engine->blocks[slot])) {
        slot++;
    }
    if (block_overlaps(engine, block)) {
        ret = -EBUSY;
    } else if (slot == MEMSWAP_MAX_BLOCKS) {
        ret = -EINVAL;
    } else {
        block->slot = slot;
        atomic_store(&engine->blocks[slot], block);
        if (slot >= atomic_load(&engine->n_slots)) {
            atomic_store(&engine->n_slots, slot + 1);
        }
    }
    g_mutex_unlock(&engine->blocks_lock);
    return ret;
}

static void block_unpublish(MemswapBlock *block)
{
    MemswapEngine *engine = block->engine;

    if (memswap_policy_wants(engine,
                             MEMSWAP_POLICY_EVENT_BIT(BLOCK_REMOVED))) {
        memswap_policy_emit(engine, MEMSWAP_POLICY_BLOCK_REMOVED, block, 0,
                            block->n_pages);
    }
    atomic_store(&block->dead, true);
    g_mutex_lock(&engine->blocks_lock);
    atomic_store(&engine->blocks[block->slot], NULL);
    g_ptr_array_add(engine->removed, block);
    g_mutex_unlock(&engine->blocks_lock);

    memswap_collapser_wake(engine);
    memswap_forget_trials(block);
    memswap_forget_stalled(block);
    memswap_forget_slow(block);
    while (atomic_load(&block->refs)) {
        g_usleep(50);
        /* what was in the evictors' hands may have come back to the queues */
        memswap_forget_trials(block);
        memswap_forget_stalled(block);
        memswap_forget_slow(block);
    }
}

/* What a block needs that nobody knows of yet; frees it on failure. */
static int block_prepare(MemswapBlock *block, char **error)
{
    bool huge = block->page_size > (uint64_t)sysconf(_SC_PAGESIZE);
    int ret = huge ? memswap_hugetlb_open(block) : 0;

    if (ret && error) {
        *error = g_strdup_printf("block '%s': can't prepare its hugepages: "
                                 "%s", block->name, g_strerror(-ret));
    }
    if (!ret && huge) {
        ret = memswap_admit_page_size(block->engine, block->page_size, error);
    }
    if (ret) {
        block_free_arrays(block);
        g_free(block);
    }
    return ret;
}

int memswap_block_add(MemswapEngine *engine, const MemswapBlockInfo *info,
                      MemswapBlock **result, char **error)
{
    MemswapBlock *block;
    int ret = check_info(engine, info, error);

    if (ret) {
        return ret;
    }
    block = block_new(engine, info);
    if (!block) {
        if (error) {
            *error = g_strdup_printf("block '%s': no memory for its page "
                                     "words", info->name);
        }
        return -ENOMEM;
    }
    ret = block_prepare(block, error);
    if (ret) {
        return ret;
    }
    if (!block->huge) {
        /* Large folios can't be punched page by page without care. */
        madvise(block->host, block->size, MADV_NOHUGEPAGE);
    }
    ret = block_publish(block);
    if (ret) {
        if (error) {
            *error = ret == -EBUSY ?
                g_strdup_printf("block '%s' is managed already",
                                info->name) :
                g_strdup_printf("block '%s': more than %d blocks",
                                info->name, MEMSWAP_MAX_BLOCKS);
        }
        block_free_arrays(block);
        g_free(block);
        return ret;
    }
    /* Register first, then look: what comes later is reported. */
    ret = memswap_uffd_register(engine->uffd, block->host, block->size);
    if (ret) {
        if (error) {
            *error = g_strdup_printf("block '%s': userfaultfd refused it: %s",
                                     info->name, g_strerror(-ret));
        }
        block_unpublish(block);
        block_free_arrays(block);
        return ret;
    }
    /* what was there before the range was registered */
    memswap_block_adopt_all(block, true);
    /* Like a limit lowered by as much: to be worked off in the background. */
    g_mutex_lock(&engine->settings_lock);
    memswap_set_limit(engine, atomic_load(&engine->limit));
    g_mutex_unlock(&engine->settings_lock);
    if (memswap_policy_wants(engine, MEMSWAP_POLICY_EVENT_BIT(BLOCK_ADDED))) {
        memswap_policy_emit(engine, MEMSWAP_POLICY_BLOCK_ADDED, block, 0,
                            block->n_pages);
    }
    *result = block;
    return 0;
}

/* What counts for the whole engine of a page that goes. */
static void forget_page(MemswapBlock *block, uint64_t page)
{
    MemswapEngine *engine = block->engine;
    uint64_t word = memswap_word_load(&block->words[page]);

    if (memswap_word_state(word) == MEMSWAP_STORED) {
        engine->store->ops->drop(engine->store, memswap_word_handle(word));
    } else if (memswap_word_state(word) == MEMSWAP_TRIAL) {
        memswap_count(engine->trial_pages, -(int64_t)block->page_size);
    }
    if (word & MEMSWAP_WORD_KEPT) {
        memswap_copy_forget(block, word);
    }
    if (memswap_word_pins(word)) {
        /* against the rules, but no reason to refuse limits for ever */
        memswap_count(engine->pinned, -(int64_t)block->page_size);
        g_mutex_lock(&engine->overflow_lock);
        g_hash_table_remove(engine->overflow, &block->words[page]);
        g_mutex_unlock(&engine->overflow_lock);
    }
}

void memswap_block_remove(MemswapEngine *engine, MemswapBlock *block)
{
    block_unpublish(block);
    memswap_uffd_unregister(engine->uffd, block->host, block->size);
    for (uint64_t number = 0; number < block->n_regions; number++) {
        uint64_t end = memswap_region_end(block, number);

        if (!(atomic_load(&block->regions[number].flags) &
              MEMSWAP_REGION_TOUCHED)) {
            continue;
        }
        for (uint64_t page = memswap_region_first(block, number); page < end;
             page++) {
            forget_page(block, page);
        }
    }
    if (block->alias) {
        atomic_fetch_sub(&engine->hugetlb.resident,
                         atomic_load(&block->pages[MEMSWAP_IN_CACHE]));
    }
    memswap_uncharge(engine, atomic_load(&block->pages[MEMSWAP_IN_CACHE]) <<
                     block->page_shift);
    atomic_fetch_sub(&engine->n_retained, atomic_load(&block->retained));
    block_free_arrays(block);
}

void memswap_block_get_stats(MemswapBlock *block, MemswapBlockStats *stats)
{
    uint64_t pages[MEMSWAP_PLACE__MAX];

    for (int i = 0; i < MEMSWAP_PLACE__MAX; i++) {
        /* Moving is two steps: between them a count may be off by one. */
        pages[i] = memswap_sum(&block->pages[i]);
    }
    *stats = (MemswapBlockStats) {
        .managed = block->size,
        .page_size = block->page_size,
        .resident = pages[MEMSWAP_IN_CACHE] << block->page_shift,
        .stored = pages[MEMSWAP_IN_STORE] << block->page_shift,
        .zero = pages[MEMSWAP_IN_WORD] << block->page_shift,
        .untouched = pages[MEMSWAP_IN_NONE] << block->page_shift,
        .poisoned = pages[MEMSWAP_IN_POISON] << block->page_shift,
    };
}

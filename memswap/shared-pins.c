/*
 * Shared pins: pages that another process says it is using
 *
 * A device process that maps a block has a table for it in shared memory, a
 * word for each page: how often it has pinned the page, and whether the page is
 * in (IN).  docs/interop/vhost-user-memswap.rst has the rules.  Here is our
 * side of them:
 *
 * - IN is set only by memswap_client_pin(), with the page pinned by us for as
 *   long.  So the page is in no transition that takes it out.  That goes for
 *   the pages that were asked for, and for those beside them that are in.
 * - Who takes a page out of the page cache moves it to EVICTING, DISCARDING or
 *   (with a large folio, or when the host lost it) FILLING first, which
 *   excludes our pins, and then clears IN in each table:
 *   memswap_shared_take().  If a table has IN and a count, the page stays.
 *
 * Both change one word by atomic operations: either the process's count is
 * there first, and we leave the page, or IN is gone first, and it asks.  It
 * touches nothing that it has not pinned, so from then on the page is ours.
 *
 * Tables come at any time: a new one is all zero, without IN.  Who takes pages
 * out owns their region while it looks at the tables, so a table that goes is
 * out of use once it was taken from the block and each region was owned once.
 * A fault that finds that the host lost a page owns none, and is counted in
 * MemswapBlock.table_users instead.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"
#include "memswap/client.h"

/* How often to look through all tables, and what part of the time to take. */
#define LOOK_NS 10000000
#define LOOK_PART 20
/* Pages of a part of so many bytes are told of together. */
#define BESIDE_BYTES (256 * 1024)

struct MemswapTable {
    MemswapClient *client;
    MemswapBlock *block;    /* for comparison only: it may have gone */
    unsigned int block_slot;
    uint64_t page_size;
    unsigned int slot;      /* in MemswapBlock.tables */
    int fd;
    _Atomic uint32_t *words;
    size_t size;            /* bytes of them */
};

struct MemswapClient {
    MemswapEngine *engine;
    GMutex lock;
    GPtrArray *tables;      /* under the lock; never removed from */
    /* bytes it had pinned at the last look, and what it was given since */
    _Atomic uint64_t pinned, given;
};

/* Clear IN for a page in one table; false if the process uses the page. */
static bool table_take(MemswapTable *table, uint64_t page)
{
    _Atomic uint32_t *word = &table->words[page];
    uint32_t old = atomic_load(word);

    while (old & MEMSWAP_CLIENT_IN) {
        if (old & MEMSWAP_CLIENT_COUNT) {
            return false;
        }
        if (atomic_compare_exchange_weak(word, &old, 0)) {
            return true;
        }
    }
    return true;
}

bool memswap_shared_take(MemswapBlock *block, uint64_t page)
{
    if (!memswap_block_shared(block)) {
        return true;
    }
    for (unsigned int i = 0; i < MEMSWAP_MAX_TABLES; i++) {
        MemswapTable *table = atomic_load(&block->tables[i]);

        if (table && !table_take(table, page)) {
            /* others, whose IN is gone already, will ask */
            return false;
        }
    }
    return true;
}

bool memswap_shared_take_unowned(MemswapBlock *block, uint64_t page)
{
    bool taken;

    /* before it finds a table: who has taken that away sees it counted */
    atomic_fetch_add(&block->table_users, 1);
    taken = memswap_shared_take(block, page);
    atomic_fetch_sub(&block->table_users, 1);
    return taken;
}

/* How many of these pages the process uses. */
static uint64_t words_pinned(MemswapTable *table, uint64_t first,
                             uint64_t end)
{
    uint64_t n = 0;

    for (uint64_t page = first; page < end; page++) {
        uint32_t word = atomic_load_explicit(&table->words[page],
                                             memory_order_relaxed);

        n += (word & MEMSWAP_CLIENT_IN) && (word & MEMSWAP_CLIENT_COUNT);
    }
    return n;
}

bool memswap_shared_uses(MemswapBlock *block, uint64_t number)
{
    uint64_t first = memswap_region_first(block, number);
    uint64_t end = memswap_region_end(block, number);

    for (unsigned int i = 0; i < MEMSWAP_MAX_TABLES; i++) {
        MemswapTable *table = atomic_load(&block->tables[i]);

        if (table && words_pinned(table, first, end)) {
            return true;
        }
    }
    return false;
}

MemswapClient *memswap_client_new(MemswapEngine *engine)
{
    MemswapClient *client = g_new0(MemswapClient, 1);

    client->engine = engine;
    client->tables = g_ptr_array_new();
    g_mutex_init(&client->lock);
    g_mutex_lock(&engine->clients_lock);
    g_ptr_array_add(engine->clients, client);
    atomic_fetch_add(&engine->n_clients, 1);
    g_mutex_unlock(&engine->clients_lock);
    return client;
}

static void table_free(MemswapTable *table)
{
    if (table->words) {
        munmap(table->words, table->size);
    }
    if (table->fd >= 0) {
        close(table->fd);
    }
    g_free(table);
}

static MemswapTable *table_new(MemswapClient *client, MemswapBlock *block)
{
    MemswapTable *table = g_new0(MemswapTable, 1);
    void *words;

    table->client = client;
    table->block = block;
    table->block_slot = block->slot;
    table->page_size = block->page_size;
    table->size = block->n_pages * sizeof(*table->words);
    table->fd = memfd_create("memswap-pins", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (table->fd < 0 || ftruncate(table->fd, table->size) ||
        /* or the process could make our access to it a SIGBUS */
        fcntl(table->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL)) {
        table_free(table);
        return NULL;
    }
    words = mmap(NULL, table->size, PROT_READ | PROT_WRITE, MAP_SHARED,
                 table->fd, 0);
    if (words == MAP_FAILED) {
        table_free(table);
        return NULL;
    }
    table->words = words;
    return table;
}

/* Give the table a place at its block. */
static bool table_publish(MemswapTable *table)
{
    MemswapBlock *block = table->block;

    /* before it can be found: who sees none doesn't look */
    atomic_fetch_add(&block->n_tables, 1);
    for (unsigned int i = 0; i < MEMSWAP_MAX_TABLES; i++) {
        MemswapTable *none = NULL;

        if (atomic_compare_exchange_strong(&block->tables[i], &none, table)) {
            table->slot = i;
            return true;
        }
    }
    atomic_fetch_sub(&block->n_tables, 1);
    return false;
}

/* From when this returns nobody looks at the table any more. */
static void table_unpublish(MemswapTable *table)
{
    MemswapBlock *block = memswap_block_get(table->client->engine,
                                            table->block_slot);

    if (block != table->block) {
        if (block) {
            memswap_block_unref(block);
        }
        /* going: somebody may look still */
        while (atomic_load(&table->block->refs)) {
            g_usleep(50);
        }
        return;
    }
    atomic_store(&block->tables[table->slot], NULL);
    atomic_fetch_sub(&block->n_tables, 1);
    for (uint64_t number = 0; number < block->n_regions; number++) {
        MemswapRegion *region = &block->regions[number];

        if (atomic_load(&region->flags) & MEMSWAP_REGION_TOUCHED) {
            memswap_region_own(region);
            memswap_region_disown(region);
        }
    }
    while (atomic_load(&block->table_users)) {
        g_usleep(50);
    }
    memswap_block_unref(block);
}

int memswap_client_share(MemswapClient *client, const void *host,
                         MemswapShared *shared)
{
    MemswapBlock *block = memswap_block_find(client->engine, host);
    MemswapTable *table = NULL;
    unsigned int i;
    int ret = 0;

    if (!block) {
        return -ENOENT;
    }
    g_mutex_lock(&client->lock);
    for (i = 0; i < client->tables->len && !table; i++) {
        MemswapTable *other = g_ptr_array_index(client->tables, i);

        table = other->block == block ? other : NULL;
    }
    if (!table) {
        table = table_new(client, block);
        ret = table ? 0 : -ENOMEM;
        if (table && !table_publish(table)) {
            g_clear_pointer(&table, table_free);
            ret = -EUSERS;
        }
        if (table) {
            g_ptr_array_add(client->tables, table);
            i = client->tables->len;
        }
    }
    if (table) {
        *shared = (MemswapShared) {
            .fd = table->fd,
            .file = i - 1,
            .host = block->host,
            .page_size = block->page_size,
        };
    }
    g_mutex_unlock(&client->lock);
    memswap_block_unref(block);
    return ret;
}

void memswap_client_free(MemswapClient *client)
{
    MemswapEngine *engine = client->engine;

    g_mutex_lock(&engine->clients_lock);
    g_ptr_array_remove(engine->clients, client);
    atomic_fetch_sub(&engine->n_clients, 1);
    /* what is known of it is out of date */
    atomic_store(&engine->shared_look_at, 0);
    g_mutex_unlock(&engine->clients_lock);
    for (unsigned int i = 0; i < client->tables->len; i++) {
        MemswapTable *table = g_ptr_array_index(client->tables, i);

        table_unpublish(table);
        table_free(table);
    }
    g_ptr_array_unref(client->tables);
    g_mutex_clear(&client->lock);
    memswap_room_made(engine);
    g_free(client);
}

/* One more pin of the process's; false: its count is full. */
static bool table_give(_Atomic uint32_t *word)
{
    uint32_t old = atomic_load(word);

    do {
        if ((old & MEMSWAP_CLIENT_COUNT) == MEMSWAP_CLIENT_COUNT) {
            return false;
        }
    } while (!atomic_compare_exchange_weak(word, &old,
                                           (old + 1) | MEMSWAP_CLIENT_IN));
    return true;
}

/* Undo table_give() for pages from @first on. */
static void table_take_back(MemswapTable *table, uint64_t first, uint64_t n)
{
    while (n) {
        atomic_fetch_sub(&table->words[first + --n], 1);
    }
}

/*
 * The process would have to ask for each page once, which takes two wake-ups.
 * So it is told of those beside, too, if they are in place and that is to be
 * had for the asking.  How many: it may pin them from now on.
 */
static uint64_t tell_beside(MemswapTable *table, MemswapBlock *block,
                            uint64_t first, uint64_t n)
{
    uint64_t part = MAX(BESIDE_BYTES / table->page_size, 1);
    uint64_t page = first / part * part;
    uint64_t end = (first + n + part - 1) / part * part;
    uint64_t told = 0;

    for (end = MIN(end, block->n_pages); page < end; page++) {
        /* one of which something is known, or that it asks for now */
        if (!atomic_load(&table->words[page]) &&
            memswap_pin_mapped(block, page)) {
            atomic_fetch_or(&table->words[page], MEMSWAP_CLIENT_IN);
            memswap_unpin_mapped(block, page);
            told++;
        }
    }
    return told;
}

/* Pin pages of the block for the process; *@told are those beside. */
static int give_pages(MemswapTable *table, MemswapBlock *block,
                      uint64_t first, uint64_t n, bool beside, uint64_t *told)
{
    uint64_t done = 0;
    /* for a moment: no reason to refuse it, or anybody else */
    int ret = memswap_block_pin(block, first, n);

    if (ret) {
        return ret;
    }
    while (done < n && table_give(&table->words[first + done])) {
        done++;
    }
    if (done == n && beside) {
        *told = tell_beside(table, block, first, n);
    }
    memswap_block_unpin(block, first, n);
    if (done < n) {
        table_take_back(table, first, done);
        return -EOVERFLOW;
    }
    return 0;
}

static int table_pin(MemswapTable *table, uint64_t first, uint64_t n,
                     bool beside)
{
    MemswapEngine *engine = table->client->engine;
    MemswapBlock *block = memswap_block_get(engine, table->block_slot);
    uint64_t told = 0;
    int ret = -ENOENT;

    if (block == table->block) {
        ret = give_pages(table, block, first, n, beside, &told);
    }
    if (!ret) {
        uint64_t bytes = (n + told) * table->page_size;

        atomic_fetch_add(&table->client->given, bytes);
        atomic_fetch_add(&engine->shared_given, bytes);
    }
    if (block) {
        memswap_block_unref(block);
    }
    return ret;
}

/* The table with that number; NULL: there are not so many. */
static MemswapTable *get_table(MemswapClient *client, uint32_t number)
{
    MemswapTable *table = NULL;

    g_mutex_lock(&client->lock);
    if (number < client->tables->len) {
        table = g_ptr_array_index(client->tables, number);
    }
    g_mutex_unlock(&client->lock);
    return table;
}

/* What is a hole in the table's file is no pin, and is to stay a hole. */
static uint64_t table_pinned(MemswapTable *table)
{
    off_t hole, at = 0;
    uint64_t n = 0;

    while ((at = lseek(table->fd, at, SEEK_DATA)) >= 0 &&
           at < (off_t)table->size) {
        hole = lseek(table->fd, at, SEEK_HOLE);
        if (hole < 0 || hole > (off_t)table->size) {
            hole = table->size;
        }
        n += words_pinned(table, at / sizeof(*table->words),
                          hole / sizeof(*table->words));
        at = hole;
    }
    return n * table->page_size;
}

uint64_t memswap_client_pinned(MemswapClient *client)
{
    MemswapTable *table;
    uint64_t bytes = 0;

    /* it takes long: nobody who asks for pages is to wait for it */
    for (unsigned int i = 0; (table = get_table(client, i)); i++) {
        bytes += table_pinned(table);
    }
    return bytes;
}

/*
 * Count what all have pinned; with clients_lock.  What is given meanwhile may
 * be seen, and counts as given since, too: rather too much than too little.
 */
static void look(MemswapEngine *engine)
{
    int64_t began = memswap_now(engine);
    uint64_t bytes = 0;

    atomic_store(&engine->shared_given, 0);
    for (unsigned int i = 0; i < engine->clients->len; i++) {
        MemswapClient *client = g_ptr_array_index(engine->clients, i);

        atomic_store(&client->given, 0);
        atomic_store(&client->pinned, memswap_client_pinned(client));
        bytes += atomic_load(&client->pinned);
    }
    atomic_store(&engine->shared_pinned, bytes);
    atomic_store(&engine->shared_look_at, began +
                 MAX(LOOK_NS, LOOK_PART * (memswap_now(engine) - began)));
}

/* Would so many bytes be too many, as far as is known now? */
static bool is_too_much(MemswapClient *client, uint64_t size, uint32_t flags)
{
    MemswapEngine *engine = client->engine;
    uint64_t bound = memswap_pin_bound(engine);
    uint64_t own = atomic_load(&client->pinned) + atomic_load(&client->given);
    uint64_t all = atomic_load(&engine->pinned) +
                   atomic_load(&engine->shared_pinned) +
                   atomic_load(&engine->shared_given);

    return ((flags & MEMSWAP_CLIENT_BOUNDED) && all + size > bound) ||
           ((flags & MEMSWAP_CLIENT_BOUNDED_OWN) && own + size > bound);
}

/*
 * What it has to ask for is what can be refused.  So it has to ask for each
 * page while half of what may be pinned is, or was told of since that was
 * looked at.
 */
static bool may_tell_beside(MemswapClient *client)
{
    const uint32_t both = MEMSWAP_CLIENT_BOUNDED | MEMSWAP_CLIENT_BOUNDED_OWN;
    uint64_t half = memswap_pin_bound(client->engine) / 2;

    if (is_too_much(client, half, both)) {
        /* it may be long ago; now and then it is looked at anew */
        memswap_shared_pinned(client->engine);
        return !is_too_much(client, half, both);
    }
    return true;
}

/* The range's table and its first page; NULL if there is no such range. */
static MemswapTable *range_table(MemswapClient *client,
                                 const MemswapClientRange *range,
                                 uint64_t *first)
{
    MemswapTable *table = get_table(client, range->file);

    *first = range->offset / sizeof(*table->words);
    return table && !(range->offset % sizeof(*table->words)) &&
           range->words && range->offset < table->size &&
           range->words <= table->size / sizeof(*table->words) - *first ?
           table : NULL;
}

/* How many bytes are asked for; 0 if that can't be. */
static uint64_t ranges_size(MemswapClient *client,
                            const MemswapClientRange *ranges, unsigned int n)
{
    uint64_t words = 0, size = 0, first;

    for (unsigned int i = 0; i < n; i++) {
        MemswapTable *table = range_table(client, &ranges[i], &first);

        words += ranges[i].words;
        if (!table || words > MEMSWAP_CLIENT_MAX_WORDS) {
            return 0;
        }
        size += ranges[i].words * table->page_size;
    }
    return size;
}

/*
 * Undo table_give() for ranges that were found to be right.  What was given
 * stays counted until the next look: rather too much.
 */
static void take_back(MemswapClient *client, const MemswapClientRange *ranges,
                      unsigned int n)
{
    for (unsigned int i = 0; i < n; i++) {
        uint64_t first;
        MemswapTable *table = range_table(client, &ranges[i], &first);

        table_take_back(table, first, ranges[i].words);
    }
}

int memswap_client_pin(MemswapClient *client, const MemswapClientRange *ranges,
                       unsigned int n, uint32_t flags)
{
    uint64_t size = ranges_size(client, ranges, n);

    if (!size ||
        flags & ~(MEMSWAP_CLIENT_BOUNDED | MEMSWAP_CLIENT_BOUNDED_OWN)) {
        return -EINVAL;
    }
    if (is_too_much(client, size, flags)) {
        /* what was unpinned since the last look nobody has told us of */
        g_mutex_lock(&client->engine->clients_lock);
        look(client->engine);
        g_mutex_unlock(&client->engine->clients_lock);
        if (is_too_much(client, size, flags)) {
            memswap_count(client->engine->pins_refused, 1);
            return -ENOBUFS;
        }
    }
    for (unsigned int i = 0; i < n; i++) {
        uint64_t first;
        MemswapTable *table = range_table(client, &ranges[i], &first);
        int ret = table_pin(table, first, ranges[i].words,
                            may_tell_beside(client));

        if (ret) {
            take_back(client, ranges, i);
            return ret;
        }
    }
    return 0;
}

uint64_t memswap_shared_pinned(MemswapEngine *engine)
{
    if (!atomic_load(&engine->n_clients)) {
        return 0;
    }
    if (memswap_now(engine) >= atomic_load(&engine->shared_look_at) &&
        g_mutex_trylock(&engine->clients_lock)) {
        look(engine);
        g_mutex_unlock(&engine->clients_lock);
    }
    return atomic_load(&engine->shared_pinned);
}

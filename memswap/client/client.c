/*
 * memswap for device processes: pins in shared memory
 *
 * See docs/interop/vhost-user-memswap.rst and include/memswap/client.h.
 *
 * To pin is to add to a count, and to look whether IN was set in the very same
 * word.  The front-end takes IN away only from a word whose count is 0, by a
 * compare-and-swap.  So nothing here needs a lock, but for the channel, whose
 * answers come in the order of the requests.
 *
 * The list of tables is replaced as a whole; who reads an old one goes on with
 * it.  Old ones are few, and kept until the end: memory comes and goes rarely.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/* who builds it without our Meson doesn't say so on the command line */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "memswap/client.h"

typedef struct File {
    uint64_t number;
    _Atomic uint32_t *words;
    uint64_t size;          /* bytes */
    struct File *next;
} File;

typedef struct Region {
    uint64_t address;
    uint64_t size;
    uint64_t page_size;
    uint64_t offset;        /* of the first word in the file */
    File *file;
    /* told of since the last time that all were given; of who sets tables */
    bool fresh;
} Region;

typedef struct List {
    struct List *older;
    unsigned int n;
    Region regions[];
} List;

struct MemswapPins {
    _Atomic(List *) list;
    File *files;            /* of who sets tables */
    int channel;            /* -1: none yet */
    pthread_mutex_t lock;   /* of the channel's use */
};

MemswapPins *memswap_pins_new(void)
{
    MemswapPins *pins = calloc(1, sizeof(*pins));

    if (pins) {
        pins->channel = -1;
        pthread_mutex_init(&pins->lock, NULL);
    }
    return pins;
}

void memswap_pins_free(MemswapPins *pins)
{
    List *list;

    if (!pins) {
        return;
    }
    list = atomic_load(&pins->list);
    while (list) {
        List *older = list->older;

        free(list);
        list = older;
    }
    while (pins->files) {
        File *file = pins->files;

        pins->files = file->next;
        munmap((void *)file->words, file->size);
        free(file);
    }
    if (pins->channel >= 0) {
        close(pins->channel);
    }
    pthread_mutex_destroy(&pins->lock);
    free(pins);
}

/* Map a file, unless it is mapped already. */
static int find_file(MemswapPins *pins, uint64_t number, int fd, File **result)
{
    struct stat st;
    File *file;
    void *words;

    for (file = pins->files; file; file = file->next) {
        if (file->number == number) {
            *result = file;
            return 0;
        }
    }
    if (fstat(fd, &st)) {
        return -errno;
    }
    if (number > UINT32_MAX || st.st_size <= 0) {
        return -EINVAL;
    }
    file = calloc(1, sizeof(*file));
    if (!file) {
        return -ENOMEM;
    }
    words = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (words == MAP_FAILED) {
        int ret = -errno;

        free(file);
        return ret;
    }
    *file = (File) {
        .number = number, .words = words, .size = st.st_size,
        .next = pins->files,
    };
    pins->files = file;
    *result = file;
    return 0;
}

static bool message_ok(const MemswapTableMessage *message)
{
    uint64_t page_size = message->page_size;

    return page_size >= 4096 && !(page_size & (page_size - 1)) &&
           !((message->guest_address | message->size) & (page_size - 1)) &&
           message->size &&
           message->guest_address <= UINT64_MAX - message->size &&
           !(message->offset % sizeof(uint32_t));
}

static List *list_new(MemswapPins *pins, unsigned int room)
{
    List *list = malloc(sizeof(*list) + room * sizeof(list->regions[0]));

    if (list) {
        list->older = atomic_load(&pins->list);
        list->n = 0;
    }
    return list;
}

/*
 * The list with one more region, in place of those that it covers.  One at the
 * same address that is larger goes on for what is beyond: who uses that memory
 * has it until the others are ended.
 */
static int add_region(MemswapPins *pins, const Region *region)
{
    List *old = atomic_load(&pins->list);
    unsigned int n = old ? old->n : 0;
    List *new = list_new(pins, n + 1);

    if (!new) {
        return -ENOMEM;
    }
    /* the newest first: it is right where others overlap */
    new->regions[new->n++] = *region;
    for (unsigned int i = 0; i < n; i++) {
        const Region *other = &old->regions[i];

        if (other->address != region->address || other->size > region->size) {
            new->regions[new->n] = *other;
            new->regions[new->n++].fresh &= other->address != region->address;
        }
    }
    atomic_store(&pins->list, new);
    return 0;
}

/* The list without some: that at an address, or those that are not fresh. */
static int drop_regions(MemswapPins *pins, bool stale, uint64_t address)
{
    List *old = atomic_load(&pins->list);
    unsigned int n = old ? old->n : 0;
    List *new = list_new(pins, n);

    if (!new) {
        return -ENOMEM;
    }
    for (unsigned int i = 0; i < n; i++) {
        Region *region = &old->regions[i];

        if (stale ? region->fresh : region->address != address) {
            new->regions[new->n++] = *region;
        }
    }
    if (new->n == n) {
        free(new);
    } else {
        atomic_store(&pins->list, new);
    }
    return 0;
}

/* The region that is told of, if it is known as it is. */
static Region *find_known(MemswapPins *pins, const Region *region)
{
    List *list = atomic_load(&pins->list);

    for (unsigned int i = 0; list && i < list->n; i++) {
        Region *other = &list->regions[i];

        if (other->address == region->address) {
            return other->size == region->size &&
                   other->page_size == region->page_size &&
                   other->offset == region->offset &&
                   other->file == region->file ? other : NULL;
        }
    }
    return NULL;
}

int memswap_pins_end_table(MemswapPins *pins, uint64_t guest_address)
{
    return drop_regions(pins, false, guest_address);
}

int memswap_pins_end_others(MemswapPins *pins)
{
    int ret = drop_regions(pins, true, 0);
    List *list = atomic_load(&pins->list);

    for (unsigned int i = 0; list && i < list->n; i++) {
        list->regions[i].fresh = false;
    }
    return ret;
}

int memswap_pins_set_table(MemswapPins *pins, const void *payload,
                           uint64_t size, int table, int channel)
{
    MemswapTableMessage message;
    Region region, *known;
    File *file = NULL;
    int ret = -EINVAL;

    if (size == sizeof(message) && table >= 0) {
        memcpy(&message, payload, sizeof(message));
        ret = message_ok(&message) ?
              find_file(pins, message.file, table, &file) : -EINVAL;
    }
    if (!ret && (message.offset > file->size ||
                 message.size / message.page_size >
                 (file->size - message.offset) / sizeof(uint32_t))) {
        ret = -EINVAL;
    }
    if (!ret) {
        region = (Region) {
            .address = message.guest_address, .size = message.size,
            .page_size = message.page_size, .offset = message.offset,
            .file = file, .fresh = true,
        };
        if (channel >= 0 && pins->channel < 0) {
            pins->channel = channel;
            channel = -1;
        }
        known = find_known(pins, &region);
        if (known) {
            known->fresh = true;
        } else {
            ret = add_region(pins, &region);
        }
    }
    if (table >= 0) {
        close(table);
    }
    if (channel >= 0) {
        close(channel);
    }
    return ret;
}

/* Did a call fail only for now?  Waits, if that is for the channel's sake. */
static bool try_again(int channel, short events)
{
    struct pollfd fd = { .fd = channel, .events = events };

    if (errno == EAGAIN) {
        /* who got it for us may make all descriptors so */
        poll(&fd, 1, -1);
        return true;
    }
    return errno == EINTR;
}

/* One request at a time.  Returns its error. */
static int ask(MemswapPins *pins, const MemswapClientRequest *request)
{
    MemswapClientReply reply;
    ssize_t n;
    int ret = -EPIPE;

    pthread_mutex_lock(&pins->lock);
    do {
        n = send(pins->channel, request, sizeof(*request), MSG_NOSIGNAL);
    } while (n < 0 && try_again(pins->channel, POLLOUT));
    if (n == sizeof(*request)) {
        do {
            n = recv(pins->channel, &reply, sizeof(reply), 0);
        } while (n < 0 && try_again(pins->channel, POLLIN));
        if (n == sizeof(reply) && reply.code == request->code) {
            ret = reply.error;
        }
    }
    pthread_mutex_unlock(&pins->lock);
    return ret;
}

/* Words [first, first + n) of a region. */
typedef struct Words {
    const Region *region;
    _Atomic uint32_t *at;
    uint64_t first, n;
} Words;

/*
 * The next part of [*address, *address + *size) that a table covers.  False at
 * the end.
 */
static bool next_words(MemswapPins *pins, uint64_t *address, uint64_t *size,
                       Words *words)
{
    List *list = pins ? atomic_load(&pins->list) : NULL;

    while (list && *size) {
        const Region *found = NULL;
        uint64_t skip = *size;

        for (unsigned int i = 0; i < list->n && !found; i++) {
            const Region *region = &list->regions[i];

            if (*address >= region->address &&
                *address - region->address < region->size) {
                found = region;
            } else if (region->address > *address &&
                       region->address - *address < skip) {
                skip = region->address - *address;
            }
        }
        if (found) {
            uint64_t offset = *address - found->address;
            uint64_t n = found->size - offset;

            n = n < *size ? n : *size;
            words->region = found;
            words->first = offset / found->page_size;
            words->n = (offset + n - 1) / found->page_size - words->first + 1;
            words->at = found->file->words +
                        found->offset / sizeof(uint32_t) + words->first;
            *address += n;
            *size -= n;
            return true;
        }
        *address += skip;
        *size -= skip;
    }
    return false;
}

static void unpin_words(_Atomic uint32_t *at, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        atomic_fetch_sub(&at[i], 1);
    }
}

/* Is it in, and pinned now? */
static bool try_pin(_Atomic uint32_t *word)
{
    if (atomic_fetch_add(word, 1) & MEMSWAP_CLIENT_IN) {
        return true;
    }
    atomic_fetch_sub(word, 1);
    return false;
}

/* Pin all of them, or none. */
static int pin_words(MemswapPins *pins, const Words *words, uint32_t flags)
{
    uint64_t i = 0;

    while (i < words->n) {
        MemswapClientRequest request = { .code = MEMSWAP_CLIENT_PIN };
        uint64_t out = 0;
        int ret;

        if (try_pin(&words->at[i])) {
            i++;
            continue;
        }
        /* those that are out lie together more often than not */
        do {
            out++;
        } while (i + out < words->n && out < MEMSWAP_CLIENT_MAX_WORDS &&
                 !(atomic_load(&words->at[i + out]) & MEMSWAP_CLIENT_IN));
        request.file = words->region->file->number;
        request.offset = words->region->offset +
                         (words->first + i) * sizeof(uint32_t);
        request.words = out;
        request.flags = flags;
        ret = ask(pins, &request);
        if (ret) {
            unpin_words(words->at, i);
            return ret;
        }
        i += out;
    }
    return 0;
}

void memswap_unpin_guest(MemswapPins *pins, uint64_t address, uint64_t size)
{
    Words words;

    while (next_words(pins, &address, &size, &words)) {
        unpin_words(words.at, words.n);
    }
}

int memswap_pin_guest(MemswapPins *pins, uint64_t address, uint64_t size)
{
    uint64_t at = address, left = size;
    Words words;

    while (next_words(pins, &at, &left, &words)) {
        int ret = pin_words(pins, &words, 0);

        if (ret) {
            uint64_t page = words.region->address +
                            words.first * words.region->page_size;

            /* all that came before this part */
            memswap_unpin_guest(pins, address,
                                page > address ? page - address : 0);
            return ret;
        }
    }
    return 0;
}

/* Note words that are pinned; false for want of memory. */
static bool add_held(MemswapHeldPins *held, const Words *words)
{
    if (held->n == held->room) {
        unsigned int room = held->room ? 2 * held->room : 8;
        MemswapHeldPart *parts = realloc(held->parts, room * sizeof(*parts));

        if (!parts) {
            return false;
        }
        held->parts = parts;
        held->room = room;
    }
    held->parts[held->n++] = (MemswapHeldPart) {
        .words = words->at, .n = words->n,
    };
    return true;
}

static void unpin_held_from(MemswapHeldPins *held, unsigned int first)
{
    while (held->n > first) {
        MemswapHeldPart *part = &held->parts[--held->n];

        unpin_words(part->words, part->n);
    }
}

int memswap_pin_held(MemswapPins *pins, uint64_t address, uint64_t size,
                     uint32_t flags, MemswapHeldPins *held)
{
    unsigned int first = held->n;
    Words words;

    while (next_words(pins, &address, &size, &words)) {
        int ret = pin_words(pins, &words, flags);

        if (!ret && !add_held(held, &words)) {
            unpin_words(words.at, words.n);
            ret = -ENOMEM;
        }
        if (ret) {
            unpin_held_from(held, first);
            return ret;
        }
    }
    return 0;
}

void memswap_unpin_held(MemswapHeldPins *held)
{
    unpin_held_from(held, 0);
}

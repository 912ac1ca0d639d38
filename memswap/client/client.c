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
 * it.  Readers count themselves in before they look for the list: if nobody is
 * counted after it was replaced, nobody has an old one.
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

/* Parts among which to look for a page that is to be asked for already. */
#define LOOK_BACK 64

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
    struct List *older;     /* of who sets tables: to be freed */
    unsigned int n;
    Region regions[];
} List;

struct MemswapPins {
    _Atomic(List *) list;
    _Atomic unsigned int readers;
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

static void free_lists(List *list)
{
    while (list) {
        List *older = list->older;

        free(list);
        list = older;
    }
}

void memswap_pins_free(MemswapPins *pins)
{
    if (!pins) {
        return;
    }
    free_lists(atomic_load(&pins->list));
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

static void set_list(MemswapPins *pins, List *list)
{
    atomic_store(&pins->list, list);
    /* who is counted in after this finds the new one */
    if (!atomic_load(&pins->readers)) {
        free_lists(list->older);
        list->older = NULL;
    }
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
    set_list(pins, new);
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
        set_list(pins, new);
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
static int ask(MemswapPins *pins, MemswapClientRange *ranges, unsigned int n,
               uint32_t flags)
{
    MemswapClientRequest request = {
        .code = MEMSWAP_CLIENT_PIN, .flags = flags,
    };
    struct iovec iov[2] = {
        { .iov_base = &request, .iov_len = sizeof(request) },
        { .iov_base = ranges, .iov_len = n * sizeof(*ranges) },
    };
    struct msghdr packet = { .msg_iov = iov, .msg_iovlen = 2 };
    MemswapClientReply reply;
    ssize_t done;
    int ret = -EPIPE;

    pthread_mutex_lock(&pins->lock);
    do {
        /* all of it, or nothing */
        done = sendmsg(pins->channel, &packet, MSG_NOSIGNAL);
    } while (done < 0 && try_again(pins->channel, POLLOUT));
    if (done > 0) {
        do {
            done = recv(pins->channel, &reply, sizeof(reply), 0);
        } while (done < 0 && try_again(pins->channel, POLLIN));
        if (done == sizeof(reply) && reply.code == request.code) {
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

/* What is returned, and its regions, stay until done_with_list(). */
static const List *use_list(MemswapPins *pins)
{
    if (!pins) {
        return NULL;
    }
    atomic_fetch_add(&pins->readers, 1);
    return atomic_load(&pins->list);
}

static void done_with_list(MemswapPins *pins)
{
    if (pins) {
        atomic_fetch_sub(&pins->readers, 1);
    }
}

/*
 * The next part of [*address, *address + *size) that a table covers.  False at
 * the end.
 */
static bool next_words(const List *list, uint64_t *address, uint64_t *size,
                       Words *words)
{
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

            /* not into what a newer one has */
            n = n < skip ? n : skip;
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

/* Note a word, pinned or not; false for want of memory. */
static bool note(MemswapHeldPins *held, const Words *words, uint64_t i,
                 bool out)
{
    MemswapHeldPart *last = held->n ? &held->parts[held->n - 1] : NULL;
    _Atomic uint32_t *word = &words->at[i];
    uint32_t file = words->region->file->number;

    /* files may be mapped side by side */
    if (last && last->out == out && last->n < MEMSWAP_CLIENT_MAX_WORDS &&
        (_Atomic uint32_t *)last->words + last->n == word &&
        last->file == file) {
        last->n++;
        return true;
    }
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
        .words = (void *)word, .n = 1, .out = out, .file = file,
        .offset = words->region->offset + (words->first + i) * sizeof(*word),
    };
    return true;
}

/*
 * Is it to be asked for already?  Several buffers may be in one page, one after
 * the other most often.  To ask twice is no error, and the guest says how many
 * parts there are: so only the last ones are looked at.
 */
static bool is_noted(const MemswapHeldPins *held, const void *word)
{
    unsigned int first = held->n > LOOK_BACK ? held->n - LOOK_BACK : 0;

    for (unsigned int i = first; i < held->n; i++) {
        const MemswapHeldPart *part = &held->parts[i];

        if (part->out && (uintptr_t)word - (uintptr_t)part->words <
                         part->n * sizeof(uint32_t)) {
            return true;
        }
    }
    return false;
}

/* Pin those that are in, and note all; false for want of memory. */
static bool pin_words(const Words *words, MemswapHeldPins *held)
{
    for (uint64_t i = 0; i < words->n; i++) {
        bool in = try_pin(&words->at[i]);

        if (!in && is_noted(held, (void *)&words->at[i])) {
            continue;
        }
        if (!note(held, words, i, !in)) {
            if (in) {
                unpin_words(&words->at[i], 1);
            }
            return false;
        }
    }
    return true;
}

int memswap_pin_present(MemswapPins *pins, uint64_t address, uint64_t size,
                        MemswapHeldPins *held)
{
    const List *list = use_list(pins);
    Words words;
    int ret = 0;

    while (!ret && next_words(list, &address, &size, &words)) {
        ret = pin_words(&words, held) ? 0 : -ENOMEM;
    }
    done_with_list(pins);
    return ret;
}

/*
 * What is out, from part *@at on, as far as one request can ask for it.
 * Returns the number of ranges, and moves *@at past them.
 */
static unsigned int next_ranges(const MemswapHeldPins *held, unsigned int *at,
                                MemswapClientRange *ranges)
{
    uint32_t words = 0;
    unsigned int n = 0;

    for (; *at < held->n; ++*at) {
        const MemswapHeldPart *part = &held->parts[*at];

        if (!part->out) {
            continue;
        }
        if (part->n > MEMSWAP_CLIENT_MAX_WORDS - words) {
            break;
        }
        words += part->n;
        ranges[n++] = (MemswapClientRange) {
            .file = part->file, .words = part->n, .offset = part->offset,
        };
    }
    return n;
}

/* Ask for what is out, from a part on.  By itself, for its large array. */
__attribute__((noinline))
static int ask_from(MemswapPins *pins, unsigned int first, uint32_t flags,
                    MemswapHeldPins *held)
{
    MemswapClientRange ranges[MEMSWAP_CLIENT_MAX_WORDS];
    unsigned int end = first;
    unsigned int n;

    while ((n = next_ranges(held, &end, ranges))) {
        int ret = ask(pins, ranges, n, flags);

        if (ret) {
            return ret;
        }
        for (; first < end; first++) {
            held->parts[first].out = false;
        }
    }
    return 0;
}

int memswap_pin_absent(MemswapPins *pins, uint32_t flags,
                       MemswapHeldPins *held)
{
    unsigned int i = 0;
    int ret = 0;

    while (i < held->n && !held->parts[i].out) {
        i++;
    }
    if (i < held->n) {
        ret = ask_from(pins, i, flags, held);
    }
    if (ret) {
        memswap_unpin_held(held);
    }
    return ret;
}

void memswap_unpin_held(MemswapHeldPins *held)
{
    while (held->n) {
        const MemswapHeldPart *part = &held->parts[--held->n];

        if (!part->out) {
            unpin_words(part->words, part->n);
        }
    }
}

int memswap_pin_guest(MemswapPins *pins, uint64_t address, uint64_t size)
{
    MemswapHeldPins held = { 0 };
    int ret = memswap_pin_present(pins, address, size, &held);

    if (ret) {
        memswap_unpin_held(&held);
    } else {
        ret = memswap_pin_absent(pins, 0, &held);
    }
    free(held.parts);
    return ret;
}

void memswap_unpin_guest(MemswapPins *pins, uint64_t address, uint64_t size)
{
    const List *list = use_list(pins);
    Words words;

    while (next_words(list, &address, &size, &words)) {
        unpin_words(words.at, words.n);
    }
    done_with_list(pins);
}

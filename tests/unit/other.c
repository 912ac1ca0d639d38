/*
 * Another process that has the guest's RAM mapped
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "other.h"
#include "wrapped.h"

#define FLAG "--other"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

typedef enum Op {
    OP_MAP,         /* with the RAM's descriptor; answers with the address */
    OP_REGISTER,    /* answers with a userfaultfd */
    OP_MAP_AGAIN,   /* and register; answers with the address */
    OP_READ,
    OP_FILL,
    OP_FILL_BY_KERNEL,
    OP_CHECK,       /* answers with the number of words that are wrong */
    OP_STRESS,      /* with the OtherStress's descriptor */
} Op;

typedef struct Order {
    Op op;
    uint64_t page;  /* or a size */
    uint64_t value;
} Order;

/* --- messages ---------------------------------------------------------- */

/* @fd: -1 for none. */
static void message_send(int socket, const void *data, size_t size, int fd)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = { 0 };
    struct iovec part = { .iov_base = (void *)data, .iov_len = size };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
    ssize_t sent;

    if (fd >= 0) {
        struct cmsghdr *header;

        message.msg_control = &control;
        message.msg_controllen = sizeof(control);
        header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &fd, sizeof(fd));
    }
    do {
        sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    g_assert_cmpint(sent, ==, size);
}

/* False at the end; *@fd is -1 if there came none. */
static bool message_receive(int socket, void *data, size_t size, int *fd)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = { 0 };
    struct iovec part = { .iov_base = data, .iov_len = size };
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1,
        .msg_control = &control, .msg_controllen = sizeof(control),
    };
    struct cmsghdr *header;
    ssize_t got;

    do {
        got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    if (got <= 0) {
        return false;
    }
    g_assert_cmpint(got, ==, size);
    header = CMSG_FIRSTHDR(&message);
    *fd = -1;
    if (header && header->cmsg_type == SCM_RIGHTS) {
        memcpy(fd, CMSG_DATA(header), sizeof(*fd));
    }
    return true;
}

/* --- in the other process ---------------------------------------------- */

typedef struct Self {
    int control;
    int ram_fd, uffd, file;
    uint8_t *ram;
    uint64_t size;
    GThread *stress;
    OtherStress *shared;
    uint64_t pages, seed;
} Self;

static uint8_t *map_ram(Self *self)
{
    uint8_t *at = mmap(NULL, self->size, PROT_READ | PROT_WRITE, MAP_SHARED,
                       self->ram_fd, 0);

    g_assert_true(at != MAP_FAILED);
    return at;
}

/* As libvhost-user does, which asks for no features. */
static int open_uffd(void)
{
    struct uffdio_api api = { .api = UFFD_API };
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    if (fd < 0) {
        fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK |
                     UFFD_USER_MODE_ONLY);
    }
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(__real_ioctl(fd, UFFDIO_API, &api), ==, 0);
    return fd;
}

static void register_ram(Self *self, uint8_t *at)
{
    struct uffdio_register args = {
        .range = { .start = (uintptr_t)at, .len = self->size },
        .mode = UFFDIO_REGISTER_MODE_MISSING,
    };

    g_assert_cmpint(__real_ioctl(self->uffd, UFFDIO_REGISTER, &args), ==, 0);
}

static _Atomic uint64_t *page_words(Self *self, uint64_t page)
{
    return (void *)(self->ram + page * PAGE);
}

static void fill_page(Self *self, uint64_t page, uint64_t number)
{
    _Atomic uint64_t *to = page_words(self, page);
    uint64_t words[PAGE / sizeof(uint64_t)];

    page_build(words, number);
    for (unsigned int i = 0; i < G_N_ELEMENTS(words); i++) {
        atomic_store_explicit(&to[i], words[i], memory_order_relaxed);
    }
}

static void fill_by_kernel(Self *self, uint64_t page, uint64_t number)
{
    uint64_t words[PAGE / sizeof(uint64_t)];

    page_build(words, number);
    g_assert_cmpint(pwrite(self->file, words, PAGE, 0), ==, PAGE);
    g_assert_cmpint(syscall(SYS_pread64, self->file, page_words(self, page),
                            PAGE, 0), ==, PAGE);
}

static uint64_t check_page(Self *self, uint64_t page, uint64_t number)
{
    _Atomic uint64_t *from = page_words(self, page);
    uint64_t words[PAGE / sizeof(uint64_t)];
    uint64_t wrong = 0;

    page_build(words, number);
    for (unsigned int i = 0; i < G_N_ELEMENTS(words); i++) {
        wrong += atomic_load_explicit(&from[i], memory_order_relaxed) !=
                 words[i];
    }
    return wrong;
}

typedef struct Counter {
    Self *self;
    unsigned int thread;
    GThread *joined;
} Counter;

static void count_on(Counter *counter, uint64_t page, int file, bool kernel)
{
    Self *self = counter->self;
    unsigned int t = counter->thread;
    _Atomic uint64_t *words = page_words(self, page);
    _Atomic uint64_t *tally = &self->shared->tally[t * self->pages + page];
    uint64_t n = atomic_load(tally);

    atomic_store(&self->shared->intent[t], page + 1);
    /* what was counted before, by this thread alone, must be there */
    if (atomic_fetch_add(&words[OTHER_WORD_THREAD + t], 1) != n) {
        g_error("page %" G_GUINT64_FORMAT ": thread %u lost increments", page,
                t);
    }
    atomic_fetch_add(&words[OTHER_WORD_ALL], 1);
    if (kernel) {
        /* without the C library: nothing for ThreadSanitizer to see */
        n++;
        g_assert_cmpint(pwrite(file, &n, sizeof(n), 0), ==, sizeof(n));
        g_assert_cmpint(syscall(SYS_pread64, file,
                                &words[OTHER_WORD_KERNEL + t], sizeof(n), 0),
                        ==, sizeof(n));
    }
    atomic_fetch_add(tally, 1);
    atomic_store(&self->shared->intent[t], 0);
    atomic_fetch_add_explicit(&self->shared->done, 1, memory_order_relaxed);
}

static gpointer count(gpointer opaque)
{
    Counter *counter = opaque;
    Self *self = counter->self;
    GRand *rand = g_rand_new_with_seed(self->seed + counter->thread);
    int file = memfd_create("file", MFD_CLOEXEC);

    while (!atomic_load(&self->shared->stop)) {
        uint64_t page = g_rand_int_range(rand, 0, self->pages);

        if (g_rand_int_range(rand, 0, 2)) {
            /* some are used much */
            page = page % 64 * 7 % self->pages;
        }
        count_on(counter, page, file, g_rand_int_range(rand, 0, 8) == 0);
    }
    close(file);
    g_rand_free(rand);
    return NULL;
}

/* Of what both processes map. */
static size_t stress_size(uint64_t pages)
{
    return sizeof(OtherStress) + OTHER_THREADS * pages * sizeof(uint64_t);
}

static uint64_t stress(Self *self, int fd, uint64_t pages, uint64_t seed)
{
    size_t size = stress_size(pages);
    Counter counters[OTHER_THREADS];

    self->pages = pages;
    self->seed = seed;
    self->shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                        0);
    g_assert_true(self->shared != MAP_FAILED);
    close(fd);
    for (unsigned int i = 0; i < OTHER_THREADS; i++) {
        counters[i] = (Counter) { .self = self, .thread = i };
        counters[i].joined = g_thread_new("count", count, &counters[i]);
    }
    for (unsigned int i = 0; i < OTHER_THREADS; i++) {
        g_thread_join(counters[i].joined);
    }
    return atomic_load(&self->shared->done);
}

static uint64_t obey(Self *self, const Order *order, int fd, int *answer_fd)
{
    uint8_t *again;

    switch (order->op) {
    case OP_MAP:
        self->ram_fd = fd;
        self->size = order->page;
        self->ram = map_ram(self);
        return (uintptr_t)self->ram;
    case OP_REGISTER:
        self->uffd = open_uffd();
        register_ram(self, self->ram);
        *answer_fd = self->uffd;
        return 0;
    case OP_MAP_AGAIN:
        again = map_ram(self);
        register_ram(self, again);
        self->ram = again;
        return (uintptr_t)again;
    case OP_READ:
        return atomic_load(page_words(self, order->page));
    case OP_FILL:
        fill_page(self, order->page, order->value);
        return 0;
    case OP_FILL_BY_KERNEL:
        fill_by_kernel(self, order->page, order->value);
        return 0;
    case OP_CHECK:
        return check_page(self, order->page, order->value);
    case OP_STRESS:
        return stress(self, fd, order->page, order->value);
    }
    g_assert_not_reached();
}

void other_main(int argc, char **argv)
{
    Self self = { .uffd = -1 };
    Order order;
    int fd;

    if (argc != 3 || strcmp(argv[1], FLAG)) {
        return;
    }
    /* not to be left behind, whatever becomes of the test */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    self.control = atoi(argv[2]);
    self.file = memfd_create("file", MFD_CLOEXEC);
    while (message_receive(self.control, &order, sizeof(order), &fd)) {
        int answer_fd = -1;
        uint64_t answer = obey(&self, &order, fd, &answer_fd);

        message_send(self.control, &answer, sizeof(answer), answer_fd);
    }
    _exit(0);
}

/* --- in the test ------------------------------------------------------- */

static void give_order(Other *other, Op op, uint64_t page, uint64_t value,
                       int fd)
{
    Order order = { .op = op, .page = page, .value = value };

    message_send(other->control, &order, sizeof(order), fd);
}

static uint64_t take_answer(Other *other, int *fd)
{
    struct pollfd pfd = { .fd = other->control, .events = POLLIN };
    uint64_t answer;

    if (poll(&pfd, 1, PATIENCE_US / 1000) != 1 ||
        !message_receive(other->control, &answer, sizeof(answer), fd)) {
        g_error("the other process does not answer");
    }
    return answer;
}

uint64_t other_finish(Other *other)
{
    int fd;

    return take_answer(other, &fd);
}

Other *other_new(Harness *h)
{
    Other *other = g_new0(Other, 1);
    posix_spawn_file_actions_t actions;
    char number[16];
    char *argv[] = { (char *)"/proc/self/exe", (char *)FLAG, number, NULL };
    int sockets[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0,
                               sockets), ==, 0);
    g_assert_cmpint(posix_spawn_file_actions_init(&actions), ==, 0);
    /* the same number: that clears close-on-exec */
    posix_spawn_file_actions_adddup2(&actions, sockets[1], sockets[1]);
    snprintf(number, sizeof(number), "%d", sockets[1]);
    g_assert_cmpint(posix_spawn(&other->pid, argv[0], &actions, NULL, argv,
                                environ), ==, 0);
    posix_spawn_file_actions_destroy(&actions);
    close(sockets[1]);
    other->h = h;
    other->uffd = -1;
    other->control = sockets[0];
    g_assert_cmpuint(h->ram.fd_offset, ==, 0);
    give_order(other, OP_MAP, h->ram.size, 0, h->ram.fd);
    other->base = other_finish(other);
    return other;
}

int other_open_uffd(Other *other)
{
    give_order(other, OP_REGISTER, 0, 0, -1);
    take_answer(other, &other->uffd);
    g_assert_cmpint(other->uffd, >=, 0);
    return other->uffd;
}

void other_add(Other *other)
{
    MemswapRemoteRange range = {
        .host = other->h->ram.host, .size = other->h->ram.size,
        .base = other->base,
    };
    char *error = NULL;

    if (memswap_remote_add(other->h->engine, other->uffd, &range, 1,
                           &other->remote, &error)) {
        g_error("memswap_remote_add: %s", error);
    }
    other->uffd = -1;
}

void other_register(Other *other)
{
    other_open_uffd(other);
    other_add(other);
}

Other *other_expose(Harness *h)
{
    char *error = NULL;
    Other *other;

    if (memswap_block_expose(h->ram.block, &error)) {
        g_error("memswap_block_expose: %s", error);
    }
    other = other_new(h);
    other_register(other);
    return other;
}

void other_map_again(Other *other, uint64_t *base)
{
    give_order(other, OP_MAP_AGAIN, 0, 0, -1);
    *base = other_finish(other);
}

void other_kill(Other *other)
{
    if (other->pid) {
        kill(other->pid, SIGKILL);
        g_assert_cmpint(waitpid(other->pid, NULL, 0), ==, other->pid);
        other->pid = 0;
    }
}

void other_free(Other *other)
{
    other_kill(other);
    if (other->remote) {
        memswap_remote_remove(other->remote);
    }
    if (other->uffd >= 0) {
        close(other->uffd);
    }
    close(other->control);
    g_free(other);
}

void other_conceal(Other *other)
{
    MemswapBlock *block = other->h->ram.block;

    other_free(other);
    memswap_block_conceal(block);
}

uint64_t other_read(Other *other, uint64_t page)
{
    other_begin_read(other, page);
    return other_finish(other);
}

void other_fill(Other *other, uint64_t page, uint64_t number)
{
    other_begin_fill(other, page, number);
    other_finish(other);
}

void other_fill_by_kernel(Other *other, uint64_t page, uint64_t number)
{
    give_order(other, OP_FILL_BY_KERNEL, page, number, -1);
    other_finish(other);
}

void other_check(Other *other, uint64_t page, uint64_t number)
{
    uint64_t wrong;

    give_order(other, OP_CHECK, page, number, -1);
    wrong = other_finish(other);
    if (wrong) {
        g_error("page %" G_GUINT64_FORMAT ", which is to be %"
                G_GUINT64_FORMAT ", has %" G_GUINT64_FORMAT
                " wrong words in the other process", page, number, wrong);
    }
}

void other_begin_read(Other *other, uint64_t page)
{
    give_order(other, OP_READ, page, 0, -1);
}

void other_begin_fill(Other *other, uint64_t page, uint64_t number)
{
    give_order(other, OP_FILL, page, number, -1);
}

void other_check_waits(Other *other)
{
    struct pollfd pfd = { .fd = other->control, .events = POLLIN };

    g_assert_cmpint(poll(&pfd, 1, NOT_YET_US / 1000), ==, 0);
}

OtherStress *other_stress_new(uint64_t pages, int *fd)
{
    size_t size = stress_size(pages);
    OtherStress *stress;

    *fd = memfd_create("stress", MFD_CLOEXEC);
    g_assert_cmpint(ftruncate(*fd, size), ==, 0);
    stress = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    g_assert_true(stress != MAP_FAILED);
    return stress;
}

void other_stress_free(OtherStress *stress, uint64_t pages, int fd)
{
    munmap(stress, stress_size(pages));
    close(fd);
}

void other_begin_stress(Other *other, int fd, uint64_t pages, uint64_t seed)
{
    give_order(other, OP_STRESS, pages, seed, fd);
}

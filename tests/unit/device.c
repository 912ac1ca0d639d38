/*
 * A device process for tests; see device.h
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "device.h"
#include "memswap/client.h"

typedef struct Order {
    uint32_t order;
    uint32_t zero;
    uint64_t page;
    uint64_t n;
} Order;

struct Device {
    Harness *h;
    MemswapClient *client;
    MemswapShared shared;
    const _Atomic uint32_t *words;
    pid_t pid;
    int orders;             /* socket: orders there, results back */
    int channel;            /* our end */
    GThread *server;
};

/* --- in the device process: no GLib ------------------------------------ */

typedef struct Process {
    MemswapPins *pins;
    uint8_t *ram;
    uint64_t size;
    uint64_t random;
    MemswapHeldPins held;
} Process;

/* A few pages, somewhere. */
static void pick(Process *process, uint64_t *page, uint64_t *n)
{
    process->random = process->random * 6364136223846793005ULL + 1;
    *page = (process->random >> 33) % (process->size / PAGE);
    *n = 1 + (process->random >> 20) % 4;
    *n = MIN(*n, process->size / PAGE - *page);
}

/* One request, of several parts. */
static int request(Process *process)
{
    uint64_t page[DEVICE_PARTS], n[DEVICE_PARTS];
    int ret = 0;

    for (unsigned int i = 0; i < DEVICE_PARTS && !ret; i++) {
        pick(process, &page[i], &n[i]);
        ret = memswap_pin_present(process->pins, page[i] * PAGE, n[i] * PAGE,
                                  &process->held);
    }
    ret = ret ?: memswap_pin_absent(process->pins, 0, &process->held);
    for (unsigned int i = 0; i < DEVICE_PARTS && !ret; i++) {
        for (uint64_t k = page[i]; k < page[i] + n[i]; k++) {
            atomic_fetch_add((_Atomic uint64_t *)(process->ram + k * PAGE +
                                                  DEVICE_COUNTER), 1);
        }
    }
    memswap_unpin_held(&process->held);
    return ret;
}

static int64_t churn(Process *process, uint64_t times)
{
    int ret = 0;

    for (uint64_t i = 0; i < times && !ret; i++) {
        ret = request(process);
    }
    return ret;
}

static int64_t obey(Process *process, const Order *order)
{
    uint8_t *at = process->ram + order->page * PAGE;
    uint64_t first;

    switch (order->order) {
    case DEVICE_PIN:
        return memswap_pin_guest(process->pins, order->page * PAGE,
                                 order->n * PAGE);
    case DEVICE_UNPIN:
        memswap_unpin_guest(process->pins, order->page * PAGE,
                            order->n * PAGE);
        return 0;
    case DEVICE_READ:
        memcpy(&first, at, sizeof(first));
        return first;
    case DEVICE_WRITE:
        page_build(at, order->n);
        return 0;
    case DEVICE_CHURN:
        return churn(process, order->n);
    default:
        return -EINVAL;
    }
}

static void run_process(int ram, uint64_t size, uint64_t page_size, int table,
                        int channel, int orders)
{
    MemswapTableMessage message = {
        .size = size, .page_size = page_size,
    };
    Process process = { .size = size, .random = 7 };
    Order order;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    process.ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ram, 0);
    process.pins = memswap_pins_new();
    if (process.ram == MAP_FAILED || !process.pins ||
        memswap_pins_set_table(process.pins, &message, sizeof(message),
                               table, channel)) {
        _exit(1);
    }
    while (read(orders, &order, sizeof(order)) == sizeof(order)) {
        int64_t result = obey(&process, &order);

        if (write(orders, &result, sizeof(result)) != sizeof(result)) {
            break;
        }
    }
    _exit(0);
}

/* --- in the test ------------------------------------------------------- */

static gpointer serve(gpointer opaque)
{
    Device *device = opaque;

    g_assert_cmpint(memswap_client_serve(device->client, device->channel), ==,
                    0);
    return NULL;
}

Device *device_new(Harness *h)
{
    Device *device = g_new0(Device, 1);
    int channel[2], orders[2];

    device->h = h;
    device->client = memswap_client_new(h->engine);
    g_assert_cmpint(memswap_client_share(device->client, h->ram.host,
                                         &device->shared), ==, 0);
    g_assert_true(device->shared.host == h->ram.host);
    device->words = mmap(NULL, h->ram.size / device->shared.page_size *
                         sizeof(uint32_t), PROT_READ, MAP_SHARED,
                         device->shared.fd, 0);
    g_assert_true(device->words != MAP_FAILED);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0,
                               channel), ==, 0);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0,
                               orders), ==, 0);
    device->pid = fork();
    g_assert_cmpint(device->pid, >=, 0);
    if (!device->pid) {
        close(channel[0]);
        close(orders[0]);
        run_process(h->ram.fd, h->ram.size, device->shared.page_size,
                    fcntl(device->shared.fd, F_DUPFD_CLOEXEC, 0), channel[1],
                    orders[1]);
    }
    close(channel[1]);
    close(orders[1]);
    device->channel = channel[0];
    device->orders = orders[0];
    device->server = g_thread_new("server", serve, device);
    return device;
}

void device_order(Device *device, DeviceOrder what, uint64_t page, uint64_t n)
{
    Order order = { .order = what, .page = page, .n = n };

    g_assert_cmpint(write(device->orders, &order, sizeof(order)), ==,
                    sizeof(order));
}

int64_t device_result(Device *device)
{
    int64_t result;

    g_assert_cmpint(read(device->orders, &result, sizeof(result)), ==,
                    sizeof(result));
    return result;
}

int64_t device_do(Device *device, DeviceOrder order, uint64_t page,
                  uint64_t n)
{
    device_order(device, order, page, n);
    return device_result(device);
}

void device_wait_asks(Device *device)
{
    g_autofree char *syscall = g_strdup_printf("/proc/%d/syscall",
                                               device->pid);
    bool asks = false;

    /* that is where the library waits; for orders the device reads */
    while (!asks) {
        g_autofree char *text = NULL;

        if (g_file_get_contents(syscall, &text, NULL, NULL)) {
            asks = atoi(text) == SYS_recvfrom;
        }
        g_usleep(100);
    }
}

uint32_t device_word(Device *device, uint64_t page)
{
    return atomic_load(&device->words[page]);
}

MemswapClient *device_client(Device *device)
{
    return device->client;
}

void device_kill(Device *device)
{
    kill(device->pid, SIGKILL);
    g_assert_cmpint(waitpid(device->pid, NULL, 0), ==, device->pid);
    g_thread_join(device->server);
    munmap((void *)device->words, device->h->ram.size /
           device->shared.page_size * sizeof(uint32_t));
    memswap_client_free(device->client);
    close(device->channel);
    close(device->orders);
    g_free(device);
}

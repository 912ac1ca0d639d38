/*
 * Threads of the tests that may have to wait
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"

struct Task {
    Harness *harness;
    TaskFunction *function;
    uint64_t arg;
    GThread *thread;
    int64_t result;
    _Atomic pid_t tid;
    _Atomic bool done;
};

static gpointer task_thread(gpointer opaque)
{
    Task *task = opaque;

    atomic_store(&task->tid, syscall(SYS_gettid));
    task->result = task->function(task->harness, task->arg);
    atomic_store(&task->done, true);
    return NULL;
}

Task *task_start(Harness *h, TaskFunction *function, uint64_t arg)
{
    Task *task = g_new0(Task, 1);

    task->harness = h;
    task->function = function;
    task->arg = arg;
    task->thread = g_thread_new("task", task_thread, task);
    return task;
}

bool task_done(Task *task)
{
    return atomic_load(&task->done);
}

static bool asleep(pid_t tid)
{
    g_autofree char *path = g_strdup_printf("/proc/self/task/%d/stat", tid);
    g_autofree char *stat = NULL;
    const char *state;

    if (!g_file_get_contents(path, &stat, NULL, NULL)) {
        return true;
    }
    state = strrchr(stat, ')');
    return state && (state[2] == 'S' || state[2] == 'D');
}

void task_wait_asleep(Task *task)
{
    wait_until(task_done(task) ||
               (atomic_load(&task->tid) && asleep(atomic_load(&task->tid))));
}

void task_check_waits(Task *task)
{
    task_wait_asleep(task);
    g_usleep(NOT_YET_US);
    g_assert_false(task_done(task));
}

int64_t task_join(Task *task)
{
    int64_t result;

    wait_until(task_done(task));
    g_thread_join(task->thread);
    result = task->result;
    g_free(task);
    return result;
}

int64_t join_by_hand(Harness *h, Task *task)
{
    wait_until((harness_handle(h), task_done(task)));
    return task_join(task);
}

int64_t task_read(Harness *h, uint64_t page)
{
    return atomic_load((_Atomic uint64_t *)(h->ram.host + page * PAGE));
}

int64_t task_write(Harness *h, uint64_t page)
{
    ram_fill(h, page, 2 * page + 1);
    return 2 * page + 1;
}

int64_t task_pin(Harness *h, uint64_t page)
{
    return memswap_pin(h->engine, h->ram.host + page * PAGE, PAGE);
}

int64_t task_discard(Harness *h, uint64_t page)
{
    return memswap_discard(h->engine, h->ram.host + page * PAGE, PAGE);
}

int64_t task_reclaim(Harness *h, uint64_t bytes)
{
    return memswap_reclaim(h->engine, bytes);
}

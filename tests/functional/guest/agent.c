/*
 * Agent of the test guest: runs the host's commands over a serial port
 *
 * The host sends lines, the agent answers with lines; several commands may
 * run at once:
 *
 *     host                      agent
 *     run ID COMMAND...         ID | a line of its output (stdout, stderr)
 *     in ID TEXT                ID = its exit code, 128 + n if signal n
 *     kill ID
 *
 * "in" gives a running command a line of input, "kill" kills its process
 * group.  On start the agent says "hello": the host waits for that and knows
 * from a second one that the guest was restarted.  IDs are numbers that the
 * host chooses; ID 0 is the agent's own, for complaints.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define MAX_JOBS 32
#define MAX_LINE 4096

/* Collects bytes until they make a line. */
typedef struct LineBuffer {
    char text[MAX_LINE];
    size_t used;
} LineBuffer;

typedef struct Job {
    unsigned int id; /* 0: the slot is free */
    pid_t pid;
    int in;          /* the command's standard input */
    int out;         /* its standard output and error */
    LineBuffer line;
} Job;

static int port;
static LineBuffer request;
static Job jobs[MAX_JOBS];

__attribute__((format(printf, 1, 2)))
static void say(const char *format, ...)
{
    char text[MAX_LINE + 64];
    va_list ap;
    int size;

    va_start(ap, format);
    size = vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    for (int done = 0; done < size; ) {
        ssize_t n = write(port, text + done, size - done);

        if (n < 0 && errno != EINTR) {
            return;
        }
        done += n > 0 ? n : 0;
    }
}

static Job *job_find(unsigned int id)
{
    for (int i = 0; i < MAX_JOBS; i++) {
        if (jobs[i].id == id) {
            return &jobs[i];
        }
    }
    return NULL;
}

static void job_run(unsigned int id, const char *command)
{
    Job *job = job_find(0);
    int in[2], out[2];

    if (!job || pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC)) {
        say("%u = 127\n", id);
        return;
    }
    job->pid = fork();
    if (job->pid == 0) {
        setsid();
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        dup2(out[1], STDERR_FILENO);
        execl("/bin/sh", "sh", "-c", command, NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    if (job->pid < 0) {
        close(in[1]);
        close(out[0]);
        say("%u = 127\n", id);
        return;
    }
    job->id = id;
    job->in = in[1];
    job->out = out[0];
    job->line.used = 0;
}

static void job_say_line(Job *job)
{
    say("%u | %.*s\n", job->id, (int)job->line.used, job->line.text);
    job->line.used = 0;
}

/* There is output, or the last writer has gone. */
static void job_read(Job *job)
{
    char bytes[1024];
    ssize_t n = read(job->out, bytes, sizeof(bytes));
    int status, code;

    for (ssize_t i = 0; i < n; i++) {
        if (bytes[i] == '\n') {
            job_say_line(job);
        } else {
            job->line.text[job->line.used++] = bytes[i];
            if (job->line.used == MAX_LINE) {
                job_say_line(job);
            }
        }
    }
    if (n > 0 || (n < 0 && errno == EINTR)) {
        return;
    }
    if (job->line.used) {
        job_say_line(job);
    }
    while (waitpid(job->pid, &status, 0) < 0 && errno == EINTR) {
        continue;
    }
    code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    say("%u = %d\n", job->id, code);
    close(job->in);
    close(job->out);
    job->id = 0;
}

static void job_input(Job *job, const char *text)
{
    /* A command that has closed its input is about to end: no complaint. */
    dprintf(job->in, "%s\n", text);
}

static void obey(char *line)
{
    char verb[8];
    unsigned int id;
    int length = 0;
    Job *job;

    if (sscanf(line, "%7s %u%n", verb, &id, &length) != 2 || id == 0) {
        say("0 | not understood: %s\n", line);
        return;
    }
    line += length;
    line += *line == ' ';
    if (!strcmp(verb, "run")) {
        job_run(id, line);
        return;
    }
    job = job_find(id);
    if (!job) {
        return; /* it ended while the line was on its way */
    }
    if (!strcmp(verb, "in")) {
        job_input(job, line);
    } else if (!strcmp(verb, "kill")) {
        kill(-job->pid, SIGKILL);
    }
}

static void port_read(void)
{
    char bytes[256];
    ssize_t n = read(port, bytes, sizeof(bytes));

    for (ssize_t i = 0; i < n; i++) {
        if (bytes[i] != '\n') {
            if (request.used < MAX_LINE - 1) {
                request.text[request.used++] = bytes[i];
            }
            continue;
        }
        request.text[request.used] = '\0';
        request.used = 0;
        obey(request.text);
    }
}

static bool port_open(const char *path)
{
    struct termios mode;

    port = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (port < 0 || tcgetattr(port, &mode)) {
        return false;
    }
    cfmakeraw(&mode);
    cfsetspeed(&mode, B115200);
    mode.c_cflag |= CLOCAL;
    return tcsetattr(port, TCSAFLUSH, &mode) == 0;
}

int main(int argc, char **argv)
{
    struct pollfd polled[MAX_JOBS + 1];

    if (argc != 2 || !port_open(argv[1])) {
        fprintf(stderr, "agent: give it a serial port\n");
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    say("hello\n");
    for (;;) {
        polled[MAX_JOBS] = (struct pollfd){ .fd = port, .events = POLLIN };
        for (int i = 0; i < MAX_JOBS; i++) {
            polled[i] = (struct pollfd){
                .fd = jobs[i].id ? jobs[i].out : -1, .events = POLLIN,
            };
        }
        if (poll(polled, MAX_JOBS + 1, -1) < 0) {
            continue;
        }
        for (int i = 0; i < MAX_JOBS; i++) {
            if (polled[i].fd >= 0 && polled[i].revents) {
                job_read(&jobs[i]);
            }
        }
        if (polled[MAX_JOBS].revents) {
            port_read();
        }
    }
}

# SPDX-License-Identifier: GPL-2.0-or-later
"""One run of the touch program, on one of its backends.

Each side is told the same size, pattern and seed, so that it touches the same
pages in the same order, and has the same bytes of RAM resident.  Both run in
a memory control group, so that charging costs the same; the kernel's limit
is set on it, memswap's isn't.
"""

import ctypes
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field, replace

from . import swap
from .cgroup import Cgroup
from .machine import Unable, uninterrupted
from .side import Killable, OutOfMemory, kernel_seconds

PR_SET_PDEATHSIG = 1
# How long one phase may take.
TIMEOUT = 600
THP = '/sys/kernel/mm/transparent_hugepage/enabled'
# Of the RAM, that the kernel's page tables take.
PAGE_TABLES = 512
# Hugepages that a fill may need before an eviction gives one back.
SPARE_HUGEPAGES = 16
# By how much a group's limit is lowered at once while the program runs.
STEP = 16 << 20

libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Work:
    """What is touched and how; arguments of the touch program."""
    size: int = 1 << 30
    resident: float = 0.5       # of the size; 1: all of it, no pressure
    pattern: str = 'random'
    threads: int = 1
    write_percent: int = 25
    data: str = 'half'
    syscall: bool = False
    seconds: float = 5
    settle_seconds: float = 0   # touch nothing after the fill
    warmup_seconds: float = 10  # or until each page was touched, mostly
    whole_warmup: bool = False  # all of that, to let huge pages be made
    seed: int = 1
    more: tuple = ()            # further arguments

    @property
    def limit(self):
        return int(self.size * self.resident)

    def shortened(self):
        """For bench-quick."""
        return replace(self, seconds=2, warmup_seconds=self.warmup_seconds
                       if self.whole_warmup else 4)

    def lasting(self, seconds):
        return replace(self, seconds=seconds)

    def arguments(self, corpus):
        arguments = ['--size', str(self.size), '--pattern', self.pattern,
                     '--threads', str(self.threads), '--write-percent',
                     str(self.write_percent), '--data', self.data,
                     '--seconds', str(self.seconds), '--settle-seconds',
                     str(self.settle_seconds), '--warmup-seconds',
                     str(self.warmup_seconds), '--seed', str(self.seed),
                     *self.more]
        if self.whole_warmup:
            arguments += ['--warmup-touches', str(2 ** 31 - 1)]
        if self.data == 'real':
            arguments += ['--corpus', corpus()]
        if self.syscall:
            arguments += ['--syscall']
        return arguments


class Touch:
    """The program, stepped from phase to phase."""

    def __init__(self, program, arguments, cgroup):
        def prepare():
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            with open(cgroup.procs, 'w', encoding='ascii') as file:
                file.write(str(os.getpid()))
        # pylint: disable=consider-using-with,subprocess-popen-preexec-fn
        self.process = subprocess.Popen(
            [program, '--step', *arguments], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True, preexec_fn=prepare)
        self.cgroup = cgroup
        self.limit = None           # of the group, while it is lowered
        self.goal = None
        self.beyond = 0             # what it needs beyond RAM

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with uninterrupted():
            self.process.kill()
            self.process.communicate()

    def squeeze(self, size):
        """So much RAM may be resident from now on, or soon."""
        self.goal = size + self.beyond
        usage = self.cgroup.usage()
        if self.goal >= usage:
            self.limit = self.goal
            self.cgroup.limit(self.goal)
        else:
            self.limit = usage

    def lower(self):
        """A bit nearer to what it was told."""
        if self.limit == self.goal:
            return
        limit = max(self.goal, self.limit - STEP)
        try:
            self.cgroup.limit(limit)
        except Unable:
            return                  # not so much at once; it goes on
        self.limit = limit

    def line(self):
        """The line that ends a phase."""
        text = self.any_line()
        while text.startswith('limit '):
            self.squeeze(int(text.split()[1]))
            self.go()
            text = self.any_line()
        return text

    def any_line(self):
        end = time.monotonic() + TIMEOUT
        ready = []
        while not ready and time.monotonic() < end:
            ready = self.cgroup.tend(self.process.stdout)
            self.lower()
        text = self.process.stdout.readline() if ready else b''
        if not text:
            self.process.kill()
            why = self.process.communicate()[1].decode(errors='replace')
            if not ready:
                why = f'nothing heard for {TIMEOUT} s {why}'
            if self.cgroup.oom_kills():
                raise OutOfMemory('killed for want of memory')
            raise Unable(why.strip() or 'touch: it died of signal '
                         f'{-self.process.returncode}')
        return text.decode()

    def go(self):
        self.process.stdin.write(b'go\n')
        self.process.stdin.flush()


@dataclass
class Side(Killable):
    """Who keeps the RAM within its limit."""
    name: str
    backend: str
    arguments: tuple = ()
    work: dict = field(default_factory=dict)    # differs for this side
    hugepages: bool = False
    limited: bool = False       # by the control group
    swap: str = ''              # '', 'file', or zram's algorithm
    page_cluster: int = 0

    @property
    def what(self):
        """What makes it another one than those of the same name."""
        return f'{self.name}, page-cluster {self.page_cluster}'

    def make_swap(self, context, size):
        if not self.swap:
            return None
        swap.prepare(context.machine, self.page_cluster)
        if self.swap == 'file':
            return swap.File(context.machine, context.directory, size)
        return swap.Zram(context.machine, self.swap, size)

    def run_once(self, context, work):
        work = Work(**{**work.__dict__, **self.work})
        arguments = [*work.arguments(context.corpus), '--backend',
                     self.backend, '--limit', str(work.limit),
                     *self.arguments]
        if self.backend == 'memswap':
            for setting in context.engine:
                arguments += ['--engine', setting]
        mark = context.machine.mark()
        try:
            if '--thp' in self.arguments:
                context.machine.set(THP, 'madvise')
            if self.hugepages:
                context.machine.add_hugepages(
                    (work.limit >> 21) + SPARE_HUGEPAGES)
            store = self.make_swap(context, work.size)
            cgroup = Cgroup(context.machine)
            with Touch(context.program, arguments, cgroup) as touch:
                return self.step(touch, work, store)
        finally:
            context.machine.undo(mark)

    def step(self, touch, work, store):
        touch.line()
        # What the program needs beyond RAM comes on top, and is locked.
        touch.beyond = touch.cgroup.usage() + work.size // PAGE_TABLES
        if self.limited:
            touch.cgroup.limit(work.limit + touch.beyond)
        touch.go()
        warm = int(touch.line().split()[1])
        before = kernel_seconds()
        touch.go()
        figures = json.loads(touch.line())
        figures['kernel'] = kernel_seconds() - before
        figures['warm_resident'] = warm
        if store:
            figures['pool_bytes'] = store.pool_bytes()
        figures['memory'] = touch.cgroup.usage() + (
            store.pool_bytes() if store else 0)
        seconds = figures['user'] + figures['system'] + figures['kernel']
        figures['cpu'] = seconds * 1e6 / figures['touches']
        figures['cpu_share'] = seconds / figures['seconds']
        figures['background_share'] = \
            figures['background'] / figures['seconds']
        if 'stall_ns' in figures:
            figures['stall'] = figures['stall_ns'] / 1e9 / figures['seconds']
        if touch.cgroup.waits:
            print(f'{self.name}: {touch.cgroup.waits} times nothing to '
                  'reclaim', flush=True)
        touch.go()
        if touch.process.wait(TIMEOUT) and not figures['wrong']:
            raise Unable(touch.process.stderr.read().decode().strip())
        time.sleep(0.1)
        return figures


def memswap(*arguments, **more):
    return Side('memswap', 'memswap', arguments, **more)


def zram(algorithm='lz4', page_cluster=0, thp=False):
    """The kernel: a limited control group, swap on zram."""
    return Side(f'zram-{algorithm}' + ('-thp' if thp else ''), 'plain',
                ('--thp',) if thp else (), limited=True, swap=algorithm,
                page_cluster=page_cluster)


def swapfile(page_cluster=0):
    return Side('swapfile', 'plain', limited=True, swap='file',
                page_cluster=page_cluster)


def no_limit(thp=False):
    return Side('no-limit' + ('-thp' if thp else ''), 'plain',
                ('--thp',) if thp else ())


def handler_thread():
    return Side('handler-thread', 'handler-thread')

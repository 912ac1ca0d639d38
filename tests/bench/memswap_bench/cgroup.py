# SPDX-License-Identifier: GPL-2.0-or-later
"""A memory control group, of version 1 or 2."""

import os
import select

from .machine import Unable, read, write

# Seconds.
TEND_EVERY = 0.1
PAGE = 4096
# Bytes; a group that grows meanwhile has to give more than it was asked for.
RECLAIM_STEP = 2 << 20


def find():
    """Where the memory controller is: (directory, version)."""
    with open('/proc/self/mounts', encoding='utf-8') as file:
        mounts = [line.split() for line in file]
    for _, where, kind, options, *_ in mounts:
        if kind == 'cgroup' and 'memory' in options.split(','):
            return where, 1
    for _, where, kind, *_ in mounts:
        if kind == 'cgroup2' and 'memory' in read(
                os.path.join(where, 'cgroup.controllers')).split():
            return where, 2
    raise Unable('there is no memory control group')


class Cgroup:
    """A new group, removed when the machine is restored.

    Reclaim in a group decides by statistics whether active pages have to
    become inactive ones.  By itself the kernel adds them up every other
    second, and on a busy machine later.  When the inactive pages are used up
    in between, reclaim finds nothing to take and deactivates nothing: the
    group is killed for want of memory although swap has room.  Lists of huge
    pages, as of QEMU's default RAM, are used up in no time.

    So who runs something in the group calls tend() all the time.  It has the
    statistics added up; and with version 1 nothing is killed: who finds no
    memory waits until tend() did so, and tries again.
    """

    def __init__(self, machine):
        root, self.version = find()
        self.machine = machine
        self.stalls = None          # see watch_pressure()
        if self.version == 2:
            control = os.path.join(root, 'cgroup.subtree_control')
            if 'memory' not in read(control).split():
                machine.note('set', control, '-memory')
                write(control, '+memory')
        self.path = os.path.join(root, f'memswap-bench-{os.getpid()}')
        machine.make_directory(self.path)
        # Who writes its process id to all of these is watched as well.
        self.members = [self.procs]
        self.waits = 0              # for memory, that tend() ended
        self.waiting = None         # can be read when somebody waits
        if self.version == 1:
            self.let_wait()

    def let_wait(self):
        """Let who finds no memory wait, not be killed, and be told."""
        write(self.file('memory.oom_control'), 1)
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # pylint: disable=consider-using-with
        self.waiting = open(event, 'rb', buffering=0)
        with open(self.file('memory.oom_control'), encoding='ascii') as oom:
            write(self.file('cgroup.event_control'),
                  f'{event} {oom.fileno()}')

    def file(self, name):
        return os.path.join(self.path, name)

    @property
    def procs(self):
        """Who writes its process id here is in the group from then on."""
        return self.file('cgroup.procs')

    def watch_pressure(self):
        """Have stalled() work, for members to come.

        Groups of version 1 have no such account; one of version 2 without any
        controller has.
        """
        if self.version == 2:
            self.stalls = self.file('memory.pressure')
        else:
            with open('/proc/self/mounts', encoding='utf-8') as file:
                mounts = [line.split() for line in file]
            root = next((where for _, where, kind, *_ in mounts
                         if kind == 'cgroup2'), None)
            if not root:
                raise Unable('there are no control groups of version 2')
            path = os.path.join(root, os.path.basename(self.path))
            self.machine.make_directory(path)
            self.stalls = os.path.join(path, 'memory.pressure')
            self.members.append(os.path.join(path, 'cgroup.procs'))
        if not os.path.exists(self.stalls):
            raise Unable('the kernel does not account for pressure: boot it '
                         'with psi=1')

    def stalled(self):
        """Microseconds in which some of the group waited for memory."""
        return int(read(self.stalls).split()[4].removeprefix('total='))

    def counts(self, name):
        """What a file of the group's says, by name."""
        with open(self.file(name), encoding='ascii') as file:
            return {key: int(value) for key, value in map(str.split, file)}

    def usage(self):
        """Bytes charged: RAM, page tables, everything."""
        return int(read(self.file('memory.usage_in_bytes'
                                  if self.version == 1 else
                                  'memory.current')))

    def limit(self, size):
        write(self.file('memory.limit_in_bytes' if self.version == 1
                        else 'memory.max'), size)

    def reclaim(self, size):
        """Have so much taken out, or what can be without much ado.

        With version 2 it needs Linux 5.19.
        """
        while size > 0:
            step = min(size, RECLAIM_STEP)
            size -= step
            try:
                if self.version == 2:
                    write(self.file('memory.reclaim'), step)
                else:
                    # in force only once there is no more than that
                    self.limit(max(self.usage() - step, PAGE))
            except Unable:
                break               # it was not all to be had
        if self.version == 1:
            self.limit(-1)

    def tend(self, *files):
        """Wait a moment, or until one of the files can be read.

        Returns which can.
        """
        watched = [*files, self.waiting] if self.waiting else files
        ready, _, _ = select.select(watched, [], [], TEND_EVERY)
        # Reading them makes the kernel add them up.
        read(self.file('memory.stat'))
        if self.waiting in ready:
            self.waiting.read(8)
            self.waits += 1
        # Of several that wait only the first is told of.
        if self.waiting and self.counts('memory.oom_control')['under_oom']:
            # A page more wakes who waits; writing the same limit doesn't.
            path = self.file('memory.limit_in_bytes')
            write(path, int(read(path)) + PAGE)
        return [file for file in files if file in ready]

    def oom_kills(self):
        name = 'memory.oom_control' if self.version == 1 else 'memory.events'
        return self.counts(name).get('oom_kill', 0)

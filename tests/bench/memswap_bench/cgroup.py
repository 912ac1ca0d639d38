# SPDX-License-Identifier: GPL-2.0-or-later
"""A memory control group, of version 1 or 2."""

import os

from .machine import Unable, read, write


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
    """A new group, removed when the machine is restored."""

    def __init__(self, machine):
        root, self.version = find()
        if self.version == 2:
            control = os.path.join(root, 'cgroup.subtree_control')
            if 'memory' not in read(control).split():
                machine.note('set', control, '-memory')
                write(control, '+memory')
        self.path = os.path.join(root, f'memswap-bench-{os.getpid()}')
        machine.make_directory(self.path)

    def file(self, name):
        return os.path.join(self.path, name)

    @property
    def procs(self):
        """Who writes its process id here is in the group from then on."""
        return self.file('cgroup.procs')

    def usage(self):
        """Bytes charged: RAM, page tables, everything."""
        return int(read(self.file('memory.usage_in_bytes'
                                  if self.version == 1 else
                                  'memory.current')))

    def limit(self, size):
        write(self.file('memory.limit_in_bytes' if self.version == 1
                        else 'memory.max'), size)

    def refresh_statistics(self):
        """Make the kernel add up its statistics of this group.

        Reclaim in the group decides by them whether active pages have to
        become inactive ones.  By itself the kernel adds them up every other
        second, and on a busy machine later: then reclaim finds nothing
        inactive, deactivates nothing, and the group is killed for want of
        memory although swap has room.
        """
        read(self.file('memory.stat'))

    def oom_kills(self):
        name = 'memory.oom_control' if self.version == 1 else 'memory.events'
        with open(self.file(name), encoding='ascii') as file:
            counts = dict(line.split() for line in file)
        return int(counts.get('oom_kill', 0))

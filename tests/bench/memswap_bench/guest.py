# SPDX-License-Identifier: GPL-2.0-or-later
"""One run of a whole QEMU with the test guest.

Each side boots the same guest and does the same work in it, in a memory
control group of its own.  memswap holds guest RAM to its limit, and QEMU
beyond that to none.  The kernel's side holds the group to the same guest RAM
plus what QEMU needs beyond it: as much as was charged beyond RAM at the end
of the same work with no limit at all, RAM in 4 KiB pages.  But the kernel
swaps what QEMU needs beyond RAM as well, and would have more guest RAM
resident instead: so the group's limit is lowered until guest RAM has what it
may have on either side.
"""

import os
import sys
import threading
import time
from dataclasses import dataclass

from . import swap
from .cgroup import Cgroup
from .machine import Unable
from .side import TICKS, Killable, OutOfMemory, kernel_seconds

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(
    __file__)), '..', '..', 'functional'))
# pylint: disable=wrong-import-position
from memswap_guest import GuestError  # noqa: E402
from memswap_qmp import QMPClosed  # noqa: E402
from memswap_vm import GUEST, MIB, QEMU, VM, VMError  # noqa: E402

BOOT_TIMEOUT = 300
PAGE = 4096
# Seconds; each look reads all page tables of guest RAM, which takes some ms.
LOOK_EVERY = 1
# By how many bytes a group's limit is lowered at once.
STEP = 2 << 20
# Of the group's limit: from here on it is what holds guest RAM back.
NEARLY = 0.98
# Times what may be resident: the comparison isn't fair any more.
TOO_MUCH = 1.05
# Joins the control group, then becomes what follows.
JOIN = 'echo $$ > "$0" && exec "$@"'


class Keeper(threading.Thread):
    """Looks after the control group while QEMU runs in it."""

    def __init__(self, cgroup):
        super().__init__(daemon=True)
        self.cgroup = cgroup
        self.ended = threading.Event()
        self.steer = None

    def run(self):
        while not self.ended.is_set():
            self.cgroup.tend()
            if self.steer:
                try:
                    self.steer()
                except (OSError, Unable):
                    continue        # it ends, or can't free so much at once

    def stop(self):
        self.ended.set()
        self.join()


class Steering:
    """Sets the group's limit so that so much guest RAM is resident.

    Called each time that the group was tended.  Begins with the limit that an
    earlier run of the same work ended with, or else, as the kernel swaps about
    half of what QEMU needs beyond RAM, with that: a short run would end before
    the limit is where it has to be.
    """

    def __init__(self, cgroup, target, beyond, earlier):
        self.cgroup = cgroup
        self.target = target
        self.most = target + beyond
        self.limit = self.goal = earlier or target + beyond // 2
        self.looked = time.monotonic()
        self.seen = []              # (time, bytes of guest RAM resident)
        self.resident = None        # set once QEMU runs
        cgroup.limit(self.limit)

    def look(self):
        """Set the goal."""
        resident = self.resident()
        self.seen.append((self.looked, resident))
        excess = resident - self.target
        if excess < 0 and self.cgroup.usage() < self.limit * NEARLY:
            return                  # it doesn't want more
        self.goal = min(self.most, self.limit - excess // PAGE * PAGE)

    def mean(self, begin):
        """Bytes of guest RAM that were resident since then; None: not seen."""
        seen = [resident for when, resident in self.seen if when >= begin]
        return sum(seen) // len(seen) if seen else None

    def __call__(self):
        now = time.monotonic()
        if now - self.looked > LOOK_EVERY:
            self.looked = now
            self.look()
        if self.limit != self.goal:
            # A little at a time: nobody tends the group while it gives.
            limit = max(self.goal, self.limit - STEP)
            self.cgroup.limit(limit)
            self.limit = limit


class Meter:
    """What the work takes between start() and stop().

    cpu_seconds: of QEMU and of the kernel's memory management; stall: the
    part of the time that memswap held somebody back.
    """

    def __init__(self, vm, memswapped):
        self.vm = vm
        self.memswapped = memswapped
        self.before = None
        self.figures = {}

    def cpu_seconds(self):
        with open(f'/proc/{self.vm.pid}/stat', encoding='ascii') as file:
            fields = file.read().rpartition(')')[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS + kernel_seconds()

    def stalled(self):
        if not self.memswapped:
            return 0
        return self.vm.stats(oob=True)['reclaim']['stall-ns'] / 1e9

    def now(self):
        return time.monotonic(), self.cpu_seconds(), self.stalled()

    def start(self):
        self.before = self.now()

    def stop(self):
        wall, cpu, stalled = (after - before for after, before
                              in zip(self.now(), self.before))
        self.figures['cpu_seconds'] = cpu
        if self.memswapped:
            self.figures['stall'] = stalled / wall


def mapped_resident(pid, begin, size):
    """Bytes of a part of the address space that are in memory, by smaps."""
    end = begin + size
    resident, inside = 0, False
    with open(f'/proc/{pid}/smaps', encoding='ascii') as file:
        for line in file:
            name, *values = line.split()
            if '-' in name:
                first, last = (int(part, 16) for part in name.split('-'))
                inside = begin <= first and last <= end
            elif inside and name == 'Rss:':
                resident += int(values[0]) * 1024
    return resident


@dataclass
class Side(Killable):
    """Who keeps guest RAM within its limit.

    The work that it is given has name, needs_key (the same for works that
    need the same), memory (bytes of guest RAM), args (more of QEMU's
    arguments), limit(needs) (bytes of guest RAM that may be resident; needs
    is what measure_needs() returns), and run(vm, meter) that returns figures
    by metric.
    """
    name: str
    memswap: bool = False
    limited: bool = True        # or else no limit, or one as large as RAM
    memfd: bool = False         # RAM is a memfd, as memswap has it
    swap: str = ''              # zram's algorithm
    page_cluster: int = 0

    def run_once(self, context, work):
        needs = measure_needs(context, work) if self.limited else None
        limit = work.limit(needs) if self.limited else work.memory
        mark = context.machine.mark()
        try:
            store = None
            if self.swap:
                swap.prepare(context.machine, self.page_cluster)
                store = swap.Zram(context.machine, self.swap, work.memory)
            cgroup = Cgroup(context.machine)
            keeper = Keeper(cgroup)
            steering = None
            if self.swap:
                steering = Steering(cgroup, limit, needs['beyond'],
                                    context.limits.get(work.name))
            vm = self.make_vm(context, work, cgroup, limit)
            figures = self.step(vm, keeper, steering, store, work)
            if steering:
                context.limits[work.name] = steering.limit
            figures['waits'] = cgroup.waits
            self.tell(work, figures, limit if self.limited else None)
            return figures
        finally:
            context.machine.undo(mark)

    def make_vm(self, context, work, cgroup, limit):
        if not os.path.exists(QEMU):
            raise Unable('QEMU is not built: make')
        if not os.path.exists(os.path.join(GUEST, 'vmlinuz')):
            raise Unable('there is no test guest: make guest')
        args = list(work.args)
        if self.memfd:
            args += ['-object', 'memory-backend-memfd,id=ram,share=on,size='
                     f'{work.memory}', '-machine', 'memory-backend=ram']
        return VM(f'bench-{self.name}', memory=work.memory, args=args,
                  limit=limit if self.memswap else None,
                  memswap=','.join(context.memswap),
                  prefix=('sh', '-c', JOIN, cgroup.procs))

    def step(self, vm, keeper, steering, store, work):
        keeper.start()
        try:
            vm.start(BOOT_TIMEOUT)
            # It has found the memfds; more samples would take CPU time.
            vm.sampler.stop()
            resident = self.find_ram(vm, work)
            if steering:
                steering.resident = resident
                keeper.steer = steering
            meter = Meter(vm, self.memswap)
            figures = {**work.run(vm, meter), **meter.figures}
            if 'touches' in figures:
                figures['cpu'] = \
                    figures['cpu_seconds'] * 1e6 / figures['touches']
            figures.update(self.look(vm, keeper.cgroup, store, resident))
            # At the end it is less than while the work ran.
            mean = steering and steering.mean(meter.before[0])
            figures['resident'] = mean or figures['resident']
        except (GuestError, QMPClosed, VMError) as error:
            if keeper.cgroup.oom_kills():
                raise OutOfMemory('killed for want of memory') from error
            raise Unable(f'{error} {vm.stderr()}') from error
        finally:
            keeper.stop()
            vm.kill()
        return figures

    def find_ram(self, vm, work):
        """A function that tells how much of guest RAM is in memory."""
        if self.memswap or self.memfd:
            return vm.sampler.sample
        address = int(vm.qmp.hmp('gpa2hva 0').split()[-1], 16)
        pid = vm.pid
        return lambda: mapped_resident(pid, address, work.memory)

    def look(self, vm, cgroup, store, resident):
        """Where the memory is."""
        usage = cgroup.usage()
        figures = {'memory': usage, 'resident': resident()}
        figures['beyond'] = usage - figures['resident']
        if self.memswap:
            stats = vm.stats()
            figures['pool_bytes'] = stats['pool']['bytes']
            figures['claimed'] = stats['memory']['resident']
            figures['evictions'] = stats['reclaim']['evictions']
            if not self.limited and figures['evictions']:
                raise Unable('there was pressure: nothing to compare')
        elif store:
            figures['pool_bytes'] = store.pool_bytes()
            figures['memory'] += figures['pool_bytes']
        return figures

    def tell(self, work, figures, limit):
        """Who is within which limit, for who reads along."""
        parts = [f'RAM resident {figures["resident"] / MIB:.0f} of '
                 f'{work.memory / MIB:.0f} MiB']
        if 'claimed' in figures:
            parts.append(f'(query-memswap: {figures["claimed"] / MIB:.0f})')
        parts.append(f'beyond RAM {figures["beyond"] / MIB:.0f} MiB')
        if figures['waits']:
            parts.append(f'{figures["waits"]} times nothing to reclaim')
        if 'pool_bytes' in figures:
            parts.append(f'pool {figures["pool_bytes"] / MIB:.0f} MiB' +
                         (' of these' if self.memswap else ''))
        print(f'{work.name}: {self.name}: {", ".join(parts)}, '
              f'CPU {figures["cpu_seconds"]:.1f} s', flush=True)
        if limit and figures['resident'] > limit * TOO_MUCH:
            print(f'{work.name}: {self.name}: more is resident than the '
                  f'{limit / MIB:.0f} MiB that may be', flush=True)


def memswap(limited=True):
    return Side('memswap', memswap=True, limited=limited)


def zram(page_cluster=0, algorithm='lz4'):
    """The kernel: a limited control group, swap on zram."""
    return Side(f'zram-{algorithm}', swap=algorithm,
                page_cluster=page_cluster)


def memfd():
    """No limit; RAM of the kind that memswap has."""
    return Side('memfd', limited=False, memfd=True)


def default_ram():
    """No limit; the RAM that QEMU has by default."""
    return Side('default-ram', limited=False)


def measure_needs(context, work):
    """What the work needs without a limit, in bytes; measured once.

    beyond: by QEMU, beyond guest RAM, page tables included; working_set: of
    guest RAM.
    """
    needs = context.needs.get(work.needs_key)
    if not needs:
        figures = memfd().run(context, work)
        needs = context.needs[work.needs_key] = {
            'beyond': figures['beyond'], 'working_set': figures['resident']}
        print(f'{work.name}: without a limit QEMU needs '
              f'{needs["working_set"] / MIB:.0f} MiB of guest RAM and '
              f'{needs["beyond"] / MIB:.0f} MiB beyond it', flush=True)
    return needs

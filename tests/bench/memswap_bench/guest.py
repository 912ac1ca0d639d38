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

import contextlib
import os
import sys
import threading
import time
from dataclasses import dataclass

from . import swap
from .cgroup import Cgroup
from .machine import Unable, uninterrupted
from .side import TICKS, Killable, OutOfMemory, kernel_seconds

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(
    __file__)), '..', '..', 'functional'))
# pylint: disable=wrong-import-position
from memswap_guest import GuestError  # noqa: E402
from memswap_qmp import QMPClosed, QMPError  # noqa: E402
from memswap_vm import BUILD, GUEST, MIB, QEMU, VM, VMError  # noqa: E402

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
# Joins control groups, then becomes what follows.
JOIN = 'for each in $0; do echo $$ > "$each" || exit 1; done; exec "$@"'


class Watch:
    """What a function returned, once a LOOK_EVERY."""

    def __init__(self, function):
        self.function = function
        self.looked = 0
        self.seen = []              # (time, what it was)

    def look(self):
        """To be called often."""
        now = time.monotonic()
        if now - self.looked > LOOK_EVERY:
            self.looked = now
            self.seen.append((now, self.function()))

    def mean(self, begin, end):
        """Its mean between two times; None: it was not seen."""
        seen = [value for when, value in self.seen if begin <= when <= end]
        return sum(seen) / len(seen) if seen else None


class Keeper(threading.Thread):
    """Looks after the control group while QEMU runs in it."""

    def __init__(self, cgroup):
        super().__init__(daemon=True)
        self.cgroup = cgroup
        self.ended = threading.Event()
        self.steer = None
        self.watches = ()           # once QEMU runs

    def run(self):
        while not self.ended.is_set():
            self.cgroup.tend()
            try:
                for watch in self.watches:
                    watch.look()
            except (OSError, QMPClosed, QMPError):
                self.watches = ()   # QEMU ends; who runs it finds out
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
        self.ended = None
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
        after = self.now()
        self.ended = after[0]
        wall, cpu, stalled = (late - early for late, early
                              in zip(after, self.before))
        self.figures['cpu_seconds'] = cpu
        if self.memswapped:
            self.figures['stall'] = stalled / wall


def mapped(pid, begin, size):
    """Of a part of the address space, by smaps: bytes resident, swapped."""
    end = begin + size
    found = {'Rss:': 0, 'Swap:': 0}
    inside = False
    with open(f'/proc/{pid}/smaps', encoding='ascii') as file:
        for line in file:
            name, *values = line.split()
            if '-' in name:
                first, last = (int(part, 16) for part in name.split('-'))
                inside = begin <= first and last <= end
            elif inside and name in found:
                found[name] += int(values[0]) * 1024
    return found['Rss:'], found['Swap:']


def swapped(pid):
    """Bytes of a process that are in swap."""
    with open(f'/proc/{pid}/status', encoding='ascii') as file:
        return next(int(line.split()[1]) * 1024 for line in file
                    if line.startswith('VmSwap:'))


class Work:
    """What a guest is to do.

    It has name, needs_key (the same for works that need the same), memory
    (bytes of guest RAM), args (more of QEMU's arguments), limit(needs) (bytes
    of guest RAM that may be resident; needs is what measure_needs() returns),
    and run(vm, meter) that returns figures by metric.
    """

    @contextlib.contextmanager
    def beside(self, _context, _vm, _join):
        """Have ready what QEMU needs, and give it to the VM's arguments.

        join is what makes the command after it run in QEMU's group.
        """
        yield


@dataclass
class Side(Killable):
    """Who keeps guest RAM within its limit, while it does some Work.

    Two of its figures are no metrics, who compares them says with what:
    mean_memory, all memory in use on average, and mean_ram, the guest's, with
    its part of the pool.
    """
    name: str
    memswap: bool = False
    limited: bool = True        # or else no limit, or one as large as RAM
    memfd: bool = False         # RAM is a memfd, as memswap has it
    swap: str = ''              # zram's algorithm
    page_cluster: int = 0
    settings: tuple = ()        # of -memswap
    policies: tuple = ()        # of -object memswap-policy, without an id
    # Makes, of the group, what is called each time that it was tended.
    control: object = None
    label: str = ''             # for what
    watched: bool = False       # memory while it runs: what looking costs


    @property
    def what(self):
        """What makes it another one than those of the same name."""
        if self.label:
            return f'{self.name}, {self.label}'
        if not self.memswap:
            return f'{self.name}, page-cluster {self.page_cluster}'
        return ' '.join((*self.settings, *self.policies)) or 'no policy'

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
            if self.control:
                keeper.steer = self.control(cgroup)
            elif self.swap:
                steering = Steering(cgroup, limit, needs['beyond'],
                                    context.limits.get(work.name))
            join = ('sh', '-c', JOIN, ' '.join(cgroup.members))
            vm = self.make_vm(context, work, join, limit)
            with work.beside(context, vm, join):
                figures = self.step(vm, keeper, steering, store, work)
            if steering:
                context.limits[work.name] = steering.limit
            figures['waits'] = cgroup.waits
            self.tell(work, figures, limit if self.limited else None)
            return figures
        finally:
            context.machine.undo(mark)

    def make_vm(self, context, work, join, limit):
        if not os.path.exists(QEMU):
            raise Unable('QEMU is not built: make')
        if not os.path.exists(os.path.join(GUEST, 'vmlinuz')):
            raise Unable('there is no test guest: make guest')
        args = list(work.args)
        if self.memfd:
            args += ['-object', 'memory-backend-memfd,id=ram,share=on,size='
                     f'{work.memory}', '-machine', 'memory-backend=ram']
        for number, policy in enumerate(self.policies):
            args += ['-object', f'memswap-policy,id=policy{number},{policy}']
        return VM(f'bench-{self.name}', memory=work.memory, args=args,
                  limit=limit if self.memswap else None,
                  memswap=','.join((*self.settings, *context.memswap)),
                  prefix=join)

    def step(self, vm, keeper, steering, store, work):
        cgroup = keeper.cgroup
        keeper.start()
        try:
            vm.start(BOOT_TIMEOUT)
            # It has found the memfds; more samples would take CPU time.
            vm.sampler.stop()
            resident = self.find_ram(vm, work)
            if steering:
                steering.resident = resident
                keeper.steer = steering
            memory = Watch(lambda: cgroup.usage() + (
                store.pool_bytes() if store else 0))
            ram = Watch(self.guest_memory(vm, work, store))
            keeper.watches = (memory, ram) if self.watched else ()
            meter = Meter(vm, self.memswap)
            figures = {**work.run(vm, meter), **meter.figures}
            if 'touches' in figures:
                figures['cpu'] = \
                    figures['cpu_seconds'] * 1e6 / figures['touches']
            begin, end = meter.before[0], meter.ended
            figures['mean_memory'] = memory.mean(begin, end)
            figures['mean_ram'] = ram.mean(begin, end)
            figures.update(self.look(vm, cgroup, store, resident))
            # At the end it is less than while the work ran.
            mean = steering and steering.mean(begin)
            figures['resident'] = mean or figures['resident']
        except (GuestError, QMPClosed, QMPError, TimeoutError,
                VMError) as error:
            if cgroup.oom_kills():
                raise OutOfMemory('killed for want of memory') from error
            raise Unable(f'{error} {vm.stderr()}') from error
        finally:
            with uninterrupted():
                keeper.stop()
                vm.kill()
        return figures

    def find_ram(self, vm, work):
        """A function that tells how much of guest RAM is in memory."""
        if self.memswap or (self.memfd and not self.swap):
            return vm.sampler.sample
        address = self.ram_address(vm)
        pid = vm.pid
        return lambda: mapped(pid, address, work.memory)[0]

    @staticmethod
    def ram_address(vm):
        return int(vm.qmp.hmp('gpa2hva 0').split()[-1], 16)

    def guest_memory(self, vm, work, store):
        """A function that tells what guest RAM takes, the pool included."""
        if self.memswap:
            return lambda: vm.sampler.sample() + \
                vm.stats(oob=True)['pool']['bytes']
        address = self.ram_address(vm)

        def take():
            resident, gone = mapped(vm.pid, address, work.memory)
            if not store or not gone:
                return resident
            # QEMU's own memory is in the pool as well.
            return resident + store.pool_bytes() * gone / max(
                gone, swapped(vm.pid))
        return take

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
            figures.update(self.prefetched(stats['policies']))
            if not self.limited and figures['evictions'] and \
                    not self.policies:
                raise Unable('there was pressure: nothing to compare')
        elif store:
            figures['pool_bytes'] = store.pool_bytes()
            figures['memory'] += figures['pool_bytes']
        return figures

    def prefetched(self, policies):
        """What of their prefetches was of no use, as far as was watched."""
        for each in policies:
            if 'error' in each:
                raise Unable(f'policy {each["name"]}: {each["error"]}')
        hits, wasted = (sum(each[name] for each in policies)
                        for name in ('hits', 'wasted'))
        return {'waste': wasted / (hits + wasted)} if hits + wasted else {}

    def tell(self, work, figures, limit):
        """Who is within which limit, for who reads along."""
        parts = [f'RAM resident {figures["resident"] / MIB:.0f} of '
                 f'{work.memory / MIB:.0f} MiB']
        if 'claimed' in figures:
            parts.append(f'(query-memswap: {figures["claimed"] / MIB:.0f})')
        parts.append(f'beyond RAM {figures["beyond"] / MIB:.0f} MiB')
        if 'waste' in figures:
            parts.append(f'{figures["waste"]:.1%} of prefetches wasted')
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


def memswap(*policies, limited=True):
    return Side('memswap', memswap=True, limited=limited, policies=policies)


def plain():
    """memswap with a plain clock, and nothing that looks ahead."""
    return Side('limit', memswap=True, settings=('readahead=0',),
                policies=('builtin=limit',))


def no_policy():
    """memswap with nothing but what it does by itself."""
    return Side('no-policy', memswap=True)


def zram(page_cluster=0, algorithm='lz4', **more):
    """The kernel: a limited control group, swap on zram."""
    return Side(f'zram-{algorithm}', swap=algorithm,
                page_cluster=page_cluster, **more)


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

# SPDX-License-Identifier: GPL-2.0-or-later
"""I/O to and from guest memory: what pins cost, and what disks achieve.

A guest's disk is a file in the host's memory, so that the device decides how
fast it is.  Requests are made by tests/bench/guest/disk.c.
"""

import contextlib
import errno
import json
import os
import subprocess
import time
from dataclasses import dataclass, replace

from .case import Case, Reference
from .guest import BUILD, MIB, Work, memfd, memswap, zram
from .guest_cases import PAGE_CLUSTERS, churn_figures
from .guest_programs import GIB, SETUP, Program, geomean
from .machine import Unable

TIMEOUT = 900
DAEMON = os.path.join(BUILD, 'qemu', 'storage-daemon', 'qemu-storage-daemon')
DAEMON_TIMEOUT = 30
DISK = '/dev/shm/memswap-bench-disk'
DISK_MIB = 256
# Of guest RAM that buffers are in: little, or most of it.
SMALL_ARENA = 64
LARGE_ARENA = 700
# Programs' arguments.
PATTERNS = {'random': '-p 4 -t 4', 'sequential': '-p 128 -t 2 -q'}
DEVICES = ('virtio-blk', 'vhost-user-blk')
PAIRS = 10


# --- the engine alone ----------------------------------------------------

@dataclass(frozen=True)
class Pins:
    """What tests/bench/pin.c is to do."""
    pages: int = 1              # of a range that is pinned
    threads: int = 1
    seconds: float = 5

    def shortened(self):
        """For bench-quick."""
        return replace(self, seconds=2)

    def lasting(self, seconds):
        """As long as the user wishes."""
        return replace(self, seconds=seconds)


class Pinning:
    """There is nobody else who has such a thing."""
    name = 'memswap'

    def run(self, context, work):
        """One run; its figures, in a dict by metric."""
        done = subprocess.run(
            [os.path.join(os.path.dirname(context.program), 'pin'),
             '--pages', str(work.pages), '--threads', str(work.threads),
             '--seconds', str(work.seconds)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
            encoding='utf-8')
        if not done.stdout:
            raise Unable(done.stderr.strip())
        return json.loads(done.stdout)


def pins():
    for name, work in (('io/pin', Pins()), ('io/pin-128k', Pins(32)),
                       ('io/pin-2t', Pins(threads=2))):
        yield Case(name, work, Pinning(), rate='pin')


# --- disks ---------------------------------------------------------------

def direct(path):
    """Can it be opened with O_DIRECT?  tmpfs can't before Linux 6.6."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_DIRECT))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def wait_up(pidfile, process):
    """Until the daemon has written that, which is when it listens."""
    end = time.monotonic() + DAEMON_TIMEOUT
    while not os.path.exists(pidfile):
        if process.poll() is not None or time.monotonic() > end:
            raise Unable('qemu-storage-daemon does not come up')
        time.sleep(0.01)


@dataclass(frozen=True)
class Disk(Work):
    """A program reads and writes a disk of the guest's."""
    name: str
    device: str                 # of DEVICES
    pattern: str                # of PATTERNS
    arena: int                  # MiB of its buffers
    resident: float = 0.5       # of the RAM
    memory: int = GIB
    seconds: float = 10
    args: tuple = Program.args

    def shortened(self):
        """For bench-quick."""
        return replace(self, seconds=5)

    def lasting(self, seconds):
        """As long as the user wishes."""
        return replace(self, seconds=seconds)

    @property
    def needs_key(self):
        """Backends and patterns need different amounts."""
        return 'disk', self.device, self.pattern, self.arena

    def limit(self, _needs):
        return int(self.memory * self.resident)

    @contextlib.contextmanager
    def beside(self, context, vm, join):
        context.machine.make_file(DISK, DISK_MIB * MIB)
        node = 'driver=file,node-name=disk,filename=' + DISK
        if direct(DISK):
            node += ',cache.direct=on,aio=native'
        if self.device == 'virtio-blk':
            vm.add_args('-blockdev', node, '-object', 'iothread,id=io',
                        '-device', 'virtio-blk-pci,drive=disk,iothread=io')
            yield
            return
        path, pidfile = vm.path('disk'), vm.path('disk.pid')
        vm.add_args('-chardev', f'socket,id=disk,path={path}', '-device',
                    'vhost-user-blk-pci,chardev=disk')
        with open(os.path.join(context.directory, 'storage-daemon.log'),
                  'wb') as log, subprocess.Popen(
                [*join, 'setpriv', '--pdeathsig', 'KILL', DAEMON,
                 '--pidfile', pidfile, '--blockdev', node, '--export',
                 'type=vhost-user-blk,id=export,node-name=disk,writable=on,'
                 f'addr.type=unix,addr.path={path}'],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log) as daemon:
            try:
                wait_up(pidfile, daemon)
                yield
            finally:
                daemon.kill()

    def run(self, vm, meter):
        vm.agent.run(SETUP, TIMEOUT)
        job = vm.agent.start(
            f'chroot /mnt /bench/disk {PATTERNS[self.pattern]} -m {DISK_MIB} '
            f'-a {self.arena} -n {max(1, round(self.seconds))} /dev/vdb')
        return churn_figures(job, meter, TIMEOUT)


def kernel(device):
    """The kernel's swap; another process can map only shared memory."""
    shared = device != 'virtio-blk'
    return Reference([zram(cluster, memfd=shared)
                      for cluster in PAGE_CLUSTERS])


def disks():
    for device in DEVICES:
        for pattern in PATTERNS:
            name = f'{device}-{pattern}'
            work = Disk(f'io/no-pressure-{name}', device, pattern,
                        SMALL_ARENA, resident=1)
            yield Case(work.name, work, memswap(limited=False),
                       [Reference([memfd()])], unit='requests/s',
                       pairs=PAIRS)
            work = Disk(f'io/{name}', device, pattern, LARGE_ARENA)
            yield Case(work.name, work, memswap(), [kernel(device)],
                       unit='requests/s')


def cases():
    return [*pins(), *disks()]


def summary(objects):
    """Geometric means: without pressure, and with half of the RAM."""
    found = [one for one in objects if one['metric'] == 'rate'
             and one['case'].startswith('io/')]
    idle = [one for one in found
            if one['case'].startswith('io/no-pressure-')]
    busy = [one for one in found if one not in idle]
    names = [f'{device}-{pattern}' for device in DEVICES
             for pattern in PATTERNS]
    return [*geomean('io/no-pressure', 'speed', idle,
                     [f'io/no-pressure-{name}' for name in names]),
            *geomean('io/geomean', 'speed', busy,
                     [f'io/{name}' for name in names])]

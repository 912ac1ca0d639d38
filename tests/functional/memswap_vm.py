"""Virtual machines with memswap, and a look at their memory from outside.

What a test says of a VM's memory comes from two sources that know nothing of
each other: query-memswap, and the blocks that the host kernel counts for the
memfds behind the guest's RAM.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import hashlib
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from memswap_guest import Agent
from memswap_qmp import QMP, QMPClosed

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.realpath(__file__))))
BUILD = os.path.realpath(os.environ.get('MEMSWAP_BUILD') or
                         os.path.join(REPOSITORY, 'build'))
QEMU = os.path.join(BUILD, 'qemu', 'qemu-system-x86_64')
GUEST = os.path.join(BUILD, 'guest')
LOGS = os.path.join(BUILD, 'logs', 'functional')

MIB = 1024 * 1024
# How long the tests of scripts/check's stage "stress-devices" go on; 0: they
# take as little time as others.
STRESS_SECONDS = int(os.environ.get('MEMSWAP_STRESS_SECONDS', '0'))
# With ERMS and FSRM the kernel clears a page, and the C library copies, by a
# string instruction, which TCG does a byte at a time: programs take up to five
# times as long.
CPU = 'max,erms=off,fsrm=off'
# How far the memfds may pass the limit.
TOLERANCE = 1.01


class VMError(Exception):
    """QEMU did not do what was expected; the message holds its last words."""


class Sampler(threading.Thread):
    """Counts a process's memfd blocks a few hundred times a second."""

    INTERVAL = 0.003
    SCANS = 40      # samples between two looks for new memfds

    def __init__(self, pid):
        super().__init__(daemon=True)
        self._pid = pid
        self._ended = threading.Event()
        self._paths = []
        self.bound = None       # bytes; None: nothing is checked
        self.resident = 0       # bytes at the last sample
        self.peak = 0
        self.samples = 0
        self.violations = []    # of the bound: (resident, bound)
        self.worst = 0.0        # largest resident / bound

    def _scan(self):
        directory = f'/proc/{self._pid}/fd'
        inodes = {}
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            try:
                name = os.readlink(path)
                if name.startswith('/memfd:') and \
                        'memswap-pins' not in name:
                    inodes.setdefault(os.stat(path).st_ino, path)
            except FileNotFoundError:
                continue
        self._paths = list(inodes.values())

    def sample(self):
        """The bytes that all memfds of the process hold now."""
        sizes = self._sizes()
        if len(sizes) > 1:
            # What moves from one to another between two looks counts twice.
            sizes = map(min, sizes, self._sizes())
        return sum(sizes)

    def _sizes(self):
        return [os.stat(path).st_blocks * 512 for path in self._paths]

    def run(self):
        while not self._ended.is_set():
            try:
                if self.samples % self.SCANS == 0:
                    self._scan()
                # A bound that is raised while we count must count.
                bound = self.bound
                resident = self.sample()
            except FileNotFoundError:
                self._paths = []
                if not os.path.exists(f'/proc/{self._pid}'):
                    return
                continue
            except (ProcessLookupError, PermissionError):
                return
            bound = max(bound, self.bound) if bound and self.bound else None
            self.resident = resident
            self.peak = max(self.peak, resident)
            self.samples += 1
            if bound:
                self.worst = max(self.worst, resident / bound)
                if resident > bound:
                    self.violations.append((resident, bound))
            self._ended.wait(self.INTERVAL)

    def stop(self):
        """Ends the thread."""
        self._ended.set()
        self.join(5)


def socket_directory():
    """A new temporary directory, for sockets."""
    # The path of a socket has 107 bytes; this leaves 25 for its name.
    too_long = len(os.fsencode(tempfile.gettempdir())) > 64
    return tempfile.mkdtemp(prefix='memswap-',
                            dir='/tmp' if too_long else None)


class VM:
    """A QEMU process, with QMP and, if it runs the test guest, its agent."""

    def __init__(self, name, memory=512 * MIB, limit=None, smp=1,
                 memswap='', accel='tcg,thread=multi', guest=True,
                 maxmem=None, append='', args=(), daemonize=False, prefix=(),
                 initrd=os.path.join(GUEST, 'initramfs.cpio.gz')):
        self.name = name
        self.limit = limit
        self.qmp = None
        self.agent = None
        self.sampler = None
        self.pid = None
        self.code = None
        self._process = None
        self._pidfd = None
        self._daemonize = daemonize
        self._logs = os.path.join(LOGS, name)
        self._sockets = socket_directory()
        self._listeners = {}
        self._guest = guest
        ram = f'{memory // MIB}M'
        if maxmem:
            ram += f',slots=8,maxmem={maxmem // MIB}M'
        # The prefix is a command that becomes the one behind it.
        self._command = [
            *prefix, 'setpriv', '--pdeathsig', 'KILL', QEMU, '-name', name,
            '-nodefaults', '-no-user-config', '-display', 'none',
            '-machine', 'q35', '-accel', accel, '-cpu', CPU,
            '-smp', str(smp), '-m', ram, '-pidfile', self.path('pid'),
            *self._channel('qmp'), '-mon', 'chardev=qmp,mode=control']
        if limit:
            self._command += ['-memswap', f'limit={limit}' +
                              (f',{memswap}' if memswap else '')]
        if guest:
            # QEMU 10.0 with TCG fails an assertion (iotlb_to_section) when a
            # processor uses its APIC while another one's PCI setup moves
            # memory about; so there is one until that is over.
            self._command += [
                '-kernel', os.path.join(GUEST, 'vmlinuz'),
                '-initrd', initrd,
                '-append', 'console=ttyS0 quiet panic=-1 reboot=t,force '
                           'cryptomgr.notests maxcpus=1 '
                           f'memhp_default_state=online_movable {append}',
                '-chardev', f'file,id=console,path={self.log("console.log")}',
                '-serial', 'chardev:console',
                *self._channel('agent'), '-serial', 'chardev:agent']
        self._command += args
        if daemonize:
            self._command.append('-daemonize')

    def add_args(self, *args):
        """More arguments for QEMU, before it is started."""
        self._command += args

    def path(self, name):
        """A path in the VM's own temporary directory."""
        return os.path.join(self._sockets, name)

    def log(self, name):
        """A path in the directory of the VM's logs, which is kept."""
        return os.path.join(self._logs, name)

    def _channel(self, name):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path(name))
        listener.listen(1)
        self._listeners[name] = listener
        return '-chardev', f'socket,id={name},path={self.path(name)}'

    def _accept(self, name, timeout=30):
        listener = self._listeners.pop(name)
        deadline = time.monotonic() + timeout
        with listener:
            while not select.select([listener], [], [], 0.1)[0]:
                if self._process.poll():
                    raise VMError(f'QEMU ended with code '
                                  f'{self._process.returncode}: '
                                  f'{self.stderr()}')
                if time.monotonic() > deadline:
                    raise VMError(f'QEMU does not come up: {self.stderr()}')
            return listener.accept()[0]

    def stderr(self):
        """What QEMU said on its standard error."""
        with open(self.log('qemu.log'), encoding='utf-8',
                  errors='replace') as f:
            return f.read().strip()

    def launch(self):
        """Starts QEMU, connects to its monitor, starts the sampler."""
        shutil.rmtree(self._logs, ignore_errors=True)
        os.makedirs(self._logs)
        with open(self.log('command'), 'w', encoding='utf-8') as f:
            f.write(shlex.join(self._command) + '\n')
        with open(self.log('qemu.log'), 'wb') as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, env={**os.environ, 'MEMSWAP_CHECK_PINS': '1'})
        if not self._daemonize:
            self._watch(self._process.pid)
        # QEMU connects to both before it serves either.
        connection = self._accept('qmp')
        if self._guest:
            self.agent = Agent(self._accept('agent'))
        if self._daemonize:
            self._daemonized()
        self.qmp = QMP(connection)

    def _daemonized(self):
        if self._process.wait(30):
            raise VMError(f'QEMU ended with code {self._process.returncode}: '
                          f'{self.stderr()}')
        with open(self.path('pid'), encoding='ascii') as f:
            self._watch(int(f.read()))

    def _watch(self, pid):
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self.sampler = Sampler(pid)
        if self.limit:
            self.sampler.bound = int(self.limit * TOLERANCE)
        self.sampler.start()

    def start(self, timeout=60):
        """Starts QEMU and waits until the guest is up."""
        try:
            self.launch()
            self.agent.wait_hello(1, timeout)
        except BaseException:
            self.kill()
            raise
        return self

    def stats(self, oob=False):
        """What query-memswap returns."""
        return self.qmp.command('query-memswap', oob=oob)

    def memory(self):
        """Where the pages are, in bytes."""
        return self.stats()['memory']

    def counts(self):
        """What reclaim has done so far."""
        return self.stats()['reclaim']

    def set(self, oob=False, **settings):
        """memswap-set."""
        return self.qmp.command('memswap-set', oob=oob, **settings)

    def set_limit(self, limit, oob=False):
        """Changes the limit; the outside check follows it.

        A lower one is checked only from wait_converged() on.
        """
        if self.sampler.bound is not None and limit > self.limit:
            self.sampler.bound = int(limit * TOLERANCE)
        self.set(oob=oob, limit=limit)
        self.limit = limit

    def wait_converged(self, timeout=60):
        """Waits until residency is under the limit; returns what was seen."""
        seen = []
        deadline = time.monotonic() + timeout
        while True:
            resident = self.memory()['resident']
            seen.append(resident)
            if resident <= self.limit and \
                    self.sampler.resident <= self.limit * TOLERANCE:
                break
            if time.monotonic() > deadline:
                raise VMError(f'resident memory does not get under the limit '
                              f'of {self.limit} in {timeout} s, last seen: '
                              f'{seen[-3:]}')
            time.sleep(0.01)
        self.sampler.bound = int(self.limit * TOLERANCE)
        return seen

    def wait_exit(self, timeout=30):
        """Waits for QEMU's end; returns its exit code (None: a daemon's)."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(timeout * 1000):
            raise VMError(f'QEMU does not end in {timeout} s')
        self.sampler.stop()
        self.code = None if self._daemonize else self._process.wait(5)
        return self.code

    def quit(self, timeout=30):
        """The monitor's quit; expects a clean end."""
        number = self.qmp.send('quit')
        try:
            self.qmp.receive(number, timeout)
        except QMPClosed:
            pass
        code = self.wait_exit(timeout)
        if code:
            raise VMError(f'QEMU ended with code {code}: {self.stderr()}')
        self._clean_up()

    def kill(self):
        """Ends QEMU, whatever state it is in; tells if it ended by itself."""
        if self.code is None and self._process and self._process.poll():
            print(f'{self.name}: QEMU had ended with code '
                  f'{self._process.returncode}: {self.stderr()}',
                  file=sys.stderr)
        if self._pidfd is not None:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if self._process is not None:
            if self._pidfd is None:
                self._process.kill()
            self.code = self._process.wait()
        self._clean_up()

    def _clean_up(self):
        if self.sampler:
            self.sampler.stop()
        for end in (self.qmp, self.agent, *self._listeners.values()):
            if end:
                end.close()
        self._listeners.clear()
        self.qmp = self.agent = None
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        shutil.rmtree(self._sockets, ignore_errors=True)


def file_content(size, seed):
    """What "churn stream" writes in the guest."""
    done = subprocess.run([os.path.join(GUEST, 'churn'), 'stream', str(size),
                           str(seed)], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise VMError('churn does not run on the host')
    return done.stdout


def file_digest(size, seed):
    """SHA-256 of that."""
    return hashlib.sha256(file_content(size, seed)).hexdigest()


def free_port():
    """A TCP port of this host that nobody has."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class MemswapTest(unittest.TestCase):
    """A test that starts VMs; ends them, and holds them to their limits."""

    maxDiff = None

    def setUp(self):
        self._vms = []
        self.addCleanup(self._kill_all)

    def _kill_all(self):
        for vm in self._vms:
            vm.kill()

    def vm(self, suffix='', kind=VM, **options):
        """A VM named after the test; it isn't started yet."""
        vm = kind(f'{self.id().split(".", 1)[-1]}{suffix}', **options)
        self._vms.append(vm)
        return vm

    def guest_total(self, vm):
        """The memory that the guest's kernel has, in bytes."""
        said = vm.agent.run('grep MemTotal /proc/meminfo')
        return int(said.split()[1]) * 1024

    def wait_total(self, vm, condition, what):
        """Waits until the guest's kernel has seen a change."""
        deadline = time.monotonic() + 60
        while not condition(self.guest_total(vm)):
            self.assertLess(time.monotonic(), deadline, what)
            time.sleep(0.1)

    def rounds(self, count=1, stress=1):
        """Numbers of rounds; under stress, until time and so many are over."""
        end = time.monotonic() + STRESS_SECONDS
        number = 0
        while number < max(count, stress if STRESS_SECONDS else 0) or \
                time.monotonic() < end:
            yield number
            number += 1

    def image(self, name, size, kind='raw'):
        """An empty image on a real file system that can do O_DIRECT."""
        path = os.path.join(GUEST, f'{self.id()}-{name}.img')
        self.addCleanup(lambda: os.path.exists(path) and os.unlink(path))
        subprocess.run([os.path.join(BUILD, 'qemu', 'qemu-img'), 'create',
                        '-q', '-f', kind, path, str(size)], check=True)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_DIRECT))
        except OSError:
            self.skipTest(f'no O_DIRECT on the file system of {GUEST}')
        return path

    def raw_disk(self, aio, size):
        """An empty disk on such a file, for -blockdev."""
        return {'driver': 'file', 'filename': self.image('raw', size),
                'node-name': 'disk', 'cache': {'direct': True}, 'aio': aio}

    def initrd_with(self, archive):
        """The guest's initramfs with more files, which are those of one."""
        path = os.path.join(GUEST, f'{self.id()}.cpio.gz')
        self.addCleanup(lambda: os.path.exists(path) and os.unlink(path))
        archive.write(path)
        with open(path, 'rb') as file:
            more = file.read()
        shutil.copyfile(os.path.join(GUEST, 'initramfs.cpio.gz'), path)
        with open(path, 'ab') as file:
            file.write(more)
        return path

    def churn(self, vm, arguments, checked=0, timeout=90):
        """Runs churn to its end in the guest; not one page may be wrong."""
        last = vm.agent.run(f'churn {arguments}', timeout).splitlines()[-1]
        found = re.fullmatch(r'total checked=(\d+) wrong=0', last)
        self.assertTrue(found, last)
        self.assertGreaterEqual(int(found.group(1)), checked)

    def assert_within_limit(self, vm):
        """Has the outside view of guest RAM never passed the limit?"""
        sampler = vm.sampler
        self.assertGreater(sampler.samples, 10, 'the sampler saw nothing')
        self.assertGreater(sampler.peak, 0, 'the sampler saw no guest RAM')
        self.assertFalse(
            sampler.violations,
            f'{len(sampler.violations)} of {sampler.samples} samples above '
            f'the limit, peak {sampler.peak}, worst {sampler.worst:.4f} of '
            f'what is allowed')

    def assert_adds_up(self, vm):
        """With the guest stopped, every page is in one place, and counted."""
        vm.qmp.command('stop')
        try:
            deadline = time.monotonic() + 10
            while True:
                memory = vm.memory()
                outside = vm.sampler.sample()
                again = vm.memory()
                if memory == again and memory['resident'] == outside:
                    break
                self.assertLess(time.monotonic(), deadline,
                                f'{memory}, then {again}, outside {outside}')
                time.sleep(0.02)
            self.assertEqual(memory['managed'],
                             sum(memory[part] for part in
                                 ('resident', 'stored', 'zero', 'untouched',
                                  'poisoned')), memory)
            return memory
        finally:
            vm.qmp.command('cont')

    def assert_unpinned(self, vm):
        """Nothing is pinned once all devices are reset; the guest is gone."""
        # A reset writes to memory, as the machine's firmware would.
        vm.sampler.bound = None
        vm.qmp.command('stop')
        vm.qmp.command('system_reset')
        deadline = time.monotonic() + 20
        while vm.memory()['pinned']:
            self.assertLess(time.monotonic(), deadline,
                            vm.stats()['pins']['holders'])
            time.sleep(0.02)

    def finish(self, vm):
        """The end of a test: nothing was wrong with memory, clean exit."""
        self.assert_adds_up(vm)
        self.assert_unpinned(vm)
        vm.quit()
        self.assert_within_limit(vm)

"""Device processes for tests: real vhost-user backends, killed at will.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import glob
import hashlib
import mmap
import os
import socket
import struct
import subprocess
import threading
import time

from memswap_vm import BUILD, MIB, MemswapTest

RAM = 256 * MIB
# For VMs of which memory is swapped while there is a device.
LIMIT = RAM * 35 // 100
IMAGE_SIZE = 40 * MIB

QEMU_BUILD = os.path.join(BUILD, 'qemu')
STORAGE_DAEMON = os.path.join(QEMU_BUILD, 'storage-daemon',
                              'qemu-storage-daemon')
# Keeps record of requests in flight in shared memory, and so can take up
# where one that was killed left off, whatever the order of its requests.
CONTRIB_BLK = os.path.join(QEMU_BUILD, 'contrib', 'vhost-user-blk',
                           'vhost-user-blk')


class Unpacked:
    """A program that scripts/make-test-programs unpacked, not installed."""

    def __init__(self, name, program, libraries=()):
        directory = os.path.join(BUILD, 'deps', name)
        self.program = os.path.join(directory, program)
        self.env = {**os.environ, 'LD_LIBRARY_PATH': ':'.join(
            path for where in ('lib/x86_64-linux-gnu',
                               'usr/lib/x86_64-linux-gnu', *libraries)
            for path in glob.glob(os.path.join(directory, where)))}

    def runs(self):
        """Is there such a thing, with all that it needs?"""
        try:
            return subprocess.run([self.program, '--help'], check=False,
                                  env=self.env, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL).returncode == 0
        except OSError:
            return False


class Backend:
    """A process that serves a vhost-user socket.

    One that could pin what it uses doesn't say so unless @pins.
    """

    def __init__(self, command, path, log, pins, env=None):
        self.path = path
        self._command = command
        self._log = log
        self._env = {**(env or os.environ),
                     'MEMSWAP_PINS': 'on' if pins else 'off'}
        self._process = None

    def unlink(self):
        """Makes way for its socket."""
        if os.path.exists(self.path):
            os.unlink(self.path)

    def spawn(self, *arguments, pass_fds=()):
        """Starts its process, with more arguments."""
        with open(self._log, 'ab') as log:
            self._process = subprocess.Popen(
                ['setpriv', '--pdeathsig', 'KILL', *self._command, *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self._env, pass_fds=pass_fds)

    def start(self):
        """Starts it; returns once it listens."""
        self.unlink()
        self.spawn()
        deadline = time.monotonic() + 30
        # To connect would count as the one front-end: look from outside.
        while not self._listens():
            if self._process.poll() is not None:
                raise RuntimeError(f'{self._command[0]} ended at once, see '
                                   f'{self._log}')
            if time.monotonic() > deadline:
                raise RuntimeError(f'{self.path} does not come up')
            time.sleep(0.01)
        return self

    def _listens(self):
        # flags with __SO_ACCEPTCON say that somebody listens
        with open('/proc/net/unix', encoding='ascii') as sockets:
            return any(line.split()[3] == '00010000' and
                       line.rstrip().endswith(' ' + self.path)
                       for line in sockets if self.path in line)

    @property
    def pid(self):
        """Its process."""
        return self._process.pid

    def runs(self):
        """Has it not ended?"""
        return self._process.poll() is None

    def has_memory(self):
        """Does it have a front-end's memory mapped?"""
        with open(f'/proc/{self.pid}/maps', encoding='ascii') as maps:
            return 'memfd:' in maps.read()

    def kill(self):
        """kill -9, and wait until it is no more."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


def storage_daemon(path, image, log, aio='native', queues=1, pins=False,
                   direct=True, iops=None):
    """qemu-storage-daemon, with O_DIRECT on a file unless told otherwise.

    With @iops it serves no more requests a second: others wait in it.
    """
    node, throttle = 'disk', []
    if iops:
        node = 'slow'
        throttle = ['--object', f'throttle-group,id=few,x-iops-total={iops}',
                    '--blockdev', 'driver=throttle,throttle-group=few,'
                                  f'file=disk,node-name={node}']
    return Backend(
        [STORAGE_DAEMON, '--blockdev',
         f'driver=file,filename={image},node-name=disk,'
         f'cache.direct={"on" if direct else "off"},'
         f'aio={aio}', *throttle, '--export',
         f'vhost-user-blk,id=export,node-name={node},addr.type=unix,'
         f'addr.path={path},writable=on,num-queues={queues}'], path, log, pins)


def contrib_blk(path, image, log, pins=False):
    """The example backend of QEMU's."""
    return Backend([CONTRIB_BLK, '-s', path, '-b', image], path, log, pins)


class Mapper(threading.Thread):
    """A backend that maps what it gets, and lets go when a test says so.

    It offers a disk of no size, so the guest has nothing to ask of it.
    """

    # Of the vhost-user protocol; see QEMU's docs/interop/vhost-user.rst.
    GET_FEATURES, SET_MEM_TABLE, GET_VRING_BASE = 1, 5, 11
    GET_PROTOCOL_FEATURES, GET_CONFIG = 15, 24
    FEATURES = 1 << 32 | 1 << 30
    PROTOCOL_FEATURES = 1 << 9

    def __init__(self, path):
        super().__init__(daemon=True)
        self.mapped = threading.Event()
        self.maps = []      # (guest address, mapping, where it is) of regions
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(path)
        self._socket.listen(1)
        self._front_end = None

    def _read(self, size):
        data, fds = b'', []
        while len(data) < size:
            more, new, _, _ = socket.recv_fds(self._front_end,
                                              size - len(data), 16)
            if not more:
                raise EOFError
            data += more
            fds += new
        return data, fds

    def _map(self, payload, fds):
        self.unmap()
        for n, fd in enumerate(fds):
            where = 8 + 32 * n
            address, size, _, offset = struct.unpack_from('<4Q', payload,
                                                          where)
            self.maps.append((address, mmap.mmap(fd, offset + size), offset))
            os.close(fd)
        self.mapped.set()

    def _handle(self, request, payload, fds):
        """Deals with a message that only some know; false: it is unknown."""
        return False

    def run(self):
        self._front_end, _ = self._socket.accept()
        try:
            while True:
                head, fds = self._read(12)
                request, _, size = struct.unpack('<3I', head)
                payload, more = self._read(size)
                reply = None
                if request == self.GET_FEATURES:
                    reply = struct.pack('<Q', self.FEATURES)
                elif request == self.GET_PROTOCOL_FEATURES:
                    reply = struct.pack('<Q', self.PROTOCOL_FEATURES)
                elif request == self.GET_VRING_BASE:
                    reply = payload
                elif request == self.GET_CONFIG:
                    reply = payload[:12] + bytes(size - 12)
                elif request == self.SET_MEM_TABLE:
                    self._map(payload, fds + more)
                elif not self._handle(request, payload, fds + more):
                    for fd in fds + more:
                        os.close(fd)
                if reply is not None:
                    self._front_end.sendall(
                        struct.pack('<3I', request, 5, len(reply)) + reply)
        except (EOFError, OSError):
            pass

    def hang_up(self):
        """Closes the connection, and keeps the memory."""
        self._front_end.shutdown(socket.SHUT_RDWR)
        self.join(10)
        self._front_end.close()
        self._socket.close()

    def unmap(self):
        """Lets go of the memory."""
        for _, mapping, _ in self.maps:
            mapping.close()
        self.maps.clear()


class Pinner(Mapper):
    """The same, and it pins pages when a test says so."""

    SET_MEMSWAP_TABLE = 1000
    PROTOCOL_FEATURES = Mapper.PROTOCOL_FEATURES | 1 << 48
    PIN = 1

    def __init__(self, path):
        super().__init__(path)
        self.tables = {}    # by guest address: what a table's message says
        self.channel = None

    def _handle(self, request, payload, fds):
        if request != self.SET_MEMSWAP_TABLE:
            return False
        address, *rest = struct.unpack('<5Q', payload)
        table, channel = fds
        self.tables[address] = rest
        os.close(table)
        if self.channel:
            os.close(channel)
        else:
            self.channel = socket.socket(fileno=channel)
        return True

    def ask(self, packet):
        """What the front-end answers over the channel; empty: nothing."""
        self.channel.send(packet)
        return self.channel.recv(8)

    def hang_up(self):
        super().hang_up()
        self.channel.close()

    def pin(self, *ranges):
        """Pins pages of guest memory by one request: (address, pages)..."""
        packet = struct.pack('<II', self.PIN, 0)
        for address, pages in ranges:
            start, (_, page_size, file, offset) = max(
                item for item in self.tables.items() if item[0] <= address)
            offset += (address - start) // page_size * 4
            packet += struct.pack('<IIQ', file, pages, offset)
        code, error = struct.unpack('<Ii', self.ask(packet))
        if (code, error) != (self.PIN, 0):
            raise OSError(-error, os.strerror(-error))


def digest_of(path):
    """SHA-256 of a file."""
    with open(path, 'rb') as f:
        return hashlib.file_digest(f, 'sha256').hexdigest()


class VhostTest(MemswapTest):
    """A test with backends on images of their own."""

    def setUp(self):
        super().setUp()
        self._backends = []
        self.addCleanup(lambda: [b.kill() for b in self._backends])

    def need_contrib(self):
        """Skips the test if there is no such program."""
        if not os.path.exists(CONTRIB_BLK):
            self.skipTest(f'{CONTRIB_BLK} is not built')

    def backend(self, vm, name, kind=storage_daemon, **options):
        """A backend on an image of its own, listening."""
        return self.backend_at(vm.path(name), name, kind, **options)

    def backend_at(self, path, name, kind=storage_daemon, **options):
        """The same, at any path."""
        image = self.image(name, IMAGE_SIZE)
        backend = kind(path, image,
                       os.path.join(BUILD, 'logs', f'{self.id()}.{name}.log'),
                       **options)
        backend.image = image
        self._backends.append(backend)
        return backend.start()

    def add(self, vm, name, bus, queues=1):
        """Adds a device to a running VM."""
        vm.qmp.command('chardev-add', id=name, backend={
            'type': 'socket', 'data': {
                'addr': {'type': 'unix', 'data': {'path': vm.path(name)}},
                'server': False, 'reconnect-ms': 50}})
        self.add_device(vm, name, bus, queues)

    def add_device(self, vm, name, bus, queues=1):
        """Adds it to a running VM that has its chardev."""
        vm.qmp.command('device_add', driver='vhost-user-blk-pci', id=name,
                       chardev=name, bus=bus, num_queues=queues)

    def start_with(self, vm, backend, queues=1):
        """Starts a VM that has a backend's disk, and finds it again."""
        vm.add_args('-chardev', f'socket,id=disk0,path={backend.path},'
                    'reconnect-ms=50', '-device',
                    'vhost-user-blk-pci,chardev=disk0,id=disk0,bus=slot0,'
                    f'num-queues={queues}')
        vm.start()
        self.wait_disk(vm, 'vda')

    def unplug(self, vm, name):
        """Takes it away; returns when its RAM may leave."""
        vm.qmp.command('device_del', id=name)
        vm.qmp.wait_event('DEVICE_DELETED', 30,
                          lambda data: data.get('device') == name)
        # the connection is the chardev's, and so the backend may have it still
        for device in vm.stats()['devices']:
            self.assertFalse(device['chardev'] == name and device['attached'])
        vm.qmp.command('chardev-remove', id=name)
        vm.qmp.wait_event('MEMSWAP_DEVICE_GONE', 10,
                          lambda data: data['chardev'] == name)

    def device(self, vm, name='disk0'):
        """What query-memswap has of a device process; None: nothing."""
        found = [device for device in vm.stats()['devices']
                 if device['chardev'] == name]
        return found[0] if found else None

    def wait_device(self, vm, condition, name='disk0', timeout=20):
        """Waits until that fulfils a condition."""
        deadline = time.monotonic() + timeout
        while not condition(self.device(vm, name)):
            self.assertLess(time.monotonic(), deadline, self.device(vm, name))
            time.sleep(0.005)
        return self.device(vm, name)

    def wait_disk(self, vm, name, gone=False):
        """Waits until the guest has the disk, or has it no more."""
        condition = f'-b /dev/{name}'
        vm.agent.run(f'for i in $(seq 100); do [ {"!" if gone else ""} '
                     f'{condition} ] && break; sleep 0.1; done; '
                     f'[ {"!" if gone else ""} {condition} ]', 30)

    def wait_memory(self, vm, size):
        """Waits until the guest's kernel has so much memory."""
        vm.agent.run("while [ $(awk '/MemTotal/ {print $2}' /proc/meminfo) "
                     f'-lt {size // 1024} ]; do sleep 0.1; done', 60)

    def reclaimed(self, vm, size=RAM):
        """What memswap-reclaim could take out."""
        return vm.qmp.command('memswap-reclaim', size=size)['reclaimed']

    def assert_disk(self, vm, disk, image):
        """The guest and the host see the same bytes."""
        said = vm.agent.run(f'echo 3 > /proc/sys/vm/drop_caches; '
                            f'sha256sum /dev/{disk}', 60)
        self.assertEqual(said.split()[-2], digest_of(image))

    # How much longer than usual everything takes.
    PATIENCE = 1

    def start_churn(self, vm):
        """Memory that comes and goes."""
        churn = vm.agent.start('churn -m 88 -s 7 fill until random:20000')
        churn.wait_line('progress name=until', 60 * self.PATIENCE)
        return churn

    def end_churn(self, churn):
        """It goes on for a while; nothing was wrong."""
        churn.send()
        self.assertRegex(churn.wait(90 * self.PATIENCE).splitlines()[-1],
                         'wrong=0$')

    def start_io(self, vm, arguments):
        """I/O from and to all over the place."""
        job = vm.agent.start(f'diskio -d -m 24 -a 64 {arguments} /dev/vda')
        job.wait_line('progress', 60 * self.PATIENCE)
        return job

    def end_io(self, job):
        """Nothing was wrong; one that goes on until it is told ends now."""
        if job.code is None:
            job.send()
        job.wait(120 * self.PATIENCE)
        self.assertRegex(job.lines[-1], r'checked=[1-9]\d* wrong=0$')

    def start(self, limit=RAM, memory=RAM, args=(), smp=2, **options):
        """A VM with slots to plug devices in."""
        slots = []
        for n in range(3):
            slots += ['-device', f'pcie-root-port,id=slot{n},chassis={n},'
                                 f'port={n}']
        return self.vm(memory=memory, limit=limit, smp=smp,
                       args=(*slots, *args), **options)

    # What a kind of device process has to show when one is killed.

    def before_kill(self, vm):
        """Waits for the moment to kill it."""

    def when_gone(self, vm, n):
        """Checks what there is while nobody serves the disk."""

    def wait_back(self, vm):
        """Waits until there is a device again."""
        self.wait_device(vm, lambda device: device and device['attached'],
                         timeout=30 * self.PATIENCE)

    def run_crashes(self, vm, backend, arguments):
        """The guest's I/O goes on, and is right, over kills in its middle."""
        churn = self.start_churn(vm)
        job = self.start_io(vm, arguments)
        for n in self.rounds(5, 50):
            job.wait_line('progress', 60 * self.PATIENCE, after=len(job.lines))
            self.before_kill(vm)
            backend.kill()
            vm.qmp.wait_event('MEMSWAP_DEVICE_GONE', 10)
            self.assertEqual(vm.stats()['devices'], [])
            self.when_gone(vm, n)
            backend.start()
            self.wait_back(vm)
        self.end_io(job)
        self.end_churn(churn)
        self.assert_disk(vm, 'vda', backend.image)


class CrashTests:
    """What a VhostTest with one kind of backends tests by killing them.

    Its start_disk() starts a VM with one, and returns both.
    """

    def end_disk(self, vm):
        """The end of the disk, which serves the guest again."""
        self.unplug(vm, 'disk0')

    def start_crashes(self, kind, arguments):
        """One backend of this kind, killed again and again."""
        vm, backend = self.start_disk(kind)
        self.run_crashes(vm, backend, arguments)
        self.end_disk(vm)
        self.finish(vm)

    def test_crash(self):
        """kill -9 of a storage daemon that works on one request at a time."""
        self.start_crashes(storage_daemon, '-t 1 -p 100 -n 0')

    def test_crash_in_flight(self):
        """The same with requests in flight, of which there is record."""
        self.need_contrib()
        self.start_crashes(contrib_blk, '-t 4 -p 100 -n 0')

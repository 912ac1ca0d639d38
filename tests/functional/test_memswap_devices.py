#!/usr/bin/env python3
"""Guest memory that is not there, on its way to the kernel and to people.

Each thread resolves its own faults here, as is the default under TCG: then
the kernel resolves none, and a system call that is given a page that isn't
there fails.  All that is sent is out of memory when it is sent.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import hashlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import unittest
import urllib.request

from memswap_vm import (MIB, MemswapTest, file_content, file_digest,
                        free_port)

PAGE = 4096
SIZE = 16 * MIB
SEED = 7


# Gives this end of the tap device an address, and gets the file.
FETCH = """
import fcntl, socket, struct, sys, urllib.request
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def assign(request, address):
    fcntl.ioctl(s, request, struct.pack(
        '16sHH4s8x', b'tap0', socket.AF_INET, 0, socket.inet_aton(address)))
assign(0x8916, '10.9.0.1')      # SIOCSIFADDR
assign(0x891c, '255.255.255.0') # SIOCSIFNETMASK
fcntl.ioctl(s, 0x8914, struct.pack('16sH14x', b'tap0', 0x41))  # up, running
with urllib.request.urlopen('http://10.9.0.2/file', timeout=60) as response:
    sys.stdout.buffer.write(response.read())
"""


class Wire(threading.Thread):
    """The far end of a stream netdev: keeps what TCP port 80 sends."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(1)
        self._segments = {}
        self.frames = 0

    def run(self):
        connection = self._listener.accept()[0]
        with self._listener, connection, connection.makefile('rb') as f:
            while header := f.read(4):
                frame = f.read(struct.unpack('>I', header)[0])
                self.frames += 1
                self._take(frame)

    def _take(self, frame):
        if frame[12:14] != b'\x08\x00' or frame[23] != socket.IPPROTO_TCP:
            return
        packet = frame[14:14 + struct.unpack('>H', frame[16:18])[0]]
        segment = packet[(packet[0] & 15) * 4:]
        port, _, sequence = struct.unpack('>HHI', segment[:8])
        data = segment[(segment[12] >> 4) * 4:]
        if port == 80 and data:
            self._segments[sequence] = data

    def sent(self):
        """All of it in order; one connection's numbers don't wrap here."""
        data, at = b'', None
        for sequence in sorted(self._segments):
            segment = self._segments[sequence]
            if at is None:
                at = sequence
            if sequence > at:
                break
            data += segment[at - sequence:]
            at = max(at, sequence + len(segment))
        return data


class Devices(MemswapTest):
    """What devices send, and what people read, is what the guest wrote."""

    def start_vm(self, *args, memory=192 * MIB, **options):
        """A VM with a file in RAM, all of it out of memory."""
        vm = self.vm(memory=memory, limit=64 * MIB, args=args, **options)
        vm.start()
        vm.agent.run(f'churn stream {SIZE} {SEED} > /tmp/file')
        self.evict(vm)
        self.assertGreater(vm.memory()['stored'], SIZE // 2)
        return vm

    def evict(self, vm):
        """Takes all there is out of memory."""
        vm.qmp.command('memswap-reclaim', size=vm.memory()['managed'])

    def keep_evicting(self, vm, job, timeout=60):
        """Takes it out again and again until a job in the guest ends."""
        deadline = time.monotonic() + timeout
        while job.code is None:
            self.assertLess(time.monotonic(), deadline)
            self.evict(vm)
        self.assertEqual(job.code, 0, job.output)

    def end(self, vm, mode='inline'):
        """The file is still what it was; nothing is left pinned by us."""
        self.assertEqual(vm.stats()['settings']['fault-mode'], mode)
        digest = file_digest(SIZE, SEED)
        self.assertIn(digest, vm.agent.run('sha256sum /tmp/file'))
        self.finish(vm)

    def test_serial(self):
        """virtio-serial to a file: the kernel reads the guest's pages."""
        vm = self.vm(memory=192 * MIB, limit=64 * MIB)
        path = vm.path('port')
        vm.add_args('-device', 'virtio-serial-pci',
                    '-chardev', f'file,id=port,path={path}',
                    '-device', 'virtserialport,chardev=port,name=port')
        vm.start()
        vm.agent.run(f'churn stream {SIZE} {SEED} > /tmp/file')
        self.evict(vm)
        self.keep_evicting(vm, vm.agent.start(
            "cat /tmp/file > $(echo /dev/vport*p1)"))
        with open(path, 'rb') as f:
            self.assertEqual(f.read(), file_content(SIZE, SEED))
        self.end(vm)

    def test_net(self):
        """virtio-net to slirp and to a socket, by way of a hub."""
        port = free_port()
        vm = self.vm(memory=192 * MIB, limit=64 * MIB)
        path = vm.path('wire')
        vm.add_args(
            '-netdev', f'user,id=user,hostfwd=tcp:127.0.0.1:{port}-:80',
            '-netdev', 'hubport,id=a,hubid=0,netdev=user',
            '-netdev', f'stream,id=wire,server=off,addr.type=unix,'
                       f'addr.path={path}',
            '-netdev', 'hubport,id=b,hubid=0,netdev=wire',
            '-netdev', 'hubport,id=nic,hubid=0',
            '-device', 'virtio-net-pci,netdev=nic')
        wire = Wire(path)
        wire.start()
        vm.start()
        vm.agent.run(f'churn stream {SIZE} {SEED} > /tmp/file; '
                     'ip addr add 10.0.2.15/24 dev eth0; '
                     'ip link set eth0 up; httpd -p 80 -h /tmp')
        self.evict(vm)
        fetched = []

        def fetch():
            with urllib.request.urlopen(f'http://127.0.0.1:{port}/file',
                                        timeout=60) as response:
                fetched.append(response.read())
        client = threading.Thread(target=fetch, daemon=True)
        client.start()
        deadline = time.monotonic() + 60
        while client.is_alive():
            self.assertLess(time.monotonic(), deadline)
            self.evict(vm)
            client.join(0.1)
        self.assertEqual(fetched[0], file_content(SIZE, SEED))
        self.assertGreater(wire.frames, SIZE // 1500)
        # Behind the answer's header the socket got the very same.
        self.assertEqual(wire.sent()[-SIZE:], file_content(SIZE, SEED))
        self.end(vm)

    def run_tap(self, vhost, **options):
        """virtio-net to a tap device, in a network of its own."""
        if not os.access('/dev/net/tun', os.R_OK | os.W_OK) or os.geteuid():
            self.skipTest('needs root and /dev/net/tun')
        vm = self.start_vm(
            '-netdev', 'tap,id=tap,ifname=tap0,script=no,downscript=no,'
                       f'vhost={vhost}',
            '-device', 'virtio-net-pci,netdev=tap',
            prefix=('unshare', '--net'), **options)
        vm.agent.run('ip addr add 10.9.0.2/24 dev eth0; ip link set eth0 up; '
                     'httpd -p 80 -h /tmp')
        for _ in self.rounds():
            self.fetch_by_tap(vm)
        return vm

    def fetch_by_tap(self, vm):
        """Gets the file, in QEMU's network, where nobody else is."""
        self.evict(vm)
        with subprocess.Popen([
                'nsenter', f'--net=/proc/{vm.pid}/ns/net', sys.executable,
                '-c', FETCH], stdout=subprocess.PIPE) as client:
            self.addCleanup(client.kill)
            fetched = []
            reader = threading.Thread(
                target=lambda: fetched.append(client.stdout.read()),
                daemon=True)
            reader.start()
            deadline = time.monotonic() + 60
            while reader.is_alive():
                self.assertLess(time.monotonic(), deadline)
                self.evict(vm)
                reader.join(0.1)
            self.assertEqual(client.wait(30), 0)
        self.assertEqual(fetched[0], file_content(SIZE, SEED))

    def test_tap(self):
        """What QEMU writes to the tap device is guest memory."""
        self.end(self.run_tap('off'))

    def test_vhost_net(self):
        """The kernel reads and writes guest memory by itself."""
        if not os.access('/dev/vhost-net', os.R_OK | os.W_OK):
            self.skipTest('there is no /dev/vhost-net')
        self.end(self.run_tap('on', memswap='fault-mode=iothread'),
                 'iothread')

    def places(self, vm):
        """Guest-physical addresses of pages of the file, by pmemsave."""
        path = vm.path('memory')
        vm.qmp.command('pmemsave', val=0, size=vm.memory()['managed'],
                       filename=path)
        data = file_content(SIZE, SEED)
        # Some of them are alike.
        wanted = {hashlib.sha1(data[at:at + PAGE]).digest(): at
                  for at in range(0, SIZE, PAGE)}
        found = {}
        with open(path, 'rb') as f:
            for addr, page in enumerate(iter(lambda: f.read(PAGE), b'')):
                at = wanted.get(hashlib.sha1(page).digest())
                if at is not None:
                    found[at] = addr * PAGE
        os.unlink(path)
        self.assertEqual(len(found), len(wanted), 'pmemsave lost pages')
        return data, found

    def dump(self, vm, **options):
        """The loadable segments of a dump: (address, bytes)."""
        path = vm.path('dump')
        vm.qmp.command('dump-guest-memory', paging=False,
                       protocol=f'file:{path}', **options)
        with open(path, 'rb') as f:
            core = f.read()
        os.unlink(path)
        self.assertEqual(core[:5], b'\x7fELF\x02')
        offset, = struct.unpack_from('<Q', core, 32)
        size, count = struct.unpack_from('<HH', core, 54)
        for n in range(count):
            kind, _, start, _, addr, length = struct.unpack_from(
                '<IIQQQQ', core, offset + n * size)
            if kind == 1:
                yield addr, core[start:start + length]

    def check_dump(self, vm):
        """A dump holds the file, where pmemsave saw it."""
        vm.qmp.command('stop')
        data, places = self.places(vm)
        self.evict(vm)
        checked = 0
        for start, segment in self.dump(vm):
            for at, addr in places.items():
                if start <= addr < start + len(segment):
                    offset = addr - start
                    self.assertEqual(segment[offset:offset + PAGE],
                                     data[at:at + PAGE])
                    checked += 1
        self.assertEqual(checked, len(places))
        vm.qmp.command('cont')

    def test_dump(self):
        """dump-guest-memory and pmemsave."""
        vm = self.start_vm()
        self.check_dump(vm)
        self.end(vm)

    def test_dump_in_iothread(self):
        """The same with an IOThread to resolve faults."""
        vm = self.start_vm(memswap='fault-mode=iothread')
        # It reads all of RAM holding the BQL: who does may pass the limit.
        vm.sampler.bound = None
        self.check_dump(vm)
        vm.wait_converged()
        self.end(vm, 'iothread')

    def test_gdb(self):
        """The gdb stub reads physical memory."""
        vm = self.start_vm()
        vm.qmp.command('stop')
        data, places = self.places(vm)
        self.evict(vm)
        port = free_port()
        vm.qmp.hmp(f'gdbserver tcp:127.0.0.1:{port}')
        with socket.create_connection(('127.0.0.1', port), 30) as stub, \
                stub.makefile('rb') as f:
            def ask(text):
                stub.sendall(b'$%s#%02x' % (text, sum(text) & 255))
                while (byte := f.read(1)) != b'$':
                    self.assertTrue(byte, 'the stub is gone')
                answer = b''
                while (byte := f.read(1)) != b'#':
                    answer += byte
                f.read(2)
                stub.sendall(b'+')
                return answer

            self.assertEqual(ask(b'Qqemu.PhyMemMode:1'), b'OK')
            for at, addr in sorted(places.items())[::50]:
                answer = ask(b'm%x,%x' % (addr, 512))
                self.assertEqual(bytes.fromhex(answer.decode()),
                                 data[at:at + 512])
            ask(b'D')
        vm.qmp.command('cont')
        self.end(vm)

    def test_screendump(self):
        """A picture of a screen, with all of memory out."""
        vm = self.start_vm('-device', 'VGA')
        path = vm.path('screen')
        vm.qmp.command('screendump', filename=path)
        with open(path, 'rb') as f:
            magic, width, height, _ = f.read(32).split()[:4]
        self.assertEqual(magic, b'P6')
        self.assertGreater(os.path.getsize(path), int(width) * int(height) * 3)
        # A picture is a memfd, too, which the view from outside counts.
        vm.quit()


if __name__ == '__main__':
    unittest.main()

#!/usr/bin/env python3
"""Device processes that say what memory they use: the rest is swapped.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import shutil
import tempfile
import time
import unittest

from memswap_qmp import QMPClosed, QMPError
from memswap_vhost import (LIMIT, RAM, CrashTests, Pinner, VhostTest,
                           contrib_blk, storage_daemon)
from memswap_vm import MIB, VMError, socket_directory


class VhostPins(CrashTests, VhostTest):
    """Memory leaves while backends work; not one byte is wrong."""

    def wait_idle(self, vm, name='disk0'):
        """Waits until nothing but rings is pinned."""
        return self.wait_device(
            vm, lambda device: device and device['pinned'] < 128 * 1024, name)

    def start_pinning(self, kind, queues=1, memswap='', **options):
        """A VM with a disk of a backend that pins what it uses."""
        vm = self.start(limit=LIMIT, memswap=memswap)
        if queues > 1:
            options['queues'] = queues
        backend = self.backend(vm, 'disk0', kind, pins=True, **options)
        self.start_with(vm, backend, queues)
        return vm, backend

    def run_io(self, kind, queues=1, **options):
        """I/O on memory that comes and goes."""
        vm, backend = self.start_pinning(kind, queues=queues, **options)
        device = self.wait_idle(vm)
        self.assertEqual(
            {**device, 'pinned': 0, 'resident': 0},
            {'chardev': 'disk0', 'id': 'disk0', 'kind': 'pin-aware',
             'attached': True, 'reachable': RAM, 'resident': 0, 'pinned': 0})
        self.assertEqual(vm.memory()['retained'], 0)
        churn = self.start_churn(vm)
        evictions = vm.counts()['evictions']
        for n in self.rounds():
            self.end_io(self.start_io(vm, f'-t 2 -p 200 -n 3000 -s {n}'))
        self.assertGreater(vm.counts()['evictions'], evictions)
        self.end_churn(churn)
        self.assert_disk(vm, 'vda', backend.image)
        self.wait_idle(vm)
        self.assertRegex(vm.qmp.hmp('info memswap'),
                         r'disk0 \(disk0\): pin-aware, has pinned')
        self.unplug(vm, 'disk0')
        self.assertEqual(vm.stats()['devices'], [])
        self.finish(vm)

    def test_storage_daemon(self):
        """QEMU's own backend, with the kernel's asynchronous I/O."""
        self.run_io(storage_daemon)

    def test_storage_daemon_io_uring(self):
        """The same with io_uring, and several queues."""
        self.run_io(storage_daemon, queues=2, aio='io_uring')

    def test_contrib(self):
        """A backend that keeps record of what is in flight."""
        self.need_contrib()
        self.run_io(contrib_blk)

    def before_kill(self, vm):
        # in the middle of a request
        self.wait_device(vm, lambda device: device['pinned'] > 64 * 1024)

    def when_gone(self, vm, n):
        # no pin is left behind
        self.assertGreater(self.reclaimed(vm, 32 * MIB), 16 * MIB, n)

    def start_disk(self, kind):
        return self.start_pinning(kind)

    def end_disk(self, vm):
        self.wait_idle(vm)
        super().end_disk(vm)

    def test_reset(self):
        """A guest that starts anew in the middle of its I/O."""
        vm, backend = self.start_pinning(storage_daemon, queues=2)
        for n in range(2):
            self.churn(vm, '-m 64 fill random:1000')
            self.start_io(vm, f'-t 4 -p 100 -s {n} -n 100000')
            self.wait_device(vm, lambda device: device['pinned'] > 64 * 1024)
            vm.qmp.command('system_reset')
            vm.agent.wait_hello(n + 2, 90)
            self.wait_disk(vm, 'vda')
            self.wait_idle(vm)
        last = vm.agent.run('diskio -d -m 24 -a 64 -n 600 /dev/vda', 90)
        self.assertRegex(last, r'checked=[1-9]\d* wrong=0$')
        self.assert_disk(vm, 'vda', backend.image)
        self.unplug(vm, 'disk0')
        self.finish(vm)

    def add_again(self, vm):
        """Adds the disk, once the one before has let go of its chardev."""
        deadline = time.monotonic() + 20
        while True:
            try:
                self.add_device(vm, 'disk0', 'slot0')
                return
            except QMPError as error:
                self.assertIn('in use', str(error))
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.05)

    def test_replug(self):
        """A device goes, and another one comes on the same connection."""
        vm, backend = self.start_pinning(storage_daemon)
        for n in range(3):
            vm.qmp.command('device_del', id='disk0')
            vm.qmp.wait_event('DEVICE_DELETED', 30)
            self.wait_disk(vm, 'vda', gone=True)
            vm.qmp.command('memswap-reclaim', size=RAM)
            self.add_again(vm)
            self.wait_disk(vm, 'vda')
            churn = vm.agent.start(f'churn -m 88 -s {n} fill random:2000')
            last = vm.agent.run(f'diskio -d -m 24 -a 64 -n 300 -s {n} '
                                '/dev/vda', 120)
            self.assertRegex(last, r'checked=[1-9]\d* wrong=0$')
            self.assertRegex(churn.wait(90).splitlines()[-1], 'wrong=0$')
            self.assert_disk(vm, 'vda', backend.image)
        self.finish(vm)

    def test_pin_limit(self):
        """With little to be pinned at a time, requests wait for others."""
        # Sixteen requests of 64 KiB are more than that.
        vm, backend = self.start_pinning(storage_daemon, queues=2,
                                         memswap='pin-limit=512K', iops=500)
        churn = self.start_churn(vm)
        for arguments in ('-a 64 -t 16 -n 1000', '-a 64 -t 16 -n 500 -s 3'):
            last = vm.agent.run(f'diskio -d -m 24 {arguments} /dev/vda', 120)
            self.assertRegex(last, r'checked=[1-9]\d* wrong=0$')
        self.assertGreater(vm.stats()['pins']['refused'], 0)
        self.end_churn(churn)
        self.assert_disk(vm, 'vda', backend.image)
        self.wait_idle(vm)
        self.unplug(vm, 'disk0')
        self.finish(vm)

    def test_front_end_ends(self):
        """QEMU is killed with requests under way, and others that wait."""
        directory = socket_directory()
        self.addCleanup(shutil.rmtree, directory)
        backend = self.backend_at(os.path.join(directory, 'disk0'), 'disk0',
                                  pins=True, queues=2)
        for n in range(3):
            vm = self.vm(f'-{n}', memory=RAM, limit=LIMIT, smp=2,
                         memswap='pin-limit=1M')
            vm.add_args('-chardev', f'socket,id=disk0,path={backend.path}',
                        '-device', 'vhost-user-blk-pci,chardev=disk0,'
                        'num-queues=2')
            vm.start()
            self.wait_disk(vm, 'vda')
            self.start_io(vm, f'-t 16 -p 500 -n 50000 -s {n}')
            self.assertTrue(backend.has_memory())
            vm.kill()
            deadline = time.monotonic() + 20
            while backend.has_memory():
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.05)
            self.assertTrue(backend.runs())

    def test_hotplug(self):
        """Memory and a disk that come and go; the limit is free to change."""
        vm = self.start(limit=LIMIT, maxmem=1024 * MIB).start()
        backend = self.backend(vm, 'disk0', pins=True, queues=2)
        self.add(vm, 'disk0', 'slot0', 2)
        self.wait_disk(vm, 'vda')
        self.assertEqual(vm.qmp.events('MEMSWAP_DEVICE_KEEPS_RESIDENT'), [])
        self.assertNotIn('stays resident', vm.stderr())
        for n in range(2):
            writer = self.start_io(vm, f'-p 100 -n 2000 -s {n}')
            vm.qmp.command('object-add', qom_type='memory-backend-memfd',
                           id='ram1', size=128 * MIB)
            vm.qmp.command('device_add', driver='pc-dimm', id='dimm1',
                           memdev='ram1')
            self.wait_device(vm, lambda device: device['reachable'] ==
                             RAM + 128 * MIB)
            self.wait_memory(vm, RAM)
            vm.set_limit(LIMIT + 16 * MIB)
            # more than there is without the DIMM
            self.churn(vm, f'-m 140 -s {n} fill random:3000', checked=3000)
            self.end_io(writer)
            vm.set_limit(LIMIT)
            vm.wait_converged()
            vm.qmp.command('device_del', id='dimm1')
            vm.qmp.wait_event('DEVICE_DELETED', 60,
                              lambda data: data.get('device') == 'dimm1')
            vm.qmp.command('object-del', id='ram1')
        self.assert_disk(vm, 'vda', backend.image)
        self.wait_idle(vm)
        self.unplug(vm, 'disk0')
        self.finish(vm)

    def test_with_unaware(self):
        """Beside one that doesn't pin, all stays; alone again, not."""
        # Plugging with TCG and several processors: see memswap_vm.py.
        vm = self.start(limit=RAM, smp=1).start()
        backends = []
        for n, pins in enumerate((True, False)):
            backends.append(self.backend(vm, f'disk{n}', pins=pins))
            self.add(vm, f'disk{n}', f'slot{n}')
            self.wait_disk(vm, f'vd{"ab"[n]}')
        self.assertEqual(
            [(d['chardev'], d['kind'], 'pinned' in d)
             for d in vm.stats()['devices']],
            [('disk0', 'pin-aware', True), ('disk1', 'unaware', False)])
        self.assertEqual(self.reclaimed(vm), 0)
        with self.assertRaisesRegex(QMPError, 'raise the limit'):
            vm.set(limit=LIMIT)
        self.unplug(vm, 'disk1')
        vm.set_limit(LIMIT)
        vm.wait_converged()
        self.assertEqual(vm.memory()['retained'], 0)

        # now one that doesn't pin is refused, in one line, and leaves
        backends[1].kill()
        backends[1].start()
        with self.assertRaisesRegex(
                QMPError, 'memswap: vhost-user devices keep all guest RAM '
                'resident, 256 MiB, and the limit is 89 MiB: raise the '
                'limit, or use no vhost-user device'):
            self.add(vm, 'disk1', 'slot1')
        self.assertEqual(len(vm.stats()['devices']), 1)
        self.assertNotIn('Reconnecting', vm.stderr())
        last = vm.agent.run('diskio -d -m 24 -a 64 -n 600 /dev/vda', 90)
        self.assertRegex(last, r'checked=[1-9]\d* wrong=0$')
        self.assert_disk(vm, 'vda', backends[0].image)
        self.unplug(vm, 'disk0')
        self.finish(vm)

    def test_refused_at_start(self):
        """The same with a device that is there from the start."""
        vm = self.start(limit=LIMIT)
        backend = self.backend(vm, 'disk0')
        vm.add_args('-chardev', f'socket,id=disk0,path={backend.path}',
                    '-device', 'vhost-user-blk-pci,chardev=disk0,num-queues=1')
        with self.assertRaises((QMPClosed, VMError)):
            vm.launch()
        self.assertEqual(vm.wait_exit(), 1)
        self.assertRegex(vm.stderr(), 'memswap: vhost-user devices keep all '
                         'guest RAM resident, 256 MiB, and the limit')
        self.assertNotIn('Reconnecting', vm.stderr())

    def test_holds_pins(self):
        """What a backend has pinned stays until it lets go of memory."""
        vm = self.start(limit=LIMIT).start()
        self.churn(vm, '-m 64 fill random:100')
        backend = Pinner(vm.path('disk0'))
        backend.start()
        self.add(vm, 'disk0', 'slot0')
        self.assertTrue(backend.mapped.wait(30))
        sizes = {start: table[0] for start, table in backend.tables.items()}
        # all of RAM has a table
        self.assertGreater(sum(sizes.values()), RAM - MIB)
        start = max(sizes, key=sizes.get)
        for n in range(15):
            backend.pin((start + n * 2 * MIB, 512))
        # every other page of 4 MiB
        backend.pin(*((start + 30 * MIB + n * 8192, 1)
                      for n in range(512)))
        pinned = 16 * 2 * MIB
        self.assertEqual(self.device(vm)['pinned'], pinned)
        vm.set_limit(16 * MIB)
        deadline = time.monotonic() + 30
        while vm.memory()['resident'] > pinned + 2 * MIB:
            self.assertLess(time.monotonic(), deadline, vm.memory())
            self.reclaimed(vm)
        self.assertGreaterEqual(vm.memory()['resident'], pinned)
        # all of the limit is pinned: it is passed rather than to stand still
        vm.sampler.bound = None
        self.churn(vm, '-m 16 fill random:100', timeout=120)

        # it asks for what it must not, and is hung up on; its pins last
        self.assertEqual(backend.ask(b'no packet'), b'')
        backend.hang_up()
        self.wait_device(vm, lambda device: not device['attached'])
        self.assertEqual(self.device(vm)['pinned'], pinned)
        self.assertIn('pin-aware, leaving', vm.qmp.hmp('info memswap'))
        self.assertGreaterEqual(vm.memory()['resident'], pinned)
        self.assertEqual(vm.qmp.events('MEMSWAP_DEVICE_GONE'), [])
        backend.unmap()
        vm.qmp.wait_event('MEMSWAP_DEVICE_GONE', 10)
        vm.wait_converged()
        self.churn(vm, '-m 64 fill random:100')
        self.finish(vm)


if __name__ == '__main__':
    unittest.main()

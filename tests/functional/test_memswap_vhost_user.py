#!/usr/bin/env python3
"""Device processes that say nothing of what memory they use: it all stays.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import re
import time
import unittest

from memswap_qmp import QMPError
from memswap_vhost import RAM, CrashTests, Mapper, VhostTest
from memswap_vm import MIB


class VhostUser(CrashTests, VhostTest):
    """Backends come, go, and die; not one byte is wrong on either side."""

    def plug(self, vm, name, bus, queues=1):
        """Adds a device to a running VM; returns when RAM stays for it."""
        self.add(vm, name, bus, queues)
        vm.qmp.wait_event('MEMSWAP_DEVICE_KEEPS_RESIDENT', 10,
                          lambda data: data['chardev'] == name)

    def assert_all_there(self, vm):
        """Nothing is out, and nothing leaves."""
        memory = vm.memory()
        self.assertEqual(memory['stored'] + memory['zero'], 0, memory)
        # the guest runs on between the two
        self.assertAlmostEqual(memory['retained'], memory['resident'],
                               delta=MIB)
        self.assertEqual(self.reclaimed(vm), 0)

    def balloon(self, vm, size):
        """Has the guest keep so much memory; waits until it does."""
        vm.qmp.command('balloon', value=size)
        deadline = time.monotonic() + 60
        while vm.qmp.command('query-balloon')['actual'] != size:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)

    def test_plug(self):
        """What is out comes back before a backend has it; then all stays."""
        vm = self.start().start()
        job = vm.agent.start('churn -m 64 -s 7 fill until seq')
        job.wait_line('progress name=until', 60)
        vm.qmp.command('memswap-reclaim', size=64 * MIB)
        self.assertGreater(vm.memory()['stored'], 16 * MIB)

        backend = self.backend(vm, 'disk0')
        self.plug(vm, 'disk0', 'slot0')
        self.wait_disk(vm, 'vda')
        self.assert_all_there(vm)
        device, = vm.stats()['devices']
        self.assertEqual(device, {
            'chardev': 'disk0', 'id': 'disk0', 'kind': 'unaware',
            'attached': True, 'reachable': RAM,
            'resident': device['resident']})
        self.assertRegex(vm.qmp.hmp('info memswap'),
                         r'disk0 \(disk0\): unaware, keeps resident')
        self.assertEqual(len(re.findall(
            "'disk0' doesn't say what memory it uses: all guest RAM stays "
            'resident', vm.stderr())), 1, vm.stderr())
        with self.assertRaisesRegex(QMPError, 'vhost-user devices keep all '
                                    'guest RAM resident, 256 MiB, and the '
                                    'limit is 128 MiB: raise the limit'):
            vm.set(limit=128 * MIB)

        last = vm.agent.run('diskio -d -m 24 -a 64 -n 600 /dev/vda', 90)
        self.assertRegex(last, r'checked=[1-9]\d* wrong=0$')
        self.assert_all_there(vm)
        self.assert_disk(vm, 'vda', backend.image)
        self.unplug(vm, 'disk0')
        self.assertEqual(vm.stats()['devices'], [])
        self.assertGreater(self.reclaimed(vm, 64 * MIB), 48 * MIB)
        job.send()
        job.wait(60)
        self.finish(vm)

    def before_kill(self, vm):
        vm.qmp.forget_events('MEMSWAP_DEVICE_KEEPS_RESIDENT')

    def when_gone(self, vm, n):
        self.assertGreater(self.reclaimed(vm, 64 * MIB), 16 * MIB, n)
        self.assertEqual(vm.memory()['retained'], 0)

    def wait_back(self, vm):
        vm.qmp.wait_event('MEMSWAP_DEVICE_KEEPS_RESIDENT', 10)
        memory = vm.memory()
        self.assertEqual(memory['stored'] + memory['zero'], 0, memory)

    def start_disk(self, kind):
        vm = self.start()
        backend = self.backend(vm, 'disk0', kind)
        self.start_with(vm, backend)
        self.assert_all_there(vm)
        return vm, backend

    def test_several(self):
        """Several at once, with several queues; RAM that comes and goes."""
        vm = self.start(limit=448 * MIB, maxmem=1024 * MIB, args=(
            '-device', 'virtio-balloon-pci,id=balloon')).start()
        backends = [self.backend(vm, f'disk{n}', queues=2, aio=aio)
                    for n, aio in enumerate(('native', 'io_uring'))]
        # one after the other: the guest names them in the order it finds them
        self.plug(vm, 'disk0', 'slot0', 2)
        self.wait_disk(vm, 'vda')
        self.plug(vm, 'disk1', 'slot1', 2)
        self.wait_disk(vm, 'vdb')
        writers = [vm.agent.start(f'diskio -d -m 24 -a 32 -n 800 -s {n} '
                                  f'/dev/{disk}')
                   for n, disk in enumerate(('vda', 'vdb'))]

        # more RAM joins, as long as the limit has room for all of it
        for name, size in (('ram1', 128), ('ram2', 128)):
            vm.qmp.command('object-add', qom_type='memory-backend-memfd',
                           id=name, size=size * MIB)
        vm.qmp.command('device_add', driver='pc-dimm', id='dimm1',
                       memdev='ram1')
        self.assertEqual(vm.stats()['devices'][0]['reachable'], RAM +
                         128 * MIB)
        with self.assertRaisesRegex(QMPError, 'keep all guest RAM resident, '
                                    '512 MiB, and the limit is 448 MiB'):
            vm.qmp.command('device_add', driver='pc-dimm', id='dimm2',
                           memdev='ram2')
        self.wait_memory(vm, RAM)
        self.churn(vm, '-m 160 fill random:3000', checked=3000)

        # what the guest gives up goes all the same
        discards = vm.counts()['discards']
        self.balloon(vm, RAM)
        self.assertGreater(vm.counts()['discards'], discards)
        for writer in writers:
            writer.wait(90)
            self.assertRegex(writer.lines[-1], r'checked=[1-9]\d* wrong=0$')
        self.balloon(vm, RAM + 128 * MIB)
        self.assert_all_there(vm)
        for disk, backend in zip(('vda', 'vdb'), backends):
            self.assert_disk(vm, disk, backend.image)

        # the last one to go lets it go
        self.unplug(vm, 'disk0')
        self.assertEqual(self.reclaimed(vm), 0)
        self.unplug(vm, 'disk1')
        self.assertGreater(self.reclaimed(vm), 64 * MIB)
        self.finish(vm)

    def test_hangs_up(self):
        """A backend that hangs up and goes on using memory still has it."""
        vm = self.start().start()
        self.churn(vm, '-m 64 fill random:100')
        backend = Mapper(vm.path('disk0'))
        backend.start()
        self.plug(vm, 'disk0', 'slot0')
        self.assertTrue(backend.mapped.wait(30))
        backend.hang_up()
        self.wait_device(vm, lambda device: not device['attached'], timeout=30)
        self.assert_all_there(vm)
        self.assertIn('leaving', vm.qmp.hmp('info memswap'))
        self.assertEqual(vm.qmp.events('MEMSWAP_DEVICE_GONE'), [])
        backend.unmap()
        vm.qmp.wait_event('MEMSWAP_DEVICE_GONE', 10)
        self.assertGreater(self.reclaimed(vm), 32 * MIB)
        self.churn(vm, '-m 64 fill random:100')
        self.finish(vm)


if __name__ == '__main__':
    unittest.main()

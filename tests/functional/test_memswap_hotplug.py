#!/usr/bin/env python3
"""Memory that comes and goes while the guest runs: pc-dimm and virtio-mem.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import time
import unittest

from memswap_vm import MIB, MemswapTest


class Hotplug(MemswapTest):
    """Hotplugged memory is managed, unplugged memory is forgotten."""

    def test_pc_dimm(self):
        """A DIMM comes under the limit, holds data, and leaves."""
        vm = self.vm(memory=256 * MIB, maxmem=1024 * MIB,
                     limit=96 * MIB).start()
        total = self.guest_total(vm)
        job = vm.agent.start('churn -m 96 -s 7 fill until seq')
        job.wait_line('progress name=until', 60)
        vm.qmp.command('object-add', qom_type='memory-backend-memfd',
                       id='ram1', size=256 * MIB)
        vm.qmp.command('device_add', driver='pc-dimm', id='dimm1',
                       memdev='ram1')
        self.wait_total(vm, lambda t: t > total + 200 * MIB,
                        'the DIMM does not come up in the guest')
        self.assertEqual(vm.memory()['managed'], 512 * MIB)
        # More than what was there before can hold.
        self.churn(vm, '-m 256 fill random:5000', checked=5000)
        self.assert_adds_up(vm)

        vm.qmp.command('device_del', id='dimm1')
        vm.qmp.wait_event('DEVICE_DELETED',
                          match=lambda data: data.get('device') == 'dimm1')
        vm.qmp.command('object-del', id='ram1')
        # QEMU frees memory once nobody can look at it any more.
        deadline = time.monotonic() + 20
        while vm.memory()['managed'] != 256 * MIB:
            self.assertLess(time.monotonic(), deadline,
                            'memory that is gone is still managed')
            time.sleep(0.02)
        job.send()
        job.wait(60)
        self.finish(vm)

    def test_virtio_mem(self):
        """virtio-mem grows and shrinks below a limit that stays."""
        vm = self.vm(
            memory=256 * MIB, maxmem=1024 * MIB, limit=96 * MIB,
            args=('-object', 'memory-backend-memfd,id=vmem,size=512M',
                  '-device', 'virtio-mem-pci,id=vm0,memdev=vmem,'
                             'requested-size=0')).start()
        job = vm.agent.start('churn -m 96 -s 7 fill until seq')
        job.wait_line('progress name=until', 60)

        def resize(size):
            vm.qmp.command('qom-set', path='/machine/peripheral/vm0',
                           property='requested-size', value=size)
            vm.qmp.wait_event('MEMORY_DEVICE_SIZE_CHANGE', 60,
                              lambda data: data['size'] == size)

        for n in range(2):
            resize(256 * MIB)
            self.churn(vm, f'-m 160 -s {n} fill random:2000', checked=2000)
            discards = vm.counts()['discards']
            resize(0)
            self.assertGreater(vm.counts()['discards'], discards)
            self.assertGreaterEqual(vm.memory()['untouched'], 512 * MIB)
        job.send()
        job.wait(60)
        self.finish(vm)


if __name__ == '__main__':
    unittest.main()

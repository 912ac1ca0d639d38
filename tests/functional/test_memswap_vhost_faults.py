#!/usr/bin/env python3
"""Device processes whose page faults are resolved: memory is swapped.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import unittest

from memswap_vhost import LIMIT, RAM, VhostTest, storage_daemon


@unittest.skipIf(os.getuid(), 'the kernel resolves faults of system calls for '
                 'root only')
class VhostFaults(VhostTest):
    """Memory leaves while backends work; not one byte is wrong."""

    PATIENCE = 2

    def start_copying(self, limit=LIMIT, queues=1, dma='off', direct=False):
        """A VM with a disk of a backend that copies."""
        vm = self.start(limit=limit, memswap=f'vhost-user-dma={dma}')
        backend = self.backend(vm, 'disk0', storage_daemon, aio='threads',
                               queues=queues, direct=direct)
        self.start_with(vm, backend, queues)
        return vm, backend

    def test_io(self):
        """A backend that copies, with two queues."""
        vm, backend = self.start_copying(queues=2)
        self.assertEqual(self.device(vm), {
            'chardev': 'disk0', 'id': 'disk0', 'kind': 'fault-capable',
            'attached': True, 'reachable': RAM, 'resident': 0})
        self.assertEqual(vm.memory()['retained'], 0)
        evictions = vm.counts()['evictions']
        churn = self.start_churn(vm)
        for n in self.rounds():
            self.end_io(self.start_io(vm, f'-t 2 -p 200 -n 3000 -s {n}'))
        self.end_churn(churn)
        self.assert_disk(vm, 'vda', backend.image)
        self.assertGreater(vm.counts()['evictions'], evictions + 1000)
        self.assertGreater(vm.stats()['faults']['remote'], 100)
        self.assertRegex(vm.qmp.hmp('info memswap'),
                         r'disk0 \(disk0\): fault-capable')
        self.unplug(vm, 'disk0')
        self.assertEqual(vm.stats()['devices'], [])
        self.finish(vm)

    def test_crash(self):
        """kill -9 in the middle of its work, again and again."""
        vm, backend = self.start_copying()
        self.run_crashes(vm, backend, '-t 1 -p 100 -n 0')
        self.finish(vm)

    def test_not_stated(self):
        """Without the operator's word all of it stays."""
        vm, _ = self.start_copying(limit=RAM, dma='on', direct=True)
        self.assertEqual(self.device(vm)['kind'], 'unaware')
        self.assertEqual(self.reclaimed(vm), 0)
        self.finish(vm)


if __name__ == '__main__':
    unittest.main()

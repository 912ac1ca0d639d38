#!/usr/bin/env python3
"""What the monitor answers while a guest is being swapped, and refuses.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import unittest

from memswap_qmp import QMPError
from memswap_vm import MIB, MemswapTest


class Monitor(MemswapTest):
    """One guest that churns, and an operator who interferes."""

    def test_out_of_band(self):
        """query-memswap and memswap-set overtake what the main loop does;
        bad settings change nothing."""
        vm = self.vm(memory=256 * MIB, limit=96 * MIB).start()
        job = vm.agent.start('churn -m 160 fill until seq')
        job.wait_line('progress name=until', 60)
        for n in range(40):
            # Waits in line on the main loop, the other two do not.
            slow = vm.qmp.send('human-monitor-command',
                               **{'command-line': 'info mtree -f'})
            limit = (80 + n % 2 * 16) * MIB
            vm.set(oob=True, limit=limit)
            self.assertEqual(vm.stats(oob=True)['settings']['limit'], limit)
            vm.qmp.receive(slow)
        limit = vm.stats()['settings']['limit']
        for bad in ({'limit': 0}, {'limit': 4096}, {'limit': 512 * MIB},
                    {'limit': 64 * MIB, 'compression_level': 1000},
                    {'limit': 64 * MIB, 'pool_limit': 1}):
            with self.assertRaises(QMPError, msg=bad) as refused:
                vm.set(oob=True, **bad)
            self.assertNotIn('\n', refused.exception.description)
            self.assertEqual(vm.stats()['settings']['limit'], limit)
        self.assertIn('resident', vm.qmp.hmp('info memswap').lower())
        job.send()
        job.wait(60)
        self.finish(vm)

    def test_refused(self):
        """Migration and snapshots: not yet, in one line; the guest's memory
        is what it was."""
        vm = self.vm(memory=256 * MIB, limit=96 * MIB).start()
        job = vm.agent.start('churn -m 160 fill wait seq')
        job.wait_line('^waiting', 60)
        with self.assertRaisesRegex(QMPError, 'memswap.*not supported yet'):
            vm.qmp.command('migrate', uri=f'exec:cat>{vm.path("state")}')
        with self.assertRaisesRegex(QMPError, 'memswap.*not supported yet'):
            vm.qmp.command('migrate', uri=f'file:{vm.path("state")}')
        self.assertIn('memswap', vm.qmp.hmp('savevm one'))
        self.assertEqual(vm.qmp.command('query-status')['status'], 'running')
        job.send()
        job.wait(60)
        self.finish(vm)


if __name__ == '__main__':
    unittest.main()

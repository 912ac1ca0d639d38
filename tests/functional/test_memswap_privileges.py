#!/usr/bin/env python3
"""The ways in which a QEMU is locked up on a host.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import pwd
import unittest

from memswap_vm import MIB, MemswapTest



def sandbox(elevate='deny'):
    """The arguments for every deny there is.

    What denies elevating privileges denies the setuid() that gives them up.
    """
    return '-sandbox', (f'on,obsolete=deny,elevateprivileges={elevate},'
                        'spawn=deny,resourcecontrol=deny')


class Privileges(MemswapTest):
    """Swapping goes on with fewer rights than QEMU started with."""

    def work(self, vm):
        """Swaps for real, then ends."""
        self.churn(vm, '-m 160 fill random:3000', checked=3000)
        vm.set_limit(48 * MIB)
        vm.wait_converged()
        self.assertGreater(vm.counts()['evictions'], 10000)
        self.finish(vm)

    def test_sandbox(self):
        """-sandbox on with every deny."""
        vm = self.vm(memory=256 * MIB, limit=64 * MIB,
                     args=sandbox()).start()
        with open(f'/proc/{vm.pid}/status', encoding='ascii') as f:
            self.assertIn('Seccomp:\t2', f.read())
        self.work(vm)

    def test_daemonize(self):
        """-daemonize: userfaultfd and memory outlive the fork."""
        vm = self.vm(memory=256 * MIB, limit=64 * MIB, daemonize=True).start()
        self.work(vm)

    @unittest.skipUnless(os.geteuid() == 0, 'needs root')
    def test_user(self):
        """-run-with user=: rights are dropped after the start; with every
        deny that allows it."""
        vm = self.vm(memory=256 * MIB, limit=64 * MIB,
                     args=('-run-with', 'user=nobody',
                           *sandbox('allow'))).start()
        self.assertEqual(os.stat(f'/proc/{vm.pid}').st_uid,
                         pwd.getpwnam('nobody').pw_uid)
        self.work(vm)


if __name__ == '__main__':
    unittest.main()

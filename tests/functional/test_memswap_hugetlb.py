#!/usr/bin/env python3
"""RAM on hugetlbfs, in whole pages of 2 MiB, below a limit.

Takes hugepages from the host for as long as it runs.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import unittest

from memswap_hugepages import POOL, take
from memswap_vm import MIB, MemswapTest

RAM = 256 * MIB
LIMIT = 128 * MIB


class Hugetlb(MemswapTest):
    """A guest whose RAM comes and goes in hugepages."""

    def take_hugepages(self, count):
        """Has the host make so many more hugepages, or skips."""
        if not os.access(POOL, os.W_OK):
            self.skipTest('no right to the host\'s hugepages')
        gained, release = take(count)
        self.addCleanup(release)
        if gained < count:
            self.skipTest('the host has no memory for hugepages')

    def test_churn(self):
        """All of the RAM goes through half as many hugepages."""
        self.take_hugepages(LIMIT // (2 * MIB) + 2)
        vm = self.vm(memory=RAM, limit=LIMIT, args=(
            '-object', f'memory-backend-memfd,id=ram,size={RAM},'
                       'hugetlb=on,reserve=off',
            '-machine', 'memory-backend=ram')).start()
        # Cleanups run last in, first out: the VM goes before the hugepages.
        self.addCleanup(vm.kill)
        self.churn(vm, '-m 180 fill seq random:300', checked=300)
        memory = vm.memory()
        self.assertLessEqual(memory['peak-resident'], LIMIT)
        self.assertGreater(memory['stored'], 16 * MIB)
        self.assertEqual(memory['resident'] % (2 * MIB), 0)
        self.assertEqual(vm.counts()['overshoots'], 0)
        self.assert_adds_up(vm)


if __name__ == '__main__':
    unittest.main()

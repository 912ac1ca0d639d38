#!/usr/bin/env python3
"""The example of a policy outside of QEMU, on a guest that is at work.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import subprocess
import unittest

from memswap_vm import MIB, MemswapTest

EXAMPLE = os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', '..',
                       'scripts', 'memswap-policy-example')


class PolicyOutside(MemswapTest):
    """scripts/memswap-policy-example, as the docs run it."""

    def example(self, vm, *arguments):
        """Runs it to its end; the sum of what it says it moved."""
        done = subprocess.run([EXAMPLE, vm.path('outside'), *arguments],
                              check=False, timeout=120, encoding='utf-8',
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(done.returncode, 0, done.stdout)
        return sum(int(line.split()[-1]) for line in done.stdout.splitlines())

    def test_squeeze_and_bring_back(self):
        """What is idle leaves, down to the target, and comes back when asked
        for; the guest's memory is what it was."""
        vm = self.vm(memory=256 * MIB, limit=256 * MIB)
        vm.add_args('-qmp', f'unix:{vm.path("outside")},server=on,wait=off')
        vm.start()
        job = vm.agent.start('churn -m 128 fill wait seq')
        job.wait_line('^waiting', 60)
        before = vm.memory()['resident']
        self.assertGreater(before, 128 * MIB)
        out = self.example(vm, '--target', '64', '--interval', '0.5',
                           '--rounds', '12')
        self.assertGreaterEqual(out, before - 80 * MIB)
        self.assertLess(vm.memory()['resident'], 80 * MIB)
        back = self.example(vm, '--prefetch')
        self.assertGreater(back, 64 * MIB)
        self.assertGreater(vm.memory()['resident'], 128 * MIB)
        # What came back is there without a fault for it.
        stored = vm.stats()['faults']['stored']
        job.send()
        job.wait(60)
        self.assertLess(vm.stats()['faults']['stored'] - stored, 1000)
        self.finish(vm)

    def test_no_target(self):
        """Nothing is taken from a guest unless it is said how much."""
        done = subprocess.run([EXAMPLE, 'nowhere'], check=False, timeout=60,
                              encoding='utf-8', stderr=subprocess.PIPE)
        self.assertEqual(done.returncode, 2)
        self.assertIn('--target', done.stderr.splitlines()[-1])

    def test_refused(self):
        """What QEMU refuses ends it, with one line."""
        vm = self.vm(memory=64 * MIB, guest=False)
        vm.add_args('-qmp', f'unix:{vm.path("outside")},server=on,wait=off')
        vm.launch()
        done = subprocess.run([EXAMPLE, vm.path('outside'), '--prefetch'],
                              check=False, timeout=60, encoding='utf-8',
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(done.returncode, 1)
        self.assertIn('guest RAM is not swapped', done.stderr)
        self.assertEqual(done.stderr.count('\n'), 1)
        vm.quit()


if __name__ == '__main__':
    unittest.main()

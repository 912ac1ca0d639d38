#!/usr/bin/env python3
"""Policies that know the guest's own addresses, with a real guest.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import subprocess
import tempfile
import unittest

from memswap_vm import MIB, REPOSITORY, MemswapTest

SOURCE = os.path.join(REPOSITORY, 'tests', 'functional', 'policies',
                      'observer.c')
# Twice what may stay, side by side only for the program.
MEMORY = 192
PAGES = MEMORY * 256
ROUNDS = 3


class Virtual(MemswapTest):
    """Faults carry the guest's own addresses, and "virtual" uses them."""

    def run_with(self, policy, memswap='', smp=1):
        """Runs a program with a policy; returns what this has done."""
        vm = self.vm(limit=MEMORY // 2 * MIB, memswap=memswap, smp=smp, args=(
            '-object', f'memswap-policy,id=p0,{policy}')).start()
        self.churn(vm, f'-m {MEMORY} -t {smp} scatter seq:{ROUNDS}',
                   checked=ROUNDS * PAGES, timeout=180)
        done, = (policy for policy in vm.stats()['policies']
                 if policy['id'] == 'p0')
        self.assertNotIn('error', done)
        self.finish(vm)
        return done, {counter['name']: counter['value']
                      for counter in done['counters']}

    def observe(self, memswap='', smp=1):
        """Counts of a policy that checks what it is told."""
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, 'observer.so')
            subprocess.run([os.environ.get('CC', 'cc'), '-shared', '-fPIC',
                            '-O2', '-Wall', '-I',
                            os.path.join(REPOSITORY, 'include'), '-o', path,
                            SOURCE], check=True)
            counts = self.run_with(f'path={path}', memswap, smp)[1]
        self.assertGreater(counts['faults'], PAGES // 4, counts)
        return counts

    def assert_most(self, counts, part, whole, percent):
        """Of one count, another is so much at least."""
        self.assertGreaterEqual(100 * counts[part], percent * counts[whole],
                                counts)

    def test_inline(self):
        """In the vCPU's thread all is known, and right."""
        counts = self.observe(smp=2)
        self.assert_most(counts, 'vcpu', 'faults', 98)
        self.assert_most(counts, 'root', 'faults', 95)
        self.assert_most(counts, 'address', 'faults', 90)
        self.assert_most(counts, 'pc', 'faults', 90)
        self.assert_most(counts, 'same', 'address', 90)
        # A page may have moved before it was looked for.
        self.assertLessEqual(100 * counts['other'], counts['same'], counts)
        self.assert_most(counts, 'reverse-same', 'address', 80)
        self.assertGreater(counts['user'], counts['faults'] // 2, counts)
        self.assert_most(counts, 'user-text', 'user', 99)

    def test_in_iothread(self):
        """In another thread only the vCPU is; addresses can be looked up."""
        counts = self.observe('fault-mode=iothread', smp=2)
        self.assert_most(counts, 'vcpu', 'faults', 95)
        self.assertEqual(counts['root'], 0)
        self.assertEqual(counts['address'], 0)
        self.assertEqual(counts['pc'], 0)
        self.assert_most(counts, 'reverse', 'faults', 80)

    def check_prefetch(self, memswap=''):
        """What is side by side for the program comes in before its touch."""
        done, counts = self.run_with('builtin=virtual', memswap)
        self.assertGreater(counts['known'], 9 * counts['unknown'], counts)
        self.assertGreater(done['prefetched'], PAGES // 10, done)
        self.assertGreater(done['hits'], 100, done)
        self.assertLess(5 * done['wasted'], done['hits'] + done['wasted'],
                        done)

    def test_prefetch(self):
        """By the addresses that come with the faults."""
        self.check_prefetch()

    def test_prefetch_in_iothread(self):
        """By addresses that are looked up."""
        self.check_prefetch('fault-mode=iothread')

    def test_linear(self):
        """In the guest's RAM there is no order to be found."""
        # What there is while it boots is left to reading ahead.
        done = self.run_with('builtin=linear', 'readahead=128K')[0]
        self.assertLess(done['prefetched'], PAGES // 50, done)


if __name__ == '__main__':
    unittest.main()

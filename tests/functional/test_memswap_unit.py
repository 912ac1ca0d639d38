#!/usr/bin/env python3
"""The engine's unit tests on the oldest kernel served, in the test guest.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import glob
import os
import re
import subprocess
import time
import unittest

from memswap_initramfs import Initramfs
from memswap_vm import BUILD, MIB, MemswapTest

TESTS = os.path.join(BUILD, 'engine', 'tests', 'unit')
AT_ONCE = 2     # programs, on as many processors
# The pool, ages, statistics and the policies ask nothing of a kernel that
# differs, and injected failures are everywhere the same.  The stress of 2 MiB
# pages gets hardly a page a second through there, what else moves many of them
# takes minutes, and so does the stress of two processes, or a full pool.  How
# tight the limit or the store is changes nothing for the kernel.
NOT_RUN = ('test-age', 'test-exposed-stress', 'test-failure',
           'test-generation', 'test-guest-table', 'test-hugetlb-stress',
           'test-huge-failure', 'test-offers', 'test-policy', 'test-pool',
           'test-prefetch', 'test-pressure', 'test-ranges',
           'test-shared-stress', 'test-stats', 'test-streams', 'test-target',
           'test-virtual', 'test-working', 'test-word')
NOT_TESTED = ('/block/many-times', '/block/metadata', '/hugetlb/failures',
              '/hugetlb/warm', '/hugetlb-empty/both-sizes',
              '/hugetlb-empty/evictors', '/reclaim/compacts',
              '/retain/stress', '/stress/full', '/stress/tight')
LONGEST = 'test-hugetlb'        # are begun first
DEADLINE = 1200  # seconds for all of them, on a slow machine


def test_binaries():
    """The programs that the engine's stand-alone build made."""
    found = (os.path.basename(path)
             for path in glob.glob(os.path.join(TESTS, 'test-*'))
             if os.path.isfile(path) and os.access(path, os.X_OK))
    return [os.path.join(TESTS, name)
            for name in sorted(found, key=lambda name:
                               (not name.startswith(LONGEST), name))
            if not name.startswith(NOT_RUN)]


def libraries(program):
    """The shared libraries that a program is loaded with."""
    said = subprocess.run(['ldd', program], check=True, text=True,
                          stdout=subprocess.PIPE).stdout
    return re.findall(r'(/\S+) \(0x', said)


@unittest.skipUnless(test_binaries(), 'the engine is not built on its own')
class UnitTests(MemswapTest):
    """Each test program, without memswap below the guest."""

    def make_initramfs(self, programs):
        """The guest's initramfs and one more with the test programs."""
        archive = Initramfs()
        for program in programs:
            archive.file(f'tests/{os.path.basename(program)}', program)
            for library in libraries(program):
                archive.file(library.lstrip('/'), library)
        for policy in glob.glob(os.path.join(TESTS, 'policy-*.so')):
            archive.file(f'tests/{os.path.basename(policy)}', policy)
        return self.initrd_with(archive)

    def test_on_oldest_kernel(self):
        """Every unit test that may differ there passes."""
        programs = test_binaries()
        vm = self.vm(memory=1024 * MIB, smp=AT_ONCE,
                     initrd=self.make_initramfs(programs)).start()
        self.assertRegex(vm.agent.run('uname -r'), r'^6\.1\.')
        names = [os.path.basename(program) for program in programs]
        # A guest has few descriptors by default, and no time for stress.
        before = ('ulimit -n $(ulimit -Hn); cd /tmp; '
                  'export MEMSWAP_STRESS_SECONDS=2; exec')
        skip = ' '.join(f'-s {path}' for path in NOT_TESTED)
        jobs = {}
        deadline = time.monotonic() + DEADLINE
        while names or jobs:
            self.assertLess(time.monotonic(), deadline,
                            f'not done: {list(jobs)}')
            while names and len(jobs) < AT_ONCE:
                name = names.pop(0)
                jobs[name] = time.monotonic(), vm.agent.start(
                    f'{before} /tests/{name} --tap -k {skip}')
            time.sleep(0.05)
            for name in [n for n, (_, job) in jobs.items()
                         if job.code is not None]:
                began, job = jobs.pop(name)
                print(f'# {name}: {time.monotonic() - began:.1f} s')
                self.check(name, job)
        vm.quit()

    def check(self, name, job):
        """All of a test program's tests passed."""
        with self.subTest(program=name):
            bad = [line for line in job.lines
                   if not line.startswith(('ok ', '#', '1..'))]
            self.assertEqual((job.code, bad), (0, []))
            self.assertIn(f'1..{job.output.count("ok ")}', job.lines)


if __name__ == '__main__':
    unittest.main()

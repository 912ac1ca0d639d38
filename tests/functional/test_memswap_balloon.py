#!/usr/bin/env python3
"""Memory that the guest gives back: balloon and free page reporting.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import time
import unittest

from memswap_vm import MIB, MemswapTest


class Balloon(MemswapTest):
    """Discards meet a guest that churns below its limit."""

    def wait_balloon(self, vm, size):
        """Waits until the guest has so much memory left."""
        deadline = time.monotonic() + 60
        while True:
            actual = vm.qmp.command('query-balloon')['actual']
            if actual == size:
                return
            self.assertLess(time.monotonic(), deadline,
                            f'the balloon stays at {actual // MIB} MiB')
            time.sleep(0.02)

    def test_inflate_and_deflate(self):
        """Ballooned pages are nowhere, and come back as zeroes."""
        vm = self.vm(limit=96 * MIB,
                     args=('-device', 'virtio-balloon-pci')).start()
        # So that there are stored copies of what the balloon will take.
        self.churn(vm, '-m 256 -s 9 fill')
        job = vm.agent.start('churn -m 96 fill until seq')
        job.wait_line('progress name=until', 60)
        for _ in range(2):
            vm.qmp.command('balloon', value=256 * MIB)
            self.wait_balloon(vm, 256 * MIB)
            self.assertGreaterEqual(vm.memory()['untouched'], 250 * MIB)
            vm.qmp.command('balloon', value=512 * MIB)
            self.wait_balloon(vm, 512 * MIB)
            self.churn(vm, '-m 128 fill random:2000', checked=2000)
        job.send()
        job.wait(60)
        self.finish(vm)

    def test_free_page_reporting(self):
        """What a process leaves behind goes, stored copies included."""
        vm = self.vm(limit=96 * MIB, args=(
            '-device', 'virtio-balloon-pci,free-page-reporting=on')).start()
        job = vm.agent.start('churn -m 96 -s 3 fill until seq')
        job.wait_line('progress name=until', 60)
        for n in range(2):
            filler = vm.agent.start(f'churn -m 256 -s {n} fill until seq')
            filler.wait_line('progress name=until', 60)
            # while it has all that: what it leaves may be reported at once
            full = vm.memory()
            discards = vm.counts()['discards']
            filler.send()
            self.assertRegex(filler.wait(60).splitlines()[-1], 'wrong=0$')
            # The guest's kernel reports every two seconds.
            deadline = time.monotonic() + 30
            while True:
                memory = vm.memory()
                if memory['untouched'] >= full['untouched'] + 192 * MIB:
                    break
                self.assertLess(time.monotonic(), deadline,
                                'free memory is not discarded')
                time.sleep(0.1)
            self.assertGreater(vm.counts()['discards'], discards)
            self.assertLess(memory['stored'], full['stored'])
        job.send()
        job.wait(60)
        self.finish(vm)


if __name__ == '__main__':
    unittest.main()

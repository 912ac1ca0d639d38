#!/usr/bin/env python3
"""A real guest under a limit: from the start, changed, restarted, in use.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import re
import time
import unittest

from memswap_vm import MIB, MemswapTest, file_digest


class Limit(MemswapTest):
    """What an operator does with the limit while the guest works."""

    def test_from_the_start(self):
        """Every value and every file is right with a third of RAM resident;
        memswap-reclaim takes out what it is told to."""
        vm = self.vm(limit=128 * MIB).start()
        size, files = 12 * MIB, 2
        for n in range(files):
            vm.agent.run(f'churn stream {size} {n} > /tmp/file{n}')
        self.churn(vm, '-m 256 fill random:15000 seq', checked=256 * 256)
        for n in range(files):
            said = vm.agent.run(f'sha256sum /tmp/file{n}')
            self.assertEqual(said.split()[0], file_digest(size, n))
        self.assertGreater(vm.counts()['evictions'], 256 * 256 // 2)
        self.assertGreater(vm.sampler.peak, 96 * MIB)

        vm.qmp.command('stop')
        before = vm.memory()['resident']
        got = vm.qmp.command('memswap-reclaim', size=32 * MIB)['reclaimed']
        after = vm.memory()['resident']
        vm.qmp.command('cont')
        self.assertGreaterEqual(got, 32 * MIB)
        self.assertLess(got, 34 * MIB)
        self.assertEqual(before - after, got)
        self.finish(vm)

    def test_lowered_and_raised(self):
        """Half the limit under load: residency goes down visibly, stays
        down, and goes up again when it may."""
        vm = self.vm(limit=192 * MIB).start()
        job = vm.agent.start('churn -m 224 fill until seq')
        job.wait_line('progress name=until', 60)
        self.assertGreater(vm.sampler.resident, 128 * MIB)
        vm.set_limit(96 * MIB)
        seen = vm.wait_converged()
        between = {s for s in seen if 96 * MIB < s < 192 * MIB}
        self.assertGreater(len(between), 2, f'no progress to be seen: {seen}')
        # It goes on working, within the new limit.
        job.wait_line('progress name=until', 60, after=len(job.lines))
        time.sleep(2)
        self.assertLessEqual(vm.sampler.resident, 97 * MIB)

        vm.set_limit(192 * MIB)
        deadline = time.monotonic() + 30
        while vm.sampler.resident < 128 * MIB:
            self.assertLess(time.monotonic(), deadline,
                            'the room that a higher limit gives is not used')
            time.sleep(0.05)
        job.send()
        job.wait(60)
        self.finish(vm)

    def test_smp(self):
        """Four vCPUs in threads of their own touch neighbouring pages."""
        vm = self.vm(limit=128 * MIB, smp=4).start()
        self.assertEqual(vm.agent.run('nproc').strip(), '4')
        faults, woken = vm.stats()['faults']['total'], self.woken(vm)
        self.churn(vm, '-m 224 -t 4 -w 50 fill random:40000 seq',
                   checked=40000 + 224 * 256)
        faults = vm.stats()['faults']['total'] - faults
        # The main loop has nothing to do with the vCPUs' faults.
        self.assertLess(self.woken(vm) - woken, faults // 10)
        self.finish(vm)

    def woken(self, vm):
        """How often the main thread went to sleep so far."""
        with open(f'/proc/{vm.pid}/status', encoding='ascii') as f:
            return int(re.search(r'^voluntary_ctxt_switches:\s+(\d+)',
                                 f.read(), re.MULTILINE).group(1))

    def test_smp_in_iothread(self):
        """The same with an IOThread of the user's to resolve faults."""
        vm = self.vm(limit=96 * MIB, smp=2, memswap='iothread=faults',
                     args=('-object', 'iothread,id=faults')).start()
        self.assertEqual(vm.stats()['settings']['fault-mode'], 'iothread')
        self.churn(vm, '-m 160 -t 2 -w 50 fill random:20000 seq',
                   checked=20000 + 160 * 256)
        self.finish(vm)

    def test_reset_and_quit(self):
        """Restarted by itself, reset by QMP, ended: each in mid-churn."""
        vm = self.vm(limit=96 * MIB).start()
        restarts = (lambda: vm.agent.run('reboot -f', code=None),
                    lambda: vm.qmp.command('system_reset'))
        for n, restart in enumerate(restarts):
            job = vm.agent.start('churn -m 128 fill until')
            job.wait_line('progress name=until')
            restart()
            vm.agent.wait_hello(n + 2)
            self.churn(vm, f'-m 128 -s {n} fill random:5000',
                       checked=5000)
        self.assert_adds_up(vm)
        job = vm.agent.start('churn -m 128 fill until')
        job.wait_line('progress name=until')
        vm.quit()
        self.assert_within_limit(vm)


class StoreFull(MemswapTest):
    """The pool has its own limit, and reaches it."""

    LIMIT = 96 * MIB

    def start_full(self, when_full):
        """A VM whose guest wants more than limit and pool hold."""
        vm = self.vm(limit=self.LIMIT,
                     memswap=f'pool-limit=24M,when-full={when_full}').start()
        job = vm.agent.start('churn -m 256 fill random:5000 seq')
        event = vm.qmp.wait_event('MEMSWAP_STORE_FULL')
        self.assertIn('timestamp', event)
        return vm, job

    def test_held(self):
        """The VM waits at the limit; out of band more room can be given,
        and nothing was lost."""
        vm, job = self.start_full('hold')
        # Held means that no line comes any more, while QMP still answers.
        deadline = time.monotonic() + 30
        lines = -1
        while lines != len(job.lines):
            self.assertLess(time.monotonic(), deadline, 'it is not held')
            lines = len(job.lines)
            time.sleep(2.5)
        stats = vm.stats(oob=True)
        self.assertLessEqual(stats['memory']['resident'], self.LIMIT)
        self.assertGreater(stats['reclaim']['store-full'], 0)
        self.assertIsNone(job.code)
        # What waits for the vCPUs gets them, and QMP never needs help.
        for command in 'stop', 'cont', 'stop', 'cont':
            vm.qmp.command(command, timeout=10)
        vm.set(oob=True, pool_limit=512 * MIB)
        job.wait(90)
        self.assertIn('wrong=0', job.lines[-1])
        self.finish(vm)

    def test_overshoot(self):
        """The VM goes on above the limit, counted, and comes back under it
        when there is room."""
        vm, job = self.start_full('overshoot')
        vm.sampler.bound = None
        job.wait(90)
        self.assertGreater(vm.memory()['resident'], self.LIMIT)
        self.assertGreater(vm.counts()['overshoots'], 0)
        vm.set(pool_limit=512 * MIB)
        vm.wait_converged()
        self.churn(vm, '-m 128 -s 2 fill random:5000', checked=5000)
        self.finish(vm)


if __name__ == '__main__':
    unittest.main()

#!/usr/bin/env python3
"""A stored page that is damaged: never handed out, and not the VM's end.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import re
import subprocess
import time
import unittest

from memswap_vm import GUEST, MIB, MemswapTest, file_digest

PAGE = 4096
SIZE, SEED = 8 * MIB, 7


def own_memory(pid, memory):
    """A process's own memory, in pieces: where each begins, and its bytes."""
    with open(f'/proc/{pid}/maps', encoding='ascii') as maps:
        for line in maps:
            found = re.match(r'(\w+)-(\w+) rw.p \S+ \S+ 0\s', line)
            if not found:
                continue
            start, end = (int(text, 16) for text in found.groups())
            for base in range(start, end, 4 * MIB):
                try:
                    memory.seek(base)
                    yield base, memory.read(min(4 * MIB, end - base))
                except OSError:
                    break


def damage(pid, needles):
    """Flips a byte of every copy in a process's own memory of one needle:
    some may be in buffers that it has done with."""
    with open(f'/proc/{pid}/mem', 'r+b', buffering=0) as memory:
        chosen = None
        for base, data in own_memory(pid, memory):
            for needle in [chosen] if chosen else needles:
                at = data.find(needle)
                while at >= 0:
                    chosen = needle
                    memory.seek(base + at)
                    memory.write(bytes([needle[0] ^ 1]))
                    at = data.find(needle, at + 1)
                if chosen:
                    break
        return chosen is not None


class Lost(MemswapTest):
    """The pool's memory is damaged from outside."""

    def start_damaged(self):
        """A VM that runs, with a page of /tmp/file damaged in the pool."""
        vm = self.vm(memory=256 * MIB, limit=224 * MIB).start()
        vm.agent.run(f'churn stream {SIZE} {SEED} > /tmp/file')
        content = subprocess.run(
            [os.path.join(GUEST, 'churn'), 'stream', str(SIZE), str(SEED)],
            check=True, stdout=subprocess.PIPE).stdout
        vm.qmp.command('stop')
        self.assertGreater(
            vm.qmp.command('memswap-reclaim', size=224 * MIB)['reclaimed'],
            16 * MIB)
        # What doesn't compress is stored as it is, and can be found.
        pages = [content[at + 256:at + 320] for at in range(0, SIZE, PAGE)]
        random = [needle for needle in pages if len(set(needle)) > 40]
        self.assertTrue(random, 'no page of the file is random')
        self.assertTrue(damage(vm.pid, random), 'no page of it is stored')
        vm.qmp.command('cont')
        return vm

    def test_lost(self):
        """The access waits, with an event, until the operator gives the page
        up; nothing else waits."""
        vm = self.start_damaged()
        job = vm.agent.start('sha256sum /tmp/file')
        event = vm.qmp.wait_event('MEMSWAP_PAGE_LOST')
        self.assertEqual(event['data']['block'], 'pc.ram')
        self.assertEqual(event['data']['offset'] % PAGE, 0)
        self.assertEqual(vm.memory()['poisoned'], PAGE)
        time.sleep(1)
        self.assertIsNone(job.code, 'a lost page was handed to the guest')

        vm.qmp.command('memswap-forget-lost', oob=True)
        self.assertNotEqual(job.wait(30).split()[0], file_digest(SIZE, SEED))
        self.assertEqual(vm.memory()['poisoned'], 0)
        self.churn(vm, '-m 64 fill random:2000', checked=2000)
        self.finish(vm)

    def test_dump(self):
        """A dump, which hands the page to the kernel, waits as well."""
        vm = self.start_damaged()
        vm.qmp.command('stop')
        dump = vm.path('dump')
        number = vm.qmp.send('dump-guest-memory', paging=False,
                             protocol=f'file:{dump}')
        vm.qmp.wait_event('MEMSWAP_PAGE_LOST')
        time.sleep(1)
        self.assertEqual(vm.stats(oob=True)['memory']['poisoned'], PAGE)
        size = os.path.getsize(dump)
        self.assertLess(size, 256 * MIB)
        vm.qmp.command('memswap-forget-lost', oob=True)
        self.assertEqual(vm.qmp.receive(number, 60), {})
        self.assertGreater(os.path.getsize(dump), 256 * MIB)
        self.assertEqual(vm.memory()['poisoned'], 0)
        vm.quit()

    def test_quit(self):
        """QEMU ends although a vCPU waits for such a page."""
        vm = self.start_damaged()
        vm.agent.start('sha256sum /tmp/file')
        vm.qmp.wait_event('MEMSWAP_PAGE_LOST')
        vm.quit(timeout=15)


if __name__ == '__main__':
    unittest.main()

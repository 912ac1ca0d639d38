#!/usr/bin/env python3
"""Disk I/O from and to guest memory that is being swapped.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import unittest

from memswap_vm import MIB, MemswapTest

IMAGE_SIZE = 96 * MIB


class Block(MemswapTest):
    """Checksums of files while RAM churns below the limit."""

    def run_io(self, aio, iothread):
        """Direct and buffered I/O, next to a program that churns."""
        image = self.image('disk', IMAGE_SIZE)
        device = 'virtio-blk-pci,drive=disk'
        args = ['-blockdev', f'driver=file,filename={image},node-name=disk,'
                             f'cache.direct=on,aio={aio}']
        if iothread:
            args += ['-object', 'iothread,id=disk-thread']
            device += ',iothread=disk-thread'
        vm = self.vm(limit=96 * MIB, smp=2, args=(*args, '-device', device))
        vm.start()
        vm.agent.run('mke2fs -F /dev/vda && mount -t ext2 /dev/vda /mnt')
        job = vm.agent.start('churn -m 96 fill until seq')
        job.wait_line('progress name=until', 60)
        direct = vm.agent.start('diskio -d -m 24 -a 96 -n 600 /mnt/direct')
        buffered = vm.agent.start('diskio -m 24 -a 64 -n 600 -s 2 /mnt/cached')
        for writer in (direct, buffered):
            writer.wait(90)
            self.assertRegex(writer.lines[-1], 'checked=[1-9].* wrong=0$')
        job.send()
        job.wait(60)
        self.assertGreater(vm.counts()['refaults'], 10000)
        self.finish(vm)

    def test_native(self):
        """cache=none,aio=native, on the main loop."""
        self.run_io('native', iothread=False)

    def test_io_uring(self):
        """cache=none,aio=io_uring, in an IOThread."""
        self.run_io('io_uring', iothread=True)


if __name__ == '__main__':
    unittest.main()

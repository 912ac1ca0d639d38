#!/usr/bin/env python3
"""fio in a guest whose memory churns: it sums up by itself what it writes.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import json
import os
import unittest

from memswap_initramfs import Initramfs
from memswap_vhost import LIMIT, VhostTest, storage_daemon
from memswap_vm import BUILD, MIB

FIO = os.path.join(BUILD, 'deps', 'fio', 'fio')
# Direct I/O with much in flight, and buffered.
JOBS = ('--name=direct --direct=1 --ioengine=libaio --iodepth=128 '
        '--offset=0 --size=24M --bsrange=4k-128k '
        '--name=buffered --ioengine=psync --fsync=32 '
        '--offset=32M --size=8M --bsrange=4k-64k')


@unittest.skipUnless(os.path.exists(FIO), 'there is no fio for the guest')
class Fio(VhostTest):
    """Each kind of disk, at a third of RAM: no checksum is wrong."""

    def start_fio(self, *args):
        """A VM that has the program."""
        archive = Initramfs()
        archive.file('bin/fio', FIO)
        return self.start(limit=LIMIT, initrd=self.initrd_with(archive),
                          args=args)

    def run_fio(self, vm, disk, image):
        """It verifies while it writes, and all again at the end."""
        self.wait_disk(vm, disk)
        churn = self.start_churn(vm)
        refaults = vm.counts()['refaults']
        for n in self.rounds():
            said = vm.agent.run(
                f'fio --filename=/dev/{disk} --rw=randwrite --verify=crc32c '
                f'--verify_fatal=1 --verify_backlog=128 --randseed={n} '
                f'--allow_file_create=0 {JOBS}', 120)
            self.assertRegex(said, r'READ: .*io=3[2-9]')
        self.assert_disk(vm, disk, image)
        self.end_churn(churn)
        self.assertGreater(vm.counts()['refaults'], refaults + 1000)
        self.finish(vm)

    def run_own(self, aio, device, disk):
        """A disk of QEMU's own, so slow that requests are held for long."""
        blockdev = self.raw_disk(aio, 40 * MIB)
        vm = self.start_fio(
            '-blockdev', json.dumps(blockdev),
            '-object', f'throttle-group,id=slow,x-bps-total={8 * MIB}',
            '-blockdev',
            'throttle,throttle-group=slow,file=disk,node-name=slow',
            '-object', 'iothread,id=one', *device).start()
        self.run_fio(vm, disk, blockdev['filename'])

    def test_virtio_blk(self):
        """io_uring, in an IOThread."""
        self.run_own('io_uring', [
            '-device', 'virtio-blk-pci,drive=slow,iothread=one'], 'vda')

    def test_virtio_scsi(self):
        """The kernel's AIO, in an IOThread."""
        self.run_own('native', [
            '-device', 'virtio-scsi-pci,iothread=one',
            '-device', 'scsi-hd,drive=slow'], 'sda')

    def test_vhost_user_blk(self):
        """The storage daemon, with two queues."""
        vm = self.start_fio()
        backend = self.backend(vm, 'disk0', storage_daemon, pins=True,
                               queues=2)
        self.start_with(vm, backend, 2)
        self.run_fio(vm, 'vda', backend.image)


if __name__ == '__main__':
    unittest.main()

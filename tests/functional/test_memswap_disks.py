#!/usr/bin/env python3
"""Disks of all kinds, and jobs on their images, while guest RAM churns.

The guest's programs check every byte that they write and read back; what they
use for it has mostly been out of memory.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import json
import os
import subprocess
import time
import unittest

from memswap_vm import BUILD, MIB, MemswapTest

SIZE = 64 * MIB


def program(name):
    """One of QEMU's own."""
    return os.path.join(BUILD, 'qemu', name)


class Disks(MemswapTest):
    """Checksums of files on a disk that only its host knows to be special."""

    def start(self, blockdevs, *args, disk='vda', **options):
        """A guest with a file system on its disk, and a churning program."""
        options = {'limit': 96 * MIB, 'memory': 384 * MIB, 'smp': 2,
                   **options}
        vm = self.vm(**options)
        for blockdev in blockdevs:
            vm.add_args('-blockdev', json.dumps(blockdev))
        vm.add_args(*args)
        vm.start()
        self.prepare(vm, disk)
        return vm

    def prepare(self, vm, disk='vda'):
        """A file system on its disk, and a churning program."""
        vm.agent.run(f'mke2fs -F /dev/{disk} && '
                     f'mount -t ext2 /dev/{disk} /mnt')
        vm.churning = vm.agent.start('churn -m 72 fill until seq')
        vm.churning.wait_line('progress name=until', 60)

    def write(self, vm, number, options='-d'):
        """Starts to write and read a file, from memory all over the place."""
        return vm.agent.start(f'diskio {options} -m 12 -a 48 -n 300 '
                              f'-s {number} /mnt/file{number}')

    def check(self, writer):
        """It read what it wrote."""
        writer.wait(90)
        self.assertRegex(writer.lines[-1], 'checked=[1-9].* wrong=0$')

    def write_all(self, vm):
        """Direct and buffered I/O at the same time, to their ends."""
        writers = [self.write(vm, 1), self.write(vm, 2, '')]
        for writer in writers:
            self.check(writer)

    def end(self, vm):
        """All that the guest has in memory is right, and none is pinned."""
        vm.churning.send()
        vm.churning.wait(60)
        self.assertGreater(vm.counts()['refaults'], 1000)
        self.assertEqual(vm.stats()['pins']['refused'], 0)
        self.finish(vm)

    def run_disk(self, blockdevs, *args, **options):
        """The usual: start, write, end."""
        vm = self.start(blockdevs, *args, **options)
        self.write_all(vm)
        self.end(vm)

    def queues(self, aio, mode):
        """Four queues, dealt to two threads."""
        device = {'driver': 'virtio-blk-pci', 'drive': 'disk',
                  'num-queues': 4, 'iothread-vq-mapping': [
                      {'iothread': 'one'}, {'iothread': 'two'}]}
        self.run_disk([self.raw_disk(aio, SIZE)], '-object', 'iothread,id=one',
                      '-object', 'iothread,id=two',
                      '-device', json.dumps(device),
                      memswap=f'fault-mode={mode}')

    def test_queues_native(self):
        """virtio-blk, iothread-vq-mapping, aio=native."""
        self.queues('native', 'inline')

    def test_queues_io_uring(self):
        """The same with io_uring, and faults in an IOThread."""
        self.queues('io_uring', 'iothread')

    def test_scsi(self):
        """virtio-scsi in an IOThread: mapped by the queue and for DMA."""
        self.run_disk([self.raw_disk('native', SIZE)],
                      '-object', 'iothread,id=one',
                      '-device', 'virtio-scsi-pci,iothread=one',
                      '-device', 'scsi-hd,drive=disk', disk='sda')

    def test_nvme(self):
        """An emulated controller: mapped for DMA alone."""
        self.run_disk([self.raw_disk('io_uring', SIZE)],
                      '-device', 'nvme,drive=disk,serial=1', disk='nvme0n1')

    def test_nbd(self):
        """A network disk: what is sent is guest memory."""
        vm = self.vm(limit=96 * MIB, memory=384 * MIB, smp=2)
        path = vm.path('nbd')
        # It ends with its last client.
        with subprocess.Popen([
                program('qemu-nbd'), '-k', path, '-f', 'raw', '-e', '4',
                '--cache=none', '--aio=native',
                self.image('nbd', SIZE)]) as server:
            self.addCleanup(server.kill)
            deadline = time.monotonic() + 30
            while not os.path.exists(path):
                self.assertIsNone(server.poll())
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.01)
            vm.add_args('-blockdev', f'nbd,node-name=disk,server.type=unix,'
                                     f'server.path={path}',
                        '-object', 'iothread,id=one',
                        '-device', 'virtio-blk-pci,drive=disk,iothread=one')
            vm.start()
            self.prepare(vm)
            self.write_all(vm)
            self.end(vm)
            self.assertEqual(server.wait(30), 0)

    def test_pmem(self):
        """virtio-pmem: a file of the host's, which is not ours to swap."""
        size = SIZE // MIB
        vm = self.start(
            [], '-object', f'memory-backend-file,id=file,share=on,'
                           f'mem-path={self.image("pmem", SIZE)},size={size}M',
            '-device', 'virtio-pmem-pci,memdev=file',
            disk='pmem0', maxmem=1024 * MIB)
        block = [b for b in vm.stats()['blocks'] if b['name'] == 'file'
                 or b['name'].endswith('/file')]
        self.assertEqual(len(block), 1)
        self.assertFalse(block[0]['managed'])
        self.write_all(vm)
        self.end(vm)

    def job(self, vm, writers, command, **arguments):
        """Runs a job that ends by taking over, while the guest writes."""
        vm.qmp.command(command, job_id='job', **arguments)
        vm.qmp.wait_event('BLOCK_JOB_READY')
        # There is always something to write when it completes.
        if writers[-1].code is not None:
            writers.append(self.write(vm, len(writers) + 1))
        vm.qmp.command('job-complete', id='job')
        done = vm.qmp.wait_event('BLOCK_JOB_COMPLETED')['data']
        self.assertNotIn('error', done)

    def image_nodes(self, name, kind, limited=True):
        """What blockdev-add wants for a new image, from the file up."""
        nodes = [{'driver': 'file', 'filename': self.image(name, SIZE, kind),
                  'aio': 'native', 'node-name': f'{name}-file',
                  'cache': {'direct': True}}]
        if limited:
            nodes.append({'driver': 'throttle', 'throttle-group': 'slow',
                          'file': f'{name}-file',
                          'node-name': f'{name}-limited'})
        nodes.append({'driver': kind, 'file': nodes[-1]['node-name'],
                      'node-name': name, 'cache': {'direct': True}})
        return nodes

    def test_jobs(self):
        """qcow2 on a throttle: snapshot, commit and mirror of it."""
        vm = self.start(self.image_nodes('base', 'qcow2'),
                        '-object', 'throttle-group,id=slow,x-iops-total=2000',
                        '-object', 'iothread,id=one',
                        '-device', 'virtio-blk-pci,drive=base,iothread=one')
        writers = [self.write(vm, 1)]
        overlay = self.image_nodes('overlay', 'qcow2')
        overlay[-1]['backing'] = None
        for node in overlay:
            vm.qmp.command('blockdev-add', **node)
        vm.qmp.command('blockdev-snapshot', node='base', overlay='overlay')
        writers.append(self.write(vm, 2, ''))
        self.job(vm, writers, 'block-commit', device='overlay',
                 base_node='base')
        # It has the base below it still.
        vm.qmp.command('blockdev-del', node_name='overlay')
        for node in self.image_nodes('copy', 'raw', limited=False):
            vm.qmp.command('blockdev-add', **node)
        self.job(vm, writers, 'blockdev-mirror', device='base', target='copy',
                 sync='full')
        for writer in writers:
            self.check(writer)
        # All that the guest writes now is in the copy.
        disk = vm.qmp.command('query-block')
        self.assertEqual([d['inserted']['node-name'] for d in disk
                          if 'inserted' in d], ['copy'])
        self.write_all(vm)
        self.end(vm)


if __name__ == '__main__':
    unittest.main()

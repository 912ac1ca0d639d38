#!/usr/bin/env python3
"""A shared directory of virtiofsd's, and guest memory that comes and goes.

What one side writes is summed up by the other one by itself.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import socket
import tempfile
import unittest

from memswap_qmp import QMPError
from memswap_vhost import (LIMIT, RAM, Backend, Unpacked, VhostTest,
                           digest_of)
from memswap_vm import BUILD, GUEST, MIB, file_content, file_digest

VIRTIOFSD = Unpacked('virtiofsd', 'usr/lib/qemu/virtiofsd')
SIZE = 8 * MIB


class Virtiofsd(Backend):
    """Debian's, which ends when QEMU hangs up."""

    def __init__(self, path, directory, log):
        super().__init__(
            [VIRTIOFSD.program, '-f', '-o', f'source={directory}',
             '-o', 'sandbox=chroot'], path, log, pins=False,
            env=VIRTIOFSD.env)

    def start(self):
        # With a socket of its own it would leave a file in /run behind.
        self.unlink()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.path)
            listener.listen(1)
            self.spawn(f'--fd={listener.fileno()}',
                       pass_fds=[listener.fileno()])
        return self


@unittest.skipUnless(VIRTIOFSD.runs(), 'there is no virtiofsd')
@unittest.skipIf(os.getuid(), 'virtiofsd is run by root')
class Virtiofs(VhostTest):
    """Files are the same on both sides, whatever memory they came from."""

    def daemon(self, vm, directory):
        """A device process for a directory, and its chardev."""
        backend = Virtiofsd(vm.path('fs'), directory, os.path.join(
            BUILD, 'logs', f'{self.id()}.log'))
        self._backends.append(backend)
        backend.start()
        vm.qmp.command('chardev-add', id='fs', backend={
            'type': 'socket', 'data': {'addr': {
                'type': 'unix', 'data': {'path': backend.path}},
                'server': False}})

    def plug(self, vm):
        """Adds its device."""
        vm.qmp.command('device_add', driver='vhost-user-fs-pci', id='fs',
                       chardev='fs', tag='fs', bus='slot0')

    def exchange(self, vm, directory, number):
        """A file that the guest writes, and one that the host does."""
        name = f'guest{number}'
        vm.agent.run(f'churn stream {SIZE} {number} > /mnt/{name}', 120)
        self.assertEqual(digest_of(os.path.join(directory, name)),
                         file_digest(SIZE, number))
        name = f'host{number}'
        with open(os.path.join(directory, name), 'wb') as file:
            file.write(file_content(SIZE, ~number & 0xffff))
        said = vm.agent.run('echo 3 > /proc/sys/vm/drop_caches; '
                            f'sha256sum /mnt/{name}', 120)
        self.assertEqual(said.split()[-2],
                         digest_of(os.path.join(directory, name)))

    def visit(self, vm, directory, number):
        """A daemon comes and goes: meanwhile all of RAM is there."""
        self.assertGreater(vm.memory()['stored'], 16 * MIB)
        self.daemon(vm, directory)
        vm.set_limit(RAM)
        self.plug(vm)
        self.assertEqual(self.device(vm, 'fs')['kind'], 'unaware')
        memory = vm.memory()
        self.assertEqual(memory['stored'] + memory['zero'], 0, memory)
        vm.agent.run('until mount -t virtiofs fs /mnt; do sleep 0.1; done', 30)
        self.exchange(vm, directory, number)
        said = vm.agent.run(f'diskio -d -m 8 -a 32 -n 500 -s {number} /mnt/io',
                            120)
        self.assertRegex(said, r'checked=[1-9]\d* wrong=0$')
        self.assertEqual(self.reclaimed(vm), 0)
        vm.agent.run('umount /mnt')
        self.unplug(vm, 'fs')
        vm.set_limit(LIMIT)
        vm.wait_converged()

    def test_exchange(self):
        """It can't have its faults resolved, whatever is stated of DMA."""
        vm = self.start(limit=LIMIT, memswap='vhost-user-dma=off').start()
        churn = self.start_churn(vm)
        self.daemon(vm, GUEST)
        with self.assertRaisesRegex(QMPError, 'keep all guest RAM resident'):
            self.plug(vm)
        vm.qmp.command('chardev-remove', id='fs')
        for n in self.rounds():
            with tempfile.TemporaryDirectory(dir=GUEST) as directory:
                self.visit(vm, directory, n)
        self.end_churn(churn)
        self.finish(vm)


if __name__ == '__main__':
    unittest.main()

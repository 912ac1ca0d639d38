#!/usr/bin/env python3
"""DPDK between two guests whose memory is swapped: it has its faults resolved.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import unittest

from memswap_vhost import LIMIT, RAM, Backend, Unpacked, VhostTest
from memswap_vm import BUILD, MIB

TESTPMD = Unpacked('dpdk', 'usr/bin/dpdk-testpmd',
                   ['usr/lib/x86_64-linux-gnu/dpdk/pmds-*'])
SIZE = 16 * MIB
SEED = 5


class Testpmd(Backend):
    """DPDK's, which hands all packets from each port to the other."""

    def __init__(self, paths, log):
        plugins = [part for name in ('net_vhost', 'mempool_ring')
                   for part in ('-d', f'librte_{name}.so.23')]
        ports = [f'--vdev=net_vhost{n},iface={path},postcopy-support=1'
                 for n, path in enumerate(paths)]
        super().__init__(
            [TESTPMD.program, '--lcores', '0@(0-1),1@(0-1)', '--no-huge',
             '-m', '64', '--no-pci', '--no-telemetry', '--no-shconf',
             *plugins, *ports, '--',
             '--forward-mode=io', '--auto-start', '--no-mlockall',
             '--total-num-mbufs=4096', '--stats-period=3600'],
            paths[-1], log, pins=False, env=TESTPMD.env)
        self._paths = paths

    def start(self):
        for path in self._paths:
            if os.path.exists(path):
                os.unlink(path)
        return super().start()


@unittest.skipUnless(TESTPMD.runs(), 'there is no dpdk-testpmd')
@unittest.skipIf(os.getuid(), 'DPDK is run by root')
class VhostNet(VhostTest):
    """Packets are copied from memory to memory that comes and goes."""

    PATIENCE = 2

    def start_two(self):
        """Two guests, and what connects them."""
        vms = [self.start(suffix=f'.{n}', memory=RAM, limit=LIMIT,
                          maxmem=512 * MIB, memswap='vhost-user-dma=off')
               for n in range(2)]
        for vm in vms:
            os.makedirs(os.path.dirname(vm.log('x')), exist_ok=True)
        testpmd = Testpmd([vm.path('net') for vm in vms],
                          os.path.join(BUILD, 'logs', f'{self.id()}.log'))
        self._backends.append(testpmd)
        testpmd.start()
        for n, vm in enumerate(vms):
            vm.add_args('-chardev', f'socket,id=net,path={vm.path("net")},'
                        'reconnect-ms=50',
                        '-netdev', 'vhost-user,id=net0,chardev=net',
                        '-device', f'virtio-net-pci,netdev=net0,id=nic,'
                                   f'mac=52:54:00:00:00:0{n + 1}')
            vm.start()
            vm.agent.run(f'ip addr add 10.1.0.{n + 1}/24 dev eth0; '
                         'ip link set eth0 up')
        return vms, testpmd

    def test_between_guests(self):
        """A file goes over; whatever happens, it is the same there."""
        (server, client), testpmd = self.start_two()
        for vm in (server, client):
            device, = vm.stats()['devices']
            self.assertEqual((device['kind'], device['id']),
                             ('fault-capable', 'nic'))
        said = server.agent.run(f'churn stream {SIZE} {SEED} > /tmp/file; '
                                'httpd -p 80 -h /tmp; sha256sum /tmp/file')
        digest = said.split()[-2]
        churns = [vm.agent.start('churn -m 72 -s 7 fill until random:20000')
                  for vm in (server, client)]
        for churn in churns:
            churn.wait_line('progress name=until', 120)
        evictions = [vm.counts()['evictions'] for vm in (server, client)]

        def fetch(meanwhile):
            job = client.agent.start(
                'rm -f /tmp/file; for i in 1 2 3 4 5; do wget -q -O /tmp/file '
                'http://10.1.0.1/file && break; sleep 1; done; '
                'sha256sum /tmp/file')
            meanwhile()
            self.assertIn(digest, job.wait(240))

        fetch(lambda: None)

        def plug():
            for vm in (server, client):
                vm.qmp.command('object-add', qom_type='memory-backend-memfd',
                               id='ram1', size=128 * MIB)
                vm.qmp.command('device_add', driver='pc-dimm', id='dimm1',
                               memdev='ram1')
        fetch(plug)

        def crash():
            for _ in range(3):
                testpmd.kill()
                testpmd.start()
        for _ in self.rounds():
            fetch(crash)
        for vm, churn, before in zip((server, client), churns, evictions):
            self.end_churn(churn)
            self.assertGreater(vm.counts()['evictions'], before + 1000)
            self.assertGreater(vm.stats()['faults']['remote'], 10)
            self.finish(vm)


if __name__ == '__main__':
    unittest.main()

#!/usr/bin/env python3
"""Streams over virtio-net, from and to memory that comes and goes.

Whoever receives one sums it up, and compares with what the sender had made.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import hashlib
import http.server
import threading
import unittest
import urllib.request

from memswap_vhost import LIMIT, VhostTest
from memswap_vm import MIB, file_content, file_digest, free_port

SIZE = 8 * MIB


class Sender(http.server.BaseHTTPRequestHandler):
    """Sends the stream that is asked for by its number."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(file_content(SIZE, int(self.path[1:])))

    def log_message(self, *_):
        pass


class Streams(VhostTest):
    """Guests at a third of RAM, which check what they have there."""

    def start_guest(self, vm, netdev, address):
        """Starts a guest that has a network and a server; churn in it."""
        vm.add_args('-netdev', f'{netdev},id=net', '-device', 'virtio-net-pci,'
                    f'netdev=net,mac=52:54:00:00:00:{address.split(".")[-1]}')
        vm.start()
        vm.agent.run(f'ip addr add {address}/24 dev eth0; '
                     'ip link set eth0 up; httpd -p 80 -h /tmp')
        return self.start_churn(vm)

    def make(self, vm, number):
        """Has a guest make a stream."""
        vm.agent.run(f'churn stream {SIZE} {number} > /tmp/file', 120)

    def fetch(self, vm, url, number):
        """Has a guest receive it."""
        said = vm.agent.run(f'wget -q -O /tmp/got {url} && sha256sum /tmp/got',
                            180)
        self.assertEqual(said.split()[0], file_digest(SIZE, number))

    def end(self, vm, churn):
        """Nothing was wrong, and memory had been out."""
        self.end_churn(churn)
        self.assertGreater(vm.counts()['refaults'], 1000)
        self.finish(vm)

    def test_user(self):
        """Between guest and host, by slirp."""
        port = free_port()
        vm = self.start(limit=LIMIT)
        churn = self.start_guest(
            vm, f'user,hostfwd=tcp:127.0.0.1:{port}-:80', '10.0.2.15')
        with http.server.ThreadingHTTPServer(('127.0.0.1', 0),
                                             Sender) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                for n in self.rounds():
                    self.make(vm, n)
                    with urllib.request.urlopen(
                            f'http://127.0.0.1:{port}/file',
                            timeout=120) as got:
                        self.assertEqual(
                            hashlib.sha256(got.read()).hexdigest(),
                            file_digest(SIZE, n))
                    self.fetch(vm, 'http://10.0.2.2:'
                               f'{server.server_port}/{n + 1}', n + 1)
            finally:
                server.shutdown()
                thread.join()
        self.end(vm, churn)

    def test_socket(self):
        """Between two guests, by a socket."""
        vms = [self.start(limit=LIMIT, suffix=f'.{n}') for n in range(2)]
        addresses = ['10.1.0.11', '10.1.0.12']
        churns = [self.start_guest(
            vm, f'stream,server={server},addr.type=unix,'
                f'addr.path={vms[0].path("wire")}', address)
            for vm, server, address in zip(vms, ('on', 'off'), addresses)]
        for n in self.rounds():
            for sender, receiver, address in zip(vms, vms[::-1], addresses):
                self.make(sender, n)
                self.fetch(receiver, f'http://{address}/file', n)
        for vm, churn in zip(vms, churns):
            self.end(vm, churn)


if __name__ == '__main__':
    unittest.main()

# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's swap: on zram, on a file."""

import os
import re

from .machine import BLOCK, Unable, read, run, write, zrams

PAGE_CLUSTER = '/proc/sys/vm/page-cluster'
ZSWAP = '/sys/module/zswap/parameters/enabled'
# The algorithms of zram that compress most, the first of them first.
STRONGEST = ('zstd', 'deflate', 'lz4hc', '842', 'lzo-rle', 'lzo')
# Each pass over RAM may leave some slots behind.
SLACK = 512 << 20

known = []                  # of algorithms, see find_algorithms()


class Zram:
    """Swap on a zram device of its own."""

    def __init__(self, machine, algorithm, size):
        self.name = machine.take_zram()
        self.path = f'{BLOCK}/{self.name}'
        write(f'{self.path}/comp_algorithm', algorithm)
        write(f'{self.path}/disksize', size + size // 4 + SLACK)
        device = f'/dev/{self.name}'
        run('mkswap', device)
        machine.swap_on(device)

    def pool_bytes(self):
        """Memory that the pool takes."""
        return int(read(f'{self.path}/mm_stat').split()[2])


class File:
    """Swap on a file."""

    def __init__(self, machine, directory, size):
        path = os.path.join(directory, 'swapfile')
        machine.make_file(path, size + size // 4 + SLACK)
        run('mkswap', path)
        machine.swap_on(path)

    @staticmethod
    def pool_bytes():
        return 0


def prepare(machine, page_cluster):
    """Settings that all kinds of swap want."""
    machine.set(PAGE_CLUSTER, page_cluster)
    if os.path.exists(ZSWAP):
        machine.set(ZSWAP, 'N')


def find_algorithms(machine):
    """Ask zram what it can use, for algorithms().

    Any device tells.  A module that had to be loaded for that stays until the
    machine is restored.
    """
    machine.load_zram()
    mark = machine.mark()
    try:
        names = zrams() or [machine.take_zram()]
        known[:] = re.sub(r'[][]', '', read(
            f'{BLOCK}/{names[0]}/comp_algorithm')).split()
    finally:
        machine.undo(mark)
    if not strongest():
        raise Unable('zram has nothing that compresses more than lz4')


def strongest():
    return next((name for name in STRONGEST if name in known), None)


def algorithms():
    """What zram here can use: lz4 and, if there is one, the strongest."""
    return [name for name in ('lz4', strongest()) if name in known]

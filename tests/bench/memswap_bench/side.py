# SPDX-License-Identifier: GPL-2.0-or-later
"""What the sides of all families of cases have in common."""

import glob
import os
import re

from .machine import FAILURES, Unable

# Threads of the kernel that work for its memory management.
KERNEL_THREADS = re.compile(r'(kswapd|kcompactd|khugepaged|zram)')
TICKS = os.sysconf('SC_CLK_TCK')
# How often to run what the kernel kills.
ATTEMPTS = 4


class OutOfMemory(Unable):
    """The kernel killed the program, although swap had room."""


class Killable:
    """A side whose runs the kernel may kill.

    It has a name, and run_once(context, work), which raises OutOfMemory then.
    """

    def run(self, context, work):
        """One run; its figures, in a dict by metric."""
        for left in reversed(range(ATTEMPTS)):
            try:
                return self.run_once(context, work)
            except OutOfMemory as why:
                if not left:
                    raise
                print(f'{self.name}: {why}, once more', flush=True)
            except FAILURES as why:
                raise Unable(f'{self.name}: {why}') from why
        return None


def kernel_seconds():
    """CPU time of the kernel's threads so far."""
    ticks = 0
    for path in glob.glob('/proc/[0-9]*/stat'):
        try:
            with open(path, encoding='ascii', errors='replace') as file:
                text = file.read()
        except (FileNotFoundError, ProcessLookupError):
            continue
        name, rest = re.fullmatch(r'\d+ \((.*)\) (.*)', text,
                                  re.DOTALL).groups()
        fields = rest.split()
        if fields[1] == '2' and KERNEL_THREADS.match(name):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS

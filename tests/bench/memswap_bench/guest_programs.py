# SPDX-License-Identifier: GPL-2.0-or-later
"""The cases that run real programs in a guest: Redis, SQLite, gcc, ...

The programs are in an image that scripts/make-bench-guest makes, and are
started by tests/bench/guest/run.  What may be resident is a part of the
working set: of the guest RAM that boot and program touch without a limit.
"""

import dataclasses
import math
import os
import statistics
import time
from dataclasses import dataclass

from .case import Case, Reference
from .guest import GUEST, Work, memswap, zram
from .machine import Unable

GIB = 1 << 30
TIMEOUT = 1800
PAGE_CLUSTERS = (0, 3)
IMAGE = os.path.join(GUEST, 'programs.ext4')
PROGRAMS = ('redis', 'matrix', 'bfs', 'sort', 'sqlite', 'python', 'compile')
# Percent of the working set; the first has no number in its cases' names.
RESIDENT = (50, 100, 75, 35)
PAIRS = 3
SETUP = ('mount -t ext4 -o ro /dev/vda /mnt && '
         'mount -t tmpfs -o size=90% tmpfs /mnt/tmp && '
         'mount -t proc proc /mnt/proc && mount -t devtmpfs dev /mnt/dev')


@dataclass(frozen=True)
class Program(Work):
    """A guest program."""
    name: str                   # the case's
    program: str
    percent: int                # of the working set, that may be resident
    memory: int = GIB
    times: int = 1              # that it is run and measured
    before: int = 0             # that it is run before
    # Read past the host's page cache: the control group would pay for it.
    args: tuple = ('-drive', f'file={IMAGE},format=raw,if=none,id=programs,'
                   'readonly=on,cache=none',
                   '-device', 'virtio-blk-pci,drive=programs')
    # What it says is compared with what it said the first time.
    said: dict = dataclasses.field(default_factory=dict, compare=False)

    def shortened(self):
        """For bench-quick: they can't be made shorter."""
        return self

    def lasting(self, _seconds):
        """They take as long as they take."""
        return self

    @property
    def metric(self):
        return 'rate' if self.program == 'redis' else 'time'

    @property
    def needs_key(self):
        """All cases of a program need the same."""
        return self.program, self.times, self.before

    def limit(self, needs):
        return needs['working_set'] * self.percent // 100

    def run(self, vm, meter):
        if not os.path.exists(IMAGE):
            raise Unable('there is no image of programs: make guest-programs')
        vm.agent.run(SETUP, TIMEOUT)
        job = vm.agent.start(f'chroot /mnt /bench/run {self.program} '
                             f'{self.times} {self.before}')
        job.wait_line('^ready', TIMEOUT)
        after = len(job.lines)
        begin = time.monotonic()
        meter.start()
        job.send()
        job.wait(TIMEOUT)
        meter.stop()
        figures = {'time': time.monotonic() - begin}
        rates = [float(line.split()[1]) for line in job.lines[after:]
                 if line.startswith('rate ')]
        said = [line for line in job.lines[after:]
                if not line.startswith('rate ')]
        if not said:
            raise Unable(f'{self.program} said nothing')
        if rates:
            figures = {'rate': statistics.harmonic_mean(rates)}
        figures['wrong'] = int(
            said != self.said.setdefault(self.needs_key, said))
        return figures


def programs():
    said = {}
    for percent in RESIDENT:
        for program in PROGRAMS:
            name = f'guest/{program}'
            if percent != RESIDENT[0]:
                name += f'-{percent}'
            work = Program(name, program, percent, said=said)
            yield Case(name, work, memswap(), [Reference(
                [zram(cluster) for cluster in PAGE_CLUSTERS], PAIRS)],
                       rate=work.metric,
                       unit='requests/s' if program == 'redis' else '')


def cases():
    return list(programs())


def mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def gains(one):
    """How many times better: by the medians, then in each pair."""
    pairs = [(one['memswap'], one['reference']),
             *zip(one['memswap_values'], one['reference_values'])]
    return [ours / theirs if one['better'] == 'higher' else theirs / ours
            for ours, theirs in pairs]


def geomean(name, metric, found, wanted):
    """A list of the object that sums up others of one reference, or none.

    wanted: the cases that it is the mean of, if all are measured.
    """
    if not found:
        return []
    each = [gains(one) for one in found]
    number = min(len(one) for one in each)
    medians, *pairs = [mean([one[i] for one in each]) for i in range(number)]
    return [{
        'case': name, 'metric': metric,
        'unit': 'times', 'better': 'higher', 'memswap': medians,
        'reference': 1, 'reference_name': found[0]['reference_name'],
        'ratio': medians, 'pairs': len(pairs),
        'spread': [min(pairs), max(pairs)], 'memswap_values': pairs,
        'reference_values': [1] * len(pairs),
        'wrong': sum(one['wrong'] for one in found),
        'cases': [one['case'] for one in found],
        'missing': [case for case in wanted if case not in
                    [one['case'] for one in found]]}]


def summary(objects):
    """guest/geomean: of all programs with half of their working set."""
    metrics = {f'guest/{name}': 'rate' if name == 'redis' else 'time'
               for name in PROGRAMS}
    return geomean('guest/geomean', 'speed', [
        one for one in objects if metrics.get(one['case']) == one['metric']],
                   metrics)

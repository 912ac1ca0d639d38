# SPDX-License-Identifier: GPL-2.0-or-later
"""The cases that boot a guest: QEMU as a whole, under TCG."""

import dataclasses
import re
from dataclasses import dataclass

from .case import Case, Reference
from .guest import Work, default_ram, memfd, memswap, zram
from .machine import Unable

GIB = 1 << 30
TIMEOUT = 900
PAGE_CLUSTERS = (0, 3)
# What the guest of scripts/demo does.
DEMO = 'fill random:800000 seq:3 random:800000 seq:3'


@dataclass(frozen=True)
class Churn(Work):
    """tests/functional/guest/churn.c: touches pages, checks what they hold.

    Every byte is checked in the end, or each time, by the phases.  In these
    {seconds}, {warmup} and {passes} are filled in.
    """
    name: str
    warm: str                   # phases that are not measured
    measured: str
    check: str = ''             # phases after it
    resident: float = 0.5       # of the RAM
    memory: int = GIB
    mib: int = 700              # that are touched
    seconds: float = 10
    warmup_seconds: float = 10
    passes: int = 6
    args: tuple = ()

    def shortened(self):
        """For bench-quick."""
        return dataclasses.replace(self, seconds=5, warmup_seconds=4,
                                   passes=2)

    def lasting(self, seconds):
        """As long as the user wishes."""
        return dataclasses.replace(self, seconds=seconds)

    @property
    def needs_key(self):
        """No two need the same."""
        return self.name

    def limit(self, _needs):
        return int(self.memory * self.resident)

    def run(self, vm, meter):
        phases = f'{self.warm} wait {self.measured} wait {self.check}'.format(
            seconds=max(1, round(self.seconds)), passes=self.passes,
            warmup=max(1, round(self.warmup_seconds)))
        job = vm.agent.start(f'churn -m {self.mib} {phases}')
        return churn_figures(job, meter, TIMEOUT)


def churn_figures(job, meter, timeout):
    """What a program achieves between two times that it waits."""
    job.wait_line('^waiting', timeout)
    after = len(job.lines)
    meter.start()
    job.send()
    job.wait_line('^waiting', timeout, after)
    meter.stop()
    found = [re.match(r'phase .* pages=(\d+) .* rate=(\d+) .* '
                      r'wrong=(\d+)', line) for line in job.lines[after:]]
    found = [each for each in found if each]
    touches = sum(int(each[1]) for each in found)
    seconds = sum(int(each[1]) / int(each[2]) for each in found)
    if not touches:
        raise Unable(f'nothing was touched: {job.lines[-3:]}')
    job.send()
    total = job.wait_line(r'^total .* wrong=(\d+)', timeout, after)
    return {'touches': touches, 'rate': touches / seconds,
            'wrong': int(total[1])}


def kernel():
    """The kernel's swap, with and without read-ahead."""
    return Reference([zram(cluster) for cluster in PAGE_CLUSTERS])


def pressure():
    """Half of the RAM may be resident."""
    works = (Churn('guest/touch-random', 'fill random:{warmup}s:word',
                   'random:{seconds}s:word', 'seq'),
             Churn('guest/touch-sequential', 'fill seq:2:word',
                   'seq:{passes}:word', 'seq', passes=12))
    for work in works:
        yield Case(work.name, work, memswap(), [kernel()],
                   quick=work.name == 'guest/touch-random')


def idle():
    """Nothing to take: what does memswap cost all the same?"""
    for name, side in (('no-pressure', memfd()),
                       ('default-ram', default_ram())):
        work = Churn(f'idle/{name}', '', DEMO, resident=1)
        yield Case(work.name, work, memswap(limited=False),
                   [Reference([side])])


def cases():
    return [*pressure(), *idle()]

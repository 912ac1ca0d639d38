# SPDX-License-Identifier: GPL-2.0-or-later
"""What policies are worth in programs that are made for it.

policy/working-set needs no guest; the others do, since what they are about is
where a guest's memory is.
"""

from dataclasses import dataclass

from .case import Case, Reference
from . import guest
from .guest_cases import Churn, kernel
from .touch import Side, Work

INLINE = ('--faults', 'inline')
PAGE_CLUSTERS = (0, 3)
# What is in memory during a squeeze, of the RAM, and for how long.
SQUEEZE = 0.5
SQUEEZE_SECONDS = 2
# The longest that it may take to get over one.
PATIENCE = 60
# Nothing of a squeeze but these means something.
FIGURES = ('time', 'cpu_seconds', 'wrong', 'pool_bytes', 'resident', 'waste')
# Pages from one touch to the next: not what memory is read ahead by.
STRIDE = 17


@dataclass
class Squeezed(Side):
    """Lives with a lower limit for a while: how long until that is over?"""

    def run_once(self, context, work):
        figures = super().run_once(context, work)
        figures['cpu_seconds'] = figures['cpu_share'] * figures['seconds']
        policies = figures.get('policies', {}).values()
        hits, wasted = (sum(each[name] for each in policies)
                        for name in ('hits', 'wasted'))
        if hits + wasted:
            figures['waste'] = wasted / (hits + wasted)
        return {name: figures[name] for name in FIGURES if name in figures}


def squeezed(name, work, *arguments, backend='memswap', **more):
    return Squeezed(name, backend, (
        '--squeeze', str(int(work.size * SQUEEZE)),
        '--squeeze-seconds', str(SQUEEZE_SECONDS), *arguments), **more)


def working_set():
    # so much room that without a squeeze nothing is ever taken
    work = Work(resident=1.25, seconds=PATIENCE, warmup_seconds=3)
    return Case('policy/working-set', work, squeezed(
        'memswap', work, *INLINE, '--policy', 'working-set'), [
            Reference([squeezed('no-policy', work, *INLINE)]),
            Reference([squeezed('limit', work, *INLINE, '--policy', 'limit',
                                '--engine', 'readahead=0')]),
            Reference([squeezed('zram-lz4', work, backend='plain', swap='lz4',
                                page_cluster=cluster)
                       for cluster in PAGE_CLUSTERS])], rate='time')


def shuffled():
    """In order to the program, in no order in guest-physical memory."""
    for policy, name in (('virtual', 'virtual'),
                         ('linear', 'linear-shuffled')):
        for suffix, phase in (('', 'seq:{passes}:word'),
                              ('-strided', f'stride{STRIDE}:{{passes}}:word')):
            work = Churn(f'policy/{name}{suffix}',
                         'scatter ' + phase.replace('{passes}', '1'), phase,
                         'seq')
            yield Case(work.name, work, guest.memswap(f'builtin={policy}'),
                       [Reference([guest.plain()]),
                        Reference([guest.no_policy()], 3), kernel()])


def cases():
    return [working_set(), *shuffled()]

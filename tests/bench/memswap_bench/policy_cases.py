# SPDX-License-Identifier: GPL-2.0-or-later
"""What policies are worth: the engine alone, with one and without."""

from dataclasses import dataclass

from .case import Case, Reference
from .touch import Side, Work

INLINE = ('--faults', 'inline')
# What is in memory during a squeeze, of the RAM, and for how long.
SQUEEZE = 0.5
SQUEEZE_SECONDS = 2
# The longest that it may take to get over one.
PATIENCE = 60
# Nothing of a squeeze but these means something.
FIGURES = ('time', 'cpu_seconds', 'wrong', 'pool_bytes', 'resident')


@dataclass
class Squeezed(Side):
    """Lives with a lower limit for a while: how long until that is over?"""

    def run_once(self, context, work):
        figures = super().run_once(context, work)
        figures['cpu_seconds'] = figures['cpu_share'] * figures['seconds']
        return {name: figures[name] for name in FIGURES}


def squeezed(name, work, *arguments):
    return Squeezed(name, 'memswap', (
        *INLINE, '--squeeze', str(int(work.size * SQUEEZE)),
        '--squeeze-seconds', str(SQUEEZE_SECONDS), *arguments))


def cases():
    # so much room that without a squeeze nothing is ever taken
    work = Work(resident=1.25, seconds=PATIENCE, warmup_seconds=3)
    return [Case('policy/working-set', work,
                 squeezed('memswap', work, '--policy', 'working-set'),
                 [Reference([squeezed('no-policy', work)])], rate='time')]

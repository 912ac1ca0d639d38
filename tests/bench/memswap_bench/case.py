# SPDX-License-Identifier: GPL-2.0-or-later
"""A case: memswap against its references, in alternating pairs."""

import statistics
from dataclasses import dataclass, field

from .machine import Missing, Unable

# Metric: (unit, which is better).  A figure that has no place here is not
# reported.
METRICS = {
    'rate': ('touches/s', 'higher'),
    'p50': ('ns', 'lower'),
    'p99': ('ns', 'lower'),
    'p999': ('ns', 'lower'),
    'max': ('ns', 'lower'),
    'cpu': ('us/touch', 'lower'),
    'time': ('s', 'lower'),
    'cpu_seconds': ('s', 'lower'),
    'slow_p50': ('ns', 'lower'),
    'slow_p99': ('ns', 'lower'),
    'slow_mean': ('ns', 'lower'),
    'cpu_share': ('CPUs', 'lower'),
    'background_share': ('CPUs', 'lower'),
    'pool_bytes': ('bytes', 'lower'),
    'resident': ('bytes', 'lower'),
    'memory': ('bytes', 'lower'),
    'stall': ('of wall time', 'lower'),
}
# Of these, what the reference has not got.
ALONE = ('stall',)


# Each case has one of these.
MAIN = ('rate', 'time', 'speed')


def main_metric(metrics):
    """The one that tells most, of those that a case has."""
    return next(name for name in MAIN if name in metrics)


def figure(value):
    """A value of such a metric, for reading."""
    return f'{value:,.0f}' if value >= 1000 else f'{value:.2f}'


@dataclass
class Reference:
    """One or several sides, of which the best is the reference."""
    sides: list
    pairs: int = 0              # at most; 0: as many as asked for


@dataclass
class Case:
    name: str
    work: object                # what each side's run() is given
    memswap: object             # a side; see touch.Side
    references: list = field(default_factory=list)
    quick: bool = False         # a part of bench-quick
    rate: str = 'rate'          # the metric to choose the best side by;
                                # one of MAIN
    unit: str = ''              # of that metric, if not as in METRICS


def ratio(memswap, reference):
    return memswap / reference if reference else None


def alone(case, side, metric, pairs):
    """The JSON object of a metric that only memswap has."""
    values = [ours[metric] for ours, _ in pairs]
    unit, better = METRICS[metric]
    return {
        'case': case.name, 'metric': metric, 'unit': unit, 'better': better,
        'memswap': statistics.median(values), 'reference': None,
        'reference_name': side.name, 'ratio': None, 'pairs': len(pairs),
        'spread': None, 'memswap_values': values, 'reference_values': [],
        'wrong': sum(figures.get('wrong', 0) for pair in pairs
                     for figures in pair)}


def results(case, reference, pairs):
    """The JSON objects of one reference; pairs of figures."""
    objects = []
    wrong = sum(figures.get('wrong', 0) for pair in pairs for figures in pair)
    for metric, (unit, better) in METRICS.items():
        if metric in ALONE:
            if all(metric in ours for ours, _ in pairs):
                objects.append(alone(case, reference, metric, pairs))
            continue
        values = [(ours[metric], theirs[metric]) for ours, theirs in pairs
                  if metric in ours and metric in theirs]
        if len(values) < len(pairs):
            continue
        if metric == case.rate and case.unit:
            unit = case.unit
        ours, theirs = zip(*values)
        ratios = [ratio(*pair) for pair in values]
        known = [value for value in ratios if value is not None]
        objects.append({
            'case': case.name, 'metric': metric, 'unit': unit,
            'better': better, 'memswap': statistics.median(ours),
            'reference': statistics.median(theirs),
            'reference_name': reference.name,
            'ratio': ratio(statistics.median(ours),
                           statistics.median(theirs)),
            'pairs': len(pairs),
            'spread': [min(known), max(known)] if known else None,
            'memswap_values': list(ours), 'reference_values': list(theirs),
            'wrong': wrong})
    return objects


class Runner:
    """Runs cases, says how far it is, keeps what came of it."""

    def __init__(self, context, pairs):
        self.context = context
        self.pairs = pairs
        self.objects = []
        self.failed = []

    def say(self, text):
        print(text, flush=True)

    def choose(self, case, reference):
        """The side that is best at this case; one run each tells."""
        if len(reference.sides) == 1:
            return reference.sides[0]
        rates = {}
        for number, side in enumerate(reference.sides):
            what = f'{case.name}: trying {side.name}, page-cluster ' \
                   f'{side.page_cluster}'
            try:
                figures = side.run(self.context, case.work)
            except Missing:
                raise
            except Unable as why:
                self.say(f'{what}: {why}')
                reason = why
                continue
            rates[number] = figures[case.rate]
            self.say(f'{what}: {figure(figures[case.rate])}')
        if not rates:
            raise Unable(str(reason))
        best = max if METRICS[case.rate][1] == 'higher' else min
        return reference.sides[best(rates, key=rates.get)]

    def compare(self, case, reference):
        side = self.choose(case, reference)
        number = min(reference.pairs or self.pairs, self.pairs)
        pairs = []
        for i in range(number):
            figures = {}
            order = [case.memswap, side]
            for each in order if i % 2 else reversed(order):
                figures[each.name] = each.run(self.context, case.work)
            pairs.append((figures[case.memswap.name], figures[side.name]))
            ours, theirs = pairs[-1]
            self.say(f'{case.name}: pair {i + 1} of {number}: memswap '
                     f'{figure(ours[case.rate])}, {side.name} '
                     f'{figure(theirs[case.rate])}, ratio '
                     f'{ours[case.rate] / theirs[case.rate]:.2f}')
        self.objects += results(case, side, pairs)

    def run(self, case):
        for reference in case.references:
            try:
                self.compare(case, reference)
            except Missing as why:
                self.say(f'{case.name}: skipped: {why}')
            except Unable as why:
                self.failed.append((case.name, reference.sides[0].name,
                                    str(why)))
                self.say(f'{case.name}: not measured against '
                         f'{reference.sides[0].name}: {why}')

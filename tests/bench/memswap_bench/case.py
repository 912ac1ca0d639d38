# SPDX-License-Identifier: GPL-2.0-or-later
"""A case: memswap against its references, in alternating pairs."""

import statistics
from dataclasses import dataclass, field

from .machine import FAILURES, Missing, Unable

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
    'saved': ('MiB', 'higher'),
    'saved_all': ('MiB', 'higher'),
    'slowdown': ('of the time', 'lower'),
    'pin': ('ns/page', 'lower'),
    'unpin': ('ns/page', 'lower'),
    'stall': ('of wall time', 'lower'),
    'waste': ('of prefetched pages', 'lower'),
}
# Of these, what the reference has not got.
ALONE = ('pin', 'unpin', 'stall', 'waste')
# And what is near 0, so that a ratio would say nothing.
NO_RATIO = ('slowdown',)


# Each case has one of these.
MAIN = ('saved', 'rate', 'time', 'speed', 'pin')


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
    memswap: object             # a side, see touch.Side; or a list of sides,
                                # of which the best is taken
    references: list = field(default_factory=list)  # none: memswap alone
    quick: bool = False         # a part of bench-quick
    rate: str = 'rate'          # the metric to choose the best side by;
                                # one of MAIN
    unit: str = ''              # of that metric, if not as in METRICS
    pairs: int = 0              # unless the user says; 0: as usual
    chosen: str = ''            # which of memswap's sides is the best


def ratio(memswap, reference):
    return memswap / reference if reference else None


def alone(case, side, metric, pairs):
    """The JSON object of a metric that only memswap has; side: or None."""
    values = [ours[metric] for ours, _ in pairs]
    unit, better = METRICS[metric]
    return {
        'case': case.name, 'metric': metric, 'unit': unit, 'better': better,
        'memswap': statistics.median(values), 'reference': None,
        'reference_name': side.name if side else None, 'ratio': None,
        'pairs': len(pairs), 'spread': None, 'memswap_values': values,
        'reference_values': [],
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
        known = [] if metric in NO_RATIO else [
            value for value in (ratio(*pair) for pair in values)
            if value is not None]
        objects.append({
            'case': case.name, 'metric': metric, 'unit': unit,
            'better': better, 'memswap': statistics.median(ours),
            'reference': statistics.median(theirs),
            'reference_name': reference.name,
            'ratio': ratio(statistics.median(ours),
                           statistics.median(theirs)) if known else None,
            'pairs': len(pairs),
            'spread': [min(known), max(known)] if known else None,
            'memswap_values': list(ours), 'reference_values': list(theirs),
            'wrong': wrong})
    return objects


class Runner:
    """Runs cases, says how far it is, keeps what came of it.

    pairs: as many for each case; 0: what the case wants, or usual.
    """

    def __init__(self, context, pairs, usual):
        self.context = context
        self.pairs = pairs
        self.usual = usual
        self.objects = []
        self.failed = []

    def say(self, text):
        print(text, flush=True)

    def number(self, case, reference=None):
        """How many pairs to run."""
        most = self.pairs or case.pairs or self.usual
        return min(reference.pairs or most, most) if reference else most

    def choose(self, case, sides):
        """The side that is best at this case; one run each tells."""
        if len(sides) == 1:
            return sides[0]
        rates = {}
        for number, side in enumerate(sides):
            what = f'{case.name}: trying {side.what}'
            try:
                figures = side.run(self.context, case.work)
            except Missing:
                raise
            except Unable as why:
                self.say(f'{what}: {why}')
                reason = why
                continue
            if figures.get('wrong'):
                self.failed.append((case.name, side.what, 'wrong values'))
            rates[number] = figures[case.rate]
            self.say(f'{what}: {figure(figures[case.rate])}')
        if not rates:
            raise Unable(str(reason))
        best = max if METRICS[case.rate][1] == 'higher' else min
        return sides[best(rates, key=rates.get)]

    def compare(self, case, reference):
        side = self.choose(case, reference.sides)
        number = self.number(case, reference)
        pairs = []
        for i in range(number):
            figures = {}
            order = [case.memswap, side]
            for each in order if i % 2 else reversed(order):
                figures[each.name] = each.run(self.context, case.work)
            pairs.append((figures[case.memswap.name], figures[side.name]))
            ours, theirs = (each[case.rate] for each in pairs[-1])
            times = ratio(ours, theirs)
            self.say(f'{case.name}: pair {i + 1} of {number}: memswap '
                     f'{figure(ours)}, {side.name} {figure(theirs)}, ratio ' +
                     ('-' if times is None else f'{times:.2f}'))
        return results(case, side, pairs)

    def measure(self, case):
        """memswap alone."""
        runs = []
        for i in range(self.number(case)):
            runs.append((case.memswap.run(self.context, case.work), {}))
            self.say(f'{case.name}: run {i + 1} of {self.number(case)}: '
                     f'{figure(runs[-1][0][case.rate])}')
        return [alone(case, None, metric, runs) for metric in ALONE
                if all(metric in ours for ours, _ in runs)]

    def attempt(self, case, what, function, *arguments):
        """Keep what it measures, or why it can't."""
        try:
            objects = function(case, *arguments)
        except Missing as why:
            self.say(f'{case.name}: skipped: {why}')
            return
        except (Unable, *FAILURES) as why:
            text = ' '.join(str(why).split())       # in one line
            self.failed.append((case.name, what, text))
            self.say(f'{case.name}: not measured ({what}): {text}')
            return
        if case.chosen:
            objects = [{**each, 'memswap_name': case.chosen}
                       for each in objects]
        self.objects += objects

    def run(self, case):
        if isinstance(case.memswap, list):
            try:
                case.memswap = self.choose(case, case.memswap)
            except Unable as why:
                self.failed.append((case.name, 'memswap', str(why)))
                self.say(f'{case.name}: not measured: {why}')
                return
            case.chosen = case.memswap.what
        for reference in case.references:
            self.attempt(case, f'against {reference.sides[0].name}',
                         self.compare, reference)
        if not case.references:
            self.attempt(case, 'alone', self.measure)

# SPDX-License-Identifier: GPL-2.0-or-later
"""What policies are worth to real programs in a guest.

policy/squeeze: half of the working set may be resident; the policy that is
best for the program against the kernel, and against memswap without any.

policy/proactive-saved: nothing has to leave, but what is cold may, as long as
the program is not slowed down by more than ALLOWED.  How much memory does that
save?  Both sides have several settings, from gentle to eager; the one that
saves most within what is allowed is taken.  The kernel's are a control group
with a limit, and Senpai (Weiner et al., "TMO: Transparent Memory Offloading in
Datacenters", ASPLOS 2022), which takes a little again and again while the
group's pressure is low.

Saved is what guest RAM took on average without any of that, on the same kind of
RAM, less what it takes with it and its part of the pool.  The kernel takes
QEMU's own memory as well, which memswap leaves to the kernel: saved_all is the
same of all memory.
"""

import statistics
import time
from dataclasses import dataclass

from .case import Case, Reference
from .guest import MIB, Side, plain, zram
from .guest_programs import (PAGE_CLUSTERS, PAIRS, PROGRAMS, Program,
                             geomean)
from .machine import Unable

CANDIDATES = ((), ('builtin=linear',), ('builtin=virtual',))

# Of the time that a program takes.
ALLOWED = 0.02
# Programs with memory that is cold for a while, and how often they run.
PROACTIVE = ('redis', 'bfs', 'sort', 'sqlite', 'python')
TIMES, BEFORE = 2, 1
# Runs that tell what is to be had without.
BASELINES = 3
# Both adjust more often than they would in a datacenter, as a run is short.
INTERVAL = 1
# Pressure above which they take nothing, in % of the time, and what they
# take below it each interval, in % of what there is.
EAGERNESS = ((0.2, 2), (0.5, 5), (1.5, 10))
# Promotions, in % of the working set a minute.
RATES = (2, 20, 100)
# A limit, as a part of what is in use without one.
PARTS = (0.9, 0.8, 0.7)
# What counts for no less than this, so that there are ratios.
LEAST_SAVED = 1


class Senpai:
    """Takes memory of a group while it does not hurt.

    It is called all the time, and acts each INTERVAL.
    """

    def __init__(self, cgroup, threshold, ratio):
        cgroup.watch_pressure()
        self.cgroup = cgroup
        self.threshold = threshold / 100
        self.ratio = ratio / 100
        self.last = time.monotonic()
        self.stalled = 0

    def __call__(self):
        now = time.monotonic()
        if now - self.last < INTERVAL:
            return
        stalled = self.cgroup.stalled()
        pressure = (stalled - self.stalled) / 1e6 / (now - self.last)
        self.last, self.stalled = now, stalled
        size = int(self.cgroup.usage() * self.ratio *
                   (1 - pressure / self.threshold))
        if size > 0:
            self.cgroup.reclaim(size)


class Hold:
    """Holds a group to a limit, from before QEMU is in it."""

    def __init__(self, cgroup, size):
        cgroup.limit(size)

    def __call__(self):
        pass


def memswapped(*policies):
    # Copies of what came back would take most of what is saved.
    return Side('memswap', memswap=True, limited=False, watched=True,
                settings=('keep-copies=0',), policies=policies)


def swapped(control, what):
    return zram(limited=False, control=control, label=what, watched=True)


def speed(work, figures):
    return figures['rate'] if work.metric == 'rate' else 1 / figures['time']


@dataclass
class Proactive:
    """A side that takes what is cold, as eagerly as is allowed.

    ladders are lists of sides, each more eager than the one before it; or what
    returns them, given the memory that the base takes.
    """
    name: str
    base: Side                  # the same without taking anything
    ladders: object

    def baseline(self, context, work):
        """Speed, RAM and memory without anything taken; measured once."""
        key = self.base.name, work.needs_key
        if key not in context.proactive:
            runs = [self.base.run(context, work) for _ in range(BASELINES)]
            context.proactive[key] = [
                statistics.median(values) for values in zip(*(
                    (speed(work, each), each['mean_ram'],
                     each['mean_memory']) for each in runs))]
            print(f'{work.name}: {self.base.name}: without taking anything '
                  f'{context.proactive[key][1] / MIB:.0f} MiB of guest RAM, '
                  f'{context.proactive[key][2] / MIB:.0f} MiB in all',
                  flush=True)
        return context.proactive[key]

    def measure(self, context, work, side):
        full, ram, memory = self.baseline(context, work)
        figures = side.run(context, work)
        figures['slowdown'] = full / speed(work, figures) - 1
        figures['saved'] = max(
            LEAST_SAVED, (ram - figures['mean_ram']) / MIB)
        figures['saved_all'] = (memory - figures['mean_memory']) / MIB
        if side is self.base:       # the rest is noise
            figures['saved'], figures['saved_all'] = LEAST_SAVED, 0
        print(f'{work.name}: {side.what}: {figures["saved"]:.0f} MiB saved, '
              f'{figures["saved_all"]:.0f} in all, '
              f'{figures["slowdown"]:.1%} slower', flush=True)
        return figures

    def climb(self, context, work):
        """The side that saves most within what is allowed, or else none."""
        _, _, memory = self.baseline(context, work)
        tried = []                  # (slowdown, saved, side)
        for ladder in self.ladders(memory):
            for side in ladder:
                try:
                    figures = self.measure(context, work, side)
                except Unable as why:
                    print(f'{work.name}: {side.what}: {why}', flush=True)
                    break
                tried.append((figures['slowdown'], figures['saved'], side))
                if figures['slowdown'] > ALLOWED:
                    break
        if not tried:
            raise Unable(f'{self.name}: no setting can be measured')
        allowed = [each for each in tried if each[0] <= ALLOWED]
        if not allowed:
            print(f'{work.name}: {self.name} takes nothing: no setting is '
                  f'within {ALLOWED:.0%}, the least slow one is '
                  f'{min(each[0] for each in tried):.1%} slower', flush=True)
            return self.base
        best = max(allowed, key=lambda each: each[1])[2]
        print(f'{work.name}: {self.name} takes {best.what}', flush=True)
        return best

    def run(self, context, work):
        """One run; its figures, in a dict by metric."""
        key = self.name, self.ladders, work.needs_key
        if key not in context.proactive:
            context.proactive[key] = self.climb(context, work)
        return self.measure(context, work, context.proactive[key])


def target_ladders(_memory):
    return [[memswapped(f'builtin=target,opt.interval={5 * INTERVAL},'
                        f'opt.grace={5 * INTERVAL},opt.rate={rate}')
             for rate in RATES]]


def pressure_ladders(_memory):
    return [[memswapped(f'builtin=pressure,opt.interval={INTERVAL},'
                        f'opt.threshold={threshold},opt.ratio={ratio}')
             for threshold, ratio in EAGERNESS]]


def kernel_ladders(memory):
    return [
        [swapped(lambda cgroup, t=threshold, r=ratio: Senpai(cgroup, t, r),
                 f'senpai {threshold} % {ratio} %')
         for threshold, ratio in EAGERNESS],
        [swapped(lambda cgroup, p=part: Hold(cgroup, int(memory * p)),
                 f'limit {part:.0%}') for part in PARTS]]


def proactive():
    said = {}
    for policy, ladders in (('target', target_ladders),
                            ('pressure', pressure_ladders)):
        for program in PROACTIVE:
            name = f'policy/{policy}-{program}'
            work = Program(name, program, 100, times=TIMES, before=BEFORE,
                           said=said)
            ours = Proactive('memswap', Side(
                'memswap-idle', memswap=True, limited=False, watched=True),
                             ladders)
            theirs = Proactive('zram-lz4', Side(
                'no-limit', limited=False, watched=True), kernel_ladders)
            yield Case(name, work, ours, [Reference([theirs], PAIRS)],
                       rate='saved')


def squeeze():
    said = {}
    for program in PROGRAMS:
        name = f'policy/squeeze-{program}'
        work = Program(name, program, 50, said=said)
        yield Case(
            name, work,
            [Side('memswap', memswap=True, policies=policies)
             for policies in CANDIDATES],
            [Reference([zram(cluster) for cluster in PAGE_CLUSTERS], PAIRS),
             Reference([plain()], 1)],
            rate=work.metric,
            unit='requests/s' if program == 'redis' else '')


def cases():
    return [*squeeze(), *proactive()]


def summary(objects):
    """The geometric means over the programs."""
    squeezed = {f'policy/squeeze-{name}': 'rate' if name == 'redis' else
                'time' for name in PROGRAMS}
    result = []
    for reference in ('zram-lz4', 'limit'):
        result += geomean('policy/squeeze', 'speed', [
            one for one in objects if one['reference_name'] == reference
            and squeezed.get(one['case']) == one['metric']], squeezed)
    for name, policies in (('target', ('target',)),
                           ('pressure', ('pressure',)),
                           ('proactive', ('target', 'pressure'))):
        wanted = [f'policy/{policy}-{program}' for policy in policies
                  for program in PROACTIVE]
        result += geomean(f'policy/{name}-saved', 'saved', [
            one for one in objects if one['metric'] == 'saved'
            and one['case'] in wanted], wanted)
    return result

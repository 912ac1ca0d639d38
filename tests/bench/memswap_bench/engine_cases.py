# SPDX-License-Identifier: GPL-2.0-or-later
"""The cases that need no QEMU: the engine alone."""

from . import swap
from .case import Case, Reference
from .touch import (Work, handler_thread, memswap, no_limit, swapfile, zram)

GIB = 1 << 30
INLINE = ('--faults', 'inline')
EVENTS = ('--faults', 'events')
HUGE = ('--engine', 'huge_regions=1')
PAGE_CLUSTERS = (0, 3)


def kernel(algorithm='lz4', thp=False):
    """The kernel's swap, with and without read-ahead."""
    return Reference([zram(algorithm, cluster, thp)
                      for cluster in PAGE_CLUSTERS])


def case(name, *more, quick=False, thp=False, options=(), **work):
    """Inline faults against the kernel's swap, and more references."""
    return Case(name, Work(**work), memswap(*INLINE, *options),
                [kernel(thp=thp), *more], quick)


def references():
    """More to compare with, by pattern; few pairs where it is slow or only
    for the context."""
    strongest = [kernel(name) for name in swap.algorithms() if name != 'lz4']
    context = [Reference([swapfile(0), swapfile(3)], 2),
               Reference([no_limit()], 2)]
    return {'random': [Reference([handler_thread()]), *strongest, *context],
            'sequential': context, 'zipf': strongest}


def patterns():
    extra = references()
    more = {'hotset': ('--move-every', '200000')}
    for pattern in ('random', 'sequential', 'strided', 'zipf', 'hotset'):
        yield case(f'engine/{pattern}', *extra.get(pattern, ()),
                   pattern=pattern, more=more.get(pattern, ()),
                   quick=pattern in ('random', 'sequential', 'zipf'))
    for threads in (2, 4):
        yield case(f'engine/random-{threads}t', threads=threads)
    yield case('engine/zipf-2t', threads=2, pattern='zipf')
    yield case('engine/sequential-2t', threads=2, pattern='sequential')


def variants():
    yield case('engine/random-read', write_percent=0)
    yield case('engine/random-write', write_percent=100)
    for data in ('ratio1', 'ratio4', 'real'):
        yield case(f'engine/random-{data}', data=data)
    for size in (2, 4, 8):
        yield case(f'engine/random-{size}g', size=size * GIB)
    # The cost of a fault must not grow with the RAM: against itself.
    small = memswap(*INLINE)
    small.name = 'memswap-1g'
    yield Case('engine/fault-8g', Work(), memswap(*INLINE, work={
        'size': 8 * GIB}), [Reference([small])])


def huge():
    yield Case('engine/hot-huge', Work(
        size=2 * GIB, resident=1, settle_seconds=6), memswap(
            *INLINE, *HUGE, work={'resident': 1.25}),
        [Reference([no_limit(thp=True)])])
    hot_third = ('--hot-percent', '33', '--hot-touches', '99')
    yield case('engine/mixed-huge', pattern='hotset', more=hot_third,
               whole_warmup=True, thp=True, options=HUGE)
    visits = ('--visit', '256')
    large = {'sequential': Work(pattern='sequential'),
             'zipf': Work(pattern='zipf-region', more=visits),
             # A region for one touch: shows when small pages win.
             'zipf-single': Work(pattern='zipf-region')}
    for name, work in large.items():
        yield Case(f'engine-2m/{name}', work, memswap(
            *INLINE, '--page-size', '2M', hugepages=True),
                   [kernel(thp=True)])


def others():
    yield Case('kernel-fault/random', Work(syscall=True), memswap(*EVENTS),
               [kernel(), Reference([handler_thread()])], quick=True)
    # Nothing to take, or hardly anything: what does watching cost?
    yield Case('idle/hot-trials', Work(resident=1), memswap(
        *INLINE, work={'resident': 1.25}), [Reference([no_limit()])])
    yield Case('idle/hot-edge', Work(resident=1), memswap(*INLINE),
               [Reference([no_limit()])])


def cases():
    return [*patterns(), *variants(), *huge(), *others()]

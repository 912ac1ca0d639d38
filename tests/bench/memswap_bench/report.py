# SPDX-License-Identifier: GPL-2.0-or-later
"""The results as a table and as JSON."""

import json
import os

from .case import figure, main_metric

MIB = 1 << 20


def write_json(objects, path):
    new = f'{path}.new'
    with open(new, 'w', encoding='utf-8') as file:
        json.dump(objects, file, indent=1)
        file.write('\n')
    os.replace(new, path)


def keep(path):
    """Keep an earlier run's file, which may have other cases, as *.old."""
    if os.path.exists(path):
        os.replace(path, f'{path}.old')


def by_reference(objects):
    """{(case, reference): {metric: object}}, in the order measured."""
    table = {}
    for each in objects:
        table.setdefault((each['case'], each['reference_name']),
                         {})[each['metric']] = each
    return table


def title(one):
    """Its case; a mean that is not of all cases says so."""
    number = len(one.get('cases', ()))
    missing = len(one.get('missing', ()))
    return f'{one["case"]} ({number} of {number + missing})' if missing \
        else one['case']


def fraction(metrics, name):
    value = metrics[name]['ratio'] if name in metrics else None
    return '-' if value is None else f'{value:.2f}'


def both(metrics, name):
    """Both sides' MiB."""
    if name not in metrics:
        return '-'
    each = metrics[name]
    return f'{each["memswap"] / MIB:,.0f}/{each["reference"] / MIB:,.0f}'


def part(metrics, name):
    """What only memswap has: a part of something."""
    return f'{metrics[name]["memswap"]:.2%}' if name in metrics else '-'


def table(objects):
    """Lines of text; ratios are memswap's figure over the reference's."""
    rows = [('case', 'reference', 'memswap', 'reference', 'ratio', 'spread',
             'p99', 'p99.9', 'CPU', 'stall', 'waste', 'resident', 'pool',
             'wrong'),
            ('', '', '', '', '', 'of ratio', 'ratio',
             'ratio', 'ratio', 'of time', '', 'MiB', 'MiB', '')]
    for (_, reference), metrics in by_reference(objects).items():
        main = main_metric(metrics)
        unit = metrics[main]['unit']
        theirs = metrics[main]['reference']
        spread = metrics[main]['spread']
        cpu = 'cpu' if 'cpu' in metrics else 'cpu_seconds'
        rows.append((
            title(metrics[main]), reference or '-',
            f'{figure(metrics[main]["memswap"])} {unit}',
            '-' if theirs is None else figure(theirs),
            fraction(metrics, main),
            f'{spread[0]:.2f}-{spread[1]:.2f}' if spread else '-',
            fraction(metrics, 'p99'),
            fraction(metrics, 'p999'), fraction(metrics, cpu),
            part(metrics, 'stall'), part(metrics, 'waste'),
            both(metrics, 'resident'),
            both(metrics, 'pool_bytes'), str(metrics[main]['wrong'])))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ['  '.join(text.ljust(width) if i < 2 else text.rjust(width)
                      for i, (text, width) in enumerate(zip(row, widths)))
            .rstrip() for row in rows]

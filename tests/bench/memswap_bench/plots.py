# SPDX-License-Identifier: GPL-2.0-or-later
"""Plots of the results: one a metric, as SVG and PNG."""

import os

from .report import by_reference, keep, title

PLOTS = {
    'rate': 'Rate of touches, memswap / reference (higher is better)',
    'time': 'Time of guest programs, memswap / reference '
            '(lower is better)',
    'speed': 'Speed of guest programs, memswap / reference '
             '(higher is better)',
    'saved': 'Memory saved by proactive reclaim, memswap / reference '
             '(higher is better)',
    'p99': '99th percentile of a touch, memswap / reference '
           '(lower is better)',
    'p999': '99.9th percentile of a touch, memswap / reference '
            '(lower is better)',
    'cpu': 'CPU time a touch, memswap / reference (lower is better)',
}


def draw(objects, directory):
    """Returns the files written; none without matplotlib."""
    try:
        import matplotlib   # pylint: disable=import-outside-toplevel
    except ImportError:
        print('bench: no plots: apt install python3-matplotlib')
        return []
    matplotlib.use('Agg')
    from matplotlib import pyplot, ticker   # pylint: disable=C0415

    files = []
    for metric, heading in PLOTS.items():
        bars = [(f'{title(metrics[metric])}\n{reference}', metrics[metric])
                for (_, reference), metrics
                in by_reference(objects).items()
                if metric in metrics and metrics[metric]['ratio']]
        if not bars:
            continue
        figure, axes = pyplot.subplots(figsize=(9, 1 + 0.38 * len(bars)))
        names, each = zip(*reversed(bars))
        ratios = [one['ratio'] for one in each]
        errors = [[max(0, one['ratio'] - one['spread'][0]) for one in each],
                  [max(0, one['spread'][1] - one['ratio']) for one in each]]
        better = [(ratio >= 1) == (one['better'] == 'higher')
                  for ratio, one in zip(ratios, each)]
        axes.barh(names, [ratio - 1 for ratio in ratios], left=1,
                  xerr=errors, capsize=2, color=[
                      'tab:blue' if good else 'tab:orange'
                      for good in better])
        axes.axvline(1, color='black', linewidth=0.8)
        axes.set_xscale('log')
        axes.set_xlim(min(0.5, min(ratios) / 1.5), max(2, max(ratios) * 1.5))
        axes.xaxis.set_major_locator(
            ticker.LogLocator(subs=(1, 2, 5), numticks=20))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(
            lambda value, _: f'{value:g}'))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.grid(axis='x', linewidth=0.3)
        for name, ratio in zip(names, ratios):
            axes.annotate(f'{ratio:.2f}', (1, name), xytext=(
                3 if ratio < 1 else -3, 0), textcoords='offset points',
                          ha='left' if ratio < 1 else 'right', va='center',
                          fontsize=7)
        axes.set_title(heading, fontsize=10)
        axes.tick_params(axis='y', labelsize=7)
        figure.tight_layout()
        for kind in ('svg', 'png'):
            path = os.path.join(directory, f'{metric}.{kind}')
            keep(path)
            figure.savefig(path, dpi=110)
            files.append(path)
        pyplot.close(figure)
    return files

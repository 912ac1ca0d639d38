# SPDX-License-Identifier: GPL-2.0-or-later
"""What became of the tests: counted one by one, and told as they come in.

Stages run side by side, so everything here may be called from any thread.
"""

import collections
import sys
import threading
import time

PASS, FAIL, SKIP = 'pass', 'FAIL', 'skip'

Test = collections.namedtuple('Test', 'name status why')


class Report:
    """Collects the results of a run and prints a line for each program."""

    def __init__(self):
        self.lock = threading.Lock()
        self.counts = collections.Counter()
        self.skipped = []
        self.failed = []
        self.begin = time.monotonic()

    def say(self, text):
        with self.lock:
            print(text, flush=True)

    def add(self, stage, program, tests, seconds, log=None):
        """Count the tests of a program; show its log's end if one failed."""
        counts = collections.Counter(test.status for test in tests)
        status = FAIL if counts[FAIL] else PASS if counts[PASS] else SKIP
        many = f'  {len(tests)} tests' if len(tests) > 1 else ''
        if counts[FAIL] and len(tests) > 1:
            many += f', {counts[FAIL]} failed'
        if counts[SKIP] and len(tests) > 1:
            many += f', {counts[SKIP]} skipped'
        with self.lock:
            self.counts.update(counts)
            print(f'{status} {seconds:6.1f} s  {stage}: {program}{many}')
            for test in tests:
                where = f'{stage}: {program}'
                if test.name != program:
                    where += f': {test.name}'
                if test.status == SKIP:
                    self.skipped.append((where, test.why))
                elif test.status == FAIL:
                    self.failed.append((where, test.why))
                    print(f'     {where}: {test.why}')
            if counts[FAIL] and log:
                print_tail(log)
            sys.stdout.flush()

    def end(self):
        """Print the summary; the exit status."""
        print()
        for where, why in self.skipped:
            print(f'skipped: {where}: {why}')
        for where, why in self.failed:
            print(f'failed: {where}: {why}')
        print(f'{time.monotonic() - self.begin:.0f} seconds; logs are in '
              'build/logs')
        print(f'{self.counts[PASS]} passed, {self.counts[FAIL]} failed, '
              f'{self.counts[SKIP]} skipped', flush=True)
        return 1 if self.counts[FAIL] or not self.counts[PASS] else 0


def print_tail(log, lines=30):
    with open(log, encoding='utf-8', errors='replace') as file:
        tail = collections.deque(file, lines)
    print(f'     ---- the end of {log}')
    for line in tail:
        print('     ' + line.rstrip('\n')[:300])
    print('     ----')

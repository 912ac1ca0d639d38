# SPDX-License-Identifier: GPL-2.0-or-later
"""Run one program, its output in a log, and let nothing of it run on.

A test program tells its results in TAP (the Test Anything Protocol), or by
its exit status alone.  That a program fails although each test that it
reported passed, or that it reported fewer than it planned, is a failure too.
"""

import json
import os
import re
import signal
import subprocess
import threading
import time

from testing.report import FAIL, PASS, SKIP, Test

RESULT = re.compile(r'(not )?ok\b *(\d+)?(?: +-)? *(.*)')
PLAN = re.compile(r'1\.\.(\d+)(?: *# *SKIP\b *(.*))?', re.IGNORECASE)
DIRECTIVE = re.compile(r'(?:^|\s)# *(SKIP|TODO)\b *(.*)', re.IGNORECASE)
EXIT_SKIP = 77
CONTAIN = os.path.join(os.path.dirname(os.path.dirname(
    os.path.realpath(__file__))), 'contain')

# Those that have not been waited for: their ids cannot be anyone else's.
running = set()
# A signal may come while the thread that handles it has the lock.
running_lock = threading.RLock()
stopping = threading.Event()


def stop_all():
    """End every program, and start no more: the run was interrupted."""
    stopping.set()
    with running_lock:
        for process in running:
            os.kill(process.pid, signal.SIGTERM)


def stop(process):
    """End a program and all that it started, if it is still running."""
    with running_lock:
        if process in running:
            os.kill(process.pid, signal.SIGTERM)


def run(command, log, cwd=None, env=None, timeout=None, line=None):
    """Run a command; its exit status, or a string that says how it ended."""
    os.makedirs(os.path.dirname(log), exist_ok=True)
    environment = dict(os.environ, **(env or {}))
    with open(log, 'w', encoding='utf-8', errors='replace') as output:
        output.write(f'# {" ".join(command)}\n')
        output.flush()
        if stopping.is_set():
            return 'not started: interrupted'
        try:
            process = subprocess.Popen(
                [CONTAIN, *command], cwd=cwd, env=environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, encoding='utf-8', errors='replace',
                start_new_session=True)
        except OSError as error:
            output.write(f'{error}\n')
            return str(error)
        with running_lock:
            running.add(process)
        if stopping.is_set():
            stop(process)
        late = threading.Event()

        def expire():
            late.set()
            stop(process)
        timer = threading.Timer(timeout or threading.TIMEOUT_MAX, expire)
        timer.daemon = True
        timer.start()
        for text in process.stdout:
            output.write(text)
            output.flush()
            if line:
                line(text.rstrip('\n'))
        timer.cancel()
        with running_lock:
            running.discard(process)
            status = process.wait()
        if late.is_set():
            output.write(f'# not done after {timeout} seconds: killed\n')
            return f'not done after {timeout:.0f} seconds'
    if status < 0:
        return f'died of {signal.Signals(-status).name}'
    return status


class Tap:
    """Reads TAP line by line."""

    def __init__(self):
        self.tests = []
        self.planned = None
        self.skip_all = None
        self.bailed_out = False
        self.why = 'not ok'

    def line(self, text):
        plan = PLAN.fullmatch(text.strip())
        if plan:
            self.planned = int(plan[1])
            self.skip_all = plan[2]
            return
        if text.startswith('Bail out!'):
            self.bailed_out = True
            self.tests.append(Test('bail out', FAIL, text[9:].strip()))
            return
        if text.startswith('# why: '):
            self.why = text[7:]
            return
        result = RESULT.match(text)
        if not result:
            return
        bad, number, name = result.groups()
        directive = DIRECTIVE.search(name)
        status, why = (FAIL, self.why) if bad else (PASS, '')
        self.why = 'not ok'
        if directive:
            name = name[:directive.start()]
            # A TODO is allowed to fail; it is no pass either.
            status, why = SKIP, directive[2] or directive[1].lower()
        self.tests.append(Test(name.strip() or number, status, why))

    def finish(self, program, status):
        """The results, given how the program ended."""
        tests = list(self.tests)
        if not tests and self.planned == 0 and status == 0:
            return [Test(program, SKIP, self.skip_all or 'no tests in it')]
        if not tests and self.planned is None:
            if status == 0:
                return [Test(program, PASS, '')]
            if status == EXIT_SKIP:
                return [Test(program, SKIP, 'said so by its exit status')]
        if isinstance(status, str):
            if self.bailed_out:
                return tests
            return tests + [Test(program, FAIL, status)]
        if status and not any(test.status == FAIL for test in tests):
            return tests + [Test(program, FAIL, f'exit status {status}')]
        if self.planned is not None and len(tests) < self.planned \
                and not any(test.status == FAIL for test in tests):
            return tests + [Test(program, FAIL, f'{len(tests)} of '
                                 f'{self.planned} tests reported')]
        return tests


class Program:
    """A test program: how to run it, and where its output goes."""

    def __init__(self, name, command, log, cwd=None, env=None, timeout=300):
        self.name, self.command, self.log = name, command, log
        self.cwd, self.env, self.timeout = cwd, env, timeout

    def run(self, line=None):
        """The tests' results and the seconds it took."""
        tap = Tap()

        def both(text):
            before = len(tap.tests)
            tap.line(text)
            if line:
                for test in tap.tests[before:]:
                    line(test)
        begin = time.monotonic()
        status = run(self.command, self.log, self.cwd, self.env,
                     self.timeout, both)
        return tap.finish(self.name, status), time.monotonic() - begin


def meson_programs(meson, build, logs, wants, prefix=(), env=None, slower=1):
    """The test programs of a Meson build for whose name and suites WANTS.

    They are run directly, not by Meson: it counts a program as one test.
    """
    listed = subprocess.run([meson, 'introspect', build, '--tests'],
                            stdout=subprocess.PIPE, check=True)
    programs = []
    for test in json.loads(listed.stdout):
        suites = [suite.split(':')[-1] for suite in test['suite']]
        if not wants(test['name'], suites):
            continue
        log = os.path.join(logs, test['name'].replace('/', '-') + '.log')
        programs.append(Program(
            test['name'], [*prefix, *test['cmd']], log,
            test['workdir'] or build, {**test['env'], **(env or {})},
            (test['timeout'] or 600) * slower))
    return programs


def targets(programs, build):
    """What Ninja has to build for these programs."""
    # QEMU's own Python is of its configure's making.
    made = os.path.join(build, 'pyvenv') + os.sep
    names = set()
    for program in programs:
        for argument in program.command:
            if argument.startswith(build + os.sep) and \
                    not argument.startswith(made):
                names.add(os.path.relpath(argument, build))
    return sorted(names)

# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be seen without building: style, licences, the patches' form."""

import glob
import os
import re
import subprocess

from testing import pointers
from testing.report import FAIL, PASS, Test

LICENCE = 'SPDX-License-Identifier: GPL-2.0-or-later'
TREES = ('block', 'hw', 'include', 'memswap', 'migration', 'tests')


def sources(repository):
    """Our files of C, and those that are run as they are."""
    c_files, scripts = [], ['configure', '.ci/run']
    for tree in TREES:
        for pattern in ('**/*.c', '**/*.h'):
            c_files += glob.glob(os.path.join(tree, pattern),
                                 root_dir=repository, recursive=True)
    for pattern in ('scripts/**', 'tests/**/*.py'):
        scripts += [name for name in
                    glob.glob(pattern, root_dir=repository, recursive=True)
                    if os.path.isfile(os.path.join(repository, name))
                    and '__pycache__' not in name]
    return sorted(c_files), sorted(scripts)


def excused(repository, name, complaint):
    """Whether checkpatch is wrong about a line of ours."""
    # It takes the brace that ends an empty loop for the loop's statement.
    if re.search(r'suspect code indent .*\((\d+), \1\)', complaint):
        return True
    # Only the glue and the qtests may use QEMU's functions.
    alone = not name.startswith(('hw/', 'migration/', 'memswap/qemu/',
                                 'tests/qtest/'))
    if alone and re.search(r'\buse (qemu_|g_)|consider using qemu_',
                           complaint):
        return True
    with open(os.path.join(repository, name), encoding='utf-8') as file:
        line = file.readlines()[int(complaint.split(':')[0]) - 1]
    # The linker's names have no header, the sanitizers' no other test.
    return 'externs should be avoided' in complaint and \
        re.search(r'\b__(real|wrap)_', line) or \
        'architecture specific defines' in complaint and \
        '__SANITIZE_' in line


def checkpatch(repository, qemu_source, c_files):
    """QEMU's own style checker, one test a file."""
    done = subprocess.run(
        ['perl', os.path.join(qemu_source, 'scripts/checkpatch.pl'),
         '--no-tree', '--terse', '--no-summary', '-f', *c_files],
        cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        encoding='utf-8', errors='replace', check=False)
    complaints = {}
    for line in done.stdout.splitlines():
        found = re.match(r'(\S+?):(\d+: .*)', line)
        name = found[1] if found and found[1] in c_files else None
        if name and excused(repository, name, found[2]):
            continue
        # What is about no file of ours is about checkpatch itself.
        complaints.setdefault(name, []).append(found[2] if name else line)
    tests = [Test(f'checkpatch {name}',
                  FAIL if name in complaints else PASS,
                  '; '.join(complaints.get(name, []))) for name in c_files]
    if None in complaints or done.returncode not in (0, 1):
        tests.append(Test('checkpatch', FAIL, '; '.join(
            complaints.get(None, [f'exit status {done.returncode}']))))
    return tests


def syntax(repository, scripts):
    """That every script is one its language can read."""
    tests = []
    for name in scripts:
        path = os.path.join(repository, name)
        if not os.path.exists(path):
            tests.append(Test(f'syntax {name}', FAIL, 'missing'))
            continue
        with open(path, encoding='utf-8') as file:
            text = file.read()
        why = ''
        if name.endswith('.py') or 'python' in text.split('\n', 1)[0]:
            try:
                compile(text, name, 'exec')
            except SyntaxError as error:
                why = str(error)
        elif 'sh' in text.split('\n', 1)[0]:
            why = subprocess.run(['bash', '-n', path], encoding='utf-8',
                                 stdout=subprocess.PIPE, check=False,
                                 stderr=subprocess.STDOUT).stdout.strip()
        else:
            continue
        tests.append(Test(f'syntax {name}', FAIL if why else PASS, why))
    return tests


def licences(repository, names):
    bare = []
    for name in names:
        path = os.path.join(repository, name)
        if os.path.exists(path):
            with open(path, encoding='utf-8', errors='replace') as file:
                if LICENCE not in file.read(2000):
                    bare.append(name)
    return Test('licences', FAIL if bare else PASS,
                f'no line "{LICENCE}" in {" ".join(bare)}' if bare else '')


def patches(repository):
    """A patch only adds lines, with a line of context before and after."""
    tests = []
    directory = os.path.join(repository, 'patches')
    path = os.path.join(directory, 'series')
    if not os.path.exists(path):
        return [Test('series', FAIL, 'patches/series is missing')]
    with open(path, encoding='utf-8') as file:
        series = [line.split('#')[0].strip() for line in file]
    series = [name for name in series if name]
    strays = sorted(set(glob.glob('*.patch', root_dir=directory)) -
                    set(series))
    tests.append(Test('series', FAIL if strays else PASS,
                      f'not in it: {" ".join(strays)}' if strays else ''))
    for name in series:
        why = ''
        context = 0
        with open(os.path.join(directory, name), encoding='utf-8') as file:
            in_hunk = False
            for number, line in enumerate(file, 1):
                if line.startswith('@@ '):
                    in_hunk, context = True, 0
                elif line.startswith(('diff ', '-- \n')):
                    in_hunk = False
                elif in_hunk and line.startswith('-'):
                    why = why or f'line {number} removes a line'
                elif in_hunk and line.startswith((' ', '\n')):
                    context += 1
                    if context > 2 and not why:
                        why = f'line {number}: more context than git format' \
                              '-patch -U1 gives'
                elif in_hunk:
                    context = 0
        tests.append(Test(name, FAIL if why else PASS, why))
    return tests


def check(repository, qemu_source):
    """Every test of the stage."""
    c_files, scripts = sources(repository)
    return (checkpatch(repository, qemu_source, c_files) +
            syntax(repository, scripts) +
            [licences(repository, c_files + scripts)] +
            patches(repository) + pointers.check(qemu_source))

# SPDX-License-Identifier: GPL-2.0-or-later
"""Real memory: pages of a Python with much loaded, and of /usr/lib's files.

Run as a program, writes the Python's half to standard output.
"""

import glob
import os
import subprocess
import sys

PAGE = 4096
ZEROES = bytes(PAGE)
HALF = 64 << 20
PAGES_OF_A_FILE = 64
MODULES = ('asyncio', 'concurrent.futures', 'ctypes', 'decimal', 'difflib',
           'email.mime.text', 'html.parser', 'http.client', 'json', 'logging',
           'multiprocessing', 'pydoc', 'sqlite3', 'ssl', 'statistics',
           'tarfile', 'typing', 'unittest', 'urllib.request', 'xml.dom',
           'xmlrpc.client', 'zipfile')


def populate():
    """Load what a program that works with data has in memory."""
    import ast          # pylint: disable=import-outside-toplevel
    import importlib    # pylint: disable=import-outside-toplevel
    kept = []
    for name in MODULES:
        try:
            kept.append(importlib.import_module(name))
        except ImportError:
            pass
    for path in sorted(glob.glob(os.path.join(os.path.dirname(os.__file__),
                                              '*.py'))):
        with open(path, encoding='utf-8', errors='replace') as file:
            text = file.read()
        kept += [text.split(), {line: number for number, line
                                in enumerate(text.splitlines())}]
        try:
            kept.append(ast.parse(text))
        except SyntaxError:
            pass
    return kept


def dump(output):
    """This process's writable memory, its pages of zeroes left out."""
    kept = populate()
    with open('/proc/self/maps', encoding='ascii') as file:
        maps = [line.split() for line in file]
    left = HALF // PAGE
    with open('/proc/self/mem', 'rb', buffering=0) as memory:
        for where, rights, *_ in maps:
            if rights[:2] != 'rw':
                continue
            begin, end = (int(part, 16) for part in where.split('-'))
            for address in range(begin, end, PAGE):
                try:
                    memory.seek(address)
                    page = memory.read(PAGE)
                except (OSError, ValueError):
                    break
                if len(page) == PAGE and page != ZEROES and left:
                    output.write(page)
                    left -= 1
    return kept


def library_files():
    for directory, names, files in os.walk('/usr/lib'):
        names.sort()
        for name in sorted(files):
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield path


def library_pages(output):
    left = HALF // PAGE
    for path in library_files():
        if not left:
            break
        try:
            with open(path, 'rb') as file:
                # no file alone is typical
                data = file.read(min(left, PAGES_OF_A_FILE) * PAGE)
        except OSError:
            continue
        output.write(data[:len(data) // PAGE * PAGE])
        left -= len(data) // PAGE


def make(path):
    """Write the corpus to a file, unless it is there."""
    if os.path.exists(path):
        # so that its page cache is not charged to who is measured
        with open(path, 'rb') as file:
            while file.read(1 << 20):
                pass
        return path
    new = f'{path}.new'
    with open(new, 'wb') as output:
        subprocess.run([sys.executable, os.path.realpath(__file__)],
                       stdout=output, check=True)
        output.seek(0, os.SEEK_END)
        library_pages(output)
    os.replace(new, path)
    return path


if __name__ == '__main__':
    dump(sys.stdout.buffer)

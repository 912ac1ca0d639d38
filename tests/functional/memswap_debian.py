"""Gets Debian's packages without installing them.

Through apt with a configuration of its own: no root is needed, the system's
sources and lists stay as they are.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import contextlib
import fcntl
import glob
import os
import re
import shutil
import subprocess
import sys

RELEASE = 'bookworm'
FETCH = os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', '..',
                     'scripts', 'fetch-debian')


class Failure(Exception):
    """Ends the program with one line for the user."""


def run(*command, cwd=None):
    """Runs a command; its output is shown only if it fails."""
    try:
        done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True, check=False,
                              stderr=subprocess.STDOUT)
    except FileNotFoundError as e:
        raise Failure(f'{command[0]} is missing: install it') from e
    if done.returncode:
        sys.stderr.write(done.stdout)
        raise Failure(f'{" ".join(command[:3])}... failed, see above')
    return done.stdout


@contextlib.contextmanager
def alone(build, name):
    """Waits until no other program of that name works in a build directory.

    apt refuses to share its directory, and who shares what is made breaks it.
    """
    os.makedirs(build, exist_ok=True)
    with open(os.path.join(build, f'.{name}.lock'), 'a',
              encoding='ascii') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'waiting for another {name}', flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def debian_mirror():
    """DEBIAN_MIRROR, or what the system's own apt sources name."""
    return run(FETCH, 'mirror').strip()


class Apt:
    """An apt of our own in a directory, with one source.

    What it downloads for unpack() is kept beside that directory.
    """

    def __init__(self, directory):
        self._downloads = os.path.dirname(directory)
        self._archives = os.path.join(directory, 'cache', 'archives')
        keyring = '/usr/share/keyrings/debian-archive-keyring.gpg'
        if not os.path.exists(keyring):
            raise Failure('apt install debian-archive-keyring')
        for sub in ('lists/partial', 'cache/archives/partial', 'empty'):
            os.makedirs(os.path.join(directory, sub), exist_ok=True)
        source = os.path.join(directory, 'sources.list')
        with open(source, 'w', encoding='ascii') as f:
            f.write(f'deb [arch=amd64 signed-by={keyring}] '
                    f'{debian_mirror()} {RELEASE} main\n')
        options = {
            'Dir::Etc::sourcelist': source,
            'Dir::Etc::sourceparts': os.path.join(directory, 'empty'),
            'Dir::Etc::preferences': '/dev/null',
            'Dir::Etc::preferencesparts': os.path.join(directory, 'empty'),
            'Dir::State::lists': os.path.join(directory, 'lists'),
            'Dir::State::status': '/dev/null',
            'Dir::Cache': os.path.join(directory, 'cache'),
            'Acquire::Languages': 'none',
            'Acquire::Retries': '3',
        }
        if os.geteuid() == 0:
            options['APT::Sandbox::User'] = 'root'
        self._options = [part for name, value in options.items()
                         for part in ('-o', f'{name}={value}')]

    def update(self):
        run('apt-get', *self._options, '-qq', 'update')

    def kernel(self, package):
        """The package that a kernel's meta package stands for."""
        shown = run('apt-cache', *self._options, 'show', package)
        found = re.search(r'^Depends:.*?(linux-image-\S+)', shown, re.M)
        if not found:
            raise Failure(f'{package} depends on no kernel')
        return found.group(1)

    def unpack(self, package, directory):
        """Downloads a package and extracts its files."""
        for old in glob.glob(os.path.join(self._downloads,
                                          f'{package}_*.deb')):
            os.unlink(old)
        run('apt-get', *self._options, '-qq', 'download', package,
            cwd=self._downloads)
        found = glob.glob(os.path.join(self._downloads, f'{package}_*.deb'))
        part = directory + '.part'
        shutil.rmtree(part, ignore_errors=True)
        run('dpkg', '-x', found[0], part)
        shutil.rmtree(directory, ignore_errors=True)
        os.rename(part, directory)

    def extract(self, packages, directory):
        """Downloads packages and extracts the files of all to one place."""
        debs = os.path.join(self._archives, 'extract')
        os.makedirs(debs, exist_ok=True)
        run('apt-get', *self._options, '-qq', 'download', *packages, cwd=debs)
        for deb in glob.glob(os.path.join(debs, '*.deb')):
            run('dpkg', '-x', deb, directory)
            os.unlink(deb)

    def download(self, *packages):
        """Downloads packages and all they depend on; returns the files."""
        run('apt-get', *self._options, '-qq', 'clean')
        run('apt-get', *self._options, '-qq', '-y', '--download-only',
            '--no-install-recommends', 'install', *packages)
        return sorted(glob.glob(os.path.join(self._archives, '*.deb')))

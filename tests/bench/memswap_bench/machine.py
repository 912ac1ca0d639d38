# SPDX-License-Identifier: GPL-2.0-or-later
"""What the benchmarks change on the machine, and how it gets back.

Everything that is changed is written to a journal first.  restore() undoes
the journal from its end; a run that was killed is undone by the next one.
What cannot be undone stays in the journal, for the next one as well.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import time

JOURNAL = '/run/memswap-bench.json'
LOCK = '/run/memswap-bench.lock'
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HUGEPAGES = '/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages'
ZRAM = '/sys/class/zram-control'
BLOCK = '/sys/block'
MODULES = '/sys/module'
TRIES = 20
SWAPS = '/proc/swaps'


class Unable(Exception):
    """Something cannot be measured here; the text says why."""


class Missing(Unable):
    """This machine has not got what the case is about: it is skipped."""


# What else may go wrong in a run: no space left, no reply in time.
FAILURES = (OSError, subprocess.SubprocessError)


def read(path):
    with open(path, encoding='ascii') as file:
        return file.read().strip()


def write(path, value):
    """Write to a file of the kernel's, in one system call."""
    try:
        with open(path, 'w', encoding='ascii') as file:
            file.write(str(value))
    except OSError as error:
        raise Unable(f'{path}: {value}: {error.strerror}') from error


def chosen(path):
    """A setting; of several words, the one in brackets."""
    text = read(path)
    found = re.search(r'\[(\S+)\]', text)
    return found[1] if found else text


def zrams():
    """The names of all zram devices."""
    return [name for name in sorted(os.listdir(BLOCK))
            if re.fullmatch(r'zram\d+', name)]


def swapped_to(path):
    """Is it in use as swap?  The kernel lists whole paths, without links."""
    if not os.path.exists(SWAPS):
        return False                # a kernel without swap
    with open(SWAPS, encoding='utf-8', errors='surrogateescape') as file:
        # blanks in them are escaped, in octal
        names = [re.sub(r'\\([0-7]{3})', lambda each: chr(int(each[1], 8)),
                        re.split('[ \t]', line)[0]) for line in file]
    return os.path.realpath(path) in [name.removesuffix(' (deleted)')
                                      for name in names]


@contextlib.contextmanager
def uninterrupted():
    """What is inside is done to its end; signals come after it."""
    came = []
    # Blocked ones would still go to other threads, and reach us so.
    handlers = {number: signal.signal(
        number, lambda number, _frame: came.append(number))
                for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def run(*command):
    try:
        # a session of its own: Ctrl-C is not for swapoff
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False,
                              stderr=subprocess.STDOUT, encoding='utf-8',
                              errors='replace', start_new_session=True)
    except OSError as error:
        raise Unable(f'{command[0]}: {error.strerror}') from error
    if done.returncode:
        raise Unable(f'{" ".join(command)}: {done.stdout.strip()}')


def subject(what, *arguments):
    """What an entry of the journal is about."""
    if what == 'hugepages':
        return HUGEPAGES
    if what == 'reset':
        return f'/dev/{arguments[0]}'
    if what == 'hot_remove':
        return f'/dev/zram{arguments[0]}'
    if what == 'unload':
        return f'/dev/{arguments[0]}'       # that is, all its devices
    return what if what == 'remove_new' else arguments[0]


def patiently(function, *arguments):
    """udev looks at a device that has changed; it is busy until then."""
    for left in reversed(range(TRIES)):
        try:
            function(*arguments)
            return
        except Unable:
            if not left:
                raise
        time.sleep(0.1)


class Machine:
    """The only one to change the machine; use it in a with statement."""

    def __init__(self):
        self.journal = []
        self.left = {}              # what can't be restored: why, by subject
        self.lock = None

    def __enter__(self):
        # pylint: disable=consider-using-with
        self.lock = open(LOCK, 'w', encoding='ascii')
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit('bench: another one is running') from None
        if os.path.exists(JOURNAL):
            with open(JOURNAL, encoding='utf-8') as file:
                self.journal = json.load(file)
            print('bench: undoing what an earlier run had changed')
            self.undo(0)
            if self.left:
                self.tell_left()
                raise SystemExit(1)
        for number in SIGNALS:
            signal.signal(number, self.interrupted)
        return self

    @staticmethod
    def interrupted(number, _frame):
        # Another one would stop the way back.
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    def __exit__(self, *_):
        self.undo(0)
        self.tell_left()
        self.lock.close()

    def tell_left(self):
        for why in self.left.values():
            print(f'bench: not restored: {why}; it stays in {JOURNAL}',
                  flush=True)

    # --- changes, each written down before it is made ------------------

    def note(self, *entry):
        self.journal.append(entry)
        self.save()

    def amend(self, *entry):
        """What the last entry turned out to be."""
        self.journal[-1] = entry
        self.save()

    def drop(self):
        """The last entry was not made."""
        self.journal.pop()
        self.save()

    def save(self):
        if not self.journal:
            if os.path.exists(JOURNAL):
                os.unlink(JOURNAL)
            return
        with open(f'{JOURNAL}.new', 'w', encoding='utf-8') as file:
            json.dump(self.journal, file)
        os.replace(f'{JOURNAL}.new', JOURNAL)

    def set(self, path, value):
        """Change a setting."""
        before = chosen(path)
        if before != str(value):
            self.note('set', path, before)
            write(path, value)

    def add_hugepages(self, number):
        """Have this many free 2 MiB pages more than there are."""
        if not number:
            return
        before = int(read(HUGEPAGES))
        self.note('hugepages', before, before + number)
        write(HUGEPAGES, before + number)
        now = int(read(HUGEPAGES))
        # The kernel gives what it can: no more than that is ours.
        self.amend('hugepages', before, now)
        if now < before + number:
            raise Unable(f'no room for {number} hugepages')

    def make_directory(self, path):
        self.note('rmdir', path)
        os.mkdir(path)

    def swap_on(self, path):
        self.note('swapoff', path)
        run('swapon', '--priority', '32767', path)

    def make_file(self, path, size):
        if swapped_to(path):
            raise Unable(f'{path} is swapped to already')
        self.note('unlink', path)
        with open(path, 'wb') as file:
            os.fchmod(file.fileno(), 0o600)
            # swapon wants no holes
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                raise Unable(f'{path}: {error.strerror}') from error

    def load_zram(self):
        if os.path.isdir(ZRAM):
            return
        self.note('unload', 'zram')
        try:
            run('modprobe', 'zram')
        except Unable as why:
            self.drop()
            raise Unable(f'there is no zram: {why}') from why
        if not os.path.isdir(ZRAM):
            raise Unable('this kernel has no zram')

    def take_zram(self):
        """The name of a zram device that nobody uses."""
        self.load_zram()
        names = [name for name in zrams()
                 if read(f'{BLOCK}/{name}/disksize') == '0']
        if not names:
            # Its number is known only once it is there.
            self.note('remove_new', zrams())
            number = read(f'{ZRAM}/hot_add')
            names = [f'zram{number}']
            self.amend('hot_remove', number)
        self.note('reset', names[0],
                  chosen(f'{BLOCK}/{names[0]}/comp_algorithm'))
        return names[0]

    # --- the way back ---------------------------------------------------

    def mark(self):
        """Where undo() should stop."""
        if self.left:
            self.undo(0)
        if self.left:
            raise Unable('the machine is not as it was: ' +
                         ', '.join(self.left.values()))
        return len(self.journal)

    def undo(self, mark):
        """Undo all changes after a mark; no signal stops it.

        Where that fails, what was done before to the same thing stays too: a
        device that is still swapped to is not reset.
        """
        with uninterrupted():
            stuck = set()
            for number in reversed(range(mark, len(self.journal))):
                what, *arguments = self.journal[number]
                about = subject(what, *arguments)
                if any(each.startswith(about) for each in stuck):
                    continue
                try:
                    getattr(self, f'undo_{what}')(*arguments)
                    self.left.pop(about, None)
                    del self.journal[number]
                    self.save()
                except (OSError, Unable) as error:
                    stuck.add(about)
                    self.left[about] = str(error)

    @staticmethod
    def undo_set(path, before):
        if os.path.exists(path):
            write(path, before)

    @staticmethod
    def undo_hugepages(before, ours):
        # Somebody else may have changed it meanwhile: take ours off, but
        # none that were there before us.
        now = int(read(HUGEPAGES))
        left = max(before, now - max(0, ours - before))
        if left < now:
            write(HUGEPAGES, left)

    @staticmethod
    def undo_rmdir(path):
        for _ in range(100):
            try:
                os.rmdir(path)
                return
            except FileNotFoundError:
                return
            except OSError as error:
                # its last process is still on its way out
                if error.errno != errno.EBUSY:
                    raise
                time.sleep(0.05)
        raise Unable(f'{path} is busy')

    @staticmethod
    def undo_swapoff(path):
        if swapped_to(path):
            run('swapoff', path)

    @staticmethod
    def undo_unlink(path):
        if swapped_to(path):
            # without a name there would be no way to swap it off
            raise Unable(f'{path} is still swapped to')
        if os.path.exists(path):
            os.unlink(path)

    @staticmethod
    def undo_reset(name, algorithm):
        if not os.path.exists(f'{BLOCK}/{name}'):
            return
        patiently(write, f'{BLOCK}/{name}/reset', 1)
        write(f'{BLOCK}/{name}/comp_algorithm', algorithm)

    @staticmethod
    def undo_hot_remove(number):
        if os.path.exists(f'{BLOCK}/zram{number}'):
            patiently(write, f'{ZRAM}/hot_remove', number)

    @staticmethod
    def undo_remove_new(before):
        for name in zrams():
            if name not in before and \
                    read(f'{BLOCK}/{name}/disksize') == '0':
                write(f'{ZRAM}/hot_remove', name.removeprefix('zram'))

    @staticmethod
    def undo_unload(module):
        # Somebody else's devices would go with it.  And built in, it can't
        # have been us.
        used = any(read(f'{BLOCK}/{name}/disksize') != '0'
                   for name in zrams())
        if not used and os.path.exists(f'{MODULES}/{module}/initstate'):
            patiently(run, 'modprobe', '-r', module)

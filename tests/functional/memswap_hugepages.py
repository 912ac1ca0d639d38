"""Hugepages for a test, taken from the host and given back.

They are the host's: whatever ends the test, SIGKILL too, they must not stay
allocated.  So a process of its own takes them, and gives them back once the
pipe from the test is closed.  The unit tests do the same (hugepages.c).

SPDX-License-Identifier: GPL-2.0-or-later
"""

import fcntl
import os
import signal
import subprocess
import sys

POOL = '/proc/sys/vm/nr_hugepages'


def take(count):
    """Have the host make so many more, if it can.

    Returns how many it made, and a function that gives them back; those still
    in use go when they are freed.
    """
    # Its session is its own before it takes any: what is sent to the group of
    # the test's processes does not reach it.
    # pylint: disable-next=consider-using-with
    guardian = subprocess.Popen(
        [sys.executable, os.path.realpath(__file__), str(count)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)

    def release():
        guardian.communicate()
        if guardian.returncode:
            raise OSError('the host did not take its hugepages back')
    return int(guardian.stdout.readline() or 0), release


def resize(pool, more=0):
    """Has the pool made larger by so many; returns how large it is."""
    pool.seek(0)
    size = int(pool.read())
    if more:
        pool.seek(0)
        pool.write(str(max(size + more, 0)))
        pool.flush()
        size = resize(pool)
    return size


def guard(count):
    """The process that has them."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with open(POOL, 'r+', encoding='ascii') as pool:
        # As the unit tests do: what they have is not there before and after.
        fcntl.flock(pool, fcntl.LOCK_EX)
        before = resize(pool)
        gained = 0
        try:
            gained = resize(pool, count) - before
            print(gained, flush=True)
            sys.stdin.read()
        finally:
            resize(pool, -gained)


if __name__ == '__main__':
    guard(int(sys.argv[1]))

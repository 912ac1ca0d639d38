"""Talks to the agent in the test guest (guest/agent.c) over a serial port.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import re
import threading


class GuestError(Exception):
    """A command failed in the guest, or the guest is gone."""


class Job:
    """A command that runs in the guest."""

    def __init__(self, agent, number, command):
        self._agent = agent
        self._number = number
        self.command = command
        self.lines = []
        self.code = None

    @property
    def output(self):
        """All it has said so far."""
        return '\n'.join(self.lines)

    def _wait(self, condition, timeout, what):
        agent = self._agent
        with agent.changed:
            agent.changed.wait_for(
                lambda: condition() or self.code is not None or agent.lost,
                timeout)
            if not condition():
                why = agent.lost or (f'ended with code {self.code}'
                                     if self.code is not None
                                     else f'not in {timeout} s')
                last = self.lines[-5:]
                raise GuestError(f'"{self.command}": {what}: {why}, {last}')

    def wait(self, timeout=60, code=0):
        """Waits for its end and expects this exit code (None: any)."""
        self._wait(lambda: self.code is not None, timeout, 'no end')
        if code is not None and self.code != code:
            last = self.lines[-5:]
            raise GuestError(f'"{self.command}" ended with code {self.code}, '
                             f'{last}')
        return self.output

    def wait_line(self, pattern, timeout=60, after=0):
        """Waits for a line that matches, among those from @after on."""
        found = []

        def look():
            found[:] = [m for m in (re.search(pattern, line)
                                    for line in self.lines[after:]) if m]
            return bool(found)

        self._wait(look, timeout, f'no line like {pattern!r}')
        return found[0]

    def send(self, text=''):
        """Gives it a line of input."""
        self._agent.send(f'in {self._number} {text}')

    def kill(self):
        """Kills it and its children."""
        self._agent.send(f'kill {self._number}')


class Agent:
    """The host's end of the serial port."""

    def __init__(self, connection):
        self._socket = connection
        self.changed = threading.Condition()
        self.lost = None        # why the guest can't answer any more
        self.hellos = 0
        self._jobs = {}
        self._next_id = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        try:
            for raw in self._socket.makefile('rb'):
                line = raw.decode(errors='replace').rstrip('\r\n')
                with self.changed:
                    self._sort(line)
                    self.changed.notify_all()
        except OSError:
            pass
        with self.changed:
            self.lost = 'QEMU is gone'
            self.changed.notify_all()

    def _sort(self, line):
        if line.endswith('hello'):
            self.hellos += 1
            for job in self._jobs.values():
                job.code = 'lost in a restart'
            self._jobs.clear()
            return
        number, mark, text = (line.split(' ', 2) + ['', ''])[:3]
        job = self._jobs.get(number)
        if job and mark == '|':
            job.lines.append(text)
        elif job and mark == '=':
            job.code = int(text)
            del self._jobs[number]

    def wait_hello(self, count=1, timeout=60):
        """Waits until the guest has started so many times."""
        with self.changed:
            self.changed.wait_for(lambda: self.hellos >= count or self.lost,
                                  timeout)
            if self.hellos < count:
                raise GuestError('the guest does not come up: '
                                 f'{self.lost or f"not in {timeout} s"}')

    def send(self, line):
        """Sends a line to the agent."""
        try:
            self._socket.sendall(line.encode() + b'\n')
        except OSError as e:
            raise GuestError('QEMU is gone') from e

    def start(self, command):
        """Starts a command in the guest."""
        with self.changed:
            self._next_id += 1
            number = str(self._next_id)
            job = Job(self, number, command)
            self._jobs[number] = job
        self.send(f'run {number} {command}')
        return job

    def run(self, command, timeout=60, code=0):
        """Runs a command in the guest; returns what it said."""
        return self.start(command).wait(timeout, code)

    def close(self):
        """Ends the connection."""
        try:
            self._socket.shutdown(2)
        except OSError:
            pass
        self._reader.join(5)
        self._socket.close()

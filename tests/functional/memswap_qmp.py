"""A small QMP client: commands in and out of band, events.

One thread reads the socket and sorts what comes in; any thread may send
commands.  Out-of-band commands are answered while others wait.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import json
import threading
import time


class QMPError(Exception):
    """QEMU refused a command."""

    def __init__(self, error):
        super().__init__(error['desc'])
        self.klass = error['class']
        self.description = error['desc']


class QMPClosed(Exception):
    """The connection is gone, and so, most likely, is QEMU."""


class QMP:
    """A QMP session on a connected stream socket."""

    def __init__(self, connection, timeout=60):
        self._socket = connection
        self._file = connection.makefile('rb')
        self._timeout = timeout
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._replies = {}
        self._events = []
        self._closed = False
        self._next_id = 0
        # Until the greeting has been read the reader thread isn't there.
        connection.settimeout(timeout)
        greeting = self._file.readline()
        if not greeting:
            raise QMPClosed('QEMU closed the monitor before its greeting')
        connection.settimeout(None)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.command('qmp_capabilities', enable=['oob'])

    def _read(self):
        try:
            for line in self._file:
                message = json.loads(line)
                with self._changed:
                    if 'event' in message:
                        self._events.append(message)
                    else:
                        self._replies[message.get('id')] = message
                    self._changed.notify_all()
        except (OSError, ValueError):
            pass
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def send(self, command, oob=False, **arguments):
        """Sends a command, returns the id to give to receive().

        Underscores in arguments' names stand for dashes.
        """
        with self._sending:
            self._next_id += 1
            number = self._next_id
            message = {
                'exec-oob' if oob else 'execute': command,
                'arguments': {name.replace('_', '-'): value
                              for name, value in arguments.items()},
                'id': number,
            }
            try:
                self._socket.sendall(json.dumps(message).encode() + b'\n')
            except OSError as e:
                raise QMPClosed(f'{command}: the monitor is closed') from e
        return number

    def receive(self, number, timeout=None):
        """Waits for the reply to one command."""
        timeout = timeout or self._timeout
        with self._changed:
            if not self._changed.wait_for(
                    lambda: number in self._replies or self._closed, timeout):
                raise TimeoutError(f'no reply over QMP in {timeout} s')
            if number not in self._replies:
                raise QMPClosed('QEMU closed the monitor')
            reply = self._replies.pop(number)
        if 'error' in reply:
            raise QMPError(reply['error'])
        return reply['return']

    def command(self, command, timeout=None, oob=False, **arguments):
        """Runs a command and returns what it returns."""
        return self.receive(self.send(command, oob, **arguments), timeout)

    def hmp(self, line):
        """Runs a command of the human monitor; returns its text."""
        return self.command('human-monitor-command', command_line=line)

    def wait_event(self, name, timeout=60, match=lambda data: True):
        """Waits for an event, or finds one that came before; takes it."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for event in self._events:
                    if event['event'] == name and \
                            match(event.get('data', {})):
                        self._events.remove(event)
                        return event
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f'no event {name} in {timeout} s')
                if self._closed:
                    raise QMPClosed(f'QEMU closed the monitor before {name}')
                self._changed.wait(left)

    def forget_events(self, name):
        """Drops the events of that name that were not waited for."""
        with self._changed:
            self._events = [e for e in self._events if e['event'] != name]

    def events(self, name):
        """The events of that name that nobody has taken yet."""
        with self._changed:
            return [e for e in self._events if e['event'] == name]

    def close(self):
        """Ends the session."""
        try:
            self._socket.shutdown(2)
        except OSError:
            pass
        self._reader.join(5)
        self._file.close()
        self._socket.close()

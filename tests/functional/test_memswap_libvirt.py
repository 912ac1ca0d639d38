#!/usr/bin/env python3
"""Domains of libvirt's: its own QEMU driver starts and controls QEMU.

The driver runs inside virsh ("embed"), with all its files in a directory of
the test's, as a user without rights: there is no daemon, and nothing outside
of that directory is touched.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import glob
import json
import os
import pwd
import shutil
import signal
import subprocess
import threading
import time
import unittest

from memswap_guest import Agent
from memswap_qmp import QMPError
from memswap_vm import GUEST, MIB, QEMU, VM, MemswapTest, VMError

USER = 'nobody'     # who runs libvirt and QEMU if we are root
NAME = 'memswap'
TIMEOUT = 150       # seconds for a command of virsh's
DRIVERS = [f'/usr/lib*/{directory}libvirt/connection-driver/'
           'libvirt_driver_qemu.so' for directory in ('', '*/')]
MEMFD = "<source type='memfd'/><access mode='shared'/>"
DOMAIN = """
<domain type='qemu'
        xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  {most}
  <memory unit='MiB'>{memory}</memory>
  {backing}
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{guest}/vmlinuz</kernel>
    <initrd>{guest}/initramfs.cpio.gz</initrd>
    <cmdline>console=ttyS0 quiet panic=-1 reboot=t,force cryptomgr.notests
      maxcpus=1 memhp_default_state=online_movable</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='maximum'>
    <feature policy='disable' name='erms'/>
    <feature policy='disable' name='fsrm'/>
    {numa}
  </cpu>
  <devices>
    <emulator>{qemu}</emulator>
    <memballoon model='virtio'/>
    <serial type='file'><source path='{console}'/></serial>
    <serial type='unix'><source mode='connect' path='{agent}'/></serial>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-memswap'/>
    <qemu:arg value='limit={limit}'/>
  </qemu:commandline>
</domain>
"""
DIMM = """
<memory model='dimm'>
  <target><size unit='MiB'>{size}</size><node>0</node></target>
</memory>
"""


def as_user():
    """What makes a command one of the user's."""
    if os.geteuid():
        return []
    user = pwd.getpwnam(USER)
    return ['setpriv', f'--reuid={user.pw_uid}', f'--regid={user.pw_gid}',
            '--clear-groups']


class VirshError(Exception):
    """virsh refused a command; the message is all that it said."""


class Virsh:
    """A virsh that is told commands one by one.

    QEMU outlives it.  So the domain is destroyed behind the last command,
    which is also when we are killed: hence a session of its own.
    """

    def __init__(self, directory):
        self._number = 0
        self.process = subprocess.Popen(
            [*as_user(), 'sh', '-c',
             '{ cat; echo; echo destroy "$0"; } | virsh -c "$1"', NAME,
             f'qemu:///embed?root={directory}/r'],
            cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True, env={
                'PATH': os.environ['PATH'], 'LC_ALL': 'C', 'HOME': directory,
                'XDG_RUNTIME_DIR': directory,
                'LIBVIRT_LOG_OUTPUTS': f'2:file:{directory}/libvirt.log'})
        self.run('')    # its welcome

    def send(self, command):
        """Gives it a command, to be followed by receive()."""
        self._number += 1
        try:
            self.process.stdin.write(
                f'{command}\necho end-of-{self._number}\n'.encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            pass    # receive() tells

    def receive(self):
        """What the command said, once it is done."""
        mark = f'end-of-{self._number}'
        lines = []
        line = None
        late = threading.Timer(TIMEOUT, self._kill)
        late.start()
        try:
            for raw in self.process.stdout:
                line = raw.decode(errors='replace').rstrip()
                if line == mark:
                    break
                # It repeats its input behind a prompt, a long one with CRs.
                if line and not line.startswith('virsh # '):
                    lines.append(line)
        finally:
            late.cancel()
        if line != mark:
            raise VirshError('\n'.join(['virsh ended, or hung', *lines]))
        said = '\n'.join(lines)
        if any(line.startswith('error: ') for line in lines):
            raise VirshError(said)
        return said

    def run(self, command):
        """Runs a command to its end; returns what it said."""
        self.send(command)
        return self.receive()

    def _kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)

    def close(self):
        """Ends it, whatever it does."""
        try:
            self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self._kill()
            self.process.wait()


class Monitor:
    """QEMU's monitor, of which libvirt holds the other end."""

    def __init__(self, virsh):
        self._virsh = virsh

    def command(self, command, oob=False, **arguments):
        """Runs a command and returns what it returns."""
        message = {'exec-oob' if oob else 'execute': command}
        if arguments:
            message['arguments'] = {name.replace('_', '-'): value
                                    for name, value in arguments.items()}
        reply = json.loads(self._virsh.run(
            f"qemu-monitor-command {NAME} '{json.dumps(message)}'"))
        if 'error' in reply:
            raise QMPError(reply['error'])
        return reply['return']

    def close(self):
        """It is libvirt's."""


class Domain(VM):
    """A VM that libvirt starts."""

    def __init__(self, name, backing='', most=0, **options):
        # QEMU is no child of ours.
        super().__init__(name, daemonize=True, **options)
        self.virsh = None
        self._backing = backing
        self._most = most // MIB
        self._memory = options['memory'] // MIB

    def describe(self, backing):
        """Writes its XML; returns the path."""
        return self.file('domain.xml', DOMAIN.format(
            name=NAME, memory=self._memory, limit=self.limit, guest=GUEST,
            qemu=QEMU, console=self.path('console.log'),
            agent=self.path('agent'),
            backing=f'<memoryBacking>{backing}</memoryBacking>'
                    if backing else '',
            most=f"<maxMemory slots='2' unit='MiB'>{self._most}</maxMemory>"
                 if self._most else '',
            numa="<numa><cell id='0' cpus='0' unit='MiB' "
                 f"memory='{self._memory}'/></numa>" if self._most else ''))

    def file(self, name, text):
        """The path of a new file that virsh can read."""
        with open(self.path(name), 'w', encoding='utf-8') as f:
            f.write(text)
        return self.path(name)

    def launch(self):
        """Has libvirt start QEMU, and finds it."""
        shutil.rmtree(self._logs, ignore_errors=True)
        os.makedirs(self._logs)
        os.makedirs(self.path('r/etc'))
        # There shall be no virtlogd.
        self.file('r/etc/qemu.conf', 'stdio_handler = "file"\n')
        description = self.describe(self._backing)
        if as_user():
            for path in ('', 'agent', 'r', 'r/etc'):
                shutil.chown(self.path(path), USER)
        self.virsh = Virsh(self._sockets)
        self._process = self.virsh.process
        self.virsh.run(f'create {description}')
        self._watch(self._find())
        self.agent = Agent(self._accept('agent'))
        self.qmp = Monitor(self.virsh)

    def _find(self):
        with open(self.path(f'r/run/qemu/{NAME}.pid'),
                  encoding='ascii') as f:
            return int(f.read())

    def stderr(self):
        """What QEMU said, behind its command line."""
        with open(self.path(f'r/log/qemu/{NAME}.log'), encoding='utf-8',
                  errors='replace') as f:
            return f.read().strip()

    def wait_end(self, reason, timeout=30):
        """Waits until QEMU has ended and libvirt knows."""
        self.wait_exit(timeout)
        deadline = time.monotonic() + timeout
        while f'shutting down, reason={reason}' not in self.stderr():
            if time.monotonic() > deadline:
                raise VMError(f'libvirt does not see the end: '
                              f'{self.stderr()}')
            time.sleep(0.05)

    def kill(self):
        """Ends QEMU and virsh, whatever state they are in."""
        if self.virsh:
            try:
                os.kill(self._find(), signal.SIGKILL)
            except (OSError, ValueError):
                pass    # it has ended
            self.virsh.close()
            self.virsh = None
            for name in ('domain.xml', 'libvirt.log', 'console.log',
                         f'r/log/qemu/{NAME}.log'):
                if os.path.exists(self.path(name)):
                    shutil.copy(self.path(name), self._logs)
        super().kill()


@unittest.skipUnless(shutil.which('virsh'), 'there is no virsh')
@unittest.skipUnless(any(map(glob.glob, DRIVERS)),
                     "libvirt's driver for QEMU is not installed")
class Libvirt(MemswapTest):
    """What an operator does through libvirt, and what it refuses."""

    def setUp(self):
        super().setUp()
        for path in (QEMU, os.path.join(GUEST, 'vmlinuz'),
                     os.path.join(GUEST, 'initramfs.cpio.gz')):
            if subprocess.run([*as_user(), 'test', '-r', path],
                              check=False).returncode:
                self.skipTest(f'{USER} may not read {path}')

    def domain(self, **options):
        """A domain with 256 MiB; it isn't started yet."""
        return self.vm(kind=Domain, memory=256 * MIB, **options)

    def change_limit(self, vm):
        """The limit goes down; the guest has what it wrote."""
        self.churn(vm, '-m 112 fill random:2000', checked=2000)
        self.assertGreater(vm.counts()['evictions'], 10000)
        vm.set_limit(40 * MIB)
        vm.wait_converged()
        self.churn(vm, '-m 64 fill random:1000', checked=1000)
        with self.assertRaisesRegex(QMPError, 'limit must be at least 1 MiB'):
            vm.set(limit=1)
        with self.assertRaisesRegex(QMPError, 'exec-oob'):
            vm.stats(oob=True)
        self.assertRegex(vm.virsh.run(
            f'qemu-monitor-command {NAME} --hmp info memswap'),
            'limit +40 MiB\n')

    def save(self, vm):
        """To save it is refused in one line, and it goes on."""
        with self.assertRaises(VirshError) as caught:
            vm.virsh.run(f'save {NAME} {vm.path("saved")}')
        # The first of its lines only says what was to be done.
        self.assertEqual(str(caught.exception).splitlines()[1:], [
            'error: Requested operation is not valid: cannot migrate domain: '
            'memswap: migration and snapshots are not supported yet'])
        self.assertFalse(os.path.exists(vm.path('saved')))
        self.assertEqual(vm.virsh.run(f'domstate {NAME}'), 'running')

    def plug(self, vm):
        """A DIMM joins the memory that is managed; the limit goes up."""
        total = self.guest_total(vm)
        dimm = vm.file('dimm.xml', DIMM.format(size=128))
        vm.virsh.run(f'attach-device {NAME} {dimm}')
        self.assertEqual(vm.memory()['managed'], 384 * MIB)
        self.wait_total(vm, lambda t: t > total + 120 * MIB,
                        'the DIMM does not come up in the guest')
        vm.set_limit(96 * MIB)
        # More than what was there before can hold.
        self.churn(vm, f'-m {total // MIB + 16} fill random:1000',
                   checked=1000)
        self.assertGreater(vm.memory()['peak-resident'], 90 * MIB)

        discards = vm.counts()['discards']
        vm.virsh.run(f'setmem {NAME} 300M --live')
        self.wait_total(vm, lambda t: t < total + 60 * MIB,
                        'the balloon does not grow')
        self.assertGreater(vm.counts()['discards'], discards)

    def test_domain(self):
        """The limit is kept and changed; what can't be done is refused."""
        vm = self.domain(limit=64 * MIB, most=512 * MIB, backing=MEMFD).start()
        self.assertIn('tainted: custom configuration parameters',
                      vm.virsh.run(f'dominfo {NAME}'))
        with open(f'/proc/{vm.pid}/status', encoding='ascii') as f:
            self.assertIn('Seccomp:\t2', f.read())
        self.assertEqual(vm.memory()['managed'], 256 * MIB)
        self.change_limit(vm)
        self.save(vm)
        self.plug(vm)
        self.assert_adds_up(vm)
        # This guest has no driver for the power button.
        vm.agent.start('poweroff -f')
        vm.wait_end('shutdown')
        self.assert_within_limit(vm)

    def test_no_memory_backing(self):
        """What backend libvirt makes is shared; an event is heard."""
        vm = self.domain(limit=64 * MIB).start()
        self.assertIn('"memory-backend-ram","id":"pc.ram"', vm.stderr())
        self.assertEqual(vm.memory()['managed'], 256 * MIB)
        vm.set(pool_limit=4 * MIB)
        vm.virsh.send(
            f'qemu-monitor-event {NAME} MEMSWAP_STORE_FULL --timeout 60')
        job = vm.agent.start('churn -m 112 fill random:1000')
        self.assertIn('event MEMSWAP_STORE_FULL', vm.virsh.receive())
        vm.set(pool_limit=256 * MIB)
        self.assertRegex(job.wait(60), 'total checked=[0-9]+ wrong=0$')
        self.assert_adds_up(vm)
        vm.virsh.run(f'destroy {NAME}')
        vm.wait_end('destroyed')
        self.assert_within_limit(vm)

    def test_refused(self):
        """Memory that can't be swapped keeps a domain from starting."""
        vm = self.domain(limit=64 * MIB,
                         backing=MEMFD.replace('shared', 'private'))
        # libvirt hands on what QEMU said, unless that has ended too early.
        with self.assertRaises(VirshError):
            vm.launch()
        self.assertRegex(vm.stderr(), "memswap: RAM 'pc.ram' is private")
        description = vm.describe(MEMFD + "<allocation mode='immediate'/>")
        with self.assertRaises(VirshError):
            vm.virsh.run(f'create {description}')
        self.assertRegex(vm.stderr(), "memswap: RAM 'pc.ram' is prealloc")
        self.assertEqual(vm.virsh.run('list --name'), '')


if __name__ == '__main__':
    unittest.main()

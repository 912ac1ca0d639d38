# SPDX-License-Identifier: GPL-2.0-or-later
"""The case under KVM: firmware, which any KVM can run.

It touches 1 MiB, far below the limit.  So memswap is told to take all of it
out before each reset: first the firmware meets RAM that was never touched,
then RAM that is in the store.
"""

import time
from dataclasses import dataclass, replace

from . import guest     # finds the modules of tests/functional
from .case import Case, Reference
from .machine import Missing, Unable, uninterrupted

# pylint: disable=wrong-import-order
from memswap_firmware import FirmwareVM, kvm_usable
from memswap_qmp import QMPClosed, QMPError
from memswap_vm import MIB, VMError

LIMIT = 16 * MIB
TIMEOUT = 60
TIMES = 3


@dataclass(frozen=True)
class Firmware:
    """The firmware runs to its end so many times, each after a reset."""
    times: int = TIMES

    def shortened(self):
        """For bench-quick."""
        return replace(self, times=2)

    def lasting(self, _seconds):
        """It takes as long as it takes."""
        return self


@dataclass
class Side:
    """A QEMU under KVM, below a limit or without memswap."""
    name: str
    limit: int = 0

    def run(self, context, work):
        """One run; its figures, in a dict by metric."""
        if not kvm_usable():
            raise Missing('no /dev/kvm that can be opened')
        vm = FirmwareVM(f'bench-kvm-{self.name}', limit=self.limit,
                        memswap=','.join(context.memswap), args=('-S',))
        try:
            vm.launch()
            vm.sampler.stop()
            return self.measure(vm, work)
        except (QMPClosed, QMPError, TimeoutError, VMError) as error:
            # Without memswap it is KVM's fault.
            raise (Unable if self.limit else Missing)(
                f'{error} {vm.stderr()}') from error
        finally:
            with uninterrupted():
                vm.kill()

    def measure(self, vm, work):
        meter = guest.Meter(vm, bool(self.limit))
        meter.start()
        seconds = self.to_end(vm, 1, 'cont')
        for number in range(2, work.times + 1):
            if self.limit:
                vm.qmp.command('memswap-reclaim', size=vm.stats()[
                    'memory']['managed'])
            seconds += self.to_end(vm, number, 'system_reset')
        meter.stop()
        if self.limit and not vm.stats()['reclaim']['evictions']:
            raise Unable('nothing was evicted: nothing to compare')
        return {'time': seconds, **meter.figures}

    def to_end(self, vm, number, command):
        """Seconds from a command to the firmware's end."""
        begin = time.monotonic()
        vm.qmp.command(command)
        if not vm.wait_end(number, TIMEOUT):
            # Without memswap it is KVM's fault.
            raise (Unable if self.limit else Missing)(
                'the firmware does not come to its end')
        return time.monotonic() - begin


def cases():
    return [Case('kvm/firmware', Firmware(), Side('memswap', LIMIT),
                 [Reference([Side('no-limit')])], quick=True, rate='time')]

"""Virtual machines under KVM that run nothing but their firmware.

/dev/kvm may be there and not be able to run more than that.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import time

from memswap_vm import MIB, VM

# SeaBIOS's last words on its debug port when there is nothing to boot.
END = 'No bootable device.'


def kvm_usable():
    """Is there a KVM that we may open?"""
    return os.access('/dev/kvm', os.R_OK | os.W_OK)


class FirmwareVM(VM):
    """A VM without anything to boot, its firmware's log in a file."""

    def __init__(self, name, **options):
        super().__init__(name, memory=256 * MIB, accel='kvm', guest=False,
                         **options)
        # A host may show a register to guests that it does not let QEMU set.
        self.add_args(
            '-cpu', 'max,arch-capabilities=off',
            '-chardev', f'file,id=fw,path={self.log("firmware.log")}',
            '-device', 'isa-debugcon,iobase=0x402,chardev=fw',
            '-boot', 'reboot-timeout=-1')

    def wait_end(self, count=1, timeout=20):
        """Waits until the firmware came to its end so many times."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with open(self.log('firmware.log'), encoding='ascii',
                      errors='replace') as f:
                if f.read().count(END) >= count:
                    return True
            time.sleep(0.005)
        return False

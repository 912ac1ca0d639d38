#!/usr/bin/env python3
"""Firmware under KVM below a limit of 16 MiB.

/dev/kvm may be there and run nothing but firmware: that is what is used.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import time
import unittest

from memswap_vm import MIB, MemswapTest, VMError

# SeaBIOS's last words on its debug port when there is nothing to boot.
END = 'No bootable device.'


def kvm_usable():
    """Is there a KVM that we may open?"""
    return os.access('/dev/kvm', os.R_OK | os.W_OK)


@unittest.skipUnless(kvm_usable(), 'no /dev/kvm that can be opened')
class Firmware(MemswapTest):
    """The fault path under KVM, with what every KVM can run."""

    def firmware_vm(self, suffix, **options):
        """A VM without anything to boot, its firmware's log in a file."""
        vm = self.vm(suffix, memory=256 * MIB, accel='kvm', guest=False,
                     **options)
        vm.add_args('-chardev', f'file,id=fw,path={vm.log("firmware.log")}',
                    '-device', 'isa-debugcon,iobase=0x402,chardev=fw',
                    '-boot', 'reboot-timeout=-1')
        return vm

    def wait_end(self, vm, count=1, timeout=20):
        """Waits until the firmware came to its end so many times."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with open(vm.log('firmware.log'), encoding='ascii',
                      errors='replace') as f:
                if f.read().count(END) >= count:
                    return True
            time.sleep(0.02)
        return False

    def test_firmware(self):
        """It runs to its end, again after all of it was taken out, again
        after a reset."""
        plain = self.firmware_vm('-plain')
        try:
            plain.launch()
            works = self.wait_end(plain)
        except VMError:
            works = False
        plain.kill()
        if not works:
            self.skipTest('this KVM does not even run firmware')

        vm = self.firmware_vm('', limit=16 * MIB)
        vm.launch()
        self.assertTrue(self.wait_end(vm), 'the firmware hangs')
        self.assertGreater(vm.stats()['faults']['total'], 100)
        vm.qmp.command('memswap-reclaim', size=256 * MIB)
        self.assertLess(vm.memory()['resident'], 1 * MIB)
        vm.set_limit(4 * MIB)
        vm.wait_converged()
        vm.qmp.command('system_reset')
        self.assertTrue(self.wait_end(vm, 2), 'it hangs after a reset')
        self.finish(vm)


if __name__ == '__main__':
    unittest.main()

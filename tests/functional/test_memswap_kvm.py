#!/usr/bin/env python3
"""Firmware under KVM below a limit of 16 MiB.

/dev/kvm may be there and run nothing but firmware: that is what is used.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import unittest

from memswap_firmware import FirmwareVM, kvm_usable
from memswap_qmp import QMPClosed
from memswap_vm import MIB, MemswapTest, VMError


@unittest.skipUnless(kvm_usable(), 'no /dev/kvm that can be opened')
class Firmware(MemswapTest):
    """The fault path under KVM, with what every KVM can run."""

    def test_firmware(self):
        """It runs to its end, again after all of it was taken out, again
        after a reset."""
        plain = self.vm('-plain', kind=FirmwareVM)
        try:
            plain.launch()
            works = plain.wait_end()
        except (QMPClosed, VMError):
            works = False
        plain.kill()
        if not works:
            self.skipTest('this KVM does not even run firmware')

        vm = self.vm(kind=FirmwareVM, limit=16 * MIB)
        vm.launch()
        self.assertTrue(vm.wait_end(), 'the firmware hangs')
        self.assertGreater(vm.stats()['faults']['total'], 100)
        vm.qmp.command('memswap-reclaim', size=256 * MIB)
        self.assertLess(vm.memory()['resident'], 1 * MIB)
        vm.set_limit(4 * MIB)
        vm.wait_converged()
        vm.qmp.command('system_reset')
        self.assertTrue(vm.wait_end(2), 'it hangs after a reset')
        self.finish(vm)


if __name__ == '__main__':
    unittest.main()

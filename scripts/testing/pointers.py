# SPDX-License-Identifier: GPL-2.0-or-later
"""Who in QEMU gets at guest RAM without a map, and why each is safe.

A system call that is given a page of guest RAM that isn't there fails where
memswap can't resolve faults of the kernel.  address_space_map() and what is
built on it pin; what else yields a pointer to guest RAM, or the file behind it,
is used by the files that pointers.txt lists, each read and given one word:

  cpu        only QEMU's own code accesses the memory, which just faults
  address    only the address or the file is used: compared, advised, discarded
  pinned     it is pinned while the kernel or another process has it
  refused    can't be used together with memswap, or not where the kernel's
             faults can't be resolved
  unmanaged  the memory is a device's own, or a file's: memswap leaves it alone
  elsewhere  for hosts on which memswap doesn't run

A file of QEMU's that is not in the list fails, and so does an entry that is no
longer true: a new QEMU has to be read.
"""

import os
import re

from testing.report import FAIL, PASS, Test

WORDS = ('cpu', 'address', 'pinned', 'refused', 'unmanaged', 'elsewhere')
LIST = os.path.join(os.path.dirname(os.path.realpath(__file__)),
                    'pointers.txt')
# Not in the system emulator, or not QEMU's; headers only declare.
APART = {'contrib', 'debian', 'linux-user', 'bsd-user', 'memswap', 'roms',
         'subprojects', 'tests', 'build', '.pc', '.git'}
# What yields a pointer to guest RAM that is not pinned, or its file.
SOURCES = re.compile(
    r'\b(qemu_map_ram_ptr|memory_region_get_ram_ptr|qemu_ram_ptr_length'
    r'|qemu_ram_get_host_addr|ramblock_ptr|gpa2hva|GuestPhysBlock'
    r'|RAMBLOCK_FOREACH\w*|qemu_ram_foreach_block|RAMBlockNotifier'
    r'|ram_block_notifier_add|qemu_ram_get_fd|memory_region_get_fd'
    r'|memory_region_from_host|qemu_ram_block_from_host'
    r'|qemu_ram_block_by_name|xen_map_cache)\b'
    r'|\b(block|rb|ram_block|ramblock|new_block)->host\b')


def users(source):
    """The files of QEMU's source that use one of these."""
    found = set()
    for directory, names, files in os.walk(source):
        if directory == source:
            names[:] = [name for name in names if name not in APART]
        names[:] = [name for name in names
                    if not os.path.islink(os.path.join(directory, name))]
        for name in files:
            path = os.path.join(directory, name)
            if not name.endswith(('.c', '.c.inc')) or os.path.islink(path):
                continue
            with open(path, encoding='utf-8', errors='replace') as file:
                if SOURCES.search(file.read()):
                    found.add(os.path.relpath(path, source))
    return found


def judged():
    """The list: a word for each file."""
    with open(LIST, encoding='utf-8') as file:
        lines = [line.split('#')[0].split() for line in file]
    return {line[1]: line[0] for line in lines if line}


def check(source):
    """Every file that uses guest RAM is listed, and every one listed does."""
    found, listed = users(source), judged()
    wrong = {}
    for name in sorted(found - set(listed)):
        wrong[name] = 'uses pointers to guest RAM and is not listed in ' \
                      'scripts/testing/pointers.txt: read it, and say why ' \
                      'it is safe'
    for name in sorted(set(listed) - found):
        wrong[name] = 'is listed in scripts/testing/pointers.txt, and uses ' \
                      'no pointers to guest RAM'
    for name, word in sorted(listed.items()):
        if word not in WORDS:
            wrong[name] = f'"{word}" is none of {", ".join(WORDS)}'
    if len(found) < 50:
        wrong['source'] = f'only {len(found)} files found in {source}'
    return [Test('pointers to guest RAM', FAIL if wrong else PASS,
                 '; '.join(f'{name} {why}' for name, why in wrong.items()))]

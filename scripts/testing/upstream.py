# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's own tests: which of them to run, and how two builds compare."""

from testing.report import FAIL, PASS, SKIP, Test

# Tests of ours in QEMU's build.
OURS = ('memswap', 'qtest-x86_64/memswap')

# Quick ones for "make check", near what our patches touch: memory, threads
# and the main loop, QOM and its options, QMP and HMP, balloon and hotplug.
SHORT = {
    'check-qom-interface', 'check-qom-proplist', 'rcutorture', 'test-aio',
    'test-bdrv-drain', 'test-block-iothread', 'test-char', 'test-keyval',
    'test-qdev-global-props', 'test-qemu-opts', 'test-qmp-cmds',
    'test-qmp-event', 'test-seccomp', 'test-thread-pool',
    'test-visitor-serialization',
} | {'qtest-x86_64/' + name for name in (
    'boot-order-test', 'cpu-plug-test', 'device-plug-test', 'drive_del-test',
    'fw_cfg-test', 'ivshmem-test', 'machine-none-test', 'numa-test',
    'qmp-cmd-test', 'qmp-test', 'readconfig-test', 'test-hmp',
    'virtio-balloon-test', 'vmgenid-test')}


def short(name):
    return name in SHORT


def wanted(name, suites):
    """What is compared with the unpatched source."""
    return not name.startswith(OURS) and \
        bool({'unit', 'qtest-x86_64'}.intersection(suites))


def by_name(tests):
    """The tests of a program by name, the second of a name told apart."""
    named = {}
    for test in tests:
        name, number = test.name, 1
        while name in named:
            number += 1
            name = f'{test.name} ({number})'
        named[name] = test
    return named


def compare(ours, reference):
    """For each program its name and a test for each test of it: passed where
    both builds agree, so that what fails upstream too is not held against us.
    """
    for program in sorted({*ours, *reference}):
        here = by_name(ours.get(program, []))
        there = by_name(reference.get(program, []))
        tests = []
        for name in sorted({*here, *there}):
            now = here[name].status if name in here else 'missing'
            then = there[name].status if name in there else 'missing'
            if then == 'missing' and 'memswap' in name:
                # One of QEMU's tests for every command, about one of ours.
                tests.append(here[name])
            elif now != then:
                tests.append(Test(name, FAIL, f'{now} here, {then} in the '
                                  'unpatched QEMU'))
            elif now == SKIP:
                tests.append(here[name])
            else:
                tests.append(Test(name, PASS, ''))
        yield program, tests

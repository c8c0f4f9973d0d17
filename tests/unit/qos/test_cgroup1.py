# SPDX-License-Identifier: Apache-2.0
"""In which order cgroup v1 is written, against the kernel's own rules."""

import errno
import os
import pathlib

from hypothesis import given
from hypothesis import strategies as st
import pytest

from nova_vcloud import exception
from nova_vcloud.guest import Guest
from nova_vcloud.qos import limits
from nova_vcloud.qos.backends import cgroup
from nova_vcloud.qos.backends import cgroup1
from nova_vcloud.qos.backends.base import Change
from nova_vcloud.qos.limits import UNLIMITED
from nova_vcloud.qos.limits import Key

GUEST = Guest('', 'guest', '/guest')
INFO = '''\
30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 25 0:27 /docker/1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 25 0:28 / /elsewhere/pids rw - cgroup cgroup rw,pids
34 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
35 25 0:30 / /mnt rw - fuse.nameless  rw
'''
PAGE = cgroup.PAGE


class Kernel(cgroup1.Cgroup1):
    """Files in memory that refuse what the kernel refuses.

    Sources: mem_cgroup_resize_max (memory never above memory and swap),
    tg_cfs_schedulable_down (a child's ratio never above its parent's).
    """

    def __init__(self, files: dict[str, int], ratio: float = 1e9) -> None:
        super().__init__('/nowhere')
        self.files = files
        self._ratio = ratio
        self.order: list[str] = []

    def _read(self, guest, key):
        value = self.files[key.kind]
        if value < 0:
            return UNLIMITED
        if key.kind == 'memory.swap':
            return value - self.files['memory.max']
        return value

    def _write(self, guest, key, text):
        number = int(text)
        if key.resource == 'memory':
            number = -1 if number < 0 else number // PAGE * PAGE
        self.files[key.kind] = number
        self.order.append(key.kind)
        top = self.files.get('memory.swap', -1)
        if top >= 0:
            assert 0 <= self.files['memory.max'] <= top, self.files
        if self.files.get('cpu.quota', -1) >= 0:
            now = self.files['cpu.quota'] / self.files['cpu.period']
            assert now <= self._ratio + 1e-9, self.files


def changes(kernel, wanted):
    """Return the changes as the plan makes them."""
    now = kernel.read(GUEST, wanted)
    return [Change(key, now[key], value) for key, value in wanted.items()
            if not kernel.matches(key, value, now[key])]


MAX, SWAP = Key('memory', 'max'), Key('memory', 'swap')
AMOUNTS = st.integers(6 << 20, 1 << 33)
MEMORIES = st.one_of(
    st.tuples(AMOUNTS, st.integers(0, 1 << 33)),
    st.tuples(AMOUNTS, st.just(UNLIMITED)),
    st.just((UNLIMITED, UNLIMITED)))


@given(MEMORIES, MEMORIES)
def test_memory_is_never_above_memory_and_swap(first, second):
    kernel = Kernel({'memory.max': -1, 'memory.swap': -1})
    for pair in (first, second, first):
        wanted = limits.Limits(dict(zip((MAX, SWAP), pair, strict=True)))
        kernel.apply(GUEST, changes(kernel, wanted))
        found = kernel.read(GUEST, wanted)
        assert all(kernel.matches(key, value, found[key])
                   for key, value in wanted.items()), (wanted, found)


@given(MEMORIES.filter(lambda pair: isinstance(pair[1], int)), AMOUNTS)
def test_swap_stays_when_memory_alone_changes(pair, amount):
    kernel = Kernel({'memory.max': -1, 'memory.swap': -1})
    kernel.apply(GUEST, changes(kernel, limits.Limits(
        dict(zip((MAX, SWAP), pair, strict=True)))))
    kernel.apply(GUEST, changes(kernel, limits.Limits({MAX: amount})))
    found = kernel.read(GUEST, [SWAP])
    assert found[SWAP] == pytest.approx(pair[1], abs=PAGE)


PERIOD, QUOTA = Key('cpu', 'period'), Key('cpu', 'quota')
PERIODS = st.integers(1000, 10**6)
BANDWIDTHS = st.tuples(PERIODS, st.integers(1000, 10**6))


@given(BANDWIDTHS, BANDWIDTHS)
def test_the_ratio_between_is_never_above_both(first, second):
    ratio = max(quota / period for period, quota in (first, second))
    kernel = Kernel({'cpu.period': first[0], 'cpu.quota': first[1]}, ratio)
    kernel.apply(GUEST, changes(kernel, limits.Limits(
        dict(zip((PERIOD, QUOTA), second, strict=True)))))
    assert (kernel.files['cpu.period'], kernel.files['cpu.quota']) == second


@given(BANDWIDTHS, PERIODS)
def test_a_first_quota_is_never_above_what_is_wanted(wanted, period):
    kernel = Kernel({'cpu.period': period, 'cpu.quota': -1},
                    max(wanted[1] / wanted[0], wanted[1] / period))
    kernel.apply(GUEST, changes(kernel, limits.Limits(
        dict(zip((PERIOD, QUOTA), wanted, strict=True)))))
    assert (kernel.files['cpu.period'], kernel.files['cpu.quota']) == wanted


def test_a_page_of_swap_is_no_drift_and_two_are():
    backend = cgroup1.Cgroup1('/nowhere')
    assert backend.matches(SWAP, 3000, PAGE)
    assert backend.matches(SWAP, 3000, 0)
    assert not backend.matches(SWAP, 3000, 2 * PAGE)
    assert not backend.matches(SWAP, 5 * PAGE, 4 * PAGE)


def test_hierarchies_are_where_they_are_mounted():
    root = pathlib.Path('/sys/fs/cgroup')
    found = cgroup1.mounted(INFO, root)
    assert found['cpu'] == found['cpuacct'] == root / 'cpu,cpuacct'
    assert found['memory'] == root / 'memory'
    assert 'pids' not in found
    lines = cgroup1.Cgroup1(str(root), INFO).start_lines(
        GUEST, limits.Limits({QUOTA: 50_000, Key('pids', 'max'): 50}))
    assert lines == [
        ('/sys/fs/cgroup/cpu,cpuacct/guest/cpu.cfs_quota_us', '50000'),
        ('/sys/fs/cgroup/pids/guest/pids.max', '50')]


@pytest.mark.parametrize('number', [errno.ENOENT, errno.ENODEV])
def test_a_cgroup_that_goes_meanwhile_is_absent(number):
    with cgroup.unless_gone():
        raise OSError(number, os.strerror(number), 'pids.max')


def test_a_cgroup_that_cannot_be_read_is_an_error():
    with pytest.raises(exception.LimitNotEnforced, match='Permission'), \
            cgroup.unless_gone():
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), 'pids.max')


def test_two_self_tests_never_meet():
    assert cgroup.probe_name() != cgroup.probe_name()

# SPDX-License-Identifier: Apache-2.0
"""From desired and observed to changes in a safe order."""

import operator

from nova_vcloud.qos import limits
from nova_vcloud.qos import plan

UNLIMITED = limits.UNLIMITED


def of(**values):
    """Return limits of the CPU and memory: of(cpu_quota=5)."""
    return limits.Limits({limits.Key(*name.split('_', 1)): value
                          for name, value in values.items()})


def changed(desired, observed):
    return [(str(c.key), c.old, c.new) for c in plan.changes(
        desired, observed, lambda key, wanted, found: wanted == found)]


def test_what_is_as_desired_needs_no_change():
    both = of(cpu_quota=5000, memory_swap=0)
    assert changed(both, both) == []


def test_what_nobody_observes_cannot_be_changed():
    assert changed(of(cpu_quota=5000, cpu_period=10000),
                   of(cpu_period=20000)) == [('cpu.period', 20000, 10000)]


def test_what_is_not_desired_is_kept():
    assert changed(of(), of(cpu_quota=5000)) == []


def test_a_burst_shrinks_before_all_else():
    # Its quota may be about to fall below it.
    found = changed(of(cpu_quota=5000, cpu_burst=0, cpu_period=10000),
                    of(cpu_quota=9000, cpu_burst=9000, cpu_period=20000))
    assert [name for name, _old, _new in found] == [
        'cpu.burst', 'cpu.period', 'cpu.quota']


def test_a_burst_grows_after_all_else():
    found = changed(of(cpu_quota=9000, cpu_burst=9000),
                    of(cpu_quota=5000, cpu_burst=0))
    assert [name for name, _old, _new in found] == ['cpu.quota', 'cpu.burst']


def test_unlimited_is_the_largest():
    sizes = [plan.size(v) for v in (0, 10**15, UNLIMITED)]
    assert all(map(operator.lt, sizes, sizes[1:]))


def test_unlimited_needs_nobody_to_enforce_it():
    wanted = of(cpu_quota=UNLIMITED, cpu_period=10000, memory_soft=UNLIMITED)
    assert [str(k) for k in plan.unsupported(wanted, ['memory.max'])] == [
        'cpu.period']


def test_no_burst_and_no_swap_are_what_a_kernel_without_them_gives():
    assert plan.unsupported(of(cpu_burst=0, memory_swap=0), []) == []
    assert len(plan.unsupported(of(cpu_burst=1, memory_swap=1), [])) == 2

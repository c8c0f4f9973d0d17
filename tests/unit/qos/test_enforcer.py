# SPDX-License-Identifier: Apache-2.0
"""All limits or none: plan, apply, read back, undo."""

import threading

from hypothesis import given
from hypothesis import strategies as st
import pytest

from nova_vcloud import exception
from nova_vcloud.guest import Guest
from nova_vcloud.qos import enforcer
from nova_vcloud.qos import limits
from nova_vcloud.qos.backends import fake

GUEST = Guest('a-server', 'a-container', '/a')
WANTED = limits.Limits.from_doc({
    'cpu.quota': 20000, 'cpu.burst': 5000, 'memory.max': 64 << 20,
    'pids.max': 100, 'io.8:0.read_bps': 1000})
KEPT = ('cpu.quota', 'memory.max', 'pids.max')


@pytest.fixture
def host():
    return Host()


class Host:
    """An engine that remembers, and a kernel."""

    def __init__(self):
        self.engine = fake.FakeBackend(KEPT, 'engine')
        self.kernel = fake.FakeBackend(name='kernel')
        self.engine.running = self.kernel.running = {GUEST.name}
        self.enforcer = enforcer.Enforcer([self.engine, self.kernel])

    def state(self):
        return [backend.read(GUEST, WANTED)
                for backend in (self.engine, self.kernel)]

    def enforce(self, wanted=WANTED):
        return self.enforcer.enforce(GUEST, wanted)


def test_every_backend_is_brought_to_the_limits(host):
    host.enforce()
    assert host.state() == [WANTED.only(KEPT), WANTED]
    assert host.enforcer.drift(GUEST, WANTED) == []
    assert host.enforcer.effective(GUEST, WANTED) == WANTED


def test_what_is_right_is_not_written_again(host):
    host.enforce()
    del host.kernel.written[:]
    assert host.enforce() == []
    assert host.kernel.written == []


def test_what_was_not_right_is_told(host):
    host.enforce()
    host.kernel.edit(GUEST, 'pids.max', 7)
    found, = host.enforce()
    assert str(found) == 'pids.max is 7 in kernel, should be 100'
    assert host.state()[1] == WANTED


def test_a_burst_is_lowered_before_another_backend_lowers_the_quota(host):
    host.enforce()
    order = []
    for backend in (host.engine, host.kernel):
        backend.apply = lambda guest, changes, b=backend: order.extend(
            str(c.key) for c in changes) or fake.FakeBackend.apply(
                b, guest, changes)
    host.enforce(limits.Limits.from_doc(
        {'cpu.quota': 2000, 'cpu.burst': 0}))
    assert order[0] == 'cpu.burst'


def test_a_stopped_guest_gets_what_can_be_set_without_it(host):
    host.kernel.running = set()
    host.enforce()
    assert host.state()[0] == WANTED.only(KEPT)
    assert host.kernel.written == []


def test_what_nobody_enforces_is_refused_before_anything():
    lame = enforcer.Enforcer([fake.FakeBackend(KEPT)])
    with pytest.raises(exception.LimitNotEnforced) as caught:
        lame.enforce(GUEST, WANTED)
    assert 'io.8:0.read_bps: nothing here enforces it' in str(caught.value)
    assert 'pids' not in str(caught.value)


def test_limits_at_odds_are_refused_before_anything(host):
    with pytest.raises(exception.InvalidLimit, match=r'burst.*more than'):
        host.enforce(limits.Limits.from_doc(
            {'cpu.quota': 2000, 'cpu.burst': 3000}))
    assert host.engine.written == []


def test_a_limit_that_does_not_hold_is_an_error_and_taken_back(host):
    host.kernel.deaf.add('pids.max')
    before = host.state()
    with pytest.raises(exception.LimitNotEnforced, match=r'pids\.max is'):
        host.enforce()
    assert host.state() == before


@pytest.fixture
def disjoint():
    """Return two backends that have no limit in common, and their enforcer.
    """
    cpu = fake.FakeBackend(['cpu.quota'], 'cpu')
    rest = fake.FakeBackend(['pids.max', 'memory.max'], 'rest')
    cpu.running = rest.running = {GUEST.name}
    return cpu, rest, enforcer.Enforcer([cpu, rest])


def test_backends_with_no_limit_in_common_do_not_wait_for_each_other(
        disjoint):
    *backends, both = disjoint
    met = threading.Barrier(2, timeout=10)
    for backend in backends:
        backend.apply = lambda guest, changes, b=backend: (
            met.wait(), fake.FakeBackend.apply(b, guest, changes))
    both.enforce(GUEST, WANTED.only(KEPT))
    assert both.drift(GUEST, WANTED.only(KEPT)) == []


@pytest.mark.parametrize('bad', [0, 1])
def test_a_failure_of_one_is_taken_back_in_the_other(disjoint, bad):
    *backends, both = disjoint
    wanted = WANTED.only(KEPT)
    before = [backend.read(GUEST, wanted) for backend in backends]
    backends[bad].fail_at = 0
    with pytest.raises(exception.LimitNotEnforced, match='told to fail'):
        both.enforce(GUEST, wanted)
    assert [backend.read(GUEST, wanted) for backend in backends] == before


VALUES = st.fixed_dictionaries({}, optional={
    'cpu.quota': st.integers(10_000, 90_000),
    'cpu.burst': st.integers(0, 9999),
    'pids.max': st.integers(16, 99), 'memory.max': st.integers(2**24, 2**30),
    'io.8:0.read_bps': st.one_of(st.just('unlimited'),
                                 st.integers(1, 99))})


@given(before=VALUES, after=VALUES)
def test_a_failure_anywhere_leaves_all_as_before(before, after):
    """Only one write fails: the way back is free."""
    for number in range(12):
        host = Host()
        host.enforce(limits.Limits.from_doc(before))
        was = host.state()
        host.engine.fail_at = number if number < 6 else None
        host.kernel.fail_at = number - 6 if number >= 6 else None
        wanted = limits.Limits.from_doc(after)
        try:
            host.enforce(wanted)
        except exception.LimitNotEnforced:
            assert host.state() == was
        else:
            assert host.enforcer.drift(GUEST, wanted) == []


def test_who_only_remembers_is_left_for_later(host):
    host.engine.remembers = True
    assert host.enforcer.enforce_now(GUEST, WANTED)
    assert host.engine.written == []
    assert host.state()[1] == WANTED
    assert {drift.backend for drift in host.enforce()} == {'engine'}
    assert host.state() == [WANTED.only(KEPT), WANTED]


def test_of_a_stopped_guest_who_remembers_is_told_at_once(host):
    host.engine.remembers = True
    host.kernel.running = set()
    assert not host.enforcer.enforce_now(GUEST, WANTED)
    assert host.state()[0] == WANTED.only(KEPT)


def test_what_fails_at_once_is_taken_back_and_nobody_is_told(host):
    host.engine.remembers = True
    before = host.state()
    host.kernel.deaf.add('pids.max')
    with pytest.raises(exception.LimitNotEnforced, match=r'pids\.max is'):
        host.enforcer.enforce_now(GUEST, WANTED)
    assert host.state() == before

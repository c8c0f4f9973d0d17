# SPDX-License-Identifier: Apache-2.0
"""Records of guests, overrides that end, drift that is repaired."""

import dataclasses
import threading

import pytest

from nova_vcloud import exception
from nova_vcloud import guest as guests
from nova_vcloud import json_documents
from nova_vcloud.qos import enforcer
from nova_vcloud.qos import keeper as keepers
from nova_vcloud.qos import limits
from nova_vcloud.qos import records
from nova_vcloud.qos.backends import fake

GUEST = guests.Guest('a-server', 'a-container', '/a', (
    guests.Link('a-port', '', 'tap0', 'ns', 'eth0'),))
BASE = limits.Limits.from_doc({'cpu.quota': 20000, 'pids.max': 100,
                               'cpu.cpus': '0-1'})
RECORD = records.Record(GUEST, BASE)


class Host:
    """A kernel, a clock and a directory of records."""

    def __init__(self, directory):
        self.now = 1000.0
        self.events = {}
        self.backend = fake.FakeBackend()
        self.backend.running = {GUEST.name}
        self.records = records.Records(
            json_documents.Documents(str(directory)))
        self.keeper = keepers.Keeper(
            enforcer.Enforcer([self.backend]), self.records,
            lambda guest: self.events, lambda: self.now)

    @property
    def quota(self):
        return self.backend.read(GUEST, BASE).value('cpu.quota')

    def set(self, seconds=60, **values):
        return self.keeper.override(
            'a-server', limits.Limits.from_doc(
                {key.replace('_', '.', 1): v for key, v in values.items()}),
            seconds, 'me')


@pytest.fixture
def host(tmp_path):
    found = Host(tmp_path)
    found.keeper.keep(RECORD)
    return found


def test_a_record_comes_back_as_it_was(host):
    full = dataclasses.replace(
        RECORD, exclusive=True, override=records.Override(
            limits.Limits.from_doc({'pids.max': 'unlimited'}), 5.5, 'me', 1))
    host.records.save(full)
    assert host.records.load('a-server') == full
    assert full.cpus() == {0, 1}


def test_a_record_of_another_version_is_refused(host):
    documents = json_documents.Documents(host.records._documents._directory)
    documents.save('a-server', {**RECORD.to_doc(), 'version': 0})
    with pytest.raises(exception.StateError, match='version 0'):
        host.records.load('a-server')
    documents.save('a-server', {'version': records.VERSION})
    with pytest.raises(exception.StateError, match='damaged'):
        host.records.load('a-server')
    assert list(host.records.all()) == []


def test_what_cannot_be_enforced_is_not_recorded(host):
    host.backend.fail_at = 0
    with pytest.raises(exception.LimitNotEnforced):
        host.keeper.keep(dataclasses.replace(
            RECORD, base=limits.Limits.from_doc({'cpu.quota': 5000})))
    assert host.records.load('a-server') == RECORD
    assert host.quota == 20000


def test_drift_is_repaired_by_looking(host):
    host.backend.edit(GUEST, 'cpu.quota', 1234)
    assert host.keeper.status('a-server').drift[0].found == 1234
    host.keeper.sweep()
    assert host.quota == 20000


def test_an_override_holds_and_ends_by_itself(host):
    status = host.set(cpu_quota=5000)
    assert status.effective.value('cpu.quota') == host.quota == 5000
    host.now += 59
    host.keeper.sweep()
    assert host.quota == 5000
    host.now += 2
    host.keeper.sweep()
    assert host.quota == 20000
    assert host.records.load('a-server').override is None


def test_overrides_add_up_and_the_last_end_counts(host):
    host.set(cpu_quota=5000)
    status = host.set(seconds=600, pids_max=50)
    assert status.desired.value('cpu.quota') == 5000
    assert status.desired.value('pids.max') == 50
    assert status.record.override.expires == host.now + 600


def test_an_override_can_be_ended(host):
    host.set(cpu_quota=5000)
    host.keeper.reset('a-server')
    assert host.quota == 20000
    assert host.keeper.record('a-server').override is None


def test_a_new_flavor_keeps_the_override(host):
    host.set(cpu_quota=5000)
    bigger = limits.Limits.from_doc({'cpu.quota': 90000, 'pids.max': 200})
    host.keeper.keep(dataclasses.replace(
        RECORD, base=bigger,
        override=host.keeper.record('a-server').override))
    assert host.quota == 5000
    host.keeper.reset('a-server')
    assert host.quota == 90000


def test_an_override_of_what_the_server_has_not_is_refused(host):
    with pytest.raises(exception.InvalidLimit, match=r'io\.9:9\.read_bps'):
        host.keeper.override('a-server', limits.Limits.from_doc(
            {'io.9:9.read_bps': 5}), 60, 'me')


def test_an_override_that_fails_leaves_no_trace(host):
    host.backend.fail_at = 0
    with pytest.raises(exception.LimitNotEnforced):
        host.set(cpu_quota=5000)
    assert host.keeper.record('a-server').override is None
    assert host.quota == 20000


def test_unknown_servers_are_named(host):
    for action in (host.keeper.repair, host.keeper.reset,
                   host.keeper.status):
        with pytest.raises(exception.NoSuchRecord, match='no-server'):
            action('no-server')


def test_one_servers_trouble_does_not_stop_the_look_at_others(host):
    other = guests.Guest('b-server', 'b-container', '/b')
    host.backend.running.add(other.name)
    host.keeper.keep(records.Record(other, BASE))
    host.records._documents.save('a-server', {'version': 0})
    host.backend.edit(other, 'cpu.quota', 1234)
    host.keeper.sweep()
    assert host.backend.read(other, BASE).value('cpu.quota') == 20000


def test_one_that_cannot_be_read_keeps_no_other(host, monkeypatch):
    other = guests.Guest('z-server', 'z', '/z')
    host.backend.running.add(other.name)
    host.keeper.keep(records.Record(other, BASE))
    host.backend.edit(other, 'cpu.quota', 1234)
    real = host.backend.read

    def read(guest, keys):
        if guest == GUEST:
            raise OSError('no such device')
        return real(guest, keys)

    monkeypatch.setattr(host.backend, 'read', read)
    host.keeper.sweep()
    assert host.backend.read(other, BASE).value('cpu.quota') == 20000


def test_forgetting_leaves_nothing(host, tmp_path):
    host.keeper.forget('a-server')
    host.keeper.forget('a-server')
    assert list(tmp_path.iterdir()) == []


def test_meeting_a_limit_is_logged_once(host, caplog):
    host.events = {'oom_kill': 2, 'fork_refused': 0}
    host.keeper.sweep()
    host.keeper.sweep()
    said, = (r.getMessage() for r in caplog.records)
    assert said == ('Server a-server has reached memory.max: 2 processes '
                    'were killed since the last look')
    caplog.clear()
    host.events = {'oom_kill': 3, 'fork_refused': 7}
    host.keeper.sweep()
    assert len(caplog.records) == 2
    caplog.clear()
    host.events = {'oom_kill': 1}  # it was restarted in between
    host.keeper.sweep()
    host.keeper.sweep()
    assert len(caplog.records) == 1
    assert host.keeper.status('a-server').events == {'oom_kill': 1}


class Slow(fake.FakeBackend):
    """An engine that remembers when it is let."""

    remembers = True

    def __init__(self):
        super().__init__(['pids.max'], 'engine')
        self.running = {GUEST.name}
        self.go = threading.Event()

    def apply(self, guest, changes):
        assert self.go.wait(10)
        super().apply(guest, changes)


@pytest.fixture
def engine(host):
    found = Slow()
    host.keeper = keepers.Keeper(
        enforcer.Enforcer([found, host.backend]), host.records,
        lambda guest: {}, lambda: host.now)
    yield found
    found.go.set()
    host.keeper.settle('a-server')


def test_the_engine_is_told_after_the_kernel(host, engine):
    host.keeper.keep(dataclasses.replace(
        RECORD, base=limits.Limits.from_doc({'pids.max': 50})))
    assert host.backend.read(GUEST, BASE).value('pids.max') == 50
    assert engine.written == []
    engine.go.set()
    assert host.keeper.status('a-server').drift == []
    assert engine.read(GUEST, BASE).value('pids.max') == 50


def test_an_engine_that_refuses_is_told_again_by_the_next_look(
        host, engine, caplog):
    engine.fail_at = 0
    engine.go.set()
    host.keeper.keep(dataclasses.replace(
        RECORD, base=limits.Limits.from_doc({'pids.max': 50})))
    assert [d.backend for d in host.keeper.status('a-server').drift] == [
        'engine']
    assert 'told to fail' in caplog.text
    host.keeper.sweep()
    assert host.keeper.status('a-server').drift == []

# SPDX-License-Identifier: Apache-2.0
"""Whom Nova has deleted, as its records tell, and what nobody is asked of."""

import datetime as dt
import types

from nova import exception as nova_exception
from nova import objects
from oslo_utils import timeutils
import pytest

from nova_vcloud import exception
from nova_vcloud import late_results
from nova_vcloud.virt_docker import server_labels
from nova_vcloud.virt_docker.guest import stopping
from nova_vcloud.virt_docker.migration import leftovers

objects.register_all()

#: {server: its record, None for one that Nova knows nothing of}
RECORDS = {
    'here': types.SimpleNamespace(uuid='here', deleted=False,
                                  task_state=None),
    'moved': types.SimpleNamespace(uuid='moved', deleted=False,
                                   task_state='deleting'),
    'deleted': types.SimpleNamespace(
        uuid='deleted', deleted=True, task_state=None,
        deleted_at=timeutils.utcnow(with_timezone=True) - dt.timedelta(1)),
    'soft': types.SimpleNamespace(uuid='soft', deleted=False,
                                  task_state='soft-deleting'),
    'unknown': None}


@pytest.fixture(autouse=True)
def nova(monkeypatch):
    """Nova's records; the deleted ones are for who asks for them."""
    def get_by_uuid(context, uuid, expected_attrs=None):
        found = RECORDS[uuid]
        if found is None or (found.deleted and context.read_deleted == 'no'):
            raise nova_exception.InstanceNotFound(instance_id=uuid)
        return found

    def get_by_host(context, host, expected_attrs=None):
        assert (context.read_deleted, host) == ('no', 'compute1')
        return [RECORDS['here']]
    monkeypatch.setattr(objects.Instance, 'get_by_uuid', get_by_uuid)
    monkeypatch.setattr(objects.InstanceList, 'get_by_host', get_by_host)


def test_only_who_is_known_to_be_deleted_is_removed():
    found = leftovers.deleted(set(RECORDS), 'compute1')
    assert set(found) == {'deleted'}
    assert found['deleted'] >= 24 * 3600


@pytest.mark.parametrize(('uuid', 'wanted'), [
    ('here', False), ('moved', True), ('soft', True), ('deleted', True),
    ('unknown', True)])
def test_a_delete_shows_in_the_record(uuid, wanted):
    assert stopping.deleting(uuid) is wanted


@pytest.mark.parametrize('error', [
    exception.EngineError('busy'), OSError('a mount is in use'),
    nova_exception.VirtualInterfaceUnplugException(reason='a link stays')])
def test_one_that_cannot_be_removed_keeps_no_other(error):
    asked = []

    def remove(uuid):
        asked.append(uuid)
        raise error

    engine = types.SimpleNamespace(
        late=types.SimpleNamespace(all=list),
        containers=lambda _labels: [
            {'Labels': {server_labels.UUID: uuid}, 'State': 'exited'}
            for uuid in ('a', 'b')])
    leftovers.Leftovers(engine, 'compute1', remove,
                        lambda uuids, _host: dict.fromkeys(uuids, 1000.0)
                        ).look()
    assert sorted(asked) == ['a', 'b']


def test_a_note_is_given_up_only_as_it_was_read():
    late = late_results.LateResults()
    late.note('container', 'name', 'first')
    first, = late.all()
    late.note('container', 'name', 'second')
    late.forget(first)
    second, = late.all()
    assert second.request == 'second'
    late.forget(second)
    assert late.all() == []
    assert not second.expired(second.since + late_results.EXPIRES - 1)
    assert second.expired(second.since + late_results.EXPIRES + 1)


def record(**more):
    return types.SimpleNamespace(**{
        'host': 'compute2', 'task_state': None, 'vm_state': 'active', **more})


def move(**more):
    return types.SimpleNamespace(**{
        'source_compute': 'compute1', 'dest_compute': 'compute2',
        'status': 'error', **more})


@pytest.mark.parametrize(('server', 'move_of', 'held', 'wanted'), [
    (record(), move(), True, True),
    (record(), None, True, True),
    (record(vm_state='stopped'), move(status='confirmed'), True, True),
    (record(vm_state='shelved_offloaded', host=None), move(), False, True),
    # All that there is of it may be here.
    (record(), move(), False, False),
    (record(vm_state='error'), move(), True, False),
    (record(vm_state='resized'), move(status='finished'), True, False),
    (record(), move(status='confirming'), True, False),
    (record(), move(status='migrating', source_compute='compute2',
                    dest_compute='compute1'), True, False),
    (record(task_state='resize_reverting'), move(), True, False),
    (record(host='compute1'), move(), True, False),
    (record(host=None), None, True, False),
    # Of two other hosts: it has long left this one.
    (record(), move(source_compute='compute3', status='finished'), True,
     True)])
def test_only_what_lives_whole_on_another_host_is_removed(
        monkeypatch, server, move_of, held, wanted):
    monkeypatch.setitem(RECORDS, 'left', server)
    server.deleted = False
    monkeypatch.setattr(
        objects.MigrationList, 'get_by_filters', lambda _context, filters:
        [move_of] if move_of and filters == {'instance_uuid': 'left'} else [])

    def holds(_context, host, uuid):
        assert (host, uuid) == ('compute2', 'left')
        return held
    assert leftovers.elsewhere({'left', 'unknown'}, 'compute1', holds) == (
        {'left'} if wanted else set())


def test_who_is_on_this_host_is_asked_for_at_once(monkeypatch):
    """Most servers that are stopped are, and there may be hundreds."""
    monkeypatch.delattr(objects.Instance, 'get_by_uuid')
    assert not leftovers.elsewhere({'here'}, 'compute1', None)
    assert not leftovers.deleted({'here'}, 'compute1')


@pytest.mark.parametrize(('states', 'removed'), [
    (['exited'], ['a']), (['created'], ['a']), (['running'], []),
    (['paused'], []), (['exited', 'running'], [])])
def test_it_is_removed_once_two_looks_have_found_it(states, removed):
    asked = []
    engine = types.SimpleNamespace(
        late=types.SimpleNamespace(all=list),
        containers=lambda _labels: [
            {'Labels': {server_labels.UUID: 'a'}, 'State': each}
            for each in states])
    look = leftovers.Leftovers(
        engine, 'compute1', asked.append, lambda *_args: {},
        lambda uuids, _host: uuids).look
    look()
    assert asked == []
    look()
    assert asked == removed

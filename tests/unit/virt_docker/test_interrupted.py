# SPDX-License-Identifier: Apache-2.0
"""What becomes of servers at which a killed nova-compute was at work."""

import types

from nova import exception as nova_exception
from nova import objects
from nova.compute import task_states
from nova.compute import vm_states
import pytest

from nova_vcloud import exception
from nova_vcloud import state
from nova_vcloud.virt_docker import interrupted
from nova_vcloud.virt_docker import pending_images
from nova_vcloud.virt_docker import recovery

UUID = '11111111-2222-4333-8444-555566667777'
OTHER = '22222222-2222-4333-8444-555566667777'
IMAGE = '99999999-2222-4333-8444-555566667777'


class Server(types.SimpleNamespace):
    """Nova's record of a server."""

    uuid, host = UUID, 'compute1'

    def save(self, **_expected):
        self.saved = (self.vm_state, self.task_state)


@pytest.fixture
def look(monkeypatch):
    """Let a host look at one server at its start; return it."""
    monkeypatch.setattr(interrupted, 'tell', lambda *_args: None)

    def at_start(vm_state, task_state, container, done=None):
        def inspect(_uuid):
            if container is None:
                raise exception.ContainerNotFound('none')
            return {'State': dict(zip(('Running', 'Paused'), container,
                                      strict=True))}
        server = Server(vm_state=vm_state, task_state=task_state, saved=None)
        done = [] if done is None else done
        interrupted.Interrupted(
            None, inspect, lambda _c, _i: done.append('undone'),
            lambda _c, _i: done.append('started')).begin(None, [server])
        return server, done
    return at_start


@pytest.mark.parametrize('task', interrupted.REBUILDS)
@pytest.mark.parametrize('vm_state', [
    vm_states.ACTIVE, vm_states.STOPPED, vm_states.ERROR])
def test_a_rebuild_is_undone_in_each_state(look, task, vm_state):
    server, done = look(vm_state, task, (True, False))
    assert (server.saved, done) == ((vm_state, None), ['undone'])


def test_a_server_that_is_evacuated_to_here_is_novas(look):
    server, done = look(vm_states.ACTIVE, task_states.REBUILD_SPAWNING, None)
    assert (server.saved, done) == (None, [])


@pytest.mark.parametrize('task', interrupted.STOPPING)
def test_a_server_that_is_not_shelved_runs(look, task):
    server, done = look(vm_states.ACTIVE, task, (False, False))
    assert (server.saved, done) == ((vm_states.ACTIVE, None), ['started'])


@pytest.mark.parametrize(('before', 'task', 'container', 'after'), [
    ('active', task_states.PAUSING, (True, True), 'paused'),
    ('active', task_states.PAUSING, (True, False), 'active'),
    ('active', task_states.SUSPENDING, (True, True), 'suspended'),
    ('suspended', task_states.RESUMING, (True, True), 'suspended'),
    ('suspended', task_states.RESUMING, (True, False), 'active'),
    ('active', task_states.UPDATING_PASSWORD, (True, False), 'active'),
    ('shelved', task_states.SHELVING_OFFLOADING, None, 'shelved')])
def test_a_record_is_what_the_container_is(look, before, task, container,
                                           after):
    server, done = look(before, task, container)
    assert (server.saved, done) == ((after, None), [])


def test_a_failure_keeps_no_host_from_starting(look):
    class Broken(list):
        def append(self, _word):
            raise OSError(5, 'no disk')
    server, _done = look(vm_states.ACTIVE, task_states.REBUILDING,
                         (True, False), Broken())
    assert server.saved is None  # for Nova to make an error of it


class Glance:
    """Images by their ids: their states."""

    def __init__(self, **found):
        self.found = found

    def get(self, _context, image_id):
        try:
            return {'status': self.found[image_id]}
        except KeyError:
            raise nova_exception.ImageNotFound(image_id=image_id) from None

    def delete(self, _context, image_id):
        if self.found[image_id] == 'saving':
            raise nova_exception.ImageNotAuthorized(image_id=image_id)
        del self.found[image_id]


def test_images_that_nobody_fills_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(pending_images.nova_context,
                        'get_nova_service_user_context', lambda: None)
    notes = state.Documents(str(tmp_path / 'notes'))
    for name in ('queued', 'active', 'gone', 'saving'):
        notes.save(name, {})
    glance = Glance(queued='queued', active='active', saving='saving',
                    ours='queued', other='queued')
    pending = pending_images.PendingImages(glance, notes)
    with pending.noted('ours', UUID):
        pending.remove()
        assert set(glance.found) == {'active', 'saving', 'ours', 'other'}
        # What could not be removed is tried again.
        assert set(notes.names()) == {'ours', 'saving'}
    assert notes.names() == ['saving']


def test_a_second_confirm_sees_the_first(monkeypatch):
    status = ['confirming']
    seen = []
    monkeypatch.setattr(
        objects.Migration, 'get_by_id', lambda _context, _id:
        types.SimpleNamespace(id=7, status=status[0]))

    def confirm_resize(_context, instance, migration):
        seen.append(migration.status)
        status[0] = 'confirmed'
    manager = types.SimpleNamespace(confirm_resize=confirm_resize)
    recovery.confirm_once(manager)
    stale = types.SimpleNamespace(id=7, status='confirming')
    for _ in range(2):
        manager.confirm_resize(None, instance=Server(), migration=stale)
    assert seen == ['confirming', 'confirmed']


def test_a_question_that_fails_keeps_no_host_from_starting(monkeypatch):
    """What moves there were, asked of a database that is away."""
    def fail(*_args, **_filters):
        raise OSError(111, 'refused')
    monkeypatch.setattr(objects.MigrationList, 'get_by_filters', fail)
    manager = types.SimpleNamespace(confirm_resize=lambda: None)
    recovery.Recovery(manager, None, 'compute1').begin(None, [])


def test_what_came_for_a_server_keeps_no_other_one_waiting(monkeypatch):
    """Nor the host from telling Nova of its resources, with which it looks.
    """
    uuids = [UUID, OTHER]
    monkeypatch.setattr(recovery, 'GRACE', -1)
    monkeypatch.setattr(
        recovery.objects.Instance, 'get_by_uuid',
        lambda _context, uuid, **_more: Server(
            uuid=uuid, host='another', vm_state=vm_states.ACTIVE,
            task_state=None))
    asked = []

    class Moves:
        def waiting(self):
            if not uuids:
                raise FileNotFoundError('the spool')
            return uuids

        def arriving(self, _uuid):
            return False

        def drop(self, uuid):
            asked.append(uuid)
            raise exception.EngineConflict('in use')

    found = recovery.Recovery(None, Moves(), 'compute1')
    found.look()
    assert sorted(asked) == sorted(uuids)
    uuids.clear()
    found.look()

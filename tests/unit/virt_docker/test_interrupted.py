# SPDX-License-Identifier: Apache-2.0
"""What becomes of servers at which a killed nova-compute was at work."""

import types

from nova import exception as nova_exception
from nova import objects
from nova.compute import task_states
from nova.compute import vm_states
import pytest

from nova_vcloud import exception
from nova_vcloud import json_documents
from nova_vcloud.virt_docker.guest import pending_images
from nova_vcloud.virt_docker.migration import interrupted
from nova_vcloud.virt_docker.migration import recovery
from nova_vcloud.virt_docker.migration import unshelves

UUID = '11111111-2222-4333-8444-555566667777'
OTHER = '22222222-2222-4333-8444-555566667777'
IMAGE = '99999999-2222-4333-8444-555566667777'


class Server(types.SimpleNamespace):
    """Nova's record of a server."""

    uuid, host = UUID, 'compute1'

    def save(self, **_expected):
        self.saved = (self.vm_state, self.task_state)


class Unshelves:
    """Ends of unshelves."""

    def __init__(self, done):
        self._done = done

    def end(self, _context, _instance):
        self._done.append('unshelved')


@pytest.fixture
def look(monkeypatch):
    """Let a host look at one server at its start; return it."""
    monkeypatch.setattr(interrupted.action_events, 'record', lambda *_args,
                        **_more: None)
    monkeypatch.setattr(unshelves, 'without_host', lambda *_args: [])

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
            lambda _c, _i: done.append('started'),
            lambda _c, _i: done.append('left'), Unshelves(done),
            'compute1').begin(None, [server])
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
    notes = json_documents.Documents(str(tmp_path / 'notes'))
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


def manager_of(**methods):
    """Return of Nova's ComputeManager what is asked for again."""
    return types.SimpleNamespace(**{
        **{name: lambda *_args: None for name, *_more in recovery.ONCE},
        **methods})


@pytest.mark.parametrize(('vm_state', 'task', 'after'), [
    (vm_states.ACTIVE, task_states.RESCUING, vm_states.ACTIVE),
    (vm_states.STOPPED, task_states.RESCUING, vm_states.STOPPED),
    (vm_states.ERROR, task_states.RESCUING, vm_states.ACTIVE),
    (vm_states.RESCUED, task_states.UNRESCUING, vm_states.ACTIVE)])
def test_a_server_runs_from_its_own_disk(look, vm_state, task, after):
    server, done = look(vm_state, task, (True, False))
    assert (server.saved, done) == ((after, None), ['left'])


@pytest.mark.parametrize('vm_state', [vm_states.ACTIVE, vm_states.ERROR])
def test_one_that_does_not_start_may_be_rebooted(look, vm_state):
    """Of a server whose own disk is what is broken, say."""
    class Broken(list):
        def append(self, _word):
            raise OSError(5, 'no disk')
    server, _done = look(vm_state, task_states.RESCUING, (True, False),
                         Broken())
    assert server.saved == (vm_states.ERROR, None)


@pytest.mark.parametrize(('vm_state', 'task', 'ours'), [
    (vm_states.SHELVED_OFFLOADED, task_states.SPAWNING, True),
    (vm_states.SHELVED_OFFLOADED, task_states.UNSHELVING, True),
    (vm_states.BUILDING, task_states.SPAWNING, False)])
def test_an_unshelve_is_ended_and_no_build(look, vm_state, task, ours):
    _server, done = look(vm_state, task, None)
    assert done == (['unshelved'] if ours else [])


@pytest.mark.parametrize(('name', 'task', 'status'), recovery.ONCE)
def test_what_is_asked_for_twice_is_done_once(monkeypatch, name, task,
                                              status):
    now = Server(vm_state='resized', task_state=task)
    seen = []

    def handle(_context, **words):
        seen.append(words)
        now.task_state = None
    manager = manager_of(**{name: handle})
    monkeypatch.setattr(objects.Instance, 'get_by_uuid',
                        lambda *_args, **_more: now)
    move = types.SimpleNamespace(id=7, status='stale')
    monkeypatch.setattr(
        objects.Migration, 'get_by_id', lambda _context, _id:
        types.SimpleNamespace(id=7, status=status))
    recovery.only_while(manager, name, task, status)
    for _ in range(2):
        getattr(manager, name)(None, instance=now, migration=move, more=1)
    assert seen == [{'instance': now, 'migration': move, 'more': 1}]


def test_a_revert_is_not_begun_again_once_it_has_gone_on(monkeypatch):
    now = Server(vm_state='resized', task_state=task_states.RESIZE_REVERTING)
    seen = []
    manager = manager_of(revert_resize=lambda *_args, **_words:
                         seen.append(1))
    monkeypatch.setattr(objects.Instance, 'get_by_uuid',
                        lambda *_args, **_more: now)
    monkeypatch.setattr(
        objects.Migration, 'get_by_id', lambda _context, _id:
        types.SimpleNamespace(id=7, status='reverted'))
    recovery.only_while(manager, 'revert_resize',
                        task_states.RESIZE_REVERTING, 'reverting')
    manager.revert_resize(None, instance=now,
                          migration=types.SimpleNamespace(id=7))
    assert seen == []


@pytest.mark.parametrize(('host', 'vm_state', 'task', 'container', 'left'), [
    # All that there is of it: a hard reboot makes it.
    ('compute1', 'error', None, False, []),
    ('compute1', 'active', None, False, []),
    ('compute1', 'active', None, True, ['drop']),
    ('compute1', 'error', None, True, []),
    ('compute2', 'active', None, False, ['forget']),
    ('compute2', 'active', task_states.RESIZE_MIGRATING, False, [])])
def test_what_came_is_kept_while_it_is_the_server(
        monkeypatch, host, vm_state, task, container, left):
    monkeypatch.setattr(recovery, 'GRACE', -1)
    monkeypatch.setattr(
        recovery.objects.Instance, 'get_by_uuid',
        lambda _context, uuid, **_more: Server(
            uuid=uuid, host=host, vm_state=vm_state, task_state=task))
    done = []
    recovery.Recovery(None, types.SimpleNamespace(
        waiting=lambda: [UUID], arriving=lambda _uuid: False,
        has_container=lambda _uuid: container,
        drop=lambda _uuid: done.append('drop'),
        forget=lambda _uuid: done.append('forget')), 'compute1').look()
    assert done == left


def test_a_second_confirm_sees_the_first(monkeypatch):
    status = ['confirming']
    seen = []
    monkeypatch.setattr(
        objects.Migration, 'get_by_id', lambda _context, _id:
        types.SimpleNamespace(id=7, status=status[0]))

    def confirm_resize(_context, instance, migration):
        seen.append(migration.status)
        status[0] = 'confirmed'
    manager = manager_of(confirm_resize=confirm_resize)
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
    manager = manager_of(confirm_resize=lambda: None)
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

        def forget(self, uuid):
            asked.append(uuid)
            raise exception.EngineConflict('in use')

    found = recovery.Recovery(None, Moves(), 'compute1')
    found.look()
    assert sorted(asked) == sorted(uuids)
    uuids.clear()
    found.look()


def test_an_unshelve_that_has_no_host_yet_is_found(monkeypatch):
    """By the event that this host has begun."""
    asked = []

    def get_by_filters(_context, filters, **_more):
        asked.append(filters)
        return [Server(uuid=UUID, host=None), Server(uuid=OTHER, host=None),
                Server(uuid=IMAGE, host='compute1')]
    monkeypatch.setattr(objects.InstanceList, 'get_by_filters',
                        get_by_filters)
    found = unshelves.without_host(None, lambda each: each.uuid == UUID)
    assert [each.uuid for each in found] == [UUID]
    assert asked == [{'vm_state': 'shelved_offloaded', 'deleted': False,
                      'task_state': ['unshelving', 'spawning']}]


def test_a_question_for_unshelves_keeps_no_host_from_starting(monkeypatch):
    def fail(*_args, **_filters):
        raise OSError(111, 'refused')
    monkeypatch.setattr(objects.InstanceList, 'get_by_filters', fail)
    assert unshelves.without_host(None, lambda _each: True) == []


def test_an_unshelve_is_undone_as_nova_does_it(monkeypatch):
    """With the image and the key that it had; nothing of it is left here."""
    done = []
    manager = types.SimpleNamespace(
        reportclient=types.SimpleNamespace(
            delete_allocation_for_instance=lambda _context, uuid, force:
            done.append(('allocation', uuid, force))),
        _terminate_volume_connections=lambda _context, _instance, _disks:
        done.append('volumes'),
        _nil_out_instance_obj_host_and_node=lambda instance:
        setattr(instance, 'host', None))
    monkeypatch.setattr(unshelves.nova_context,
                        'get_nova_service_user_context', lambda: None)
    monkeypatch.setattr(
        objects.BlockDeviceMappingList, 'get_by_instance_uuid',
        lambda *_args: [types.SimpleNamespace(is_volume=True)])
    monkeypatch.setattr(
        objects.RequestSpec, 'get_by_instance_uuid', lambda *_args:
        types.SimpleNamespace(image=objects.ImageMeta(id=IMAGE)))
    server = Server(
        vm_state='shelved_offloaded', task_state='spawning', image_ref='x',
        system_metadata={'shelved_image_id': 'x'}, key_name='mine',
        key_data=None, keypairs=types.SimpleNamespace(
            objects=[types.SimpleNamespace(public_key='ssh-rsa A')]))
    words = unshelves.Unshelves(
        manager, lambda _uuid: False, lambda uuid:
        done.append(('removed', uuid))).end(None, server)
    assert words == 'it is shelved as before'
    assert done == [('removed', UUID), ('allocation', UUID, True), 'volumes']
    assert server.saved == ('shelved_offloaded', None)
    assert (server.host, server.image_ref, server.key_data) == (
        None, IMAGE, 'ssh-rsa A')

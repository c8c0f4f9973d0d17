# SPDX-License-Identifier: Apache-2.0
"""What a snapshot needs of the host, and how its failure is told."""

import shutil
import types

from nova import exception as nova_exception
from nova import objects
from nova.compute import task_states
from oslo_utils.fixture import uuidsentinel as uuids
import pytest

from nova_vcloud import exception
from nova_vcloud.virt_docker.guest import disk_copies
from nova_vcloud.virt_docker.guest import snapshot

objects.register_all()
MIB = 1 << 20


class Engine:
    """Knows where its files are."""

    def __init__(self, root):
        self.root = str(root)

    def info(self):
        return {'DockerRootDir': self.root}


@pytest.fixture
def events(monkeypatch):
    """What is noted with actions, as Nova would do in its database."""
    found = []
    event = objects.InstanceActionEvent
    monkeypatch.setattr(event, 'event_start', classmethod(
        lambda cls, *args, **kwargs: found.append(args)))
    monkeypatch.setattr(event, 'event_finish_with_failure', classmethod(
        lambda cls, *args, exc_val, **kwargs: found.append(
            (*args, str(exc_val)))))
    return found


@pytest.fixture
def context():
    return types.SimpleNamespace(request_id='r')


def instance(state):
    return objects.Instance(uuid=uuids.server, task_state=state,
                            vm_state='active')


def told(context, server, error):
    taker = snapshot.Snapshots(None, None, None, 32, 'host1')
    with taker.told(context, server, 'image'):
        raise error


@pytest.mark.parametrize(('error', 'raised'), [
    (nova_exception.ImageNotFound(image_id='i'),
     nova_exception.InternalError),
    (nova_exception.InstanceNotRunning(instance_id='i'),
     nova_exception.InternalError),
    (exception.UploadFailed('why'), exception.UploadFailed)])
def test_a_failed_snapshot_is_in_the_event_list(events, context, error,
                                                raised):
    with pytest.raises(raised):
        told(context, instance(task_states.IMAGE_UPLOADING), error)
    assert [event[1:3] for event in events] == [
        (uuids.server, snapshot.EVENT)] * 2
    assert events[-1][-1] == str(error)


@pytest.mark.parametrize('there', [True, False])
def test_a_server_that_has_vanished_is_an_error_unless_it_is_deleted(
        events, context, monkeypatch, there):
    def now(_cls, _context, uuid):
        if not there:
            raise nova_exception.InstanceNotFound(instance_id=uuid)
        return instance(task_states.IMAGE_UPLOADING)
    monkeypatch.setattr(objects.Instance, 'get_by_uuid', classmethod(now))
    error = nova_exception.InstanceNotFound(instance_id=uuids.server)
    with pytest.raises(nova_exception.InternalError if there
                       else nova_exception.InstanceNotFound):
        told(context, instance(task_states.IMAGE_UPLOADING), error)
    assert bool(events) is there


def test_an_event_list_that_cannot_be_had_hides_no_error(context,
                                                         monkeypatch):
    def broken(*_args, **_kwargs):
        raise nova_exception.InstanceActionNotFound(
            request_id='r', instance_uuid='i')
    monkeypatch.setattr(objects.InstanceActionEvent, 'event_start', broken)
    with pytest.raises(exception.UploadFailed):
        told(context, instance(task_states.IMAGE_UPLOADING),
             exception.UploadFailed('why'))


def test_copies_share_what_is_free(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _path: type(usage)(
        usage.total, usage.used, disk_copies.RESERVE + 100 * MIB))
    copies = disk_copies.DiskCopies(Engine(tmp_path), None)
    with copies.room('one', 60 * MIB):
        with pytest.raises(exception.DiskTooLarge,
                           match='needs 60 MiB for it and has 40 MiB'), \
                copies.room('two', 60 * MIB):
            pass
        with copies.room('three', 40 * MIB):
            pass
    with copies.room('four', 100 * MIB):
        pass


@pytest.mark.parametrize(('files', 'used', 'limit', 'fine'), [
    (10, 10, 20, True), (20, 1, 20, True), (21, 1, 20, False),
    (30, 30, 20, True), (31, 30, 20, False)])
def test_only_holes_make_a_disk_too_large(files, used, limit, fine):
    if fine:
        disk_copies.check(files, used, limit)
        return
    with pytest.raises(exception.DiskTooLarge, match='sparse files'):
        disk_copies.check(files, used, limit)

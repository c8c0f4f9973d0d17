# SPDX-License-Identifier: Apache-2.0
"""What a resize to the same host is, and what it refuses."""

from nova import exception as nova_exception
from nova import objects
from nova.compute import task_states
import pytest

from nova_vcloud import exception
from nova_vcloud.virt_docker.migration import resize


def flavor(root_gb=2, ephemeral_gb=1):
    return objects.Flavor(root_gb=root_gb, ephemeral_gb=ephemeral_gb)


def move(source, dest):
    return objects.Migration(source_compute=source, dest_compute=dest)


def instance(task_state):
    return objects.Instance(
        uuid='11111111-2222-4333-8444-555566667777', task_state=task_state,
        migration_context=objects.MigrationContext(migration_id=7))


@pytest.mark.parametrize(('task_state', 'hosts', 'here'), [
    (task_states.RESIZE_REVERTING, ('a', 'a'), True),
    (task_states.RESIZE_REVERTING, ('a', 'b'), False),
    (task_states.DELETING, ('a', 'a'), False)])
def test_only_a_revert_that_stays_destroys_nothing(monkeypatch, task_state,
                                                   hosts, here):
    monkeypatch.setattr(objects.Migration, 'get_by_id_and_instance',
                        lambda *_args: move(*hosts))
    assert resize.reverting_here(None, instance(task_state)) is here


def test_a_server_that_does_not_move_has_no_move():
    still = instance(task_states.RESIZE_REVERTING)
    still.migration_context = None
    assert resize.of(None, still) is None
    assert not resize.reverting_here(None, still)


@pytest.mark.parametrize(('smaller', 'words'), [
    (flavor(root_gb=1), 'root disk would go from 2 GB to 1 GB'),
    (flavor(ephemeral_gb=0), 'ephemeral disk would go from 1 GB to 0 GB')])
def test_a_smaller_disk_is_refused(smaller, words):
    with pytest.raises(nova_exception.ResizeError, match=words):
        resize.check_disk(flavor(), smaller)
    resize.check_disk(smaller, flavor())


def test_what_disks_have_counts_not_what_the_flavor_allowed():
    old, new = flavor(ephemeral_gb=4), flavor(ephemeral_gb=2)
    resize.check_disk(old, new, [1 << 30])
    with pytest.raises(nova_exception.ResizeError, match='from 3 GB to 2 GB'):
        resize.check_disk(old, new, [1 << 30, 2 << 30])


@pytest.mark.parametrize('error', [
    exception.InvalidRequest('a reason'),
    exception.LimitNotEnforced('a reason'),
    exception.NoCpusLeft('a reason'),
    nova_exception.ResizeError(reason='a reason')])
def test_nova_is_told_that_nothing_was_changed(error):
    with pytest.raises(nova_exception.InstanceFaultRollback) as caught, \
            resize.rolled_back():
        raise error
    assert isinstance(caught.value.inner_exception,
                      nova_exception.ResizeError)
    assert 'a reason' in str(caught.value.inner_exception)


@pytest.mark.parametrize('error', [
    RecursionError('too deep'), OSError(36, 'File name too long'),
    ValueError('b\'\\xff\''), exception.MoveFailed('cut off'),
    nova_exception.InternalError(err='no')])
def test_whatever_fails_leaves_the_server_in_its_state(error):
    """Nova makes an error of a server when it is told anything else."""
    with pytest.raises(nova_exception.InstanceFaultRollback) as raised, \
            resize.rolled_back():
        raise error
    assert '\n' not in str(raised.value.inner_exception)


def test_a_container_that_is_gone_is_no_rollback():
    with pytest.raises(exception.ContainerNotFound), resize.rolled_back():
        raise exception.ContainerNotFound('gone')

# SPDX-License-Identifier: Apache-2.0
"""Moves that a killed nova-compute has left half-way, brought to an end.

Nova itself takes the container back on the host it was to leave, no more:
its records go on to name a move, and a host that was to take the server never
tries again (nova.compute.manager, _init_instance).
"""

from __future__ import annotations

from collections.abc import Callable
import functools
import time
from typing import Any

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova import utils
from nova.compute import power_state
from nova.compute import task_states
from nova.compute import vm_states
from oslo_concurrency import lockutils
from oslo_log import log

from nova_vcloud.virt_docker.migration import cold_migration
from nova_vcloud.virt_docker.migration import resize

LOG = log.getLogger(__name__)

#: Seconds after which nobody works on what has come, nor will.
GRACE = 120
#: Newest confirmed moves that are looked at for what is left of them.
RECENT = 100

#: Parts of moves that are asked for again when a host starts.
GOES_ON = (task_states.RESIZE_MIGRATED, task_states.RESIZE_FINISH,
           task_states.RESIZE_REVERTING)
#: Methods of Nova's that are asked for again: (name, task, status).
ONCE = (('finish_resize', task_states.RESIZE_MIGRATED, None),
        ('revert_resize', task_states.RESIZE_REVERTING, 'reverting'),
        ('finish_revert_resize', task_states.RESIZE_REVERTING, None))

Step = Callable[[nova_context.RequestContext, objects.Instance,
                 objects.Migration], None]


class Recovery:
    """Ends of moves, at start and later.

    :param manager: Nova's ComputeManager
    :param host: nova-compute's host name
    """

    def __init__(self, manager: Any, traffic: cold_migration.Moves,
                 host: str) -> None:
        self._manager = manager
        self._moves = traffic
        self._host = host
        self._seen: dict[str, float] = {}
        if manager is not None:
            confirm_once(manager)
            for name, task, status in ONCE:
                only_while(manager, name, task, status)

    @property
    def manager(self) -> Any:
        """Nova's ComputeManager."""
        return self._manager

    def begin(self, context: nova_context.RequestContext,
              instances: objects.InstanceList) -> None:
        """Look at the servers of a host whose nova-compute starts."""
        for instance in instances:
            try:
                if instance.task_state == task_states.RESIZE_MIGRATING:
                    self._stay(context, instance)
                elif instance.task_state == task_states.RESIZE_FINISH:
                    self._arrive(context, instance)
                elif instance.task_state == task_states.RESIZE_MIGRATED:
                    self._finish_here(context, instance)
                elif instance.task_state == task_states.RESIZE_REVERTING:
                    self._revert(context, instance)
            except Exception:
                # It must not keep the host from starting.
                LOG.exception('The move of the server could not be ended',
                              instance=instance)
        for status, end in (('confirming', self._confirm),
                            ('confirmed', self._end_confirmed),
                            ('reverted', self._come_back)):
            try:
                moves_from_here = objects.MigrationList.get_by_filters(
                    context, {'source_compute': self._host, 'status': status},
                    sort_keys=['updated_at', 'id'], sort_dirs=['desc', 'desc'],
                    limit=RECENT)
            except Exception:
                LOG.exception('Cannot list migrations with status %s', status)
                continue
            for move in moves_from_here:
                if move.migration_type in ('migration', 'resize'):
                    self._end_one(context, move, end)

    def _end_one(self, context: nova_context.RequestContext,
                 move: objects.Migration, end: Step) -> None:
        """End a move from here that is at a point of its end."""
        try:
            end(context, objects.Instance.get_by_uuid(
                context, move.instance_uuid, expected_attrs=[
                    'metadata', 'system_metadata', 'flavor',
                    'migration_context']), move)
        except nova_exception.InstanceNotFound:
            return
        except Exception:
            LOG.exception('Failed to resume the end of migration %s',
                          move.uuid)

    def _confirm(self, context: nova_context.RequestContext,
                 instance: objects.Instance,
                 move: objects.Migration) -> None:
        """Have Nova confirm a move again, from the beginning."""
        LOG.warning('Confirm of the migration was interrupted or has not '
                    'begun: confirming it now', instance=instance)
        self._manager.compute_rpcapi.confirm_resize(
            context, instance, move, self._host)

    def _end_confirmed(self, context: nova_context.RequestContext,
                       instance: objects.Instance,
                       move: objects.Migration) -> None:
        """Do what Nova does after a move is noted as confirmed.

        The last of it is to forget the flavor that was left.
        """
        noted = instance.migration_context
        if instance.old_flavor is None or (
                noted is not None and noted.migration_id != move.id):
            return
        LOG.warning('Confirm of the migration was interrupted: completing it '
                    'now', instance=instance)
        instance.drop_migration_context()
        if instance.vm_state == vm_states.RESIZED:
            instance.vm_state = (
                vm_states.STOPPED
                if instance.power_state == power_state.SHUTDOWN
                else vm_states.ACTIVE)
            instance.task_state = None
            instance.save(expected_task_state=[None])
        self._manager._delete_allocation_after_move(  # noqa: SLF001
            context, instance, move)
        self._manager._delete_stashed_flavor_info(instance)  # noqa: SLF001

    def _revert(self, context: nova_context.RequestContext,
                instance: objects.Instance) -> None:
        """Have Nova go on to revert a move, on the host that it is at.

        Until a server is off the host that it had moved to it is there by
        Nova's records, and then the move is noted as reverted.
        """
        move = resize.of(context, instance)
        if move is None:
            # All was done, but to say so.
            move = objects.MigrationList.get_by_filters(
                context, {'instance_uuid': instance.uuid,
                          'status': 'reverted'}, sort_keys=['id'],
                sort_dirs=['desc'], limit=1)[0]
        if move.status == 'reverting' and move.dest_compute == self._host:
            LOG.warning('Revert of migration %s was interrupted: resuming it',
                        move.uuid, instance=instance)
            self._manager.compute_rpcapi.revert_resize(
                context, instance, move, self._host,
                objects.RequestSpec.get_by_instance_uuid(
                    context, instance.uuid))
        else:
            self._come_back(context, instance, move)

    def _come_back(self, context: nova_context.RequestContext,
                   instance: objects.Instance,
                   move: objects.Migration) -> None:
        """Have Nova end a revert on the host that the server had left."""
        if (instance.task_state != task_states.RESIZE_REVERTING
                or move.status != 'reverted'):
            return
        LOG.warning('Revert of migration %s was interrupted: finishing it on '
                    '%s', move.uuid, move.source_compute, instance=instance)
        self._manager.compute_rpcapi.finish_revert_resize(
            context, instance, move, move.source_compute,
            objects.RequestSpec.get_by_instance_uuid(context, instance.uuid))

    def look(self) -> None:
        """Look, now and then, at what has come for servers.

        What is wrong with it keeps neither others of them waiting, nor this
        host from telling Nova what it has.
        """
        try:
            waiting = set(self._moves.waiting())
        except OSError:
            LOG.exception('Cannot read the migration spool')
            return
        for uuid in self._seen.keys() - waiting:
            del self._seen[uuid]
        now = time.monotonic()
        for uuid in waiting:
            since = self._seen.setdefault(uuid, now)
            if now - since <= GRACE or self._moves.arriving(uuid):
                continue
            try:
                self._judge(uuid)
            except Exception:
                LOG.exception('Cannot process the migration data of server '
                              '%s, will retry', uuid)

    def _judge(self, uuid: str) -> None:
        """Bring in what has lain for a while, or throw it away."""
        context = nova_context.get_admin_context()
        try:
            instance = objects.Instance.get_by_uuid(
                context, uuid, expected_attrs=[
                    'system_metadata', 'migration_context', 'flavor',
                    'metadata', 'info_cache'])
        except nova_exception.InstanceNotFound:
            self._moves.forget(uuid)
            return
        here = instance.host == self._host
        if here and instance.task_state in (
                task_states.RESIZE_MIGRATED, task_states.RESIZE_FINISH):
            self._arrive(context, instance)
        elif here and not self._moves.has_container(uuid):
            pass  # all that there is of it: a hard reboot makes the server
        elif instance.task_state not in (
                task_states.RESIZE_PREP, task_states.RESIZE_MIGRATING) \
                and instance.vm_state != vm_states.ERROR:
            LOG.info('Removing what came for a server that is not to be '
                     'here', instance=instance)
            if here:
                self._moves.drop(uuid)
            else:
                self._moves.forget(uuid)
        self._seen.pop(uuid, None)

    def _stay(self, context: nova_context.RequestContext,
              instance: objects.Instance) -> None:
        """Note that a server did not leave; Nova then has it started."""
        migration = resize.of(context, instance)
        if migration is None:
            return
        LOG.warning('The move of the server to %s was cut off; it stays',
                    migration.dest_compute, instance=instance)
        if not resize.stays(migration):
            self._moves.abandon(context, instance)
        migration.status = 'error'
        migration.save()
        self._manager._revert_allocation(  # noqa: SLF001 - as Nova fails
            context, instance, migration)

    def _finish_here(self, context: nova_context.RequestContext,
                     instance: objects.Instance) -> None:
        """Have Nova finish a resize of a server that stays.

        What comes from another host is looked at later: that may ask, too.
        """
        migration = resize.of(context, instance)
        if migration is not None and resize.stays(migration):
            self._arrive(context, instance)

    def _arrive(self, context: nova_context.RequestContext,
                instance: objects.Instance) -> None:
        """Have Nova finish a move again, from the beginning."""
        migration = resize.of(context, instance)
        if migration is None:
            return
        # What the driver tells Nova of one that stays.
        manifest = '' if resize.stays(migration) \
            else self._moves.manifest(instance.uuid)
        if manifest is None:
            return
        LOG.warning('The move of the server to this host was cut off; it is '
                    'finished now', instance=instance)
        if instance.task_state == task_states.RESIZE_FINISH \
                and instance.old_flavor:
            # Nova takes the flavor it finds for the one to go back to.
            self._manager._set_instance_info(  # noqa: SLF001
                instance, instance.old_flavor)
        instance.task_state = task_states.RESIZE_MIGRATED
        instance.save()
        self._manager.compute_rpcapi.finish_resize(
            context, instance, migration,
            utils.get_image_from_system_metadata(instance.system_metadata),
            manifest, self._host,
            objects.RequestSpec.get_by_instance_uuid(context, instance.uuid))


def only_while(manager: Any, name: str, task: str,
               status: str | None) -> None:
    """Have Nova do one part of a move only while it is to be done.

    A request that has waited for this host, and the one that is sent when a
    host starts, would be two: of the second Nova makes an error of the
    server.

    :param manager: Nova's ComputeManager
    :param name: of its method
    :param task: that the server is in until it is done
    :param status: of the move; None for any
    """
    handle = getattr(manager, name)

    @functools.wraps(handle)
    def guarded(context: nova_context.RequestContext, **words: Any) -> None:
        uuid, move = words['instance'].uuid, words['migration']
        with lockutils.lock(f'{name}-{uuid}', 'nova-vcloud-'):
            now = objects.Instance.get_by_uuid(context, uuid,
                                               expected_attrs=[])
            if now.task_state != task or (
                    status is not None and status !=
                    objects.Migration.get_by_id(context, move.id).status):
                LOG.info('Ignoring duplicate %s request: task state is %s',
                         name, now.task_state, instance=words['instance'])
                return
            handle(context, **words)

    setattr(manager, name, guarded)


def confirm_once(manager: Any) -> None:
    """Have Nova look up how far a move is before it confirms it.

    A request that has waited for this host, and the one that is sent at its
    start, would be two: of the second Nova makes an error of the server.

    :param manager: Nova's ComputeManager
    """
    handle = manager.confirm_resize

    @functools.wraps(handle)
    def confirmed(context: nova_context.RequestContext,
                  instance: objects.Instance,
                  migration: objects.Migration) -> None:
        with lockutils.lock(f'confirm-{instance.uuid}', 'nova-vcloud-'):
            now = objects.Migration.get_by_id(context, migration.id)
            handle(context, instance=instance, migration=now)

    manager.confirm_resize = confirmed

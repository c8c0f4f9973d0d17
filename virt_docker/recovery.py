# SPDX-License-Identifier: Apache-2.0
"""Moves that a killed nova-compute has left half-way, brought to an end.

Nova itself takes the container back on the host it was to leave, no more:
its records go on to name a move, and a host that was to take the server never
tries again (nova.compute.manager, _init_instance).
"""

from __future__ import annotations

import time
from typing import Any

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova import utils
from nova.compute import task_states
from nova.compute import vm_states
from oslo_log import log

from nova_vcloud.virt_docker import moves
from nova_vcloud.virt_docker import resize

LOG = log.getLogger(__name__)

#: Seconds after which nobody works on what has come, nor will.
GRACE = 120


class Recovery:
    """Ends of moves, at start and later.

    :param manager: Nova's ComputeManager
    :param host: nova-compute's host name
    """

    def __init__(self, manager: Any, traffic: moves.Moves,
                 host: str) -> None:
        self._manager = manager
        self._moves = traffic
        self._host = host
        self._seen: dict[str, float] = {}

    def begin(self, context: nova_context.RequestContext,
              instances: objects.InstanceList) -> None:
        """Look at the servers of a host whose nova-compute starts."""
        for instance in instances:
            try:
                if instance.task_state == task_states.RESIZE_MIGRATING:
                    self._stay(context, instance)
                elif (instance.task_state == task_states.RESIZE_FINISH
                      and self._moves.manifest(instance.uuid)):
                    self._arrive(context, instance)
            except Exception:
                # It must not keep the host from starting.
                LOG.exception('The move of the server could not be ended',
                              instance=instance)

    def look(self) -> None:
        """Look, now and then, at what has come for servers."""
        waiting = set(self._moves.waiting())
        for uuid in self._seen.keys() - waiting:
            del self._seen[uuid]
        now = time.monotonic()
        for uuid in waiting:
            since = self._seen.setdefault(uuid, now)
            if now - since > GRACE and not self._moves.arriving(uuid):
                self._judge(uuid)

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
        elif instance.task_state not in (
                task_states.RESIZE_PREP, task_states.RESIZE_MIGRATING) \
                and instance.vm_state != vm_states.ERROR:
            LOG.info('Removing what came for a server that is not to be '
                     'here', instance=instance)
            self._moves.drop(uuid)
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

    def _arrive(self, context: nova_context.RequestContext,
                instance: objects.Instance) -> None:
        """Have Nova finish a move again, from the beginning."""
        migration = resize.of(context, instance)
        manifest = self._moves.manifest(instance.uuid)
        if migration is None or manifest is None:
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


# SPDX-License-Identifier: Apache-2.0
"""Unshelves that a killed nova-compute has left half-way.

Nova makes an error of such a server, or leaves it at work for ever, though
all it has is still in the image that it was shelved to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova.compute import task_states
from nova.compute import utils as compute_utils
from nova.compute import vm_states
from oslo_log import log

LOG = log.getLogger(__name__)

TASKS = (task_states.UNSHELVING, task_states.SPAWNING)
#: What Nova calls the part of compute hosts in an unshelve.
EVENT = 'compute_unshelve_instance'
ATTRIBUTES = ('system_metadata', 'metadata', 'flavor', 'info_cache',
              'keypairs')

Step = Callable[[nova_context.RequestContext, objects.Instance], object]


class Unshelves:
    """Ends of those that were cut off on this host.

    :param manager: Nova's ComputeManager
    :param runs: tells whether a server runs here, by UUID
    :param remove: removes all that this host has of a server
    """

    def __init__(self, manager: Any, runs: Callable[[str], bool],
                 remove: Callable[[str], object]) -> None:
        self._manager = manager
        self._runs = runs
        self._remove = remove

    def end(self, context: nova_context.RequestContext,
            instance: objects.Instance) -> str:
        """Have a server whole, or shelved as before; return which it is."""
        image = instance.system_metadata.get('shelved_image_id')
        if instance.host and self._runs(instance.uuid):
            self._finish(context, instance, image)
            return 'it is there'
        self._undo(context, instance)
        return 'it is shelved as before'

    def _finish(self, context: nova_context.RequestContext,
                instance: objects.Instance, image: str | None) -> None:
        """Do what Nova does once a server was spawned (_unshelve_instance).
        """
        manager = self._manager
        self._give_back(context, instance)
        if image:
            manager._delete_snapshot_of_shelved_instance(  # noqa: SLF001
                nova_context.get_nova_service_user_context(), instance, image)
        manager._update_instance_after_spawn(instance)  # noqa: SLF001
        compute_utils.remove_shelved_keys_from_system_metadata(instance)
        instance.save()
        manager._update_scheduler_instance_info(  # noqa: SLF001
            context, instance)

    def _undo(self, context: nova_context.RequestContext,
              instance: objects.Instance) -> None:
        """Do what Nova does when a spawn has failed (_unshelve_instance)."""
        manager = self._manager
        self._remove(instance.uuid)
        self._give_back(context, instance)
        manager.reportclient.delete_allocation_for_instance(
            context, instance.uuid, force=True)
        disks = objects.BlockDeviceMappingList.get_by_instance_uuid(
            context, instance.uuid)
        if any(disk.is_volume for disk in disks):
            manager._terminate_volume_connections(  # noqa: SLF001
                nova_context.get_nova_service_user_context(), instance, disks)
        manager._nil_out_instance_obj_host_and_node(  # noqa: SLF001
            instance)
        instance.vm_state = vm_states.SHELVED_OFFLOADED
        instance.task_state = None
        instance.save()

    @staticmethod
    def _give_back(context: nova_context.RequestContext,
                   instance: objects.Instance) -> None:
        """Give a server what Nova has noted otherwise for the spawn."""
        spec = objects.RequestSpec.get_by_instance_uuid(
            context, instance.uuid)
        if spec.image is not None and 'id' in spec.image:
            instance.image_ref = spec.image.id
        if instance.key_name and not instance.key_data \
                and instance.keypairs.objects:
            instance.key_data = instance.keypairs.objects[0].public_key


def without_host(context: nova_context.RequestContext,
                 began_here: Callable[[objects.Instance], bool]
                 ) -> list[objects.Instance]:
    """Return servers whose unshelve has come to a host, and not far.

    Nova notes the host of a server only after it has the volumes.

    :param began_here: tells whether it was this host
    """
    try:
        found = objects.InstanceList.get_by_filters(
            context, {'vm_state': vm_states.SHELVED_OFFLOADED,
                      'task_state': list(TASKS), 'deleted': False},
            expected_attrs=list(ATTRIBUTES))
    except (nova_exception.NovaException, OSError):
        LOG.exception('Cannot list servers that are being unshelved')
        return []
    return [each for each in found if each.host is None and began_here(each)]

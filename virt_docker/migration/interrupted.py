# SPDX-License-Identifier: Apache-2.0
"""Servers at which a killed nova-compute was at work, ready to go on.

Before Nova looks at them (nova.compute.manager, _init_instance): it makes an
error of a rebuild that was cut off, and leaves other tasks as they were for
ever. Moves are for the module recovery.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nova import context as nova_context
from nova import objects
from nova.compute import task_states
from nova.compute import vm_states
from oslo_log import log

from nova_vcloud import exception
from nova_vcloud.virt_docker.guest import action_events
from nova_vcloud.virt_docker.migration import unshelves

LOG = log.getLogger(__name__)

REBUILDS = (task_states.REBUILDING, task_states.REBUILD_BLOCK_DEVICE_MAPPING,
            task_states.REBUILD_SPAWNING)
#: During these the server may have been stopped, and is to run again.
STOPPING = (task_states.SHELVING, task_states.SHELVING_IMAGE_PENDING_UPLOAD,
            task_states.SHELVING_IMAGE_UPLOADING)
#: During these the container shows how far it got: {task: (state of a server
#: that is frozen, of one that runs)}.
FREEZES = {
    task_states.PAUSING: (vm_states.PAUSED, vm_states.ACTIVE),
    task_states.SUSPENDING: (vm_states.SUSPENDED, vm_states.ACTIVE),
    task_states.RESUMING: (vm_states.SUSPENDED, vm_states.ACTIVE)}
#: These leave the server as it is.
HARMLESS = (task_states.UPDATING_PASSWORD, task_states.SHELVING_OFFLOADING)
#: The end of each is the server as its own container is.
RESCUES = {task_states.RESCUING: 'it is not rescued',
           task_states.UNRESCUING: 'it runs from its own disk again'}
#: What Nova calls the part of compute hosts in adding an interface.
ATTACH = 'compute_attach_interface'
#: Newest actions of a server that are looked at.
ACTIONS = 5

Step = Callable[[nova_context.RequestContext, objects.Instance], object]


class Interrupted:
    """Ends of what was cut off on this host.

    :param manager: Nova's ComputeManager
    :param inspect: the engine's description of a server's container, by UUID
    :param undo_rebuild: has a server as it was before its rebuild
    :param start: has a server run that should
    :param leave_rescue: has a server as it was before it was rescued
    :param ended: ends of unshelves
    :param host: nova-compute's host name
    """

    def __init__(self, manager: Any, inspect: Callable[[str], dict[str, Any]],
                 undo_rebuild: Step, start: Step, leave_rescue: Step,
                 ended: unshelves.Unshelves, host: str) -> None:
        self._manager = manager
        self._inspect = inspect
        self._undo_rebuild = undo_rebuild
        self._start = start
        self._leave_rescue = leave_rescue
        self._unshelves = ended
        self._host = host

    def begin(self, context: nova_context.RequestContext,
              instances: objects.InstanceList) -> None:
        """Look at the servers of a host whose nova-compute starts."""
        lost = unshelves.without_host(context, lambda instance: _cut_off(
            context, instance, self._host, unshelves.EVENT))
        for instance in (*instances, *lost):
            try:
                self._look(context, instance)
            except Exception:
                # It must not keep the host from starting.
                LOG.exception('Cannot recover the interrupted task of the '
                              'instance', instance=instance)

    def _look(self, context: nova_context.RequestContext,
              instance: objects.Instance) -> None:
        task = instance.task_state
        if task in REBUILDS:
            self._end_rebuild(context, instance)
        elif task in STOPPING:
            self._start(context, instance)
            self._go_on(context, instance, 'it is not shelved')
        elif task in FREEZES:
            self._end_freeze(context, instance)
        elif task in RESCUES:
            self._end_rescue(context, instance)
        elif task in unshelves.TASKS \
                and instance.vm_state == vm_states.SHELVED_OFFLOADED:
            LOG.warning('Unshelve was interrupted by the end of nova-compute: '
                        'finishing or undoing it', instance=instance)
            result = self._unshelves.end(context, instance)
            action_events.record(
                context, instance, 'nova-compute of the host ended during '
                f'"{task}": {result}', host=self._host)
        elif task in HARMLESS:
            self._go_on(context, instance, 'it may be asked for again')
        elif task is None and instance.vm_state in (
                vm_states.ACTIVE, vm_states.PAUSED, vm_states.STOPPED):
            self._end_attach(context, instance)

    def _end_rebuild(self, context: nova_context.RequestContext,
                     instance: objects.Instance) -> None:
        """Undo a rebuild of a server that has a container here."""
        if instance.vm_state not in (vm_states.ACTIVE, vm_states.STOPPED,
                                     vm_states.ERROR):
            return
        try:
            self._inspect(instance.uuid)
        except exception.ContainerNotFound:
            return  # one that is evacuated to here: Nova's error is right
        self._undo_rebuild(context, instance)
        self._go_on(context, instance, 'it is as its container is')

    def _end_rescue(self, context: nova_context.RequestContext,
                    instance: objects.Instance) -> None:
        """Have a server run from its own disk, however far the task got."""
        result = RESCUES[instance.task_state]
        try:
            if instance.vm_state != vm_states.STOPPED:
                instance.vm_state = vm_states.ACTIVE
            self._leave_rescue(context, instance)
        except Exception:
            # Else nobody could reboot it.
            LOG.exception('The server cannot be run from its own disk',
                          instance=instance)
            instance.vm_state = vm_states.ERROR
            result = 'it could not be started, a hard reboot tries again'
        self._go_on(context, instance, result)

    def _end_freeze(self, context: nova_context.RequestContext,
                    instance: objects.Instance) -> None:
        """Let Nova's record be what the container is."""
        frozen, runs = FREEZES[instance.task_state]
        state = self._inspect(instance.uuid)['State']
        if state['Running']:
            instance.vm_state = frozen if state['Paused'] else runs
        self._go_on(context, instance, 'it is as its container is')

    def _end_attach(self, context: nova_context.RequestContext,
                    instance: objects.Instance) -> None:
        """Have Nova know all ports of a server; it plugs them at once.

        Neutron has a port before Nova notes it.
        """
        if not _cut_off(context, instance, self._host, ATTACH):
            return
        network = self._manager.network_api
        LOG.warning('An interface was being added to the server; it gets what '
                    'Neutron has', instance=instance)
        if self._manager._require_nw_info_update(  # noqa: SLF001
                context, instance):
            network.setup_instance_network_on_host(context, instance,
                                                   instance.host)
        network.get_instance_nw_info(context, instance, force_refresh=True)

    def _go_on(self, context: nova_context.RequestContext,
               instance: objects.Instance, result: str) -> None:
        """Note that nobody is at work, and tell the tenant."""
        task = instance.task_state
        LOG.warning('Task "%s" was interrupted by the end of nova-compute: '
                    '%s', task, result, instance=instance)
        instance.task_state = None
        instance.save()
        action_events.record(
            context, instance, 'nova-compute of the host ended during '
            f'"{task}"; the server goes on: {result}')


def _cut_off(context: nova_context.RequestContext,
             instance: objects.Instance, host: str, name: str) -> bool:
    """Tell whether a host has begun an event, and not ended it."""
    actions = objects.InstanceActionList.get_by_instance_uuid(
        context, instance.uuid, limit=ACTIONS)
    for action in actions:
        if action.finish_time is not None:
            continue
        events = objects.InstanceActionEventList.get_by_action(
            context, action.id)
        if any(event.event == name and event.host == host
               and event.finish_time is None for event in events):
            return True
    return False

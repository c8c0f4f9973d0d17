# SPDX-License-Identifier: Apache-2.0
"""NICs, names and limits of a container: what Neutron and the flavor say."""

from __future__ import annotations

from collections.abc import Iterable
import contextlib
from typing import Any

from nova import objects
from oslo_concurrency import lockutils
from oslo_log import log

from nova_vcloud import exception
from nova_vcloud.virt_docker import server_labels
from nova_vcloud.virt_docker.guest import container_spec
from nova_vcloud.virt_docker.guest import etc_files
from nova_vcloud.virt_docker.guest import live_processes
from nova_vcloud.virt_docker.resources import Allotment
from nova_vcloud.virt_docker.resources import Resources
from nova_vcloud.virt_docker.vif import addresses
from nova_vcloud.virt_docker.vif.network import Network

LOG = log.getLogger(__name__)


def lock(uuid: str) -> contextlib.AbstractContextManager[Any]:
    """Serialise what this process does to one server."""
    return lockutils.lock(f'vcloud-server-{uuid}')


class Nics:
    """The part of :class:`~.containers.Containers` that knows of NICs."""

    _network: Network
    _resources: Resources
    _defaults: container_spec.Defaults
    _etc: etc_files.EtcFiles
    _processes: live_processes.LiveProcesses

    def inspect(self, uuid: str) -> dict[str, Any]:
        """Return the engine's description of a server's container."""
        raise NotImplementedError

    def _inspect(self, name: str) -> dict[str, Any]:
        raise NotImplementedError

    def running(self, uuid: str) -> bool:
        """Tell whether the server's first process lives, frozen or not."""
        raise NotImplementedError

    def whole(self, container: dict[str, Any]) -> dict[str, Any]:
        """Return a container whose root disk is mounted, if it is a file."""
        self._resources.mount_disk(container['Id'])
        return container

    def room(self, container: dict[str, Any]
             ) -> contextlib.AbstractContextManager[None]:
        """Have room on the disk of a stopped container for a while."""
        return self._resources.room(container['Id'])

    def plug(self, instance: objects.Instance, network_info: Any) -> None:
        """Bring NICs and limits to what Neutron and the flavor say."""
        nics, uuid = addresses.plan(network_info), instance.uuid
        with lock(uuid):
            changed = self._network.plug(uuid, nics, up=self.running(uuid))
            with contextlib.suppress(exception.ContainerNotFound):
                container = self.inspect(uuid)
                self._settle(instance, container, nics)
                if changed:
                    self._renew(instance, nics, container)

    def update_addresses(self, instance: objects.Instance,
                         network_info: Any) -> None:
        """Bring the NICs that a server has to what Neutron says now.

        None comes and none goes: that is for :meth:`attach` and
        :meth:`detach`. A server that is not here, or left, is fine.
        """
        uuid = instance.uuid
        with lock(uuid):
            try:
                container = self._inspect(container_spec.container_name(uuid))
            except exception.ContainerNotFound:
                return
            here = {each['port_id'] for each in self._network.counters(uuid)}
            nics = [nic for nic in addresses.plan(network_info)
                    if nic.port_id in here]
            if nics and self._network.plug(
                    uuid, nics, up=container['State']['Running']):
                LOG.info('The addresses of the server are now %s', ', '.join(
                    address for nic in nics for address in nic.addresses),
                    instance=instance)
                self._renew(instance, nics, container)

    def unplug(self, uuid: str, network_info: Any) -> None:
        """Remove NICs; absent ones are fine."""
        nics = addresses.plan(network_info)
        with lock(uuid):
            self._network.unplug(uuid, nics)

    def attach(self, instance: objects.Instance, network_info: Any,
               port_id: str) -> None:
        """Plug one more NIC; on failure nothing of it is left.

        :param network_info: with the new port
        """
        nics, uuid = addresses.plan(network_info), instance.uuid
        with lock(uuid), contextlib.ExitStack() as undo:
            container = self.inspect(uuid)
            undo.callback(self._network.unplug, uuid, [
                nic for nic in nics if nic.port_id == port_id])
            self._network.plug(uuid, nics, up=container['State']['Running'])
            self._settle(instance, container, nics)
            self._renew(instance, nics, container)
            undo.pop_all()

    def detach(self, instance: objects.Instance, network_info: Any,
               port_id: str) -> None:
        """Remove a NIC and its limits; an absent one is fine.

        :param network_info: with the port
        """
        nics, uuid = addresses.plan(network_info), instance.uuid
        with lock(uuid):
            container, rest = self.inspect(uuid), tuple(
                nic for nic in nics if nic.port_id != port_id)
            self._settle(instance, container, rest)
            self._network.unplug(uuid, [
                nic for nic in nics if nic.port_id == port_id])
            self._renew(instance, rest, container)

    def _join(self, instance: objects.Instance,
              container: dict[str, Any]) -> None:
        """Have a container in its namespace, with the name that it has now.
        """
        own = container_spec.kernel_hostname(instance.hostname)
        self._network.join(
            instance.uuid, container['Id'],
            own if own != container['Config']['Hostname'] else '')

    def _renew(self, instance: objects.Instance,
               nics: Iterable[addresses.Nic],
               container: dict[str, Any] | None = None) -> None:
        """Have the names in its files be right, in a server that runs.

        :param container: as it is now; None: not known
        """
        container = container or self.inspect(instance.uuid)
        if container['State']['Running']:
            self._etc.renew(instance.uuid, container, instance.hostname, nics)

    def _follow(self, instance: objects.Instance,
                container: dict[str, Any]) -> None:
        """Give a server what its flavor says now, not when it was made.

        :param container: as it was before it started
        """
        self._processes.started(container['Id'])
        own = container['Config']['Labels'].get(server_labels.IMAGE)
        try:
            limits = live_processes.wanted(
                instance, instance.flavor,
                self._processes.most_files(self._defaults.most_files),
                own == instance.image_ref)
            if self._processes.differs(container, limits):
                self._processes.follow(self.inspect(instance.uuid), limits)
        except (exception.InvalidRequest, exception.LimitNotEnforced) as e:
            LOG.warning('The server has the /dev/shm and the open files that '
                        'it was made with: %s', e, instance=instance)

    def _settle(self, instance: objects.Instance, container: dict[str, Any],
                nics: tuple[addresses.Nic, ...]) -> None:
        """Bring a server to the limits of its flavor."""
        with self._resources.allotted(instance, instance.flavor,
                                      nics) as wanted:
            self._keep(instance.uuid, wanted, container['Id'], nics)

    def _keep(self, uuid: str, wanted: Allotment, container_id: str,
              nics: Iterable[addresses.Nic]) -> None:
        self._resources.keep(uuid, wanted, container_id,
                             self._defaults.cgroup(container_id), nics)

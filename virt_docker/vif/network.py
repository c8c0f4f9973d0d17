# SPDX-License-Identifier: Apache-2.0
"""Networks of servers: the driver's view of namespaces and NICs."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
from typing import Any

from nova import exception
from oslo_log import log
from oslo_utils import uuidutils

from nova_vcloud import guest
from nova_vcloud import netns
from nova_vcloud import userns
from nova_vcloud.virt_docker.vif import mapping
from nova_vcloud.virt_docker.vif import segments
from nova_vcloud.virt_docker.vif import wiring
from nova_vcloud.virt_docker.vif.addresses import Nic

LOG = log.getLogger(__name__)


class Network:
    """Namespaces, NICs and container mappings of this host's servers.

    Every method may be called by many threads at once, for different
    servers; calls for one server are the caller's to serialise.

    :param links_path: directory in which the runtime looks up namespaces
    :param fabric_namespace: namespace of bridges and taps; '' is the host's
    :param prefix: beginning of the names of servers' namespaces
    :param uplinks: {physical network: interface} for VLANs
    :param ids: tells of the ids in servers' user namespaces, None while
        they have none
    :param neighbours: that a server may have, of each kind; 0: any number
    """

    def __init__(self, links_path: str, fabric_namespace: str = '',
                 prefix: str = 'nova-',
                 uplinks: Mapping[str, str] | None = None,
                 ids: Callable[[], userns.IdMap | None] = lambda: None,
                 neighbours: int = 0) -> None:
        self._links_path = links_path
        self._fabric = fabric_namespace
        self._prefix = prefix
        self._uplinks = dict(uplinks or {})
        self._ids = ids
        self._neighbours = neighbours

    def namespace(self, server: str) -> str:
        """Return the name of a server's namespace."""
        return f'{self._prefix}{server}'

    def link(self, server: str, nic: Nic) -> guest.Link:
        """Return where in the kernel a server's NIC is."""
        return guest.Link(nic.port_id, self._fabric, nic.tap,
                          self.namespace(server), nic.name)

    def namespaces(self) -> set[str]:
        """Return the UUIDs of the servers that have a namespace here."""
        uuids = (name.removeprefix(self._prefix)
                 for name in netns.names()
                 if name.startswith(self._prefix))
        return {uuid for uuid in uuids if uuidutils.is_uuid_like(uuid)}

    def plug(self, server: str, nics: Iterable[Nic], *,
             up: bool = True) -> bool:
        """Make namespace and NICs, or repair what differs.

        NICs that are not named stay. On failure nothing is left of what
        this call made.

        :param up: whether the links have a carrier
        :returns: whether an address, a MAC or a link changed
        :raises VirtualInterfacePlugException: with the reason
        """
        with _plug_errors():
            return bool(wiring.plug(
                self._fabric, self.namespace(server), _owner(server),
                _values(nics), self._uplinks, up, self._ids(),
                self._neighbours))

    def unplug(self, server: str, nics: Iterable[Nic]) -> None:
        """Remove the NICs of these ports; absent ones are fine.

        :raises VirtualInterfaceUnplugException: with the reason
        """
        with _unplug_errors():
            wiring.unplug(self._fabric, _owner(server),
                          {nic.port_id: nic.tap for nic in nics})

    def destroy(self, server: str) -> None:
        """Remove NICs, namespace and mapping, whatever there is of them.

        :raises VirtualInterfaceUnplugException: with the reason
        """
        with _unplug_errors():
            mapping.forget_namespace(
                self._links_path, netns.path(self.namespace(server)))
            wiring.destroy(self._fabric, self.namespace(server),
                           _owner(server))

    def set_carrier(self, server: str, up: bool) -> None:
        """Connect the links of a server that runs, or disconnect them.

        Addresses and routes stay. A server without namespace is fine.

        :raises VirtualInterfacePlugException: with the reason
        """
        with _plug_errors():
            wiring.set_carrier(self._fabric, self.namespace(server),
                               _owner(server), up)

    def announce(self, server: str, nics: Iterable[Nic]) -> None:
        """Tell the neighbours where the addresses of ``nics`` are.

        :raises VirtualInterfacePlugException: with the reason
        """
        with _plug_errors():
            wiring.announce(self._fabric, self.namespace(server),
                            _values(nics))

    def counters(self, server: str) -> list[dict[str, Any]]:
        """Return counters of each NIC since it was made.

        :returns: a dictionary for each NIC: port_id, tap, name, mac, and
            {rx,tx}_{bytes,packets,errors,drops}, rx being what the server
            received; empty when it has no namespace
        :raises VirtualInterfacePlugException: with the reason
        """
        with _plug_errors():
            return wiring.counters(self._fabric, self.namespace(server),
                                   _owner(server))

    def join(self, server: str, container_id: str,
             hostname: str = '') -> None:
        """Let the runtime put a container into the server's namespace.

        :param hostname: that it is to have instead of the one it was made
            with
        """
        with _plug_errors():
            name = self.namespace(server)
            mapping.join(self._links_path, container_id, netns.path(name),
                         userns.path(name) if self._ids() else '')
            mapping.set_hostname(self._links_path, container_id, hostname)

    def forget(self, container_id: str) -> None:
        """Forget a container; an unknown one is fine."""
        mapping.forget(self._links_path, container_id)


def _owner(server: str) -> str:
    return f'nova:{server}'


def _values(nics: Iterable[Nic]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(nic) for nic in nics]


@contextlib.contextmanager
def _plug_errors() -> Iterator[None]:
    try:
        yield
    except (segments.WiringError, OSError) as e:
        raise exception.VirtualInterfacePlugException(
            f'Network of the server cannot be set up: {e}') from e


@contextlib.contextmanager
def _unplug_errors() -> Iterator[None]:
    try:
        yield
    except (segments.WiringError, OSError) as e:
        raise exception.VirtualInterfaceUnplugException(
            reason=str(e)) from e

# SPDX-License-Identifier: Apache-2.0
"""The network of this host's servers: what the driver calls."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import threading
from typing import Any

from nova import exception

from nova_vcloud.virt_docker import addresses
from nova_vcloud.virt_docker.vif import namespace
from nova_vcloud.virt_docker.vif import wiring


class Network:
    """Namespaces, NICs and what the runtime must know of them.

    :param links_path: folder that our OCI runtime reads
    :param fabric_namespace: where bridges and taps are; '' is the host's own
    :param prefix: beginning of the name of a server's namespace
    :param uplinks: interface by physical network, for VLANs
    """

    def __init__(self, links_path: str, fabric_namespace: str = '',
                 prefix: str = 'nova-',
                 uplinks: Mapping[str, str] | None = None) -> None:
        self._links_path = links_path
        self._fabric = fabric_namespace
        self._prefix = prefix
        self._uplinks = dict(uplinks or {})
        # Two servers must not make the same VLAN bridge at once.
        self._vlan_lock = threading.Lock()

    def namespace(self, server: str) -> str:
        """Return the name of a server's namespace."""
        return self._prefix + server

    def namespaces(self) -> set[str]:
        """Return the servers that have a namespace on this host."""
        return {name.removeprefix(self._prefix)
                for name in namespace.names(self._prefix)}

    def plug(self, server: str, nics: Iterable[addresses.Nic], *,
             up: bool = True) -> None:
        """Bring a server's network to ``nics``; what fits is left alone.

        :param up: whether the link is up, that is, the server runs
        :raises VirtualInterfacePlugException: the host lacks the network;
            nothing that this call made is left
        """
        plain = [self._plain(nic) for nic in nics]
        if any(nic['vlan'] is not None for nic in plain):
            with self._vlan_lock:
                problem = self._plug(server, plain, up)
        else:
            problem = self._plug(server, plain, up)
        if problem:
            raise exception.VirtualInterfacePlugException(problem)

    def _plug(self, server: str, nics: list[dict[str, Any]],
              up: bool) -> str | None:
        problem: str | None = wiring.plug(
            self._fabric, self.namespace(server), server, nics, up)
        return problem

    def _plain(self, nic: addresses.Nic) -> dict[str, Any]:
        uplink = self._uplinks.get(nic.physical_network or '')
        plain = dataclasses.asdict(nic)
        return {**plain, 'uplink': uplink}

    def unplug(self, server: str, nics: Iterable[addresses.Nic]) -> None:
        """Remove NICs; the namespace and the others stay."""
        wiring.unplug(self._fabric, [nic.tap for nic in nics])

    def destroy(self, server: str) -> None:
        """Remove all of a server's network; absent parts are fine."""
        wiring.destroy(self._fabric, self.namespace(server), server,
                       self._links_path)

    def set_carrier(self, server: str, up: bool) -> None:
        """Connect or disconnect the cable, as it were.

        The namespace of a stopped server lives on and would answer pings.
        """
        wiring.set_carrier(self._fabric, server, up)

    def join(self, server: str, container_id: str) -> None:
        """Make the runtime start a container in the server's namespace."""
        wiring.join(self._links_path, container_id, self.namespace(server))

    def forget(self, container_id: str) -> None:
        """Take back what ``join`` told the runtime."""
        wiring.forget(self._links_path, container_id)

    def counters(self, server: str) -> list[dict[str, Any]]:
        """Return traffic counters of each NIC, as the server sees them.

        Keys: tap, port_id, mac, and ``rx_``/``tx_`` followed by bytes,
        packets, errors, drops.
        """
        rows: list[dict[str, Any]] = wiring.counters(
            self._fabric, self.namespace(server), server)
        return rows

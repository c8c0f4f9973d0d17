# SPDX-License-Identifier: Apache-2.0
"""Pure: from what Nova knows of a server's ports to the NICs it must have."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import ipaddress
from typing import Any

from nova import exception
from nova.network import model

DEFAULT_MTU = 1500  # bytes; Ethernet's, when Neutron names none

#: (destination as CIDR, gateway or None when it is on the link)
Route = tuple[str, str | None]


@dataclasses.dataclass(frozen=True)
class Nic:
    """One network interface of a server, as it should be.

    :ivar tap: name of the host's end of the link
    :ivar name: name in the server; taken by another port, the next free one
    :ivar mtu: bytes
    :ivar vlan: segmentation id; None on a flat network
    :ivar addresses: 'address/prefix length'
    :ivar up: False keeps the link down although the server runs
    """

    port_id: str
    mac: str
    tap: str
    name: str
    mtu: int
    bridge: str
    vlan: int | None
    physical_network: str | None
    addresses: tuple[str, ...]
    routes: tuple[Route, ...]
    dns: tuple[str, ...]
    up: bool = True


def plan(network_info: Iterable[Mapping[str, Any]]) -> tuple[Nic, ...]:
    """Return the NICs in the order of the ports, eth0 first.

    A destination has one route: the first port's that offers it. So the
    first port with a gateway of a family is the way out.

    :param network_info: Nova's network model, a sequence of VIFs
    :raises VirtualInterfacePlugException: a port is not bound in a way that
        this driver can plug; the text is for the tenant
    """
    taken: set[str] = set()  # destinations
    return tuple(_nic(vif, f'eth{index}', taken)
                 for index, vif in enumerate(network_info))


def _nic(vif: Mapping[str, Any], name: str, taken: set[str]) -> Nic:
    bridge = _bridge(vif)
    network = vif['network']
    details = vif['details'] or {}
    vlan = details.get(model.VIF_DETAILS_VLAN)
    return Nic(
        port_id=vif['id'],
        mac=vif['address'].lower(),
        tap=vif['devname'],
        name=name,
        mtu=int(network['meta'].get('mtu') or DEFAULT_MTU),
        bridge=bridge,
        vlan=None if vlan is None else int(vlan),
        physical_network=(details.get('physical_network')
                          or network['meta'].get('physical_network')),
        addresses=tuple(_unique(_addresses(network))),
        routes=tuple(_routes(network, taken)),
        dns=tuple(_unique(dns['address'] for subnet in network['subnets']
                          for dns in subnet['dns'])))


def _bridge(vif: Mapping[str, Any]) -> str:
    """Return the bridge a port is bound to, or say why there is none."""
    if vif['type'] == model.VIF_TYPE_TAP:
        bridge = (vif['details'] or {}).get(model.VIF_DETAILS_BRIDGE_NAME)
        if bridge:
            return str(bridge)
        reason = 'Neutron names no bridge for it (binding:vif_details)'
    elif vif['type'] in (model.VIF_TYPE_BINDING_FAILED,
                         model.VIF_TYPE_UNBOUND):
        reason = ('Neutron could not bind it: its network does not reach '
                  'the host of this server')
    else:
        reason = (f'servers that are containers cannot use its kind of '
                  f'connection ({vif["type"]})')
    raise exception.VirtualInterfacePlugException(
        f'Port {vif["id"]} cannot be plugged: {reason}.')


def _addresses(network: Mapping[str, Any]) -> Iterator[str]:
    for subnet in network['subnets']:
        length = ipaddress.ip_network(subnet['cidr'], strict=False).prefixlen
        for ip in subnet['ips']:
            if ip['address']:
                yield f'{ip["address"]}/{length}'


def _routes(network: Mapping[str, Any], taken: set[str]) -> Iterator[Route]:
    """Yield the routes of a port's subnets whose destination is new."""
    own = {ip['address'] for subnet in network['subnets']
           for ip in subnet['ips']}
    for cidr, via in _wanted_routes(network):
        # A server may be the gateway of its own network.
        if via not in own and cidr not in taken:
            taken.add(cidr)
            yield cidr, via


def _wanted_routes(network: Mapping[str, Any]) -> Iterator[Route]:
    """Yield every gateway, then every host route, as Neutron has them."""
    for subnet in network['subnets']:
        via = _address(subnet['gateway'])
        if via and subnet['ips']:
            version = ipaddress.ip_address(via).version
            yield '0.0.0.0/0' if version == 4 else '::/0', via
    for subnet in network['subnets']:
        for route in subnet['routes']:
            cidr = ipaddress.ip_network(str(route['cidr']), strict=False)
            yield str(cidr), _address(route['gateway'])


def _address(ip: Mapping[str, Any] | None) -> str | None:
    """Return an address of the model as text; 0.0.0.0 means none."""
    address = ip and ip['address']
    if not address or ipaddress.ip_address(address).is_unspecified:
        return None
    return str(address)


def _unique(values: Iterable[Any]) -> Iterator[Any]:
    yield from dict.fromkeys(values)

# SPDX-License-Identifier: Apache-2.0
"""The server's side: addresses and routes inside its namespace."""

from __future__ import annotations

import ipaddress
import pathlib
import socket
from typing import Any

from pyroute2 import IPRoute

from nova_vcloud.virt_docker.vif import taps

# Addresses come from Neutron, which knows that nobody else has them; waiting
# for duplicate address detection would cost a server a second or two.
_NODAD = 0x02
_STATIC = 4  # routing protocol number: set by an administrator
_MAIN = 254
_SYSCTL = pathlib.Path('/proc/sys/net/ipv6/conf')


def loopback(ipr: IPRoute) -> None:
    """Bring the loopback interface up."""
    ipr.link('set', index=1, state='up')


def configure(ipr: IPRoute, nic: dict[str, Any],
              fresh: bool = False) -> bool:
    """Bring one NIC to what ``nic`` says; changes only what differs.

    :param fresh: the interface was made just now, so nothing is on it
    :returns: False when there is no interface of that name, or another MAC
    """
    link = taps.find(ipr, nic['name'])
    if link is None:
        return False
    index = link['index']
    if link.get('address') != nic['mac']:
        ipr.link('set', index=index, address=nic['mac'])
    if link.get('mtu') != nic['mtu']:
        ipr.link('set', index=index, mtu=nic['mtu'])
    if link['state'] != 'up':
        _no_autoconfiguration(nic['name'])
        ipr.link('set', index=index, state='up')
    _addresses(ipr, index, nic['addresses'], fresh)
    _routes(ipr, index, nic, fresh)
    return True


def _no_autoconfiguration(name: str) -> None:
    """Take no address or route from router advertisements."""
    for key in ('accept_ra', 'autoconf', 'accept_dad'):
        file = _SYSCTL / name / key
        if file.exists():  # a kernel without IPv6 has none
            file.write_text('0')


def _addresses(ipr: IPRoute, index: int, wanted: list[str],
               fresh: bool) -> None:
    have = set() if fresh else {
        f'{a.get("address")}/{a["prefixlen"]}'
        for a in ipr.get_addr(index=index) if a['scope'] == 0}
    for text in have - set(wanted):
        address, _, length = text.partition('/')
        ipr.addr('del', index=index, address=address, prefixlen=int(length))
    for text in wanted:
        if text in have:
            continue
        interface = ipaddress.ip_interface(text)
        more: dict[str, Any] = {}
        if interface.version == 6:
            more['flags'] = _NODAD
        else:
            more['broadcast'] = str(interface.network.broadcast_address)
        ipr.addr('add', index=index, address=str(interface.ip),
                 prefixlen=interface.network.prefixlen, **more)


def _routes(ipr: IPRoute, index: int, nic: dict[str, Any],
            fresh: bool) -> None:
    wanted = {(str(ipaddress.ip_network(d, strict=False)), via)
              for d, via in nic['routes']}
    have = set() if fresh else _static_routes(ipr, index)
    for destination, via in have - wanted:
        ipr.route('del', **_route(destination, via, index, nic))
    for destination, via in sorted(wanted - have, key=str):
        ipr.route('replace', **_route(destination, via, index, nic))


def _static_routes(ipr: IPRoute, index: int
                   ) -> set[tuple[str, str | None]]:
    found = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        anywhere = '0.0.0.0' if family == socket.AF_INET else '::'  # noqa: S104
        for route in ipr.get_routes(family=family, table=_MAIN, oif=index):
            if route['proto'] == _STATIC:
                target = route.get('dst') or anywhere
                found.add((f'{target}/{route["dst_len"]}',
                           route.get('gateway')))
    return found


def _route(destination: str, via: str | None, index: int,
           nic: dict[str, Any]) -> dict[str, Any]:
    network = ipaddress.ip_network(destination)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    route: dict[str, Any] = {'dst': destination, 'oif': index,
                             'proto': _STATIC, 'family': family,
                             'table': _MAIN}
    if via:
        route['gateway'] = via
        if not _on_link(via, nic['addresses']):
            route['flags'] = ['onlink']
    return route


def _on_link(gateway: str, addresses: list[str]) -> bool:
    """Tell whether one of our subnets has the gateway in it."""
    address = ipaddress.ip_address(gateway)
    return any(address in ipaddress.ip_interface(own).network
               for own in addresses
               if ipaddress.ip_interface(own).version == address.version)

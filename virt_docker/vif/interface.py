# SPDX-License-Identifier: Apache-2.0
"""One interface inside a server: name, MAC, MTU, addresses, routes."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
import errno
import ipaddress
import socket
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nova_vcloud.virt_docker.vif import dumps

# From linux/if_addr.h and linux/rtnetlink.h
_IFA_F_NODAD = 0x02
_IFA_F_PERMANENT = 0x80
_IFF_UP = 1
_MAIN_TABLE = 254
_STATIC = 4
_GLOBAL = 0

#: (destination, gateway or None)
Route = tuple[str, str | None]


class Interface:
    """An interface and the netlink socket of its namespace.

    :param link: as the kernel describes it; of one made just now, only its
        'index' is needed
    """

    def __init__(self, netlink: IPRoute, link: Any) -> None:
        self._netlink = netlink
        self._link = link
        self._index = link['index']

    def addresses(self) -> list[str]:
        """Return the addresses that are set for good, as CIDR.

        Not all of a link that has more than any port (dumps.MOST).
        """
        return [found.cidr
                for found in dumps.addresses(self._netlink, self._index)
                if found.scope == _GLOBAL and found.flags & _IFA_F_PERMANENT]

    def routes(self) -> set[Route]:
        """Return the routes that are ours: static, in the main table.

        Not all of a link that has more than any port (dumps.MOST).
        """
        return {(found.destination, found.gateway)
                for family in (socket.AF_INET, socket.AF_INET6)
                for found in dumps.routes(self._netlink, self._index, family,
                                          _MAIN_TABLE, _STATIC)}

    def converge(self, nic: Mapping[str, Any], made: bool) -> bool:
        """Change what differs from ``nic``, nothing else.

        :param made: it was made just now, with MAC and MTU: has nothing
        :returns: whether the neighbours know something that is wrong now
        """
        if made:
            change = {'state': 'up'}
            addresses: set[str] = set()
        else:
            change = self._link_changes(nic)
            addresses = set(self.addresses())
        stale = addresses - set(nic['addresses'])
        for address in stale:
            self._address('del', address)
        # Of a flood of them, those that were not looked at may be there.
        missing = [address for address in nic['addresses']
                   if address not in addresses
                   and self._address('add', address)]
        if change:
            self._netlink.link('set', index=self._index, **change)
        # Only now: routes go with a link that goes down, and with the last
        # address of their family.
        self._converge_routes(nic, set() if made else self.routes())
        return bool(stale or missing or 'address' in change
                    or 'state' in change)

    def _link_changes(self, nic: Mapping[str, Any]) -> dict[str, Any]:
        wanted = {'mtu': nic['mtu'], 'address': nic['mac']}
        change = {key: value for key, value in wanted.items()
                  if self._link.get(key) != value}
        if not self._link['flags'] & _IFF_UP:
            change['state'] = 'up'
        return change

    def _address(self, verb: str, address: str) -> bool:
        """Add or delete an address; tell whether that changed something."""
        ip, _, length = address.partition('/')
        more: dict[str, Any] = {}
        if verb == 'add' and ':' in ip:
            # Without it the address is of no use for a second or two.
            # Neutron has seen to it that it is nobody else's.
            more['flags'] = _IFA_F_NODAD
        elif verb == 'add':
            more['broadcast'] = str(
                ipaddress.ip_interface(address).network.broadcast_address)
        try:
            self._netlink.addr(verb, index=self._index, address=ip,
                               prefixlen=int(length), **more)
        except NetlinkError as e:
            if e.code not in (errno.EEXIST, errno.EADDRNOTAVAIL):
                raise
            return False
        return True

    def _converge_routes(self, nic: Mapping[str, Any],
                         present: set[Route]) -> None:
        wanted = [(cidr, via) for cidr, via in nic['routes']]
        for cidr, via in present - set(wanted):
            self._route('del', cidr, via, ())
        for cidr, via in wanted:
            if (cidr, via) not in present:
                self._route('replace', cidr, via, nic['addresses'])

    def _route(self, verb: str, cidr: str, via: str | None,
               addresses: Iterable[str]) -> None:
        family = socket.AF_INET6 if ':' in cidr else socket.AF_INET
        route: dict[str, Any] = {
            'dst': cidr, 'oif': self._index, 'family': family,
            'proto': _STATIC, 'table': _MAIN_TABLE}
        if via is not None:
            route['gateway'] = via
            if verb != 'del' and not _is_near(via, addresses):
                route['flags'] = ['onlink']
        else:
            route['scope'] = 'link' if family == socket.AF_INET else 'global'
        try:
            self._netlink.route(verb, **route)
        except NetlinkError as e:
            # Routes go with the address or gateway they stand on.
            if verb != 'del' or e.code != errno.ESRCH:
                raise


def _is_near(gateway: str, addresses: Iterable[str]) -> bool:
    """Tell whether the kernel finds a gateway on the link by itself."""
    ip = ipaddress.ip_address(gateway)
    return ip.is_link_local or any(
        ip in ipaddress.ip_interface(address).network
        for address in addresses)

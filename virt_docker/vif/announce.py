# SPDX-License-Identifier: Apache-2.0
"""Tell the network where an address lives now.

Gratuitous ARP (RFC 5227 section 3) and unsolicited neighbour advertisement
(RFC 4861 section 7.2.6), sent from inside the server's namespace.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from typing import Any

_ETH_P_ARP = 0x0806
_BROADCAST = b'\xff' * 6
_REQUEST, _REPLY = 1, 2
_ADVERTISEMENT = 136  # ICMPv6 type
_OVERRIDE = 0x20000000  # flag: replace what you have cached
_TARGET_LINK = 2  # option: target link-layer address
_ALL_NODES = 'ff02::1'


def announce(nic: dict[str, Any]) -> None:
    """Send one announcement for each address of a NIC.

    A lost announcement only costs a neighbour's time-out, so an interface
    that went away meanwhile is no error.
    """
    mac = bytes.fromhex(nic['mac'].replace(':', ''))
    for text in nic['addresses']:
        address = ipaddress.ip_interface(text).ip
        with contextlib.suppress(OSError):
            if address.version == 4:
                _arp(nic['name'], mac, address.packed)
            else:
                _neighbour(nic['name'], mac, address)


def arp_frame(mac: bytes, address: bytes, operation: int) -> bytes:
    """Return an ARP frame in which sender and target are ``address``."""
    return (_BROADCAST + mac + struct.pack('!H', _ETH_P_ARP)
            + struct.pack('!HHBBH', 1, 0x0800, 6, 4, operation)
            + mac + address + _BROADCAST + address)


def _arp(interface: str, mac: bytes, address: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, _ETH_P_ARP))
        # Some systems learn from requests only, some from replies only.
        for operation in (_REQUEST, _REPLY):
            raw.send(arp_frame(mac, address, operation))


def _neighbour(interface: str, mac: bytes,
               address: ipaddress.IPv6Address) -> None:
    message = (struct.pack('!BBHI', _ADVERTISEMENT, 0, 0, _OVERRIDE)
               + address.packed + struct.pack('!BB', _TARGET_LINK, 1) + mac)
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW,
                       socket.IPPROTO_ICMPV6) as raw:  # kernel's checksum
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        scope = socket.if_nametoindex(interface)
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, scope)
        raw.bind((str(address), 0, 0, scope))
        raw.sendto(message, (_ALL_NODES, 0, 0, scope))

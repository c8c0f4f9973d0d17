# SPDX-License-Identifier: Apache-2.0
"""Tell the neighbours where an address now is: gratuitous ARP, ND."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import ipaddress
import socket
import struct

_BROADCAST = b'\xff' * 6
_ALL_NODES = ipaddress.IPv6Address('ff02::1').packed
_ALL_NODES_MAC = bytes.fromhex('333300000001')
_ETH_IPV6 = 0x86dd
_ETH_ARP = 0x0806
_ARP_REQUEST = 1
_ARP_REPLY = 2
_NEIGHBOR_ADVERTISEMENT = 136
_OVERRIDE = 0x20000000
_TARGET_LINK_ADDRESS = 2


def send(interface: str, mac: str, addresses: Iterable[str]) -> None:
    """Announce addresses on an interface of the calling thread's namespace.

    :param addresses: 'address/prefix length'
    :raises OSError: the interface is absent or down
    """
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, 0))
        for frame in frames(mac, addresses):
            raw.send(frame)


def frames(mac: str, addresses: Iterable[str]) -> Iterator[bytes]:
    """Yield the Ethernet frames that announce ``addresses`` at ``mac``."""
    source = bytes.fromhex(mac.replace(':', ''))
    for address in addresses:
        ip = ipaddress.ip_interface(address).ip
        if ip.version == 4:
            # Some stacks learn from requests only, some from replies only
            # (RFC 5227, section 3).
            yield _arp(source, ip.packed, _ARP_REQUEST, bytes(6))
            # Linux heeds a reply only when the target is the sender.
            yield _arp(source, ip.packed, _ARP_REPLY, source)
        else:
            yield _advertisement(source, ip.packed)


def _arp(mac: bytes, ip: bytes, operation: int, target: bytes) -> bytes:
    return (_BROADCAST + mac + struct.pack('!HHHBBH', _ETH_ARP, 1, 0x0800,
                                           6, 4, operation)
            + mac + ip + target + ip)


def _advertisement(mac: bytes, ip: bytes) -> bytes:
    """Return an unsolicited neighbour advertisement (RFC 4861, 7.2.6)."""
    option = struct.pack('!BB', _TARGET_LINK_ADDRESS, 1) + mac
    head = struct.pack('!BBHI', _NEIGHBOR_ADVERTISEMENT, 0, 0, _OVERRIDE)
    body = head + ip + option
    pseudo = ip + _ALL_NODES + struct.pack('!II', len(body),
                                           socket.IPPROTO_ICMPV6)
    checksum = struct.pack('!H', _checksum(pseudo + body))
    body = body[:2] + checksum + body[4:]
    header = struct.pack('!IHBB', 6 << 28, len(body),
                         socket.IPPROTO_ICMPV6, 255)
    return (_ALL_NODES_MAC + mac + struct.pack('!H', _ETH_IPV6)
            + header + ip + _ALL_NODES + body)


def _checksum(data: bytes) -> int:
    """Return the Internet checksum of an even number of bytes (RFC 1071)."""
    total = sum(struct.unpack(f'!{len(data) // 2}H', data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff

# SPDX-License-Identifier: Apache-2.0
"""Lists that the kernel gives, read as they come and never held.

A server with CAP_NET_ADMIN can have any number of links, addresses and
routes in its namespace. So its links are never listed: those that lead out
are found from their other ends (:func:`links`), which only the host makes.
Of a link's addresses and routes the kernel picks those that are asked for
(NETLINK_GET_STRICT_CHK, Linux 4.20), and no more than MOST are looked at.

pyroute2 (0.9) gives a list of the whole answer: 20,000 addresses took it
89 MiB and 1.5 s, with its strict_check, too.
"""

from __future__ import annotations

from collections.abc import Generator
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
import fcntl
import itertools
import os
import socket
import struct
import sys

from pyroute2 import IPRoute
from pyroute2 import netns

#: Addresses, and routes of each family, that are looked at of one link. More
#: than a port has; to remove an IPv6 address the kernel walks all routes.
MOST = 128

_SIOCGSKNS = 0x894C  # linux/sockios.h: the namespace of a socket
_SOL_NETLINK, _GET_STRICT_CHK = 270, 12
_TIMEOUT = 5.0  # seconds
_RECEIVE = 1 << 17  # bytes; the kernel makes answers of at most 32 KiB
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3  # NLMSG_*
_GETLINK, _GETADDR, _GETROUTE, _GETNSID = 18, 22, 26, 90
_IFALIAS, _EXT_MASK, _LINK_NETNSID = 20, 29, 37  # IFLA_*
_SKIP_STATS = struct.pack('=I', 1 << 3)  # RTEXT_FILTER_SKIP_STATS
_IFA_ADDRESS, _IFA_FLAGS = 1, 8
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_NETNSA_NSID, _NETNSA_FD = 1, 3
_NESTED = 0xC000  # flags in the type of an attribute

_HEADER = struct.Struct('=IHHII')  # nlmsghdr
_ATTRIBUTE = struct.Struct('=HH')  # nlattr
_IFINFO = struct.Struct('=BxHiII')  # ifinfomsg
_IFADDR = struct.Struct('=BBBBI')  # ifaddrmsg
_RTMSG = struct.Struct('=BBBBBBBBI')  # rtmsg


@dataclasses.dataclass(frozen=True)
class Link:
    """A link of the host.

    :ivar namespace: the kernel's id for that of its other end, where it has
        one in another; -1: none
    """

    index: int
    alias: str
    namespace: int


@dataclasses.dataclass(frozen=True)
class Address:
    """An address of a link, as CIDR; flags of linux/if_addr.h."""

    cidr: str
    scope: int
    flags: int


@dataclasses.dataclass(frozen=True)
class Route:
    """A route; protocol and table are numbers of linux/rtnetlink.h."""

    destination: str
    gateway: str | None
    protocol: int
    table: int


def links(beside: IPRoute) -> Iterator[Link]:
    """Yield all links of a namespace that is the host's.

    :param beside: a socket in it
    """
    for head, told in _dump(
            beside, _GETLINK, _IFINFO,
            _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0),
            {_EXT_MASK: _SKIP_STATS}):
        there = told.get(_LINK_NETNSID)
        yield Link(head[2], _text(told.get(_IFALIAS, b'')),
                   struct.unpack('=i', there)[0] if there else -1)


def addresses(beside: IPRoute, index: int) -> Iterator[Address]:
    """Yield the addresses of a link, MOST at most.

    :param beside: a socket in its namespace
    """
    for head, told in _dump(
            beside, _GETADDR, _IFADDR,
            _IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, index), most=MOST):
        family, length, flags, scope, of = head
        if of == index and _IFA_ADDRESS in told:
            yield Address(
                f'{socket.inet_ntop(family, told[_IFA_ADDRESS])}/{length}',
                scope, _number(told.get(_IFA_FLAGS, b'')) or flags)


def routes(beside: IPRoute, index: int, family: int, table: int,
           protocol: int) -> Iterator[Route]:
    """Yield the routes by way of a link, MOST at most.

    :param beside: a socket in its namespace
    """
    for head, told in _dump(
            beside, _GETROUTE, _RTMSG,
            _RTMSG.pack(family, 0, 0, 0, table, protocol, 0, 0, 0),
            {_RTA_OIF: struct.pack('=I', index)}, MOST):
        length = head[1]
        found = Route(
            f'{socket.inet_ntop(family, _padded(family, told))}/{length}',
            socket.inet_ntop(family, told[_RTA_GATEWAY])
            if _RTA_GATEWAY in told else None, head[5], head[4])
        if _number(told.get(_RTA_OIF, b'')) == index \
                and (found.table, found.protocol) == (table, protocol):
            yield found


def namespace_id(beside: IPRoute, of: IPRoute) -> int:
    """Return the kernel's id for a namespace as seen from another; -1: none.

    :param beside: a socket in the one that sees it
    :param of: a socket in the one that is seen
    """
    with _namespace(of) as fd:
        for _head, told in _ask(
                beside, _GETNSID, _ACK, struct.Struct('=B3x'), bytes(4),
                {_NETNSA_FD: struct.pack('=I', fd)}):
            return int(struct.unpack('=i', told[_NETNSA_NSID])[0])
    return -1


def _padded(family: int, told: Mapping[int, bytes]) -> bytes:
    """Return where a route leads; a default route does not say."""
    size = 4 if family == socket.AF_INET else 16
    return told.get(_RTA_DST, b'').ljust(size, b'\0')


@contextlib.contextmanager
def _namespace(beside: IPRoute) -> Iterator[int]:
    """Have the namespace of a socket, wherever the calling thread is."""
    fd = fcntl.ioctl(beside.fileno(), _SIOCGSKNS)
    try:
        yield fd
    finally:
        os.close(fd)


def _socket(beside: IPRoute) -> socket.socket:
    """Return a socket in the namespace of another; the thread stays."""
    here = os.open('/proc/thread-self/ns/net', os.O_RDONLY | os.O_CLOEXEC)
    try:
        with _namespace(beside) as there:
            netns.setns(there)
        try:
            made = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC,
                socket.NETLINK_ROUTE)
        finally:
            netns.setns(here)
    finally:
        os.close(here)
    made.settimeout(_TIMEOUT)
    # A kernel without it tells of all, within the same bound.
    with contextlib.suppress(OSError):
        made.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)
    return made


def _dump(beside: IPRoute, kind: int, form: struct.Struct, head: bytes,
          attributes: Mapping[int, bytes] | None = None, most: int = 0
          ) -> Iterator[tuple[tuple[int, ...], dict[int, bytes]]]:
    """Yield (numbers of the fixed part, attributes), ``most`` at most."""
    found = _ask(beside, kind, _DUMP, form, head, attributes or {})
    with contextlib.closing(found):
        yield from itertools.islice(found, most or None)


def _ask(beside: IPRoute, kind: int, flags: int, form: struct.Struct,
         head: bytes, attributes: Mapping[int, bytes]
         ) -> Generator[tuple[tuple[int, ...], dict[int, bytes]], None, None]:
    body = head + b''.join(
        _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), name) + value
        for name, value in attributes.items())
    # What is not read of a list goes with its socket: one for each.
    with _socket(beside) as asked:
        asked.send(_HEADER.pack(_HEADER.size + len(body), kind,
                                flags | _REQUEST, 1, 0) + body)
        while True:
            for answer, data in _messages(asked.recv(_RECEIVE)):
                if answer in (_ERROR, _DONE):
                    code = -struct.unpack_from('=i', data)[0] if data else 0
                    if code:
                        raise OSError(code, os.strerror(code))
                    return
                yield form.unpack_from(data), _parse(data[form.size:])


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        length, kind, _flags, _sequence, _port = _HEADER.unpack_from(data, at)
        yield kind, data[at + _HEADER.size:at + length]
        at += _aligned(length)


def _parse(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while len(data) - at >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        found[kind & ~_NESTED] = data[at + _ATTRIBUTE.size:at + length]
        at += max(_aligned(length), _ATTRIBUTE.size)
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _text(value: bytes) -> str:
    return value.rstrip(b'\0').decode(errors='surrogateescape')


def _number(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder)

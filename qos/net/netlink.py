# SPDX-License-Identifier: Apache-2.0
"""Queueing disciplines of the kernel, asked for and set one at a time.

Speaks netlink itself: pyroute2 0.9 has no words for a token bucket's 64-bit
rates, its peak and its burst, can read qdiscs only by listing those of every
interface, and takes 0.5 ms where this takes 0.02.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import errno
import os
import socket
import struct
import sys

from nova_vcloud.qos.net import tbf

#: Major number of the qdiscs that are ours: 'nv'. The kernel picks from
#: 0x8000, people begin at 1.
MAJOR = 0x6E76
HANDLE = MAJOR << 16
KIND = 'tbf'

_ROOT, _INGRESS = 0xFFFFFFFF, 0xFFFFFFF1  # linux/pkt_sched.h: TC_H_*
_INGRESS_HANDLE = 0xFFFF0000
_REQUEST, _ACK, _ECHO, _DUMP = 0x1, 0x4, 0x8, 0x300
_EXCLUSIVE, _CREATE = 0x200, 0x400
_ERROR, _DONE = 2, 3  # NLMSG_*
_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWQDISC, _DELQDISC, _GETQDISC = 36, 37, 38
_NEWTFILTER, _DELTFILTER, _GETTFILTER = 44, 45, 46
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_IFNAME, _MTU, _LINK, _LINKINFO, _IFALIAS, _AF_SPEC = 3, 4, 5, 18, 20, 26
_INFO_KIND, _ADDR_GEN_MODE, _ADDR_GEN_NONE = 1, 8, b'\1'
_UP = 1
_TCA_KIND, _TCA_OPTIONS = 1, 2
_U32_DIVISOR, _U32_SEL, _U32_ACT, _MIRRED_PARMS = 4, 5, 7, 2
_STOLEN, _EGRESS_REDIRECT = 4, 1  # what becomes of a packet
_NESTED = 0xC000  # flags in the type of an attribute

_HEADER = struct.Struct('=IHHII')  # nlmsghdr
_ATTRIBUTE = struct.Struct('=HH')  # nlattr
_IFINFO = struct.Struct('=BxHiII')  # ifinfomsg
_TCMSG = struct.Struct('=BxxxiIII')  # tcmsg
_REDIRECT = struct.Struct('=IIiiiiI')  # tc_mirred
#: tc_u32_sel of one tc_u32_key that is true of every packet, and is the end.
_EVERYTHING = struct.pack('=BBBxHHhhI', 1, 0, 1, 0, 0, 0, 0, 0) + bytes(16)
#: Our number as the priority of our filter, and all protocols.
_FILTER = MAJOR << 16 | socket.htons(3)
_EXT_ACK_AT = 4 + _HEADER.size  # error number, header of the request

_TIMEOUT = 5.0  # seconds


class Refused(OSError):
    """The kernel's answer, in its own words where it has some."""


@dataclasses.dataclass(frozen=True)
class Link:
    """An interface.

    :ivar peer: index of the other end of a veth, in its own namespace
    """

    index: int
    name: str
    mtu: int
    peer: int
    alias: str


@dataclasses.dataclass(frozen=True)
class Qdisc:
    """A root qdisc.

    :ivar bucket: its parameters, when it is ours
    """

    handle: int
    kind: str
    bucket: tbf.Bucket | None

    @property
    def foreign(self) -> bool:
        """Tell whether somebody else put it there; handle 0 is default."""
        return self.handle != 0 and self.bucket is None

    def __str__(self) -> str:
        return f'{self.kind} {self.handle >> 16:x}:'


class Socket:
    """A netlink socket in the namespace of the thread that makes it.

    It stays there, wherever the thread goes; for one thread.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC,
            socket.NETLINK_ROUTE)
        for option in (_CAP_ACK, _EXT_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.settimeout(_TIMEOUT)
        self._sequence = 0

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._socket.close()

    def link(self, *, name: str = '', index: int = 0) -> Link | None:
        """Return an interface by its name or its index."""
        named = {_IFNAME: name.encode() + b'\0'} if name else {}
        try:
            found, = self._ask(
                _GETLINK, 0, _IFINFO.pack(0, 0, index, 0, 0), named)
        except Refused as e:
            if e.errno == errno.ENODEV:
                return None
            raise
        told = _parse(found[_IFINFO.size:])
        return Link(_IFINFO.unpack_from(found)[2], _text(told[_IFNAME]),
                    _number(told[_MTU]), _number(told.get(_LINK, b'')),
                    _text(told.get(_IFALIAS, b'')))

    def root(self, index: int) -> Qdisc:
        """Return the root qdisc of an interface."""
        # Without the echo the kernel tells only those who listen to all.
        answer = self._ask(_GETQDISC, _ECHO, _tcmsg(index))
        if not answer:
            return Qdisc(0, 'noop', None)  # was never up
        found, = answer
        handle = _TCMSG.unpack_from(found)[2]
        told = _parse(found[_TCMSG.size:])
        kind = _text(told[_TCA_KIND])
        return Qdisc(handle, kind, tbf.decode(_parse(told[_TCA_OPTIONS]))
                     if (handle, kind) == (HANDLE, KIND) else None)

    def shape(self, index: int, bucket: tbf.Bucket) -> None:
        """Make our token bucket the root qdisc, or change it in place.

        The kernel refuses when there is a root qdisc with another handle,
        as this request does not say that it may be replaced.
        """
        self._ask(_NEWQDISC, _CREATE, _tcmsg(index, HANDLE), {
            _TCA_KIND: KIND.encode() + b'\0',
            _TCA_OPTIONS: _pack(tbf.encode(bucket))})

    def unshape(self, index: int) -> None:
        """Remove our root qdisc, with what is in it.

        The kernel refuses when the root qdisc has another handle.
        """
        self._ask(_DELQDISC, 0, _tcmsg(index, HANDLE))

    def add_ifb(self, name: str, alias: str, mtu: int) -> None:
        """Make an intermediate functional block, and set it up.

        What is redirected to it passes its root qdisc and goes on as if
        nothing had been.
        """
        named = {_IFNAME: name.encode() + b'\0'}
        down, up = (_IFINFO.pack(0, 0, 0, state, _UP) for state in (0, _UP))
        self._ask(_NEWLINK, _CREATE | _EXCLUSIVE, down, {
            **named, _MTU: struct.pack('=I', mtu),
            _LINKINFO: _pack({_INFO_KIND: b'ifb'})})
        # What does not exist yet takes no alias.
        self._ask(_NEWLINK, 0, down, {**named, _IFALIAS: alias.encode()})
        try:
            # Nobody's neighbour: no IPv6 address, no traffic of its own.
            self._ask(_NEWLINK, 0, down, {**named, _AF_SPEC: _pack({
                socket.AF_INET6: _pack({_ADDR_GEN_MODE: _ADDR_GEN_NONE})})})
        except Refused as e:
            if e.errno != errno.EAFNOSUPPORT:
                raise
        self._ask(_NEWLINK, 0, up, named)

    def delete_link(self, index: int) -> None:
        """Remove an interface."""
        self._ask(_DELLINK, 0, _IFINFO.pack(0, 0, index, 0, 0))

    def ingress(self, index: int) -> str:
        """Return the kind of the qdisc for what comes in, '' for none."""
        try:
            answer = self._ask(_GETQDISC, _ECHO, _tcmsg(
                index, parent=_INGRESS))
        except Refused as e:
            if e.errno == errno.ENOENT:
                return ''
            raise
        # Where there was one, the kernel has an answer that it does not tell.
        return _text(_parse(answer[0][_TCMSG.size:])[_TCA_KIND]) \
            if answer else ''

    def redirects(self, index: int) -> list[int | None]:
        """Return where the filters of what comes in send it.

        :returns: an index of an interface for each filter that is ours,
            None for each that is not
        """
        found = [_parse(answer[_TCMSG.size:]) | {
            0: answer[:_TCMSG.size]} for answer in self._ask(
                _GETTFILTER, _DUMP, _tcmsg(index, parent=_INGRESS_HANDLE))]
        return [_target(each) for each in found if not _is_table(each)]

    def redirect(self, index: int, target: int) -> None:
        """Send all that comes in to ``target``; nothing else did so yet."""
        if not self.ingress(index):
            self._ask(_NEWQDISC, _CREATE | _EXCLUSIVE,
                      _tcmsg(index, _INGRESS_HANDLE, _INGRESS),
                      {_TCA_KIND: b'ingress\0'})
        action = _pack({_TCA_KIND: b'mirred\0', _TCA_OPTIONS: _pack({
            _MIRRED_PARMS: _REDIRECT.pack(
                0, 0, _STOLEN, 0, 0, _EGRESS_REDIRECT, target)})})
        self._ask(_NEWTFILTER, _CREATE | _EXCLUSIVE,
                  _tcmsg(index, 0, _INGRESS_HANDLE, _FILTER),
                  {_TCA_KIND: b'u32\0', _TCA_OPTIONS: _pack({
                      _U32_SEL: _EVERYTHING, _U32_ACT: _pack({1: action})})})

    def undirect(self, index: int) -> None:
        """Remove our filter, and the qdisc when nobody else uses it."""
        self._ask(_DELTFILTER, 0,
                  _tcmsg(index, 0, _INGRESS_HANDLE, _FILTER))
        if not self.redirects(index) and self.ingress(index) == 'ingress':
            self._ask(_DELQDISC, 0, _tcmsg(index, _INGRESS_HANDLE, _INGRESS))

    def _ask(self, kind: int, flags: int, head: bytes,
             attributes: Mapping[int, bytes] | None = None) -> list[bytes]:
        """Return the answers to a request, without their headers."""
        self._sequence += 1
        body = head + _pack(attributes or {})
        self._socket.send(_HEADER.pack(
            _HEADER.size + len(body), kind, flags | _REQUEST | _ACK,
            self._sequence, 0) + body)
        answers: list[bytes] = []
        while True:
            for answer, sequence, data in _messages(
                    self._socket.recv(1 << 17)):
                if sequence != self._sequence:
                    continue
                if answer in (_ERROR, _DONE):
                    _check(data)
                    return answers
                answers.append(data)


def _is_table(told: Mapping[int, bytes]) -> bool:
    """Tell whether this is not a filter, but what u32 needs for one."""
    options = _parse(told.get(_TCA_OPTIONS, b''))
    return _text(told[_TCA_KIND]) == 'u32' and (
        not options or _U32_DIVISOR in options)


def _target(told: Mapping[int, bytes]) -> int | None:
    """Return where a filter redirects to; None when it is not ours."""
    if _TCMSG.unpack(told[0])[4] >> 16 != MAJOR:
        return None
    options = _parse(told.get(_TCA_OPTIONS, b''))
    action = _parse(_parse(options.get(_U32_ACT, b'')).get(1, b''))
    parms = _parse(action.get(_TCA_OPTIONS, b'')).get(_MIRRED_PARMS)
    return _REDIRECT.unpack(parms)[-1] if parms else 0


def _check(data: bytes) -> None:
    code = -struct.unpack_from('=i', data)[0]
    if code:
        said = _text(_parse(data[_EXT_ACK_AT:]).get(1, b''))
        raise Refused(code, said or os.strerror(code))


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (type, sequence number, body)."""
    while data:
        length, kind, _flags, sequence, _port = _HEADER.unpack_from(data)
        yield kind, sequence, data[_HEADER.size:length]
        data = data[_aligned(length):]


def _tcmsg(index: int, handle: int = 0, parent: int = _ROOT,
           info: int = 0) -> bytes:
    return _TCMSG.pack(0, index, handle, parent, info)


def _pack(attributes: Mapping[int, bytes]) -> bytes:
    return b''.join(
        _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value
        + bytes(_aligned(len(value)) - len(value))
        for kind, value in attributes.items())


def _parse(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        found[kind & ~_NESTED] = data[_ATTRIBUTE.size:length]
        data = data[_aligned(length):]
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _text(value: bytes) -> str:
    return value.rstrip(b'\0').decode()


def _number(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder)

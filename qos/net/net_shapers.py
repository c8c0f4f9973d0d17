# SPDX-License-Identifier: Apache-2.0
"""Where in the kernel token buckets are put, and how they get there.

What a guest receives leaves the tap, the host's end of its link: the bucket
is the tap's root qdisc. What it sends comes in at the tap, is redirected to
an interface of our own (IFB), and the bucket is the root qdisc of that. On a
kernel without IFB the bucket is the root qdisc of the guest's own end, which
packet(7) sockets with PACKET_QDISC_BYPASS skip: it holds for guests without
CAP_NET_RAW only.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
import contextlib
import dataclasses

from nova_vcloud import exception
from nova_vcloud import netns
from nova_vcloud.qos.net import netlink
from nova_vcloud.qos.net import tbf

NETNS, IFB = 'netns', 'ifb'  # where what a guest sends is limited
_LOOPBACK = 1  # index of lo, in every namespace
_IFNAMSIZ = 15


class Shaper(abc.ABC):
    """Limits one direction of a NIC."""

    @abc.abstractmethod
    def held(self) -> tbf.Shape:
        """Return what is in force."""

    @abc.abstractmethod
    def hold(self, wanted: tbf.Shape) -> None:
        """Put ``wanted`` in force, in place of what is.

        :raises LimitNotEnforced: it cannot be, or somebody else is there
        """

    @abc.abstractmethod
    def free(self) -> None:
        """Remove what is ours."""

    def change(self, values: Mapping[str, int | None]) -> None:
        """Change what is named; without average there is no limit.

        :raises LimitNotEnforced: it cannot be, or somebody else is there
        """
        wanted = dataclasses.replace(self.held(), **values)
        if wanted.average is not None:
            self.hold(wanted)
        elif values.get('peak') or values.get('burst'):
            raise exception.LimitNotEnforced(
                'a peak or a burst has no meaning without an average')
        else:
            self.free()


@dataclasses.dataclass(frozen=True)
class QdiscShaper(Shaper):
    """Limits what leaves an interface, by its root qdisc."""

    socket: netlink.Socket
    link: netlink.Link

    def held(self) -> tbf.Shape:
        """Return what is in force."""
        found = self.socket.root(self.link.index).bucket
        return tbf.shape(found) if found else tbf.Shape()

    def hold(self, wanted: tbf.Shape) -> None:
        """Put ``wanted`` in force, in place of what is.

        :raises LimitNotEnforced: it cannot be, or somebody else is there
        """
        found = self.socket.root(self.link.index)
        if found.foreign:
            raise exception.LimitNotEnforced(
                f'{self.link.name} has a qdisc that is not ours, {found}; '
                f'remove it (tc qdisc del dev {self.link.name} root) or '
                'take the limit away')
        new = tbf.bucket(wanted, self.link.mtu)
        if found.bucket and not new.holds(found.bucket.largest):
            # What waits might never get its turn (tbf_dequeue), and with it
            # whatever comes later.
            self.socket.unshape(self.link.index)
        self.socket.shape(self.link.index, new)

    def free(self) -> None:
        """Remove our qdisc."""
        if self.socket.root(self.link.index).bucket:
            self.socket.unshape(self.link.index)


@dataclasses.dataclass(frozen=True)
class IfbShaper(Shaper):
    """Limits what comes in at a tap, by an IFB that it is redirected to.

    :ivar name: of the IFB
    :ivar alias: that marks the IFB as ours
    """

    socket: netlink.Socket
    name: str
    alias: str
    tap: netlink.Link | None

    def _ifb(self) -> QdiscShaper | None:
        """Return the limit on the IFB, if there is one that is ours."""
        link = self.socket.link(name=self.name)
        # Without alias its making was cut short.
        return QdiscShaper(self.socket, link) \
            if link and link.alias in (self.alias, '') else None

    def _make_ifb(self, tap: netlink.Link) -> QdiscShaper:
        if not self._ifb():
            if self.socket.link(name=self.name):
                raise exception.LimitNotEnforced(
                    f'there is a {self.name} that is not ours; remove it')
            self.socket.add_ifb(self.name, self.alias, tap.mtu)
        ifb = self._ifb()
        if ifb is None:
            raise exception.LimitNotEnforced(f'{self.name} did not stay')
        return ifb

    def _redirects(self) -> list[int | None]:
        return self.socket.redirects(self.tap.index) if self.tap else []

    def held(self) -> tbf.Shape:
        """Return what is in force."""
        ifb = self._ifb()
        if ifb is None or ifb.link.index not in self._redirects():
            return tbf.Shape()
        return ifb.held()

    def hold(self, wanted: tbf.Shape) -> None:
        """Put ``wanted`` in force, in place of what is.

        :raises LimitNotEnforced: it cannot be, or somebody else is there
        """
        if self.tap is None:
            raise exception.LimitNotEnforced('there is no tap')
        tbf.bucket(wanted, self.tap.mtu)
        targets = self._redirects()
        ours = [target for target in targets if target is not None]
        kind = self.socket.ingress(self.tap.index)
        # An empty one does nothing; it may be what is left of ours.
        if not ours and (targets or kind not in ('', 'ingress')):
            raise exception.LimitNotEnforced(
                f'{self.tap.name} has an {kind} qdisc that is not ours; '
                f'remove it (tc qdisc del dev {self.tap.name} {kind}) or '
                'take the limit away')
        ifb = self._make_ifb(self.tap)
        ifb.hold(wanted)
        if ours != [ifb.link.index]:
            if ours:
                # To an interface that is gone: nothing passes until here.
                self.socket.undirect(self.tap.index)
            self.socket.redirect(self.tap.index, ifb.link.index)

    def free(self) -> None:
        """Remove our redirection, then the IFB."""
        if self.tap and any(target is not None
                            for target in self._redirects()):
            self.socket.undirect(self.tap.index)
        ifb = self._ifb()
        if ifb is not None:
            self.socket.delete_link(ifb.link.index)


class NamespaceSockets:
    """Sockets in network namespaces; moves the calling thread.

    A NIC is a guest's Link as a dictionary, with ``alias``, the mark of its
    tap, and ``outbound``, NETNS or IFB.
    """

    def __init__(self) -> None:
        self._sockets: dict[str, netlink.Socket | None] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> NamespaceSockets:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def shapers(self, nic: Mapping[str, str]) -> dict[str, Shaper]:
        """Return {direction: what limits it}, as far as it is there."""
        fabric = self._socket(nic['fabric'])
        tap = self._tap(fabric, nic)
        if fabric is None or tap is None:
            return {}
        out = self._ifb(fabric, tap, nic) \
            if nic['outbound'] == IFB else self._inside(tap, nic)
        return {'in': QdiscShaper(fabric, tap),
                **({'out': out} if out else {})}

    def remove_other(self, nic: Mapping[str, str]) -> None:
        """Remove what limits in the way that is not chosen (any more).

        After the one that is chosen is in force: at no moment is there none.
        """
        fabric = self._socket(nic['fabric'])
        tap = self._tap(fabric, nic)
        if fabric and tap:
            other = self._inside(tap, nic) if nic['outbound'] == IFB \
                else self._ifb(fabric, tap, nic)
            if other:
                other.free()

    def remove_ifb(self, nic: Mapping[str, str]) -> None:
        """Remove what does not go with the tap."""
        fabric = self._socket(nic['fabric'])
        if fabric:
            self._ifb(fabric, self._tap(fabric, nic), nic).free()

    @staticmethod
    def _tap(fabric: netlink.Socket | None,
             nic: Mapping[str, str]) -> netlink.Link | None:
        tap = fabric.link(name=nic['tap']) if fabric else None
        return tap if tap and tap.alias == nic['alias'] else None

    def _inside(self, tap: netlink.Link,
                nic: Mapping[str, str]) -> QdiscShaper | None:
        """Return the guest's end of the link."""
        inside = self._socket(nic['namespace']) if nic['namespace'] else None
        # Not by its name, which another link had at some time.
        peer = inside.link(index=tap.peer) if inside and tap.peer else None
        if inside and peer and peer.peer == tap.index:
            return QdiscShaper(inside, peer)
        return None

    @staticmethod
    def _ifb(fabric: netlink.Socket, tap: netlink.Link | None,
             nic: Mapping[str, str]) -> IfbShaper:
        return IfbShaper(fabric, ifb_name(nic['tap']), nic['alias'], tap)

    def _socket(self, namespace: str) -> netlink.Socket | None:
        if namespace not in self._sockets:
            try:
                netns.enter(namespace)
            except FileNotFoundError:
                self._sockets[namespace] = None
            else:
                self._sockets[namespace] = self._stack.enter_context(
                    netlink.Socket())
        return self._sockets[namespace]


def ifb_name(tap: str) -> str:
    """Return the name of the IFB of a tap."""
    return f'ifb{tap.removeprefix("tap")}'[:_IFNAMSIZ]


def try_out(outbound: str) -> str:
    """Return why the kernel cannot limit in a way; '' when it can.

    Leaves the calling thread in a new namespace.
    """
    wanted = tbf.Shape(10**10, 2 * 10**10, 2**25)  # beyond 32 bits
    try:
        netns.isolate()
        with netlink.Socket() as socket:
            lo = netlink.Link(_LOOPBACK, 'lo', 65536, 0, '')
            shaper: Shaper = IfbShaper(socket, 'ifb', '', lo) \
                if outbound == IFB else QdiscShaper(socket, lo)
            shaper.hold(wanted)
            held = shaper.held()
    except OSError as e:
        return f'no {netlink.KIND} by way of {outbound} here: {e.strerror}'
    if (held.average, held.peak) != (wanted.average, wanted.peak):
        return f'the kernel made {held} of {wanted}'
    return ''

# SPDX-License-Identifier: Apache-2.0
"""Where in the kernel token buckets are put, and how they get there.

What a guest receives leaves the tap, the host's end of its link: the bucket
is the tap's root qdisc. What it sends leaves its own end, and the bucket is
that one's root qdisc, in the guest's namespace; or it comes in at the tap,
is sent through an interface of our own (IFB) and the bucket is there.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
import contextlib
import dataclasses

from nova_vcloud import exception
from nova_vcloud import netns
from nova_vcloud.qos import qdiscs
from nova_vcloud.qos import shaping

NETNS, IFB = 'netns', 'ifb'  # where what a guest sends is limited
_LOOPBACK = 1  # index of lo, in every namespace
_IFNAMSIZ = 15


class Place(abc.ABC):
    """Limits one direction of a NIC."""

    @abc.abstractmethod
    def held(self) -> shaping.Shape:
        """Return what is in force."""

    @abc.abstractmethod
    def hold(self, wanted: shaping.Shape) -> None:
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
class End(Place):
    """What leaves an interface, by its root qdisc."""

    socket: qdiscs.Socket
    link: qdiscs.Link

    def held(self) -> shaping.Shape:
        """Return what is in force."""
        found = self.socket.root(self.link.index).bucket
        return shaping.shape(found) if found else shaping.Shape()

    def hold(self, wanted: shaping.Shape) -> None:
        """Put ``wanted`` in force, in place of what is.

        :raises LimitNotEnforced: it cannot be, or somebody else is there
        """
        found = self.socket.root(self.link.index)
        if found.foreign:
            raise exception.LimitNotEnforced(
                f'{self.link.name} has a qdisc that is not ours, {found}; '
                f'remove it (tc qdisc del dev {self.link.name} root) or '
                'take the limit away')
        new = shaping.bucket(wanted, self.link.mtu)
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
class Detour(Place):
    """What comes in at a tap, by an interface that it is sent through."""

    socket: qdiscs.Socket
    name: str
    alias: str
    tap: qdiscs.Link | None

    def _found(self) -> End | None:
        """Return the interface that is ours."""
        link = self.socket.link(name=self.name)
        # Without alias its making was cut short.
        return End(self.socket, link) \
            if link and link.alias in (self.alias, '') else None

    def _made(self, tap: qdiscs.Link) -> End:
        if not self._found():
            if self.socket.link(name=self.name):
                raise exception.LimitNotEnforced(
                    f'there is a {self.name} that is not ours; remove it')
            self.socket.add_ifb(self.name, self.alias, tap.mtu)
        end = self._found()
        if end is None:
            raise exception.LimitNotEnforced(f'{self.name} did not stay')
        return end

    def _targets(self) -> list[int | None]:
        return self.socket.redirects(self.tap.index) if self.tap else []

    def held(self) -> shaping.Shape:
        """Return what is in force."""
        end = self._found()
        if end is None or end.link.index not in self._targets():
            return shaping.Shape()
        return end.held()

    def hold(self, wanted: shaping.Shape) -> None:
        """Put ``wanted`` in force, in place of what is.

        :raises LimitNotEnforced: it cannot be, or somebody else is there
        """
        if self.tap is None:
            raise exception.LimitNotEnforced('there is no tap')
        shaping.bucket(wanted, self.tap.mtu)
        targets = self._targets()
        ours = [target for target in targets if target is not None]
        kind = self.socket.ingress(self.tap.index)
        # An empty one does nothing; it may be what is left of ours.
        if not ours and (targets or kind not in ('', 'ingress')):
            raise exception.LimitNotEnforced(
                f'{self.tap.name} has an {kind} qdisc that is not ours; '
                f'remove it (tc qdisc del dev {self.tap.name} {kind}) or '
                'take the limit away')
        end = self._made(self.tap)
        end.hold(wanted)
        if ours != [end.link.index]:
            if ours:
                self.socket.undirect(self.tap.index)
            self.socket.redirect(self.tap.index, end.link.index)

    def free(self) -> None:
        """Remove our redirection, then the interface."""
        if self.tap and any(target is not None
                            for target in self._targets()):
            self.socket.undirect(self.tap.index)
        end = self._found()
        if end is not None:
            self.socket.delete_link(end.link.index)


class Rooms:
    """Sockets in network namespaces; moves the calling thread.

    A place is a Link as a dictionary, with ``alias``, the mark of its tap,
    and ``outbound``, NETNS or IFB.
    """

    def __init__(self) -> None:
        self._sockets: dict[str, qdiscs.Socket | None] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Rooms:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def buckets(self, place: Mapping[str, str]) -> dict[str, Place]:
        """Return {direction: where it is limited}, as far as there."""
        fabric = self._socket(place['fabric'])
        tap = self._tap(fabric, place)
        if fabric is None or tap is None:
            return {}
        out = self._detour(fabric, tap, place) \
            if place['outbound'] == IFB else self._inside(tap, place)
        return {'in': End(fabric, tap), **({'out': out} if out else {})}

    def tidy(self, place: Mapping[str, str]) -> None:
        """Remove what limits in the way that is not chosen (any more)."""
        fabric = self._socket(place['fabric'])
        tap = self._tap(fabric, place)
        if fabric and tap:
            other = self._inside(tap, place) \
                if place['outbound'] == IFB \
                else self._detour(fabric, tap, place)
            if other:
                other.free()

    def forget(self, place: Mapping[str, str]) -> None:
        """Remove what does not go with the tap."""
        fabric = self._socket(place['fabric'])
        if fabric:
            self._detour(fabric, self._tap(fabric, place), place).free()

    @staticmethod
    def _tap(fabric: qdiscs.Socket | None,
             place: Mapping[str, str]) -> qdiscs.Link | None:
        tap = fabric.link(name=place['tap']) if fabric else None
        return tap if tap and tap.alias == place['alias'] else None

    def _inside(self, tap: qdiscs.Link,
                place: Mapping[str, str]) -> End | None:
        """Return the guest's end of the link."""
        inside = self._socket(place['namespace']) \
            if place['namespace'] else None
        # Not by its name, which another link had at some time.
        peer = inside.link(index=tap.peer) if inside and tap.peer else None
        if inside and peer and peer.peer == tap.index:
            return End(inside, peer)
        return None

    @staticmethod
    def _detour(fabric: qdiscs.Socket, tap: qdiscs.Link | None,
                place: Mapping[str, str]) -> Detour:
        name = f'ifb{place["tap"].removeprefix("tap")}'[:_IFNAMSIZ]
        return Detour(fabric, name, place['alias'], tap)

    def _socket(self, namespace: str) -> qdiscs.Socket | None:
        if namespace not in self._sockets:
            try:
                netns.enter(namespace)
            except FileNotFoundError:
                self._sockets[namespace] = None
            else:
                self._sockets[namespace] = self._stack.enter_context(
                    qdiscs.Socket())
        return self._sockets[namespace]


def try_out(outbound: str) -> str:
    """Return why the kernel cannot limit in a way; '' when it can.

    Leaves the calling thread in a new namespace.
    """
    wanted = shaping.Shape(10**10, 2 * 10**10, 2**25)  # beyond 32 bits
    try:
        netns.isolate()
        with qdiscs.Socket() as socket:
            lo = qdiscs.Link(_LOOPBACK, 'lo', 65536, 0, '')
            place: Place = Detour(socket, 'ifb', '', lo) \
                if outbound == IFB else End(socket, lo)
            place.hold(wanted)
            held = place.held()
    except OSError as e:
        return f'no {qdiscs.KIND} by way of {outbound} here: {e.strerror}'
    if (held.average, held.peak) != (wanted.average, wanted.peak):
        return f'the kernel made {held} of {wanted}'
    return ''

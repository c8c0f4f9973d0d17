# SPDX-License-Identifier: Apache-2.0
"""Speeds of guests' NICs, by token buckets in the kernel.

What a guest receives leaves the tap, the host's end of its link: the bucket
is the tap's root qdisc. What it sends leaves its own end, and the bucket is
that one's root qdisc, in the guest's namespace.

Only taps with our mark are touched, and of their qdiscs only those with our
number (:data:`.qdiscs.MAJOR`).
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses

from nova_vcloud import exception
from nova_vcloud import netns
from nova_vcloud import privsep
from nova_vcloud.guest import Guest
from nova_vcloud.guest import Link
from nova_vcloud.qos import limits
from nova_vcloud.qos import qdiscs
from nova_vcloud.qos import shaping
from nova_vcloud.qos.backends import base

WAYS = ('in', 'out')
NAMES = ('average', 'peak', 'burst')
KINDS = frozenset(f'net.{way}_{name}' for way in WAYS for name in NAMES)
LOOPBACK = 1  # index of lo, in every namespace
TOLERANCE = 0.01  # of a burst: the kernel stores how long it lasts

#: {way: {name: number or None}}
Values = Mapping[str, Mapping[str, int | None]]


class TcBackend(base.Backend):
    """Token buckets on both ends of guests' links."""

    name = 'tc'

    def __init__(self) -> None:
        self._support: base.Support | None = None

    def support(self) -> base.Support:
        """Return what holds on a link made for the purpose."""
        if self._support is None:
            reason = try_out()
            self._support = base.Support(
                KINDS if not reason else frozenset(),
                dict.fromkeys(KINDS, reason) if reason else {})
        return self._support

    def read(self, guest: Guest,
             keys: Iterable[limits.Key]) -> limits.Limits:
        """Return what the kernel says; a burst we chose is UNLIMITED."""
        ours = [key for key in keys if key.kind in KINDS]
        ports = {key.device for key in ours}
        with _errors():
            found = inspect([_place(guest, link) for link in guest.links
                             if link.port_id in ports])
        values: dict[limits.Key, limits.Value] = {}
        for key in ours:
            way, _, name = key.field.partition('_')
            held = found.get(key.device, {}).get(way)
            if held is not None:
                value = held[name]
                values[key] = limits.UNLIMITED if value is None else value
        return limits.Limits(values)

    def apply(self, guest: Guest, changes: Sequence[base.Change]) -> None:
        """Set what is changed of each direction with one request.

        Without an average there is no limit, whatever the peak and burst.
        """
        links = {link.port_id: link for link in guest.links}
        wanted: dict[str, dict[str, dict[str, int | None]]] = {}
        for change in changes:
            way, _, name = change.key.field.partition('_')
            if change.key.device not in links:
                raise exception.LimitNotEnforced(
                    f'{change.key}: the server has no such port')
            wanted.setdefault(change.key.device, {}).setdefault(way, {})[
                name] = change.new if isinstance(change.new, int) else None
        with _errors():
            configure([(_place(guest, links[port]), values)
                       for port, values in wanted.items()])

    def matches(self, key: limits.Key, wanted: limits.Value,
                found: limits.Value) -> bool:
        """Allow for bursts stored as times, and peak = average + 1."""
        if not isinstance(wanted, int) or not isinstance(found, int):
            return wanted == found
        slack = {'burst': wanted * TOLERANCE, 'peak': 1, 'average': 0}
        return abs(wanted - found) <= slack[key.field.partition('_')[2]]


def _place(guest: Guest, link: Link) -> dict[str, str]:
    """Return a link and its mark as plain values."""
    return {**dataclasses.asdict(link),
            'alias': f'nova:{guest.uuid}:{link.port_id}'}


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise exception.LimitNotEnforced(
            f'the kernel refused: {e.strerror or e}') from e


@privsep.net.entrypoint
@netns.own_thread
def inspect(places: Iterable[Mapping[str, str]]
            ) -> dict[str, dict[str, dict[str, int | None]]]:
    """Return {port id: {way: {name: number or None}}}.

    A port or way that is not there now is left out.
    """
    with Rooms() as rooms:
        return {place['port_id']: {
            way: dataclasses.asdict(_held(end))
            for way, end in rooms.ends(place).items()} for place in places}


@privsep.net.entrypoint
@netns.own_thread
def configure(wanted: Iterable[tuple[Mapping[str, str], Values]]) -> None:
    """Change what is named of the directions of ports.

    :raises LimitNotEnforced: a port is not there, or the limit cannot be
    """
    with Rooms() as rooms:
        for place, ways in wanted:
            ends = rooms.ends(place)
            for way, values in ways.items():
                if way not in ends:
                    raise exception.LimitNotEnforced(
                        f'net.{place["port_id"]}.{way}: the server has no '
                        f'such NIC now ({place["tap"]} in '
                        f'{place["fabric"] or "the host"})')
                try:
                    _change(ends[way], values)
                except exception.LimitNotEnforced as e:
                    raise exception.LimitNotEnforced(
                        f'net.{place["port_id"]}.{way}: {e}') from e


@dataclasses.dataclass(frozen=True)
class End:
    """An interface whose root qdisc limits one direction."""

    socket: qdiscs.Socket
    link: qdiscs.Link

    def __str__(self) -> str:
        return self.link.name


class Rooms:
    """Sockets in network namespaces; moves the calling thread."""

    def __init__(self) -> None:
        self._sockets: dict[str, qdiscs.Socket | None] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Rooms:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def ends(self, place: Mapping[str, str]) -> dict[str, End]:
        """Return {way: where it is limited} of a port, as far as there."""
        fabric = self._socket(place['fabric'])
        tap = fabric.link(name=place['tap']) if fabric else None
        if fabric is None or tap is None or tap.alias != place['alias']:
            return {}
        found = {'in': End(fabric, tap)}
        inside = self._socket(place['namespace']) \
            if place['namespace'] else None
        # Not by its name, which another link had at some time.
        peer = inside.link(index=tap.peer) if inside else None
        if inside and peer and peer.peer == tap.index:
            found['out'] = End(inside, peer)
        return found

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


def _held(end: End) -> shaping.Shape:
    found = end.socket.root(end.link.index).bucket
    return shaping.shape(found) if found else shaping.Shape()


def _change(end: End, values: Mapping[str, int | None]) -> None:
    found = end.socket.root(end.link.index)
    old = found.bucket
    wanted = dataclasses.replace(
        shaping.shape(old) if old else shaping.Shape(), **values)
    if wanted.average is None:
        if values.get('peak') or values.get('burst'):
            raise exception.LimitNotEnforced(
                'a peak or a burst has no meaning without an average')
        if old:
            end.socket.unshape(end.link.index)
        return
    if found.foreign:
        raise exception.LimitNotEnforced(
            f'{end} has a qdisc that is not ours, {found}; remove it (tc '
            f'qdisc del dev {end} root) or take the limit away')
    new = shaping.bucket(wanted, end.link.mtu)
    if old and not new.holds(old.largest):
        # What waits might never get its turn (tbf_dequeue), and with it
        # whatever comes later.
        end.socket.unshape(end.link.index)
    end.socket.shape(end.link.index, new)


@privsep.net.entrypoint
@netns.own_thread
def try_out() -> str:
    """Return why the kernel cannot do what we need; '' when it can.

    In a namespace without name that ends with this call.
    """
    wanted = shaping.Shape(10**10, 2 * 10**10, 2**25)  # beyond 32 bits
    try:
        netns.isolate()
        with qdiscs.Socket() as socket:
            lo = End(socket, qdiscs.Link(LOOPBACK, 'lo', 65536, 0, ''))
            _change(lo, dataclasses.asdict(wanted))
            held = _held(lo)
    except OSError as e:
        return f'the kernel cannot do {qdiscs.KIND}: {e.strerror}'
    if (held.average, held.peak) != (wanted.average, wanted.peak):
        return f'the kernel made {held} of {wanted}'
    return ''

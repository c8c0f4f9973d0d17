# SPDX-License-Identifier: Apache-2.0
"""Speeds of guests' NICs, by token buckets in the kernel.

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
from nova_vcloud.qos.backends import base
from nova_vcloud.qos.net import net_shapers
from nova_vcloud.qos.net.net_shapers import IFB
from nova_vcloud.qos.net.net_shapers import NETNS

WAYS = ('in', 'out')
NAMES = ('average', 'peak', 'burst')
KINDS = frozenset(f'net.{way}_{name}' for way in WAYS for name in NAMES)
TOLERANCE = 0.01  # of a burst: the kernel stores how long it lasts

#: {way: {name: number or None}}
Values = Mapping[str, Mapping[str, int | None]]


class TcBackend(base.Backend):
    """Token buckets on guests' links.

    :param outbound: where what guests send is limited, IFB or NETNS; None
        chooses by what the kernel can. Guests without a namespace have IFB.
    :param raw_sockets: whether a guest may have CAP_NET_RAW or
        CAP_NET_ADMIN, and so get by what is limited in its own namespace
    """

    name = 'tc'

    def __init__(self, outbound: str | None = None,
                 raw_sockets: bool = True) -> None:
        self._raw_sockets = raw_sockets
        self._chosen = outbound
        self._support: base.Support | None = None
        self._outbound = outbound or IFB

    def support(self) -> base.Support:
        """Return what holds on a link made for the purpose."""
        if self._support is None:
            self._outbound, self._support = choose(
                {where: try_out(where) for where in (NETNS, IFB)},
                self._raw_sockets, self._chosen)
        return self._support

    def read(self, guest: Guest,
             keys: Iterable[limits.Key]) -> limits.Limits:
        """Return what the kernel says; a burst we chose is UNLIMITED."""
        ours = [key for key in keys if key.kind in KINDS]
        ports = {key.device for key in ours}
        with _errors():
            found = inspect([self._nic(guest, link) for link in guest.links
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
            configure([(self._nic(guest, links[port]), values)
                       for port, values in wanted.items()])

    def matches(self, key: limits.Key, wanted: limits.Value,
                found: limits.Value) -> bool:
        """Allow for bursts stored as times, and peak = average + 1."""
        if not isinstance(wanted, int) or not isinstance(found, int):
            return wanted == found
        slack = {'burst': wanted * TOLERANCE, 'peak': 1, 'average': 0}
        return abs(wanted - found) <= slack[key.field.partition('_')[2]]

    def forget(self, guest: Guest) -> None:
        """Remove what does not go with a tap; nothing there is fine.

        :raises LimitNotEnforced: it does not go away
        """
        with _errors():
            clear([self._nic(guest, link) for link in guest.links])

    def _nic(self, guest: Guest, link: Link) -> dict[str, str]:
        """Return a link and what else there is to know as plain values."""
        self.support()
        return {**dataclasses.asdict(link),
                'alias': f'nova:{guest.uuid}:{link.port_id}',
                'outbound': self._outbound if link.namespace else IFB}


def choose(reasons: Mapping[str, str], raw_sockets: bool,
           outbound: str | None = None) -> tuple[str, base.Support]:
    """Return where what guests send is limited, and what holds.

    :param reasons: {NETNS or IFB: why the kernel cannot limit there, or ''}
    :param raw_sockets: as of :class:`TcBackend`
    :param outbound: what is chosen already
    """
    if outbound is None:
        outbound = NETNS if reasons[IFB] and not raw_sockets else IFB
    missing = {'in': reasons[NETNS], 'out': reasons[outbound]}
    remark = ''
    if outbound == NETNS:
        remark = (f'held in the namespace of the server ({reasons[IFB]}): '
                  'not for servers that were made with NET_RAW or NET_ADMIN, '
                  'and not for guests without a namespace') \
            if reasons[IFB] else ''
    elif missing['out'] and not reasons[NETNS]:
        missing['out'] += (
            '; load the module ifb, or take NET_RAW and NET_ADMIN out of '
            '[docker] capabilities and allowed_capabilities: a server with '
            'them gets by a limit in its own namespace')
    held = frozenset(kind for kind in KINDS if not missing[_way(kind)])
    return outbound, base.Support(
        held, {kind: missing[_way(kind)] for kind in KINDS - held},
        {kind: remark for kind in held if remark and _way(kind) == 'out'})


def _way(kind: str) -> str:
    return kind.removeprefix('net.').partition('_')[0]


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise exception.LimitNotEnforced(
            f'the kernel refused: {e.strerror or e}') from e


@privsep.net.entrypoint
@netns.own_thread
def inspect(nics: Iterable[Mapping[str, str]]
            ) -> dict[str, dict[str, dict[str, int | None]]]:
    """Return {port id: {way: {name: number or None}}}.

    A port or way that is not there now is left out.
    """
    with net_shapers.NamespaceSockets() as sockets:
        return {nic['port_id']: {
            way: dataclasses.asdict(shaper.held())
            for way, shaper in sockets.shapers(nic).items()}
            for nic in nics}


@privsep.net.entrypoint
@netns.own_thread
def configure(wanted: Iterable[tuple[Mapping[str, str], Values]]) -> None:
    """Change what is named of the directions of ports.

    :raises LimitNotEnforced: a port is not there, or the limit cannot be
    """
    with net_shapers.NamespaceSockets() as sockets:
        for nic, ways in wanted:
            shapers = sockets.shapers(nic)
            for way, values in ways.items():
                name = f'net.{nic["port_id"]}.{way}'
                if way not in shapers:
                    raise exception.LimitNotEnforced(
                        f'{name}: the server has no such NIC now '
                        f'({nic["tap"]} in {nic["fabric"] or "the host"})')
                try:
                    shapers[way].change(values)
                except exception.LimitNotEnforced as e:
                    raise exception.LimitNotEnforced(f'{name}: {e}') from e
            if 'out' in ways:
                sockets.remove_other(nic)


@privsep.net.entrypoint
@netns.own_thread
def clear(nics: Iterable[Mapping[str, str]]) -> None:
    """Remove interfaces that were made for the limits of ports."""
    with net_shapers.NamespaceSockets() as sockets:
        for nic in nics:
            sockets.remove_ifb(nic)


@privsep.net.entrypoint
@netns.own_thread
def try_out(outbound: str) -> str:
    """Return why the kernel cannot limit in a way; '' when it can.

    In a namespace without name that ends with this call.
    """
    return net_shapers.try_out(outbound)

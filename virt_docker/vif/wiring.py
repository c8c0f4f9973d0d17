# SPDX-License-Identifier: Apache-2.0
"""The privileged part: brings a server's NICs to what they should be.

Arguments and results are plain values, for they may cross to a privsep
daemon. ``owner`` marks our taps: their alias is '<owner>:<port id>'.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import errno
import socket
import threading
import time
from typing import Any

from oslo_log import log
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nova_vcloud import neighbour_limit
from nova_vcloud import netns
from nova_vcloud import privsep
from nova_vcloud import userns
from nova_vcloud.qos.net import net_shapers
from nova_vcloud.virt_docker.vif import announce as frames
from nova_vcloud.virt_docker.vif import dumps
from nova_vcloud.virt_docker.vif import segments
from nova_vcloud.virt_docker.vif.interface import Interface
from nova_vcloud.virt_docker.vif.segments import WiringError

LOG = log.getLogger(__name__)

LOOPBACK = 1  # index of lo, in every namespace
FORWARDING = 3  # of a bridge port: linux/if_bridge.h
# What a server that stops or goes at that moment leads to.
GONE = (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENETDOWN)
GONE_TIMEOUT = 5.0  # seconds
# The kernel may tell a bridge of a carrier up to a second later
# (net/core/link_watch.c).
FORWARDING_TIMEOUT = 3.0  # seconds
SYSCTLS = {
    # Addresses and routes are Neutron's, never a neighbour's.
    'ipv6/conf/default/accept_ra': b'0',
    'ipv6/conf/default/autoconf': b'0',
    'ipv6/conf/default/accept_dad': b'0',
    # An address is of its NIC: Linux would answer for it on any, and a
    # neighbour would take the wrong port for it.
    'ipv4/conf/all/arp_ignore': b'1',
    'ipv4/conf/all/arp_announce': b'2',
    # ping needs no capability then (icmp(7)).
    'ipv4/ping_group_range': b'0 2147483647',
}
# A bridge takes the lowest MAC of its ports, which would change as servers
# come and go. As libvirt does.
TAP_MAC = 'fe'

NicValues = Mapping[str, Any]


@privsep.net.entrypoint
@netns.own_thread
def plug(fabric: str, name: str, owner: str, nics: Iterable[NicValues],
         uplinks: Mapping[str, str], up: bool,
         ids: Sequence[Sequence[userns.Range]] | None = None,
         neighbours: int = 0) -> bool:
    """Make a server's namespace and NICs, or repair what differs.

    NICs of other ports stay as they are. On failure nothing is left of what
    this call made.

    :param up: whether the links have a carrier
    :param ids: an IdMap, of the user namespace that the server's belongs to;
        None: the host's
    :param neighbours: that it may have, of each kind; 0: any number
    :returns: whether an address, a MAC or a link changed
    :raises WiringError: the host lacks something
    """
    with contextlib.ExitStack() as undo, contextlib.ExitStack() as sockets:
        if userns.exists(name) != (ids is not None):
            # Of an engine with other user namespaces: nothing runs in it.
            netns.remove(name)
        fresh = not netns.exists(name)
        if fresh:
            undo.callback(netns.remove, name)
            netns.create(name, userns.IdMap(*ids) if ids else None)
        with errors():
            outer = sockets.enter_context(netns.netlink(fabric))
            inner = sockets.enter_context(netns.netlink(name))
            if fresh:
                inner.link('set', index=LOOPBACK, state='up')
            # Also of one that a release before has made.
            _set_sysctls()
            server = ServerLinks(inner, outer, owner, fresh)
            _limit(neighbours, nics, fresh, server.has_only(nics))
            changed = []
            with contextlib.ExitStack() as taps:
                for nic in nics:
                    bridge = segments.bridge(fabric, outer, nic, uplinks)
                    if server.plug(nic, name, bridge, up, taps):
                        changed.append(nic)
                taps.pop_all()
            undo.pop_all()
    connected = [nic for nic in changed if up and nic['up']]
    _announce_later(fabric, name, connected)
    return bool(changed)


@privsep.net.entrypoint
@netns.own_thread
def unplug(fabric: str, owner: str, taps: Mapping[str, str]) -> None:
    """Remove the NICs of ports; absent ones are fine.

    With the IFB that a limit of what is sent may need beside a tap.

    :param taps: {port id: name of the tap}
    """
    with errors(), netns.netlink(fabric) as outer:
        for port_id, tap in taps.items():
            for name in (tap, net_shapers.ifb_name(tap)):
                found = segments.link(outer, ifname=name)
                if found is None:
                    continue
                if found.get('ifalias') == f'{owner}:{port_id}':
                    delete(outer, found['index'])
                else:
                    LOG.warning('Leaving %s alone: it is of %s', name,
                                found.get('ifalias'))


@privsep.net.entrypoint
@netns.own_thread
def destroy(fabric: str, name: str, owner: str) -> None:
    """Remove a server's NICs and namespace, whatever there is of them.

    :raises WiringError: a tap is still there after GONE_TIMEOUT
    """
    with errors(), contextlib.ExitStack() as sockets:
        inner = sockets.enter_context(netns.netlink(name)) \
            if netns.exists(name) else None
        netns.remove(name)
        try:
            outer = sockets.enter_context(netns.netlink(fabric))
        except FileNotFoundError:
            return  # and the taps went with it
        # Whoever's they are, as one that is half made has no alias.
        for index in _leading_to(outer, inner) if inner else ():
            delete(outer, index)
        # By alias: a tap may have lost its namespace; and an IFB has the
        # alias of its tap.
        deadline = time.monotonic() + GONE_TIMEOUT
        while indexes := _owned(outer, owner):
            for index in indexes:
                delete(outer, index)
            if time.monotonic() > deadline:
                raise WiringError(f'links {indexes} of {owner} do not go '
                                  'away')


@privsep.net.entrypoint
@netns.own_thread
def set_carrier(fabric: str, name: str, owner: str, up: bool) -> None:
    """Connect or disconnect a server's links; no namespace is fine."""
    if not netns.exists(name):
        return
    changed = []
    with errors(), netns.netlink(name) as inner, \
            netns.netlink(fabric) as outer:
        for peer, tap in pairs(inner, outer, owner):
            if bool(tap['flags'] & segments.IFF_UP) != up:
                outer.link('set', index=tap['index'],
                           state='up' if up else 'down')
                changed.append({
                    'tap': tap.get('ifname'),
                    'mac': peer.get('address'),
                    'addresses': Interface(inner, peer).addresses()})
    if up:
        _announce_later(fabric, name, changed)


@privsep.net.entrypoint
@netns.own_thread
def announce(fabric: str, name: str, nics: Iterable[NicValues]) -> None:
    """Tell the neighbours where the addresses of ``nics`` are."""
    _announce(fabric, name, nics)


@privsep.net.entrypoint
@netns.own_thread
def counters(fabric: str, name: str, owner: str) -> list[dict[str, Any]]:
    """Return counters of each NIC, seen from the server."""
    if not netns.exists(name):
        return []
    with errors(), netns.netlink(name) as inner, \
            netns.netlink(fabric) as outer:
        return [_counters(peer, tap)
                for peer, tap in pairs(inner, outer, owner)]


def _counters(peer: Any, tap: Any) -> dict[str, Any]:
    stats = peer.get('stats64')
    return {'tap': tap.get('ifname'), 'mac': peer.get('address'),
            'name': peer.get('ifname'),
            'port_id': tap.get('ifalias').rpartition(':')[2],
            **{f'{direction}_{unit}': stats[f'{direction}_{key}']
               for direction in ('rx', 'tx')
               for unit, key in (('bytes', 'bytes'), ('packets', 'packets'),
                                 ('errors', 'errors'),
                                 ('drops', 'dropped'))}}


def _set_sysctls() -> None:
    """Set those of the namespace in which the calling thread is."""
    for key, value in SYSCTLS.items():
        # A kernel without IPv6 lacks some.
        with contextlib.suppress(FileNotFoundError), \
                open(f'/proc/sys/net/{key}', 'wb', buffering=0) as file:
            file.write(value)


def _limit(neighbours: int, nics: Iterable[NicValues], fresh: bool,
           whole: bool) -> None:
    """Limit those of the namespace in which the calling thread is.

    :param whole: whether it has no NIC but these
    """
    if neighbours or not fresh:
        neighbour_limit.hold(
            neighbours,
            [address for nic in nics for address in nic['addresses']],
            [gateway for nic in nics for _to, gateway in nic['routes']
             if gateway], whole)


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """Turn what the kernel refused into an error that can cross."""
    try:
        yield
    except NetlinkError as e:
        raise WiringError(f'the kernel refused: {e.args[-1]} '
                          f'({errno.errorcode.get(e.code, e.code)})') from e


def pairs(inner: IPRoute, outer: IPRoute,
          owner: str) -> Iterator[tuple[Any, Any]]:
    """Yield (link in the server, our tap)."""
    for index in _owned(outer, owner):
        tap = segments.link(outer, index=index)
        peer = _peer(inner, tap) if tap is not None else None
        if peer is not None:
            yield peer, tap


def _peer(inner: IPRoute, tap: Any) -> Any:
    """Return the other end of a tap if it is in the server, else None.

    Asked for by its index: a server may have links without number.
    """
    if segments.kind(tap) != 'veth' or not tap.get('link'):
        return None
    found = segments.link(inner, index=tap.get('link'))
    if found is not None and segments.kind(found) == 'veth' \
            and found.get('link') == tap['index']:
        return found
    return None


def _owned(outer: IPRoute, owner: str) -> list[int]:
    """Return the indexes of a server's links on the host.

    Not by pyroute2, to which each link costs 0.4 ms: a host has hundreds.
    """
    return [found.index for found in dumps.links(outer)
            if found.alias.startswith(f'{owner}:')]


def _leading_to(outer: IPRoute, inner: IPRoute) -> list[int]:
    """Return the indexes of the links of the host that end in a server."""
    # First: the kernel numbers a namespace when it tells of a link to it.
    found = list(dumps.links(outer))
    number = dumps.namespace_id(outer, inner)
    return [link.index for link in found
            if number >= 0 and link.namespace == number]


def delete(socket: IPRoute, index: int) -> None:
    """Delete a link; an absent one is fine."""
    try:
        socket.link('del', index=index)
    except NetlinkError as e:
        if e.code != errno.ENODEV:
            raise


class ServerLinks:
    """The NICs inside one server's namespace, as they are.

    :param fresh: the namespace was made just now: nothing to look at
    """

    def __init__(self, inner: IPRoute, outer: IPRoute, owner: str,
                 fresh: bool) -> None:
        self._inner = inner
        self._outer = outer
        self._owner = owner
        self._fresh = fresh

    def has_only(self, nics: Iterable[NicValues]) -> bool:
        """Tell whether there is no NIC of another port."""
        taps = {nic['tap'] for nic in nics}
        return self._fresh or all(
            tap.get('ifname') in taps for _peer, tap in pairs(
                self._inner, self._outer, self._owner))

    def plug(self, nic: NicValues, name: str, bridge: int, up: bool,
             undo: contextlib.ExitStack) -> bool:
        """Bring one NIC to what it should be.

        :returns: whether its neighbours must be told, once it is connected
        """
        # With nothing in the namespace, an existing tap can only be stale.
        tap = None if self._fresh else self._tap(nic)
        made = tap is None
        if tap is None:
            tap = self._make(nic, name)
            undo.callback(delete, self._outer, tap['index'])
        peer = {'index': tap.get('link')} if made \
            else _peer(self._inner, tap) or {'index': tap.get('link')}
        moved = Interface(self._inner, peer).converge(nic, made)
        was_up = bool(tap['flags'] & segments.IFF_UP)
        self._converge_tap(tap, {
            'mtu': nic['mtu'], 'master': bridge,
            'ifalias': f'{self._owner}:{nic["port_id"]}'},
            state=up and nic['up'])
        return moved or (up and nic['up'] and not was_up)

    def _tap(self, nic: NicValues) -> Any:
        """Return the NIC's tap if its other end is here.

        :raises WiringError: the name is taken by something else
        """
        tap = segments.link(self._outer, ifname=nic['tap'])
        if tap is None:
            return None
        if segments.kind(tap) != 'veth':
            raise WiringError(f'{nic["tap"]} exists and is not a veth link')
        if _peer(self._inner, tap) is not None:
            return tap
        # Of a namespace that is gone, or of the server that had this port
        # before. Neutron gave it to this server now.
        LOG.warning('Removing stale link %s of %s', nic['tap'],
                    tap.get('ifalias'))
        delete(self._outer, tap['index'])
        return None

    def _make(self, nic: NicValues, name: str) -> Any:
        """Make both ends of a NIC; return the tap."""
        try:
            self._add(nic, name)
        except NetlinkError as e:
            if e.code != errno.EEXIST or self._tap(nic) is not None:
                raise
            self._add(nic, name)
        return segments.link(self._outer, ifname=nic['tap'])

    def _add(self, nic: NicValues, name: str) -> None:
        """Add both ends in one request: no name or MAC but the final one."""
        with netns.opened(name) as server:
            self._outer.link(
                'add', ifname=nic['tap'], kind='veth', mtu=nic['mtu'],
                address=TAP_MAC + nic['mac'][2:],
                peer={'ifname': self._free(nic['name']),
                      'address': nic['mac'], 'mtu': nic['mtu'],
                      'net_ns_fd': server})

    def _free(self, name: str) -> str:
        """Return ``name``, or where it is taken what makes the kernel choose
        the next ethN that is not.
        """
        taken = not self._fresh and segments.link(
            self._inner, ifname=name) is not None
        return 'eth%d' if taken else name

    def _converge_tap(self, tap: Any, wanted: dict[str, Any],
                      state: bool) -> None:
        change = {key: value for key, value in wanted.items()
                  if tap.get(key) != value}
        if bool(tap['flags'] & segments.IFF_UP) != state:
            change['state'] = 'up' if state else 'down'
        if change:
            self._outer.link('set', index=tap['index'], **change)


def _announce_later(fabric: str, name: str,
                    nics: Iterable[NicValues]) -> None:
    """Announce without waiting: closing a packet socket takes 10 ms."""
    if nics:
        threading.Thread(target=_announce, args=(fabric, name, nics),
                         name=f'announce-{name}', daemon=True).start()


def _announce(fabric: str, name: str, nics: Iterable[NicValues]) -> None:
    """Announce addresses; afterwards the calling thread is in ``name``.

    A lost announcement costs the neighbours a time-out, no more: so it is
    no error.
    """
    try:
        with netns.netlink(fabric) as outer, netns.netlink(name) as inner:
            ready = [(nic, _forwarding(outer, inner, nic['tap']))
                     for nic in nics]
        netns.enter(name)
        for nic, tap in ready:
            if tap is not None:
                frames.send(socket.if_indextoname(tap.get('link')),
                            nic['mac'], nic['addresses'])
    except (NetlinkError, OSError) as e:
        level = log.DEBUG if e.args[0] in GONE else log.WARNING
        LOG.log(level, 'Could not announce addresses in %s: %s', name, e)


def _forwarding(outer: IPRoute, inner: IPRoute, tap: str) -> Any:
    """Return a tap once frames come from its other end through its bridge.

    The kernel tells both ends of a new carrier later, each in its own time,
    and drops what is sent before without a word.

    :returns: what it is after FORWARDING_TIMEOUT at the latest; None if absent
    """
    deadline = time.monotonic() + FORWARDING_TIMEOUT
    while found := segments.link(outer, ifname=tap):
        state = found.get_nested('IFLA_LINKINFO', 'IFLA_INFO_SLAVE_DATA',
                                 'IFLA_BRPORT_STATE')
        if state == FORWARDING:
            peer = segments.link(inner, index=found.get('link'))
            if peer is None or peer.get('operstate') == 'UP':
                return found
        if time.monotonic() > deadline:
            return found
        time.sleep(0.005)
    return None

# SPDX-License-Identifier: Apache-2.0
"""The host's side: taps, the bridges they are on, VLAN bridges."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import errno
import os
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nova_vcloud.virt_docker.vif import namespace

ALIAS = 'nova'  # taps are found again by their alias, whoever made them


class FabricError(Exception):
    """The host's network can't take a NIC; says what to change."""


def alias(server: str, port_id: str = '') -> str:
    """Return the alias of a tap, or its beginning for all of a server."""
    return f'{ALIAS}:{server}:{port_id}'


def find(ipr: IPRoute, name: str) -> Any | None:
    """Return a link by name, None if there is none."""
    try:
        return next(iter(ipr.link('get', ifname=name)), None)
    except NetlinkError as e:
        if e.code == errno.ENODEV:
            return None
        raise


def of_server(ipr: IPRoute, server: str) -> list[Any]:
    """Return the taps of a server."""
    wanted = alias(server)
    return [link for link in ipr.link('dump')
            if (link.get('ifalias') or '').startswith(wanted)]


def ensure(ipr: IPRoute, server: str, netns: str, nic: dict[str, Any],
           up: bool) -> bool:
    """Bring one tap to what ``nic`` says; tell whether it was made."""
    bridge = _bridge(ipr, nic)
    tap = find(ipr, nic['tap'])
    made = tap is None
    if tap is None:
        tap = _make(ipr, netns, nic, bridge)
    _mend(ipr, tap, server, nic, bridge, up)
    return made


def _make(ipr: IPRoute, netns: str, nic: dict[str, Any],
          bridge: int) -> Any:
    """Make a veth pair whose other end is born inside the namespace."""
    fd = os.open(namespace.path(netns), os.O_RDONLY)
    try:
        ipr.link('add', ifname=nic['tap'], kind='veth', mtu=nic['mtu'],
                 master=bridge, peer={
                     'ifname': nic['name'], 'address': nic['mac'],
                     'mtu': nic['mtu'], 'net_ns_fd': fd})
    finally:
        os.close(fd)
    return find(ipr, nic['tap'])


def _mend(ipr: IPRoute, tap: Any, server: str, nic: dict[str, Any],
          bridge: int, up: bool) -> None:
    """Set only what differs."""
    change: dict[str, Any] = {}
    if tap.get('ifalias') != alias(server, nic['port_id']):
        change['ifalias'] = alias(server, nic['port_id'])
    if tap.get('master') != bridge:
        change['master'] = bridge
    if tap.get('mtu') != nic['mtu']:
        change['mtu'] = nic['mtu']
    wanted = 'up' if up else 'down'
    if tap['state'] != wanted:
        change['state'] = wanted
    if change:
        ipr.link('set', index=tap['index'], **change)


def set_state(ipr: IPRoute, server: str, up: bool) -> None:
    """Set all taps of a server up or down."""
    wanted = 'up' if up else 'down'
    for tap in of_server(ipr, server):
        if tap['state'] != wanted:
            ipr.link('set', index=tap['index'], state=wanted)


def delete(ipr: IPRoute, index: int) -> None:
    """Remove a link and, with it, its other end; absent is fine."""
    with contextlib.suppress(NetlinkError):
        ipr.link('del', index=index)


def counters(ipr: IPRoute, server: str) -> Iterator[dict[str, Any]]:
    """Yield the counters of each tap, as the server sees them.

    What the tap received, the server sent.
    """
    for tap in of_server(ipr, server):
        stats = tap.get('stats64')
        yield {
            'tap': tap.get('ifname'),
            'port_id': tap.get('ifalias').rpartition(':')[2],
            'peer': tap.get('link'),
            **{f'{guest}_{unit}': stats[f'{host}_{field}']
               for guest, host in (('rx', 'tx'), ('tx', 'rx'))
               for unit, field in (('bytes', 'bytes'),
                                   ('packets', 'packets'),
                                   ('errors', 'errors'),
                                   ('drops', 'dropped'))}}


# Bridges

def _bridge(ipr: IPRoute, nic: dict[str, Any]) -> int:
    """Return the index of the bridge a NIC goes to.

    :raises FabricError: there is none and it can't be made
    """
    if nic['vlan'] is not None:
        return _vlan_bridge(ipr, nic)
    bridge = find(ipr, nic['bridge'])
    if bridge is None:
        raise FabricError(
            f'Bridge {nic["bridge"]} does not exist on this host. Make it, '
            'or mend [ml2_vcloud] bridge_mappings of neutron-server.')
    return int(bridge['index'])


def vlan_bridge_name(bridge: str, vlan: int) -> str:
    """Return the bridge of one VLAN, within the kernel's 15 characters."""
    return f'{bridge[:10]}.{vlan}'


def _vlan_bridge(ipr: IPRoute, nic: dict[str, Any]) -> int:
    name = vlan_bridge_name(nic['bridge'], nic['vlan'])
    found = find(ipr, name)
    if found is not None:
        return int(found['index'])
    uplink = find(ipr, nic['uplink']) if nic['uplink'] else None
    if uplink is None:
        raise FabricError(
            f'VLAN {nic["vlan"]} of {nic["physical_network"]} has no uplink '
            f'on this host (found: {nic["uplink"] or "none"}). Set '
            f'[vcloud_net] uplinks = {nic["physical_network"]}:INTERFACE.')
    tagged = _tagged(ipr, uplink, nic['uplink'], nic['vlan'])
    ipr.link('add', ifname=name, kind='bridge', mtu=nic['mtu'])
    bridge = find(ipr, name)['index']  # type: ignore[index]
    ipr.link('set', index=tagged, master=bridge, state='up')
    ipr.link('set', index=bridge, state='up')
    return int(bridge)


def _tagged(ipr: IPRoute, uplink: Any, name: str, vlan: int) -> int:
    """Return the uplink's interface for a VLAN, made if need be."""
    tagged = f'{name[:10]}.{vlan}'
    found = find(ipr, tagged)
    if found is None:
        try:
            ipr.link('add', ifname=tagged, kind='vlan',
                     link=uplink['index'], vlan_id=vlan)
        except NetlinkError as e:
            if e.code != errno.EOPNOTSUPP:
                raise
            raise FabricError(
                'The kernel of this host has no VLAN interfaces; load the '
                'module 8021q.') from e
        found = find(ipr, tagged)
    return int(found['index'])  # type: ignore[index]

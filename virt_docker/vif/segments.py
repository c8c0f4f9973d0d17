# SPDX-License-Identifier: Apache-2.0
"""The bridge of a network segment on this host."""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
import errno
import socket
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nova_vcloud import exception
from nova_vcloud import netns

IFF_UP = 1  # linux/if.h


class WiringError(exception.NovaVcloudException):
    """A NIC cannot be connected on this host; says what to look at."""


def link(socket: IPRoute, **by: Any) -> Any:
    """Return a link by name (ifname=) or index (index=), None if absent."""
    try:
        return next(iter(socket.link('get', **by)))
    except NetlinkError as e:
        if e.code in (errno.ENODEV, errno.ENXIO):
            return None
        raise


def kind(found: Any) -> str | None:
    """Return what made a link: 'bridge', 'veth'...; None for hardware."""
    info = found.get('linkinfo')
    return info.get('kind') if info else None


def bridge(name: str, fabric: IPRoute, nic: Mapping[str, Any],
           uplinks: Mapping[str, str]) -> int:
    """Return the index of the bridge of a NIC's segment.

    A flat network's bridge is the operator's; that of a VLAN is made on
    first use, with the tagged interface of the physical network in it.

    :param name: of the namespace that ``fabric`` is a socket of
    :raises WiringError: it does not exist or cannot be made
    """
    if nic['vlan'] is None:
        found = link(fabric, ifname=nic['bridge'])
        if found is None or kind(found) != 'bridge':
            raise WiringError(
                f'bridge {nic["bridge"]} does not exist on host '
                f'{socket.gethostname()}; create it, or correct '
                '[ml2_vcloud] bridge_mappings of Neutron')
        return int(found['index'])
    return _vlan_bridge(name, fabric, nic, uplinks)


def _vlan_bridge(name: str, fabric: IPRoute, nic: Mapping[str, Any],
                 uplinks: Mapping[str, str]) -> int:
    vlan, physical_network = nic['vlan'], nic['physical_network']
    wire = uplinks.get(physical_network)
    uplink = link(fabric, ifname=wire) if wire else None
    if uplink is None:
        raise WiringError(
            f'VLAN {vlan} of physical network {physical_network} has no '
            f'interface on host {socket.gethostname()}; see '
            '[vcloud_net] uplinks')
    if not uplink['flags'] & IFF_UP:
        raise WiringError(
            f'interface {wire} of physical network {physical_network} is '
            f'down on host {socket.gethostname()} (ip link set {wire} up)')
    # By index: 'bridge.vlan' may be longer than a name can be.
    tagged = _ensure(fabric, f'vc{uplink["index"]}.{vlan}', kind='vlan',
                     link=uplink['index'], vlan_id=vlan)
    made = _ensure(fabric, f'vb{uplink["index"]}.{vlan}', kind='bridge')
    if tagged.get('master') != made['index']:
        for each in (tagged, made):
            _disable_ipv6(name, each.get('ifname'))
        fabric.link('set', index=made['index'], state='up',
                    ifalias=f'nova-vcloud: VLAN {vlan} on {wire}')
        # Last: what was cut short before is done again.
        fabric.link('set', index=tagged['index'], master=made['index'],
                    state='up')
    return int(made['index'])


@netns.own_thread
def _disable_ipv6(name: str, ifname: str) -> None:
    """Keep the host out of a network that is its servers'.

    They would reach it by its link-local address, and their router
    advertisements would give it addresses and routes.
    """
    netns.enter(name)
    path = f'/proc/sys/net/ipv6/conf/{ifname}/disable_ipv6'
    with contextlib.suppress(FileNotFoundError), open(path, 'wb') as sysctl:
        sysctl.write(b'1')  # a kernel without IPv6 has no such file


def _ensure(fabric: IPRoute, name: str, **attributes: Any) -> Any:
    """Return a link by name, made now if need be."""
    found = link(fabric, ifname=name)
    if found is not None:
        return found
    try:
        fabric.link('add', ifname=name, **attributes)
    except NetlinkError as e:
        if e.code == errno.EOPNOTSUPP:
            raise WiringError(
                f'the kernel of host {socket.gethostname()} has no links of '
                f'kind {attributes["kind"]} (modprobe 8021q)') from e
        if e.code != errno.EEXIST:  # another thread was faster
            raise
    return link(fabric, ifname=name)

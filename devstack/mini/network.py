# SPDX-License-Identifier: Apache-2.0
"""The cloud's wires: one netns for the LAN, one per compute host.

The machine's own namespace gets no interface and no address::

    <name>-lan                      <name>-compute1
    br-lan 10.77.0.1, fd00:77::1    br-physnet1 -- taps of the servers
      compute1 ======= veth ========= uplink
"""

import json
import pathlib
import subprocess
from typing import Any

from mini import errors
from mini import settings

# Where nova-compute binds the user namespaces of servers (userns.py).
USER_NAMESPACES = pathlib.Path('/run/nova-vcloud/userns')


def ip(*words: str, netns: str | None = None, check: bool = True) -> str:
    """Run ip(8) and return what it says.

    :raises MinicloudError: with ip's own words.
    """
    inside = ['-n', netns] if netns else []
    done = subprocess.run(
        ['ip', *inside, *words], capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        raise errors.MinicloudError(
            f'ip {" ".join([*inside, *words])}: {done.stderr.strip()}'
        )
    return done.stdout


def namespaces() -> list[str]:
    """Return the named network namespaces of the machine."""
    return [line.split()[0] for line in ip('netns', 'list').splitlines()]


def _links(netns: str) -> set[str]:
    found: list[dict[str, Any]] = json.loads(
        ip('-j', 'link', 'show', netns=netns) or '[]'
    )
    return {link['ifname'] for link in found if 'ifname' in link}


def _usable(netns: str) -> bool:
    """Tell whether the name leads to a namespace.

    After a reboot, or an `ip netns add` that was killed, the name can be a
    plain file.
    """
    done = subprocess.run(
        ['ip', '-n', netns, 'link', 'show', 'lo'],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def _ensure_netns(netns: str, present: list[str]) -> None:
    if netns in present and not _usable(netns):
        ip('netns', 'delete', netns)
        present = []
    if netns not in present:
        ip('netns', 'add', netns)
    ip('link', 'set', 'lo', 'up', netns=netns)


def _forget_user_namespace(name: str) -> None:
    """Drop the one that a server's netns belonged to; none is fine."""
    place = USER_NAMESPACES / name
    if place.exists():
        subprocess.run(['umount', place], capture_output=True, check=False)
        place.unlink()


def _ensure_bridge(netns: str, bridge: str) -> None:
    if bridge not in _links(netns):
        ip(
            *('link', 'add', bridge, 'type', 'bridge'),
            # Ports forward at once; no querier, so no snooping.
            *('stp_state', '0', 'forward_delay', '0', 'mcast_snooping', '0'),
            netns=netns,
        )
    ip('link', 'set', bridge, 'up', netns=netns)


def _ensure_cable(cloud: settings.Cloud, host: settings.Host) -> None:
    """Connect the bridge of a host with the LAN's."""
    lan = cloud.lan_netns
    if 'uplink' not in _links(host.netns):
        ip(
            *('link', 'add', host.name, 'type', 'veth'),
            *('peer', 'name', 'uplink', 'netns', host.netns),
            netns=lan,
        )
    # The fabric itself needs no address, also no link-local one.
    for link in (settings.BRIDGE, 'uplink'):
        ip('link', 'set', link, 'addrgenmode', 'none', netns=host.netns)
    ip('link', 'set', host.name, 'addrgenmode', 'none', netns=lan)
    ip('link', 'set', host.name, 'master', settings.LAN_BRIDGE, netns=lan)
    ip('link', 'set', host.name, 'up', netns=lan)
    ip('link', 'set', 'uplink', 'master', settings.BRIDGE, netns=host.netns)
    ip('link', 'set', 'uplink', 'up', netns=host.netns)


def up(cloud: settings.Cloud) -> str | None:
    """Make what is missing of namespaces, bridges and cables."""
    present = namespaces()
    _ensure_netns(cloud.lan_netns, present)
    _ensure_bridge(cloud.lan_netns, settings.LAN_BRIDGE)
    for gateway, net in (
        (settings.LAN_GATEWAY_V4, settings.LAN_V4),
        (settings.LAN_GATEWAY_V6, settings.LAN_V6),
    ):
        address = f'{gateway}/{net.partition("/")[2]}'
        words = ['address', 'replace', address, 'dev', settings.LAN_BRIDGE]
        if ':' in gateway:
            words.append('nodad')
        ip(*words, netns=cloud.lan_netns)
    for host in cloud.hosts:
        _ensure_netns(host.netns, present)
        _ensure_bridge(host.netns, settings.BRIDGE)
        _ensure_cable(cloud, host)
    return 'there already' if cloud.lan_netns in present else None


def own_namespaces(cloud: settings.Cloud, present: list[str]) -> list[str]:
    """Return which of these namespaces are ours, servers' included."""
    names = {cloud.lan_netns, *(host.netns for host in cloud.hosts)}
    prefixes = tuple(host.server_prefix for host in cloud.hosts)
    return [n for n in present if n in names or n.startswith(prefixes)]


def down(cloud: settings.Cloud) -> None:
    """Remove our namespaces; bridges and cables go with them."""
    for netns in own_namespaces(cloud, namespaces()):
        ip('netns', 'delete', netns)
        _forget_user_namespace(netns)

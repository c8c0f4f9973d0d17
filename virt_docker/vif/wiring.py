# SPDX-License-Identifier: Apache-2.0
"""What needs privileges: each function is one call across privsep.

Arguments and results are plain dicts, lists and strings, as they may travel
to a privileged process. A NIC is the dict of ``addresses.Nic`` plus its
``uplink``.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import os
import pathlib
import threading
from typing import Any

from pyroute2 import IPRoute

from nova_vcloud import privsep
from nova_vcloud.virt_docker.vif import announce
from nova_vcloud.virt_docker.vif import guest
from nova_vcloud.virt_docker.vif import namespace
from nova_vcloud.virt_docker.vif import taps


@privsep.net.entrypoint
def plug(fabric: str, netns: str, server: str, nics: list[dict[str, Any]],
         up: bool) -> str | None:
    """Bring namespace, taps and addresses of a server to what is wanted.

    What this call made is removed again when it fails.

    :returns: what is wrong with the host's network, None if nothing is
    """
    made_namespace = namespace.ensure(netns)
    made: list[str] = []
    try:
        _fabric(fabric, lambda ipr: _plug_taps(
            ipr, server, netns, nics, up, made))
        lost = _configure(netns, nics, made)
        if lost:
            # The server's end is gone, say deleted by hand; so must the tap.
            _fabric(fabric, lambda ipr: _remake(
                ipr, server, netns, lost, up, made))
            _configure(netns, lost, made)
    except BaseException as e:
        _fabric(fabric, lambda ipr: _delete_named(ipr, made))
        if made_namespace:
            namespace.remove(netns)
        if isinstance(e, taps.FabricError):
            return str(e)
        raise
    if up:
        _announce(netns, nics)
    return None


@privsep.net.entrypoint
def unplug(fabric: str, names: list[str]) -> None:
    """Remove taps by name; absent ones are fine."""
    with contextlib.suppress(FileNotFoundError):
        _fabric(fabric, lambda ipr: _delete_named(ipr, names))


@privsep.net.entrypoint
def destroy(fabric: str, netns: str, server: str, links_path: str) -> None:
    """Remove taps, namespace and the runtime's links of a server."""
    # Gone when the whole fabric is: with it went the taps.
    with contextlib.suppress(FileNotFoundError):
        _fabric(fabric, lambda ipr: _delete_of(ipr, server))
    target = namespace.path(netns)
    for link in _links(links_path):
        if link.is_symlink() and os.readlink(link) == target:
            link.unlink(missing_ok=True)
    namespace.remove(netns)


@privsep.net.entrypoint
def set_carrier(fabric: str, server: str, up: bool) -> None:
    """Set a server's taps up or down; none is fine."""
    with contextlib.suppress(FileNotFoundError):
        _fabric(fabric, lambda ipr: taps.set_state(ipr, server, up))


@privsep.net.entrypoint
def counters(fabric: str, netns: str, server: str) -> list[dict[str, Any]]:
    """Return the counters and MAC of each NIC of a server."""
    rows = _fabric(fabric, lambda ipr: list(taps.counters(ipr, server)))
    with contextlib.suppress(FileNotFoundError):
        macs = namespace.run_in(netns, _peers)
        for row in rows:
            row['mac'] = macs.get(row.pop('peer'))
    return rows


@privsep.net.entrypoint
def join(links_path: str, container_id: str, netns: str) -> None:
    """Tell the runtime which namespace a container belongs to."""
    folder = pathlib.Path(links_path)
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = folder / f'.{container_id}'
    new.unlink(missing_ok=True)
    new.symlink_to(namespace.path(netns))
    new.rename(folder / container_id)


@privsep.net.entrypoint
def forget(links_path: str, container_id: str) -> None:
    """Take back what ``join`` told; absent is fine."""
    (pathlib.Path(links_path) / container_id).unlink(missing_ok=True)


# Inside the privileged process

def _fabric(name: str, work: Callable[[IPRoute], Any]) -> Any:
    """Run ``work`` with a netlink socket in the fabric's namespace."""
    return namespace.run_in(name, lambda: _with_netlink(work))


def _with_netlink(work: Callable[[IPRoute], Any]) -> Any:
    with IPRoute() as ipr:
        return work(ipr)


def _links(links_path: str) -> list[pathlib.Path]:
    with contextlib.suppress(FileNotFoundError):
        return list(pathlib.Path(links_path).iterdir())
    return []


def _plug_taps(ipr: IPRoute, server: str, netns: str,
               nics: list[dict[str, Any]], up: bool,
               made: list[str]) -> None:
    for nic in nics:
        new = taps.ensure(ipr, server, netns, nic, up)
        made += [nic['tap']] if new else []


def _remake(ipr: IPRoute, server: str, netns: str,
            nics: list[dict[str, Any]], up: bool, made: list[str]) -> None:
    _delete_named(ipr, [nic['tap'] for nic in nics])
    _plug_taps(ipr, server, netns, nics, up, made)


def _configure(netns: str, nics: list[dict[str, Any]],
               made: list[str]) -> list[dict[str, Any]]:
    """Configure the server's ends; return the NICs that have none."""
    def work(ipr: IPRoute) -> list[dict[str, Any]]:
        guest.loopback(ipr)
        return [nic for nic in nics
                if not guest.configure(ipr, nic, nic['tap'] in made)]

    return namespace.run_in(netns, lambda: _with_netlink(work))


def _announce(netns: str, nics: list[dict[str, Any]]) -> None:
    """Announce addresses without waiting: closing a raw socket is slow."""
    def work() -> None:
        for nic in nics:
            announce.announce(nic)

    def enter() -> None:
        # The server may be deleted meanwhile.
        with contextlib.suppress(OSError):
            namespace.run_in(netns, work)

    threading.Thread(target=enter, daemon=True,
                     name=f'announce-{netns}').start()


def _delete_named(ipr: IPRoute, names: list[str]) -> None:
    for name in names:
        link = taps.find(ipr, name)
        if link is not None:
            taps.delete(ipr, link['index'])


def _delete_of(ipr: IPRoute, server: str) -> None:
    for link in taps.of_server(ipr, server):
        taps.delete(ipr, link['index'])


def _peers() -> dict[int, str]:
    """Return {interface index: MAC} of the namespace we are in."""
    with IPRoute() as ipr:
        return {link['index']: link.get('address')
                for link in ipr.link('dump')}

# SPDX-License-Identifier: Apache-2.0
"""Volumes as block devices: a node in the guest's /dev, and leave to use it.

A container that runs gets both at once. For its next start they wait in a
file beside the link to its namespace, of which ``nova-vcloud-runtime`` makes
devices of the container.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import errno
import json
import os
import pathlib
import stat
from typing import Any

from nova_vcloud import exception
from nova_vcloud import privsep
from nova_vcloud import userns
from nova_vcloud.qos.backends import cgroup1
from nova_vcloud.virt_docker.guest import server_files
from nova_vcloud.virt_docker.volumes import container_view
from nova_vcloud.virt_docker.volumes import devicebinds

FOLDER = 'devices'
MODE = 0o660
_CGROUPS = pathlib.Path('/sys/fs/cgroup')

Ids = Sequence[Sequence[userns.Range]] | None


class Nodes:
    """Device nodes of volumes of this host's servers.

    :param links: the ``--links`` directory of ``nova-vcloud-runtime``
    :param namespace: gives the name of a server's network namespace
    :param ids: tells of the ids in servers' user namespaces, None while
        they have none
    """

    def __init__(self, links: str, namespace: Callable[[str], str],
                 ids: Callable[[], userns.IdMap | None] = lambda: None
                 ) -> None:
        self._links = links
        self._namespace = namespace
        self._ids = ids

    def check(self, uuid: str, guest: container_view.Guest | None) -> None:
        """Refuse a server that cannot be given a device.

        :raises VolumeError: with what to do
        """
        if guest and guest.pid and _devices_cgroup() is None:
            raise exception.VolumeError(
                'a server that runs cannot be given a block device on a host '
                'with cgroups of version 2: stop the server first')

    def add(self, uuid: str, name: str, device: str,
            guest: container_view.Guest | None) -> None:
        """Give a server a device, now and from now on.

        :raises VolumeError: with the reason; nothing is left of it
        """
        number, ids = _number(device), self._ids()
        node = _remember(self._links, self._namespace(uuid), name, number,
                         ids)
        if guest and guest.pid:
            try:
                _show(guest.pid, guest.cgroup, name, number, node, ids)
            except BaseException:
                _forget(self._links, self._namespace(uuid), name)
                raise

    def remove(self, uuid: str, name: str, device: str,
               guest: container_view.Guest | None) -> None:
        """Take a device from a server; an absent one is fine.

        :raises VolumeBusy: the server uses it
        """
        if guest and guest.pid:
            _hide(guest.pid, guest.cgroup, name, _number(device))
        _forget(self._links, self._namespace(uuid), name)

    def grow(self, uuid: str, name: str, device: str) -> None:
        """Nothing: the guest sees the size of the device itself."""

    def forget(self, uuid: str) -> None:
        """Forget all devices of a server; an unknown one is fine."""
        _forget(self._links, self._namespace(uuid))


def _number(device: str) -> tuple[int, int]:
    found = os.stat(device).st_rdev
    return os.major(found), os.minor(found)


@privsep.volume.entrypoint
def _remember(links: str, namespace: str, name: str,
              number: tuple[int, int], ids: Ids) -> str:
    """Note a device for the next start; return its node on the host, or ''.
    """
    path = pathlib.Path(links, FOLDER, namespace)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    major, minor = number
    node = devicebinds.make(namespace, name, number, userns.IdMap(*ids)) \
        if ids else ''
    _write(path, [*_without(path, name), {
        'path': f'/dev/{name}', 'type': 'b', 'major': major, 'minor': minor,
        'fileMode': MODE, 'uid': 0, 'gid': 0,
        **({'source': node} if node else {})}])
    return node


@privsep.volume.entrypoint
def _forget(links: str, namespace: str, name: str = '') -> None:
    path = pathlib.Path(links, FOLDER, namespace)
    kept = _without(path, name) if name else []
    devicebinds.remove(namespace, name)
    if kept:
        _write(path, kept)
        return
    path.unlink(missing_ok=True)
    # The runtime looks no further while there is no such directory.
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def _without(path: pathlib.Path, name: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return []
    return [entry for entry in found if entry['path'] != f'/dev/{name}']


def _write(path: pathlib.Path, entries: list[dict[str, Any]]) -> None:
    new = path.with_name(f'.{path.name}.new')
    new.write_text(json.dumps(entries))
    os.replace(new, path)


@privsep.volume.entrypoint
def _show(pid: int, cgroup: str, name: str, number: tuple[int, int],
          node: str, ids: Ids) -> None:
    """Make a node in the /dev of a process, and let its cgroup use it."""
    root = _devices_cgroup()
    if root is None:
        return  # told by check(); the next start has it
    _tell(root, cgroup, 'devices.allow', number)
    with _dev(pid) as (process, folder):
        if _is_ours(process, folder, name, number):
            return
        try:
            if ids:
                devicebinds.show(pid, node, userns.IdMap(*ids))
                return
            os.mknod(name, MODE | stat.S_IFBLK, os.makedev(*number),
                     dir_fd=folder)
            _open_to_group(process, folder, name)
        except OSError as e:
            _tell(root, cgroup, 'devices.deny', number)
            raise exception.VolumeError(
                f'/dev/{name} cannot be made in the server: {e.strerror}'
            ) from e


def _open_to_group(process: server_files.Process, folder: int,
                   name: str) -> None:
    """Set the mode of a node, which a umask may have made less."""
    with process.below(folder, name) as node:
        if stat.S_ISBLK(os.fstat(node).st_mode):
            os.chmod(f'/proc/self/fd/{node}', MODE)


@privsep.volume.entrypoint
def _hide(pid: int, cgroup: str, name: str,
          number: tuple[int, int]) -> None:
    """Undo :func:`_show`, unless a process of the cgroup has it open."""
    root = _devices_cgroup()
    if root is not None:
        # First: who opens it while we look would not be seen.
        _tell(root, cgroup, 'devices.deny', number)
        if _open_in(root / cgroup.strip('/'), number):
            _tell(root, cgroup, 'devices.allow', number)
            raise exception.VolumeBusy(
                f'programs in the server use /dev/{name}: end them first')
    with _dev(pid) as (process, folder):
        if not _is_ours(process, folder, name, number):
            return
        try:
            os.unlink(name, dir_fd=folder)
        except OSError as e:
            if e.errno != errno.EBUSY:
                raise
            # A mount, in a server with a user namespace.
            devicebinds.hide(pid, name, lambda inside, folder: _is_ours(
                inside, folder, name, number))


@contextlib.contextmanager
def _dev(pid: int) -> Iterator[tuple[server_files.Process, int]]:
    """Have the /dev of a process open; links of the guest are not followed.
    """
    with contextlib.ExitStack() as stack:
        try:
            process = stack.enter_context(server_files.process(pid))
            folder = stack.enter_context(process.folder('dev'))
        except OSError as e:
            raise exception.VolumeError(
                f'/dev of the server: {e.strerror}') from e
        yield process, folder


def _is_ours(process: server_files.Process, folder: int, name: str,
             number: tuple[int, int]) -> bool:
    """Tell whether a node is the one that we made; raises OSError, EXDEV."""
    try:
        with process.below(folder, name) as place:
            found = os.fstat(place)
    except FileNotFoundError:
        return False
    return stat.S_ISBLK(found.st_mode) \
        and found.st_rdev == os.makedev(*number)


def _open_in(cgroup: pathlib.Path, number: tuple[int, int]) -> bool:
    """Tell whether a process of a cgroup has a device open."""
    for pid in (cgroup / 'cgroup.procs').read_text().split():
        # It may end, or close a file, while we look.
        with contextlib.suppress(OSError):
            for entry in os.scandir(f'/proc/{pid}/fd'):
                with contextlib.suppress(OSError):
                    if server_files.device(entry.path) \
                            == os.makedev(*number):
                        return True
    return False


def _devices_cgroup() -> pathlib.Path | None:
    """Return where the cgroups of devices are; None in version 2."""
    mounts = cgroup1.mounted(
        pathlib.Path('/proc/self/mountinfo').read_text(), _CGROUPS)
    return mounts.get('devices')


def _tell(root: pathlib.Path, cgroup: str, file: str,
          number: tuple[int, int]) -> None:
    path = root / cgroup.strip('/') / file
    try:
        path.write_text(f'b {number[0]}:{number[1]} rwm\n')
    except OSError as e:
        raise exception.VolumeError(f'{path}: {e.strerror}') from e

# SPDX-License-Identifier: Apache-2.0
"""Volumes as filesystems: mounted on the host, seen at once by the guest.

A folder of the host is a mount of its own whose mounts propagate. Below it
each server has a directory; the guest sees that one read-only, so nothing
that it does there can lead a later mount of ours astray.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
import contextlib
import errno
import os
import pathlib
import shutil
import tempfile

from nova_vcloud import exception
from nova_vcloud import idmounts
from nova_vcloud import privsep
from nova_vcloud import userns
from nova_vcloud.virt_docker.volumes import commands
from nova_vcloud.virt_docker.volumes import container_view

#: Where a guest sees the directory of its volumes.
GUEST_FOLDER = '/volumes'
#: What no filesystem of a tenant may bring to the host.
_ALWAYS = 'nodev,nosuid'
#: {filesystem: options}. Without nouuid a copy of a volume that is mounted
#: is refused; an ext4 superblock may say that an error is to halt the host.
OPTIONS = {'xfs': 'nouuid', 'ext4': 'errors=remount-ro', 'btrfs': ''}
#: Where programs for filesystems are.
PROGRAMS = '/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin'
_BLANK = 1 << 20  # bytes at both ends that are zero in a blank volume


class Filesystems:
    """Filesystems of volumes of this host's servers.

    :param folder: of the mounts
    :param allowed: filesystems that the host's kernel may be given
    :param make: filesystem that a blank volume gets; '' for none
    :param ids: tells of the ids in servers' user namespaces, None while
        they have none; what is on a volume is the same with and without
    """

    def __init__(self, folder: str, allowed: Iterable[str], make: str = '',
                 ids: Callable[[], userns.IdMap | None] = lambda: None
                 ) -> None:
        self._folder = folder
        self._allowed = tuple(allowed)
        self._make = make
        self._ids = ids

    def check_host(self) -> None:
        """Refuse options that this host cannot follow.

        :raises HostNotReady: with what to change
        """
        if os.path.isdir(self._folder):
            _share(self._folder)  # with the mode that it is to have
        if not self._make:
            return
        if self._make not in self._allowed:
            raise exception.HostNotReady(
                f'[vcloud_volumes] make_filesystem is {self._make}, which '
                'the option filesystems does not have: add it there, or '
                'choose one of those')
        program = f'mkfs.{self._make}'
        if not shutil.which(program, path=PROGRAMS):
            raise exception.HostNotReady(
                f'there is no {program} on this host, which [vcloud_volumes] '
                'make_filesystem asks for: install it, or choose another')

    def _path(self, uuid: str, name: str = '') -> str:
        return os.path.join(self._folder, uuid, name).rstrip('/')

    def _view(self, uuid: str) -> str:
        return os.path.join(self._folder, f'{uuid}.guest')

    def binds(self, uuid: str) -> list[str]:
        """Return what a container needs to see the server's volumes."""
        self.prepare(uuid)
        return [f'{self._view(uuid)}:{GUEST_FOLDER}:rslave']

    def prepare(self, uuid: str) -> None:
        """Have the directory of a server; one that is there is fine."""
        _share(self._folder)
        _make_view(self._path(uuid), self._view(uuid))

    def sees(self, uuid: str, guest: container_view.Guest) -> bool:
        """Tell whether a container was made to see the volumes."""
        return any(bind.startswith(f'{self._view(uuid)}:')
                   for bind in guest.binds)

    def check(self, uuid: str, guest: container_view.Guest | None) -> None:
        """Refuse a server that would not see a volume.

        :raises VolumeError: with what to do
        """
        if guest and not self.sees(uuid, guest):
            raise exception.VolumeError(
                'the server was made when this host did not show volumes as '
                'filesystems: rebuild or migrate it')

    def add(self, uuid: str, name: str, device: str,
            guest: container_view.Guest | None) -> None:
        """Mount a volume; one that is mounted is fine.

        :raises VolumeError: with the reason; nothing is left of it
        """
        self.prepare(uuid)
        path = self._path(uuid, name)
        if _mounted(path):
            return
        kind = _have_filesystem(device, list(self._allowed), self._make)
        _mount(device, path, kind, self._ids())

    def remove(self, uuid: str, name: str, device: str,
               guest: container_view.Guest | None) -> None:
        """Unmount a volume; one that is not mounted is fine.

        :raises VolumeBusy: the server uses it
        """
        _unmount(self._path(uuid, name), f'{GUEST_FOLDER}/{name}')

    def grow(self, uuid: str, name: str, device: str) -> None:
        """Let a filesystem that is mounted fill its device.

        :raises VolumeError: with the reason
        """
        _grow(device, self._path(uuid, name))

    def forget(self, uuid: str) -> None:
        """Remove the directory of a server; an absent one is fine."""
        _drop_view(self._path(uuid), self._view(uuid))


def _mounted(path: str) -> bool:
    """Tell whether something is mounted at a path.

    os.path.ismount() does not see a directory bound to another of the same
    filesystem.
    """
    lines = pathlib.Path('/proc/self/mountinfo').read_text().splitlines()
    place = path.replace('\\', '\\134').replace(' ', '\\040')
    return any(line.split(' ', 5)[4] == place for line in lines)


@privsep.volume.entrypoint
def _share(folder: str) -> None:
    """Make a folder a mount whose mounts propagate, and are its own.

    Users of the host have no way to what is mounted below it: programs of a
    volume run in its server only. Its server does not come by this way.
    """
    place = pathlib.Path(folder)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    place.chmod(0o700)  # of one that an earlier release has made
    if not _mounted(folder):
        commands.run('mount', '--bind', folder, folder)
        # Not those of the parent's, whose peers would get each mount too.
        commands.run('mount', '--make-private', folder)
        commands.run('mount', '--make-shared', folder)


@privsep.volume.entrypoint
def _make_view(path: str, view: str) -> None:
    for each in (path, view):
        pathlib.Path(each).mkdir(mode=0o755, exist_ok=True)
    if not _mounted(view):
        commands.run('mount', '--options', f'bind,ro,{_ALWAYS}', path,
                     view)


@privsep.volume.entrypoint
def _drop_view(path: str, view: str) -> None:
    if _mounted(view):
        commands.run('umount', '--recursive', view)
    for each in (view, path):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(each)


@privsep.volume.entrypoint
def _mount(device: str, path: str, kind: str,
           ids: Sequence[Sequence[userns.Range]] | None) -> None:
    options = ','.join(filter(None, (_ALWAYS, OPTIONS[kind])))
    words = ('mount', '--types', kind, '--options', options, device)
    os.makedirs(path, mode=0o755, exist_ok=True)
    try:
        if ids is None:
            commands.run(*words, path)
        else:
            _mount_mapped(words, path, userns.IdMap(*ids))
    except exception.VolumeError:
        os.rmdir(path)
        raise


def _mount_mapped(words: Iterable[str], path: str,
                  ids: userns.IdMap) -> None:
    # Not at once where it is to be: the guest would see it as it is.
    with tempfile.TemporaryDirectory(prefix='nova-vcloud-') as place:
        commands.run(*words, place)
        try:
            idmounts.show(place, path, ids)
        except OSError as e:
            raise exception.VolumeError(
                'its owners cannot be those of the user namespace of the '
                f'server: {e}') from e
        finally:
            commands.run('umount', place)


@privsep.volume.entrypoint
def _unmount(path: str, seen: str) -> None:
    if _mounted(path):
        try:
            commands.run('umount', path)
        except exception.VolumeError as e:
            if 'busy' in str(e):
                raise exception.VolumeBusy(
                    f'programs in the server use {seen}: end them first'
                ) from e
            raise
    try:
        os.rmdir(path)
    except OSError as e:
        if e.errno != errno.ENOENT:
            raise exception.VolumeError(f'{path}: {e.strerror}') from e


@privsep.volume.entrypoint
def _have_filesystem(device: str, allowed: list[str], make: str) -> str:
    """Return the filesystem of a device, made where there is nothing."""
    kind = _probe(device, 'TYPE') or _probe(device, 'PTTYPE')
    if kind in allowed:
        return kind
    if kind:
        raise exception.VolumeError(
            f'the volume has {kind} on it; this host mounts only '
            f'{", ".join(allowed)}')
    if not make or not _blank(device):
        raise exception.VolumeError(
            'the volume has no filesystem'
            + (', and is not blank either' if make else ''))
    commands.run(f'mkfs.{make}', device)
    return make


def _probe(device: str, tag: str) -> str:
    # 2: nothing found. 8: several, and so none that can be relied on.
    return commands.run('blkid', '--probe', '--match-tag', tag, '--output',
                        'value', device, accept=(0, 2)).strip()


def _blank(device: str) -> bool:
    with open(device, 'rb') as f:
        size = f.seek(0, os.SEEK_END)
        for place in (0, max(size - _BLANK, 0)):
            f.seek(place)
            if any(f.read(_BLANK)):
                return False
    return True


@privsep.volume.entrypoint
def _grow(device: str, path: str) -> None:
    kind = _probe(device, 'TYPE')
    words = {'xfs': ('xfs_growfs', path), 'ext4': ('resize2fs', device),
             'btrfs': ('btrfs', 'filesystem', 'resize', 'max', path)}
    commands.run(*words[kind])

# SPDX-License-Identifier: Apache-2.0
"""Root filesystems of overlay2 on xfs, each in a file of its own.

For stores without quotas: what the engine keeps of a container moves into the
file, and the file is mounted in its place before the container runs. The
engine then has its overlay on it: ``df`` inside asks it, and it is full alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import os
import pathlib
import re
import shutil
import tempfile
from typing import Any

from nova_vcloud import exception
from nova_vcloud import privsep
from nova_vcloud.qos.disk import rootfs

DRIVER = 'overlay2'
#: Directory of the files below the engine's data-root.
FOLDER = 'nova-vcloud/disks'
#: Bytes of the journal, the least that mkfs.xfs makes. It comes on top.
JOURNAL = 64 << 20
#: Linux before charges nobody with what a loop device reads and writes.
KERNEL = (5, 14)
#: Options of its mount: on the host what a server has written gives nobody
#: anything. In the server the options of the engine's overlay hold.
GUARDED = 'nosuid,nodev'
#: What is made of a file that is not whole yet.
_UNFINISHED = '.new'
#: Bytes of one to try; mkfs.xfs makes none below 300 MiB.
_PROBE = 320 << 20
#: What an engine has in the directory of a layer and cannot start without.
_WRITTEN = ('diff', 'work')
#: Blocks that xfs keeps for itself, out of which it removes files when the
#: disk is full: what it takes by itself, of a disk of 640 MiB or more.
RESERVE = 8192
#: And while a server starts: the rest is the engine's to use.
_LESS_RESERVE = 1024


class Files:
    """Root disks in files, the way that a host makes them.

    :param whole: whether a file has all its space at once; otherwise what is
        written, and not removed again, takes space
    """

    #: Whether a container has a size later only when it was made with one.
    AT_CREATION = False
    #: Whether a size can be taken back.
    SHRINKS = False
    REMARK = ('each server has a file of 64 MiB more than its size; the '
              'files of the image do not count; df inside shows it, and its '
              'inodes are its own')
    STEP = 1 << 20  # bytes; xfs uses no rest that is too small for a group

    def __init__(self, whole: bool = False) -> None:
        self._whole = whole

    def why_not(self, info: Mapping[str, Any]) -> str:
        """Return what is missing for sizes to hold; '' when nothing is."""
        release = os.uname().release
        if tuple(map(int, re.findall(r'\d+', release)[:2])) < KERNEL:
            return (f'Linux {release} does not charge a server with what its '
                    f'root disk in a file reads and writes; '
                    f'{".".join(map(str, KERNEL))} does')
        return probe(info['DockerRootDir'])

    def look(self, root: str, container: str) -> tuple[int, int] | None:
        """Return the bytes a container uses and may use, 0 being any number.

        :param root: the engine's data-root
        :returns: None when there is no such container, or its disk is not
            mounted
        """
        return look(root, container)

    def limit(self, root: str, container: str, size: int) -> None:
        """Give a container a disk of so many bytes, or let its own grow.

        Its disk may be larger already: xfs cannot be made smaller.

        :raises LimitNotEnforced: with the reason
        """
        limit(root, container, size, self._whole)

    def mount(self, root: str, container: str) -> None:
        """Have a container's disk where the engine looks for it.

        One that has none, or does not exist, is fine.

        :raises LimitNotEnforced: its disk is lost, or cannot be mounted
        """
        mount(root, container, self._whole)

    def make_room(self, root: str, container: str) -> str:
        """Have room on the disk of a stopped container for its start.

        :returns: line for the runtime that ends it; '' when there was room
        :raises LimitNotEnforced: it cannot be had
        """
        return make_room(root, container)


@privsep.disk.entrypoint
def probe(root: str) -> str:
    """Make a disk, and remove it.

    :param root: the engine's data-root
    :returns: why it cannot be; '' if it can
    """
    place = os.path.join(root, DRIVER)
    if os.stat(root).st_dev != os.stat(place).st_dev:
        return (f'{place} is a file system of its own: mount it on {root}, '
                'where the files of root disks are')
    try:
        _try(root)
    except exception.LimitNotEnforced as e:
        return f'{e}; install xfsprogs, and have loop devices and xfs'
    return ''


def _try(root: str) -> None:
    folder = os.path.join(root, FOLDER)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(
            dir=folder, prefix='probe-', suffix=_UNFINISHED) as place:
        path = os.path.join(place, 'disk')
        make(path, _PROBE, whole=False)
        mounted = os.path.join(place, 'mount')
        os.mkdir(mounted)
        attach(path, mounted, whole=False)
        rootfs.tool('umount', mounted)


@privsep.disk.entrypoint
def look(root: str, container: str) -> tuple[int, int] | None:
    """Do :meth:`Files.look`."""
    place = _place(root, container)
    if place is None:
        return None
    if not os.path.ismount(place):
        return None if os.path.exists(_file(root, container)) else (0, 0)
    found = os.statvfs(place)
    return ((found.f_blocks - found.f_bfree) * found.f_frsize,
            found.f_blocks * found.f_frsize)


@privsep.disk.entrypoint
def limit(root: str, container: str, size: int, whole: bool) -> None:
    """Do :meth:`Files.limit`."""
    place = _place(root, container)
    if place is None:
        raise exception.LimitNotEnforced(f'no container {container}')
    path = _file(root, container)
    if not os.path.exists(path):
        if size:
            _move(place, path, size, whole)
        return
    if not size:
        raise exception.LimitNotEnforced(
            'a root disk that is a file has a size')
    _have(root, container, place, whole)
    found = os.statvfs(place)
    if found.f_blocks * found.f_frsize < size:
        with open(path, 'r+b') as f:
            _stretch(f.fileno(), size, whole)
        for device in _devices(path):
            rootfs.tool('losetup', '--set-capacity', device)
        rootfs.tool('xfs_growfs', place)


@privsep.disk.entrypoint
def mount(root: str, container: str, whole: bool) -> None:
    """Do :meth:`Files.mount`."""
    place = _place(root, container)
    if place is not None:
        _have(root, container, place, whole)


@privsep.disk.entrypoint
def make_room(root: str, container: str) -> str:
    """Do :meth:`Files.make_room`.

    The engine makes a directory beside what a server has written, and the
    kernel one for its overlay, which it else mounts read-only: on a disk that
    is full neither can. Space that xfs has in reserve is given to them, and
    a piece that is large enough for inodes.
    """
    place = _place(root, container)
    if place is None or not os.path.ismount(place):
        return ''
    found = os.statvfs(place)
    if rootfs.is_roomy(found):
        # A disk of an earlier release has none yet.
        rootfs.keep_spare(place)
        return ''
    rootfs.give_spare(place)
    rootfs.tool('xfs_io', '-x', '-c', f'resblks {_LESS_RESERVE}', place)
    share = 0
    if found.f_favail < rootfs.ROOM_INODES:
        share = _inode_share(place)
        rootfs.tool('xfs_growfs', '-m', str(share + 1), place)
    return f'reserve {RESERVE} 0 {share} {place}'


def _inode_share(place: str) -> int:
    """Return the part of its space that an xfs has inodes in, in percent.
    """
    return int(re.findall(r'imaxpct=(\d+)', rootfs.tool('xfs_info', place))[0])


@privsep.disk.entrypoint
def forget(root: str, container: str) -> None:
    """Remove the disk of a container that the engine has no more.

    The engine has unmounted it (moby, EnsureRemoveAll), and the loop device
    goes with the mount. None is fine.
    """
    if rootfs.layer(root, DRIVER, container) is None:
        path = _file(root, container)
        _remove(path)
        _remove(path + _UNFINISHED)


@privsep.disk.entrypoint
def sweep(root: str) -> list[str]:
    """Remove disks of containers that are gone, and ones half made.

    Those of others are guarded as new ones are.

    Nobody may make one meanwhile.

    :returns: what was removed
    """
    found = []
    for path in sorted(pathlib.Path(root, FOLDER).glob('*')):
        container = path.name.removesuffix(_UNFINISHED)
        place = _place(root, container)
        if place is not None and path.suffix != _UNFINISHED:
            _guard(place)
            continue
        if path.is_dir():  # of probe()
            for mounted in filter(os.path.ismount, path.iterdir()):
                rootfs.tool('umount', str(mounted))
            for each in filter(pathlib.Path.is_file, path.iterdir()):
                _remove(str(each))
            shutil.rmtree(path)
        else:
            _clear(str(path), place)
        found.append(str(path))
    return found


def _guard(place: str) -> None:
    """Guard the host from a disk that an earlier release has mounted.

    What a server sees of it has options of its own: it may run meanwhile.
    """
    if os.path.ismount(place) \
            and not os.statvfs(place).f_flag & os.ST_NOSUID:
        rootfs.tool('mount', '--options', f'remount,bind,{GUARDED}', place)


def _file(root: str, container: str) -> str:
    return os.path.join(root, FOLDER, container)


def _place(root: str, container: str) -> str | None:
    """Return the directory of what a container has written, and more."""
    name = rootfs.layer(root, DRIVER, container)
    return name and os.path.join(root, DRIVER, name)


def _have(root: str, container: str, place: str, whole: bool) -> None:
    if os.path.ismount(place):
        return
    path = _file(root, container)
    if os.path.exists(path):
        attach(path, place, whole)
    elif not os.path.isdir(os.path.join(place, _WRITTEN[0])):
        raise exception.LimitNotEnforced(
            f'the root disk of the server is lost: there is no {path}')


def _move(place: str, path: str, size: int, whole: bool) -> None:
    """Move what an engine keeps of a container, which is stopped, to a disk.

    :param path: of the file to be made
    """
    if os.path.ismount(os.path.join(place, 'merged')):
        raise exception.LimitNotEnforced(
            'the server has no root disk of its own yet: stop it first, and '
            'it gets one')
    unfinished = path + _UNFINISHED
    if os.path.exists(unfinished):
        _clear(unfinished, place)
    with _opened(place) as below, contextlib.ExitStack() as undo:
        undo.callback(_remove, unfinished)
        make(unfinished, size, whole)
        attach(unfinished, place, whole)
        undo.callback(rootfs.tool, 'umount', place)
        # Who has opened a directory still sees it below the mount.
        try:
            rootfs.tool('cp', '--archive', '--no-target-directory',
                        f'/proc/{os.getpid()}/fd/{below}/.', place)
        except exception.LimitNotEnforced as e:
            raise exception.LimitNotEnforced(
                'what the server has written does not fit on a root disk of '
                f'{size >> 20} MiB: {e}') from e
        rootfs.keep_spare(place)
        # Should the host lose power, one of both has all of it.
        _sync(place)
        os.rename(unfinished, path)
        undo.pop_all()
        # Without the mount the engine cannot start it on an empty disk, and
        # still finds what it needs to remove it.
        for name in _WRITTEN:
            # Not shutil: a guest may nest deeper than Python can call.
            rootfs.tool('rm', '-rf', '--one-file-system', '--',
                        f'/proc/{os.getpid()}/fd/{below}/{name}')


def _clear(unfinished: str, place: str | None) -> None:
    if place is not None and os.path.ismount(place):
        rootfs.tool('umount', place)
    _remove(unfinished)


def _sync(place: str) -> None:
    if os.listdir(os.path.join(place, _WRITTEN[0])):
        rootfs.tool('sync', '--file-system', place)
        return
    # Of a server that is new this is all.
    for path in filter(pathlib.Path.is_file, pathlib.Path(place).iterdir()):
        with path.open('rb') as f:
            os.fsync(f.fileno())


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    found = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield found
    finally:
        os.close(found)


def make(path: str, size: int, whole: bool) -> None:
    """Make a file with a file system of so many bytes."""
    with open(path, 'xb', opener=lambda name, flags: os.open(
            name, flags, 0o600)) as f:
        _stretch(f.fileno(), size, whole)
    rootfs.tool('mkfs.xfs', '-q', '-K', '-l', f'size={JOURNAL}', path)


def _stretch(file: int, size: int, whole: bool) -> None:
    try:
        if whole:
            os.posix_fallocate(file, 0, size + JOURNAL)
        os.ftruncate(file, size + JOURNAL)
    except OSError as e:
        raise exception.LimitNotEnforced(
            f'a root disk of {size >> 20} MiB: {e.strerror}') from e


def attach(path: str, place: str, whole: bool) -> None:
    """Mount a file; its loop device goes when it is unmounted.

    Each program costs some milliseconds of the start of a server.
    """
    # Space that a server gives back, the store has again.
    options = f'{GUARDED},{"nodiscard" if whole else "discard"}'
    # Pages are not cached twice, and requests are as the server makes them,
    # which its limits count. Before it is mounted: later the kernel takes
    # 20 ms for it.
    device = rootfs.tool('losetup', '--find', '--show', '--direct-io=on',
                         path).strip()
    try:
        rootfs.tool('mount', '--types', 'xfs', '--options', options, device,
                    place)
    finally:
        # The kernel does it when nobody uses the device any more.
        rootfs.tool('losetup', '--detach', device)


def _devices(path: str) -> list[str]:
    return rootfs.tool('losetup', '--associated', path, '--noheadings',
                       '--output', 'NAME').split()


def _remove(path: str) -> None:
    """Remove a file that is not mounted; none is fine."""
    if os.path.exists(path):
        for device in _devices(path):
            try:
                rootfs.tool('losetup', '--detach', device)
            except exception.LimitNotEnforced:
                # The kernel lets go of one a moment after its unmount.
                if device in _devices(path):
                    raise
        os.unlink(path)

# SPDX-License-Identifier: Apache-2.0
"""Copies of what a server has written, on its host, while it runs.

What a snapshot is made of: nobody changes it, so a server stands still only
while what it has changed of late is copied. Holes in files stay holes. Each
copy is a directory in the engine's own file system, where the layer is.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import os
import shutil
import subprocess
import threading
import time
from typing import Any

from oslo_log import log

from nova_vcloud import exception
from nova_vcloud import idmounts
from nova_vcloud import privsep
from nova_vcloud import userns
from nova_vcloud.engine import Engine
from nova_vcloud.image import layer_writer
from nova_vcloud.transfer import transport
from nova_vcloud.virt_docker import crash_points
from nova_vcloud.virt_docker.guest import container_nics
from nova_vcloud.virt_docker.guest import containers
from nova_vcloud.virt_docker.rootfs import changed_files
from nova_vcloud.virt_docker.rootfs import overlay
from nova_vcloud.virt_docker.rootfs import precopy

LOG = log.getLogger(__name__)

#: Below the engine's root directory.
FOLDER = 'nova-vcloud/snapshots'
#: Bytes of the file system that are left to others, at least.
RESERVE = 256 << 20
# In the directory of a copy.
_CHANGES, _FROZEN, _MERGED = 'changes.tar', 'frozen', 'merged'
_BELOW = 'below'


@dataclasses.dataclass(frozen=True)
class DiskCopy:
    """A copy that is complete.

    Owners in it are those that the server knows.

    :ivar folder: in which it is
    :ivar sizes: as a layer
    :ivar ids: an IdMap, of a server with a user namespace
    """

    folder: str
    sizes: layer_writer.Sizes
    ids: overlay.Ids = None

    @property
    def layer(self) -> str:
        """Return the directory of the layer."""
        return os.path.join(self.folder, overlay.LAYER)


class DiskCopies:
    """The copies on one host."""

    def __init__(self, engine: Engine, servers: containers.Containers
                 ) -> None:
        self._engine = engine
        self._servers = servers
        self._lock = threading.Lock()
        self._promised: dict[str, int] = {}  # name of a copy -> bytes

    @contextlib.contextmanager
    def taken(self, uuid: str, name: str, limit: int,
              image_size: int) -> Iterator[DiskCopy]:
        """Have a copy of a server's disk for a while.

        :param name: of the copy; nobody else uses it
        :param limit: bytes that its files may say they have, if what they
            have on disk is not more; 0 for what a host could load
        :param image_size: bytes that will be needed beside it
        :raises DiskTooLarge: before the server is touched, if that can be
        :raises MoveFailed: with the reason; the server runs as before
        """
        container = self._servers.whole(self._servers.inspect(uuid))
        upper = overlay.upper(container)
        used, root = overlay.size(upper), engine_root(upper)
        limit = limit or shutil.disk_usage(root).free // 2
        check(apparent(upper), used, limit)
        folder = os.path.join(root, FOLDER, name)
        with self._promise(name, root, 2 * used + image_size), \
                contextlib.ExitStack() as undo:
            undo.callback(remove, folder)
            make(folder)
            self._fill(uuid, container, folder)
            found = measured(os.path.join(folder, overlay.LAYER))
            # It may have grown meanwhile; nothing of it was written out.
            check(found.files, overlay.size(folder), limit)
            yield DiskCopy(folder, found,
                           userns.of_engine(self._engine.info()))

    def room(self, name: str, wanted: int
             ) -> contextlib.AbstractContextManager[None]:
        """Have bytes of the engine's file system promised.

        :raises DiskTooLarge: they are not there
        """
        return self._promise(
            name, self._engine.info()['DockerRootDir'], wanted)

    @contextlib.contextmanager
    def _promise(self, name: str, root: str, wanted: int) -> Iterator[None]:
        with self._lock:
            free = (shutil.disk_usage(root).free - RESERVE
                    - sum(self._promised.values()))
            if wanted > free:
                raise exception.DiskTooLarge(
                    f'no space left on device: the host needs '
                    f'{wanted >> 20} MiB for it and has '
                    f'{max(0, free) >> 20} MiB; try again later')
            self._promised[name] = wanted
        try:
            yield
        finally:
            with self._lock:
                del self._promised[name]

    def _fill(self, uuid: str, container: dict[str, Any],
              folder: str) -> None:
        state = container['State']
        upper = overlay.upper(container)
        if not state['Running'] or state['Paused']:
            with container_nics.lock(uuid):
                self._same(uuid, container['Id'])
                overlay.copy(upper, os.path.join(folder, overlay.LAYER),
                             ids=userns.of_engine(self._engine.info()))
            return
        copied = precopy.Copy(self._engine, container, 0, folder)
        copied.here(os.path.join(folder, overlay.LAYER))
        crash_points.reached('copied')
        changes = os.path.join(folder, _CHANGES)
        with container_nics.lock(uuid), self._still(
                uuid, container['Id'], folder):
            copied.changes(changes)
        overlay.apply(changes, os.path.join(folder, overlay.LAYER))

    def _same(self, uuid: str, container_id: str) -> dict[str, Any]:
        """Return the state of a server's container.

        :raises ContainerNotFound: it has another one now
        """
        found = self._servers.inspect(uuid)
        if found['Id'] != container_id:
            raise exception.ContainerNotFound(
                f'Container {container_id} is not the server any more')
        return dict(found['State'])

    @contextlib.contextmanager
    def _still(self, uuid: str, container_id: str,
               folder: str) -> Iterator[None]:
        """Let the server stand still for a while; it may have ended."""
        state = self._same(uuid, container_id)
        if not state['Running'] or state['Paused']:
            yield
            return
        note_frozen(folder, container_id)
        began = time.monotonic()
        try:
            self._engine.pause(container_id)
            crash_points.reached('frozen')
            yield
        finally:
            self._thaw(container_id)
            note_frozen(folder, '')
            LOG.info('Server %s stood still for %.2f s', uuid,
                     time.monotonic() - began)

    def _thaw(self, container_id: str) -> None:
        try:
            self._engine.unpause(container_id)
        except (exception.EngineConflict, exception.ContainerNotFound):
            pass  # it has ended

    def remove_leftovers(self) -> None:
        """End what a nova-compute that was killed has begun."""
        root = os.path.join(self._engine.info()['DockerRootDir'], FOLDER)
        for folder, container_id in leftovers(root).items():
            LOG.info('Removing the copy %s, which nobody uploads any more',
                     folder)
            if container_id:
                LOG.warning('Container %s was frozen for it and runs on',
                            container_id)
                with contextlib.suppress(exception.EngineError):
                    self._thaw(container_id)
            remove(folder)


def check(files: int, used: int, limit: int) -> None:
    """Tell whether a disk can be an image.

    :param files: bytes that its files say they have
    :param used: bytes that they have on disk
    :param limit: bytes; more than that must be used in earnest
    :raises DiskTooLarge: it has too large holes
    """
    if files > max(limit, used):
        raise exception.DiskTooLarge(
            f'the files of the server have {_mib(files)} MiB with the holes '
            f'in them, {_mib(used)} MiB without; an image holds them '
            f'without holes, and the disk has {_mib(limit)} MiB: remove or '
            'shorten sparse files (du --apparent-size shows them)')


def _mib(size: int) -> int:
    return -(-size // (1 << 20))


def engine_root(upper: str) -> str:
    """Return the engine's root directory, by that of a layer."""
    return os.path.dirname(os.path.dirname(os.path.dirname(upper)))


def stream(found: DiskCopy) -> contextlib.AbstractContextManager[
        Iterator[bytes]]:
    """Have the tar of a copy's layer."""
    return transport.produced(lambda sink: write(found.layer, sink))


@contextlib.contextmanager
def merged(found: DiskCopy, container: dict[str, Any]) -> Iterator[DiskCopy]:
    """Have a copy with all that lies below it, as one layer.

    :param container: of which it is a copy
    """
    names = overlay.graph(container)['LowerDir'].split(':')
    # What the engine has put there for this one container is of no image.
    lowers = [name for name in names
              if not os.path.dirname(name).endswith('-init')]
    try:
        mount(found.folder, lowers, found.ids)
        path = os.path.join(found.folder, _MERGED)
        yield DiskCopy(path, measured(os.path.join(path, overlay.LAYER)))
    finally:
        unmount(found.folder)


# What needs privilege: everything in these directories has any owner.


@privsep.disk.entrypoint
def apparent(layer: str) -> int:
    """Return bytes that the files in a layer say they have.

    The guest changes it meanwhile: ``find`` does not let itself be led out.

    :raises MoveFailed: as of :func:`changed_files.lines`
    """
    total, linked = 0, {}
    for line in changed_files.lines(layer, '%y %n %i %s'):
        kind, links, inode, size, _path = line.split(b' ', 4)
        if kind != b'f':
            continue
        if links == b'1':
            total += int(size)
        else:
            linked[inode] = int(size)
    return total + sum(linked.values())


@privsep.disk.entrypoint
def make(folder: str) -> None:
    """Make the directory of a copy.

    :raises MoveFailed: it is there
    """
    os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
    try:
        os.mkdir(folder, mode=0o700)
    except FileExistsError as e:
        raise exception.MoveFailed(f'{folder} is in use') from e
    os.mkdir(os.path.join(folder, overlay.LAYER))


def measured(layer: str) -> layer_writer.Sizes:
    """Tell how large a layer is as a tar.

    :raises InvalidImageArchive: no layer can hold what is there
    """
    try:
        return layer_writer.Sizes(*_measure(layer))
    except OSError as e:
        raise exception.MoveFailed(f'{layer}: {e.strerror}') from e


@privsep.disk.entrypoint
def _measure(layer: str) -> tuple[int, int, bool]:
    return dataclasses.astuple(layer_writer.measure(layer))


@privsep.disk.entrypoint
def write(layer: str, sink: str) -> None:
    """Write the tar of a layer into a pipe."""
    with open(sink, 'wb') as f:
        layer_writer.write(layer, f)


@privsep.disk.entrypoint
def note_frozen(folder: str, container_id: str) -> None:
    """Note which container stands still for a copy; '' for none."""
    path = os.path.join(folder, _FROZEN)
    if not container_id:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    with open(path, 'w') as f:
        f.write(container_id)


@privsep.disk.entrypoint
def leftovers(root: str) -> dict[str, str]:
    """Return {folder: the container that stands still for it, or ''}."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(root)):
            folder = os.path.join(root, name)
            found[folder] = ''
            with contextlib.suppress(OSError), \
                    open(os.path.join(folder, _FROZEN)) as f:
                found[folder] = f.read()
    return found


@privsep.disk.entrypoint
def mount(folder: str, lowers: list[str], ids: overlay.Ids = None) -> None:
    """Mount a copy on top of the layers below, to be read.

    The kernel takes a page of options: the layers get short names.

    :param lowers: directories, the highest first
    :param ids: an IdMap by which owners in them are the host's
    :raises MoveFailed: with mount's words
    """
    below = os.path.join(folder, _BELOW)
    path = os.path.join(folder, _MERGED, overlay.LAYER)
    os.mkdir(below)
    os.makedirs(path)
    for number, name in enumerate(lowers):
        _show(name, os.path.join(below, str(number)), ids)
    names = ':'.join(f'{_BELOW}/{number}' for number in range(len(lowers)))
    done = subprocess.run(
        ['mount', '--types', 'overlay', '--options',
         f'ro,nosuid,nodev,lowerdir={overlay.LAYER}:{names}', '--', 'overlay',
         path],
        cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise exception.MoveFailed(done.stderr.strip()[-500:])


def _show(name: str, path: str, ids: overlay.Ids) -> None:
    if not ids:
        os.symlink(name, path)
        return
    os.mkdir(path)
    try:
        idmounts.show(name, path, userns.IdMap(*ids).turned())
    except OSError as e:
        raise exception.MoveFailed(f'the owners of files in {name}: {e}'
                                   ) from e


def _mounts(folder: str) -> list[str]:
    """Return what is mounted for a copy, the uppermost first."""
    below = os.path.join(folder, _BELOW)
    names = os.listdir(below) if os.path.isdir(below) else []
    paths = [os.path.join(folder, _MERGED, overlay.LAYER),
             *(os.path.join(below, name) for name in names)]
    return [path for path in paths if os.path.ismount(path)]


@privsep.disk.entrypoint
def unmount(folder: str) -> None:
    """Unmount a copy; one that is not mounted is fine."""
    for path in _mounts(folder):
        subprocess.run(['umount', '--', path], check=True, capture_output=True)


@privsep.disk.entrypoint
def remove(folder: str) -> None:
    """Remove a copy; absent is fine."""
    for path in _mounts(folder):
        subprocess.run(['umount', '--lazy', '--', path], check=False,
                       capture_output=True)
    # Not shutil: a guest may nest directories deeper than Python can call.
    subprocess.run(['rm', '-rf', '--one-file-system', '--', folder],
                   check=False, capture_output=True)

# SPDX-License-Identifier: Apache-2.0
"""Brings Glance images to this host's engine: once each, streamed, checked.

A Glance image has ``container_format=docker`` and ``disk_format=raw`` and is
either what ``docker save`` wrote or a root filesystem (``docker export``).
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import itertools
import json
import os
import pathlib
import platform
import shlex
import time
from typing import Any

from nova import exception as nova_exception
from nova import objects
from oslo_concurrency import lockutils
from oslo_log import log
from oslo_utils import units

from nova_vcloud import archive
from nova_vcloud import exception
from nova_vcloud import manifests
from nova_vcloud import registry
from nova_vcloud.engine import Engine
from nova_vcloud.virt_docker import references

LOG = log.getLogger(__name__)

REPOSITORY = 'nova-vcloud/'
DEFAULT_COMMAND = '/sbin/init'


def tag_of(image_id: str) -> str:
    """Return the one name a Glance image has on an engine."""
    return f'{REPOSITORY}{image_id}:latest'


def known(glance: Any, context: Any, image_id: str) -> bool:
    """Tell whether Glance still has an image that can be downloaded."""
    try:
        return bool(glance.get(context, image_id)['status'] == 'active')
    except (nova_exception.ImageNotFound,
            nova_exception.ImageNotAuthorized):
        return False


class ImageStore:
    """The images of one engine that came from Glance.

    :param download: ``(context, image id)`` -> the image's bytes in chunks,
        as ``nova.image.glance.API().download``
    :param lock_path: folder of the lock files, one an image; an engine's
        users must share it
    :param registries: finds those that are not Glance's own
    """

    def __init__(self, engine: Engine,
                 download: Callable[[Any, str], Iterable[bytes]],
                 lock_path: str,
                 registries: references.References | None = None) -> None:
        self._engine = engine
        self._download = download
        self._registries = registries
        self._lock_path = lock_path
        self._sizes: dict[str, int] = {}  # image id -> bytes, on the engine

    def cached(self, image_id: str) -> str | None:
        """Return the tag of an image known to be on the engine."""
        return tag_of(image_id) if image_id in self._sizes else None

    def forget(self, image_id: str) -> None:
        """Look again next time: the engine has lost the image."""
        self._sizes.pop(image_id, None)

    def locked(self, image_id: str, *, blocking: bool = True
               ) -> contextlib.AbstractContextManager[Any]:
        """Keep all others from loading or removing an image.

        :raises AcquireLockFailedException: somebody does, if not ``blocking``
        """
        # The kernel frees the lock of a process that dies.
        return lockutils.lock(f'image-{image_id}', 'nova-vcloud-',
                              external=True, lock_path=self._lock_path,
                              blocking=blocking)

    def mark(self, image_id: str) -> None:
        """Remember that an image is in use now."""
        mark = self._mark(image_id)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()

    def last_used(self, image_id: str) -> float:
        """Return when an image was in use; of an unknown one it is now."""
        with contextlib.suppress(FileNotFoundError):
            return self._mark(image_id).stat().st_mtime
        self.mark(image_id)
        return time.time()

    def remove(self, image_id: str) -> None:
        """Remove an image, of which the caller has the lock.

        :raises EngineConflict: a container needs it
        """
        self.forget(image_id)
        self._engine.image_remove(tag_of(image_id))
        self._mark(image_id).unlink(missing_ok=True)

    def _mark(self, image_id: str) -> pathlib.Path:
        return pathlib.Path(self._lock_path, 'used', image_id)

    def ensure(self, context: Any, image_id: str,
               image_meta: objects.ImageMeta, *, root_gb: int,
               instance: objects.Instance | None) -> str:
        """Have an image on the engine and return its tag.

        :param root_gb: GiB of disk of the flavor; 0 is no limit
        :param instance: for whom; named in the log
        :raises ImageUnacceptable: the image cannot become a server here;
            nothing of it is left on the engine
        :raises FlavorDiskSmallerThanImage: the flavor's disk is too small;
            the image stays, for larger flavors
        :raises EngineError: the engine failed for a reason of its own
        """
        _check_formats(image_id, image_meta)
        self.mark(image_id)
        size = self._sizes.get(image_id)
        if size is None:
            with self.locked(image_id):
                size = self._sizes.get(image_id)
                if size is None:
                    size = self._have(context, image_id, image_meta, root_gb,
                                      instance)
                    self._sizes[image_id] = size
        if root_gb and size > root_gb * units.Gi:
            raise nova_exception.FlavorDiskSmallerThanImage(
                flavor_size=root_gb * units.Gi, image_size=size)
        return tag_of(image_id)

    def _have(self, context: Any, image_id: str,
              image_meta: objects.ImageMeta, root_gb: int,
              instance: objects.Instance | None) -> int:
        """Load an image unless the engine has it; return its size."""
        found = self._engine.image_get(tag_of(image_id))
        if found is None:
            LOG.info('Loading image %s', image_id, instance=instance)
            self._load(context, image_id, image_meta, root_gb)
            found = self._engine.image_get(tag_of(image_id))
            if found is None:
                raise exception.EngineError(
                    f'the engine loaded image {image_id} but does not know '
                    f'{tag_of(image_id)}')
            LOG.info('Loaded image %s: %d bytes', image_id, found['Size'],
                     instance=instance)
        reason = _unfit(found)
        if reason:
            self._discard(image_id)
            raise nova_exception.ImageUnacceptable(
                image_id=image_id, reason=exception.one_line(reason))
        return int(found['Size'])

    def _load(self, context: Any, image_id: str,
              image_meta: objects.ImageMeta, root_gb: int) -> None:
        limit, room = _limit(root_gb), self._room()
        with self._undone(image_id, own=room < limit):
            found = (self._registries.find(context, image_id)
                     if self._registries else None)
            if found:
                self._pull(found, tag_of(image_id), min(limit, room))
            else:
                self._upload(context, image_id, image_meta, min(limit, room))

    @contextlib.contextmanager
    def _undone(self, image_id: str, *, own: bool) -> Iterator[None]:
        """Leave nothing of an image that does not load.

        :param own: that it is too large is the fault of this host
        """
        try:
            yield
        except exception.ImageTooLarge as e:
            self._discard(image_id)
            if own:
                raise exception.EngineError(
                    f'no space left on device: image {image_id} needs more '
                    'than the engine of this host has room for') from e
            raise _unacceptable(image_id, e.reason) from e
        except exception.InvalidImageArchive as e:
            self._discard(image_id)
            raise _unacceptable(image_id, e.reason) from e
        except exception.RegistryError as e:
            self._discard(image_id)
            raise _unacceptable(image_id, str(e)) from e
        except exception.EngineError as e:
            self._discard(image_id)
            if engines_own(e):
                raise
            raise _unacceptable(
                image_id, f'the Docker engine refused it: {e}') from e

    def _upload(self, context: Any, image_id: str,
                image_meta: objects.ImageMeta, limit: int) -> None:
        """Give the engine an image's file."""
        changes = [f'CMD {json.dumps(_command(image_id, image_meta))}']
        source = _Source(self._download(context, image_id))
        try:
            opened = archive.open_archive(source, tag_of(image_id), limit)
            if opened.kind is archive.Kind.ROOTFS:
                self._engine.image_import(opened.chunks, tag_of(image_id),
                                          changes)
            else:
                self._engine.image_load(opened.chunks)
        except _DownloadFailedError as e:
            self._discard(image_id)
            raise source.error or e from None

    def _pull(self, found: registry.Image, tag: str, limit: int) -> None:
        """Give the engine an image of a registry, but the layers it has."""
        there = self._layers_there(found.diff_ids)
        try:
            self._engine.image_load(found.archive(tag, limit, there))
        except exception.EngineUnavailable:
            raise
        except exception.EngineError as e:
            if not there:
                raise
            LOG.info('The engine has lost layers meanwhile (%s)', e)
            self._engine.image_load(found.archive(tag, limit))

    def _layers_there(self, wanted: tuple[str, ...]) -> int:
        """Return how many of an image's lowest layers the engine has."""
        best = 0
        for name in self._engine.image_names(f'{REPOSITORY}*'):
            found = (self._engine.image_get(name) or {}).get('RootFS', {})
            pairs = zip(wanted, found.get('Layers') or (), strict=False)
            same = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
            best = max(best, sum(1 for _ in same))
        return best

    def _room(self) -> int:
        """Return bytes that an image may take on this host.

        The engine unpacks an archive, and then its layers, beside it.
        """
        found = os.statvfs(self._engine.info()['DockerRootDir'])
        return found.f_bavail * found.f_frsize // 2

    def _discard(self, image_id: str) -> None:
        try:
            self._engine.image_remove(tag_of(image_id))
        except exception.EngineError as e:
            LOG.warning('Image %s may be left on the engine: %s', image_id, e)


class _DownloadFailedError(Exception):
    """Glance's error on its way through the engine's HTTP client.

    urllib3 takes a broken pipe, which is what glanceclient raises for a
    wrong checksum, for the engine's, and waits for ever for an answer.
    """


class _Source:
    """Chunks of a download; remembers the error that ended it."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._chunks
        except Exception as e:
            self.error = e
            raise _DownloadFailedError(str(e)) from e


def _limit(root_gb: int) -> int:
    """Return bytes that an image for a flavor may unpack to.

    There is room for headers and for files that upper layers replace.
    """
    return (2 * root_gb + 1) * units.Gi if root_gb else archive.MAX_BYTES


def _unacceptable(image_id: str,
                  reason: str) -> nova_exception.ImageUnacceptable:
    return nova_exception.ImageUnacceptable(
        image_id=image_id, reason=exception.one_line(reason))


def _check_formats(image_id: str, image_meta: objects.ImageMeta) -> None:
    for name, wanted in (('container_format', 'docker'),
                         ('disk_format', 'raw')):
        found = (getattr(image_meta, name)
                 if image_meta.obj_attr_is_set(name) else None)
        if found != wanted:
            raise nova_exception.ImageUnacceptable(
                image_id=image_id,
                reason=f'its {name} is {found or "not set"}, but a host that '
                       f'runs containers needs {wanted}; upload the output '
                       'of "docker save" with container_format=docker and '
                       'disk_format=raw')


def _command(image_id: str, image_meta: objects.ImageMeta) -> list[str]:
    """Return the first process of a root filesystem without a command.

    Nova keeps only the image properties it knows; of these
    ``os_command_line`` is the one that says how a system is started.
    """
    line = image_meta.properties.get('os_command_line') or DEFAULT_COMMAND
    try:
        return shlex.split(line)
    except ValueError as e:
        raise nova_exception.ImageUnacceptable(
            image_id=image_id,
            reason=f'its property os_command_line: {e}') from e


def _unfit(found: dict[str, Any]) -> str:
    """Return why this host cannot run a loaded image; '' when it can."""
    if found['Os'] != 'linux':
        return f'it is made for {found["Os"]}, not for linux'
    machine = platform.machine()
    # An image that does not say may be anything; most are the host's kind.
    if found['Architecture'] not in ('', *manifests.runs(machine)):
        return (f'it is made for {found["Architecture"]}; this host is '
                f'{machine}')
    return ''


def engines_own(error: exception.EngineError) -> bool:
    """Tell whether another host might load what this engine did not."""
    return (isinstance(error, exception.EngineUnavailable)
            or 'no space left on device' in str(error).lower())

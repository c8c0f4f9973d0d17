# SPDX-License-Identifier: Apache-2.0
"""Brings Glance images to this host's engine: once each, streamed, checked.

A Glance image has ``container_format=docker`` and ``disk_format=raw`` and is
either what ``docker save`` wrote or a root filesystem (``docker export``).
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import json
import platform
import shlex
from typing import Any

from nova import exception as nova_exception
from nova import objects
from oslo_concurrency import lockutils
from oslo_log import log
from oslo_utils import units

from nova_vcloud import archive
from nova_vcloud import exception
from nova_vcloud.engine import Engine

LOG = log.getLogger(__name__)

REPOSITORY = 'nova-vcloud/'
DEFAULT_COMMAND = '/sbin/init'
# platform.machine() -> architectures of image configurations it can run.
_RUNS = {
    'x86_64': ('amd64', '386'),
    'aarch64': ('arm64',),
    'ppc64le': ('ppc64le',),
    's390x': ('s390x',),
    'riscv64': ('riscv64',),
}


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
    """

    def __init__(self, engine: Engine,
                 download: Callable[[Any, str], Iterable[bytes]],
                 lock_path: str) -> None:
        self._engine = engine
        self._download = download
        self._lock_path = lock_path
        self._sizes: dict[str, int] = {}  # image id -> bytes, on the engine

    def cached(self, image_id: str) -> str | None:
        """Return the tag of an image known to be on the engine."""
        return tag_of(image_id) if image_id in self._sizes else None

    def forget(self, image_id: str) -> None:
        """Look again next time: the engine has lost the image."""
        self._sizes.pop(image_id, None)

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
        size = self._sizes.get(image_id)
        if size is None:
            # The kernel frees the lock of a process that dies.
            with lockutils.lock(f'image-{image_id}', 'nova-vcloud-',
                                external=True, lock_path=self._lock_path):
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
                image_id=image_id, reason=reason)
        return int(found['Size'])

    def _load(self, context: Any, image_id: str,
              image_meta: objects.ImageMeta, root_gb: int) -> None:
        changes = [f'CMD {json.dumps(_command(image_id, image_meta))}']
        source = _Source(self._download(context, image_id))
        # Room for headers and for files that upper layers replace.
        limit = (2 * root_gb + 1) * units.Gi if root_gb else archive.MAX_BYTES
        try:
            opened = archive.open_archive(source, tag_of(image_id), limit)
            if opened.kind is archive.Kind.ROOTFS:
                self._engine.image_import(opened.chunks, tag_of(image_id),
                                          changes)
            else:
                self._engine.image_load(opened.chunks)
        except exception.InvalidImageArchive as e:
            self._discard(image_id)
            raise nova_exception.ImageUnacceptable(
                image_id=image_id, reason=e.reason) from e
        except _DownloadFailedError as e:
            self._discard(image_id)
            raise source.error or e from None
        except exception.EngineError as e:
            self._discard(image_id)
            if _engines_own(e):
                raise
            raise nova_exception.ImageUnacceptable(
                image_id=image_id,
                reason=f'the Docker engine refused it: {e}') from e

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
    if found['Architecture'] not in ('', *_RUNS.get(machine, (machine,))):
        return (f'it is made for {found["Architecture"]}; this host is '
                f'{machine}')
    return ''


def _engines_own(error: exception.EngineError) -> bool:
    """Tell whether another host might load what this engine did not."""
    return (isinstance(error, exception.EngineUnavailable)
            or 'no space left on device' in str(error).lower())

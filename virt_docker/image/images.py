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
import platform
import shlex
from typing import Any
from typing import NamedTuple

from nova import exception as nova_exception
from nova import objects
from oslo_log import log
from oslo_utils import units

from nova_vcloud import exception
from nova_vcloud.engine import Engine
from nova_vcloud.image import docker_archive
from nova_vcloud.image import image_config
from nova_vcloud.image import manifests
from nova_vcloud.image import registry
from nova_vcloud.image import unpacked_size
from nova_vcloud.virt_docker.image import engine_faults
from nova_vcloud.virt_docker.image import image_reservations
from nova_vcloud.virt_docker.image import imagerecords
from nova_vcloud.virt_docker.image import imageroom
from nova_vcloud.virt_docker.image import registry_ref

LOG = log.getLogger(__name__)

REPOSITORY = imageroom.REPOSITORY
DEFAULT_COMMAND = '/sbin/init'
MAX_COMMAND = 4096  # characters of os_command_line; a kernel takes as many
# What Glance has, packed, is taken to unpack to so much when room is made.
_GROWS, _AT_LEAST = 4, units.Gi
# Percent of a disk that is free, above which no space left is another's: the
# attributes of a file have a block of their own on ext4, of 4 KiB.
_FULL = 2

tag_of = imageroom.tag_of


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
                 registries: registry_ref.References | None = None,
                 bounds: imageroom.Bounds = imageroom.Bounds()) -> None:  # noqa: B008 - is frozen
        self._engine = engine
        self._download = download
        self._registries = registries
        self.records = imagerecords.Records(lock_path)
        self.room = imageroom.Room(engine, self.records, bounds)
        self._reservations = image_reservations.Reservations(
            lock_path, self._room)

    def cached(self, image_id: str) -> str | None:
        """Return the tag of an image known to be on the engine."""
        return tag_of(image_id) if image_id in self.records.sizes else None

    def forget(self, image_id: str) -> None:
        """Look again next time: the engine has lost the image."""
        self.records.sizes.pop(image_id, None)

    @contextlib.contextmanager
    def building(self, image_id: str) -> Iterator[None]:
        """Have an image stay while a server is built of it.

        When the build fails, the image goes that it has brought, unless
        others use it.
        """
        try:
            with self.records.building(image_id):
                yield
        except BaseException:
            self._give_up(image_id)
            raise
        self.records.keep(image_id)

    def _give_up(self, image_id: str) -> None:
        try:
            with self.records.locked(image_id), \
                    self.records.unbuilt(image_id) as unbuilt:
                if (unbuilt and not self.records.read(image_id).kept
                        and image_id not in self.room.needed()):
                    self.room.discard(image_id)
                    LOG.info('Removed image %s with the server that should '
                             'have been built of it', image_id)
                elif unbuilt and not self.records.known(image_id):
                    # It was refused; the file of this build would stay.
                    self.records.forget(image_id)
        except exception.EngineError as e:
            LOG.warning('Image %s stays until the next look at those that '
                        'nobody needs: %s', image_id, e)

    def ensure(self, context: Any, image_id: str,
               image_meta: objects.ImageMeta, *, root_gb: int,
               instance: objects.Instance | None) -> str:
        """Have an image on the engine and return its tag.

        :param root_gb: GiB of disk of the flavor; 0 is no limit
        :param instance: for whom; named in the log
        :raises ImageUnacceptable: the image cannot become a server here;
            nothing of it is left on the engine
        :raises ComputeResourcesUnavailable: its project has too many images
            here already
        :raises FlavorDiskSmallerThanImage: the flavor's disk is too small
        :raises EngineError: the engine failed for a reason of its own
        """
        _check_formats(image_id, image_meta)
        self.records.mark(image_id)
        sizes = self.records.sizes
        size = sizes.get(image_id)
        if size is None:
            with self.records.locked(image_id):
                size = sizes.get(image_id)
                if size is None:
                    size = self._have(context, image_id, image_meta, root_gb,
                                      instance)
                    sizes[image_id] = size
        if root_gb and size > root_gb * units.Gi:
            raise nova_exception.FlavorDiskSmallerThanImage(
                flavor_size=root_gb * units.Gi, image_size=size)
        return tag_of(image_id)

    def _have(self, context: Any, image_id: str,
              image_meta: objects.ImageMeta, root_gb: int,
              instance: objects.Instance | None) -> int:
        """Load an image unless the engine has it; return its size."""
        found = self._engine.image_get(tag_of(image_id))
        if found is None or _outdated(found):
            old = found
            LOG.info('Loading image %s', image_id, instance=instance)
            found = self._load(context, image_id, image_meta, root_gb)
            LOG.info('Loaded image %s: %d bytes', image_id, found['Size'],
                     instance=instance)
            if old and old['Id'] != found['Id']:
                self._drop(old['Id'])
        reason = _unfit(found)
        if reason:
            self._discard(image_id)
            raise nova_exception.ImageUnacceptable(
                image_id=image_id, reason=exception.one_line(reason))
        return int(found['Size'])

    def _load(self, context: Any, image_id: str,
              image_meta: objects.ImageMeta, root_gb: int
              ) -> dict[str, Any]:
        """Load an image; return the engine's description of it."""
        project = _owner(context, image_meta)
        with self.records.counted(
                project if self.room.bounds.max_project_gb else ''):
            return self._load_of(project, context, image_id, image_meta,
                                 root_gb)

    def _load_of(self, project: str, context: Any, image_id: str,
                 image_meta: objects.ImageMeta, root_gb: int
                 ) -> dict[str, Any]:
        bounds = self._bounds(project, image_meta, root_gb)
        with self._reservations.load() as reserve, \
                self._undone(image_id, project, bounds):
            scale = unpacked_size.Scale(min(bounds), self._room().files,
                                        reserve)
            self.records.write(image_id, imagerecords.Record(
                project, kept=False))
            found = (self._registries.find(context, image_id)
                     if self._registries else None)
            if found:
                self._pull(found, tag_of(image_id), scale)
            else:
                self._upload(context, image_id, image_meta, scale)
            loaded = self._engine.image_get(tag_of(image_id))
            if loaded is None:
                raise exception.EngineError(
                    f'the engine loaded image {image_id} but does not know '
                    f'{tag_of(image_id)}')
            if loaded['Size'] > scale.limit:
                raise exception.ImageTooLarge(scale.limit)
        self.records.write(image_id, imagerecords.Record(
            project, int(loaded['Size']), kept=False))
        return loaded

    def _bounds(self, project: str, image_meta: objects.ImageMeta,
                root_gb: int) -> _Bounds:
        """Return how many bytes an image may take, and make room for it."""
        flavor = _limit(root_gb)
        packed = (image_meta.size if image_meta.obj_attr_is_set('size')
                  else None) or 0
        share = self.room.share(
            project, min(flavor, _GROWS * packed + _AT_LEAST))
        self.room.make()
        return _Bounds(flavor, self._room().size, share)

    @contextlib.contextmanager
    def _undone(self, image_id: str, project: str,
                bounds: _Bounds) -> Iterator[None]:
        """Leave nothing of an image that does not load."""
        try:
            yield
        except exception.ImageTooLarge as e:
            self._discard(image_id)
            raise bounds.error(image_id, project, e) from e
        except exception.InvalidImageArchive as e:
            self._discard(image_id)
            raise _unacceptable(image_id, e.reason) from e
        except exception.RegistryError as e:
            self._discard(image_id)
            raise _unacceptable(image_id, str(e)) from e
        except exception.EngineError as e:
            self._discard(image_id)
            if engine_faults.is_full(e) and self.room.free().percent > _FULL:
                raise _unacceptable(image_id, (
                    'an extended attribute of a file in it is larger than '
                    'the file system of the engine takes')) from e
            if engine_faults.engines_own(e):
                raise
            raise _unacceptable(
                image_id, f'the Docker engine refused it: {e}') from e
        except BaseException:
            self._discard(image_id)
            raise

    def _upload(self, context: Any, image_id: str,
                image_meta: objects.ImageMeta,
                scale: unpacked_size.Scale) -> None:
        """Give the engine an image's file."""
        changes = [f'CMD {json.dumps(_command(image_id, image_meta))}']
        source = _Source(self._download(context, image_id))
        try:
            opened = docker_archive.open_archive(source, tag_of(image_id),
                                                 scale.limit, scale.files,
                                                 scale.reserve)
            if opened.kind is docker_archive.Kind.ROOTFS:
                self._engine.image_import(opened.chunks, tag_of(image_id),
                                          changes)
            else:
                self._engine.image_load(opened.chunks)
        except _DownloadFailedError as e:
            raise source.error or e from None

    def _pull(self, found: registry.Image, tag: str,
              scale: unpacked_size.Scale) -> None:
        """Give the engine an image of a registry, but the layers it has."""
        there = self._layers_there(found)
        verify = self.records.verify
        try:
            self._engine.image_load(found.archive(tag, scale, verify, there))
        except exception.EngineUnavailable:
            raise
        except exception.EngineError as e:
            if not there:
                raise
            LOG.info('The engine has lost layers meanwhile (%s)', e)
            self._engine.image_load(found.archive(tag, scale.anew(),
                                                  verify))

    def _layers_there(self,
                      wanted: registry.Image) -> list[unpacked_size.Weight]:
        """Return what those of an image's lowest layers take that are there.

        A layer of the engine may be another tenant's, and its digest no
        secret. An image has it only when the registry lets this cloud read,
        for that image, a piece that was seen here to unpack to it.
        """
        best = max((self._same(name, wanted.config.diff_ids) for name in
                    self._engine.image_names(f'{REPOSITORY}*')), default=0)
        weights = []
        for blob, diff_id in zip(wanted.layers[:best],
                                 wanted.config.diff_ids, strict=False):
            known = self.records.verified(blob)
            if not known or known[0] != diff_id or not wanted.has(blob):
                break
            weights.append(known[1])
        return weights

    def _same(self, name: str, diff_ids: tuple[str, ...]) -> int:
        """Return how many of the lowest layers an image has."""
        found = (self._engine.image_get(name) or {}).get('RootFS', {})
        pairs = zip(diff_ids, found.get('Layers') or (), strict=False)
        return sum(1 for _ in itertools.takewhile(
            lambda pair: pair[0] == pair[1], pairs))

    def _room(self) -> unpacked_size.Weight:
        """Return what images may take on this host, if none is coming.

        The engine unpacks an archive, and then its layers, beside it.
        """
        free = self.room.free()
        return unpacked_size.Weight(free.size // 2, free.files // 2)

    def _discard(self, image_id: str) -> None:
        try:
            self.room.discard(image_id)
        except exception.EngineError as e:
            LOG.warning('Image %s may be left on the engine: %s', image_id, e)

    def _drop(self, name: str) -> None:
        """Remove what has no name any more, unless servers are made of it."""
        try:
            self._engine.image_remove(name)
        except exception.EngineError as e:
            LOG.info('Image %s stays while servers are made of it: %s', name,
                     e)


class _Bounds(NamedTuple):
    """Bytes that an image may take, by what says so.

    :ivar flavor: the disk of the server
    :ivar room: the disk of the host
    :ivar share: what its project may still have here
    """

    flavor: int
    room: int
    share: int

    def error(self, image_id: str, project: str,
              cause: exception.ImageTooLarge) -> Exception:
        """Return what is to be said of an image that is larger."""
        if not isinstance(cause, exception.NoRoomForImage) and (
                isinstance(cause, exception.TooManyFiles)
                or min(self) == self.flavor):
            return _unacceptable(image_id, cause.reason)
        if not isinstance(cause, exception.NoRoomForImage) and (
                self.share < self.room):
            return nova_exception.ComputeResourcesUnavailable(
                reason=f'images of project {project} take all the room on '
                       f'this host that one project may have, and image '
                       f'{image_id} needs more; delete servers here, or '
                       'use fewer images ([docker] '
                       'image_cache_max_project_gb)')
        return exception.EngineError(
            f'no space left on device: image {image_id} needs more than the '
            'engine of this host has room for')


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
    if root_gb:
        return (2 * root_gb + 1) * units.Gi
    return docker_archive.MAX_BYTES


def _unacceptable(image_id: str,
                  reason: str) -> nova_exception.ImageUnacceptable:
    return nova_exception.ImageUnacceptable(
        image_id=image_id, reason=exception.one_line(reason))


def _owner(context: Any, image_meta: objects.ImageMeta) -> str:
    """Return to whose bound an image counts; '' for one of the operator's."""
    def said(name: str) -> str:
        return str((getattr(image_meta, name) if
                    image_meta.obj_attr_is_set(name) else None) or '')
    if said('visibility') == 'public':
        return ''
    return said('owner') or str(getattr(context, 'project_id', None) or '')


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
    if len(line) > MAX_COMMAND or '\0' in line:
        raise nova_exception.ImageUnacceptable(
            image_id=image_id,
            reason=f'its property os_command_line is longer than '
                   f'{MAX_COMMAND} characters, or has a NUL')
    try:
        return shlex.split(line)
    except ValueError as e:
        raise nova_exception.ImageUnacceptable(
            image_id=image_id,
            reason=f'its property os_command_line: {e}') from e


def _outdated(found: dict[str, Any]) -> bool:
    """Tell whether an earlier release has loaded an image as it came."""
    config = found.get('Config') or {}
    return any(config.get(name) for name in (
        'Volumes', 'Healthcheck', 'OnBuild')) or any(
        name.startswith(image_config.OUR_LABELS)
        for name in config.get('Labels') or ())


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

# SPDX-License-Identifier: Apache-2.0
"""Servers that go to another host, with what they have written.

The host they leave keeps its container, put aside, until the move is
confirmed; what another host sends lies in the spool until the server runs.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import dataclasses
import json
import os
import secrets
import time
from typing import Any
from typing import Protocol

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from oslo_log import log

from nova_vcloud import exception
from nova_vcloud import userns
from nova_vcloud.engine import Engine
from nova_vcloud.image import docker_archive
from nova_vcloud.transfer import spool as spools
from nova_vcloud.transfer import transport
from nova_vcloud.virt_docker import crash_points
from nova_vcloud.virt_docker import server_labels
from nova_vcloud.virt_docker.guest import containers
from nova_vcloud.virt_docker.image import engine_faults
from nova_vcloud.virt_docker.image import images
from nova_vcloud.virt_docker.migration import destination_checks
from nova_vcloud.virt_docker.rootfs import overlay
from nova_vcloud.virt_docker.rootfs import precopy
from nova_vcloud.virt_docker.rootfs import received
from nova_vcloud.virt_docker.volumes import ephemeral

LOG = log.getLogger(__name__)

IMAGE_FILE = 'image.tar'
TAG = 'moved'
#: Bytes beyond what a server has, that are announced: console logs, headers
#: of tar, and what it writes while it is sent.
SLACK = 256 << 20

Unpack = Callable[[str, Iterable[str]],
                  contextlib.AbstractContextManager[None]]


@dataclasses.dataclass(frozen=True)
class MigrationData:
    """What the other host must know; Nova carries it there.

    :ivar method: of ``[vcloud_migration]``, on the host it comes from
    :ivar image_id: the image that its container was made of, in Glance; Nova
        names another one after an unshelve
    :ivar image: the digests of the layers below what was written
    :ivar whole: the image itself was sent too
    :ivar application: label of the one the server is of
    :ivar disks: names of the files of its ephemeral disks
    """

    method: str
    image_id: str
    image: tuple[str, ...]
    whole: bool
    application: str
    disks: tuple[str, ...] = ()

    def to_text(self) -> str:
        """Return it for :meth:`from_text`."""
        return json.dumps({'nova_vcloud': 1, **dataclasses.asdict(self)})

    @classmethod
    def from_text(cls, text: str) -> MigrationData:
        """Return what another host wrote.

        :raises MoveFailed: it is of a later release, or no such text
        """
        try:
            found = json.loads(text)
            if found.pop('nova_vcloud', None) != 1:
                raise exception.MoveFailed(
                    'the other host runs a release of nova-vcloud that this '
                    'one does not know')
            data = cls(found['method'], found['image_id'],
                       tuple(found['image']), found['whole'],
                       found['application'], tuple(found['disks']))
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            raise exception.MoveFailed(f'no manifest of a move: {e!r}') from e
        texts = (data.image_id, data.application, *data.image, *data.disks)
        if (data.method not in ('layer', 'image')
                or not all(isinstance(each, str) and len(each) < 256
                           and each.isprintable() for each in texts)):
            raise exception.MoveFailed('no manifest of a move')
        return data


class Destination(Protocol):
    """nova-compute of the host that a server goes to."""

    def admit(self, context: nova_context.RequestContext,
              instance: objects.Instance, size: int,
              files: list[str]) -> str:
        """Let a server be sent there; return the token for it.

        :param size: bytes of all files, at most
        :param files: their names
        :raises MoveFailed: it does not want it, or cannot be asked
        """

    def check_can_receive(self, context: nova_context.RequestContext,
                          instance: objects.Instance, size: int, entries: int
                          ) -> None:
        """Have it try to make a server of what it was sent so far.

        :param size: bytes that the server has written
        :param entries: files and directories of those
        :raises MoveFailed: it could not, or cannot be asked
        """

    def abandon(self, context: nova_context.RequestContext,
                instance: objects.Instance) -> None:
        """Have it forget what it was sent; it may hear that later.

        :raises MoveFailed: it cannot be told
        """


class Moves:
    """Moves from and to this host.

    :param method: of ``[vcloud_migration]``
    :param spool: directory of what comes
    :param remote: connects to the spool of another host, of its address
    :param destination: nova-compute of the host that a server goes to
    :param known: tells whether Glance has an image, of (context, id)
    :param log_files: console logs that a server may have
    :param log_size: bytes of each
    :param engine_wait: seconds
    :param disks: ephemeral ones of this host's servers
    """

    def __init__(self, engine: Engine, servers: containers.Containers,
                 store: images.ImageStore, method: str, spool: str,
                 remote: Callable[[str], transport.Remote],
                 destination: Destination,
                 known: Callable[[Any, str], bool], log_files: int,
                 log_size: int, engine_wait: float, disks: ephemeral.Store
                 ) -> None:
        self._engine = engine
        self._servers = servers
        self._store = store
        self._method = method
        self._spool = spools.Spool(spool)
        self._remote = remote
        self._destination = destination
        self._known = known
        self._log_files = log_files
        self._log_size = log_size
        self._engine_wait = engine_wait
        self._disks = disks
        self._arriving: set[str] = set()

    def make_spool(self) -> None:
        """Have the directory for what comes.

        :raises HostNotReady: others can write to it; with what to change
        """
        try:
            self._spool.make()
        except spools.Refused as e:
            raise exception.HostNotReady(
                f'[vcloud_migration] spool_path: {e}') from e

    # From here

    def send(self, context: nova_context.RequestContext,
             instance: objects.Instance, dest: str, network_info: Any,
             timeout: int, detach: Callable[[], None] = lambda: None,
             reattach: Callable[[], None] = lambda: None) -> str:
        """Stop a server and send it; on failure it is as it was.

        :param dest: address of the other host
        :param timeout: seconds between the stop signal and SIGKILL
        :param detach: takes its volumes and disks from a server that is
            stopped
        :param reattach: gives that back
        :returns: what :meth:`receive` wants
        :raises MoveFailed: with the reason
        """
        uuid = instance.uuid
        container = self._servers.whole(self._servers.inspect(uuid))
        ran = bool(container['State']['Running'])
        data = self._migration_data(context, instance, container)
        manifest = data.to_text()
        token = self._destination.admit(
            context, instance, self._size(container, data, ran),
            _files(data, ran))
        with self._announced(context, instance, dest, token,
                             manifest) as delivery:
            crash_points.reached('announced')
            try:
                with self._loaded(container, delivery, data, ran) as rest:
                    if ran:
                        self._check_destination(context, instance,
                                                container, data)
                    self._servers.stop(uuid, timeout)
                    crash_points.reached('stopped')
                    detach()
                    rest()
                if not ran:
                    self._check_destination(context, instance, container, data)
                self._disks.send(uuid, delivery)
                crash_points.reached('sent')
                self._servers.leave(uuid)
                crash_points.reached('left')
            except BaseException:
                LOG.info('Migration to %s failed, the server stays on this '
                         'host', dest, instance=instance)
                try:
                    self._patiently(reattach)
                finally:
                    self._patiently(lambda: self._servers.restore(
                        instance, network_info, ran))
                raise
        return manifest

    def _check_destination(self, context: nova_context.RequestContext,
                           instance: objects.Instance,
                           container: dict[str, Any],
                           data: MigrationData) -> None:
        """Have the other host try all that it can with what it has by now.
        """
        needs = (self._engine.container_size(container['Id']), 0) \
            if data.method == 'image' else overlay.needs(
                overlay.upper(container))
        self._destination.check_can_receive(context, instance, *needs)
        crash_points.reached('checked')

    @contextlib.contextmanager
    def _announced(self, context: nova_context.RequestContext,
                   instance: objects.Instance, dest: str, token: str,
                   manifest: str) -> Iterator[transport.Delivery]:
        """Begin at the other host; on failure it forgets all of it."""
        try:
            with self._remote(dest).announced(instance.uuid, token,
                                              manifest) as delivery:
                yield delivery
        except BaseException:
            self.abandon(context, instance)
            raise

    def _migration_data(self, context: nova_context.RequestContext,
                        instance: objects.Instance, container: dict[str, Any]
                        ) -> MigrationData:
        image = self._engine.image_get(container['Image']) or {}
        labels = container['Config']['Labels']
        image_id = labels[server_labels.IMAGE]
        uuid = labels[server_labels.UUID]
        tag = container['Config']['Image']
        # One whose image came from another host has that below it.
        known = tag in (images.tag_of(image_id), _tag(uuid))
        method = self._method if known else 'image'
        whole = (method == 'image' or tag == _tag(uuid)
                 or image_id not in _image_ids(instance)
                 or not self._known(context, image_id))
        return MigrationData(
            method, image_id,
            tuple(image.get('RootFS', {}).get('Layers') or ()), whole,
            labels.get(server_labels.APPLICATION) or '',
            tuple(self._disks.names(uuid)))

    def _size(self, container: dict[str, Any], data: MigrationData,
              runs: bool) -> int:
        """Return bytes that are not exceeded by what is sent.

        A server that runs may write as much again while it is sent: to need
        more it would have to write faster than the network is.
        """
        uuid = container['Config']['Labels'][server_labels.UUID]
        # In the spool, and beside it what is unpacked.
        size = 3 * self._disks.used(uuid) + SLACK
        if data.method == 'image':
            size += 2 * self._engine.container_size(container['Id'])
        else:
            size += (1 + runs) * overlay.packed_size(overlay.upper(container))
            if data.whole:
                image = self._engine.image_get(container['Image']) or {}
                size += 2 * int(image.get('Size') or 0)
        return size + 2 * self._log_files * self._log_size

    @contextlib.contextmanager
    def _loaded(self, container: dict[str, Any],
                delivery: transport.Delivery, data: MigrationData,
                ran: bool) -> Iterator[Callable[[], None]]:
        """Send what can be sent before the stop; yield what sends the rest.
        """
        if data.method == 'image':
            yield lambda: self._send_image(container, delivery)
            return
        if data.whole:
            delivery.put(IMAGE_FILE, self._engine.image_save(
                container['Config']['Image']))
        with precopy.of(self._engine, container, delivery, self._log_files,
                        ran) as rest:
            crash_points.reached('copied')
            yield rest

    def _send_image(self, container: dict[str, Any],
                    delivery: transport.Delivery) -> None:
        tag = _tag(container['Config']['Labels'][server_labels.UUID])
        try:
            self._engine.commit(container['Id'], tag)
            delivery.put(IMAGE_FILE, self._engine.image_save(tag))
        finally:
            self._engine.image_remove(tag)

    def _patiently(self, action: Callable[[], None]) -> None:
        """Do what must be done; again, when an engine that was away is back.
        """
        deadline = time.monotonic() + self._engine_wait
        while True:
            try:
                return action()
            except (exception.NovaVcloudException,
                    nova_exception.NovaException) as e:
                if not engine_faults.was_away(e) \
                        or time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def abandon(self, context: nova_context.RequestContext,
                instance: objects.Instance) -> None:
        """Have the other host forget what it was sent, if it is there."""
        try:
            self._destination.abandon(context, instance)
        except exception.MoveFailed as e:
            LOG.info('The destination could not be told to drop what it '
                     'received: %s', e, instance=instance)

    # To here

    def admit(self, uuid: str, migration: str, sender: str, size: int,
              files: list[str]) -> str:
        """Let another host send a server here; return the token for it.

        :param migration: UUID of Nova's record of the move
        :param sender: address of that host
        :param size: bytes of all files
        :param files: their names
        :raises MoveFailed: there is no room, or a file that no move has
        """
        token = secrets.token_urlsafe(32)
        try:
            self._spool.admit(uuid, spools.Admission(
                spools.token_hash(token), migration, sender, size, files,
                time.time() + spools.EXPIRES))
        except spools.Refused as e:
            raise exception.MoveFailed(str(e)) from e
        return token

    def check_can_receive(self, context: nova_context.RequestContext,
                          instance: objects.Instance, size: int, entries: int
                          ) -> None:
        """Try to make a server of what has come so far, and remove it.

        All is tried but its NICs, its volumes and its start: that its name
        is free, its image and limits, its devices, and what it has written
        on a root disk such as it would have.

        :param instance: as it would be here
        :param size: bytes that it has written
        :param entries: files and directories of those
        :raises MoveFailed: with the reason; so do others of ours and Nova's
        """
        text = self.manifest(instance.uuid)
        if text is None:
            raise exception.MoveFailed(
                'no migration data of the server was received')
        try:
            self._try_to_receive(
                context, instance, MigrationData.from_text(text), size,
                entries)
        except exception.EngineUnavailable as e:
            raise exception.MoveFailed(
                f'its Docker engine does not answer: {e}') from e

    def _try_to_receive(self, context: nova_context.RequestContext,
                        instance: objects.Instance, data: MigrationData,
                        size: int, entries: int) -> None:
        info = self._engine.info()
        destination_checks.check_room(
            'the Docker engine', info['DockerRootDir'], size + spools.RESERVE,
            entries)
        # What an earlier move left, and would be taken for the server.
        self._servers.destroy(instance.uuid)
        if data.method == 'image':
            return  # which comes after the stop
        with crash_points.within('check'):
            try:
                self._try_unload(context, instance, data, size, entries)
            finally:
                self._servers.destroy(instance.uuid)

    def _try_unload(self, context: nova_context.RequestContext,
                    instance: objects.Instance, data: MigrationData,
                    size: int, entries: int) -> None:
        tag = self._image(context, instance, data, instance.image_meta)
        unpack = self._unpacker(precopy.arrived(
            self._spool.folder(instance.uuid)))

        def fill(name: str) -> None:
            destination_checks.check_room(
                'the root disk that the server would have',
                overlay.upper(self._engine.container(name)), size, entries)
            unpack(name)

        self._servers.adopt(instance, tag, data.image_id, [], False,
                            data.application, fill)

    def abandoned(self, uuid: str, migration: str) -> None:
        """Remove what came for a move that the other host has given up.

        What has come for another one stays.
        """
        admission = self._spool.admission(uuid)
        if admission and admission.migration == migration:
            self.forget(uuid)

    def receive(self, context: nova_context.RequestContext,
                instance: objects.Instance, manifest: str, network_info: Any,
                image_meta: objects.ImageMeta, power_on: bool,
                disks: Unpack = lambda _folder, _names:
                contextlib.nullcontext()) -> None:
        """Make a server of what has come.

        What has come is kept until the server is whole, so this can be done
        again.

        :param disks: gives the server those that have come, and its volumes;
            of (folder, names of their files)
        :raises MoveFailed: with the reason
        """
        data, uuid = MigrationData.from_text(manifest), instance.uuid
        if self.manifest(uuid) is None:
            # What is here may be all that there is of it.
            raise exception.MoveFailed(
                'no migration data of the server is left: it was not '
                'received, or the migration is finished already')
        self._arriving.add(uuid)
        try:
            # What is read does not change any more.
            self._spool.revoke(uuid)
            self._patiently(lambda: self._unload(
                context, instance, data, network_info, image_meta,
                power_on, disks))
        finally:
            self._arriving.discard(uuid)
        self.drop(uuid)

    def arriving(self, uuid: str) -> bool:
        """Tell whether a server is being made of what has come, now."""
        return uuid in self._arriving

    def manifest(self, uuid: str) -> str | None:
        """Return what :meth:`receive` wants, while there are data."""
        try:
            return self._spool.manifest(uuid)
        except spools.Refused as e:
            LOG.error('Invalid migration data of server %s: %s', uuid, e)
            return None

    def holds(self, uuid: str) -> bool:
        """Tell whether a server is on this host, whole."""
        return not self.arriving(uuid) and uuid in self._servers.list()

    def has_container(self, uuid: str) -> bool:
        """Tell whether a server has one here, put aside or not."""
        try:
            self._servers.inspect(uuid)
        except exception.ContainerNotFound:
            return False
        return True

    def waiting(self) -> list[str]:
        """Return the servers of which something lies in the spool."""
        return self._spool.waiting()

    def forget(self, uuid: str) -> None:
        """Remove all there is of a server but its container."""
        self.drop(uuid)
        # Its image, where such a one came.
        self._engine.image_remove(_tag(uuid))

    def drop(self, uuid: str) -> None:
        """Remove what came of a server; nothing is fine."""
        self._spool.drop(uuid)

    def _unload(self, context: nova_context.RequestContext,
                instance: objects.Instance, data: MigrationData,
                network_info: Any, image_meta: objects.ImageMeta,
                power_on: bool, disks: Unpack) -> None:
        folder = self._spool.folder(instance.uuid)
        tag = self._image(context, instance, data, image_meta)
        crash_points.reached('base')
        fill = self._unpacker(precopy.arrived(folder))
        # What an earlier attempt left, and would use them.
        self._servers.destroy(instance.uuid)
        with disks(folder, data.disks):
            crash_points.reached('disks')
            self._servers.adopt(instance, tag, data.image_id, network_info,
                                power_on, data.application, fill)
        crash_points.reached('arrived')

    def _unpacker(self, sources: list[str]) -> Callable[[str], None]:
        """Return what fills a container, of its name, from files that came.
        """
        def fill(name: str) -> None:
            container = self._engine.container(name)
            if sources:
                overlay.unpack(sources, overlay.upper(container),
                               overlay.log(container),
                               2 * self._log_files * self._log_size,
                               userns.of_engine(self._engine.info()))
            crash_points.reached('unpacked')
        return fill

    def _image(self, context: nova_context.RequestContext,
               instance: objects.Instance, data: MigrationData,
               image_meta: objects.ImageMeta) -> str:
        """Have the image that the server was made of, or is.

        What the other host has sent is this server's alone: it gets none of
        the names by which others have their images, whatever id is given.
        """
        if data.whole:
            tag = _tag(instance.uuid)
            if data.method == 'image' or self._layers(tag) != data.image:
                self._load_image(instance.uuid, tag)
        elif data.image_id in _image_ids(instance):
            tag = self._store.ensure(
                context, data.image_id, image_meta,
                root_gb=instance.flavor.root_gb, instance=instance)
        else:
            raise exception.MoveFailed(
                f'the other host names image {data.image_id}, of which the '
                'server is not')
        # What the server has written is one layer more.
        below = self._layers(tag)[:len(data.image)]
        if below != data.image:
            raise exception.MoveFailed(
                f'image {data.image_id} has other layers here than on '
                'the host that the server comes from')
        return tag

    def _load_image(self, uuid: str, tag: str) -> None:
        path = os.path.join(self._spool.folder(uuid), IMAGE_FILE)
        with received.opened(path) as f:
            chunks = iter(lambda: f.read(1 << 20), b'')
            try:
                image = docker_archive.open_archive(chunks, tag)
                if image.kind is docker_archive.Kind.ROOTFS:
                    raise exception.MoveFailed('no image was received')
                self._engine.image_load(image.chunks)
            except exception.InvalidImageArchive as e:
                raise exception.MoveFailed(
                    f'the image received is invalid: {e}') from e

    def _layers(self, tag: str) -> tuple[str, ...]:
        image = self._engine.image_get(tag) or {}
        return tuple(image.get('RootFS', {}).get('Layers') or ())


def _image_ids(instance: objects.Instance) -> set[str]:
    """Return the images that Nova names for a server."""
    return {instance.image_ref,
            instance.system_metadata.get('image_base_image_ref')} - {None, ''}


def _files(data: MigrationData, runs: bool) -> list[str]:
    """Return the names of the files that are sent of a server."""
    names = [IMAGE_FILE] if data.whole else []
    if data.method == 'layer':
        names.append(precopy.LAYER_FILE)
        if runs:
            names.append(precopy.CHANGES_FILE)
    return names + [ephemeral.packed(name) for name in data.disks]


def _tag(uuid: str) -> str:
    """Return the name of the image that one server is."""
    return f'{images.REPOSITORY}{uuid}:{TAG}'

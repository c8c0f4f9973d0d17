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
import shutil
import time
from typing import Any

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from oslo_log import log

from nova_vcloud import exception
from nova_vcloud.engine import Engine
from nova_vcloud.virt_docker import containers
from nova_vcloud.virt_docker import images
from nova_vcloud.virt_docker import layers
from nova_vcloud.virt_docker import precopy
from nova_vcloud.virt_docker import spec
from nova_vcloud.virt_docker import steps
from nova_vcloud.virt_docker import transport
from nova_vcloud.virt_docker.volumes import ephemeral

LOG = log.getLogger(__name__)

IMAGE_FILE = 'image.tar'
TAG = 'moved'

Unpack = Callable[[str, Iterable[str]],
                  contextlib.AbstractContextManager[None]]


@dataclasses.dataclass(frozen=True)
class Cargo:
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
    def from_text(cls, text: str) -> Cargo:
        """Return what another host wrote.

        :raises MoveFailed: it is of a later release
        """
        found = json.loads(text)
        if found.pop('nova_vcloud', None) != 1:
            raise exception.MoveFailed(
                'the other host runs a release of nova-vcloud that this one '
                'does not know')
        return cls(found['method'], found['image_id'],
                   tuple(found['image']), found['whole'],
                   found['application'], tuple(found['disks']))


class Moves:
    """Moves from and to this host.

    :param method: of ``[vcloud_migration]``
    :param spool: directory of what comes
    :param remote: makes the door to another host, of its address
    :param known: tells whether Glance has an image, of (context, id)
    :param log_files: console logs that a server may have
    :param engine_wait: seconds
    :param disks: ephemeral ones of this host's servers
    """

    def __init__(self, engine: Engine, servers: containers.Containers,
                 store: images.ImageStore, method: str, spool: str,
                 remote: Callable[[str], transport.Remote],
                 known: Callable[[Any, str], bool], log_files: int,
                 engine_wait: float, disks: ephemeral.Store) -> None:
        self._engine = engine
        self._servers = servers
        self._store = store
        self._method = method
        self._spool = spool
        self._remote = remote
        self._known = known
        self._log_files = log_files
        self._engine_wait = engine_wait
        self._disks = disks
        self._arriving: set[str] = set()

    def make_spool(self) -> None:
        """Have the directory for what comes."""
        os.makedirs(self._spool, mode=0o700, exist_ok=True)

    # From here

    def send(self, context: nova_context.RequestContext,
             instance: objects.Instance, dest: str, network_info: Any,
             timeout: int, part: Callable[[], None] = lambda: None,
             rejoin: Callable[[], None] = lambda: None) -> str:
        """Stop a server and send it; on failure it is as it was.

        :param dest: address of the other host
        :param timeout: seconds between the stop signal and SIGKILL
        :param part: takes its volumes and disks from a server that is
            stopped
        :param rejoin: gives that back
        :returns: what :meth:`receive` wants
        :raises MoveFailed: with the reason
        """
        uuid, remote = instance.uuid, self._remote(dest)
        container = self._servers.whole(self._servers.inspect(uuid))
        ran = bool(container['State']['Running'])
        cargo = self._cargo(context, container)
        papers = cargo.to_text()
        with remote.announced(uuid, self._size(container, cargo),
                              papers) as delivery:
            steps.reached('announced')
            try:
                with self._loaded(container, delivery, cargo, ran) as rest:
                    self._servers.stop(uuid, timeout)
                    steps.reached('stopped')
                    part()
                    rest()
                self._disks.send(uuid, delivery)
                steps.reached('sent')
                self._servers.leave(uuid)
                steps.reached('left')
            except BaseException:
                LOG.info('Server stays: it could not be sent to %s', dest,
                         instance=instance)
                self.abandon(uuid, dest)
                self._patiently(rejoin)
                self._patiently(lambda: self._servers.restore(
                    instance, network_info, ran))
                raise
        return papers

    def _cargo(self, context: nova_context.RequestContext,
               container: dict[str, Any]) -> Cargo:
        image = self._engine.image_get(container['Image']) or {}
        labels = container['Config']['Labels']
        image_id = labels[spec.LABEL_IMAGE]
        # One that came as an image has no other below it.
        own = container['Config']['Image'] == images.tag_of(image_id)
        method = self._method if own else 'image'
        return Cargo(
            method, image_id,
            tuple(image.get('RootFS', {}).get('Layers') or ()),
            method == 'image' or not self._known(context, image_id),
            labels.get(spec.LABEL_APPLICATION) or '',
            tuple(self._disks.names(labels[spec.LABEL_UUID])))

    def _size(self, container: dict[str, Any], cargo: Cargo) -> int:
        # In the spool, and beside it what is unpacked.
        found = 2 * self._disks.used(
            container['Config']['Labels'][spec.LABEL_UUID])
        if cargo.whole:
            image = self._engine.image_get(container['Image']) or {}
            found += int(image.get('Size') or 0)
        if cargo.method == 'layer':
            found += layers.size(layers.upper(container))
        return found

    @contextlib.contextmanager
    def _loaded(self, container: dict[str, Any],
                delivery: transport.Delivery, cargo: Cargo,
                ran: bool) -> Iterator[Callable[[], None]]:
        """Send what can be sent before the stop; yield what sends the rest.
        """
        if cargo.method == 'image':
            yield lambda: self._send_image(container, delivery)
            return
        if cargo.whole:
            delivery.put(IMAGE_FILE, self._engine.image_save(
                images.tag_of(cargo.image_id)))
        with precopy.of(self._engine, container, delivery, self._log_files,
                        ran) as rest:
            steps.reached('copied')
            yield rest

    def _send_image(self, container: dict[str, Any],
                    delivery: transport.Delivery) -> None:
        tag = _tag(container['Config']['Labels'][spec.LABEL_UUID])
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
                if not _engine_was_away(e) or time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def abandon(self, uuid: str, dest: str | None) -> None:
        """Have the other host forget what it was sent, if it is there."""
        if dest:
            with contextlib.suppress(exception.MoveFailed):
                self._remote(dest).drop(uuid)

    # To here

    def receive(self, context: nova_context.RequestContext,
                instance: objects.Instance, cargo: str, network_info: Any,
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
        found, uuid = Cargo.from_text(cargo), instance.uuid
        self._arriving.add(uuid)
        try:
            self._patiently(lambda: self._unload(
                context, instance, found, network_info, image_meta,
                power_on, disks))
        finally:
            self._arriving.discard(uuid)
        self.drop(uuid)

    def arriving(self, uuid: str) -> bool:
        """Tell whether a server is being made of what has come, now."""
        return uuid in self._arriving

    def papers(self, uuid: str) -> str | None:
        """Return what :meth:`receive` wants, while there is cargo."""
        try:
            with open(os.path.join(self._spool, uuid, 'papers.json')) as f:
                return f.read()
        except FileNotFoundError:
            return None

    def waiting(self) -> list[str]:
        """Return the servers of which something lies in the spool."""
        return sorted(os.listdir(self._spool))

    def forget(self, uuid: str) -> None:
        """Remove all there is of a server but its container."""
        self.drop(uuid)
        # Its image, where such a one came.
        self._engine.image_remove(_tag(uuid))

    def drop(self, uuid: str) -> None:
        """Remove what came of a server; nothing is fine."""
        shutil.rmtree(os.path.join(self._spool, uuid), ignore_errors=True)

    def _unload(self, context: nova_context.RequestContext,
                instance: objects.Instance, cargo: Cargo, network_info: Any,
                image_meta: objects.ImageMeta, power_on: bool,
                disks: Unpack) -> None:
        folder = os.path.join(self._spool, instance.uuid)
        tag = self._image(context, instance, cargo, image_meta, folder)
        steps.reached('base')
        found = precopy.arrived(folder)

        def fill(name: str) -> None:
            container = self._engine.container(name)
            if found:
                layers.unpack(found, layers.upper(container),
                              layers.log(container))
            steps.reached('unpacked')

        # What an earlier attempt left, and would use them.
        self._servers.destroy(instance.uuid)
        with disks(folder, cargo.disks):
            steps.reached('disks')
            self._servers.adopt(instance, tag, cargo.image_id, network_info,
                                power_on, cargo.application, fill)
        steps.reached('arrived')

    def _image(self, context: nova_context.RequestContext,
               instance: objects.Instance, cargo: Cargo,
               image_meta: objects.ImageMeta, folder: str) -> str:
        """Have the image that the server was made of, or is."""
        path = os.path.join(folder, IMAGE_FILE)
        if cargo.method == 'image':
            tag = _tag(instance.uuid)
            self._load_image(path)
            return tag
        tag = images.tag_of(cargo.image_id)
        if not cargo.whole:
            self._store.ensure(context, cargo.image_id, image_meta,
                               root_gb=instance.flavor.root_gb,
                               instance=instance)
        elif not self._has(tag, cargo):
            self._load_image(path)
        if not self._has(tag, cargo):
            raise exception.MoveFailed(
                f'image {cargo.image_id} has other layers here than on '
                'the host that the server comes from')
        return tag

    def _load_image(self, path: str) -> None:
        with open(path, 'rb') as f:
            self._engine.image_load(iter(lambda: f.read(1 << 20), b''))

    def _has(self, tag: str, cargo: Cargo) -> bool:
        found = self._engine.image_get(tag) or {}
        layers_here = found.get('RootFS', {}).get('Layers') or ()
        return tuple(layers_here) == cargo.image


def _engine_was_away(error: BaseException | None) -> bool:
    """Tell whether that is behind an error."""
    while error is not None:
        if isinstance(error, exception.EngineUnavailable):
            return True
        error = error.__cause__
    return False


def _tag(uuid: str) -> str:
    """Return the name of the image that one server is."""
    return f'{images.REPOSITORY}{uuid}:{TAG}'

# SPDX-License-Identifier: Apache-2.0
"""From a server to an image in Glance, while it runs."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import json
from typing import Any
from typing import Protocol

from nova import context as nova_context
from nova import objects
from nova.compute import task_states
from oslo_log import log

from nova_vcloud import exception
from nova_vcloud.engine import Engine
from nova_vcloud.virt_docker import container_nics
from nova_vcloud.virt_docker import containers
from nova_vcloud.virt_docker import images
from nova_vcloud.virt_docker import references
from nova_vcloud.virt_docker import spec
from nova_vcloud.virt_docker import steps

LOG = log.getLogger(__name__)

PIECE = 1 << 18  # bytes
#: Tag of an image on its way to Glance.
TAG = 'snapshot'

# Labels of ours say whose server a container is; an image is nobody's.
_NO_LABELS = [f'LABEL {name}=""' for name in spec.LABELS]

#: {Dockerfile instruction: field of a container's Config}, of those whose
#: value is JSON.
_JSON_CHANGES = {'CMD': 'Cmd', 'ENTRYPOINT': 'Entrypoint',
                 'VOLUME': 'Volumes'}
_TEXT_CHANGES = {'USER': 'User', 'WORKDIR': 'WorkingDir',
                 'STOPSIGNAL': 'StopSignal'}


class ImageApi(Protocol):
    """What is used of ``nova.image.glance.API``."""

    def get(self, context: nova_context.RequestContext,
            id_or_uri: str) -> dict[str, Any]:
        """Return an image's record."""

    def update(self, context: nova_context.RequestContext, id_or_uri: str,
               image_info: dict[str, Any], data: Any = None,
               purge_props: bool = False) -> dict[str, Any]:
        """Change an image's record and upload its data."""


class Snapshots:
    """Images made of servers.

    :param glance: Nova's client
    :param max_layers: an image of more is made one of a single layer
    """

    def __init__(self, engine: Engine, servers: containers.Containers,
                 glance: ImageApi, max_layers: int) -> None:
        self._engine = engine
        self._servers = servers
        self._glance = glance
        self._max_layers = max_layers

    def take(self, context: nova_context.RequestContext,
             instance: objects.Instance, image_id: str,
             update_task_state: Callable[..., None]) -> None:
        """Fill an image that Nova has made in Glance with a server's disk.

        The server runs on; it is frozen while its changes are copied on the
        host. Nothing is left on the engine.

        :raises ContainerNotFound: the server is gone
        """
        tag = f'{images.REPOSITORY}{image_id}:{TAG}'
        update_task_state(task_state=task_states.IMAGE_PENDING_UPLOAD)
        with self._taken(instance, tag):
            steps.reached('commit')
            update_task_state(
                task_state=task_states.IMAGE_UPLOADING,
                expected_state=task_states.IMAGE_PENDING_UPLOAD)
            name = self._glance.get(context, image_id)['name']
            with contextlib.closing(self._engine.image_save(tag)) as chunks:
                self._glance.update(
                    context, image_id, _metadata(instance, name),
                    _File(chunks))
        steps.reached('upload')

    def remove_leftovers(self) -> None:
        """Remove what a nova-compute that was killed has left."""
        for name in self._engine.image_names(f'{images.REPOSITORY}*:{TAG}'):
            LOG.info('Removing %s, which nobody uploads any more', name)
            self._engine.image_remove(name)

    @contextlib.contextmanager
    def _taken(self, instance: objects.Instance, tag: str) -> Iterator[None]:
        """Have an image of a server on the engine for a while."""
        with contextlib.ExitStack() as undo:
            undo.callback(self._discard, tag)
            with container_nics.lock(instance.uuid):
                container = self._servers.whole(
                    self._servers.inspect(instance.uuid))
                self._engine.commit(container['Id'], tag, _NO_LABELS)
            found = self._engine.image_get(tag) or {}
            layers = len(found.get('RootFS', {}).get('Layers') or ())
            if layers > self._max_layers:
                LOG.info('The snapshot has %d layers and is made one of a '
                         'single layer', layers, instance=instance)
                self._flatten(tag, found['Config'])
            yield

    def _flatten(self, tag: str, config: dict[str, Any]) -> None:
        """Replace an image by one of a single layer with the same files."""
        name = tag.replace('/', '-').replace(':', '-')
        container_id = self._engine.create(name, {'Image': tag})
        try:
            with contextlib.closing(
                    self._engine.export(container_id)) as chunks:
                self._engine.image_import(chunks, tag, _changes(config))
        finally:
            self._engine.remove(container_id)

    def _discard(self, tag: str) -> None:
        try:
            self._engine.image_remove(tag)
        except exception.EngineError as e:
            LOG.warning('%s is left on the engine until nova-compute starts '
                        'again: %s', tag, e)


def _metadata(instance: objects.Instance, name: str) -> dict[str, Any]:
    """Return what Nova's libvirt driver says of a snapshot, in our format."""
    properties = {'image_location': 'snapshot', 'image_state': 'available',
                  'owner_id': instance.project_id}
    # Nova has copied them from the image of the server: this one is a file.
    properties |= {name: '' for name in references.PROPERTIES
                   if f'image_{name}' in instance.system_metadata}
    if instance.os_type:
        properties['os_type'] = instance.os_type
    return {'name': name, 'status': 'active', 'disk_format': 'raw',
            'container_format': 'docker', 'properties': properties}


def _changes(config: dict[str, Any]) -> list[str]:
    """Return Dockerfile instructions that make an image's Config again."""
    found = [f'ENV {name}={json.dumps(value)}' for name, _, value in (
        each.partition('=') for each in config.get('Env') or ())]
    for word, field in _JSON_CHANGES.items():
        if config.get(field):
            found.append(f'{word} {json.dumps(list(config[field]))}')
    found += [f'{word} {config[field]}'
              for word, field in _TEXT_CHANGES.items() if config.get(field)]
    return found


class _File:
    """Chunks as a file, as Glance's client wants it.

    What it reads at once it sends at once, a mebibyte; uWSGI, which serves
    Glance, refuses that (chunked-input-limit) unless it is told otherwise.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b'')

    def read(self, size: int = -1) -> bytes:
        """Return some bytes, b'' at the end."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b''
            self._rest = memoryview(chunk)
        count = min(size, PIECE) if size > 0 else PIECE
        found, self._rest = self._rest[:count], self._rest[count:]
        return bytes(found)

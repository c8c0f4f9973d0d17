# SPDX-License-Identifier: Apache-2.0
"""From a server to an image in Glance, while it runs."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import os
import sys
from typing import Any

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova.compute import task_states
from nova.compute import utils as compute_utils
from nova.compute import vm_states
from oslo_log import log
from oslo_utils import units

from nova_vcloud import exception
from nova_vcloud import json_documents
from nova_vcloud.engine import Engine
from nova_vcloud.image import image_writer
from nova_vcloud.virt_docker import crash_points
from nova_vcloud.virt_docker import server_labels
from nova_vcloud.virt_docker.guest import container_nics
from nova_vcloud.virt_docker.guest import containers
from nova_vcloud.virt_docker.guest import disk_copies
from nova_vcloud.virt_docker.guest import pending_images
from nova_vcloud.virt_docker.guest import uploads
from nova_vcloud.virt_docker.image import images
from nova_vcloud.virt_docker.image import registry_ref
from nova_vcloud.virt_docker.rootfs import overlay

LOG = log.getLogger(__name__)

#: Tag of an image on its way to Glance.
TAG = 'snapshot'
#: Name of the event of an action that says why there is no image.
EVENT = 'compute_snapshot'

# Labels of ours say whose server a container is; an image is nobody's.
_NO_LABELS = [f'LABEL {name}=""' for name in server_labels.ALL]
#: Of a container's Config, what may be other than in its image.
_STARTED_BY = ('Cmd', 'Entrypoint', 'Env', 'StopSignal')
_SHELVING = (task_states.SHELVING, task_states.SHELVING_IMAGE_PENDING_UPLOAD,
             task_states.SHELVING_IMAGE_UPLOADING)
#: What Nova takes for the end of the server, and tells nobody of.
_SILENT = (nova_exception.InstanceNotFound, nova_exception.InstanceNotRunning,
           nova_exception.ImageNotFound)

Chunks = Iterator[bytes]


def notes(conf: Any) -> json_documents.Documents:
    """Return where images that are being made are noted."""
    return json_documents.Documents(os.path.join(conf.state_path,
                                                 'vcloud-snapshots'))


class Snapshots:
    """Images made of servers.

    :param glance: Nova's client
    :param max_layers: an image of more is made one of a single layer
    :param host: nova-compute's host name
    :param notes: of images that are being made, by their ids
    """

    def __init__(self, engine: Engine, servers: containers.Containers,
                 glance: uploads.ImageApi, max_layers: int,
                 host: str = '', notes: json_documents.Documents | None = None
                 ) -> None:
        self._pending = pending_images.PendingImages(glance, notes)
        self._engine = engine
        self._servers = servers
        self._glance = glance
        self._max_layers = max_layers
        self._host = host
        self._copies = disk_copies.DiskCopies(engine, servers)

    def take(self, context: nova_context.RequestContext,
             instance: objects.Instance, image_id: str,
             update_task_state: Callable[..., None]) -> None:
        """Fill an image that Nova has made in Glance with a server's disk.

        The server runs on; it stands still while what it has changed of late
        is copied on the host. Nothing is left there.

        :raises ContainerNotFound: the server is gone
        :raises DiskTooLarge: it cannot be an image
        :raises UploadFailed: Glance has not got it
        """
        update_task_state(task_state=task_states.IMAGE_PENDING_UPLOAD)
        with self._image(instance, image_id) as chunks:
            crash_points.reached('commit')
            update_task_state(
                task_state=task_states.IMAGE_UPLOADING,
                expected_state=task_states.IMAGE_PENDING_UPLOAD)
            name = self._glance.get(context, image_id)['name']
            size = uploads.send(self._glance, context, image_id,
                                _metadata(instance, name), chunks)
            LOG.info('Uploaded image %s: %d bytes', image_id, size,
                     instance=instance)
        crash_points.reached('upload')

    def remove_leftovers(self) -> None:
        """Remove what a nova-compute that was killed has left."""
        self._copies.remove_leftovers()
        for name in self._engine.image_names(f'{images.REPOSITORY}*:{TAG}'):
            LOG.info('Removing %s, which nobody uploads any more', name)
            self._engine.image_remove(name)

    def remove_pending(self) -> None:
        """Remove images that such a nova-compute had not filled."""
        self._pending.remove()

    # Failures

    @contextlib.contextmanager
    def told(self, context: nova_context.RequestContext,
             instance: objects.Instance, image_id: str) -> Iterator[None]:
        """Let no failure be silent, and leave the server as it was.

        Nova's manager takes some errors for the end of the server; it notes
        the success of a snapshot when that begins; and it does not start a
        server again, nor remove the image, when a shelve fails.
        """
        try:
            with self._pending.noted(image_id, instance.uuid):
                yield
        except nova_exception.UnexpectedDeletingTaskStateError:
            raise
        except Exception as e:
            if isinstance(e, nova_exception.InstanceNotFound) and _deleted(
                    context, instance):
                raise
            if instance.task_state in _SHELVING:
                self._unshelve(context, instance, image_id)
            else:
                self._note(context, instance)
            if isinstance(e, _SILENT):
                raise nova_exception.InternalError(
                    err=e.format_message()) from e
            raise

    def _unshelve(self, context: nova_context.RequestContext,
                  instance: objects.Instance, image_id: str) -> None:
        try:
            if instance.vm_state != vm_states.STOPPED:
                self._servers.start(instance, instance.get_network_info())
            if instance.vm_state in (vm_states.PAUSED, vm_states.SUSPENDED):
                self._servers.pause(instance.uuid)
        except (exception.NovaVcloudException, nova_exception.NovaException):
            LOG.exception('The server is stopped; start it again',
                          instance=instance)
        try:
            self._glance.delete(context, image_id)
        except Exception:  # Nova does not translate all
            LOG.exception('Image %s is left', image_id, instance=instance)

    def _note(self, context: nova_context.RequestContext,
              instance: objects.Instance) -> None:
        """Note the error that is being handled with the action."""
        reporter = compute_utils.EventReporter(
            context, EVENT, self._host, instance.uuid)
        try:
            reporter.__enter__()
            reporter.__exit__(*sys.exc_info())
        except Exception as e:  # noqa: BLE001 - of the messaging too
            LOG.warning('The event list does not have the failure: %s', e,
                        instance=instance)

    # What the image is made of

    @contextlib.contextmanager
    def _image(self, instance: objects.Instance,
               image_id: str) -> Iterator[Chunks]:
        """Have the bytes of the image for a while."""
        container = self._servers.inspect(instance.uuid)
        base = self._engine.image_get(container['Image'])
        if base is None:
            raise exception.EngineError(
                'the engine has lost the image that the server is made of')
        way = (self._copied if container['GraphDriver']['Name']
               == overlay.DRIVER else self._committed)
        with way(instance, image_id, container, base) as chunks:
            yield chunks

    @contextlib.contextmanager
    def _copied(self, instance: objects.Instance, image_id: str,
                container: dict[str, Any],
                base: dict[str, Any]) -> Iterator[Chunks]:
        """Make the image of a copy of what the server has written."""
        flat = self._flat(len(base['RootFS']['Layers']) + 1)
        with self._copies.taken(
                instance.uuid, image_id, _limit(instance),
                0 if flat else base['Size']) as found:
            flat = (flat or found.sizes.redirected
                    or _too_large(instance, base['Size'] + found.sizes.files))
            with (self._merged(instance, image_id, container, base, found)
                    if flat else self._above(image_id, container, found)
                  ) as chunks:
                yield chunks

    def _flat(self, layers: int) -> bool:
        if layers > self._max_layers:
            LOG.info('The snapshot would have %d layers and is made one of '
                     'a single layer', layers)
        return layers > self._max_layers

    @contextlib.contextmanager
    def _above(self, image_id: str, container: dict[str, Any],
               found: disk_copies.DiskCopy) -> Iterator[Chunks]:
        """Add a layer to the image of the server."""
        with disk_copies.stream(found) as layer, contextlib.closing(
                self._engine.image_save(container['Image'])) as saved:
            yield image_writer.extended(
                saved, image_writer.Layer(found.sizes.tar, layer),
                _started_by(container), _tag(image_id), _comment(container),
                server_labels.ALL)

    @contextlib.contextmanager
    def _merged(self, instance: objects.Instance, image_id: str,
                container: dict[str, Any], base: dict[str, Any],
                found: disk_copies.DiskCopy) -> Iterator[Chunks]:
        """Put all that the server sees in one layer."""
        with disk_copies.merged(found, container) as whole:
            if _too_large(instance, whole.sizes.files):
                raise exception.DiskTooLarge(
                    f'its image would have {whole.sizes.files >> 20} MiB, '
                    'more than the disk of its flavor: it could not be '
                    'unshelved')
            with disk_copies.stream(whole) as layer:
                yield image_writer.single(
                    image_writer.Layer(whole.sizes.tar, layer),
                    _configuration(base, container), _tag(image_id),
                    _comment(container))

    @contextlib.contextmanager
    def _committed(self, instance: objects.Instance, image_id: str,
                   container: dict[str, Any],
                   base: dict[str, Any]) -> Iterator[Chunks]:
        """Have the engine make the image, of a store that only it knows."""
        tag = f'{images.REPOSITORY}{image_id}:{TAG}'
        files = self._engine.written(container['Id'])
        disk_copies.check(files, 0, _limit(instance) or files)
        with self._copies.room(image_id, 2 * files + base['Size']), \
                contextlib.ExitStack() as undo:
            undo.callback(self._discard, tag)
            with container_nics.lock(instance.uuid):
                container = self._servers.whole(
                    self._servers.inspect(instance.uuid))
                self._engine.commit(container['Id'], tag, _NO_LABELS)
            found = self._engine.image_get(tag) or base
            if self._flat(len(found['RootFS']['Layers'])):
                chunks = undo.enter_context(
                    self._exported(tag, found, container))
            else:
                chunks = undo.enter_context(contextlib.closing(
                    self._engine.image_save(tag)))
            yield chunks

    @contextlib.contextmanager
    def _exported(self, tag: str, image: dict[str, Any],
                  container: dict[str, Any]) -> Iterator[Chunks]:
        """Put all that an image has in one layer."""
        name = tag.replace('/', '-').replace(':', '-')
        container_id = self._engine.create(name, {'Image': tag})
        try:
            # Twice, for what comes before the layer is its size; it is at
            # rest, and so is the same each time.
            size = sum(map(len, self._engine.export(container_id)))
            with contextlib.closing(
                    self._engine.export(container_id)) as layer:
                yield image_writer.single(
                    image_writer.Layer(size, layer),
                    _configuration(image, container), tag,
                    _comment(container))
        finally:
            self._engine.remove(container_id)

    def _discard(self, tag: str) -> None:
        try:
            self._engine.image_remove(tag)
        except exception.EngineError as e:
            LOG.warning('%s is left on the engine until nova-compute starts '
                        'again: %s', tag, e)


def _deleted(context: nova_context.RequestContext,
             instance: objects.Instance) -> bool:
    """Tell whether someone has the server deleted."""
    try:
        now = objects.Instance.get_by_uuid(context, instance.uuid)
    except nova_exception.InstanceNotFound:
        return True
    return now.task_state in (task_states.DELETING, task_states.SOFT_DELETING)


def _limit(instance: objects.Instance) -> int:
    """Return bytes of the root disk; 0 for no limit."""
    return int(instance.flavor.root_gb) * units.Gi


def _too_large(instance: objects.Instance, size: int) -> bool:
    """Tell whether a server could not come back from its image."""
    return bool(instance.task_state in _SHELVING and _limit(instance)
                and size > _limit(instance))


def _tag(image_id: str) -> str:
    return f'{images.REPOSITORY}{image_id}:{TAG}'


def _comment(container: Mapping[str, Any]) -> str:
    return f'snapshot of server {container["Config"]["Hostname"]}'


def _started_by(container: Mapping[str, Any]) -> dict[str, Any]:
    return {name: container['Config'].get(name) for name in _STARTED_BY}


def _configuration(image: Mapping[str, Any],
                   container: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a snapshot, but for its layers."""
    found = image_writer.configuration(image, server_labels.ALL)
    found['config'] = image_writer.settings(
        {**found['config'], **_started_by(container)})
    return found


def _metadata(instance: objects.Instance, name: str) -> dict[str, Any]:
    """Return what Nova's libvirt driver says of a snapshot, in our format."""
    properties = {'image_location': 'snapshot', 'image_state': 'available',
                  'owner_id': instance.project_id}
    # Nova has copied them from the image of the server: this one is a file.
    properties |= {name: '' for name in registry_ref.PROPERTIES
                   if f'image_{name}' in instance.system_metadata}
    if instance.os_type:
        properties['os_type'] = instance.os_type
    return {'name': name, 'status': 'active', 'disk_format': 'raw',
            'container_format': 'docker', 'properties': properties}

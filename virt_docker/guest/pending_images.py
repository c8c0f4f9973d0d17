# SPDX-License-Identifier: Apache-2.0
"""Images that Nova has made in Glance, and this host has not filled yet.

Nova notes nowhere which image a snapshot was for: when nova-compute is killed
meanwhile, the image stays "queued" for ever. So we note it, and remove it.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from oslo_log import log

from nova_vcloud import json_documents
from nova_vcloud.virt_docker.guest import action_events
from nova_vcloud.virt_docker.guest import uploads

LOG = log.getLogger(__name__)

#: Name of the event that tells of a removed image.
EVENT = 'compute_image_removed'
UNFILLED = ('queued', 'saving')


class PendingImages:
    """Notes of images that are being filled.

    :param glance: Nova's client
    :param notes: one for each image, by its id; None: nothing is noted
    """

    def __init__(self, glance: uploads.ImageApi,
                 notes: json_documents.Documents | None) -> None:
        self._glance = glance
        self._notes = notes
        self._ours: set[str] = set()

    @contextlib.contextmanager
    def noted(self, image_id: str, uuid: str) -> Iterator[None]:
        """Have a note of an image, for a while.

        :param uuid: of the server that it is made of
        """
        if self._notes is None:
            yield
            return
        self._ours.add(image_id)
        self._notes.save(image_id, {'server': uuid})
        try:
            yield
        finally:
            self._notes.delete(image_id)
            self._ours.discard(image_id)

    def remove(self) -> None:
        """Remove what nobody fills any more; keep notes of what fails."""
        if self._notes is None:
            return
        for image_id in set(self._notes.names()) - self._ours:
            try:
                note = self._notes.load(image_id) or {}
                self._remove(image_id, note.get('server'))
            except Exception as e:  # noqa: BLE001 - of Keystone, Glance, …
                LOG.warning(
                    'Image %s, of a snapshot that was cut off, could not be '
                    'removed and is tried again; its owner can delete it. '
                    'The user of [service_user] must be allowed to: %s',
                    image_id, e)
            else:
                self._notes.delete(image_id)

    def _remove(self, image_id: str, uuid: str | None) -> None:
        context = nova_context.get_nova_service_user_context()
        try:
            if self._glance.get(context, image_id)['status'] not in UNFILLED:
                return
            self._glance.delete(context, image_id)
        except nova_exception.ImageNotFound:
            return
        LOG.warning('Removed image %s of a snapshot that was cut off',
                    image_id)
        admin = nova_context.get_admin_context()
        with contextlib.suppress(nova_exception.InstanceNotFound):
            if uuid:
                action_events.record(
                    admin, objects.Instance.get_by_uuid(admin, uuid),
                    f'nova-compute of the host ended while image {image_id} '
                    'was made; the image is removed', EVENT)

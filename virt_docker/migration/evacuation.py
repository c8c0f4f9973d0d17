# SPDX-License-Identifier: Apache-2.0
"""What a server of a lost host is made of on another."""

from __future__ import annotations

from typing import Any
from typing import Protocol

from nova import context as nova_context
from nova import objects
from nova.compute import task_states
from oslo_log import log

LOG = log.getLogger(__name__)

#: Values of the property image_type, of images made of servers.
KINDS = ('snapshot', 'backup')


class ImageApi(Protocol):
    """What is used of ``nova.image.glance.API``."""

    def get_all(self, context: nova_context.RequestContext,
                **kwargs: Any) -> list[dict[str, Any]]:
        """Return records of images."""


def source(glance: ImageApi, context: nova_context.RequestContext,
           instance: objects.Instance, image: objects.ImageMeta,
           wanted: str) -> objects.ImageMeta:
    """Return what a server is spawned from.

    That it is evacuated shows in its task alone: a driver that leaves this to
    Nova is asked to spawn (nova.compute.manager, _rebuild_default_impl).

    :param image: that Nova names
    :param wanted: ``[vcloud_migration] evacuate_from``
    """
    if (wanted != 'snapshot'
            or instance.task_state != task_states.REBUILD_SPAWNING):
        return image
    return _last_snapshot(glance, context, instance) or image


def _last_snapshot(glance: ImageApi, context: nova_context.RequestContext,
                   instance: objects.Instance) -> objects.ImageMeta | None:
    """Return the newest image of a server, None if there is none.

    Anybody may write a server's id into an image of his: only those of the
    server's own project count. Those of a system that a rebuild has replaced
    do not.
    """
    base = instance.system_metadata.get('image_base_image_ref')
    for image in glance.get_all(
            context, filters={'property-instance_uuid': instance.uuid},
            sort_key='created_at', sort_dir='desc'):
        properties = image['properties']
        if (image['status'] == 'active'
                and image['owner'] == instance.project_id
                and properties.get('image_type') in KINDS
                and properties.get('base_image_ref') == base):
            LOG.info('The server is made from its image %s of %s',
                     image['id'], image['created_at'], instance=instance)
            return objects.ImageMeta.from_dict(image)
    return None

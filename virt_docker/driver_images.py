# SPDX-License-Identifier: Apache-2.0
"""The driver's verbs for images that a host keeps."""

from __future__ import annotations

from nova import context as nova_context
from nova import objects
from oslo_log import log

from nova_vcloud import exception
from nova_vcloud.virt_docker import driver_base
from nova_vcloud.virt_docker.guest import snapshot
from nova_vcloud.virt_docker.image import imagecache

LOG = log.getLogger(__name__)


class ImageVerbs(driver_base.Part):
    """``openstack aggregate cache image``, and the way back."""

    _image_cache: imagecache.ImageCache
    _snapshots: snapshot.Snapshots

    def cache_image(self, context: nova_context.RequestContext,
                    image_id: str) -> bool:
        """Have an image before a server needs it; False: it was there."""
        return self._image_cache.fetch(context, image_id)

    def manage_image_cache(self, context: nova_context.RequestContext,
                           all_instances: objects.InstanceList) -> None:
        """Remove images that no server of this host has needed for long.

        And those of snapshots that were cut off, of which Glance could not be
        told when nova-compute started.
        """
        self._snapshots.remove_pending()
        try:
            self._image_cache.prune(all_instances)
        except exception.EngineError as e:
            LOG.warning('Images that nobody needs stay until the next look: '
                        '%s', e)

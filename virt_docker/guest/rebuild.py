# SPDX-License-Identifier: Apache-2.0
"""A server from another image, in place; Nova's record goes back with it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
from typing import Any

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova import utils
from nova.compute import task_states
from oslo_log import log

from nova_vcloud.virt_docker import server_labels
from nova_vcloud.virt_docker.guest import containers
from nova_vcloud.virt_docker.guest.uploads import ImageApi
from nova_vcloud.virt_docker.host import claims

LOG = log.getLogger(__name__)

PREFIX = utils.SM_IMAGE_PROP_PREFIX


class Rebuilds:
    """Rebuilds of this host's servers."""

    def __init__(self, servers: containers.Containers, glance: ImageApi,
                 held: claims.Claims) -> None:
        self._servers = servers
        self._glance = glance
        self._claims = held

    def rebuild(self, context: nova_context.RequestContext,
                instance: objects.Instance, image_meta: objects.ImageMeta,
                network_info: Any, seed: bytes, timeout: int,
                renew: Callable[[contextlib.ExitStack], None],
                application: Callable[[], str]) -> None:
        """Make the server anew; task states are those Nova expects after.

        :param timeout: seconds between the stop signal and SIGKILL
        :param renew: makes what else is new, of a server that is stopped; is
            given where to leave the way back
        :param application: tells the label of the one that the server is of
        """
        self._servers.rebuild(context, instance, image_meta, network_info,
                              seed, timeout, renew, application)
        instance.task_state = task_states.REBUILD_SPAWNING
        instance.save(expected_task_state=[task_states.REBUILDING])

    @contextlib.contextmanager
    def rolled_back(self, context: nova_context.RequestContext,
                    instance: objects.Instance,
                    allocations: Mapping[str, Any]) -> Iterator[None]:
        """Make a failure one that leaves the server as it was.

        :param allocations: of the server, {provider: {'resources': {...}}}
        :raises InstanceFaultRollback: around Nova's error
        """
        try:
            yield
        except nova_exception.NovaException as e:
            self.give_back_image(context, instance)
            self._claims.give_back_later(instance, allocations)
            raise nova_exception.InstanceFaultRollback(e) from e

    def give_back_image(self, context: nova_context.RequestContext,
                        instance: objects.Instance) -> None:
        """Undo what Nova's API has noted: the image that was asked for."""
        try:
            container = self._servers.inspect(instance.uuid)
            labels = container['Config']['Labels']
            old = (labels.get(server_labels.BASE_IMAGE)
                   or labels[server_labels.IMAGE])
            if old == instance.image_ref:
                return
            found = self._glance.get(context, old)
            kept = {key: value
                    for key, value in instance.system_metadata.items()
                    if not key.startswith(PREFIX)}
            instance.image_ref = old
            instance.system_metadata = {
                **kept, **utils.get_system_metadata_from_image(
                    found, instance.flavor)}
            instance.save()
        except Exception:
            # The reason of the failure is more than its traces.
            LOG.exception('Nova goes on to name the image that was asked '
                          'for', instance=instance)

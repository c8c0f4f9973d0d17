# SPDX-License-Identifier: Apache-2.0
"""Tells the driver when Neutron changed a port of a server.

Nova hears of it (``network-changed``) and keeps what it hears, but has no verb
for a driver: nova.compute.manager, external_instance_event. The RPC server
looks a method up at each call, so one that stands before Nova's is enough.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
import functools
from typing import Any

from nova import context as nova_context
from nova import objects
from oslo_log import log

LOG = log.getLogger(__name__)

CHANGED = 'network-changed'

Update = Callable[[objects.Instance], None]


def follow(manager: Any, update: Update) -> None:
    """Have ``update`` called with each server whose ports have changed.

    After Nova has done its part: the server's cache has what Neutron says.

    :param manager: Nova's ComputeManager
    """
    handle = manager.external_instance_event

    @functools.wraps(handle)
    def handled(context: nova_context.RequestContext,
                instances: Iterable[objects.Instance],
                events: Iterable[objects.InstanceExternalEvent]) -> None:
        handle(context, instances=instances, events=events)
        changed = {event.instance_uuid for event in events
                   if event.name == CHANGED}
        for instance in instances:
            if instance.uuid in changed:
                _update(update, instance)

    manager.external_instance_event = handled


def _update(update: Update, instance: objects.Instance) -> None:
    try:
        update(instance)
    except Exception:
        # Nobody waits for an answer. The next start tries again.
        LOG.exception('The addresses of the server do not follow its ports',
                      instance=instance)

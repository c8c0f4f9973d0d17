# SPDX-License-Identifier: Apache-2.0
"""Events of a server's last action, as ``server event show`` has them."""

from __future__ import annotations

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova.compute import utils as compute_utils
from oslo_log import log

LOG = log.getLogger(__name__)


def record(context: nova_context.RequestContext, instance: objects.Instance,
           message: str, event: str = 'compute_interrupted',
           host: str | None = None) -> None:
    """Note with the last action of a server that it was cut off.

    :param event: its name; Nova ends the first one of a name
    :param host: of the server, if it has none any more
    """
    # Of other exceptions Nova shows the name alone.
    error = nova_exception.InternalError(err=message)
    try:
        with compute_utils.EventReporter(
                context, event, host or instance.host, instance.uuid):
            raise error
    except Exception as e:  # noqa: BLE001 - of the messaging too
        if e is not error:
            LOG.warning('Failed to record instance action event %s: %s',
                        event, e, instance=instance)

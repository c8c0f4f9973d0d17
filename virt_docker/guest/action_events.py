# SPDX-License-Identifier: Apache-2.0
"""Events of a server's last action, as ``server event show`` has them."""

from __future__ import annotations

import sys

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
    reporter = compute_utils.EventReporter(
        context, event, host or instance.host, instance.uuid)
    try:
        reporter.__enter__()
        try:
            # Of others Nova shows the name alone.
            raise nova_exception.InternalError(err=message)
        except nova_exception.InternalError:
            reporter.__exit__(*sys.exc_info())
    except Exception as e:  # noqa: BLE001 - of the messaging too
        LOG.warning('Cannot record the instance action event: %s', e,
                    instance=instance)

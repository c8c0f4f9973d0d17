# SPDX-License-Identifier: Apache-2.0
"""Nova made ready for a command, as for nova-scheduler, without its service.

Imported before any other module of Nova.
"""

from __future__ import annotations

from collections.abc import Iterable

from oslo_log import log
from oslo_service import backend


def configure(files: Iterable[str]) -> None:
    """Read Nova's configuration and open its databases.

    :param files: configuration files; none for Nova's own search
    """
    backend.init_backend(backend.BackendType.THREADING)
    from nova import config  # noqa: PLC0415 - after the choice of threads
    options = [part for file in files for part in ('--config-file', file)]
    # A cell's mapping refers to options of the transport; none is opened.
    config.parse_args(['nova-vcloud-manage', *options])
    log.set_defaults(default_log_levels=['nova=WARN', 'nova_vcloud=WARN'])

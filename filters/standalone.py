# SPDX-License-Identifier: Apache-2.0
"""Nova made ready for a command, as for nova-scheduler, without its service.

Imported before any other module of Nova.
"""

from __future__ import annotations

from collections.abc import Iterable

from nova import monkey_patch


def configure(files: Iterable[str]) -> None:
    """Read Nova's configuration and open its databases.

    :param files: configuration files; none for Nova's own search
    """
    monkey_patch.patch(backend='threading')
    from nova import config  # noqa: PLC0415 - after the choice of threads
    from oslo_log import log  # noqa: PLC0415
    options = [part for file in files for part in ('--config-file', file)]
    config.parse_args(['nova-vcloud-manage', *options], init_rpc=False)
    log.set_defaults(default_log_levels=['nova=WARN', 'nova_vcloud=WARN'])

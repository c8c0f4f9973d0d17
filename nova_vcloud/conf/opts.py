# SPDX-License-Identifier: Apache-2.0
"""All option groups, for oslo-config-generator and the documentation."""

from typing import Any

from oslo_config import cfg

from nova_vcloud.conf import docker
from nova_vcloud.conf import ecu
from nova_vcloud.conf import migration
from nova_vcloud.conf import ml2
from nova_vcloud.conf import net
from nova_vcloud.conf import qos
from nova_vcloud.conf import registry
from nova_vcloud.conf import scheduler
from nova_vcloud.conf import volumes


def list_opts() -> list[tuple[cfg.OptGroup, Any]]:
    """Return (group, options) pairs, as ``oslo.config.opts`` wants them."""
    modules = (docker, net, qos, ecu, scheduler, migration, registry,
               ml2, volumes)
    return [(module.GROUP, module.OPTS) for module in modules]

# SPDX-License-Identifier: Apache-2.0
"""Weighers for ``[filter_scheduler] weight_classes``."""

from nova import conf
from nova import objects
from nova.scheduler import host_manager
from nova.scheduler import utils
from nova.scheduler import weights

from nova_vcloud.conf import scheduler

CONF = conf.CONF
scheduler.register_opts(CONF)


class SameHostWeigher(weights.BaseHostWeigher):
    """Prefers the host a server is on, so that its resize is live."""

    # Bounds of the scale: one host in reach is not "the best there is".
    minval = 0.0
    maxval = 1.0

    def weight_multiplier(self, host_state: host_manager.HostState) -> float:
        """Return the option's value, or the aggregate's."""
        return float(utils.get_weight_multiplier(
            host_state, 'same_host_weight_multiplier',
            CONF.vcloud_scheduler.same_host_weight_multiplier))

    def _weigh_object(self, host_state: host_manager.HostState,
                      spec: objects.RequestSpec) -> float:
        """Return 1.0 for the server's own host; no database is asked."""
        return float(spec.instance_uuid in (host_state.instances or {}))

# SPDX-License-Identifier: Apache-2.0
"""Binds ports of our hosts to Linux bridges, without an agent."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
import fnmatch
from typing import Any

from neutron_lib import constants
from neutron_lib.api.definitions import portbindings
from neutron_lib.plugins.ml2 import api
from oslo_config import cfg
from oslo_log import log

from nova_vcloud.conf import ml2 as ml2_conf

LOG = log.getLogger(__name__)

# Nova refuses vif_type=bridge; 'tap' reaches the driver with its details.
VIF_TYPE = portbindings.VIF_TYPE_TAP
DETAILS_VLAN = portbindings.VIF_DETAILS_VLAN
DETAILS_PHYSICAL_NETWORK = 'physical_network'
NETWORK_TYPES = (constants.TYPE_FLAT, constants.TYPE_VLAN)
MAX_BRIDGE_NAME = 15  # IFNAMSIZ less the closing NUL

Mappings = Mapping[str, Mapping[str, str]]


def parse_mappings(rows: Iterable[str]) -> Mappings:
    """Return {host: {physical network: bridge}}.

    :param rows: ``host:physical_network:bridge``
    :raises ValueError: naming the option, the row and what is wrong
    """
    option = '[ml2_vcloud] bridge_mappings'
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        parts = [part.strip() for part in row.split(':')]
        if len(parts) != 3 or not all(parts):
            raise ValueError(f'{option}: {row!r} is not '
                             'host:physical_network:bridge')
        host, physical_network, bridge = parts
        if len(bridge) > MAX_BRIDGE_NAME:
            raise ValueError(f'{option}: bridge {bridge!r} has more than '
                             f'{MAX_BRIDGE_NAME} characters')
        bridges = found.setdefault(host, {})
        if bridges.setdefault(physical_network, bridge) != bridge:
            raise ValueError(f'{option}: {host}:{physical_network} is '
                             'given twice')
    return found


class VcloudMechanismDriver(api.MechanismDriver):
    """The mechanism driver ``vcloud``: flat and VLAN networks."""

    def initialize(self) -> None:
        """Read the configuration.

        :raises ValueError: Neutron's server must not start on a bad one
        """
        ml2_conf.register_opts(cfg.CONF)
        self._mappings = parse_mappings(cfg.CONF.ml2_vcloud.bridge_mappings)
        LOG.info('vcloud binds ports of hosts: %s',
                 ', '.join(sorted(self._mappings)) or 'none')

    @property
    def connectivity(self) -> str:
        """Tell Neutron that ports without an address are fine."""
        return portbindings.CONNECTIVITY_L2

    def bind_port(self, context: Any) -> None:
        """Bind to the first segment whose physical network the host has."""
        port = context.current
        vnic_type = port.get(portbindings.VNIC_TYPE,
                             portbindings.VNIC_NORMAL)
        if vnic_type != portbindings.VNIC_NORMAL:
            LOG.debug('Port %s: vnic_type %s is not ours', port['id'],
                      vnic_type)
            return
        bridges = self._bridges(context.host)
        if not bridges:
            LOG.debug('Port %s: host %s is not ours', port['id'],
                      context.host)
            return
        for segment in context.segments_to_bind:
            details = self._details(bridges, segment)
            if details is not None:
                # Nothing outside Neutron has to happen before the port
                # works, and no agent would say so.
                context.set_binding(segment[api.ID], VIF_TYPE, details,
                                    status=constants.PORT_STATUS_ACTIVE)
                return
        LOG.debug('Port %s: host %s has no bridge for any of %s',
                  port['id'], context.host, context.segments_to_bind)

    def _bridges(self, host: str) -> Mapping[str, str]:
        """Return {physical network: bridge}; nothing if not our host.

        A host's own rows win over patterns, one by one.
        """
        found: dict[str, str] = {}
        for pattern, bridges in self._mappings.items():
            if fnmatch.fnmatchcase(host, pattern):
                found = {**bridges, **found}
        return {**found, **self._mappings.get(host, {})}

    def _details(self, bridges: Mapping[str, str],
                 segment: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the VIF details of a segment; None if it can't be bound."""
        if segment[api.NETWORK_TYPE] not in NETWORK_TYPES:
            return None
        physical_network = segment[api.PHYSICAL_NETWORK]
        bridge = bridges.get(physical_network)
        if bridge is None:
            return None
        details = {
            # No security groups are enforced on these ports.
            portbindings.CAP_PORT_FILTER: False,
            portbindings.VIF_DETAILS_CONNECTIVITY: self.connectivity,
            portbindings.VIF_DETAILS_BRIDGE_NAME: bridge,
            DETAILS_PHYSICAL_NETWORK: physical_network,
        }
        if segment[api.NETWORK_TYPE] == constants.TYPE_VLAN:
            details[DETAILS_VLAN] = segment[api.SEGMENTATION_ID]
        return details

    def filter_hosts_with_segment_access(
            self, context: Any, segments: Iterable[Mapping[str, Any]],
            candidate_hosts: Iterable[str], agent_getter: Any) -> set[str]:
        """Return the candidates that can bind one of ``segments``."""
        segments = list(segments)
        return {host for host in candidate_hosts
                if any(self._details(self._bridges(host), s)
                       for s in segments)}

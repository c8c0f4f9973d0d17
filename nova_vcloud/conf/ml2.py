# SPDX-License-Identifier: Apache-2.0
"""Options of the ``vcloud`` mechanism driver in Neutron's server."""

from oslo_config import cfg

GROUP = cfg.OptGroup(
    'ml2_vcloud',
    title='ML2 mechanism driver vcloud',
    help='Which ports the mechanism driver binds, and to what.')

OPTS = [
    cfg.ListOpt(
        'bridge_mappings',
        default=[],
        help='Bridges of the compute hosts, as '
             '``host:physical_network:bridge`` separated by commas. The host '
             'may be a shell pattern such as ``rack1-*``; rows that name a '
             'host win over patterns, earlier patterns over later ones. A '
             'host that nothing here fits is left to other mechanism '
             'drivers.'),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register the group ``[ml2_vcloud]`` on ``conf``."""
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)

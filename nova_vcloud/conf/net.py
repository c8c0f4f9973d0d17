# SPDX-License-Identifier: Apache-2.0
"""Options of how servers are wired on a compute host."""

from oslo_config import cfg

GROUP = cfg.OptGroup(
    'vcloud_net',
    title='Network of servers that are containers',
    help='Where nova-compute puts the network namespaces, taps and bridges '
         'of its servers.')

OPTS = [
    cfg.StrOpt(
        'namespace_prefix',
        default='nova-',
        regex=r'^[A-Za-z0-9_.-]{1,64}$',
        help='Beginning of the name of each server\'s network namespace; '
             'the rest is the UUID of the server. Two compute services on '
             'one machine need different prefixes.'),
    cfg.StrOpt(
        'fabric_namespace',
        default='',
        help='Network namespace that holds the bridges and the servers\' '
             'taps. Empty, the usual case, is the host\'s own. A name lets '
             'several compute services share one machine without meeting.'),
    cfg.DictOpt(
        'uplinks',
        default={},
        help='Interface of this host for each physical network, as '
             '``physnet1:eth1,physnet2:bond0``. Needed for VLAN networks '
             'only: their bridges are made on first use, on top of it.'),
    cfg.IntOpt(
        'neighbour_limit',
        default=1024,
        min=0,
        max=65536,
        help='Neighbours that one server may have at a time: addresses on '
             'its own networks that it sends to, by IPv4 and by IPv6, as '
             'many IPv6 groups, and as many that look for it. The kernel has '
             'one table for all servers, which one of them could fill. '
             'Gateways do not count. A place is free again two minutes after '
             'its last packet. Needs ``nft`` of the package nftables; 0 '
             'turns it off. Servers that run get it at the start of '
             'nova-compute.'),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register the group ``[vcloud_net]`` on ``conf``."""
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)

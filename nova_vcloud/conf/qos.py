# SPDX-License-Identifier: Apache-2.0
"""Options of limits: how they are kept, and what a host does in doubt."""

from oslo_config import cfg

GROUP = cfg.OptGroup(
    'qos',
    title='Limits of servers',
    help='How the limits of a flavor become those of a server, and how they '
         'are kept.')

OPTS = [
    cfg.StrOpt(
        'state_path',
        default='/var/lib/nova-vcloud/limits',
        help='Directory of one record for each server: its limits, the CPUs '
             'chosen for it and what an administrator has set for a while. '
             'nova-compute and ``nova-vcloud-manage`` share it; two compute '
             'services on one machine need two.'),
    cfg.FloatOpt(
        'verify_interval',
        default=30.0, min=0.0,
        help='Seconds between two looks at the limits of all servers: what '
             'is not as it should be is repaired, what was set for a while '
             'ends. A ``docker update`` by hand is noticed at once, whatever '
             'this says. 0 never looks.'),
    cfg.BoolOpt(
        'split_disk_totals',
        default=False,
        help='Whether ``quota:disk_total_*_sec`` gives a container half of '
             'it for reads and half for writes: cgroups know no sum. '
             'Otherwise such a flavor is refused by this host.'),
    cfg.StrOpt(
        'numa_policy',
        default='prefer',
        choices=[
            ('prefer', 'on one NUMA node if it fits, else on several'),
            ('require', 'on one NUMA node, or refused')],
        help='Where the CPUs of a server are taken from that has CPUs of '
             'its own or is bound to some. A flavor may say otherwise with '
             '``vcloud:numa_policy``.'),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register the group ``[qos]`` on ``conf``."""
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)

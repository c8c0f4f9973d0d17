# SPDX-License-Identifier: Apache-2.0
"""Options of what nova-scheduler loads from us."""

from oslo_config import cfg

GROUP = cfg.OptGroup(
    'vcloud_scheduler',
    title='Scheduling of servers that are containers',
    help='How nova-scheduler chooses among hosts.')

OPTS = [
    cfg.FloatOpt(
        'same_host_weight_multiplier',
        default=1000.0,
        help='How much a resize prefers the host that the server is on: '
             'there it changes limits while the server runs. The default '
             'outweighs Nova\'s own weighers together, except the one for '
             'failed builds. 0 turns it off; the metadata of an aggregate '
             'may say otherwise.'),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register the group ``[vcloud_scheduler]`` on ``conf``."""
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)

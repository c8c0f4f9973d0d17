# SPDX-License-Identifier: Apache-2.0
"""Options of what nova-scheduler loads from us."""

from oslo_config import cfg

GROUP = cfg.OptGroup(
    'vcloud_scheduler',
    title='Scheduling of servers that are containers',
    help='How nova-scheduler chooses among hosts.')

_MULTIPLIER = (' The metadata of an aggregate may say otherwise for its '
               'hosts, under the name of the option.')
_CAP = ('Servers of one application in one {}, where neither the hint '
        'app_max_per_{} nor the flavor\'s vcloud:app_max_per_{} says: a '
        'number, or a share of all its servers such as 25%. Empty is as many '
        'as fit.')

OPTS = [
    cfg.StrOpt(
        'unknown_ecu',
        default='pass', choices=[
            ('pass', 'the host is as good as any'),
            ('reject', 'the host is not for servers of a flavor with ECU')],
        help='What becomes of a host which offers CUSTOM_ECU and does not '
             'tell how fast its cores are: neither its stats nor the '
             'metadata ecu_per_core of an aggregate.'),
    cfg.IntOpt(
        'load_max_age',
        default=300, min=1,
        help='Seconds after which a measured load is not believed any more; '
             'the host is then weighed by what is claimed.'),
    *(cfg.StrOpt(
        f'app_max_per_{level}',
        default='', regex=r'^$|^([1-9][0-9]{0,5}|([1-9][0-9]?|100)%)$',
        help=_CAP.format(level, level, level))
      for level in ('host', 'rack', 'zone')),
    cfg.StrOpt(
        'app_policy',
        default='hard', choices=[
            ('hard', 'better no server than one too many'),
            ('soft', 'the maxima give way when there is no other host')],
        help='What the maxima of an application are, where neither the hint '
             'app_policy nor the flavor\'s vcloud:app_policy says.'),
    cfg.FloatOpt(
        'app_refresh_interval',
        default=2.0, min=0.1,
        help='Seconds between two looks of nova-scheduler at which servers '
             'are of which application, and on which host. What it has '
             'decided itself it knows at once; this is for the decisions of '
             'other schedulers.'),
    cfg.FloatOpt(
        'usage_weight_multiplier',
        default=1.0,
        help='How much the least used host counts, or the fullest one where '
             'the metadata vcloud:policy of an aggregate is progressive.'
             + _MULTIPLIER),
    cfg.FloatOpt(
        'ecu_weight_multiplier',
        default=1.0,
        help='How much a host\'s share of free ECU counts for a server that '
             'asks for ECU.' + _MULTIPLIER),
    cfg.FloatOpt(
        'app_weight_multiplier',
        default=100.0,
        help='How much distance from the other servers of the application '
             'counts.' + _MULTIPLIER),
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

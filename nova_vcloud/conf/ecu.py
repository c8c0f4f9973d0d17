# SPDX-License-Identifier: Apache-2.0
"""Options of compute units: how fast this host is, and how much it sells."""

from oslo_config import cfg

GROUP = cfg.OptGroup(
    'ecu',
    title='Elastic compute units',
    help='What the CPUs of this host are worth. A host that does not know '
         'offers no CUSTOM_ECU to Placement, so servers of flavors that ask '
         'for it go elsewhere.')

OPTS = [
    cfg.FloatOpt(
        'per_core',
        min=0.01,
        help='ECU of one core, by hand. It wins over what '
             '``nova-vcloud-manage ecu calibrate`` measured.'),
    cfg.StrOpt(
        'calibration_file',
        default='/var/lib/nova-vcloud/ecu.json',
        help='Where ``nova-vcloud-manage ecu calibrate`` stores what it '
             'measured, and nova-compute reads it.'),
    cfg.FloatOpt(
        'allocation_ratio',
        default=1.0, min=0.01,
        help='The ecu_allocation_ratio: how many times the ECU of the host '
             'are sold.'),
    cfg.IntOpt(
        'reserved',
        default=0, min=0,
        help='ECU kept from servers.'),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register the group ``[ecu]`` on ``conf``."""
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)

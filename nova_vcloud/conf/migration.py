# SPDX-License-Identifier: Apache-2.0
"""Options of moves between hosts."""

from oslo_config import cfg

GROUP = cfg.OptGroup(
    'vcloud_migration',
    title='Moves of containers between hosts',
    help='How the data of a server travel when it is migrated, or resized to '
         'another host: over ssh, from nova-compute to the command '
         '``nova-vcloud-receive`` of the other host.')

OPTS = [
    cfg.StrOpt(
        'method',
        default='layer',
        choices=[
            ('layer', ('What the server has written travels; the other host '
                       'takes the image from its own engine or from Glance. '
                       'Needs the storage driver overlay2 on both.')),
            ('image', ('An image of the whole server travels. Slower, and '
                       'works with every storage driver.'))],
        help='What travels.'),
    cfg.StrOpt(
        'spool_path',
        default='$state_path/vcloud-moves',
        help='Directory that takes the data of servers on their way to this '
             'host. ``nova-vcloud-receive --spool`` must name the same one.'),
    cfg.StrOpt(
        'ssh_user',
        default='nova',
        help='Account of other hosts that runs ``nova-vcloud-receive``. It '
             'needs to write to their spool, and nothing else.'),
    cfg.PortOpt(
        'ssh_port',
        default=22,
        help='Port of the ssh servers of other hosts.'),
    cfg.StrOpt(
        'ssh_identity_file',
        default='',
        help='Private key for other hosts; by default what ssh finds.'),
    cfg.StrOpt(
        'ssh_known_hosts_file',
        default='',
        help='Host keys of other hosts; by default what ssh finds. A host '
             'whose key is not known is refused.'),
    cfg.StrOpt(
        'receive_command',
        default='nova-vcloud-receive',
        help='Command that other hosts run. They ignore it where the key in '
             'their authorized_keys has a command of its own, as it should.'),
    cfg.StrOpt(
        'evacuate_from',
        default='image',
        choices=[
            ('image', 'Its image, as every server on local disks.'),
            ('snapshot', ('The newest snapshot or backup of the server, of '
                          'its own project and of the system it runs; its '
                          'image where there is none.'))],
        help='What a server is made from when its host is lost. What it has '
             'written since is on the disk of that host.'),
    cfg.IntOpt(
        'engine_wait',
        default=60, min=0,
        help='Seconds that a move waits for an engine that went away before '
             'it is given up.'),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register the group ``[vcloud_migration]`` on ``conf``."""
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)

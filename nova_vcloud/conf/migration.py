# SPDX-License-Identifier: Apache-2.0
"""Options of moves between hosts."""

from oslo_config import cfg

GROUP = cfg.OptGroup(
    'vcloud_migration',
    title='Moves of containers between hosts',
    help='How the data of a server travel when it is migrated, or resized to '
         'another host: from nova-compute to ``nova-vcloud-receive`` of '
         'the other host.')

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
        'transport',
        default='ssh',
        choices=[
            ('ssh', ('By the ssh servers that hosts have. Options ``ssh_*`` '
                     'and ``receive_command``.')),
            ('tls', ('By a port on which ``nova-vcloud-receive --listen`` of '
                     'the other host takes connections. Takes less time. '
                     'Options ``tls_*``.'))],
        help='How the data of servers are sent from this host to others. A '
             'host may take them by both.'),
    cfg.IntOpt(
        'persist',
        default=300, min=0,
        help='Seconds for which a connection to another host is kept after a '
             'move, for the next one, as ``ControlPersist`` of ssh_config(5) '
             'does. 0 keeps none.'),
    cfg.IntOpt(
        'transfer_timeout',
        default=120, min=1,
        help='Seconds that another host may take for an answer, or to read a '
             'mebibyte of data. After them the move fails, and the server '
             'runs on where it was; it may have been down for so long.'),
    cfg.PortOpt(
        'tls_port',
        default=16560,
        help='Port on which other hosts listen.'),
    cfg.StrOpt(
        'tls_cert_file',
        default='',
        help='Certificate of this host, in PEM.'),
    cfg.StrOpt(
        'tls_key_file',
        default='',
        help='Private key of that certificate, in PEM.'),
    cfg.StrOpt(
        'tls_ca_file',
        default='',
        help='Certificates of those who sign the certificates of other hosts, '
             'in PEM. Each of these must name the address of its host, '
             '``my_ip``, among its alternative names: only the host that a '
             'server leaves may send it.'),
    cfg.StrOpt(
        'ssh_user',
        default='nova',
        help='Account of other hosts that runs ``nova-vcloud-receive``. It '
             'owns their spool, and needs nothing else.'),
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

# SPDX-License-Identifier: Apache-2.0
"""Options of volumes of servers."""

from oslo_config import cfg

GROUP = cfg.OptGroup(
    'vcloud_volumes',
    title='Volumes of servers that are containers',
    help='How a Cinder volume that is attached to a server of this host, or '
         'an ephemeral disk of its flavor, appears in it.')

OPTS = [
    cfg.StrOpt(
        'shown_as',
        default='device',
        choices=[
            ('device', (
                'a block device such as ``/dev/vdb``. A program of the '
                'server can read and write it, but not mount it: that is '
                'the privilege of the host. On a host with cgroups of '
                'version 2 the server must be stopped to be given one')),
            ('filesystem', (
                'a filesystem such as ``/volumes/vdb``, which the host '
                'mounts and the server sees at once'))],
        help='How a volume appears in a server. As a filesystem, bytes that '
             'a tenant wrote are read by the filesystem code of the host\'s '
             'kernel, in which a flaw endangers the host: choose it for '
             'tenants whom you trust so far. A server has to be made after '
             'it was chosen.'),
    cfg.ListOpt(
        'filesystems',
        default=['xfs', 'ext4'],
        item_type=cfg.types.String(choices=['xfs', 'ext4', 'btrfs']),
        help='Filesystems that the host mounts; a volume with any other is '
             'refused. Of no use unless ``shown_as`` is ``filesystem``.'),
    cfg.StrOpt(
        'make_filesystem',
        default='xfs',
        choices=['', 'xfs', 'ext4', 'btrfs'],
        help='Filesystem that a blank volume gets when it is attached, and '
             'an ephemeral disk where ``default_ephemeral_format`` does not '
             'say. '
             'Empty: it is refused. A volume in which anything is found, or '
             'whose first or last MiB is not zero, is not blank.'),
    cfg.StrOpt(
        'mount_path',
        default='/run/nova-vcloud/volumes',
        regex='^/.+',
        help='Directory of this host below which filesystems of volumes are '
             'mounted. nova-compute makes it a mount that propagates; the '
             'engine must see it, so it must not have mounts of its own '
             'that are private.'),
    cfg.StrOpt(
        'nfs_mount_point_base',
        default='$state_path/mnt',
        help='Directory below which NFS shares with volumes are mounted.'),
    cfg.BoolOpt(
        'multipath',
        default=False,
        help='Whether volumes with several paths (iSCSI, Fibre Channel, '
             'NVMe) are used by all of them; multipathd must run.'),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register the group ``[vcloud_volumes]`` on ``conf``."""
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)

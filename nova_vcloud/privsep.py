# SPDX-License-Identifier: Apache-2.0
"""What runs with privilege, and with how little of it."""

from oslo_privsep import capabilities
from oslo_privsep import priv_context

#: Network namespaces, links, addresses, routes, announcements; user
#: namespaces, of which another id of the host is the owner.
net = priv_context.PrivContext(
    'nova_vcloud',
    cfg_section='nova_vcloud_net_privileged',
    pypath=__name__ + '.net',
    capabilities=[
        capabilities.CAP_NET_ADMIN,
        capabilities.CAP_NET_RAW,    # ARP and ND frames
        capabilities.CAP_DAC_OVERRIDE,  # the map of a user namespace
        capabilities.CAP_SETGID,
        capabilities.CAP_SETUID,
        capabilities.CAP_SYS_PTRACE,  # /proc/PID/ns
        capabilities.CAP_SYS_ADMIN,  # setns, and the mount of a namespace
    ],
)

#: Root filesystems of servers: any owner, mode, device and attribute.
disk = priv_context.PrivContext(
    'nova_vcloud',
    cfg_section='nova_vcloud_disk_privileged',
    pypath=__name__ + '.disk',
    capabilities=[
        capabilities.CAP_CHOWN,
        capabilities.CAP_DAC_OVERRIDE,
        capabilities.CAP_DAC_READ_SEARCH,
        capabilities.CAP_FOWNER,
        capabilities.CAP_FSETID,
        capabilities.CAP_MKNOD,      # what stands for a deleted file
        capabilities.CAP_SETFCAP,
        capabilities.CAP_SETGID,     # mounts with other ids
        capabilities.CAP_SETUID,
        capabilities.CAP_SYS_ADMIN,  # trusted.* attributes, mount
        capabilities.CAP_SYS_CHROOT,  # to unpack what other hosts send
    ],
)

#: Volumes: loop devices, mounts, nodes in the /dev of a guest.
volume = priv_context.PrivContext(
    'nova_vcloud',
    cfg_section='nova_vcloud_volume_privileged',
    pypath=__name__ + '.volume',
    capabilities=[
        capabilities.CAP_DAC_OVERRIDE,
        capabilities.CAP_DAC_READ_SEARCH,
        capabilities.CAP_FOWNER,
        capabilities.CAP_MKNOD,
        capabilities.CAP_SETGID,      # mounts with other ids
        capabilities.CAP_SETUID,
        capabilities.CAP_SYS_ADMIN,   # mount, loop devices, cgroups
        capabilities.CAP_SYS_CHROOT,  # to enter a guest's mounts
        capabilities.CAP_SYS_PTRACE,  # /proc/PID/root, /proc/PID/fd
        capabilities.CAP_SYS_RESOURCE,  # an ext4 that grows
    ],
)


def in_process() -> None:
    """Do privileged work in this process: it is root, so needs no daemon."""
    for context in (net, disk, volume):
        context.set_client_mode(False)

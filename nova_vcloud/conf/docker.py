# SPDX-License-Identifier: Apache-2.0
"""Options of the Docker compute driver."""

import ipaddress

from oslo_config import cfg
from oslo_config import types

GROUP = cfg.OptGroup(
    'docker',
    title='Docker compute driver',
    help='How nova-compute talks to the Docker engine of its host and what '
         'a container gets when the flavor does not say.')

# Docker's own default list (20.10) without what a server can do without,
# written out so that an engine upgrade cannot widen it:
# https://docs.docker.com/engine/security/#linux-kernel-capabilities
# doc/source/admin/guests.rst says what needs each.
CAPABILITIES = [
    'AUDIT_WRITE', 'CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'KILL',
    'NET_BIND_SERVICE', 'SETFCAP', 'SETGID', 'SETPCAP', 'SETUID',
    'SYS_CHROOT']
# The rest of Docker's list: no danger to the host, only to neighbours.
ALLOWED_CAPABILITIES = ['MKNOD', 'NET_RAW']

# linux/capability.h of Linux 6.12.
KNOWN_CAPABILITIES = [
    *CAPABILITIES, *ALLOWED_CAPABILITIES, 'AUDIT_CONTROL', 'AUDIT_READ',
    'BLOCK_SUSPEND', 'BPF',
    'CHECKPOINT_RESTORE', 'DAC_READ_SEARCH', 'IPC_LOCK', 'IPC_OWNER', 'LEASE',
    'LINUX_IMMUTABLE', 'MAC_ADMIN', 'MAC_OVERRIDE', 'NET_ADMIN',
    'NET_BROADCAST', 'PERFMON', 'SYSLOG', 'SYS_ADMIN', 'SYS_BOOT',
    'SYS_MODULE', 'SYS_NICE', 'SYS_PACCT', 'SYS_PTRACE', 'SYS_RAWIO',
    'SYS_RESOURCE', 'SYS_TIME', 'SYS_TTY_CONFIG', 'WAKE_ALARM']


def network(text: str) -> str:
    """Return an address or a network as it is written.

    :raises ValueError: it is none, or an address with the length of a
        network, which may be more hosts than were meant
    """
    given = str(text).strip()
    whole = ipaddress.ip_network(given, strict=False)
    if '/' in given and ipaddress.ip_interface(given).ip != \
            whole.network_address:
        raise ValueError(
            f'{given} has host bits set: write {whole} for the network, or '
            f'{given.partition("/")[0]} for the one host')
    return str(whole)


OPTS = [
    cfg.StrOpt(
        'url',
        default='unix:///var/run/docker.sock',
        regex=r'^unix:///.+',
        help='Socket of the Docker engine of this host, as '
             '``unix:///absolute/path``. Network namespaces are made on this '
             'host, so an engine elsewhere (``tcp://``) cannot work.'),
    cfg.IntOpt(
        'timeout',
        default=60, min=1,
        help='Seconds to wait for the engine to answer a request. Loading '
             'an image and stopping a server have limits of their own.'),
    cfg.IntOpt(
        'load_timeout',
        default=1800, min=1,
        help='Seconds the engine may be silent while it loads an image.'),
    cfg.IntOpt(
        'start_timeout',
        default=30, min=0,
        help='Seconds that nova-compute waits at its own start for an engine '
             'that does not answer yet; after that the start fails.'),
    cfg.StrOpt(
        'runtime',
        default='nova-vcloud',
        help='Name under which ``nova-vcloud-runtime`` is registered in the '
             'engine (``runtimes`` in daemon.json). nova-compute does not '
             'start when the engine does not know it.'),
    cfg.BoolOpt(
        'require_user_namespaces',
        default=False,
        help='Whether nova-compute refuses to start with an engine whose '
             'containers have no user namespaces (``userns-remap`` in '
             'daemon.json). Otherwise it warns, and root of a server is root '
             'of the host but for what the kernel lets capabilities do.'),
    cfg.StrOpt(
        'runtime_links_path',
        default='/run/nova-vcloud/netns',
        help='Directory that maps a container to its network namespace; the '
             'runtime reads it. Must be the directory given to '
             '``nova-vcloud-runtime --links``.'),
    cfg.StrOpt(
        'cgroup_parent',
        default='/machine',
        regex=r'^(/[A-Za-z0-9_.@:/-]+|[A-Za-z0-9_.@:-]+\.slice)$',
        help='Cgroup below which those of servers are made: a path such as '
             '``/machine``, or a slice such as ``machine.slice`` where the '
             'engine uses systemd for its cgroups. A limit set there by hand '
             'holds for all servers of the host together.'),
    cfg.IntOpt(
        'pids_limit',
        default=4096, min=16,
        help='Processes and threads a server may have whose flavor does not '
             'say with ``vcloud:pids``.'),
    cfg.StrOpt(
        'root_disks',
        default='layer',
        choices=[
            ('layer', ('What a server writes lies in the store of the '
                       'engine. Its size holds where the store has quotas.')),
            ('file', ('It lies in a file system of its own, in a file beside '
                      'that store: sizes hold with the storage driver '
                      'overlay2 on any file system, and ``df`` inside tells '
                      'them. Needs ``xfsprogs`` and Linux 5.14 or newer; '
                      'nova-compute does not start without.'))],
        help='Where the root disks of new servers are. One that is there '
             'gets a file when it is stopped and started; one that has a '
             'file keeps it. A file takes space as it is written; with '
             '``[DEFAULT] preallocate_images = space`` it has all of it at '
             'once.'),
    cfg.BoolOpt(
        'require_disk_limit',
        default=False,
        help='Whether nova-compute refuses to start where a server could '
             'have more on its root disk than its flavor says. Sizes hold '
             'with the storage driver btrfs when its quotas are on, with '
             'overlay2 on xfs mounted with ``pquota``, and with '
             '``root_disks = file``; elsewhere they only count in Placement, '
             'and the log says so at start.'),
    cfg.IntOpt(
        'log_max_size_kib',
        default=1024, min=16,
        help='Size in KiB at which the console log of a server rotates.'),
    cfg.IntOpt(
        'log_max_files',
        default=2, min=1,
        help='Console log files kept for each server.'),
    cfg.BoolOpt(
        'no_new_privileges',
        default=True,
        help='Whether set-user-ID programs (``sudo``, ``su``) inside a '
             'server are kept from gaining privileges. Log in as root by '
             'ssh instead, turn it off for a flavor '
             '(``vcloud:no_new_privileges=false``), or here for all servers '
             'of the host whose flavor does not say.'),
    cfg.ListOpt(
        'capabilities',
        default=CAPABILITIES,
        help='Linux capabilities a server has; everything else is dropped. '
             'A change is for servers that are made, rebuilt, unshelved or '
             'moved from then on.'),
    cfg.ListOpt(
        'allowed_capabilities',
        default=ALLOWED_CAPABILITIES,
        item_type=types.String(choices=KNOWN_CAPABILITIES),
        help='Linux capabilities that a flavor may add with '
             '``vcloud:capabilities``. With ``NET_RAW`` a server can send '
             'frames in the name of its neighbours. Some others, '
             '``SYS_ADMIN``, ``SYS_MODULE``, ``SYS_RAWIO``, ``SYS_PTRACE`` '
             'and ``DAC_READ_SEARCH`` among them, give a tenant the host. A '
             'server whose flavor wants one that is not listed is refused.'),
    cfg.ListOpt(
        'allowed_devices',
        default=[],
        item_type=types.String(regex=r'^/dev(/[A-Za-z0-9_:+@-]'
                                     r'[A-Za-z0-9_.:+@-]*)+$'),
        help='Devices of this host, as ``/dev/NAME``, that a flavor may give '
             'to a server with ``vcloud:devices``. A server whose flavor '
             'wants one that is not listed, or not there, is refused.'),
    cfg.BoolOpt(
        'inject_password',
        default=False,
        help='Whether the password that the API answers with when a server '
             'is made (``adminPass``) is set for its root, or whom the image '
             'property ``os_admin_user`` names. An image without '
             '``chpasswd`` makes a server without it.'),
    cfg.ListOpt(
        'serial_proxy_hosts',
        default=[],
        item_type=network,
        help='Addresses of the hosts of nova-serialproxy, or networks such '
             'as ``192.0.2.0/28``: the ports of consoles of servers '
             '(``[serial_console] port_range``) are open to these and to '
             'this host itself, and to nobody else. The proxy gives no '
             'proof of who it is, so an address is all there is: anybody '
             'who can connect from one of these has the console of each '
             'server that somebody looks at. Empty: only this host may '
             'connect, as where the proxy runs beside nova-compute; the log '
             'names each peer that is refused. A port is closed once nobody '
             'has used it for ``[consoleauth] token_ttl`` seconds.'),
    cfg.FloatOpt(
        'stop_event_delay',
        default=1.0, min=0.0,
        help='Seconds that a container must stay down before Nova is told '
             'that the server stopped, so that a restart is not a stop.'),
    cfg.IntOpt(
        'max_shutdown_timeout',
        default=300, min=0,
        help='Seconds that a server may take to end by itself, whatever the '
             'property ``os_shutdown_timeout`` of its image says, before it '
             'is killed; ``[DEFAULT] shutdown_timeout`` where that is more. '
             'Stop, reboot, rebuild and migration wait so long; a delete '
             'never does. A negative ``os_shutdown_timeout`` counts as '
             '``[DEFAULT] shutdown_timeout``.'),
    cfg.IntOpt(
        'image_cache_max_project_gb',
        default=50, min=0,
        help='GiB that the images of one project may take on the engine of '
             'this host, those in use among them; an image counts to the '
             'project that owns it in Glance, a public one to none. To have '
             'one more, those of the project that no server needs are '
             'removed, the longest unused first; where that is not enough '
             'the server is built on another host, or fails and says so. 0 '
             'is no bound.'),
    cfg.IntOpt(
        'image_cache_min_free_percent',
        default=10, min=0, max=99,
        help='Percent of the disk of the engine, and of its inodes. While '
             'less is free, images that no server of this host needs are '
             'removed whatever ``[image_cache]`` says of their age, the '
             'longest unused first: before another is loaded, and at each '
             'look at the image cache. 0 keeps them.'),
    cfg.IntOpt(
        'snapshot_max_layers',
        default=32, min=1, max=100,
        help='Layers that the image of a server may have. Each snapshot has '
             'one more than the image of its server; one that would have '
             'more than these is made an image of a single layer, which '
             'takes longer and shares nothing with the image of its server. '
             '1 makes every snapshot so. An engine cannot run an image of '
             'more than about 120.'),
]


def raw_sockets(conf: cfg.ConfigOpts) -> bool:
    """Tell whether a server may send frames past its own qdiscs.

    With packet(7) and PACKET_QDISC_BYPASS, or without the qdisc.
    """
    return not {'NET_RAW', 'NET_ADMIN'}.isdisjoint(
        conf.docker.capabilities + conf.docker.allowed_capabilities)


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register the group ``[docker]`` on ``conf``."""
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)

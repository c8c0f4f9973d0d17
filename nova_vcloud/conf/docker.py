# SPDX-License-Identifier: Apache-2.0
"""Options of the Docker compute driver."""

from oslo_config import cfg

GROUP = cfg.OptGroup(
    'docker',
    title='Docker compute driver',
    help='How nova-compute talks to the Docker engine of its host and what '
         'a container gets when the flavor does not say.')

# Docker's own default list (20.10), written out so that an engine upgrade
# cannot widen it: https://docs.docker.com/engine/security/#linux-kernel-capabilities
CAPABILITIES = [
    'AUDIT_WRITE', 'CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'KILL',
    'MKNOD', 'NET_BIND_SERVICE', 'NET_RAW', 'SETFCAP', 'SETGID', 'SETPCAP',
    'SETUID', 'SYS_CHROOT']

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
             'ssh instead, or turn this off for all servers of the host.'),
    cfg.ListOpt(
        'capabilities',
        default=CAPABILITIES,
        help='Linux capabilities a server has; everything else is dropped.'),
    cfg.FloatOpt(
        'stop_event_delay',
        default=1.0, min=0.0,
        help='Seconds that a container must stay down before Nova is told '
             'that the server stopped, so that a restart is not a stop.'),
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


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register the group ``[docker]`` on ``conf``."""
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)

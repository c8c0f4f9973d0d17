# SPDX-License-Identifier: Apache-2.0
"""From a server as Nova describes it to the engine's container, purely."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
from typing import Any

from nova import objects

from nova_vcloud.flavor import boot_keys
from nova_vcloud.flavor import process_limits
from nova_vcloud.qos import limits
from nova_vcloud.qos.backends import docker
from nova_vcloud.virt_docker import server_labels
from nova_vcloud.virt_docker.guest import live_processes
from nova_vcloud.virt_docker.vif.addresses import Nic

HOST_NAME_MAX = 64  # bytes; gethostname(2)
#: Of HostConfig, for systemd (systemd.io/CONTAINER_INTERFACE). Our runtime
#: makes the control groups of who has such a /run its own to write.
SYSTEMD = {'CgroupnsMode': 'private',
           'Tmpfs': {'/run': 'mode=755', '/run/lock': 'mode=1777'}}


@dataclasses.dataclass(frozen=True)
class Defaults:
    """What every container of this host gets; from ``[docker]``.

    :ivar allowed_capabilities: that a flavor may add
    :ivar allowed_devices: paths of those that a flavor may add
    :ivar most_files: open files that this host can let a process have
    """

    runtime: str
    cgroup_parent: str
    log_max_size_kib: int
    log_max_files: int
    no_new_privileges: bool
    capabilities: tuple[str, ...]
    allowed_capabilities: tuple[str, ...] = ()
    allowed_devices: tuple[str, ...] = ()
    most_files: int = process_limits.MOST_FILES

    def cgroup(self, container_id: str) -> str:
        """Return the path of a container's cgroup in each hierarchy.

        The names are libcontainer's: a slice is nested by the dashes in its
        name (systemd.slice(5)), and the rest is a plain directory.
        """
        parent = self.cgroup_parent
        if not parent.endswith('.slice'):
            return f'{parent.rstrip("/")}/{container_id}'
        parts = parent.removesuffix('.slice').split('-')
        slices = ('-'.join(parts[:n + 1]) for n in range(len(parts)))
        path = ''.join(f'/{name}.slice' for name in slices)
        return f'{path}/docker-{container_id}.scope'


def container_name(uuid: str) -> str:
    """Return the engine's name of the container of server ``uuid``."""
    return f'nova-{uuid}'


def kernel_hostname(hostname: str) -> str:
    """Return the name that a server calls itself.

    Nova takes a domain name of up to 255 characters (API 2.94), and letters
    of two bytes in a name that it makes of a server's display name. Linux
    takes 64 bytes (HOST_NAME_MAX) and does not start the container with more:
    then it is the part before the first dot, as a virtual machine would have
    it, cut between two characters.
    """
    if len(hostname.encode()) <= HOST_NAME_MAX:
        return hostname
    first = hostname.partition('.')[0].encode()[:HOST_NAME_MAX]
    return first.decode(errors='ignore')


def parked_name(uuid: str) -> str:
    """Return the name of a container that waits, while another is the server.

    It is the server's old one: during a rebuild, while it is rescued, and on
    the host it moved away from until the move is confirmed.
    """
    return f'nova-{uuid}-parked'


def is_parked(container: Mapping[str, Any]) -> bool:
    """Tell whether a container, as listed, waits under its other name."""
    return f'/{parked_name(container["Labels"][server_labels.UUID])}' \
        in container['Names']


def labels(instance: objects.Instance, host: str,
           application: str) -> dict[str, str]:
    """Return the labels that make a container ours and tell whose it is.

    All of them, '' where there is nothing to tell: the engine would take one
    that is missing from the image, and a snapshot was somebody's server.
    """
    return {
        server_labels.UUID: instance.uuid,
        server_labels.HOST: host,
        server_labels.NAME: instance.name,
        **dict.fromkeys(server_labels.FORMER, ''),
        server_labels.PREFIX + 'project_id': instance.project_id or '',
        server_labels.PREFIX + 'user_id': instance.user_id or '',
        server_labels.IMAGE: instance.image_ref or '',
        server_labels.BASE_IMAGE: instance.system_metadata.get(
            'image_base_image_ref', instance.image_ref or ''),
        server_labels.APPLICATION: application,
    }


def build(instance: objects.Instance, image: str, nics: Iterable[Nic],
          wanted: limits.Limits, defaults: Defaults,
          host: str, application: str = '',
          binds: Iterable[str] = (),
          image_id: str | None = None,
          properties: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the body of ``POST /containers/create``.

    No network, no port and no block limit is asked of the engine: NICs come
    with the namespace the container joins, and the engine would re-apply
    create-time block limits over later changes.

    :param wanted: of which the engine gets those that it keeps itself
    :param application: label of the one the server is of; '' for none
    :param binds: directories of the host, as the engine's Binds
    :param image_id: what Glance knows ``image`` by; None: what Nova says
    :param properties: of the image
    :raises InvalidRequest: flavor or image ask for what cannot be
    """
    nics = list(nics)
    wish = boot_keys.parse(instance.flavor.extra_specs, properties or {})
    return {
        'Image': image,
        'Hostname': kernel_hostname(instance.hostname),
        'Labels': labels(instance, host, application) | (
            {server_labels.IMAGE: image_id} if image_id else {}),
        # A server has a console: a terminal whose output is the log.
        'Tty': True,
        'OpenStdin': True,
        # What the engine runs for it, it runs outside the server's limits.
        'Healthcheck': {'Test': ['NONE']},
        **start(wish),
        'HostConfig': {
            'Runtime': defaults.runtime,
            'NetworkMode': 'none',
            # Nova alone starts and stops servers.
            'RestartPolicy': {'Name': 'no'},
            # Shown by the engine; what the server reads is of names.py.
            'Dns': _unique(d for nic in nics for d in nic.dns),
            'ExtraHosts': _hosts(instance.hostname, nics),
            'CgroupParent': defaults.cgroup_parent,
            'OomKillDisable': False,
            'Binds': list(binds),
            **docker.host_config(wanted),
            **live_processes.host_config(process_limits.parse(
                instance.flavor.memory_mb, instance.flavor.extra_specs,
                properties or {}, defaults.most_files)),
            **_log(defaults),
            'Init': wish.init == 'tini',
            **(SYSTEMD if wish.init == 'systemd' else {}),
            **privileges(wish, defaults),
        },
    }


def start(wish: boot_keys.Boot) -> dict[str, Any]:
    """Return the part of a container that is not as the image has it."""
    environment, signal = wish.environment, wish.stop_signal
    if wish.init == 'systemd':
        environment = ('container=docker', *environment)
        signal = signal or 'SIGRTMIN+3'  # what halts it
    found = {'Cmd': wish.command, 'Entrypoint': wish.entrypoint,
             'Env': environment or None, 'StopSignal': signal}
    return {key: list(value) if isinstance(value, tuple) else value
            for key, value in found.items() if value is not None}


def _log(defaults: Defaults) -> dict[str, Any]:
    return {
        'LogConfig': {
            'Type': 'json-file',
            'Config': {'max-size': f'{defaults.log_max_size_kib}k',
                       'max-file': str(defaults.log_max_files)},
        },
    }


def privileges(wish: boot_keys.Boot, defaults: Defaults) -> dict[str, Any]:
    """Return the part of HostConfig that says what a server may.

    :raises InvalidRequest: it wants what is not allowed here
    """
    boot_keys.check(wish,
                    defaults.capabilities + defaults.allowed_capabilities,
                    defaults.allowed_devices)
    kept = (defaults.no_new_privileges if wish.no_new_privileges is None
            else wish.no_new_privileges)
    return {
        'Privileged': False,
        'CapDrop': ['ALL'],
        'CapAdd': _unique([*defaults.capabilities, *wish.capabilities]),
        'SecurityOpt': ['no-new-privileges'] if kept else [],
        # Not mknod: each is there already, and no other is to be.
        'Devices': [{'PathOnHost': path, 'PathInContainer': path,
                     'CgroupPermissions': 'rw'} for path in wish.devices],
    }


def _hosts(hostname: str, nics: Iterable[Nic]) -> list[str]:
    names = _unique((hostname, kernel_hostname(hostname)))
    return [f'{name}:{address.partition("/")[0]}'
            for nic in nics for address in nic.addresses for name in names]


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))

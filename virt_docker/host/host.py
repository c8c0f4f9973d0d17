# SPDX-License-Identifier: Apache-2.0
"""What the host is and has: checks at start, inventory, resources."""

from collections.abc import Mapping
import dataclasses
import json
import os
import re
import stat
import time
from typing import Any

from nova.objects import fields
from nova.virt import hardware
from nova.virt.libvirt import utils as libvirt_utils
from oslo_log import log
from oslo_utils import units
from oslo_utils import versionutils

from nova_vcloud import ecu_calibration
from nova_vcloud import exception
from nova_vcloud import host_checks
from nova_vcloud import neighbour_limit
from nova_vcloud import userns
from nova_vcloud.engine import Engine
from nova_vcloud.qos import limits
from nova_vcloud.qos.cpu import topology
from nova_vcloud.qos.disk import devices
from nova_vcloud.qos.disk import rootfs
from nova_vcloud.qos.enforcer import Enforcer
from nova_vcloud.virt_docker import resources
from nova_vcloud.virt_docker import server_labels
from nova_vcloud.virt_docker.host import users

LOG = log.getLogger(__name__)

MIN_ENGINE = (20, 10)
# Drivers whose layers the engine keeps apart per container; vfs copies the
# whole image for each server and devicemapper is gone from the engine.
STORAGE_DRIVERS = ('overlay2', 'btrfs', 'zfs', 'fuse-overlayfs')

#: {name in /proc/cpuinfo: libvirt's}, where they are other words.
KERNEL_FLAGS = {'pni': 'sse3', 'pclmulqdq': 'pclmuldq'}

# Without these a server is no server.
NEEDED = ('cpu.quota', 'cpu.shares', 'memory.max', 'pids.max')


@dataclasses.dataclass(frozen=True)
class Facts:
    """One reading of the host."""

    vcpus: int
    memory_mb: int
    memory_used_mb: int
    disk_gb: int
    disk_used_gb: int
    engine_version: tuple[int, ...]
    architecture: str
    containers: int
    root: str  # where the engine keeps root filesystems


class Host:
    """The host as Nova sees it.

    :param name: host name of nova-compute, also the node's name
    :param runtime: name of our runtime in the engine
    :param links_path: directory our runtime must have been given
    :param cgroup_parent: that servers are given
    :param user_namespaces: whether servers must have some
    """

    def __init__(self, engine: Engine, name: str, runtime: str,
                 links_path: str, cgroup_parent: str,
                 user_namespaces: bool = False,
                 neighbours: int = 0) -> None:
        self._engine = engine
        self.name = name
        self._runtime = runtime
        self._links_path = links_path
        self._cgroup_parent = cgroup_parent
        self._user_namespaces = user_namespaces
        self._neighbours = neighbours
        self._ids: userns.IdMap | None = None
        self._facts: Facts | None = None
        self._device: str | None = None

    def wait_ready(self, timeout: int) -> None:
        """Wait for the engine, then check that it is set up for us.

        :param timeout: seconds
        :raises HostNotReady: with what to change
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                info = self._engine.info()
                break
            except exception.EngineUnavailable as e:
                if time.monotonic() >= deadline:
                    raise exception.HostNotReady(
                        f'No Docker engine answers at {self._engine.url} '
                        f'({e}). Start it, or set [docker] url.') from e
                time.sleep(0.5)
        problems = check(info, self._runtime, self._links_path,
                         self._cgroup_parent)
        problems += users.check(info, self.name, self._user_namespaces)
        if problems:
            raise exception.HostNotReady(
                f'The Docker engine at {self._engine.url} is not set up for '
                'servers: ' + ' '.join(problems))
        reason = open_to_all(info['DockerRootDir'])
        if reason:
            LOG.warning('%s', reason)
        LOG.info('Docker engine %(version)s, storage driver %(storage)s, '
                 'cgroup v%(cgroup)s (%(driver)s)',
                 {'version': info['ServerVersion'], 'storage': info['Driver'],
                  'cgroup': info.get('CgroupVersion', '1'),
                  'driver': info.get('CgroupDriver')})
        self._ids = userns.of_engine(info)
        if self._ids:
            LOG.info('Root of a server is user %d of this host',
                     self._ids.root[0])
        for each in (*host_checks.read(info, self._engine.containers(
                server_labels.of_host(self.name))),
                neighbour_limit.check(self._neighbours)):
            if each.problem:
                LOG.warning('%s', each)

    @property
    def ids(self) -> userns.IdMap | None:
        """Ids in servers' user namespaces; None: those of the host."""
        return self._ids

    def check_limits(self, enforcer: Enforcer,
                     options: Mapping[str, str]) -> None:
        """Say in the log what limits this host holds, and what not.

        :param options: {kind of limit: option by which it is needed}
        :raises HostNotReady: it lacks one that every server needs
        """
        for kind, remark in enforcer.remarks().items():
            LOG.info('Limit %s: %s', kind, remark)
        missing = enforcer.missing()
        for kind, reason in missing.items():
            LOG.warning('Limit %s cannot be had here: %s', kind, reason)
        needed = [kind for kind in NEEDED if kind in missing]
        if needed:
            raise exception.HostNotReady(
                'Servers would have no limits: ' + '; '.join(
                    f'{kind}: {missing[kind]}' for kind in needed))
        for kind in options.keys() & missing.keys():
            raise exception.HostNotReady(
                f'{options[kind]} is set and {kind} cannot be had here: '
                f'{missing[kind]}')

    def refresh(self) -> Facts:
        """Read the host anew; one engine call, however many servers."""
        self._facts = read_facts(self._engine.info())
        return self._facts

    @property
    def facts(self) -> Facts:
        """The last reading; made now if there was none."""
        return self._facts or self.refresh()

    @property
    def device(self) -> str:
        """The disk of root filesystems, as 'major:minor'.

        :raises LimitNotEnforced: they are on no block device
        """
        if self._device is None:
            self._device = devices.device_of(self.facts.root)
        return self._device

    def resources(self, cpus: int) -> dict[str, Any]:
        """Return what ``ComputeDriver.get_available_resource`` returns.

        :param cpus: that servers may have
        """
        facts = self.refresh()
        return {
            'vcpus': cpus,
            'vcpus_used': 0,
            'memory_mb': facts.memory_mb,
            'memory_mb_used': facts.memory_used_mb,
            'local_gb': facts.disk_gb,
            'local_gb_used': facts.disk_used_gb,
            'disk_available_least': facts.disk_gb - facts.disk_used_gb,
            'cpu_info': json.dumps({'arch': facts.architecture}),
            'numa_topology': None,
            'hypervisor_type': fields.HVType.DOCKER,
            'hypervisor_version': versionutils.convert_version_to_int(
                '.'.join(map(str, facts.engine_version))),
            'hypervisor_hostname': self.name,
            'supported_instances': [
                (facts.architecture, fields.HVType.DOCKER,
                 fields.VMMode.EXE)],
        }


def version_of(info: dict[str, Any]) -> tuple[int, ...]:
    """Return the engine's version as three numbers."""
    numbers = re.findall(r'\d+', info['ServerVersion'])[:3]
    return tuple(int(n) for n in numbers)


def check(info: dict[str, Any], runtime: str, links_path: str,
          cgroup_parent: str) -> list[str]:
    """Return what must be changed before servers can run, if anything.

    :param info: ``GET /info`` of the engine
    """
    problems = []
    if version_of(info) < MIN_ENGINE:
        problems.append(
            f'Version {info["ServerVersion"]} is too old; install '
            f'{".".join(map(str, MIN_ENGINE))} or newer.')
    if info['Driver'] not in STORAGE_DRIVERS:
        problems.append(
            f'Storage driver {info["Driver"]} is not supported; set '
            f'"storage-driver" in daemon.json to one of '
            f'{", ".join(STORAGE_DRIVERS)}.')
    if not info.get('LiveRestoreEnabled'):
        problems.append(
            'Servers would stop with the engine; add "live-restore": true '
            'to daemon.json.')
    problems += _check_runtime(info, runtime, links_path)
    slices = info.get('CgroupDriver') == 'systemd'
    if slices != cgroup_parent.endswith('.slice'):
        wanted = 'the name of a slice, such as machine.slice' if slices \
            else 'a path, such as /machine'
        problems.append(
            f'Its cgroup driver is {info.get("CgroupDriver")}: set [docker] '
            f'cgroup_parent, now {cgroup_parent}, to {wanted}.')
    return problems


def open_to_all(root: str) -> str:
    """Return what to do about an engine's store that anybody can enter.

    There are the root filesystems of servers, with programs that run as root
    on the host for whoever starts them (CVE-2021-41091).

    :param root: the engine's data-root
    :returns: '' when only root, and the group of the engine, can
    """
    path = os.path.realpath(root)
    while path != '/':
        if not os.stat(path).st_mode & stat.S_IXOTH:
            return ''
        path = os.path.dirname(path)
    return (f'Every user of this host can enter {root}, where the root '
            'filesystems of servers are, and run set-user-ID programs of '
            f'tenants as root: chmod 0710 {root}, and install an engine of '
            'version 20.10.9 or newer, which does it at each start')


def _check_runtime(info: dict[str, Any], runtime: str,
                   links_path: str) -> list[str]:
    known = (info.get('Runtimes') or {}).get(runtime)
    wanted = json.dumps({'runtimes': {runtime: {
        'path': 'nova-vcloud-runtime',
        'runtimeArgs': ['--links', links_path]}}})
    if known is None:
        return [(f'Runtime {runtime} is not registered; add to daemon.json: '
                 f'{wanted} and restart the engine.')]
    args = known.get('runtimeArgs') or []
    if '--links' in args[:-1]:
        given = args[args.index('--links') + 1]
        if os.path.normpath(given) != os.path.normpath(links_path):
            return [(f'Runtime {runtime} reads {given} but [docker] '
                     f'runtime_links_path is {links_path}; make them equal: '
                     f'{wanted}.')]
    return []


def read_facts(info: dict[str, Any]) -> Facts:
    """Combine the engine's description with what the kernel says."""
    root = rootfs.place(info)
    disk = os.statvfs(root)
    total = disk.f_blocks * disk.f_frsize
    used = total - disk.f_bavail * disk.f_frsize
    memory = _meminfo()
    return Facts(
        vcpus=info['NCPU'],
        memory_mb=info['MemTotal'] // units.Mi,
        memory_used_mb=(memory['MemTotal'] - memory['MemAvailable'])
        // units.Ki,
        disk_gb=total // units.Gi,
        disk_used_gb=used // units.Gi,
        engine_version=version_of(info),
        architecture=fields.Architecture.canonicalize(info['Architecture']),
        containers=info['Containers'],
        root=root)


def cpus(shared: str | None, dedicated: str | None,
         numa_policy: str) -> resources.Cpus:
    """Return which CPUs servers may have.

    :param shared: ``[compute] cpu_shared_set``
    :param dedicated: ``[compute] cpu_dedicated_set``; with neither, servers
        share all CPUs
    :raises HostNotReady: CPUs that the host does not have, or in both
    """
    found = topology.read()
    have = frozenset(found.cpus)
    wanted = {
        'cpu_shared_set': _cpu_set(shared, frozenset() if dedicated
                                   else have),
        'cpu_dedicated_set': _cpu_set(dedicated, frozenset())}
    for option, numbers in wanted.items():
        if numbers - have:
            raise exception.HostNotReady(
                f'[compute] {option} names CPUs '
                f'{limits.format_set(numbers - have)}; the host has '
                f'{limits.format_set(have)}')
    both = frozenset.intersection(*wanted.values())
    if both:
        raise exception.HostNotReady(
            f'CPUs {limits.format_set(both)} are both in [compute] '
            'cpu_shared_set and in cpu_dedicated_set')
    return resources.Cpus(found, wanted['cpu_shared_set'],
                          wanted['cpu_dedicated_set'], numa_policy)


def speed(by_hand: float | None, calibration_file: str) -> float | None:
    """Return the ECU of one core of this host, None if nobody knows.

    :param by_hand: ``[ecu] per_core``
    :raises HostNotReady: what was measured is damaged
    """
    try:
        found = ecu_calibration.per_core(by_hand, calibration_file)
    except exception.StateError as e:
        raise exception.HostNotReady(str(e)) from e
    if found is None:
        LOG.warning('Nobody measured the CPUs of this host (nova-vcloud-'
                    'manage ecu calibrate): it offers no CUSTOM_ECU')
    else:
        LOG.info('A core of this host gives %g ECU', found)
    return found


def _cpu_set(text: str | None, default: frozenset[int]) -> frozenset[int]:
    """Return the CPUs of one of Nova's options."""
    return frozenset(hardware.parse_cpu_spec(text)) if text else default


def _meminfo() -> dict[str, int]:
    """Return /proc/meminfo in KiB."""
    with open('/proc/meminfo') as f:
        rows = (line.split() for line in f)
        return {row[0].rstrip(':'): int(row[1]) for row in rows}


def with_cpu_traits(traits: set[str],
                    path: str = '/proc/cpuinfo') -> set[str]:
    """Return traits of a host, those of its CPUs as the CPUs are.

    Hardware virtualization is for guests with a kernel of their own.
    """
    known = libvirt_utils.CPU_TRAITS_MAPPING
    # The kernel writes avx512_vnni, libvirt avx512vnni, and sha-ni.
    names = {_plain(name): name for name in known.keys() - {'svm', 'vmx'}}
    with open(path) as f:
        flags = {flag for line in f if line.startswith('flags')
                 for flag in line.split()}
    had = libvirt_utils.cpu_features_to_traits({
        names[flag] for flag in (_plain(KERNEL_FLAGS.get(flag, flag))
                                 for flag in flags) if flag in names})
    return traits - had.keys() | {trait for trait in had if had[trait]}


def _plain(flag: str) -> str:
    return re.sub('[-_.]', '', flag)


def inventory(facts: Facts, cpus: resources.Cpus, ratios: dict[str, float],
              reserved: dict[str, int]) -> dict[str, dict[str, Any]]:
    """Return the Placement inventory of this host.

    :param ratios: allocation ratio by resource class
    :param reserved: kept from servers, by resource class, in its own unit
    """
    totals = {'VCPU': len(cpus.shared), 'PCPU': len(cpus.dedicated),
              'MEMORY_MB': facts.memory_mb, 'DISK_GB': facts.disk_gb}
    return {
        resource_class: {
            'total': total,
            'reserved': min(reserved[resource_class], total),
            'min_unit': 1,
            'max_unit': total,
            'step_size': 1,
            # A CPU of one's own is one's own.
            'allocation_ratio': ratios.get(resource_class, 1.0),
        }
        for resource_class, total in totals.items() if total}

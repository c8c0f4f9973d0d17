# SPDX-License-Identifier: Apache-2.0
"""From what a flavor asks and what the host is to limits, purely."""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses

from nova_vcloud import ecu
from nova_vcloud import exception
from nova_vcloud.flavor.flavor_limits import Request
from nova_vcloud.qos import limits
from nova_vcloud.qos.cpu.pinning import Placement
from nova_vcloud.qos.limits import Key

MIB = 2**20
GIB = 2**30
DEFAULT_PERIOD = 100_000  # µs, the kernel's and libvirt's
KILO, KIBI = 1000, 1024
_WAYS = {'in': 'inbound', 'out': 'outbound'}
_UNITS = {'bps': 'bytes', 'iops': 'iops'}


@dataclasses.dataclass(frozen=True)
class Host:
    """What limits depend on besides the flavor.

    :ivar cpus: CPUs that servers may use
    :ivar per_core: ECU of one core; None when nobody measured it
    :ivar pids: processes of a server whose flavor does not say
    :ivar device: 'major:minor' of the disk that root filesystems are on
    :ivar split_totals: whether a limit on reads and writes together is held
        by giving each half of it
    :ivar disk: whether the size of a root filesystem is limited here
    """

    cpus: int
    per_core: float | None
    pids: int
    device: str
    split_totals: bool = False
    disk: bool = False


def desired(request: Request, host: Host, placement: Placement,
            ports: Iterable[str]) -> limits.Limits:
    """Return the limits of a server, none of them left to chance.

    :param ports: ids of its Neutron ports
    :raises InvalidRequest: this host cannot give what the flavor asks
    """
    try:
        values = {**_cpu(request, host), **_memory(request),
                  Key('cpu', 'cpus'): placement.cpus,
                  Key('cpu', 'mems'): placement.mems,
                  Key('pids', 'max'): request.pids or host.pids,
                  **_io(request, host), **_disk(request, host)}
        for port in ports:
            values.update(_net(request, port))
        found = limits.Limits(values)
        found.check()
    except exception.InvalidLimit as e:
        raise exception.InvalidRequest(str(e)) from e
    return found


def cores(request: Request, per_core: float | None) -> float:
    """Return how many cores of this host the flavor is worth.

    :raises InvalidRequest: it asks for ECU and the host's are unknown, or
        for more in a vCPU than one core gives
    """
    if not request.ecu:
        return request.vcpus
    if per_core is None:
        raise exception.InvalidRequest(
            f'The flavor asks for {request.ecu} ECU and this host does not '
            'know how many its cores give; run nova-vcloud-manage ecu '
            'calibrate, or set [ecu] per_core')
    if request.ecu > request.vcpus * per_core:
        raise exception.InvalidRequest(
            f'The flavor asks for {request.ecu} ECU in {request.vcpus} '
            f'vCPUs; a core of this host gives {per_core:g}')
    return ecu.cores(request.ecu, per_core)


def _cpu(request: Request, host: Host) -> dict[Key, limits.Value]:
    worth = cores(request, host.per_core)
    period = request.cpu_period or DEFAULT_PERIOD
    quota: limits.Value
    if request.ecu and host.per_core:
        quota = ecu.quota_us(request.ecu, host.per_core, period)
    elif request.cpu_quota is None:
        # A vCPU is a core's worth of time and no more, as in a machine.
        quota = request.vcpus * period
    else:
        quota = request.cpu_quota * request.vcpus or limits.UNLIMITED
    if isinstance(quota, int) and quota > host.cpus * period:
        raise exception.InvalidRequest(
            f'The flavor asks for {quota / period:g} CPUs and this host has '
            f'{host.cpus} for servers')
    shares = request.cpu_shares or min(max(round(1024 * worth), 2), 262144)
    return {Key('cpu', 'shares'): shares, Key('cpu', 'period'): period,
            Key('cpu', 'quota'): quota,
            Key('cpu', 'burst'): (request.cpu_burst or 0) * request.vcpus}


def _memory(request: Request) -> dict[Key, limits.Value]:
    soft = request.memory_soft_mb
    return {Key('memory', 'max'): request.memory_mb * MIB,
            Key('memory', 'swap'): request.memory_swap_mb * MIB,
            Key('memory', 'soft'): soft * MIB if soft else limits.UNLIMITED}


def _io(request: Request, host: Host) -> dict[Key, limits.Value]:
    found: dict[Key, limits.Value] = {}
    for unit, name in _UNITS.items():
        total = request.disk.get(f'total_{name}', 0)
        share = total // 2 if host.split_totals else 0
        if total and not share:
            raise exception.InvalidRequest(
                f'quota:disk_total_{name}_sec={total}: cgroups limit reads '
                'and writes, not their sum; give quota:disk_read_* and '
                'quota:disk_write_*, or set [qos] split_disk_totals')
        for way in ('read', 'write'):
            wanted = request.disk.get(f'{way}_{name}', 0) or share
            found[Key('io', f'{way}_{unit}', host.device)] = \
                wanted or limits.UNLIMITED
    return found


def _disk(request: Request, host: Host) -> dict[Key, limits.Value]:
    """Return the size of the root filesystem; Nova's 0 is no limit."""
    if not host.disk:
        return {}
    return {Key('disk', 'max'): request.root_gb * GIB or limits.UNLIMITED}


def _net(request: Request, port: str) -> dict[Key, limits.Value]:
    scale = {'average': KILO, 'peak': KILO, 'burst': KIBI}
    return {
        Key('net', f'{way}_{what}', port):
            request.vif.get(f'{name}_{what}', 0) * unit or limits.UNLIMITED
        for way, name in _WAYS.items() for what, unit in scale.items()}

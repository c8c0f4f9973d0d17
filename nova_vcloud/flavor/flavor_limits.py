# SPDX-License-Identifier: Apache-2.0
"""What a flavor asks for: the one parser of extra specs, purely.

Nova's own keys have the meaning that its libvirt driver gives them
(https://docs.openstack.org/nova/latest/configuration/extra-specs.html).
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import re

from nova_vcloud import exception
from nova_vcloud.flavor import flavor_keys

ECU = re.compile(r'resources\d*:CUSTOM_ECU')
DISK = tuple(f'{way}_{unit}' for way in ('read', 'write', 'total')
             for unit in ('bytes', 'iops'))
VIF = tuple(f'{way}_{what}' for way in ('inbound', 'outbound')
            for what in ('average', 'peak', 'burst'))
# sched-bwc.rst: a period is 1 ms to 1 s, and so is the least quota.
_PERIOD = (1000, 1_000_000)
_MAXIMUM = 2**53


@dataclasses.dataclass(frozen=True)
class Request:
    """A flavor's wishes. None is: it does not say.

    :ivar root_gb: GiB of root disk; 0 is unlimited
    :ivar ecu: compute units, of the whole server
    :ivar cpu_quota: µs in a period, **of each vCPU**; 0 is unlimited
    :ivar cpu_period: µs
    :ivar cpu_burst: µs, of each vCPU
    :ivar disk: {'read_bytes': bytes/s, 'write_iops': requests/s, ...} of each
        disk; 0 is unlimited
    :ivar vif: {'inbound_average': kB/s, 'inbound_peak': kB/s,
        'inbound_burst': KiB, ...} of each NIC; 0 is unlimited
    """

    vcpus: int
    memory_mb: int
    root_gb: int = 0
    ecu: int | None = None
    cpu_shares: int | None = None
    cpu_period: int | None = None
    cpu_quota: int | None = None
    cpu_burst: int | None = None
    dedicated: bool = False
    bind: bool = False
    numa_policy: str | None = None
    pids: int | None = None
    memory_soft_mb: int | None = None
    memory_swap_mb: int = 0
    disk: Mapping[str, int] = dataclasses.field(default_factory=dict)
    vif: Mapping[str, int] = dataclasses.field(default_factory=dict)


def parse(vcpus: int, memory_mb: int, specs: Mapping[str, str],
          image_cpu_policy: str | None = None,
          root_gb: int = 0, swap_mb: int = 0) -> Request:
    """Return what a flavor asks for.

    :param specs: the flavor's extra specs
    :param image_cpu_policy: image property ``hw_cpu_policy``
    :param root_gb: GiB of root disk; 0 is unlimited
    :param swap_mb: MiB that the flavor itself says, as of a virtual machine
    :raises InvalidRequest: a value that cannot be, or two at odds; the text
        names the keys
    """
    reader = _Reader(specs)
    swap = reader.own('memory_swap_mb')
    request = Request(
        vcpus=vcpus, memory_mb=memory_mb, root_gb=root_gb,
        ecu=reader.ecu(),
        cpu_shares=reader.number('quota:cpu_shares', 2, 262144),
        cpu_period=reader.number('quota:cpu_period', *_PERIOD),
        cpu_quota=reader.limit('quota:cpu_quota', 1000),
        cpu_burst=reader.own('cpu_burst'),
        dedicated=_dedicated(specs, image_cpu_policy),
        bind=reader.word('cpu_placement') == 'bind',
        numa_policy=reader.word('numa_policy'),
        pids=reader.own('pids'),
        memory_soft_mb=reader.own('memory_soft_mb'),
        memory_swap_mb=swap_mb if swap is None else swap,
        disk=reader.limits(f'quota:disk_{name}_sec' for name in DISK),
        vif=reader.limits(f'quota:vif_{name}' for name in VIF))
    _check(request)
    return request


class _Reader:
    """Extra specs, read with a clear word about each that is wrong."""

    def __init__(self, specs: Mapping[str, str]) -> None:
        self._specs = specs

    def number(self, key: str, minimum: int = 0,
               maximum: int = _MAXIMUM) -> int | None:
        """Return a number, None when the key is absent."""
        text = self._specs.get(key)
        if text is None:
            return None
        try:
            value = int(text)
        except ValueError:
            raise exception.InvalidRequest(
                f'{key}={text}: not a whole number') from None
        if not minimum <= value <= maximum:
            raise exception.InvalidRequest(
                f'{key}={text}: not between {minimum} and {maximum}')
        return value

    def limit(self, key: str, minimum: int = 1) -> int | None:
        """Return a number; 0 for 0 and -1, which libvirt calls unlimited."""
        value = self.number(key, -1)
        if value is not None and 0 < value < minimum:
            raise exception.InvalidRequest(
                f'{key}={value}: less than {minimum}')
        return value if value is None else max(value, 0)

    def limits(self, keys: Iterable[str]) -> dict[str, int]:
        """Return {the middle of the key: number} of the keys that are set."""
        found = {}
        for key in keys:
            value = self.limit(key)
            if value is not None:
                name = key.partition(':')[2].partition('_')[2]
                found[name.removesuffix('_sec')] = value
        return found

    def own(self, name: str) -> int | None:
        """Return the number of a key of our namespace."""
        spec = flavor_keys.KEYS[f'vcloud:{name}']
        return self.number(f'vcloud:{name}', spec.minimum or 0,
                           _MAXIMUM if spec.maximum is None
                           else spec.maximum)

    def word(self, name: str) -> str | None:
        """Return the word of a key of our namespace."""
        key = f'vcloud:{name}'
        text = self._specs.get(key)
        choices = flavor_keys.KEYS[key].choices or ()
        if text is not None and text not in choices:
            raise exception.InvalidRequest(
                f'{key}={text}: not one of {", ".join(choices)}')
        return text

    def ecu(self) -> int | None:
        """Return the compute units, of all resource groups together."""
        found = [self.number(key, 0) or 0 for key in self._specs
                 if ECU.fullmatch(key)]
        return sum(found) or None


def _dedicated(specs: Mapping[str, str], image: str | None) -> bool:
    policy = specs.get('hw:cpu_policy') or image or 'shared'
    if policy not in ('shared', 'dedicated'):
        raise exception.InvalidRequest(
            f'hw:cpu_policy={policy}: containers know shared and dedicated')
    if specs.get('hw:cpu_thread_policy') == 'isolate':
        raise exception.InvalidRequest(
            'hw:cpu_thread_policy=isolate: containers know prefer and '
            'require')
    return policy == 'dedicated'


def _check(request: Request) -> None:
    """Check values against one another."""
    if request.ecu and request.cpu_quota:
        raise exception.InvalidRequest(
            'quota:cpu_quota and resources:CUSTOM_ECU both limit the CPU: '
            'give one of them')
    if request.cpu_burst and request.cpu_quota \
            and request.cpu_burst > request.cpu_quota:
        raise exception.InvalidRequest(
            f'vcloud:cpu_burst={request.cpu_burst} is more than '
            f'quota:cpu_quota={request.cpu_quota}')
    if request.cpu_burst and request.cpu_quota == 0:
        raise exception.InvalidRequest(
            'vcloud:cpu_burst has no meaning without a quota')
    soft = request.memory_soft_mb
    if soft is not None and soft > request.memory_mb:
        raise exception.InvalidRequest(
            f'vcloud:memory_soft_mb={soft} is more than the memory of the '
            f'flavor, {request.memory_mb}')
    for unit in ('bytes', 'iops'):
        if request.disk.get(f'total_{unit}'):
            for way in ('read', 'write'):
                if request.disk.get(f'{way}_{unit}'):
                    raise exception.InvalidRequest(
                        f'quota:disk_total_{unit}_sec and '
                        f'quota:disk_{way}_{unit}_sec exclude each other')
    for way in ('inbound', 'outbound'):
        _check_vif(way, request.vif)


def _check_vif(way: str, vif: Mapping[str, int]) -> None:
    average = vif.get(f'{way}_average')
    peak = vif.get(f'{way}_peak')
    if (peak or vif.get(f'{way}_burst')) and not average:
        raise exception.InvalidRequest(
            f'quota:vif_{way}_peak and _burst have no meaning without '
            f'quota:vif_{way}_average')
    if peak and average and average > peak:
        raise exception.InvalidRequest(
            f'quota:vif_{way}_average={average} is more than '
            f'quota:vif_{way}_peak={peak}')

# SPDX-License-Identifier: Apache-2.0
"""What an ECU is, and what it is on this host: pure.

One ECU (elastic compute unit) is a fixed amount of single-thread work per
second: a quarter of what a core of the reference host does of benchmark
``ecu-1`` (:mod:`nova_vcloud.ecu_benchmark`). A server of 2 ECU does the same
work per second on every host, on a slow one with more CPU time.
"""

from __future__ import annotations

from typing import Any

from nova_vcloud import exception

#: ECU of one core of the reference host, with all its cores busy.
REFERENCE_CORE = 4.0
RESOURCE_CLASS = 'CUSTOM_ECU'
LEAST_QUOTA = 1000  # µs; sched-bwc.rst


def cores(ecu: int, per_core: float) -> float:
    """Return how many cores of a host are worth so many ECU."""
    return ecu / per_core


def quota_us(ecu: int, per_core: float, period_us: int) -> int:
    """Return the CPU time in a period, in µs, of a whole server.

    :raises InvalidLimit: it is less than the kernel can count
    """
    quota = round(period_us * cores(ecu, per_core))
    if quota < LEAST_QUOTA:
        raise exception.InvalidLimit(
            f'{ecu} ECU on a host with {per_core:g} ECU a core are {quota} '
            f'µs in a period of {period_us} µs, and the kernel counts from '
            f'{LEAST_QUOTA} µs; use a longer period')
    return quota


def capacity(cpus: int, per_core: float) -> int:
    """Return the whole ECU of a host with so many CPUs for servers."""
    # 100 x 0.29 must not be 28 for the sake of a last binary digit.
    return int(cpus * per_core + 1e-9)


def inventory(cpus: int, per_core: float, ratio: float,
              reserved: int) -> dict[str, dict[str, Any]]:
    """Return a host's Placement inventory of ECU; {} when it has none.

    :param ratio: allocation ratio
    :param reserved: ECU kept from servers
    """
    total = capacity(cpus, per_core)
    if not total:
        return {}
    return {RESOURCE_CLASS: {
        'total': total, 'reserved': min(reserved, total), 'min_unit': 1,
        'max_unit': total, 'step_size': 1, 'allocation_ratio': ratio}}

# SPDX-License-Identifier: Apache-2.0
"""The same limits in the words of cgroup v1 and of cgroup v2, purely."""

from __future__ import annotations

import math

from nova_vcloud.qos import limits

SHARES = (2, 262144)  # cpu.shares
WEIGHT = (1, 10000)  # cpu.weight


def weight_of(shares: int) -> int:
    """Return the cpu.weight of a cpu.shares, on a straight line.

    As runc up to 1.3 and systemd do it
    (libcontainer/cgroups/utils.go, ConvertCPUSharesToCgroupV2Value).
    """
    shares = min(max(shares, SHARES[0]), SHARES[1])
    return 1 + (shares - SHARES[0]) * (WEIGHT[1] - WEIGHT[0]) // (
        SHARES[1] - SHARES[0])


def curved_weight_of(shares: int) -> int:
    """Return the cpu.weight of a cpu.shares, with 1024 at 100.

    As opencontainers/cgroups does it since 0.0.3, thus newer runc.
    """
    shares = min(max(shares, SHARES[0]), SHARES[1])
    if shares in SHARES:
        return WEIGHT[SHARES.index(shares)]
    log = math.log2(shares)
    return math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34))


def shares_of(weight: int) -> int:
    """Return the least cpu.shares whose weight on the line is ``weight``."""
    span = SHARES[1] - SHARES[0]
    return SHARES[0] - (-(weight - WEIGHT[0]) * span
                        // (WEIGHT[1] - WEIGHT[0]))


def same_weight(shares: int, found: int) -> bool:
    """Tell whether ``found``, read from a weight, stands for ``shares``."""
    return weight_of(found) in (weight_of(shares), curved_weight_of(shares))


def cpu_max(quota: limits.Value, period: int) -> str:
    """Return the text of cpu.max; times in µs."""
    return f'{number(quota)} {period}'


def parse_cpu_max(text: str) -> tuple[limits.Value, int]:
    """Return (quota, period) in µs from the text of cpu.max."""
    quota, period = text.split()
    return parse_number(quota), int(period)


def io_max(device: str, kind: str, value: limits.Value) -> str:
    """Return what changes one limit of io.max.

    :param kind: such as ``io.read_bps``
    """
    return f'{device} {IO[kind]}={number(value)}'


def parse_io_max(text: str, device: str, kind: str) -> limits.Value:
    """Return one limit from the text of io.max."""
    for line in text.splitlines():
        found, *pairs = line.split()
        if found == device:
            values = dict(pair.split('=') for pair in pairs)
            return parse_number(values.get(IO[kind], 'max'))
    return limits.UNLIMITED


#: {kind: word in io.max}
IO = {'io.read_bps': 'rbps', 'io.write_bps': 'wbps',
      'io.read_iops': 'riops', 'io.write_iops': 'wiops'}


def number(value: limits.Value) -> str:
    """Return a number in the words of cgroup v2."""
    return 'max' if value is limits.UNLIMITED else str(value)


def parse_number(text: str) -> limits.Value:
    """Return a number from the words of cgroup v2."""
    return limits.UNLIMITED if text == 'max' else int(text)


def memory_and_swap(memory: limits.Value, swap: limits.Value) -> int:
    """Return v1's sum of memory and swap in bytes; -1 is unlimited."""
    if isinstance(memory, int) and isinstance(swap, int):
        return memory + swap
    return -1

# SPDX-License-Identifier: Apache-2.0
"""How exactly the kernel holds a limit: what ``qos show`` says beside it.

The figures are measured, ``tests/functional/qos/test_precision.py``.
"""

from __future__ import annotations

import pathlib

from nova_vcloud.qos import limits

#: Milliseconds of a slice of blk-throttle (DFL_THROTL_SLICE_HD is HZ / 10).
SLICE = 100
#: Share by which requests exceed what whole slices give, at most.
IOPS = 0.06
#: Of a CPU quota: the least share by which time differs from it, and µs that
#: a period ends sooner or later than it should.
CPU, CPU_US = 0.04, 240.0


def slice_of(device: str, system: str = '/sys') -> int:
    """Return the milliseconds of a slice of the throttle of a disk.

    Some kernels before 6.10 tell, and have others for disks without motors.

    :param device: 'major:minor'
    """
    path = pathlib.Path(system, 'dev/block', device,
                        'queue/throttle_sample_time')
    try:
        return int(path.read_text()) or SLICE
    except (OSError, ValueError):
        return SLICE


def held_iops(value: int, milliseconds: int = SLICE) -> int:
    """Return the requests in a second that a limit really is.

    In each slice there are whole requests only, and at least one
    (block/blk-throttle.c, calculate_io_allowed).
    """
    return max(value * milliseconds // 1000, 1) * 1000 // milliseconds


def of_quota(quota: int) -> float:
    """Return the share by which CPU time differs from a quota.

    :param quota: µs in a period
    """
    return max(CPU, CPU_US / quota)


def told(key: limits.Key, value: limits.Value, system: str = '/sys') -> str:
    """Return how exactly a limit is held, '' where there is nothing to say.
    """
    if not isinstance(value, int):
        return ''
    if key.kind == 'cpu.quota':
        return f'±{of_quota(value):.0%}'
    if key.kind in ('io.read_iops', 'io.write_iops'):
        held = held_iops(value, slice_of(key.device, system))
        return f'{held}, at most {IOPS:.0%} more'
    return ''

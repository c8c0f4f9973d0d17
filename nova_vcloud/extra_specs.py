# SPDX-License-Identifier: Apache-2.0
"""The extra specs of our own namespace: what there is, in which ranges."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Spec:
    """One key.

    :ivar type: int or str
    :ivar choices: the words of a str
    """

    type: type
    description: str
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple[str, ...] | None = None


KEYS = {
    'vcloud:cpu_burst': Spec(
        int, 'Microseconds of unused CPU quota, of each vCPU, that may be '
        'saved up and spent above the quota; at most one quota.',
        0, 1_000_000),
    'vcloud:cpu_placement': Spec(
        str, 'Whether the server runs on all CPUs that servers share '
        '(float), or on as many as it has vCPUs (bind).',
        choices=('float', 'bind')),
    'vcloud:memory_soft_mb': Spec(
        int, 'MiB of memory above which it is reclaimed first.', 4),
    'vcloud:memory_swap_mb': Spec(
        int, 'MiB of swap on top of the memory.', 0),
    'vcloud:numa_policy': Spec(
        str, 'Whether dedicated or bound CPUs come from one NUMA node if it '
        'fits (prefer), or else the host is refused (require).',
        choices=('prefer', 'require')),
    'vcloud:pids': Spec(
        int, 'Processes and threads the server may have.', 16, 4_194_304),
}

# SPDX-License-Identifier: Apache-2.0
"""The extra specs of our own namespace: what there is, in which ranges."""

from __future__ import annotations

import dataclasses

NAMESPACE = 'vcloud'
#: A number, or a share.
_CAP = r'([1-9][0-9]{0,5}|([1-9][0-9]?|100)%)'


@dataclasses.dataclass(frozen=True)
class Spec:
    """One key.

    :ivar type: int or str
    :ivar choices: the words of a str
    :ivar pattern: what a str matches as a whole
    """

    type: type
    description: str
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple[str, ...] | None = None
    pattern: str | None = None


KEYS = {
    'vcloud:app': Spec(
        str, 'Application of the servers: they are spread over hosts, racks '
        'and zones. A scheduler hint app goes before it.',
        pattern=r'[A-Za-z0-9][A-Za-z0-9._-]{0,62}'),
    **{f'vcloud:app_max_per_{level}': Spec(
        str, f'Servers of an application that may be in one {level}: a '
        'number, or a share of all of them such as 25%. A scheduler hint '
        f'app_max_per_{level} goes before it.', pattern=_CAP)
       for level in ('host', 'rack', 'zone')},
    'vcloud:app_policy': Spec(
        str, 'Whether the maxima of an application refuse a server (hard) '
        'or give way when there is no other host: first that of the zone, '
        'then of the rack, then of the host (soft).',
        choices=('hard', 'soft')),
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

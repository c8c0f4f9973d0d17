# SPDX-License-Identifier: Apache-2.0
"""The extra specs of our own namespace: what there is, in which ranges."""

from __future__ import annotations

import dataclasses

NAMESPACE = 'vcloud'
#: A number, or a share.
_CAP = r'([1-9][0-9]{0,5}|([1-9][0-9]?|100)%)'
# A part of a word of a shell, so that no quote is left open.
_PART = r"""([^\s"'\\]|\\.|"([^"\\]|\\.)*"|'[^']*')"""
_WORDS = rf'\s*{_PART}+(\s+{_PART}+)*\s*'
_VARIABLE = rf'[A-Za-z_][A-Za-z0-9_]*={_PART}*'
_SIGNAL = (r'(SIG(TERM|INT|QUIT|HUP|USR1|USR2|PWR|WINCH|KILL)'
           r'|SIGRTMIN(\+[0-9]{1,2})?)')
_DEVICE = r'/dev(/[A-Za-z0-9_:+@-][A-Za-z0-9_.:+@-]*)+'


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
    'vcloud:capabilities': Spec(
        str, 'Linux capabilities on top of those that every server has, with '
        'commas between. Of those in [docker] allowed_capabilities.',
        pattern=r'[A-Z][A-Z_]*(,[A-Z][A-Z_]*)*'),
    'vcloud:command': Spec(
        str, 'Command of the server instead of that of its image, in words '
        'as of a shell.', pattern=_WORDS),
    'vcloud:cpu_burst': Spec(
        int, 'Microseconds of unused CPU quota, of each vCPU, that may be '
        'saved up and spent above the quota; at most one quota.',
        0, 1_000_000),
    'vcloud:cpu_placement': Spec(
        str, 'Whether the server runs on all CPUs that servers share '
        '(float), or on as many as it has vCPUs (bind).',
        choices=('float', 'bind')),
    'vcloud:devices': Spec(
        str, 'Devices of the host that the server may read and write, as '
        'paths with commas between. Of those in [docker] allowed_devices.',
        pattern=rf'{_DEVICE}(,{_DEVICE})*'),
    'vcloud:entrypoint': Spec(
        str, 'Entrypoint of the server instead of that of its image, in '
        'words as of a shell; the command of the image goes with it.',
        pattern=_WORDS),
    'vcloud:environment': Spec(
        str, "Environment of the first process on top of the image's: words "
        'as of a shell, each NAME=value.',
        pattern=rf'\s*{_VARIABLE}(\s+{_VARIABLE})*\s*'),
    'vcloud:init': Spec(
        str, 'Whether the first process is the one of the image (image), or '
        "the engine's init, which starts that and collects orphans (tini). "
        'With systemd it is the one of the image, and gets what systemd '
        'needs, on hosts with cgroup v2.',
        choices=('image', 'tini', 'systemd')),
    'vcloud:memory_soft_mb': Spec(
        int, 'MiB of memory above which it is reclaimed first.', 4),
    'vcloud:memory_swap_mb': Spec(
        int, "MiB of swap on top of the memory; the flavor's swap where it "
        'is not said.', 0),
    'vcloud:no_new_privileges': Spec(
        str, 'Whether set-user-ID programs such as sudo gain nothing; '
        '[docker] no_new_privileges where it is not said.',
        choices=('true', 'false')),
    'vcloud:nofile': Spec(
        str, 'Files that each process of the server may have open, as soft '
        'and hard limit with a colon between, or one number for both; '
        '1024:524288 where it is not said, and at most 1048576.',
        pattern=r'[1-9][0-9]{1,6}(:[1-9][0-9]{1,6})?'),
    'vcloud:numa_policy': Spec(
        str, 'Whether dedicated or bound CPUs come from one NUMA node if it '
        'fits (prefer), or else the host is refused (require).',
        choices=('prefer', 'require')),
    'vcloud:pids': Spec(
        int, 'Processes and threads the server may have.', 16, 4_194_304),
    'vcloud:shm_mb': Spec(
        int, 'MiB that /dev/shm may have, at most the memory; half of the '
        'memory where it is not said.', 1),
    'vcloud:stop_signal': Spec(
        str, 'Signal that asks the first process to end, such as '
        'SIGRTMIN+3.', pattern=_SIGNAL),
}

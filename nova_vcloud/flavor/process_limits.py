# SPDX-License-Identifier: Apache-2.0
"""What the processes of a server find: shared memory, open files; purely.

As in a virtual machine: /dev/shm is half of the memory (tmpfs.rst of the
kernel), and a process may have as many files open as systemd gives it
(DefaultLimitNOFILE of systemd-system.conf(5)), whatever the engine's own
process has.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import re

from nova_vcloud import exception
from nova_vcloud.flavor import flavor_keys

#: Soft and hard limit.
NOFILE = (1024, 524_288)
#: fs.nr_open of the kernel; none can have more.
MOST_FILES = 1_048_576


@dataclasses.dataclass(frozen=True)
class ProcessLimits:
    """What each process of a server finds.

    :ivar shm: bytes that /dev/shm may have
    :ivar nofile: soft and hard limit of open files; zeros: the engine's
    """

    shm: int
    nofile: tuple[int, int] = NOFILE


def parse(memory_mb: int, specs: Mapping[str, str],
          properties: Mapping[str, str],
          most_files: int = MOST_FILES) -> ProcessLimits:
    """Return what a flavor and an image ask for.

    :param memory_mb: MiB of the flavor
    :param specs: the flavor's extra specs, which go before
    :param properties: the image's
    :param most_files: open files that this host can let a process have; 0
        where it can set no limit of them
    :raises InvalidRequest: a value that cannot be; the text names it
    """
    key, text = _said('shm_mb', specs, properties)
    shm = memory_mb << 19
    if text is not None:
        if not re.fullmatch('[0-9]{1,9}', text) \
                or not 1 <= int(text) <= memory_mb:
            raise exception.InvalidRequest(
                f'{key}={text}: not a number of MiB from 1 to the memory of '
                f'the flavor, {memory_mb}')
        shm = int(text) << 20
    return ProcessLimits(shm, _nofile(
        *_said('nofile', specs, properties), most_files))


def _said(name: str, specs: Mapping[str, str], properties: Mapping[str, str]
          ) -> tuple[str, str | None]:
    key = f'vcloud:{name}'
    if key in specs:
        return key, specs[key]
    return f'image property vcloud_{name}', properties.get(f'vcloud_{name}')


def _nofile(key: str, text: str | None, most: int) -> tuple[int, int]:
    if text is None:
        return min(NOFILE[0], most), min(NOFILE[1], most)
    spec = flavor_keys.KEYS['vcloud:nofile']
    if re.fullmatch(spec.pattern or '', text):
        soft, _colon, hard = text.partition(':')
        found = int(soft), int(hard or soft)
        if found[0] <= found[1] <= MOST_FILES:
            if not most:
                raise exception.InvalidRequest(
                    f'{key}={text}: this host cannot set it: its servers '
                    'have user namespaces, and nova-compute no '
                    'CAP_SYS_RESOURCE')
            if found[1] > most:
                raise exception.InvalidRequest(
                    f'{key}={text}: this host can let a process have {most} '
                    'files open at most')
            return found
    raise exception.InvalidRequest(
        f'{key}={text}: not as it should be: {spec.description}')

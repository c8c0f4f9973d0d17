# SPDX-License-Identifier: Apache-2.0
"""Files as block devices, without a second copy in the page cache."""

from __future__ import annotations

import os
import stat
import time

from nova_vcloud import exception
from nova_vcloud import privsep
from nova_vcloud.virt_docker.volumes import commands

RELEASE_TIMEOUT = 5.0  # seconds


@privsep.volume.entrypoint
def attach(path: str) -> str:
    """Return the block device of a file, or of what is one already.

    A file that has a device keeps it.

    :raises VolumeError: with the reason
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as e:
        raise exception.VolumeError(f'{path}: {e.strerror}') from e
    if stat.S_ISBLK(mode):
        return os.path.realpath(path)
    if not stat.S_ISREG(mode):
        raise exception.VolumeError(f'{path} is no file and no block device')
    there = _devices(path)
    return there[0] if there else commands.run(
        'losetup', '--find', '--show', '--direct-io=on', path).strip()


@privsep.volume.entrypoint
def detach(path: str) -> None:
    """Give back the device of a file; none, or no such file, is fine.

    :raises VolumeBusy: something on the host holds it
    """
    if not os.path.isfile(path):
        return
    for device in _devices(path):
        commands.run('losetup', '--detach', device)
    # The kernel lets go of one that is open only when it is closed.
    deadline = time.monotonic() + RELEASE_TIMEOUT
    while _devices(path):
        if time.monotonic() > deadline:
            raise exception.VolumeBusy(
                f'a program of the host holds {", ".join(_devices(path))}')
        time.sleep(0.1)


@privsep.volume.entrypoint
def resize(path: str) -> None:
    """Let the device of a file be as large as the file is now."""
    for device in _devices(path):
        commands.run('losetup', '--set-capacity', device)


@privsep.volume.entrypoint
def size(device: str) -> int:
    """Return the bytes of a block device."""
    with open(device, 'rb') as f:
        return f.seek(0, os.SEEK_END)


def _devices(path: str) -> list[str]:
    """Return the devices of a file that were made by this path.

    Who has the file by another mount of its filesystem has its own devices,
    and may use them.
    """
    real = os.path.realpath(path)
    lines = commands.run('losetup', '--associated', path, '--noheadings',
                         '--output', 'NAME,BACK-FILE').splitlines()
    found = (line.split(maxsplit=1) for line in lines)
    return [device for device, file in found
            if file == real or not os.path.exists(file)]

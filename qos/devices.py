# SPDX-License-Identifier: Apache-2.0
"""Which disk a path is on."""

from __future__ import annotations

import os
import pathlib

from nova_vcloud import exception


def device_of(path: str, root: str = '/') -> str:
    """Return 'major:minor' of the whole disk that a path is on.

    Limits are of whole disks: block requests of a partition are counted
    after they were mapped to its disk.

    :raises LimitNotEnforced: it is on no block device
    """
    device = os.stat(path).st_dev
    number = f'{os.major(device)}:{os.minor(device)}'
    if os.major(device) == 0:  # btrfs, overlay: ask what was mounted
        number = _source(path)
    folder = pathlib.Path(root, 'sys/dev/block', number)
    if not folder.exists():
        raise exception.LimitNotEnforced(f'{path} is on no block device')
    if (folder / 'partition').exists():
        return (folder.resolve().parent / 'dev').read_text().strip()
    return number


def _source(path: str) -> str:
    """Return the device of the filesystem whose st_dev is made up."""
    best, source = '', ''
    real = os.path.realpath(path)
    for line in pathlib.Path('/proc/self/mountinfo').read_text().splitlines():
        fields, _, rest = line.partition(' - ')
        mount = fields.split()[4]
        if (real + '/').startswith(mount.rstrip('/') + '/') \
                and len(mount) >= len(best):
            best, source = mount, rest.split()[1]
    try:
        found = os.stat(source)
    except OSError:
        raise exception.LimitNotEnforced(
            f'{path} is on no block device, but on {source}') from None
    return f'{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}'

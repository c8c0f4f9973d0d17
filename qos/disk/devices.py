# SPDX-License-Identifier: Apache-2.0
"""Which disk a path is on."""

from __future__ import annotations

import os
import pathlib
import re

from nova_vcloud import exception

_PAIR = re.compile(r'\\([0-7]{3})')


def device_of(path: str, root: str = '/', mountinfo: str = '') -> str:
    """Return 'major:minor' of the whole disk that a path is on.

    Limits are of whole disks: block requests of a partition are counted
    after they were mapped to its disk. A loop device or one of the device
    mapper is a disk of its own.

    :param root: where /sys is, for tests
    :param mountinfo: text of /proc/self/mountinfo; '' asks the kernel
    :raises LimitNotEnforced: it is on no block device
    """
    try:
        device = os.stat(path).st_dev
    except OSError as e:
        raise exception.LimitNotEnforced(f'{path}: {e.strerror}') from e
    number = f'{os.major(device)}:{os.minor(device)}'
    if os.major(device) == 0:  # btrfs, overlay: ask what was mounted
        mounts = mountinfo or pathlib.Path('/proc/self/mountinfo').read_text()
        source, options = mounted(os.path.realpath(path), mounts)
        if source == 'overlay' and 'upperdir' in options:
            return device_of(options['upperdir'], root, mountinfo)
        number = _number_of(path, source)
    folder = pathlib.Path(root, 'sys/dev/block', number)
    if not folder.exists():
        raise exception.LimitNotEnforced(f'{path} is on no block device')
    if (folder / 'partition').exists():
        return (folder.resolve().parent / 'dev').read_text().strip()
    return number


def mounted(path: str, mountinfo: str) -> tuple[str, dict[str, str]]:
    """Return source and options of the mount that shows a path."""
    best, found = '', 'none none '
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(' - ')
        mount = _plain(fields.split()[4])
        # Of two on one directory the later hides the other.
        if (path + '/').startswith(mount.rstrip('/') + '/') \
                and len(mount) >= len(best):
            best, found = mount, rest
    _kind, source, options = found.split(' ')
    pairs = (option.partition('=') for option in options.split(','))
    return _plain(source), {name: _plain(value) for name, _, value in pairs}


def _plain(text: str) -> str:
    """Return a word of mountinfo, where a space is written \\040."""
    return _PAIR.sub(lambda match: chr(int(match[1], 8)), text)


def _number_of(path: str, source: str) -> str:
    try:
        found = os.stat(source) if source.startswith('/') else None
    except OSError:
        found = None
    if found is None:
        raise exception.LimitNotEnforced(
            f'{path} is on no block device, but on {source}')
    return f'{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}'

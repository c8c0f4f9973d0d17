# SPDX-License-Identifier: Apache-2.0
"""What has been read from a disk and written to it, as the kernel counts."""

from __future__ import annotations

import contextlib
import os
import pathlib

_SYS = pathlib.Path('/sys')
#: Of what /sys/block/*/stat counts in, whatever the disk's sectors are.
_SECTOR = 512
#: {figure: (its field, unit)}; see Documentation/block/stat.rst of Linux.
_FIELDS = {'read_requests': (0, 1), 'read_bytes': (2, _SECTOR),
           'write_requests': (4, 1), 'write_bytes': (6, _SECTOR)}


def of(path: str, root: pathlib.Path = _SYS) -> dict[str, int]:
    """Return requests and bytes of a block device, or of a file that is one.

    :param root: where sysfs is, for tests
    :returns: {} when there is no such device
    """
    folder = _device(path, root)
    try:
        found = (folder / 'stat').read_text().split() if folder else []
    except OSError:  # gone meanwhile
        found = []
    return {name: int(found[field]) * unit
            for name, (field, unit) in _FIELDS.items()} if found else {}


def _device(path: str, root: pathlib.Path) -> pathlib.Path | None:
    real = os.path.realpath(path)
    if real.startswith('/dev/'):
        return root / 'class' / 'block' / os.path.basename(real)
    for file in root.glob('block/loop*/loop/backing_file'):
        with contextlib.suppress(OSError):
            if file.read_text().rstrip('\n') == real:
                return file.parent.parent
    return None

# SPDX-License-Identifier: Apache-2.0
"""Loop devices that bypass the page cache from their first request on.

losetup and mount make one first and change it then, for which the kernel
empties its queue: 20 ms of the start of a server. LOOP_CONFIGURE of loop(4),
since Linux 5.8, does both at once.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import os
import struct

from nova_vcloud import exception

CONTROL = '/dev/loop-control'
# linux/loop.h
_LOOP_CTL_GET_FREE = 0x4c82
_LOOP_CONFIGURE = 0x4c0a
_LO_FLAGS_AUTOCLEAR = 4
_LO_FLAGS_DIRECT_IO = 16
#: struct loop_config: fd, block_size (0: that of the disk below), struct
#: loop_info64 with lo_flags after three words, and a reserve.
_CONFIG = struct.Struct('=2I 5Q 3I I 64s 64s 32s 2Q 8Q')


@contextlib.contextmanager
def attached(path: str) -> Iterator[str]:
    """Yield the device of a file, as /dev/loopN.

    It goes with its last user: a mount made meanwhile keeps it.

    :raises LimitNotEnforced: with the reason
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        try:
            device, name = _configured(file)
        finally:
            os.close(file)
    except OSError as e:
        raise exception.LimitNotEnforced(
            f'{path} as a loop device with direct I/O: {e.strerror}') from e
    try:
        yield name
    finally:
        os.close(device)


def _configured(file: int) -> tuple[int, str]:
    """Return a device of an open file, opened, and its name."""
    config = _CONFIG.pack(file, 0, *[0] * 5, *[0] * 3,
                          _LO_FLAGS_AUTOCLEAR | _LO_FLAGS_DIRECT_IO,
                          b'', b'', b'', *[0] * 10)
    while True:
        name = f'/dev/loop{_free()}'
        device = os.open(name, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(device, _LOOP_CONFIGURE, config)
        except OSError as e:
            os.close(device)
            if e.errno != errno.EBUSY:  # another was faster
                raise
        else:
            return device, name


def _free() -> int:
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
    finally:
        os.close(control)

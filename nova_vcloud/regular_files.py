# SPDX-License-Identifier: Apache-2.0
"""Opens files whose place others can fill with what they like.

open(2) alone does something to a device: it starts a watchdog, rewinds a
tape, makes a terminal that of the process, has the kernel load a module. A
device that a server may not use opens for the host, which is in none of its
control groups. So what is there is looked at first, and that is opened.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import IO


def open_to_read(name: str, folder: int | None = None) -> IO[bytes]:
    """Open a regular file; a symbolic link is none.

    :param folder: an open directory, that a relative path is below
    :raises FileNotFoundError: there is nothing
    :raises OSError: there is something else, which is not opened
    """
    # A reference to what is there (open(2), O_PATH), to which a change of
    # the name does nothing any more.
    place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC,
                    dir_fd=folder)
    try:
        return opened(place)
    finally:
        os.close(place)


def opened(place: int) -> IO[bytes]:
    """Open a regular file by a reference to it (open(2), O_PATH).

    :raises OSError: it is something else, which is not opened
    """
    if not stat.S_ISREG(os.fstat(place).st_mode):
        raise OSError(errno.EINVAL, 'not a regular file')
    # What has a lease of a server would be waited for.
    return open(os.open(f'/proc/self/fd/{place}', os.O_RDONLY
                        | os.O_NONBLOCK | os.O_CLOEXEC), 'rb')

# SPDX-License-Identifier: Apache-2.0
"""Remember which one-time work is done, and with what it was done."""

from collections.abc import Callable
import pathlib

from mini import settings


def once(
    cloud: settings.Cloud, name: str, key: str, work: Callable[[], None]
) -> str | None:
    """Do ``work`` unless it was done before with the same ``key``.

    :returns: a remark when there was nothing to do.
    """
    stamp = _path(cloud, name)
    if stamp.is_file() and stamp.read_text() == key:
        return 'done already'
    work()
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(key)
    return None


def ever(cloud: settings.Cloud, name: str) -> bool:
    """Tell whether the work was done before, with whatever key."""
    return _path(cloud, name).is_file()


def _path(cloud: settings.Cloud, name: str) -> pathlib.Path:
    return cloud.data / 'stamps' / name

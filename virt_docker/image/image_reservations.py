# SPDX-License-Identifier: Apache-2.0
"""What loads of images that go on at once may take together.

Each of them sees what is free on the engine's disk before the others have
taken it. So each takes what it needs step by step from one account, which is
a file that all users of an engine share.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import fcntl
import json
import os
import pathlib
import time
from typing import Any
import uuid

from oslo_concurrency import lockutils
from oslo_utils import units

from nova_vcloud import exception
from nova_vcloud.image.unpacked_size import Weight

#: What a load takes ahead of its need, so that it asks seldom; of what is
#: left it takes an eighth at most.
STEP = Weight(64 * units.Mi, 10_000)
#: Seconds that a load waits for what those beside it may give back.
PATIENCE = 600.0
_STEP_OF_WAITING = 0.2


class Reservations:
    """The account of one engine's disk.

    :param path: folder that all users of the engine share
    :param free: tells what images may take when none is being loaded
    """

    def __init__(self, path: str, free: Callable[[], Weight]) -> None:
        self._path = pathlib.Path(path)
        self._folder = self._path / 'loading'
        self._file = self._path / 'reserved.json'
        self._free = free

    @contextlib.contextmanager
    def load(self) -> Iterator[Callable[[Weight], None]]:
        """Have what one load takes be counted while it goes on.

        What it has taken counts for the others that go on until they end,
        unless it fails.

        :return: is told what the image takes, as far as it is known; raises
            :class:`NoRoomForImage` before that is too much
        """
        name = str(uuid.uuid4())
        load, file = self._begin(name)
        try:
            try:
                yield load.take
            except BaseException:
                self._end(name, failed=True)
                raise
            self._end(name, failed=False)
        finally:
            (self._folder / name).unlink(missing_ok=True)
            os.close(file)

    def _begin(self, name: str) -> tuple[_Load, int]:
        """Open an account for a load; return it, and its file, locked."""
        with self.account() as account:
            self._folder.mkdir(parents=True, exist_ok=True)
            self.bury(account)
            taken = _weight(account['taken'])
            for other in account['loads'].values():
                taken -= _weight(other)
            load = _Load(self, name, self._free(), taken)
            # Here, or others would take it for one of a process that died.
            file = os.open(self._folder / name, os.O_RDWR | os.O_CREAT, 0o600)
            # The kernel frees it of a process that dies.
            fcntl.flock(file, fcntl.LOCK_EX)
            account['loads'][name] = (0, 0)
            return load, file

    def bury(self, account: dict[str, Any]) -> None:
        """Remove what is left of loads whose process has died.

        What they have taken may be on the disk.
        """
        for name in {*account['loads'], *os.listdir(self._folder)}:
            if self._is_dead(name):
                account['loads'].pop(name, None)

    def _is_dead(self, name: str) -> bool:
        path = self._folder / name
        try:
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            path.unlink(missing_ok=True)
            return True
        finally:
            os.close(file)

    def _end(self, name: str, *, failed: bool) -> None:
        with self.account() as account:
            own = _weight(account['loads'].pop(name, (0, 0)))
            if failed:
                account['taken'] = _pair(_weight(account['taken']) - own)

    @contextlib.contextmanager
    def account(self) -> Iterator[dict[str, Any]]:
        """Have the account; what is changed in it is written.

        ``taken`` is all that loads have taken until now, ``loads`` what each
        has that goes on, as (bytes, files).
        """
        with lockutils.lock('reservations', 'nova-vcloud-', external=True,
                            lock_path=str(self._path)):
            try:
                found = json.loads(self._file.read_bytes())
                account = {'taken': _pair(_weight(found['taken'])), 'loads': {
                    str(name): _pair(_weight(each))
                    for name, each in found['loads'].items()}}
            except (FileNotFoundError, ValueError, KeyError, TypeError,
                    AttributeError):
                account = {'taken': (0, 0), 'loads': {}}
            yield account
            new = self._file.with_suffix('.new')
            new.write_text(json.dumps(account))
            os.replace(new, self._file)


class _Load:
    """One load of an image.

    :param room: what was free for images when it began
    :param since: what loads had taken for good by then; of the room is left
        what is not taken since
    """

    def __init__(self, account: Reservations, name: str, room: Weight,
                 since: Weight) -> None:
        self._reservations = account
        self._name = name
        self._room = room
        self._since = since
        self._own = Weight()

    def take(self, total: Weight) -> None:
        """Have so much at least.

        :raises NoRoomForImage: there is not so much
        """
        if total.size <= self._own.size and total.files <= self._own.files:
            return
        deadline = time.monotonic() + PATIENCE
        while not self._has(total):
            if time.monotonic() > deadline:
                raise exception.NoRoomForImage(self._room.size)
            time.sleep(_STEP_OF_WAITING)

    def _has(self, total: Weight) -> bool:
        """Take so much; tell whether that was possible already.

        Loads that meet the bound together would all be refused, and nobody
        have an image. So the one that came first goes on: those that came
        later and need more give back what they have, and it waits for that.

        :raises NoRoomForImage: there is not so much, or another came first
        """
        with self._reservations.account() as account:
            taken = _weight(account['taken'])
            left = self._room - (taken - self._since)
            need = Weight(max(0, total.size - self._own.size),
                          max(0, total.files - self._own.files))
            after = left - need
            if after.size < 0 or after.files < 0:
                self._reservations.bury(account)
                self._check_may_wait(account['loads'], after)
                return False
            step = Weight(need.size + min(STEP.size, after.size // 8),
                          need.files + min(STEP.files, after.files // 8))
            self._own += step
            account['taken'] = _pair(taken + step)
            account['loads'][self._name] = _pair(self._own)
            return True

    def _check_may_wait(self, loads: Mapping[str, Any],
                        after: Weight) -> None:
        """Refuse a load that is not the first, or too large by itself.

        :param loads: that go on, in the order in which they began
        :param after: what would be left, less than nothing
        """
        for name, each in loads.items():
            if name != self._name:
                after += _weight(each)
        if (next(iter(loads)) != self._name
                or after.size < 0 or after.files < 0):
            raise exception.NoRoomForImage(self._room.size)


def _weight(pair: Any) -> Weight:
    size, files = pair
    return Weight(int(size), int(files))


def _pair(weight: Weight) -> tuple[int, int]:
    return weight.size, weight.files

# SPDX-License-Identifier: Apache-2.0
"""One request of an application at a time, from first look to choice.

Requests that are judged at once would all see the same hosts free, and all
take the best of them.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import threading
import time

from nova_vcloud.flavor.applications import Key

#: Seconds after which a turn is over though nothing was chosen: the claim
#: failed on every host, or a later filter rejected them all.
TIMEOUT = 3.0


@dataclasses.dataclass
class _Turn:
    thread: int
    ends: float


class Turns:
    """Turns of applications, for many threads of one scheduler."""

    def __init__(self, timeout: float = TIMEOUT,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout = timeout
        self._clock = clock
        self._changed = threading.Condition()
        self._turns: dict[Key, _Turn] = {}

    def take(self, key: Key) -> None:
        """Wait until nobody else has the turn of an application.

        A thread that has it goes on having it, for a while from now.
        """
        me = threading.get_ident()
        with self._changed:
            while (turn := self._turns.get(key)) and turn.thread != me:
                rest = turn.ends - self._clock()
                if rest <= 0:
                    break
                self._changed.wait(rest)
            self._turns[key] = _Turn(me, self._clock() + self._timeout)

    def give(self, key: Key) -> None:
        """End the turn of this thread; not to have it is fine."""
        with self._changed:
            turn = self._turns.get(key)
            if turn and turn.thread == threading.get_ident():
                del self._turns[key]
                self._changed.notify_all()

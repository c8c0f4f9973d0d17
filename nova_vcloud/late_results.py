# SPDX-License-Identifier: Apache-2.0
"""What an engine may still make, or remove, after we have given up waiting.

An engine goes on with a request whose client is gone: a container, or an
image, appears when the one who wanted it has failed. Here it is remembered
until it is removed.
"""

from __future__ import annotations

import dataclasses
import threading
import time

#: Label of a container: which request it was made by.
LABEL = 'org.openstack.nova.request'
#: Seconds after which what has not appeared is taken for never made.
EXPIRES = 3600.0


@dataclasses.dataclass(frozen=True)
class Late:
    """Something that nobody waits for any more.

    :ivar kind: 'container' or 'image'
    :ivar name: by which the engine finds it
    :ivar since: when the wait was given up (time.monotonic)
    :ivar request: value of :data:`LABEL`, of a container that may come: one
        of that name with another is somebody else's
    """

    kind: str
    name: str
    since: float
    request: str = ''

    def expired(self, now: float) -> bool:
        """Tell whether it will not come any more.

        :param now: time.monotonic
        """
        return now - self.since > EXPIRES


class LateResults:
    """All of them, of one engine; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._late: dict[tuple[str, str], Late] = {}

    def note(self, kind: str, name: str, request: str = '') -> None:
        """Remember what may come, or stay; as of :class:`Late`."""
        with self._lock:
            self._late[kind, name] = Late(kind, name, time.monotonic(),
                                          request)

    def forget(self, late: Late) -> None:
        """Give up one that is gone; another of that name is still known."""
        with self._lock:
            if self._late.get((late.kind, late.name)) == late:
                del self._late[late.kind, late.name]

    def all(self) -> list[Late]:
        """Return those that are known, the oldest first."""
        with self._lock:
            return sorted(self._late.values(), key=lambda each: each.since)

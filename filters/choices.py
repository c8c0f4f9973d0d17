# SPDX-License-Identifier: Apache-2.0
"""What this scheduler has decided of late.

Nova tells filters and weighers nothing of what became of their work: a server
is seen on its host only when the host has built it. So hosts that are shown to
us are watched for Nova's call of ``consume_from_request``, which follows the
claim in Placement.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
import itertools
import threading

from nova import objects
from nova.scheduler import host_manager

#: Called with (server uuid, host name) after a choice.
Listener = Callable[[str, str], None]


class Choices:
    """The order in which hosts were chosen, for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._last: dict[str, int] = {}
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Have ``listener`` called after each choice."""
        with self._lock:
            self._listeners.append(listener)

    def note(self, server: str, host: str) -> None:
        """Note that a server was sent to a host."""
        with self._lock:
            self._last[host] = next(self._numbers)
            listeners = list(self._listeners)
        for listener in listeners:
            listener(server, host)

    def turns(self) -> dict[str, float]:
        """Return {host: how recently it was chosen}, up to 1; not 0."""
        with self._lock:
            newest = max(self._last.values(), default=1)
            return {host: turn / newest
                    for host, turn in self._last.items()}


#: Of this process.
RECENT = Choices()


class _Watched:
    """What a watched host has before its own class."""

    host: str

    def consume_from_request(self, spec_obj: objects.RequestSpec) -> None:
        """Be chosen, and have that noted."""
        super().consume_from_request(spec_obj)  # type: ignore[misc]
        RECENT.note(spec_obj.instance_uuid, self.host)


_KINDS: dict[type, type] = {}


def _watched(kind: type) -> type:
    if kind not in _KINDS:
        _KINDS[kind] = type(kind.__name__, (_Watched, kind), {})
    return _KINDS[kind]


def watch(hosts: Iterable[host_manager.HostState]) -> None:
    """Have it noted when one of these is chosen; they live for one request.

    A bound method in each would be a cycle, and there are thousands.
    """
    # Nearly all are of one kind: what becomes of it is found out once.
    seen: type | None = None
    becomes: type | None = None
    for host in hosts:
        kind = type(host)
        if kind is not seen:
            seen = kind
            becomes = None if issubclass(kind, _Watched) else _watched(kind)
        if becomes:
            host.__class__ = becomes

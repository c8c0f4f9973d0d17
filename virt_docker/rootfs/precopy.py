# SPDX-License-Identifier: Apache-2.0
"""Sends what a server has written while it runs, and after its stop the rest.

So a server is down for what it has changed of late, not for all it has.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import functools
import os
import tempfile
import time
from typing import Any

from oslo_log import log

from nova_vcloud import userns
from nova_vcloud.engine import Engine
from nova_vcloud.transfer import transport
from nova_vcloud.virt_docker.rootfs import freezer
from nova_vcloud.virt_docker.rootfs import overlay

LOG = log.getLogger(__name__)

#: The layer, and what has changed in it since.
LAYER_FILE = 'layer.tar'
CHANGES_FILE = 'changes.tar'
#: Seconds. What was written just before may be known by an older time: the
#: clock of files ticks slower than that of processes, and an operator may set
#: it back a little.
SLACK = 1.0
_STEP = SLACK / 2


Send = Callable[[Iterable[bytes]], int]


class Copy:
    """The layer of one container on its way.

    :param log_files: console logs that it may have
    :param folder: a directory for notes
    """

    def __init__(self, engine: Engine, container: dict[str, Any],
                 log_files: int, folder: str) -> None:
        self._engine = engine
        self._id = container['Id']
        self._layer = overlay.upper(container)
        self._logs = overlay.logs(container, log_files)
        self._ids = userns.of_engine(engine.info())
        self._seen = os.path.join(folder, 'seen')
        self._since = 0.0
        self._clock = _offset()

    def whole(self, send: Send) -> None:
        """Send all there is of a server that does not run.

        :raises MoveFailed: with the reason
        """
        with transport.produced(lambda sink: overlay.pack(
                self._layer, self._logs, sink, ids=self._ids)) as chunks:
            LOG.info('%d bytes sent', send(chunks))

    def ahead(self, send: Send) -> None:
        """Send all there is while the server runs.

        :raises MoveFailed: with the reason
        """
        self._since = self._quiet_moment() - SLACK
        overlay.look(self._layer, self._seen)
        with transport.produced(lambda sink: overlay.pack(
                self._layer, [], sink, live=True, ids=self._ids)) as chunks:
            LOG.info('%d bytes sent while the server runs', send(chunks))

    def _quiet_moment(self) -> float:
        """Return a time at which nothing was being written.

        A file has the time at which a write began: of one that has not ended
        nobody could tell later that it was not in the copy.
        """
        state = self._engine.container(self._id)['State']
        if state['Paused']:
            return time.time()
        found = freezer.still_moment(self._id, state['Pid'])
        if found is not None:
            return found
        self._engine.pause(self._id)
        try:
            return time.time()
        finally:
            self._engine.unpause(self._id)

    def rest(self, send: Send) -> None:
        """Send what is missing; the server does not run any more.

        :raises MoveFailed: with the reason
        """
        stepped = abs(_offset() - self._clock) > _STEP
        # When the clock was set times tell nothing.
        since = 0.0 if stepped else self._since
        with transport.produced(lambda sink: overlay.pack_changes(
                self._layer, self._seen, since, self._logs, sink,
                self._ids)) as chunks:
            LOG.info('%d bytes sent of the server at rest', send(chunks))

    def here(self, target: str) -> None:
        """Copy all there is to a directory while the server runs.

        :raises MoveFailed: with the reason
        """
        self._since = self._quiet_moment() - SLACK
        overlay.look(self._layer, self._seen)
        overlay.copy(self._layer, target, live=True, ids=self._ids)

    def changes(self, sink: str) -> None:
        """Write what is missing; the server stands still.

        :param sink: path of a file, for :func:`overlay.apply`
        :raises MoveFailed: with the reason
        """
        stepped = abs(_offset() - self._clock) > _STEP
        overlay.pack_changes(self._layer, self._seen,
                             0.0 if stepped else self._since, [], sink,
                             self._ids)


@contextlib.contextmanager
def of(engine: Engine, container: dict[str, Any],
       delivery: transport.Delivery, log_files: int,
       runs: bool) -> Iterator[Callable[[], None]]:
    """Send what can be sent before the stop; yield what sends the rest.

    :param log_files: console logs that the server may have
    :raises MoveFailed: with the reason
    """
    with tempfile.TemporaryDirectory(prefix='nova-vcloud-') as folder:
        copy = Copy(engine, container, log_files, folder)
        first = functools.partial(delivery.put, LAYER_FILE)
        if not runs:
            yield lambda: copy.whole(first)
            return
        copy.ahead(first)
        yield lambda: copy.rest(functools.partial(delivery.put,
                                                  CHANGES_FILE))


def _offset() -> float:
    """Return what changes only when the clock is set."""
    return time.time() - time.monotonic()


def arrived(folder: str) -> list[str]:
    """Return the files of a copy that lie in a directory, in order."""
    found = (os.path.join(folder, name)
             for name in (LAYER_FILE, CHANGES_FILE))
    return [path for path in found if os.path.exists(path)]

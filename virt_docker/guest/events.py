# SPDX-License-Identifier: Apache-2.0
"""From the engine's event stream to Nova's lifecycle events."""

from collections.abc import Callable
import contextlib
import queue
import threading
import time
from typing import Any

from nova.virt import event as virtevent
from oslo_log import log

from nova_vcloud import exception
from nova_vcloud.engine import Engine
from nova_vcloud.virt_docker import server_labels

LOG = log.getLogger(__name__)

STARTED = virtevent.EVENT_LIFECYCLE_STARTED
STOPPED = virtevent.EVENT_LIFECYCLE_STOPPED
PAUSED = virtevent.EVENT_LIFECYCLE_PAUSED
RESUMED = virtevent.EVENT_LIFECYCLE_RESUMED

#: Actions of the engine that mean something here. A tenant can make it tell
#: others without end: of health checks, of programs that run in a container.
ACTIONS = ('start', 'die', 'destroy', 'pause', 'unpause', 'oom', 'update')
OOM_INTERVAL = 60.0  # seconds between two messages of one server

_RETRY = 0.5  # seconds between attempts to reach an engine that went away


class Tracker:
    """Pure: engine actions in, lifecycle transitions out.

    A stop is told only after ``delay`` seconds without a start, so that a
    restart behind Nova's back does not stop the server.
    """

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._stopping: dict[str, float] = {}  # uuid: when to tell
        self._running: set[str] = set()

    def handle(self, uuid: str, action: str, now: float) -> list[int]:
        """Take one action of the engine; return the transitions to tell."""
        if action == 'start':
            # Told after a short stop too: it may be Nova that stopped it.
            self._stopping.pop(uuid, None)
            self._running.add(uuid)
            return [STARTED]
        if action == 'die':
            self._running.discard(uuid)
            self._stopping[uuid] = now + self._delay
        elif action == 'destroy':
            self._running.discard(uuid)
            self._stopping.pop(uuid, None)
        return {'pause': [PAUSED], 'unpause': [RESUMED]}.get(action, [])

    def resync(self, running: set[str], now: float) -> list[str]:
        """Compare with what runs after a gap in the stream.

        :returns: servers that were started in the gap
        """
        for uuid in self._running - running:
            self._stopping[uuid] = now + self._delay
        started = sorted(running - self._running)
        for uuid in running:
            self._stopping.pop(uuid, None)
        self._running = set(running)
        return started

    def due(self, now: float) -> list[str]:
        """Return, and forget, the servers whose stop is to be told now."""
        ready = [u for u, when in self._stopping.items() if when <= now]
        for uuid in ready:
            del self._stopping[uuid]
        return ready

    def wait(self, now: float) -> float | None:
        """Return the seconds until ``due`` has something, if ever."""
        if not self._stopping:
            return None
        return max(0.0, min(self._stopping.values()) - now)


class Throttle:
    """Pure: one message of a server in a while, with how often it was due.

    :param interval: seconds
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._told: dict[str, float] = {}  # uuid: when
        self._untold: dict[str, int] = {}

    def take(self, uuid: str, now: float) -> int:
        """Note one occurrence; return how many are to be told of, or 0."""
        count = self._untold.pop(uuid, 0) + 1
        if now - self._told.get(uuid, float('-inf')) < self._interval:
            self._untold[uuid] = count
            return 0
        self._told[uuid] = now
        return count

    def forget(self, uuid: str) -> None:
        """Forget a server."""
        self._told.pop(uuid, None)
        self._untold.pop(uuid, None)


class EventFeed:
    """Two threads: one reads the stream, one tells Nova.

    :param follow: sets the server's link to the container's state and
        returns whether it runs
    :param ours: tells whether it was the driver that started a server
    :param emit: tells Nova of one transition of one server
    :param changed: told of a server whose limits the engine changed
    """

    def __init__(self, engine: Engine, labels: list[str], delay: float,
                 follow: Callable[[str], bool],
                 ours: Callable[[str], bool],
                 emit: Callable[[str, int], None],
                 changed: Callable[[str], None]) -> None:
        self._engine = engine
        self._labels = labels
        self._tracker = Tracker(delay)
        self._follow = follow
        self._ours = ours
        self._emit = emit
        self._changed = changed
        self._ooms = Throttle(OOM_INTERVAL)
        self._queue: queue.SimpleQueue[dict[str, Any] | None] = (
            queue.SimpleQueue())
        self._stream: Any = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Connect and begin; servers running now are not news."""
        self._stream = self._engine.events(self._labels, ACTIONS)
        self._tracker.resync(self._running(), time.monotonic())
        for target in (self._read, self._work):
            threading.Thread(target=target, daemon=True,
                             name=f'vcloud-events{target.__name__}').start()

    def stop(self) -> None:
        """End both threads."""
        self._stopped.set()
        self._queue.put(None)
        with contextlib.suppress(OSError, AttributeError):
            self._stream.close()

    def _running(self) -> set[str]:
        return {c['Labels'][server_labels.UUID]
                for c in self._engine.containers(self._labels)
                if c['State'] in ('running', 'paused')}

    # Reader

    def _read(self) -> None:
        while not self._stopped.is_set():
            try:
                for event in self._stream:
                    self._receive(event)
            except Exception:
                # Whatever broke the stream, a new one mends it.
                LOG.exception('Reading engine events failed')
            if not self._stopped.is_set():
                LOG.warning('The Docker engine closed the event stream; '
                            'connecting again')
                self._reconnect()

    def _receive(self, event: dict[str, Any]) -> None:
        """Queue what Nova or the limits are to know.

        Not what a server may cause as often as it likes.
        """
        uuid, action = _server(event), event.get('status', '')
        if action != 'oom':
            self._queue.put(event)
        elif count := self._ooms.take(uuid, time.monotonic()):
            LOG.warning('Server %s reached its memory limit; the kernel '
                        'killed %d of its processes', uuid, count)
        if action == 'destroy':
            self._ooms.forget(uuid)

    def _reconnect(self) -> None:
        while not self._stopped.wait(_RETRY):
            try:
                self._stream = self._engine.events(self._labels, ACTIONS)
            except exception.EngineError:
                continue
            LOG.info('The Docker engine answers again')
            self._queue.put({'status': 'resync'})
            return

    # Worker

    def _work(self) -> None:
        while not self._stopped.is_set():
            try:
                self._step()
            except Exception:
                # One server's trouble must not deafen us to the others.
                LOG.exception('Handling an engine event failed')

    def _step(self) -> None:
        wait = self._tracker.wait(time.monotonic())
        try:
            event = self._queue.get(timeout=wait)
        except queue.Empty:
            event = None
        if event is not None:
            self._handle(event)
        for uuid in self._tracker.due(time.monotonic()):
            self._settle(uuid)

    def _settle(self, uuid: str) -> None:
        try:
            running = self._follow(uuid)
        except exception.EngineError:
            # Not known until the engine answers again.
            self._tracker.handle(uuid, 'die', time.monotonic())
            raise
        if not running:
            LOG.info('Server %s stopped by itself or behind Nova', uuid)
            self._emit(uuid, STOPPED)

    def _handle(self, event: dict[str, Any]) -> None:
        action = event.get('status', '')
        if action == 'resync':
            started = self._tracker.resync(self._running(), time.monotonic())
            for uuid in started:
                if not self._ours(uuid):
                    self._tell(uuid, STARTED)
            return
        uuid = _server(event)
        if action == 'update':
            self._changed(uuid)
        # Claimed at each start, told or not, so that none is left over for
        # a later start that is not ours.
        ours = action == 'start' and self._ours(uuid)
        for transition in self._tracker.handle(uuid, action,
                                               time.monotonic()):
            if not ours:
                self._tell(uuid, transition)

    def _tell(self, uuid: str, transition: int) -> None:
        if transition == STARTED:
            self._follow(uuid)
        self._emit(uuid, transition)


def _server(event: dict[str, Any]) -> str:
    """Return the UUID of the server that an event is of."""
    return str(event['Actor']['Attributes'][server_labels.UUID])

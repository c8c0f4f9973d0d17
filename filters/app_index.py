# SPDX-License-Identifier: Apache-2.0
"""Which servers are of which application, and on which host each is.

Nova's HostState knows neither: it has no hints, and no server that is still
being built. So a thread of our own reads both from the databases, a few
queries for the whole cloud at a time, and filters only look here.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from collections.abc import Iterable
import dataclasses
import os
import threading
import time
from typing import Protocol

from oslo_log import log

from nova_vcloud.filters import choices
from nova_vcloud.filters import turns
from nova_vcloud.flavor.applications import Key

LOG = log.getLogger(__name__)

CHOICE_TTL = 300.0  # seconds that a choice counts without a sign of it
FIRST_LOOK = 30.0  # seconds that a request waits for the first look


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a server is, as the databases say.

    :ivar host: None before a host has taken it
    """

    uuid: str
    host: str | None
    deleted: bool = False


class Reader(Protocol):
    """Reads the databases; what has changed since it was asked last."""

    def applications(self) -> Iterable[tuple[str, Key]]:
        """Return (server uuid, application) of requests since."""

    def places(self) -> Iterable[Place]:
        """Return where servers are that changed since."""

    def places_of(self, uuids: Iterable[str]) -> Iterable[Place]:
        """Return where these servers are."""


@dataclasses.dataclass
class _Choice:
    """A decision of this scheduler; ``moves``: the server was elsewhere."""

    host: str
    expires: float
    moves: bool


class Index:
    """Applications and their servers, for many threads.

    :param make_reader: called in each process, when it first asks
    :param interval: seconds between two looks
    """

    def __init__(self, make_reader: Callable[[], Reader],
                 interval: Callable[[], float],
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._make_reader = make_reader
        self._interval = interval
        self._clock = clock
        self._lock = threading.Lock()
        self._start_lock = threading.Lock()
        self._members: dict[Key, set[str]] = collections.defaultdict(set)
        self._keys: dict[str, Key] = {}
        self._hosts: dict[str, str | None] = {}
        self._choices: dict[str, _Choice] = {}
        self._turns = turns.Turns()
        self._pid = 0
        self._looked = threading.Event()

    # What filters ask

    def placed(self, key: Key, but: str | None) -> dict[str, int]:
        """Return {host: servers of an application}, without one of them.

        One that moves counts where it is and where it goes.
        """
        now = self._clock()
        found: dict[str, int] = collections.Counter()
        with self._lock:
            for uuid in self._members.get(key, ()):
                if uuid != but:
                    for host in self._where(uuid, now):
                        found[host] += 1
        return found

    def _where(self, uuid: str, now: float) -> set[str]:
        host, choice = self._hosts.get(uuid), self._choices.get(uuid)
        found = {host} if host else set()
        if choice and now < choice.expires and (choice.moves or not host):
            found.add(choice.host)
        return found

    def knows(self, uuid: str) -> bool:
        """Tell whether a server has a host already."""
        return bool(self._hosts.get(uuid))

    # What this scheduler does

    def note_request(self, uuid: str, key: Key) -> None:
        """Note the application of a server that is to be placed."""
        with self._lock:
            self._add(uuid, key)

    def note_choice(self, uuid: str, host: str) -> None:
        """Note where a server was sent; of no application, it is nothing."""
        now = self._clock()
        with self._lock:
            key = self._keys.get(uuid)
            if key:
                self._choices[uuid] = _Choice(
                    host, now + CHOICE_TTL, bool(self._hosts.get(uuid)))
        if key:
            self._turns.give(key)

    def begin(self, uuid: str, key: Key) -> None:
        """Begin to place a server: nobody else of its application does so
        until a host is chosen, or :meth:`end` says that there is none.
        """
        self.watch()
        # Nova looks once more for alternatives, after the last choice.
        if uuid not in self._choices:
            self._turns.take(key)
        self.note_request(uuid, key)

    def end(self, key: Key) -> None:
        """Let others of the application be placed: nothing was chosen."""
        self._turns.give(key)

    # What the databases say

    def watch(self) -> None:
        """Have a thread look, in this process; wait until it has once.

        Nova makes filters before it forks its workers, and a thread does not
        come along: so it is begun at the first request.
        """
        with self._start_lock:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                self._looked.clear()
                threading.Thread(target=self._run, daemon=True,
                                 name='vcloud-applications').start()
        if not self._looked.wait(FIRST_LOOK):
            LOG.warning('Applications are not read yet after %d s: servers '
                        'of other schedulers are not counted', FIRST_LOOK)

    def _run(self) -> None:
        reader, well = self._make_reader(), True
        while True:
            start = self._clock()
            try:
                self.look(reader)
                well = True
            except Exception as e:  # noqa: BLE001 - a database's driver
                if well:  # once for each outage
                    LOG.error('Cannot read which servers are of which '
                              'application; going on with what is known: %s',
                              e)
                well = False
            if not self._looked.is_set():
                LOG.info('Read %d servers of %d applications in %.1f s',
                         len(self._keys), len(self._members),
                         self._clock() - start)
                self._looked.set()
            time.sleep(self._interval())

    def look(self, reader: Reader) -> None:
        """Take in what has changed; for one thread."""
        fresh = []
        for uuid, key in reader.applications():
            if uuid not in self._keys:
                fresh.append(uuid)
            with self._lock:
                self._add(uuid, key)
        places = list(reader.places())
        if fresh:
            places += reader.places_of(fresh)
        with self._lock:
            for place in places:
                if place.uuid in self._keys:
                    self._put(place)
            self._expire()

    def _add(self, uuid: str, key: Key) -> None:
        old = self._keys.get(uuid)
        if old != key:
            if old:
                self._members[old].discard(uuid)
            self._keys[uuid] = key
            self._members[key].add(uuid)

    def _put(self, place: Place) -> None:
        if not place.deleted:
            self._hosts[place.uuid] = place.host
            choice = self._choices.get(place.uuid)
            if choice and choice.host == place.host:
                del self._choices[place.uuid]
            return
        key = self._keys.pop(place.uuid)
        self._members[key].discard(place.uuid)
        if not self._members[key]:
            del self._members[key]
        self._hosts.pop(place.uuid, None)
        self._choices.pop(place.uuid, None)

    def _expire(self) -> None:
        now = self._clock()
        for uuid in [u for u, c in self._choices.items() if c.expires <= now]:
            del self._choices[uuid]


def listening(index: Index) -> Index:
    """Have an index told of what this scheduler chooses."""
    choices.RECENT.listen(index.note_choice)
    return index

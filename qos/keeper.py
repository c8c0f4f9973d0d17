# SPDX-License-Identifier: Apache-2.0
"""Keeps guests at the limits of their records: on demand, and by looking.

The compute driver, the agent and the operator's command all work through it,
each in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from concurrent import futures
import dataclasses
import time

from oslo_log import log

from nova_vcloud import exception
from nova_vcloud.guest import Guest
from nova_vcloud.qos import limits
from nova_vcloud.qos import records
from nova_vcloud.qos.enforcer import Drift
from nova_vcloud.qos.enforcer import Enforcer
from nova_vcloud.qos.records import Override
from nova_vcloud.qos.records import Record

LOG = log.getLogger(__name__)

#: What the log says of each event.
EVENTS = {
    'oom_kill': 'Server %(uuid)s has reached memory.max: %(n)d processes '
                'were killed since the last look',
    'fork_refused': 'Server %(uuid)s has reached pids.max: %(n)d processes '
                    'were refused since the last look'}


@dataclasses.dataclass(frozen=True)
class Status:
    """A guest's limits as they should be and as they are."""

    record: Record
    desired: limits.Limits
    effective: limits.Limits
    drift: list[Drift]
    events: Mapping[str, int]


class Keeper:
    """The limits of this host's guests.

    :param events: tells how often a guest met its limits, since it started
    :param clock: gives Unix time
    """

    def __init__(self, enforcer: Enforcer, kept: records.Records,
                 events: Callable[[Guest], Mapping[str, int]],
                 clock: Callable[[], float] = time.time) -> None:
        self._enforcer = enforcer
        self._records = kept
        self._events = events
        self._clock = clock
        self._seen: dict[tuple[str, str], int] = {}
        self._later = futures.ThreadPoolExecutor(
            max_workers=1, thread_name_prefix='vcloud-remember')
        self._told: dict[str, futures.Future[None]] = {}

    @property
    def enforcer(self) -> Enforcer:
        """What this host can do."""
        return self._enforcer

    @property
    def records(self) -> records.Records:
        """What there is on this host."""
        return self._records

    def record(self, uuid: str) -> Record:
        """Return the record of a server.

        :raises NoSuchRecord: it has none here
        """
        found = self._records.load(uuid)
        if found is None:
            raise exception.NoSuchRecord(
                f'no server {uuid} with limits is on this host')
        return found

    def keep(self, record: Record) -> None:
        """Enforce a new record and store it; on failure all is as before.

        An override that still holds goes on. The engine, which only has to
        remember the limits of a running server for its next start, is told
        afterwards: it takes longer than all others together.

        :raises InvalidLimit: limits at odds with one another
        :raises LimitNotEnforced: with the reason
        """
        uuid = record.guest.uuid
        with self._records.locked(uuid):
            behind = self._enforcer.enforce_now(
                record.guest, record.desired(self._clock()))
            self._records.save(record)
            if behind:
                self._told[uuid] = self._later.submit(self._tell, uuid)

    def _tell(self, uuid: str) -> None:
        """Bring all who remember a server's limits to them."""
        try:
            with self._records.locked(uuid):
                self._enforce(self.record(uuid))
        except exception.NoSuchRecord:
            pass  # deleted meanwhile
        except exception.NovaVcloudException as e:
            # The look at all servers tries again.
            LOG.error('The engine does not know the limits of server %s '
                      'yet: %s', uuid, e)

    def settle(self, uuid: str) -> None:
        """Wait until all who remember a server's limits were told."""
        told = self._told.pop(uuid, None)
        if told:
            told.result()

    def repair(self, uuid: str) -> list[Drift]:
        """Bring a server back to its limits.

        :returns: what was not as it should be
        :raises NoSuchRecord: it has no record here
        :raises LimitNotEnforced: with the reason
        """
        self.settle(uuid)
        with self._records.locked(uuid):
            record = self._current(uuid)
            found = self._enforce(record)
        for drift in found:
            LOG.warning('Limits of server %s repaired: %s', uuid, drift)
        return found

    def _current(self, uuid: str) -> Record:
        """Return a record; an override that has expired is dropped of it."""
        record = self.record(uuid)
        override = record.override
        if override and override.expires <= self._clock():
            LOG.info('Override of server %s by %s has expired: %s', uuid,
                     override.author, override.limits.to_doc())
            record = dataclasses.replace(record, override=None)
            self._records.save(record)
        return record

    def override(self, uuid: str, wanted: limits.Limits, seconds: float,
                 author: str) -> Status:
        """Put limits in place of those of the flavor, for a while.

        They are added to an override that is there already; its end becomes
        that of this one.

        :raises NoSuchRecord: the server has no record here
        :raises InvalidLimit: at odds with one another, or with the others
        :raises LimitNotEnforced: with the reason; all is as before
        """
        now = self._clock()
        with self._records.locked(uuid):
            record = self._current(uuid)
            if record.override:
                wanted = wanted.over(record.override.limits)
            stranger = [str(key) for key in wanted if key not in record.base]
            if stranger:
                raise exception.InvalidLimit(
                    f'the server has no {", ".join(stranger)}')
            record = dataclasses.replace(record, override=Override(
                wanted, now + seconds, author, now))
            self._enforce(record)
            self._records.save(record)
        LOG.info('Limits of server %s set by %s for %d s: %s', uuid, author,
                 seconds, wanted.to_doc())
        return self.status(uuid)

    def reset(self, uuid: str) -> Status:
        """End an override and bring the server to its flavor's limits.

        :raises NoSuchRecord: it has no record here
        :raises LimitNotEnforced: with the reason
        """
        with self._records.locked(uuid):
            record = dataclasses.replace(self.record(uuid), override=None)
            self._enforce(record)
            self._records.save(record)
        return self.status(uuid)

    def status(self, uuid: str) -> Status:
        """Return what a server should have and what it has.

        :raises NoSuchRecord: it has no record here
        """
        self.settle(uuid)
        record = self.record(uuid)
        desired = record.desired(self._clock())
        return Status(record, desired,
                      self._enforcer.effective(record.guest, desired),
                      self._enforcer.drift(record.guest, desired),
                      self._events(record.guest))

    def sweep(self) -> None:
        """Look at every guest once: repair drift, end what has expired."""
        for uuid in self._records.uuids():
            try:
                self.repair(uuid)
                self._tell_events(self.record(uuid).guest)
            except exception.NoSuchRecord:
                continue  # deleted meanwhile
            except exception.NovaVcloudException as e:
                LOG.error('Limits of server %s are not kept: %s', uuid, e)
            except Exception:
                # Whatever one of them has in its files: others come after it.
                LOG.exception('Cannot read the limits of server %s', uuid)

    def _tell_events(self, guest: Guest) -> None:
        """Log how often a guest met its limits since the last look."""
        for event, count in self._events(guest).items():
            key = guest.uuid, event
            seen = self._seen.get(key, 0)
            self._seen[key] = count
            # A restart of the guest begins to count anew.
            more = count - seen if count >= seen else count
            if more:
                LOG.warning(EVENTS[event], {'uuid': guest.uuid, 'n': more})

    def forget(self, uuid: str) -> None:
        """Forget a server; an unknown one is fine."""
        self._records.delete(uuid)
        self._told.pop(uuid, None)
        for event in EVENTS:
            self._seen.pop((uuid, event), None)

    def _enforce(self, record: Record) -> list[Drift]:
        return self._enforcer.enforce(record.guest,
                                      record.desired(self._clock()))

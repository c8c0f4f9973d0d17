# SPDX-License-Identifier: Apache-2.0
"""What limits each guest of this host is to have, kept across restarts."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import datetime as dt
from typing import Any

from nova_vcloud import exception
from nova_vcloud import guest as guests
from nova_vcloud import json_documents
from nova_vcloud.qos import limits

VERSION = 1


@dataclasses.dataclass(frozen=True)
class Override:
    """Limits that hold for a while, in place of those of the flavor.

    :ivar expires: Unix time
    :ivar author: who set it
    """

    limits: limits.Limits
    expires: float
    author: str
    since: float


def within(override: Override, base: limits.Limits) -> Override:
    """Return what of it has something to replace: ports come and go."""
    return dataclasses.replace(override, limits=limits.Limits({
        key: value for key, value in override.limits.items()
        if key in base}))


@dataclasses.dataclass(frozen=True)
class Record:
    """One guest.

    :ivar base: what its flavor gives it
    :ivar exclusive: its CPUs are its alone
    """

    guest: guests.Guest
    base: limits.Limits
    exclusive: bool = False
    bound: bool = False
    override: Override | None = None

    def desired(self, now: float) -> limits.Limits:
        """Return the limits that are to hold at a time."""
        if self.override is None or self.override.expires <= now:
            return self.base
        return self.override.limits.over(self.base)

    def cpus(self) -> frozenset[int]:
        """Return the CPUs that were chosen for it, if any were."""
        found = self.base.value('cpu.cpus')
        return found if isinstance(found, frozenset) else frozenset()

    def to_doc(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        override = None
        if self.override:
            override = {**dataclasses.asdict(self.override),
                        'limits': self.override.limits.to_doc()}
        return {'version': VERSION, 'guest': dataclasses.asdict(self.guest),
                'base': self.base.to_doc(), 'exclusive': self.exclusive,
                'bound': self.bound, 'override': override}

    @classmethod
    def from_doc(cls, doc: dict[str, Any]) -> Record:
        """Return the record of which :meth:`to_doc` made ``doc``.

        :raises StateError: it is of another version, or damaged
        """
        try:
            if doc['version'] != VERSION:
                raise exception.StateError(
                    f'record of version {doc["version"]}, not {VERSION}')
            found = dict(doc['guest'])
            found['links'] = tuple(guests.Link(**link)
                                   for link in found['links'])
            override = doc['override']
            if override:
                override = Override(**{
                    **override,
                    'limits': limits.Limits.from_doc(override['limits'])})
            return cls(guests.Guest(**found),
                       limits.Limits.from_doc(doc['base']),
                       doc['exclusive'], doc['bound'], override)
        except (KeyError, TypeError, exception.InvalidLimit) as e:
            raise exception.StateError(f'record is damaged: {e!r}') from e


class Records:
    """The records of this host, shared by its processes.

    :param documents: one for each guest, named by its server's UUID
    """

    def __init__(self, documents: json_documents.Documents) -> None:
        self._documents = documents

    def uuids(self) -> list[str]:
        """Return the servers that have a record."""
        return self._documents.names()

    def load(self, uuid: str) -> Record | None:
        """Return a record, None when there is none.

        :raises StateError: it is damaged
        """
        doc = self._documents.load(uuid)
        return None if doc is None else Record.from_doc(doc)

    def all(self) -> Iterator[Record]:
        """Yield every record that can be read."""
        for uuid in self.uuids():
            with contextlib.suppress(exception.StateError):
                record = self.load(uuid)
                if record:
                    yield record

    def save(self, record: Record) -> None:
        """Write a record."""
        self._documents.save(record.guest.uuid, record.to_doc())

    def delete(self, uuid: str) -> None:
        """Remove a record; an absent one is fine."""
        self._documents.delete(uuid)

    def locked(self, uuid: str = '') -> contextlib.AbstractContextManager[
            None]:
        """Keep other processes from one server, or from choosing CPUs."""
        return self._documents.locked(uuid)


def local(moment: float) -> str:
    """Return a time as the operator's clock shows it, to the second."""
    found = dt.datetime.fromtimestamp(moment, dt.UTC).astimezone()
    return found.isoformat(sep=' ', timespec='seconds')

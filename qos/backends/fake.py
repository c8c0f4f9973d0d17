# SPDX-License-Identifier: Apache-2.0
"""Limits in memory, for tests of what stands above the backends."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence

from nova_vcloud import exception
from nova_vcloud.guest import Guest
from nova_vcloud.qos import limits
from nova_vcloud.qos.backends import base


class FakeBackend(base.Backend):
    """A host that does as it is told, or fails where it is told to.

    :ivar running: names of the guests there are
    :ivar written: every (guest name, key, value), in order
    :ivar fail_at: how many writes go well before one fails; None never fails
    :ivar deaf: kinds whose writes are lost
    """

    def __init__(self, kinds: Iterable[str] = limits.FIELDS,
                 name: str = 'fake') -> None:
        self.name = name
        self._support = base.Support(frozenset(kinds))
        self._values: dict[tuple[str, limits.Key], limits.Value] = {}
        self.running: set[str] = set()
        self.written: list[tuple[str, limits.Key, limits.Value]] = []
        self.fail_at: int | None = None
        self.deaf: set[str] = set()

    def support(self) -> base.Support:
        """Return the kinds this was made with."""
        return self._support

    def read(self, guest: Guest,
             keys: Iterable[limits.Key]) -> limits.Limits:
        """Return what was written."""
        if guest.name not in self.running:
            return limits.Limits()
        return limits.Limits({
            key: self._values.get((guest.name, key), limits.UNLIMITED)
            for key in keys if key.kind in self._support.enforced})

    def apply(self, guest: Guest, changes: Sequence[base.Change]) -> None:
        """Write one after the other."""
        for change in changes:
            if guest.name not in self.running:
                raise exception.LimitNotEnforced(
                    f'{change.key}: no guest {guest.name}')
            if self.fail_at is not None:
                if self.fail_at == 0:
                    self.fail_at = None
                    raise exception.LimitNotEnforced(
                        f'{change.key}: told to fail')
                self.fail_at -= 1
            self.written.append((guest.name, change.key, change.new))
            if change.key.kind not in self.deaf:
                self._values[guest.name, change.key] = change.new

    def edit(self, guest: Guest, name: str, value: limits.Value) -> None:
        """Change a limit behind everyone's back."""
        self._values[guest.name, limits.Key.parse(name)] = value

# SPDX-License-Identifier: Apache-2.0
"""The port behind which every holder of limits stands."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

from nova_vcloud.guest import Guest
from nova_vcloud.qos import limits


@dataclasses.dataclass(frozen=True)
class Change:
    """One limit that is to be another."""

    key: limits.Key
    old: limits.Value
    new: limits.Value

    def reversed(self) -> Change:
        """Return the way back."""
        return Change(self.key, self.new, self.old)


@dataclasses.dataclass(frozen=True)
class Support:
    """What a backend can do on this host, found out by trying.

    :ivar enforced: kinds, such as ``cpu.quota``, that hold
    :ivar missing: {kind: why it cannot be had here}
    :ivar remarks: {kind: what an operator should know of one that holds}
    """

    enforced: frozenset[str]
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
    remarks: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Backend(abc.ABC):
    """Reads and writes limits of guests.

    One object serves many threads; calls for one guest are the caller's to
    serialise.
    """

    #: Short name, for logs and tables.
    name: str

    #: Remembers for the next start what others enforce while a guest runs.
    #: So it may be told a moment after them.
    remembers = False

    @abc.abstractmethod
    def support(self) -> Support:
        """Return what this host can do; the same object every time."""

    @abc.abstractmethod
    def read(self, guest: Guest,
             keys: Iterable[limits.Key]) -> limits.Limits:
        """Return what is in force, for those of ``keys`` that are ours.

        A key is absent from the answer when the guest has nothing to read it
        from now: no cgroup as it is stopped, no such NIC. Otherwise it is a
        number, a set or UNLIMITED, never absent.

        :raises LimitNotEnforced: the host cannot be asked
        """

    @abc.abstractmethod
    def apply(self, guest: Guest, changes: Sequence[Change]) -> None:
        """Make changes, in this order, all of kinds that are enforced.

        The one of a pair (memory and swap, say) that stays as it is may be
        among them, with ``new`` as ``old``: some holders know only both.

        :raises LimitNotEnforced: with key and reason; of the changes some
            may have been made, and the caller takes them back
        """

    def matches(self, key: limits.Key, wanted: limits.Value,
                found: limits.Value) -> bool:
        """Tell whether ``found`` is what ``wanted`` becomes in the kernel.

        Kernels round: to pages, to clock ticks, to other scales.
        """
        return wanted == found

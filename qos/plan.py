# SPDX-License-Identifier: Apache-2.0
"""From what should be and what is to the changes between, in a safe order."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable

from nova_vcloud.qos import limits
from nova_vcloud.qos.backends.base import Change

Matches = Callable[[limits.Key, limits.Value, limits.Value], bool]

# The kernel refuses a burst above the quota (sched-bwc.rst), so a burst
# shrinks before anything else does and grows last.
FIRST, MIDDLE, LAST = range(3)

#: Engines know memory, and memory and swap: each of the two changes both.
MEMORY = (limits.Key('memory', 'max'), limits.Key('memory', 'swap'))

#: What a host gives that cannot limit it: a kernel before 5.14 has no burst,
#: and one without accounting of swap is run on hosts without swap.
NOBODYS = frozenset({('cpu.burst', 0), ('memory.swap', 0)})


def changes(desired: limits.Limits, observed: limits.Limits,
            matches: Matches) -> list[Change]:
    """Return what must be changed, in the order in which it is safe.

    What is not observed cannot be changed now: the guest is stopped, say.

    :param matches: :meth:`.base.Backend.matches` of who observed
    """
    found = [Change(key, observed[key], wanted)
             for key, wanted in sorted(desired.items())
             if key in observed and not matches(key, wanted, observed[key])]
    return sorted(found, key=rank)


def batch(desired: limits.Limits, observed: limits.Limits,
          matches: Matches) -> list[Change]:
    """Return the changes, and what is written together with them."""
    found = changes(desired, observed, matches)
    keys = {change.key for change in found}
    if keys.isdisjoint(MEMORY):
        return found
    return found + [Change(key, observed[key], desired[key])
                    for key in MEMORY
                    if key not in keys and key in observed and key in desired]


def rank(change: Change) -> int:
    """Return when a change is made, beside others and other backends'."""
    if change.key.kind != 'cpu.burst':
        return MIDDLE
    shrinks = size(change.new) < size(change.old)
    return FIRST if shrinks else LAST


def size(value: limits.Value) -> float:
    """Return a number to compare limits by; UNLIMITED is the largest."""
    return value if isinstance(value, int) else float('inf')


def unsupported(desired: limits.Limits, enforced: Iterable[str]
                ) -> list[limits.Key]:
    """Return the limits that nobody here enforces and somebody must."""
    enforced = frozenset(enforced)
    return [key for key, value in sorted(desired.items())
            if key.kind not in enforced and value is not limits.UNLIMITED
            and (key.kind, value) not in NOBODYS]

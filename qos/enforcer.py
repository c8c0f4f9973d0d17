# SPDX-License-Identifier: Apache-2.0
"""Makes limits true: plan, apply, read back; all of it or nothing."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from concurrent import futures
import dataclasses
import itertools
from typing import TypeVar

from oslo_log import log

from nova_vcloud import exception
from nova_vcloud.guest import Guest
from nova_vcloud.qos import limits
from nova_vcloud.qos import plan
from nova_vcloud.qos.backends.base import Backend
from nova_vcloud.qos.backends.base import Change

LOG = log.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Drift:
    """A limit that is not what it should be.

    :ivar backend: name of the one who says so
    """

    key: limits.Key
    wanted: limits.Value
    found: limits.Value
    backend: str

    def __str__(self) -> str:
        return (f'{self.key} is {limits.to_text(self.found)} in '
                f'{self.backend}, should be {limits.to_text(self.wanted)}')


Observed = list[tuple[Backend, limits.Limits]]
T = TypeVar('T')


class Enforcer:
    """Brings guests to their limits through all backends of the host.

    Several backends may hold the same limit: an engine remembers for the
    next start what the kernel enforces now. Each is brought to it. Those that
    have no limit in common are written at the same time: most of it is
    waiting for the engine.

    :param backends: in the order in which they are written
    """

    def __init__(self, backends: Sequence[Backend]) -> None:
        self._backends = list(backends)
        self._pool = futures.ThreadPoolExecutor(
            thread_name_prefix='vcloud-limits')

    def enforced(self) -> frozenset[str]:
        """Return the kinds of limits that this host can hold."""
        return frozenset().union(
            *(b.support().enforced for b in self._backends))

    def missing(self) -> dict[str, str]:
        """Return {kind: why this host cannot hold it}."""
        have = self.enforced()
        reasons: dict[str, str] = {}
        for kind in sorted(limits.FIELDS.keys() - have):
            said = [b.support().missing[kind] for b in self._backends
                    if kind in b.support().missing]
            reasons[kind] = '; '.join(said) or 'nothing here enforces it'
        return reasons

    def remarks(self) -> dict[str, str]:
        """Return {kind: what an operator should know of it}."""
        return {kind: text for backend in self._backends
                for kind, text in backend.support().remarks.items()}

    def check(self, desired: limits.Limits) -> None:
        """Check that this host can hold all of ``desired``.

        :raises InvalidLimit: limits at odds with one another
        :raises LimitNotEnforced: with each one that it cannot hold, and why
        """
        desired.check()
        lacking = plan.unsupported(desired, self.enforced())
        if lacking:
            reasons = self.missing()
            raise exception.LimitNotEnforced('; '.join(
                f'{key}: {reasons[key.kind]}' for key in lacking))

    def observe(self, guest: Guest, desired: limits.Limits) -> Observed:
        """Return what each backend reads, of the limits in ``desired``."""
        return _observe(self._backends, guest, desired)

    def effective(self, guest: Guest,
                  desired: limits.Limits) -> limits.Limits:
        """Return what is in force; the last backend to know a limit wins."""
        result = limits.Limits()
        for _backend, found in self.observe(guest, desired):
            result = found.over(result)
        return result

    def drift(self, guest: Guest, desired: limits.Limits) -> list[Drift]:
        """Return the limits that are not as desired."""
        return _drift(desired, self.observe(guest, desired))

    def enforce(self, guest: Guest, desired: limits.Limits) -> list[Drift]:
        """Bring a guest to its limits and read them back.

        A guest that is stopped gets what can be set without it; the rest
        takes its turn when it starts.

        :returns: what was not as desired before
        :raises InvalidLimit: limits at odds with one another
        :raises LimitNotEnforced: with the reason; the limits are those of
            before
        """
        self.check(desired)
        before = self.observe(guest, desired)
        self._bring(guest, desired, before)
        return _drift(desired, before)

    def enforce_now(self, guest: Guest, desired: limits.Limits) -> bool:
        """Do the same but for who only remembers what others enforce.

        :returns: whether somebody was left out, for :meth:`enforce` to tell
        :raises InvalidLimit: limits at odds with one another
        :raises LimitNotEnforced: with the reason; the limits are those of
            before
        """
        self.check(desired)
        found = _observe([b for b in self._backends if not b.remembers],
                         guest, desired)
        known = {key for _backend, own in found for key in own}
        remember = [b for b in self._backends if b.remembers]
        # Of a guest that is stopped nobody else can be told.
        alone = [b for b in remember if not known.issuperset(
            desired.only(b.support().enforced))]
        # They come first, see assembly.py.
        self._bring(guest, desired, _observe(alone, guest, desired) + found)
        return alone != remember

    def _bring(self, guest: Guest, desired: limits.Limits,
               before: Observed) -> None:
        """Bring those who were observed to the limits, or back."""
        if not _drift(desired, before):
            return

        def bring(lane: list[Backend]) -> list[Drift]:
            own = [each for each in before if each[0] in lane]
            for backend, batch in _batches(desired, own):
                backend.apply(guest, batch)
            return _drift(desired, _observe(lane, guest, desired))

        try:
            rest = [drift for found in _in_lanes(
                        self._pool, [backend for backend, _found in before],
                        bring) for drift in found]
        except BaseException:
            self._restore(guest, before)
            raise
        if rest:
            self._restore(guest, before)
            raise exception.LimitNotEnforced(
                'not in force after it was set: '
                + '; '.join(map(str, rest)))

    def _restore(self, guest: Guest, before: Observed) -> None:
        """Bring every backend back; what fails is logged, no more."""
        for backend, old in reversed(before):
            try:
                now = backend.read(guest, old)
                back = plan.batch(old, now, backend.matches)
                if back:
                    backend.apply(guest, back)
            except exception.NovaVcloudException as e:
                LOG.error('Could not take back limits of server %s in %s: '
                          '%s', guest.uuid, backend.name, e)


def _lanes(backends: Sequence[Backend]) -> list[list[Backend]]:
    """Return backends in lists; two with a limit in common are in one."""
    found: list[list[Backend]] = []
    for backend in backends:
        kinds = backend.support().enforced
        same = [lane for lane in found if any(
            kinds & other.support().enforced for other in lane)]
        found = [lane for lane in found if lane not in same]
        found.append([*itertools.chain.from_iterable(same), backend])
    return found


def _in_lanes(pool: futures.Executor, backends: Sequence[Backend],
              work: Callable[[list[Backend]], T]) -> list[T]:
    """Do something in all lanes; raise when all have ended."""
    lanes = _lanes(backends)
    others = [pool.submit(work, lane) for lane in lanes[1:]]
    try:
        found = [work(lane) for lane in lanes[:1]]
    finally:
        futures.wait(others)
    return found + [each.result() for each in others]


def _observe(backends: Sequence[Backend], guest: Guest,
             desired: limits.Limits) -> Observed:
    asked = [(backend, desired.only(backend.support().enforced))
             for backend in backends]
    return [(backend, backend.read(guest, own)) for backend, own in asked
            if own]


def _drift(desired: limits.Limits, observed: Observed) -> list[Drift]:
    return [Drift(change.key, change.new, change.old, backend.name)
            for backend, found in observed
            for change in plan.changes(desired, found, backend.matches)]


def _batches(desired: limits.Limits, observed: Observed
             ) -> Iterator[tuple[Backend, list[Change]]]:
    """Yield what each backend is to do, in the order of ranks, then theirs."""
    steps = [(plan.rank(change), number, change)
             for number, (backend, found) in enumerate(observed)
             for change in plan.batch(desired, found, backend.matches)]
    steps.sort(key=lambda step: step[:2])
    for (_rank, number), group in itertools.groupby(
            steps, key=lambda step: step[:2]):
        yield observed[number][0], [change for _r, _n, change in group]

# SPDX-License-Identifier: Apache-2.0
"""Applications: servers that serve one purpose and should not fall together.

Which application a server is of, how many of them may share a host, a rack
or a zone, and how many do: purely.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set
import dataclasses
import re

from nova_vcloud import exception
from nova_vcloud.flavor import flavor_keys

NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]{0,62}')
CAP = re.compile(r'[1-9][0-9]{0,5}|(?:[1-9][0-9]?|100)%')
#: From the widest to the narrowest: the order in which a soft rule gives way.
LEVELS = ('zone', 'rack', 'host')
POLICIES = ('hard', 'soft')


@dataclasses.dataclass(frozen=True)
class Key:
    """An application; two projects may give theirs one name."""

    project: str
    name: str

    def __str__(self) -> str:
        return self.name

    @property
    def label(self) -> str:
        """Return what a container is labelled with."""
        return f'{self.project}/{self.name}'


@dataclasses.dataclass(frozen=True)
class Cap:
    """How many servers of an application may share a place.

    :ivar percent: ``amount`` is a share of all its servers
    """

    amount: int
    percent: bool = False

    def of(self, servers: int) -> int:
        """Return the number, of so many servers; a share is rounded up."""
        if not self.percent:
            return self.amount
        return -(-servers * self.amount // 100)


@dataclasses.dataclass(frozen=True)
class Rule:
    """What an application asks for.

    :ivar caps: {level: cap}, of :data:`LEVELS`
    :ivar hard: better no server than one against the caps
    """

    key: Key
    caps: Mapping[str, Cap] = dataclasses.field(default_factory=dict)
    hard: bool = True

    def attempts(self) -> list[tuple[str, ...]]:
        """Return the levels to hold to, each time fewer, as it gives way.

        A hard rule does not; of a soft one nothing is left at last.
        """
        levels = tuple(level for level in LEVELS if level in self.caps)
        if self.hard:
            return [levels]
        return [levels[number:] for number in range(len(levels) + 1)]


def application(project: str | None, hints: Mapping[str, object],
                specs: Mapping[str, str]) -> Key | None:
    """Return the application of a server, None for a server of none.

    :param hints: scheduler hints, as a request specification keeps them
    :param specs: extra specs of its flavor
    :raises InvalidRequest: a name that cannot be; the text says whose
    """
    found = _said('app', hints, specs)
    if found is None:
        return None
    where, text = found
    if not NAME.fullmatch(text):
        raise exception.InvalidRequest(
            f'{where}={text}: an application is named by at most 63 '
            'letters, digits, dots, dashes and underscores')
    return Key(project or '', text)


def rule(project: str | None, hints: Mapping[str, object],
         specs: Mapping[str, str],
         defaults: Mapping[str, str]) -> Rule | None:
    """Return what holds for a server; None for a server of no application.

    A hint goes before the flavor, and the flavor before the default.

    :param defaults: {'app_max_per_host': text, ..., 'app_policy': text};
        '' is: no cap
    :raises InvalidRequest: a value that cannot be; the text says whose
    """
    key = application(project, hints, specs)
    if key is None:
        return None
    caps = {}
    for level in LEVELS:
        name = f'app_max_per_{level}'
        where, text = _said(name, hints, specs) or (
            name, defaults.get(name) or '')
        if text:
            caps[level] = _cap(where, text)
    where, policy = _said('app_policy', hints, specs) or (
        'app_policy', defaults.get('app_policy') or POLICIES[0])
    if policy not in POLICIES:
        raise exception.InvalidRequest(
            f'{where}={policy}: not one of {", ".join(POLICIES)}')
    return Rule(key, caps, policy == 'hard')


def _said(name: str, hints: Mapping[str, object],
          specs: Mapping[str, str]) -> tuple[str, str] | None:
    """Return (who says it, what), None when nobody does."""
    if name in hints:
        value = hints[name]
        # Nova keeps each hint as a list.
        if isinstance(value, list | tuple) and len(value) == 1:
            value = value[0]
        return f'hint {name}', str(value)
    key = f'{flavor_keys.NAMESPACE}:{name}'
    return (key, str(specs[key])) if key in specs else None


def _cap(where: str, text: str) -> Cap:
    if not CAP.fullmatch(text):
        raise exception.InvalidRequest(
            f'{where}={text}: not a number of servers, nor a share such as '
            '25%')
    return Cap(int(text.rstrip('%')), text.endswith('%'))


class Spread:
    """How the servers of an application are spread over hosts.

    :param placed: {host: servers of the application on it}
    :param domains: {level: {name of the domain: its hosts}}; a host that is
        in none is one of its own
    """

    def __init__(self, placed: Mapping[str, int],
                 domains: Mapping[str, Mapping[str, Set[str]]]) -> None:
        self._placed = placed
        # Hosts are many, those with such servers few.
        self._counts = {
            level: {name: sum(placed[host] for host in placed.keys() & hosts)
                    for name, hosts in found.items()}
            for level, found in domains.items()}

    @property
    def total(self) -> int:
        """Servers that are placed."""
        return sum(self._placed.values())

    def count(self, level: str, host: str, domain: str | None) -> int:
        """Return how many servers are where a host is.

        :param domain: of the level, that the host is in
        """
        if level == 'host' or domain is None:
            return self._placed.get(host, 0)
        return self._counts[level].get(domain, 0)

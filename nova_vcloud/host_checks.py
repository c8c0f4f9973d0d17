# SPDX-License-Identifier: Apache-2.0
"""Whether a host is set up so that one server cannot do without the others.

Some tables of the kernel have no namespace and no cgroup: of the whole host,
or of a user, and without user namespaces root of every server is one user.
Where the kernel counts their memory as the server's, a high bound leaves that
to the server's own limit; elsewhere it makes them too large to fill by a few.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from nova_vcloud import userns

#: That every container of a server has.
SERVER_LABEL = 'org.openstack.nova.uuid'
SYSCTL_ROOT = '/proc/sys'
APPARMOR = '/sys/module/apparmor/parameters/enabled'
SELINUX = '/sys/fs/selinux/enforce'


@dataclasses.dataclass(frozen=True)
class Bound:
    """A sysctl of the host, and what it should be.

    :ivar value: the least that is enough, or the only one that is
    :ivar exact: whether it is the only one
    :ivar why: what one server could do otherwise
    """

    name: str
    value: int
    why: str
    exact: bool = False

    @property
    def line(self) -> str:
        """Return the line for sysctl.d(5)."""
        return f'{self.name} = {self.value}'


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    :ivar found: what it is now
    :ivar problem: what follows from it; '' when it is as it should be
    :ivar fix: what to change
    """

    name: str
    found: str
    problem: str = ''
    fix: str = ''

    def __str__(self) -> str:
        if not self.problem:
            return f'{self.name} is {self.found}'
        return f'{self.name} is {self.found}: {self.problem}; {self.fix}'


_NEIGHBOURS = ('the table of neighbours is one for all servers and the host '
               '(arp(7)): one that asks for many takes the network of all')
_ROOT = 'root of all servers is one user to it: one of them can take them all'
BOUNDS = (
    *(Bound(f'net.{family}.neigh.default.gc_thresh{number}', value,
            _NEIGHBOURS)
      for family in ('ipv4', 'ipv6')
      for number, value in ((1, 8192), (2, 65536), (3, 131072))),
    Bound('fs.inotify.max_user_instances', 1048576, _ROOT),
    Bound('fs.inotify.max_user_watches', 4194304, _ROOT),
    # Of events; each takes 32 bytes of the server's memory.
    Bound('fs.aio-max-nr', 16777216, 'one server can take all requests of '
          'asynchronous I/O of the host'),
    # Each takes some 200 bytes of the server's memory.
    Bound('fs.file-max', 1 << 30, 'one server can have open all files that '
          'the host may: programs of the host that are not root open none'),
    Bound('fs.pipe-user-pages-soft', 0, 'pipes of all servers together: '
          'beyond it each new one holds a page or two (pipe(7))', exact=True),
    Bound('kernel.pid_max', 4194304, 'servers can use up the numbers of '
          'processes of the host'),
    Bound('kernel.dmesg_restrict', 1, 'servers can read the log of the '
          "host's kernel"),
)


#: On a host with user namespaces, in place of those of root.
MAPPED_BOUNDS = (
    Bound('kernel.keys.maxkeys', 2000, 'servers are one user to the kernel, '
          'and runc takes a key of that user for each'),)


def bounds(mapped: bool) -> tuple[Bound, ...]:
    """Return what matters on a host.

    :param mapped: whether its servers have user namespaces
    """
    if not mapped:
        return BOUNDS
    return (*(bound for bound in BOUNDS if bound.why != _ROOT),
            *MAPPED_BOUNDS)


def sysctl(bound: Bound, found: int | None) -> Check:
    """Judge a sysctl.

    :param found: None where the kernel has none such
    """
    if found is None:
        return Check(bound.name, 'not there')
    if found == bound.value or (found > bound.value and not bound.exact):
        return Check(bound.name, str(found))
    return Check(bound.name, str(found), bound.why,
                 f'set {bound.line} in /etc/sysctl.d')


def bridges(found: Mapping[str, int]) -> Iterator[Check]:
    """Judge whether frames between servers pass the host's packet filter.

    :param found: {name below net.bridge: value}, as far as there
    """
    for name, value in sorted(found.items()):
        full = f'net.bridge.{name}'
        if not value:
            yield Check(full, str(value))
        else:
            yield Check(
                full, str(value), 'the host tracks connections between '
                'servers, in a table that one of them can fill, and its '
                'rules for forwarding may drop their frames',
                f'set {full} = 0 in /etc/sysctl.d')


def security(options: Iterable[str], apparmor: bool,
             selinux: bool) -> Iterator[Check]:
    """Judge what the engine confines containers with.

    :param options: ``SecurityOptions`` of its description
    :param apparmor: whether the kernel has it, and on
    :param selinux: the same
    """
    fields = [dict(part.partition('=')[::2] for part in option.split(','))
              for option in options]
    have = {field.get('name', ''): field for field in fields}
    # 20.10 says default, 23.0 and later builtin; else it is a path.
    profile = have.get('seccomp', {}).get('profile', 'unconfined')
    yield Check('seccomp profile', profile) if profile != 'unconfined' \
        else Check('seccomp profile', profile, 'servers may make every system '
                   'call', 'take "seccomp-profile" out of daemon.json, or use '
                   'an engine that was built with seccomp')
    yield Check('user namespaces', 'used') if 'userns' in have else Check(
        'user namespaces', 'not used', 'root in a server is root of the host '
        'but for capabilities', 'move the servers away and add '
        '"userns-remap": "default" to daemon.json')
    for name, on, fix in (
            ('apparmor', apparmor, ('install the package apparmor and restart '
             'the engine')),
            ('selinux', selinux, ('add "selinux-enabled": true to daemon.json '
             'and restart the engine'))):
        if name in have:
            yield Check(name, 'used')
        elif on:
            yield Check(name, 'not used', 'the kernel has it and the engine '
                        'does not confine servers with it', fix)


def health_checks(containers: Iterable[Mapping[str, Any]]) -> Iterator[Check]:
    """Name servers whose image has the engine run programs for it.

    Of servers made by releases that did not turn them off.

    :param containers: as the engine lists them
    """
    for each in containers:
        if '(health' in each['Status'] or '(unhealthy' in each['Status']:
            yield Check(
                f'health check of {each["Names"][0].lstrip("/")}', 'run',
                "it takes the host's CPU time, outside the server's limits",
                'rebuild, shelve or cold migrate the server')


def neighbours(limit: int, problem: str) -> Check:
    """Judge whether servers' neighbours can be limited.

    :param limit: ``[vcloud_net] neighbour_limit``
    :param problem: why this host cannot; '' when it can
    """
    name = 'limit of neighbours'
    if not limit:
        return Check(name, 'off', _NEIGHBOURS,
                     'set [vcloud_net] neighbour_limit')
    if problem:
        return Check(name, 'not held', _NEIGHBOURS, problem)
    return Check(name, str(limit))


def read(info: Mapping[str, Any], containers: Iterable[Mapping[str, Any]],
         root: str = SYSCTL_ROOT) -> list[Check]:
    """Look at this host.

    :param info: the engine's description of itself
    :param containers: servers, as the engine lists them
    """
    places = {bound: pathlib.Path(root, bound.name.replace('.', '/'))
              for bound in bounds(userns.is_on(info))}
    bridge = {path.name: int(path.read_text())
              for path in pathlib.Path(root, 'net/bridge').glob(
                  'bridge-nf-call-ip*tables')}
    return [
        *(sysctl(bound, _number(path)) for bound, path in places.items()),
        *bridges(bridge),
        *security(info.get('SecurityOptions') or (), _is(APPARMOR, 'Y'),
                  _is(SELINUX, '1')),
        *health_checks(containers)]


def _number(path: pathlib.Path) -> int | None:
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return None


def _is(path: str, text: str) -> bool:
    try:
        return pathlib.Path(path).read_text().strip() == text
    except OSError:
        return False

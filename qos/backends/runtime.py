# SPDX-License-Identifier: Apache-2.0
"""What the OCI runtime writes into a container's new cgroup.

An engine forgets limits that it does not know or must not be told (of block
devices: it would apply them again over later changes). So they wait in a file
beside the link to the network namespace; ``nova-vcloud-runtime`` writes them
after the cgroup was made and before the first process runs.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
import json
import os
import pathlib

from nova_vcloud import exception
from nova_vcloud.guest import Guest
from nova_vcloud.qos import limits
from nova_vcloud.qos.backends import base

StartLines = Callable[[Guest, limits.Limits], list[tuple[str, str]]]

SUFFIX = '.limits'
#: What a fresh cgroup has where it is not UNLIMITED.
UNSAID = {'cpu.burst': 0}


class RuntimeBackend(base.Backend):
    """The file of one container: limits as JSON, then lines 'path text'.

    :param directory: the ``--links`` directory of ``nova-vcloud-runtime``
    :param kinds: that the engine does not keep
    :param start_lines: of the backend that writes the same cgroup
    """

    name = 'runtime'

    def __init__(self, directory: str, kinds: Iterable[str],
                 start_lines: StartLines) -> None:
        self._directory = pathlib.Path(directory)
        self._support = base.Support(frozenset(kinds))
        self._start_lines = start_lines

    def support(self) -> base.Support:
        """Return the kinds this was made for."""
        return self._support

    def _path(self, guest: Guest) -> pathlib.Path:
        return self._directory / (guest.name + SUFFIX)

    def _load(self, guest: Guest) -> limits.Limits:
        try:
            with self._path(guest).open() as file:
                return limits.Limits.from_doc(
                    json.loads(file.readline().removeprefix('#')))
        except FileNotFoundError:
            return limits.Limits()
        except (ValueError, exception.InvalidLimit):
            # Cut short by a power loss: written anew by the next change.
            return limits.Limits()

    def read(self, guest: Guest,
             keys: Iterable[limits.Key]) -> limits.Limits:
        """Return what the next start will apply."""
        found = self._load(guest)
        return limits.Limits({
            key: found.get(key, UNSAID.get(key.kind, limits.UNLIMITED))
            for key in keys if key.kind in self._support.enforced})

    def apply(self, guest: Guest, changes: Sequence[base.Change]) -> None:
        """Write the file anew; without a limit there is none."""
        wanted = limits.Limits({c.key: c.new for c in changes}).over(
            self._load(guest))
        wanted = limits.Limits({
            key: value for key, value in wanted.items()
            if value != UNSAID.get(key.kind, limits.UNLIMITED)})
        if not wanted:
            self.forget(guest)
            return
        lines = [f'#{json.dumps(wanted.to_doc())}',
                 *(f'{path} {text}'
                   for path, text in self._start_lines(guest, wanted))]
        path = self._path(guest)
        new = path.with_suffix('.new')
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            new.write_text('\n'.join(lines) + '\n')
            os.replace(new, path)
        except OSError as e:
            raise exception.LimitNotEnforced(f'{path}: {e}') from e

    def forget(self, guest: Guest) -> None:
        """Remove the file; an absent one is fine."""
        self._path(guest).unlink(missing_ok=True)

# SPDX-License-Identifier: Apache-2.0
"""Sizes of containers' root filesystems, by quotas or files of their own."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
from typing import Any
from typing import Protocol

from oslo_log import log

from nova_vcloud import exception
from nova_vcloud.engine import Engine
from nova_vcloud.guest import Guest
from nova_vcloud.qos import limits
from nova_vcloud.qos.backends import base
from nova_vcloud.qos.disk import btrfs_qgroup
from nova_vcloud.qos.disk import loop_file
from nova_vcloud.qos.disk import rootfs
from nova_vcloud.qos.disk import xfs_project_quota

LOG = log.getLogger(__name__)

KIND = 'disk.max'
KEY = limits.Key.parse(KIND)


class Store(Protocol):
    """What holds sizes: the modules of :data:`STORES`, and Files."""

    AT_CREATION: bool
    SHRINKS: bool
    REMARK: str
    STEP: int

    def why_not(self, info: Mapping[str, Any]) -> str:
        """Return what is missing for sizes to hold; '' when nothing is."""

    def look(self, root: str, container: str) -> tuple[int, int] | None:
        """Return the bytes a container uses and may use; 0: any number."""

    def limit(self, root: str, container: str, size: int) -> None:
        """Let a container use so many bytes; 0: any number."""

    def make_room(self, root: str, container: str) -> str:
        """Have room on the disk of a stopped container for its start.

        :returns: line for the runtime that ends it; '' when there was room
        """


#: {storage driver of the engine: who knows the quotas}
STORES: dict[str, Store] = {btrfs_qgroup.DRIVER: btrfs_qgroup,
                            xfs_project_quota.DRIVER: xfs_project_quota}


class DiskBackend(base.Backend):
    """Sizes on the file system that an engine has its containers on.

    They are the file system's: they outlive the engine, the container's
    restarts and the host's.

    :param files: makes them; None where containers are to have none
    :param links: the ``--links`` directory of ``nova-vcloud-runtime``
    """

    name = 'disk'

    def __init__(self, engine: Engine,
                 files: loop_file.Files | None = None,
                 links: str = '') -> None:
        self._engine = engine
        self._links = links
        self._wanted = files
        self._files = files or loop_file.Files()
        self._driver = ''
        self._support: base.Support | None = None
        self._store: Store = xfs_project_quota
        self._root = ''

    def support(self) -> base.Support:
        """Return what holds on the store that the engine really uses.

        :raises EngineUnavailable: it does not answer, and was not asked yet
        """
        if self._support is None:
            info = self._engine.info()
            self._root, self._driver = info['DockerRootDir'], info['Driver']
            store = self._choose()
            reason = store.why_not(info) if store else (
                f'nobody has tried it with the storage driver '
                f'{self._driver}')
            if self._wanted and not store:
                reason = (f'root disks in files need the storage driver '
                          f'{loop_file.DRIVER}, the engine has '
                          f'{self._driver}')
            if store:
                self._store = store
            self._support = base.Support(frozenset(), {KIND: reason}) \
                if reason else base.Support(frozenset({KIND}), remarks={
                    KIND: self._store.REMARK})
        return self._support

    def _choose(self) -> Store | None:
        if self._wanted:
            return self._wanted if self._may_have_files() else None
        return STORES.get(self._driver)

    def read(self, guest: Guest,
             keys: Iterable[limits.Key]) -> limits.Limits:
        """Return the size of a container that is there, running or not."""
        if KEY not in keys or KIND not in self.support().enforced:
            return limits.Limits()
        found = self._store.look(self._root, guest.name)
        if found is None:
            return limits.Limits()
        return limits.Limits({KEY: found[1] or limits.UNLIMITED})

    def apply(self, guest: Guest, changes: Sequence[base.Change]) -> None:
        """Set the size, of a container that runs too."""
        for change in changes:
            size = change.new if isinstance(change.new, int) else 0
            try:
                self._store.limit(self._root, guest.name, size)
            except exception.LimitNotEnforced as e:
                raise exception.LimitNotEnforced(f'{change.key}: {e}') from e
            if self._links and self._store.SHRINKS:
                # What was noted would bring back the size of before.
                rootfs.note_room(self._links, guest.name, '')

    def matches(self, key: limits.Key, wanted: limits.Value,
                found: limits.Value) -> bool:
        """Allow for whole blocks, and for what cannot be taken back."""
        if isinstance(wanted, int) and isinstance(found, int):
            if found > wanted and not self._store.SHRINKS:
                return True
            return abs(wanted - found) < self._store.STEP
        return wanted == found

    def host_config(self, wanted: limits.Limits) -> dict[str, Any]:
        """Return what the engine must be told when a container is made."""
        size = wanted.value(KIND)
        if not isinstance(size, int) or not self._store.AT_CREATION:
            return {}
        return {'StorageOpt': {'size': str(size)}}

    def figures(self, container: str) -> dict[str, int]:
        """Return the bytes that a container uses, and may use if limited.

        {} where nobody counts.
        """
        if KIND not in self.support().enforced:
            return {}
        found = self._store.look(self._root, container)
        if found is None:
            return {}
        used, size = found
        return {'disk_used_bytes': used,
                **({'disk_limit_bytes': size} if size else {})}

    # What a start needs, of a disk that its server has filled.

    def make_room(self, container: str) -> None:
        """Have room for the start of a stopped container on its disk.

        The runtime ends it, before the first process runs.

        :raises LimitNotEnforced: it cannot be had
        """
        # Of a start that nova-compute has not outlived.
        self.end_room(container)
        line = self._room(container)
        if line:
            try:
                rootfs.note_room(self._links, container, line)
            except OSError as e:
                rootfs.end_room(line)
                raise exception.LimitNotEnforced(f'{KIND}: {e}') from e

    def end_room(self, container: str) -> None:
        """End the room of a start that failed before the runtime has.

        None is fine.

        :raises LimitNotEnforced: it cannot be ended
        """
        line = rootfs.noted_room(self._links, container) \
            if self._links else ''
        if line:
            rootfs.end_room(line)
            rootfs.note_room(self._links, container, '')

    @contextlib.contextmanager
    def room(self, container: str) -> Iterator[None]:
        """Have room on the disk of a stopped container for a while.

        :raises LimitNotEnforced: it cannot be had, or not be ended
        """
        line = self._room(container)
        try:
            yield
        finally:
            rootfs.end_room(line)

    def _room(self, container: str) -> str:
        enforced = self.support().enforced
        if self._may_have_files():
            line = self._files.make_room(self._root, container)
            if line or self._store is self._files:
                return line
        if KIND not in enforced:
            return ''
        return self._store.make_room(self._root, container)

    # Of files, which a container may have from when the host had the option.

    def mount(self, container: str) -> None:
        """Have a container's root filesystem where the engine looks for it.

        :raises LimitNotEnforced: it is lost, or cannot be mounted
        """
        self.support()
        if self._may_have_files():
            self._files.mount(self._root, container)

    def forget(self, container: str) -> None:
        """Remove what is left of a container that the engine has no more.

        One that it has keeps its disk.
        """
        self.support()
        if self._links:
            rootfs.note_room(self._links, container, '')
        if self._may_have_files():
            loop_file.forget(self._root, container)

    def sweep(self) -> None:
        """Remove what is left of all such; nobody may make one meanwhile."""
        self.support()
        if self._may_have_files():
            for path in loop_file.sweep(self._root):
                LOG.info('Removed %s, the root disk of no server', path)

    def _may_have_files(self) -> bool:
        return self._driver == loop_file.DRIVER

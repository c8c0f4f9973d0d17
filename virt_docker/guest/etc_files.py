# SPDX-License-Identifier: Apache-2.0
"""Has the names in a running server's /etc follow what Nova says of it.

Not through the engine: it shows files of its own in the place of these as
soon as a container was started, also to who copies into it.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import os
import stat
from typing import Any

from oslo_log import log

from nova_vcloud import privsep
from nova_vcloud import regular_files
from nova_vcloud.virt_docker.guest import hosts_file
from nova_vcloud.virt_docker.guest import server_files
from nova_vcloud.virt_docker.vif.addresses import Nic

LOG = log.getLogger(__name__)

MAX_SIZE = 64 * 1024  # bytes of a tenant's file that we read


class EtcFiles:
    """The files of this host's servers, looked at when they may be old."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Any, ...]] = {}

    def forget(self, uuid: str) -> None:
        """Forget what was last written; an unknown server is fine."""
        self._known.pop(uuid, None)

    def renew(self, uuid: str, container: dict[str, Any], hostname: str,
              nics: Iterable[Nic]) -> None:
        """Write what has changed since the last time.

        A server is not kept from its start, nor from its network, by a file
        of its own.

        :param container: as the engine describes it; it runs
        """
        nics = tuple(nics)
        wanted = (container['Id'], hostname,
                  tuple(nic.addresses for nic in nics))
        if self._known.get(uuid) == wanted:
            return
        try:
            write(container['State']['Pid'], container['Id'],
                  container['Config']['Hostname'], hostname,
                  [(list(nic.addresses)) for nic in nics])
        except OSError as e:
            LOG.warning('/etc/hosts and /etc/hostname of server %s are not '
                        'renewed: %s', uuid, e)
        else:
            self._known[uuid] = wanted


@privsep.volume.entrypoint
def write(pid: int, container_id: str, made: str, hostname: str,
          addresses: list[list[str]]) -> None:
    """Renew the files in the root directory that a process sees.

    :param pid: of the first process of the container
    :param made: the name that the container was made with
    :param addresses: of each NIC, 'address/prefix length'
    :raises OSError: with the path
    """
    with _etc(pid, container_id) as found:
        if found is None:
            return
        process, folder = found
        before = {path: _read(process, folder, path)
                  for path in (hosts_file.HOSTS_PATH,
                               hosts_file.HOSTNAME_PATH)}
        changed = hosts_file.renewed(
            before[hosts_file.HOSTS_PATH] or '',
            before[hosts_file.HOSTNAME_PATH] or '',
            made, hostname, [a for nic in addresses for a in nic])
        for path, text in changed.items():
            if before[path] is not None:
                _replace(process, folder, path, text)


@contextlib.contextmanager
def _etc(pid: int, container_id: str
         ) -> Iterator[tuple[server_files.Process, int] | None]:
    """Have /etc of a container; None when it is gone, or is a link."""
    with contextlib.ExitStack() as stack:
        try:
            process = stack.enter_context(server_files.process(pid))
            root = stack.enter_context(process.root())
            # Its number may be another process's by now, one of the host.
            if container_id not in process.groups() or os.path.samestat(
                    os.fstat(root), os.stat('/')):
                yield None
                return
            folder = stack.enter_context(process.folder('etc'))
        except OSError as e:
            LOG.debug('No /etc in container %s: %s', container_id, e)
            yield None
            return
        yield process, folder


def _read(process: server_files.Process, folder: int,
          path: str) -> str | None:
    """Return a file's text; None for what is none that we wrote."""
    try:
        with process.below(folder, os.path.basename(path)) as place, \
                regular_files.opened(place) as file:
            if os.fstat(place).st_size > MAX_SIZE:
                return None
            return file.read(MAX_SIZE).decode(errors='surrogateescape')
    except OSError:
        return None


def _replace(process: server_files.Process, folder: int, path: str,
             text: str) -> None:
    """Put another file in the place of one, with its owner and mode."""
    name = os.path.basename(path)
    new = f'.{name}.nova'
    with process.below(folder, name) as place:
        old = os.fstat(place)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new, dir_fd=folder)
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL
                     | os.O_NOFOLLOW, 0o600, dir_fd=folder)
        with open(fd, 'wb') as file:
            file.write(text.encode(errors='surrogateescape'))
            os.fchown(fd, old.st_uid, old.st_gid)
            os.fchmod(fd, stat.S_IMODE(old.st_mode))
        os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=folder)
        raise

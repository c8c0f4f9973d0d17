# SPDX-License-Identifier: Apache-2.0
"""What a server has written, as overlay2 keeps it: read, and put elsewhere.

See https://docs.kernel.org/filesystems/overlayfs.html: a deleted file is a
character device 0:0, a replaced directory has an attribute. Both survive tar
when it is told of attributes.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import os
import pathlib
import signal
import subprocess
import tempfile
from typing import IO
from typing import Any

from nova_vcloud import exception
from nova_vcloud import idmounts
from nova_vcloud import privsep
from nova_vcloud import userns
from nova_vcloud.virt_docker.rootfs import changed_files
from nova_vcloud.virt_docker.rootfs import received

DRIVER = 'overlay2'
#: Name of the directory of each layer in the engine's store.
LAYER = 'diff'
#: Name of the list of what is in the layer, beside what has changed in it.
KEPT = 'kept'
#: Console logs, as the engine names them.
LOGS = '[0-9a-f]*-json.log*'
#: Bytes of the list of what is in a layer: a million files, say.
MAX_KEPT = changed_files.MAX_BYTES
#: Bytes of the headers that tar writes for a file, beside its name.
_HEADERS = 2048
#: Names, and those of hard links, without the first part; the top is '.'.
_TO_TOP = f's,^{LAYER},.,rSh'
_FROM_TOP = f's,^[.]\\(/\\|$\\),{LAYER}\\1,rSh'
#: Bytes; a file system with less is full.
_ROOM = 1 << 20
#: Of 512 bytes, what tar reads or writes at once; its own 20 take about twice
#: the time.
_RECORD = ['--blocking-factor', '512']
#: What tar exits with when files change while it reads them.
_CHANGED = 1
#: How whatever a tenant has written is mounted on the host.
_ALWAYS = ('nosuid', 'nodev')
# Of which file below a file is a copy is a matter of the host it is on.
_ATTRIBUTES = ['--xattrs', '--xattrs-include=*', '--acls',
               '--xattrs-exclude=trusted.overlay.origin']


Ids = Sequence[Sequence[userns.Range]] | None


def graph(container: dict[str, Any]) -> dict[str, str]:
    """Return the directories of a container's root filesystem.

    :raises MoveFailed: its engine keeps root filesystems in another way
    """
    name = container['GraphDriver']['Name']
    found = container['GraphDriver'].get('Data') or {}
    if name != DRIVER or os.path.basename(found.get('UpperDir', '')) != LAYER:
        raise exception.MoveFailed(
            f'this needs the storage driver {DRIVER}, the engine has {name}; '
            'servers can be moved all the same: set [vcloud_migration] '
            'method = image')
    return dict(found)


def upper(container: dict[str, Any]) -> str:
    """Return the directory of what a container has written.

    :raises MoveFailed: its engine keeps root filesystems in another way
    """
    return graph(container)['UpperDir']


@privsep.disk.entrypoint
def mount(directories: dict[str, str], path: str) -> None:
    """Mount the root filesystem of a container that does not run.

    What a tenant has made of it gives nobody on the host anything: neither
    set-user-ID programs nor devices. A bind of it into a container is the
    same.

    :param directories: of :func:`graph`
    :raises MoveFailed: with mount's words
    """
    # The kernel takes a page of options: names are short, seen from where
    # all layers are.
    top = os.path.dirname(os.path.dirname(directories['UpperDir']))
    names = {key: ':'.join(os.path.relpath(each, top)
                           for each in directories[field].split(':'))
             for key, field in (('lowerdir', 'LowerDir'),
                                ('upperdir', 'UpperDir'),
                                ('workdir', 'WorkDir'))}
    options = ','.join([*_ALWAYS, *(
        f'{key}={value}' for key, value in names.items())])
    _run(['mount', '--types', 'overlay', '--options', options, '--',
          'overlay', path], top)


@privsep.disk.entrypoint
def guard(path: str) -> None:
    """Have a root filesystem mounted as :func:`mount` does it.

    An earlier release did it without. What a container sees of it has options
    of its own.

    :raises MoveFailed: with mount's words
    """
    if os.path.ismount(path):
        _run(['mount', '--options',
              ','.join(('remount', 'bind', *_ALWAYS)), '--', path])


@privsep.disk.entrypoint
def unmount(path: str) -> None:
    """Unmount a root filesystem; one that is not mounted is fine.

    :raises MoveFailed: with umount's words
    """
    if os.path.ismount(path):
        _run(['umount', '--', path])


@privsep.disk.entrypoint
def size(path: str) -> int:
    """Return the bytes that a directory has on disk."""
    done = subprocess.run(
        ['du', '--summarize', '--block-size=1', '--', path],
        capture_output=True, check=False)
    # A file may go while it looks.
    if not done.stdout:
        raise exception.MoveFailed(_words('du', done.stderr))
    return int(done.stdout.split()[0])


@privsep.disk.entrypoint
def packed_size(path: str) -> int:
    """Return bytes that :func:`pack` does not write more than, of a directory.

    :raises MoveFailed: as of :func:`changed_files.lines`
    """
    size = 0
    for line in changed_files.lines(path, '%b'):
        blocks, _space, name = line.partition(b' ')
        size += 512 * int(blocks) + _HEADERS + 2 * len(name)
    return size


@privsep.disk.entrypoint
def needs(path: str) -> tuple[int, int]:
    """Return what a copy of a directory takes: bytes, and inodes.

    What has several names is counted once.

    :raises MoveFailed: as of :func:`changed_files.lines`
    """
    size = entries = 0
    linked: set[bytes] = set()
    for line in changed_files.lines(path, '%y %n %i %b'):
        kind, names, inode, blocks, _path = line.split(b' ', 4)
        if kind != b'd' and names != b'1':
            if inode in linked:
                continue
            linked.add(inode)
        size += 512 * int(blocks)
        entries += 1
    return size, entries


@privsep.disk.entrypoint
def room(path: str) -> tuple[int, int | None]:
    """Return the bytes and inodes that are free where a directory is.

    :returns: None for inodes where they are not counted
    """
    found = os.statvfs(path)
    return (found.f_bavail * found.f_frsize,
            found.f_favail if found.f_files else None)


@privsep.disk.entrypoint
def pack(layer: str, logs: list[str], sink: str, live: bool = False,
         ids: Ids = None) -> None:
    """Write a tar of a layer and of console logs.

    Owners in it are those that the server knows.

    :param layer: its directory
    :param ids: an IdMap, of a server with a user namespace
    :param logs: files, the newest first; one that is absent is left out
    :param sink: path of a file or pipe
    :param live: it may change meanwhile, which :func:`pack_changes` mends
    :raises MoveFailed: with tar's words
    """
    with _seen(layer, ids) as seen:
        _run([*_create(sink), '--directory', seen, '.', *_named(logs)],
             fine=(0, _CHANGED) if live else (0,))


@contextlib.contextmanager
def _seen(layer: str, ids: Ids) -> Iterator[str]:
    """Have a layer as the server sees its owners."""
    try:
        with idmounts.view(
                layer, userns.IdMap(*ids) if ids else None) as seen:
            yield seen
    except OSError as e:
        raise exception.MoveFailed(
            f'the owners of files in {layer}: {e}') from e


def _create(sink: str) -> list[str]:
    return ['tar', '--create', *_RECORD, '--file', sink, '--numeric-owner',
            '--sparse', *_ATTRIBUTES, '--transform', _FROM_TOP]


def _named(logs: list[str]) -> list[str]:
    """Return words for logs, the oldest first: they become one."""
    return [word for path in filter(os.path.exists, reversed(logs))
            for word in ('--directory', os.path.dirname(path),
                         os.path.basename(path))]


@privsep.disk.entrypoint
def look(layer: str, seen: str) -> None:
    """Note what there is in a layer, for :func:`pack_changes`.

    :param seen: path of the file for it
    :raises MoveFailed: as of :func:`changed_files.lines`; or there is too much
    """
    # What processes have mapped changes no time of a file until the next
    # write to it: the kernel sees that one only once the page is clean.
    _run(['sync', '--file-system', '--', layer])
    with open(seen, 'wb') as f:
        f.writelines(line + b'\0' for line in _find(layer))


def _find(layer: str) -> Iterator[bytes]:
    """Yield what there is in a layer, for :func:`changed_files.parse`."""
    return changed_files.bounded(changed_files.lines(layer,
                                                     changed_files.FIELDS))


@privsep.disk.entrypoint
def pack_changes(layer: str, seen: str, since: float, logs: list[str],
                 sink: str, ids: Ids = None) -> None:
    """Write a tar of what has changed in a layer, which is at rest now.

    :param seen: of :func:`look`, before the copy
    :param since: Unix time; what has changed later may not be in the copy
    :param sink: path of a file or pipe
    :param ids: of :func:`pack`
    :raises MoveFailed: with tar's words
    """
    with _seen(layer, ids) as path:
        _pack_changes(path, seen, since, logs, sink)


def _pack_changes(layer: str, seen: str, since: float, logs: list[str],
                  sink: str) -> None:
    with open(seen, 'rb') as f:
        before = changed_files.seen(changed_files.read(f))
    now = changed_files.parse(_find(layer), before, since)
    again = changed_files.again(now)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(seen)) as folder:
        kept, names = os.path.join(folder, KEPT), os.path.join(folder, 'names')
        with open(kept, 'wb') as f:
            f.writelines(changed_files.kept(now, again))
        with open(names, 'wb') as f:
            f.writelines(os.path.join(b'.', path).rstrip(b'/') + b'\0'
                         for path in again)
        # Names of files that a guest has chosen are no options.
        _run([*_create(sink), '--directory', folder, KEPT,
              '--directory', layer, '--no-recursion', '--null',
              '--verbatim-files-from', '--files-from', names, *_named(logs)])


@privsep.disk.entrypoint
def copy(layer: str, target: str, live: bool = False,
         ids: Ids = None) -> None:
    """Copy a layer to an empty directory, holes as holes.

    Owners in the copy are those that the server knows.

    :param live: it may change meanwhile, which :func:`apply` mends
    :param ids: of :func:`pack`
    :raises MoveFailed: with tar's words
    """
    failed = None
    with _seen(layer, ids) as seen, tempfile.TemporaryFile() as said:
        reader = subprocess.Popen(
            [*_create('-'), '--directory', seen, '.'],
            stdout=subprocess.PIPE, stderr=said,
            env={**os.environ, 'LC_ALL': 'C.UTF-8'})
        with reader.stdout as pipe:  # type: ignore[union-attr]
            try:
                _extract(pipe, target)
            except exception.MoveFailed as e:
                failed = e
        # Of two that fail one ends because the other has ended.
        if reader.wait() not in (
                0, -signal.SIGPIPE, *((_CHANGED,) if live else ())):
            said.seek(0)
            raise exception.MoveFailed(_words('tar', said.read())) from failed
    if failed:
        raise failed


@privsep.disk.entrypoint
def apply(changes: str, target: str) -> None:
    """Bring a copy to what has changed since it was made.

    :param changes: of :func:`pack_changes`; it is removed
    :raises MoveFailed: with tar's words
    """
    with open(changes, 'rb') as source:
        changed_files.prune(target, _kept(source))
        _extract(source, target)
    os.unlink(changes)


@privsep.disk.entrypoint
def unpack(sources: list[str], layer: str, sink: str, most_log: int,
           ids: Ids = None) -> None:
    """Put what was packed into a container that has not run.

    Archives are another host's: nothing in them has an effect outside of the
    layer and the log.

    :param sources: files of a spool: a layer, and what has changed in it
    :param layer: directory of its layer
    :param sink: path of its console log; rotated ones become part of it
    :param most_log: bytes of the log; what is beyond is left out
    :param ids: of :func:`pack`; an owner that is none of a server's is
        refused
    :raises MoveFailed: with tar's words
    """
    with _namespace(ids) as namespace:
        for number, path in enumerate(sources):
            with received.opened(path) as source:
                if number:
                    changed_files.prune(layer, _kept(source))
                _extract(source, layer, namespace)
    with received.opened(sources[-1]) as source:
        _write_log(source, sink, most_log)


def _kept(source: IO[bytes]) -> bytes:
    kept = b''.join(received.members(source, KEPT, MAX_KEPT + 1,
                                     '--occurrence=1'))
    if not 0 < len(kept) <= MAX_KEPT:
        raise exception.MoveFailed(
            f'tar: no list of what is in the layer, but {len(kept)} bytes')
    return kept


@contextlib.contextmanager
def _namespace(ids: Ids) -> Iterator[int | None]:
    """Have the user namespace in which a server's owners are the host's."""
    if not ids:
        yield None
        return
    try:
        with idmounts.namespace(userns.IdMap(*ids).turned()) as found:
            yield found
    except OSError as e:
        raise exception.MoveFailed(f'the owners of files: {e}') from e


def _extract(source: IO[bytes], layer: str,
             namespace: int | None = None) -> None:
    """Unpack a layer. Owners of its files are written here and nowhere else.

    :param namespace: of :func:`_namespace`
    """
    try:
        received.extract(source, layer, [
            *_RECORD, '--same-owner', '--same-permissions', *_ATTRIBUTES,
            '--transform', _TO_TOP], LAYER, namespace=namespace)
    except exception.MoveFailed as e:
        room = os.statvfs(layer)
        # tar itself has only a short write to tell of.
        if room.f_bavail * room.f_frsize < _ROOM:
            raise exception.MoveFailed(
                'what the server has written does not fit on the root disk '
                f'that it would have here: {e}') from e
        raise


def _write_log(source: IO[bytes], sink: str, most: int) -> None:
    chunks = received.members(source, LOGS, most)
    first = next(chunks, b'')
    if first:
        with open(sink, 'wb') as f:
            os.fchmod(f.fileno(), 0o640)
            f.write(first)
            f.writelines(chunks)


def logs(container: dict[str, Any], files: int) -> list[str]:
    """Return the paths that a container's console logs may have."""
    path = log(container)
    return [path, *(f'{path}.{number}' for number in range(1, files))]


def log(container: dict[str, Any]) -> str:
    """Return the path of a container's console log.

    The engine tells it only of one that has run.
    """
    root = pathlib.Path(upper(container)).parents[2]
    name = container['Id']
    return str(root / 'containers' / name / f'{name}-json.log')


def _run(words: list[str], folder: str | None = None,
         fine: Iterable[int] = (0,)) -> None:
    done = subprocess.run(
        words, capture_output=True, check=False, cwd=folder,
        env={**os.environ, 'LC_ALL': 'C.UTF-8'})
    if done.returncode not in fine:
        raise exception.MoveFailed(_words(words[0], done.stderr))


def _words(program: str, said: bytes) -> str:
    lines = said.decode(errors='replace').strip().splitlines()
    return f'{program}: {lines[0] if lines else "no reason given"}'

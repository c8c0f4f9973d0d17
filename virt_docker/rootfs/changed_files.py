# SPDX-License-Identifier: Apache-2.0
"""Which files of a directory must be sent again after it was copied.

By status change time (``st_ctim``), which no process can set. What else can
happen to a file leaves its mark there too: a name more or fewer, another
owner or attribute. Only the way to it may change unseen.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Set
import hashlib
import io
import os
import stat
import subprocess
from typing import IO
from typing import NamedTuple
from typing import cast

from nova_vcloud import exception

#: For :func:`lines`: type, inode, size, status change.
FIELDS = '%y %i %s %C@'
#: Bytes of a path below the top. tar unpacks ``./PATH``, of which the kernel
#: takes 4096 with the NUL (PATH_MAX).
MAX_PATH = 4096 - len('./') - 1
#: What is held in memory of a directory: as many files as an image may have,
#: of some 300 bytes each, and their names.
MAX_FILES = 1_000_000
MAX_BYTES = 256 << 20
_CHUNK = 1 << 20


class Entry(NamedTuple):
    """A file as a look at the directory found it.

    :ivar kind: as in ``find -type``
    :ivar changed: whether it may not be in the copy as it is
    """

    kind: bytes
    inode: int
    changed: bool


#: By path; the top is called ``b''``.
Listing = dict[bytes, Entry]


def lines(top: str, fields: str) -> Iterator[bytes]:
    """Yield what ``find`` says of each file of a directory.

    A guest works in it, and may nest directories as deep as it likes: each
    line has a whole path, and all of them would be as long as its square.

    :param fields: of ``find -printf``, with a space between them; the path
        below the top follows
    :raises MoveFailed: there is no such directory, or a path in it that no
        archive is unpacked to
    """
    with subprocess.Popen(
            ['find', top, '-printf', f'{fields} %P\\0'],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as find:
        try:
            yield from _lines(cast('IO[bytes]', find.stdout),
                              len(fields.split()))
        except BaseException:
            find.kill()
            raise
    # A file may go while it looks; the next look knows.
    if find.returncode and not os.path.isdir(top):
        raise exception.MoveFailed(f'find: no directory {top}')


def _lines(said: IO[bytes], fields: int) -> Iterator[bytes]:
    rest = b''
    while chunk := said.read(_CHUNK):
        *whole, rest = (rest + chunk).split(b'\0')
        for line in whole:
            _check(line, fields)
            yield line
        _check(rest, fields)


def _check(line: bytes, fields: int) -> None:
    path = line.split(b' ', fields)[fields:]
    if path and len(path[0]) > MAX_PATH:
        raise exception.MoveFailed(
            f'a path of the server has more than {MAX_PATH} bytes, and no '
            'archive is unpacked to it; shorten it: '
            f'{path[0][:60].decode(errors="replace")}...')


def bounded(found: Iterable[bytes]) -> Iterator[bytes]:
    """Pass on what :func:`lines` yields as long as it fits into memory.

    :raises MoveFailed: there are too many files, or their names are too long
        together
    """
    size = 0
    for files, line in enumerate(found, 1):
        size += len(line) + 1
        if files > MAX_FILES:
            raise exception.MoveFailed(
                f'the server has more than {MAX_FILES} files that its image '
                'does not have; remove some')
        if size > MAX_BYTES:
            raise exception.MoveFailed(
                'the names of the files of the server take more than '
                f'{MAX_BYTES >> 20} MiB; remove some')
        yield line


def read(file: IO[bytes]) -> Iterator[bytes]:
    """Yield what was written with a NUL after each."""
    rest = b''
    while chunk := file.read(_CHUNK):
        *whole, rest = (rest + chunk).split(b'\0')
        yield from whole


def seen(found: Iterable[bytes]) -> Set[bytes]:
    """Return what is needed of a look for the next: a digest of each line."""
    return {_digest(line) for line in found}


def _digest(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=16).digest()


def parse(found: Iterable[bytes], before: Set[bytes],
          since: float) -> Listing:
    """Return what there is.

    :param found: of :func:`lines`, with :data:`FIELDS`
    :param before: of :func:`seen`, when the copy began
    :param since: Unix time; what has changed later may not be in the copy
    """
    listing = {}
    for line in found:
        kind, inode, _size, changed, path = line.split(b' ', 4)
        listing[path] = Entry(kind, int(inode), (
            float(changed) >= since or _digest(line) not in before))
    return listing


def again(now: Listing) -> list[bytes]:
    """Return the paths that must be sent again, the top first."""
    changed = {path for path, entry in now.items() if entry.changed}
    moved = _maybe_moved(changed, now)
    below = {path for path in now if _lies_below(path, moved)} \
        if moved else set()
    # A file that is replaced changes the times of the directory it is in.
    # All names of a file go together, or it would become two.
    inodes = {now[path].inode for path in below if now[path].kind != b'd'}
    linked = {path for path, entry in now.items() if entry.inode in inodes}
    again = changed | below | linked
    return sorted({b''} | again | set(map(_parent, again)))


def _maybe_moved(changed: set[bytes], now: Listing) -> set[bytes]:
    """Return the directories that may have had another name meanwhile.

    A directory that moves changes, and so do those it is in before and
    after; what lies in it does not.
    """
    return {path for path in changed if path and now[path].kind == b'd'
            and _parent(path) in changed}


def _lies_below(path: bytes, tops: set[bytes]) -> bool:
    while path:
        path = _parent(path)
        if path in tops:
            return True
    return False


def _parent(path: bytes) -> bytes:
    return path.rpartition(b'/')[0]


def kept(now: Listing, sent: Iterable[bytes]) -> Iterator[bytes]:
    """Yield for :func:`prune` what there is: types and paths.

    :param sent: of them, what is sent again
    """
    sent = frozenset(sent)
    for path, entry in now.items():
        kind = entry.kind.upper() if path in sent else entry.kind
        yield kind + path + b'\0'


def prune(top: str, kept: bytes) -> None:
    """Have in a directory only what is listed, ready for what is sent again.

    :param top: nobody else works in it
    :param kept: of :func:`kept`
    :raises MoveFailed: also when there is too much of it
    """
    kinds = {line[1:]: line[:1] for line in bounded(read(io.BytesIO(kept)))}
    _prune(os.fsencode(top), kinds)


def _prune(top: bytes, kinds: dict[bytes, bytes]) -> None:
    # Not by recursion: a guest may have nested as many as it likes.
    folders, gone = [b''], []
    while folders:
        below = folders.pop()
        here = os.path.join(top, below)
        if kinds.get(below) == b'D':
            _strip(here)
        with os.scandir(here) as entries:
            for entry in list(entries):
                path = os.path.join(below, entry.name)
                folder = entry.is_dir(follow_symlinks=False)
                if kinds.get(path, b'').lower() == _kind(entry):
                    if folder:
                        folders.append(path)
                elif folder:
                    gone.append(entry.path)
                else:
                    os.unlink(entry.path)
    done = subprocess.run(
        ['xargs', '--null', '--no-run-if-empty', 'rm', '-rf', '--'],
        input=b'\0'.join(gone), capture_output=True, check=False)
    if done.returncode:
        raise exception.MoveFailed(
            done.stderr.decode(errors='replace').strip()[-500:])


def _strip(path: bytes) -> None:
    """Remove the attributes of a directory; unpacking only adds some."""
    for name in os.listxattr(path, follow_symlinks=False):
        if not name.startswith('security.selinux'):
            os.removexattr(path, name, follow_symlinks=False)


_KINDS = {stat.S_IFDIR: b'd', stat.S_IFREG: b'f', stat.S_IFLNK: b'l',
          stat.S_IFCHR: b'c', stat.S_IFBLK: b'b', stat.S_IFIFO: b'p',
          stat.S_IFSOCK: b's'}


def _kind(entry: os.DirEntry[bytes]) -> bytes:
    return _KINDS[stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)]

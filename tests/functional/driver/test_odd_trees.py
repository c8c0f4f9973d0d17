# SPDX-License-Identifier: Apache-2.0
"""What a guest may make of its files arrives as it is, or does not leave.

Trees are generated; the number of one that fails is in the test's name.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
import contextlib
import hashlib
import os
import pathlib
import random
import socket
import stat
import struct
import subprocess
import threading
import time

import pytest

from nova_vcloud import exception
from nova_vcloud import userns
from nova_vcloud.virt_docker.rootfs import overlay
from nova_vcloud.virt_docker.rootfs import precopy

#: Seconds and nanoseconds since 1970; ext4 knows 1901 to 2446.
TIMES = (0, 1, 999_999_999, 1_234_567_890_123_456_789,
         -2_000_000_000 * 10**9, -1, 15_000_000_000 * 10**9 + 7)
NAMES = ('plain', 'ü' * 127 + 'x', 'n' * 255, 'new\nline', ' ', '-dash',
         '--checkpoint-action=exec=x', 'back\\slash', '*', 'a\x7f\x01b',
         'wh', '.wh.plain', '.wh..wh..opq', './'.strip('/') + '.', '~', '"')
RAW = (b'\xff\xfe', b'\x80' * 255)
#: posix_acl_xattr(5): version 2; user::rw-, user:1234:r--, group::r--,
#: mask::r--, other::---
ACL = struct.pack('<I', 2) + b''.join(
    struct.pack('<HHI', *entry) for entry in (
        (0x01, 6, 0xffffffff), (0x02, 4, 1234), (0x04, 4, 0xffffffff),
        (0x10, 4, 0xffffffff), (0x20, 0, 0xffffffff)))
#: linux/capability.h: VFS_CAP_REVISION_2, effective, CAP_NET_RAW
CAPABILITY = struct.pack('<IIIII', 0x02000001, 1 << 13, 0, 0, 0)
ATTRIBUTES = {
    'user.colour': b'blue', 'user.empty': b'', 'user.nul': b'a\0b\n',
    'user.overlay.opaque': b'y', 'trusted.overlay.opaque': b'y',
    'trusted.overlay.redirect': b'/else', 'trusted.mark': b'\xff',
    'security.capability': CAPABILITY, 'system.posix_acl_access': ACL,
    'user.' + 'n' * 200: b'v' * 500}
OF_DIRECTORIES = ('user.colour', 'trusted.overlay.opaque', 'trusted.mark',
                  'user.overlay.opaque', 'system.posix_acl_access',
                  'system.posix_acl_default')
#: Of servers that have user namespaces.
IDS = userns.IdMap(((0, 100000, 65536),), ((0, 200000, 65536),))
#: Not told to others: of which file below a copy is made.
PRIVATE = 'trusted.overlay.origin'


class Tree:
    """A directory that is changed at random.

    :param seed: two of one are the same
    """

    def __init__(self, top: pathlib.Path, seed: int) -> None:
        self._top = os.fsencode(top)
        self._random = random.Random(seed)
        self._count = 0

    def _folders(self) -> list[bytes]:
        return [path for path, _d, _f in os.walk(self._top)
                if len(path) < 3000]

    def _files(self) -> list[bytes]:
        return [os.path.join(path, name)
                for path, _d, files in os.walk(self._top) for name in files]

    def _new(self) -> bytes:
        folder = self._random.choice(self._folders())
        name = self._random.choice([*map(os.fsencode, NAMES), *RAW])
        path = os.path.join(folder, name)
        if os.path.lexists(path) or name in (b'.', b'..'):
            self._count += 1
            path = os.path.join(folder, b'other-%d' % self._count)
        return path

    def change(self, times: int) -> None:
        """Make, change, move and remove so many files and directories."""
        does = (self._file, self._file, self._sparse, self._folder,
                self._special, self._symlink, self._link, self._attributes,
                self._owner, self._time, self._replace, self._rename,
                self._remove, self._grow, self._truncate)
        for _ in range(times):
            # Two of which one has made the other impossible.
            with contextlib.suppress(FileNotFoundError, IsADirectoryError,
                                     NotADirectoryError, FileExistsError,
                                     PermissionError):
                self._random.choice(does)()

    def _file(self) -> None:
        with open(self._new(), 'wb') as f:
            f.write(self._random.randbytes(self._random.choice(
                (0, 1, 511, 512, 513, 4096, 70_000))))

    def _sparse(self) -> None:
        with open(self._new(), 'wb') as f:
            for _ in range(self._random.randrange(4)):
                f.seek(self._random.randrange(1 << 24) & ~0xfff)
                f.write(b'data' * 1024)
            f.truncate(self._random.randrange(1 << 24, 1 << 30))

    def _folder(self) -> None:
        os.makedirs(self._new())

    def _special(self) -> None:
        kind, device = self._random.choice((
            (stat.S_IFIFO, 0), (stat.S_IFCHR, 0), (stat.S_IFCHR, 0),
            (stat.S_IFCHR, os.makedev(1, 3)),
            (stat.S_IFBLK, os.makedev(7, 200))))
        os.mknod(self._new(), kind | 0o640, device)

    def _symlink(self) -> None:
        os.symlink(self._random.choice((
            b'/etc/passwd', b'../..', b'x' * 4000, b'\xff', b'.')),
            self._new())

    def _link(self) -> None:
        if files := self._files():
            os.link(self._random.choice(files), self._new(),
                    follow_symlinks=False)

    def _any(self) -> bytes:
        return self._random.choice([*self._files(), *self._folders()])

    def _attributes(self) -> None:
        path = self._any()
        if os.path.islink(path):
            os.setxattr(path, 'trusted.mark', b'7', follow_symlinks=False)
        elif os.path.isdir(path):
            name = self._random.choice(OF_DIRECTORIES)
            os.setxattr(path, name, ATTRIBUTES.get(name, ACL))
        elif os.path.isfile(path):
            name = self._random.choice(list(ATTRIBUTES))
            os.setxattr(path, name, ATTRIBUTES[name])

    def _owner(self) -> None:
        path = self._any()
        os.lchown(path, self._random.choice((0, 1, 1234, 65535)),
                  self._random.choice((0, 5, 4321)))
        if not os.path.islink(path):
            os.chmod(path, self._random.choice(
                (0, 0o4755, 0o2770, 0o1777, 0o640, 0o7777)))

    def _time(self) -> None:
        moment = self._random.choice(TIMES)
        os.utime(self._any(), ns=(moment, moment), follow_symlinks=False)

    def _replace(self) -> None:
        """Have a directory or a link in a file's place."""
        if files := self._files():
            path = self._random.choice(files)
            os.unlink(path)
            if self._random.randrange(2):
                os.mkdir(path)
            else:
                os.symlink(b'/', path)

    def _rename(self) -> None:
        path = self._any()
        if path != self._top:
            with contextlib.suppress(OSError):  # into itself
                os.rename(path, self._new())

    def _remove(self) -> None:
        if files := self._files():
            os.unlink(self._random.choice(files))

    def _grow(self) -> None:
        if files := self._files():
            path = self._random.choice(files)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, 'ab') as f:
                    f.write(b'more' * 2000)

    def _truncate(self) -> None:
        if files := self._files():
            path = self._random.choice(files)
            if os.path.isfile(path) and not os.path.islink(path):
                os.truncate(path, self._random.randrange(1000))


def listing(top: pathlib.Path) -> dict[bytes, tuple]:
    """Return all of a tree that must be the same where it arrives."""
    start, names = os.fsencode(top), collections.defaultdict(list)
    paths = [path for folder, folders, files in os.walk(start)
             for path in (folder, *(os.path.join(folder, name)
                                    for name in files),
                          *(os.path.join(folder, name) for name in folders
                            if os.path.islink(os.path.join(folder, name))))]
    for path in sorted(paths):
        names[os.lstat(path).st_ino].append(os.path.relpath(path, start))
    return {os.path.relpath(path, start): facts(path, names)
            for path in paths}


def facts(path: bytes, names: dict[int, list[bytes]]) -> tuple:
    """Return all of a file that must be the same where it arrives.

    :param names: of each inode
    """
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    # tar knows of several names of files and links alone.
    one = kind in (stat.S_IFREG, stat.S_IFLNK)
    return (oct(status.st_mode), status.st_uid, status.st_gid,
            names[status.st_ino] if one else None, status.st_rdev,
            status.st_mtime_ns, attributes(path),
            os.readlink(path) if kind == stat.S_IFLNK else
            content(path) if kind == stat.S_IFREG else None)


def attributes(path: bytes) -> dict[str, bytes]:
    """Return the attributes of a file that go along."""
    return {name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
            if name != PRIVATE}


def content(path: bytes) -> tuple[int, int, str]:
    """Return the size of a file, its blocks of data, and a digest of these.
    """
    with open(path, 'rb') as f:
        size, blocks, offset = os.fstat(f.fileno()).st_size, 0, 0
        digest = hashlib.sha256()
        while offset < size:
            try:
                start = os.lseek(f.fileno(), offset, os.SEEK_DATA)
            except OSError:
                break
            offset = os.lseek(f.fileno(), start, os.SEEK_HOLE)
            data = os.pread(f.fileno(), offset - start, start)
            # Data that is nothing but zeros may be a hole, and the reverse.
            for at in range(0, len(data), 4096):
                if data[at:at + 4096].strip(b'\0'):
                    blocks += 1
                    digest.update(b'%d ' % (start + at))
                    digest.update(data[at:at + 4096])
    return size, blocks, digest.hexdigest()


def differences(places) -> dict[bytes, tuple]:
    """Return what is not where a tree has arrived as it was."""
    before, after = listing(places[0]), listing(places[2])
    wrong = sorted(name for name in before.keys() | after.keys()
                   if before.get(name) != after.get(name))
    return {name: [pair for pair in zip(
        before.get(name) or [None] * 8, after.get(name) or [None] * 8,
        strict=True) if pair[0] != pair[1]] for name in wrong[:3]}


@pytest.fixture
def places(tmp_path) -> Iterator[tuple[pathlib.Path, ...]]:
    """Return a layer, and two where it goes: one tries it, one is it."""
    found = tuple(tmp_path / name / overlay.LAYER
                  for name in ('source', 'trial', 'target'))
    for path in found:
        path.mkdir(parents=True)
    yield found
    subprocess.run(['rm', '-rf', *(path.parent for path in found)],
                   check=True)


def unpack(folder: pathlib.Path, sources: list[str],
           ids: userns.IdMap | None = None) -> None:
    overlay.unpack(sources, str(folder), str(folder.parent / 'log'), 1 << 20,
                   ids)


def move(places, tmp_path, meanwhile, after) -> bool:
    """Send a tree that is changed meanwhile, and once more after that.

    :returns: whether it has gone; else it was refused before the last change
    """
    source, trial, target = places
    first, rest, seen = (str(tmp_path / name)
                         for name in ('layer.tar', 'changes.tar', 'seen'))
    since = time.time() - precopy.SLACK
    try:
        overlay.look(str(source), seen)
        with meanwhile:
            overlay.pack(str(source), [], first, live=True)
        unpack(trial, [first])
    except exception.MoveFailed:
        return False
    after()
    overlay.pack_changes(str(source), seen, since, [], rest)
    unpack(target, [first, rest])
    return True


@contextlib.contextmanager
def worked_on(tree: Tree) -> Iterator[None]:
    """Have a tree changed all the time, in another thread."""
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            tree.change(1)
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize('seed', range(12))
def test_a_tree_arrives_as_it_is(places, tmp_path, seed):
    """While nobody changes it; and what was changed after it was sent."""
    tree = Tree(places[0], seed)
    tree.change(200)
    assert move(places, tmp_path, contextlib.nullcontext(),
                lambda: tree.change(60))
    wrong = differences(places)
    assert not wrong, wrong


@pytest.mark.parametrize('seed', range(100, 112))
def test_a_tree_that_changes_while_it_is_sent(places, tmp_path, seed):
    """It may be refused, while the server runs; else it arrives as it is."""
    tree = Tree(places[0], seed)
    tree.change(200)
    if move(places, tmp_path, worked_on(tree), lambda: tree.change(20)):
        wrong = differences(places)
        assert not wrong, wrong


@pytest.mark.parametrize('seed', range(200, 204))
def test_a_tree_at_rest(places, tmp_path, seed):
    """Of a server that is stopped all goes at once."""
    tree = Tree(places[0], seed)
    tree.change(300)
    archive = str(tmp_path / 'layer.tar')
    overlay.pack(str(places[0]), [], archive)
    unpack(places[2], [archive])
    wrong = differences(places)
    assert not wrong, wrong


@pytest.mark.parametrize('seed', range(300, 304))
def test_a_tree_of_a_user_namespace(places, tmp_path, seed):
    """It goes to a host where servers have one, and comes back."""
    tree = Tree(places[0], seed)
    tree.change(300)
    there, back = (str(tmp_path / name) for name in ('there', 'back'))
    overlay.pack(str(places[0]), [], there)
    os.chown(places[1], *IDS.root)  # as the engine makes it
    unpack(places[1], [there], IDS)
    owners = {os.lstat(path).st_uid for path, _d, _f in os.walk(places[1])}
    assert min(owners) >= IDS.root[0]
    overlay.pack(str(places[1]), [], back, ids=IDS)
    unpack(places[2], [back])
    wrong = differences(places)
    assert not wrong, wrong


def test_a_hundred_thousand_files_in_one_directory(places, tmp_path):
    source = places[0]
    many = source / 'many'
    many.mkdir()
    for number in range(100_000):
        os.mknod(many / f'{number}')

    def after() -> None:
        for number in range(0, 100_000, 10):
            os.unlink(many / f'{number}')
    assert move(places, tmp_path, contextlib.nullcontext(), after)
    assert sorted(os.listdir(places[2] / 'many')) == sorted(os.listdir(many))


def deep(top: pathlib.Path, depth: int, name: str) -> None:
    """Nest directories, further than a path can name."""
    here = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


@pytest.mark.parametrize(('depth', 'name', 'goes'), [
    (2000, 'd', True), (15, 'n' * 255, True), (16, 'n' * 255, False),
    (4000, 'd', False)])
def test_a_deep_tree_goes_or_is_refused_before(places, tmp_path, depth, name,
                                               goes):
    deep(places[0], depth, name)
    assert move(places, tmp_path, contextlib.nullcontext(),
                lambda: None) is goes


@pytest.mark.parametrize(('name', 'size'), [
    ('user.large', 3500), ('trusted.large', 3500), ('user.' + 'n' * 250, 1)])
def test_an_attribute_at_the_limit(places, tmp_path, name, size):
    (places[0] / 'file').write_text('text')
    os.setxattr(places[0] / 'file', name, b'v' * size)
    assert move(places, tmp_path, contextlib.nullcontext(), lambda: None)
    wrong = differences(places)
    assert not wrong, wrong


def test_a_socket_is_left_out_and_nothing_else(places, tmp_path):
    """Of a process that is no more: who makes it anew finds its place free.
    """
    def bind(name: str) -> None:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(places[0] / name))
    bind('early')
    (places[0] / 'file').write_text('text')

    def after() -> None:
        bind('late')
        (places[0] / 'more').write_text('text')
    assert move(places, tmp_path, contextlib.nullcontext(), after)
    assert sorted(os.listdir(places[2])) == ['file', 'more']

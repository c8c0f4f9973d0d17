# SPDX-License-Identifier: Apache-2.0
"""Writes what overlay2 keeps of a container as a layer of an image.

A layer is a tar in which a file called ``.wh.NAME`` stands for one that is
deleted and ``.wh..wh..opq`` for a directory that replaces another (OCI image
specification 1.0, layer.md); overlay2 has a character device 0:0 and an
attribute (kernel, filesystems/overlayfs.rst).

The directory must be at rest. Memory grows with the number of its
directories and of its hard links only.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import os
import stat
import tarfile
from typing import IO

from nova_vcloud.exception import InvalidImageArchive

WHITEOUT = '.wh.'
OPAQUE = '.wh..wh..opq'
#: Bytes of a path: an engine makes ``/var/lib/docker/overlay2/.../diff/PATH``
#: of it, and the kernel takes 4096 with the NUL (PATH_MAX).
MAX_PATH = 3500

_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1 << 20
_END = bytes(2 * _BLOCK)
_XATTR = 'SCHILY.xattr.'  # as Go's archive/tar has it
_KEPT_XATTRS = ('security.capability', 'user.', 'system.posix_acl_')
#: What names the place of a file in the layers below: of no use elsewhere.
_REDIRECTS = ('trusted.overlay.redirect', 'trusted.overlay.metacopy')


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a directory makes as a layer.

    :ivar tar: bytes of the tar
    :ivar files: bytes that its files say they have, holes and all
    :ivar redirected: it makes sense only on top of the layers it has here
    """

    tar: int
    files: int
    redirected: bool


def measure(top: str) -> Sizes:
    """Tell how large a layer will be, without reading a file.

    :raises InvalidImageArchive: no layer can hold what is there
    """
    tar, files, redirected = len(_END), 0, False
    for info, path in _members(top):
        tar += len(_header(info)) + info.size + -info.size % _BLOCK
        files += info.size
        if path and not redirected:
            redirected = bool({*_REDIRECTS}.intersection(
                os.listxattr(path, follow_symlinks=False)))
    return Sizes(tar, files, redirected)


def write(top: str, sink: IO[bytes]) -> None:
    """Write the layer; it has the size that :func:`measure` has told.

    :raises InvalidImageArchive: no layer can hold what is there
    """
    for info, path in _members(top):
        sink.write(_header(info))
        if info.size and path:
            _write_data(path, info.size, sink)
    sink.write(_END)


def _write_data(path: str, size: int, sink: IO[bytes]) -> None:
    with open(path, 'rb', buffering=0) as f:
        left = size
        while left:
            chunk = f.read(min(left, _CHUNK))
            if not chunk:
                raise InvalidImageArchive(f'{path} became shorter')
            left -= len(chunk)
            sink.write(chunk)
    sink.write(bytes(-size % _BLOCK))


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, 'utf-8', 'surrogateescape')


def _members(top: str) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """Yield what goes into the tar, and where it is; '' for a mark."""
    names: dict[tuple[int, int], str] = {}  # of files with several
    for name, path in _walk(top):
        found = os.lstat(path)
        if stat.S_ISSOCK(found.st_mode):
            continue  # of a process; tar has no word for it
        if _is_whiteout(found):
            yield _mark(os.path.join(os.path.dirname(name), WHITEOUT
                                     + os.path.basename(name)), found), ''
            continue
        if os.path.basename(name).startswith(WHITEOUT):
            raise InvalidImageArchive(
                f'the file {_shown(name)} has a name that begins with '
                f'"{WHITEOUT}", which stands for a deleted file in an image')
        info = _info(name, path, found)
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            first = names.setdefault((found.st_dev, found.st_ino), name)
            if first != name:
                info.type, info.linkname, info.size = (
                    tarfile.LNKTYPE, first, 0)
        yield info, path
        if info.isdir() and _xattr(path, 'trusted.overlay.opaque') == b'y':
            yield _mark(os.path.join(name, OPAQUE), found), ''


def _walk(top: str) -> Iterator[tuple[str, str]]:
    """Yield all below a directory, each directory before what is in it."""
    waiting = ['']
    while waiting:
        folder = waiting.pop()
        # The path of the folder is short enough: it was looked at here.
        for entry in sorted(os.listdir(os.path.join(top, folder))):
            name = os.path.join(folder, entry)
            if len(os.fsencode(name)) > MAX_PATH:
                raise InvalidImageArchive(
                    f'the path of a file in it has more than {MAX_PATH} '
                    f'bytes: {_shown(name)}...')
            path = os.path.join(top, name)
            yield name, path
            # In this order: a link of a server may lead anywhere.
            if not os.path.islink(path) and os.path.isdir(path):
                waiting.append(name)


def _shown(name: str) -> str:
    return ascii(name[:100])


def _is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _mark(name: str, found: os.stat_result) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = 0o600, int(found.st_mtime)
    return info


def _info(name: str, path: str, found: os.stat_result) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode = stat.S_IMODE(found.st_mode)
    info.uid, info.gid = found.st_uid, found.st_gid
    info.mtime = int(found.st_mtime)
    info.type = _TYPES[stat.S_IFMT(found.st_mode)]
    if info.isreg():
        info.size = found.st_size
    elif info.issym():
        info.linkname = os.readlink(path)
    elif info.isdev():
        info.devmajor = os.major(found.st_rdev)
        info.devminor = os.minor(found.st_rdev)
    info.pax_headers = _attributes(path)
    return info


_TYPES = {stat.S_IFREG: tarfile.REGTYPE, stat.S_IFDIR: tarfile.DIRTYPE,
          stat.S_IFLNK: tarfile.SYMTYPE, stat.S_IFCHR: tarfile.CHRTYPE,
          stat.S_IFBLK: tarfile.BLKTYPE, stat.S_IFIFO: tarfile.FIFOTYPE}


def _attributes(path: str) -> dict[str, str]:
    return {f'{_XATTR}{name}': os.fsdecode(_xattr(path, name))
            for name in os.listxattr(path, follow_symlinks=False)
            if name.startswith(_KEPT_XATTRS) and name.isascii()
            and name.isprintable() and '=' not in name}


def _xattr(path: str, name: str) -> bytes:
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError:  # it has none of that name
        return b''

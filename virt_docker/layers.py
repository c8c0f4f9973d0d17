# SPDX-License-Identifier: Apache-2.0
"""What a server has written, as overlay2 keeps it: read, and put elsewhere.

See https://docs.kernel.org/filesystems/overlayfs.html: a deleted file is a
character device 0:0, a replaced directory has an attribute. Both survive tar
when it is told of attributes.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
from typing import Any

from nova_vcloud import exception
from nova_vcloud import privsep

DRIVER = 'overlay2'
#: Name of the directory of each layer in the engine's store.
LAYER = 'diff'
# Of which file below a file is a copy is a matter of the host it is on.
_ATTRIBUTES = ['--xattrs', '--xattrs-include=*', '--acls',
               '--xattrs-exclude=trusted.overlay.origin']


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
    options = ','.join(f'{key}={value}' for key, value in names.items())
    _run(['mount', '--types', 'overlay', '--options', options, 'overlay',
          path], top)


@privsep.disk.entrypoint
def unmount(path: str) -> None:
    """Unmount a root filesystem; one that is not mounted is fine.

    :raises MoveFailed: with umount's words
    """
    if os.path.ismount(path):
        _run(['umount', path])


@privsep.disk.entrypoint
def size(path: str) -> int:
    """Return the bytes that a directory has on disk."""
    done = _run(['du', '--summarize', '--block-size=1', path])
    return int(done.split()[0])


@privsep.disk.entrypoint
def pack(layer: str, logs: list[str], sink: str) -> None:
    """Write a tar of a layer and of console logs.

    :param layer: its directory
    :param logs: files; one that is absent is left out
    :param sink: path of a file or pipe
    :raises MoveFailed: with tar's words
    """
    words = ['tar', '--create', '--file', sink, '--numeric-owner', '--sparse',
             *_ATTRIBUTES, '--directory', os.path.dirname(layer), LAYER]
    for path in filter(os.path.exists, logs):
        words += ['--directory', os.path.dirname(path),
                  os.path.basename(path)]
    _run(words)


@privsep.disk.entrypoint
def unpack(source: str, layer: str, sink: str) -> None:
    """Put what :func:`pack` wrote into a container that has not run.

    :param layer: directory of its layer
    :param sink: path of its console log; rotated ones become part of it
    :raises MoveFailed: with tar's words
    """
    _run(['tar', '--extract', '--file', source, '--directory', layer,
          '--numeric-owner', '--same-owner', '--same-permissions',
          *_ATTRIBUTES, '--strip-components=1', LAYER])
    names = _run(['tar', '--list', '--file', source, '--exclude',
                  LAYER]).split()
    if names:
        with open(sink, 'wb') as f:
            os.fchmod(f.fileno(), 0o640)
            for name in sorted(names, key=_age, reverse=True):
                subprocess.run(['tar', '--extract', '--to-stdout', '--file',
                                source, name], stdout=f, check=True)


def _age(name: str) -> int:
    """Return the number of a rotated log, 0 for the one in use."""
    last = name.rpartition('.')[2]
    return int(last) if last.isdigit() else 0


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


def _run(words: list[str], folder: str | None = None) -> str:
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, 'LC_ALL': 'C.UTF-8'})
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ['no reason given']
        raise exception.MoveFailed(f'{words[0]}: {lines[-1]}')
    return done.stdout

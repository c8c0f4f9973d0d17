# SPDX-License-Identifier: Apache-2.0
"""The machine's second disk: this tree and its libraries, where they are.

Inside, both have the paths they have outside, so that an editable install,
scripts and error messages are as true there as here.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

from packaging import requirements

#: What the tests inside import; what these require comes with them.
ROOTS = ('nova-vcloud', 'pytest', 'pytest-timeout', 'hypothesis')
DEBIAN_PYTHON = (3, 11)  # Debian 12's
ROOM = 1.25  # of the disk to its files, for what a file system needs


class PayloadError(Exception):
    """The disk cannot be made here; says why."""


def make(tree: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Write the disk's image into a folder and return its path.

    :param tree: root of this repository
    :param folder: empty, on the file system of the virtual environment, of
        whose files it holds hard links for a while
    :raises PayloadError: this Python's libraries are not for Debian's
    """
    if sys.version_info[:2] != DEBIAN_PYTHON:
        raise PayloadError(
            'the machine has Python {}.{}; run the tests with it'.format(
                *DEBIAN_PYTHON))
    stage = folder / 'stage'
    _add_environment(stage)
    _add_tree(tree, stage)
    size = int(subprocess.run(
        ['du', '-sk', '--apparent-size', '--block-size=4K', stage],
        check=True, capture_output=True, text=True).stdout.split()[0])
    image = folder / 'payload.raw'
    subprocess.run(
        ['mkfs.ext4', '-q', '-m', '0', '-O', '^has_journal', '-i', '8192',
         '-d', stage, image, f'{int(size * 4 * ROOM)}k'], check=True)
    shutil.rmtree(stage)
    return image


def mounts(tree: pathlib.Path) -> str:
    """Return the shell commands, inside, that put all in its place."""
    places = (pathlib.Path(sys.prefix), tree)
    return 'mkdir -p /payload && mount -o ro /dev/nvme1n1 /payload' + ''.join(
        f' && mkdir -p {place} && mount --bind /payload{place} {place}'
        for place in places)


def _add_tree(tree: pathlib.Path, stage: pathlib.Path) -> None:
    listed = subprocess.run(
        ['git', 'ls-files', '-z', '--cached', '--others',
         '--exclude-standard'],
        cwd=tree, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split('\0')):
        source = tree / name
        if source.is_file():  # else removed, and that not yet committed
            target = _inside(stage, source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def _add_environment(stage: pathlib.Path) -> None:
    """Add a virtual environment of Debian's Python at this one's path."""
    prefix = _inside(stage, pathlib.Path(sys.prefix))
    (prefix / 'bin').mkdir(parents=True)
    for name in ('python', 'python3', 'python3.11'):
        (prefix / 'bin' / name).symlink_to('/usr/bin/python3')
    (prefix / 'pyvenv.cfg').write_text('home = /usr/bin\n')
    packages = pathlib.Path(sysconfig.get_path('purelib'))
    for distribution in _closure(ROOTS):
        for file in distribution.files or ():
            source = pathlib.Path(os.path.abspath(file.locate()))
            if source.is_relative_to(packages) and source.is_file():
                target = _inside(stage, source)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(source, target)


def _closure(names: Iterable[str],
             ) -> Iterator[importlib.metadata.Distribution]:
    """Yield installed distributions and all that they require."""
    seen: set[str] = set()
    wanted = list(names)
    while wanted:
        name = re.sub('[-_.]+', '-', wanted.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        found = importlib.metadata.distribution(name)
        yield found
        for line in found.requires or ():
            required = requirements.Requirement(line)
            if required.marker is None or required.marker.evaluate(
                    {'extra': ''}):
                wanted.append(required.name)


def _inside(stage: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    return stage / path.relative_to('/')

# SPDX-License-Identifier: Apache-2.0
"""Directories that a guest, or another host, has nested too deep."""

import contextlib
import os
import pathlib
import resource
import subprocess

import pytest

from nova_vcloud import exception
from nova_vcloud.virt_docker import diskcopies
from nova_vcloud.virt_docker import layers
from nova_vcloud.virt_docker import listing

MIB = 1 << 20


def nest(top: pathlib.Path, depth: int, name: str) -> None:
    """Make directories in each other, as whoever is inside can."""
    subprocess.run(
        ['python3', '-c', 'import os, sys\n'
         'for _ in range(int(sys.argv[1])):\n'
         '    os.mkdir(sys.argv[2]); os.chdir(sys.argv[2])\n',
         str(depth), name], cwd=top, check=True)


@pytest.fixture
def layer(tmp_path):
    path = tmp_path / 'diff'
    path.mkdir()
    yield path
    subprocess.run(['rm', '-rf', '--', path], check=True)


@contextlib.contextmanager
def memory(size: int):
    """Let this process take so many bytes more."""
    pages = int(pathlib.Path('/proc/self/statm').read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (
        pages * resource.getpagesize() + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize('look', [
    lambda path, notes: layers.packed_size(path),
    lambda path, notes: layers.look(path, notes),
    lambda path, notes: diskcopies.apparent(path)],
    ids=['move', 'copy', 'snapshot'])
def test_a_look_takes_no_memory_for_paths(layer, tmp_path, budget, look):
    """1500 directories had 274 MiB of paths, and ten times as many 27 GiB."""
    nest(layer, budget.count(1500, 6000), 'd' * 255)
    with memory(64 * MIB), pytest.raises(
            exception.MoveFailed, match='more than 4093 bytes'):
        look(str(layer), str(tmp_path / 'seen'))


def test_names_are_listed_up_to_a_bound(layer, tmp_path, monkeypatch):
    for number in range(100):
        (layer / f'{number:0200}').touch()
    monkeypatch.setattr(layers, 'MAX_KEPT', 100 * 200)
    with pytest.raises(exception.MoveFailed, match='remove some'):
        layers.look(str(layer), str(tmp_path / 'seen'))


@pytest.mark.parametrize('size', [listing.MAX_PATH, listing.MAX_PATH + 1])
def test_what_can_be_copied_is_not_refused(layer, tmp_path, size):
    """The longest path that is taken is the longest that tar unpacks."""
    depth, rest = divmod(size, 251)
    nest(layer, depth, 'd' * 250)
    subprocess.run(
        ['find', '-depth', '-type', 'd', '-empty', '-execdir', 'touch',
         '{}/' + 'f' * rest, ';'], cwd=layer, check=True)
    target = tmp_path / 'copy'
    target.mkdir()
    fits = size == listing.MAX_PATH
    for step in (lambda: layers.look(str(layer), str(tmp_path / 'seen')),
                 lambda: layers.copy(str(layer), str(target))):
        with contextlib.nullcontext() if fits else pytest.raises(
                exception.MoveFailed):
            step()
    copied = sum(len(names) for _path, _below, names in os.walk(target))
    assert copied == fits

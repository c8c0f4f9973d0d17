# SPDX-License-Identifier: Apache-2.0
"""A machine of Debian's own kernel, booted once for all its tests."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE)]

import machine as machine_fixture  # noqa: E402 - found by the line above
import payload  # noqa: E402

# Tests for the inside; test_guest.py sends them there.
collect_ignore = ['inside']


@pytest.fixture(scope='session')
def cache() -> pathlib.Path:
    """The folder of the machine's disk and kernel."""
    found = pathlib.Path(os.environ.get(
        'MINICLOUD_CACHE', '/var/cache/nova-vcloud')) / 'vm'
    subprocess.run([HERE / 'build-image', found], check=True)
    return found


@pytest.fixture(scope='session')
def machine(cache: pathlib.Path) -> Iterator[machine_fixture.Machine]:
    """The machine, with this tree and its libraries where they are here."""
    with run_folder(cache) as folder:
        disk = payload.make(ROOT, folder)
        with machine_fixture.booted(cache, disk, folder / 'console') as found:
            done = found.run(['sh', '-c', payload.mounts(ROOT)], 60)
            assert done.status == 0, done.errors
            yield found


@contextlib.contextmanager
def run_folder(cache: pathlib.Path) -> Iterator[pathlib.Path]:
    """Have a folder of this process; clear those of killed ones."""
    for left in cache.glob('.run-*'):
        if not pathlib.Path('/proc', left.name.removeprefix('.run-')).exists():
            shutil.rmtree(left)
    folder = cache / f'.run-{os.getpid()}'
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)

# SPDX-License-Identifier: Apache-2.0
"""A machine of Debian's own kernel, booted once for all its tests."""

from collections.abc import Iterator
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE)]

import machine as machine_fixture  # noqa: E402 - found by the line above
import payload  # noqa: E402

# Tests for the inside; test_guest.py sends them there.
collect_ignore = ['inside']


@pytest.fixture(scope='session')
def machine() -> Iterator[machine_fixture.Machine]:
    """The machine, with this tree and its libraries where they are here."""
    cache = pathlib.Path(os.environ.get(
        'MINICLOUD_CACHE', '/var/cache/nova-vcloud')) / 'vm'
    subprocess.run([HERE / 'build-image', cache], check=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix='.run-') as folder:
        disk = payload.make(ROOT, pathlib.Path(folder))
        with machine_fixture.booted(cache, disk) as found:
            done = found.run(['sh', '-c', payload.mounts(ROOT)], 60)
            assert done.status == 0, done.errors
            yield found

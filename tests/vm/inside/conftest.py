# SPDX-License-Identifier: Apache-2.0
"""An engine, for tests that only make sense inside the machine."""

from collections.abc import Iterator
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / 'tests/fixtures')]

import dockerd as dockerd_fixture  # noqa: E402 - found by the line above

from nova_vcloud import privsep  # noqa: E402

privsep.in_process()


@pytest.fixture(scope='session')
def dockerd() -> Iterator[dockerd_fixture.Dockerd]:
    """An engine with an image, dockerd_fixture.IMAGE."""
    with dockerd_fixture.private() as found:
        yield found

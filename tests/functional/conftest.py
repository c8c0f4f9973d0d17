# SPDX-License-Identifier: Apache-2.0
"""A private fabric and engine, searched for leaks after each test."""

from collections.abc import Iterator
import os
import pathlib
import sys
import uuid

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'tests/fixtures')]

import dockerd as dockerd_fixture  # noqa: E402 - found by the line above
import lan as lan_fixture  # noqa: E402
import leaks  # noqa: E402

from nova_vcloud import privsep  # noqa: E402

privsep.in_process()


@pytest.fixture(scope='session')
def dockerd() -> Iterator[dockerd_fixture.Dockerd]:
    """An engine with an image, dockerd_fixture.IMAGE.

    NOVA_VCLOUD_TEST_ENGINE may name a folder with another engine's programs;
    tests/functional/runtime/fetch-engine makes such folders.
    """
    programs = os.environ.get('NOVA_VCLOUD_TEST_ENGINE')
    with dockerd_fixture.private(
            pathlib.Path(programs) if programs else None) as found:
        yield found


@pytest.fixture(scope='session')
def links_path(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a Network that no engine looks at."""
    return tmp_path_factory.mktemp('links')


@pytest.fixture(scope='session')
def lan(links_path: pathlib.Path) -> Iterator[lan_fixture.Lan]:
    """A fabric with a bridge."""
    with lan_fixture.private(str(links_path)) as found:
        yield found


@pytest.fixture
def server(lan: lan_fixture.Lan) -> Iterator[str]:
    """The UUID of a server whose network is removed at the end."""
    found = str(uuid.uuid4())
    yield found
    lan.network.destroy(found)


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test that leaves anything of a server behind."""
    used = {name: request.getfixturevalue(name)
            if name in request.fixturenames else None
            for name in ('lan', 'dockerd')}
    before = leaks.place(**used)
    yield
    assert not leaks.left(before, lambda: leaks.place(**used))

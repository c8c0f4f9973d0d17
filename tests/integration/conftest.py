# SPDX-License-Identifier: Apache-2.0
"""The mini cloud, brought up once, and searched for leaks after each test."""

from collections.abc import Iterator
import contextlib
import dataclasses
import os
import pathlib
import subprocess

import desk as desk_module
from openstack import exceptions
import pytest

from mini import settings
from mini import supervision

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope='session')
def desk() -> Iterator[desk_module.Desk]:
    """The desk of a cloud that has all; one that was up before stays so.

    tests/run gives it a name of its own.
    """
    was_running = supervision.Supervision(settings.load()).is_running()
    minicloud = [str(ROOT / 'devstack/minicloud')]
    subprocess.run(
        [*minicloud, 'up', '--no-install', '--with-cinder',
         '--with-horizon'], check=True)
    yield desk_module.Desk(settings.load())
    if not was_running or os.environ.get('CI'):
        subprocess.run([*minicloud, 'down'], check=True)


@pytest.fixture(autouse=True)
def no_leaks(desk: desk_module.Desk) -> Iterator[None]:
    """Fail the test that leaves anything of a server behind."""
    before = desk.place()
    known = {s.id for s in desk.compute.servers(all_projects=True)}
    yield
    desk.delete(*(s for s in desk.compute.servers(all_projects=True)
                  if s.id not in known))
    leaked: dict[str, set[str]] = {}

    def clean() -> bool:
        after = desk.place()
        leaked.clear()
        for field in dataclasses.fields(before):
            more = getattr(after, field.name) - getattr(before, field.name)
            if more:
                leaked[field.name] = set(more)
        return not leaked

    try:
        desk_module.until(clean, 60, 'everything as before')
    except AssertionError:
        pytest.fail(f'left behind: {leaked}')


def _answers(desk: desk_module.Desk) -> bool:
    try:
        return bool(desk.compute.find_flavor('c1.tiny'))
    except exceptions.SDKException:
        return False


@pytest.fixture
def kept_for_an_hour(desk: desk_module.Desk) -> Iterator[None]:
    """Have an API that lets nothing go at once."""
    config = desk.cloud.etc / 'nova' / 'nova.conf'
    before = config.read_text()

    def serve(text: str) -> None:
        with desk.stopped('nova-api'):
            config.write_text(text)
        desk_module.until(lambda: _answers(desk), 60, 'the API is back')

    with contextlib.ExitStack() as cleanup:
        cleanup.callback(serve, before)
        serve(f'{before}\n[DEFAULT]\nreclaim_instance_interval = 3600\n')
        yield

# SPDX-License-Identifier: Apache-2.0
"""Attacks: on a private fabric and engine, searched for leaks after each."""

import dataclasses
import os

from private_host import dockerd
from private_host import lan
from private_host import links_path
from private_host import no_leaks
from private_host import server
import pytest

__all__ = ['Budget', 'budget', 'dockerd', 'lan', 'links_path', 'no_leaks',
           'server']


LONG = os.environ.get('NOVA_VCLOUD_SECURITY') == 'long'


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        'markers', 'long_form: of `make test-security` only; needs what '
        '`make test` does not have, and is not counted by it')


def pytest_collection_modifyitems(config: pytest.Config,
                                  items: list[pytest.Item]) -> None:
    """Take out what the short form does not run: it passes nothing unrun."""
    if LONG:
        return
    out = [item for item in items if item.get_closest_marker('long_form')]
    items[:] = [item for item in items if item not in out]
    config.hook.pytest_deselected(items=out)


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much a fuzzer tries, and from which seed.

    :ivar long: whether this is ``make test-security``
    """

    seed: int
    long: bool

    def count(self, short: int, long: int) -> int:
        """Return how many examples to try."""
        return long if self.long else short


@pytest.fixture(scope='session')
def budget() -> Budget:
    """NOVA_VCLOUD_SEED repeats a run; NOVA_VCLOUD_SECURITY=long tries more."""
    found = Budget(
        int(os.environ.get('NOVA_VCLOUD_SEED')
            or int.from_bytes(os.urandom(4), 'big')), LONG)
    print(f'NOVA_VCLOUD_SEED={found.seed}')
    return found

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
            or int.from_bytes(os.urandom(4), 'big')),
        os.environ.get('NOVA_VCLOUD_SECURITY') == 'long')
    print(f'NOVA_VCLOUD_SEED={found.seed}')
    return found

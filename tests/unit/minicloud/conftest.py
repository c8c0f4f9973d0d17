# SPDX-License-Identifier: Apache-2.0
"""A cloud of paths, of which nothing runs."""

import pytest

from mini import settings


@pytest.fixture
def cloud(tmp_path):
    return settings.Cloud(
        home=tmp_path / 'home',
        cache=tmp_path / 'cache',
        name='trial',
        port_base=17000,
        host_count=2,
    )


@pytest.fixture
def secret():
    from mini import config

    return {name: f'{name}-password' for name in config.SECRET_NAMES}

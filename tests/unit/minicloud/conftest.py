# SPDX-License-Identifier: Apache-2.0
"""Make the mini cloud's modules importable, and give a cloud of paths."""

import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / 'devstack'))


@pytest.fixture
def cloud(tmp_path):
    from mini import settings

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

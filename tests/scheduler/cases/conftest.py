# SPDX-License-Identifier: Apache-2.0
"""One cloud for all cases; each finds it as the first one did.

Run by ../test_scheduler.py in a process of its own: Nova's tests have to be
the first that imports Nova, and they turn the logging, the warnings and the
configuration of their process upside down.
"""

from collections.abc import Iterator
import logging
import os
import pathlib
import sys
import zlib

import pytest

# Threads, as in production; read by the first import of Nova.
os.environ['OS_NOVA_DISABLE_EVENTLET_PATCHING'] = '1'
sys.path[:0] = [str(pathlib.Path(__file__).parent)]

import nova.tests.functional  # noqa: E402, F401, I001 - before all of Nova

import cloud as cloud_module  # noqa: E402 - found by the lines above

from nova_vcloud.conf import scheduler  # noqa: E402


@pytest.fixture(scope='session')
def shared_cloud() -> Iterator[cloud_module.Cloud]:
    """Three hosts."""
    found = cloud_module.Cloud()
    scheduler.register_opts(cloud_module.CONF)
    # Where servers are is read by a thread; nobody should wait for it here.
    cloud_module.CONF.set_override(
        'app_refresh_interval', cloud_module.REFRESH, 'vcloud_scheduler')
    yield found
    found.stop()


@pytest.fixture
def cloud(shared_cloud: cloud_module.Cloud) -> Iterator[cloud_module.Cloud]:
    """Three hosts without servers, and Nova's filters and weighers.

    What our own code logs as an error fails the test.
    """
    shared_cloud.scheduling()
    yield shared_cloud
    errors = shared_cloud.said(level=logging.ERROR)
    shared_cloud.clean()
    assert not errors


@pytest.fixture
def app(request: pytest.FixtureRequest) -> str:
    """Name of an application that no other case has."""
    return f'app-{zlib.crc32(request.node.name.encode())}'

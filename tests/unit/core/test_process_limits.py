# SPDX-License-Identifier: Apache-2.0
"""What processes of a server find, of what flavor and image say."""

import pytest

from nova_vcloud import exception
from nova_vcloud.flavor import process_limits


def test_half_of_the_memory_and_the_files_of_systemd():
    found = process_limits.parse(513, {}, {})
    assert found.shm == 513 * 2**19
    assert found.nofile == (1024, 524288)


@pytest.mark.parametrize(('specs', 'properties', 'found'), [
    ({'vcloud:nofile': '10'}, {'vcloud_nofile': '20'}, (10, 10)),
    ({}, {'vcloud_nofile': '20:1048576'}, (20, 1048576))])
def test_the_flavor_goes_before_the_image(specs, properties, found):
    assert process_limits.parse(64, specs, properties).nofile == found


@pytest.mark.parametrize(('properties', 'words'), [
    ({'vcloud_shm_mb': '0'}, 'image property vcloud_shm_mb=0'),
    ({'vcloud_shm_mb': '1e2'}, 'memory of the flavor, 64'),
    ({'vcloud_shm_mb': '-1'}, 'vcloud_shm_mb=-1'),
    ({'vcloud_nofile': '5'}, 'vcloud_nofile=5'),
    ({'vcloud_nofile': 'infinity'}, 'vcloud_nofile=infinity'),
    ({'vcloud_nofile': '1024:1048577'}, '1024:1048577')])
def test_what_cannot_be_is_named(properties, words):
    with pytest.raises(exception.InvalidRequest, match=words):
        process_limits.parse(64, {}, properties)


def test_a_host_that_cannot_give_more():
    assert process_limits.parse(64, {}, {}, 20_000).nofile == (1024, 20_000)
    with pytest.raises(exception.InvalidRequest, match='20000 files open'):
        process_limits.parse(64, {'vcloud:nofile': '20001'}, {}, 20_000)


def test_a_host_that_cannot_set_open_files():
    assert process_limits.parse(64, {}, {}, 0).nofile == (0, 0)
    with pytest.raises(exception.InvalidRequest, match='user namespaces'):
        process_limits.parse(64, {'vcloud:nofile': '20'}, {}, 0)

# SPDX-License-Identifier: Apache-2.0
"""What the environment decides about a cloud, and what it may not change."""

import pytest

from mini import errors
from mini import settings


def load(tmp_path, hosts=None, **environ):
    return settings.load(
        {'MINICLOUD_HOME': str(tmp_path / 'home'), **environ}, hosts
    )


def test_a_new_cloud_has_the_documented_defaults():
    cloud = settings.load({})

    assert str(cloud.home) == '/var/lib/nova-vcloud-minicloud'
    assert str(cloud.venv) == '/var/cache/nova-vcloud/venv'
    assert cloud.lan_netns == 'vcloud-lan'
    assert [host.netns for host in cloud.hosts] == [
        'vcloud-compute1',
        'vcloud-compute2',
    ]


def test_hosts_and_ports_follow_the_wish(tmp_path):
    cloud = load(tmp_path, hosts=3, MINICLOUD_PORT_BASE='17000')

    assert [host.name for host in cloud.hosts] == [
        'compute1',
        'compute2',
        'compute3',
    ]
    assert cloud.port('keystone') == 17000
    assert cloud.url('nova-api', '/v2.1') == 'http://127.0.0.1:17003/v2.1'


def test_a_saved_cloud_comes_back_without_any_wish(tmp_path):
    first = load(tmp_path, hosts=4, MINICLOUD_NAME='other')
    settings.save(first)

    assert load(tmp_path) == first


@pytest.mark.parametrize(
    ('hosts', 'environ'),
    [
        (3, {}),
        (None, {'MINICLOUD_NAME': 'else'}),
        (None, {'MINICLOUD_PORT_BASE': '18000'}),
    ],
)
def test_a_saved_cloud_does_not_change_its_nature(tmp_path, hosts, environ):
    settings.save(load(tmp_path, hosts=2, MINICLOUD_NAME='one'))

    with pytest.raises(errors.MinicloudError, match='the cloud in'):
        load(tmp_path, hosts, **environ)


@pytest.mark.parametrize('hosts', [0, -1, 10])
def test_a_silly_number_of_hosts_is_refused(tmp_path, hosts):
    with pytest.raises(errors.MinicloudError, match='--hosts must be'):
        load(tmp_path, hosts)


@pytest.mark.parametrize('base', ['80', 'many', '40000'])
def test_a_silly_block_of_ports_is_refused(tmp_path, base):
    with pytest.raises(errors.MinicloudError, match='MINICLOUD_PORT_BASE'):
        load(tmp_path, MINICLOUD_PORT_BASE=base)


@pytest.mark.parametrize('name', ['', 'Has Space', 'a/b', 'x' * 20])
def test_a_name_that_no_namespace_can_have_is_refused(tmp_path, name):
    if not name:
        assert load(tmp_path, MINICLOUD_NAME=name).name == 'vcloud'
        return
    with pytest.raises(errors.MinicloudError, match='MINICLOUD_NAME'):
        load(tmp_path, MINICLOUD_NAME=name)


def test_no_two_services_share_a_port():
    offsets = settings.PORT_OFFSETS.values()

    assert len(set(offsets)) == len(offsets)


def test_two_clouds_share_no_namespace_and_no_cgroup(tmp_path):
    one = load(tmp_path / 'a', MINICLOUD_NAME='one')
    two = load(tmp_path / 'b', MINICLOUD_NAME='two')

    def names(cloud):
        return {cloud.lan_netns} | {
            name
            for host in cloud.hosts
            for name in (host.netns, host.server_prefix, host.cgroup)
        }

    assert not names(one) & names(two)

# SPDX-License-Identifier: Apache-2.0
"""What the templates become, read with the parsers of those who read it."""

import configparser
import json
import re
import shlex
import stat
import subprocess

from oslo_config import cfg
import pytest
import yaml

from mini import config
from mini import settings


def by_name(cloud, secret):
    files = config.files(cloud, secret)
    return {str(f.path.relative_to(cloud.home)): f for f in files}


def ini(text):
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.read_string(text)
    return parser


def test_every_value_of_every_template_is_filled_in(cloud, secret):
    for path, file in by_name(cloud, secret).items():
        assert '${' not in file.text, path


@pytest.mark.parametrize(
    'path',
    [
        'etc/keystone/keystone.conf',
        'etc/placement/placement.conf',
        'etc/glance/glance-api.conf',
        'etc/neutron/neutron.conf',
        'etc/neutron/ml2_conf.ini',
        'etc/nova/nova.conf',
        'etc/nova/compute1.conf',
        'etc/nova/compute2.conf',
    ],
)
def test_oslo_reads_it_and_no_option_is_given_twice(cloud, secret, path):
    file = by_name(cloud, secret)[path]
    # Strict: raises on a section or option given twice. This one may be.
    ini(re.sub('(?m)^available_filters = .*\n', '', file.text))
    config.write_one(file)

    cfg.ConfigOpts()(args=[], default_config_files=[str(file.path)])


def test_a_compute_host_knows_no_database(cloud, secret):
    text = by_name(cloud, secret)['etc/nova/compute1.conf'].text

    assert 'mysql' not in text
    assert secret['database'] not in text


def test_compute_hosts_share_nothing_that_must_be_their_own(cloud, secret):
    files = by_name(cloud, secret)
    one, two = (ini(files[f'etc/nova/compute{n}.conf'].text) for n in (1, 2))
    for section, option in (
        ('DEFAULT', 'host'),
        ('DEFAULT', 'state_path'),
        ('docker', 'url'),
        ('docker', 'runtime_links_path'),
        ('vcloud_net', 'fabric_namespace'),
        ('vcloud_net', 'namespace_prefix'),
    ):
        assert one[section][option] != two[section][option], option


def test_servers_leave_each_host_by_another_way(cloud, secret):
    files = by_name(cloud, secret)
    used = {ini(files[f'etc/nova/{host.name}.conf'].text)[
        'vcloud_migration']['transport'] for host in cloud.hosts}
    assert used == {'ssh', 'tls'}


def test_engine_runtime_and_driver_agree_on_the_links(cloud, secret):
    files = by_name(cloud, secret)
    for host in cloud.hosts:
        daemon = json.loads(files[f'etc/docker/{host.name}.json'].text)
        driver = ini(files[f'etc/nova/{host.name}.conf'].text)['docker']
        runtime = daemon['runtimes']['nova-vcloud']
        assert runtime['runtimeArgs'] == [
            '--links',
            driver['runtime_links_path'],
        ]
        assert daemon['hosts'] == [driver['url']]


def test_engines_touch_no_network_and_outlive_their_daemon(cloud, secret):
    text = by_name(cloud, secret)['etc/docker/compute1.json'].text
    daemon = json.loads(text)

    assert daemon['bridge'] == 'none'
    assert daemon['iptables'] is daemon['ip-masq'] is False
    assert daemon['ip-forward'] is False
    assert daemon['live-restore'] is True


def test_every_host_has_its_bridge_in_neutron(cloud, secret):
    text = by_name(cloud, secret)['etc/neutron/ml2_conf.ini'].text

    assert ini(text)['ml2_vcloud']['bridge_mappings'] == (
        'compute1:physnet1:br-physnet1,compute2:physnet1:br-physnet1,'
        'fake-*:physnet1:br-physnet1'
    )


def test_a_tenant_may_ask_for_an_address_on_a_shared_network(cloud, secret):
    text = by_name(cloud, secret)['etc/neutron/policy.yaml'].text

    assert 'rule:shared' in yaml.safe_load(text)[
        'create_port:fixed_ips:ip_address'
    ]


def test_no_file_with_a_password_is_for_others_to_read(cloud, secret):
    for path, file in by_name(cloud, secret).items():
        if any(value in file.text for value in secret.values()):
            assert not file.mode & 0o077, path


def test_write_one_writes_once_and_with_its_mode(tmp_path):
    path = tmp_path / 'folder' / 'file'

    assert config.write_one(config.Rendered(path, 'text'))
    assert not config.write_one(config.Rendered(path, 'text'))
    assert config.write_one(config.Rendered(path, 'other'))
    assert path.read_text() == 'other'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_secrets_are_random_kept_and_completed(cloud, tmp_path):
    first = config.load_secrets(cloud)
    other = settings.Cloud(home=tmp_path / 'other', cache=cloud.cache)

    assert set(first) == set(config.SECRET_NAMES)
    assert len(set(first.values())) == len(first)
    assert config.load_secrets(cloud) == first
    assert config.load_secrets(other)['admin'] != first['admin']

    del first['demo']
    path = cloud.etc / 'secrets.json'
    path.write_text(json.dumps(first))
    completed = config.load_secrets(cloud)
    assert completed['demo']
    assert completed['admin'] == first['admin']


@pytest.mark.parametrize('shell', ['sh', 'bash'])
def test_openrc_sets_its_own_variables_and_clears_others(
    cloud, secret, shell
):
    file = by_name(cloud, secret)['openrc-demo']
    config.write_one(file)
    script = (
        f'set -eu; OS_TOKEN=old; export OS_TOKEN; . {file.path}; '
        f'. {file.path}; env'
    )
    done = subprocess.run(
        [shell, '-c', script], capture_output=True, text=True, check=True
    )
    env = dict(
        line.split('=', 1) for line in done.stdout.splitlines() if '=' in line
    )

    assert env['OS_USERNAME'] == env['OS_PROJECT_NAME'] == 'demo'
    assert env['OS_PASSWORD'] == secret['demo']
    assert 'OS_TOKEN' not in env
    assert env['PATH'].split(':').count(f'{cloud.venv}/bin') == 1


def test_clouds_yaml_and_openrc_name_the_same_cloud(cloud, secret):
    files = by_name(cloud, secret)
    clouds = yaml.safe_load(files['etc/clouds.yaml'].text)['clouds']
    auth = clouds['minicloud']['auth']

    assert f'OS_AUTH_URL={auth["auth_url"]}\n' in files['openrc'].text
    assert f'OS_PASSWORD={auth["password"]}\n' in files['openrc'].text


def test_the_engine_script_is_valid_shell(cloud, secret):
    file = by_name(cloud, secret)['etc/docker/compute1.sh']
    config.write_one(file)

    subprocess.run(['sh', '-n', str(file.path)], check=True)
    assert shlex.quote(str(cloud.etc)) in file.text

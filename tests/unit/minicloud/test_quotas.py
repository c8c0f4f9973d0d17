# SPDX-License-Identifier: Apache-2.0
"""What projects may have, and how Nova is told to look."""

import configparser

from keystoneauth1 import loading
from oslo_config import cfg
import pytest

from mini import config
from mini import quotas
from mini import seed


@pytest.fixture
def nova(cloud, secret):
    wanted = cloud.etc / 'nova' / 'nova.conf'
    found = next(f for f in config.files(cloud, secret) if f.path == wanted)
    config.write_one(found)
    return wanted


def test_only_what_is_missing_is_made():
    assert quotas.missing(()) == quotas.DEFAULTS
    assert quotas.missing(quotas.DEFAULTS) == {}
    rest = dict(quotas.DEFAULTS)
    del rest['servers']
    assert quotas.missing(rest) == {'servers': 100}


def test_a_project_may_have_ten_servers_of_every_flavor():
    for flavor in seed.FLAVORS.values():
        ecu = int(flavor.specs.get('resources:CUSTOM_ECU', 0))
        for name, amount in (
            ('servers', 1),
            ('class:VCPU', flavor.vcpus),
            ('class:MEMORY_MB', flavor.ram),
            ('class:DISK_GB', flavor.disk),
            ('class:CUSTOM_ECU', ecu),
        ):
            assert 10 * amount <= quotas.DEFAULTS[name]


def test_what_is_required_has_a_default(nova):
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.read(nova)
    required = parser['quota']['unified_limits_resource_list'].split(',')

    assert required
    assert set(required) <= set(quotas.DEFAULTS)


def test_limits_are_read_with_a_token_of_the_system(nova, secret):
    """One of a project would, without its admin's role, see only its own."""
    conf = cfg.ConfigOpts()
    loading.register_auth_conf_options(conf, 'oslo_limit')
    conf(args=[], default_config_files=[str(nova)])

    loading.load_auth_from_conf_options(conf, 'oslo_limit')

    assert conf.oslo_limit.system_scope == 'all'
    assert conf.oslo_limit.username == 'nova'
    assert conf.oslo_limit.password == secret['nova']
    # Keystone's client takes one scope only.
    for other in ('project_name', 'project_id', 'domain_id', 'domain_name'):
        assert conf.oslo_limit[other] is None, other


def test_a_compute_host_checks_no_quota(cloud, secret):
    for file in config.files(cloud, secret):
        if file.path.name.startswith('compute'):
            assert 'oslo_limit' not in file.text

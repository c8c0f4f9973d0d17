# SPDX-License-Identifier: Apache-2.0
"""How tempest is configured and called, and its lists of tests."""

import configparser
import re

import pytest

from mini import config
from mini import settings
from mini import tempest

IDS = {
    name: f'id-of-{name}'
    for name in ('image', 'image_alt', 'flavor', 'flavor_alt', 'network_id')
}


@pytest.fixture
def conf(cloud, secret):
    file = tempest.configuration(cloud, secret, IDS)
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.read_string(file.text)
    assert file.path == cloud.home / 'tempest' / 'tempest.conf'
    return parser


def entries(path):
    """Return the patterns of a list, each with the comment before it."""
    found, comment = [], []
    for line in path.read_text().splitlines():
        if line.startswith('#'):
            comment.append(line.strip('# '))
        elif line:
            found.append((line, ' '.join(comment)))
        else:
            comment = []
    return found


def test_every_value_is_filled_in(conf):
    values = [v for section in conf.values() for v in section.values()]

    assert values
    assert not [value for value in values if '$' in value]


def test_it_names_what_the_cloud_has(conf, cloud, secret):
    assert conf['auth']['admin_password'] == secret['admin']
    assert conf['identity']['uri_v3'] == 'http://127.0.0.1:17000/v3'
    assert conf['compute']['image_ref'] == 'id-of-image'
    assert conf['compute']['min_compute_nodes'] == '2'
    assert conf['network']['public_network_id'] == 'id-of-network_id'
    assert conf['compute-feature-enabled'][
        'scheduler_enabled_filters'
    ].split(',') == list(config.SCHEDULER_FILTERS)


def test_servers_are_logged_into(conf):
    assert conf['validation']['run_validation'] == 'true'
    assert conf['validation']['connect_method'] == 'fixed'


def test_the_password_is_for_its_owner_only(cloud, secret):
    assert tempest.configuration(cloud, secret, IDS).mode == 0o600


def test_a_wish_becomes_a_command(cloud):
    everything = tempest.command(cloud, tempest.Wish())
    some = tempest.command(cloud, tempest.Wish(regex='rescue', workers=1))
    short = tempest.command(cloud, tempest.Wish(short=True))

    assert everything[0] == f'{cloud.cache}/tempest/bin/tempest'
    assert everything[-2:] == ['--regex', tempest.EVERYTHING]
    assert some[-2:] == ['--regex', 'rescue']
    assert some[some.index('--concurrency') + 1] == '1'
    assert short[-2:] == ['--include-list', str(tempest.SHORT_LIST)]
    for words in (everything, some, short):
        assert str(tempest.EXCLUDE_LIST) in words


def test_its_packages_are_kept_from_those_of_the_cloud(cloud):
    assert cloud.tempest_venv != cloud.venv
    assert cloud.tempest_venv.parent == cloud.cache


def test_each_test_that_is_left_out_has_a_reason():
    for pattern, reason in entries(tempest.EXCLUDE_LIST):
        re.compile(pattern)
        assert len(reason) > 20, pattern


def test_the_short_list_is_part_of_the_whole():
    patterns = [re.compile(p) for p, _ in entries(tempest.EXCLUDE_LIST)]
    short = [line for line, _ in entries(tempest.SHORT_LIST)]

    assert short
    for name in short:
        plain = name.strip('^$').replace('\\', '')
        assert re.match(tempest.EVERYTHING, plain), name
        assert not any(p.search(plain) for p in patterns), name


def test_the_report_is_where_builds_are():
    assert tempest.REPORT == settings.SOURCE / 'build' / 'tempest'

# SPDX-License-Identifier: Apache-2.0
"""A mini cloud with Horizon has what one without has not, and keeps it."""

import ast
import dataclasses

import pytest

from mini import config
from mini import horizon
from mini import services
from mini import settings


@pytest.fixture
def clouds(cloud):
    """The cloud without Horizon, and with it."""
    return [dataclasses.replace(cloud, with_horizon=wish)
            for wish in (False, True)]


def test_only_a_cloud_with_horizon_has_its_service(clouds, secret):
    without, with_it = (
        {s.name: s for s in services.catalog(one, secret)} for one in clouds)
    assert with_it.keys() - without.keys() == {'horizon'}
    # Each file it reads at its start is one whose change restarts it.
    assert {path.name for path in with_it['horizon'].configs} == {
        'horizon_settings.py', 'horizon_wsgi.py'}


def test_only_a_cloud_with_horizon_has_its_files(clouds, secret):
    without, with_it = (
        {f.path: f for f in config.files(one, secret)} for one in clouds)
    new = with_it.keys() - without.keys()
    assert {path.name for path in new} == {
        'horizon_settings.py', 'horizon_wsgi.py'}
    for path in new:
        ast.parse(with_it[path].text)
        assert '${' not in with_it[path].text
        assert with_it[path].mode == 0o600


def test_a_cloud_keeps_horizon(tmp_path):
    environ = {'MINICLOUD_HOME': str(tmp_path)}
    settings.save(settings.load(environ, with_horizon=True))
    assert settings.load(environ).with_horizon


def test_static_files_are_made_once(cloud, tmp_path):
    cloud = dataclasses.replace(cloud, cache=tmp_path, with_horizon=True)
    program = cloud.horizon_venv / 'bin' / 'django-admin'
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$*" "$DJANGO_SETTINGS_MODULE"'
                       f' >>{tmp_path}/ran\n')
    program.chmod(0o755)
    (cloud.horizon_venv / '.requirements-horizon').write_text('1')
    for folder in (cloud.data, cloud.log):
        folder.mkdir(parents=True, exist_ok=True)
    assert horizon.static_files(cloud) == 'made'
    assert horizon.static_files(cloud) == 'up to date'
    assert (tmp_path / 'ran').read_text().splitlines() == [
        'collectstatic --noinput horizon_settings',
        'compress --force horizon_settings']
    (cloud.horizon_venv / '.requirements-horizon').write_text('2')
    assert horizon.static_files(cloud) == 'made'

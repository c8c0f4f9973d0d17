# SPDX-License-Identifier: Apache-2.0
"""A mini cloud with Cinder has what one without has not, and keeps it."""

import configparser
import dataclasses

from mini import config
from mini import identity
from mini import services
from mini import settings
from mini import volumes


def both(cloud):
    return (dataclasses.replace(cloud, with_cinder=wish)
            for wish in (False, True))


def texts(cloud, secret):
    return {str(f.path.relative_to(cloud.home)): f.text
            for f in config.files(cloud, secret)}


def test_only_a_cloud_with_cinder_has_its_services(cloud, secret):
    without, with_it = (
        {s.name for s in services.catalog(one, secret)}
        for one in both(cloud))
    assert with_it - without == {
        'cinder-api', 'cinder-scheduler', 'cinder-volume'}


def test_only_a_cloud_with_cinder_has_its_files(cloud, secret):
    without, with_it = (texts(one, secret) for one in both(cloud))
    assert with_it.keys() - without.keys() == {
        'etc/cinder/cinder.conf', 'etc/cinder/nfs_shares'}
    text = with_it['etc/cinder/cinder.conf']
    assert '${' not in text
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.read_string(text)
    assert parser['share']['volume_driver'].endswith('.NfsDriver')


def test_hosts_look_for_the_share_where_it_is_bound(cloud, secret):
    _, with_it = both(cloud)
    found = texts(with_it, secret)
    bases = {str(point.parent) for point in volumes.mount_points(with_it)}
    for path in ('cinder/cinder.conf', 'nova/compute1.conf',
                 'nova/compute2.conf'):
        base = next(
            line.partition(' = ')[2]
            for line in found[f'etc/{path}'].splitlines()
            if line.startswith('nfs_mount_point_base'))
        assert base in bases


def test_only_a_cloud_with_cinder_has_its_endpoint(cloud):
    without, with_it = (
        {entry[1] for entry in identity._wanted(one)} for one in both(cloud))
    assert with_it - without == {'volumev3'}


def test_a_cloud_that_has_cinder_keeps_it(tmp_path):
    environ = {'MINICLOUD_HOME': str(tmp_path)}
    settings.save(settings.load(environ, with_cinder=True))
    assert settings.load(environ).with_cinder

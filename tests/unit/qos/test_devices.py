# SPDX-License-Identifier: Apache-2.0
"""Which disk a path is on, in made-up machines."""

import os

import pytest

from nova_vcloud import exception
from nova_vcloud.qos.disk import devices

#: id, parent, device, root, place, options - kind, source, options
INFO = r'''
22 27 0:21 / /proc rw - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
28 27 0:40 /sub /data rw - btrfs /dev/sdb3 rw,subvol=/sub
29 28 0:41 / /data/first rw - tmpfs tmpfs rw
30 28 0:42 / /data/first rw - btrfs /dev/sdc rw
31 27 0:43 / /merged rw - overlay overlay rw,lowerdir=/l,upperdir=/u\040u/d
32 27 0:44 / /with\040space rw - tmpfs a\040tmpfs rw
'''.lstrip()


@pytest.mark.parametrize(('path', 'source'), [
    ('/', '/dev/vda'), ('/var/lib', '/dev/vda'), ('/data', '/dev/sdb3'),
    ('/data/x', '/dev/sdb3'), ('/database', '/dev/vda'),
    ('/data/first/x', '/dev/sdc'), ('/with space/x', 'a tmpfs'),
    ('/with', '/dev/vda')])
def test_the_innermost_and_latest_mount_counts(path, source):
    assert devices.mounted(path, INFO)[0] == source


def test_options_of_a_mount():
    source, options = devices.mounted('/merged/etc', INFO)
    assert source == 'overlay'
    assert options['upperdir'] == '/u u/d'


@pytest.fixture
def disk(tmp_path):
    """A machine where the device of ``tmp_path`` is whatever is made."""
    number = os.stat(tmp_path).st_dev
    name = f'{os.major(number)}:{os.minor(number)}'
    (tmp_path / 'sys/dev/block').mkdir(parents=True)
    (tmp_path / 'sys/devices/sdx/sdx1').mkdir(parents=True)
    (tmp_path / 'sys/devices/sdx/dev').write_text('8:160\n')

    def link(target):
        (tmp_path / 'sys/dev/block' / name).symlink_to(
            tmp_path / 'sys/devices' / target)
        return name
    return link


def test_a_whole_disk_is_itself(tmp_path, disk):
    name = disk('sdx')
    assert devices.device_of(str(tmp_path), str(tmp_path)) == name


def test_a_partition_is_its_disk(tmp_path, disk):
    (tmp_path / 'sys/devices/sdx/sdx1/partition').write_text('1\n')
    disk('sdx/sdx1')
    assert devices.device_of(str(tmp_path), str(tmp_path)) == '8:160'


def test_an_overlay_is_where_its_upper_directory_is(tmp_path, disk):
    name = disk('sdx')
    info = INFO + ('40 1 0:50 / /proc rw - overlay overlay '
                   f'rw,lowerdir=/l,upperdir={tmp_path}\n')
    assert devices.device_of('/proc', str(tmp_path), info) == name


@pytest.mark.parametrize(('path', 'reason'), [
    ('/proc', 'but on proc'), ('/absent/x', 'No such file'),
    ('/dev/shm', 'no block device')])
def test_what_is_on_no_disk_is_named(path, reason):
    with pytest.raises(exception.LimitNotEnforced,
                       match=f'{path}.*{reason}'):
        devices.device_of(path)


def test_a_source_that_is_gone_is_named(tmp_path):
    info = INFO + '40 1 0:50 / /proc rw - btrfs /dev/gone rw\n'
    with pytest.raises(exception.LimitNotEnforced, match='on /dev/gone'):
        devices.device_of('/proc', str(tmp_path), info)

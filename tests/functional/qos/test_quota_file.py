# SPDX-License-Identifier: Apache-2.0
"""Loop devices of root disks: direct I/O, and gone with the mount."""

import os
import pathlib
import subprocess

import leaks
import pytest

from nova_vcloud import exception
from nova_vcloud.qos.disk import loop_file

MIB = 1 << 20


@pytest.fixture
def place(tmp_path):
    found = tmp_path / 'mount'
    found.mkdir()
    return found


def test_a_mounted_disk_bypasses_the_cache_and_goes_by_itself(tmp_path,
                                                              place):
    path = str(tmp_path / 'disk')
    loop_file.make(path, 512 * MIB, whole=False)
    loop_file.attach(path, str(place), whole=False)
    try:
        device, = loop_file._devices(path)
        loop = pathlib.Path('/sys/block', os.path.basename(device), 'loop')
        assert (loop / 'dio').read_text() == '1\n'
        assert (loop / 'autoclear').read_text() == '1\n'
        (place / 'file').write_text('written')
    finally:
        subprocess.run(['umount', place], check=True)
    assert not leaks.loops_left(tmp_path)


def test_what_cannot_be_mounted_leaves_no_device(tmp_path, place):
    path = tmp_path / 'disk'
    path.write_bytes(bytes(4 * MIB))
    with pytest.raises(exception.LimitNotEnforced, match='mount: '):
        loop_file.attach(str(path), str(place), whole=False)
    assert not leaks.loops_left(tmp_path)

# SPDX-License-Identifier: Apache-2.0
"""Counters of disks, read from sysfs."""

from nova_vcloud.virt_docker.volumes import counters

STAT = '  10  1  300  20  5  2  80  9  0 0 0\n'
FOUND = {'read_requests': 10, 'read_bytes': 300 * 512, 'write_requests': 5,
         'write_bytes': 80 * 512}


def test_a_block_device(tmp_path):
    folder = tmp_path / 'class/block/nonesuch'
    folder.mkdir(parents=True)
    (folder / 'stat').write_text(STAT)
    assert counters.of('/dev/nonesuch', tmp_path) == FOUND


def test_a_file_that_is_one(tmp_path):
    for name, file in (('loop0', '/other'), ('loop3', '/disks/one')):
        folder = tmp_path / f'block/{name}/loop'
        folder.mkdir(parents=True)
        (folder / 'backing_file').write_text(f'{file}\n')
    (tmp_path / 'block/loop3/stat').write_text(STAT)
    assert counters.of('/disks/one', tmp_path) == FOUND
    # It has no device, and a device that goes away meanwhile.
    assert counters.of('/disks/none', tmp_path) == {}
    assert counters.of('/other', tmp_path) == {}

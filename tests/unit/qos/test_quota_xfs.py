# SPDX-License-Identifier: Apache-2.0
"""What xfs_quota says of a project, and what of it is a size."""

import pytest

from nova_vcloud.qos.disk import xfs_project_quota

GIB = 2**30
INODES = GIB // 16384


def said(used, size, inodes, grace='[--------]'):
    return (f'/dev/loop0 {used} {size} {size} 00 {grace} /data\n'
            f'/dev/loop0 7 {inodes} {inodes} 00 [--------] /data\n')


@pytest.mark.parametrize(('text', 'found'), [
    (said(8, GIB // 1024, INODES), (8192, GIB)),
    (said(8, GIB // 1024, INODES, '[6 days]'), (8192, GIB)),
    (said(8, GIB // 1024, INODES).replace('/dev/loop0 ', '/dev/loop0\n'),
     (8192, GIB)),
    # With one limit and not the other the host is not safe.
    (said(8, GIB // 1024, 0), (8192, 0)),
    (said(8, GIB // 1024, INODES * 2), (8192, 0)),
    (said(8, 0, INODES), (8192, 0)), (said(0, 0, 0), (0, 0))])
def test_a_size_is_bytes_and_inodes(text, found):
    assert xfs_project_quota.parse(text) == found


def test_a_rounded_size_is_one():
    # 33 MiB and 1 byte: rounded up to blocks of 4 KiB.
    size = (33 << 20) + 16385
    blocks = -(-size // 4096) * 4
    text = said(0, blocks, xfs_project_quota.inodes_of(size))
    assert xfs_project_quota.parse(text) == (0, blocks * 1024)

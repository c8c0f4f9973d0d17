# SPDX-License-Identifier: Apache-2.0
"""Servers that make files without end: the inodes of the host are not theirs.

Of overlay2 on xfs: ``tests/vm/inside/test_disks.py``, on a kernel that has
its quotas.
"""

import os

import computehost
import dockerd as dockerd_fixture
import lan as lan_fixture
import pytest

from nova_vcloud.qos.backends import disk
from nova_vcloud.virt_docker.guest import container_spec

MIB = 1 << 20
#: Bytes of a small root disk, so that its end comes soon.
SIZE = 4 * MIB
#: Makes empty files in one directory after the other, until none can be made.
UNLIMITED = 9  # its exit code when nothing has stopped it
ATTACK = ('d=0; while mkdir /a$d; do i=0; while [ $i -lt 500 ]; do'
          ' : >/a$d/$i || exit 0; i=$((i+1)); done;'
          ' d=$((d+1)); [ $d -lt %d ] || exit 9; done')


@pytest.fixture(scope='module')
def quotas():
    """An engine on btrfs with quotas."""
    with dockerd_fixture.private(store='btrfs') as found:
        yield found


def attack(host, instance, folders: int) -> int:
    """Return the exit code of a server that makes files without end."""
    return host.dockerd.docker(
        'exec', container_spec.container_name(instance.uuid), 'sh', '-c',
        ATTACK % folders, check=False).returncode


def test_on_btrfs_inodes_cost_bytes(quotas, tmp_path):
    """It makes them as they are wanted: the limit of bytes is theirs."""
    with lan_fixture.private(str(quotas.links)) as lan:
        host = computehost.ComputeHost(quotas, lan, tmp_path)
        instance, other = host.instance(), host.instance()
        try:
            for each in (instance, other):
                host.spawn(each, host.ports())
            container = host.container(instance)['Id']
            used = host.parts.disk.figures(container)['disk_used_bytes']
            host.parts.disk._store.limit(host.parts.disk._root, container,
                                         used + SIZE)
            assert attack(host, instance, 500) != UNLIMITED
            figures = host.parts.disk.figures(container)
            assert figures['disk_used_bytes'] <= used + SIZE
            assert host.inside(other, ': >/file && echo made') == 'made\n'
        finally:
            for each in (instance, other):
                host.containers.destroy(each.uuid)


def test_a_root_disk_in_a_file_has_inodes_of_its_own(dockerd, lan, tmp_path,
                                                     budget):
    host = computehost.ComputeHost(dockerd, lan, tmp_path / 'records',
                                   disk_files=True)
    instance = host.instance()
    host.spawn(instance, host.ports())
    try:
        store = os.statvfs(dockerd.home)
        attack(host, instance, budget.count(40, 4000))
        after = os.statvfs(dockerd.home)
        # What others make on this machine meanwhile is some files.
        assert abs(store.f_ffree - after.f_ffree) < 10_000
        line = host.inside(instance, 'df -i /').splitlines()[-1]
        assert int(line.split()[1]) <= 1 << 20
        assert int(line.split()[2]) > budget.count(40, 400) * 400
    finally:
        host.containers.destroy(instance.uuid)


def test_what_a_store_does_about_inodes_is_said():
    """To who reads the log at start, and the documentation."""
    assert 'inode' in disk.xfs_project_quota.REMARK
    assert 'inode' in disk.loop_file.Files.REMARK
    assert 'inode' in disk.btrfs_qgroup.REMARK

# SPDX-License-Identifier: Apache-2.0
"""Servers whose root disk is full start again, and can be tidied up.

Of overlay2 on xfs with quotas: ``tests/vm/inside/test_disks.py``.
"""

import contextlib
import itertools
import os
import pathlib
import re
import subprocess
import tempfile

import computehost
import dockerd as dockerd_fixture
import lan as lan_fixture
from nova import objects
import pytest
from rootdisk import fill
from rootdisk import spawn

from nova_vcloud import exception
from nova_vcloud.qos.disk import loop_file
from nova_vcloud.qos.disk import rootfs
from nova_vcloud.virt_docker import resources
from nova_vcloud.virt_docker.guest import rescue
from nova_vcloud.virt_docker.rootfs import overlay

#: Takes all bytes: of large files, of small ones, and of new directories.
BYTES = '''
mkdir -p /full
for size in 1048576 65536 4096 512; do
    n=0
    while dd if=/dev/zero of=/full/$size.$n bs=$size 2>/dev/null \
            count=4096 conv=fsync; do n=$((n+1)); done
    sync
done
i=0; while mkdir /full/d$i && true >/full/d$i/$(printf %0200d $i); do
    i=$((i+1)); done 2>/dev/null
echo full
'''
#: Takes all inodes, by files without bytes.
INODES = '''
d=0
while mkdir -p /full/$d; do
    i=0
    while [ $i -lt 500 ]; do
        true >/full/$d/$i || break 2
        i=$((i+1))
    done
    d=$((d+1))
done 2>/dev/null
echo full
'''


@pytest.fixture
def host(dockerd, lan, tmp_path):
    found = computehost.ComputeHost(dockerd, lan, tmp_path / 'records',
                                    disk_files=True)
    yield found
    for server in list(found.containers.list()):
        found.containers.destroy(server)


@pytest.fixture(scope='module')
def quotas():
    with dockerd_fixture.private(store='btrfs') as found:
        yield found


@pytest.fixture
def btrfs(quotas, tmp_path):
    with lan_fixture.private(str(quotas.links)) as lan:
        found = computehost.ComputeHost(quotas, lan, tmp_path / 'records')
        yield found
        for server in list(found.containers.list()):
            found.containers.destroy(server)


def place(host, instance) -> pathlib.Path:
    """Return the directory of a server's layer, of overlay2."""
    return pathlib.Path(overlay.upper(host.container(instance))).parent


def fill_bytes(host, instance):
    assert not fill(host, instance, 'most', 900).returncode
    assert host.inside(instance, BYTES) == 'full\n'


def fill_inodes(host, instance):
    # The share of its space that xfs gives to inodes: few, so that their end
    # comes soon.
    subprocess.run(['xfs_growfs', '-m', '1', place(host, instance)],
                   check=True, capture_output=True)
    assert host.inside(instance, INODES) == 'full\n'


def fill_both(host, instance):
    """Leave few inodes, and little space."""
    assert not fill(host, instance, 'most', 900).returncode
    fill_inodes(host, instance)


def check_runs(host, instance, ports, filled=fill_bytes):
    """Have a server with a full disk started in every way, and tidied up."""
    for again in (lambda: host.containers.reboot(instance, ports, 1),
                  lambda: host.containers.reboot(instance, ports, 0),
                  lambda: (host.containers.stop(instance.uuid, 0),
                           host.containers.start(instance, ports))):
        again()
        assert host.containers.running(instance.uuid)
        # It is as full as it was: nobody has given the server more.
        if filled is fill_bytes:
            assert host.inside(
                instance, 'mkdir /more 2>/dev/null || echo full') == 'full\n'
        else:  # but for what is left of some 64, which xfs makes at once
            assert os.statvfs(place(host, instance)).f_favail < 256
    assert not host.keeper.status(instance.uuid).drift
    assert host.inside(
        instance, 'rm -rf /full /most && sync && echo mine >/file '
        '&& cat /file') == 'mine\n'


@pytest.mark.parametrize('filled', [fill_bytes, fill_inodes])
def test_a_full_disk_in_a_file_is_started_again(host, filled):
    instance, ports = spawn(host)
    filled(host, instance)
    check_runs(host, instance, ports, filled)
    assert not list(host.dockerd.links.glob('*.room'))


def fill_pieces(host, instance):
    """Leave free space in pieces of one block, which are no use for inodes.
    """
    assert not fill(host, instance, 'most', 800).returncode
    assert host.inside(instance, 'mkdir /full; cat /dev/zero >/full/pieces '
                       '2>/dev/null; sync; echo full') == 'full\n'
    path = place(host, instance) / 'merged/full/pieces'
    subprocess.run(['xfs_io', path], check=True, capture_output=True,
                   text=True, input='\n'.join(
                       f'fpunch {offset} 4096' for offset
                       in range(0, path.stat().st_size, 8192)))
    take_inodes(host, instance)


def take_inodes(host, instance):
    """Have files of no bytes, as many as there are."""
    folder = pathlib.Path(tempfile.mkdtemp(
        dir=place(host, instance) / 'merged/full'))
    with contextlib.suppress(OSError):
        for number in itertools.count():
            (folder / f'{number}').touch()
    # By what the kernel says there is enough of both.
    assert rootfs.has_room(os.statvfs(folder))


@pytest.mark.parametrize('release', ['this', 'earlier'])
def test_free_space_in_pieces_is_enough_for_a_start(host, release):
    instance, ports = spawn(host)
    if release == 'earlier':
        host.containers.stop(instance.uuid, 0)
        (place(host, instance) / rootfs.SPARE).unlink()
        host.containers.start(instance, ports)
    fill_pieces(host, instance)
    for _each in range(3):
        host.containers.stop(instance.uuid, 0)
        host.containers.start(instance, ports)
        assert host.containers.running(instance.uuid)
        # What it has got for its start is gone again.
        take_inodes(host, instance)
    assert host.inside(
        instance, 'rm -rf /full /most && sync && echo mine >/file '
        '&& cat /file') == 'mine\n'


def reserve(host, instance) -> int:
    """Return the blocks that the xfs of a server keeps for itself."""
    said = subprocess.run(
        ['xfs_io', '-x', '-c', 'resblks', place(host, instance)],
        check=True, capture_output=True, text=True).stdout
    return int(re.findall(r'reserved blocks = (\d+)', said)[0])


def kept(host, instance) -> tuple[int, int]:
    """Return what the xfs of a server keeps: blocks, and its inodes' share.
    """
    return (reserve(host, instance),
            loop_file._inode_share(str(place(host, instance))))


@pytest.mark.parametrize('filled', [fill_bytes, fill_inodes, fill_both])
@pytest.mark.parametrize('end', ['failed', 'killed'])
def test_a_start_that_fails_leaves_the_disk_as_it_was(
        host, monkeypatch, end, filled):
    instance, ports = spawn(host)
    filled(host, instance)
    host.containers.stop(instance.uuid, 0)
    before = kept(host, instance)

    def fail(_container):
        assert kept(host, instance) != before
        raise exception.EngineError('no')

    with monkeypatch.context() as patched:
        patched.setattr(host.dockerd.engine, 'start', fail)
        if end == 'killed':
            patched.setattr(resources.Resources, 'end_room',
                            lambda *_words: None)
        with pytest.raises(exception.EngineError):
            host.containers.start(instance, ports)
    if end == 'failed':
        assert kept(host, instance) == before
        assert not list(host.dockerd.links.glob('*.room'))
    host.containers.start(instance, ports)
    assert kept(host, instance) == before
    assert not list(host.dockerd.links.glob('*.room'))


def test_a_full_disk_on_btrfs_is_started_again(btrfs):
    instance, ports = spawn(btrfs)
    fill_bytes(btrfs, instance)
    check_runs(btrfs, instance, ports)


@pytest.mark.parametrize('filled', [fill_bytes, fill_inodes])
def test_a_full_disk_is_tidied_up_by_a_rescue(host, tmp_path, filled):
    instance, ports = spawn(host)
    filled(host, instance)
    host.containers.stop(instance.uuid, 0)
    service = rescue.Rescue(host.dockerd.engine, host.containers,
                            str(tmp_path / 'rescue'))
    service.begin(None, instance, objects.ImageMeta(id=instance.image_ref),
                  ports, b'')
    assert host.inside(
        instance, 'rm -rf /mnt/full /mnt/most && echo mine >/mnt/file && '
        'cat /mnt/file') == 'mine\n'
    service.end(instance, ports, 0)
    assert host.inside(instance, 'cat /file') == 'mine\n'

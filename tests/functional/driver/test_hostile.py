# SPDX-License-Identifier: Apache-2.0
"""Images that lead elsewhere where we write: nothing of the host changes."""

from collections.abc import Callable
import io
import json
import os
import pathlib
import stat
import tarfile

import computehost
import dockerd as dockerd_fixture
import imageservice
from nova import exception as nova_exception
from nova import objects
import pytest

from nova_vcloud import exception
from nova_vcloud.conf import docker as docker_conf
from nova_vcloud.virt_docker.guest import file_injection
from nova_vcloud.virt_docker.guest import password
from nova_vcloud.virt_docker.guest import rescue
from nova_vcloud.virt_docker.guest import snapshot
from nova_vcloud.virt_docker.image import images

TAG = 'vcloud-test/hostile:latest'
UP = '../' * 20
KEYS = file_injection.AUTHORIZED_KEYS
DRIVE = file_injection.CONFIG_DRIVE
LOOP0 = (7, 0)  # a disk that every host's kernel knows
NULL = (1, 3)
#: (path, content, mode) of what is written into every server.
ENTRIES = [
    ('/root/.ssh', None, 0o700), (KEYS, b'key', 0o600),
    ('/var/lib/cloud', None, 0o755), ('/var/lib/cloud/seed', None, 0o755),
    (DRIVE, None, 0o700), (f'{DRIVE}/meta', b'drive', 0o600),
    ('/etc/hosts', b'127.0.0.1 test', 0o644),
    ('/etc/motd', b'welcome', 0o644)]


def member(name, kind=tarfile.DIRTYPE, link='', data=b'', mode=0o755,
           device=(0, 0)):
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.mode = kind, link, mode
    found.size = len(data)
    found.devmajor, found.devminor = device
    return found, data


def link(name, target):
    return member(name, tarfile.SYMTYPE, target)


def file(name, data=b'theirs', mode=0o644):
    return member(name, tarfile.REGTYPE, data=data, mode=mode)


SSH = [member('root'), member('root/.ssh')]
CLOUD = [member('var'), member('var/lib'), member('var/lib/cloud')]
#: {what: (members; {V} in a link is a folder of the host, what is said)}
CASES: dict[str, tuple[list, str]] = {
    'keys absolute': ([*SSH, link('root/.ssh/authorized_keys', '{V}/file')],
                      ''),
    'keys up': ([*SSH, link('root/.ssh/authorized_keys',
                            UP + '{V}/file')], ''),
    'folder absolute': ([SSH[0], link('root/.ssh', '{V}')], ''),
    'folder up': ([SSH[0], link('root/.ssh', UP + '{V}')], ''),
    'root absolute': ([link('root', '{V}')], '/root is a link to .*/victim'),
    'root up': ([link('root', UP + '{V}')], '/root is a link'),
    'root a loop': ([link('root', 'root')], '/root is a link'),
    'root the root': ([link('root', '/')], ''),
    'root a file': ([file('root')], '/root is not a directory'),
    'root by proc': ([link('root', '/proc/1/root{V}')],
                     '/root is a link to /proc'),
    'root by proc self': ([link('root', '/proc/self/cwd/..{V}')],
                          '/root is a link to /proc'),
    'keys a pipe': ([*SSH, member('root/.ssh/authorized_keys',
                                  tarfile.FIFOTYPE)], ''),
    'keys a disk': ([*SSH, member('root/.ssh/authorized_keys',
                                  tarfile.BLKTYPE, device=LOOP0)], ''),
    'keys a device': ([*SSH, member('root/.ssh/authorized_keys',
                                    tarfile.CHRTYPE, device=NULL)], ''),
    'keys a folder': ([*SSH, member('root/.ssh/authorized_keys'),
                       file('root/.ssh/authorized_keys/in')], ''),
    'drive absolute': ([*CLOUD, link('var/lib/cloud/seed', '{V}')], ''),
    'drive up': ([*CLOUD, link('var/lib/cloud/seed', UP + '{V}')], ''),
    'var absolute': ([link('var', '{V}')], '/var is a link to .*/victim'),
    'etc absolute': ([link('etc', '{V}')], ''),
    'etc up': ([link('etc', UP + '{V}')], ''),
    'etc by two': ([link('etc', 'a/b'), member('a'), link('a/b', '/c'),
                    link('c', UP + '{V}')], ''),
    'etc a file': ([file('etc')], ''),
    'files of etc': ([member('etc'), *(
        link(f'etc/{name}', '{V}/file')
        for name in ('hosts', 'hostname', 'resolv.conf', 'mtab'))], ''),
    'places of mounts': ([link(name, '{V}')
                          for name in ('dev', 'proc', 'sys')], ''),
}


@pytest.fixture
def victim(tmp_path):
    """A folder of the host with a file; both are whole at the end."""
    folder = tmp_path / 'victim'
    folder.mkdir()
    (folder / 'file').write_text('mine')
    before = os.stat(folder / 'file')
    yield folder
    assert os.listdir(folder) == ['file']
    assert (folder / 'file').read_text() == 'mine'
    after = os.stat(folder / 'file')
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (
        before.st_mode, before.st_uid, before.st_mtime_ns)
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o755


@pytest.fixture
def host(dockerd, lan, tmp_path):
    found = computehost.ComputeHost(
        dockerd, lan, tmp_path / 'records', image=TAG.partition(':')[0],
        capabilities=(
            *docker_conf.CAPABILITIES, *docker_conf.ALLOWED_CAPABILITIES))
    yield found
    for uuid in list(found.containers.list()):
        found.containers.destroy(uuid)
    assert found.keeper.records.uuids() == []
    dockerd.engine.image_remove(TAG)


@pytest.fixture
def image(dockerd, victim) -> Callable:
    """Make the hostile image: busybox and more."""
    def make(members):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode='w') as tar:
            for info, data in (
                    member('bin'), link('bin/sh', 'busybox'),
                    file('bin/busybox', pathlib.Path(
                        '/bin/busybox').read_bytes(), 0o755), *members):
                info.linkname = info.linkname.replace('{V}', str(victim))
                tar.addfile(info, io.BytesIO(data))
        dockerd.engine.image_import(
            iter([out.getvalue()]), TAG,
            [f'CMD {json.dumps(dockerd_fixture.INIT)}'])
    return make


def busybox(host, instance, command) -> str:
    return host.inside(instance, f'busybox {command} 2>&1')


@pytest.mark.parametrize('name', CASES)
def test_no_link_leads_out_of_a_server(host, image, name):
    members, said = CASES[name]
    image(members)
    instance = host.instance()
    if said:
        with pytest.raises(exception.InvalidRequest,
                           match=f'cannot take .* of a new server: {said}'):
            host.spawn(instance, host.ports(), file_injection.tar(ENTRIES))
        assert host.containers.list() == {}
        return
    host.spawn(instance, host.ports(), file_injection.tar(ENTRIES))
    for path, content, _mode in ENTRIES:
        if content:
            assert busybox(host, instance, f'cat {path}') == content.decode()
    # Of one that already runs, and with what it has made of itself.
    assert host.dockerd.engine.run(
        host.container(instance)['Id'],
        ['busybox', 'sh', '-c', 'busybox cat >/etc/motd'], b'other'
    ) == (0, b'')


def test_a_password_is_written_inside_only(host, image):
    image([member('etc'), link('etc/passwd', '{V}/file'),
           link('etc/shadow', UP + '{V}/file'),
           file('bin/chpasswd', b'#!/bin/sh\nbusybox cat >>/etc/shadow\n',
                0o755)])
    instance = host.instance()
    instance.system_metadata = {}
    host.spawn(instance, host.ports())
    with pytest.raises(nova_exception.InstancePasswordSetFailed,
                       match="can't create /etc/shadow"):
        password.set_admin(host.dockerd.engine,
                           host.container(instance)['Id'], instance, 'new')


@pytest.mark.parametrize('kind', ['b', 'c'])
def test_a_disk_of_the_host_is_not_opened(host, image, kind):
    """By a node in the image, or one it makes itself."""
    image([member('d', tarfile.BLKTYPE if kind == 'b' else tarfile.CHRTYPE,
                  device=LOOP0 if kind == 'b' else (1, 1), mode=0o666),
           link('bin/mknod', 'busybox')])
    instance = host.instance()
    host.spawn(instance, host.ports())
    busybox(host, instance,
            f'mknod /e {kind} {"7 0" if kind == "b" else "1 1"}')
    for path in ('/d', '/e'):
        assert busybox(host, instance, f'test -{kind} {path} && echo there'
                       ).startswith('there')
        for way in ('<', '>'):
            assert 'Operation not permitted' in host.inside(
                instance, f'(: {way}{path}) 2>&1')


def test_a_rescued_disk_is_mounted_inside_only(host, image, victim,
                                               tmp_path):
    image([link('mnt', '{V}')])
    instance = host.instance()
    ports = host.ports()
    host.spawn(instance, ports)
    host.inside(instance, 'echo mine >/note')
    service = rescue.Rescue(host.dockerd.engine, host.containers,
                            str(tmp_path / 'rescue'))
    host.containers.stop(instance.uuid, 0)
    try:
        service.begin(None, instance, objects.ImageMeta(
            id=instance.image_ref), ports, b'')
        assert busybox(host, instance, 'cat /mnt/note') == 'mine\n'
        service.end(instance, ports, 0)
    finally:
        host.containers.destroy(instance.uuid, service.release)
    assert list((tmp_path / 'rescue').iterdir()) == []


@pytest.mark.parametrize('layers', [32, 1])
def test_a_snapshot_is_of_what_is_inside(host, image, victim, tmp_path,
                                         layers):
    """Links are kept as links, whatever they point at."""
    image([link('away', '{V}/file'), link('up', UP + '{V}'),
           link('bin/ln', 'busybox')])
    instance = host.instance()
    host.spawn(instance, host.ports())
    host.inside(instance, f'ln -s {victim}/file /later; '
                          f'ln -s {victim} /folder')
    with imageservice.serving(tmp_path) as glance:
        snapshot.Snapshots(
            host.dockerd.engine, host.containers, glance, layers).take(
                None, instance, 'image', lambda **_kwargs: None)
    found = {}
    with tarfile.open(tmp_path / 'image') as outer:
        for each in outer:
            if not each.isfile():
                continue
            data = outer.extractfile(each).read()
            if data[257:262] == b'ustar':
                with tarfile.open(fileobj=io.BytesIO(data)) as inner:
                    found |= {m.name.lstrip('./'): m for m in inner}
    assert {found[name].linkname
            for name in ('away', 'later')} == {f'{victim}/file'}
    assert all(found[name].issym()
               for name in ('away', 'up', 'later', 'folder'))
    assert images.REPOSITORY + 'image' not in ''.join(
        host.dockerd.engine.image_names('*'))

# SPDX-License-Identifier: Apache-2.0
"""What tenants have written, mounted on the host: nobody gains by it there."""

import os
import pathlib
import shutil
import stat
import subprocess
import tempfile

import computehost
from nova import objects
import pytest
from volumehost import VolumeHost
from volumehost import having

from nova_vcloud.conf import docker as docker_conf
from nova_vcloud.qos.disk import loop_file
from nova_vcloud.virt_docker.guest import container_spec
from nova_vcloud.virt_docker.guest import rescue
from nova_vcloud.virt_docker.host import host as docker_host
from nova_vcloud.virt_docker.rootfs import overlay

NOBODY = 65534
#: A program that says who runs it; a tenant has it run as root.
PROGRAM = '/usr/bin/id'


@pytest.fixture
def folder():
    """A directory of the host that anybody can enter, as /var/lib is."""
    made = pathlib.Path(tempfile.mkdtemp(prefix='nvm-'))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def plant(host, instance, place: str) -> None:
    """Let a tenant make a set-user-ID program and a device in a server."""
    name = container_spec.container_name(instance.uuid)
    host.dockerd.docker('cp', '-L', PROGRAM, f'{name}:/tmp/id')
    assert host.inside(instance, f'''
        cp /tmp/id {place}/id && chown 0:0 {place}/id &&
        chmod 4755 {place}/id && ls -l {place}/id''').startswith('-rwsr-xr-x')


def as_nobody(path: pathlib.Path, folder: pathlib.Path | None = None) -> str:
    """Run a program as a user of the host; return who it says it is.

    :param folder: where it is begun, by someone who has it open
    """
    words = [f'./{path.name}' if folder else str(path), '-u']
    try:
        return subprocess.run(words, cwd=folder, user=NOBODY, group=NOBODY,
                              extra_groups=(), capture_output=True,
                              text=True, check=True).stdout.strip()
    except PermissionError:
        return 'not reached'


def options(folder: pathlib.Path) -> dict[str, set[str]]:
    """Return {place: options of the mount} of what is mounted below."""
    found = {}
    for line in pathlib.Path('/proc/self/mountinfo').read_text().splitlines():
        fields = line.split()
        if fields[4].startswith(f'{folder}/'):
            found[fields[4]] = set(fields[5].split(','))
    return found


def assert_guarded(found: dict[str, set[str]]) -> None:
    assert found
    assert {place: have for place, have in found.items()
            if not have >= {'nosuid', 'nodev'}} == {}


@pytest.fixture
def rescued(dockerd, lan, tmp_path, folder):
    """A server that is rescued, with a trap on its disk.

    Where it is on the host, its host, and the server.
    """
    host = computehost.ComputeHost(
        dockerd, lan, tmp_path / 'records',
        capabilities=(*docker_conf.CAPABILITIES, 'MKNOD'))
    instance, ports = host.instance(), host.ports()
    host.spawn(instance, ports)
    plant(host, instance, '/root')
    host.inside(instance, 'chmod 755 / /root; mknod /root/null c 1 3')
    service = rescue.Rescue(dockerd.engine, host.containers,
                            str(folder / 'rescue'))
    host.containers.stop(instance.uuid, 0)
    try:
        service.begin(None, instance, objects.ImageMeta(
            id=instance.image_ref), ports, b'')
        yield folder / 'rescue' / instance.uuid, host, instance, service
    finally:
        host.containers.destroy(instance.uuid, service.release)


def test_a_rescued_disk_gives_a_user_of_the_host_nothing(rescued, folder):
    place, host, instance, _service = rescued
    program = place / 'root/id'
    assert stat.S_IMODE(program.stat().st_mode) == 0o4755
    assert as_nobody(program) == 'not reached'
    # Nor where somebody has the directory open already.
    assert as_nobody(program, program.parent) == str(NOBODY)
    with pytest.raises(PermissionError):
        os.open(place / 'root/null', os.O_RDWR)
    assert_guarded(options(folder))
    # Who rescues can use what is there.
    assert host.inside(instance, 'chroot /mnt echo run; echo >/mnt/made;'
                                 ' ls /mnt/made') == 'run\n/mnt/made\n'


def test_what_an_earlier_release_has_mounted_is_guarded(rescued, folder):
    place, _host, _instance, service = rescued
    subprocess.run(['mount', '-o', 'remount,bind,suid,dev', place],
                   check=True)
    (folder / 'rescue').chmod(0o755)
    # So the attack works, and is over when nova-compute has started.
    assert as_nobody(place / 'root/id') == '0'
    service.protect()
    assert as_nobody(place / 'root/id') == 'not reached'
    assert as_nobody(place / 'root/id', place / 'root') == str(NOBODY)
    assert_guarded(options(folder))


def test_volumes_that_are_filesystems_give_nothing(dockerd, lan, folder):
    with having(dockerd, lan, folder, 'filesystem') as host:
        instance, _ports = host.make(host.volume())
        try:
            check_volume(host, instance, folder)
        finally:
            host.destroy(instance)


def check_volume(host: VolumeHost, instance, folder: pathlib.Path) -> None:
    plant(host, instance, '/volumes/vdb')
    program = folder / 'mounts' / instance.uuid / 'vdb/id'
    assert stat.S_IMODE(program.stat().st_mode) == 0o4755
    assert as_nobody(program) == 'not reached'
    view = folder / 'mounts' / f'{instance.uuid}.guest'
    assert as_nobody(view / 'vdb/id') == 'not reached'
    assert as_nobody(program, program.parent) == str(NOBODY)
    assert_guarded(options(folder / 'mounts'))
    # Programs run in the server, for its users too.
    done = host.dockerd.docker(
        'exec', '--user', '100', host.container(instance)['Id'],
        'ls', '/volumes/vdb/id')
    assert done.stdout == '/volumes/vdb/id\n'
    assert host.inside(
        instance, 'cp /bin/busybox /volumes/vdb/echo;'
                  ' /volumes/vdb/echo run') == 'run\n'


@pytest.fixture
def on_file(dockerd, lan, tmp_path):
    """A host whose servers have root disks in files, and a server."""
    host = computehost.ComputeHost(
        dockerd, lan, tmp_path / 'records', disk_files=True,
        capabilities=(*docker_conf.CAPABILITIES, 'MKNOD'),
        no_new_privileges=False)
    instance = host.instance()
    host.spawn(instance, host.ports())
    plant(host, instance, '/root')
    host.inside(instance, 'chmod 755 / /root')
    yield host, instance
    host.containers.destroy(instance.uuid)


def layer_of(host, instance) -> pathlib.Path:
    return pathlib.Path(overlay.upper(host.container(instance)))


def test_root_disks_in_files_give_nothing(on_file):
    host, instance = on_file
    upper = layer_of(host, instance)
    assert os.path.ismount(upper.parent)
    assert as_nobody(upper / 'root/id', upper / 'root') == str(NOBODY)
    assert_guarded({place: have for place, have in options(
        host.dockerd.home).items() if place == str(upper.parent)})


def test_set_user_id_programs_work_inside_of_such(on_file):
    """The flavor allows it: it is the server's own affair."""
    host, instance = on_file
    host.inside(instance, '''
        echo root::0:0::/:/bin/sh >/etc/passwd
        mkdir -m 755 /x; cp /bin/busybox /x/su; chmod 4755 /x/su''')
    done = host.dockerd.docker('exec', '--user', '100',
                               host.container(instance)['Id'], '/x/su', '-c',
                               'id -u')
    assert done.stdout == '0\n'
    host.inside(instance, 'mknod /x/null c 1 3; chmod 666 /x/null')
    assert host.inside(instance, 'echo gone >/x/null && cat /x/null') == ''


def test_root_disks_of_an_earlier_release_are_guarded(on_file):
    host, instance = on_file
    upper = layer_of(host, instance)
    subprocess.run(['mount', '-o', 'remount,bind,suid,dev', upper.parent],
                   check=True)
    assert as_nobody(upper / 'root/id', upper / 'root') == '0'
    assert loop_file.sweep(str(host.dockerd.home / 'data')) == []
    assert as_nobody(upper / 'root/id', upper / 'root') == str(NOBODY)
    assert host.inside(instance, 'echo runs on') == 'runs on\n'


def test_an_engine_whose_store_is_open_to_all_is_told_of(folder):
    store = folder / 'docker/data'
    store.mkdir(parents=True)
    for path in (store, store.parent):
        path.chmod(0o755)
    assert f'chmod 0710 {store}' in docker_host.open_to_all(str(store))
    store.chmod(0o710)
    assert docker_host.open_to_all(str(store)) == ''
    store.chmod(0o755)
    store.parent.chmod(0o700)
    assert docker_host.open_to_all(str(store)) == ''


def test_the_engine_keeps_its_store_to_itself(dockerd):
    assert not (dockerd.home / 'data').stat().st_mode & stat.S_IRWXO

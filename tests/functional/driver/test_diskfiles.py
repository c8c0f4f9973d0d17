# SPDX-License-Identifier: Apache-2.0
"""Root disks of a size, each in a file of its own."""

import contextlib
import os
import pathlib
import subprocess
import sys
import textwrap
import time
import uuid

from backend_contract import Contract
from backend_contract import Place
import computehost
import dockerd as dockerd_fixture
import leaks
import pytest
from rootdisk import fill
from rootdisk import spawn

from nova_vcloud import exception
from nova_vcloud.guest import Guest
from nova_vcloud.qos import limits
from nova_vcloud.qos.backends import disk
from nova_vcloud.qos.disk import loop_file
from nova_vcloud.qos.disk import rootfs
from nova_vcloud.virt_docker.guest import container_spec
from nova_vcloud.virt_docker.rootfs import overlay

MIB = 2**20
GIB = 2**30


@pytest.fixture
def host(dockerd, lan, tmp_path):
    found = computehost.ComputeHost(dockerd, lan, tmp_path, disk_files=True)
    yield found
    for server in list(found.containers.list()):
        found.containers.destroy(server)


def df(host, instance):
    """Return the MiB of the disk, used and free, as seen inside."""
    line = host.inside(instance, 'df -m /').splitlines()[-1]
    return tuple(int(word) for word in line.split()[1:4])


def size(host, instance):
    status = host.keeper.status(instance.uuid)
    assert not status.drift
    return status.effective.value('disk.max')


def files(host):
    return {path.name for path in host.dockerd.disks.iterdir()}


def place(host, instance):
    """Return the directory of a server's layer."""
    return pathlib.Path(overlay.upper(host.container(instance))).parent


def test_df_tells_the_size_and_who_fills_a_disk_fills_only_that(host):
    instance, _ports = spawn(host)
    other, _ports = spawn(host, root_gb=3)
    assert size(host, instance) == GIB
    total, _used, free = df(host, instance)
    assert total == 1024
    assert free > 0.95 * 1024
    assert df(host, other)[0] == 3072
    room = os.statvfs(host.dockerd.home)
    done = host.dockerd.docker(
        'exec', container_spec.container_name(instance.uuid), 'sh', '-c',
        'dd if=/dev/zero of=/file bs=1M count=1100 conv=fsync', check=False)
    assert 'No space left on device' in done.stderr
    left = os.statvfs(host.dockerd.home)
    taken = (room.f_bfree - left.f_bfree) * left.f_frsize
    assert taken < GIB + loop_file.JOURNAL
    found = host.parts.disk.figures(host.container(instance)['Id'])
    assert found['disk_limit_bytes'] == GIB
    assert 0.97 * GIB < found['disk_used_bytes'] <= GIB
    assert not fill(host, other, 'some', 2000).returncode
    # It goes on, and can make room.
    host.inside(instance, 'rm /file && echo well >/file')
    assert host.inside(instance, 'cat /file') == 'well\n'


def test_nothing_is_left_of_a_server_that_is_deleted(host):
    store = host.dockerd.home / 'data/overlay2'
    before = {path for path in store.glob('**') if path.parent == store}
    links = set((store / 'l').iterdir())
    instance, _ports = spawn(host)
    assert files(host) == {host.container(instance)['Id']}
    assert leaks.loops(host.dockerd.disks)
    host.inside(instance, 'echo mine >/file')
    host.containers.destroy(instance.uuid)
    assert files(host) == set()
    assert not leaks.loops_left(host.dockerd.disks)
    assert {path for path in store.glob('**') if path.parent == store} == \
        before
    assert set((store / 'l').iterdir()) == links


def test_a_disk_goes_with_a_container_that_was_removed_by_hand(host):
    instance, _ports = spawn(host)
    host.dockerd.docker('rm', '--force',
                        container_spec.container_name(instance.uuid))
    host.containers.destroy(instance.uuid)
    assert files(host) == set()


def test_a_disk_grows_while_the_server_runs_and_stays_so(host):
    instance, ports = spawn(host)
    assert not fill(host, instance, 'most', 900).returncode
    before = host.container(instance)['State']
    host.containers.resize(instance, host.flavor(root_gb=2), ports)
    assert host.container(instance)['State'] == before
    assert size(host, instance) == 2 * GIB
    assert df(host, instance)[0] == 2048
    instance.flavor = host.flavor(root_gb=2)
    host.dockerd.docker('restart', '-t', '0', f'nova-{instance.uuid}')
    assert df(host, instance)[0] == 2048
    host.containers.reboot(instance, ports, 0)
    host.dockerd.kill()
    host.dockerd.start()
    assert not fill(host, instance, 'more', 900).returncode
    assert fill(host, instance, 'rest', 300).returncode
    assert size(host, instance) == 2 * GIB


def without_mounts(host):
    """Have no disk mounted, as after a reboot of the host."""
    for path in (host.dockerd.home / 'data/overlay2').iterdir():
        if os.path.ismount(path):
            subprocess.run(['umount', path], check=True)
    assert not leaks.loops_left(host.dockerd.disks)


def test_a_disk_is_mounted_again_when_the_server_is_started(host):
    instance, ports = spawn(host)
    host.inside(instance, 'echo mine >/file')
    host.containers.stop(instance.uuid, 0)
    without_mounts(host)
    # Nobody else can start it on an empty disk.
    done = host.dockerd.docker(
        'start', container_spec.container_name(instance.uuid), check=False)
    assert 'no such file or directory' in done.stderr
    host.containers.start(instance, ports)
    assert host.inside(instance, 'cat /file') == 'mine\n'
    assert df(host, instance)[0] == 1024
    assert size(host, instance) == GIB


def test_an_engine_that_ends_lets_go_of_disks_of_servers_at_rest(host):
    instance, ports = spawn(host)
    host.inside(instance, 'echo mine >/file')
    host.containers.stop(instance.uuid, 0)
    host.dockerd.stop()
    host.dockerd.start()
    host.containers.resize(instance, host.flavor(root_gb=2), ports)
    instance.flavor = host.flavor(root_gb=2)
    host.containers.start(instance, ports)
    assert host.inside(instance, 'cat /file') == 'mine\n'
    assert df(host, instance)[0] == 2048


def test_a_disk_that_is_lost_is_said(host):
    instance, ports = spawn(host)
    host.containers.stop(instance.uuid, 0)
    without_mounts(host)
    (path,) = host.dockerd.disks.iterdir()
    aside = path.rename(path.parents[1] / 'aside')
    with pytest.raises(exception.LimitNotEnforced,
                       match=f'is lost: there is no {path}'):
        host.containers.start(instance, ports)
    aside.rename(path)
    host.containers.start(instance, ports)


def test_a_disk_that_cannot_be_made_leaves_nothing(host, monkeypatch):
    def broken(*words):
        if words[0] == 'cp':
            raise exception.LimitNotEnforced('cp: broken')
        return tool(*words)

    tool = rootfs.tool
    monkeypatch.setattr(rootfs, 'tool', broken)
    instance = host.instance()
    with pytest.raises(exception.LimitNotEnforced,
                       match=r'does not fit .*: cp: broken'):
        host.spawn(instance, host.ports())
    assert files(host) == set()
    assert not host.dockerd.containers()


@pytest.fixture
def container(host):
    """A container that was made and has no disk yet."""
    engine = host.dockerd.engine
    found = engine.create(f'nova-{uuid.uuid4()}', {
        'Image': dockerd_fixture.IMAGE, 'HostConfig': {'NetworkMode': 'none'}})
    yield found
    with contextlib.suppress(exception.ContainerNotFound):
        engine.remove(found)
    host.parts.disk.forget(found)


@pytest.mark.parametrize(('program', 'sweep'), [
    ('mkfs.xfs', True), ('cp', True), ('cp', False)])
def test_what_is_half_made_is_removed(host, container, program, sweep):
    """At a start, or when the container is to have one again."""
    root = str(host.dockerd.root)
    child = os.fork()
    if not child:
        run = rootfs.tool
        rootfs.tool = lambda *words: (
            os._exit(9) if words[0] == program else run(*words))
        try:
            loop_file.limit(root, container, GIB, whole=False)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert files(host) == {f'{container}.new'}
    if sweep:
        host.parts.disk.sweep()
        assert files(host) == set()
        assert not leaks.loops_left(host.dockerd.disks)
    loop_file.limit(root, container, GIB, whole=False)
    assert files(host) == {container}
    assert loop_file.look(root, container)[1] == GIB
    host.parts.disk.sweep()
    assert files(host) == {container}


def test_what_a_start_finds_of_nobody_is_removed(host, container):
    other, _ports = spawn(host)
    root = str(host.dockerd.root)
    loop_file.limit(root, container, GIB, whole=False)
    # By someone who does not know of disks.
    host.dockerd.docker('rm', container)
    host.parts.disk.sweep()
    assert files(host) == {host.container(other)['Id']}
    assert host.inside(other, 'echo well >/file && cat /file') == 'well\n'


def test_a_server_of_before_gets_a_disk_when_it_is_stopped(host, tmp_path):
    """What it has written moves onto it."""
    before = computehost.ComputeHost(host.dockerd, host.lan, tmp_path)
    instance, ports = spawn(before)
    script = ('mkdir /d && echo mine >/d/file && ln /d/file /d/link && '
              'rm -r /root && mkfifo /d/pipe && chown 5:6 /d/file')
    assert before.inside(instance, script) == ''
    with pytest.raises(exception.LimitNotEnforced,
                       match='no root disk of its own yet: stop it first'):
        host.containers.resize(instance, host.flavor(root_gb=1), ports)
    assert files(host) == set()
    host.containers.reboot(instance, ports, 0)
    assert df(host, instance)[0] == 1024
    assert host.inside(
        instance, 'ls / && stat -c "%u %g %h" /d/file && cat /d/link') == \
        'bin\nd\ndev\netc\nproc\nsys\ntmp\n5 6 2\nmine\n'
    assert size(host, instance) == GIB


def test_a_disk_too_small_for_what_is_there_is_refused(host, container):
    engine, root = host.dockerd.engine, str(host.dockerd.root)
    engine.start(container)
    host.dockerd.docker('exec', container, 'dd', 'if=/dev/zero', 'of=/file',
                        'bs=1M', 'count=330')
    engine.stop(container, 0)
    with pytest.raises(exception.LimitNotEnforced,
                       match=r'does not fit.* 320 MiB: .*No space left'):
        loop_file.limit(root, container, 320 * MIB, whole=False)
    assert files(host) == set()
    loop_file.limit(root, container, 640 * MIB, whole=False)
    engine.start(container)
    done = host.dockerd.docker('exec', container, 'ls', '-l', '/file')
    assert str(330 * MIB) in done.stdout


def test_a_host_without_the_option_knows_disks_all_the_same(host, tmp_path):
    instance, ports = spawn(host)
    after = computehost.ComputeHost(host.dockerd, host.lan, tmp_path)
    after.containers.stop(instance.uuid, 0)
    without_mounts(host)
    after.containers.start(instance, ports)
    assert df(host, instance)[0] == 1024
    after.containers.destroy(instance.uuid)
    assert files(host) == set()


def test_space_is_taken_as_it_is_used_or_at_once(host, lan, tmp_path):
    other = computehost.ComputeHost(host.dockerd, lan, tmp_path,
                                    disk_files=True, whole=True)
    sparse, whole = spawn(host)[0], spawn(other)[0]
    host.inside(sparse, 'dd if=/dev/zero of=/file bs=1M count=200 conv=fsync')
    assert 260 < taken(host, sparse) < 280
    host.inside(sparse, 'rm /file && sync')
    deadline = time.monotonic() + 60
    while taken(host, sparse) > 70:
        assert time.monotonic() < deadline
        time.sleep(0.5)
        host.inside(sparse, 'sync')
    assert taken(other, whole) == 1024 + 64
    assert df(other, whole)[0] == 1024
    other.inside(whole, 'dd if=/dev/zero of=/file bs=1M count=200 conv=fsync')
    other.containers.resize(whole, host.flavor(root_gb=2), host.ports())
    other.inside(whole, 'rm /file && sync')
    assert taken(other, whole) == 2048 + 64
    other.containers.destroy(whole.uuid)


def taken(host, instance):
    """Return the MiB that a server's file has in the store."""
    path = host.dockerd.disks / host.container(instance)['Id']
    return path.stat().st_blocks * 512 >> 20


def test_a_size_that_is_reverted_stays(host):
    """xfs cannot be made smaller; nothing is lost by it."""
    instance, ports = spawn(host, root_gb=2)
    host.containers.resize(instance, host.flavor(root_gb=1), ports)
    assert size(host, instance) == 2 * GIB
    assert df(host, instance)[0] == 2048


def test_a_disk_of_any_size_is_no_file(host):
    instance, _ports = spawn(host, root_gb=0)
    assert files(host) == set()
    assert size(host, instance) is limits.UNLIMITED


#: Forks the daemon as root, then gives root up for good, as a service does.
SCRIPT = """
    import json, os
    from oslo_config import cfg
    from oslo_privsep import priv_context
    from nova_vcloud import privsep
    from nova_vcloud.qos.disk import loop_file

    cfg.CONF([], project='test')
    privsep.disk.start(priv_context.Method.FORK)
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)

    root, container = ROOT, CONTAINER
    files = loop_file.Files()
    reason = files.why_not({'DockerRootDir': root, 'Driver': 'overlay2'})
    assert not reason, reason
    for size in (1 << 30, 2 << 30):
        files.limit(root, container, size)
        files.mount(root, container)
        assert files.look(root, container)[1] == size
    loop_file.forget(root, container)
    assert not loop_file.sweep(root)
    print('done')
    """


def test_every_verb_through_the_daemon(host, container):
    """From a user without privileges."""
    script = SCRIPT.replace('ROOT', repr(str(host.dockerd.root)))
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', textwrap.dedent(
            script).replace('CONTAINER', repr(container))],
        capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr[-2000:]) == ('done\n', '')
    assert files(host) == {container}


class TestDisk(Contract):
    """Disks of containers that are stopped."""

    @pytest.fixture
    def place(self, dockerd):
        made = [dockerd.engine.create(f'nova-{uuid.uuid4()}', {
            'Image': dockerd_fixture.IMAGE,
            'HostConfig': {'NetworkMode': 'none'}}) for _ in range(2)]
        backend = disk.DiskBackend(dockerd.engine, loop_file.Files())
        try:
            yield Place(backend, *(
                Guest('', name, '') for name in (*made, 'absent')), {},
                values={disk.KIND: (GIB, 2 * GIB)},
                bounded=frozenset({disk.KIND}))
        finally:
            for container in made:
                dockerd.engine.remove(container)
                backend.forget(container)

# SPDX-License-Identifier: Apache-2.0
"""Root of a server: what it is on the host, and what it leaves to others.

One engine maps ids (userns-remap), the other does not; both are real.
"""

import io
import os
import pathlib
import signal
import struct
import subprocess
import sys
import tarfile

import computehost
import dockerd as dockerd_fixture
import pytest
from volumehost import having

from nova_vcloud import exception
from nova_vcloud import idmounts
from nova_vcloud import userns
from nova_vcloud.conf import docker as docker_conf
from nova_vcloud.virt_docker.guest import live_processes
from nova_vcloud.virt_docker.rootfs import overlay
from nova_vcloud.virt_docker.volumes import devicebinds

#: Capabilities of a file as setcap(8) writes them: cap_net_raw=ep.
CAPABILITY = struct.pack('<IIIII', 0x02000001, 1 << 13, 0, 0, 0)
#: An access list: user 5 may read.
ACL = struct.pack('<I' + 'HHI' * 5, 2, 1, 6, 0xffffffff, 2, 4, 5,
                  4, 4, 0xffffffff, 0x10, 4, 0xffffffff, 0x20, 4, 0xffffffff)
#: What a process does as root of the user namespace of another.
AS_ROOT = '''
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
root = os.open(f'/proc/{sys.argv[1]}/root', os.O_RDONLY)
space = os.open(f'/proc/{sys.argv[1]}/ns/user', os.O_RDONLY)
assert libc.setns(space, 0x10000000) == 0, ctypes.get_errno()
os.setgroups([])
os.setresgid(0, 0, 0)
os.setresuid(0, 0, 0)
'''
TAKE_ALL = AS_ROOT + '''
count = 0
while libc.inotify_init1(0) >= 0 and count < 100000:
    count += 1
print(count, flush=True)
sys.stdin.read()
'''
#: With no capability, by the group alone (icmp(7)).
PING = AS_ROOT.replace('assert', """
net = os.open(f'/proc/{sys.argv[1]}/ns/net', os.O_RDONLY)
assert libc.setns(net, 0x40000000) == 0, ctypes.get_errno()
assert""", 1) + '''
socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
'''
MARK = AS_ROOT + '''
os.fchdir(root)
os.setxattr('data/tool', 'security.capability', bytes.fromhex(sys.argv[2]))
os.setxattr('data/shared', 'system.posix_acl_access',
            bytes.fromhex(sys.argv[3]))
os.setxattr('data/shared', 'user.colour', b'blue')
'''
WRITE = '''
set -e
mkdir -p /data/deep && cd /data
echo tool >tool && chmod 755 tool
echo shared >shared && chown 1234:4321 shared && chmod 6711 shared
ln shared deep/hard
rm /bin/vi
rm -rf /tmp && mkdir /tmp && echo new >/tmp/only
'''
LOOK = '''
cd / && find data tmp -exec stat -c '%n|%F|%a|%u|%g|%h|%s' {} \\; | sort
ls /bin/vi 2>&1 || true
'''


@pytest.fixture(scope='module')
def mapped():
    """An engine whose containers have user namespaces."""
    with dockerd_fixture.private(remap='default') as found:
        yield found


@pytest.fixture
def host(mapped, lan, tmp_path):
    """A compute host with that engine."""
    return computehost.ComputeHost(
        mapped, lan, tmp_path / 'records',
        capabilities=(*docker_conf.CAPABILITIES, 'NET_RAW'),
        allowed_devices=('/dev/loop0',))


@pytest.fixture
def spawn(host):
    """Return what makes a server; all are destroyed."""
    made = []

    def make():
        instance, ports = host.instance(), host.ports()
        made.append(instance)
        host.spawn(instance, ports)
        return instance
    yield make
    for instance in made:
        host.containers.destroy(instance.uuid)


@pytest.fixture
def containers(mapped, dockerd):
    """Return what makes a container on an engine; all are removed."""
    made = []

    def make(engine, name):
        made.append((engine, name))
        engine.engine.create(name, {
            'Image': dockerd_fixture.IMAGE, 'Tty': True,
            'HostConfig': {'NetworkMode': 'none'}})
        return engine.engine.container(name)
    yield make
    for engine, name in made:
        engine.engine.remove(name)


def pid(engine, name):
    return engine.engine.container(name)['State']['Pid']


def as_root(number, script, *words, **pipes):
    return subprocess.Popen([sys.executable, '-c', script, str(number),
                             *words], text=True, **pipes)


def inside(engine, name, command):
    return engine.docker('exec', name, 'sh', '-c', command).stdout


def test_root_of_a_server_is_nobody_on_the_host(host, spawn):
    instance = spawn()
    number = host.container(instance)['State']['Pid']
    found = pathlib.Path(f'/proc/{number}/uid_map').read_text().split()
    assert found[0] == '0'
    assert int(found[1]) == host.ids.root[0] >= 1000
    status = pathlib.Path(f'/proc/{number}/status').read_text()
    uids = next(line for line in status.splitlines() if 'Uid' in line)
    assert set(uids.split()[1:]) == {found[1]}
    host.inside(instance, 'cp /bin/busybox /sh && chmod 4755 /sh')
    made = os.stat(pathlib.Path(overlay.upper(host.container(instance)),
                                'sh'))
    # Whoever runs it on the host becomes that user, not root.
    assert (made.st_uid, made.st_mode & 0o7777) == (int(found[1]), 0o4755)


def test_the_network_of_a_server_is_its_own_as_without(host, spawn):
    instance = spawn()
    name = host.network.namespace(instance.uuid)
    number = host.container(instance)['State']['Pid']
    for kind, place in (('user', userns.path(name)),
                        ('net', f'/run/netns/{name}')):
        assert os.path.samefile(f'/proc/{number}/ns/{kind}', place)
    assert sorted(host.inside(instance, 'ls /sys/class/net').split()) \
        == ['eth0', 'lo']
    assert '0% packet loss' in host.inside(
        instance, 'ping -c 1 -W 5 127.0.0.1')
    with as_root(number, PING) as done:
        assert done.wait() == 0
    # Below 1024, by NET_BIND_SERVICE.
    assert 'open' in host.inside(
        instance, 'nc -l -p 80 </dev/null >/dev/null & '
        'for i in $(seq 50); do nc -w 1 127.0.0.1 80 </dev/null && '
        'echo open && break; sleep 0.1; done; kill %1 2>/dev/null')


def test_nothing_of_a_namespace_is_left(host, spawn):
    instance = spawn()
    name = host.network.namespace(instance.uuid)
    assert userns.exists(name)
    host.containers.destroy(instance.uuid)
    assert not os.path.lexists(userns.path(name))


def test_without_its_namespace_a_server_does_not_start(host, spawn):
    instance = spawn()
    name = f'nova-{instance.uuid}'
    host.dockerd.engine.stop(name, 0)
    found = host.container(instance)
    (host.dockerd.links / f'{found["Id"]}.user').unlink()
    with pytest.raises(exception.EngineError, match='user namespace'):
        host.dockerd.engine.start(name)


def test_one_server_takes_no_inotify_instances_of_others(host, spawn):
    first, second = spawn(), spawn()
    numbers = [host.container(each)['State']['Pid']
               for each in (first, second)]
    limit = int(pathlib.Path(
        '/proc/sys/user/max_inotify_instances').read_text())
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
    with as_root(numbers[0], TAKE_ALL, **pipes) as greedy:
        try:
            taken = int(greedy.stdout.readline())
            assert 0 < taken <= limit
            with as_root(numbers[1], TAKE_ALL, **pipes) as other:
                assert int(other.stdout.readline()) == limit
                other.send_signal(signal.SIGKILL)
        finally:
            greedy.send_signal(signal.SIGKILL)


def test_each_namespace_has_an_owner_of_its_own(host, spawn):
    owners = {userns.owner(userns.path(host.network.namespace(each.uuid)))
              for each in (spawn(), spawn(), spawn())}
    assert len(owners) == 3
    assert min(owners) >= host.ids.root[0]


def test_a_volume_has_the_owners_that_servers_know(mapped, dockerd, lan,
                                                   tmp_path):
    """On a host with user namespaces, then without, then with."""
    volume = None
    for number, (engine, expected) in enumerate((
            (mapped, ''), (dockerd, '0 7\n'), (mapped, '0 7\n0 7\n'))):
        folder = tmp_path / str(number)
        folder.mkdir()
        with having(engine, lan, folder, 'filesystem') \
                as found:
            volume = volume or found.volume()
            instance, _ports = found.make()
            found.volumes.attach(instance.uuid, volume, '/dev/vdb')
            assert found.inside(
                instance, "stat -c '%u %g' /volumes/vdb/*") == expected
            assert found.inside(
                instance, f'touch /volumes/vdb/{number} && '
                f'chown 0:7 /volumes/vdb/{number} && echo made') == 'made\n'
            found.volumes.detach(instance.uuid, '/dev/vdb')


def test_a_disk_is_given_to_a_server_that_runs(mapped, lan, tmp_path):
    with having(mapped, lan, tmp_path, 'device') as found:
        volume = found.volume()
        instance, ports = found.make()
        read = 'dd if=/dev/vdb of=/dev/null bs=4k count=1 2>&1'
        found.volumes.attach(instance.uuid, volume, '/dev/vdb')
        assert '1+0 records in' in found.inside(instance, read)
        assert found.inside(
            instance, "stat -c '%u %g %a' /dev/vdb") == '0 0 660\n'
        found.containers.reboot(instance, ports, 0)
        assert '1+0 records in' in found.inside(instance, read)
        found.volumes.detach(instance.uuid, '/dev/vdb')
        assert found.inside(instance, 'ls /dev | grep vd') == ''
        assert not pathlib.Path(devicebinds.FOLDER, found.network.namespace(
            instance.uuid)).exists()


def test_a_device_that_is_roots_is_refused(host):
    instance = host.instance(vcloud__devices='/dev/loop0')
    with pytest.raises(exception.InvalidRequest, match='user namespaces'):
        host.spawn(instance, host.ports())


def carry(engine, name, other, target, archive):
    """Put what a container has written into one of another engine."""
    source, dest = (each.engine.container(n) for each, n in (
        (engine, name), (other, target)))
    overlay.pack(overlay.upper(source), [], archive,
                 ids=userns.of_engine(engine.engine.info()))
    overlay.unpack([archive], overlay.upper(dest), overlay.log(dest),
                   1 << 20, userns.of_engine(other.engine.info()))


def test_owners_are_kept_between_hosts_with_and_without(
        mapped, dockerd, containers, tmp_path):
    plain, with_ids = dockerd, mapped
    containers(with_ids, 'first')
    with_ids.engine.start('first')
    inside(with_ids, 'first', WRITE)
    with as_root(pid(with_ids, 'first'), MARK, CAPABILITY.hex(), ACL.hex()) \
            as done:
        assert done.wait() == 0
    before = inside(with_ids, 'first', LOOK)
    with_ids.engine.stop('first', 0)
    containers(plain, 'second')
    containers(with_ids, 'third')
    root = userns.of_engine(with_ids.engine.info()).root[0]
    for engine, name, other, target, capability, user in (
            (with_ids, 'first', plain, 'second', CAPABILITY, 5),
            (plain, 'second', with_ids, 'third', None, root + 5)):
        carry(engine, name, other, target, str(tmp_path / target))
        other.engine.start(target)
        assert inside(other, target, LOOK) == before
        data = pathlib.Path(
            overlay.upper(other.engine.container(target)), 'data')
        found = os.getxattr(data / 'tool', 'security.capability')
        # Of a user namespace: version 3, which ends with its root's id.
        assert found == capability if capability else \
            (len(found), found[-4:]) == (24, struct.pack('<I', root))
        acl = os.getxattr(data / 'shared', 'system.posix_acl_access')
        assert struct.unpack_from('<I', acl, 4 + 8 + 4)[0] == user
        assert os.getxattr(data / 'shared', 'user.colour') == b'blue'
        other.engine.stop(target, 0)


def test_an_owner_that_no_server_has_is_refused(mapped, containers,
                                                tmp_path):
    target = containers(mapped, 'target')
    ids = userns.of_engine(mapped.engine.info())
    archive = tmp_path / 'forged.tar'
    with tarfile.open(archive, 'w') as tar:
        member = tarfile.TarInfo(f'{overlay.LAYER}/big')
        member.uid = sum(count for _in, _out, count in ids.uids)
        tar.addfile(member, io.BytesIO())
    with pytest.raises(exception.MoveFailed, match='tar'):
        overlay.unpack([str(archive)], overlay.upper(target),
                       overlay.log(target), 1 << 20, ids)


def test_a_view_is_the_servers_and_writes_as_it(tmp_path):
    ids = userns.IdMap(((0, 100000, 65536),), ((0, 200000, 65536),))
    tmp_path.chmod(0o755)
    os.chown(tmp_path, 100000, 200000)
    with idmounts.view(str(tmp_path), ids) as seen:
        made = pathlib.Path(seen, 'file')
        made.touch()
        os.chown(made, 7, 8)
        assert (os.stat(seen).st_uid, os.stat(seen).st_gid) == (0, 0)
        with pytest.raises(OSError, match='Value too large'):
            os.chown(made, 65536, 8)
    found = os.stat(tmp_path / 'file')
    assert (found.st_uid, found.st_gid) == (100007, 200008)


def test_it_has_the_shm_and_the_open_files_of_its_flavor(host, spawn):
    """Where the host may set the latter, otherwise the engine's."""
    def seen():
        return host.inside(instance, (
            "df -k /dev/shm | awk 'END {print $2 / 1024}'; ulimit -Sn"))
    instance, most = spawn(), live_processes.most_files()
    files = host.containers._processes.most_files(most) and min(1024, most)
    assert seen().split()[0] == '32'
    host.containers.resize(instance, host.flavor(memory_mb=128),
                           host.ports(0))
    assert seen().split()[0] == '64'
    if files:
        assert seen().split()[1] == str(files)
        return
    with pytest.raises(exception.InvalidRequest,
                       match='no CAP_SYS_RESOURCE'):
        host.containers.resize(
            instance, host.flavor(vcloud__nofile='100'), host.ports(0))

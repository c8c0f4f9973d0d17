# SPDX-License-Identifier: Apache-2.0
"""How servers are started and what they may, read back from the kernel."""

import pathlib

import computehost
import lan as lan_fixture
import pytest

from nova_vcloud import exception
from nova_vcloud.conf import docker as docker_conf
from nova_vcloud.virt_docker.migration import resize

#: linux/capability.h
BITS = {'CHOWN': 0, 'KILL': 5, 'NET_ADMIN': 12, 'SETUID': 7}
DEVICE = '/dev/fuse'  # that an engine gives to nobody by itself
INIT = "sh -c 'trap exit TERM; while :; do sleep 1 & wait; done'"


@pytest.fixture
def host(dockerd, lan, tmp_path):
    found = computehost.ComputeHost(
        dockerd, lan, tmp_path / 'records',
        allowed_capabilities=('NET_ADMIN',), allowed_devices=(DEVICE,))
    yield found
    for uuid in list(found.containers.list()):
        found.containers.destroy(uuid)
    assert found.keeper.records.uuids() == []


@pytest.fixture
def spawn(host):
    def spawn(image=None, **specs):
        instance = host.instance(**specs)
        instance.system_metadata = {
            f'image_{key}': value for key, value in (image or {}).items()}
        host.spawn(instance, host.ports())
        return instance
    return spawn


def status(host, instance) -> dict[str, str]:
    """Return what the kernel says of a server's first process."""
    pid = host.container(instance)['State']['Pid']
    lines = pathlib.Path(f'/proc/{pid}/status').read_text().splitlines()
    found = dict(line.split(':\t', 1) for line in lines if ':\t' in line)
    seen = host.inside(instance, 'cat /proc/1/status')
    for key in ('CapBnd', 'CapEff', 'NoNewPrivs', 'Seccomp'):
        assert f'{key}:\t{found[key]}' in seen
    return found


def mask(*names: str) -> int:
    return sum(1 << BITS[name] for name in names)


def test_a_server_may_what_is_listed_and_no_more(host, spawn):
    found = status(host, spawn())
    for kind in ('CapBnd', 'CapEff', 'CapPrm'):
        assert int(found[kind], 16) == mask('CHOWN', 'KILL')
    assert int(found['CapInh'], 16) & ~mask('CHOWN', 'KILL') == 0
    assert found['NoNewPrivs'] == '1'
    assert found['Seccomp'] == '2'  # a filter


def test_a_flavor_adds_what_the_operator_allows(host, spawn):
    instance = spawn(vcloud__capabilities='NET_ADMIN,CHOWN',
                     vcloud__no_new_privileges='false',
                     vcloud__devices=DEVICE)
    found = status(host, instance)
    for kind in ('CapBnd', 'CapEff'):
        assert int(found[kind], 16) == mask('CHOWN', 'KILL', 'NET_ADMIN')
    assert (found['NoNewPrivs'], found['Seccomp']) == ('0', '2')
    assert host.inside(instance, f': <>{DEVICE} && echo open') == 'open\n'


def test_without_the_flavor_there_is_no_device(host, spawn):
    instance = spawn()
    assert host.inside(instance, f'ls {DEVICE}') == ''


@pytest.mark.parametrize(('specs', 'said'), [
    ({'vcloud__capabilities': 'NET_ADMIN,SYS_ADMIN'},
     r'SYS_ADMIN is not in \[docker\] allowed_capabilities'),
    ({'vcloud__devices': '/dev/loop-control'},
     r'/dev/loop-control is not in \[docker\] allowed_devices'),
    ({'vcloud__devices': '/dev/../etc/passwd'}, 'vcloud:devices'),
    ({'vcloud__capabilities': 'ALL'}, 'ALL is not in'),
    ({'vcloud__init': 'upstart'}, 'vcloud:init=upstart')])
def test_what_is_not_allowed_is_named_and_nothing_left(spawn, specs, said):
    with pytest.raises(exception.InvalidRequest, match=said):
        spawn(**specs)


@pytest.mark.parametrize(('path', 'said'), [
    ('/dev/nowhere', 'No such file'), ('/dev/shm', 'is not a device')])
def test_a_device_that_is_none_is_named(dockerd, lan, tmp_path, path, said):
    host = computehost.ComputeHost(dockerd, lan, tmp_path / 'records',
                                   allowed_devices=(path,))
    with pytest.raises(exception.InvalidRequest, match=f'{path}.*{said}'):
        host.spawn(host.instance(vcloud__devices=path), host.ports())
    assert host.containers.list() == {}


@pytest.mark.parametrize('name', ['capabilities', 'devices',
                                  'no_new_privileges'])
def test_an_image_gets_no_privileges(spawn, name):
    with pytest.raises(exception.InvalidRequest,
                       match='an image cannot ask for that'):
        spawn({f'vcloud_{name}': 'true'})


def test_an_image_says_how_it_is_started(host, spawn):
    instance = spawn({
        'vcloud_command': "'say it' twice", 'vcloud_stop_signal': 'SIGUSR1',
        'vcloud_entrypoint':
            "/bin/sh -c 'trap \"exit 7\" USR1; echo $0-$1-$WHO;"
            " while :; do sleep 1 & wait; done'",
        'vcloud_environment': "WHO='the image' LANG=C"})
    console = lan_fixture.wait_until(
        lambda: host.containers.console(instance.uuid), 30)
    assert console == b'say it-twice-the image\r\n'
    host.containers.stop(instance.uuid, 20)
    assert host.container(instance)['State']['ExitCode'] == 7


def test_a_flavor_goes_before_an_image(host, spawn):
    instance = spawn({'vcloud_command': '/bin/false',
                      'vcloud_environment': 'WHO=image'},
                     vcloud__command=INIT, vcloud__environment='WHO=flavor')
    assert 'WHO=flavor' in host.inside(
        instance, 'tr "\\0" "\\n" </proc/1/environ').split()


def test_an_init_collects_orphans(host, spawn):
    instance = spawn(vcloud__init='tini', vcloud__command='sleep 1000')
    assert host.inside(instance, 'cat /proc/1/comm') == 'docker-init\n'
    orphan = host.inside(instance, 'sleep 0.2 & echo $!').strip()
    assert orphan.isdigit()
    lan_fixture.wait_until(lambda: host.inside(
        instance, f'test -e /proc/{orphan} || echo gone') == 'gone\n')


@pytest.mark.parametrize(('image', 'said'), [
    ({'vcloud_command': "sh -c 'open"}, 'image property vcloud_command='),
    ({'vcloud_command': ' '}, 'image property vcloud_command='),
    ({'vcloud_environment': '1=2'}, 'image property vcloud_environment=1=2'),
    ({'vcloud_stop_signal': 'SIGSTOP'}, 'vcloud_stop_signal=SIGSTOP'),
    ({'vcloud_command': 'x' * 255}, 'Nova does not keep more than 254')])
def test_what_an_image_cannot_mean_is_named(spawn, image, said):
    with pytest.raises(exception.InvalidRequest, match=said):
        spawn(image)


def test_what_a_container_is_made_with_stays(host):
    old, new = (host.flavor(**specs) for specs in (
        {}, {'vcloud__capabilities': 'NET_ADMIN'}))
    resize.check_boot(old, host.flavor(vcpus=2))
    for pair in ((old, new), (new, old)):
        with pytest.raises(exception.InvalidRequest,
                           match='vcloud:capabilities'):
            resize.check_boot(*pair)


@pytest.mark.parametrize('kept', [True, False])
def test_a_setuid_file_gains_nothing_by_default(dockerd, lan, tmp_path,
                                                kept):
    host = computehost.ComputeHost(
        dockerd, lan, tmp_path / 'records', no_new_privileges=kept,
        capabilities=tuple(docker_conf.CAPABILITIES))
    instance = host.instance()
    host.spawn(instance, host.ports())
    try:
        host.inside(instance, '''
            echo root::0:0::/:/bin/sh >/etc/passwd
            mkdir /tmp/x; cp /bin/busybox /tmp/x/su; chmod 4755 /tmp/x/su''')
        done = dockerd.docker('exec', '--user', '100',
                              host.container(instance)['Id'], '/tmp/x/su',
                              '-c', 'id -u', check=False)
        assert done.stdout == ('' if kept else '0\n')
        assert ('must be suid' in done.stderr) == kept
    finally:
        host.containers.destroy(instance.uuid)

# SPDX-License-Identifier: Apache-2.0
"""What others have damaged: torn console logs, containers that are gone."""

import os
import pathlib

import computehost
from nova import objects
import pytest

from nova_vcloud import exception
from nova_vcloud.virt_docker.guest import container_spec


@pytest.fixture(params=[False, True], ids=['layer', 'file'])
def host(request, dockerd, lan, tmp_path):
    found = computehost.ComputeHost(dockerd, lan, tmp_path,
                                    disk_files=request.param)
    yield found
    for server in list(found.containers.list()):
        found.containers.destroy(server)


@pytest.fixture
def talks(host):
    """A server that is stopped, its console log, and its ports."""
    instance, ports = host.instance(), host.ports()
    host.spawn(instance, ports)
    host.inside(instance, 'echo first >/proc/1/fd/1')
    host.containers.stop(instance.uuid, 0)
    return (instance, pathlib.Path(host.container(instance)['LogPath']),
            ports)


@pytest.mark.parametrize('damage', [
    bytes(512), b'{"log":"cut', b'{"log":"cut' + bytes(4096), b'\xff\n\xfe\n',
    b'{"log":7}\n[]\n{"log":\n'])
def test_what_was_said_after_the_damage_of_a_log_is_read(host, talks, damage):
    instance, log, ports = talks
    with log.open('ab') as file:
        file.write(damage)
    host.containers.start(instance, ports)
    host.inside(instance, 'echo second >/proc/1/fd/1')
    host.containers.stop(instance.uuid, 0)
    said = host.containers.console(instance.uuid).decode()
    assert said.split() == ['first', 'second']


def test_a_console_is_of_all_logs_of_a_server_and_bounded(host, talks):
    instance, _log, ports = talks
    host.containers.start(instance, ports)
    host.inside(instance, 'i=0; while [ $i -lt 4000 ]; do i=$((i+1)); '
                          'echo line $i; done >/proc/1/fd/1')
    host.containers.stop(instance.uuid, 0)
    said = host.containers.console(instance.uuid)
    assert said.endswith(b'line 4000\r\n')
    engine = host.dockerd.engine.logs(host.container(instance)['Id'],
                                      100 * 1024)
    assert said == engine


def rebuild(host, instance, ports):
    host.containers.rebuild(None, instance, objects.ImageMeta(), ports, b'',
                            0)


def test_a_server_whose_container_is_gone_is_made_anew_by_a_rebuild(host,
                                                                    talks):
    instance, _log, ports = talks
    before = host.container(instance)['Id']
    host.dockerd.docker('container', 'prune', '--force')
    for again in (lambda: host.containers.start(instance, ports),
                  lambda: host.containers.reboot(instance, ports, 0)):
        with pytest.raises(exception.ServerLost, match='rebuild the server'):
            again()
    rebuild(host, instance, ports)
    assert host.container(instance)['State']['Running']
    assert not host.keeper.status(instance.uuid).drift
    assert host.inside(instance, 'ip -4 -o addr show up').count(
        'inet 10.77.') == 1
    assert not list(host.dockerd.links.glob(f'{before}*'))
    assert not list(host.dockerd.disks.glob(f'{before}*'))
    host.containers.reboot(instance, ports, 0)


def test_a_rebuild_of_a_lost_server_that_fails_can_be_tried_again(
        host, talks, monkeypatch):
    instance, _log, ports = talks
    host.dockerd.docker('rm', container_spec.container_name(instance.uuid))

    def fail(*_args):
        raise exception.EngineError('no')

    with monkeypatch.context() as patch:
        patch.setattr(host.dockerd.engine, 'start', fail)
        with pytest.raises(exception.EngineError, match='no'):
            rebuild(host, instance, ports)
    with pytest.raises(exception.ServerLost):
        host.containers.start(instance, ports)
    rebuild(host, instance, ports)
    assert host.containers.running(instance.uuid)


def test_a_lost_server_is_deleted(host, talks):
    instance, _log, _ports = talks
    host.dockerd.docker('container', 'prune', '--force')
    host.containers.destroy(instance.uuid)
    assert os.listdir(host.dockerd.links) == []

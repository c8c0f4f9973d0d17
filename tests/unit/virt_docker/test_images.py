# SPDX-License-Identifier: Apache-2.0
"""What is decided about an image before and after the engine has it."""

from nova import exception as nova_exception
from nova import objects
import pytest

from nova_vcloud import exception
from nova_vcloud.virt_docker.image import engine_faults
from nova_vcloud.virt_docker.image import images

objects.register_all()


def meta(**fields):
    return objects.ImageMeta.from_dict({
        'container_format': 'docker', 'disk_format': 'raw',
        'properties': {}, **fields})


def command(line):
    return images._command('i', meta(properties={'os_command_line': line}))


@pytest.mark.parametrize(('fields', 'said'), [
    ({'disk_format': 'qcow2'}, 'its disk_format is qcow2'),
    ({'container_format': 'bare'}, 'its container_format is bare'),
    ({'container_format': None}, 'its container_format is not set'),
])
def test_format_is_refused_with_what_to_do(fields, said):
    with pytest.raises(nova_exception.ImageUnacceptable) as caught:
        images._check_formats('i', meta(**fields))
    assert said in str(caught.value)
    assert 'docker save' in str(caught.value)


def test_formats_accepted():
    images._check_formats('i', meta())


def test_command_of_a_rootfs():
    assert images._command('i', meta()) == ['/sbin/init']
    assert command('') == ['/sbin/init']
    assert command('/bin/sh -c "sleep 5"') == ['/bin/sh', '-c', 'sleep 5']


def test_command_that_cannot_be_read():
    with pytest.raises(nova_exception.ImageUnacceptable,
                       match='os_command_line'):
        command('/bin/sh "')


@pytest.mark.parametrize(('machine', 'found', 'fits'), [
    ('x86_64', 'amd64', True),
    ('x86_64', '386', True),
    ('x86_64', '', True),
    ('x86_64', 'arm64', False),
    ('aarch64', 'arm64', True),
    ('aarch64', 'amd64', False),
    ('loongarch64', 'loongarch64', True),
])
def test_architecture(monkeypatch, machine, found, fits):
    monkeypatch.setattr(images.platform, 'machine', lambda: machine)
    reason = images._unfit({'Os': 'linux', 'Architecture': found})
    assert (reason == '') is fits
    if not fits:
        assert found in reason
        assert machine in reason


def test_other_system():
    assert 'windows' in images._unfit({'Os': 'windows',
                                       'Architecture': 'amd64'})


@pytest.mark.parametrize(('error', 'own'), [
    (exception.EngineUnavailable('closed'), True),
    (exception.EngineError('write /x: no space left on device'), True),
    (exception.EngineError('archive/tar: invalid tar header'), False),
])
def test_whose_fault(error, own):
    assert engine_faults.engines_own(error) is own


def test_an_architecture_forges_no_line_of_a_log():
    reason = images._unfit({'Os': 'linux',
                            'Architecture': 'x\n2026 CRITICAL forged'})
    assert '\n' not in str(images._unacceptable('i', reason))

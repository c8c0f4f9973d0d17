# SPDX-License-Identifier: Apache-2.0
"""Images that no host can start are refused with a reason.

The words are the engine's own: NOVA_VCLOUD_TEST_ENGINE tries another's.
"""

from collections.abc import Callable
import io
import json
import pathlib
import tarfile

import computehost
import dockerd as dockerd_fixture
from nova import exception as nova_exception
import pytest

from nova_vcloud import exception
from nova_vcloud.virt_docker import nova_errors

TAG = 'vcloud-test/faulty:latest'
BUSYBOX = pathlib.Path('/bin/busybox').read_bytes()
SHELL = 'CMD ["/bin/sh"]'


def member(name, kind=tarfile.REGTYPE, link='', data=b'', mode=0o755):
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.mode = kind, link, mode
    found.size = len(data)
    return found, data


def folder(name, mode=0o755):
    return member(name, tarfile.DIRTYPE, mode=mode)


def system(top=''):
    return [folder(f'{top}bin'), member(f'{top}bin/busybox', data=BUSYBOX),
            member(f'{top}bin/sh', tarfile.SYMTYPE, 'busybox')]


#: {what: (members, Dockerfile instructions, what is said)}
CASES: dict[str, tuple[list, list, str]] = {
    'no CMD': (system(), [], r'which program to start \(CMD or ENTRYPOINT\)'),
    'a user': (system(), [SHELL, 'USER web'], 'user web, which its /etc/pass'),
    'a group': (system(), [SHELL, 'USER 0:web'], 'group web, which its /etc'),
    'a number': (system(), [SHELL, 'USER 99999999999'], 'is not in 0-'),
    'passwd a folder': ([*system(), folder('etc'), folder('etc/passwd')],
                        [SHELL, 'USER me'], 'unknown: /etc/passwd'),
    'no program': (system(), ['CMD ["/nope", "x"]'], 'no program "/nope"'),
    'not in PATH': (system(), ['CMD ["nope"]'], 'no program "nope"'),
    'an empty word': (system(), ['CMD [""]'], 'no program ""'),
    'in a folder': ([folder('rootfs'), *system('rootfs/')], [SHELL],
                    'no program "/bin/sh"'),
    'no shell': ([member('x', data=BUSYBOX)], ['CMD ls'],
                 'no program "/bin/sh"'),
    'not executable': ([*system(), member('x', data=b'#!/bin/sh', mode=0o644)],
                       ['CMD ["/x"]'], '"/x".*cannot be executed'),
    'a folder to run': (system(), ['CMD ["/bin"]'], 'cannot be executed'),
    'workdir a file': ([*system(), member('w')], [SHELL, 'WORKDIR /w'],
                       '/w, is not a directory'),
    'workdir a circle': ([*system(), member('w', tarfile.SYMTYPE, 'w')],
                         [SHELL, 'WORKDIR /w'], 'circle: /w'),
}


@pytest.fixture
def host(dockerd, lan, tmp_path):
    found = computehost.ComputeHost(dockerd, lan, tmp_path / 'records',
                                    image=TAG.partition(':')[0])
    yield found
    for uuid in list(found.containers.list()):
        found.containers.destroy(uuid)
    dockerd.engine.image_remove(TAG)


@pytest.fixture
def image(dockerd) -> Callable:
    def make(members, changes):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode='w') as tar:
            for info, data in members:
                tar.addfile(info, io.BytesIO(data))
        dockerd.engine.image_import(iter([out.getvalue()]), TAG, changes)
    return make


@pytest.mark.parametrize('name', CASES)
def test_what_every_host_would_refuse_is_said_and_not_retried(
        host, image, name):
    members, changes, said = CASES[name]
    image(members, changes)
    instance = host.instance()
    # Of all that Nova gets here, this alone is not tried on the next host.
    with pytest.raises(nova_exception.BuildAbortException,
                       match=said) as raised, \
            nova_errors.mapped(instance, 'host'):
        host.spawn(instance, host.ports())
    assert str(host.dockerd.home) not in str(raised.value)
    assert host.containers.list() == {}
    assert host.keeper.records.uuids() == []
    assert host.network.namespaces() & {instance.uuid} == set()


def test_what_the_host_lacks_is_tried_elsewhere(host, image, lan, tmp_path):
    image(system(), [f'CMD {json.dumps(dockerd_fixture.INIT)}'])
    other = computehost.ComputeHost(
        host.dockerd, lan, tmp_path / 'others', image=TAG.partition(':')[0],
        runtime='nowhere')
    instance = other.instance()
    with pytest.raises(nova_exception.InternalError), \
            nova_errors.mapped(instance, 'host'):
        other.spawn(instance, other.ports())
    assert other.containers.list() == {}


def test_a_server_that_lost_its_program_says_so_at_its_start(host, image):
    image(system(), [f'CMD {json.dumps(dockerd_fixture.INIT)}'])
    instance, ports = host.instance(), host.ports()
    host.spawn(instance, ports)
    host.inside(instance, 'busybox rm /bin/sh')
    host.containers.stop(instance.uuid, 0)
    with pytest.raises(exception.InvalidRequest, match='no program "/bin/sh"'):
        host.containers.start(instance, ports)
    tap = host.network.counters(instance.uuid)[0]['tap']
    assert 'state DOWN' in host.lan.ip('link', 'show', tap)

# SPDX-License-Identifier: Apache-2.0
"""What goes wrong is told to the tenant and leaves nothing behind."""

import gzip
import io
import os
import pathlib
import re
import subprocess
import tarfile
from typing import Any

import crashes
from desk import Desk
from desk import until
import image_hosts
from openstack import exceptions
import pytest
from registry import configuration
from registry import layer

STEPS = ('image', 'namespace', 'create', 'join', 'limits', 'inject', 'start',
         'end')


def ready_again(desk: Desk, host, pid) -> None:
    service = f'nova-compute-{host.name}'
    desk.wait_restarted(service, pid)
    before = desk.last_report(host)
    until(lambda: desk.compute_ready(host, before), 90, f'{service} ready')


@pytest.mark.parametrize('step', crashes.some(STEPS, 3))
def test_nova_compute_killed_at_each_step_of_spawn(desk: Desk, step):
    host = desk.cloud.hosts[0]
    service = f'nova-compute-{host.name}'
    before = desk.place()
    pid = desk.pid(service)
    (host.folder / 'crash-at').write_text(step)
    server = desk.request(f'killed-at-{step}', host=host.name)
    until(lambda: desk.pid(service) != pid, 60, f'{service} died at {step}')
    ready_again(desk, host, pid)
    status = desk.wait(server, 'ERROR').status
    assert status == 'ERROR'  # Nova's word for a build cut short
    desk.delete(server)
    # Nova gives the allocations back when the server is gone.
    until(lambda: desk.place() == before, 60, 'all is as before')
    # The same host builds the next server: no lock was left.
    desk.delete(desk.boot('after', host=host.name))


def test_delete_with_the_engine_down(desk: Desk):
    host = desk.cloud.hosts[0]
    server = desk.boot('engine-down', host=host.name)
    address = desk.addresses(server)[4]
    with desk.stopped(f'dockerd-{host.name}'):
        assert desk.pings(address)  # it runs on, so it keeps its address
        desk.compute.delete_server(server.id)
        shown = desk.wait(server, 'ERROR')
        assert 'engine' in shown.fault['message']
        assert list(desk.api.network.ports(device_id=server.id))
    until(lambda: desk.engine_ready(host), 60, 'engine answers')
    desk.delete(server)


def test_delete_without_its_network(desk: Desk):
    server = desk.boot('network-gone')
    host = desk.host_of(server)
    subprocess.run(['ip', 'netns', 'delete', host.server_prefix + server.id],
                   check=True)
    port = next(iter(desk.api.network.ports(device_id=server.id)))
    subprocess.run(['ip', '-n', host.netns, 'link', 'delete',
                    f'tap{port.id[:11]}'], check=False)
    desk.delete(server)


@pytest.mark.matrix('operation.terminate')
def test_delete_of_a_container_removed_behind_novas_back(desk: Desk):
    server = desk.boot('removed')
    desk.engine(desk.host_of(server)).remove_container(
        f'nova-{server.id}', force=True)
    desk.delete(server)


def test_other_containers_are_not_ours(desk: Desk):
    host = desk.cloud.hosts[0]
    server = desk.boot('neighbour', host=host.name)
    engine = desk.engine(host)
    image = desk.container(server)['Image']
    stranger = engine.create_container(image, name='stranger',
                                       network_disabled=True)
    try:
        engine.start(stranger)
        pid = desk.kill(f'nova-compute-{host.name}')
        ready_again(desk, host, pid)
        desk.delete(server)
        state = engine.inspect_container(stranger)['State']
        assert state['Running']
    finally:
        engine.remove_container(stranger, force=True)


# Bad input


def glance(desk: Desk, name: str, data: bytes, **properties):
    wanted = {'container_format': 'docker', 'disk_format': 'raw',
              'hypervisor_type': 'docker', **properties}
    return desk.api.image.create_image(
        name=name, data=data, allow_duplicates=True, **wanted)


@pytest.fixture
def fault(desk: Desk):
    """Boot what cannot boot and return the fault a tenant sees."""
    images = []

    def boot(name: str, data: bytes, **properties) -> str:
        image = glance(desk, name, data, **properties)
        images.append(image)
        server = desk.request(name, image=image.id)
        shown = desk.wait(server, 'ERROR')
        return str(shown.fault['message'])

    yield boot
    for image in images:
        desk.api.image.delete_image(image.id)


def rootfs(*members: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w') as tar:
        for name in members:
            tar.addfile(tarfile.TarInfo(name))
    return out.getvalue()


def test_unknown_image(desk: Desk):
    with pytest.raises(exceptions.BadRequestException, match='image'):
        desk.compute.create_server(
            name='no-image', flavor_id=desk.compute.find_flavor('c1.tiny').id,
            image_id='11111111-2222-3333-4444-555555555555',
            networks=[{'uuid': desk.network_id}])


def test_image_that_is_no_archive(fault):
    message = fault('noise', b'QFI\xfb' + b'\0' * 100_000)
    assert 'unacceptable' in message
    assert 'qcow2' in message


def test_image_that_is_cut_short(desk: Desk, fault):
    whole = pathlib.Path(desk.cloud.images / 'tiny.tar').read_bytes()
    message = fault('cut', whole[:len(whole) // 2])
    assert 'unacceptable' in message


def test_image_of_another_format(desk: Desk, fault):
    message = fault('qcow', b'\0' * 1000, container_format='bare')
    assert 'container_format' in message


def test_image_in_a_folder(fault):
    message = fault('in-a-folder', rootfs('rootfs/bin/sh'),
                    vcloud_command='/bin/sh')
    assert 'has no program "/bin/sh"' in message
    assert 'retries' not in message


def test_image_of_an_unknown_program(fault):
    message = fault('no-program', rootfs('etc/motd'),
                    vcloud_command='/sbin/nowhere --now')
    assert 'has no program "/sbin/nowhere"' in message
    assert 'retries' not in message


# What the engine got of an image before it was known to be bad.

MIB = 1 << 20
#: Bytes that an engine's own databases may grow by (in pages, for good) and
#: what is unpacked of an image with one file; an image here has 40 MiB.
NOISE = MIB


def large() -> bytes:
    """Return a layer that no engine has, and that gzip makes no smaller."""
    return layer(**{f'f{n}': os.urandom(10 * MIB) for n in range(4)})


def of_another_digest() -> bytes:
    one, two = large(), layer(b=b'two')
    return image_hosts.saved(one, two, config=configuration(
        one, layer(b=b'three')))


def of_another_processor() -> bytes:
    one = large()
    return image_hosts.saved(one, config=configuration(
        one, architecture='s390x'))


def cut_in_the_last_layer() -> bytes:
    whole = image_hosts.saved(large(), large())
    return whole[:len(whole) - 5 * MIB]


def larger_than_the_flavor() -> bytes:
    zeros = gzip.compress(layer(zeros=bytes(512 * MIB)), 1)
    return image_hosts.saved(large(), *[zeros] * 10)


def without_a_program() -> bytes:
    one = large()
    return image_hosts.saved(one, config=configuration(
        one, config={'Cmd': ['/sbin/nowhere']}))


def cut_root_filesystem() -> bytes:
    whole = large()
    return whole[:len(whole) - 5 * MIB]


BAD = {make.__name__: (make, reason) for make, reason in (
    (of_another_digest, 'its layer .* is sha256:'),
    (of_another_processor, 'made for s390x'),
    (cut_in_the_last_layer, 'truncated|cut off'),
    (larger_than_the_flavor, 'unpacks to more than'),
    (without_a_program, 'has no program "/sbin/nowhere"'),
    (cut_root_filesystem, 'truncated|cut off'))}


def stored(desk: Desk) -> dict[str, tuple[set[str], int]]:
    """Return what each engine has: names of images, layers, and the like,
    and the bytes that its directory takes on the disk."""
    found = {}
    for host in desk.cloud.hosts:
        engine = desk.engine(host)
        names = {image['Id'] for image in engine.images(all=True)}
        names |= {each['Name']
                  for each in engine.volumes()['Volumes'] or ()}
        root = pathlib.Path(engine.info()['DockerRootDir'])
        for pattern in ('image/*/layerdb/sha256/*', 'image/*/layerdb/tmp/*',
                        'image/*/imagedb/content/sha256/*', 'tmp/*'):
            names |= {str(path) for path in root.glob(pattern)}
        found[host.name] = names, taken(root)
    return found


def taken(root: pathlib.Path) -> int:
    """Return the bytes that what is below a directory takes."""
    blocks = {}
    for top, folders, files in os.walk(root):
        for name in (*folders, *files):
            try:
                status = os.lstat(os.path.join(top, name))
            except FileNotFoundError:
                continue
            blocks[status.st_dev, status.st_ino] = status.st_blocks
    return sum(blocks.values()) * 512


def more(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return what there is of it that was not there."""
    found = {name: (now[name][0] - before[name][0],
                    now[name][1] - before[name][1]) for name in now}
    return {name: (names, size) for name, (names, size) in found.items()
            if names or size > NOISE}


@pytest.mark.parametrize('name', BAD)
def test_nothing_stays_of_a_failed_build_that_is_deleted(desk: Desk, name):
    make, reason = BAD[name]
    image = glance(desk, name, make())
    before = stored(desk)
    server = desk.request(name, image=image.id)
    try:
        message = str(desk.wait(server, 'ERROR', 120).fault['message'])
    finally:
        desk.delete(server)
        desk.api.image.delete_image(image.id)
    assert re.search(reason, message), message
    left: list[Any] = []

    def clean() -> bool:
        left[:] = [more(before, stored(desk))]
        return not left[0]

    try:
        until(clean, 60, 'engines as before', every=1)
    except AssertionError:
        pytest.fail(f'left on the engines: {left}')


def test_image_that_wants_more_disk_than_the_flavor_has(desk: Desk):
    image = glance(desk, 'big', rootfs('bin/sh'), min_disk=500)
    try:
        with pytest.raises(exceptions.BadRequestException, match=r'[Dd]isk'):
            desk.request('too-big', image=image.id)
    finally:
        desk.api.image.delete_image(image.id)


def test_address_in_use(desk: Desk):
    first = desk.boot('first', ip='10.77.0.105')
    with pytest.raises(exceptions.HttpException) as raised:
        desk.wait(desk.request('second', ip='10.77.0.105'), 'ACTIVE')
    assert raised.value.status_code in (400, 409)
    assert '10.77.0.105' in str(raised.value)
    desk.answers(first)


def test_network_that_no_host_has(desk: Desk):
    network = desk.api.network
    nowhere = network.create_network(name='nowhere',
                                     provider_network_type='local')
    try:
        network.create_subnet(network_id=nowhere.id, ip_version=4,
                              cidr='10.99.0.0/24', is_dhcp_enabled=False)
        server = desk.request('nowhere',
                              networks=[{'uuid': nowhere.id}])
        shown = desk.wait(server, 'ERROR')
        assert shown.fault['message']
        desk.delete(server)
    finally:
        network.delete_network(nowhere.id)

# SPDX-License-Identifier: Apache-2.0
"""Images ahead of servers, out of registries, and from an operator's hand."""

from collections.abc import Iterator
import contextlib
import gzip
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import tarfile
import time
from typing import Any

from desk import Desk
from desk import until
import docker.errors
import pytest
import requests

from mini import services
from mini import settings

DAY = 86400
OCI = 'application/vnd.oci.image.'


def tag(image: Any) -> str:
    return f'nova-vcloud/{image.id}:latest'


def there(desk: Desk, host: settings.Host, image: Any) -> bool:
    try:
        desk.engine(host).inspect_image(tag(image))
    except docker.errors.ImageNotFound:
        return False
    return True


def age(host: settings.Host, image: Any) -> None:
    """Have an image last used two days ago."""
    then = time.time() - 2 * DAY
    os.utime(host.folder / 'nova/vcloud-locks/used' / image.id, (then, then))


@contextlib.contextmanager
def aggregate(desk: Desk) -> Iterator[Any]:
    """Have all hosts in one aggregate."""
    found = desk.compute.create_aggregate(name='cache-test')
    try:
        for host in desk.cloud.hosts:
            desk.compute.add_host_to_aggregate(found, host.name)
        yield found
    finally:
        for host in desk.cloud.hosts:
            desk.compute.remove_host_from_aggregate(found, host.name)
        desk.compute.delete_aggregate(found)


@contextlib.contextmanager
def managed(desk: Desk, *words: str) -> Iterator[Any]:
    """Have an image made by nova-vcloud-manage image."""
    host = desk.cloud.hosts[0].name
    done = subprocess.run(
        [f'{desk.cloud.venv}/bin/nova-vcloud-manage', '--config-file',
         str(desk.cloud.etc / 'nova' / f'{host}.conf'), 'image', *words],
        check=False, capture_output=True, text=True,
        env=services.environment(desk.cloud, 'step') | credentials(desk))
    assert done.returncode == 0, done.stderr
    image = desk.api.image.get_image(done.stdout.splitlines()[-1].split()[0])
    try:
        yield image
    finally:
        desk.api.image.delete_image(image.id)
        for host in desk.cloud.hosts:
            # Of a server that a failed test has left: it goes with Nova's.
            with contextlib.suppress(docker.errors.APIError):
                desk.engine(host).remove_image(tag(image))


def credentials(desk: Desk) -> dict[str, str]:
    """Return what openrc sets."""
    text = (desk.cloud.home / 'openrc').read_text()
    pairs = (line.removeprefix('export ').partition('=')
             for line in text.splitlines())
    return {name: value.strip('\'"') for name, _, value in pairs
            if name.startswith('OS_')}


def rootfs(folder: pathlib.Path) -> pathlib.Path:
    """Write a system that is a single program."""
    path = folder / 'rootfs.tar'
    with tarfile.open(path, 'w') as tar:
        tar.add(shutil.which('busybox'), 'bin/busybox')
        for name in ('sh', 'sleep', 'cat'):
            link = tarfile.TarInfo(f'bin/{name}')
            link.type, link.linkname = tarfile.SYMTYPE, 'busybox'
            tar.addfile(link)
    return path


@pytest.mark.matrix('operation.cache-images')
def test_an_aggregate_has_an_image_before_servers_ask(desk: Desk, tmp_path):
    path = rootfs(tmp_path)
    with aggregate(desk) as hosts, managed(
            desk, 'import', str(path), '--name', 'warm', '--property',
            'os_command_line=/bin/sleep 999') as image:
        assert image.hypervisor_type == 'docker'
        assert (image.container_format, image.disk_format) == (
            'docker', 'raw')
        assert image.min_disk == 1
        assert image.hash_value == hashlib.sha512(
            path.read_bytes()).hexdigest()
        desk.compute.aggregate_precache_images(hosts, [image.id])
        for host in desk.cloud.hosts:
            until(lambda h=host: there(desk, h, image), 60, 'it is there')
        server = desk.boot('warm', image='warm')
        log = desk.log_since(desk.host_of(server), 0)
        assert log.count(f'Loading image {image.id}') == 1

        own = desk.host_of(server)
        for host in desk.cloud.hosts:
            age(host, image)
        for host in desk.cloud.hosts:
            if host.name != own.name:
                until(lambda h=host: not there(desk, h, image), 120,
                      'it is gone where nobody needs it')
        assert there(desk, own, image)
        # Aged above, while in use: a look at the cache between the end of the
        # server and here may have removed it, and the mark with it.
        desk.delete(server)
        with contextlib.suppress(FileNotFoundError):
            age(own, image)
        until(lambda: not there(desk, own, image), 120, 'it is gone')


def test_an_image_of_a_dockerfile(desk: Desk, tmp_path):
    (tmp_path / 'Dockerfile').write_text(
        'FROM scratch\nADD rootfs.tar /\nCMD ["/bin/sleep", "999"]\n')
    rootfs(tmp_path)
    with managed(desk, 'build', str(tmp_path), '--name', 'built',
                 '--network', 'none') as image:
        assert image.properties['hw_architecture'] == 'x86_64'
        assert image.min_disk == 1
        engine = desk.engine(desk.cloud.hosts[0])
        assert engine.images('nova-vcloud-build/*') == []
        desk.delete(desk.boot('built', image='built'))


def push(url: str, path: pathlib.Path) -> str:
    """Push a root filesystem as an image; return its digest."""
    plain = path.read_bytes()
    packed = gzip.compress(plain, 1, mtime=0)
    config = json.dumps({
        'architecture': 'amd64', 'os': 'linux',
        'config': {'Cmd': ['/bin/sleep', '999']},
        'rootfs': {'type': 'layers', 'diff_ids': [digest(plain)]}}).encode()
    for data in (config, packed):
        begun = requests.post(f'{url}/blobs/uploads/', timeout=60)
        requests.put(begun.headers['Location'], timeout=60, data=data,
                     params={'digest': digest(data)}).raise_for_status()
    manifest = json.dumps({
        'schemaVersion': 2, 'mediaType': f'{OCI}manifest.v1+json',
        'config': {'mediaType': f'{OCI}config.v1+json',
                   'digest': digest(config), 'size': len(config)},
        'layers': [{'mediaType': f'{OCI}layer.v1.tar+gzip',
                    'digest': digest(packed), 'size': len(packed)}]}).encode()
    requests.put(f'{url}/manifests/1', data=manifest, timeout=60, headers={
        'Content-Type': f'{OCI}manifest.v1+json'}).raise_for_status()
    return digest(manifest)


def digest(data: bytes) -> str:
    return f'sha256:{hashlib.sha256(data).hexdigest()}'


def test_servers_of_an_image_in_a_registry(desk: Desk, tmp_path):
    place = f'127.0.0.1:{desk.cloud.port("docker-registry")}'
    pushed = push(f'http://{place}/v2/public/busy', rootfs(tmp_path))
    with managed(desk, 'register', f'{place}/public/busy:1', '--name',
                 'busy', '--visibility', 'public') as image:
        shown = image.properties
        assert shown['vcloud_registry_digest'] == pushed
        host = desk.cloud.hosts[0]
        mark = desk.log_mark(host)
        servers = [desk.request(f'busy-{n}', image='busy', host=host.name)
                   for n in range(10)]
        for server in servers:
            desk.wait(server, 'ACTIVE')
        assert desk.log_since(host, mark).count('Loading image') == 1
        assert desk.inside(servers[-1], 'echo $((6 * 7))') == '42\n'
        # An image made of the server is a file, not the name it came by.
        with desk.snapshot(servers[0], 'busy-copy') as copy:
            assert not desk.api.image.get_image(
                copy.id).properties.get('vcloud_registry_ref')
        desk.delete(*servers)


def test_a_server_of_an_image_that_no_registry_has(desk: Desk):
    place = f'127.0.0.1:{desk.cloud.port("docker-registry")}'
    reasons = {f'{place}/public/none:1': 'has no',
               f'{place}/private/x:1': 'not among the registries',
               'no reference': 'is not HOST'}
    with contextlib.ExitStack() as cleanup:
        servers = {}
        for number, name in enumerate(reasons):
            image = desk.api.image.create_image(
                f'nowhere-{number}', data=b'x', container_format='docker',
                disk_format='raw', wait=True, vcloud_registry_ref=name)
            cleanup.callback(desk.api.image.delete_image, image.id)
            servers[name] = desk.request('no', image=image.name)
        for name, server in servers.items():
            shown = desk.wait(server, 'ERROR', 120)
            assert reasons[name] in shown.fault['message']
        desk.delete(*servers.values())

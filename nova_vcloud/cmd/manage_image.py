# SPDX-License-Identifier: Apache-2.0
"""Images: into Glance, in a form that hosts with containers accept.

The cloud is the one that the openstack command would use: OS_CLOUD, or the
other OS_ variables.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import contextlib
import hashlib
import pathlib
import platform
import tempfile
from typing import Any
import uuid

from oslo_config import cfg

from nova_vcloud import exception
from nova_vcloud.conf import docker as docker_conf
from nova_vcloud.conf import registry as registry_conf
from nova_vcloud.engine import Engine
from nova_vcloud.image import import_file
from nova_vcloud.image import registry

VISIBILITIES = ('private', 'shared', 'community', 'public')
#: Properties that the compute driver reads: see
#: virt_docker/image/registry_ref.py.
REFERENCE = 'vcloud_registry_ref'
DIGEST = 'vcloud_registry_digest'
_GIB = 1 << 30


def add_parser(actions: Any) -> None:
    """Add ``import``, ``build`` and ``register`` below the noun ``image``."""
    bring = actions.add_parser(
        'import', help='upload a root filesystem (folder or tar), what '
        '"docker save" wrote, or an OCI image (folder or tar)')
    bring.add_argument('source', type=pathlib.Path, metavar='FILE|DIR')
    bring.set_defaults(action=_import)
    build = actions.add_parser(
        'build', help='have the engine of this host build a Dockerfile, and '
        'upload the result')
    build.add_argument('folder', type=pathlib.Path, metavar='DIR')
    build.add_argument('--file', metavar='PATH', default='Dockerfile',
                       help='of the Dockerfile, in DIR')
    build.add_argument('--build-arg', action='append', type=_pair,
                       default=[], metavar='NAME=VALUE')
    build.add_argument('--network', help='of RUN instructions, as for '
                       '"docker build"')
    build.set_defaults(action=_build)
    register = actions.add_parser(
        'register', help='name an image of a registry, from which hosts '
        'pull it')
    register.add_argument('reference',
                          metavar='HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]')
    register.set_defaults(action=_register)
    for each in (bring, build, register):
        each.add_argument('--name', required=True)
        each.add_argument('--property', action='append', type=_pair,
                          default=[], metavar='NAME=VALUE',
                          help='may be repeated')
        each.add_argument('--visibility', choices=VISIBILITIES)
        each.add_argument('--min-disk', type=int, metavar='GIB')
        each.add_argument('--min-ram', type=int, metavar='MIB', default=0)
        each.add_argument('--os-cloud', metavar='NAME')


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register what the commands read."""
    docker_conf.register_opts(conf)
    registry_conf.register_opts(conf)


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition('=')
    if not name or not sign:
        raise argparse.ArgumentTypeError(f'{text!r} is not NAME=VALUE')
    return name, value


def _import(_conf: cfg.ConfigOpts, args: Any) -> int:
    with tempfile.TemporaryDirectory(prefix='nova-vcloud-') as folder:
        _upload(args, import_file.accepted(args.source, pathlib.Path(folder)))
    return 0


def _build(conf: cfg.ConfigOpts, args: Any) -> int:
    engine = Engine(conf.docker.url, conf.docker.timeout,
                    conf.docker.load_timeout)
    tag = f'nova-vcloud-build/{uuid.uuid4()}:latest'
    with tempfile.TemporaryDirectory(prefix='nova-vcloud-') as folder:
        path = pathlib.Path(folder, 'built.tar')
        try:
            for text in engine.image_build(
                    str(args.folder), tag, dockerfile=args.file,
                    buildargs=dict(args.build_arg),
                    network_mode=args.network):
                print(text, end='')
            with path.open('wb') as f:
                f.writelines(engine.image_save(tag))
        finally:
            engine.image_remove(tag)
        _upload(args, import_file.accepted(path, pathlib.Path(folder)))
    return 0


def _register(conf: cfg.ConfigOpts, args: Any) -> int:
    """Look at the image now, so that what is wrong is said here."""
    settings = registry_conf.settings(conf)
    found = registry.find(args.reference, settings, platform.machine())
    reference = registry.parse(args.reference)
    properties = {REFERENCE: args.reference}
    if not reference.digest:
        properties[DIGEST] = found.digest
    with _cloud(args) as cloud:
        # Nova makes servers of active images only: of those with data.
        image = _create(cloud, args, properties, args.min_disk or 0,
                        data=f'{reference}\n'.encode())
    print(f'{image.id}  {args.name}: {found.digest}')
    return 0


def _upload(args: Any, found: import_file.Found) -> None:
    properties = {}
    if found.architecture:
        properties['hw_architecture'] = found.architecture
    min_disk = args.min_disk
    if min_disk is None:
        min_disk = -(-found.size // _GIB)
    with _cloud(args) as cloud:
        image = _create(cloud, args, properties, min_disk,
                        filename=str(found.path))
        try:
            _compare(cloud.image.get_image(image.id), found.path)
        except exception.UploadFailed:
            cloud.image.delete_image(image.id)
            raise
    print(f'{image.id}  {args.name}: {found.kind.value}, {found.size} bytes '
          f'unpacked, min_disk {min_disk}')


def _create(cloud: Any, args: Any, properties: dict[str, str],
            min_disk: int, **content: Any) -> Any:
    if args.visibility:
        content['visibility'] = args.visibility
    return cloud.image.create_image(
        args.name, container_format='docker', disk_format='raw',
        allow_duplicates=True, wait=True, min_disk=min_disk,
        min_ram=args.min_ram, **content, properties={
            'hypervisor_type': 'docker', **properties,
            **dict(args.property)})


def _compare(image: Any, path: pathlib.Path) -> None:
    """Require that Glance has what we have.

    :raises UploadFailed: it has something else
    """
    if not image.hash_algo:
        return
    with path.open('rb') as f:
        ours = hashlib.file_digest(f, image.hash_algo).hexdigest()
    if ours != image.hash_value:
        raise exception.UploadFailed(
            f'the image arrived with another {image.hash_algo} than it left '
            'with, and was deleted; try again')


@contextlib.contextmanager
def _cloud(args: Any) -> Iterator[Any]:
    """Connect as the openstack command does.

    :raises UploadFailed: with what the cloud says
    """
    # Slow, and of no use to the other commands.
    from keystoneauth1 import exceptions as auth  # noqa: PLC0415
    import openstack  # noqa: PLC0415
    from openstack import exceptions  # noqa: PLC0415
    try:
        with openstack.connect(cloud=args.os_cloud) as cloud:
            yield cloud
    except (auth.ClientException, exceptions.SDKException) as e:
        raise exception.UploadFailed(str(e)) from e

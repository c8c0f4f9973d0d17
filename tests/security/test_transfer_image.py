# SPDX-License-Identifier: Apache-2.0
"""An image that another host sends is that server's alone."""

import io
import json
import subprocess
import tarfile

import computehost
import dockerd as dockerd_fixture
from nova import objects
import pytest
import transfers

from nova_vcloud import exception
from nova_vcloud.transfer import spool as spools
from nova_vcloud.virt_docker.image import images
from nova_vcloud.virt_docker.migration import cold_migration
from nova_vcloud.virt_docker.volumes import ephemeral

VICTIM = '33333333-2222-4333-8444-555566667777'
VICTIM_TAG = images.tag_of(VICTIM)


class Host:
    """A host whose engine has an image of somebody else."""

    def __init__(self, dockerd, lan, folder):
        self.compute = computehost.ComputeHost(dockerd, lan,
                                               folder / 'records')
        self.engine = dockerd.engine
        self.spool = folder / 'spool'
        self.spool.mkdir()
        self.moves = cold_migration.Moves(
            self.engine, self.compute.containers, computehost.Images(),
            'layer', str(self.spool), None, None, None, 2, 64 << 10, 5,
            ephemeral.Store(str(folder / 'disks'), 'ext4'))
        dockerd.docker('tag', dockerd_fixture.IMAGE, VICTIM_TAG)
        self.dockerd = dockerd

    def tags(self):
        """Return what each name on the engine means."""
        return {name: self.engine.image_get(name)['Id']
                for name in self.engine.image_names('*')}

    def evil(self, tags):
        """Return an image of ours under names of others, and its layers."""
        folder = io.BytesIO()
        with tarfile.open(fileobj=folder, mode='w') as tar:
            info = tarfile.TarInfo('theirs')
            tar.addfile(info)
        self.engine.image_import(iter([folder.getvalue()]), 'evil:latest')
        found = self.engine.image_get('evil:latest')
        saved = subprocess.run(
            ['docker', '--host', self.dockerd.url, 'save', 'evil:latest'],
            check=True, capture_output=True).stdout
        self.engine.image_remove('evil:latest')
        return renamed(saved, tags), found['RootFS']['Layers']

    def receive(self, sent, **data):
        """Take what another host sends; return what was said."""
        instance = self.compute.instance()
        (self.spool / instance.uuid).mkdir()
        if sent is not None:
            (self.spool / instance.uuid / 'image.tar').write_bytes(sent)
        manifest = cold_migration.MigrationData(**{
            'method': 'layer', 'image_id': VICTIM, 'image': (), 'whole': True,
            'application': '', **data}).to_text()
        (self.spool / instance.uuid / spools.MANIFEST).write_text(manifest)
        try:
            self.moves.receive(None, instance, manifest, self.compute.ports(),
                               objects.ImageMeta(), power_on=False)
        except exception.NovaVcloudException as e:
            return str(e)
        finally:
            self.compute.containers.destroy(instance.uuid)
            self.moves.forget(instance.uuid)
        return ''


def renamed(saved, tags):
    """Return a docker archive with other names in it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(saved)) as old, \
            tarfile.open(fileobj=out, mode='w') as new:
        for info in old:
            data = old.extractfile(info).read() if info.isfile() else b''
            if info.name == 'manifest.json':
                entries = json.loads(data)
                for entry in entries:
                    entry['RepoTags'] = tags
                data = json.dumps(entries).encode()
            if info.name in ('index.json', 'oci-layout', 'repositories'):
                continue
            info.size = len(data)
            new.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture
def host(dockerd, lan, tmp_path):
    found = Host(dockerd, lan, tmp_path)
    yield found
    found.engine.image_remove(VICTIM_TAG)
    assert list(found.spool.iterdir()) == []


@pytest.mark.parametrize('method', ['layer', 'image'])
@pytest.mark.parametrize('id_', [VICTIM, 'x:y/../z'])
def test_it_gets_no_name_of_another(host, method, id_):
    before = host.tags()
    image, layers = host.evil([VICTIM_TAG, dockerd_fixture.IMAGE + ':latest',
                               'nova-vcloud/other:latest'])
    host.receive(image, method=method, image_id=id_, image=tuple(layers))
    assert host.tags() == before


def test_it_has_the_layers_that_were_announced(host):
    before = host.tags()
    image, _layers = host.evil(['x:latest'])
    said = host.receive(image, image=('sha256:' + '0' * 64,))
    assert 'has other layers' in said
    assert host.tags() == before


def test_it_is_not_made_of_somebody_elses_image(host):
    """Though this engine has it, and its layers are known to the sender."""
    layers = host.engine.image_get(VICTIM_TAG)['RootFS']['Layers']
    said = host.receive(None, whole=False, image=tuple(layers))
    assert f'names image {VICTIM}, of which the server is not' in said


@pytest.mark.parametrize('kind', ['none', 'text', 'rootfs', 'link'])
def test_what_is_no_image(host, kind, tmp_path):
    before = host.tags()
    data = {'none': None, 'text': b'not an image' * 100}.get(kind)
    if kind == 'rootfs':
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode='w') as tar:
            tar.addfile(tarfile.TarInfo('etc/passwd'))
        data = out.getvalue()
    if kind == 'link':
        image, _layers = host.evil(['x:latest'])
        (tmp_path / 'image').write_bytes(image)
        instance = host.compute.instance()
        spools.Spool(str(host.spool)).drop(instance.uuid)
        (host.spool / instance.uuid).mkdir()
        path = host.spool / instance.uuid / 'image.tar'
        path.symlink_to(tmp_path / 'image')
        with pytest.raises(exception.MoveFailed, match='not a regular file'):
            host.moves._load_image(instance.uuid, 'x:latest')
        host.moves.drop(instance.uuid)
    else:
        assert host.receive(data, image=('sha256:' + '0' * 64,)) != ''
    assert host.tags() == before


RIGHT = {'nova_vcloud': 1, 'method': 'layer', 'image_id': VICTIM,
         'image': [], 'whole': True, 'application': '', 'disks': []}


@pytest.mark.parametrize('text', [
    '{}', '[]', 'x', '{"nova_vcloud": 1}', *(json.dumps({**RIGHT, **wrong})
    for wrong in ({'nova_vcloud': 2}, {'method': 'exec'}, {'disks': 1},
                  {'image_id': 'a\nb'}, {'image_id': {}}, {'image': [1]},
                  {'application': 'x' * 300}))])
def test_what_is_no_manifest(text):
    assert cold_migration.MigrationData.from_text(json.dumps(RIGHT)).whole
    with pytest.raises(exception.MoveFailed):
        cold_migration.MigrationData.from_text(text)


def test_a_manifest_is_what_was_written():
    data = cold_migration.MigrationData('layer', VICTIM, ('sha256:1',), True,
                                        'app', ('disk.eph0',))
    assert cold_migration.MigrationData.from_text(data.to_text()) == data
    assert transfers.TOKEN not in data.to_text()

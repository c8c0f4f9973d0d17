# SPDX-License-Identifier: Apache-2.0
"""An image by chance starts, or is refused with a reason, and leaves nothing.

Through the driver's own rooms, from what Glance sends to the server's first
process, on a real engine.
"""

import collections
import re
import time

import computehost
import image_hosts
from nova import exception as nova_exception
import odd_images
import pytest

from nova_vcloud import exception
from nova_vcloud.image import registry
from nova_vcloud.virt_docker.guest import file_injection
from nova_vcloud.virt_docker.image import imageroom

#: Bytes by which the databases of an engine may have grown, for good.
NOISE = 2 << 20
KEY = 'ssh-ed25519 AAAA me'


class Place:
    """A compute host, its images and its servers."""

    def __init__(self, dockerd, lan, path):
        self.dockerd = dockerd
        self.images = path
        self.glance = image_hosts.Host(
            dockerd, path / 'images', registry.Settings(),
            imageroom.Bounds())
        self.host = computehost.ComputeHost(
            dockerd, lan, path / 'records', store=self.glance.store)

    def build(self, image_id):
        """Build a server as the driver does; return it.

        :raises Exception: what Nova's fault would be of
        """
        instance = self.host.instance(root_gb=1)
        instance.image_ref = image_id
        instance.key_data = KEY
        instance.config_drive = ''
        ports = self.host.ports()
        self.host.containers.spawn(
            None, instance, self.glance.meta(image_id), ports,
            file_injection.archive(instance, ports))
        return instance

    def check(self, instance):
        """Look at a server that has started; return how it is."""
        found = self.host.container(instance)
        assert not [each for each in found['Mounts']
                    if each['Type'] == 'volume']
        assert found['Config']['Healthcheck'] == {'Test': ['NONE']}
        assert found['Config']['Labels'][
            'org.openstack.nova.uuid'] == instance.uuid
        if not found['State']['Running']:
            return 'ended by itself'
        said = self.dockerd.docker(
            'exec', found['Id'], '/bin/busybox', 'cat', '/etc/hostname',
            check=False)
        if not said.returncode:
            assert said.stdout == 'test\n'
        return 'runs'

    def remove(self, instance, image_id):
        """Delete a server, and then its image, as one unused for long."""
        self.host.containers.destroy(instance.uuid)
        self.glance.age(image_id, 3600)
        assert self.glance.store.room.remove(
            image_id, time.time() - 60, 'of a test')

    def left(self):
        """Return what there is of images and servers."""
        return {
            **self.glance.contents(),
            'containers': self.dockerd.containers(),
            'volumes': set(self.dockerd.docker(
                'volume', 'ls', '-q').stdout.split()),
            'files': {str(path) for path in (
                *self.images.rglob('*/used/*'),
                *self.images.rglob('*/builds/*'), *self.dockerd.links.glob(
                    '*'), *(self.dockerd.home / 'data/volumes').glob('*/'))}}

    def settled(self, wanted, seconds=30.0):
        """Wait for the engine's own clearing; return what there is."""
        deadline = time.monotonic() + seconds
        while (found := self.left()) != wanted:
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        return found


def reason(error):
    """Return why an image is refused; what names it is left out."""
    text = re.sub(r'Image \S+ is unacceptable: ', '', str(error))
    return re.sub(r'"[^"]*"|\'[^\']*\'|/\S*|\d+(\.\d+)?|\b[0-9a-f]{12,}\b',
                  '*', text)[:90]


def refused(error):
    """Tell whether every host would say so, in words for a tenant."""
    return isinstance(error, (
        nova_exception.ImageUnacceptable, exception.InvalidRequest,
        nova_exception.FlavorDiskSmallerThanImage)) and len(str(error)) > 20


@pytest.fixture
def place(dockerd, lan, tmp_path):
    found = Place(dockerd, lan, tmp_path)
    yield found
    for uuid in list(found.host.containers.list()):
        found.host.containers.destroy(uuid)
    found.glance.remove_all()


@pytest.mark.timeout(3600)  # in the long form
def test_each_starts_or_is_refused_and_none_leaves_anything(
        budget, place, dockerd):
    maker, faults = odd_images.Maker(budget.seed), []
    ends = collections.Counter()
    before, room = place.left(), image_hosts.taken(dockerd)
    for number in range(budget.count(15, 200)):
        odd = maker.image(number)
        image_id = place.glance.upload(odd.data)
        try:
            instance = place.build(image_id)
        except Exception as e:  # noqa: BLE001 - looked at here
            ends[f'refused: {reason(e)}'] += 1
            if not refused(e):
                faults.append((number, odd.what, f'{type(e).__name__}: {e}'))
        else:
            ends[place.check(instance)] += 1
            place.remove(instance, image_id)
        for kind, names in place.settled(before).items():
            if names != before[kind]:
                faults.append((number, odd.what, kind, names - before[kind]))
                before[kind] = names
    print('\n'.join(f'{count:4} {end}' for end, count in
                    ends.most_common()))
    assert not faults, '\n'.join(map(str, faults))
    assert ends['runs'] >= budget.count(1, 50)
    assert image_hosts.taken(dockerd).size - room.size <= NOISE

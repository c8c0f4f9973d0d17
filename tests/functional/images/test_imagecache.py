# SPDX-License-Identifier: Apache-2.0
"""Images fetched ahead, and those removed that nobody needs."""

import os
import pathlib
import time
import uuid

from nova import objects
import pytest

from nova_vcloud.engine import Engine
from nova_vcloud.virt_docker import server_labels
from nova_vcloud.virt_docker.guest import container_spec
from nova_vcloud.virt_docker.image import imagecache
from nova_vcloud.virt_docker.image import images

objects.register_all()

DAY = 86400.0
META = objects.ImageMeta.from_dict({
    'container_format': 'docker', 'disk_format': 'raw', 'properties': {}})


class Host:
    """An engine, its images, and Nova's questions."""

    def __init__(self, url, lock_path, tiny):
        self.engine = Engine(url)
        self.path = pathlib.Path(lock_path)
        self.tiny = tiny
        self.store = images.ImageStore(
            self.engine, lambda _context, _id: iter([tiny]), lock_path)
        self.cache = self.aged(DAY)

    def aged(self, seconds):
        return imagecache.ImageCache(
            self.engine, self.store, lambda _context, _id: META, seconds)

    def have(self, days):
        """Have an image that was used so long ago."""
        image_id = str(uuid.uuid4())
        assert self.cache.fetch(None, image_id) is True
        self.age(image_id, days)
        return image_id

    def age(self, image_id, days):
        then = time.time() - days * DAY
        os.utime(self.path / 'used' / image_id, (then, then))

    def there(self, image_id):
        return self.engine.image_get(images.tag_of(image_id)) is not None


@pytest.fixture
def host(private_engine, tmp_path, built):
    found = Host(private_engine.url, str(tmp_path),
                 built('tiny').read_bytes())
    yield found
    for image_id in (tmp_path / 'used').iterdir():
        found.engine.image_remove(images.tag_of(image_id.name))


def instance(image_id):
    return objects.Instance(uuid=str(uuid.uuid4()), image_ref=image_id)


def test_fetched_once(host):
    image_id = host.have(0)
    assert host.cache.fetch(None, image_id) is False
    host.engine.image_remove(images.tag_of(image_id))
    assert host.cache.fetch(None, image_id) is True
    assert host.there(image_id)


def test_an_old_one_that_nobody_needs_goes(host, private_engine):
    old, young, used = host.have(2), host.have(0.5), host.have(2)
    private_engine.docker('tag', images.tag_of(old), 'mine/other:1')
    private_engine.docker('tag', images.tag_of(old),
                          'nova-vcloud/not-an-id:latest')
    host.cache.prune([instance(used), instance('')])
    assert not host.there(old)
    assert host.there(young)
    assert host.there(used)
    for name in ('mine/other:1', 'nova-vcloud/not-an-id:latest'):
        assert host.engine.image_get(name)
        private_engine.docker('rmi', name)
    # The time without use begins when the last server was seen.
    host.cache.prune([])
    assert host.there(used)
    host.age(used, 2)
    host.cache.prune([])
    assert not host.there(used)
    # And what was removed comes back when it is wanted.
    assert host.store.ensure(None, old, META, root_gb=1, instance=None)
    assert host.there(old)


@pytest.mark.parametrize('state', ['created', 'stopped', 'parked'])
def test_one_with_a_container_stays(host, private_engine, state):
    image_id = host.have(2)
    server = str(uuid.uuid4())
    name = (container_spec.parked_name(server) if state == 'parked'
            else container_spec.container_name(server))
    container = host.engine.create(name, {
        'Image': images.tag_of(image_id), 'Labels': {
            server_labels.UUID: server,
            server_labels.IMAGE: image_id,
            server_labels.HOST: 'another'},
        'HostConfig': {'NetworkMode': 'none'}})
    try:
        if state == 'stopped':
            host.engine.start(container)
            host.engine.stop(container, 0)
        # Even when no record of Nova names it.
        host.cache.prune([])
        assert host.there(image_id)
    finally:
        host.engine.remove(container)
    host.age(image_id, 2)
    host.cache.prune([])
    assert not host.there(image_id)


def test_one_of_a_stranger_s_container_stays(host):
    """Its name may go, where it has another; the image is there."""
    image_id = host.have(2)
    container = host.engine.create(f'stranger-{image_id}', {
        'Image': images.tag_of(image_id),
        'HostConfig': {'NetworkMode': 'none'}})
    try:
        host.cache.prune([])
        used = host.engine.container(container)['Image']
        assert host.engine.image_get(used)
    finally:
        host.engine.remove(container)


def test_one_that_is_being_loaded_stays(host):
    image_id = host.have(2)
    with host.store.records.locked(image_id):
        host.cache.prune([])
    assert host.there(image_id)


def test_one_that_was_just_asked_for_stays_whatever_its_age_may_be(host):
    image_id = host.have(0)
    host.aged(0).prune([])
    assert host.there(image_id)
    host.age(image_id, 0.01)
    host.aged(0).prune([])
    assert not host.there(image_id)


def test_nothing_goes_when_nothing_shall(host):
    image_id = host.have(1000)
    host.aged(None).prune([])
    assert host.there(image_id)

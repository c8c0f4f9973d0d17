# SPDX-License-Identifier: Apache-2.0
"""Which image a server of a lost host is made from."""

import datetime as dt

from nova import context
from nova import objects
from nova.compute import task_states
from oslo_utils.fixture import uuidsentinel as uuids
import pytest

from nova_vcloud.virt_docker.migration import evacuation

NOW = dt.datetime.now(dt.UTC)


class Glance:
    """What is asked for is found, the newest first."""

    def __init__(self, *images):
        self.images = images

    def get_all(self, _context, filters, sort_key, sort_dir):
        """Return the images of one server."""
        assert (sort_key, sort_dir) == ('created_at', 'desc')
        return [image for image in self.images
                if image['properties']['instance_uuid']
                == filters['property-instance_uuid']]


def image(name, owner='mine', status='active', kind='snapshot', base='base',
          server=uuids.server):
    return {'id': getattr(uuids, name), 'owner': owner, 'status': status,
            'created_at': NOW, 'properties': {
                'instance_uuid': server, 'image_type': kind,
                'base_image_ref': base}}


def source(*images, task=task_states.REBUILD_SPAWNING, wanted='snapshot'):
    server = objects.Instance(
        uuid=uuids.server, project_id='mine', task_state=task,
        system_metadata={'image_base_image_ref': 'base'})
    found = evacuation.source(
        Glance(*images), context.get_admin_context(), server,
        objects.ImageMeta(id=uuids.own), wanted)
    return found.id


def test_the_image_where_no_snapshot_is_wanted():
    assert source(image('new'), wanted='image') == uuids.own


def test_the_newest():
    assert source(image('new'), image('old')) == uuids.new


def test_a_backup_is_one_too():
    assert source(image('new', kind='backup')) == uuids.new


@pytest.mark.parametrize('wrong', [
    {'owner': 'somebody'}, {'status': 'queued'}, {'kind': 'image'},
    {'base': 'before the rebuild'}, {'server': uuids.other}])
def test_one_that_is_not_its_own_is_passed_over(wrong):
    assert source(image('bad', **wrong), image('old')) == uuids.old
    assert source(image('bad', **wrong)) == uuids.own


@pytest.mark.parametrize('task', [None, task_states.SPAWNING])
def test_other_servers_are_made_from_their_image(task):
    assert source(image('new'), task=task) == uuids.own

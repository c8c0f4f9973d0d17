# SPDX-License-Identifier: Apache-2.0
"""What storage may say of where a volume is, and what it is told."""

import pytest

from nova_vcloud import exception
from nova_vcloud.virt_docker.volumes import connections

CONNECTION = {'driver_volume_type': 'local', 'data': {}}


class Connector:
    """One of os-brick that says what it is told to."""

    def __init__(self, path):
        self._path = path

    def connect_volume(self, _data):
        return {'path': self._path}


@pytest.fixture
def storage(monkeypatch):
    def say(path):
        monkeypatch.setattr(connections.connector.InitiatorConnector,
                            'factory', lambda *_args, **_kw: Connector(path))
        return connections.Connections('192.0.2.1', 'one', '/nfs')
    return say


@pytest.mark.parametrize('path', ['-oremount', '--help', 'sda', '', b'-x'])
def test_a_path_that_could_be_an_option_is_refused(storage, path):
    with pytest.raises(exception.VolumeError, match='not absolute'):
        storage(path).connect(CONNECTION)


@pytest.mark.parametrize('path', ['/dev/sda', b'/dev/sda'])
def test_a_path_is_given_as_text(storage, path):
    assert storage(path).connect(CONNECTION) == '/dev/sda'


def test_a_volume_without_a_path_is_refused(storage):
    with pytest.raises(exception.VolumeError, match='no path'):
        storage(None).connect(CONNECTION)


def test_a_share_brings_no_programs_to_the_host():
    known = connections.Connections('127.0.0.1', 'compute1', '/mnt/base')
    made = known._connector({'driver_volume_type': 'nfs',
                             'data': {'export': 'server:/share'}})
    assert made._remotefsclient._mount_options == 'nosuid,nodev,noexec'
    assert made._remotefsclient._mount_base == '/mnt/base'

# SPDX-License-Identifier: Apache-2.0
"""What a new server finds, as the engine is given it."""

import io
import tarfile

from nova import exception
from nova import objects
from oslo_utils.fixture import uuidsentinel as uuids
import pytest

from nova_vcloud.virt_docker import seed


def server(key=None):
    return objects.Instance(
        uuid=uuids.server, key_data=key, config_drive='',
        launched_at=None, system_metadata={}, image_ref=uuids.image)


def entries(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: (
            oct(member.mode), member.uid,
            tar.extractfile(member).read() if member.isfile() else None)
            for member in tar}


def test_nothing_is_nothing():
    assert seed.archive(server(), []) == b''


def test_a_key_is_its_owners_alone():
    assert entries(seed.archive(server(' ssh-ed25519 AAAA me\n'), [])) == {
        'root/.ssh': ('0o700', 0, None),
        'root/.ssh/authorized_keys': (
            '0o600', 0, b'ssh-ed25519 AAAA me\n')}


def test_an_injected_file_changes_no_directory():
    assert entries(seed.archive(server(), [], [
        ('/etc/motd', b'hello'), ('../../x', b'y')])) == {
        'etc/motd': ('0o644', 0, b'hello'), 'x': ('0o644', 0, b'y')}


@pytest.mark.parametrize('path', ['/', '', 'etc/', '..', 'a\0b'])
def test_what_is_not_a_file_is_named(path):
    with pytest.raises(exception.InvalidRequest, match='not the path'):
        seed.archive(server(), [], [(path, b'')])

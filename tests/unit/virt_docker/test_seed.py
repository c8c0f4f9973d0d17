# SPDX-License-Identifier: Apache-2.0
"""What a new server finds, as the engine is given it."""

import dataclasses
import io
import tarfile

from nova import objects
from oslo_utils.fixture import uuidsentinel as uuids
import pytest

from nova_vcloud import exception
from nova_vcloud.virt_docker.guest import file_injection
from nova_vcloud.virt_docker.guest import hosts_file


def server(key=None, user_data=None):
    return objects.Instance(
        uuid=uuids.server, key_data=key, config_drive='',
        hostname='web-1', user_data=user_data, launched_at=None,
        system_metadata={}, image_ref=uuids.image)


def entries(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: (
            oct(member.mode), member.uid,
            tar.extractfile(member).read() if member.isfile() else None)
            for member in tar}


NAMES = {
    'etc/hostname': ('0o644', 0, b'web-1\n'),
    'etc/hosts': ('0o644', 0, f'{hosts_file.HOSTS}# nova\n'.encode())}


def test_who_has_nothing_else_has_a_name():
    assert entries(file_injection.archive(server(), [])) == NAMES


@dataclasses.dataclass
class Nic:
    """The two fields of a NIC that its server reads."""

    addresses: tuple[str, ...]
    dns: tuple[str, ...]


def test_a_server_knows_its_addresses_and_who_to_ask():
    nics = [Nic(('10.0.0.5/24', 'fd00::5/64'), ('10.0.0.1',)),
            Nic(('10.1.0.5/24',), ('10.0.0.1', 'fd00::1'))]
    name = 'd' * 70
    found = dict(hosts_file.files(name, nics))
    assert found['/etc/hostname'] == 'd' * 64 + '\n'
    assert found['/etc/hosts'] == hosts_file.HOSTS + ''.join(
        f'{address}\t{name} {"d" * 64}\t# nova\n'
        for address in ('10.0.0.5', 'fd00::5', '10.1.0.5'))
    assert found['/etc/resolv.conf'] == (
        'nameserver 10.0.0.1\nnameserver fd00::1\n')


def test_a_key_is_its_owners_alone():
    assert entries(file_injection.archive(server(' ssh-ed25519 AAAA me\n'),
                                          [])) == {
        **NAMES,
        'root/.ssh': ('0o700', 0, None),
        'root/.ssh/authorized_keys': (
            '0o600', 0, b'ssh-ed25519 AAAA me\n')}


def test_user_data_is_where_cloud_init_keeps_it():
    folder = f'var/lib/cloud/instances/{uuids.server}'
    assert entries(file_injection.archive(server(user_data='IyF4'), [])) == {
        **NAMES,
        'var/lib/cloud': ('0o755', 0, None),
        'var/lib/cloud/instances': ('0o755', 0, None),
        folder: ('0o755', 0, None),
        f'{folder}/user-data.txt': ('0o600', 0, b'#!x')}


def test_an_injected_file_changes_no_directory():
    assert entries(file_injection.archive(server(), [], [
        ('/etc/motd', b'hello'), ('../../x', b'y')])) == {
        **NAMES, 'etc/motd': ('0o644', 0, b'hello'), 'x': ('0o644', 0, b'y')}


@pytest.mark.parametrize('path', ['/', '', 'etc/', '..', 'a\0b'])
def test_what_is_not_a_file_is_named(path):
    with pytest.raises(exception.InvalidRequest, match='not the path'):
        file_injection.archive(server(), [], [(path, b'')])

# SPDX-License-Identifier: Apache-2.0
"""What a host's user namespaces lack, told with its cure."""

import json

import pytest

from nova_vcloud import privsep
from nova_vcloud.virt_docker import server_labels
from nova_vcloud.virt_docker.host import users

HOST = 'compute1'


@pytest.fixture(autouse=True)
def in_process():
    privsep.in_process()


def info(root, mapped):
    return {'DockerRootDir': str(root), 'SecurityOptions': [
        'name=userns'] if mapped else []}


def container(root, labels):
    """Have a container's description, as an engine keeps it."""
    folder = root / 'containers' / ('c' * 64)
    folder.mkdir(parents=True)
    (folder / 'config.v2.json').write_text(
        json.dumps({'Config': {'Labels': labels}}))


def test_an_engine_without_is_fine(tmp_path):
    assert users.check(info(tmp_path, False), HOST, required=False) == []


def test_who_requires_them_is_told(tmp_path):
    said, = users.check(info(tmp_path, False), HOST, required=True)
    assert users.DAEMON_JSON in said
    assert 'require_user_namespaces' in said


def test_ids_that_are_not_known_are_a_lack(tmp_path):
    root = tmp_path / '1.1'
    root.mkdir()
    said, = users.check(info(root, True), HOST, required=True)
    assert 'begins with 1' in said


@pytest.mark.parametrize(('here', 'there'), [
    ('', '100000.100000'), ('100000.100000', ''),
    ('100000.100000', '5.5')])
@pytest.mark.parametrize(('labels', 'counts'), [
    ({server_labels.HOST: HOST}, True),
    ({server_labels.HOST: 'other'}, False), ({}, False), (None, False)])
def test_servers_under_another_map_are_noticed(tmp_path, monkeypatch, here,
                                               there, labels, counts):
    monkeypatch.setattr(users.userns, 'of_engine', lambda _info: None)
    root = tmp_path / here
    root.mkdir(exist_ok=True)
    container(tmp_path / there, labels)
    said = users.check(info(root, bool(here)), HOST, required=False)
    assert len(said) == counts
    if counts:
        assert str(tmp_path / there) in said[0]
        assert 'userns-remap' in said[0]

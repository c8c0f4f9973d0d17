# SPDX-License-Identifier: Apache-2.0
"""The search for leaks finds them."""

import os
import uuid

import dockerd as dockerd_fixture
import leaks
import pytest


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(leaks, 'SETTLE_TIMEOUT', 0.2)


def test_of_a_network(lan):
    before = leaks.place(lan, None)
    server, nic = str(uuid.uuid4()), lan.nic()
    lan.network.plug(server, (nic,))
    assert leaks.left(before, lambda: leaks.place(lan, None)) == {
        'links of the fabric': {nic.tap},
        'namespaces': {lan.prefix + server},
        'mounts': {f'/run/netns/{lan.prefix}{server}'}}
    lan.network.destroy(server)
    assert not leaks.left(before, lambda: leaks.place(lan, None))


def test_of_an_engine(dockerd):
    before = leaks.place(None, dockerd)
    found = dockerd.docker('run', '-d', '--network=none',
                           dockerd_fixture.IMAGE, 'sleep', '1000')
    container = found.stdout.strip()
    dockerd.links.mkdir(exist_ok=True)
    (dockerd.links / 'x').symlink_to('/nowhere')
    try:
        more = leaks.left(before, lambda: leaks.place(None, dockerd))
        assert more.pop('containers') == {container}
        assert more.pop('mappings') == {'x'}
        assert any(container in path for path in more.pop('cgroups'))
        assert more.pop('engine mounts')
        assert not more
    finally:
        os.unlink(dockerd.links / 'x')
        dockerd.engine.remove(container)

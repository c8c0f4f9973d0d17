# SPDX-License-Identifier: Apache-2.0
"""Sizes of root disks of overlay2 on xfs, which this kernel has quotas for."""

import os
import uuid

from backend_contract import Contract
from backend_contract import Place
import dockerd as dockerd_fixture
import pytest

from nova_vcloud import exception
from nova_vcloud.guest import Guest
from nova_vcloud.qos import limits
from nova_vcloud.qos.backends import base
from nova_vcloud.qos.backends import disk

MIB = 2**20
KEY = limits.Key('disk', 'max')


@pytest.fixture(scope='module')
def engine():
    with dockerd_fixture.private(store='xfs') as found:
        yield found


@pytest.fixture
def make(engine):
    """Makes containers that are told sizes as servers are."""
    made = []

    def create(size, command=('sleep', '1000')):
        backend = disk.DiskBackend(engine.engine)
        assert backend.support().enforced == {'disk.max'}
        made.append(engine.engine.create(f'nova-{uuid.uuid4()}', {
            'Image': dockerd_fixture.IMAGE, 'Cmd': list(command),
            'HostConfig': {'NetworkMode': 'none', **backend.host_config(
                limits.Limits({KEY: size}))}}))
        return backend, Guest('', made[-1], '')

    yield create
    for container in made:
        engine.engine.remove(container)


class TestDisk(Contract):
    """Quotas of containers that are stopped."""

    @pytest.fixture
    def place(self, make):
        backend, first = make(32 * MIB)
        _backend, second = make(32 * MIB)
        return Place(backend, first, second, Guest('', 'absent', ''), {})


def inside(engine, guest, script):
    done = engine.docker('exec', guest.name, 'sh', '-c', script, check=False)
    return done.stdout + done.stderr


def total(engine, guest):
    """Return the MiB that df shows inside."""
    line = inside(engine, guest, 'df -m /').splitlines()[-1]
    return int(line.split()[1])


def test_a_disk_is_full_inside_and_grows_while_the_server_runs(engine, make):
    backend, guest = make(64 * MIB)
    engine.engine.start(guest.name)
    assert total(engine, guest) == 64
    room = os.statvfs(engine.home / 'data').f_bavail
    write = 'dd if=/dev/zero of=/file bs=1M count=100 conv=fsync'
    assert 'No space left' in inside(engine, guest, write)
    figures = backend.figures(guest.name)
    assert figures['disk_limit_bytes'] == 64 * MIB
    assert 62 * MIB < figures['disk_used_bytes'] <= 64 * MIB
    left = os.statvfs(engine.home / 'data')
    assert (room - left.f_bavail) * left.f_frsize < 80 * MIB
    backend.apply(guest, [base.Change(KEY, 64 * MIB, 128 * MIB)])
    assert total(engine, guest) == 128
    assert 'No space left' not in inside(engine, guest, write)
    engine.docker('restart', '-t', '0', guest.name)
    assert total(engine, guest) == 128
    assert backend.read(guest, [KEY])[KEY] == 128 * MIB


def test_who_was_made_without_a_size_gets_none(make):
    backend, guest = make(limits.UNLIMITED)
    assert backend.read(guest, [KEY])[KEY] is limits.UNLIMITED
    with pytest.raises(exception.LimitNotEnforced, match='made without'):
        backend.apply(guest, [base.Change(KEY, limits.UNLIMITED, MIB)])

# SPDX-License-Identifier: Apache-2.0
"""Requests that an engine ends after we gave up: nothing stays of them."""

from collections.abc import Iterator
import contextlib
import copy
import hashlib
import io
import json
import os
import signal
import tarfile
import threading

import computehost
import dockerd as dockerd_fixture
import lan as lan_fixture
import pytest

from nova_vcloud import exception
from nova_vcloud.engine import Engine
from nova_vcloud.virt_docker.guest import container_spec
from nova_vcloud.virt_docker.migration import leftovers

PATIENCE = 90  # seconds
TIMEOUT = 1  # seconds that we wait for the engine
VOLUMES = 'vcloud-test/volumes'


@pytest.fixture
def impatient(dockerd):
    """The engine, for one who does not wait for long."""
    found = copy.copy(dockerd)
    found.engine = Engine(dockerd.engine.url, TIMEOUT, TIMEOUT)
    return found


@pytest.fixture
def service(impatient):
    """What looks for leftovers; Nova has deleted no server."""
    return leftovers.Leftovers(
        impatient.engine, computehost.NAME, lambda _uuid: None,
        lambda _uuids, _host: {})


@contextlib.contextmanager
def asleep(dockerd) -> Iterator[None]:
    """Have the engine take what it is asked for, and do nothing yet."""
    os.kill(dockerd._process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(dockerd._process.pid, signal.SIGCONT)


def cleared(service, nothing) -> None:
    """Wait until looks have left nothing, and nothing comes any more."""
    def look() -> bool:
        service.look()
        return nothing() and not service._engine.late.all()
    lan_fixture.wait_until(look, PATIENCE)


def volumes(dockerd) -> set[str]:
    return set(os.listdir(dockerd.home / 'data/volumes')) - {
        'metadata.db', 'backingFsBlockDev'}


def names(dockerd) -> set[str]:
    return set(dockerd.docker('ps', '-a', '--format',
                              '{{.Names}}').stdout.split())


def test_a_container_that_comes_late_is_removed(dockerd, impatient, service):
    with asleep(dockerd), pytest.raises(exception.EngineUnavailable):
        impatient.engine.create('late', {'Image': dockerd_fixture.IMAGE})
    lan_fixture.wait_until(lambda: 'late' in names(dockerd), PATIENCE)
    cleared(service, lambda: 'late' not in names(dockerd))


def test_another_of_that_name_that_was_made_since_stays(
        dockerd, impatient, service):
    with asleep(dockerd), pytest.raises(exception.EngineUnavailable):
        impatient.engine.create('late', {'Image': dockerd_fixture.IMAGE})
    lan_fixture.wait_until(lambda: 'late' in names(dockerd), PATIENCE)
    dockerd.docker('rm', 'late')
    mine = dockerd.engine.create('late', {'Image': dockerd_fixture.IMAGE})
    try:
        cleared(service, lambda: mine in dockerd.containers())
        assert mine in dockerd.containers()
    finally:
        dockerd.engine.remove(mine)


def test_an_image_that_comes_late_is_removed(dockerd, impatient, service):
    made = dockerd.engine.create('committed', {'Image':
                                               dockerd_fixture.IMAGE})
    tag = 'vcloud-test/late:snapshot'
    try:
        with asleep(dockerd), pytest.raises(exception.EngineUnavailable):
            impatient.engine.commit(made, tag)
        lan_fixture.wait_until(lambda: dockerd.engine.image_get(tag),
                               PATIENCE)
        cleared(service, lambda: dockerd.engine.image_get(tag) is None)
    finally:
        dockerd.engine.remove(made)


def test_a_removal_that_takes_long_is_seen_to_its_end(
        dockerd, impatient, service):
    made = dockerd.engine.create('slow', {'Image': dockerd_fixture.IMAGE})
    with asleep(dockerd), pytest.raises(exception.EngineUnavailable):
        impatient.engine.remove(made)
    cleared(service, lambda: made not in dockerd.containers())


def test_a_server_that_nova_has_deleted_is_removed_with_what_waits(
        dockerd, lan, tmp_path, monkeypatch):
    """A parked container, say, of a server that was reset and deleted."""
    host = computehost.ComputeHost(dockerd, lan, tmp_path / 'records')
    instance, other = host.instance(), host.instance()
    for each in (instance, other):
        host.spawn(each, host.ports())
    host.containers.stop(instance.uuid, 0)
    host.containers.leave(instance.uuid)
    service = leftovers.Leftovers(
        dockerd.engine, computehost.NAME, host.containers.destroy,
        lambda uuids, name: dict.fromkeys(uuids & {instance.uuid}, 0.0))
    try:
        service.look()
        # It may only just be deleted, and removed by that.
        assert container_spec.parked_name(instance.uuid) in names(dockerd)
        monkeypatch.setattr(leftovers, 'GRACE', 0)
        service.look()
        assert not names(dockerd) & {
            container_spec.parked_name(instance.uuid),
            container_spec.container_name(instance.uuid)}
        assert host.containers.running(other.uuid)
    finally:
        for each in (instance, other):
            host.containers.destroy(each.uuid)


@pytest.mark.parametrize('age', [leftovers.GRACE - 60, leftovers.GRACE + 60])
def test_what_is_parked_of_a_deleted_server_is_removed_at_start(
        dockerd, lan, tmp_path, age):
    """A host that is started often enough would never see it for long."""
    host = computehost.ComputeHost(dockerd, lan, tmp_path / 'records')
    instances = [host.instance() for _ in range(2)]
    for each in instances:
        host.spawn(each, host.ports())
        host.containers.stop(each.uuid, 0)
        host.containers.leave(each.uuid)
    looked, tried = threading.Event(), []

    def remove(uuid: str) -> None:
        tried.append(uuid)
        if len(tried) == 1:
            raise exception.EngineError('busy')
        host.containers.destroy(uuid)

    def gone(uuids: set[str], _name: str) -> dict[str, float]:
        looked.set()
        return dict.fromkeys(sorted(uuids), age)
    service = leftovers.Leftovers(dockerd.engine, computehost.NAME, remove,
                                  gone)
    try:
        service.start()
        assert looked.wait(60)
        # One that cannot be removed now is in no other's way.
        wanted = 1 if age > leftovers.GRACE else 2
        lan_fixture.wait_until(lambda: len(names(dockerd) & {
            container_spec.parked_name(each.uuid)
            for each in instances}) == wanted, 60)
        assert len(tried) == (2 if age > leftovers.GRACE else 0)
    finally:
        service.stop()
        for each in instances:
            host.containers.destroy(each.uuid)


@pytest.fixture
def image(dockerd, budget):
    """An image of so many VOLUMEs that a container takes long to make."""
    count = budget.count(1500, 40000)
    dockerd.engine.image_load(iter([with_volumes(
        b''.join(dockerd.engine.image_save(dockerd_fixture.IMAGE)), count)]))
    yield VOLUMES
    dockerd.engine.image_remove(f'{VOLUMES}:latest')


def with_volumes(archive: bytes, count: int) -> bytes:
    """Return an archive of ``docker save`` whose image has VOLUMEs."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(archive)) as old, \
            tarfile.open(fileobj=out, mode='w') as new:
        manifest = json.load(old.extractfile('manifest.json'))
        name = manifest[0]['Config']
        config = json.load(old.extractfile(name))
        config['config']['Volumes'] = {
            f'/v/{number}': {} for number in range(count)}
        data = json.dumps(config).encode()
        manifest[0] |= {'Config': f'{hashlib.sha256(data).hexdigest()}.json',
                        'RepoTags': [f'{VOLUMES}:latest']}
        files = {manifest[0]['Config']: data,
                 'manifest.json': json.dumps(manifest).encode()}
        for member in old.getmembers():
            if member.name not in (name, 'manifest.json', 'repositories'):
                new.addfile(member, old.extractfile(member)
                            if member.isfile() else None)
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            new.addfile(info, io.BytesIO(content))
    return out.getvalue()


def test_a_server_of_many_volumes_that_is_deleted_meanwhile_leaves_none(
        dockerd, impatient, service, lan, tmp_path, image):
    before = volumes(dockerd)
    host = computehost.ComputeHost(impatient, lan, tmp_path / 'records',
                                   image=image)
    instance = host.instance()
    with pytest.raises(exception.EngineUnavailable):
        host.spawn(instance, host.ports())
    assert impatient.engine.late.all()
    host.containers.destroy(instance.uuid)  # while the engine is at it
    cleared(service, lambda: container_spec.container_name(
        instance.uuid) not in names(dockerd)
        and volumes(dockerd) == before)

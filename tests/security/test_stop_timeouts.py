# SPDX-License-Identifier: Apache-2.0
"""Images that say how long their servers take to end: nobody waits longer."""

from collections.abc import Iterator
import contextlib
import threading
import time

import computehost
import lan as lan_fixture
from nova import objects
from nova.compute import vm_states
import pytest

from nova_vcloud import exception
from nova_vcloud.virt_docker.guest import boot_checks
from nova_vcloud.virt_docker.guest import container_spec
from nova_vcloud.virt_docker.guest import stopping

#: Takes no notice of being asked to end.
DEAF = {'image_vcloud_command':
        "/bin/sh -c 'trap \"echo asked\" TERM;"
        " while :; do sleep 1 & wait; done'"}
YEARS = 999_999_999  # seconds
PATIENCE = 45  # seconds in which what has to be at once is done at load 10


class Nova:
    """Tells which servers are to be deleted."""

    def __init__(self) -> None:
        self.deleted: set[str] = set()

    def wants_gone(self, uuid: str) -> bool:
        return uuid in self.deleted


@pytest.fixture
def nova():
    return Nova()


@pytest.fixture
def host(dockerd, lan, tmp_path, nova):
    found = computehost.ComputeHost(
        dockerd, lan, tmp_path / 'records', stops=stopping.Stops(
            dockerd.engine, 60, 120, nova.wants_gone))
    yield found
    for uuid in list(found.containers.list()):
        dockerd.docker('kill', container_spec.container_name(uuid),
                       check=False)
        found.containers.destroy(uuid)


@pytest.fixture
def deaf(host):
    """A server that does not end when it is asked to, and its ports."""
    instance, ports = host.instance(), host.ports()
    instance.system_metadata = dict(DEAF)
    host.spawn(instance, ports)
    return instance, ports


@contextlib.contextmanager
def waiting(host, instance, action) -> Iterator[threading.Thread]:
    """Have an action going on that waits for a server to end."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except exception.NovaVcloudException as e:
            errors.append(e)
    thread = threading.Thread(target=run)
    thread.start()
    try:
        lan_fixture.wait_until(
            lambda: b'asked' in host.containers.console(instance.uuid), 30)
        yield thread
    finally:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def verbs(host, instance, ports):
    return {
        'stop': lambda: host.containers.stop(instance.uuid, YEARS),
        'reboot': lambda: host.containers.reboot(instance, ports, YEARS),
        'rebuild': lambda: host.containers.rebuild(
            None, instance, objects.ImageMeta(id=instance.image_ref), ports,
            b'', YEARS)}


@pytest.mark.parametrize('verb', ['stop', 'reboot', 'rebuild'])
def test_a_delete_does_not_wait_for_a_server_to_end(host, deaf, verb):
    """Of this process: whoever has the server's lock lets go of it."""
    instance, ports = deaf
    with waiting(host, instance, verbs(host, instance, ports)[verb]):
        begin = time.monotonic()
        host.containers.destroy(instance.uuid)
        assert time.monotonic() - begin < PATIENCE
    assert host.containers.list() == {}


def test_a_delete_that_nova_holds_back_ends_a_stop(host, deaf, nova):
    """Nova's delete has the stop end first: its record tells of it."""
    instance, ports = deaf
    with waiting(host, instance, verbs(host, instance, ports)['stop']
                 ) as stop:
        nova.deleted.add(instance.uuid)
        stop.join(PATIENCE)
        assert not stop.is_alive()
    assert not host.containers.running(instance.uuid)


def test_the_engine_is_never_asked_to_wait_longer_than_allowed(dockerd, lan,
                                                              tmp_path):
    host = computehost.ComputeHost(
        dockerd, lan, tmp_path / 'records',
        stops=stopping.Stops(dockerd.engine, 1, 2))
    instance, ports = host.instance(), host.ports()
    instance.system_metadata = dict(DEAF)
    host.spawn(instance, ports)
    try:
        for timeout in (YEARS, -1, -5, 2**63):
            begin = time.monotonic()
            host.containers.stop(instance.uuid, timeout)
            assert 0.9 < time.monotonic() - begin < PATIENCE
            assert not host.containers.running(instance.uuid)
            host.containers.start(instance, ports)
    finally:
        host.containers.destroy(instance.uuid)


def test_a_server_that_ends_by_itself_is_not_killed(host):
    instance, ports = host.instance(), host.ports()
    instance.system_metadata = {
        'image_vcloud_command':
        "/bin/sh -c 'trap \"exit 7\" TERM; while :; do sleep 1 & wait; done'"}
    host.spawn(instance, ports)
    host.containers.stop(instance.uuid, YEARS)
    assert host.container(instance)['State']['ExitCode'] == 7


@pytest.mark.parametrize('said', ['-1', '-5', 'soon', '1e9', '9' * 40])
def test_a_time_that_cannot_be_is_refused_when_a_server_is_made(host, said):
    instance = host.instance()
    instance.system_metadata = {'image_os_shutdown_timeout': said}
    instance.vm_state = vm_states.BUILDING
    with pytest.raises(exception.InvalidRequest,
                       match='image property os_shutdown_timeout='):
        host.spawn(instance, host.ports())
    assert host.containers.list() == {}


def test_a_server_that_was_made_before_the_rule_can_come_back(host):
    instance = host.instance()
    instance.system_metadata = {'image_os_shutdown_timeout': '-5'}
    instance.vm_state = vm_states.SHELVED_OFFLOADED
    host.spawn(instance, host.ports())
    assert boot_checks.stop_timeout(instance, 60) == -5
    assert host.containers.running(instance.uuid)

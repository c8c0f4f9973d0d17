# SPDX-License-Identifier: Apache-2.0
"""Servers go to another host with all they have, or stay whole."""

import contextlib
import os
import pathlib

import crashes
from desk import Desk
from desk import until
from openstack import exceptions
import pytest
import transfers

from mini import settings

#: Steps of a move at which nova-compute dies: (where, step).
AT_SOURCE = ('announced', 'copied', 'stopped', 'sent', 'park', 'left')
AT_DEST = ('base', 'disks', 'namespace', 'create', 'join', 'limits',
           'unpacked', 'inject', 'start', 'arrived')

WRITE = '''
set -e
mkdir -p /data/deep /data/new
head -c 3000000 /dev/urandom >/data/big
ln /data/big /data/deep/hard
ln -s ../big /data/deep/soft
echo owned >/data/owned && chown 1234:4321 /data/owned && chmod 640 /data/owned
chmod 4755 /data/owned
mkfifo /data/fifo
rm -f /etc/issue; rm -rf /etc/network; mkdir -p /etc/network
echo new >/etc/network/only
[ ! -d /volumes/vdb ] || echo kept >/volumes/vdb/note
'''
LOOK = '''
find /data -exec stat -c '%n %F %a %u %g %h %s %Y' {} +
sha256sum /data/big; cat /etc/network/only; ls -A /etc/network
ls /etc/issue 2>&1; readlink /data/deep/soft; hostname
cat /volumes/vdb/note 2>&1
'''


def root(desk: Desk, server) -> pathlib.Path:
    """Return the server's root, seen from the host."""
    return pathlib.Path(
        f'/proc/{desk.container(server)["State"]["Pid"]}/root')


def fill(desk: Desk, server) -> None:
    assert desk.inside(server, WRITE) == ''
    os.setxattr(root(desk, server) / 'data/owned', 'user.colour', b'blue')


def look(desk: Desk, server) -> tuple:
    """Return all that must be the same after a move."""
    colour = os.getxattr(root(desk, server) / 'data/owned', 'user.colour')
    return (sorted(desk.inside(server, LOOK).splitlines()), colour,
            desk.addresses(server), desk.nic(server))


def migrate(desk: Desk, server) -> None:
    desk.compute.migrate_server(server)
    desk.wait(server, 'VERIFY_RESIZE', 120)


def names(desk: Desk, server) -> dict[str, list[str]]:
    """Return the containers of a server on each host."""
    return {host.name: [
        name for each in desk.engine(host).containers(all=True)
        for name in each['Names'] if server.id in name]
        for host in desk.cloud.hosts}


def spools(desk: Desk) -> list[str]:
    """Return what lies in the spools of all hosts."""
    return [name for host in desk.cloud.hosts for name in transfers.left(
        host.folder / 'nova/vcloud-moves')]


def sides(desk: Desk, server) -> tuple[settings.Host, settings.Host]:
    """Return where a server is, and where it would go."""
    source = desk.host_of(server)
    other, = (h for h in desk.cloud.hosts if h.name != source.name)
    return source, other


def receivers(source: settings.Host, dest: settings.Host) -> tuple[str, str]:
    """Return what takes servers from one host, and what does not."""
    names = [f'sshd-{dest.name}', f'receive-{dest.name}']
    if source.sends_by == 'tls':
        names.reverse()
    return names[0], names[1]


@pytest.mark.parametrize('index', [0, 1])
@pytest.mark.matrix('operation.resize', 'operation.get-host-ip')
def test_a_migrated_server_has_all_it_had(desk: Desk, index):
    """By ssh from one of the hosts, by TLS from the other."""
    server = desk.boot('mover', host=desk.cloud.hosts[index].name)
    fill(desk, server)
    before, console = look(desk, server), desk.console(server)
    hosts = sides(desk, server)
    with desk.stopped(receivers(*hosts)[1]):
        migrate(desk, server)
    source, dest = (host.name for host in hosts)
    assert desk.host_of(server).name == dest
    assert look(desk, server) == before
    desk.answers(server)
    assert desk.console(server).startswith(console)
    assert names(desk, server) == {
        dest: [f'/nova-{server.id}'], source: [f'/nova-{server.id}-parked']}
    desk.compute.confirm_server_resize(server)
    desk.wait(server, 'ACTIVE')
    until(lambda: names(desk, server)[source] == [], 60, 'source is clean')
    assert look(desk, server) == before
    assert spools(desk) == []


@pytest.mark.matrix('operation.resize')
def test_a_revert_brings_back_what_stayed(desk: Desk):
    server = desk.boot('homesick')
    fill(desk, server)
    before, source = look(desk, server), desk.host_of(server).name
    migrate(desk, server)
    assert desk.inside(server, 'echo changed >/data/owned') == ''
    desk.compute.revert_server_resize(server)
    desk.wait(server, 'ACTIVE')
    assert desk.host_of(server).name == source
    assert look(desk, server) == before
    desk.answers(server)
    other = {host.name for host in desk.cloud.hosts} - {source}
    assert names(desk, server) == {
        source: [f'/nova-{server.id}'], other.pop(): []}


def test_a_stopped_server_moves_and_stays_stopped(desk: Desk):
    server = desk.boot('sleeper')
    fill(desk, server)
    before = look(desk, server)
    desk.compute.stop_server(server)
    desk.wait(server, 'SHUTOFF')
    migrate(desk, server)
    desk.silent(server)
    desk.compute.confirm_server_resize(server)
    desk.wait(server, 'SHUTOFF')
    desk.compute.start_server(server)
    desk.wait(server, 'ACTIVE')
    assert look(desk, server) == before
    desk.answers(server)


def test_a_live_migration_is_refused(desk: Desk):
    """Nova tells that no host would; the host's log says why."""
    server = desk.boot('lively')
    before, (_, other) = desk.container(server), sides(desk, server)
    mark = desk.log_mark(other)
    with pytest.raises(exceptions.BadRequestException,
                       match='No valid host was found'):
        desk.compute.live_migrate_server(server, host=other.name,
                                         block_migration='auto')
    assert 'a container cannot move while it runs' in desk.log_since(
        other, mark)
    assert desk.get(server).status == 'ACTIVE'
    assert desk.container(server)['State'] == before['State']


@pytest.mark.parametrize('index', [0, 1])
def test_a_host_that_cannot_be_reached_keeps_the_server(desk: Desk, index):
    server = desk.boot('anchored', host=desk.cloud.hosts[index].name)
    fill(desk, server)
    before, (source, dest) = look(desk, server), sides(desk, server)
    started = desk.container(server)['State']['StartedAt']
    with desk.stopped(receivers(source, dest)[0]):
        # A connection that was kept would do; it ends with its process.
        service = f'nova-compute-{source.name}'
        desk.wait_restarted(service, desk.kill(service))
        report = desk.last_report(source)
        until(lambda: desk.compute_ready(source, report), 60, 'it reports')
        desk.compute.migrate_server(server)
        until(lambda: desk.get(server).task_state is None, 60, 'it is tried')
    assert desk.get(server).status == 'ACTIVE'
    assert desk.container(server)['State']['StartedAt'] == started
    assert look(desk, server) == before
    desk.answers(server)


@pytest.mark.parametrize(('flavor', 'vcpus', 'host', 'others'), [
    # Of 4 ECU a core, which the other host has not.
    ('move.fast', 1, 1, ()),
    # The other host has 32 ECU for sale, and all are sold.
    ('move.full', 2, 0, (1,) * 8)])
def test_a_host_that_does_not_fit_is_refused(desk: Desk, flavor, vcpus, host,
                                             others):
    hosts = [each.name for each in desk.cloud.hosts]
    with desk.flavor(flavor, vcpus, resources__CUSTOM_ECU='4'):
        for each in [desk.request(f'fills-{number}', flavor=flavor,
                                  host=hosts[other])
                     for number, other in enumerate(others)]:
            desk.wait(each, 'ACTIVE')
        server = desk.boot('stays', flavor=flavor, host=hosts[host])
        before = desk.container(server)
        desk.compute.migrate_server(server)
        until(lambda: desk.get(server).task_state is None, 60, 'it is tried')
        action, = (each for each in desk.compute.server_actions(server)
                   if each.action == 'migrate')
        assert action.message == 'Error'
        assert desk.get(server).status == 'ACTIVE'
        assert desk.container(server)['State'] == before['State']
        desk.answers(server)
        desk.delete(*desk.compute.servers(flavor=flavor))


def settle(desk: Desk, server) -> str:
    """Wait until nobody works on a server; confirm a move; return its state.
    """
    def done():
        now = desk.get(server)
        return now if now.task_state is None else None
    now = until(done, 240, 'nobody works on the server', every=1)
    if now.status == 'VERIFY_RESIZE':
        desk.compute.confirm_server_resize(server)
        now = desk.wait(server, 'ACTIVE')
    return now.status


def whole(desk: Desk, server, before: tuple) -> None:
    """Require that a server is on one host, with all it had."""
    assert look(desk, server) == before
    desk.answers(server)
    here = desk.host_of(server).name
    until(lambda: names(desk, server) == {
        host.name: [f'/nova-{server.id}'] if host.name == here else []
        for host in desk.cloud.hosts}, 60, f'one container, on {here}')
    until(lambda: spools(desk) == [], 60, 'nothing lies in a spool')
    until(lambda: all(f'/{here}/' in path for path in desk.disks(server)),
          60, 'its disks are nowhere else')


@pytest.fixture
def flavor(desk: Desk):
    """One with an ephemeral disk, which goes along."""
    with desk.flavor('move.disk', ephemeral=1) as name:
        yield name


@pytest.mark.parametrize('index', crashes.some((0, 1), 1))
@pytest.mark.parametrize('step', crashes.some(AT_SOURCE, 2))
def test_nova_compute_dies_where_the_server_leaves(desk: Desk, flavor, step,
                                                   index):
    server = desk.boot('leaver', flavor=flavor,
                       host=desk.cloud.hosts[index].name)
    fill(desk, server)
    before, source = look(desk, server), desk.host_of(server)
    with crashes.death_at(desk, source, step):
        desk.compute.migrate_server(server)
    assert settle(desk, server) == 'ACTIVE'
    assert desk.host_of(server).name == source.name
    whole(desk, server, before)


@pytest.mark.parametrize('index', crashes.some((0, 1), 1))
@pytest.mark.parametrize('step', crashes.some(AT_DEST, 3))
def test_nova_compute_dies_where_the_server_arrives(desk: Desk, flavor, step,
                                                    index):
    server = desk.boot('arriver', flavor=flavor,
                       host=desk.cloud.hosts[index].name)
    fill(desk, server)
    before, (_, dest) = look(desk, server), sides(desk, server)
    with crashes.death_at(desk, dest, step):
        desk.compute.migrate_server(server)
    assert settle(desk, server) == 'ACTIVE'
    assert desk.host_of(server).name == dest.name
    whole(desk, server, before)


@contextlib.contextmanager
def failure_at(desk: Desk, host, step: str):
    """Have a step fail once on a host."""
    path = crashes.crash_file(desk, host)
    path.write_text(f'{step} fail')
    try:
        yield
        until(lambda: not path.exists(), 60, f'{step} has failed')
    finally:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize('step', crashes.some(
    ('check-create', 'check-unpacked', 'check-start'), 1))
def test_what_fails_before_the_stop_stops_nothing(desk: Desk, step):
    server = desk.boot('checked')
    fill(desk, server)
    before, (source, dest) = look(desk, server), sides(desk, server)
    started = desk.container(server)['State']['StartedAt']
    with failure_at(desk, dest, step):
        desk.compute.migrate_server(server)
    assert settle(desk, server) == 'ACTIVE'
    assert desk.host_of(server).name == source.name
    assert desk.container(server)['State']['StartedAt'] == started
    whole(desk, server, before)


@pytest.mark.parametrize('step', crashes.some(
    ('check-create', 'check-unpacked'), 1))
def test_nova_compute_dies_while_it_tries(desk: Desk, step):
    """It leaves a container that is nobody's, which the next move removes."""
    server = desk.boot('checked')
    fill(desk, server)
    before, (source, dest) = look(desk, server), sides(desk, server)
    with crashes.death_at(desk, dest, step):
        desk.compute.migrate_server(server)
    assert settle(desk, server) == 'ACTIVE'
    assert desk.host_of(server).name == source.name
    assert look(desk, server) == before
    migrate(desk, server)
    desk.compute.confirm_server_resize(server)
    desk.wait(server, 'ACTIVE')
    assert desk.host_of(server).name == dest.name
    whole(desk, server, before)


@pytest.mark.parametrize(('step', 'reset'), crashes.some(
    (('base', False), ('unpacked', True), ('start', False),
     ('arrived', True)), 1))
def test_a_hard_reboot_ends_a_move_that_failed_at_its_end(
        desk: Desk, flavor, step, reset):
    """The tenant does it; also when an administrator has reset the state.

    What it has left on the other host goes once it is whole.
    """
    server = desk.boot('late', flavor=flavor)
    fill(desk, server)
    before, (source, dest) = look(desk, server), sides(desk, server)
    with failure_at(desk, dest, step):
        desk.compute.migrate_server(server)
    desk.wait(server, 'ERROR', 120)
    assert desk.host_of(server).name == dest.name
    if reset:
        desk.compute.reset_server_state(server, 'active')
        desk.wait(server, 'ACTIVE')
    desk.compute.reboot_server(server.id, 'HARD')
    until(lambda: desk.get(server).task_state is None, 120, 'it is rebooted')
    assert desk.get(server).status == 'ACTIVE'
    assert look(desk, server) == before
    until(lambda: names(desk, server)[source.name] == [], 300,
          'nothing is left where it was', every=2)
    # What has come goes later if the server did not have to be made of it.
    until(lambda: spools(desk) == [], 300, 'nothing lies in a spool', every=2)
    whole(desk, server, before)


@contextlib.contextmanager
def engine_death_at(desk: Desk, host, step: str):
    """Have the engine of a host die at a step; wait until it is back."""
    path, service = crashes.crash_file(desk, host), f'dockerd-{host.name}'
    pid = desk.pid(service)
    path.write_text(f'{step} {pid}')
    try:
        yield
        until(lambda: not path.exists(), 60, f'{service} dies at {step}')
        desk.wait_restarted(service, pid)
        until(lambda: desk.engine_ready(host), 60, 'it answers')
    finally:
        path.unlink(missing_ok=True)


# Each step of both hosts: tests/functional/driver/test_moves.py.

@pytest.mark.parametrize(('side', 'step'), [(0, 'stopped'), (1, 'unpacked')])
def test_the_engine_dies_where_it_leaves_or_arrives(desk: Desk, side, step):
    server = desk.boot('mover')
    fill(desk, server)
    before = look(desk, server)
    with engine_death_at(desk, sides(desk, server)[side], step):
        desk.compute.migrate_server(server)
    assert settle(desk, server) == 'ACTIVE'
    whole(desk, server, before)


def test_a_server_that_was_shelved_moves(desk: Desk):
    """Its image is a snapshot that Glance has no more, under another name."""
    server = desk.boot('shelved')
    fill(desk, server)
    before = look(desk, server)
    desk.compute.shelve_server(server)
    desk.wait(server, 'SHELVED_OFFLOADED')
    desk.compute.unshelve_server(server)
    desk.wait(server, 'ACTIVE')
    assert desk.inside(server, 'sha256sum /data/big') in '\n'.join(
        [*before[0], ''])
    migrate(desk, server)
    desk.compute.confirm_server_resize(server)
    desk.wait(server, 'ACTIVE')
    assert desk.inside(server, 'sha256sum /data/big') in '\n'.join(
        [*before[0], ''])
    desk.answers(server)

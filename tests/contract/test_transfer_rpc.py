# SPDX-License-Identifier: Apache-2.0
"""Moves are admitted over stock Nova's RPC, by its own records."""

import subprocess
import sys
import types

from nova import context as nova_context
from nova import exception as nova_exception
from nova import manager as nova_manager
from nova import objects
from nova import rpc
from nova import service as nova_service
from nova.compute import manager as compute_manager
from nova.compute import task_states
import nova.conf
from oslo_messaging import conffixture
from osprofiler import opts as profiler_opts
import pytest

from nova_vcloud import exception
from nova_vcloud.transfer import spool as spools
from nova_vcloud.virt_docker.migration import cold_migration
from nova_vcloud.virt_docker.migration import transfer_rpc

SERVER = '11111111-2222-4333-8444-555566667777'
MOVE = '22222222-2222-4333-8444-555566667777'
FILES = ['layer.tar', 'changes.tar']
#: What Nova has noted of a move that may be admitted.
RIGHT = {'host': 'one', 'task_state': task_states.RESIZE_MIGRATING,
         'source_compute': 'one', 'dest_compute': 'two',
         'status': 'migrating', 'moves': True}


class Manager(nova_manager.Manager):
    """Of Nova's ComputeManager, what runs without a cloud."""

    def __init__(self, host=None):
        super().__init__(host, service_name='compute')
        self.additional_endpoints.append(
            compute_manager._ComputeV5Proxy(self))

    def init_host(self, service_ref):
        """Make the driver, as Nova does when it makes the manager."""
        if traffic := TRAFFIC.get(self.host):
            transfer_rpc.serve(self, self.host, traffic)


TRAFFIC = {}


@pytest.fixture
def transport():
    """Nova's RPC in this process."""
    conf = nova.conf.CONF
    conf([], project='nova', default_config_files=[])
    profiler_opts.set_defaults(conf)  # as nova.config does
    with conffixture.ConfFixture(conf) as found:
        found.transport_url = 'fake://'
        found.response_timeout = 30
        rpc.init(conf)
        yield found
        rpc.cleanup()


@pytest.fixture
def records(monkeypatch):
    """What Nova has noted, with a way to change it."""
    noted = dict(RIGHT)

    def instance(_context, uuid, expected_attrs=None):
        if uuid != SERVER:
            raise nova_exception.InstanceNotFound(instance_id=uuid)
        return objects.Instance(
            uuid=uuid, host=noted['host'], task_state=noted['task_state'],
            migration_context=objects.MigrationContext(migration_id=7)
            if noted['moves'] else None,
            flavor=objects.Flavor(name='old'),
            new_flavor=objects.Flavor(name='new'))
    monkeypatch.setattr(objects.Instance, 'get_by_uuid', instance)
    monkeypatch.setattr(
        objects.Migration, 'get_by_id_and_instance',
        lambda *_args: objects.Migration(
            uuid=MOVE, source_node='one.example', **{
                key: noted[key] for key in (
                    'source_compute', 'dest_compute', 'status')}))
    monkeypatch.setattr(
        objects.ComputeNode, 'get_by_host_and_nodename',
        lambda _context, host, node: objects.ComputeNode(
            host_ip={('one', 'one.example'): '192.0.2.7'}[host, node]))
    return noted


def traffic(path):
    engine = types.SimpleNamespace(image_remove=lambda _tag: None)
    return cold_migration.Moves(engine, None, None, 'layer', str(path), None,
                                None, None, 2, 1024, 5, None)


@pytest.fixture
def served(transport, monkeypatch, tmp_path):
    """Stock nova.service.Service for two hosts, one of them without us."""
    no_record = types.SimpleNamespace(
        version=nova_service.service_obj.SERVICE_VERSION)
    monkeypatch.setattr(objects.Service, 'get_by_host_and_binary',
                        lambda *_args: no_record)
    TRAFFIC['two'] = traffic(tmp_path)
    services = []
    for host in ('two', 'old'):
        service = nova_service.Service(
            host, 'nova-compute', 'compute', f'{__name__}.Manager',
            periodic_enable=False)
        service.servicegroup_api = types.SimpleNamespace(
            join=lambda *_args: None)
        service.start()
        services.append(service)
    yield spools.Spool(str(tmp_path))
    TRAFFIC.clear()
    for service in services:
        service.rpcserver.stop()
        service.rpcserver.wait()


def admit(**more):
    return transfer_rpc.Destination().admit(
        nova_context.get_admin_context(), objects.Instance(
            uuid=SERVER, migration_context=objects.MigrationContext(
                migration_id=7)),
        **{'size': 1000, 'files': FILES, **more})


def test_stock_nova_serves_our_calls(served, records):
    token = admit()
    found = served.admission(SERVER)
    assert found.token_hash == spools.token_hash(token)
    assert (found.migration, found.sender, found.size, found.files) == (
        MOVE, '192.0.2.7', 1000, FILES)
    # Another has another.
    assert admit() != token


@pytest.mark.parametrize('wrong', [
    {'host': 'three'}, {'task_state': None},
    {'task_state': task_states.RESIZE_FINISH}, {'dest_compute': 'three'},
    {'source_compute': 'three'}, {'status': 'error'}, {'moves': False}])
def test_no_other_move_than_nova_knows_is_admitted(records, tmp_path, wrong):
    records.update(wrong)
    answer = transfer_rpc.Endpoint('two', traffic(tmp_path)).admit_transfer(
        None, SERVER, 1000, FILES)
    assert list(answer) == ['refused']
    assert "Nova's records" in answer['refused']
    assert spools.Spool(str(tmp_path)).admission(SERVER) is None


@pytest.mark.parametrize(('more', 'said'), [
    ({'size': 1 << 60}, 'has room for'),
    ({'files': ['../x']}, 'not the name of a file')])
def test_a_refusal_is_said(served, records, more, said):
    with pytest.raises(exception.MoveFailed, match=f'host two: .*{said}'):
        admit(**more)
    assert served.admission(SERVER) is None


def test_a_server_that_nova_does_not_know(records, tmp_path):
    answer = transfer_rpc.Endpoint('two', traffic(tmp_path)).admit_transfer(
        None, MOVE, 1000, FILES)
    assert 'could not be found' in answer['refused']


def test_a_host_of_an_older_release_is_named(served, records):
    records['dest_compute'] = 'old'
    with pytest.raises(exception.MoveFailed,
                       match=r'host old: .*cannot admit.*upgrade'):
        admit()


def test_a_host_that_is_down_is_named(served, records, transport):
    records['dest_compute'] = 'none'
    transport.response_timeout = 1
    with pytest.raises(exception.MoveFailed,
                       match=r'host none: .*does not answer'):
        admit()


def moving():
    """Return a server as the host knows it that it leaves."""
    return objects.Instance(
        uuid=SERVER, migration_context=objects.MigrationContext(
            migration_id=7))


def check_can_receive():
    transfer_rpc.Destination().check_can_receive(
        nova_context.get_admin_context(), moving(), 5000, 7)


def test_a_move_is_tried_there_with_the_new_flavor(served, records,
                                                   monkeypatch):
    asked = []
    monkeypatch.setattr(
        cold_migration.Moves, 'check_can_receive',
        lambda _moves, _context, instance, *needs:
        asked.append((instance.uuid, instance.flavor.name, *needs)))
    check_can_receive()
    assert asked == [(SERVER, 'new', 5000, 7)]


@pytest.mark.parametrize('error', [
    exception.MoveFailed('no room'), OSError(28, 'no room'),
    RecursionError('no room'),
    nova_exception.VirtualInterfacePlugException('no room')])
def test_what_fails_there_is_said(served, records, monkeypatch, error):
    def fail(*_args):
        raise error
    monkeypatch.setattr(cold_migration.Moves, 'check_can_receive', fail)
    with pytest.raises(exception.MoveFailed, match=r'host two: .*no room'):
        check_can_receive()


def test_no_other_move_than_nova_knows_is_tried(served, records,
                                                monkeypatch):
    monkeypatch.setattr(cold_migration.Moves, 'check_can_receive', None)
    records['task_state'] = task_states.RESIZE_FINISH
    with pytest.raises(exception.MoveFailed, match="Nova's records"):
        check_can_receive()


def test_a_host_of_an_older_release_is_not_asked_to_try(served, records,
                                                        monkeypatch):
    monkeypatch.delattr(transfer_rpc.Endpoint, 'check_transfer')
    check_can_receive()
    admit()


@pytest.mark.parametrize(('host', 'held', 'wanted'), [
    ('two', True, True), ('two', False, False), ('old', True, False)])
def test_a_host_is_asked_for_a_server(served, records, monkeypatch, host,
                                      held, wanted):
    monkeypatch.setattr(cold_migration.Moves, 'holds',
                        lambda _moves, uuid: held and uuid == SERVER)
    assert transfer_rpc.Destination().holds(
        nova_context.get_admin_context(), host, SERVER) is wanted


def test_what_was_sent_for_this_move_is_abandoned(records, tmp_path):
    spool = spools.Spool(str(tmp_path))
    endpoint = transfer_rpc.Endpoint('two', traffic(tmp_path))
    token = endpoint.admit_transfer(None, SERVER, 1000, FILES)['token']
    spool.begin(SERVER, token, '{}', None).close()
    endpoint.abandon_transfer(None, SERVER, SERVER)  # of another move
    assert spool.manifest(SERVER) == '{}'
    endpoint.abandon_transfer(None, SERVER, MOVE)
    endpoint.abandon_transfer(None, SERVER, MOVE)
    assert spool.waiting() == []


def test_the_source_has_it_abandoned(served, records):
    destination, context = (transfer_rpc.Destination(),
                            nova_context.get_admin_context())
    admit()
    destination.abandon(context, objects.Instance(
        uuid=SERVER, migration_context=objects.MigrationContext(
            migration_id=7)))
    # It is told, and does it when it hears of it.
    while served.waiting():
        pass
    with pytest.raises(exception.MoveFailed, match='in no move'):
        destination.abandon(context, objects.Instance(
            uuid=SERVER, migration_context=None))


def test_the_driver_adds_them_to_stock_novas_manager():
    # In a process of its own, as its options are the whole process's.
    script = (
        'import types, nova.conf, os_vif\n'
        'from nova import objects\n'
        'objects.register_all()\n'
        'from nova.virt import driver\n'
        'nova.conf.CONF([], project="nova", default_config_files=[])\n'
        'os_vif.initialize()\n'
        'manager = types.SimpleNamespace(\n'
        '    additional_endpoints=[], external_instance_event=None,\n'
        '    confirm_resize=print, finish_resize=print,\n'
        '    revert_resize=print, finish_revert_resize=print)\n'
        'api = types.SimpleNamespace(_compute=manager)\n'
        'driver.load_compute_driver(api, "virt_docker.DockerDriver")\n'
        'print([each.target.namespace for each in '
        'manager.additional_endpoints])\n')
    done = subprocess.run([sys.executable, '-c', script], text=True,
                          capture_output=True, check=False)
    assert done.stdout.strip() == "['vcloud']", done.stderr

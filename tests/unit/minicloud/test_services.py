# SPDX-License-Identifier: Apache-2.0
"""The catalog, read back with supervisord's own parser."""

import pytest
from supervisor import options

from mini import config
from mini import processes
from mini import services
from mini import settings


@pytest.fixture
def catalog(cloud, secret):
    return services.catalog(cloud, secret)


@pytest.fixture
def programs(cloud, secret, catalog):
    for file in config.files(cloud, secret):
        config.write_one(file)
    for service in catalog:
        config.write_one(services.program(cloud, service))
    cloud.log.mkdir()
    cloud.run.mkdir()
    parsed = options.ServerOptions()
    parsed.realize(['-c', str(cloud.etc / 'supervisord.conf')])
    return {
        group.name: group.process_configs[0]
        for group in parsed.process_group_configs
    }


def test_supervisord_reads_every_service_as_it_is_meant(catalog, programs):
    assert set(programs) == {service.name for service in catalog}
    for service in catalog:
        program = programs[service.name]
        assert program.command.split()[0] == service.command[0]
        assert not program.autostart
        assert program.redirect_stderr
        for key, value in service.env.items():
            assert program.environment[key] == value, (service.name, key)


def test_every_process_carries_the_mark_of_its_cloud(cloud, programs):
    for name, program in programs.items():
        assert program.environment[processes.MEMBER] == str(cloud.home)
        assert program.environment[processes.SERVICE] == name
        # Without it setproctitle writes over the mark.
        assert program.environment['SPT_NOENV'] == '1'


def test_every_host_has_an_engine_and_a_compute_service(cloud, catalog):
    names = {service.name for service in catalog}
    for host in cloud.hosts:
        assert f'dockerd-{host.name}' in names
        assert f'nova-compute-{host.name}' in names


def test_the_end_of_an_engine_spares_its_containers(programs):
    assert not programs['dockerd-compute1'].killasgroup
    assert not programs['dockerd-compute1'].stopasgroup
    assert programs['nova-conductor'].killasgroup


def test_everything_listens_on_loopback_and_in_our_block(cloud, catalog):
    block = range(cloud.port_base, cloud.port_base + 100)
    for service in catalog:
        words = ' '.join(service.command)
        assert '0.0.0.0' not in words
        for name in settings.PORT_OFFSETS:
            assert cloud.port(name) in block
    by_name = {service.name: service for service in catalog}
    for name in ('keystone', 'glance', 'nova-api', 'neutron-api'):
        address = f'127.0.0.1:{cloud.port(name)}'
        assert address in by_name[name].command
    assert '--bind-address=127.0.0.1' in by_name['mariadb'].command
    memcached = by_name['memcached'].command
    assert memcached[memcached.index('-l') + 1] == '127.0.0.1'
    assert by_name['rabbitmq'].env['RABBITMQ_NODE_IP_ADDRESS'] == '127.0.0.1'
    assert by_name['rabbitmq'].env['ERL_EPMD_ADDRESS'] == '127.0.0.1'


def test_no_password_is_on_a_command_line(secret, catalog):
    for service in catalog:
        words = ' '.join(service.command)
        assert not any(value in words for value in secret.values())


def mark(cloud, catalog, name, project='p'):
    service = next(s for s in catalog if s.name == name)
    return services.fingerprint(cloud, service, project)


def test_a_service_is_marked_by_command_configuration_and_our_code(
    cloud, catalog, programs
):
    before = mark(cloud, catalog, 'nova-api')
    assert mark(cloud, catalog, 'nova-api') == before
    assert mark(cloud, catalog, 'nova-api', 'q') != before
    # Keystone runs no code of ours, so it need not restart with it.
    assert mark(cloud, catalog, 'keystone') == mark(
        cloud, catalog, 'keystone', 'q'
    )
    with (cloud.etc / 'nova' / 'nova.conf').open('a') as stream:
        stream.write('# changed\n')
    assert mark(cloud, catalog, 'nova-api') != before

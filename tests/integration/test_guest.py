# SPDX-License-Identifier: Apache-2.0
"""What a server is given: interfaces, passwords, files, a config drive."""

import base64
import contextlib
import json

from desk import Desk
from desk import until
from openstack import exceptions
import pytest
from viewer import Viewer

CHECK = '''
perl -e '$_ = (split /:/, (grep /^root:/, `cat /etc/shadow`)[0])[1];
         print crypt("%s", $_) eq $_ ? "same" : "other"'
'''
DRIVE = '/var/lib/cloud/seed/config_drive/openstack/latest'


def nics(desk: Desk, server) -> dict[str, set[str]]:
    """Return {name of a NIC: its addresses} of a server."""
    shown = json.loads(desk.lan(
        'ip', '-j', '-n', desk.host_of(server).server_prefix + server.id,
        'addr').stdout)
    return {link['ifname']: {a['local'] for a in link['addr_info']
                             if a['scope'] == 'global'}
            for link in shown if link['ifname'].startswith('eth')}


def process(desk: Desk, server) -> int:
    """Return the number of a server's first process."""
    return desk.container(server)['State']['Pid']


def attach(desk: Desk, server, address: str):
    """Give a server one more interface; return its port's id."""
    return desk.compute.create_server_interface(
        server, net_id=desk.network_id,
        fixed_ips=[{'ip_address': address}]).port_id


def detach(desk: Desk, server, port: str) -> None:
    """Take an interface away, and wait until it is."""
    desk.compute.delete_server_interface(port, server=server)
    until(lambda: port not in {
        each.port_id for each in desk.compute.server_interfaces(server)},
        30, 'the interface is gone')
    desk.wait_action(server, 'detach_interface')


def reboot(desk: Desk, server) -> None:
    desk.compute.reboot_server(server, 'HARD')
    desk.wait(server, 'ACTIVE')
    desk.answers(server)


@pytest.mark.matrix('operation.attach-interface',
                    'operation.detach-interface')
def test_interfaces_come_and_go_while_a_server_runs(desk: Desk):
    server = desk.boot('plugged', flavor='c1.small', ip='10.77.0.111')
    pid = process(desk, server)
    port = attach(desk, server, '10.77.0.112')
    found = nics(desk, server)
    assert set(found) == {'eth0', 'eth1'}
    assert '10.77.0.112' in found['eth1']
    desk.answers(server)
    limits = desk.limits(server)
    assert {key.partition('.')[2].partition('.')[0] for key in limits
            if key.startswith('net.')} >= {port}
    assert process(desk, server) == pid
    reboot(desk, server)
    assert nics(desk, server) == found
    first, = (each.port_id for each in desk.compute.server_interfaces(server)
              if each.port_id != port)
    pid = process(desk, server)
    detach(desk, server, first)
    assert nics(desk, server) == {'eth1': found['eth1']}
    assert not any(first in key for key in desk.limits(server))
    desk.answers(server)
    assert process(desk, server) == pid
    reboot(desk, server)
    assert list(nics(desk, server).values()) == [found['eth1']]


@pytest.mark.matrix('operation.attach-interface')
def test_a_stopped_server_gets_its_interface_when_it_starts(desk: Desk):
    server = desk.boot('dark')
    desk.compute.stop_server(server)
    desk.wait(server, 'SHUTOFF')
    attach(desk, server, '10.77.0.113')
    assert not desk.pings('10.77.0.113')
    desk.compute.start_server(server)
    desk.wait(server, 'ACTIVE')
    desk.answers(server)
    assert '10.77.0.113' in nics(desk, server)['eth1']


def test_an_interface_that_cannot_be_is_refused_and_nothing_left(desk: Desk):
    server = desk.boot('picky')
    before, shown = nics(desk, server), desk.addresses(server)
    ports = {port.id for port in desk.api.network.ports()}
    network = desk.api.network.create_network(
        name='nowhere', provider_network_type='local')
    try:
        desk.api.network.create_subnet(
            network_id=network.id, ip_version=4, cidr='10.78.0.0/24',
            is_dhcp_enabled=False)
        answer = desk.compute.post(f'/servers/{server.id}/os-interface', json={
            'interfaceAttachment': {'net_id': network.id}})
        assert not answer.ok
        assert nics(desk, server) == before
        assert {port.id for port in desk.api.network.ports()} == ports
        # Neutron tells Nova of a port that came, and then that it went. Nova
        # may keep what it heard first, until it looks again by itself
        # (heal_instance_info_cache_interval), at one server after another.
        until(lambda: desk.addresses(server) == shown, 60, 'Nova shows none')
        desk.answers(server)
    finally:
        desk.api.network.delete_network(network)


def own_lines(desk: Desk, server) -> list[list[str]]:
    """Return the fields of the lines of /etc/hosts that are Nova's."""
    return [line.split() for line in desk.inside(
        server, 'cat /etc/hosts').splitlines() if line.endswith('# nova')]


def test_an_address_follows_its_port_while_the_server_runs(desk: Desk):
    server = desk.boot('readdressed', ip='10.77.0.114')
    port = next(iter(desk.api.network.ports(device_id=server.id)))
    subnets = {each['ip_address']: each['subnet_id']
               for each in port.fixed_ips}
    desk.answers(server)
    pid = process(desk, server)
    desk.api.network.update_port(port, fixed_ips=[
        {'ip_address': '10.77.0.115',
         'subnet_id': subnets['10.77.0.114']}])
    until(lambda: desk.pings('10.77.0.115'), 30, 'the new one answers')
    assert not desk.pings('10.77.0.114')
    until(lambda: '10.77.0.115' in {
        line[0] for line in own_lines(desk, server)}, 60, '/etc/hosts')
    assert process(desk, server) == pid
    other = desk.boot('heir', ip='10.77.0.114')
    desk.answers(other)
    reboot(desk, server)
    assert nics(desk, server)['eth0'] >= {'10.77.0.115'}


def test_a_hostname_set_later_is_there_after_a_hard_reboot(desk: Desk):
    server = desk.boot('before')
    answer = desk.compute.put(
        f'/servers/{server.id}', json={'server': {'hostname': 'after'}},
        microversion='2.90')
    assert answer.ok, answer.text
    reboot(desk, server)
    assert desk.inside(server, 'hostname; cat /etc/hostname'
                       ).split() == ['after', 'after']
    assert {line[1] for line in own_lines(desk, server)} == {'after'}


def test_a_name_of_letters_of_two_bytes(desk: Desk):
    server = desk.boot('é' * 100)
    desk.answers(server)
    assert desk.inside(server, 'hostname').strip() == 'é' * 32


def set_password(desk: Desk, server, password: str) -> None:
    desk.compute.change_server_password(server, password)
    until(lambda: desk.get(server).status == 'ACTIVE'
          and desk.get(server).task_state is None, 30, 'it is set')


@pytest.mark.matrix('operation.set-admin-password')
def test_the_password_of_a_running_server_is_set(desk: Desk):
    server = desk.boot('secret', image='debian-12', flavor='c1.small')
    set_password(desk, server, 'new: Secret\'s 7')
    assert desk.inside(server, CHECK % 'new: Secret\'s 7'.replace(
        "'", "'\\''")) == 'same'
    assert desk.inside(server, CHECK % 'other') == 'other'


@pytest.mark.matrix('console.serial.interactive')
def test_who_has_set_a_password_logs_in_at_the_console(desk: Desk):
    server = desk.boot('talks', image='debian-12', flavor='c1.small')
    set_password(desk, server, "new: Secret's 7")
    url = desk.compute.create_console(server, 'serial')['url']
    with contextlib.closing(Viewer(url)) as viewer:
        viewer.log_in(b"new: Secret's 7")
        viewer.type(b'echo $((6*7)) on $(hostname)\r', b'42 on talks')
    # As long as its token is good, and after a restart of the server.
    reboot(desk, server)
    with contextlib.closing(Viewer(url)) as viewer:
        viewer.log_in(b"new: Secret's 7")
        viewer.type(b'echo $((7*7)) on $(hostname)\r', b'49 on talks')
    assert '42 on talks' in desk.console(server)
    desk.compute.stop_server(server)
    desk.wait(server, 'SHUTOFF')
    with pytest.raises(exceptions.ConflictException, match='is not ready'):
        desk.compute.create_console(server, 'serial')


def test_user_data_is_run_once(desk: Desk):
    text = base64.b64encode(b'#!/bin/sh\necho ran | tee -a /root/ran\n')
    server = desk.boot('scripted', user_data=text.decode())
    until(lambda: 'user data ended with 0' in desk.console(server), 30,
          'it has run')
    reboot(desk, server)
    desk.compute.stop_server(server)
    desk.wait(server, 'SHUTOFF')
    desk.compute.start_server(server)
    desk.wait(server, 'ACTIVE')
    desk.answers(server)
    assert desk.inside(server, 'cat /root/ran') == 'ran\n'
    assert desk.console(server).count('user data ended') == 1


def test_a_flavor_starts_a_server_otherwise(desk: Desk):
    with desk.flavor('c1.started', vcloud__init='tini',
                     vcloud__environment="WHO='a flavor'",
                     vcloud__no_new_privileges='false') as flavor:
        server = desk.boot('started', flavor=flavor)
        assert desk.inside(server, 'cat /proc/1/comm') == 'docker-init\n'
        assert 'WHO=a flavor' in desk.inside(
            server, 'tr "\\0" "\\n" </proc/1/environ')
        assert 'NoNewPrivs:\t0' in desk.inside(server,
                                               'cat /proc/1/status')
        desk.delete(server)


def test_what_a_host_does_not_allow_is_in_the_fault(desk: Desk):
    with desk.flavor('c1.mighty', vcloud__capabilities='SYS_ADMIN') as flavor:
        server = desk.wait(desk.request('mighty', flavor=flavor), 'ERROR')
        assert ('SYS_ADMIN is not in [docker] allowed_capabilities'
                in server.fault['message'])
        desk.delete(server)


@pytest.mark.matrix('guest.setup.configdrive')
def test_a_config_drive_is_in_its_files(desk: Desk):
    text = base64.b64encode(b'#!/bin/sh\necho hello\n').decode()
    server = desk.boot('driven', config_drive=True, user_data=text,
                       metadata={'role': 'web'}, key_name='operator')
    found = json.loads(desk.inside(server, f'cat {DRIVE}/meta_data.json'))
    assert found['uuid'] == server.id
    assert found['name'] == 'driven'
    assert found['meta'] == {'role': 'web'}
    assert 'operator' in found['public_keys']
    assert desk.inside(server, f'cat {DRIVE}/user_data') == (
        '#!/bin/sh\necho hello\n')
    net = json.loads(desk.inside(server, f'cat {DRIVE}/network_data.json'))
    assert {each['ethernet_mac_address'] for each in net['links']} == {
        desk.nic(server)[0]}
    assert desk.addresses(server)[4] in {
        each.get('ip_address') for each in net['networks']}
    modes = desk.inside(server, 'stat -c %a:%u /var/lib '
                                '/var/lib/cloud/seed/config_drive')
    assert modes.split() == ['755:0', '700:0']


def devices(desk: Desk, server) -> dict[str, tuple[str, str]]:
    """Return {tag: kind and mac, or path, of a device} that a server reads."""
    found = json.loads(desk.inside(server, f'cat {DRIVE}/meta_data.json'))
    return {tag: (each['type'], each.get('mac') or each['path'])
            for each in found['devices'] for tag in each['tags']}


@pytest.mark.matrix('operation.attach-tagged-interface',
                    'operation.attach-tagged-volume')
def test_tags_tell_a_server_which_of_its_devices_is_which(desk: Desk):
    server = desk.boot('tagged', config_drive=True, networks=[
        {'uuid': desk.network_id, 'tag': 'front'}])
    first = desk.nic(server)[0]
    assert devices(desk, server) == {'front': ('nic', first)}
    storage = desk.api.block_storage
    volume = storage.create_volume(name='tagged', size=1)
    try:
        desk.wait_volume(volume.id, 'available')
        port = desk.compute.create_server_interface(
            server, net_id=desk.network_id, tag='back')
        desk.compute.create_volume_attachment(
            server, volume_id=volume.id, tag='data')
        desk.wait_volume(volume.id, 'in-use')
        # As in a virtual machine its drive is as old as its image.
        desk.compute.rebuild_server(
            server, image=desk.api.image.find_image('tiny').id)
        desk.wait(server, 'ACTIVE')
        assert devices(desk, server) == {
            'front': ('nic', first), 'back': ('nic', port.mac_addr),
            'data': ('disk', '/dev/vdb')}
        detach(desk, server, port.port_id)
        desk.detach_volume(server, volume.id)
        desk.compute.rebuild_server(
            server, image=desk.api.image.find_image('tiny').id)
        desk.wait(server, 'ACTIVE')
        assert devices(desk, server) == {'front': ('nic', first)}
    finally:
        desk.delete(server)
        desk.wait_volume(volume.id, 'available')
        storage.delete_volume(volume.id)


def test_no_config_drive_where_none_is_asked_for(desk: Desk):
    server = desk.boot('plain')
    assert desk.inside(server, 'ls /var/lib/cloud 2>&1 || :').endswith(
        'No such file or directory\n')


@pytest.mark.matrix('guest.setup.inject.file')
def test_injected_files_are_there(desk: Desk):
    files = {'/etc/motd': 'welcome\n', 'etc/../srv/deep/here': 'kept\n'}
    answer = desk.compute.post('/servers', microversion='2.56', json={
        'server': {
            'name': 'filled', 'networks': [{'uuid': desk.network_id}],
            'imageRef': desk.api.image.find_image('tiny').id,
            'flavorRef': desk.compute.find_flavor('c1.tiny').id,
            'personality': [
                {'path': path,
                 'contents': base64.b64encode(text.encode()).decode()}
                for path, text in files.items()]}})
    assert answer.ok, answer.text
    server = desk.wait(desk.compute.get_server(
        answer.json()['server']['id']), 'ACTIVE')
    assert desk.inside(server, 'cat /etc/motd /srv/deep/here') == (
        'welcome\nkept\n')
    assert desk.inside(server, 'stat -c %a:%u /etc /etc/motd '
                               '/srv/deep').split() == [
        '755:0', '644:0', '755:0']

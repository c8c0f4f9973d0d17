# SPDX-License-Identifier: Apache-2.0
"""What a tenant gets who asks for a server."""

import json

from desk import Desk
from desk import until
import pytest


@pytest.mark.matrix('operation.launch', 'storage.image')
def test_debian_by_ssh_at_the_address_asked_for(desk: Desk):
    server = desk.boot('web-1', image='debian-12', flavor='c1.small',
                       ip='10.77.0.103', key_name='operator')
    until(lambda: 'starting sshd' in desk.console(server), 60, 'sshd starts')
    until(lambda: desk.inside(server, 'ss -Hltn sport = 22'), 60, 'it listens')
    assert desk.ssh(server, 'hostname').strip() == 'web-1'
    assert '10.77.0.103/24' in desk.ssh(server, 'ip -4 addr show eth0')
    assert 'default via 10.77.0.1' in desk.ssh(server, 'ip route')
    assert 'nameserver 10.77.0.1' in desk.ssh(server, 'cat /etc/resolv.conf')
    assert '10.77.0.103\tweb-1' in desk.ssh(server, 'cat /etc/hosts')


def test_limits_are_the_flavors(desk: Desk):
    server = desk.boot('limits', flavor='c1.tiny')
    cgroup = '/sys/fs/cgroup'
    memory = f'{cgroup}/memory/memory'
    for file in ('limit_in_bytes', 'memsw.limit_in_bytes'):
        assert int(desk.inside(server, f'cat {memory}.{file}')) == 64 << 20
    assert int(desk.inside(server, f'cat {cgroup}/cpu/cpu.shares')) == 1024
    assert int(desk.inside(server, f'cat {cgroup}/pids/pids.max')) == 4096


def test_privileges_are_the_documented_ones(desk: Desk):
    server = desk.boot('caps')
    status = dict(
        line.split(':\t', 1) for line in
        desk.inside(server, 'cat /proc/1/status').splitlines()
        if ':\t' in line)
    # Docker's default list without MKNOD and NET_RAW.
    assert int(status['CapBnd'], 16) == 0xa00405fb
    assert status['NoNewPrivs'].strip() == '1'
    assert status['Seccomp'].strip() == '2'
    assert 'docker.sock' not in desk.inside(server, 'cat /proc/mounts')


def test_labels_tell_whose_container_it_is(desk: Desk):
    server = desk.boot('labelled')
    labels = desk.container(server)['Config']['Labels']
    prefix = 'org.openstack.nova.'
    assert labels[prefix + 'uuid'] == server.id
    assert labels[prefix + 'project_id'] == server.project_id
    # What can change is not told: a label cannot follow.
    assert labels[prefix + 'display_name'] == ''
    assert labels[prefix + 'flavor'] == ''


def test_several_nics(desk: Desk):
    network = desk.api.network
    port = network.create_port(
        network_id=desk.network_id,
        fixed_ips=[{'ip_address': '10.77.0.102'},
                   {'ip_address': 'fd00:77::102'}])
    try:
        server = desk.boot('two', networks=[
            {'uuid': desk.network_id, 'fixed_ip': '10.77.0.101'},
            {'port': port.id}])
        shown = json.loads(desk.lan(
            'ip', '-j', '-n', desk.host_of(server).server_prefix + server.id,
            'addr').stdout)
        found = {link['ifname']: {a['local'] for a in link['addr_info']}
                 for link in shown if link['ifname'].startswith('eth')}
        assert set(found) == {'eth0', 'eth1'}
        assert '10.77.0.101' in found['eth0']
        assert {'10.77.0.102', 'fd00:77::102'} <= found['eth1']
        desk.answers(server)
        desk.delete(server)
    finally:
        network.delete_port(port.id)


@pytest.mark.matrix('console.serial.log')
def test_console_log(desk: Desk):
    server = desk.boot('console')
    until(lambda: 'console' in desk.console(server), 60,
          'what the image prints: its host name')
    desk.inside(server, 'i=0; while [ $i -lt 3000 ]; do '
                'echo "line $i, padded to be some eighty columns wide '
                'for the sake of size" > /dev/console; i=$((i+1)); done')

    def complete() -> str | None:
        text = desk.console(server)
        return text if 'line 2999' in text else None

    log = until(complete, 60, 'the last line')
    assert len(log) <= 100 * 1024
    tail = desk.compute.get_server_console_output(server.id, length=2)
    assert 'line 2999' in tail['output']
    assert 'line 2990' not in tail['output']


@pytest.mark.parametrize('microversion', ['2.47', '2.48'])
def test_diagnostics(desk: Desk, microversion):
    server = desk.boot('diagnosed')
    desk.answers(server)
    found = desk.compute.get(
        f'/servers/{server.id}/diagnostics', microversion=microversion)
    assert found.status_code == 200, found.text
    body = found.json()
    if microversion == '2.47':
        assert body['memory'] == 64 << 10
        assert body['memory-actual'] > 0
        assert body['cpu0_time'] > 0
        assert any(k.startswith('tap') and v > 0 for k, v in body.items())
    else:
        assert body['state'] == 'running'
        assert body['hypervisor'] == 'docker'
        assert body['memory_details']['maximum'] == 64
        assert body['num_cpus'] == desk.compute.find_flavor('c1.tiny').vcpus
        assert body['cpu_details'][0]['time'] > 0
        nic = body['nic_details'][0]
        assert nic['mac_address'] == desk.nic(server)[0]
        assert nic['rx_packets'] > 0
        assert nic['tx_packets'] > 0


@pytest.mark.matrix('operation.get-host-uptime')
def test_host_is_known_to_its_operator(desk: Desk):
    for hypervisor in desk.compute.hypervisors(details=True):
        if not hypervisor.name.startswith('compute'):
            continue
        shown = desk.compute.get(f'/os-hypervisors/{hypervisor.id}',
                                 microversion='2.88').json()['hypervisor']
        assert 'load average' in shown['uptime']
        assert shown['hypervisor_type'] == 'docker'
        assert shown['hypervisor_version'] >= 20010000


@pytest.mark.matrix('operation.launch', 'operation.terminate')
def test_twenty_at_once_on_two_hosts(desk: Desk):
    servers = [desk.request(f'many-{n}') for n in range(20)]
    for server in servers:
        desk.wait(server, 'ACTIVE', 180)
    assert {desk.host_of(s).name for s in servers} == {
        h.name for h in desk.cloud.hosts}
    for server in servers:
        desk.answers(server)
    desk.delete(*servers, seconds=120)


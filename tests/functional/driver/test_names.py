# SPDX-License-Identifier: Apache-2.0
"""Addresses and names of servers follow what Neutron and Nova say."""

import computehost
import dockerd as dockerd_fixture
import lan as lan_fixture
from nova import objects
from nova.network import model
import pytest

from nova_vcloud.virt_docker.guest import container_spec
from nova_vcloud.virt_docker.guest import file_injection


@pytest.fixture
def host(dockerd, lan, tmp_path):
    found = computehost.ComputeHost(dockerd, lan, tmp_path / 'records')
    yield found
    for uuid in list(found.containers.list()):
        found.containers.destroy(uuid)
    assert not list(dockerd.links.glob('*.hostname'))


def boot(host, ports, name='test') -> objects.Instance:
    instance = host.instance()
    instance.hostname, instance.user_data = name, None
    instance.key_data, instance.config_drive = None, ''
    host.spawn(instance, ports, file_injection.archive(instance, ports))
    return instance


def moved(ports, host) -> list[str]:
    """Give the first port other addresses; return the old ones."""
    old = []
    for subnet, address in zip(ports[0]['network']['subnets'],
                               host.lan.nic().addresses, strict=True):
        old.append(subnet['ips'][0]['address'])
        subnet['ips'] = [model.FixedIP(address=address.partition('/')[0])]
    return old


def now(ports) -> list[str]:
    return [ip['address'] for port in ports
            for subnet in port['network']['subnets'] for ip in subnet['ips']]


def hosts(host, instance) -> list[str]:
    """Return the lines of /etc/hosts that are ours."""
    return [line for line in host.inside(
        instance, 'cat /etc/hosts').splitlines() if line.endswith('# nova')]


def lines(instance, ports) -> list[str]:
    return [f'{address}\t{instance.hostname}\t# nova'
            for address in now(ports)]


def pings(host, address) -> bool:
    return host.lan.pings(address)


def routes(host, instance) -> str:
    return ''.join(host.lan.server_ip(instance.uuid, family, 'route')
                   for family in ('-4', '-6'))


def test_an_address_follows_its_port_while_the_server_runs(host):
    ports = host.ports()
    instance = boot(host, ports)
    host.inside(instance, 'echo 10.9.9.9 mine >>/etc/hosts')
    before = routes(host, instance)
    assert 'default via 10.77.0.1' in before
    pid = host.container(instance)['State']['Pid']
    old = moved(ports, host)
    host.containers.update_addresses(instance, ports)
    lan_fixture.wait_until(lambda: all(
        pings(host, address) for address in now(ports)))
    assert not any(pings(host, address) for address in old)
    for text in ('default via 10.77.0.1', 'default via fd00:77::1'):
        assert text in routes(host, instance)
    assert hosts(host, instance) == lines(instance, ports)
    assert '10.9.9.9 mine' in host.inside(instance, 'cat /etc/hosts')
    assert host.container(instance)['State']['Pid'] == pid


def test_neighbours_are_told(host):
    ports = host.ports()
    instance = boot(host, ports)
    old = moved(ports, host)
    other = host.ports()
    for subnet, address in zip(other[0]['network']['subnets'], old,
                               strict=True):
        subnet['ips'] = [model.FixedIP(address=address)]
    lan_fixture.wait_until(lambda: all(pings(host, a) for a in old))
    host.containers.update_addresses(instance, ports)
    boot(host, other)  # has them now; the gateway has the old MAC in mind
    mac = other[0]['address']
    for address in old:
        lan_fixture.wait_until(lambda address=address: pings(host, address))
        assert mac in host.lan.ip('neigh', 'show', address)


def test_the_same_again_asks_the_engine_for_nothing_more(host):
    ports = host.ports()
    instance = boot(host, ports)
    calls = host.dockerd.engine.calls
    host.containers.update_addresses(instance, ports)
    assert host.dockerd.engine.calls - calls == 1  # is it here?


def test_a_change_while_it_is_stopped_is_there_at_the_start(host):
    ports = host.ports()
    instance = boot(host, ports)
    host.containers.stop(instance.uuid, 0)
    moved(ports, host)
    host.containers.update_addresses(instance, ports)
    host.containers.start(instance, ports)
    assert hosts(host, instance) == lines(instance, ports)
    moved(ports, host)  # not heard of
    host.containers.reboot(instance, ports, 0)
    assert hosts(host, instance) == lines(instance, ports)


def test_another_port_or_server_is_left_alone(host):
    ports = host.ports()
    instance = boot(host, ports)
    more = model.NetworkInfo([*ports, *host.ports()])
    host.containers.update_addresses(instance, more)
    assert len(host.network.counters(instance.uuid)) == 1
    host.containers.update_addresses(host.instance(), more)
    assert hosts(host, instance) == lines(instance, ports)


def test_a_port_that_comes_or_goes_is_in_the_file(host):
    first, more = host.ports(), host.ports()
    instance = boot(host, first)
    both = model.NetworkInfo([*first, *more])
    host.containers.attach(instance, both, more[0]['id'])
    assert hosts(host, instance) == lines(instance, both)
    host.containers.detach(instance, both, first[0]['id'])
    assert hosts(host, instance) == lines(instance, more)
    host.containers.detach(instance, more, more[0]['id'])
    assert hosts(host, instance) == ['# nova']
    host.containers.attach(instance, first, first[0]['id'])
    assert hosts(host, instance) == lines(instance, first)


@pytest.mark.parametrize('name', [
    'other', 'web.example.org', 'é' * 63, 'x' * 63 + '.' + 'y' * 63,
    'ÿ' * 40 + '.org'])
def test_a_new_hostname_is_there_after_a_hard_reboot(host, name):
    ports = host.ports()
    instance = boot(host, ports)
    instance.hostname = name
    host.containers.reboot(instance, ports, 0)
    own = container_spec.kernel_hostname(name)
    assert host.inside(instance, 'hostname') == f'{own}\n'
    assert host.inside(instance, 'cat /etc/hostname') == f'{own}\n'
    for line in hosts(host, instance):
        assert line.split('\t')[1].split() == list(dict.fromkeys((name, own)))
    assert f'HOSTNAME={own}' in host.inside(
        instance, 'tr "\\0" "\\n" </proc/1/environ')
    instance.hostname = 'test'  # the one that it was made with
    host.containers.reboot(instance, ports, 0)
    assert host.inside(instance, 'hostname; cat /etc/hostname'
                       ) == 'test\ntest\n'


@pytest.mark.parametrize('name', ['é' * 63, 'x' * 255, 'ü' * 32, 'x' * 64])
def test_any_name_that_nova_gives_starts(host, name):
    ports = host.ports()
    instance = boot(host, ports, name)
    own = container_spec.kernel_hostname(name)
    assert host.inside(instance, 'hostname') == f'{own}\n'
    assert own in hosts(host, instance)[0]


def test_a_server_of_the_release_before_has_no_marks(host):
    ports = host.ports()
    instance = boot(host, ports)
    host.inside(instance, 'sed -i "s/\\t# nova//" /etc/hosts')
    moved(ports, host)
    instance.hostname = 'other'
    host.containers.reboot(instance, ports, 0)
    assert hosts(host, instance) == lines(instance, ports)


@pytest.mark.parametrize('command', [
    'rm /etc/hosts', 'rm /etc/hosts; mkdir /etc/hosts',
    'rm /etc/hosts; ln -s /nowhere /etc/hosts',
    'rm /etc/hosts; mknod /etc/hosts p || mkfifo /etc/hosts',
    'head -c 9000000 /dev/zero >/etc/hosts',
    'printf "\\377\\376# nova\\n" >>/etc/hosts',
    'rm -r /etc; ln -s /nowhere /etc', 'echo mine >/etc/hostname'])
def test_what_a_tenant_makes_of_the_files_keeps_no_server_from_its_start(
        host, command):
    ports = host.ports()
    instance = boot(host, ports)
    host.inside(instance, command)
    before = host.inside(instance, 'ls -l /etc/hosts')
    moved(ports, host)
    host.containers.update_addresses(instance, ports)
    host.containers.reboot(instance, ports, 0)
    assert host.containers.running(instance.uuid)
    if 'mine' in command:
        assert host.inside(instance, 'cat /etc/hostname') == 'mine\n'
    elif '# nova' not in command:
        assert host.inside(instance, 'ls -l /etc/hosts') == before


def test_who_comes_from_another_host_has_one_name(host):
    """What is copied of /etc is of the name that it had before."""
    ports = host.ports()
    instance = boot(host, ports)
    old = {path: host.inside(instance, f'cat {path}')
           for path in ('/etc/hosts', '/etc/hostname')}
    host.containers.destroy(instance.uuid)
    instance.hostname = 'renamed'
    moved(ports, host)
    host.containers.adopt(
        instance, f'{dockerd_fixture.IMAGE}:latest', instance.image_ref,
        ports, True, '', lambda name: host.dockerd.engine.put_archive(
            name, '/', file_injection.tar((path, text.encode(), 0o644)
                                          for path, text in old.items())))
    assert host.inside(instance, 'hostname; cat /etc/hostname'
                       ) == 'renamed\nrenamed\n'
    assert hosts(host, instance) == lines(instance, ports)

# SPDX-License-Identifier: Apache-2.0
"""Tables of the kernel that all servers share: one leaves room for others.

Of some with the bounds of etc/nova-vcloud/sysctl.example, without which the
attack works.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
import pathlib
import subprocess
import sys
import uuid

import computehost
import lan as lan_fixture
import pytest

from nova_vcloud import host_checks
from nova_vcloud.cmd import manage
from nova_vcloud.virt_docker.vif import network

LIMIT = 128  # of neighbours, in the tests of attacks
ATTACK = 20000  # addresses
#: Asks for many neighbours at once; a socket has room for the packets of
#: some hundred that wait for theirs.
ASKER = '''
import socket, sys
family = getattr(socket, sys.argv[1])
first = int.from_bytes(socket.inet_pton(family, sys.argv[2]))
size = 4 if family == socket.AF_INET else 16
asked, refused = [], 0
for number in range(int(sys.argv[3])):
    if not asked or number % 200 == 0:
        asked.append(socket.socket(family, socket.SOCK_DGRAM))
    address = socket.inet_ntop(family, (first + number).to_bytes(size))
    try:
        asked[-1].sendto(b"", socket.MSG_DONTWAIT, (address, 9))
    except OSError:
        refused += 1
print(refused, flush=True)
input()
'''
#: Asks for one address in the name of many.
SPOOFER = '''
import socket, struct, sys
name, mac, target, target6, count = sys.argv[1:]
to, own = bytes.fromhex(mac.replace(':', '')), bytes.fromhex('fa163e000001')
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind((name, 0))
target = socket.inet_aton(target)
target6 = socket.inet_pton(socket.AF_INET6, target6)

def checksum(data):
    total = sum(struct.unpack(f'!{len(data) // 2}H', data))
    while total >> 16:
        total = (total & 65535) + (total >> 16)
    return 65535 - total

for number in range(int(count)):
    sender = socket.inet_aton(f'10.77.{100 + number // 250}.{number % 250}')
    wire.send(to + own + struct.pack('!HHHBBH', 0x806, 1, 0x800, 6, 4, 1)
              + own + sender + bytes(6) + target)
    sender = socket.inet_pton(socket.AF_INET6, f'fd00:77::5:{number:x}')
    asks = target6 + bytes((1, 1)) + own
    pseudo = sender + target6 + struct.pack('!II', 32, 58)
    total = checksum(pseudo + struct.pack('!BBHI', 135, 0, 0, 0) + asks)
    wire.send(to + own + struct.pack('!HIHBB', 0x86dd, 6 << 28, 32, 58, 255)
              + sender + target6
              + struct.pack('!BBHI', 135, 0, total, 0) + asks)
'''
WATCHER = '''
import ctypes, sys
count = int(sys.argv[1])
made = [ctypes.CDLL(None).inotify_init() for _ in range(count)]
print(sum(each >= 0 for each in made), 'of', count, flush=True)
input()
'''
INSTANCES = 200  # more than the 128 that Linux gives a user by itself


@pytest.fixture
def recommended() -> Iterator[None]:
    """Have the bounds that the operator is told to set."""
    places = {pathlib.Path('/proc/sys', bound.name.replace('.', '/')): bound
              for bound in host_checks.BOUNDS
              if bound.name.startswith(('net.', 'fs.inotify.'))}
    before = {path: path.read_text() for path in places}
    try:
        for path, bound in places.items():
            if host_checks.sysctl(bound, int(before[path])).problem:
                path.write_text(str(bound.value))
        yield
    finally:
        for path, text in before.items():
            path.write_text(text)


@pytest.fixture
def host(dockerd, lan, tmp_path) -> Iterator[computehost.ComputeHost]:
    found = computehost.ComputeHost(dockerd, lan, tmp_path / 'records')
    yield found
    for each in list(found.containers.list()):
        found.containers.destroy(each)


def spawn(host, **specs):
    instance = host.instance(**specs)
    host.spawn(instance, host.ports())
    return instance


@pytest.fixture
def limited(lan, links_path) -> network.Network:
    """Have servers with LIMIT neighbours: any host has room for some."""
    return network.Network(str(links_path), lan.name, lan.prefix,
                           neighbours=LIMIT)


@pytest.fixture
def other(lan) -> Iterator[str]:
    """Have another server."""
    name = str(uuid.uuid4())
    yield name
    lan.network.destroy(name)


@contextlib.contextmanager
def asking(lan, server, family, first, count) -> Iterator[int]:
    """Have a server ask for neighbours; tell how many it was refused."""
    with subprocess.Popen(
            ['ip', 'netns', 'exec', lan.prefix + server, sys.executable,
             '-c', ASKER, family, first, str(count)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE) as asker:
        assert asker.stdout
        try:
            yield int(asker.stdout.readline())
        finally:
            asker.communicate('\n')


def entries(lan, server, family) -> int:
    """Count what the kernel has of a server in a table, groups too."""
    return len(json.loads(lan.server_ip(
        server, '-j', family, 'neigh', 'show', 'nud', 'all') or '[]'))


def test_one_server_cannot_fill_the_tables(lan, limited, server, other):
    """With the host's own bounds of the tables, whatever they are."""
    limited.plug(server, (lan.nic(),))
    with asking(lan, server, 'AF_INET6', 'fd00:77::1:0', ATTACK) as refused6, \
            asking(lan, server, 'AF_INET', '10.77.100.0', ATTACK) as refused:
        assert refused6 >= ATTACK - LIMIT
        assert refused >= ATTACK - LIMIT
        # Addresses, groups, and those that ask for it; the gateways.
        assert LIMIT <= entries(lan, server, '-6') <= 3 * LIMIT + 3
        assert LIMIT <= entries(lan, server, '-4') <= 2 * LIMIT + 3
        # The gateway and another server have to find one another anew.
        fresh = lan.nic()
        limited.plug(other, (fresh,))
        assert lan.pings_all(fresh)
        # So does the attacker: gateways have a place of their own.
        for gateway in (lan_fixture.GATEWAY, lan_fixture.GATEWAY6):
            subprocess.run(['ip', 'netns', 'exec', lan.prefix + server,
                            'ping', '-n', '-c', '1', '-W', '30', gateway],
                           check=True, stdout=subprocess.DEVNULL)


def test_neighbours_cannot_fill_the_tables_of_a_server(
        lan, limited, server, other):
    """By asking for it in the name of many."""
    attacker, victim = lan.nic(), lan.nic()
    limited.plug(other, (attacker,))
    limited.plug(server, (victim,))
    addresses = [each.partition('/')[0] for each in victim.addresses]
    before = entries(lan, server, '-4'), entries(lan, server, '-6')
    lan_fixture.wait_until(lambda: 'state UP' in lan.server_ip(
        other, '-o', 'link', 'show', 'eth0'))
    subprocess.run(
        ['ip', 'netns', 'exec', lan.prefix + other, sys.executable, '-c',
         SPOOFER, 'eth0', victim.mac, *addresses, '3000'], check=True)
    lan_fixture.wait_until(
        lambda: min(entries(lan, server, '-4') - before[0],
                    entries(lan, server, '-6') - before[1]) >= LIMIT)
    # In the end the gateway still finds it, and is found.
    assert lan.pings_all(victim)
    assert entries(lan, server, '-4') <= 2 * LIMIT + 3
    assert entries(lan, server, '-6') <= 3 * LIMIT + 3


@pytest.mark.usefixtures('recommended')
def test_a_server_may_have_many_neighbours(lan, server):
    """By default more than other programs have addresses to talk to."""
    nic = lan.nic()
    lan.network.plug(server, (nic,))
    assert lan.pings_all(nic)
    wanted = {
        'AF_INET': [f'10.77.{200 + number // 256}.{number % 256}'
                    for number in range(1, 500)],
        'AF_INET6': [f'fd00:77::9:{number:x}' for number in range(1, 500)]}
    subprocess.run(
        ['ip', '-n', lan.name, '-batch', '-'], check=True, text=True,
        input=''.join(f'addr add {each} dev {lan_fixture.BRIDGE}\n'
                      for addresses in wanted.values()
                      for each in addresses))

    def known(family: str, addresses: list[str]) -> bool:
        """Ask, as a program would again, and tell whether all answered."""
        with asking(lan, server, family, addresses[0],
                    len(addresses)) as refused:
            assert refused == 0
        return set(addresses) <= {
            each['dst'] for each in json.loads(lan.server_ip(
                server, '-j', 'neigh')) if each.get('lladdr')}

    for family, addresses in wanted.items():
        lan_fixture.wait_until(
            lambda f=family, a=addresses: known(f, a), 120)


@pytest.mark.usefixtures('recommended')
def test_inotify_instances_of_one_server_leave_room():
    """By processes of root, which all servers have in common."""
    with subprocess.Popen(
            [sys.executable, '-c', WATCHER, str(INSTANCES)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as all_:
        assert all_.stdout
        assert all_.stdout.readline() == f'{INSTANCES} of {INSTANCES}\n'
        one = subprocess.run([sys.executable, '-c', WATCHER, '1'], input='\n',
                             stdout=subprocess.PIPE, text=True, check=True)
        assert one.stdout == '1 of 1\n'
        all_.communicate('\n')


def test_the_operator_is_told(host, tmp_path, capsys):
    """By ``nova-vcloud-manage host check``, with the lines to set."""
    conf = tmp_path / 'nova.conf'
    conf.write_text(f'[docker]\nurl = {host.dockerd.url}\n')
    spawn(host)
    code = manage.main(['--config-file', str(conf), 'host', 'check'])
    printed = capsys.readouterr()
    assert not printed.err
    lines = printed.out.splitlines()
    wrong = [line for line in lines if line.startswith('WARN')]
    assert code == bool(wrong)
    assert all(line.startswith(('WARN ', 'ok   ')) for line in lines)
    assert any('seccomp profile is' in line and line.startswith('ok')
               for line in lines)
    assert 'ok   limit of neighbours is 1024' in lines
    for bound in host_checks.BOUNDS:
        line, = (line for line in lines if f' {bound.name} ' in line)
        assert line.startswith('ok') or bound.line in line

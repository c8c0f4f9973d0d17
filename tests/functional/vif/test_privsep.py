# SPDX-License-Identifier: Apache-2.0
"""The network from a user without privileges, through privsep's daemon."""

import os
import re
import shutil
import subprocess
import sys
import textwrap

from oslo_privsep import capabilities

from nova_vcloud import privsep

#: Forks the daemon as root, then gives root up for good, as a service does.
SCRIPT = '''
    import os
    from oslo_config import cfg
    from oslo_privsep import priv_context
    from nova import exception
    from nova_vcloud import privsep
    from nova_vcloud.virt_docker.vif.addresses import Nic
    from nova_vcloud.virt_docker.vif.network import Network

    cfg.CONF([], project='test')
    privsep.net.start(priv_context.Method.FORK)
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    daemon, = open(f'/proc/self/task/{os.getpid()}/children').read().split()
    for line in open(f'/proc/{daemon}/status'):
        if line.startswith('CapEff'):
            print(line.strip())
    try:
        os.mkdir('/run/netns/nobody')
    except PermissionError:
        print('no root')

    network = Network(LINKS, FABRIC, PREFIX, neighbours=1024)
    '''


def run(lan, links_path, script):
    head = textwrap.dedent(SCRIPT).replace('LINKS', repr(str(links_path)))
    head = head.replace('FABRIC', repr(lan.name))
    head = head.replace('PREFIX', repr(lan.prefix))
    return subprocess.run(
        [sys.executable, '-W', 'ignore', '-c',
         head + textwrap.dedent(script)],
        capture_output=True, text=True, check=False, timeout=60)


def test_every_verb_through_the_daemon(lan, server, links_path):
    nic = lan.nic()
    done = run(lan, links_path, f'''
        nic, container = {nic!r}, 'ab' * 32
        network.plug({server!r}, (nic,))
        network.plug({server!r}, (nic,))
        network.join({server!r}, container)
        network.set_carrier({server!r}, False)
        network.set_carrier({server!r}, True)
        network.announce({server!r}, (nic,))
        print(network.counters({server!r})[0]['mac'])
        assert network.namespaces() == {{{server!r}}}
        network.join({server!r}, 'cd' * 32)
        network.forget('cd' * 32)
        ''')
    assert done.returncode == 0, done.stderr
    assert 'no root' in done.stdout
    assert nic.mac in done.stdout
    assert os.listdir(links_path) == ['ab' * 32]
    assert lan.pings_all(nic)
    done = run(lan, links_path, f'''
        network.unplug({server!r}, ({nic!r},))
        network.destroy({server!r})
        ''')
    assert done.returncode == 0, done.stderr
    assert server not in lan.network.namespaces()
    assert os.listdir(links_path) == []


def test_nobody_may_redirect_a_container(lan, server, links_path):
    links = links_path / 'run/nova-vcloud/netns'
    done = run(lan, links, f'network.join({server!r}, "ab" * 32)')
    assert done.returncode == 0, done.stderr
    for folder in (links, links.parent, links.parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o755
    shutil.rmtree(links_path / 'run')


def test_the_daemon_has_the_listed_capabilities_only(lan, links_path):
    done = run(lan, links_path, '')
    assert done.returncode == 0, done.stderr
    mask = int(re.search(r'CapEff:\s*(\w+)', done.stdout)[1], 16)
    assert {cap for cap in range(64) if mask >> cap & 1} == {
        capabilities.CAP_NET_ADMIN, capabilities.CAP_NET_RAW,
        capabilities.CAP_DAC_OVERRIDE, capabilities.CAP_SETGID,
        capabilities.CAP_SETUID, capabilities.CAP_SYS_PTRACE,
        capabilities.CAP_SYS_ADMIN}


def test_errors_cross(lan, server, links_path):
    nic = lan.nic(bridge='br-none')
    done = run(lan, links_path, f'''
        try:
            network.plug({server!r}, ({nic!r},))
        except exception.VirtualInterfacePlugException as e:
            print('told:', e)
        ''')
    assert 'told: ' in done.stdout, done.stderr
    assert 'bridge br-none does not exist' in done.stdout


def test_the_daemon_finds_its_context():
    """What `privsep-helper --privsep_context` imports."""
    command = privsep.net.helper_command('/some/socket')
    assert command[-4:] == ['--privsep_context', 'nova_vcloud.privsep.net',
                            '--privsep_sock_path', '/some/socket']
    assert os.path.basename(command[-5]) == 'privsep-helper'

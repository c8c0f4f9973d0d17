# SPDX-License-Identifier: Apache-2.0
"""The example of a service that takes servers by TLS, run by systemd."""

import pathlib
import pwd
import shutil
import subprocess
import sys
import time

import pytest
import sshd
import transfers

from mini import certificates
from nova_vcloud.transfer import channels
from nova_vcloud.transfer import spool
from nova_vcloud.transfer import transport

ROOT = pathlib.Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / 'etc/nova-vcloud/nova-vcloud-receive.service.example'
UNIT = pathlib.Path('/run/systemd/system/nova-vcloud-receive.service')
# As in the example.
USER = 'nova'
SPOOL = pathlib.Path('/var/lib/nova/vcloud-moves')
TLS = pathlib.Path('/etc/nova-vcloud/tls')
PORT = 16560
SERVER = '11111111-2222-4333-8444-555566667777'


def systemctl(*words: str) -> str:
    return subprocess.run(['systemctl', *words], check=True, text=True,
                          capture_output=True).stdout.strip()


def pid() -> int:
    return int(systemctl('show', '--property=MainPID', '--value', UNIT.name))


def answers(way: channels.Tls) -> bool:
    try:
        way.connect(sshd.ADDRESS).close()
    except OSError:
        return False
    return True


def wait_answering(way: channels.Tls) -> None:
    for _second in range(60):
        if answers(way):
            return
        time.sleep(1)
    pytest.fail(subprocess.run(
        ['journalctl', '--no-pager', '--unit', UNIT.name],
        capture_output=True, text=True, check=False).stdout)


@pytest.fixture
def way():
    """The service, installed as an operator would."""
    subprocess.run(['useradd', '--system', USER], check=True)
    try:
        SPOOL.mkdir(parents=True, mode=0o700)
        TLS.mkdir(parents=True)
        ca = certificates.authority(TLS)
        cert, key = certificates.certificate(ca, TLS, sshd.ADDRESS)
        cert.rename(TLS / 'host.pem')
        key.rename(TLS / 'host.key')
        for path in (SPOOL, TLS / 'host.key'):
            shutil.chown(path, USER)
        UNIT.parent.mkdir(exist_ok=True)
        UNIT.write_text(EXAMPLE.read_text()
                        .replace('192.0.2.11', sshd.ADDRESS)
                        .replace('/usr/local/bin/nova-vcloud-receive',
                                 f'{sys.executable} -m '
                                 'nova_vcloud.cmd.receive'))
        systemctl('daemon-reload')
        systemctl('start', UNIT.name)
        found = channels.Tls(PORT, str(TLS / 'host.pem'),
                             str(TLS / 'host.key'), str(ca))
        wait_answering(found)
        yield found
    finally:
        if UNIT.exists():
            systemctl('stop', UNIT.name)
            UNIT.unlink()
            systemctl('daemon-reload')
        for path in (SPOOL.parent, TLS.parent):
            shutil.rmtree(path, ignore_errors=True)
        subprocess.run(['userdel', USER], check=True)


def test_it_takes_servers_into_the_spool(way):
    transfers.admit(SPOOL, SERVER)
    remote = transport.Hosts(way, 0).remote(sshd.ADDRESS)
    with remote.announced(SERVER, transfers.TOKEN, '{}') as delivery:
        assert delivery.put('layer.tar', [b'hello']) == 5
    found = SPOOL / SERVER / 'layer.tar'
    assert found.read_bytes() == b'hello'
    assert found.stat().st_uid == pwd.getpwnam(USER).pw_uid
    assert found.stat().st_mode & 0o777 == 0o600
    spool.Spool(str(SPOOL)).drop(SERVER)
    assert list(SPOOL.iterdir()) == []


def test_it_can_do_nothing_else_and_comes_back(way):
    status = dict(line.split(':\t') for line in pathlib.Path(
        f'/proc/{pid()}/status').read_text().splitlines() if ':\t' in line)
    assert int(status['CapBnd'], 16) == 0
    assert status['NoNewPrivs'] == '1'
    assert status['Seccomp'] == '2'
    root = pathlib.Path(f'/proc/{pid()}/mounts').read_text().splitlines()
    options = {line.split()[1]: line.split()[3] for line in root}
    assert options['/'].startswith('ro')
    assert options[str(SPOOL)].startswith('rw')
    before = pid()
    systemctl('kill', '--signal=KILL', UNIT.name)
    wait_answering(way)
    assert pid() not in (0, before)

# SPDX-License-Identifier: Apache-2.0
"""User data in images with and without cloud-init, and first passwords."""

import base64

import computehost
import lan as lan_fixture
from nova import objects
import pytest

from nova_vcloud.virt_docker.guest import container_spec
from nova_vcloud.virt_docker.guest import file_injection
from nova_vcloud.virt_docker.guest import user_data

SCRIPT = b"""#!/bin/sh
sleep 0.3
echo ran as $(id -u) >>/root/ran
echo hello
exit 3
"""


@pytest.fixture
def host(dockerd, lan, tmp_path):
    found = computehost.ComputeHost(dockerd, lan, tmp_path / 'records')
    yield found
    for uuid in list(found.containers.list()):
        found.containers.destroy(uuid)


def described(host, data: bytes) -> objects.Instance:
    instance = host.instance()
    instance.user_data = base64.b64encode(data).decode() or None
    instance.key_data, instance.config_drive = None, ''
    instance.launched_at = None
    return instance


def boot(host, data: bytes, before: str = '') -> objects.Instance:
    """Make a server; something is done in it before its first boot ends."""
    instance = described(host, data)
    host.spawn(instance, host.ports(), file_injection.archive(instance, None))
    if before:
        host.inside(instance, before)
    welcome(host, instance)
    return instance


def welcome(host, instance, secret=None) -> None:
    user_data.begin(host.dockerd.engine,
                    container_spec.container_name(instance.uuid),
                    instance, secret)


def console(host, instance, words: str) -> str:
    return lan_fixture.wait_until(lambda: (
        text := host.containers.console(instance.uuid).decode(),
        text if words in text else '')[1], 60)


def test_a_script_runs_once_and_is_heard(host):
    instance = boot(host, SCRIPT)
    text = console(host, instance, 'user data ended with 3')
    assert 'hello\r\n' in text
    ports = host.ports(0)
    host.containers.reboot(instance, ports, 0)
    welcome(host, instance)
    welcome(host, instance)
    host.inside(instance, 'sleep 1')
    assert host.inside(instance, 'cat /root/ran') == 'ran as 0\n'
    assert host.inside(
        instance, 'stat -c %a:%u /var/lib/cloud/instances/*/user-data.txt'
    ) == '700:0\n'


def test_one_that_was_cut_off_does_not_run_again(host):
    instance = boot(host, SCRIPT.replace(b'0.3', b'1000'))
    mark = f'{file_injection.instance_folder(instance.uuid)}/sem'
    lan_fixture.wait_until(lambda: host.inside(
        instance, f'ls {mark}; pidof sleep') != '')
    lan_fixture.wait_until(
        lambda: 'config_scripts_user' in host.inside(instance, f'ls {mark}'))
    host.containers.reboot(instance, host.ports(0), 0)
    welcome(host, instance)
    host.inside(instance, 'sleep 1')
    assert 'sleep 1000' not in host.inside(instance, 'ps')
    assert host.inside(instance, 'cat /root/ran') == ''


def test_a_stopped_server_runs_it_when_it_starts(host):
    instance = described(host, SCRIPT)
    host.containers.spawn(None, instance, objects.ImageMeta(), host.ports(),
                          file_injection.archive(instance, None),
                          power_on=False)
    welcome(host, instance)
    host.containers.start(instance, host.ports(0))
    welcome(host, instance)
    console(host, instance, 'user data ended with 3')


def test_another_server_of_its_snapshot_runs_its_own(host):
    instance = boot(host, SCRIPT, 'mkdir -p /var/lib/cloud/instances/other/'
                                  'sem/config_scripts_user')
    console(host, instance, 'user data ended with 3')


def test_cloud_init_does_it_alone(host):
    instance = boot(host, SCRIPT, 'echo "#!/bin/sh" >/bin/cloud-init; '
                                  'chmod 755 /bin/cloud-init')
    host.inside(instance, 'sleep 1')
    assert host.inside(instance, 'ls /root') == ''
    assert host.containers.console(instance.uuid) == b''


@pytest.mark.parametrize('data', [
    b'#cloud-config\nhostname: x\n',
    b'Content-Type: multipart/mixed; boundary="X"\n\n--X\n',
    b'\x1f\x8b\x08\x00gzip'])
def test_what_is_no_script_is_said_at_the_console(host, data):
    instance = boot(host, data)
    console(host, instance, 'user data is not run: it is no script')
    assert 'ended' not in host.containers.console(instance.uuid).decode()


def test_a_script_of_no_known_program_is_said(host):
    instance = boot(host, b'#!/usr/bin/python9\nprint()\n')
    console(host, instance, 'user data ended with 127')


@pytest.mark.parametrize('data', [
    SCRIPT.replace(b'\n', b'\r\n'), SCRIPT.rstrip().replace(b'\n', b'\r\n'),
    # Only some lines, as by two editors.
    SCRIPT.replace(b'sh\n', b'sh\r\n'),
    SCRIPT.replace(b'/bin/sh\n', b'/bin/sh -e\r\n')])
def test_lines_that_end_as_on_windows(host, data):
    instance = boot(host, data)
    console(host, instance, 'user data ended with 3')
    assert host.inside(instance, 'cat /root/ran') == 'ran as 0\n'
    assert host.inside(
        instance, 'base64 /var/lib/cloud/instances/*/user-data.txt | '
        'base64 -d | od -An -tx1 | tr -d " \\n"') == data.hex()


def test_an_image_without_a_shell_is_a_server_all_the_same(host, caplog):
    instance = described(host, SCRIPT)
    host.spawn(instance, host.ports(), file_injection.archive(instance, None))
    host.inside(instance, 'rm /bin/sh')
    welcome(host, instance)
    assert 'The user data is not run' in caplog.text
    assert host.containers.running(instance.uuid)


def test_nothing_asks_the_engine_nothing(host):
    instance = boot(host, b'')
    calls = host.dockerd.engine.calls
    welcome(host, instance)
    assert host.dockerd.engine.calls == calls


def test_a_first_password(host, caplog):
    instance = boot(host, b'', 'printf "#!/bin/sh\\ncat >/root/said\\n" '
                               '>/bin/chpasswd; chmod 755 /bin/chpasswd')
    welcome(host, instance, 'Secret 7')
    assert host.inside(instance, 'cat /root/said') == 'root:Secret 7\n'
    host.inside(instance, 'rm /bin/chpasswd')
    welcome(host, instance, 'Secret 8')
    assert 'password of the new server is not set' in caplog.text
    assert 'Secret' not in caplog.text

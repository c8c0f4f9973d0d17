# SPDX-License-Identifier: Apache-2.0
"""The images devstack builds: the same bytes each time, and they boot."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tarfile
import time
import uuid

import pytest

from nova_vcloud import engine

BUILD = (pathlib.Path(__file__).resolve().parents[3]
         / 'devstack' / 'images' / 'build')
DEBIAN_BOOT = 'ready, starting sshd'


def wait_for(check, seconds=60):
    deadline = time.monotonic() + seconds
    while not (result := check()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return result


@pytest.fixture
def boot(private_engine, built):
    """Start a server from a built image; return its way in."""
    with contextlib.ExitStack() as cleanup:
        def start(name, ready):
            private_engine.docker('load', input=built(name).read_bytes())
            server = f'nv-{uuid.uuid4()}'
            cleanup.callback(private_engine.docker, 'rm', '-f', server)
            private_engine.docker(
                'run', '-d', '-i', '-t', '--network=none', '--name', server,
                '--hostname=blue', f'nova-vcloud-images/{name}:latest')
            console(server, ready)
            return server

        def console(server, ready, times=1):
            def log():
                text = private_engine.docker('logs', server).stdout.decode()
                return text if text.count(ready) >= times else None
            # Its first start makes keys; a busy machine is not what is tried.
            return wait_for(log, 120)

        start.console = console
        start.run = lambda server, script: private_engine.docker(
            'exec', server, 'sh', '-ec', script).stdout.decode()
        yield start


def stop(private_engine, server):
    """Stop a server; return its exit code, 137 if it had to be killed."""
    private_engine.docker('stop', server)
    return int(private_engine.docker(
        'inspect', '--format={{.State.ExitCode}}', server).stdout)


def test_same_recipe_same_bytes(tmp_path):
    for out in ('a', 'b'):
        subprocess.run([BUILD, 'tiny', tmp_path / out], check=True)
    assert (tmp_path / 'a/tiny.tar').read_bytes() == (
        tmp_path / 'b/tiny.tar').read_bytes()


def test_built_once_and_again_when_the_stamp_is_another(tmp_path):
    def build():
        done = subprocess.run([BUILD, 'tiny', tmp_path], check=True,
                              text=True, stdout=subprocess.PIPE)
        assert done.stdout.splitlines()[-1] == str(tmp_path / 'tiny.tar')
        return (tmp_path / 'tiny.tar').stat().st_ino

    first = build()
    assert build() == first
    (tmp_path / 'tiny.built').write_text('other')
    assert build() != first
    assert not (tmp_path / '.tiny.work').exists()


def test_unknown_name(tmp_path):
    done = subprocess.run([BUILD, 'windows', tmp_path / 'x'], check=False,
                          stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert not (tmp_path / 'x').exists()


def mounts_below(folder):
    return [line for line in
            pathlib.Path('/proc/mounts').read_text().splitlines()
            if str(folder) in line]


def inside(folder):
    """Return processes whose root or working folder is below a folder."""
    found = []
    for process in pathlib.Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            command = (process / 'cmdline').read_bytes()
            if (str(folder).encode() in command
                    or os.readlink(process / 'root').startswith(str(folder))):
                found.append(process.name)
    return found


@pytest.mark.parametrize('by', [signal.SIGTERM, signal.SIGKILL])
def test_killed_build_leaves_no_mount_and_no_process(tmp_path, built, by):
    cache = built('debian-12').parent / '.bookworm-packages'
    shutil.copytree(cache, tmp_path / '.bookworm-packages')
    build = subprocess.Popen([BUILD, 'debian-12', tmp_path],
                             stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    root = tmp_path / '.debian-12.work' / 'root'
    wait_for((root / 'usr/bin/dpkg').exists, 120)
    build.send_signal(by)
    build.wait(30)

    wait_for(lambda: not inside(root))
    assert mounts_below(tmp_path) == []
    assert not (tmp_path / 'debian-12.tar').exists()
    assert (tmp_path / '.debian-12.work').exists() is (by == signal.SIGKILL)


def test_tiny(boot, private_engine):
    server = boot('tiny', 'blue: ready')

    assert 'blue: tiny server booted' in boot.console(server, 'ready')
    boot.run(server, 'ip link; ping -c1 127.0.0.1; command -v httpd nc')
    # An orphan's new parent is the first process, which has to collect it.
    boot.run(server, '(sleep 0.1 &) ; sleep 0.5')
    states = boot.run(server, 'cat /proc/[0-9]*/stat')
    assert ') Z ' not in states
    assert stop(private_engine, server) == 0


@pytest.mark.slow
def test_debian(boot, private_engine):
    first = boot('debian-12', DEBIAN_BOOT)
    second = boot('debian-12', DEBIAN_BOOT)
    identity = 'cat /etc/ssh/ssh_host_ed25519_key.pub /etc/machine-id'

    settings = boot.run(first, 'sshd -T').splitlines()
    for line in ('permitrootlogin yes', 'passwordauthentication yes',
                 'hostkey /etc/ssh/ssh_host_ed25519_key'):
        assert line in settings
    assert boot.run(first, 'su debian -c "sudo -n id -u"') == '0\n'
    shadow = boot.run(first, 'cat /etc/shadow')
    assert 'debian:!:' in shadow
    assert 'root:*:' in shadow
    assert boot.run(first, identity) != boot.run(second, identity)

    before = boot.run(first, identity)
    assert stop(private_engine, first) == 0
    private_engine.docker('start', first)
    boot.console(first, DEBIAN_BOOT, times=2)
    assert boot.run(first, identity) == before


@pytest.mark.slow
def test_debian_login_by_key(boot, tmp_path):
    server = boot('debian-12', DEBIAN_BOOT)
    # From inside, so that no network is needed: the whole login by PAM.
    assert boot.run(server, '''
        ssh-keygen -q -t ed25519 -N "" -f /tmp/key
        cp /tmp/key.pub /root/.ssh/authorized_keys
        install -d -o debian -m 700 /home/debian/.ssh
        install -o debian /tmp/key.pub /home/debian/.ssh/authorized_keys
        ip link set lo up 2>/dev/null || true
        for user in root debian; do
            ssh -o StrictHostKeyChecking=no -o BatchMode=yes \\
                -i /tmp/key $user@127.0.0.1 whoami 2>/dev/null
        done''').split() == ['root', 'debian']


@pytest.mark.slow
def test_debian_login_at_the_console(boot, private_engine):
    server = boot('debian-12', DEBIAN_BOOT)
    boot.console(server, 'blue console')
    with engine.Engine(private_engine.url).attached(server) as terminal:
        terminal.settimeout(20)

        def say(text, answer):
            terminal.sendall(text)
            found = b''
            while answer not in found:
                found += terminal.recv(4096)
            return found

        def enter(password, answer):
            say(b'root\r', b'Password: ')
            return say(password, answer)

        say(b'\r', b'login: ')
        # Nobody has a password until one is set; an empty one is none.
        assert b'incorrect' in enter(b'\r', b'login: ')
        boot.run(server, 'echo "root:Secret 7" | chpasswd')
        assert b'incorrect' in enter(b'other\r', b'login: ')
        enter(b'Secret 7\r', b'# ')
        say(b'echo $((6*7)) on $(tty)\r', b'42 on /dev/console')
        # The terminal is the login's own: its keys reach what runs there.
        say(b"sh -c 'echo $((7*7)); exec sleep 1000'\r", b'49')
        say(b'\x03', b'# ')
        say(b'exit\r', b'login: ')


@pytest.mark.slow
def test_debian_carries_nothing_of_this_machine(built):
    with tarfile.open(built('debian-12')) as archive:
        manifest = json.load(archive.extractfile('manifest.json'))
        layer = archive.extractfile(manifest[0]['Layers'][0])
        with tarfile.open(fileobj=layer, mode='r|') as tar:
            members = {info.name: info for info in tar}

    assert members['etc/machine-id'].size == 0
    assert len({info.mtime for info in members.values()}) == 1
    for gone in ('etc/resolv.conf', 'etc/hostname'):
        assert gone not in members
    for folder in ('var/log/', 'var/cache/apt/', 'tmp/', 'dev/', 'proc/',
                   'etc/ssh/ssh_host_'):
        assert not [name for name in members if name.startswith(folder)]
    assert ('SCHILY.xattr.security.capability'
            in members['usr/bin/ping'].pax_headers)

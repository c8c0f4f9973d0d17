# SPDX-License-Identifier: Apache-2.0
"""Install what the mini cloud needs: Debian packages, venv, the project."""

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import hashlib
import itertools
import os
import pathlib
import shutil
import subprocess
import sys

from mini import errors
from mini import settings

# Every Debian package that the mini cloud, its images and its tests use.
DEBIAN_PACKAGES = (
    'btrfs-progs',
    'busybox-static',
    'ca-certificates',
    'containerd',
    'curl',
    'debootstrap',
    'docker-registry',
    'docker.io',
    'erlang-base',
    'gcc',
    'git',
    'iperf3',
    'iproute2',
    'iputils-ping',
    'jq',
    'libc6-dev',
    'make',
    'mariadb-client',
    'mariadb-server',
    'memcached',
    'nftables',
    'openssh-client',
    'openssh-server',
    'openssl',
    'procps',
    'python3',
    'python3-dev',
    'python3-venv',
    'qemu-system-x86',
    'rabbitmq-server',
    'runc',
    'shellcheck',
    'xfsprogs',
)
# And with Cinder: its driver asks for a program of each.
CINDER_PACKAGES = ('nfs-common', 'qemu-utils')
# And with Horizon: what its console is tried with.
HORIZON_PACKAGES = ('chromium',)
# One program of each package that must be there to run.
PROGRAMS = (
    'btrfs',
    'busybox',
    'containerd',
    'debootstrap',
    'docker',
    'docker-registry',
    'dockerd',
    'epmd',
    'ip',
    'jq',
    'mariadb',
    'mariadb-install-db',
    'mariadbd',
    'memcached',
    'nft',
    'openssl',
    'ping',
    'qemu-system-x86_64',
    'runc',
    'ssh',
    'ssh-keygen',
    'sshd',
)
POLICY = pathlib.Path('/usr/sbin/policy-rc.d')
POLICY_TEXT = '#!/bin/sh\n# Temporary: the nova-vcloud mini cloud\nexit 101\n'
SYSTEM_FOLDERS = '/usr/sbin:/sbin:/usr/bin:/bin'
# What decides how the project behaves once installed.
PROJECT_PARTS = (
    'nova_vcloud',
    'filters',
    'qos',
    'virt_docker',
    'setup.cfg',
    'setup.py',
    'pyproject.toml',
    'requirements.txt',
)


def require_programs() -> None:
    """Raise unless all programs of the Debian packages are there."""
    path = f'{os.environ.get("PATH", "")}:{SYSTEM_FOLDERS}'
    missing = [name for name in PROGRAMS if not shutil.which(name, path=path)]
    if missing:
        raise errors.MinicloudError(
            f'missing programs: {", ".join(missing)}',
            advice='run `minicloud install`',
        )


def _installed_packages() -> set[str]:
    done = subprocess.run(
        ['dpkg-query', '-W', '-f', '${Package} ${db:Status-Status}\n'],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = (line.split() for line in done.stdout.splitlines())
    return {row[0] for row in rows if row[1:] == ['installed']}


@contextlib.contextmanager
def _no_autostart(policy: pathlib.Path = POLICY) -> Iterator[None]:
    """Keep packages from starting their daemons while we install them."""
    if policy.exists():
        yield
        return
    policy.write_text(POLICY_TEXT)
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink(missing_ok=True)


def _run(command: Sequence[str], log: pathlib.Path) -> None:
    """Run a step of the installation, its output in a log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, 'DEBIAN_FRONTEND': 'noninteractive'}
    # A venv is not to be filled from, or confused by, the caller's paths.
    env.pop('PYTHONPATH', None)
    with log.open('a') as stream:
        stream.write(f'+ {" ".join(command)}\n')
        stream.flush()
        done = subprocess.run(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=env,
            check=False,
        )
    if done.returncode:
        raise errors.MinicloudError(
            f'{pathlib.Path(command[0]).name} failed with status '
            f'{done.returncode}',
            log,
            'check the network to the package registries, then run '
            '`minicloud install` again',
        )


def debian(cloud: settings.Cloud) -> str:
    """Install the Debian packages that are missing."""
    wanted = set(DEBIAN_PACKAGES)
    if cloud.with_cinder:
        wanted |= set(CINDER_PACKAGES)
    if cloud.with_horizon:
        wanted |= set(HORIZON_PACKAGES)
    missing = sorted(wanted - _installed_packages())
    if not missing:
        return 'all there'
    log = cloud.cache / 'log' / 'apt.log'
    with _no_autostart():
        _run(['apt-get', 'update'], log)
        options = ['--yes', '--no-install-recommends']
        _run(['apt-get', 'install', *options, *missing], log)
    return f'installed {" ".join(missing)}'


def _file_hash(*paths: pathlib.Path) -> str:
    digest = hashlib.sha256(sys.version.encode())
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def virtualenv(cloud: settings.Cloud) -> str:
    """Make the virtual environment if the requirements changed."""
    done = _fill(cloud, cloud.venv, 'requirements.txt', 'pip.log')
    if not cloud.with_cinder:
        return done
    more = _fill(cloud, cloud.venv, 'requirements-cinder.txt', 'cinder.log')
    return f'{done}, with Cinder {more}'


def tempest(cloud: settings.Cloud) -> str:
    """Make tempest's own virtual environment if its requirements changed."""
    return _fill(
        cloud, cloud.tempest_venv, 'requirements-tempest.txt', 'tempest.log'
    )


def horizon(cloud: settings.Cloud) -> str:
    """Make Horizon's own virtual environment if its requirements changed."""
    return _fill(
        cloud, cloud.horizon_venv, 'requirements-horizon.txt', 'horizon.log'
    )


def _fill(
    cloud: settings.Cloud, venv: pathlib.Path, name: str, log_name: str
) -> str:
    """Make a virtual environment of what a file of requirements names."""
    folder = settings.SOURCE / 'devstack'
    requirements = folder / name
    constraints = folder / 'constraints.txt'
    stamp = venv / f'.{name.removesuffix(".txt")}'
    now = _file_hash(requirements, constraints)
    if stamp.is_file() and stamp.read_text() == now:
        return 'up to date'
    log = cloud.cache / 'log' / log_name
    python = venv / 'bin' / 'python'
    if not python.is_file():
        base = getattr(sys, '_base_executable', None) or sys.executable
        _run([base, '-m', 'venv', str(venv)], log)
    pip = [str(python), '-m', 'pip', 'install', '--progress-bar=off']
    files = ['--requirement', str(requirements), '-c', str(constraints)]
    _run([*pip, *files], log)
    stamp.write_text(now)
    return f'filled {venv}'


def project_hash(source: pathlib.Path) -> str:
    """Return a hash of all files that make up the installed project."""
    digest = hashlib.sha256()
    for part in PROJECT_PARTS:
        root = source / part
        paths = sorted(root.rglob('*')) if root.is_dir() else [root]
        for path in paths:
            if path.is_file() and '__pycache__' not in path.parts:
                digest.update(str(path.relative_to(source)).encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _is_current(
    cloud: settings.Cloud, stamp: pathlib.Path, state: str
) -> bool:
    """Tell whether the stamp is true and nobody installed anything since."""
    if not stamp.is_file() or stamp.read_text() != state:
        return False
    packages = cloud.venv.glob('lib/*/site-packages')
    infos = (path.glob('nova_vcloud-*.dist-info') for path in packages)
    found = list(itertools.chain.from_iterable(infos))
    stamped = stamp.stat().st_mtime
    return bool(found) and all(p.stat().st_mtime <= stamped for p in found)


def project(cloud: settings.Cloud, editable: bool) -> str:
    """Install this checkout into the venv if it differs from what is there.

    :param editable: let the venv read the checkout itself, for developers.
    """
    stamp = cloud.venv / '.project'
    source = settings.SOURCE
    state = f'editable {source}'
    if not editable:
        state = f'wheel {project_hash(source)}'
    if _is_current(cloud, stamp, state):
        return 'up to date'
    log = cloud.cache / 'log' / 'project.log'
    # A module that was renamed stays there, and would get into the wheel.
    shutil.rmtree(source / 'build' / 'lib', ignore_errors=True)
    pip = [str(cloud.python), '-m', 'pip', 'install', '--no-deps']
    how = ['--editable'] if editable else ['--force-reinstall']
    _run([*pip, '--no-build-isolation', *how, str(source)], log)
    stamp.write_text(state)
    return state


def everything(cloud: settings.Cloud, editable: bool) -> None:
    """Install all that `up` needs, saying what was done."""
    works = {
        'Debian packages': lambda: debian(cloud),
        'virtual environment': lambda: virtualenv(cloud),
        'nova-vcloud': lambda: project(cloud, editable),
    }
    if cloud.with_horizon:
        works['Horizon'] = lambda: horizon(cloud)
    for name, work in works.items():
        print(f'{name}: {work()}', flush=True)

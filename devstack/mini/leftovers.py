# SPDX-License-Identifier: Apache-2.0
"""Remove what killed engines leave: mounts, cgroups, sockets, loops."""

from collections.abc import Iterable
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import time

from mini import settings

Hosts = Iterable[settings.Host]
CGROUPS = pathlib.Path('/sys/fs/cgroup')
# File to write, and what, under cgroup v1 and v2.
THAW = {'freezer.state': 'THAWED', 'cgroup.freeze': '0'}
ESCAPES = {r'\040': ' ', r'\011': '\t', r'\012': '\n', r'\134': '\\'}


def mounts_under(table: str, folder: pathlib.Path) -> list[str]:
    """Return the mount points in ``folder``, deepest first.

    :param table: content of /proc/self/mountinfo.
    """
    found = []
    for line in table.splitlines():
        point = line.split()[4]
        for escape, char in ESCAPES.items():
            point = point.replace(escape, char)
        if pathlib.PurePath(point).is_relative_to(folder):
            found.append(point)
    return found[::-1]


def unmount(folder: pathlib.Path) -> None:
    """Unmount everything below a folder of ours."""
    table = pathlib.Path('/proc/self/mountinfo').read_text()
    for point in mounts_under(table, folder):
        subprocess.run(['umount', '--lazy', point], check=False)


def _cgroup_folders(hosts: Hosts) -> list[pathlib.Path]:
    """Return the parent cgroups of hosts' containers, in every hierarchy."""
    names = {host.cgroup for host in hosts}
    roots = [CGROUPS]
    if CGROUPS.is_dir():
        roots += [path for path in CGROUPS.iterdir() if path.is_dir()]
    return [
        root / name
        for root in roots
        for name in sorted(names)
        if (root / name).is_dir()
    ]


def container_pids(hosts: Hosts) -> set[int]:
    """Return the processes in the cgroups of hosts' containers."""
    found: set[int] = set()
    for folder in _cgroup_folders(hosts):
        for path in folder.rglob('cgroup.procs'):
            # A container that ends takes its cgroup along.
            with contextlib.suppress(OSError):
                found |= {int(pid) for pid in path.read_text().split()}
    return found


def _thaw(hosts: Hosts) -> None:
    """Let paused containers run, so that they can be killed."""
    for folder in _cgroup_folders(hosts):
        for name, word in THAW.items():
            for path in folder.rglob(name):
                with contextlib.suppress(OSError):
                    path.write_text(word)


def kill_containers(hosts: Hosts, seconds: float = 10) -> set[int]:
    """Kill all processes of hosts' containers; return those that stay."""
    _thaw(hosts)
    deadline = time.monotonic() + seconds
    left = container_pids(hosts)
    while left and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
        left = container_pids(hosts)
    return left


def remove_cgroups(hosts: Hosts) -> None:
    """Remove the cgroups of our hosts, the empty ones of ours first."""
    for folder in _cgroup_folders(hosts):
        inner = [path for path in folder.rglob('*') if path.is_dir()]
        for path in [*sorted(inner, reverse=True), folder]:
            with contextlib.suppress(OSError):
                path.rmdir()


def remove_shim_sockets(host: settings.Host) -> None:
    """Remove sockets of dead shims: containerd keeps them in /run."""
    for address in host.exec_root.rglob('address'):
        text = address.read_text().strip()
        path = pathlib.Path(text.removeprefix('unix://'))
        if path.parent == pathlib.Path('/run/containerd/s'):
            path.unlink(missing_ok=True)


def _loops(folder: pathlib.Path) -> Iterable[str]:
    """Return the loop devices whose file is in a folder of ours."""
    done = subprocess.run(
        ['losetup', '--json', '--list'],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not done.stdout.strip():
        return
    for entry in json.loads(done.stdout)['loopdevices']:
        backing = entry['back-file'].removesuffix(' (deleted)')
        if pathlib.PurePath(backing).is_relative_to(folder):
            yield entry['name']


def detach_loops(folder: pathlib.Path) -> None:
    """Detach the loop devices whose file is in a folder of ours."""
    for device in _loops(folder):
        subprocess.run(['losetup', '--detach', device], check=False)

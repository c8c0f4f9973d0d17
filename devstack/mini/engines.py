# SPDX-License-Identifier: Apache-2.0
"""Talk to the dockerd of a compute host with Docker's own client."""

import shutil
import subprocess

from mini import leftovers
from mini import processes
from mini import settings


def docker(
    host: settings.Host, *words: str, seconds: float = 60
) -> str | None:
    """Run the docker client against a host; None if that fails."""
    try:
        done = subprocess.run(
            ['docker', '--host', f'unix://{host.socket}', *words],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except (subprocess.TimeoutExpired, FileNotFoundError):
        return None
    return done.stdout if done.returncode == 0 else None


def running(host: settings.Host) -> list[str]:
    """Return the ids of the containers that run, [] if unknown."""
    return (docker(host, 'ps', '--quiet', '--no-trunc') or '').split()


def stop_all(host: settings.Host, grace: int = 10) -> int:
    """Stop a host's containers; they and their disks are kept.

    :param grace: seconds that a container has before it is killed.
    :returns: how many were stopped.
    """
    ids = running(host)
    if ids:
        paused = docker(host, 'ps', '-q', '--filter', 'status=paused') or ''
        if paused:
            docker(host, 'unpause', *paused.split())
        docker(
            host,
            *('stop', '--time', str(grace), *ids),
            seconds=grace + 60 + len(ids),
        )
    return len(ids)


def forget_dead(cloud: settings.Cloud) -> None:
    """Clear the running state of hosts on which nothing runs any more.

    After a reboot, or when all was killed, the files of an engine still tell
    of containers that run. Their disks are elsewhere, and stay.
    """
    alive = {process.service for process in processes.members(cloud.home)}
    for host in cloud.hosts:
        if f'dockerd-{host.name}' in alive or not host.exec_root.is_dir():
            continue
        leftovers.kill_containers([host])
        leftovers.remove_shim_sockets(host)
        leftovers.unmount(host.exec_root)
        shutil.rmtree(host.exec_root, ignore_errors=True)

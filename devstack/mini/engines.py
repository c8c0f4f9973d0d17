# SPDX-License-Identifier: Apache-2.0
"""Talk to the dockerd of a compute host with Docker's own client."""

import subprocess

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

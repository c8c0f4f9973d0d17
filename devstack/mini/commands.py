# SPDX-License-Identifier: Apache-2.0
"""Run the programs that steps need, each with a log of its own."""

from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
import subprocess

from mini import errors
from mini import services
from mini import settings


def run(
    cloud: settings.Cloud,
    name: str,
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    seconds: float = 600,
) -> None:
    """Run a program to its end; its output goes to ``log/NAME.log``.

    The process carries the mark of the cloud, so that a later `up` or
    `down` ends it if this one is killed.

    :param seconds: after which the program is killed.
    :raises MinicloudError: when it fails or takes too long.
    """
    log = cloud.log / f'{name}.log'
    full_env = {**services.environment(cloud, 'step'), **(env or {})}
    with log.open('a') as stream:
        stream.write(f'+ {" ".join(command)}\n')
        stream.flush()
        try:
            done = subprocess.run(
                command,
                input=stdin,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=full_env,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise errors.MinicloudError(
                f'{command[0]} did not end within {seconds:.0f} s', log
            ) from None
    if done.returncode:
        raise errors.MinicloudError(
            f'{pathlib.Path(command[0]).name} failed with status '
            f'{done.returncode}',
            log,
            f'read {log}, then `minicloud up` again: it goes on where it '
            'stopped',
        )

# SPDX-License-Identifier: Apache-2.0
"""Programs that work on disks; a failure is told in their own words."""

from __future__ import annotations

import os
import subprocess

from nova_vcloud import exception

TIMEOUT = 120  # seconds; for what a kernel or a storage network may hold up


def run(*words: str, accept: tuple[int, ...] = (0,)) -> str:
    """Run a program and return what it wrote.

    :param accept: exit codes that are no failure
    :raises VolumeError: with its last line
    """
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, check=False,
            timeout=TIMEOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, 'LC_ALL': 'C.UTF-8'})
    except (OSError, subprocess.TimeoutExpired) as e:
        raise exception.VolumeError(f'{words[0]}: {e}') from e
    if done.returncode not in accept:
        lines = done.stderr.strip().splitlines() or ['no reason given']
        raise exception.VolumeError(f'{words[0]}: {lines[-1]}')
    return done.stdout

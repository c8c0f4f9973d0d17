# SPDX-License-Identifier: Apache-2.0
"""Where a Docker engine keeps the root filesystem of a container.

Its answers name the directory with some storage drivers and not with others;
what it writes below ``image/`` does with all (moby, layer/filestore.go).
"""

from __future__ import annotations

from collections.abc import Mapping
import os
import pathlib
import subprocess
from typing import Any

from nova_vcloud import exception


def place(info: Mapping[str, Any]) -> str:
    """Return the directory of all root filesystems of an engine.

    :param info: ``GET /info`` of the engine
    """
    found = os.path.join(info['DockerRootDir'], info['Driver'])
    # It may be a file system of its own. Who may not look takes the one that
    # it is in.
    while not os.path.isdir(found):
        found = os.path.dirname(found)
    return found


def layer(root: str, driver: str, container: str) -> str | None:
    """Return the name of a container's layer, None when it has none.

    :param root: the engine's data-root
    :param driver: its storage driver
    """
    path = pathlib.Path(root, 'image', driver, 'layerdb/mounts', container,
                        'mount-id')
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def tool(*words: str) -> str:
    """Return what a program of the file system prints.

    :raises LimitNotEnforced: with its words, or that it is not installed
    """
    try:
        # Not by oslo's processutils: its preexec_fn makes Python fork(), for
        # which the kernel copies the page tables of all of this process.
        done = subprocess.run(words, capture_output=True, text=True,
                              check=True, env={**os.environ, 'LC_ALL': 'C'})
    except subprocess.CalledProcessError as e:
        said = e.stderr.strip().splitlines() or ['no reason given']
        raise exception.LimitNotEnforced(f'{words[0]}: {said[-1]}') from e
    except OSError as e:
        raise exception.LimitNotEnforced(f'{words[0]}: {e.strerror}') from e
    return done.stdout

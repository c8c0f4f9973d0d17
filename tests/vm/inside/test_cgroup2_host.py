# SPDX-License-Identifier: Apache-2.0
"""The machine is what its tests take it for."""

import pathlib

ROOT = pathlib.Path('/sys/fs/cgroup')


def test_every_controller_is_version_2():
    found = (ROOT / 'cgroup.controllers').read_text().split()
    assert {'cpu', 'cpuset', 'io', 'memory', 'pids'} <= set(found)


def test_systemd_runs():
    assert pathlib.Path('/run/systemd/system').is_dir()

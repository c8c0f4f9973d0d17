# SPDX-License-Identifier: Apache-2.0
"""Which files freeze a container, and that it goes on whatever happens."""

import pytest

from nova_vcloud.virt_docker.rootfs import freezer

ID = 'a' * 64
FIRST = f'7:blkio:/docker/{ID}\n6:freezer:/docker/{ID}\n0::/\n'
SECOND = f'0::/system.slice/docker-{ID}.scope/init.scope\n'
HYBRID = f'6:freezer:/docker/{ID}\n0::/docker/{ID}\n'


@pytest.mark.parametrize(('memberships', 'control', 'state'), [
    (FIRST, f'freezer/docker/{ID}/freezer.state', 'freezer.state'),
    (HYBRID, f'freezer/docker/{ID}/freezer.state', 'freezer.state'),
    (SECOND, f'system.slice/docker-{ID}.scope/cgroup.freeze',
     'cgroup.events')])
def test_files(tmp_path, memberships, control, state):
    found = freezer._of(memberships, ID, tmp_path)
    assert found.control == tmp_path / control
    assert found.state.name == state


def test_another_container(tmp_path):
    assert freezer._of(SECOND, 'b' * 64, tmp_path) is None


def test_what_does_not_come_to_rest_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(freezer, 'PATIENCE', 0.05)
    found = freezer._of(f'0::/{ID}\n', ID, tmp_path)
    found.control.parent.mkdir()
    found.state.write_text('populated 1\nfrozen 0\n')
    assert found.moment() is None
    assert found.control.read_text() == '0'
    found.state.write_text('populated 1\nfrozen 1\n')
    assert found.moment() > 0
    assert found.control.read_text() == '0'

# SPDX-License-Identifier: Apache-2.0
"""Hosts on which root disks cannot be files."""

import os
import types

from nova_vcloud.qos.disk import loop_file


def test_a_kernel_whose_loop_devices_charge_nobody_is_named(monkeypatch):
    monkeypatch.setattr(os, 'uname', lambda: types.SimpleNamespace(
        release='4.18.0-553.el8.x86_64'))
    reason = loop_file.Files().why_not({'DockerRootDir': '/nowhere'})
    assert '4.18.0-553.el8.x86_64 does not charge' in reason
    assert '5.14 does' in reason

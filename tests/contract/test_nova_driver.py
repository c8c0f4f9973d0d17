# SPDX-License-Identifier: Apache-2.0
"""The driver against the installed Nova: signatures, capabilities, door."""

import inspect
import subprocess
import sys

from nova.virt import driver as nova_driver
import pytest

from nova_vcloud.virt_docker import driver

VERBS = sorted({name for part in driver.DockerDriver.__mro__
                if part.__module__.startswith('nova_vcloud.')
                for name, value in vars(part).items()
                if inspect.isfunction(value) and not name.startswith('_')})


@pytest.mark.parametrize('verb', VERBS)
def test_a_verb_has_the_signature_nova_calls(verb):
    base = inspect.signature(getattr(nova_driver.ComputeDriver, verb))
    ours = inspect.signature(getattr(driver.DockerDriver, verb))
    assert list(ours.parameters) == list(base.parameters)
    assert ([p.default for p in ours.parameters.values()]
            == [p.default for p in base.parameters.values()])


def test_only_known_capabilities_are_claimed():
    known = set(nova_driver.ComputeDriver.capabilities)
    assert set(driver.DockerDriver.capabilities) == known


def test_stock_nova_finds_the_driver_after_os_vif_is_loaded():
    # In a process of its own: the door must not be open already.
    script = (
        'import nova.conf, os_vif\n'
        'from nova import objects\n'
        'objects.register_all()\n'
        'from nova.virt import driver\n'
        'nova.conf.CONF([], project="nova", default_config_files=[])\n'
        'try:\n'
        '    import nova.virt.virt_docker\n'
        'except ImportError:\n'
        '    print("closed")\n'
        'os_vif.initialize()\n'
        'd = driver.load_compute_driver(None, "virt_docker.DockerDriver")\n'
        'print(type(d).__module__, isinstance(d, driver.ComputeDriver))\n')
    out = subprocess.run([sys.executable, '-c', script], text=True,
                         capture_output=True, check=False)
    assert out.stdout.split() == [
        'closed', 'nova_vcloud.virt_docker.driver', 'True'], out.stderr

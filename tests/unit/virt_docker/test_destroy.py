# SPDX-License-Identifier: Apache-2.0
"""What cannot be removed is an error of one server, not of its host."""

import types

from nova import exception as nova_exception
from nova import objects
import pytest

from nova_vcloud import exception

objects.register_all()

from nova_vcloud.virt_docker import driver  # noqa: E402

UUID = '11111111-2222-4333-8444-555566667777'
FAULTS = [exception.LimitNotEnforced('losetup: busy'), OSError('mount busy'),
          exception.MoveFailed('the spool'), exception.EngineError('no')]


def destroy(error, host):
    def fail(*_args):
        raise error
    host_of_driver = types.SimpleNamespace(
        _consoles=types.SimpleNamespace(close=lambda _uuid: None),
        _containers=types.SimpleNamespace(destroy=fail),
        _rescue=types.SimpleNamespace(release=None),
        _host=types.SimpleNamespace(name='here'))
    driver.DockerDriver.destroy(
        host_of_driver, None,
        objects.Instance(uuid=UUID, host=host, task_state=None), [])


@pytest.mark.parametrize('error', FAULTS)
def test_a_server_that_cannot_be_removed_says_why(error):
    with pytest.raises(nova_exception.InstancePowerOffFailure,
                       match=str(error)):
        destroy(error, 'here')


@pytest.mark.parametrize('error', FAULTS)
def test_what_an_evacuated_server_left_keeps_no_host_from_starting(error):
    """Nova, _destroy_evacuated_instances, lets all errors through."""
    destroy(error, 'elsewhere')


def test_without_its_engine_no_host_starts():
    with pytest.raises(nova_exception.InstancePowerOffFailure):
        destroy(exception.EngineUnavailable('down'), 'elsewhere')

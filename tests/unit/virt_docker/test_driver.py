# SPDX-License-Identifier: Apache-2.0
"""The engine's words as Nova's power states."""

from nova import objects
from nova.compute import power_state
from nova.compute import task_states
from nova.compute import vm_states
import pytest

from nova_vcloud.virt_docker.guest import power_states


@pytest.mark.parametrize(('status', 'expected'), [
    ('created', power_state.SHUTDOWN), ('running', power_state.RUNNING),
    ('paused', power_state.PAUSED), ('exited', power_state.SHUTDOWN),
    ('dead', power_state.CRASHED), ('unheard-of', power_state.NOSTATE)])
def test_engine_words_become_power_states(status, expected):
    instance = objects.Instance(vm_state=vm_states.ACTIVE, task_state=None)
    assert power_states.guest_state(status, instance) == expected


@pytest.mark.parametrize(('vm_state', 'task_state', 'expected'), [
    (vm_states.ACTIVE, task_states.SUSPENDING, power_state.SUSPENDED),
    (vm_states.SUSPENDED, None, power_state.SUSPENDED),
    (vm_states.SUSPENDED, task_states.RESUMING, power_state.SUSPENDED),
    (vm_states.ACTIVE, task_states.PAUSING, power_state.PAUSED),
    (vm_states.PAUSED, None, power_state.PAUSED)])
def test_frozen_is_paused_or_suspended_as_nova_asked(
        vm_state, task_state, expected):
    instance = objects.Instance(vm_state=vm_state, task_state=task_state)
    assert power_states.guest_state('paused', instance) == expected

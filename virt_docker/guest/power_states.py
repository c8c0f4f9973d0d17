# SPDX-License-Identifier: Apache-2.0
"""From the engine's word for a container's state to Nova's."""

from __future__ import annotations

from nova import objects
from nova.compute import power_state
from nova.compute import task_states
from nova.compute import vm_states

_STATES = {
    'created': power_state.SHUTDOWN,
    'running': power_state.RUNNING,
    'restarting': power_state.RUNNING,
    'paused': power_state.PAUSED,
    'removing': power_state.SHUTDOWN,
    'exited': power_state.SHUTDOWN,
    'dead': power_state.CRASHED,
}


def guest_state(status: str, instance: objects.Instance) -> int:
    """Return Nova's power state for the engine's status word.

    The engine has one word for paused and suspended: both are frozen. Which
    of the two it is, is what Nova asked for.
    """
    state = _STATES.get(status, power_state.NOSTATE)
    suspended = (instance.vm_state == vm_states.SUSPENDED
                 or instance.task_state == task_states.SUSPENDING)
    if state == power_state.PAUSED and suspended:
        return power_state.SUSPENDED
    return state

# SPDX-License-Identifier: Apache-2.0
"""Named steps of long operations, at which a test may kill a process."""

import os
import signal

# Names a file whose text is the step to die at; a process id may follow, of
# the one that dies instead of this one. Set by tests only; a process
# started without it never looks at the file system.
CRASH_FILE = os.environ.get('NOVA_VCLOUD_CRASH_FILE')

SPAWN = ('image', 'namespace', 'create', 'join', 'limits', 'inject', 'start',
         'end')


def reached(step: str) -> None:
    """Die by SIGKILL here when a test asks for it, or have another die."""
    if CRASH_FILE is None:
        return
    try:
        with open(CRASH_FILE) as f:
            wanted, *victims = f.read().split()
    except FileNotFoundError:
        return
    if wanted == step:
        os.unlink(CRASH_FILE)  # once: the restarted service must live
        os.kill(int(victims[0]) if victims else os.getpid(), signal.SIGKILL)

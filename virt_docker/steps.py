# SPDX-License-Identifier: Apache-2.0
"""Named steps of long operations, at which a test may kill nova-compute."""

import os
import signal

# Names a file whose text is the step to die at. Set by tests only; a process
# started without it never looks at the file system.
CRASH_FILE = os.environ.get('NOVA_VCLOUD_CRASH_FILE')

SPAWN = ('image', 'namespace', 'create', 'join', 'limits', 'inject', 'start',
         'end')


def reached(step: str) -> None:
    """Die by SIGKILL here when a test asks for it."""
    if CRASH_FILE is None:
        return
    try:
        with open(CRASH_FILE) as f:
            wanted = f.read().strip()
    except FileNotFoundError:
        return
    if wanted == step:
        os.unlink(CRASH_FILE)  # once: the restarted service must live
        os.kill(os.getpid(), signal.SIGKILL)
